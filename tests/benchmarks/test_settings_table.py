"""The table of settings: every field of the configuration, its sentence as in --help, and the presets' values."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from benchmarks.settings_table import PAGE, PRESET_NAMES, SECTIONS, fill, presets_table, settings_table
from copo_algos.cli import main
from copo_algos.config import PARTS, PRESETS, preset
from copo_algos.option_help import descriptions


def rows(markdown: str) -> dict[str, list[str]]:
    """Setting -> the cells of its row."""
    lines = [line for line in markdown.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_page_is_what_the_command_makes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text) == text, "run python -m benchmarks.settings_table"


def test_every_setting_has_a_row_with_its_values() -> None:
    table = rows(settings_table())
    assert set(table) == {field.name for section in SECTIONS for field in fields(section)} - set(PARTS)
    flat = {name: preset(name).as_dict() for name in PRESETS}
    for name, (*values, _) in table.items():
        if name not in ("algorithm", "run_dir", "resume"):
            shown = [value or values[0] for value in values]  # empty: as the default
            for each, value in zip(PRESET_NAMES, shown, strict=True):
                wanted = flat[each][name]
                kind = type(wanted)
                assert (
                    value == "-" if wanted is None else value.strip("`") == str(wanted) or kind(value[1:-1]) == wanted
                )
    assert table["clip_coef"][:3] == ["`0.2`", "`0.3`", ""]
    assert table["geometry"][-1].endswith("One of `published`, `metadrive`.")
    assert "KL(old \\|\\| new)" in table["kl_coef"][-1]


def test_the_presets_table_has_exactly_what_differs() -> None:
    flat = {name: preset(name).as_dict() for name in PRESETS}
    differing = {name for name in flat["default"] if len({str(values[name]) for values in flat.values()}) > 1}
    assert set(rows(presets_table())) == differing - {"preset"}
    assert rows(presets_table())["lcf_learning_rate"] == ["`0.0004`", "`0.0001`", "`0.0001`", "`0.0002`"]


def test_help_shows_the_same_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = re.sub(r"[\s│]", "", capsys.readouterr().out)
    for section in SECTIONS:
        for name, sentences in descriptions(section).items():
            assert "".join(sentences.split()) in shown, name

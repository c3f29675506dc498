"""`python -m benchmarks.settings_table` puts every setting of `copo train` into docs/algorithms/README.md.

Its sentences are those below the fields in copo_algos/config.py, which --help shows too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from benchmarks.markdown import read_page, replace_block, table, write_page
from copo_algos.config import PARTS, PRESETS, CriticConfig, LCFConfig, PPOConfig, TrainConfig, preset
from copo_algos.option_help import descriptions

PAGE = Path(__file__).parent.parent / "docs" / "algorithms" / "README.md"
SECTIONS: dict[type, str] = {
    TrainConfig: "The run",
    PPOConfig: "The PPO update, shared by all",
    LCFConfig: "The coordination factor",
    CriticConfig: "What critics see of the neighbours",
}
"""Class of settings -> its heading."""
PRESET_NAMES = ["default", *(name for name in PRESETS if name != "default")]


def settings_table() -> str:
    """Markdown: a table per class of settings, a row per setting; a preset's value where it is not the default."""
    parts = []
    for section, heading in SECTIONS.items():
        kinds = get_type_hints(section)
        rows = [
            [f"`{name}`", *_values(name), _plain(sentences) + _choices(kinds[name], sentences)]
            for name, sentences in descriptions(section).items()
        ]
        header = ["setting", *(f"`{name}`" for name in PRESET_NAMES), "meaning"]
        parts.append(f"**{heading}**\n\n{table(header, rows)}")
    return "\n".join(parts)


def presets_table() -> str:
    """Markdown: the settings in which the presets differ."""
    differing = {name for values in PRESETS.values() for name in values}
    names = [name for section in SECTIONS for name in descriptions(section) if name in differing]
    rows = [[f"`{name}`", *(_shown(_setting(each, name)) for each in PRESET_NAMES)] for name in names]
    return table(["setting", *(f"`{name}`" for name in PRESET_NAMES)], rows)


def fill(page: str) -> str:
    """The page with both tables in their places."""
    for name, text in (("presets", presets_table()), ("settings", settings_table())):
        page = replace_block(page, name, text, PAGE)
    return page


def _setting(preset_name: str, name: str) -> Any:
    config = preset(preset_name)
    (found,) = (part for part in (config, *(getattr(config, each) for each in PARTS)) if hasattr(part, name))
    return getattr(found, name)


def _values(name: str) -> list[str]:
    if name == "algorithm":  # has to be given
        return ["-", *("" for _ in PRESET_NAMES[1:])]
    default, *others = (_setting(each, name) for each in PRESET_NAMES)
    return [_shown(default), *("" if value == default else _shown(value) for value in others)]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _choices(kind: Any, sentences: str) -> str:
    """The values that may be chosen from, where the sentences do not name them all."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return "" if all(choice in sentences for choice in choices) else f" One of {', '.join(map(_shown, choices))}."


def _plain(text: str) -> str:
    """Text without meaning for Markdown: no column ends in it, no tag begins."""
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    write_page(PAGE, fill(read_page(PAGE)))

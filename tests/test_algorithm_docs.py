"""The pages of the algorithms: the worked example works, and every algorithm, command and metric on them is real."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from copo_algos.algorithms import ALGORITHMS, Algorithm
from copo_algos.cli import main
from copo_algos.config import TrainConfig, check, with_values
from copo_algos.train import Trainer

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parent.parent / "docs" / "algorithms"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in this language, what is generated left out."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(r"^<!-- (\S+):begin -->$.*?^<!-- \1:end -->$", "", text, flags=re.M | re.S)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [code for name, code in found if name == language]


def commands(page: str) -> list[str]:
    """The lines of a page that train, without `copo` and comments."""
    lines = "".join(blocks(page, "bash")).splitlines()
    return [line.partition("#")[0].strip().removeprefix("copo ") for line in lines if line.startswith("copo train ")]


def section(page: str, heading: str) -> str:
    """The text below a heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return re.split(r"^## ", text, flags=re.M)[0]


def test_the_row_of_the_worked_example_trains_and_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,), (command,), (printed,) = blocks("README.md", "python"), commands("README.md"), blocks("README.md", "")
    made = eval(row, {"Algorithm": Algorithm})
    assert made.name not in ALGORITHMS and made.critic_input == "concat" and made.learns_lcf
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ALGORITHMS, made.name, made)
    assert main(command.split()) == 0

    def without_numbers(text: str) -> str:
        return re.sub(r"-?\d+", "#", text)

    assert without_numbers(capsys.readouterr().out) == without_numbers(printed)
    assert (tmp_path / "runs" / "particles" / made.name / "seed0" / "metrics.csv").is_file()


def test_every_algorithm_is_in_the_table_and_leads_to_its_page() -> None:
    links = re.findall(r"\[`(\w+)`\]\((\w+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    assert {name for name, _ in links} == set(ALGORITHMS) and len(links) == len(ALGORITHMS)
    for name, page in links:
        assert f"\n<!-- results:{name}:begin -->\n" in (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README.md", "metrics.md", "estimators.md")])
def test_the_commands_are_accepted(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[TrainConfig] = []
    monkeypatch.setattr("copo_algos.train.train", given.append)
    assert commands(page)
    for command in commands(page):
        assert main(command.split()) == 0
    for config in given:
        check(config)
    if page not in ("ppo.md", "ablations.md"):
        assert {f"results:{config.algorithm}:begin" for config in given} == set(
            re.findall(r"results:\w+:begin", (DOCS / page).read_text(encoding="utf-8"))
        )


def test_metrics_csv_has_the_columns_that_the_page_defines() -> None:
    names = [
        re.findall(r"`(\w+)`", line.split("|")[1])
        for line in section("metrics.md", "metrics.csv").splitlines()
        if "|" in line
    ]
    defined = [name for row in names for name in row]
    values: dict[str, Any] = {"scene": "particles", "num_envs": 0, "num_agents": 4, "steps_per_iteration": 40}
    trainer = Trainer(with_values(TrainConfig("copo"), values))
    trainer.begin()
    row = trainer.train_iteration()
    trainer.close()
    assert sorted(defined) == sorted(row)

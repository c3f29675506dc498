"""Every command in the README and the docs is one that its parser takes, about things that there are. None is run."""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from benchmarks.run import RunConfig
from benchmarks.suite import cells
from copo_algos import cli
from copo_algos.algorithms import ALGORITHMS
from copo_algos.baselines import named_driver
from copo_algos.config import TrainConfig, check
from copo_algos.errors import UserError
from copo_algos.evaluate import EvaluateConfig
from copo_algos.policy import shipped_algorithm
from copo_algos.watch import WatchConfig
from copo_envs.scenes import SceneError, get_scene

ROOT = Path(__file__).resolve().parent.parent
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"(?:\S*/)?(copo (?:train|evaluate|watch)|python3? -m benchmarks[\w.]*)(?: (.*))?")

Parse = Callable[[str], Any]


def commands(text: str) -> list[str]:
    """The commands of a page that a line of a code block or inline code begins with, without comments and `...`."""
    lines = "".join(FENCED.findall(text)).replace("\\\n", "").splitlines()
    code = [*lines, *re.findall(r"`([^`\n]+)`", FENCED.sub("", text))]
    parts = [part.strip() for line in code for part in re.split(r"&&|[;|]", line.partition("#")[0])]
    found = [COMMAND.fullmatch(part.removesuffix("...").strip()) for part in parts]
    return [" ".join(f"{match[1]} {match[2] or ''}".split()) for match in found if match]


PAGES = {
    str(path.relative_to(ROOT)): commands(path.read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


class Parsed(Exception):
    """Raised in the place of what comes after the parser; its argument is what that has made of the words."""


def stopping(parser: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        raise Parsed(parser(*arguments, **options))

    return wrapped


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Runs a command until its words are parsed, and returns what they stand for; None of a module without a parser.

    Where options alone are spoken of, as in `copo train --resume`, the algorithm is CoPO.
    """
    monkeypatch.setattr(tyro, "cli", stopping(tyro.cli))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))

    def parsed(command: str) -> Any:
        program, *words = shlex.split(command)
        if program != "copo":
            return of_a_module(*words[1:])
        if words[0] == "train" and (len(words) == 1 or words[1].startswith("-")):
            words.insert(1, "copo")
        with pytest.raises(Parsed) as result:
            cli.main(words)
        return result.value.args[0]

    def of_a_module(name: str, *words: str) -> Any:
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{name}.__main__")
        assert spec and spec.origin, f"there is no module {name}"
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in source
        if "tyro.cli(" not in source and "argparse.ArgumentParser(" not in source:
            assert not words, f"{name} takes no words"
            return None
        monkeypatch.setattr(sys, "argv", [spec.origin, *words])
        with pytest.raises(Parsed) as result:
            runpy.run_path(spec.origin, run_name="__main__")
        return result.value.args[0]

    return parsed


def refuse_what_is_not_there(config: Any) -> None:
    """Scenes, algorithms, settings and shipped policies are looked up after the parser."""
    if isinstance(config, TrainConfig):
        check(config)
    elif isinstance(config, RunConfig):
        cells(config.scenes, config.algorithms, config.seeds)
    elif isinstance(config, EvaluateConfig | WatchConfig):
        path = config.path if isinstance(config, EvaluateConfig) else config.run
        if config.scene:
            get_scene(config.scene)
        if config.scene and path is None:
            named_driver(config.scene, config.algorithm or shipped_algorithm(config.scene))


def test_commands_are_found_wherever_they_stand() -> None:
    page = """`copo train ...`, `copo watch --3d` and `copo_envs`; `python -m benchmarks.estimators` `python -m pytest`
```bash
python3 -m venv .venv && .venv/bin/copo train copo --seed 0   # copo evaluate
python -m benchmarks.train_cost \\
    --env-steps 1
copo evaluate RUN | tee log
```
```
  cli.py    copo train | evaluate
```
"""
    assert commands(page) == [
        "copo train copo --seed 0",
        "python -m benchmarks.train_cost --env-steps 1",
        "copo evaluate RUN",
        "copo train",
        "copo watch --3d",
        "python -m benchmarks.estimators",
    ]
    everything = {command.split()[1] for found in PAGES.values() for command in found}
    assert everything == {"train", "evaluate", "watch", "-m"}
    assert all(PAGES[f"docs/{name}.md"] for name in ("environments", "benchmark", "performance"))
    assert PAGES["README.md"] and PAGES["benchmarks/README.md"]


@pytest.mark.parametrize("page", [page for page, found in PAGES.items() if found])
def test_the_commands_are_accepted(page: str, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    example = replace(ALGORITHMS["copo"], name="copo_concat", critic_input="concat")  # of docs/algorithms/README.md
    monkeypatch.setitem(ALGORITHMS, example.name, example)
    refused = {}
    for command in dict.fromkeys(PAGES[page]):
        try:
            refuse_what_is_not_there(parse(command))
        except (SystemExit, AssertionError, UserError, SceneError) as error:
            if not (isinstance(error, SystemExit) and error.code == 0):  # as after --help
                refused[command] = error
    assert refused == {}

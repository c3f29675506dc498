"""The plain progress lines where there is no terminal."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from copo_algos import progress as progress_module
from copo_algos.config import TrainConfig
from copo_algos.progress import PLAIN_EVERY, PlainLines, TrainingProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still unless a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_the_last_line_is_one_line_and_no_time_is_left(capsys: pytest.CaptureFixture[str]):
    config = TrainConfig("copo", total_steps=20_000)
    rates = {"success_rate": 0.25, "crash_rate": 0.5, "out_rate": 0.25, "route_completion_mean": math.nan}
    with TrainingProgress(config, 0) as progress:
        progress.iteration({**rates, "env_steps": 20_800, "lcf_mean_deg": -0.3})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("20800/20000 env steps | success 25% crash 50% out 25% lcf 0° ")
    assert line.endswith(" steps/s | 0 min left")


def test_an_evaluation_is_one_line(capsys: pytest.CaptureFixture[str]):
    row = {"env_steps": 9600, "success_rate": 0.5, "crash_rate": 0.25, "out_rate": 0.25, "max_step_rate": math.nan}
    with TrainingProgress(TrainConfig("copo"), 0) as progress:
        progress.evaluating(2)
        progress.evaluation({**row, "evaluate_s": 12.4}, best=True)
    assert capsys.readouterr().out.splitlines() == [
        "evaluation after 9600 env steps: success 50% crash 25% out 25%, the best so far, 12 s"
    ]


def test_a_training_has_a_line_at_once_and_then_every_half_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
):
    progress = TrainingProgress(TrainConfig("copo", total_steps=1100), 100)  # a resumed one
    rates = {"success_rate": 0.5, "crash_rate": math.nan, "out_rate": math.nan, "route_completion_mean": math.nan}
    for _ in range(10):
        clock[0] += 12
        progress.iteration({**rates, "env_steps": round(100 + (clock[0] - 1000) / 0.6)})
    assert capsys.readouterr().out.splitlines() == [
        f"{steps}/1100 env steps | success 50% 2 steps/s | {left} min left"
        for steps, left in ((120, 10), (180, 9), (240, 9), (300, 8))
    ]


def test_lines_come_every_half_minute_and_say_what_is_left(clock: list[float], capsys: pytest.CaptureFixture[str]):
    lines = PlainLines(Console())
    for second in range(1, 101):
        clock[0] += 1
        lines.show(f"{second}/600 of it", 0.0 if second < 40 else second / 600)
    lines.show("all of it", 1.0, last=True)
    assert capsys.readouterr().out.splitlines() == [
        f"{PLAIN_EVERY:.0f}/600 of it",  # nothing is known yet
        "60/600 of it | 9 min left",
        "90/600 of it | 8 min left",
        "all of it | 0 min left",
    ]


def test_lines_over_items_come_when_one_is_done(clock: list[float], capsys: pytest.CaptureFixture[str]):
    items = []
    for item in PlainLines(Console()).over("abcdef", 6, "letters"):
        clock[0] += 20
        items.append(item)
    assert items == [*"abcdef"]
    assert capsys.readouterr().out.splitlines() == [
        "2/6 letters | 1 min left",
        "4/6 letters | 1 min left",
        "6/6 letters | 0 min left",
    ]


def test_a_terminal_has_no_lines(clock: list[float]):
    screen = io.StringIO()
    lines = PlainLines(Console(file=screen, force_terminal=True), at_once=True)
    lines.show("some of it", 0.5, last=True)
    assert list(lines.over("ab", 2, "letters")) == ["a", "b"] and screen.getvalue() == ""

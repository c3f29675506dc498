"""The plain progress lines of a training without a terminal."""

from __future__ import annotations

import math

import pytest

from copo_algos.config import TrainConfig
from copo_algos.progress import TrainingProgress


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

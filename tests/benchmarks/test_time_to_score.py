"""Time to score on the particles: it stops when the score is held, and not before 300 lives have been lived."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import time_to_score
from benchmarks.time_to_score import ScoreConfig, holds, main
from copo_algos.errors import UserError

pytestmark = pytest.mark.slow


def test_a_score_counts_from_300_lives_on():
    assert not holds({"lives": 299, "success_rate": 1.0}, 0.7)
    assert holds({"lives": 300, "success_rate": 0.7}, 0.7)
    assert not holds({"lives": 300, "success_rate": 0.699}, 0.7)


def test_a_training_ends_when_it_holds_the_score_or_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time_to_score, "RECENT_LIVES", 1)
    rows = {}
    for score in (0.001, 1.0):
        main(ScoreConfig(("default",), (0,), "ippo", "particles", score, 3200, tmp_path))
        with (tmp_path / "time_to_score.csv").open(newline="") as file:
            (rows[score],) = csv.DictReader(file)
    assert rows[0.001]["reached"] == "True" and int(rows[0.001]["env_steps"]) <= 3200
    assert rows[1.0]["reached"] == "False" and int(rows[1.0]["env_steps"]) == 3200
    assert 0.001 <= float(rows[1.0]["best_success_rate"]) < 1.0
    assert all(float(row[name]) > 0 for row in rows.values() for name in ("wall_min", "cpu_min"))


def test_an_impossible_score_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"score=1.5 is not in \(0, 1\]"):
        main(ScoreConfig(score=1.5, output=tmp_path))

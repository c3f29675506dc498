"""The page on the estimators: its windows and tables, on rows made up by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.estimators import ESTIMATORS
from benchmarks.estimators_page import NAMES, draw, tables, windowed


def metrics(successes: list[int], positive: list[float], phi: list[float]) -> pd.DataFrame:
    """Rows of 8,000 env steps in which 10 lives ended."""
    count = len(successes)
    table = pd.DataFrame(
        {
            "env_steps": range(8000, 8000 * count + 1, 8000),
            "successes": successes,
            "ended": 10,
            "lcf_mean_deg": phi,
            "lcf_std_deg": 9.0,
        }
    )
    for name in ESTIMATORS:
        table[f"{name}_positive"] = positive
        table[f"{name}_t"] = [-10 * share for share in positive]
    return table


def test_windows_of_16000_steps():
    table = windowed(metrics([0, 2, 4, 6, 8], [0.0, 0.2, 0.4, 0.6, 0.8], [1, 2, 3, 4, 5]))
    assert table["env_steps"].tolist() == [16_000, 32_000, 40_000]
    assert table["success"].tolist() == [2 / 20, 10 / 20, 8 / 10]
    assert table["released_positive"].tolist() == pytest.approx([0.1, 0.5, 0.8])


def test_success_is_over_16000_steps_wherever_they_begin_and_end():
    def success(rows: list[int]) -> str:
        runs = {"released": metrics(rows, [0.5] * len(rows), [1] * len(rows))}
        return tables(runs).splitlines()[2].partition("9° | ")[2]

    assert success([0, 2, 9, 9, 2]) == "90 | 55 |"  # 20,000 to 32,000; the last 8,000 alone would be 20
    assert success([3]) == "- | 30 |", "fewer than 16,000: there is no best, and the last are all"


def test_tables_are_those_worked_out_by_hand(tmp_path: Path):
    runs = {setup: metrics([0, 2, 4, 6, 8, 6], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [1, 2, 3, 4, 5, 6]) for setup in NAMES}
    lines = tables(runs).splitlines()
    assert "| released, published step | 48,000 | 6° | 9° | 70 | 70 |" in lines
    assert "| product of means | released, published step | 10 | 90 | -1.0 | -9.0 |" in lines
    draw(runs, tmp_path / "images" / "estimators.png")
    assert (tmp_path / "images" / "estimators.png").stat().st_size > 10_000

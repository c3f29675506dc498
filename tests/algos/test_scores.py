"""Every measure against a table small enough to work out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copo_algos import scores
from copo_envs.outcomes import ENDINGS


def life(episode: int, number: int, outcome: str, steps: int, ended_at: int, own_return: float, lcf: float = 0.0):
    return {
        "episode": episode,
        "seed": 100 + episode,
        "life": number,
        "outcome": outcome,
        "steps": steps,
        "ended_at": ended_at,
        "own_return": own_return,
        "route_completion": 1.0 if outcome == "success" else 0.5,
        "velocity_m_s": steps / 10,
        "cost": 0.0 if outcome == "success" else 1.0,
        "energy": 2.0 * steps,
        "lcf": lcf,
    }


@pytest.fixture
def lives() -> pd.DataFrame:
    return pd.DataFrame(
        [
            life(0, 0, "success", 100, 100, 10.0),
            life(0, 1, "success", 300, 1020, 20.0),  # too late for the throughput
            life(0, 2, "crash", 50, 60, -10.0),
            life(0, 3, "success", 200, 1000, 30.0),  # just in time
            life(0, 4, "out_of_road", 10, 400, -5.0),
            life(1, 0, "success", 140, 140, 15.0),
            life(1, 1, "max_step", 1000, 1000, 4.0),
            life(1, 2, "success", 160, 300, 16.0),
        ],
        columns=list(scores.COLUMNS),
    )


def test_measures_of_a_worked_table(lives: pd.DataFrame):
    expected = {
        "success_rate": 5 / 8,
        "crash_rate": 1 / 8,
        "out_rate": 1 / 8,
        "max_step_rate": 1 / 8,
        "efficiency": (5 - 1 - 1) / 1000 / 2,
        "safety": -1.0,
        "failures": 1.0,
        "throughput": 4 / 2,
        "vehicles": 4.0,
        "mean_return": 80 / 8,
        "mean_length": 1960 / 8,
        "success_length": 900 / 5,
        "mean_velocity_m_s": 196 / 8,
        "mean_route_completion": 6.5 / 8,
        "mean_cost": 3 / 8,
        "mean_energy": 3920 / 8,
    }
    assert scores.overall(lives) == pytest.approx(expected)


def test_episodes_of_a_worked_table(lives: pd.DataFrame):
    table = scores.per_episode(lives)
    assert list(table.columns) == ["episode", "seed", *scores.MEASURES]
    assert table["episode"].tolist() == [0, 1]
    assert table["seed"].tolist() == [100, 101]
    assert table["success_rate"].tolist() == pytest.approx([3 / 5, 2 / 3])
    assert table["failures"].tolist() == [2, 0]
    assert table["efficiency"].tolist() == pytest.approx([0.001, 0.002])
    assert table["throughput"].tolist() == [2, 2]
    assert table["vehicles"].tolist() == [5, 3]


def test_a_shorter_horizon_changes_efficiency_and_throughput_only(lives: pd.DataFrame):
    short, long = scores.overall(lives, horizon=200), scores.overall(lives)
    assert short.pop("efficiency") == pytest.approx(5 * long.pop("efficiency"))
    assert (short.pop("throughput"), long.pop("throughput")) == (1.0, 2.0)
    assert short == long


def test_nothing_to_speak_of_is_nan(lives: pd.DataFrame):
    empty = scores.overall(lives.iloc[:0])
    assert all(math.isnan(value) for value in empty.values())
    crashes = lives.loc[lives["outcome"] == "crash", :]
    assert math.isnan(scores.success_length(crashes))
    assert scores.success_rate(crashes) == 0


def test_outcome_names_are_those_of_the_environment(lives: pd.DataFrame):
    assert {outcome.name.lower() for outcome in ENDINGS} == set(lives["outcome"])


endings = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([ending.name.lower() for ending in ENDINGS])), min_size=1, max_size=40
)


@pytest.mark.slow
@given(endings)
def test_identities(pairs: list[tuple[int, str]]):
    lives = pd.DataFrame([life(episode, n, outcome, 10, 10, 0.0) for n, (episode, outcome) in enumerate(pairs)])
    values = scores.overall(lives)
    rates = ("success_rate", "crash_rate", "out_rate", "max_step_rate")
    assert sum(values[rate] for rate in rates) == pytest.approx(1)
    assert values["safety"] == -values["failures"]
    assert values["failures"] == pytest.approx((values["crash_rate"] + values["out_rate"]) * values["vehicles"])
    net = values["success_rate"] * values["vehicles"] - values["failures"]
    assert values["efficiency"] == pytest.approx(net / 1000)
    # Counts per episode are the mean of the episodes' own counts; rates are not.
    episodes = scores.per_episode(lives)
    for name in ("failures", "vehicles", "efficiency", "throughput"):
        assert values[name] == pytest.approx(episodes[name].mean())
    assert scores.overall(lives.iloc[::-1]) == pytest.approx(values, nan_ok=True)

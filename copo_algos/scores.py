"""What each number means, as code: measures of a table of lives.

A lives table has one row per vehicle life that ended, with the columns of `COLUMNS`. Every measure here is a function
`lives table -> float` and can be called on one episode or on many; counts are per episode. Its result does not depend
on the order of the rows. A measure that has nothing to speak of (no life, no arrival) is NaN.

An episode that ended without a single life leaves no row, so it is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

COLUMNS: dict[str, str] = {
    "episode": "number of the episode, from 0",
    "seed": "seed of the episode's reset",
    "life": "number of the life in its episode, from 0, in the order of spawning",
    "outcome": "how it ended: success, crash, out_of_road or max_step",
    "steps": "env steps that it lasted",
    "ended_at": "env step of the episode at which it ended, from 1",
    "own_return": "sum of its own rewards",
    "route_completion": "share of its route behind it at the end, in [0, 1]",
    "velocity_m_s": "mean over its steps, in m/s",
    "cost": "sum over its steps",
    "energy": "sum over its steps",
    "lcf": "its local coordination factor in [-1, 1]; 0 for algorithms without one",
}
"""Column of a lives table -> what it holds."""

HORIZON = 1000
"""Env steps in which vehicles respawn, in the published protocol."""


def num_episodes(lives: pd.DataFrame) -> int:
    """Episodes in the table."""
    return int(lives["episode"].nunique())


def success_rate(lives: pd.DataFrame) -> float:
    """Vehicles that arrived / vehicles that ended."""
    return _rate(lives, "success")


def crash_rate(lives: pd.DataFrame) -> float:
    """Vehicles that ended in a crash / vehicles that ended."""
    return _rate(lives, "crash")


def out_rate(lives: pd.DataFrame) -> float:
    """Vehicles that ended out of road / vehicles that ended."""
    return _rate(lives, "out_of_road")


def max_step_rate(lives: pd.DataFrame) -> float:
    """Vehicles whose time ran out / vehicles that ended."""
    return _rate(lives, "max_step")


def failures(lives: pd.DataFrame) -> float:
    """(Crashes + outs) per episode."""
    return _per_episode(lives, _count(lives, "crash") + _count(lives, "out_of_road"))


def safety(lives: pd.DataFrame) -> float:
    """-(crashes + outs) per episode: the negative count that the released plots use."""
    return -failures(lives)


def efficiency(lives: pd.DataFrame, horizon: int = HORIZON) -> float:
    """(Successes - crashes - outs) / horizon per episode, horizon in env steps."""
    net = _count(lives, "success") - _count(lives, "crash") - _count(lives, "out_of_road")
    return _per_episode(lives, net) / horizon


def throughput(lives: pd.DataFrame, horizon: int = HORIZON) -> float:
    """Arrivals by env step `horizon`, per episode. A slow population can be a safe one, so it stands beside success."""
    in_time = lives.loc[lives["ended_at"] <= horizon, :]
    return _per_episode(lives, _count(in_time, "success"))


def vehicles(lives: pd.DataFrame) -> float:
    """Vehicles that ended, per episode."""
    return _per_episode(lives, len(lives))


def mean_return(lives: pd.DataFrame) -> float:
    """Sum of a vehicle's own rewards, mean over lives."""
    return float(lives["own_return"].mean())


def mean_length(lives: pd.DataFrame) -> float:
    """Env steps that a life lasts, mean over lives."""
    return float(lives["steps"].mean())


def success_length(lives: pd.DataFrame) -> float:
    """Env steps that a life lasts, mean over those that arrived."""
    return float(lives.loc[lives["outcome"] == "success", "steps"].mean())


def mean_velocity(lives: pd.DataFrame) -> float:
    """A life's mean velocity in m/s, mean over lives."""
    return float(lives["velocity_m_s"].mean())


def mean_route_completion(lives: pd.DataFrame) -> float:
    """Share of its route that a vehicle has behind it when it ends, mean over lives."""
    return float(lives["route_completion"].mean())


def mean_cost(lives: pd.DataFrame) -> float:
    """Sum of a vehicle's costs, mean over lives."""
    return float(lives["cost"].mean())


def mean_energy(lives: pd.DataFrame) -> float:
    """Sum of a vehicle's energy use, mean over lives."""
    return float(lives["energy"].mean())


MEASURES: dict[str, Callable[[pd.DataFrame], float]] = {
    "success_rate": success_rate,
    "crash_rate": crash_rate,
    "out_rate": out_rate,
    "max_step_rate": max_step_rate,
    "efficiency": efficiency,
    "safety": safety,
    "failures": failures,
    "throughput": throughput,
    "vehicles": vehicles,
    "mean_return": mean_return,
    "mean_length": mean_length,
    "success_length": success_length,
    "mean_velocity_m_s": mean_velocity,
    "mean_route_completion": mean_route_completion,
    "mean_cost": mean_cost,
    "mean_energy": mean_energy,
}
"""Name of a measure -> its function."""


def overall(lives: pd.DataFrame, horizon: int = HORIZON) -> dict[str, float]:
    """Every measure over the whole table: rates and means over all its lives, counts per episode.

    Args:
        lives: the table, see `COLUMNS`.
        horizon: env steps in which vehicles respawned, for `efficiency` and `throughput`.
    """
    values = {name: measure(lives) for name, measure in MEASURES.items()}
    values["efficiency"] = efficiency(lives, horizon)
    values["throughput"] = throughput(lives, horizon)
    return values


def per_episode(lives: pd.DataFrame, horizon: int = HORIZON) -> pd.DataFrame:
    """A table of every measure with one row per episode, in the order of the episodes; see `overall`."""
    rows = [
        {"episode": episode, "seed": int(table["seed"].iloc[0]), **overall(table, horizon)}
        for episode, table in lives.groupby("episode", sort=True)
    ]
    return pd.DataFrame(rows, columns=["episode", "seed", *MEASURES])


def _count(lives: pd.DataFrame, outcome: str) -> int:
    return int((lives["outcome"] == outcome).sum())


def _rate(lives: pd.DataFrame, outcome: str) -> float:
    return _count(lives, outcome) / len(lives) if len(lives) else float("nan")


def _per_episode(lives: pd.DataFrame, count: int) -> float:
    episodes = num_episodes(lives)
    return count / episodes if episodes else float("nan")

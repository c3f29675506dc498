"""What the results folder knows about every cell, and the numbers that sum it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.published import TITLES
from benchmarks.suite import CONFIG, EVALUATIONS, METRICS, PROVENANCE, Cell
from copo_algos import scores
from copo_algos.algorithms import ALGORITHMS
from copo_algos.curriculum import everybody_drives
from copo_algos.errors import UserError
from copo_algos.evaluate import LIVES, SUMMARY
from copo_algos.logs import RECENT_EPISODES
from copo_algos.statistics import bootstrap_interval, mean_and_std
from copo_envs.scenes import SCENES

WINDOW = 16_000
"""Env steps over which training success is summed."""
FIRST_SEED = 1_000_000  # of the evaluation; its intervals are drawn with it


@dataclass(frozen=True)
class Result:
    """What the results folder knows about a cell."""

    cell: Cell
    metrics: pd.DataFrame
    config: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Maps -> measures of the evaluation; empty where there was none."""
    arrivals: dict[str, np.ndarray] = field(default_factory=dict)
    """Maps -> vehicles that arrived and vehicles that ended in each episode of the evaluation, (episodes, 2)."""
    episodes: int = 0
    """Episodes of the evaluation."""


def load(results_dir: Path) -> list[Result]:
    """Everything in the results folder, by scene, algorithm and seed.

    Raises:
        UserError: nothing there, or a file that cannot be read.
    """
    found = sorted(results_dir.glob(f"*/*/seed*/{METRICS}"))
    if not found:
        raise UserError(f"no results in {results_dir}: make some with python -m benchmarks run, or give --results-dir")
    results = [_load_one(path.parent) for path in found]
    order = [*SCENES, *sorted({result.cell.scene for result in results} - set(SCENES))]
    known = list(TITLES)

    def key(result: Result) -> tuple[int, int, str, int]:
        cell = result.cell
        rank = known.index(cell.algorithm) if cell.algorithm in known else len(known)
        return order.index(cell.scene), rank, cell.algorithm, cell.seed

    return sorted(results, key=key)


def by_scene(results: Iterable[Result]) -> dict[str, dict[str, list[Result]]]:
    """Scene -> algorithm -> results of its seeds, in the given order."""
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(result.cell.scene, {}).setdefault(result.cell.algorithm, []).append(result)
    return groups


def windowed_success(metrics: pd.DataFrame, window: int = WINDOW) -> np.ndarray:
    """Success rate over the lives that ended in the last `window` env steps (at the beginning: all so far).

    The window is made of whole iterations: those that ended in it.

    Returns:
        (iterations,); NaN where nobody has ended.
    """
    steps = metrics["env_steps"].to_numpy()
    before = np.searchsorted(steps, steps - window, side="right")
    sums = np.cumsum(metrics[["successes", "ended"]].to_numpy(np.float64), axis=0)
    successes, ended = (sums - np.vstack([np.zeros(2), sums])[before]).T
    return np.divide(successes, ended, out=np.full_like(ended, np.nan), where=ended > 0)


def best_success(metrics: pd.DataFrame, window: int = WINDOW) -> float:
    """Maximum over training of successes / lives that ended, each summed over `window` consecutive env steps.

    NaN for a run of fewer.
    """
    steps = metrics["env_steps"].to_numpy()
    known = windowed_success(metrics, window)[steps - _steps_before(metrics) >= window]
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else float("nan")


def best_success_100ep(metrics: pd.DataFrame) -> float:
    """The authors' training success rate: maximum over training of the mean success rate of the last 100 episodes.

    NaN where fewer have ended.
    """
    return float(metrics.loc[metrics["episodes"] >= RECENT_EPISODES, "success_rate_100ep"].max())


def comparable(result: Result) -> pd.DataFrame:
    """The part of a training whose rates compare with other algorithms': with a curriculum, the last quarter.

    There the mean over 100 episodes is known once so many have ended since the quarter began.
    """
    metrics = result.metrics
    if not (result.cell.algorithm in ALGORITHMS and ALGORITHMS[result.cell.algorithm].curriculum):
        return metrics
    begins, total = metrics["env_steps"].shift(fill_value=0), result.config["total_steps"]
    full = np.array([everybody_drives(int(steps), total) for steps in begins])
    last = metrics[full].copy()
    since = last["episodes"] - metrics[~full]["episodes"].max()
    last.loc[since < RECENT_EPISODES, "success_rate_100ep"] = np.nan
    return last


def _steps_before(metrics: pd.DataFrame) -> int:
    """Env steps before the first row, all rows being of equal length but perhaps the last."""
    first, *rest = metrics["env_steps"].to_numpy()[:2]
    return int(first - (rest[0] - first)) if rest else 0


def success_interval(results: list[Result], maps: str) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean over the seeds of the evaluation's success rate.

    Episodes are drawn anew, each seed's from its own, so it says how sure the rate of these policies is, not how much
    another seed would differ. For one seed it is the interval of summary.json. None where no seed has two episodes.
    """
    tables = [result.arrivals[maps] for result in results if len(result.arrivals.get(maps, ()))]
    if max(map(len, tables), default=0) < 2:
        return None
    ends = np.cumsum([len(table) for table in tables])[:-1]

    def mean_rate(drawn: np.ndarray) -> float:
        sums = (seed.sum(axis=0) for seed in np.split(drawn, ends))
        return float(np.mean([arrived / ended for arrived, ended in sums]))

    return bootstrap_interval(tables, mean_rate, np.random.default_rng(FIRST_SEED))


def over_seeds(values: Iterable[float], show_value: Callable[[float], str]) -> str:
    """Mean (standard deviation) of the values that are known, with their number where some are not; "-" for none."""
    array = np.array(list(values), np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return "-"
    mean, std = mean_and_std(known)
    text = show_value(mean) if len(known) == 1 else f"{show_value(mean)} ({show_value(std)})"
    return text if len(known) == len(array) else f"{text}, n = {len(known)}"


def seeds_of(results: list[Result]) -> str:
    """Their seeds and how many they are."""
    numbers = ", ".join(str(result.cell.seed) for result in results)
    return f"{numbers} (n = {len(results)})"


def steps_of(results: list[Result]) -> str:
    """Env steps that they were trained for, from the least to the most."""
    steps = sorted({int(result.metrics["env_steps"].iloc[-1]) for result in results})
    return f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"


def episodes_of(results: list[Result]) -> str:
    """Episodes that they were evaluated in; empty where none was."""
    return " or ".join(map(str, sorted({result.episodes for result in results if result.episodes})))


def notes_of(results: Iterable[Result]) -> list[str]:
    """Where trainings were interrupted, and what somebody has noted in their provenance.json, each with its cell."""
    notes = []
    for result in results:
        breaks = [f"{again['env_steps']:,}" for again in result.config.get("resumed", [])]
        if breaks:
            notes.append(f"Note ({result.cell}): interrupted and resumed, with fresh episodes, at {', '.join(breaks)}")
        if result.provenance.get("note"):
            notes.append(f"Note ({result.cell}): {result.provenance['note']}")
    return notes


def commands_of(results: Iterable[Result]) -> str:
    """The commands of the trainings, a line each, with the commits at which they repeat them."""
    return "\n".join(
        f"{result.provenance['command']}  # at {result.provenance['commit'][:7]}"
        if result.provenance["commit"]
        else result.provenance["command"]
        for result in results
    )


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def _load_one(folder: Path) -> Result:
    scene, algorithm, seed = folder.parts[-3:]
    path = folder
    try:
        cell = Cell(scene, algorithm, int(seed.removeprefix("seed")))
        path = folder / METRICS
        metrics = pd.read_csv(path)
        missing = {"env_steps", "wall_s", "success_rate_100ep", "ended", "successes", "episodes"} - set(metrics.columns)
        if missing or metrics.empty:
            raise ValueError(f"no column {', '.join(sorted(missing))}" if missing else "no rows")
        metrics["env_steps"] = pd.to_numeric(metrics["env_steps"])
        path = folder / CONFIG
        config = dict(json.loads(path.read_text()))
        path = folder / PROVENANCE
        provenance = json.loads(path.read_text())
        for name in ("command", "date", "commit", "hardware", "versions"):
            provenance[name]
        dict(provenance["versions"])
        evaluations, arrivals, episodes = {}, {}, 0
        for maps, name in EVALUATIONS.items():
            path = folder / name / LIVES
            if path.exists():
                lives = pd.read_csv(path)
                path = folder / name / SUMMARY
                horizon = json.loads(path.read_text())["horizon"]
                path = folder / name / LIVES
                evaluations[maps] = scores.overall(lives, horizon)
                each = scores.per_episode(lives, horizon)
                arrivals[maps] = np.stack([each["success_rate"] * each["vehicles"], each["vehicles"]], axis=1)
                episodes = scores.num_episodes(lives)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}); it should be as python -m benchmarks run wrote it"
        ) from error
    return Result(cell, metrics, config, provenance, evaluations, arrivals, episodes)

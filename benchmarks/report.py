"""From the committed CSVs to tables and learning curves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.suite import CONFIG, EVALUATIONS, METRICS, PROVENANCE, Cell
from copo_algos import scores
from copo_algos.errors import UserError
from copo_algos.evaluate import LIVES, SUMMARY, show
from copo_algos.statistics import bootstrap_interval, interquartile_mean, mean_and_std
from copo_envs.scenes import SCENES

WINDOW = 10
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

TITLES = {
    "ippo": "IPPO",
    "ccppo_concat": "CCPPO concat",
    "ccppo_mean_field": "CCPPO mean field",
    "curriculum": "CL",
    "copo": "CoPO",
}
COLOURS = {"ippo": "#8d6cab", "copo": "#1b7f5c"}
LABEL_GAP = 6.0  # percent of the picture's height
OTHER_COLOURS = ("#d17a22", "#3a6ea5", "#b23a48", "#7a7a7a")

# Training success rate of the paper's table in %, mean (std) over 8 seeds; arXiv 2110.13827.
PUBLISHED: dict[str, dict[str, str]] = {
    "bottleneck": {
        "IPPO": "24.0 (18.7)",
        "CCPPO concat": "19.6 (15.8)",
        "CCPPO mean field": "14.6 (11.2)",
        "CL": "60.6 (22.2)",
        "CoPO": "47.4 (19.5)",
    },
    "tollgate": {
        "IPPO": "4.4 (2.6)",
        "CCPPO concat": "3.5 (1.9)",
        "CCPPO mean field": "14.9 (16.5)",
        "CL": "37.3 (30.7)",
        "CoPO": "27.2 (25.6)",
    },
    "intersection": {
        "IPPO": "71.9 (5.3)",
        "CCPPO concat": "75.7 (3.2)",
        "CCPPO mean field": "70.8 (6.3)",
        "CL": "75.7 (6.2)",
        "CoPO": "79.5 (5.0)",
    },
    "roundabout": {
        "IPPO": "66.4 (5.0)",
        "CCPPO concat": "67.8 (4.1)",
        "CCPPO mean field": "71.0 (5.5)",
        "CL": "72.3 (5.5)",
        "CoPO": "72.8 (6.7)",
    },
    "parking_lot": {
        "IPPO": "17.0 (5.9)",
        "CCPPO concat": "12.0 (7.5)",
        "CCPPO mean field": "20.7 (3.5)",
        "CL": "21.3 (10.2)",
        "CoPO": "19.5 (5.6)",
    },
    "pg_map": {
        "IPPO": "81.8 (6.5)",
        "CCPPO concat": "80.2 (3.6)",
        "CCPPO mean field": "79.6 (3.9)",
        "CL": "71.2 (23.7)",
        "CoPO": "83.4 (3.1)",
    },
}
PUBLISHED_COLUMN = "paper (1M steps, MetaDrive 0.2.5), %"
PUBLISHED_LABEL = "best 100 episodes after 1,000,000 env steps (CL: 2,000,000) in MetaDrive 0.2.5, 8 seeds"


@dataclass(frozen=True)
class ReportConfig:
    """Turn the CSVs in the results folder into tables and learning curves; nothing is run.

    Writes README.md with the tables of every scene, and <scene>.png with its learning curves. Example:

      python -m benchmarks report --readme README.md
    """

    results_dir: Path = Path("benchmarks/results")
    """Where the results of python -m benchmarks run are."""
    output: Path | None = None
    """Where the tables and pictures go. Default: the results folder."""
    readme: Path | None = None
    """Also replace what stands between the results markers in this Markdown file by a short table."""


@dataclass(frozen=True)
class Result:
    """What the results folder knows about a cell."""

    cell: Cell
    metrics: pd.DataFrame
    config: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Maps -> measures of the evaluation; empty where there was none."""
    episodes: int = 0
    """Episodes of the evaluation."""


def report(config: ReportConfig) -> None:
    """Write the tables and the pictures.

    Raises:
        UserError: no results, a file that cannot be read or written, or a README without markers.
    """
    results = load(config.results_dir)
    output = config.output or config.results_dir
    readme = None if config.readme is None else _readme_around_markers(config.readme)
    written = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        for scene, group in by_scene(results).items():
            written.append(output / f"{scene}.png")
            plot_curves(scene, group, written[-1])
        written.append(output / "README.md")
        _replace(written[-1], full_report(results))
        if config.readme is not None and readme is not None:
            written.append(config.readme)
            folder = Path(os.path.relpath(output, config.readme.parent)).as_posix()
            _replace(config.readme, f"{readme[0]}{BEGIN}\n{short_report(results, folder)}{END}{readme[1]}")
    except OSError as error:
        raise UserError(f"cannot write the report: {error}; choose another --output") from error
    for path in written:
        print(f"wrote {path}")


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
    """Success rate over the lives that ended in the last `window` iterations (at the beginning: all so far).

    Returns:
        (iterations,); NaN where nobody has ended.
    """
    sums = metrics[["successes", "ended"]].rolling(window, min_periods=1).sum()
    successes, ended = np.asarray(sums, np.float64).T
    return np.divide(successes, ended, out=np.full_like(ended, np.nan), where=ended > 0)


def best_success(metrics: pd.DataFrame, window: int = WINDOW) -> float:
    """Maximum over training of successes / lives that ended, each summed over `window` consecutive iterations.

    NaN for a run of fewer iterations.
    """
    known = windowed_success(metrics, window)[window - 1 :]
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else float("nan")


def best_success_100ep(metrics: pd.DataFrame) -> float:
    """The paper's training success rate: maximum over training of the mean success rate of the last 100 episodes."""
    return float(metrics["success_rate_100ep"].max())


def full_report(results: list[Result]) -> str:
    """The Markdown of the results folder."""
    parts = ["# Results\n", "Written by `python -m benchmarks report` from the CSVs in this folder.\n"]
    for scene, group in by_scene(results).items():
        parts.append(_scene_section(scene, group))
    parts.append(_definitions())
    return "\n".join(parts)


def short_report(results: list[Result], folder: str) -> str:
    """The block of the project's README: one table over all scenes. `folder` is the way from there to the report."""
    header = [
        "scene",
        "algorithm",
        "seeds",
        "env steps",
        "training success, best 10 iterations, %",
        "evaluation success, %",
        "efficiency",
        "failures",
        "arrivals",
        PUBLISHED_COLUMN,
    ]
    rows = []
    for scene, group in by_scene(results).items():
        for algorithm, seeds in group.items():
            rows.append(
                [
                    scene,
                    title(algorithm),
                    str(len(seeds)),
                    _steps(seeds),
                    over_seeds((best_success(seed.metrics) for seed in seeds), _percent),
                    *(_measure(seeds, "train", n) for n in ("success_rate", "efficiency", "failures", "throughput")),
                    _published(scene, algorithm),
                ]
            )
    dates = sorted({result.provenance["date"] for result in results})
    pictures = "\n".join(f"![Learning curves on {scene}]({folder}/{scene}.png)" for scene in by_scene(results))
    episodes = sorted({result.episodes for result in results if result.episodes})
    over = f" over {' or '.join(map(str, episodes))} episodes" if episodes else ""
    return (
        f"{_table(header, rows)}\n"
        f"Mean (standard deviation) over the seeds. Evaluation: last checkpoint, stochastic actions{over}; "
        f"efficiency, failures and arrivals are per episode. Last column, for reference: {PUBLISHED_LABEL}. "
        f"{_together('Hardware', (result.provenance['hardware'] for result in results))}; "
        f"{dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}. "
        f"Every measure, its definition and the versions: [{folder}]({folder}/README.md).\n\n"
        f"{pictures}\n"
    )


def plot_curves(scene: str, group: dict[str, list[Result]], picture: Path) -> None:
    """Training success over env steps: an interquartile mean with its band per algorithm, a thin line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    spare = iter(OTHER_COLOURS * len(group))
    ends: list[tuple[float, str, str]] = []
    for algorithm, seeds in group.items():
        colour = COLOURS[algorithm] if algorithm in COLOURS else next(spare)
        curves = [(s.metrics["env_steps"].to_numpy(float), 100 * windowed_success(s.metrics)) for s in seeds]
        if len(curves) == 1:
            steps, middle = curves[0]
        else:
            for seed_steps, seed_success in curves:
                axis.plot(seed_steps, seed_success, color=colour, linewidth=0.8, alpha=0.35)
            steps, middle, low, high = _across_seeds(curves)
            axis.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.plot(steps, middle, color=colour, linewidth=2.2)
        count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        known = middle[np.isfinite(middle)]
        if len(known):
            axis.plot(steps[np.isfinite(middle)][-1], known[-1], "o", color=colour, markersize=5, clip_on=False)
            ends.append((known[-1], colour, f"{title(algorithm)} ({count})  {known[-1]:.0f} %"))
    _label_ends(axis, ends)
    axis.set_title(f"{scene}: training success", loc="left", fontsize=12, fontweight="bold")
    axis.set_xlabel("env steps")
    axis.set_ylabel(f"arrived, % of the lives of {WINDOW} iterations")
    axis.set_ylim(0, 100)
    axis.set_xlim(0, max(seed.metrics["env_steps"].iloc[-1] for seeds in group.values() for seed in seeds))
    axis.xaxis.set_major_formatter(lambda value, position: f"{value / 1000:,.0f}k" if value else "0")
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False, colors="#444444")
    partial = picture.with_suffix(".partial")
    figure.savefig(partial, dpi=140, format="png", metadata={"Software": None})
    plt.close(figure)
    partial.replace(picture)


def over_seeds(values: Iterable[float], show_value: Callable[[float], str]) -> str:
    """Mean (standard deviation) of the values that are known, with their number where some are not; "-" for none."""
    array = np.array(list(values), np.float64)
    known = array[np.isfinite(array)]
    if not len(known):
        return "-"
    mean, std = mean_and_std(known)
    text = show_value(mean) if len(known) == 1 else f"{show_value(mean)} ({show_value(std)})"
    return text if len(known) == len(array) else f"{text}, n = {len(known)}"


def title(algorithm: str) -> str:
    """The algorithm's name in print."""
    return TITLES.get(algorithm, algorithm)


def _load_one(folder: Path) -> Result:
    scene, algorithm, seed = folder.parts[-3:]
    path = folder
    try:
        cell = Cell(scene, algorithm, int(seed.removeprefix("seed")))
        path = folder / METRICS
        metrics = pd.read_csv(path)
        missing = {"env_steps", "wall_s", "success_rate_100ep", "ended", "successes"} - set(metrics.columns)
        if missing or metrics.empty:
            raise ValueError(f"no column {', '.join(sorted(missing))}" if missing else "no rows")
        path = folder / CONFIG
        config = json.loads(path.read_text())
        path = folder / PROVENANCE
        provenance = json.loads(path.read_text())
        for name in ("command", "date", "commit", "hardware", "versions"):
            provenance[name]
        evaluations, episodes = {}, 0
        for maps, name in EVALUATIONS.items():
            path = folder / name / LIVES
            if path.exists():
                lives = pd.read_csv(path)
                path = folder / name / SUMMARY
                horizon = json.loads(path.read_text())["horizon"]
                path = folder / name / LIVES
                evaluations[maps] = scores.overall(lives, horizon)
                episodes = scores.num_episodes(lives)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}); it should be as python -m benchmarks run wrote it"
        ) from error
    return Result(cell, metrics, config, provenance, evaluations, episodes)


def _scene_section(scene: str, group: dict[str, list[Result]]) -> str:
    training = [
        [
            title(algorithm),
            _seeds(seeds),
            _steps(seeds),
            over_seeds((best_success(seed.metrics) for seed in seeds), _percent),
            over_seeds((best_success_100ep(seed.metrics) for seed in seeds), _percent),
            _published(scene, algorithm),
            over_seeds((seed.metrics["wall_s"].iloc[-1] / 3600 for seed in seeds), lambda value: f"{value:.2f}"),
            over_seeds((_speed(seed.metrics) for seed in seeds), lambda value: f"{value:.1f}"),
        ]
        for algorithm, seeds in group.items()
    ]
    measures = ("success_rate", "crash_rate", "out_rate", "max_step_rate", "efficiency", "failures", "throughput")
    evaluation = []
    for algorithm, seeds in group.items():
        for maps in EVALUATIONS:
            evaluated = [seed for seed in seeds if maps in seed.evaluations]
            if evaluated:
                name = title(algorithm) + (", held-out maps" if maps == "heldout" else "")
                episodes = sorted({seed.episodes for seed in evaluated})
                described = [name, str(len(evaluated)), " or ".join(map(str, episodes))]
                evaluation.append([*described, *(_measure(seeds, maps, measure) for measure in measures)])
    parts = [
        f"## {scene}\n",
        f"![Learning curves]({scene}.png)\n",
        "**Training**\n",
        _table(
            [
                "algorithm",
                "seeds",
                "env steps",
                f"best {WINDOW} iterations, %",
                "best 100 episodes, %",
                PUBLISHED_COLUMN,
                "wall-clock, h",
                "env steps/s",
            ],
            training,
        ),
    ]
    if evaluation:
        columns = ["algorithm", "seeds", "episodes", "success, %", "crash, %", "out of road, %", "max step, %"]
        parts += [
            "**Evaluation of the last checkpoint**\n",
            _table([*columns, "efficiency", "failures", "arrivals"], evaluation),
        ]
    if scene in PUBLISHED:
        numbers = ", ".join(f"{name} {value}" for name, value in PUBLISHED[scene].items())
        parts.append(f"The paper's numbers for this scene, for reference, {PUBLISHED_LABEL}: {numbers}.\n")
    return "\n".join([*parts, _origin([seed for seeds in group.values() for seed in seeds])])


def _origin(results: list[Result]) -> str:
    """Versions, hardware, dates, commits and commands, each said once."""
    lines = [
        _together("Versions", (", ".join(f"{k} {v}" for k, v in r.provenance["versions"].items()) for r in results)),
        _together("Hardware", (result.provenance["hardware"] for result in results)),
        _together("Date", (result.provenance["date"] for result in results)),
        _together("Preset", (str(result.config.get("preset", "unknown")) for result in results)),
        _together("Commit", (result.provenance["commit"] or "unknown" for result in results)),
    ]
    commands = "\n".join(result.provenance["command"] for result in results)
    return "\n".join(f"* {line}" for line in lines) + f"\n\n```bash\n{commands}\n```\n"


def _definitions() -> str:
    return f"""## What the numbers mean

Mean (standard deviation, n - 1) over the seeds; a single seed has no deviation.
An env step moves all vehicles of one environment by 0.1 s.

* **Best {WINDOW} iterations**: maximum over training of arrivals / vehicles that ended, each summed over {WINDOW}
  consecutive iterations. The curves show the same quantity at every iteration; with several seeds, the interquartile
  mean (below four seeds: the mean) with a 95 % bootstrap interval over the seeds (two seeds: their range).
* **Best 100 episodes**: maximum over training of the mean success rate of the last 100 episodes (of all so far, while
  there are fewer). This is the definition behind the paper's table; a maximum over training flatters.
* **Evaluation**: the last checkpoint, stochastic actions, coordination factors drawn from the learned distribution,
  1,000 env steps with respawning, then until nobody is alive; episode k has seed 1,000,000 + k. A life has one outcome.
* **Success, crash, out of road, max step**: share of the vehicles that ended so, over all episodes.
* **Efficiency**: (successes - crashes - outs) / 1000 per episode. **Failures**: crashes + outs per episode; safety in
  the paper's plots is minus this. **Arrivals**: vehicles that arrived by env step 1000, per episode.
* **Wall-clock**: time in iterations, on the machine named, whatever else it was doing. **Env steps/s**: env steps /
  wall-clock, learning included.
"""


def _measure(seeds: list[Result], maps: str, name: str) -> str:
    evaluated = [seed.evaluations[maps][name] for seed in seeds if maps in seed.evaluations]
    return over_seeds(evaluated, lambda value: show(name, value))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _published(scene: str, algorithm: str) -> str:
    return PUBLISHED.get(scene, {}).get(title(algorithm), "-")


def _seeds(results: list[Result]) -> str:
    numbers = ", ".join(str(result.cell.seed) for result in results)
    return f"{numbers} (n = {len(results)})"


def _steps(results: list[Result]) -> str:
    steps = sorted({int(result.metrics["env_steps"].iloc[-1]) for result in results})
    return f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"


def _speed(metrics: pd.DataFrame) -> float:
    return float(metrics["env_steps"].iloc[-1] / metrics["wall_s"].iloc[-1])


def _together(name: str, values: Iterable[str]) -> str:
    return f"{name}: {'; '.join(dict.fromkeys(values))}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    aligned = ["---" if column in ("algorithm", "scene") else "---:" for column in header]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, aligned, *rows])


def _across_seeds(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Env steps, interquartile mean, and the ends of its band, where all seeds have been."""
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    # A window in which nobody ended has no rate; its neighbours' stands in for it.
    known = [(steps[np.isfinite(success)], success[np.isfinite(success)]) for steps, success in curves]
    table = np.stack([np.interp(grid, steps, success) for steps, success in known])  # (seeds, steps)
    middle = np.array([interquartile_mean(column) for column in table.T])
    if len(curves) == 2:
        return grid, middle, table.min(axis=0), table.max(axis=0)
    # A fresh generator for every env step: the same seeds are drawn at each, so the band is as smooth as the curves.
    band = np.array(
        [
            bootstrap_interval([column], interquartile_mean, np.random.default_rng(0), resamples=500)
            for column in table.T
        ]
    )
    return grid, middle, band[:, 0], band[:, 1]


def _label_ends(axis: Any, ends: list[tuple[float, str, str]]) -> None:
    """Labels (height, colour, text) right of the picture, pushed apart where they would overlap."""
    height = -np.inf
    for value, colour, text in sorted(ends):
        height = max(value, height + LABEL_GAP)
        axis.annotate(
            text,
            (1, height),
            xycoords=axis.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _readme_around_markers(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}; give an existing Markdown file to --readme") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} has no place for the results: put {BEGIN} and {END} on lines of their own where it is")
    return before, after


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)

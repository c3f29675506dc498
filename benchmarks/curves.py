"""Learning curves as pictures, of one scene and of all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published import title
from benchmarks.results_folder import WINDOW, Result, windowed_success
from copo_algos.statistics import bootstrap_interval, interquartile_mean

COLOURS = {"ippo": "#8d6cab", "copo": "#1b7f5c"}
LABEL_GAP = 6.0  # percent of the picture's height
OTHER_COLOURS = ("#d17a22", "#3a6ea5", "#b23a48", "#7a7a7a")


def plot_curves(scene: str, group: dict[str, list[Result]], picture: Path) -> None:
    """Training success over env steps: an interquartile mean with its band per algorithm, a thin line per seed."""
    _plot({scene: group}, 1, (8, 4.5), picture)


def plot_scenes(groups: dict[str, dict[str, list[Result]]], picture: Path) -> None:
    """The curves of every scene in a picture, two scenes side by side."""
    _plot(groups, 2, (13, 3.6 * math.ceil(len(groups) / 2)), picture)


def _plot(groups: dict[str, dict[str, list[Result]]], columns: int, size: tuple[float, float], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = math.ceil(len(groups) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=size, constrained_layout=True, squeeze=False)
    for axis, (scene, group) in zip(axes.flat, groups.items(), strict=False):
        _draw(axis, scene, group)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(f"arrived, % of the lives of {WINDOW:,} env steps")
    partial = picture.with_suffix(".partial")
    figure.savefig(partial, dpi=140, format="png", metadata={"Software": None})
    plt.close(figure)
    partial.replace(picture)


def _draw(axis: Any, scene: str, group: dict[str, list[Result]]) -> None:
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
            steps, middle, low, high = across_seeds(curves)
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
    axis.set_ylim(0, 100)
    axis.set_xlim(0, max(seed.metrics["env_steps"].iloc[-1] for seeds in group.values() for seed in seeds))
    axis.xaxis.set_major_formatter(lambda value, position: f"{value / 1000:,.0f}k" if value else "0")
    axis.grid(axis="y", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False, colors="#444444")


def across_seeds(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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

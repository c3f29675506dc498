"""From the committed CSVs to tables and learning curves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks import algorithm_pages
from benchmarks.curves import plot_curves, plot_scenes
from benchmarks.markdown import read_page, replace_block, table, write_page
from benchmarks.published import PUBLISHED, PUBLISHED_COLUMN, PUBLISHED_LABEL, published, title
from benchmarks.results_folder import (
    WINDOW,
    Result,
    best_success,
    best_success_100ep,
    by_scene,
    commands_of,
    comparable,
    episodes_of,
    load,
    notes_of,
    over_seeds,
    percent,
    seeds_of,
    steps_of,
)
from benchmarks.suite import EVALUATIONS
from copo_algos.errors import UserError
from copo_algos.evaluate import show

RESULTS = Path("benchmarks/results")
ALL_SCENES = "scenes"
"""Name of the picture with the curves of all."""


@dataclass(frozen=True)
class ReportConfig:
    """Turn the CSVs in the results folder into tables and learning curves; nothing is run.

    Writes README.md with the tables of every scene, <scene>.png with its learning curves, scenes.png with those of all
    where there are several; and puts the results of every algorithm into its page in the docs. Example:

      python -m benchmarks report --readme README.md
    """

    results_dir: Path = RESULTS
    """Where the results of python -m benchmarks run are."""
    output: Path | None = None
    """Where the tables and pictures go. Default: the results folder."""
    readme: Path | None = None
    """Also replace what stands between the results markers in this Markdown file by a short table."""
    docs: Path | None = None
    """Also replace the results blocks in the pages of this folder. Default: docs/algorithms for the results that are
    committed, none where --results-dir or --output is given."""

    @property
    def pages(self) -> Path | None:
        """The folder whose results blocks are replaced."""
        committed = self.results_dir == RESULTS and self.output is None
        return self.docs or (algorithm_pages.FOLDER if committed else None)


def report(config: ReportConfig) -> None:
    """Write the tables and the pictures.

    Raises:
        UserError: no results, a file that cannot be read or written, or a page without markers.
    """
    results = load(config.results_dir)
    output = config.output or config.results_dir
    pages = {output / "README.md": full_report(results)}
    if config.readme is not None:
        folder = Path(os.path.relpath(output, config.readme.parent)).as_posix()
        text = short_report(results, folder)
        pages[config.readme] = replace_block(read_page(config.readme), "results", text, config.readme)
    if config.pages is not None:
        pages |= algorithm_pages.filled(config.pages, results, output)
    written, groups = [], by_scene(results)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for scene, group in groups.items():
            written.append(output / f"{scene}.png")
            plot_curves(scene, group, written[-1])
        if len(groups) > 1:
            written.append(output / f"{ALL_SCENES}.png")
            plot_scenes(groups, written[-1])
        for path, text in pages.items():
            written.append(path)
            write_page(path, text)
    except OSError as error:
        raise UserError(f"cannot write the report: {error}; choose another --output") from error
    for path in written:
        print(f"wrote {path}")


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
        "best 100 episodes, %",
        PUBLISHED_COLUMN,
        f"best {WINDOW:,} env steps, %",
        "evaluation success, %",
        "efficiency",
        "failures",
        "arrivals",
    ]
    rows = []
    groups = by_scene(results)
    for scene, group in groups.items():
        for algorithm, seeds in group.items():
            rows.append(
                [
                    scene,
                    title(algorithm),
                    str(len(seeds)),
                    steps_of(seeds),
                    over_seeds((best_success_100ep(comparable(seed)) for seed in seeds), percent),
                    published(scene, algorithm),
                    over_seeds((best_success(comparable(seed)) for seed in seeds), percent),
                    *(_measure(seeds, "train", n) for n in ("success_rate", "efficiency", "failures", "throughput")),
                ]
            )
    dates = sorted({result.provenance["date"] for result in results})
    scene, *others = groups
    picture = (
        f"![Learning curves on {'all scenes' if others else scene}]({folder}/{ALL_SCENES if others else scene}.png)"
    )
    episodes = episodes_of(results)
    over = f" over {episodes} episodes" if episodes else ""
    return (
        f"{table(header, rows)}\n"
        "Mean (standard deviation) over the seeds. Best 100 episodes, which take some 100,000 env steps: maximum over "
        f"training of their mean success, as in the authors' column ({PUBLISHED_LABEL}). Evaluation: last checkpoint, "
        f"stochastic actions{over}; efficiency, failures and arrivals are per episode. "
        f"{_together('Processors', (_processor(result) for result in results))}; "
        f"{dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}. "
        f"Every measure, its definition, the machines and the versions: [{folder}]({folder}/README.md).\n\n"
        f"{picture}\n"
    )


def _scene_section(scene: str, group: dict[str, list[Result]]) -> str:
    training = [
        [
            title(algorithm),
            seeds_of(seeds),
            steps_of(seeds),
            over_seeds((best_success(comparable(seed)) for seed in seeds), percent),
            over_seeds((best_success_100ep(comparable(seed)) for seed in seeds), percent),
            published(scene, algorithm),
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
                described = [name, str(len(evaluated)), episodes_of(evaluated)]
                evaluation.append([*described, *(_measure(seeds, maps, measure) for measure in measures)])
    parts = [
        f"## {scene}\n",
        f"![Learning curves]({scene}.png)\n",
        "**Training**\n",
        table(
            [
                "algorithm",
                "seeds",
                "env steps",
                f"best {WINDOW:,} env steps, %",
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
            table([*columns, "efficiency", "failures", "arrivals"], evaluation),
        ]
    if scene in PUBLISHED:
        numbers = ", ".join(f"{name} {value}" for name, value in PUBLISHED[scene].items())
        parts.append(f"The authors' numbers for this scene, for reference, {PUBLISHED_LABEL}: {numbers}.\n")
    return "\n".join([*parts, _origin([seed for seeds in group.values() for seed in seeds])])


def _origin(results: list[Result]) -> str:
    """Versions, hardware, dates, commits and commands, each said once, and the notes."""
    lines = [
        _together("Versions", (", ".join(f"{k} {v}" for k, v in r.provenance["versions"].items()) for r in results)),
        _together("Hardware", (result.provenance["hardware"] for result in results)),
        _together("Date", (result.provenance["date"] for result in results)),
        _together("Learned on, in", (str(result.config.get("learns", "cpu, float32")) for result in results)),
        _together("Preset", (str(result.config.get("preset", "unknown")) for result in results)),
        _together("Commit", (result.provenance["commit"] or "unknown" for result in results)),
    ]
    lines += notes_of(results)
    return "\n".join(f"* {line}" for line in lines) + f"\n\n```bash\n{commands_of(results)}\n```\n"


def _definitions() -> str:
    return f"""## What the numbers mean

Mean (standard deviation, n - 1) over the seeds; a single seed has no deviation.
An env step moves all vehicles of one environment by 0.1 s.

* **Best {WINDOW:,} env steps**: maximum over training of arrivals / vehicles that ended, each summed over {WINDOW:,}
  consecutive env steps. The curves show the same quantity at every iteration; with several seeds, the interquartile
  mean (below four seeds: the mean) with a 95 % bootstrap interval over the seeds (two seeds: their range).
* **Best 100 episodes**: maximum over training of the mean success rate of the last 100 episodes; "-" where fewer have
  ended. This is the definition behind the authors' table; a maximum over training flatters.
  Of a curriculum both count the last quarter alone.
* **Evaluation**: the last checkpoint, stochastic actions, coordination factors drawn from the learned distribution,
  1,000 env steps with respawning, then until nobody is alive; episode k has seed 1,000,000 + k. A life has one outcome.
* **Success, crash, out of road, max step**: share of the vehicles that ended so, over all episodes.
* **Efficiency**: (successes - crashes - outs) / 1000 (the horizon) per episode. **Failures**: crashes + outs per
  episode; safety in the authors' plots is minus this. **Arrivals**: vehicles that arrived by env step 1000, per
  episode.
* **Wall-clock**: time in iterations, on the machine named, whatever else it was doing. **Env steps/s**: env steps /
  wall-clock, learning included.
"""


def _measure(seeds: list[Result], maps: str, name: str) -> str:
    evaluated = [seed.evaluations[maps][name] for seed in seeds if maps in seed.evaluations]
    return over_seeds(evaluated, lambda value: show(name, value))


def _speed(metrics: pd.DataFrame) -> float:
    return float(metrics["env_steps"].iloc[-1] / metrics["wall_s"].iloc[-1])


def _processor(result: Result) -> str:
    """The processor alone, without its cores, the memory and what else the machine did."""
    return str(result.provenance["hardware"]).partition(",")[0]


def _together(name: str, values: Iterable[str]) -> str:
    return f"{name}: {'; '.join(dict.fromkeys(values))}"

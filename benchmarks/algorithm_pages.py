"""The results of every algorithm in its page, docs/algorithms: `python -m benchmarks report` puts them there.

A page holds a block `results:<algorithm>` for each of its algorithms, whether there are results or not.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.markdown import block_names, read_page, replace_block, table
from benchmarks.published import PUBLISHED_COLUMN, PUBLISHED_LABEL, published
from benchmarks.results_folder import (
    WINDOW,
    Result,
    best_success,
    best_success_100ep,
    by_scene,
    commands_of,
    comparable,
    episodes_of,
    notes_of,
    over_seeds,
    percent,
    seeds_of,
    steps_of,
    success_interval,
)
from benchmarks.suite import EVALUATIONS
from copo_algos.algorithms import get_algorithm
from copo_algos.errors import UserError

FOLDER = Path("docs/algorithms")
PREFIX = "results:"
COLUMNS = [
    "scene",
    "seeds",
    "env steps",
    f"best {WINDOW:,} env steps, %",
    "best 100 episodes, %",
    "evaluation success, % [95 % interval]",
    PUBLISHED_COLUMN,
]


def filled(folder: Path, results: list[Result], output: Path) -> dict[Path, str]:
    """Page -> its text with the results of its algorithms.

    Args:
        folder: of the pages.
        results: all there are.
        output: where the report is.

    Raises:
        UserError: a page that cannot be read, a block of no algorithm, or results of an algorithm that has no block.
    """
    pages, places = {}, set()
    for path in sorted(folder.glob("*.md")):
        text = read_page(path)
        report = Path(os.path.relpath(output / "README.md", folder)).as_posix()
        for block in block_names(text):
            if block.startswith(PREFIX):
                algorithm = get_algorithm(block.removeprefix(PREFIX)).name
                text = replace_block(text, block, results_block(algorithm, results, report), path)
                pages[path] = text
                places.add(algorithm)
    for algorithm in {result.cell.algorithm: None for result in results}:
        if algorithm not in places:
            raise UserError(
                f"no page in {folder} has a place for the results of {algorithm}: put "
                f"<!-- {PREFIX}{algorithm}:begin --> and <!-- {PREFIX}{algorithm}:end --> into one"
            )
    return pages


def results_block(algorithm: str, results: list[Result], report: str) -> str:
    """Markdown: a row per scene, the commands behind it, and notes. `report` is the way from the page to the report."""
    groups = {scene: group[algorithm] for scene, group in by_scene(results).items() if algorithm in group}
    if not groups:
        command = f"python -m benchmarks run --algorithms {algorithm}"
        return f"There are no results of `{algorithm}` yet; `{command}` makes some."
    rows = [
        [
            f"`{scene}`",
            seeds_of(seeds),
            steps_of(seeds),
            over_seeds((best_success(comparable(seed)) for seed in seeds), percent),
            over_seeds((best_success_100ep(comparable(seed)) for seed in seeds), percent),
            _evaluation(seeds),
            published(scene, algorithm),
        ]
        for scene, seeds in groups.items()
    ]
    together = [seed for seeds in groups.values() for seed in seeds]
    episodes = episodes_of(together)
    evaluation = f"Evaluation: `copo evaluate`, the last checkpoint over {episodes} episodes, from which the interval. "
    notes = "".join(f"\n{note}\n" for note in notes_of(together))
    return (
        f"{table(COLUMNS, rows)}\n"
        f"Mean (standard deviation) over the seeds. {evaluation if episodes else ''}"
        f"Last column, for reference: {PUBLISHED_LABEL}. "
        f"[Other measures, definitions, versions and hardware]({report}). Trained by\n\n"
        f"```bash\n{commands_of(together)}\n```\n{notes}"
    )


def _evaluation(seeds: list[Result]) -> str:
    """Success of the evaluation on the maps of training, and on held-out maps where that was done."""
    parts = []
    for maps in EVALUATIONS:
        rates = [seed.evaluations[maps]["success_rate"] for seed in seeds if maps in seed.evaluations]
        if rates:
            interval = success_interval(seeds, maps)
            shown = f" [{percent(interval[0])} to {percent(interval[1])}]" if interval else ""
            parts.append(f"{'held-out maps ' if maps == 'heldout' else ''}{over_seeds(rates, percent)}{shown}")
    return "; ".join(parts) or "-"

"""Which rewards should neighbours share? `python -m benchmarks.neighbour_rule` puts the answer into docs/algorithms.md.

Reads the metrics.csv of CoPO trainings on the intersection that differ in `--neighbour-rule`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "algorithms.md"
RUNS = {
    "`ours`, seed 0": RESULTS / "intersection" / "copo" / "seed0" / "metrics.csv",
    "`tf`, seed 0": RESULTS / "neighbour_rule" / "tf_seed0.csv",
    "`tf`, seed 100": RESULTS / "neighbour_rule" / "tf_seed100.csv",
}
MARKS = (40_000, 80_000, 100_000, 120_000, 137_600, 160_000, 180_000, 200_000)
WINDOW = 10  # iterations


def success_at(metrics: pd.DataFrame, env_steps: int) -> float | None:
    """Share of the lives that arrived, of those that ended in the last WINDOW iterations; None where the run ended."""
    if metrics["env_steps"].iloc[-1] < env_steps:
        return None
    window = metrics[metrics["env_steps"] <= env_steps].tail(WINDOW)
    return float(window["successes"].sum() / max(1, window["ended"].sum()))


def table() -> str:
    """Markdown: a row per run."""
    lines = [
        f"| success, %, last {WINDOW} iterations, after | {' | '.join(f'{mark:,}' for mark in MARKS)} |",
        f"| --- | {' | '.join('---:' for _ in MARKS)} |",
    ]
    for name, path in RUNS.items():
        metrics = pd.read_csv(path)
        values = (success_at(metrics, mark) for mark in MARKS)
        cells = ("" if value is None else f"{100 * value:.0f}" for value in values)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill(page: str) -> str:
    """The page with the table in its place."""
    begin, end = "<!-- neighbour-rule:begin -->", "<!-- neighbour-rule:end -->"
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{table()}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""How far a driver comes that nobody trained: the rule-based one and random actions, in every scene.

    python -m benchmarks.baselines

By the evaluation protocol (default vehicles, horizon 1000, then until nobody is alive). Writes
benchmarks/results/baselines and puts its table into docs/environments.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.markdown import replace_block
from benchmarks.origin import write_measurement
from copo_algos.baselines import BASELINES
from copo_algos.evaluate import SUMMARY, EvaluateConfig, evaluate
from copo_envs.scenes import SCENES

FOLDER = Path(__file__).parent / "results" / "baselines"
PAGE = Path(__file__).parent.parent / "docs" / "environments.md"


def measure(scene: str, driver: str, episodes: int, workers: int) -> dict[str, Any]:
    """One row: rates in [0, 1], with the 95 % bootstrap interval over episodes of the success rate."""
    with tempfile.TemporaryDirectory() as folder:
        config = EvaluateConfig(
            scene=scene, algorithm=driver, episodes=episodes, workers=workers, output=Path(folder) / "out"
        )
        evaluate(config)
        summary = json.loads((Path(folder) / "out" / SUMMARY).read_text())
    measures = summary["measures"]
    low, high = summary["interval_95"]["success_rate"]
    names = ("success_rate", "crash_rate", "out_rate", "max_step_rate", "throughput")
    return {
        "scene": scene,
        "driver": driver,
        "episodes": episodes,
        "first_seed": summary["first_seed"],
        "lives": summary["lives"],
        "success_low": round(low, 4),
        "success_high": round(high, 4),
        **{name: round(measures[name], 4) for name in names},
    }


def table(rows: pd.DataFrame) -> str:
    """Markdown: a row per scene and driver."""
    lines = [
        "| scene | driver | lives | success, % (95 % interval) | crash, % | out of road, % | out of time, % "
        "| arrivals by 1000 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.to_dict("records"):
        shares = (100 * row[name] for name in ("crash_rate", "out_rate", "max_step_rate"))
        low, high = 100 * row["success_low"], 100 * row["success_high"]
        lines.append(
            f"| `{row['scene']}` | {row['driver'].replace('_', '-')} | {row['lives']} "
            f"| {100 * row['success_rate']:.1f} ({low:.1f} to {high:.1f}) "
            f"| {' | '.join(f'{share:.1f}' for share in shares)} | {row['throughput']:.1f} |"
        )
    return "\n".join(lines)


def fill(page: str) -> str:
    """The page with the table of the committed measurement in its place."""
    return replace_block(page, "baselines", table(pd.read_csv(FOLDER / "baselines.csv")), PAGE)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="simulator processes")
    args = parser.parse_args()
    rows = []
    for scene in args.scenes:
        for driver in BASELINES:
            rows.append(measure(scene, driver, args.episodes, args.workers))
            write_measurement(FOLDER, "baselines", rows)
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

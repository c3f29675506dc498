"""`python -m benchmarks.performance_page` puts the measurements of the batched step into docs/performance.md."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from benchmarks.markdown import replace_block

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def speed_table(folder: Path = RESULTS / "step_speed") -> str:
    """Markdown of step_speed.csv, with where and when it was measured."""
    rows = _rows(folder / "step_speed.csv")
    origin = json.loads((folder / "step_speed.json").read_text())
    lines = [
        "| scene | vehicles | MetaDrive, µs | batched, µs | ratio (quartiles) | physics and actions alone | shares |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        shares = [f"{stage} {share:.0%}" for stage, share in json.loads(row["shares"]).items() if share >= 0.05]
        lines.append(
            f"| {row['scene']} | {row['num_agents']} | {float(row['stock_us']):.0f} | {float(row['fast_us']):.0f} | "
            f"**{float(row['ratio']):.1f}** ({row['ratio_quartile_1']} to {row['ratio_quartile_3']}) | "
            f"{row['ratio_of_physics_and_actions_alone']} | {', '.join(shares)} |"
        )
    lines.append("")
    lines.append(
        "Time per step of one vehicle, medians over blocks; the ratio is that of the medians, its quartiles are over "
        f"{origin['blocks']} pairs of blocks of {origin['steps_per_block']} env steps. "
        '"Physics and actions alone": the ratio if nothing else took any time, what is left to win. Shares of the '
        "batched step from 5 % on. Twice the default number of vehicles where the scene has places for them. In "
        "parking_lot MetaDrive's own class stalls (every respawned vehicle lands on another), so the populations "
        f"differ there. Seed {origin['seed']}; {_origin(folder / 'step_speed.json')}."
    )
    return "\n".join(lines)


def equality_table(folder: Path = RESULTS / "step_equality") -> str:
    """Markdown of step_equality.csv, the seeds of a scene and geometry together."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in _rows(folder / "step_equality.csv"):
        groups.setdefault((row["scene"], row["geometry"]), []).append(row)
    lines = [
        "| scene | roads | seeds | steps | endings (arrivals) | observation cells | apart by more than 1e-5 | "
        "largest difference: observations, others | lives or endings parted |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for (scene, geometry), rows in groups.items():
        total = {name: sum(int(row[name]) for row in rows) for name in ("steps", "endings", "arrivals", "cells")}
        apart = sum(int(row["cells_apart"]) for row in rows)
        parted = [f"seed {row['seed']} at step {row['parted_at']}" for row in rows if int(row["parted_at"]) >= 0]
        largest = [max(float(row[name]) for row in rows) for name in ("largest_obs", "largest_number")]
        lines.append(
            f"| {scene} | {geometry} | {len(rows)} | {total['steps']:,} | {total['endings']} ({total['arrivals']}) | "
            f"{total['cells']:,} | {apart} | {largest[0]:.2g}, {largest[1]:.2g} | {', '.join(parted) or 'never'} |"
        )
    lines.append("")
    lines.append(f"{_origin(folder / 'step_equality.json')}.")
    return "\n".join(lines)


def fill(page: str) -> str:
    """The page with both tables in their places."""
    for name, table in (("speed", speed_table()), ("equality", equality_table())):
        page = replace_block(page, name, table, PAGE)
    return page


def _origin(path: Path) -> str:
    about = json.loads(path.read_text())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if name != "copo")
    return f"{about['hardware']}; {versions}; {about['date']}"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

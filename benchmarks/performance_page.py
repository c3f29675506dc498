"""`python -m benchmarks.performance_page` puts the measurements of speed and cost into docs/performance.md."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from benchmarks.markdown import replace_block
from benchmarks.precision import INPUTS
from copo_algos.algorithms import get_algorithm
from copo_algos.config import PPOConfig
from copo_algos.networks import HIDDEN

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


def cost_table(folder: Path = RESULTS / "train_cost") -> str:
    """Markdown of train_cost.csv, a row per algorithm and step."""
    runs: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in _rows(folder / "train_cost.csv"):
        runs.setdefault((row["algorithm"], row["step"]), {})[row["phase"]] = row
    lines = [
        "| algorithm | step | simulate | act | learn | meta-step | all, CPU s | all, wall s | env steps per s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (algorithm, step), phases in runs.items():
        cpu = [f"{float(phases[name]['cpu_s_per_1000_env_steps']):.1f}" for name in ("simulate", "infer", "learn")]
        meta, all_cpu = (float(phases[name]["cpu_s_per_1000_env_steps"]) for name in ("meta", "all"))
        wall = float(phases["all"]["wall_s_per_1000_env_steps"])
        lines.append(
            f"| `{algorithm}` | {'batched' if step == 'fast' else 'MetaDrive'} | {' | '.join(cpu)} | {meta:.2f} | "
            f"**{all_cpu:.1f}** | {wall:.1f} | {1000 / wall:.0f} |"
        )
    vehicles = [float(phases["all"]["vehicles_mean"]) for phases in runs.values()]
    load = json.loads((folder / "train_cost.json").read_text())["load_average"][0]
    lines.append("")
    lines.append(
        f"Per 1,000 env steps of {next(iter(runs.values()))['all']['scene']} with {min(vehicles):.0f} to "
        f"{max(vehicles):.0f} vehicles on the road, by a policy at its beginning (with 25 % of the vehicles: "
        f"`curriculum`); CPU seconds are those of all processes and threads. Load average at the end {load:.1f}. "
        f"{_origin(folder / 'train_cost.json')}."
    )
    return "\n".join(lines)


def precision_table(folder: Path = RESULTS / "precision") -> str:
    """Markdown of precision.csv."""
    lines = [
        "| product | shape | float32, µs | bfloat16, µs | float32 is faster by |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in _rows(folder / "precision.csv"):
        single, half = float(row["float32_us"]), float(row["bfloat16_us"])
        lines.append(f"| {row['product']} | {row['shape']} | {single:.0f} | {half:.0f} | **{half / single:.2f}** |")
    instructions = ", ".join(json.loads((folder / "precision.json").read_text())["instructions"]) or "none"
    lines.append("")
    lines.append(f"The processor's bfloat16 instructions: {instructions}. {_origin(folder / 'precision.json')}.")
    return "\n".join(lines)


def products_share(cost: Path = RESULTS / "train_cost", precision: Path = RESULTS / "precision") -> str:
    """A sentence: how much of CoPO's learning its matrix products take, were they all that there is."""
    phases = {
        row["phase"]: row
        for row in _rows(cost / "train_cost.csv")
        if (row["algorithm"], row["step"]) == ("copo", "fast")
    }
    samples = float(phases["learn"]["vehicles_mean"]) * 1000
    minibatches = samples * PPOConfig.update_epochs / PPOConfig.minibatch_size
    single = {(row["product"], row["shape"]): float(row["float32_us"]) for row in _rows(precision / "precision.csv")}
    first = f"{PPOConfig.minibatch_size} x {INPUTS} x {HIDDEN}"
    # The gradient by the observation is not needed, and the output layers are small.
    step = sum(time for key, time in single.items() if key != ("d W^T", first))
    networks = 1 + get_algorithm("copo").value_heads
    floor = minibatches * networks * step / 1e6
    learn = float(phases["learn"]["cpu_s_per_1000_env_steps"])
    return (
        f"The matrix products of CoPO's {networks} networks alone, {minibatches:.0f} minibatches of "
        f"{PPOConfig.minibatch_size} per 1,000 env steps at the speed below, take {floor:.2f} of the {learn:.2f} CPU "
        "seconds of its learning: below that lead only fewer passes over the samples or smaller networks. The rest is "
        "what lies between the products: activations, losses, Adam, gathering samples, values and advantages."
    )


def fill(page: str) -> str:
    """The page with the tables in their places."""
    tables = {
        "speed": speed_table,
        "equality": equality_table,
        "cost": lambda: f"{cost_table()}\n\n{products_share()}",
        "precision": precision_table,
    }
    for name, table in tables.items():
        page = replace_block(page, name, table(), PAGE)
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

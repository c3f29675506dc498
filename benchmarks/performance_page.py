"""`python -m benchmarks.performance_page` puts the measurements of speed and cost into docs/performance.md."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import replace_block
from benchmarks.precision import INPUTS, PRODUCTS
from copo_algos.algorithms import get_algorithm
from copo_algos.config import PPOConfig
from copo_algos.logs import RECENT_LIVES
from copo_algos.networks import HIDDEN

RESULTS = Path(__file__).parent / "results"
SHARED_RUNS = (
    RESULTS / "settings" / "every800_seed0_xeon.csv",
    RESULTS / "intersection" / "copo" / "seed0" / "metrics.csv",
)
"""CoPO's trainings with the preset default and seed 0, but for that on the processor of the table, which repeats it."""
COST = RESULTS / "train_cost"
COST_ALL, COST_PAIR, COST_OLDER = COST / "epyc", COST / "epyc_critics_in_bfloat16", COST / "xeon_amx"
"""The newest of every algorithm in float32; that of CoPO in both precisions; one from before learning was changed."""
COST_ELSEWHERE = COST / "xeon"
"""IPPO and CoPO on another processor."""
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def speed_table(folder: Path = RESULTS / "step_speed") -> str:
    """Markdown of the step_speed.csv of every processor measured, with where and when."""
    lines = [
        "| processor | scene | vehicles | MetaDrive, µs | batched, µs | ratio (quartiles) | "
        "physics and actions alone | shares |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    origins, about = [], {}
    for path in sorted(folder.glob("*/step_speed.csv")):
        about = json.loads(path.with_suffix(".json").read_text())
        processor = about["hardware"].partition(",")[0].partition("(")[0]
        origins.append(f"{_origin(path.with_suffix('.json'))}, at {about['commit'][:7]}.")
        for row in _rows(path):
            shares = [f"{stage} {share:.0%}" for stage, share in json.loads(row["shares"]).items() if share >= 0.05]
            lines.append(
                f"| {processor} | {row['scene']} | {row['num_agents']} | {float(row['stock_us']):.0f} | "
                f"{float(row['fast_us']):.0f} | **{float(row['ratio']):.1f}** ({row['ratio_quartile_1']} to "
                f"{row['ratio_quartile_3']}) | {row['ratio_of_physics_and_actions_alone']} | {', '.join(shares)} |"
            )
    lines.append("")
    lines.append(
        "Time per step of one vehicle, medians over blocks; the ratio is that of the medians, its quartiles are over "
        f"{about['blocks']} pairs of blocks of {about['steps_per_block']} env steps. "
        '"Physics and actions alone": the ratio if nothing else took any time, what is left to win. Shares of the '
        "batched step from 5 % on. Twice the default number of vehicles where the scene has places for them. In "
        "parking_lot MetaDrive's own class stalls (every respawned vehicle lands on another), so the populations "
        f"differ there. Seed {about['seed']}. {' '.join(origins)}"
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


def cost_table(everything: Path = COST_ALL, pair: Path = COST_PAIR, older: Path = COST_OLDER) -> str:
    """Markdown of the newest train_cost.csv, a row per algorithm, preset, step and precision.

    Args:
        everything: folder with all algorithms, shown but for its rows in bfloat16.
        pair: folder with one algorithm in both precisions, shown below them.
        older: folder that is named only, as are the rows that are left out.
    """
    everywhere, paired = _cost_runs(everything), _cost_runs(pair)
    runs = [(run, phases) for run, phases in everywhere.items() if run[-1] == "float32"] + list(paired.items())
    lines = _cost_lines(runs)
    shown = [folder / "train_cost.json" for folder in (everything, pair)]
    loads = [json.loads(path.read_text())["load_average"][0] for path in shown]
    notes = [
        f"`{folder.name}`: {note[0].lower()}{note[1:]}"
        for folder in (everything, older)
        if (note := json.loads((folder / "train_cost.json").read_text()).get("note"))
    ]
    lines.append("")
    lines.append(
        f"Per 1,000 env steps of {runs[0][1]['all']['scene']} with so many vehicles on the road on average, by a "
        "policy at its beginning; CPU seconds are those of all processes and threads. The last "
        f"{len(paired)} rows are a measurement of their own, to be compared with each other. Load averages at the end "
        f"{' and '.join(f'{load:.1f}' for load in loads)}. {'; '.join(dict.fromkeys(map(_origin, shown)))}. "
        f"Older ones are in [{_link(COST)}](../{_link(COST)}) alone. {'; '.join(notes)}."
    )
    return "\n".join(lines)


def cost_elsewhere(folder: Path = COST_ELSEWHERE) -> str:
    """Markdown of one more train_cost.csv, with where and when."""
    about = json.loads((folder / "train_cost.json").read_text())
    lines = _cost_lines(list(_cost_runs(folder).items()))
    return "\n".join(
        [*lines, "", f"Load average at the end {about['load_average'][0]:.1f}. {_origin(folder / 'train_cost.json')}."]
    )


def _cost_lines(runs: Sequence[tuple[tuple[str, ...], dict[str, dict[str, str]]]]) -> list[str]:
    """A table of runs and their phases, see `_cost_runs`."""
    lines = [
        "| algorithm | preset | step | learns in | vehicles | simulate | act | learn | meta-step | all, CPU s | "
        "all, wall s | env steps per s |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (algorithm, preset, step, precision), phases in runs:
        cpu = [f"{float(phases[name]['cpu_s_per_1000_env_steps']):.1f}" for name in ("simulate", "infer", "learn")]
        meta, all_cpu = (float(phases[name]["cpu_s_per_1000_env_steps"]) for name in ("meta", "all"))
        wall = float(phases["all"]["wall_s_per_1000_env_steps"])
        lines.append(
            f"| `{algorithm}` | `{preset}` | {'batched' if step == 'fast' else 'MetaDrive'} | {precision} | "
            f"{float(phases['all']['vehicles_mean']):.0f} | {' | '.join(cpu)} | {meta:.2f} | **{all_cpu:.1f}** | "
            f"{wall:.1f} | {1000 / wall:.0f} |"
        )
    return lines


def _cost_runs(folder: Path) -> dict[tuple[str, ...], dict[str, dict[str, str]]]:
    """Algorithm, preset, step and precision -> phase -> its row of train_cost.csv."""
    runs: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in _rows(folder / "train_cost.csv"):
        run = row["algorithm"], row["preset"], row["step"], row["precision"]
        runs.setdefault(run, {})[row["phase"]] = row
    return runs


def _link(path: Path) -> str:
    """From the root of the repository."""
    return path.relative_to(RESULTS.parent.parent).as_posix()


def score_table(folder: Path = RESULTS / "time_to_score") -> str:
    """Markdown of every time_to_score.csv, a row per preset and seed."""
    lines = [
        "| preset | seed | env steps | wall-clock, min | CPU, min |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    origins = []
    for path in sorted(folder.glob("**/time_to_score.csv")):
        rows = _rows(path)
        for row in rows:
            steps = f"{int(row['env_steps']):,}"
            if row["reached"] != "True":
                steps = f"not within {steps} (best {100 * float(row['best_success_rate']):.0f} %)"
            lines.append(f"| `{row['preset']}` | {row['seed']} | {steps} | {row['wall_min']} | {row['cpu_min']} |")
        load = json.loads(path.with_suffix(".json").read_text())["load_average"][0]
        names = ", ".join(f"`{row['preset']}` seed {row['seed']}" for row in rows)
        origins.append(f"{names}: load average at the end {load:.1f}; {_origin(path.with_suffix('.json'))}.")
    return "\n".join([*lines, "", shared_runs(), "", *origins])


def shared_runs(runs: Sequence[Path] = SHARED_RUNS, score: float = 0.7) -> str:
    """A sentence: when trainings of the default held the score whose wall-clock says nothing."""
    steps = []
    for path in runs:
        held = [row for row in _rows(path) if int(row["lives"]) >= RECENT_LIVES and float(row["success_rate"]) >= score]
        steps.append(f"{int(held[0]['env_steps']):,}" if held else "never")
    return (
        f"CoPO's trainings of the preset `default` with seed 0 that were made beside others, whose wall-clock says "
        f"nothing, first held {score:.0%} after {', '.join(steps[:-1])} and {steps[-1]} env steps. "
        "Until 51,200, where the first one was interrupted and went on with fresh episodes, they are the same."
    )


def precision_table(folder: Path = RESULTS / "precision") -> str:
    """Markdown of the precision.csv of every processor measured."""
    lines = [
        "| instructions | what | shape | float32, µs | bfloat16, µs | faster by |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    origins = []
    for path in sorted(folder.glob("*/precision.csv")):
        about = json.loads(path.with_suffix(".json").read_text())
        name = f"{about['hardware'].partition('(')[0].split()[0]}: {', '.join(about['instructions']) or 'none'}"
        origins.append(f"{name}: {_origin(path.with_suffix('.json'))}.")
        for row in _rows(path):
            single, half = float(row["float32_us"]), float(row["bfloat16_us"])
            lines.append(
                f"| {name} | {row['product']} | {row['shape']} | {single:.0f} | {half:.0f} | **{single / half:.2f}** |"
            )
    return "\n".join([*lines, "", *origins])


def updates_sentence(folder: Path = RESULTS / "precision" / "amd_avx512_bf16") -> str:
    """How far updates in bfloat16 lie from those in float32."""
    rows = _rows(folder / "updates.csv")
    words = []
    for other in ("bfloat16", "order"):
        found = [row for row in rows if row["other"] == other]
        cosines = [float(row["critics_cosine"]) for row in found]
        words.append(f"{min(cosines):.6f} to {max(cosines):.6f}")
    return (
        f"{len(rows) // 2} updates of a training of CoPO on the intersection (float32, preset `fast`) were made again "
        "from the same samples. The cosine between what the critics change by then and in float32: "
        f"{words[0]} in bfloat16; {words[1]} in float32 with the minibatches in another order."
    )


def products_share(
    cost: Path = COST_PAIR,
    precision: Path = RESULTS / "precision" / "amd_avx512_bf16",
) -> str:
    """A sentence: how much of CoPO's learning its matrix products take, were they all that there is."""
    learn = {
        row["precision"]: row
        for row in _rows(cost / "train_cost.csv")
        if (row["algorithm"], row["preset"], row["step"], row["phase"]) == ("copo", "default", "fast", "learn")
    }
    vehicles = {name: float(row["vehicles_mean"]) for name, row in learn.items()}
    first = f"{PPOConfig.minibatch_size} x {INPUTS} x {HIDDEN}"
    critics = get_algorithm("copo").value_heads
    # The gradient by the observation is not needed, and the output layers are small.
    products = [
        row
        for row in _rows(precision / "precision.csv")
        if row["product"] in PRODUCTS and (row["product"], row["shape"]) != ("d W^T", first)
    ]
    step = {name: sum(float(row[f"{name}_us"]) for row in products) for name in ("float32", "bfloat16")}
    words = []
    for name in step:
        minibatches = vehicles[name] * 1000 * PPOConfig.update_epochs / PPOConfig.minibatch_size
        seconds = minibatches * (step["float32"] + critics * step[name]) / 1e6
        cost_s = float(learn[name]["cpu_s_per_1000_env_steps"])
        words.append(
            f"{seconds:.2f} of {cost_s:.2f} CPU seconds with the critics in {name} ({cost_s / vehicles[name]:.3f} per "
            "1,000 vehicle samples)"
        )
    return (
        f"Of CoPO's learning on the EPYC the matrix products of its {1 + critics} networks, at the speed below, take "
        f"{' and '.join(words)}. The rest is what lies between the products: activations, losses, Adam, gathering "
        "samples, values and advantages."
    )


def fill(page: str) -> str:
    """The page with the tables in their places."""
    tables = {
        "speed": speed_table,
        "equality": equality_table,
        "cost": lambda: f"{cost_table()}\n\n{products_share()}",
        "cost-elsewhere": cost_elsewhere,
        "score": score_table,
        "precision": lambda: f"{precision_table()}\n\n{updates_sentence()}",
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

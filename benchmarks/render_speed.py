"""How many pictures from above a second? `python -m benchmarks.render_speed` draws recorded traffic again and again.

Intersection with its 30 vehicles, the whole map and following one of them. The simulation is not in the time, nor is
the making of a renderer, which has a column of its own. The figure is the median over the frames.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lane_follower import LaneFollower
from benchmarks.origin import write_measurement
from copo_envs.make import make_simulator
from copo_envs.render import TopDownRenderer
from copo_envs.scenes import scene_options
from copo_envs.step_batch import ACTION_SIZE, StepBatch

VIEWS: dict[str, dict[str, Any]] = {
    "whole map": {},
    "whole map, neighbourhoods of 40 m": {"neighbourhood": 40.0},
    "following, 60 m": {"follow": "auto"},
    "following, neighbourhood of 40 m": {"follow": "auto", "neighbourhood": 40.0},
}
SIZES = (480, 640)


def record(steps: int, warmup: int, seed: int) -> tuple[dict[str, Any], list[tuple[StepBatch, np.ndarray]]]:
    """The scenery, and (batch, wrecks) of so many steps."""
    simulator: Any = make_simulator(scene_options("intersection"), in_process=True)
    try:
        simulator.reset(seed)
        driver = LaneFollower(seed, bias=0.1)
        shots = []
        for _ in range(warmup + steps):
            actions = np.zeros((simulator.num_slots, ACTION_SIZE), np.float32)
            for agent, action in driver(simulator.metadrive).items():
                actions[simulator.slot_of(agent)] = action
            batch = simulator.step(actions)
            shots.append((deepcopy(batch), simulator.wrecks().copy()))
        return simulator.scenery(), shots[warmup:]
    finally:
        simulator.close()


def measure(
    scenery: dict[str, Any], shots: list[tuple[StepBatch, np.ndarray]], view: str, size: int, rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    spent = []
    began = time.perf_counter()
    renderer = TopDownRenderer(scenery, size, **VIEWS[view])
    renderer.frame(*shots[0])
    first = time.perf_counter() - began
    for _ in range(rounds):
        for batch, wrecks in shots:
            began = time.perf_counter()
            renderer.frame(batch, wrecks, caption="intersection")
            spent.append(time.perf_counter() - began)
    height, width = renderer.shape
    quartiles = np.percentile(np.array(spent) * 1000, [25, 50, 75])
    return {
        "view": view,
        "size": size,
        "width": width,
        "height": height,
        "vehicles": round(float(np.mean([batch.active.sum() for batch, _ in shots])), 1),
        "wrecks": round(float(np.mean([len(wrecks) for _, wrecks in shots])), 1),
        "frames": len(spent),
        "first_frame_ms": round(1000 * first, 1),
        "ms_per_frame": round(float(quartiles[1]), 2),
        "ms_quartile_1": round(float(quartiles[0]), 2),
        "ms_quartile_3": round(float(quartiles[2]), 2),
        "frames_per_second": round(1000 / float(quartiles[1]), 1),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.render_speed", description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="recorded env steps")
    parser.add_argument("--warmup", type=int, default=100, help="env steps before them, until wrecks stand about")
    parser.add_argument("--rounds", type=int, default=5, help="how often they are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/render_speed"))
    args = parser.parse_args()
    scenery, shots = record(args.steps, args.warmup, args.seed)
    rows = []
    for view in VIEWS:
        for size in SIZES:
            rows.append(measure(scenery, shots, view, size, args.rounds))
            print(rows[-1], flush=True)
    settings = {"steps": args.steps, "rounds": args.rounds, "seed": args.seed, "pillow": version("pillow")}
    write_measurement(args.output, "render_speed", rows, **settings)


if __name__ == "__main__":
    main()

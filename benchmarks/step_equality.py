"""Is the batched step MetaDrive's step? `python -m benchmarks.step_equality` drives both side by side and compares.

MetaDrive's own step runs in a worker process, the batched one here, with the same seed and the same actions of a
scripted driver. After every step all that a step says is compared, every cell of it.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lane_follower import LaneFollower
from benchmarks.origin import write_measurement
from copo_envs.process import ProcessSimulator
from copo_envs.scenes import SCENES, scene_options
from copo_envs.simulator import MetaDriveSimulator
from copo_envs.step_batch import StepBatch

EXACT = ("active", "life", "spawned", "acted", "acted_life", "terminated", "truncated", "outcome", "life_steps",
         "episode_step", "episode_over")  # fmt: skip
NUMBERS = (
    "reward", "velocity", "route_completion", "cost", "energy", "position", "heading", "acted_position",
    "acted_heading",
)  # fmt: skip
APART = 1e-5  # in an observation


@dataclass
class Comparison:
    """What a comparison found. The differences are the largest of all steps, vehicles and cells."""

    scene: str
    geometry: str
    num_agents: int
    seed: int
    steps: int = 0
    endings: int = 0
    arrivals: int = 0
    cells: int = 0
    cells_apart: int = 0
    """Observation cells that differ by more than 1e-5."""
    largest_obs: float = 0.0
    largest_number: float = 0.0
    """Of rewards, poses and what the infos hold."""
    parted_at: int = -1
    """First step at which the two tell of different lives, endings or wrecks; -1: never."""


def compare(scene: str, steps: int, seed: int, bias: float = 0.1, **options: Any) -> Comparison:
    """Drive both steps side by side. `options` as in `scene_options`."""
    fast = MetaDriveSimulator(scene_options(scene, **options, step_backend="fast"))
    stock = ProcessSimulator(scene_options(scene, **options, step_backend="stock"))
    found = Comparison(scene, fast.options.geometry, fast.num_slots, seed)
    driver = LaneFollower(seed, noise=0.1, bias=bias)
    try:
        here, there = fast.reset(seed), stock.reset(seed)
        _compare(found, here, there)
        while found.steps < steps and found.parted_at < 0:
            if here.episode_over:
                here, there = fast.begin_episode(seed + found.steps), stock.begin_episode(seed + found.steps)
            if fast.backend != "fast":
                raise RuntimeError(f"{scene}: the batched step is not in use")
            actions = np.zeros((fast.num_slots, 2), np.float32)
            for agent, action in driver(fast.metadrive).items():
                actions[fast.slot_of(agent)] = action
            stock.step_async(actions)
            here = fast.step(actions)
            stock.receive()
            there = stock.batch
            found.steps += 1
            _compare(found, here, there)
            if not np.array_equal(fast.wrecks(), stock.wrecks()):
                found.parted_at = found.steps
    finally:
        fast.close()
        stock.close()
    return found


def _compare(found: Comparison, here: StepBatch, there: StepBatch) -> None:
    for name in EXACT:
        if not np.array_equal(getattr(here, name), getattr(there, name)):
            found.parted_at = found.steps
            return
    found.endings += int((there.outcome > 0).sum())
    found.arrivals += int((there.outcome == 1).sum())
    for name in NUMBERS:
        apart = np.abs(getattr(here, name) - getattr(there, name)).max()
        found.largest_number = max(found.largest_number, float(apart))
    ended = there.terminated | there.truncated
    for name, rows in (("obs", there.active), ("final_obs", ended)):
        apart = np.abs(getattr(here, name).astype(float) - getattr(there, name))[rows]
        found.cells += apart.size
        found.cells_apart += int((apart > APART).sum())
        found.largest_obs = max(found.largest_obs, float(apart.max(initial=0.0)))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_equality", description=__doc__)
    scenes = [name for name, scene in SCENES.items() if scene.metadrive_class]
    parser.add_argument("--scenes", nargs="+", choices=scenes, default=scenes)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each scene, from 0 on")
    parser.add_argument("--endings", type=int, default=200, help="add seeds until so many lives have ended in a scene")
    parser.add_argument("--steps", type=int, default=700, help="env steps per seed")
    parser.add_argument("--bias", type=float, default=1.0, help="how badly the vehicles are driven: lives must end")
    parser.add_argument("--geometry", choices=("published", "metadrive"), default="published")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/step_equality"))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for scene in args.scenes:
        endings = seed = 0
        while seed < args.seeds or endings < args.endings:
            found = compare(scene, args.steps, seed, args.bias, geometry=args.geometry)
            print(found, flush=True)
            rows.append(asdict(found))
            endings += found.endings
            seed += 1
    write_measurement(args.output, "step_equality", rows, bias=args.bias)


if __name__ == "__main__":
    main()

"""How much faster is the batched step? `python -m benchmarks.step_speed` measures it against MetaDrive's own, in turn.

MetaDrive's class runs in one process, stepped raw, with none of this package's code around it but for what lets it
start without a network; this package's PettingZoo environment runs in another, the whole of its `step` included. Both
are driven by the same scripted driver, whose time is not counted, and take turns in blocks, never at once. The figure
is the ratio of the medians, over the blocks, of the time per step of one vehicle.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.origin import write_measurement
from copo_envs.scenes import SCENES, get_scene

SCENE_NAMES = [name for name, scene in SCENES.items() if scene.metadrive_class]


def raw_environment(scene: str, num_agents: int, seed: int) -> Any:
    """MetaDrive's own class with its own settings, started without a network."""
    import metadrive.envs.marl_envs as marl_envs
    from metadrive.engine.base_engine import BaseEngine
    from panda3d.core import loadPrcFileData

    def nothing() -> None:
        return None

    BaseEngine.try_pull_asset = staticmethod(nothing)
    loadPrcFileData("benchmark", "load-display p3tinydisplay")
    kind = getattr(marl_envs, get_scene(scene).metadrive_class)
    environment = kind({"num_agents": num_agents, "log_level": 50, "start_seed": 5000, "num_scenarios": 1})
    environment.reset()
    return environment


class RawRunner:
    """Steps MetaDrive's class."""

    def __init__(self, scene: str, num_agents: int, seed: int):
        from benchmarks.lane_follower import LaneFollower

        self._env = raw_environment(scene, num_agents, seed)
        self._driver = LaneFollower(seed)

    def block(self, steps: int) -> tuple[float, int]:
        """(seconds, vehicle steps)"""
        seconds, vehicles = 0.0, 0
        for _ in range(steps):
            if not self._env.agents:
                self._env.reset()
            actions = self._driver(self._env)
            began = time.perf_counter()
            self._env.step(actions)
            seconds += time.perf_counter() - began
            vehicles += len(actions)
            if self._env.episode_step >= 1000:
                self._env.reset()
        return seconds, vehicles

    def stages(self, steps: int) -> dict[str, float]:
        """None are told apart."""
        return {}


class FastRunner:
    """Steps this package's PettingZoo environment, on the roads that MetaDrive 0.4.3 has itself."""

    def __init__(self, scene: str, num_agents: int, seed: int):
        import copo_envs
        from benchmarks.lane_follower import LaneFollower

        self._env = copo_envs.parallel_env(scene, num_agents=num_agents, geometry="metadrive", in_process=True)
        self._env.reset(seed=seed)
        self._driver = LaneFollower(seed)
        self._seed = seed
        simulator: Any = self._env._simulator
        if simulator.backend != "fast":
            raise RuntimeError(f"{scene}: the batched step is not in use")
        self._simulator = simulator

    def block(self, steps: int) -> tuple[float, int]:
        """(seconds, vehicle steps)"""
        seconds, vehicles = 0.0, 0
        for _ in range(steps):
            if not self._env.agents or self._simulator.metadrive.episode_step >= 1000:
                self._seed += 1
                self._env.reset(seed=self._seed)
            by_metadrive = self._driver(self._simulator.metadrive)
            actions = {f"agent_{name.removeprefix('agent')}": action for name, action in by_metadrive.items()}
            began = time.perf_counter()
            self._env.step(actions)
            seconds += time.perf_counter() - began
            vehicles += len(actions)
        return seconds, vehicles

    def stages(self, steps: int) -> dict[str, float]:
        """Milliseconds per env step spent in each part, measured with timers in between, which cost a little."""
        from copo_envs.fast import BatchedStep

        spent: dict[str, float] = defaultdict(float)
        inner: list[float] = []

        def timed(owner: Any, name: str, stage: str) -> None:
            function = getattr(owner, name)

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                began = time.perf_counter()
                inner.append(0.0)
                try:
                    return function(*args, **kwargs)
                finally:
                    took = time.perf_counter() - began
                    spent[stage] += took - inner.pop()
                    if inner:
                        inner[-1] += took

            setattr(owner, name, wrapper)

        view = type(self._env)
        untimed: list[tuple[Any, str, Any]] = [
            (BatchedStep, name, function) for name, function in vars(BatchedStep).items() if callable(function)
        ]
        untimed.append((view, "step", view.step))
        for name, stage in (
            ("_actuate", "actions"),
            ("_advance", "physics"),
            ("_read", "poses"),
            ("_localise", "lanes"),
            ("_look", "rays"),
            ("_finish", "respawn"),
            ("_respawn", "respawn"),
            ("_observe", "observations"),
            ("_judge", "rewards, endings, contacts"),
            ("step", "the rest"),
        ):
            timed(BatchedStep, name, stage)
        timed(view, "step", "the environment around it")
        try:
            self.block(steps)
        finally:
            for owner, name, function in untimed:
                setattr(owner, name, function)
        return {stage: 1000 * seconds / steps for stage, seconds in spent.items()}


def _serve(pipe: Connection, kind: type[RawRunner | FastRunner], scene: str, num_agents: int, seed: int) -> None:
    runner = kind(scene, num_agents, seed)
    pipe.send(None)
    while (order := pipe.recv()) is not None:
        name, steps = order
        pipe.send(getattr(runner, name)(steps))


def measure(scene: str, num_agents: int, blocks: int, steps: int, seed: int) -> dict[str, Any]:
    """One row of the table."""
    context = get_context("spawn")
    pipes, processes = [], []
    for kind in (RawRunner, FastRunner):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, kind, scene, num_agents, seed), daemon=True)
        process.start()
        ours.recv()
        pipes.append(ours)
        processes.append(process)

    def ask(side: int, name: str, count: int) -> Any:
        pipes[side].send((name, count))
        return pipes[side].recv()

    for side in (0, 1):
        ask(side, "block", 60)  # until the roads are full
    per_vehicle: list[list[float]] = [[], []]
    alive: list[list[float]] = [[], []]
    for _ in range(blocks):
        for side in (0, 1):
            seconds, vehicles = ask(side, "block", steps)
            per_vehicle[side].append(1e6 * seconds / vehicles)
            alive[side].append(vehicles / steps)
    stages = ask(1, "stages", 4 * steps)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    stock, fast = (float(np.median(values)) for values in per_vehicle)
    ratios = np.array(per_vehicle[0]) / np.array(per_vehicle[1])
    total = sum(stages.values())
    floor = (stages["physics"] + stages["actions"]) / total * fast
    return {
        "scene": scene,
        "num_agents": num_agents,
        "stock_alive": round(float(np.mean(alive[0])), 1),
        "fast_alive": round(float(np.mean(alive[1])), 1),
        "stock_us": round(stock, 1),
        "fast_us": round(fast, 1),
        "ratio": round(stock / fast, 2),
        "ratio_quartile_1": round(float(np.percentile(ratios, 25)), 2),
        "ratio_quartile_3": round(float(np.percentile(ratios, 75)), 2),
        "ratio_of_physics_and_actions_alone": round(stock / floor, 1),
        "shares": json.dumps(
            {stage: round(ms / total, 3) for stage, ms in sorted(stages.items(), key=lambda s: -s[1])}
        ),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_speed", description=__doc__)
    parser.add_argument("--scenes", nargs="+", choices=SCENE_NAMES, default=SCENE_NAMES)
    parser.add_argument("--blocks", type=int, default=10, help="blocks on each side")
    parser.add_argument("--steps", type=int, default=25, help="env steps per block")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--default-size-only", action="store_true", help="leave out twice the vehicles")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results/step_speed"),
        help="the committed ones are in a folder per processor in it",
    )
    args = parser.parse_args()
    rows = []
    for scene in args.scenes:
        spec = get_scene(scene)
        sizes = [spec.num_agents]
        if not args.default_size_only and 2 * spec.num_agents <= spec.capacity:
            sizes.append(2 * spec.num_agents)
        for size in sizes:
            rows.append(measure(scene, size, args.blocks, args.steps, args.seed))
            print(rows[-1], flush=True)
    settings = {"blocks": args.blocks, "steps_per_block": args.steps, "seed": args.seed}
    write_measurement(args.output, "step_speed", rows, **settings)


if __name__ == "__main__":
    main()

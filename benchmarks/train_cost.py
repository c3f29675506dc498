"""What training costs: CPU and wall seconds per 1,000 env steps of each algorithm, split by phase.

    python -m benchmarks.train_cost --algorithms ippo copo

CPU seconds are those of the training process, all its threads, and of its simulator processes; starting them is left
out. The machine should have nothing else to do: cores that are shared make CPU seconds longer, too.
`python -m benchmarks.performance_page` shows the table in docs/performance.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

from benchmarks.origin import make_folder, write_measurement
from copo_algos.algorithms import ALGORITHMS
from copo_algos.command import exit_code
from copo_algos.config import PresetName, TrainConfig, check, preset, with_values
from copo_algos.errors import UserError
from copo_algos.machine import Precision, bfloat16_instructions
from copo_algos.train import LEARNING_THREADS, Trainer

PHASES: tuple[str, ...] = ("simulate", "infer", "learn", "meta")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CostConfig:
    """Measure the cost of training, algorithm by algorithm, from an untrained policy."""

    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms to measure."""
    stock: tuple[str, ...] = ("ippo", "copo")
    """Algorithms to measure on MetaDrive's own step as well."""
    fast: tuple[str, ...] = ("ippo", "copo")
    """Algorithms to measure with the preset fast as well."""
    bfloat16: tuple[str, ...] = ("ippo", "copo")
    """Algorithms to measure with the critics in bfloat16 as well, where the processor has instructions for it."""
    scene: str = "intersection"
    """Scene to drive in."""
    num_envs: int | None = None
    """Simulator processes. Default: as many as the preset has."""
    env_steps: int = 2400
    """Env steps that count, in whole iterations, after one iteration that does not."""
    output: Path = Path("benchmarks/results/train_cost")
    """Where train_cost.csv and train_cost.json go; the committed ones are in a folder per processor in it."""


def worker_cpu_seconds() -> float:
    """CPU seconds of the living child processes of this one, by /proc (Linux)."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # what follows the name: state, parent, ...
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            total += int(fields[11]) + int(fields[12])  # user and system ticks
    return total / TICKS_PER_SECOND


class Run(NamedTuple):
    """What is measured."""

    algorithm: str
    step_backend: str = "fast"
    precision: Precision = "float32"
    preset: PresetName = "default"


def measure(config: CostConfig, run: Run) -> Iterator[dict[str, Any]]:
    """One row per phase, and their sum."""
    settings = _settings(config, run)
    trainer = Trainer(settings)
    try:
        trainer.begin()
        trainer.train_iteration()
        before, vehicle_steps = worker_cpu_seconds(), trainer.vehicle_steps
        wall: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        cpu: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        iterations = -(-config.env_steps // settings.steps_per_iteration)
        for _ in range(iterations):
            trainer.train_iteration()
            for phase, seconds in trainer.clock.wall.items():
                wall[phase] += seconds
                cpu[phase] += trainer.clock.cpu[phase]
        cpu["simulate"] += worker_cpu_seconds() - before
        env_steps = settings.steps_per_iteration * iterations
        vehicles = (trainer.vehicle_steps - vehicle_steps) / env_steps
    finally:
        trainer.close()
    wall["all"], cpu["all"] = sum(wall.values()), sum(cpu.values())
    for phase in (*PHASES, "all"):
        yield {
            "scene": config.scene,
            "algorithm": run.algorithm,
            "preset": run.preset,
            "step": run.step_backend,
            "precision": settings.precision,
            "phase": phase,
            "cpu_s_per_1000_env_steps": f"{cpu[phase] * 1000 / env_steps:.3f}",
            "wall_s_per_1000_env_steps": f"{wall[phase] * 1000 / env_steps:.3f}",
            "env_steps": env_steps,
            "vehicles_mean": f"{vehicles:.2f}",
        }


def _settings(config: CostConfig, run: Run) -> TrainConfig:
    values: dict[str, Any] = {"scene": config.scene, "step_backend": run.step_backend, "precision": run.precision}
    if config.num_envs is not None:
        values["num_envs"] = config.num_envs
    return with_values(preset(run.preset, run.algorithm), values)


def main(config: CostConfig) -> None:
    """Measure and write; the table goes to the terminal as well."""
    if config.env_steps < 1:
        raise UserError(f"env_steps={config.env_steps}; use 1 or more")
    torch.set_num_threads(LEARNING_THREADS)
    rows = []
    runs = [Run(algorithm) for algorithm in config.algorithms]
    runs += [Run(algorithm, preset="fast") for algorithm in config.fast]
    runs += [Run(algorithm, step_backend="stock") for algorithm in config.stock]
    if bfloat16_instructions():
        runs += [Run(algorithm, precision="bfloat16") for algorithm in config.bfloat16]
    for run in runs:
        check(_settings(config, run))
    make_folder(config.output)
    for run in runs:
        for row in measure(config, run):
            rows.append(row)
            cpu, wall = row["cpu_s_per_1000_env_steps"], row["wall_s_per_1000_env_steps"]
            name = f"{run.algorithm}, {run.preset}, {run.step_backend} step, {row['precision']}"
            print(f"{name:50} {row['phase']:10} {cpu:>9} CPU s  {wall:>9} s  per 1,000 env steps", flush=True)
    write_measurement(config.output, "train_cost", rows)


if __name__ == "__main__":
    sys.exit(exit_code("train_cost", lambda: main(tyro.cli(CostConfig, prog="python -m benchmarks.train_cost"))))

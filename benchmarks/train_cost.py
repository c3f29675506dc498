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
from typing import Any

import torch
import tyro

from benchmarks.origin import make_folder, write_measurement
from copo_algos.algorithms import ALGORITHMS
from copo_algos.command import exit_code
from copo_algos.config import PresetName, TrainConfig, check, preset, with_values
from copo_algos.errors import UserError
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
    float32: tuple[str, ...] = ("ippo", "copo")
    """Algorithms to measure in float32 as well, where gradient steps are by way of bfloat16."""
    scene: str = "intersection"
    """Scene to drive in."""
    preset: PresetName = "default"
    """Settings of the runs."""
    num_envs: int | None = None
    """Simulator processes. Default: as many as the preset has."""
    iterations: int = 3
    """Iterations that count, after one that does not."""
    output: Path = Path("benchmarks/results/train_cost")
    """Where train_cost.csv and train_cost.json go."""


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


def measure(config: CostConfig, algorithm: str, step_backend: str, precision: str) -> Iterator[dict[str, Any]]:
    """One row per phase, and their sum."""
    settings = _settings(config, algorithm, step_backend, precision)
    trainer = Trainer(settings)
    try:
        trainer.begin()
        trainer.train_iteration()
        before, vehicle_steps = worker_cpu_seconds(), trainer.vehicle_steps
        wall: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        cpu: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        for _ in range(config.iterations):
            trainer.train_iteration()
            for phase, seconds in trainer.clock.wall.items():
                wall[phase] += seconds
                cpu[phase] += trainer.clock.cpu[phase]
        cpu["simulate"] += worker_cpu_seconds() - before
        env_steps = settings.steps_per_iteration * config.iterations
        vehicles = (trainer.vehicle_steps - vehicle_steps) / env_steps
    finally:
        trainer.close()
    wall["all"], cpu["all"] = sum(wall.values()), sum(cpu.values())
    for phase in (*PHASES, "all"):
        yield {
            "scene": config.scene,
            "algorithm": algorithm,
            "step": step_backend,
            "precision": settings.learning_precision,
            "phase": phase,
            "cpu_s_per_1000_env_steps": f"{cpu[phase] * 1000 / env_steps:.3f}",
            "wall_s_per_1000_env_steps": f"{wall[phase] * 1000 / env_steps:.3f}",
            "env_steps": env_steps,
            "vehicles_mean": f"{vehicles:.2f}",
        }


def _settings(config: CostConfig, algorithm: str, step_backend: str, precision: str) -> TrainConfig:
    values: dict[str, Any] = {"scene": config.scene, "step_backend": step_backend, "precision": precision}
    if config.num_envs is not None:
        values["num_envs"] = config.num_envs
    return with_values(preset(config.preset, algorithm), values)


def main(config: CostConfig) -> None:
    """Measure and write; the table goes to the terminal as well."""
    if config.iterations < 1:
        raise UserError(f"iterations={config.iterations}; use 1 or more")
    torch.set_num_threads(LEARNING_THREADS)
    rows = []
    runs = [(algorithm, "fast", "auto") for algorithm in config.algorithms]
    runs += [(algorithm, "stock", "auto") for algorithm in config.stock]
    if TrainConfig("copo").learning_precision != "float32":
        runs += [(algorithm, "fast", "float32") for algorithm in config.float32]
    for run in runs:
        check(_settings(config, *run))
    make_folder(config.output)
    for algorithm, step_backend, precision in runs:
        for row in measure(config, algorithm, step_backend, precision):
            rows.append(row)
            cpu, wall = row["cpu_s_per_1000_env_steps"], row["wall_s_per_1000_env_steps"]
            name = f"{algorithm}, {step_backend} step, {row['precision']}"
            print(f"{name:46} {row['phase']:10} {cpu:>9} CPU s  {wall:>9} s  per 1,000 env steps", flush=True)
    write_measurement(config.output, "train_cost", rows)


if __name__ == "__main__":
    sys.exit(exit_code("train_cost", lambda: main(tyro.cli(CostConfig, prog="python -m benchmarks.train_cost"))))

"""How long CoPO takes until it first holds a success rate over the last 300 lives.

    python -m benchmarks.time_to_score --presets default paper --seeds 0 1

One training after the other, each stopped when it is there. Wall-clock means something only on a machine with nothing
else to do: the load average stands in time_to_score.json. Starting the simulators counts.
`python -m benchmarks.performance_page` shows the table in docs/performance.md.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.origin import write_measurement
from benchmarks.train_cost import worker_cpu_seconds
from copo_algos.command import exit_code
from copo_algos.config import PresetName, TrainConfig, check, preset, with_values
from copo_algos.errors import UserError
from copo_algos.logs import RECENT_LIVES
from copo_algos.train import LEARNING_THREADS, Trainer


@dataclass(frozen=True)
class ScoreConfig:
    """Train until the score is held, preset by preset and seed by seed."""

    presets: tuple[PresetName, ...] = ("default",)
    """Settings to compare."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the trainings."""
    algorithm: str = "copo"
    """What to train."""
    scene: str = "intersection"
    """Scene to drive in."""
    score: float = 0.7
    """Success rate over the last 300 lives."""
    total_steps: int = 300_000
    """Env steps after which a training is given up."""
    output: Path = Path("benchmarks/results/time_to_score")
    """Where time_to_score.csv and time_to_score.json go."""


def holds(row: dict[str, Any], score: float) -> bool:
    """Whether the last 300 lives, all of them lived, succeeded as often as that."""
    return row["lives"] >= RECENT_LIVES and row["success_rate"] >= score


def until_score(settings: TrainConfig, score: float) -> dict[str, Any]:
    """One training, to the first iteration that holds the score, or to its end."""
    check(settings)
    wall, cpu = -time.perf_counter(), -time.process_time() - worker_cpu_seconds()
    trainer = Trainer(settings)
    try:
        trainer.begin()
        best, reached = 0.0, False
        while not reached and trainer.env_steps < settings.total_steps:
            row = trainer.train_iteration()
            reached = holds(row, score)
            if row["lives"] >= RECENT_LIVES:
                best = max(best, row["success_rate"])
        wall += time.perf_counter()
        cpu += time.process_time() + worker_cpu_seconds()
        return {
            "scene": settings.scene,
            "algorithm": settings.algorithm,
            "preset": settings.preset,
            "seed": settings.seed,
            "score": score,
            "reached": reached,
            "env_steps": trainer.env_steps,
            "wall_min": f"{wall / 60:.2f}",
            "cpu_min": f"{cpu / 60:.2f}",
            "best_success_rate": f"{best:.3f}",
        }
    finally:
        trainer.close()


def main(config: ScoreConfig) -> None:
    """Train and write, a row after every training; the rows go to the terminal as well."""
    if not 0 < config.score <= 1:
        raise UserError(f"score={config.score} is not in (0, 1]; it is a success rate")
    torch.set_num_threads(LEARNING_THREADS)
    rows = []
    for seed in config.seeds:
        for name in config.presets:
            values = {"scene": config.scene, "seed": seed, "total_steps": config.total_steps}
            row = until_score(with_values(preset(name, config.algorithm), values), config.score)
            rows.append(row)
            outcome = "holds" if row["reached"] else f"does not hold (best {row['best_success_rate']})"
            print(
                f"{name}, seed {seed}: {outcome} {config.score} after {row['env_steps']:,} env steps, "
                f"{row['wall_min']} min, {row['cpu_min']} CPU min",
                flush=True,
            )
            write_measurement(config.output, "time_to_score", rows)


if __name__ == "__main__":
    sys.exit(exit_code("time_to_score", lambda: main(tyro.cli(ScoreConfig, prog="python -m benchmarks.time_to_score"))))

"""The smallest training that does all that a training does: three iterations on the particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from copo_algos.config import TrainConfig, with_values

TINY: dict[str, Any] = {
    "scene": "particles",
    "num_envs": 0,
    "num_agents": 6,
    "horizon": 20,
    "steps_per_iteration": 48,
    "total_steps": 144,
    "checkpoint_every": 48,
    "update_epochs": 2,
    "minibatch_size": 64,
}


def tiny(folder: Path, algorithm: str = "copo", **values: Any) -> TrainConfig:
    return with_values(TrainConfig(algorithm, run_dir=folder), TINY | values)

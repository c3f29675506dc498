"""The estimators of CoPO's meta-gradient, on a real scene: sign, size, and what they do to phi and to success.

    python -m benchmarks.estimators --total-steps 150000
    python -m benchmarks.estimators --total-steps 150000 --setups released

A training per setup. After each iteration it also writes down what every estimator says of the phi that it has: the
derivative by phi's parameter x on disjoint minibatches of 512, as the share above 0 (which pushes phi down) and as a t
value. The measuring draws from a generator of its own, so the training is the one that `copo train` makes.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from benchmarks.origin import write_origin
from benchmarks.suite import CONFIG, METRICS, PROVENANCE, is_complete
from copo_algos.command import exit_code
from copo_algos.config import PresetName, TrainConfig, preset, with_values
from copo_algos.lcf import (
    coordinated_advantage,
    log_prob_directional,
    log_prob_gradient,
    standardised_global_advantage,
    surrogate_gradient,
)
from copo_algos.policy import last_checkpoint
from copo_algos.run_folder import refuse_changes
from copo_algos.train import Trainer, train

MINIBATCH, MOST_MINIBATCHES = 512, 32
SETUPS: dict[str, dict[str, Any]] = {
    "released": {"lcf_estimator": "released", "lcf_learning_rate": 1e-4, "lcf_minibatch_size": 512},
    "per_sample_published_step": {
        "lcf_estimator": "per_sample",
        "lcf_learning_rate": 1e-4,
        "lcf_minibatch_size": 512,
    },
    "per_sample": {},
    "per_sample_half_step": {"lcf_learning_rate": 2e-4},
    "split": {"lcf_estimator": "split"},
}
"""Name -> what differs from the preset. `released` and `per_sample_published_step` step as the authors do."""
SetupName = Literal["released", "per_sample_published_step", "per_sample", "per_sample_half_step", "split"]
ESTIMATORS = ("released", "per_sample", "per_sample_split")
"""product of means; mean of products; the same with g_new from another minibatch, which no sample sees twice."""


@dataclass(frozen=True)
class EstimatorsConfig:
    """Train CoPO once per setup, and write down what the estimators say on the way."""

    setups: tuple[SetupName, ...] = tuple(SETUPS)  # pyright: ignore[reportAssignmentType]
    """Which trainings; those that are complete are not repeated."""
    scene: str = "intersection"
    """Scene to drive in."""
    seed: int = 100
    """Of the trainings."""
    total_steps: int = 150_000
    """Env steps of each."""
    preset: PresetName = "default"
    """The settings that the setups share."""
    runs_dir: Path = Path("runs/estimators")
    """Where the trainings are."""
    output: Path = Path("benchmarks/results/estimators")
    """Where their metrics.csv, config.json and provenance.json go, a folder per setup."""


def training(config: EstimatorsConfig, setup: str) -> TrainConfig:
    """The settings of one training."""
    folder = config.runs_dir / setup
    values = {
        "scene": config.scene,
        "seed": config.seed,
        "total_steps": config.total_steps,
        "run_dir": folder,
        "resume": last_checkpoint(folder) is not None,
        **SETUPS[setup],
    }
    return with_values(preset(config.preset, "copo"), values)


def what_they_say(trainer: Trainer) -> dict[str, float]:
    """Per estimator: share of minibatches whose derivative by x is above 0, and mean / standard error of them."""
    samples, old_actor, actor = trainer.samples, trainer.old_actor, trainer.actor
    assert samples is not None and old_actor is not None
    rng = np.random.default_rng([trainer.config.seed, trainer.iteration, 2])
    size = min(MINIBATCH, len(samples) // 2)
    count = min(MOST_MINIBATCHES, len(samples) // size)
    pieces = torch.from_numpy(rng.permutation(len(samples))[: count * size].reshape(count, size))
    advantage, clip = standardised_global_advantage(samples), trainer.config.ppo.clip_coef
    g_new = [surrogate_gradient(actor, samples, advantage, clip, rows) for rows in pieces]
    said: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for number, rows in enumerate(pieces):
        g_old = log_prob_gradient(old_actor, samples, rows)
        product = sum(float((new * old).sum()) for new, old in zip(g_new[number], g_old, strict=True))
        noise = torch.from_numpy(rng.standard_normal(size, dtype=np.float32))
        some = samples.rows(rows)
        for name, weight in (
            ("released", torch.full((size,), product)),
            ("per_sample", log_prob_directional(old_actor, some, g_new[number])),
            ("per_sample_split", log_prob_directional(old_actor, some, g_new[number - 1])),
        ):
            objective = (weight * coordinated_advantage(trainer.lcf, samples, rows, noise)).mean()
            said[name].append(float(torch.autograd.grad(objective, trainer.lcf.x)[0]))
    out = {}
    for name, derivatives in said.items():
        values = np.array(derivatives)
        out[f"{name}_positive"] = float((values > 0).mean())
        out[f"{name}_t"] = float(values.mean() / (values.std(ddof=1) / math.sqrt(count)))
    return out


def main(config: EstimatorsConfig) -> None:
    """Train what is missing and collect the small files.

    Raises:
        UserError: a training is there that was made with other settings.
    """
    for setup in config.setups:
        settings = training(config, setup)
        folder, target = settings.folder(), config.output / setup
        if settings.resume:
            refuse_changes(settings, folder, "--runs-dir")
        trained = not is_complete(folder, config.total_steps)
        if trained:
            (folder / PROVENANCE).unlink(missing_ok=True)
            train(settings, what_they_say)
        # A training from before its origin was written beside it has it where it was collected, and keeps that one.
        if trained or not ((folder / PROVENANCE).exists() or (target / PROVENANCE).exists()):
            write_origin(folder / PROVENANCE, ["python", "-m", "benchmarks.estimators", *sys.argv[1:]])
        target.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, CONFIG, PROVENANCE):
            if (folder / name).exists():
                shutil.copyfile(folder / name, target / name)


if __name__ == "__main__":
    sys.exit(exit_code("estimators", lambda: main(tyro.cli(EstimatorsConfig, prog="python -m benchmarks.estimators"))))

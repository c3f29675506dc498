"""Does bfloat16 make learning faster, and is it the same update?

    python -m benchmarks.precision

The matrix products of a minibatch, on one thread: what a gradient step spends its time in, a layer's forward product,
that for its weights' gradient, and that for its inputs' gradient, between tensors of float32 and of bfloat16. Then the
passes of a whole critic forward and backward, with all that `--precision bfloat16` has to turn and to round; and
updates of the critics from the same samples in either, of a training of CoPO on a real scene.
"""

from __future__ import annotations

import copy
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn
from torch.optim import Optimizer

from benchmarks.origin import make_folder, write_measurement, write_rows
from copo_algos.command import exit_code
from copo_algos.config import PPOConfig, check, preset, with_values
from copo_algos.errors import UserError
from copo_algos.machine import Precision, bfloat16_instructions, hardware
from copo_algos.mlp import TanhMLP
from copo_algos.networks import HIDDEN, GaussianActor, ValueCritic, gradients_of, layers_of, parameters_of
from copo_algos.ppo import ppo_update
from copo_algos.train import LEARNING_THREADS, Trainer

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
COMPARED_EVERY = 10
PRODUCTS = ("x W", "x^T d", "d W^T")
INPUTS = 92  # observation and coordination factor of the intersection


@dataclass(frozen=True)
class PrecisionConfig:
    """Time the matrix products and passes of a minibatch in float32 and bfloat16, and compare updates in both."""

    rows: int = PPOConfig.minibatch_size
    """Samples of a minibatch."""
    blocks: int = 15
    """Blocks of products per kind; the kinds take turns, and the median block counts."""
    products: int = 50
    """Products per block."""
    scene: str = "intersection"
    """Scene of the updates."""
    updates: int = 50
    """Updates of CoPO (preset fast, seed 100) of which every tenth is made in either precision; 0: none."""
    output: Path | None = None
    """Where precision.csv, updates.csv and precision.json go. Default: a folder of
    benchmarks/results/precision, named after the processor's maker and best instruction for bfloat16."""


def products(rows: int, dtype: torch.dtype) -> dict[tuple[str, str], Callable[[], object]]:
    """(product, shape) -> what computes it in `dtype`, for both hidden layers."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    found: dict[tuple[str, str], Callable[[], object]] = {}
    for inputs in (INPUTS, HIDDEN):
        x, w, d = normal(rows, inputs), normal(inputs, HIDDEN), normal(rows, HIDDEN)
        shapes = f"{rows} x {inputs} x {HIDDEN}"
        for name, left, right in zip(PRODUCTS, (x, x.t(), d), (w, d, w.t()), strict=True):
            out = torch.empty(left.shape[0], right.shape[1], dtype=dtype)
            found[name, shapes] = lambda left=left, right=right, out=out: torch.mm(left, right, out=out)
    return found


def passes(rows: int, precision: Precision) -> tuple[tuple[str, str], Callable[[], object]]:
    """(name, shape) of a critic's forward and backward pass, and what computes them."""
    generator = torch.Generator().manual_seed(0)
    critic = ValueCritic(INPUTS, 1, generator)
    mlp = TanhMLP(layers_of(parameters_of(critic)), rows, precision)
    gradients = layers_of(gradients_of(critic))
    x, dy = torch.randn(rows, INPUTS, generator=generator), torch.randn(rows, 1, generator=generator)

    def both() -> None:
        mlp.forward(x)
        mlp.backward(x, dy, gradients)

    return ("a critic, forward and backward", f"{rows} x {INPUTS} x {HIDDEN} x {HIDDEN} x 1"), both


def _maker() -> str:
    return re.split(r"\W", hardware())[0].lower()


def microseconds(work: Callable[[], object], count: int) -> float:
    """CPU time of this thread per call, over `count` calls."""
    start = time.thread_time()
    for _ in range(count):
        work()
    return (time.thread_time() - start) / count * 1e6


def compared_updates(scene: str, updates: int) -> Iterator[dict[str, object]]:
    """Every tenth update of a training in float32, the same again in bfloat16, and in float32 with minibatches drawn
    anew: the cosines between what these and it change in the critics."""
    settings = with_values(preset("fast", "copo"), {"scene": scene, "seed": 100, "precision": "float32"})
    check(settings)
    trainer = Trainer(settings)
    try:
        trainer.begin()
        for update in range(1, updates + 1):
            before = copy.deepcopy(_learner(trainer))
            draws = copy.deepcopy(trainer.rng)
            trainer.train_iteration()
            if update % COMPARED_EVERY:
                continue
            assert trainer.samples is not None
            changes = {}
            kinds: tuple[tuple[str, Precision, np.random.Generator], ...] = (
                ("float32", "float32", copy.deepcopy(draws)),
                ("bfloat16", "bfloat16", copy.deepcopy(draws)),
                ("order", "float32", np.random.default_rng(update)),
            )
            for name, precision, rng in kinds:
                actor, critic, step, fits, kl_coef = copy.deepcopy(before)
                samples, ppo = trainer.samples, settings.ppo
                ppo_update(actor, critic, step, fits, samples, ppo, kl_coef, rng, precision)
                changes[name] = _change(before[1], critic)
            for name in ("bfloat16", "order"):
                cosine = torch.nn.functional.cosine_similarity(changes["float32"], changes[name], 0)
                yield {
                    "update": update,
                    "env_steps": trainer.env_steps,
                    "other": name,
                    "critics_cosine": f"{float(cosine):.8f}",
                }
    finally:
        trainer.close()


def _learner(trainer: Trainer) -> tuple[GaussianActor, ValueCritic, Optimizer, list[Optimizer], float]:
    optimizers: list[Optimizer] = [*trainer.critic_optimizers]
    return trainer.actor, trainer.critic, trainer.actor_optimizer, optimizers, trainer.kl_coef


def _change(before: nn.Module, after: nn.Module) -> torch.Tensor:
    pairs = zip(parameters_of(before), parameters_of(after), strict=True)
    return torch.cat([(new - old).flatten() for old, new in pairs]).double()


def main(config: PrecisionConfig) -> None:
    """Measure and write; the rows go to the terminal as well."""
    if min(config.rows, config.blocks, config.products) < 1:
        raise UserError(
            f"rows={config.rows}, blocks={config.blocks}, products={config.products}; use 1 or more of each"
        )
    if config.updates < 0:
        raise UserError(f"updates={config.updates}; use 0 or more")
    torch.set_num_threads(LEARNING_THREADS)
    instructions = bfloat16_instructions()
    output = config.output or Path("benchmarks/results/precision") / f"{_maker()}_{(instructions or ['none'])[0]}"
    works = {}
    for kind, dtype in zip(PRECISIONS, (torch.float32, torch.bfloat16), strict=True):
        name, both = passes(config.rows, kind)
        works[kind] = {**products(config.rows, dtype), name: both}
    make_folder(output)
    rows = []
    for name, shape in works["float32"]:
        blocks: dict[str, list[float]] = {kind: [] for kind in PRECISIONS}
        for _ in range(config.blocks + 1):
            for kind in PRECISIONS:
                blocks[kind].append(microseconds(works[kind][name, shape], config.products))
        medians = {kind: statistics.median(times[1:]) for kind, times in blocks.items()}  # the first warms up
        rows.append({"product": name, "shape": shape, **{f"{kind}_us": f"{us:.1f}" for kind, us in medians.items()}})
        print(f"{name:32} {shape:24}", *(f"{kind} {us:6.1f} us  " for kind, us in medians.items()), flush=True)
    write_measurement(output, "precision", rows, instructions=instructions)
    updates = []
    for row in compared_updates(config.scene, config.updates):
        updates.append(row)
        print(*(f"{name} {value}  " for name, value in row.items()), flush=True)
    if updates:
        write_rows(output / "updates.csv", updates)


if __name__ == "__main__":
    sys.exit(exit_code("precision", lambda: main(tyro.cli(PrecisionConfig, prog="python -m benchmarks.precision"))))

"""Checkpoints: a policy that can drive, beside everything that a run needs to go on. Written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from copo_algos.errors import CheckpointError
from copo_algos.policy import Policy, checkpoints, load_into, load_tensors, save_policy
from copo_envs.scenes import is_whole

BEST = "best"
"""Name of the copy of the best checkpoint, beside the others."""
EVALUATION = "evaluation.json"
"""In the best checkpoint: the evaluation that it is the best by."""


@dataclass
class LearnerParts:
    """The tensors of a learner besides its actor's, by name."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    generator: torch.Generator


def save_checkpoint(
    run: Path, env_steps: int, policy: Policy, parts: LearnerParts, state: dict[str, Any], keep: int = 3
) -> Path:
    """Write `<run>/checkpoints/step_<env_steps>` and delete all but the last few.

    One that is there already stays: the learner has not learned since.

    Args:
        state: plain values for learner.json.
        keep: how many stay, this one included; 0: all.

    Raises:
        CheckpointError: the disk refused; what was there before is untouched.
    """
    final = run / "checkpoints" / f"step_{env_steps:09d}"
    if final.exists():
        return final
    partial = final.with_name(final.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_policy(policy, partial)
        save_file(_tensors_of(parts), partial / "learner.safetensors")
        (partial / "learner.json").write_text(json.dumps(state) + "\n")
        os.replace(partial, final)
    except (OSError, SafetensorError) as error:  # a full disk is the one or the other
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error}; earlier checkpoints are intact"
        ) from error
    for old in checkpoints(run)[:-keep] if keep else ():
        shutil.rmtree(old, ignore_errors=True)  # what cannot be deleted is no reason to stop
    return final


def keep_best(checkpoint: Path, evaluation: dict[str, Any]) -> Path:
    """Copy a checkpoint to `best` beside it, in place of an earlier one, and the evaluation with it.

    Args:
        checkpoint: one of a run.
        evaluation: plain values; "success_rate" is what later ones are compared with.

    Raises:
        CheckpointError: the disk refused; what was there before is untouched.
    """
    best = checkpoint.with_name(BEST)
    partial, old = _beside(best)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial)
        (partial / EVALUATION).write_text(json.dumps(evaluation, indent=2) + "\n")
        if best.exists():  # a folder cannot be renamed onto a full one
            os.replace(best, old)
        os.replace(partial, best)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(best)
        raise CheckpointError(f"cannot write {best}: {error}; the other checkpoints are intact") from error
    shutil.rmtree(old, ignore_errors=True)
    return best


def best_success(run: Path) -> float:
    """Success rate of the best checkpoint of a run; -inf before there is one.

    Raises:
        CheckpointError: it cannot be read.
    """
    best = run / "checkpoints" / BEST
    _put_back(best)
    if not best.exists():
        return -math.inf
    try:
        return float(json.loads((best / EVALUATION).read_text())["success_rate"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{best / EVALUATION} cannot be read ({error!r}); move {best} away to look for the best anew"
        ) from error


def _beside(best: Path) -> tuple[Path, Path]:
    """Where its successor is written, and where it waits until that has taken its place."""
    return best.with_name(f"{BEST}.partial"), best.with_name(f"{BEST}.old")


def _put_back(best: Path) -> None:
    """After an end between the two renames: the old best is the best again."""
    _, old = _beside(best)
    if old.exists() and not best.exists():
        os.replace(old, best)


def load_learner(folder: Path, parts: LearnerParts) -> dict[str, Any]:
    """Fill the parts from a checkpoint and return its plain values.

    Raises:
        CheckpointError: missing, damaged, or of another learner.
    """
    path = folder / "learner.safetensors"
    tensors = load_tensors(path)
    try:
        state = json.loads((folder / "learner.json").read_text())
        if not isinstance(state, dict):
            raise ValueError("it does not hold the values of a learner")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / 'learner.json'} cannot be read ({error}); use another checkpoint") from error
    for name, module in parts.modules.items():
        load_into(module, _under(tensors, name), path)
    try:
        for name, optimizer in parts.optimizers.items():
            flat = _under(tensors, name)
            saved = optimizer.state_dict()
            saved["state"] = {}
            for key, tensor in flat.items():
                index, entry = key.split(".")
                saved["state"].setdefault(int(index), {})[entry] = tensor
            optimizer.load_state_dict(saved)
        parts.generator.set_state(tensors["generator"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a learner ({error!r}); use another checkpoint") from error
    return state


def counts(state: dict[str, Any], *names: str) -> list[int]:
    """The named counts among the plain values of a checkpoint.

    Raises:
        KeyError: one is missing; ValueError: one is no whole number of 0 or more.
    """
    for name in names:
        if not is_whole(state[name]) or state[name] < 0:
            raise ValueError(f"{name}={state[name]!r} is no whole number of 0 or more")
    return [state[name] for name in names]


def _tensors_of(parts: LearnerParts) -> dict[str, torch.Tensor]:
    tensors = {"generator": parts.generator.get_state()}
    for name, module in parts.modules.items():
        for key, tensor in module.state_dict().items():
            tensors[f"{name}.{key}"] = tensor.detach().cpu().contiguous()
    for name, optimizer in parts.optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            for key, tensor in entries.items():
                tensors[f"{name}.{index}.{key}"] = tensor.detach().cpu().contiguous()
    return tensors


def _under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

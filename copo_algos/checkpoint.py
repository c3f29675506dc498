"""Checkpoints: a policy that can drive, beside everything that a run needs to go on. Written whole or not at all."""

from __future__ import annotations

import json
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

KEPT = 3


@dataclass
class LearnerParts:
    """The tensors of a learner besides its actor's, by name."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    generator: torch.Generator


def save_checkpoint(run: Path, env_steps: int, policy: Policy, parts: LearnerParts, state: dict[str, Any]) -> Path:
    """Write `<run>/checkpoints/step_<env_steps>` and delete all but the last three.

    One that is there already stays: the learner has not learned since.

    Args:
        state: plain values for learner.json.

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
    for old in checkpoints(run)[:-KEPT]:
        shutil.rmtree(old)
    return final


def load_learner(folder: Path, parts: LearnerParts) -> dict[str, Any]:
    """Fill the parts from a checkpoint and return its plain values.

    Raises:
        CheckpointError: missing, damaged, or of another learner.
    """
    path = folder / "learner.safetensors"
    tensors = load_tensors(path)
    try:
        state = json.loads((folder / "learner.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'learner.json'} cannot be read ({error}); use another checkpoint") from error
    for name, module in parts.modules.items():
        load_into(module, _under(tensors, name), path)
    for name, optimizer in parts.optimizers.items():
        flat = _under(tensors, name)
        saved = optimizer.state_dict()
        saved["state"] = {}
        for key, tensor in flat.items():
            index, entry = key.split(".")
            saved["state"].setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict(saved)
    parts.generator.set_state(tensors["generator"])
    return state


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

"""The policies that CoPO's authors released (npz files of their training code) as policies that drive here.

They were trained on observations of MetaDrive 0.2.5 and older, which `copo_envs.legacy_obs` presents to them. There are
two layouts: TensorFlow's (`default/fc_1/kernel`, ...; with the suffix `_1` and one more input, the coordination
factor, for CoPO) and torch's (`_hidden_layers.0._model.0.weight`, ...). Loading one runs no code from it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from copo_algos.errors import CheckpointError
from copo_algos.networks import HIDDEN
from copo_algos.policy import Policy, PolicyInfo, make_actor
from copo_envs.scenes import SCENES, get_scene

RELEASED_LCF = {"intersection": 0.3682, "roundabout": 0.2914}
"""Scene -> mean of the coordination factors that the released CoPO policy was trained to."""

_TENSORFLOW = [f"default/fc_{layer}" for layer in ("1", "2", "out")]
_TORCH = ["_hidden_layers.0._model.0", "_hidden_layers.1._model.0", "_logits._model.0"]


def is_released(path: Path | None) -> bool:
    """Whether the path names a file of this kind."""
    return path is not None and path.suffix == ".npz"


def load_released(path: Path, scene: str | None) -> Policy:
    """The policy in a released file.

    Args:
        path: the npz file. Its name without the ending becomes the algorithm's.
        scene: where it is to drive; the file does not say.

    Raises:
        CheckpointError: no such file, another kind of file, another layout, or another size than the scene's
            observations; or no scene.
        SceneError: an unknown scene.
    """
    if scene is None:
        raise CheckpointError(f"{path} does not say which scene it is for; add --scene, such as --scene intersection")
    spec = get_scene(scene)
    if not spec.metadrive_class:
        known = ", ".join(name for name, other in SCENES.items() if other.metadrive_class)
        raise CheckpointError(f"{path} drives in MetaDrive, and {scene} is no scene of it; choose one of {known}")
    weights, uses_lcf = _weights(_arrays(path), path)
    inputs = spec.obs_size + uses_lcf
    shapes = [weight.shape for weight, _ in weights]
    wanted = [(HIDDEN, inputs), (HIDDEN, HIDDEN), (4, HIDDEN)]
    biases = [bias.shape for _, bias in weights]
    if shapes != wanted or biases != [(rows,) for rows, _ in wanted]:
        with_lcf = " and its coordination factor" if uses_lcf else ""
        raise CheckpointError(
            f"{path} has layers of {shapes} and {biases}; a policy for {scene} has {wanted}, as it sees "
            f"{spec.obs_size} numbers{with_lcf}: choose another scene or file"
        )
    info = PolicyInfo(
        scene=scene,
        algorithm=path.stem,
        obs_size=spec.obs_size,
        num_agents=spec.num_agents,
        uses_lcf=uses_lcf,
        lcf_mean=RELEASED_LCF.get(scene, 0.0) if uses_lcf else 0.0,
        obs_version="0.2.5",
    )
    actor = make_actor(info)
    actor.load_state_dict(
        {
            f"layers.{layer}.{name}": torch.from_numpy(np.array(array, np.float32))
            for layer, pair in enumerate(weights)
            for name, array in zip(("weight", "bias"), pair, strict=True)
        }
    )
    actor.eval()
    return Policy(actor, info)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"no file {path}; give a policy of CoPO's authors, such as copo_inter.npz") from error
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no npz file ({error}); use another file") from error


def _weights(arrays: dict[str, np.ndarray], path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], bool]:
    """Weight (outputs, inputs) and bias of the three layers, and whether there is a coordination factor."""
    for suffix in ("", "_1"):
        names = [f"{layer}{suffix}" for layer in _TENSORFLOW]
        if set(arrays) == {f"{name}/{kind}" for name in names for kind in ("kernel", "bias")}:
            return [(arrays[f"{name}/kernel"].T, arrays[f"{name}/bias"]) for name in names], suffix == "_1"
    if set(arrays) == {f"{name}.{kind}" for name in _TORCH for kind in ("weight", "bias")}:
        return [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in _TORCH], False
    raise CheckpointError(
        f"{path} holds {', '.join(sorted(arrays)[:3]) or 'nothing'}, which is no layout of the released policies; "
        "they have default/fc_1/kernel, default/fc_1_1/kernel or _hidden_layers.0._model.0.weight"
    )

"""A trained actor with what it needs to drive, and its two files: `policy.safetensors` and `policy.json`.

Loading runs no code from the files: one holds arrays, the other plain values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from copo_algos.config import MOST_HIDDEN
from copo_algos.errors import CheckpointError, UserError
from copo_algos.factors import draw_lcf, with_lcf
from copo_algos.networks import HIDDEN, GaussianActor
from copo_envs.legacy_obs import LegacyObs
from copo_envs.scenes import SCENES, SceneOptions
from copo_envs.step_batch import ACTION_SIZE, Simulator, StepBatch

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
FORMAT = "copo-policy-1"
OBS_VERSIONS = ("0.4.3", "0.2.5")


@dataclass(frozen=True)
class PolicyInfo:
    """What a policy was trained for."""

    scene: str
    algorithm: str
    obs_size: int
    """D of the scene, without the coordination factor."""
    num_agents: int
    uses_lcf: bool
    lcf_mean: float = 0.0
    lcf_std: float = 0.0
    lcf_uniform: bool = False
    """phi is drawn from U[-1, 1] instead of N(lcf_mean, lcf_std)."""
    env_steps: int = 0
    """Env steps it was trained for."""
    geometry: str = "published"
    rule_based: int = 0
    """Vehicles besides `num_agents` that a rule drove."""
    start_seed: int = SceneOptions.start_seed
    """The random map it was trained on (`pg_map`)."""
    obs_version: str = "0.4.3"
    """MetaDrive whose conventions its observations have: "0.4.3", or "0.2.5" (see `copo_envs.legacy_obs`)."""
    hidden_size: int = HIDDEN
    """Units of each of its two hidden layers."""
    format: str = FORMAT


class Policy:
    """A trained actor with what it needs to drive.

    Args:
        actor: takes observations of `info.obs_size`, one more where it uses a coordination factor.
        info: what it was trained for.
    """

    def __init__(self, actor: GaussianActor, info: PolicyInfo):
        self.actor = actor
        self.info = info

    def __getattr__(self, name: str) -> Any:
        # policy.scene, policy.lcf_mean, ...: the fields of `info`
        if name in PolicyInfo.__dataclass_fields__:
            return getattr(self.info, name)
        raise AttributeError(name)

    def draw_lcf(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Coordination factors for `count` newborns, (count,) float32 in [-1, 1]; zeros where the policy has none."""
        if not self.info.uses_lcf:
            return np.zeros(count, np.float32)
        return draw_lcf(count, self.info.lcf_mean, self.info.lcf_std, rng, self.info.lcf_uniform)

    def observer(self, num_slots: int) -> Callable[[StepBatch], np.ndarray]:
        """A function that says what this policy sees of the batches of a simulator, (N, D); ask it once a step."""
        if self.info.obs_version != "0.2.5":
            return lambda batch: batch.obs
        legacy = LegacyObs(self.info.scene, num_slots)
        return lambda batch: legacy(batch.obs, batch.spawned)

    def act(
        self,
        obs: np.ndarray,
        lcf: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
        deterministic: bool = False,
    ) -> np.ndarray:
        """Actions (n, 2) float32 in [-1, 1] for observations (n, D) and coordination factors (n,).

        Stochastic unless `deterministic`, as in training and in the published evaluation; `rng` draws. A policy without
        a factor takes None or zeros, as `draw_lcf` gives them.

        Raises:
            UserError: another shape, no factors or no generator where they are needed, or factors where there are none.
        """
        if rng is None and not deterministic:
            raise UserError("no rng to draw the actions with; give a numpy.random.Generator, or deterministic=True")
        if not isinstance(rng, (np.random.Generator, type(None))):
            raise UserError(
                f"rng={rng!r} draws no actions; give a numpy.random.Generator, such as numpy.random.default_rng(0)"
            )
        obs = np.asarray(obs)
        lcf = None if lcf is None else np.asarray(lcf)
        self._check(obs, lcf)
        inputs = np.asarray(obs, np.float32) if lcf is None or not self.info.uses_lcf else with_lcf(obs, lcf)
        with torch.no_grad():
            mean, log_std = self.actor(torch.from_numpy(inputs))
        action = mean.numpy()
        if not deterministic and rng is not None:
            action = action + np.exp(log_std.numpy()) * rng.standard_normal(action.shape, dtype=np.float32)
        return np.clip(action, -1.0, 1.0)

    def _check(self, obs: np.ndarray, lcf: np.ndarray | None) -> None:
        info = self.info
        if obs.ndim != 2 or obs.shape[1] != info.obs_size:
            advice = f"use the observations of {info.scene}, without a coordination factor"
            raise UserError(
                f"obs has the shape {obs.shape}, and this policy takes (n, {info.obs_size}), a row per vehicle; "
                f"{'use obs[None] for one vehicle' if obs.ndim == 1 else advice}"
            )
        count = len(obs)
        if lcf is None and info.uses_lcf:
            raise UserError(
                f"lcf=None, but this {info.algorithm} policy needs a coordination factor in [-1, 1] for each of "
                f"{count} vehicles; use those drawn at birth by policy.draw_lcf, or np.zeros({count})"
            )
        if lcf is not None and lcf.shape != (count,):
            raise UserError(
                f"lcf has the shape {lcf.shape}, and obs has {count} vehicles; use a factor for each, ({count},)"
            )
        if lcf is not None and not info.uses_lcf and lcf.any():
            raise UserError(
                f"lcf={lcf[lcf != 0][0]}, but this {info.algorithm} policy has no factor; use lcf=None or zeros"
            )

    def actions(
        self, simulator: Simulator, obs: np.ndarray, lcf: np.ndarray, rng: np.random.Generator, deterministic: bool
    ) -> np.ndarray:
        """Actions (N, 2) for the slots of a simulator, zeros for empty ones; obs (N, D) and lcf (N,) by slot."""
        alive = simulator.batch.active
        actions = np.zeros((simulator.num_slots, ACTION_SIZE), np.float32)
        actions[alive] = self.act(obs[alive], lcf[alive], rng, deterministic)
        return actions


def make_actor(info: PolicyInfo, generator: torch.Generator | None = None, log_std_init: float = 0.0) -> GaussianActor:
    """An untrained actor of the right size."""
    inputs, generator = info.obs_size + info.uses_lcf, generator or torch.Generator()
    return GaussianActor(inputs, ACTION_SIZE, generator, log_std_init, info.hidden_size)


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write the two files into an existing folder."""
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.actor.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(asdict(policy.info), indent=2) + "\n")


def load_policy(path: str | Path) -> Policy:
    """The policy in a policy folder, a checkpoint, or a run folder or its folder of checkpoints (the last one).

    Raises:
        CheckpointError: nothing there, a truncated file, or not one of ours.
    """
    path = run_of(Path(path))
    folder = path if (path / DESCRIPTION).exists() else last_checkpoint(path)
    if folder is None:
        raise CheckpointError(
            f"no policy in {path}: give a run folder, a checkpoint, or a folder with {WEIGHTS} and {DESCRIPTION}"
        )
    info = _load_info(folder / DESCRIPTION)
    actor = make_actor(info)
    load_into(actor, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    actor.eval()
    return Policy(actor, info)


def shipped_algorithm(scene: str) -> str:
    """The algorithm of the policy that comes with the package for a scene: CoPO's where there is one."""
    root = Path(str(resources.files("copo_algos") / "policies"))
    shipped = sorted(path.parent.name for path in root.glob(f"*/*/{DESCRIPTION}") if path.parent.parent.name == scene)
    return "copo" if "copo" in shipped or not shipped else shipped[0]


def shipped_policy(scene: str, algorithm: str) -> Policy:
    """A policy that comes with the package.

    Raises:
        CheckpointError: none for this scene and algorithm; the message lists those there are.
    """
    root = Path(str(resources.files("copo_algos") / "policies"))
    folder = root / scene / algorithm
    if not (folder / DESCRIPTION).exists():
        have = sorted(f"{p.parent.parent.name} {p.parent.name}" for p in root.glob(f"*/*/{DESCRIPTION}"))
        raise CheckpointError(
            f"no policy for scene {scene!r} and algorithm {algorithm!r} comes with the package; "
            f"there are: {', '.join(have) or 'none'}. Train one with: copo train {algorithm} --scene {scene}"
        )
    return load_policy(folder)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    found = (run / "checkpoints").glob("step_*")
    return sorted(path for path in found if path.name.removeprefix("step_").isdecimal())


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run folder, or None."""
    found = checkpoints(run)
    return found[-1] if found else None


def run_of(path: Path) -> Path:
    """The run whose folder of checkpoints this is; any other path as it is."""
    return path.parent if path.name == "checkpoints" and last_checkpoint(path.parent) else path


def steps_of(checkpoint: Path) -> int:
    """Env steps at which a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("step_"))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a safetensors file.

    Raises:
        CheckpointError: missing, truncated, or another kind of file.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete; use another one") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); use another checkpoint") from error


def load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Fill a module's parameters.

    Raises:
        CheckpointError: other names or shapes than the module's.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise CheckpointError(f"{path} does not fit this network: {_differences(wrong, expected, found)}")
    module.load_state_dict(tensors)


def _differences(names: Iterable[str], expected: dict[str, Any], found: dict[str, Any]) -> str:
    return ", ".join(f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in names)


def _load_info(path: Path) -> PolicyInfo:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); use another checkpoint") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a {FORMAT} file; use a checkpoint written by copo train")
    try:
        info = PolicyInfo(**values)
    except TypeError as error:
        raise CheckpointError(f"{path} has other fields than a {FORMAT} file ({error}); use another one") from error
    for name, kind in get_type_hints(PolicyInfo).items():
        value = getattr(info, name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CheckpointError(f"{path} has {name}={value!r}, which is no {kind.__name__}; use another checkpoint")
    if info.scene not in SCENES or SCENES[info.scene].obs_size != info.obs_size:
        raise CheckpointError(
            f"{path} is for scene {info.scene!r} with observations of {info.obs_size}; "
            f"scenes here are {', '.join(f'{s.name} ({s.obs_size})' for s in SCENES.values())}"
        )
    if not -1 <= info.lcf_mean <= 1:  # NaN is refused too
        raise CheckpointError(f"{path} has lcf_mean={info.lcf_mean}, which is not in [-1, 1]; use another checkpoint")
    if not 0 <= info.lcf_std < math.inf:
        raise CheckpointError(f"{path} has lcf_std={info.lcf_std}; use another checkpoint, with a number of 0 or more")
    if not 1 <= info.hidden_size <= MOST_HIDDEN:
        raise CheckpointError(
            f"{path} has hidden_size={info.hidden_size}; use another checkpoint, with 1 to {MOST_HIDDEN}"
        )
    if info.obs_version not in OBS_VERSIONS:
        raise CheckpointError(
            f"{path} has obs_version={info.obs_version!r}; use another checkpoint, of {' or '.join(OBS_VERSIONS)}"
        )
    return info

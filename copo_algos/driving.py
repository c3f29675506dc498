"""A trained policy drives every vehicle of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import tyro

from copo_algos.errors import UserError
from copo_algos.option_help import with_help
from copo_algos.policy import Policy, PolicyInfo
from copo_envs.scenes import SceneOptions, scene_options
from copo_envs.step_batch import Simulator, StepBatch

Maps = Literal["train", "heldout"]
NOISE_STREAM = 1
"""With the episode's seed it seeds the policy's draws; the seed alone seeds the simulator's."""


@with_help
@dataclass(frozen=True, kw_only=True)
class EpisodeSettings:
    """How episodes are driven: what `copo evaluate` scores, `copo watch` shows."""

    horizon: int = 1000
    """Env steps in which vehicles respawn, 1000 whatever the training had; the episode ends when the last of them has
    ended."""
    num_agents: int | None = None
    """Vehicles in the scene. Default: as in training."""
    rule_based: int | None = None
    """Vehicles besides them that a rule drives; they are not in the scores. Default: as in training."""
    geometry: Literal["published", "metadrive"] | None = None
    """Roads to drive on. Default: as in training."""
    maps: Maps = "train"
    """Maps of pg_map: the one it was trained on, or another unseen one in every episode."""
    start_seed: int | None = None
    """Which random map pg_map drives on. Default: the one that the policy was trained on."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Drive by the mean of the action distribution instead of drawing from it."""
    lcf: float | None = None
    """One local coordination factor in [-1, 1] for everybody. Default: drawn for each life from what was learned."""


def episode_generator(seed: int) -> np.random.Generator:
    """What draws the factors and the actions of the episode that begins with `reset(seed)`."""
    return np.random.default_rng([seed, NOISE_STREAM])


def scene_to_drive(info: PolicyInfo, scene: str, config: EpisodeSettings) -> SceneOptions:
    """The scene that the settings ask for; what they leave open is as in the policy's training.

    Args:
        info: what the policy was trained for.
        scene: where to drive. Elsewhere than in training the vehicles are the scene's own.
        config: of the command.

    Raises:
        UserError: a map where there is no choice of them.
        SceneError: an unknown scene, or a value that it cannot take.
    """
    if config.maps == "heldout" and scene != "pg_map":
        raise UserError(f"{scene} has one map; only pg_map has held-out ones: leave out --maps")
    if config.start_seed is not None and scene != "pg_map":
        raise UserError(f"start_seed={config.start_seed}, but {scene} has one map; leave out --start-seed")
    if config.start_seed is not None and config.maps == "heldout":
        raise UserError(
            f"start_seed={config.start_seed} is one map, and maps=heldout another one in every episode; leave one out"
        )
    as_trained = (info.num_agents, info.rule_based) if scene == info.scene else (None, None)
    return scene_options(
        scene,
        num_agents=as_trained[0] if config.num_agents is None else config.num_agents,
        rule_based=as_trained[1] if config.rule_based is None else config.rule_based,
        horizon=config.horizon,
        geometry=config.geometry or info.geometry,
        start_seed=info.start_seed if config.start_seed is None else config.start_seed,
        num_heldout=None if config.start_seed is None else 0,  # whoever names a map may drive on any
        maps=config.maps,
    )


class Driving:
    """What a policy has to keep while it drives: the coordination factors, and what its observer remembers.

    Args:
        policy: drives.
        num_slots: N.
        rng: draws factors and action noise.
        deterministic: take the means of the actions.
        fixed_lcf: the factor of everybody; None: drawn as learned.
    """

    def __init__(
        self,
        policy: Policy,
        num_slots: int,
        rng: np.random.Generator,
        deterministic: bool = False,
        fixed_lcf: float | None = None,
    ):
        self._policy, self._rng, self._deterministic, self._fixed_lcf = policy, rng, deterministic, fixed_lcf
        self._observe = policy.observer(num_slots)
        self.lcf = np.zeros(num_slots, np.float32)
        """(N,) of the life in each slot."""

    def admit(self, batch: StepBatch) -> None:
        """After every reset and step: a life keeps the factor that it is born with."""
        born = int(batch.spawned.sum())
        drawn = self._policy.draw_lcf(born, self._rng) if self._fixed_lcf is None else self._fixed_lcf
        self.lcf[batch.spawned] = drawn

    def actions(self, simulator: Simulator) -> np.ndarray:
        """(N, 2) for what the vehicles of the simulator see now."""
        seen = self._observe(simulator.batch)
        return self._policy.actions(simulator, seen, self.lcf, self._rng, self._deterministic)

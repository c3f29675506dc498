"""The slots view, a PettingZoo ParallelEnv with a fixed set of agents: `slot_0` ... `slot_<N-1>`.

For code that needs the same agents at every step (SuperSuit's vectoriser, TorchRL, RLlib, ...). All slots are there
until the episode ends; a slot whose vehicle ended is empty (zero observation, zero reward, its action ignored) until
another vehicle takes it, often in the same step. A slot never reports an ending before the episode does; in the last
step all slots are truncated, with the last observations of the vehicles that acted in it.

So code that reads only rewards and endings sees one life per slot: **its returns and advantages run across vehicles**,
and it learns from empty slots as well. The true endings are in the infos; use them where you can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from copo_envs.scene_env import SceneEnv
from copo_envs.step_batch import StepBatch


def slots_env(
    scene: str, *, render_mode: str | None = None, in_process: bool | None = None, **options: Any
) -> SlotsEnv:
    """The slots view of a scene. See `SlotsEnv`; arguments as of `copo_envs.parallel_env`."""
    return SlotsEnv(scene, render_mode=render_mode, in_process=in_process, **options)


class SlotsEnv(SceneEnv):
    """A scene as a fixed set of agents.

    Infos have the same keys and types at every step. About the vehicle that acted in the slot in this step: those of
    `LivesEnv`, and whether it `terminated` or was `truncated`. About the one that is in it now and acts next: `active`
    (there is one), `life` (its number in the episode, -1 for none) and `spawned` (it appeared in this step).

    Errors: see `SceneEnv`.
    """

    def __init__(self, scene: str, **options: Any):
        super().__init__(scene, **options)
        self._name_agents([f"slot_{slot}" for slot in range(self.options.num_agents)])

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode. Arguments and errors as of `LivesEnv.reset`."""
        batch = self._begin_episode(seed, options)
        self.agents = list(self.possible_agents)
        return self._observations(batch.obs), self._infos(batch)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step of 0.1 s.

        Args:
            actions: slot -> (2,) in [-1, 1], values beyond are clipped. Those of empty slots are ignored.

        Raises:
            SceneError: no action for a slot with a vehicle, an unknown slot, or an action that is not two finite
                numbers.
        """
        batch = self._drive(actions, self._living(), self.action_spaces)
        agents, over = self.possible_agents, bool(batch.episode_over)
        if over:
            self.agents = []
        obs = np.where(batch.acted[:, None], batch.final_obs, batch.obs) if over else batch.obs
        return (
            self._observations(obs),
            dict(zip(agents, batch.reward.tolist(), strict=True)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            self._infos(batch),
        )

    def positions(self) -> dict[str, np.ndarray]:
        """Slot -> (2,) metres after the last step or reset: of the vehicle that acted, else of the newborn in it.

        Slots in which nobody acted and nobody appeared are not in it.
        """
        batch = self._last_batch()
        place = np.where(batch.acted[:, None], batch.acted_position, batch.position)
        return _by_slot(place, batch.acted | batch.active)

    def headings(self) -> dict[str, float]:
        """Slot -> radians, counter-clockwise from the x axis, of everybody in `positions()`."""
        batch = self._last_batch()
        return _by_slot(np.where(batch.acted, batch.acted_heading, batch.heading).tolist(), batch.acted | batch.active)

    def next_positions(self) -> dict[str, np.ndarray]:
        """Slot -> (2,) metres of the vehicle that is in it now and acts next.

        It differs from `positions()` where a vehicle ended and another one has its slot already.
        """
        batch = self._last_batch()
        return _by_slot(batch.position.copy(), batch.active)

    def next_headings(self) -> dict[str, float]:
        """Slot -> radians, counter-clockwise from the x axis, of everybody in `next_positions()`."""
        batch = self._last_batch()
        return _by_slot(batch.heading.tolist(), batch.active)

    def _living(self) -> dict[str, int]:
        return {f"slot_{slot}": int(slot) for slot in np.nonzero(self._last_batch().active)[0]}

    def _observations(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, obs.copy(), strict=True))

    def _infos(self, batch: StepBatch) -> dict[str, dict[str, Any]]:
        infos = self._infos_by_slot(batch)
        for field in ("active", "life", "terminated", "truncated", "spawned"):
            for info, value in zip(infos, getattr(batch, field).tolist(), strict=True):
                info[field] = value
        return dict(zip(self.possible_agents, infos, strict=True))


def _by_slot(rows: Any, there: np.ndarray) -> dict[str, Any]:
    """The rows of the slots where somebody is."""
    return {f"slot_{slot}": rows[slot] for slot in np.nonzero(there)[0]}

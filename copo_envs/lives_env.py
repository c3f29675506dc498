"""The lives view, a PettingZoo ParallelEnv with one agent per life: `agent_0`, `agent_1`, ...

A vehicle that respawns is a new agent. It appears in the dicts of the step in which it was put on the road, with reward
0.0, and acts from the next step on. Agents that end appear there for the last time, with their final observation, and
leave `agents`. An id never comes back within an episode. `possible_agents` has `max_lives` ids, a bound that is never
reached unless the option sets a lower one; then nobody respawns after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from copo_envs.scene_env import SceneEnv
from copo_envs.step_batch import StepBatch


def parallel_env(
    scene: str, *, render_mode: str | None = None, in_process: bool | None = None, **options: Any
) -> LivesEnv:
    """The lives view of a scene. See `LivesEnv`.

    Args:
        scene: a name from `copo_envs.SCENES`.
        render_mode: None, "rgb_array" or "human".
        in_process: True: simulate in this process; False: in a worker process; None: in this process, unless it holds
            a MetaDrive engine already.
        options: fields of `SceneOptions`: num_agents, horizon, drain, respawn, ...
            And `render_options`, see `SceneEnv`.
    """
    return LivesEnv(scene, render_mode=render_mode, in_process=in_process, **options)


class LivesEnv(SceneEnv):
    """A scene in which every life is an agent of its own.

    Infos have the same keys at every step: `outcome` (code of `Outcome`, 0 while running), `own_reward`,
    `velocity_m_s`, `route_completion` in [0, 1], `cost`, `energy`, `life_steps`, the `seed` of the episode and its
    `map_seed`, see `copo_envs.scenes.map_seed`.
    Those of newborns are zeros.

    Errors: see `SceneEnv`.
    """

    def __init__(self, scene: str, **options: Any):
        super().__init__(scene, **options)
        self._name_agents([f"agent_{life}" for life in range(self.options.max_lives)])
        self._slot_of: dict[str, int] = {}
        self._seen: set[str] = set()
        self._positions: dict[str, np.ndarray] = {}
        self._headings: dict[str, float] = {}

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode.

        Args:
            seed: determines the episode. None: the next of the sequence that the last given seed began; of one from
                the operating system if none was given.
            options: {"num_agents": vehicles on the road in this episode, at most as many as the scene was made for,
                "maps": "train" or "heldout", which maps of `pg_map` the episode takes place on}, both optional.

        Raises:
            SceneError: a seed or number of agents that is none, or maps that there are not.
        """
        batch = self._begin_episode(seed, options)
        self._seen.clear()
        self._positions, self._headings = {}, {}
        newborns = self._admit(batch)
        return {agent: batch.obs[slot].copy() for agent, slot in newborns.items()}, {
            agent: self._newborn_info() for agent in newborns
        }

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step of 0.1 s.

        Args:
            actions: agent -> (2,) in [-1, 1], values beyond are clipped; one for every agent in `agents`. Actions of
                agents that ended before are ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos of the agents that acted and of the newborns.

        Raises:
            SceneError: a missing action, one for an agent that never was, or one that is not two finite numbers.
        """
        acted = self._slot_of
        batch = self._drive(actions, acted, self._seen)
        by_slot = self._infos_by_slot(batch)
        terminated = {agent: bool(batch.terminated[slot]) for agent, slot in acted.items()}
        truncated = {agent: bool(batch.truncated[slot]) for agent, slot in acted.items()}
        obs = {
            agent: (batch.final_obs if terminated[agent] or truncated[agent] else batch.obs)[slot].copy()
            for agent, slot in acted.items()
        }
        infos = {agent: by_slot[slot] for agent, slot in acted.items()}
        rewards = {agent: infos[agent]["own_reward"] for agent in acted}
        self._positions = {agent: batch.acted_position[slot].copy() for agent, slot in acted.items()}
        self._headings = {agent: float(batch.acted_heading[slot]) for agent, slot in acted.items()}
        for agent, slot in self._admit(batch).items():
            obs[agent] = batch.obs[slot].copy()
            rewards[agent] = 0.0
            terminated[agent] = truncated[agent] = False
            infos[agent] = self._newborn_info()
        return obs, rewards, terminated, truncated, infos

    def positions(self) -> dict[str, np.ndarray]:
        """Agent -> (2,) metres after the last step or reset, vehicles that ended in it and newborns included."""
        return dict(self._positions)

    def headings(self) -> dict[str, float]:
        """Agent -> radians, counter-clockwise from the x axis, of everybody in `positions()`."""
        return dict(self._headings)

    def close(self) -> None:
        super().close()
        self._slot_of, self._positions, self._headings = {}, {}, {}

    def _living(self) -> dict[str, int]:
        return self._slot_of

    def _admit(self, batch: StepBatch) -> dict[str, int]:
        """Newborn agents and their slots, in the order of their lives. Brings `agents` up to date."""
        lives = sorted((int(batch.life[slot]), int(slot)) for slot in np.nonzero(batch.active)[0])
        self._slot_of = {f"agent_{life}": slot for life, slot in lives}
        self.agents = list(self._slot_of)
        newborns = {agent: slot for agent, slot in self._slot_of.items() if agent not in self._seen}
        self._seen.update(newborns)
        self._positions.update({agent: batch.position[slot].copy() for agent, slot in newborns.items()})
        self._headings.update({agent: float(batch.heading[slot]) for agent, slot in newborns.items()})
        return newborns

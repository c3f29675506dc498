"""Rule-based vehicles among the agents: a `Simulator` that drives some of another one's slots by itself."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from copo_envs.episodes import EpisodeState
from copo_envs.scenes import SceneError, SceneOptions, check_actions
from copo_envs.step_batch import ACTION_SIZE, NOW_FIELDS, Simulator, StepBatch

_KINDS_STREAM = 3
"""With the episode's seed it seeds who is an agent; the seed alone seeds the simulator's draws."""


class MixedTraffic:
    """A scene in which a rule drives `options.rule_based` of the vehicles.

    Which slots of the scene are agents is drawn at reset and stays for the episode, so that a newborn is of the kind of
    the slot that it takes. The batch is about the agents alone, and their lives are numbered from 0; the others are in
    `traffic`. While no agent is alive and one may still come, time passes, as it does in every scene.

    Args:
        simulator: of `options.num_agents + options.rule_based` slots.
        options: with `rule_based` of 1 or more.
    """

    def __init__(self, simulator: Simulator, options: SceneOptions):
        self.options = options
        self.simulator = simulator
        self.num_slots = options.num_agents
        self.obs_size = simulator.obs_size
        self.max_lives = simulator.max_lives
        self.batch = StepBatch.zeros(self.num_slots, self.obs_size)
        self._agents = np.arange(self.num_slots)
        self._numbers: dict[int, int] = {}
        """Number of a life in the simulator -> its number among the agents' lives."""
        self._begun = 0
        """Lives that have begun in the simulator, the agents' and the others'."""
        self._state = EpisodeState()

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.batch.clear_transition()
        return self.begin_episode(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        count = self.num_slots if num_agents is None else num_agents
        if not 1 <= count <= self.num_slots:
            raise SceneError(f"num_agents={count} at reset; this environment was made for 1 to {self.num_slots}")
        with self._state.during("reset"):
            self._begin(seed, count, maps)
        return self.batch

    def _begin(self, seed: int, count: int, maps: str | None) -> None:
        vehicles = count + self.options.rule_based
        self.simulator.begin_episode(seed, vehicles, maps)
        rng = np.random.default_rng([seed, _KINDS_STREAM])
        chosen = np.sort(rng.permutation(vehicles)[:count])
        self._agents = np.concatenate([chosen, np.arange(vehicles, self.num_slots + self.options.rule_based)])
        self._numbers, self._begun = {}, vehicles
        self._take_over_now()
        self.batch.episode_over[...] = self._state.over = False
        self._state.begun = True

    def step(self, actions: np.ndarray) -> StepBatch:
        self._state.check()
        moves = check_actions(actions, self.num_slots, self.batch.active)
        with self._state.during("step"):
            self._advance(moves)
        return self.batch

    def _advance(self, moves: np.ndarray) -> None:
        self._step_everybody(moves)
        inner = self.simulator.batch
        for field in fields(StepBatch):
            if field.name not in (*NOW_FIELDS, "episode_step", "episode_over"):
                getattr(self.batch, field.name)[...] = getattr(inner, field.name)[self._agents]
        lives = self.batch.acted_life
        lives[...] = [self._numbers.get(int(life), -1) for life in lives]
        while not (inner.active[self._agents].any() or inner.episode_over or self._nobody_will_come()):
            self._step_everybody(np.zeros((self.num_slots, ACTION_SIZE), np.float32))
        self._take_over_now()
        self.batch.episode_over[...] = self._state.over = not self.batch.active.any()

    @property
    def backend(self) -> str | None:
        return self.simulator.backend

    def scenery(self) -> dict[str, Any]:
        return {**self.simulator.scenery(), "rule_based": True}

    def wrecks(self) -> np.ndarray:
        return self.simulator.wrecks()

    def traffic(self) -> np.ndarray:
        inner = self.simulator.batch
        driven = inner.active.copy()
        driven[self._agents] = False
        return np.column_stack([inner.position[driven], inner.heading[driven]])

    def rule_actions(self) -> np.ndarray:
        return self.simulator.rule_actions()[self._agents]

    def close(self) -> None:
        self.simulator.close()

    def _step_everybody(self, moves: np.ndarray) -> None:
        everybody = self.simulator.rule_actions()
        everybody[self._agents] = moves
        inner = self.simulator.step(everybody)
        self._begun = max(self._begun, int(inner.life.max(initial=-1)) + 1)

    def _nobody_will_come(self) -> bool:
        inner, options = self.simulator.batch, self.options
        return not options.respawn or int(inner.episode_step) >= options.horizon or self._begun >= self.max_lives

    def _take_over_now(self) -> None:
        batch, inner = self.batch, self.simulator.batch
        for name in NOW_FIELDS:
            getattr(batch, name)[...] = getattr(inner, name)[self._agents]
        for life in np.sort(batch.life[batch.active]):
            self._numbers.setdefault(int(life), len(self._numbers))
        batch.life[batch.active] = [self._numbers[int(life)] for life in batch.life[batch.active]]
        batch.episode_step[...] = inner.episode_step

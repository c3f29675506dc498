"""Episode after episode: whether one is under way, their seeds, and a simulator that begins the next one by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from copo_envs.scenes import SceneError
from copo_envs.step_batch import Simulator, StepBatch


@dataclass
class EpisodeState:
    """Whether a simulator can take a step."""

    begun: bool = False
    over: bool = False
    interrupted: str = ""
    """reset or step, where one was: it has left something half done, on which nothing can go on."""

    def check(self) -> None:
        """Refuse a step that cannot be.

        Raises:
            SceneError: with the reason.
        """
        if self.interrupted:
            raise SceneError(f"the last {self.interrupted} was interrupted: call reset(seed) to begin an episode")
        if not self.begun:
            raise SceneError("step() before reset(): call reset(seed) first")
        if self.over:
            raise SceneError("the episode is over: call reset(seed) to begin another")

    @contextmanager
    def during(self, call: str) -> Iterator[None]:
        """Around a reset or step: an exception leaves it `interrupted`."""
        self.interrupted = call
        yield
        self.interrupted = ""


class EpisodeSeeds:
    """The seeds of consecutive episodes: the one given, then draws from a generator seeded with it.

    The PettingZoo views take theirs from the same sequence: `reset(seed=s)`, then `reset()`, `reset()`, ...
    """

    def __init__(self, seed: int):
        self.current = int(seed)
        self._rng = np.random.default_rng(self.current)

    def advance(self) -> int:
        """The seed of the next episode, from now on the current one."""
        self.current = int(self._rng.integers(2**31))
        return self.current


class AutoReset:
    """A simulator that begins the next episode in the step that ended the last one.

    `batch.episode_over` still says that an episode ended; the "now" half belongs to the new one. The seeds of the
    episodes are those of `EpisodeSeeds`.
    """

    def __init__(self, simulator: Simulator):
        self.simulator = simulator
        self.batch = simulator.batch
        self._seeds = EpisodeSeeds(0)
        self._num_agents: int | None = None
        self._maps: str | None = None
        self._first_steps = 0
        self._steps = 0

    def reset(
        self, seeds: EpisodeSeeds, num_agents: int | None = None, maps: str | None = None, first_steps: int = 0
    ) -> StepBatch:
        """Begin the current episode of `seeds`, which determine all that follow it as well; see `SceneVector.reset`."""
        self._seeds = seeds
        self._first_steps, self._steps = first_steps, 0
        self._num_agents = num_agents
        self._maps = maps
        return self.simulator.reset(self._seeds.current, num_agents, maps)

    def step(self, actions: np.ndarray) -> StepBatch:
        """One env step."""
        self.simulator.step(actions)
        self._steps += 1
        if self._first_steps and self._steps >= self._first_steps and not self.batch.episode_over:
            self._cut()
        if self.batch.episode_over:
            self._first_steps = 0
            self.simulator.begin_episode(self._seeds.advance(), self._num_agents, self._maps)
            self.batch.episode_over[...] = True
        return self.batch

    def set_num_agents(self, num_agents: int) -> None:
        """Begin the episodes from the next one on with so many vehicles."""
        self._num_agents = num_agents

    def _cut(self) -> None:
        """End the episode here: whoever lives on is truncated, and how that life would have ended is not known.

        Where nobody who acted lives on the next step is as good: truncated lives show that the episode is not whole.
        """
        batch = self.batch
        cut = batch.acted & ~batch.terminated & ~batch.truncated
        batch.truncated[cut] = True
        batch.final_obs[cut] = batch.obs[cut]
        batch.episode_over[...] = cut.any()

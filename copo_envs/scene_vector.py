"""E scenes at once, in worker processes, that begin new episodes by themselves and survive the death of a worker."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from copo_envs.episodes import EpisodeSeeds
from copo_envs.local import LocalWorker
from copo_envs.process import ProcessSimulator, WorkerDied, WorkerError
from copo_envs.scenes import SceneError, SceneOptions, check_actions, get_scene
from copo_envs.step_batch import ACTION_SIZE, NOW_FIELDS, StepBatch


class WorkerRestartWarning(RuntimeWarning):
    """A worker of a `SceneVector` died and was replaced."""


class SceneVector:
    """E copies of a scene that step together and begin new episodes by themselves.

    Args:
        options: from `scene_options`.
        num_envs: E, one worker process each; 0: one scene in this process, for a debugger.
        restart: replace a worker that dies instead of raising `WorkerDied`. A warning says so, and `restarted` which
            environment it was. Nobody knows what the lost step did, so the lives that were in it are cut in the batch:
            truncated with reward 0, their last known observation as the final one, and outcome 0; a new episode has
            begun. The other environments lose nothing. A worker that dies `MAX_DEATHS` times within `DEATH_WINDOW`
            steps is given up.
    """

    MAX_DEATHS = 3
    DEATH_WINDOW = 1000

    def __init__(self, options: SceneOptions, num_envs: int, restart: bool = False):
        if num_envs < 0:
            raise SceneError(f"num_envs={num_envs}; use 1 or more worker processes, or 0 for one scene in this process")
        self.options = options
        self.num_envs = max(1, num_envs)
        self.num_slots = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.batch = StepBatch.zeros(self.num_slots, self.obs_size, lead=(self.num_envs,))
        self.restarted = np.zeros(self.num_envs, np.bool_)
        """(E,) in the last step or reset the worker died and another one took its place."""
        self.episode_seed = np.zeros(self.num_envs, np.int64)
        """(E,) seeds of the running episodes."""
        self._restart = restart
        self._workers: list[ProcessSimulator] | list[LocalWorker] = [
            ProcessSimulator(options, auto_reset=True) for _ in range(num_envs)
        ] or [LocalWorker(options)]
        self._rows: list[StepBatch] = []
        self._seeds: list[EpisodeSeeds] = []
        self._num_agents: int | None = None
        self._maps: str | None = None
        self._first_steps = [0] * self.num_envs
        self._steps = 0
        self._deaths: list[list[int]] = [[] for _ in range(self.num_envs)]
        """Per environment: the values of `_steps` at which its worker died."""

    def reset(
        self,
        seeds: Sequence[int] | None,
        num_agents: int | None = None,
        maps: str | None = None,
        first_steps: Sequence[int] | None = None,
    ) -> StepBatch:
        """Begin an episode in each environment. `seeds` (E,) determine it and all that follow it there.

        Args:
            seeds: one each. None: every environment goes on to the episode that would have begun next.
            num_agents, maps: as of `Simulator.reset`; they hold for the episodes that follow, too.
            first_steps: (E,) cut the first episode after so many steps, so that those that follow begin at different
                times; 0: do not. Lives that are cut are truncated, with outcome 0.
        """
        if seeds is None and not self._seeds:
            raise SceneError("reset() without seeds before the first reset: give one for each environment")
        if seeds is not None and len(seeds) != self.num_envs:
            raise SceneError(f"{len(seeds)} seeds for {self.num_envs} environments; give one each")
        cuts = [0] * self.num_envs if first_steps is None else [int(steps) for steps in first_steps]
        if len(cuts) != self.num_envs or min(cuts) < 0:
            raise SceneError(f"first_steps={cuts}; give {self.num_envs} numbers of 0 or more")
        self._first_steps = cuts
        self._rows = [self.batch.row(env) for env in range(self.num_envs)]
        if seeds is not None:
            self._seeds = [EpisodeSeeds(seed) for seed in seeds]
        else:
            for sequence in self._seeds:
                sequence.advance()
        self._num_agents, self._maps = num_agents, maps
        self.restarted[:] = False
        self._begin_again(self._ask(range(self.num_envs), self._send_reset))
        self._note_seeds()
        return self.batch

    @property
    def begun(self) -> bool:
        """Whether there was a reset, from which the next one can go on."""
        return bool(self._seeds)

    def set_num_agents(self, num_agents: int) -> None:
        """Begin the episodes from each environment's next one on with so many vehicles.

        A worker that died since the last step is replaced by the next one.

        Raises:
            WorkerDied: a worker died and is not to be replaced.
        """
        if not 1 <= num_agents <= self.num_slots:
            raise SceneError(f"num_agents={num_agents}; these environments were made for 1 to {self.num_slots}")
        self._num_agents = num_agents
        # Who died is replaced in the next step: before it there is no transition in which its lives could be cut.
        self._ask(range(self.num_envs), lambda env: self._workers[env].send("set_num_agents", num_agents))

    def step(self, actions: np.ndarray) -> StepBatch:
        """One step of every environment. actions (E, N, 2)."""
        if not self._rows:
            raise SceneError("step() before reset(): call reset(seeds) first")
        self.restarted[:] = False
        self._steps += 1
        # All are checked before one is sent: a refusal must not leave some environments a step ahead.
        moves = [check_actions(move, self.num_slots, row.active) for move, row in zip(actions, self._rows, strict=True)]
        died = self._ask(range(self.num_envs), lambda env: self._workers[env].step_async(moves[env]))
        if died:
            self._replace(died)
        for env in np.nonzero(self.batch.episode_over & ~self.restarted)[0]:
            self._seeds[env].advance()
        self._note_seeds()
        return self.batch

    def backend(self, env: int) -> str | None:
        """The step that drives the episode of an environment, see `Simulator.backend`."""
        return self._workers[env].backend

    def scenery(self, env: int) -> dict[str, Any]:
        """The scenery of an environment, see `Simulator.scenery`."""
        return self._workers[env].scenery()

    def wrecks(self, env: int) -> np.ndarray:
        """The wrecks of an environment, see `Simulator.wrecks`."""
        return self._workers[env].wrecks()

    def traffic(self, env: int) -> np.ndarray:
        """The rule-based traffic of an environment, see `Simulator.traffic`."""
        return self._workers[env].traffic()

    def rule_actions(self) -> np.ndarray:
        """(E, N, 2): what the rule-based driver would do now, see `Simulator.rule_actions`.

        Zeros where a worker died since the last step and the next one will replace it.

        Raises:
            WorkerDied: a worker died and is not to be replaced.
        """
        if not self._rows:
            raise SceneError("rule_actions() before reset(): call reset(seeds) first")
        actions = np.zeros((self.num_envs, self.num_slots, ACTION_SIZE), np.float32)
        for env, worker in enumerate(self._workers):
            try:
                actions[env] = worker.rule_actions()
            except WorkerDied:
                if not self._restart:
                    raise
        return actions

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> SceneVector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # Views do not survive pickling; a reset makes them anew. What has started refuses by itself.
        return {**self.__dict__, "_rows": []}

    def _send_reset(self, env: int) -> None:
        seeds = copy.deepcopy(self._seeds[env])  # a scene in this process must not share it
        self._workers[env].send("reset", seeds, self._num_agents, self._maps, self._first_steps[env])

    def _ask(self, envs: Iterable[int], send: Callable[[int], None]) -> dict[int, WorkerDied]:
        """Send a command to some workers, wait for all of them, and take over what they did. Returns who died."""
        died: dict[int, WorkerDied] = {}
        errors: list[Exception] = []
        asked = []
        for env in envs:
            try:
                send(env)
                asked.append(env)
            except WorkerDied as error:
                died[env] = error
        for env in asked:
            try:
                self._workers[env].receive()
            except WorkerDied as error:
                died[env] = error  # what it left in the shared memory may be half a step
                continue
            except (SceneError, WorkerError) as error:  # the others' replies must not stay in their pipes
                errors.append(error)
            self._rows[env].copy_from(self._workers[env].batch)
        if errors:
            raise errors[0]
        if died and not self._restart:
            raise next(iter(died.values()))
        return died

    def _replace(self, died: dict[int, WorkerDied]) -> None:
        """Cut the lives that were in the workers that died in a step, and begin new episodes there."""
        cut = {env: StepBatch.zeros(self.num_slots, self.obs_size) for env in died}
        for env, lost in cut.items():
            row = self._rows[env]
            lost.acted[:] = lost.truncated[:] = row.active
            for name, source in (
                ("acted_life", row.life),
                ("final_obs", row.obs),
                ("acted_position", row.position),
                ("acted_heading", row.heading),
            ):
                getattr(lost, name)[row.active] = source[row.active]
            self._first_steps[env] = 0
            # The same state and number of deaths give the same episode again.
            self._seeds[env] = EpisodeSeeds(self._seeds[env].advance())
        self._begin_again(died)
        for env, lost in cut.items():
            row = self._rows[env]
            for name in NOW_FIELDS:
                getattr(lost, name)[...] = getattr(row, name)
            lost.episode_over[...] = True
            row.copy_from(lost)

    def _begin_again(self, died: dict[int, WorkerDied]) -> None:
        """New workers for those that died, at the beginning of an episode."""
        while died:
            for env, error in died.items():
                self._count_death(env, error)
                self.restarted[env] = True
            died = self._ask(died, self._send_reset)

    def _count_death(self, env: int, error: WorkerDied) -> None:
        recent = [step for step in self._deaths[env] if step > self._steps - self.DEATH_WINDOW]
        self._deaths[env] = [*recent, self._steps]
        if len(self._deaths[env]) >= self.MAX_DEATHS:
            raise WorkerError(
                f"environment {env} is given up: its worker has died {self.MAX_DEATHS} times within "
                f"{self.DEATH_WINDOW} steps; the last time, {error}"
            ) from error
        warnings.warn(
            f"environment {env}, step {self._steps}: {error}. A new worker has taken its place and begins another one",
            WorkerRestartWarning,
            stacklevel=5,
        )

    def _note_seeds(self) -> None:
        self.episode_seed[:] = [seeds.current for seeds in self._seeds]

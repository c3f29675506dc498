"""A trained policy drives every vehicle of a scene."""

from __future__ import annotations

import numpy as np

from copo_algos.policy import Policy
from copo_envs.step_batch import Simulator, StepBatch


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

"""Whom the view follows from step to step."""

from __future__ import annotations

import numpy as np

from copo_envs.drawing.options import MARKER_STEPS, RenderError
from copo_envs.step_batch import StepBatch


class Follower:
    """Looks at every step of an episode, in order.

    Args:
        follow: "agent_<life>": that one, and others before it begins and after it has ended. "slot_<number>": whoever
            is in the slot. "auto": the first vehicle and, when it has ended, the one that began last.
    """

    def __init__(self, follow: str):
        kind, _, number = follow.partition("_")
        self._wanted = int(number) if kind == "agent" else None
        self._slot = int(number) if kind == "slot" else None
        self._step = -1
        self._forget()

    def _forget(self) -> None:
        self.life: int | None = None
        """Number of the life that is followed; None before anybody drives."""
        self.place: np.ndarray | None = None
        """(2,) metres: where it is, or ended."""
        self._ended_at: int | None = None  # the view stays there for as long as the ring shows how

    @property
    def name(self) -> str:
        """What to call the vehicle that is followed; empty before anybody drives."""
        if self._slot is not None:
            return f"slot_{self._slot}"
        return "" if self.life is None else f"agent_{self.life}"

    def look(self, batch: StepBatch) -> None:
        """Go on to this step.

        Raises:
            RenderError: a slot that the batch does not have.
        """
        if self._slot is not None and self._slot >= len(batch.life):
            raise RenderError(
                f"there is no slot_{self._slot} to follow; choose one of slot_0 to slot_{len(batch.life) - 1}"
            )
        now = int(batch.episode_step)
        if now < self._step:
            self._forget()  # another episode
        self._step = now
        alive = {int(batch.life[slot]): int(slot) for slot in np.flatnonzero(batch.active)}
        if self.life is not None and self.life not in alive and self._ended_at is None:
            self._ended_at = now
            last = np.flatnonzero(batch.acted & (batch.acted_life == self.life))
            self.place = batch.acted_position[last[0]].copy() if len(last) else self.place
        if self._free(now, alive):
            chosen = self._choose(batch, alive)
            if chosen is not None:
                self.life, self._ended_at = chosen, None
        if self.life in alive:
            self.place = batch.position[alive[self.life]].copy()

    def _free(self, now: int, alive: dict[int, int]) -> bool:
        """Whether to choose anew."""
        if self._wanted in alive and self.life != self._wanted:
            return True
        return self.life is None or (self._ended_at is not None and now - self._ended_at >= MARKER_STEPS)

    def _choose(self, batch: StepBatch, alive: dict[int, int]) -> int | None:
        if self._slot is not None:
            return int(batch.life[self._slot]) if batch.active[self._slot] else None
        if self._wanted in alive:
            return self._wanted
        if not alive:
            return None
        # The one that began last has most of its way before it: the view changes seldom.
        return min(alive) if self.life is None else max(alive)

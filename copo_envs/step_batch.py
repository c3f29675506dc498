"""One step of a whole population as arrays: the hand-over between a simulator and everything else.

Legend, used in the whole project: **T** steps of a rollout, **E** environments, **N** vehicle slots per
environment, **D** observation size, **K** nearest neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

ACTION_SIZE = 2  # steering, throttle/brake, each in [-1, 1]

# name -> (trailing shape, dtype); "D" stands for the observation size
_LAYOUT: dict[str, tuple[tuple[int | str, ...], type]] = {
    "obs": (("D",), np.float32),
    "active": ((), np.bool_),
    "life": ((), np.int64),
    "position": ((2,), np.float64),
    "heading": ((), np.float64),
    "spawned": ((), np.bool_),
    "acted": ((), np.bool_),
    "acted_life": ((), np.int64),
    "reward": ((), np.float64),
    "terminated": ((), np.bool_),
    "truncated": ((), np.bool_),
    "outcome": ((), np.int8),
    "final_obs": (("D",), np.float32),
    "acted_position": ((2,), np.float64),
    "acted_heading": ((), np.float64),
    "velocity": ((), np.float64),
    "route_completion": ((), np.float64),
    "cost": ((), np.float64),
    "energy": ((), np.float64),
    "life_steps": ((), np.int64),
}
NOW_FIELDS = ("obs", "active", "life", "position", "heading", "spawned")


@dataclass
class StepBatch:
    """Everything that one env step says about the N slots of a scene (or of E scenes: leading axis E).

    *Now* describes who is alive after the step and will act next; *the transition* describes who acted
    in it. A slot whose vehicle ended at this step may hold a newborn already, so the two halves can speak
    of different lives: `acted_life` and `life` tell.

    Now (rows of empty slots are zero, their `life` is -1):

    * obs (N, D) float32: what the vehicle in the slot sees.
    * active (N,) bool: the slot holds a living vehicle, which acts next.
    * life (N,): number of the life in the slot, counted from 0 in an episode: agent `agent_<life>`.
    * position (N, 2) metres, heading (N,) radians, counter-clockwise from the x axis.
    * spawned (N,) bool: the life in the slot began in this step and has not acted yet.

    The transition (rows of slots that did not act are zero):

    * acted (N,) bool, acted_life (N,).
    * reward (N,): the vehicle's own reward.
    * terminated, truncated (N,) bool: the life ended in this step; never both.
    * outcome (N,) int8: `Outcome` codes, 0 while running.
    * final_obs (N, D): last observation of the lives that ended in this step, zeros elsewhere.
    * acted_position (N, 2), acted_heading (N,): after the step, vehicles that ended in it included.
    * velocity (N,) m/s; route_completion (N,) in [0, 1]; cost (N,); energy (N,) of this step;
      life_steps (N,): steps the life has lasted, this one included.
    """

    obs: np.ndarray
    active: np.ndarray
    life: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    spawned: np.ndarray
    acted: np.ndarray
    acted_life: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    outcome: np.ndarray
    final_obs: np.ndarray
    acted_position: np.ndarray
    acted_heading: np.ndarray
    velocity: np.ndarray
    route_completion: np.ndarray
    cost: np.ndarray
    energy: np.ndarray
    life_steps: np.ndarray
    episode_step: np.ndarray
    """() int64: env steps since the episode began."""
    episode_over: np.ndarray
    """() bool: nobody is alive and nobody will be."""

    @staticmethod
    def shapes(
        num_slots: int, obs_size: int, lead: tuple[int, ...] = ()
    ) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name -> (shape, dtype) of every array, `lead` axes first."""
        out: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for name, (trailing, dtype) in _LAYOUT.items():
            tail = tuple(obs_size if size == "D" else int(size) for size in trailing)
            out[name] = ((*lead, num_slots, *tail), np.dtype(dtype))
        out["episode_step"] = (lead, np.dtype(np.int64))
        out["episode_over"] = (lead, np.dtype(np.bool_))
        return out

    @classmethod
    def nbytes(cls, num_slots: int, obs_size: int) -> int:
        """Bytes that `from_buffer` needs."""
        return sum(
            _aligned(int(np.prod(shape)) * dtype.itemsize) for shape, dtype in cls.shapes(num_slots, obs_size).values()
        )

    @classmethod
    def zeros(cls, num_slots: int, obs_size: int, lead: tuple[int, ...] = ()) -> StepBatch:
        """A batch of empty slots."""
        arrays = {
            name: np.zeros(shape, dtype) for name, (shape, dtype) in cls.shapes(num_slots, obs_size, lead).items()
        }
        arrays["life"][...] = -1
        arrays["acted_life"][...] = -1
        return cls(**arrays)

    @classmethod
    def from_buffer(cls, buffer: Any, num_slots: int, obs_size: int) -> StepBatch:
        """A batch whose arrays are views of `buffer` (at least `nbytes` long), for shared memory."""
        arrays, offset = {}, 0
        for name, (shape, dtype) in cls.shapes(num_slots, obs_size).items():
            arrays[name] = np.ndarray(shape, dtype, buffer=buffer, offset=offset)
            offset += _aligned(arrays[name].nbytes)
        return cls(**arrays)

    def clear_transition(self) -> None:
        """Forget who acted: after a reset nobody has."""
        for field in fields(self):
            if field.name not in NOW_FIELDS and field.name not in ("episode_step", "episode_over"):
                getattr(self, field.name)[...] = 0
        self.acted_life[...] = -1

    def clear_now(self) -> None:
        """Empty every slot."""
        for name in NOW_FIELDS:
            getattr(self, name)[...] = 0
        self.life[...] = -1

    def copy_from(self, other: StepBatch) -> None:
        """Overwrite this batch with another of the same shapes."""
        for field in fields(self):
            getattr(self, field.name)[...] = getattr(other, field.name)

    def row(self, env: int) -> StepBatch:
        """Views of one environment of a batch with a leading axis E."""
        return StepBatch(**{field.name: getattr(self, field.name)[env, ...] for field in fields(self)})


def _aligned(size: int) -> int:
    return (size + 15) // 16 * 16


class Simulator(Protocol):
    """A respawning scene seen through slots: MetaDrive, the particles, or either in a worker process.

    `batch` is overwritten by every call: copy what you keep.
    """

    num_slots: int
    obs_size: int
    max_lives: int

    @property
    def batch(self) -> StepBatch:
        """What the last call left."""
        ...

    @property
    def backend(self) -> str | None:
        """The step that drives this episode: "fast", MetaDrive's for all vehicles at once, or "stock", its own. None
        before the first reset, and where there is no MetaDrive."""
        ...

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        """Begin the episode that `seed` determines with `num_agents` vehicles (default: every slot), on one of the
        `maps` "train" or "heldout" (default: as in the options)."""
        ...

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        """As `reset`, but leave the transition half of the batch alone (for automatic resets)."""
        ...

    def step(self, actions: np.ndarray) -> StepBatch:
        """One env step. actions (N, 2), steering and throttle in [-1, 1]; rows of empty slots are ignored."""
        ...

    def scenery(self) -> dict[str, Any]:
        """What a picture needs, after the first reset: `lanes` [polygon (K, 2)], `lines` [(polyline (K, 2), "white" |
        "yellow", dashed)], `buildings` [polygon (K, 2)], all in metres, `vehicle_size` (length, width), and, where
        there may be `traffic`, `rule_based` True."""
        ...

    def wrecks(self) -> np.ndarray:
        """(W, 3): x, y in metres and heading of the vehicles that ended and still stand in the way."""
        ...

    def traffic(self) -> np.ndarray:
        """(V, 3): x, y in metres and heading of the living vehicles that are not in the batch, because a rule drives
        them (the option `rule_based`)."""
        ...

    def rule_actions(self) -> np.ndarray:
        """(N, 2) float32: what the rule-based driver would do now, zeros for empty slots. Asking moves nobody; but the
        driver sees what it is asked about alone, and how long somebody has stood counts: ask in every step."""
        ...

    def close(self) -> None:
        """Free everything. Closing twice is fine."""
        ...

"""A tiny respawning scene without MetaDrive: discs that cross a square. For tests, tutorials and probes.

Everything is a few numpy lines: a disc has a position, a heading and a speed; steering turns it, the throttle changes
its speed. It begins at one side of the square and has a goal at another. It ends when it reaches the goal, touches
another disc (or a wreck), leaves the square, or runs out of time, and a new one takes its place. The options
that choose roads, maps and toll counters mean nothing here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from copo_envs.episodes import EpisodeState
from copo_envs.outcomes import Outcome
from copo_envs.scenes import SceneError, SceneOptions, check_actions, get_scene, map_seed
from copo_envs.step_batch import StepBatch

STEP_S = 0.1
HALF_SIDE = 30.0  # metres, as all lengths
RADIUS = 0.5
GOAL_RADIUS = 2.0
MAX_SPEED = 8.0  # m/s
ACCELERATION = 4.0  # m/s^2 at full throttle
TURN_RATE = 1.5  # rad/s at full steering
SPAWN_GAP = 5.0
"""A spawn place is free when no disc is closer than this."""
SENSOR_RANGE = 20.0
NUM_SECTORS = 24
"""The range sensor tells the gap to the nearest disc in each of this many equal sectors, the first one ahead."""
END_REWARD = 10.0
AVOID_WITHIN = 4.0
"""The rule-based driver turns away from discs that are closer than this."""

_INSET = HALF_SIDE - 3.0
_QUARTER_TURNS = np.arange(4) * np.pi / 2


def _along_sides(offsets: np.ndarray) -> np.ndarray:
    """(4, len(offsets), 2): points on the four sides, a little inside the square."""
    outward = np.stack([np.cos(_QUARTER_TURNS), np.sin(_QUARTER_TURNS)], axis=1)
    sideways = np.stack([-outward[:, 1], outward[:, 0]], axis=1)
    return _INSET * outward[:, None] + offsets[None, :, None] * sideways[:, None]


PLACES = _along_sides(np.arange(-21.0, 22.0, 6.0)).reshape(-1, 2)
"""(32, 2) spawn places, eight a side."""
PLACE_SIDE = np.repeat(np.arange(4), 8)
GOALS = _along_sides(np.arange(-18.0, 19.0, 6.0))
"""(4, 7, 2): they lie between the spawn places, so that nobody appears on top of a goal."""


class ParticlesSimulator:
    """The discs as a `Simulator`. A wreck keeps its slot until it is taken away.

    Observation (32 numbers in [0, 1]): speed; sine and cosine of the bearing of the goal; distance to the goal;
    distance to the wall ahead, left, behind, right; gap to the nearest disc in each of 24 sectors, 1 where it is empty.
    Reward: metres of progress to the goal, +10 at success, -10 at a crash or outside. Cost: 1 at a crash or outside.
    Energy: work of the throttle in this step, J/kg.

    Args:
        options: from `scene_options("particles")`.
    """

    def __init__(self, options: SceneOptions):
        self.options = options
        self.num_slots = n = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.max_lives = options.max_lives
        self.batch = StepBatch.zeros(n, self.obs_size)
        self._rng = np.random.default_rng(0)
        self._state = EpisodeState()
        self._population = n  # discs and wrecks that the square holds in this episode
        self._lives = 0  # lives begun in this episode
        self._wreck_steps = np.zeros(n, np.int64)  # steps until a wreck is taken away; 0: no wreck
        self._position = np.zeros((n, 2))
        self._heading = np.zeros(n)
        self._speed = np.zeros(n)
        self._goal = np.zeros((n, 2))
        self._route = np.ones(n)  # distance to the goal at the beginning of the life
        self._age = np.zeros(n, np.int64)

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.batch.clear_transition()
        return self.begin_episode(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        map_seed(self.options, seed, maps)  # refuses maps that there are not
        count = self.num_slots if num_agents is None else num_agents
        if not 1 <= count <= self.num_slots:
            raise SceneError(f"num_agents={count} at reset; this environment was made for 1 to {self.num_slots}")
        with self._state.during("reset"):
            self._begin(seed, count)
        return self.batch

    def _begin(self, seed: int, count: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._state.begun = True
        self._population, self._lives = count, 0
        self._wreck_steps[:] = 0
        batch = self.batch
        batch.clear_now()
        batch.episode_step[...] = 0
        batch.episode_over[...] = self._state.over = False
        for slot, place in enumerate(self._rng.permutation(len(PLACES))[:count]):
            self._enter(slot, int(place))
        self._show_now()

    def step(self, actions: np.ndarray) -> StepBatch:
        self._state.check()
        moves = check_actions(actions, self.num_slots, self.batch.active)
        with self._state.during("step"):
            self._advance(moves)
        return self.batch

    def _advance(self, moves: np.ndarray) -> None:
        batch, options = self.batch, self.options
        alive = batch.active.copy()
        before = _lengths(self._goal - self._position)
        self._move(moves, alive)
        after = _lengths(self._goal - self._position)

        touching = _gaps(self._position, alive | (self._wreck_steps > 0)).min(axis=1) < 0
        reached = alive & (after < GOAL_RADIUS)
        crashed = alive & touching & ~reached
        outside = alive & (np.abs(self._position).max(axis=1) > HALF_SIDE) & ~reached & ~crashed
        terminated = reached | crashed | outside
        batch.episode_step += 1
        batch.episode_over[...] = False
        out_of_time = not options.drain and batch.episode_step >= options.horizon
        truncated = alive & ~terminated & (out_of_time | (self._age >= options.horizon))

        batch.clear_transition()
        batch.acted[:] = alive
        batch.acted_life[:] = batch.life
        batch.terminated[:] = terminated
        batch.truncated[:] = truncated
        for outcome, holds in (
            (Outcome.SUCCESS, reached),
            (Outcome.CRASH, crashed),
            (Outcome.OUT_OF_ROAD, outside),
            (Outcome.MAX_STEP, truncated),
        ):
            batch.outcome[holds] = outcome
        bad = crashed | outside
        batch.reward[alive] = (before - after + END_REWARD * (reached * 1.0 - bad))[alive]
        batch.acted_position[alive] = self._position[alive]
        batch.acted_heading[alive] = self._heading[alive]
        batch.velocity[alive] = self._speed[alive]
        batch.route_completion[alive] = (1 - after / self._route).clip(0, 1)[alive]
        batch.cost[bad] = 1.0
        batch.energy[alive] = (np.maximum(moves[:, 1], 0) * ACCELERATION * self._speed * STEP_S)[alive]
        batch.life_steps[alive] = self._age[alive]
        ended = terminated | truncated
        if ended.any():
            batch.final_obs[ended] = self._observe()[ended]

        batch.active[ended] = False
        batch.life[ended] = -1
        batch.spawned[:] = False
        self._clear_wrecks()
        self._wreck_steps[ended & ~reached] = options.delay_done
        if out_of_time:
            batch.episode_over[...] = self._state.over = True
        else:
            self._respawn()
        self._show_now()

    @property
    def backend(self) -> None:
        return None

    def scenery(self) -> dict[str, Any]:
        if not self._state.begun:
            raise SceneError("the scene has no map before its first reset")
        square = HALF_SIDE * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
        border = np.concatenate([square, square[:1]])
        return {
            "lanes": [square],
            "lines": [(border, "white", False)],
            "buildings": [],
            "vehicle_size": (2 * RADIUS, 2 * RADIUS),
        }

    def wrecks(self) -> np.ndarray:
        standing = self._wreck_steps > 0
        return np.column_stack([self._position[standing], self._heading[standing]])

    def traffic(self) -> np.ndarray:
        return np.zeros((0, 3))

    def rule_actions(self) -> np.ndarray:
        """Everybody turns to the goal, away from who is near, and is slow while turning."""
        if not self._state.begun:
            raise SceneError("rule_actions() before reset(): call reset(seed) first")
        alive = self.batch.active
        gaps = _gaps(self._position, alive | (self._wreck_steps > 0))
        offset = self._position[:, None] - self._position[None]  # (N, N, 2): from the other to me
        push = np.where(gaps < AVOID_WITHIN, 1 / np.maximum(gaps, 0.1), 0.0)[..., None] * offset
        to_goal = self._goal - self._position
        wanted = to_goal / np.maximum(_lengths(to_goal), 1e-9)[:, None] + push.sum(axis=1)
        turn = np.arctan2(wanted[:, 1], wanted[:, 0]) - self._heading
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        speed = MAX_SPEED * np.clip(np.cos(turn), 0.2, 1.0)
        actions = np.stack([turn / (TURN_RATE * STEP_S), (speed - self._speed) / (ACCELERATION * STEP_S)], axis=1)
        return np.where(alive[:, None], np.clip(actions, -1, 1), 0).astype(np.float32)

    def close(self) -> None:
        pass  # nothing to free

    def _move(self, moves: np.ndarray, alive: np.ndarray) -> None:
        """Turn, accelerate, drive on; wrecks and empty slots stay."""
        steering, throttle = np.where(alive, moves.T, 0.0)
        self._heading += steering * TURN_RATE * STEP_S
        self._speed = (self._speed + throttle * ACCELERATION * STEP_S).clip(0, MAX_SPEED) * alive
        self._position += _directions(self._heading) * (self._speed * STEP_S)[:, None]
        self._age += alive

    def _clear_wrecks(self) -> None:
        self._wreck_steps -= self._wreck_steps > 0

    def _respawn(self) -> None:
        """New lives where there is room. While nobody is alive and somebody may come, let the time pass."""
        batch, options = self.batch, self.options
        while True:
            may_come = options.respawn and self._lives < self.max_lives and batch.episode_step < options.horizon
            if may_come:
                self._fill_free_places()
            if batch.active.any():
                return
            if not may_come:
                batch.episode_over[...] = self._state.over = True
                return
            batch.episode_step += 1
            self._clear_wrecks()

    def _fill_free_places(self) -> None:
        held = self.batch.active | (self._wreck_steps > 0)
        free_slots = np.nonzero(~held)[0]
        for slot in free_slots[: min(self._population - int(held.sum()), self.max_lives - self._lives)]:
            gaps = _lengths(PLACES[:, None] - self._position[held])
            free = np.nonzero((gaps >= SPAWN_GAP).all(axis=1))[0]
            if not len(free):
                return
            self._enter(int(slot), int(self._rng.choice(free)))
            held[slot] = True

    def _enter(self, slot: int, place: int) -> None:
        """A new life in an empty slot, at rest and heading into the square."""
        side = int(PLACE_SIDE[place])
        other = (side + int(self._rng.integers(1, 4))) % 4
        self._position[slot] = PLACES[place]
        self._heading[slot] = _QUARTER_TURNS[side] + np.pi
        self._speed[slot] = 0.0
        self._goal[slot] = GOALS[other, self._rng.integers(GOALS.shape[1])]
        self._route[slot] = _lengths(self._goal[slot] - self._position[slot])
        self._age[slot] = 0
        self.batch.active[slot] = self.batch.spawned[slot] = True
        self.batch.life[slot] = self._lives
        self._lives += 1

    def _show_now(self) -> None:
        """The "now" half of the batch; empty slots hold zeros."""
        batch, active = self.batch, self.batch.active
        batch.obs[:] = np.where(active[:, None], self._observe(), 0)
        batch.position[:] = np.where(active[:, None], self._position, 0)
        batch.heading[:] = np.where(active, self._heading, 0)

    def _observe(self) -> np.ndarray:
        """(N, D) float32: what each disc sees now, itself alive or just ended."""
        n = self.num_slots
        to_goal = self._goal - self._position
        bearing = np.arctan2(to_goal[:, 1], to_goal[:, 0]) - self._heading
        obs = np.ones((n, self.obs_size))
        obs[:, 0] = self._speed / MAX_SPEED
        obs[:, 1] = (np.sin(bearing) + 1) / 2
        obs[:, 2] = (np.cos(bearing) + 1) / 2
        obs[:, 3] = _lengths(to_goal) / (2 * np.sqrt(2) * HALF_SIDE)
        rays = _directions(self._heading[:, None] + _QUARTER_TURNS)  # (N, 4, 2)
        # A ray meets the wall that it points to along x or the one along y, whichever is nearer.
        to_wall = (HALF_SIDE - np.sign(rays) * self._position[:, None]) / np.maximum(np.abs(rays), 1e-9)
        obs[:, 4:8] = to_wall.min(axis=2) / (2 * HALF_SIDE)

        bodies = self.batch.active | (self._wreck_steps > 0)
        gaps = _gaps(self._position, bodies)
        offset = self._position[None] - self._position[:, None]  # (N, N, 2): from me to the other
        angle = np.arctan2(offset[..., 1], offset[..., 0]) - self._heading[:, None]
        sector = np.rint(angle * (NUM_SECTORS / (2 * np.pi))).astype(np.int64) % NUM_SECTORS
        me, other = np.nonzero(gaps < SENSOR_RANGE)
        np.minimum.at(obs, (me, 8 + sector[me, other]), gaps[me, other] / SENSOR_RANGE)
        return obs.clip(0, 1).astype(np.float32)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """(..., 2) -> (...)."""
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _directions(angles: np.ndarray) -> np.ndarray:
    """(...) radians -> unit vectors (..., 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _gaps(position: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """(N, N) metres between the rims of two discs, infinite where either is missing and for oneself."""
    gaps = _lengths(position[:, None] - position[None]) - 2 * RADIUS
    gaps[~(bodies[:, None] & bodies)] = np.inf
    np.fill_diagonal(gaps, np.inf)
    return gaps

"""Wrappers for any PettingZoo ParallelEnv that says where its agents are: neighbours, coordination, what others see.

The environment has `positions()`, agent -> (2,) metres after the last step or reset, agents that ended in the step
included; `headings()`, agent -> radians, counter-clockwise from the x axis, where it has directions. Who is not in
`positions()` has no neighbours and is nobody's.

Agents that are always there, as those of the slots view, may be empty for a while or change their vehicle: they say so
in their infos by `active` (there is a vehicle, which acts next), `spawned` (it appeared in this step) and `terminated`
(the one that acted was terminated), and `next_positions()` and `next_headings()` tell where those are that act next.
An environment without them is one whose agents are what they seem.

Everything else of a wrapped environment can be had by its name: `positions()`, `state()`, `possible_agents`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, Space
from pettingzoo.utils.env import ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

from copo_envs.neighbours import (
    ego_frame,
    mean_field,
    nearest_neighbours,
    nearest_observations,
    neighbour_mask,
    neighbourhood_mean,
)
from copo_envs.scenes import SceneError

Infos = dict[Any, dict[str, Any]]
Results = tuple[dict[Any, np.ndarray], dict[Any, float], dict[Any, bool], dict[Any, bool], Infos]
Wrapper = BaseParallelWrapper[Any, np.ndarray, Any]


class NeighbourInfo(Wrapper):
    """Says in the infos who is near: `neighbours`, a list of agents, the nearest first, and `neighbour_distances`, a
    float array of metres.

    They are those of the positions after the step, among the agents that acted in it, those that ended in it included;
    a newborn has none and is nobody's before its own first step. After a reset: among everybody who is there.

    Args:
        env: with `positions()`.
        distance: metres; neighbours are strictly closer.
        k: the nearest K of them alone; None: all.

    Raises:
        SceneError: no `positions()`, a distance that is negative or no number, or a K below 1 or beyond the neighbours
            that an agent can have.
    """

    def __init__(self, env: ParallelEnv[Any, Any, Any], distance: float = 40.0, k: int | None = None):
        _check_parallel(self, env)
        super().__init__(env)
        _check_positions(self)
        self.distance = _checked_distance(distance)
        self.k = None if k is None else _checked_k(self, k)
        self._acting: list[Any] = []

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[Any, Any], Infos]:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._acting = _acting(self.env, infos)
        return obs, _with(infos, self._neighbours(self._acting, obs))

    def step(self, actions: dict[Any, Any]) -> Results:
        acted = self._acting
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self._acting = _acting(self.env, infos)
        return obs, rewards, terminated, truncated, _with(infos, self._neighbours(acted, rewards))

    def _neighbours(self, crowd: list[Any], agents: Iterable[Any]) -> Infos:
        here, position = _places(crowd, self.positions())
        found: Infos = {agent: {"neighbours": [], "neighbour_distances": np.zeros(0)} for agent in agents}
        if here:
            index, valid = nearest_neighbours(position, np.ones(len(here), np.bool_), len(here), self.distance)
            for row, agent in enumerate(here):
                near = index[row][valid[row]][: self.k]
                found[agent] = {
                    "neighbours": [here[other] for other in near],
                    "neighbour_distances": np.hypot(*(position[near] - position[row]).T),
                }
        return found


class CoordinatedReward(Wrapper):
    """Puts the rewards of CoPO into the infos, and returns the coordinated one if asked to.

    * `own_reward`, r: what the environment gives.
    * `neighbourhood_reward`, r_N: mean of r over the neighbours, as of `NeighbourInfo`, 0 if there are none.
    * `global_reward`, r_G: mean of r over everybody who acted.
    * `coordinated_reward`: cos(lcf pi/2) r + sin(lcf pi/2) r_N (CoPO, section 3.2).

    Agents that did not act, newborns for instance, have r_N = r_G = 0; after a reset all four are 0. These are the
    rewards of `copo train` with the rule "ours".

    Args:
        env: with `positions()`.
        distance: metres; neighbours are strictly closer.
        lcf: local coordination factor in [-1, 1], 0 selfish, 1 for the neighbours alone: one for all, a dictionary by
            agent, or a function of the agent that is asked at every step. None: from the infos, where `LCFObservation`
            puts it.
        replace_reward: return the coordinated reward as the reward.

    Raises:
        SceneError: no `positions()`, a distance that is negative or no number, or, at the latest in `reset` or `step`,
            an agent without a factor or with one beyond [-1, 1].
    """

    def __init__(
        self,
        env: ParallelEnv[Any, Any, Any],
        distance: float = 40.0,
        lcf: float | Mapping[Any, float] | Callable[[Any], float] | None = None,
        replace_reward: bool = False,
    ):
        _check_parallel(self, env)
        super().__init__(env)
        _check_positions(self)
        self.distance = _checked_distance(distance)
        self.lcf = lcf
        self.replace_reward = replace_reward
        if isinstance(lcf, Mapping):
            for agent, value in lcf.items():
                _checked_lcf(value, agent)
        elif lcf is not None and not callable(lcf):
            _checked_lcf(lcf)
        self._acting: list[Any] = []

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[Any, Any], Infos]:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._acting = _acting(self.env, infos)
        return obs, _with(infos, self._rewards([], dict.fromkeys(self.env.agents, 0.0), infos))

    def step(self, actions: dict[Any, Any]) -> Results:
        acted = self._acting
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self._acting = _acting(self.env, infos)
        shared = self._rewards(acted, rewards, infos)
        if self.replace_reward:
            rewards = {agent: told["coordinated_reward"] for agent, told in shared.items()}
        return obs, rewards, terminated, truncated, _with(infos, shared)

    def _rewards(self, acted: list[Any], rewards: Mapping[Any, float], infos: Infos) -> Infos:
        here, position = _places(acted, self.positions())
        own = np.array([rewards[agent] for agent in here], np.float64)
        mask = neighbour_mask(position, np.ones(len(here), np.bool_), self.distance)
        neighbourhood = dict(zip(here, neighbourhood_mean(own, mask).tolist(), strict=True))
        mean = float(np.mean([rewards[agent] for agent in acted])) if acted else 0.0
        everybody = dict.fromkeys(acted, mean)
        found: Infos = {}
        for agent, reward in rewards.items():
            angle = self._lcf_of(agent, infos) * (np.pi / 2)
            near = neighbourhood.get(agent, 0.0)
            found[agent] = {
                "own_reward": float(reward),
                "neighbourhood_reward": near,
                "global_reward": everybody.get(agent, 0.0),
                "coordinated_reward": float(np.cos(angle) * reward + np.sin(angle) * near),
            }
        return found

    def _lcf_of(self, agent: Any, infos: Infos) -> float:
        lcf = self.lcf
        if lcf is None:
            lcf = infos[agent].get("lcf")
            if lcf is None:
                raise SceneError(
                    f"no lcf for {agent!r}: the infos have none; wrap the environment in LCFObservation first, "
                    "or give lcf a number in [-1, 1]"
                )
        elif isinstance(lcf, Mapping):
            if agent not in lcf:
                raise SceneError(f"no lcf for {agent!r}; the dictionary needs one for every agent")
            lcf = lcf[agent]
        elif callable(lcf):
            lcf = lcf(agent)
        return _checked_lcf(lcf, agent)


class LCFObservation(Wrapper):
    """Gives every agent a local coordination factor phi, which it sees: (phi + 1) / 2 at the end of its observation.

    phi ~ N(mean, std), clipped to [-1, 1], is drawn at the agent's birth and kept for life. `lcf` in the infos is that
    of who acted in this step, else of the newborn; an agent that is empty has 0, and 0 in its observation. All draws
    follow from the seed of `reset`; `reset(seed=None)` goes on with its sequence, whatever was drawn before.

    Args:
        env: observations are vectors, Box of floats.
        mean: in [-1, 1].
        std: 0 or more.

    Raises:
        SceneError: other observations, or a mean or std that cannot be.
    """

    def __init__(self, env: ParallelEnv[Any, Any, Any], mean: float = 0.0, std: float = 0.1):
        _check_parallel(self, env)
        super().__init__(env)
        self.set_distribution(mean, std)
        self.observation_spaces = _longer_spaces(self, np.zeros(1), np.ones(1))
        self._lcf: dict[Any, float] = {}  # of those who act next
        self._seeds: np.random.SeedSequence | None = None
        self._rng = np.random.default_rng(0)

    def set_distribution(self, mean: float, std: float) -> None:
        """Agents that are born from now on draw from N(mean, std).

        Raises:
            SceneError: a mean beyond [-1, 1], or a std that is negative or not finite.
        """
        if not _is_number(mean) or not -1 <= mean <= 1:
            raise SceneError(f"mean={mean!r} of the lcf; use a number in [-1, 1]")
        if not _is_number(std) or not 0 <= std < np.inf:
            raise SceneError(f"std={std!r} of the lcf; use a finite number of 0 or more")
        self.mean, self.std = float(mean), float(std)

    def observation_space(self, agent: Any) -> Space[Any]:
        """That of the environment and one number in [0, 1] more."""
        return self.observation_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[Any, Any], Infos]:
        obs, infos = self.env.reset(seed=seed, options=options)
        if seed is not None or self._seeds is None:
            self._seeds = np.random.SeedSequence(seed)
        # A child of the seed, as the environment may draw from the seed itself.
        self._rng = np.random.default_rng(self._seeds.spawn(1)[0])
        self._lcf = self._next({}, infos)
        return self._tell(obs, infos, {}, set())

    def step(self, actions: dict[Any, Any]) -> Results:
        acted = self._lcf
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self._lcf = self._next(acted, infos)
        ended = {agent for agent in obs if terminated[agent] or truncated[agent]}
        obs, infos = self._tell(obs, infos, acted, ended)
        return obs, rewards, terminated, truncated, infos

    def _next(self, acted: dict[Any, float], infos: Infos) -> dict[Any, float]:
        """phi of everybody who acts next: that of before, and of newborns a new one."""
        kept = {agent: lcf for agent, lcf in acted.items() if not infos[agent].get("spawned", False)}
        return {
            agent: kept[agent] if agent in kept else float(np.clip(self._rng.normal(self.mean, self.std), -1.0, 1.0))
            for agent in _acting(self.env, infos)
        }

    def _tell(
        self, obs: dict[Any, np.ndarray], infos: Infos, acted: dict[Any, float], ended: set[Any]
    ) -> tuple[dict[Any, np.ndarray], Infos]:
        told = {**self._lcf, **acted}
        seen: dict[Any, np.ndarray] = {}
        for agent, row in obs.items():
            lcf = (acted if agent in ended else self._lcf).get(agent)
            seen[agent] = np.append(row, 0.0 if lcf is None else (lcf + 1) / 2).astype(row.dtype)
        return seen, _with(infos, {agent: {"lcf": told.get(agent, 0.0)} for agent in obs})


class NeighbourObservation(Wrapper):
    """Lets every agent see what its neighbours see, at the end of its observation.

    Neighbours are those of the moment of the observation: everybody who acts next, newborns included. In the last
    observation of an agent that was truncated they are those who acted with it and were not terminated, as the critics
    of `copo train` have it; in that of one that was terminated there are none.

    * mode "nearest": for each of the K nearest, the nearest first, its observation; with `actions` its last action, 0
      before its first; with `relative` where it is, x and y in metres, and with `headings()` how far it is turned to
      the left, in [-pi, pi). With `headings()` x is ahead and y to the left, else they are the environment's axes.
      Zeros where a neighbour is missing.
    * mode "mean_field": the mean of the neighbours' observations, and with `actions` of their last actions; zeros where
      there is none. `k` and `relative` mean nothing here.

    Args:
        env: with `positions()`; observations are vectors of one length, Box of floats, and so the actions if they are
            to be seen.
        k: K.
        distance: metres; neighbours are strictly closer.
        actions: show the last actions too, clipped to their space.
        relative: show where the neighbours are.
        mode: one of the two.

    Raises:
        SceneError: no `positions()`, other observations or actions, an unknown mode, a distance that is negative or no
            number, or a K below 1 or beyond the neighbours that an agent can have.
    """

    def __init__(
        self,
        env: ParallelEnv[Any, Any, Any],
        k: int = 4,
        distance: float = 40.0,
        actions: bool = False,
        relative: bool = True,
        mode: Literal["nearest", "mean_field"] = "nearest",
    ):
        _check_parallel(self, env)
        super().__init__(env)
        _check_positions(self)
        if mode not in ("nearest", "mean_field"):
            raise SceneError(f"unknown mode {mode!r}; choose nearest or mean_field")
        self.distance = _checked_distance(distance)
        self.k = _checked_k(self, k) if mode == "nearest" else k
        self.mode = mode
        self.relative = relative and mode == "nearest"
        self._has_headings = callable(getattr(env, "headings", None))

        agents = self.possible_agents
        lows, highs = [], []
        for name, space in (("observation", env.observation_space), ("action", env.action_space))[: 1 + actions]:
            low, high = _bounds(self, name, [space(agent) for agent in agents])
            lows.append(low)
            highs.append(high)
        self._action_bounds = (lows[1], highs[1]) if actions else (np.zeros(0), np.zeros(0))
        if self.relative:
            reach = [self.distance] * 2 + [np.pi] * self._has_headings
            highs.append(np.array(reach))
            lows.append(-highs[-1])
        # Zeros where nobody is.
        low, high = np.minimum(np.concatenate(lows), 0), np.maximum(np.concatenate(highs), 0)
        self._low, self._high = (np.tile(bound, self.k if mode == "nearest" else 1) for bound in (low, high))
        self.observation_spaces = _longer_spaces(self, self._low, self._high)
        self._acting: list[Any] = []

    def observation_space(self, agent: Any) -> Space[Any]:
        """That of the environment and the neighbours' part."""
        return self.observation_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[Any, Any], Infos]:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._acting = _acting(self.env, infos)
        return self._joined(obs, self._seen_now(obs, {})), infos

    def step(self, actions: dict[Any, Any]) -> Results:
        acted = self._acting
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self._acting = _acting(self.env, infos)
        low, high = self._action_bounds
        last = {a: np.clip(actions[a], low, high) for a in acted if a in actions} if len(low) else {}
        alive = {agent: action for agent, action in last.items() if not infos[agent].get("spawned", False)}
        seen = self._seen_now(obs, alive)
        ended = [agent for agent in obs if terminated[agent] or truncated[agent]]
        if ended:
            stay = [a for a in acted if not (terminated[a] or infos[a].get("terminated", False))]
            headings = self.headings() if self._has_headings else {}
            then = self._seen(stay, obs, last, self.positions(), headings)
            seen.update({agent: then[agent] for agent in ended if agent in then})
        return self._joined(obs, seen), rewards, terminated, truncated, infos

    def _seen_now(self, obs: dict[Any, np.ndarray], last: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
        positions = getattr(self.env, "next_positions", self.positions)()
        headings = getattr(self.env, "next_headings", self.headings)() if self._has_headings else {}
        return self._seen(self._acting, obs, last, positions, headings)

    def _seen(
        self,
        crowd: list[Any],
        obs: dict[Any, np.ndarray],
        last: dict[Any, np.ndarray],
        positions: Mapping[Any, np.ndarray],
        headings: Mapping[Any, float],
    ) -> dict[Any, np.ndarray]:
        """What each of a crowd sees of the others. last: their actions, zeros for who is not in it."""
        here, position = _places(crowd, positions)
        if not here:
            return {}
        present = np.ones(len(here), np.bool_)
        rows = np.stack([obs[agent] for agent in here])
        nothing = np.zeros(len(self._action_bounds[0]))
        action = np.stack([last.get(agent, nothing) for agent in here])
        if self.mode == "mean_field":
            seen = mean_field(rows, action, neighbour_mask(position, present, self.distance))
        else:
            index, valid = nearest_neighbours(position, present, self.k, self.distance)
            seen = nearest_observations(rows, index, valid, action).reshape(*index.shape, -1)
            if self.relative:
                heading = np.array([headings.get(agent, 0.0) for agent in here])
                place, turn = ego_frame(position, heading, present)
                where = np.concatenate([place, turn[..., None]], axis=-1) if self._has_headings else place
                where = np.take_along_axis(where, index[..., None], axis=1)
                seen = np.concatenate([seen, np.where(valid[..., None], where, 0.0)], axis=-1)
            seen = seen.reshape(len(here), -1)
        return dict(zip(here, seen, strict=True))

    def _joined(self, obs: dict[Any, np.ndarray], seen: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
        joined: dict[Any, np.ndarray] = {}
        for agent, row in obs.items():
            # Clipped because a mean of numbers at a bound can be rounded beyond it.
            near = np.clip(seen[agent], self._low, self._high) if agent in seen else np.zeros(len(self._low))
            joined[agent] = np.concatenate([row, near]).astype(row.dtype)
        return joined


def _acting(env: ParallelEnv[Any, Any, Any], infos: Infos) -> list[Any]:
    """Who acts next: everybody in `agents`, but for those whose infos say that they are empty."""
    return [agent for agent in env.agents if infos[agent].get("active", True)]


def _places(crowd: list[Any], positions: Mapping[Any, np.ndarray]) -> tuple[list[Any], np.ndarray]:
    """Those of the crowd that are somewhere, n of them, and where: (n, 2) metres."""
    here = [agent for agent in crowd if agent in positions]
    return here, np.array([positions[agent] for agent in here], np.float64) if here else np.zeros((0, 2))


def _with(infos: Infos, more: Infos) -> Infos:
    return {agent: {**info, **more.get(agent, {})} for agent, info in infos.items()}


def _longer_spaces(wrapper: Wrapper, low: np.ndarray, high: np.ndarray) -> dict[Any, Space[Any]]:
    """For every possible agent its observation space and more numbers with these bounds."""
    longer: dict[int, Space[Any]] = {}  # agents that share a space share the longer one: there may be thousands
    spaces: dict[Any, Space[Any]] = {}
    for agent in wrapper.possible_agents:
        space = wrapper.env.observation_space(agent)
        if id(space) not in longer:
            box = _vector_box(wrapper, "observation", space)
            lowest, highest = np.concatenate([box.low, low]), np.concatenate([box.high, high])
            dtype = box.dtype.type
            longer[id(space)] = Box(lowest.astype(dtype), highest.astype(dtype), dtype=dtype)
        spaces[agent] = longer[id(space)]
    return spaces


def _bounds(wrapper: Wrapper, name: str, spaces: list[Space[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest that any of the agents has."""
    boxes = [_vector_box(wrapper, name, space) for space in {id(space): space for space in spaces}.values()]
    shapes = {box.shape for box in boxes}
    if len(shapes) > 1:
        raise SceneError(
            f"{type(wrapper).__name__} needs {name}s of one length, and {wrapper.env} has {sorted(shapes)}; pad them"
        )
    return np.min([box.low for box in boxes], axis=0), np.max([box.high for box in boxes], axis=0)


def _vector_box(wrapper: Wrapper, name: str, space: Space[Any]) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        raise SceneError(
            f"{type(wrapper).__name__} needs {name}s that are vectors, and {wrapper.env} has {space}; "
            "use a Box of floats with one dimension"
        )
    return space


def _check_parallel(wrapper: Wrapper, env: Any) -> None:
    if not isinstance(env, ParallelEnv):
        raise SceneError(
            f"{type(wrapper).__name__} wraps a PettingZoo ParallelEnv, and {env} is none; "
            "wrap parallel_env(...) first and turn it into another view then"
        )


def _check_positions(wrapper: Wrapper) -> None:
    if not callable(getattr(wrapper.env, "positions", None)):
        raise SceneError(
            f"{type(wrapper).__name__} needs to know where agents are, and {wrapper.env} does not say; "
            "give it positions(), agent -> (x, y) in metres after the last step or reset"
        )


def _checked_distance(distance: float) -> float:
    if not _is_number(distance) or not distance >= 0:
        raise SceneError(f"distance={distance!r} metres; use 0 or more, np.inf for no bound")
    return float(distance)


def _checked_lcf(lcf: Any, agent: Any = None) -> float:
    if not _is_number(lcf) or not -1 <= lcf <= 1:
        whose = "" if agent is None else f" of {agent!r}"
        raise SceneError(f"lcf={lcf!r}{whose}; use a number in [-1, 1]")
    return float(lcf)


def _checked_k(wrapper: Wrapper, k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise SceneError(f"k={k!r} neighbours; use a whole number of 1 or more")
    most = getattr(wrapper.env, "num_slots", len(wrapper.possible_agents)) - 1
    if k > most:
        raise SceneError(f"k={k} neighbours, and an agent of {wrapper.env} has {most} at most; use 1 to that many")
    return int(k)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)

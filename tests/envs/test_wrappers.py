"""The wrappers against plain loops over the truth: lives and slots of particles, MetaDrive, and a scene of others."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils.conversions import parallel_to_aec
from pettingzoo.utils.wrappers import BaseParallelWrapper

import copo_envs
from copo_algos.rewards import shared_rewards
from copo_envs import particles_v0
from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.scene_env import SceneEnv
from copo_envs.scenes import SceneError
from copo_envs.slots_env import slots_env
from copo_envs.step_batch import StepBatch
from copo_envs.testing import check_deterministic, check_scene, drive_forwards, drive_forwards_space
from copo_envs.wrappers import CoordinatedReward, LCFObservation, NeighbourInfo, NeighbourObservation

Env = Any
VIEWS: list[Callable[..., SceneEnv]] = [parallel_env, slots_env]


class Spread(BaseParallelWrapper[Any, Any, Any]):
    """An environment of others that says where its agents are."""

    def __init__(self, **options: Any):
        spread = pytest.importorskip("mpe2.simple_spread_v3")
        with pytest.MonkeyPatch.context() as patch:
            # The font of pictures that nobody asks for: pygame's FreeType spoils the memory of a process with Panda3D.
            patch.setattr("pygame.freetype.Font", lambda *_: None)
            super().__init__(spread.parallel_env(continuous_actions=True, **options))

    def positions(self) -> dict[str, np.ndarray]:
        world: Any = self.unwrapped
        return {agent.name: agent.state.p_pos.copy() for agent in world.world.agents}


@dataclass
class Vehicle:
    """What is true of an agent at a moment."""

    place: np.ndarray
    heading: float | None
    obs: np.ndarray
    action: np.ndarray
    """Its last one, zeros if it has none."""
    reward: float = 0.0
    terminated: bool = False


@dataclass
class Truth:
    acted: dict[str, Vehicle]
    """Who acted in the step, after it."""
    now: dict[str, Vehicle]
    """Who acts next."""
    shown: dict[str, Vehicle | None]
    """Whose observation each agent of the step has; None: nobody's."""


def truth_of_a_scene(env: Env, actions: dict[str, Any], obs: dict[str, Any], ended: set[str]) -> Truth:
    """From the arrays beneath both views."""
    base: SceneEnv = env.unwrapped
    batch = base._last_batch()
    lives = isinstance(base, LivesEnv)
    acted, now = {}, {}
    for slot in sorted(np.nonzero(batch.acted)[0], key=lambda s: batch.acted_life[s] if lives else s):
        agent = f"agent_{batch.acted_life[slot]}" if lives else f"slot_{slot}"
        over = batch.terminated[slot] or batch.truncated[slot]
        acted[agent] = Vehicle(
            batch.acted_position[slot].copy(),
            float(batch.acted_heading[slot]),
            (batch.final_obs if over else batch.obs)[slot].copy(),
            np.clip(actions[agent], -1, 1),
            float(batch.reward[slot]),
            bool(batch.terminated[slot]),
        )
    for slot in sorted(np.nonzero(batch.active)[0], key=lambda s: batch.life[s] if lives else s):
        agent = f"agent_{batch.life[slot]}" if lives else f"slot_{slot}"
        stays = batch.acted[slot] and batch.acted_life[slot] == batch.life[slot]
        now[agent] = Vehicle(
            batch.position[slot].copy(),
            float(batch.heading[slot]),
            batch.obs[slot].copy(),
            np.clip(actions[agent], -1, 1) if stays else np.zeros(2),
        )
    return Truth(acted, now, {agent: (acted if agent in ended else now).get(agent) for agent in obs})


def truth_of_spread(env: Env, actions: dict[str, Any], obs: dict[str, Any], rewards: dict[str, float]) -> Truth:
    everybody = {
        agent.name: Vehicle(
            agent.state.p_pos.copy(),
            None,
            obs[agent.name][:18],
            np.asarray(actions.get(agent.name, np.zeros(5))),
            rewards.get(agent.name, 0.0),
        )
        for agent in env.unwrapped.world.agents
    }
    return Truth(everybody if actions else {}, everybody if env.agents else {}, dict(everybody))


def near(agent: str, crowd: dict[str, Vehicle], distance: float) -> list[str]:
    """The neighbours of an agent in a crowd, nearest first, ties by the order of the crowd."""
    found = []
    if agent in crowd:
        for other, vehicle in crowd.items():
            gap = math.dist(vehicle.place, crowd[agent].place)
            if other != agent and gap < distance:
                found.append((round(gap, 9), len(found), other))
    return [other for *_, other in sorted(found)]


def seen_of_neighbours(agent: str, crowd: dict[str, Vehicle], k: int, distance: float, actions: bool, relative: bool):
    """The end of an observation in the mode "nearest", one neighbour after the other."""
    some = next(iter(crowd.values()))
    each = len(some.obs) + len(some.action) * actions + (2 + (some.heading is not None)) * relative
    rows = []
    for other in near(agent, crowd, distance)[:k]:
        me, it = crowd[agent], crowd[other]
        row = [*it.obs, *(it.action if actions else [])]
        if relative:
            heading = me.heading or 0.0
            turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
            row += [*(turn @ (it.place - me.place))]
            if it.heading is not None:
                row.append((it.heading - heading + np.pi) % (2 * np.pi) - np.pi)
        rows += row
    return np.array(rows + [0.0] * (k * each - len(rows)))


def mean_of_neighbours(agent: str, crowd: dict[str, Vehicle], distance: float, actions: bool) -> np.ndarray:
    some = next(iter(crowd.values()))
    rows = [[*crowd[other].obs, *(crowd[other].action if actions else [])] for other in near(agent, crowd, distance)]
    return np.mean(rows, axis=0) if rows else np.zeros(len(some.obs) + len(some.action) * actions)


def crowd_of(truth: Truth, agent: str, ended: bool) -> dict[str, Vehicle]:
    """Among whom an agent's observation finds its neighbours."""
    if not ended:
        return truth.now
    return {other: vehicle for other, vehicle in truth.acted.items() if not vehicle.terminated}


def stack(env: Env, distance: float, most: int | None, **shown: Any) -> Env:
    """All four wrappers; at most so many neighbours in the infos."""
    seen = NeighbourObservation(env, distance=distance, **shown)
    return CoordinatedReward(NeighbourInfo(LCFObservation(seen, std=0.7), distance, k=most), distance)


def same(found: Any, expected: Any, within: float = 1e-12) -> bool:
    return np.shape(found) == np.shape(expected) and bool(np.abs(np.subtract(found, expected)).max(initial=0) < within)


def check(
    truth: Truth, distance: float, shown: dict[str, Any], obs: Any, rewards: Any, ended: set[str], infos: Any
) -> tuple[int, int, int]:
    """A step, or a reset with `rewards=None`; returns how many neighbours were told of, how many were missing in
    observations, and how many agents had no vehicle."""
    told = missing = empty = 0
    # After a reset everybody who is there counts for the infos; nobody has acted, so nobody is rewarded.
    counted = truth.now if rewards is None else truth.acted
    everybody = np.mean([vehicle.reward for vehicle in counted.values()])
    for agent, info in infos.items():
        neighbours = near(agent, counted, distance)
        assert info["neighbours"] == neighbours[:3]
        expected = [math.dist(counted[other].place, counted[agent].place) for other in neighbours[:3]]
        assert same(info["neighbour_distances"], expected)
        told += len(expected)

        acted = rewards is not None and agent in truth.acted
        own = truth.acted[agent].reward if acted else 0.0
        mean = np.mean([counted[other].reward for other in neighbours]) if acted and neighbours else 0.0
        angle = info["lcf"] * np.pi / 2
        assert info["own_reward"] == own and (rewards is None or rewards[agent] == own)
        assert same(info["neighbourhood_reward"], mean)
        assert same(info["global_reward"], everybody if acted else 0.0)
        assert same(info["coordinated_reward"], np.cos(angle) * own + np.sin(angle) * mean)

        vehicle, over = truth.shown[agent], agent in ended
        if vehicle is None:
            assert not obs[agent].any()
            empty += 1
            continue
        size = len(vehicle.obs)
        crowd = crowd_of(truth, agent, over) or {agent: vehicle}
        if shown.get("mode") == "mean_field":
            seen = mean_of_neighbours(agent, crowd, distance, shown["actions"])
        else:
            k = shown["k"]
            seen = seen_of_neighbours(agent, crowd, k, distance, shown["actions"], shown["relative"])
            missing += max(0, k - len(near(agent, crowd, distance)))
        assert np.array_equal(obs[agent][:size], vehicle.obs)
        assert same(obs[agent][size:-1], seen, within=2e-5)
    return told, missing, empty


SHOWN = [
    {"k": 2, "actions": True, "relative": True},
    {"k": 2, "actions": False, "relative": False},
    {"mode": "mean_field", "actions": True},
]


def drive_home(env: Env, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every disc to its goal, whose bearing it sees: one that arrives leaves its slot at once. Throttles beyond 1."""
    bearing = {agent: np.arctan2(*(2 * obs[agent][1:3] - 1)) for agent in env.agents}
    return {agent: np.array([np.clip(2 * angle, -1, 1), 1.5], np.float32) for agent, angle in bearing.items()}


def drive_and_check(env: Env, distance: float, shown: dict[str, Any], steps: int, seed: int = 0) -> dict[str, int]:
    """A scene with all four wrappers, from one episode to the next."""
    wrapped = stack(env, distance, 3, **shown)
    rng = np.random.default_rng(seed)
    obs: dict[str, np.ndarray] = {}
    count: dict[str, int] = dict.fromkeys(("told", "missing", "empty", "ended", "taken at once"), 0)
    for step in range(steps):
        if step == 0 or not wrapped.agents:
            obs, infos = wrapped.reset(seed=seed + step)
            check(truth_of_a_scene(wrapped, {}, obs, set()), distance, shown, obs, None, set(), infos)
        actions = drive_home(wrapped, obs) if wrapped.scene == "particles" else drive_forwards(wrapped, rng)
        obs, rewards, terminated, truncated, infos = wrapped.step(actions)
        ended = {agent for agent in obs if terminated[agent] or truncated[agent]}
        truth = truth_of_a_scene(wrapped, actions, obs, ended)
        results = check(truth, distance, shown, obs, rewards, ended, infos)
        for what, number in zip(("told", "missing", "empty"), results, strict=True):
            count[what] += number
        batch: StepBatch = wrapped.unwrapped._last_batch()
        over = np.logical_or(batch.terminated, batch.truncated)
        count["ended"] += int(over.sum())
        count["taken at once"] += int((over & batch.active).sum())
        assert all(wrapped.observation_space(agent).contains(row) for agent, row in obs.items())
    return count


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shown", SHOWN, ids=["all of two", "observations of two", "mean field"])
def test_plain_loops(view: Callable[..., Env], shown: dict[str, Any]) -> None:
    env = view("particles", num_agents=10, horizon=90, drain=False)
    count = drive_and_check(env, 14.0, shown, steps=190)
    assert count["told"] > 500 and count["ended"] > 30 and count["taken at once"] > 10
    assert (count["missing"] > 500) == ("k" in shown)
    assert (count["empty"] > 10) == (view is slots_env)


@pytest.mark.simulator
@pytest.mark.parametrize("view", VIEWS)
def test_plain_loops_on_metadrive(view: Callable[..., Env], closing: Callable[[Env], Env]) -> None:
    env = closing(view("intersection", num_agents=16, horizon=70, drain=False, in_process=True))
    count = drive_and_check(env, 25.0, SHOWN[0], steps=90)
    assert count["told"] > 500 and count["ended"] > 10


@pytest.mark.parametrize("shown", SHOWN, ids=["all of two", "observations of two", "mean field"])
def test_plain_loops_on_an_environment_of_others(shown: dict[str, Any]) -> None:
    distance = 1.2
    wrapped = stack(Spread(N=3, max_cycles=25), distance, None, **shown)
    rng = np.random.default_rng(0)
    told = missing = 0
    for episode in range(3):
        obs, infos = wrapped.reset(seed=episode)
        check(truth_of_spread(wrapped, {}, obs, {}), distance, shown, obs, None, set(), infos)
        while wrapped.agents:
            actions = {agent: rng.random(5).astype(np.float32) for agent in wrapped.agents}
            obs, rewards, _, truncated, infos = wrapped.step(actions)
            ended = {agent for agent in obs if truncated[agent]}
            truth = truth_of_spread(wrapped, actions, obs, rewards)
            more = check(truth, distance, shown, obs, rewards, ended, infos)
            told, missing = told + more[0], missing + more[1]
            assert all(wrapped.observation_space(agent).contains(row) for agent, row in obs.items())
    assert told > 50 and (missing > 50) == ("k" in shown)


@pytest.mark.parametrize("view", VIEWS)
def test_coordinated_rewards_are_those_of_the_algorithms(view: Callable[..., Env]) -> None:
    env = CoordinatedReward(view("particles", num_agents=12, delay_done=1), 20.0, lcf=0.3)
    env.reset(seed=1)
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(150):
        *_, infos = env.step(drive_forwards(env, rng))
        base: Env = env.unwrapped
        batch = StepBatch(**{field.name: getattr(base._batch, field.name)[None] for field in fields(StepBatch)})
        expected = shared_rewards(batch, 20.0, "ours")[0]
        for slot in np.nonzero(batch.acted[0])[0]:
            info = infos[f"agent_{batch.acted_life[0, slot]}" if view is parallel_env else f"slot_{slot}"]
            told = [info[f"{whose}_reward"] for whose in ("own", "neighbourhood", "global")]
            np.testing.assert_allclose(told, expected[slot], rtol=0, atol=1e-12)
            compared += 1
        newborn = np.nonzero(batch.spawned[0] & ~batch.acted[0])[0]
        for slot in newborn:
            info = infos[f"agent_{batch.life[0, slot]}" if view is parallel_env else f"slot_{slot}"]
            assert info["neighbourhood_reward"] == info["global_reward"] == info["coordinated_reward"] == 0.0
    assert compared > 1000


def test_the_coordinated_reward_is_returned_if_asked_for() -> None:
    plain, replaced = (
        CoordinatedReward(parallel_env("particles"), lcf=lcf, replace_reward=replace)
        for lcf, replace in ((0.25, False), ({f"agent_{i}": 0.25 for i in range(99)}, True))
    )
    for env in (plain, replaced):
        env.reset(seed=2)
    for _ in range(60):
        actions = dict.fromkeys(plain.agents, np.array([0.1, 1.0]))
        one, other = plain.step(actions), replaced.step(actions)
        assert one[4] == other[4]
        assert one[1] == {agent: info["own_reward"] for agent, info in one[4].items()}
        assert other[1] == {agent: info["coordinated_reward"] for agent, info in one[4].items()}


@pytest.mark.parametrize(("lcf", "which"), [(0.0, "own_reward"), (1.0, "neighbourhood_reward")])
def test_selfish_and_selfless(lcf: float, which: str) -> None:
    env = CoordinatedReward(parallel_env("particles"), lcf=lambda agent: lcf if agent != "agent_0" else -1.0)
    env.reset(seed=0)
    for _ in range(30):
        *_, infos = env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))
        for agent, info in infos.items():
            expected = info[which] if agent != "agent_0" else -info["neighbourhood_reward"]
            assert info["coordinated_reward"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("view", VIEWS)
def test_a_factor_is_for_life(view: Callable[..., Env]) -> None:
    env = LCFObservation(view("particles", num_agents=10), mean=0.2, std=0.6)
    obs, infos = env.reset(seed=4, options={"num_agents": 8})
    base: Env = env.unwrapped
    lcf_of: dict[int, float] = {}  # by life

    def vehicles(life: str, there: str) -> list[tuple[int, str]]:
        batch = base._last_batch()
        return [
            (getattr(batch, life)[slot], f"slot_{slot}" if view is slots_env else f"agent_{getattr(batch, life)[slot]}")
            for slot in np.nonzero(getattr(batch, there))[0]
        ]

    for _ in range(200):
        acts_next = vehicles("life", "active")
        for life, agent in acts_next:
            seen = 2 * float(obs[agent][-1]) - 1
            assert seen == pytest.approx(lcf_of.setdefault(life, seen), abs=1e-6)
        for agent in obs.keys() - {agent for _, agent in acts_next}:
            # A vehicle that has gone takes its factor along; an empty slot shows zeros.
            assert obs[agent].any() == (view is parallel_env)
        obs, _, _, _, infos = env.step(drive_home(env, obs))
        acted = vehicles("acted_life", "acted")
        for life, agent in acted:
            assert infos[agent]["lcf"] == pytest.approx(lcf_of[life], abs=1e-6)
        for life, agent in vehicles("life", "spawned"):
            assert life not in lcf_of
            if agent not in {agent for _, agent in acted}:
                assert infos[agent]["lcf"] == pytest.approx(2 * float(obs[agent][-1]) - 1, abs=1e-6)
        there = {agent for _, agent in [*acted, *vehicles("life", "active")]}
        assert all(infos[agent]["lcf"] == 0.0 for agent in infos.keys() - there)
    drawn = np.array(list(lcf_of.values()))
    assert len(set(drawn.round(5))) > 20 and drawn.max() == pytest.approx(1.0)  # some are clipped


def test_factors_follow_from_the_seed_alone() -> None:
    def drawn(env: LCFObservation, throttle: float, seed: Any) -> list[float]:
        _, infos = env.reset(seed=seed)
        first = [info["lcf"] for info in infos.values()]
        for _ in range(40):
            env.step(dict.fromkeys(env.agents, np.array([0.0, throttle])))
        return first

    one, other = (LCFObservation(parallel_env("particles")) for _ in range(2))
    for seed in (3, None, None):  # with other births in between
        assert drawn(one, 1.0, seed) == drawn(other, 0.2, seed)
    again = drawn(one, 1.0, 3)
    assert again == drawn(other, 1.0, np.int64(3)) and again != drawn(one, 1.0, None) != drawn(one, 1.0, None)
    fresh = (LCFObservation(parallel_env("particles")).reset()[1]["agent_0"]["lcf"] for _ in range(2))
    assert len({*fresh, again[0]}) == 3


def test_another_distribution_is_for_those_born_later() -> None:
    env = LCFObservation(parallel_env("particles", num_agents=6), mean=-0.5, std=0.0)
    _, infos = env.reset(seed=0)
    assert {info["lcf"] for info in infos.values()} == {-0.5}
    first = set(env.agents)
    env.set_distribution(0.5, 0.0)
    born = set()
    for _ in range(150):
        obs, *_, infos = env.step(dict.fromkeys(env.agents, np.array([0.0, 1.0])))
        for agent in obs:
            lcf = -0.5 if agent in first else 0.5
            assert infos[agent]["lcf"] == lcf and obs[agent][-1] == (lcf + 1) / 2
            born.add(agent)
    assert len(born - first) > 5


def test_a_newborn_that_takes_a_slot_at_once_is_where_it_is() -> None:
    """In the slots view the vehicle that ended and its successor have one name; observations know them apart."""
    env = slots_env("particles", num_agents=6)
    obs, _ = env.reset(seed=0)
    apart = 0
    for _ in range(200):
        obs, *_ = env.step(drive_home(env, obs))
        batch = env._last_batch()
        assert env.next_positions().keys() == env.next_headings().keys()
        assert env.next_positions().keys() == {f"slot_{slot}" for slot in np.nonzero(batch.active)[0]}
        assert env.positions().keys() == env.headings().keys()
        for slot in np.nonzero(batch.active)[0]:
            np.testing.assert_array_equal(env.next_positions()[f"slot_{slot}"], batch.position[slot])
            assert env.next_headings()[f"slot_{slot}"] == batch.heading[slot]
        for slot in np.nonzero(batch.acted)[0]:
            np.testing.assert_array_equal(env.positions()[f"slot_{slot}"], batch.acted_position[slot])
            assert env.headings()[f"slot_{slot}"] == batch.acted_heading[slot]
        for slot in np.nonzero(batch.acted & batch.spawned)[0]:
            apart += not np.array_equal(env.next_positions()[f"slot_{slot}"], env.positions()[f"slot_{slot}"])
    assert apart > 5


def wrappings() -> dict[str, Callable[[Env], Env]]:
    return {
        "info": lambda env: NeighbourInfo(env, 30.0, k=1),
        "reward": lambda env: CoordinatedReward(env, lcf=0.5, replace_reward=True),
        "lcf": LCFObservation,
        "observation": lambda env: NeighbourObservation(env, k=1, actions=True),
        "mean field": lambda env: NeighbourObservation(env, mode="mean_field"),
        "all": lambda env: stack(env, 30.0, None, k=1),
        "all around": lambda env: NeighbourObservation(CoordinatedReward(LCFObservation(env)), k=1),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unknown reset option", "ignore:No agents present but not all")
@pytest.mark.parametrize("wrapping", wrappings())
def test_pettingzoo(wrapping: str) -> None:
    wrap = wrappings()[wrapping]
    for view in VIEWS:
        for num_agents in (2, 8):
            env = drive_forwards_space(view("particles", num_agents=num_agents, horizon=60))
            wrapped = wrap(env)
            assert wrapped.possible_agents == env.possible_agents and wrapped.metadata == env.metadata
            for agent in env.possible_agents[:2]:
                space = wrapped.observation_space(agent)
                assert space is wrapped.observation_space(agent) is wrapped.observation_spaces[agent]
                assert wrapped.action_space(agent) is env.action_space(agent)
            parallel_api_test(wrapped, 130)
            np.testing.assert_array_equal(wrapped.state(), env.state())
            assert wrapped.positions().keys() == env.positions().keys() == wrapped.headings().keys()
    api_test(parallel_to_aec(wrap(drive_forwards_space(parallel_env("particles", num_agents=2, horizon=60)))), 100)
    parallel_api_test(wrap(Spread(N=3, max_cycles=20)), 50)


def test_the_contract_and_the_same_episodes_again() -> None:
    """Without `NeighbourInfo`, whose infos are not numbers alone."""

    def make() -> Env:
        env = NeighbourObservation(parallel_env("particles", horizon=50), actions=True)
        return CoordinatedReward(LCFObservation(env))

    assert sum(check_scene(make(), 200).values()) > 10
    assert check_deterministic(make, 100, min_endings=20) >= 20


def test_the_same_neighbours_again() -> None:
    def story() -> list[Any]:
        env = stack(slots_env("particles", num_agents=5), 30.0, 2)
        told: list[Any] = [env.reset(seed=8)]
        rng = np.random.default_rng(8)
        return told + [env.step(drive_forwards(env, rng)) for _ in range(80)]

    assert pickle.dumps(story()) == pickle.dumps(story())


def test_wrapped_environments_can_be_copied_and_vectorised() -> None:
    supersuit = pytest.importorskip("supersuit")
    env = LCFObservation(NeighbourObservation(slots_env("particles", num_agents=3, horizon=30), k=2))
    env = pickle.loads(pickle.dumps(copy.deepcopy(env)))
    rows = supersuit.pettingzoo_env_to_vec_env_v1(CoordinatedReward(env))
    obs, _ = rows.reset(seed=0)
    size = 32 + 2 * (32 + 3) + 1
    assert np.shape(obs) == (3, size) and rows.observation_space.shape == (size,)
    infos: list[dict[str, Any]] = []
    for _ in range(40):
        obs, *_, infos = rows.step(np.tile(np.array([0.0, 1.0], np.float32), (3, 1)))
        assert np.shape(obs) == (3, size)
    assert {"coordinated_reward", "lcf"} <= infos[0].keys()


def test_bounds_of_what_is_appended() -> None:
    env = parallel_env("particles", num_agents=3)
    space = NeighbourObservation(env, k=2, distance=25.0, actions=True).observation_space("agent_7")
    one = ([0.0] * 32 + [-1.0] * 2 + [-25.0] * 2 + [-np.pi], [1.0] * 32 + [1.0] * 2 + [25.0] * 2 + [np.pi])
    low, high = (
        np.array(own + 2 * bound, np.float32) for own, bound in zip(([0.0] * 32, [1.0] * 32), one, strict=True)
    )
    assert space == Box(low, high, dtype=np.float32)
    space = LCFObservation(env).observation_space("agent_0")
    assert space == Box(0.0, 1.0, (33,), np.float32)
    assert NeighbourObservation(env, mode="mean_field").observation_space("agent_0") == Box(0.0, 1.0, (64,), np.float32)
    # Thousands of agents share one space.
    many = LCFObservation(parallel_env("particles"))
    assert len({id(many.observation_space(agent)) for agent in many.possible_agents}) == 1
    spread = Spread(N=3)
    box = NeighbourObservation(spread, k=1, distance=2.0, actions=True).observation_space("agent_0")
    assert isinstance(box, Box) and box.shape == (18 + 18 + 5 + 2,)
    assert box.low[36:].tolist() == [0.0] * 5 + [-2.0] * 2 and box.high[36:].tolist() == [1.0] * 5 + [2.0] * 2


class Odd(LivesEnv):
    """A scene with spaces that it does not have."""

    def __init__(self, observations: Any = None, actions: Any = None):
        super().__init__("particles", num_agents=3)
        self.given = observations, actions

    def observation_space(self, agent: str) -> Any:
        space = self.given[0] or super().observation_space(agent)
        return space[agent == "agent_0"] if isinstance(space, tuple) else space

    def action_space(self, agent: str) -> Any:
        return self.given[1] or super().action_space(agent)


def three() -> LivesEnv:
    return parallel_env("particles", num_agents=3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: NeighbourInfo(Spread().env),
            "NeighbourInfo needs to know where agents are, and simple_spread_v3 does not say; give it positions()",
        ),
        (lambda: CoordinatedReward(Spread().env, lcf=0.0), "CoordinatedReward needs to know where agents are"),
        (lambda: NeighbourObservation(Spread().env), "NeighbourObservation needs to know where agents are"),
        (lambda: NeighbourInfo(three(), k=0), "k=0 neighbours; use a whole number of 1 or more"),
        (lambda: NeighbourInfo(three(), k=1.5), "k=1.5 neighbours; use a whole number"),  # pyright: ignore
        (
            lambda: NeighbourInfo(three(), k=3),
            "k=3 neighbours, and an agent of particles_v0 has 2 at most; use 1 to that many",
        ),
        (lambda: NeighbourObservation(three()), "k=4 neighbours, and an agent of particles_v0 has 2 at most"),
        (lambda: NeighbourObservation(slots_env("particles", num_agents=4)), "has 3 at most"),
        (lambda: NeighbourObservation(Spread(N=4)), "simple_spread_v3 has 3 at most"),
        (lambda: NeighbourInfo(three(), -1.0), "distance=-1.0 metres; use 0 or more, np.inf for no bound"),
        (lambda: CoordinatedReward(three(), np.nan), "distance=nan metres; use 0 or more"),
        (lambda: NeighbourObservation(three(), 1, "far"), "distance='far' metres; use 0 or more"),  # pyright: ignore
        (lambda: NeighbourObservation(three(), 1, mode="all"), "unknown mode 'all'; choose"),  # pyright: ignore
        (
            lambda: LCFObservation(particles_v0.env()),  # pyright: ignore[reportArgumentType]
            "LCFObservation wraps a PettingZoo ParallelEnv, and ",
        ),
        (lambda: NeighbourInfo(copo_envs.vector_env("particles")), "wraps a PettingZoo ParallelEnv"),  # pyright: ignore
        (lambda: LCFObservation(three(), mean=1.5), "mean=1.5 of the lcf; use a number in [-1, 1]"),
        (lambda: LCFObservation(three(), std=-0.1), "std=-0.1 of the lcf; use a finite number of 0 or more"),
        (lambda: LCFObservation(three()).set_distribution(0.0, np.inf), "std=inf of the lcf; use a finite"),
        (
            lambda: LCFObservation(Odd(Discrete(3))),
            "LCFObservation needs observations that are vectors, and particles_v0 has Discrete(3); use a Box of floats",
        ),
        (lambda: LCFObservation(Odd(Box(0, 1, (2, 2)))), "LCFObservation needs observations that are vectors"),
        (lambda: LCFObservation(Odd(Box(0, 9, (2,), np.uint8))), "LCFObservation needs observations that are vectors"),
        (
            lambda: NeighbourObservation(Odd((Box(0, 1, (2,)), Box(0, 1, (3,)))), 1),
            "NeighbourObservation needs observations of one length, and particles_v0 has [(2,), (3,)]; pad them",
        ),
        (
            lambda: NeighbourObservation(Odd(actions=Discrete(3)), 1, actions=True),
            "NeighbourObservation needs actions that are vectors, and particles_v0 has Discrete(3)",
        ),
        (lambda: CoordinatedReward(three(), lcf=2.0), "lcf=2.0; use a number in [-1, 1]"),
        (lambda: CoordinatedReward(three(), lcf="me"), "lcf='me'; use a number in [-1, 1]"),  # pyright: ignore
        (lambda: CoordinatedReward(three(), lcf={"agent_0": np.nan}), "lcf=nan of 'agent_0'; use a number"),
        (
            lambda: CoordinatedReward(three()).reset(seed=0),
            "no lcf for 'agent_0': the infos have none; wrap the environment in LCFObservation first",
        ),
        (
            lambda: CoordinatedReward(three(), lcf={"agent_0": 0.5}).reset(seed=0),
            "no lcf for 'agent_1'; the dictionary needs one for every agent",
        ),
        (
            lambda: CoordinatedReward(three(), lcf=lambda agent: 9.0).reset(seed=0),
            "lcf=9.0 of 'agent_0'; use a number in [-1, 1]",
        ),
    ],
)
def test_refusals(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(SceneError) as refusal:
        make()
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_most_neighbours_are_as_many_as_slots_and_not_as_lives() -> None:
    env = parallel_env("particles", num_agents=5)
    assert len(env.possible_agents) > 100 and env.num_slots == 5
    assert NeighbourInfo(LCFObservation(env), k=4).k == 4  # the number of slots is known through other wrappers too


def test_the_package_loads_wrappers_on_demand() -> None:
    code = (
        "import sys, copo_envs; assert 'copo_envs.wrappers' not in sys.modules; "
        "print(*(getattr(copo_envs, name).__name__ for name in copo_envs.__all__ if 'Wrapper' in "
        "str(getattr(getattr(copo_envs, name), '__mro__', ''))))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["CoordinatedReward", "LCFObservation", "NeighbourInfo", "NeighbourObservation"]

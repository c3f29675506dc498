"""The slots view: PettingZoo's test, constant infos, SuperSuit, and the same episodes as the lives view."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

import copo_envs
from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.outcomes import Outcome
from copo_envs.scenes import SceneError
from copo_envs.slots_env import SlotsEnv, slots_env


def action_of(life: int, step: int) -> np.ndarray:
    """An action that both views can tell: it depends on the life and the time alone."""
    rng = np.random.default_rng([life, step])
    return np.array([rng.normal(0, 0.2), rng.uniform(0.2, 1)], np.float32).clip(-1, 1)


def drive(env: SlotsEnv, infos: dict[str, dict[str, Any]], step: int) -> dict[str, np.ndarray]:
    return {slot: action_of(max(infos[slot]["life"], 0), step) for slot in env.agents}


@pytest.mark.filterwarnings("ignore:unknown reset option")
def test_pettingzoo() -> None:
    for num_agents in (None, 1, 2):
        parallel_api_test(slots_env("particles", num_agents=num_agents, horizon=100), 300)


@pytest.mark.simulator
@pytest.mark.filterwarnings("ignore:unknown reset option")
def test_pettingzoo_on_metadrive(closing: Callable[[SlotsEnv], SlotsEnv]) -> None:
    parallel_api_test(closing(slots_env("parking_lot", horizon=50, in_process=True)), 80)


def test_slots_are_always_there_and_their_infos_constant() -> None:
    env = slots_env("particles", num_agents=5, horizon=150)
    slots = [f"slot_{i}" for i in range(5)]
    obs, infos = env.reset(seed=0)
    kinds = {key: type(value) for key, value in infos["slot_0"].items()}
    assert {"active", "life", "terminated", "truncated", "spawned", "outcome", "seed"} < kinds.keys()
    assert set(kinds.values()) == {int, float, bool}
    empty = ended = step = 0
    while env.agents:
        assert env.agents == slots == env.possible_agents
        before = {slot: info["life"] for slot, info in infos.items()}
        obs, rewards, terminated, truncated, infos = env.step(drive(env, infos, step))
        step += 1
        for values in (obs, rewards, terminated, truncated, infos):
            assert list(values) == slots
        assert not any(terminated.values()) and set(truncated.values()) == {not env.agents}
        for slot, info in infos.items():
            assert {key: type(value) for key, value in info.items()} == kinds
            assert env.observation_space(slot).contains(obs[slot])
            sees = info["active"] if env.agents else before[slot] >= 0  # at the end: whoever acted, for the last time
            assert obs[slot].any() == sees and info["active"] == (info["life"] >= 0)
            assert info["own_reward"] == rewards[slot]
            if before[slot] < 0:
                assert rewards[slot] == 0 and info["outcome"] == 0 and info["life_steps"] == 0
            assert (info["terminated"] or info["truncated"]) == (info["outcome"] != Outcome.RUNNING)
            assert info["spawned"] == (info["active"] and info["life"] != before[slot])
            empty += not info["active"]
            ended += info["terminated"]
        assert env.positions().keys() == {s for s in slots if infos[s]["active"] or before[s] >= 0}
        assert env.headings().keys() == env.positions().keys()
        assert env.next_positions().keys() == env.next_headings().keys() == {s for s in slots if infos[s]["active"]}
        for row, slot in zip(env.state().reshape(5, 6), slots, strict=True):
            expected = np.zeros(6)
            if infos[slot]["active"]:
                speed = 0.0 if infos[slot]["spawned"] else infos[slot]["velocity_m_s"]
                heading = env.next_headings()[slot]
                expected = [1, *env.next_positions()[slot], np.cos(heading), np.sin(heading), speed]
            np.testing.assert_allclose(row, expected, atol=1e-5)
    assert empty > 50 and ended > 5


def test_the_last_observations_are_those_of_the_vehicles_cut_by_the_horizon() -> None:
    slots, lives = (view("particles", num_agents=4, horizon=30, drain=False) for view in (slots_env, parallel_env))
    obs, infos = slots.reset(seed=3)
    last, _ = lives.reset(seed=3)
    living: dict[str, str] = {}
    truncated: dict[str, bool] = {}
    while slots.agents:
        living = {slot: f"agent_{info['life']}" for slot, info in infos.items() if info["active"]}
        obs, _, _, truncated, infos = slots.step({slot: [0.0, 0.1] for slot in slots.agents})
        last, *_ = lives.step({agent: [0.0, 0.1] for agent in lives.agents})
    assert all(truncated.values()) and len(living) == 4
    for slot, agent in living.items():
        np.testing.assert_array_equal(obs[slot], last[agent])
        assert obs[slot].any()


def assert_same_episode(lives: LivesEnv, slots: SlotsEnv, seed: int, steps: int) -> int:
    """Drive both with the same action for the same life; returns how many lives ended."""
    obs, _ = lives.reset(seed=seed)
    slot_obs, slot_infos = slots.reset(seed=seed)
    endings = 0
    for step in range(steps):
        if not lives.agents:
            break
        living = {info["life"]: slot for slot, info in slot_infos.items() if info["active"]}
        assert [f"agent_{life}" for life in sorted(living)] == lives.agents
        for life, slot in living.items():
            np.testing.assert_array_equal(slot_obs[slot], obs[f"agent_{life}"])
        obs, rewards, terminated, truncated, infos = lives.step(
            {f"agent_{life}": action_of(life, step) for life in living}
        )
        slot_obs, slot_rewards, _, _, slot_infos = slots.step(drive(slots, slot_infos, step))
        for life, slot in living.items():
            agent, slot_info = f"agent_{life}", slot_infos[slot]
            assert slot_rewards[slot] == rewards[agent]
            assert (slot_info["terminated"], slot_info["truncated"]) == (terminated[agent], truncated[agent])
            assert infos[agent].items() <= slot_info.items()
            np.testing.assert_array_equal(slots.positions()[slot], lives.positions()[agent])
            assert slots.headings()[slot] == lives.headings()[agent]
            endings += slot_info["terminated"] or slot_info["truncated"]
        np.testing.assert_array_equal(slots.state(), lives.state())
        assert slots.state_space.contains(slots.state())
    assert bool(lives.agents) == bool(slots.agents)
    return endings


def test_both_views_tell_the_same_episode() -> None:
    lives, slots = parallel_env("particles", horizon=200), slots_env("particles", horizon=200)
    assert assert_same_episode(lives, slots, seed=3, steps=500) > 10


@pytest.mark.simulator
def test_both_views_tell_the_same_episode_of_metadrive(closing: Callable[[Any], Any]) -> None:
    # The second one finds the engine of the first in this process and goes to a worker.
    lives, slots = closing(parallel_env("intersection")), closing(slots_env("intersection"))
    assert assert_same_episode(lives, slots, seed=3, steps=120) > 10


def test_refusals() -> None:
    env = slots_env("particles", num_agents=2, horizon=3)
    with pytest.raises(SceneError, match=r"has not been reset: call reset\(\) first"):
        env.step({})
    env.reset(seed=0, options={"num_agents": 1})
    still = np.zeros(2)
    with pytest.raises(SceneError, match="no action for 'slot_0'"):
        env.step({"slot_1": still})
    with pytest.raises(SceneError, match="an action for 'slot_2'"):
        env.step({"slot_0": still, "slot_2": still})
    with pytest.raises(SceneError, match="the action of 'slot_0' is"):
        env.step({"slot_0": np.array([0.0, np.inf])})
    for _ in range(3):
        env.step({"slot_0": still, "slot_1": np.full(2, np.nan)})  # slot_1 is empty: its action is ignored
    with pytest.raises(SceneError, match="the episode is over"):
        env.step({"slot_0": still})


def test_supersuit() -> None:
    supersuit = pytest.importorskip("supersuit")
    pytest.importorskip("stable_baselines3")
    env = pickle.loads(pickle.dumps(copo_envs.slots_env("particles", num_agents=3, horizon=40)))
    venv = supersuit.pettingzoo_env_to_vec_env_v1(env)
    venv = supersuit.concat_vec_envs_v1(venv, 2, base_class="stable_baselines3")
    obs = venv.reset()
    assert obs.shape == (6, 32) and not np.array_equal(obs[:3], obs[3:])  # the copies have seeds of their own
    episodes = 0
    for _ in range(130):
        obs, rewards, dones, infos = venv.step(np.tile([0.0, 1.0], (6, 1)))
        assert obs.shape == (6, 32) and rewards.shape == dones.shape == (6,) and len(infos) == 6
        assert dones[:3].all() == dones[:3].any()
        episodes += int(dones[0])
        if dones[0]:
            assert obs[:3].any(axis=1).all() and "terminal_observation" in infos[0]
    assert episodes >= 1
    venv.close()

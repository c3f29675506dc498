"""The same episode, by seed and by the actions of each life, through every view: the same rewards and endings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
from pettingzoo.utils.conversions import parallel_to_aec

import copo_envs
from copo_envs.outcomes import Outcome


@dataclass
class Life:
    """What a view tells of one vehicle."""

    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    outcome: int = 0
    route_completion: list[float] = field(default_factory=list)
    last_obs: list[float] = field(default_factory=list)
    """At its end."""


Story = dict[int, Life]


class Teller:
    """Gives every life its actions, which depend on its number and age alone, and writes down what is told of it."""

    def __init__(self) -> None:
        self.story: Story = {}

    def action(self, life: int) -> np.ndarray:
        rng = np.random.default_rng([life, len(self.story.setdefault(life, Life()).rewards)])
        return np.array([rng.normal(0, 0.2), rng.uniform(0.2, 1)], np.float32).clip(-1, 1)

    def hear(
        self, life: int, reward: float, terminated: bool, truncated: bool, info: dict[str, Any], obs: np.ndarray
    ) -> None:
        told = self.story[life]
        assert not told.terminated and not told.truncated, f"life {life} acts after its end"
        told.rewards.append(float(np.float32(reward)))  # Stable-Baselines3 has 32 bits
        told.route_completion.append(float(info["route_completion"]))
        told.terminated, told.truncated, told.outcome = bool(terminated), bool(truncated), int(info["outcome"])
        assert info["life_steps"] == len(told.rewards)
        if terminated or truncated:
            told.last_obs = obs.tolist()


def through_lives(env: Any, seed: int, steps: int) -> Story:
    teller = Teller()
    env.reset(seed=seed)
    for _ in range(steps):
        if not env.agents:
            break
        acting = list(env.agents)
        number = {agent: int(agent.removeprefix("agent_")) for agent in acting}
        obs, rewards, terminated, truncated, infos = env.step({a: teller.action(number[a]) for a in acting})
        for a in acting:
            teller.hear(number[a], rewards[a], terminated[a], truncated[a], infos[a], obs[a])
    return teller.story


def through_slots(env: Any, seed: int, steps: int) -> Story:
    teller = Teller()
    _, infos = env.reset(seed=seed)
    ends: dict[int, np.ndarray] = {}
    for _ in range(steps):
        if not env.agents:
            break
        life = {slot: info["life"] for slot, info in infos.items() if info["active"]}
        actions = {slot: teller.action(life[slot]) if slot in life else np.zeros(2) for slot in env.agents}
        _, rewards, _, _, infos = env.step(actions)
        for slot, number in life.items():
            info = infos[slot]
            # This view gives no last observation of a life whose slot goes on; the simulator's stands in.
            ends[number] = env._last_batch().final_obs[int(slot.removeprefix("slot_"))].copy()
            teller.hear(number, rewards[slot], info["terminated"], info["truncated"], info, ends[number])
    return teller.story


def through_turns(env: Any, seed: int, steps: int) -> Story:
    teller = Teller()
    aec: Any = parallel_to_aec(env)
    aec.reset(seed=seed)
    for agent in aec.agent_iter():
        obs, reward, terminated, truncated, info = aec.last()
        number = int(agent.removeprefix("agent_"))
        if info["life_steps"]:
            teller.hear(number, reward, terminated, truncated, info, obs)
        aec.step(None if terminated or truncated else teller.action(number))
        if env._last_batch().episode_step > steps:  # all have been told of the last step, and the last one has acted
            break
    return teller.story


def through_arrays(env: Any, seed: int, steps: int) -> Story:
    """The first scene of a vector; the others do something else beside it."""
    teller = Teller()
    _, infos = env.reset(seed=seed)
    rng, slots = np.random.default_rng(99), env.num_slots
    for _ in range(steps):
        life = infos["life"][:slots]
        actions = np.stack([rng.normal(0, 0.3, env.num_envs), rng.uniform(0, 1, env.num_envs)], axis=1)
        for row in np.nonzero(life >= 0)[0]:
            actions[row] = teller.action(int(life[row]))
        obs, rewards, terminated, truncated, infos = env.step(actions.clip(-1, 1))
        for row in np.nonzero(life >= 0)[0]:
            ended = terminated[row] or truncated[row]
            last = infos["final_obs"][row] if ended else obs[row]
            info = {key: infos[key][row] for key in ("route_completion", "outcome", "life_steps")}
            teller.hear(int(life[row]), rewards[row], terminated[row], truncated[row], info, last)
        if infos["episode_over"][0]:
            break
    return teller.story


def through_sb3(env: Any, seed: int, steps: int) -> Story:
    teller = Teller()
    env.seed(seed)
    env.reset()
    infos = env.reset_infos
    for _ in range(steps):
        life = [info["life"] for info in infos]
        obs, rewards, dones, infos = env.step(
            np.stack([teller.action(number) if number >= 0 else np.zeros(2) for number in life])
        )
        for row, number in enumerate(life):
            info, done = infos[row], dones[row]
            if number < 0:
                assert not done
                continue
            cut = info["TimeLimit.truncated"]
            last = info["terminal_observation"] if done else obs[row]
            teller.hear(number, rewards[row], done and not cut, cut, info, last)
            if done:
                assert info["episode"]["l"] == len(teller.story[number].rewards)
                assert info["episode"]["r"] == pytest.approx(sum(teller.story[number].rewards), rel=1e-5)
        if infos[0]["episode_over"]:
            break
    return teller.story


def stories(scene: str, steps: int, seed: int, scenes: int, **options: Any) -> dict[str, Story]:
    """By view. Each environment is closed before the next one is made."""
    pytest.importorskip("stable_baselines3")
    from copo_envs.sb3 import SceneVecEnv

    views: dict[str, tuple[Callable[[], Any], Callable[[Any, int, int], Story]]] = {
        "lives": (lambda: copo_envs.parallel_env(scene, in_process=True, **options), through_lives),
        "slots": (lambda: copo_envs.slots_env(scene, in_process=True, **options), through_slots),
        "turns": (lambda: copo_envs.parallel_env(scene, in_process=True, **options), through_turns),
        "arrays": (
            lambda: gymnasium.make_vec(copo_envs.GYMNASIUM_IDS[scene], num_envs=scenes, **options),
            through_arrays,
        ),
        "sb3": (lambda: SceneVecEnv(scene, in_process=True, **options), through_sb3),
    }
    told = {}
    for name, (make, through) in views.items():
        env = make()
        try:
            told[name] = through(env, seed, steps)
        finally:
            env.close()
    return told


def assert_the_same(told: dict[str, Story]) -> Story:
    first = told["lives"]
    for view, story in told.items():
        assert story.keys() == first.keys(), view
        for life, expected in first.items():
            assert story[life] == expected, f"life {life} through {view}"
    return first


@pytest.mark.slow
@pytest.mark.parametrize("drain", [True, False])
def test_particles(drain: bool) -> None:
    first = assert_the_same(stories("particles", 1000, seed=5, scenes=2, horizon=120, drain=drain))
    endings = [Outcome(life.outcome) for life in first.values()]
    assert len(endings) > 10 and endings.count(Outcome.RUNNING) == 0  # a whole episode
    assert {Outcome.CRASH, Outcome.OUT_OF_ROAD} <= set(endings)
    assert drain or Outcome.MAX_STEP in endings
    assert all(life.terminated == (life.outcome != Outcome.MAX_STEP) and life.last_obs for life in first.values())


@pytest.mark.simulator
def test_metadrive() -> None:
    first = assert_the_same(stories("intersection", 70, seed=2, scenes=1, num_agents=8))
    assert sum(life.outcome != Outcome.RUNNING for life in first.values()) >= 4 and len(first) > 8

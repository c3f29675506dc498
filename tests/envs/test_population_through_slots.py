"""Random births, deaths and resets through the views: one life per slot at a time, nothing lost, nothing doubled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_envs.episodes import AutoReset
from copo_envs.lives_env import LivesEnv
from copo_envs.local import LocalWorker
from copo_envs.outcomes import Outcome
from copo_envs.slots_env import SlotsEnv
from copo_envs.step_batch import StepBatch
from copo_envs.vector import SceneVectorEnv

D = 32


@dataclass(frozen=True)
class Moment:
    """What happens in one step: who ends (slots), how, and which empty slots get a newborn after it."""

    dies: frozenset[int]
    outcome: Outcome
    born: frozenset[int]


def obs_of(episode: int, life: int, age: int) -> np.ndarray:
    """Tells whose it is: nobody else ever sees this."""
    out = np.zeros(D, np.float32)
    out[:3] = (episode + 1) / 100, (life + 1) / 1000, (age + 1) / 100
    return out


class Scripted:
    """A simulator that does what a script says. It keeps the truth: per (episode, life) the rewards, and its ending."""

    def __init__(self, episodes: list[tuple[int, list[Moment]]], num_slots: int):
        self.num_slots, self.obs_size, self.max_lives = num_slots, D, 1000
        self.batch = StepBatch.zeros(num_slots, D)
        self._episodes, self._episode = episodes, -1
        self.rewards: dict[tuple[int, int], list[float]] = {}
        self.outcomes: dict[tuple[int, int], int] = {}
        self._age = np.zeros(num_slots, np.int64)
        self._number = 0.0

    @property
    def backend(self) -> None:
        return None

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.batch.clear_transition()
        return self.begin_episode(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self._episode += 1
        self._lives, self._moment = 0, 0
        self.batch.clear_now()
        self.batch.episode_over[...] = False
        self.batch.episode_step[...] = 0
        for slot in range(self._script()[0]):
            self._enter(slot)
        return self.batch

    def step(self, actions: np.ndarray) -> StepBatch:
        batch, moment = self.batch, self._script()[1][self._moment]
        self._moment += 1
        last = self._moment == len(self._script()[1])
        alive, life = batch.active.copy(), batch.life.copy()
        batch.clear_transition()
        batch.acted[:], batch.acted_life[:] = alive, life
        for slot in np.nonzero(alive)[0]:
            self._number += 1
            self._age[slot] += 1
            key = (self._episode, int(life[slot]))
            self.rewards[key].append(self._number)
            batch.reward[slot], batch.life_steps[slot] = self._number, self._age[slot]
            if slot in moment.dies or last:
                outcome = moment.outcome if slot in moment.dies else Outcome.MAX_STEP
                cut = outcome == Outcome.MAX_STEP
                batch.truncated[slot], batch.terminated[slot], batch.outcome[slot] = cut, not cut, outcome
                self.outcomes[key] = int(outcome)
                batch.final_obs[slot] = obs_of(*key, int(self._age[slot]))
                for name in ("active", "spawned", "obs"):
                    getattr(batch, name)[slot] = 0
                batch.life[slot] = -1
            else:
                batch.obs[slot] = obs_of(*key, int(self._age[slot]))
        batch.spawned[:] = False
        batch.episode_step += 1
        batch.episode_over[...] = last
        if not last:
            for slot in moment.born:
                if not batch.active[slot]:
                    self._enter(slot)
        return batch

    def scenery(self) -> dict[str, Any]:
        raise NotImplementedError

    def traffic(self) -> np.ndarray:
        return np.zeros((0, 3))

    def rule_actions(self) -> np.ndarray:
        raise AssertionError("nobody asked for a driver")

    def wrecks(self) -> np.ndarray:
        return np.zeros((0, 3))

    def close(self) -> None:
        pass

    def _script(self) -> tuple[int, list[Moment]]:
        return self._episodes[self._episode % len(self._episodes)]

    def _enter(self, slot: int) -> None:
        batch = self.batch
        batch.active[slot] = batch.spawned[slot] = True
        batch.life[slot] = self._lives
        batch.obs[slot] = obs_of(self._episode, self._lives, 0)
        self.rewards[self._episode, self._lives] = []
        self._age[slot] = 0
        self._lives += 1


@dataclass
class Population:
    num_slots: int
    episodes: list[tuple[int, list[Moment]]]


@st.composite
def populations(draw: st.DrawFn) -> Population:
    num_slots = draw(st.integers(1, 5))
    slots = st.frozensets(st.integers(0, num_slots - 1))
    moments = st.builds(Moment, slots, st.sampled_from([o for o in Outcome if o is not Outcome.RUNNING]), slots)
    episode = st.tuples(st.integers(1, num_slots), st.lists(moments, min_size=1, max_size=12))
    return Population(num_slots, draw(st.lists(episode, min_size=1, max_size=4)))


class Heard:
    """What a view told, put together by life. Refuses a life that acts after its end or in two places at once."""

    def __init__(self) -> None:
        self.rewards: dict[tuple[int, int], list[float]] = {}
        self.outcomes: dict[tuple[int, int], int] = {}

    def born(self, key: tuple[int, int], obs: np.ndarray) -> None:
        assert key not in self.rewards, f"{key} is born twice"
        self.rewards[key] = []
        np.testing.assert_array_equal(obs, obs_of(*key, 0))

    def step(self, key: tuple[int, int], reward: float, outcome: int, age: int, obs: np.ndarray) -> None:
        assert key not in self.outcomes, f"{key} acts after its end"
        self.rewards[key].append(reward)
        assert age == len(self.rewards[key])
        np.testing.assert_array_equal(obs, obs_of(*key, age))
        if outcome:
            self.outcomes[key] = outcome

    def equals(self, truth: Scripted) -> bool:
        return self.rewards == truth.rewards and self.outcomes == truth.outcomes


@given(populations())
@settings(deadline=None, max_examples=60)
def test_slots(population: Population) -> None:
    env = SlotsEnv("particles", num_agents=population.num_slots)
    env._simulator = truth = Scripted(population.episodes, population.num_slots)
    heard = Heard()
    for episode in range(len(population.episodes)):
        obs, infos = env.reset(seed=episode)
        lives: dict[str, int] = {}
        over = False
        while True:
            living = [info["life"] for info in infos.values() if info["active"]]
            assert len(set(living)) == len(living), "one life in two slots"
            for slot, info in infos.items():
                if info["spawned"]:
                    heard.born((episode, info["life"]), obs[slot])
                    assert slot not in lives, f"{slot} holds two lives"
                    lives[slot] = info["life"]
                assert (lives.get(slot, -1) == info["life"]) or over
            if over:
                break
            obs, rewards, _, _, infos = env.step({slot: np.zeros(2) for slot in env.agents})
            over = not env.agents
            for slot, life in list(lives.items()):
                info = infos[slot]
                if info["outcome"]:
                    del lives[slot]
                last = truth.batch.final_obs[int(slot[5:])] if info["outcome"] else obs[slot]
                heard.step((episode, life), rewards[slot], info["outcome"], info["life_steps"], last)
        assert not lives, "a life was lost"
    assert heard.equals(truth)


@given(populations())
@settings(deadline=None, max_examples=60)
def test_lives(population: Population) -> None:
    # The lives view ends an episode with the last agent, so a step in which nobody is there ends it here as well.
    env = LivesEnv("particles", num_agents=population.num_slots)
    env._simulator = truth = Scripted(population.episodes, population.num_slots)
    heard = Heard()
    for episode in range(len(population.episodes)):
        obs, _ = env.reset(seed=episode)
        for agent in env.agents:
            heard.born((episode, int(agent[6:])), obs[agent])
        while env.agents:
            acting = list(env.agents)
            obs, rewards, terminated, truncated, infos = env.step({agent: np.zeros(2) for agent in acting})
            for agent in obs:
                key, info = (episode, int(agent[6:])), infos[agent]
                if agent in acting:
                    heard.step(key, rewards[agent], info["outcome"], info["life_steps"], obs[agent])
                    assert (terminated[agent] or truncated[agent]) == bool(info["outcome"])
                else:
                    heard.born(key, obs[agent])
    assert heard.equals(truth)


@given(populations())
@settings(deadline=None, max_examples=60)
def test_arrays(population: Population) -> None:
    env = SceneVectorEnv("particles", in_process=True, num_agents=population.num_slots)
    truth = Scripted(population.episodes, population.num_slots)
    worker = env._scenes._workers[0]
    assert isinstance(worker, LocalWorker)
    worker._stepper = AutoReset(truth)
    heard, episode, rows = Heard(), 0, population.num_slots
    obs, infos = env.reset(seed=0)
    lives = np.full(rows, -1)
    while True:
        for row in np.nonzero(infos["spawned"])[0]:
            assert lives[row] == -1, f"row {row} holds two lives"
            lives[row] = infos["life"][row]
            heard.born((episode, int(lives[row])), obs[row])
        np.testing.assert_array_equal(lives, infos["life"])
        if episode == len(population.episodes):
            break
        obs, rewards, terminated, truncated, infos = env.step(np.zeros((rows, 2)))
        ended = terminated | truncated
        for row in np.nonzero(lives >= 0)[0]:
            last = infos["final_obs"][row] if ended[row] else obs[row]
            outcome, age = int(infos["outcome"][row]), int(infos["life_steps"][row])
            assert bool(outcome) == ended[row]
            heard.step((episode, int(lives[row])), float(rewards[row]), outcome, age, last)
            if ended[row]:
                assert infos["final_info"]["life"][row] == lives[row]
        assert not rewards[lives < 0].any() and not ended[lives < 0].any()
        lives[ended] = -1
        if infos["episode_over"][0]:
            assert (lives == -1).all(), "a life was lost"
            episode += 1
    assert heard.equals(truth)

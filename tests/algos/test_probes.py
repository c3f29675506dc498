"""Tiny worlds in which the right answer is known, each of which would show one kind of mistake.

The whole chain runs in them: collector, advantages, update, meta-step. Only the scenes are made up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from copo_algos.advantages import coordinate, standardise
from copo_algos.algorithms import NEIGHBOURHOOD, OWN, get_algorithm
from copo_algos.config import LCFConfig, PPOConfig, TrainConfig
from copo_algos.factors import draw_lcf
from copo_algos.lcf import LCFDistribution, lcf_update
from copo_algos.networks import GaussianActor, ValueCritic, gaussian_log_prob
from copo_algos.ppo import explained_variance, make_samples, ppo_update
from copo_algos.rollout import Collector
from copo_algos.types import Rollout, Samples
from copo_envs.outcomes import Outcome
from copo_envs.step_batch import StepBatch

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
Rewards = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""obs (E, N, D), actions (E, N, 2) -> rewards (E, N)."""


class Toy:
    """E worlds of N slots, all on one spot, with the interface of a `SceneVector`.

    Every life lasts `life_steps` steps and ends by termination or truncation. Observations are -1 or 1 at random and
    the age of the life as a one-hot vector.
    """

    def __init__(self, reward: Rewards, num_envs: int, num_slots: int, life_steps: int = 1, truncate: bool = False):
        self.num_envs, self.num_slots, self.obs_size = num_envs, num_slots, 1 + life_steps
        self.batch = StepBatch.zeros(num_slots, self.obs_size, lead=(num_envs,))
        self._reward, self._life_steps, self._truncate = reward, life_steps, truncate
        self._rng = np.random.default_rng(0)
        self._age = np.zeros((num_envs, num_slots), np.int64)

    def reset(self, seeds: list[int], num_agents: int | None = None, first_steps: list[int] | None = None) -> StepBatch:
        assert num_agents is None and first_steps is None
        self._rng = np.random.default_rng(seeds)
        self.batch.active[:] = self.batch.spawned[:] = True
        self._age[:] = 0
        self.batch.obs[:] = self._observe()
        return self.batch

    def step(self, actions: np.ndarray) -> StepBatch:
        batch = self.batch
        batch.reward[:] = self._reward(batch.obs, actions)
        batch.acted[:] = True
        self._age += 1
        over = self._age == self._life_steps
        batch.life_steps[:] = self._age
        (batch.truncated if self._truncate else batch.terminated)[:] = over
        batch.outcome[:] = np.where(over, Outcome.MAX_STEP if self._truncate else Outcome.SUCCESS, 0)
        self._age[over] = 0
        batch.spawned[:] = over
        batch.obs[:] = self._observe()
        batch.final_obs[:] = np.where(over[..., None], batch.obs, 0)
        return batch

    def _observe(self) -> np.ndarray:
        sign = self._rng.choice([-1.0, 1.0], self._age.shape)
        return np.concatenate([sign[..., None], np.eye(self._life_steps)[self._age]], axis=-1)


def adams(actor: GaussianActor, critic: ValueCritic, learning_rate: float) -> list[torch.optim.Adam]:
    """The actor's, and one per value head."""
    return [torch.optim.Adam(network.parameters(), lr=learning_rate) for network in (actor, *critic.heads)]


@dataclass
class Learner:
    """What a trainer holds, without its files and processes."""

    toy: Any
    algorithm: str
    ppo: PPOConfig
    lcf: LCFConfig
    steps: int
    """T of each rollout."""

    def __post_init__(self) -> None:
        self.row = get_algorithm(self.algorithm)
        generator = torch.Generator().manual_seed(0)
        obs_size = self.toy.obs_size + self.row.uses_lcf
        self.rng = np.random.default_rng(0)
        config = TrainConfig(self.algorithm, ppo=self.ppo, lcf=self.lcf)
        self.collector = Collector(self.toy, self.row, config, self.rng, generator)
        self.actor = GaussianActor(obs_size, 2, generator)
        self.critic = ValueCritic(self.collector.critic_obs_size, self.row.value_heads, generator)
        self.factor = LCFDistribution(self.lcf.lcf_initial_mean, self.lcf.lcf_initial_std)
        self.step, *self.fit = adams(self.actor, self.critic, self.ppo.learning_rate)
        self.meta = torch.optim.Adam(self.factor.parameters(), lr=self.lcf.lcf_learning_rate)
        self.collector.begin(list(range(self.toy.num_envs)), *self.values())

    def values(self) -> tuple[float, float]:
        with torch.no_grad():
            return float(self.factor.mean()), float(self.factor.std())

    def iterate(self, times: int) -> Rollout:
        """So many rollouts, each with its update; returns the last of them."""
        out: list[Rollout] = []
        for _ in range(times):
            rollout = self.collector.collect(self.actor, self.steps, *self.values())
            samples = make_samples(rollout, self.critic, self.row, self.ppo, CPU)
            old = copy.deepcopy(self.actor)
            ppo_update(self.actor, self.critic, self.step, self.fit, samples, self.ppo, self.ppo.kl_coef, self.rng)
            if self.row.learns_lcf:
                clip = self.ppo.clip_coef
                lcf_update(self.factor, self.meta, self.actor, old, samples, self.lcf, clip, self.rng)
            out.append(rollout)
        return out[-1]


FAST = PPOConfig(learning_rate=3e-3, minibatch_size=256, kl_coef=0.0, clip_coef=0.3, value_clip=10.0)


def test_a_policy_learns_which_way_to_steer():
    """One step, +1 for steering to the side that the observation tells, -1 for the other."""
    toy = Toy(lambda obs, actions: np.sign(actions[..., 0] * obs[..., 0]), num_envs=4, num_slots=8)
    learner = Learner(toy, "ippo", FAST, LCFConfig(), steps=16)
    before = learner.iterate(1).reward[..., 0].mean()
    after = learner.iterate(9).reward[..., 0].mean()
    assert abs(before) < 0.2 and after > 0.9


def test_a_critic_learns_the_return_of_a_life_that_ends():
    """Reward 1 in each of 4 steps: V(age) = (1 - gamma^(4 - age)) / (1 - gamma)."""
    toy = Toy(lambda obs, actions: np.ones(obs.shape[:2]), num_envs=4, num_slots=8, life_steps=4)
    learner = Learner(toy, "ippo", PPOConfig(learning_rate=3e-3, minibatch_size=128, gamma=0.9), LCFConfig(), steps=16)
    learner.iterate(6)
    expected = [(1 - 0.9 ** (4 - age)) / 0.1 for age in range(4)]
    assert values_by_age(learner) == pytest.approx(expected, abs=0.15)


def test_a_critic_learns_that_a_truncated_life_would_have_gone_on():
    """The same reward for ever, of which lives see 4 steps: V = 1 / (1 - gamma) at every age."""
    toy = Toy(lambda obs, actions: np.ones(obs.shape[:2]), num_envs=4, num_slots=8, life_steps=4, truncate=True)
    learner = Learner(toy, "ippo", PPOConfig(learning_rate=3e-3, minibatch_size=128, gamma=0.5), LCFConfig(), steps=16)
    learner.iterate(6)
    assert values_by_age(learner) == pytest.approx([2.0] * 4, abs=0.1)


def values_by_age(learner: Learner) -> list[float]:
    """V(age), the mean over both signs of the observation's first number."""
    ages = torch.eye(4)
    with torch.no_grad():
        both = [learner.critic(torch.cat([torch.full((4, 1), sign), ages], dim=1))[:, 0] for sign in (-1.0, 1.0)]
    return torch.stack(both).mean(0).tolist()


class Places(Toy):
    """A toy of two slots, each of which observes which one it is: -1 or 1."""

    def _observe(self) -> np.ndarray:
        obs = super()._observe()
        obs[..., 0] = [-1.0, 1.0]
        return obs


def test_the_three_heads_learn_the_three_rewards():
    """Slot 0 earns 1 in each of its two steps and slot 1 earns 4: own 1 or 4, neighbour's 4 or 1, everybody's 2.5.

    The discount, 0.5, is that of the own and the neighbour's reward; that of everybody's is 1.
    """
    earns = np.array([1.0, 4.0])
    toy = Places(lambda obs, actions: np.broadcast_to(earns, obs.shape[:2]), num_envs=8, num_slots=2, life_steps=2)
    ppo = PPOConfig(learning_rate=3e-3, minibatch_size=64, gamma=0.5, global_gamma=1.0)
    learner = Learner(toy, "copo", ppo, LCFConfig(lcf_passes=0), steps=16)
    assert (learner.iterate(4).reward == [[1, 4, 2.5], [4, 1, 2.5]]).all()
    for slot, sign in enumerate((-1.0, 1.0)):
        own, other = earns[slot], earns[1 - slot]
        first, last = torch.tensor([[sign, 1.0, 0.0, 0.5], [sign, 0.0, 1.0, 0.5]])  # by age; phi is 0
        with torch.no_grad():
            values = learner.critic(torch.stack([first, last])).tolist()
        assert values[0] == pytest.approx([1.5 * own, 1.5 * other, 2 * 2.5], abs=0.2)
        assert values[1] == pytest.approx([own, other, 2.5], abs=0.2)


def test_where_only_neighbours_pay_the_factor_rises_and_gifts_are_given():
    """Of two, each earns as much as the other steers, in [-1, 1].

    The own reward does not depend on the own action, the neighbour's and the global one do. Without a factor nobody has
    a reason to give.
    """
    toy = Toy(lambda obs, actions: actions[..., ::-1, 0], num_envs=64, num_slots=2)
    learner = Learner(toy, "copo", FAST, LCFConfig(lcf_learning_rate=0.02), steps=4)
    gifts = learner.iterate(9).reward[..., 0].mean()
    assert learner.values()[0] > 0.3 and gifts > 0.9


def test_without_a_factor_nobody_learns_to_give():
    toy = Toy(lambda obs, actions: actions[..., ::-1, 0], num_envs=64, num_slots=2)
    gifts = Learner(toy, "ippo", FAST, LCFConfig(), steps=4).iterate(9).reward[..., 0].mean()
    assert abs(gifts) < 0.5


@pytest.mark.parametrize("algorithm", ["ippo", "ccppo_mean_field", "ccppo_concat"])
def test_a_value_that_lies_in_the_neighbour_needs_a_critic_that_sees_it(algorithm: str):
    """Of two, each earns the sign that the other observes: V is that sign, and to one who sees only itself it is 0."""
    toy = Toy(lambda obs, actions: obs[..., ::-1, 0], num_envs=16, num_slots=2)
    learner = Learner(toy, algorithm, FAST, LCFConfig(), steps=16)
    learner.iterate(6)
    rollout = learner.collector.collect(learner.actor, 16, 0.0, 0.0)
    samples = make_samples(rollout, learner.critic, learner.row, learner.ppo, CPU)
    explained = explained_variance(samples.value[:, OWN], samples.returns[:, OWN])
    assert explained < 0.1 if algorithm == "ippo" else explained > 0.9


Advantages = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The push of an action (B,) and noise (B, 3) -> advantages (B, 3): own, neighbourhood, global."""


def learned_mean(advantages: Advantages, begin: float) -> float:
    """The factor's mean after 10 iterations, each with a fresh batch and a policy that begins untrained."""
    generator = torch.Generator().manual_seed(0)
    rng, count = np.random.default_rng(0), 512
    factor = LCFDistribution(begin, 0.1)
    optimizer = torch.optim.Adam(factor.parameters(), lr=0.02)
    ppo = PPOConfig(minibatch_size=128, update_epochs=1)
    untrained = GaussianActor(2, 2, generator)
    for _ in range(10):
        with torch.no_grad():
            lcf = torch.from_numpy(draw_lcf(count, float(factor.mean()), float(factor.std()), rng))
            obs = torch.stack([torch.ones(count), (lcf + 1) / 2], dim=1)
            mean, log_std = untrained(obs)
            action = mean + log_std.exp() * torch.randn(count, 2, generator=generator)
            advantage = advantages(torch.tanh(action[:, 0]), torch.randn(count, 3, generator=generator))
        coordinated = coordinate(advantage[:, OWN].numpy(), advantage[:, NEIGHBOURHOOD].numpy(), lcf.numpy())
        policy_advantage, raw_mean, raw_std = standardise(coordinated)
        samples = Samples(
            obs=obs,
            critic_obs=obs,
            action=action,
            log_prob=gaussian_log_prob(mean, log_std, action),
            mean=mean,
            log_std=log_std,
            advantage=advantage,
            value=torch.zeros(count, 3),
            lcf=lcf,
            policy_advantage=torch.from_numpy(policy_advantage),
            raw_mean=raw_mean,
            raw_std=raw_std,
        )
        actor, critic = copy.deepcopy(untrained), ValueCritic(2, 3, generator)
        step, *fit = adams(actor, critic, 3e-4)
        ppo_update(actor, critic, step, fit, samples, ppo, 0.2, rng)
        lcf_update(factor, optimizer, actor, untrained, samples, LCFConfig(), 0.3, rng)
    return factor.mean().item()


@pytest.mark.parametrize("begin", [0.0, -0.5])
def test_where_the_global_reward_is_the_neighbours_the_factor_rises(begin: float):
    """Only A_N depends on the action, and A_G = A_N."""
    assert learned_mean(lambda push, noise: torch.stack([noise[:, 0], push, push], dim=1), begin) > begin + 0.5


@pytest.mark.parametrize("begin", [0.0, 0.5])
def test_where_the_global_reward_is_the_own_the_factor_goes_to_0(begin: float):
    """Only A depends on the action, and A_G = A: listening to the neighbours only blurs it."""
    assert abs(learned_mean(lambda push, noise: torch.stack([push, noise[:, 1], push], dim=1), begin)) < 0.15


def test_where_neighbours_are_harmed_by_what_helps_all_the_factor_falls():
    """A_G = -A_N, and A is noise."""
    assert learned_mean(lambda push, noise: torch.stack([noise[:, 0], -push, push], dim=1), 0.0) < -0.5

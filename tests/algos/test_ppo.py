"""From a rollout to samples, against a loop that follows each life; one update, against its formula written out."""

from __future__ import annotations

import copy
import math
from concurrent.futures import Future
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from copo_algos import ppo
from copo_algos.algorithms import COORDINATED, GLOBAL, NEIGHBOURHOOD, OWN, get_algorithm
from copo_algos.config import PPOConfig
from copo_algos.losses import gaussian_kl
from copo_algos.networks import GaussianActor, ValueCritic, gaussian_log_prob
from copo_algos.ppo import adapt_kl_coef, explained_variance, make_samples, ppo_update
from copo_algos.types import Lives, Rollout, Samples

CPU = torch.device("cpu")
OBS_SIZE = 5
STEPS, ENVS, SLOTS = 30, 2, 3


def random_rollout(seed: int) -> Rollout:
    """Lives of random lengths with gaps between some of them; everything else is noise."""
    rng = np.random.default_rng(seed)
    shape = (STEPS, ENVS, SLOTS)
    acted, terminated, truncated = (np.zeros(shape, np.bool_) for _ in range(3))
    for env in range(ENVS):
        for slot in range(SLOTS):
            t = int(rng.integers(4))
            while t < STEPS:
                end = t + int(rng.integers(1, 9))
                acted[t:end, env, slot] = True
                if end <= STEPS:
                    (terminated, truncated)[int(rng.integers(2))][end - 1, env, slot] = True
                t = end + int(rng.integers(3))
    numbers = {
        name: rng.normal(size=(*shape, *tail)).astype(np.float32)
        for name, tail in {
            "obs": (OBS_SIZE,),
            "action": (2,),
            "log_prob": (),
            "mean": (2,),
            "log_std": (2,),
            "reward": (3,),
        }.items()
    }
    return Rollout(
        **numbers,
        critic_obs=numbers["obs"],
        next_obs=rng.normal(size=(ENVS, SLOTS, OBS_SIZE)).astype(np.float32),
        acted=acted,
        terminated=terminated,
        truncated=truncated,
        lcf=rng.uniform(-1, 1, shape).astype(np.float32),
        truncated_obs=rng.normal(size=(int(truncated.sum()), OBS_SIZE)).astype(np.float32),
        lives=Lives(np.zeros(0, np.int8), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), []),
    )


def critic_of(heads: int) -> ValueCritic:
    """A critic whose values are well away from 0 and differ between observations."""
    critic = ValueCritic(OBS_SIZE, heads, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for head in critic.heads:
            list(head.parameters())[4].mul_(100)  # the output layer's weight
    return critic


def random_samples(count: int, seed: int = 0, heads: int = 3) -> tuple[GaussianActor, ValueCritic, Samples]:
    """Float64 samples of an actor, and the actor and critic a little after it: ratios and values hit both clips."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = GaussianActor(OBS_SIZE, 2, generator).double()
    critic = ValueCritic(OBS_SIZE, heads, generator).double()
    obs = normal(count, OBS_SIZE)
    with torch.no_grad():
        mean, log_std = old(obs)
        action = mean + log_std.exp() * normal(count, 2)
        log_prob = Independent(Normal(mean, log_std.exp()), 1).log_prob(action)
        new = copy.deepcopy(old)
        for parameter in new.parameters():
            parameter += 0.02 * normal(*parameter.shape)
        value = critic(obs) + 0.5 * normal(count, heads)
    samples = Samples(
        obs=obs,
        critic_obs=obs,
        action=action,
        log_prob=log_prob,
        mean=mean,
        log_std=log_std,
        advantage=normal(count, heads),
        value=value,
        lcf=torch.zeros(count, dtype=torch.float64),
        policy_advantage=normal(count),
        raw_mean=0.0,
        raw_std=1.0,
    )
    return new, critic, samples


def update(
    actor: GaussianActor, critic: ValueCritic, samples: Samples, config: PPOConfig, make: Any = torch.optim.SGD
) -> ppo.UpdateStats:
    step, *fit = (make(network.parameters(), lr=config.learning_rate) for network in (actor, *critic.heads))
    return ppo_update(actor, critic, step, fit, samples, config, config.kl_coef, np.random.default_rng(0))


def state(*modules: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("name", ["ippo", "copo"])
def test_bootstrap_values_equal_a_loop_over_lives(name: str):
    algorithm, rollout = get_algorithm(name), random_rollout(0)
    critic = critic_of(algorithm.value_heads)
    config = PPOConfig(gamma=0.9, global_gamma=0.8, gae_lambda=0.0)
    samples = make_samples(rollout, critic, algorithm, config, CPU)

    def value(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return critic(torch.from_numpy(obs[None]))[0].numpy()

    gamma = np.array([0.9, 0.9, 0.8])[: algorithm.value_heads]
    last_obs = iter(rollout.truncated_obs)
    kinds = {"terminated": 0, "truncated": 0, "cut": 0, "goes on": 0}
    expected, values = [], []
    for t, env, slot in np.argwhere(rollout.acted):  # in the order of the samples and of `truncated_obs`
        here = (t, env, slot)
        if rollout.terminated[here]:
            kind, bootstrap = "terminated", np.zeros(algorithm.value_heads)
        elif rollout.truncated[here]:
            kind, bootstrap = "truncated", value(next(last_obs))
        elif t == STEPS - 1:
            kind, bootstrap = "cut", value(rollout.next_obs[env, slot])
        else:
            kind, bootstrap = "goes on", value(rollout.obs[t + 1, env, slot])
        kinds[kind] += 1
        values.append(value(rollout.obs[here]))
        expected.append(rollout.reward[here][: algorithm.value_heads] + gamma * bootstrap - values[-1])
    assert min(kinds.values()) > 0
    np.testing.assert_allclose(samples.value, values, atol=1e-5)
    np.testing.assert_allclose(samples.advantage, expected, atol=1e-5)
    np.testing.assert_allclose(samples.returns, np.array(expected) + values, atol=1e-5)


def test_a_fragment_of_a_rollout_is_as_one_of_its_own():
    algorithm, rollout, critic = get_algorithm("copo"), random_rollout(0), critic_of(3)
    config = PPOConfig(gamma=0.9, gae_lambda=0.9)
    parts = []
    for begin, end in ((0, 12), (12, 24), (24, STEPS)):
        part = {
            item.name: value[begin:end]
            for item in fields(Rollout)
            if isinstance(value := getattr(rollout, item.name), np.ndarray) and len(value) == STEPS
        }
        earlier = int(rollout.truncated[:begin].sum())
        seen = rollout.truncated_obs[earlier : earlier + int(part["truncated"].sum())]
        now = rollout.obs[end] if end < STEPS else rollout.next_obs
        parts.append(replace(rollout, **part, next_obs=now, truncated_obs=seen))
    expected = torch.cat([make_samples(part, critic, algorithm, config, CPU).advantage for part in parts])
    cut = make_samples(rollout, critic, algorithm, replace(config, fragment_steps=12), CPU).advantage
    torch.testing.assert_close(cut, expected)
    whole = make_samples(rollout, critic, algorithm, config, CPU).advantage
    assert (whole - cut).abs().max() > 0.1


def test_samples_are_the_rows_that_acted():
    rollout = random_rollout(1)
    samples = make_samples(rollout, critic_of(1), get_algorithm("ippo"), PPOConfig(), CPU)
    assert len(samples) == rollout.acted.sum()
    for name in ("obs", "action", "log_prob", "mean", "log_std", "lcf"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(rollout, name)[rollout.acted])


def test_ippo_follows_the_standardised_own_advantage():
    samples = make_samples(random_rollout(1), critic_of(1), get_algorithm("ippo"), PPOConfig(), CPU)
    own = samples.advantage[:, OWN].numpy()
    np.testing.assert_allclose(samples.policy_advantage, (own - own.mean()) / own.std(), atol=1e-5)
    assert samples.policy_advantage.mean().item() == pytest.approx(0, abs=1e-5)


def test_copo_follows_the_standardised_coordinated_advantage():
    samples = make_samples(random_rollout(1), critic_of(3), get_algorithm("copo"), PPOConfig(), CPU)
    angle = samples.lcf.numpy() * np.pi / 2
    own, neighbourhood = samples.advantage[:, OWN].numpy(), samples.advantage[:, NEIGHBOURHOOD].numpy()
    coordinated = np.cos(angle) * own + np.sin(angle) * neighbourhood
    assert samples.raw_mean == pytest.approx(coordinated.mean(), abs=1e-5)
    assert samples.raw_std == pytest.approx(coordinated.std(), rel=1e-5)
    np.testing.assert_allclose(
        samples.policy_advantage, (coordinated - coordinated.mean()) / coordinated.std(), atol=1e-5
    )


def test_the_coordinated_reward_has_a_critic_and_an_advantage_of_its_own():
    algorithm, rollout = get_algorithm("copo_coordinated_reward"), random_rollout(1)
    config = PPOConfig(gamma=0.9, global_gamma=0.5, gae_lambda=0.0)
    samples = make_samples(rollout, critic_of(4), algorithm, config, CPU)
    # With lambda 0 an advantage is r + gamma V' - V; the reward's part is what differs from a rollout without reward.
    without = make_samples(replace(rollout, reward=np.zeros_like(rollout.reward)), critic_of(4), algorithm, config, CPU)
    angle = rollout.lcf[rollout.acted] * np.pi / 2
    own, neighbourhood, _ = rollout.reward[rollout.acted].T
    found = (samples.advantage - without.advantage)[:, COORDINATED]
    np.testing.assert_allclose(found, np.cos(angle) * own + np.sin(angle) * neighbourhood, atol=1e-5)
    np.testing.assert_allclose(
        samples.policy_advantage * samples.raw_std + samples.raw_mean, samples.advantage[:, COORDINATED], atol=1e-5
    )


def test_critics_see_their_own_observations():
    rollout = random_rollout(1)
    wide = replace(rollout, critic_obs=np.concatenate([rollout.obs, rollout.obs[..., :2]], axis=-1))
    critic = ValueCritic(OBS_SIZE + 2, 1, torch.Generator().manual_seed(3))
    wide = replace(
        wide, next_obs=wide.critic_obs[0], truncated_obs=wide.critic_obs.reshape(-1, 7)[: len(rollout.truncated_obs)]
    )
    samples = make_samples(wide, critic, get_algorithm("ippo"), PPOConfig(), CPU)
    np.testing.assert_array_equal(samples.critic_obs, wide.critic_obs[rollout.acted])
    np.testing.assert_array_equal(samples.obs, rollout.obs[rollout.acted])
    with torch.no_grad():
        torch.testing.assert_close(samples.value, critic(samples.critic_obs))


def test_values_do_not_depend_on_how_the_rows_are_split(monkeypatch: pytest.MonkeyPatch):
    whole = make_samples(random_rollout(2), critic_of(3), get_algorithm("copo"), PPOConfig(), CPU)
    monkeypatch.setattr(ppo, "FORWARD_ROWS", 7)
    split = make_samples(random_rollout(2), critic_of(3), get_algorithm("copo"), PPOConfig(), CPU)
    torch.testing.assert_close(split.advantage, whole.advantage)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_one_gradient_step_equals_the_formula(max_grad_norm: float | None):
    actor, critic, samples = random_samples(40)
    config = PPOConfig(
        learning_rate=0.1,
        update_epochs=1,
        minibatch_size=40,
        clip_coef=0.2,
        value_clip=0.4,
        value_coef=0.7,
        entropy_coef=0.05,
        kl_coef=0.3,
        max_grad_norm=max_grad_norm,
    )
    expected_actor, expected_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    stats = update(actor, critic, samples, config)

    mean, log_std = expected_actor(samples.obs)
    new, old = (Independent(Normal(m, s.exp()), 1) for m, s in ((mean, log_std), (samples.mean, samples.log_std)))
    w, a = torch.exp(new.log_prob(samples.action) - samples.log_prob), samples.policy_advantage
    assert ((w < 0.8).any() and (w > 1.2).any()) and ((w - 1).abs() < 0.2).any()
    surrogate = torch.minimum(a * w, a * w.clip(0.8, 1.2)).mean()
    kl, entropy = kl_divergence(old, new).mean(), new.entropy().mean()
    v, v_old = expected_critic(samples.obs), samples.value
    returns = samples.advantage + v_old
    assert ((v - v_old).abs() > 0.4).any() and ((v - v_old).abs() < 0.4).any()
    value_loss = torch.maximum((v - returns) ** 2, (v_old + (v - v_old).clip(-0.4, 0.4) - returns) ** 2).mean(0).sum()
    loss = -surrogate + 0.7 * value_loss + 0.3 * kl - 0.05 * entropy
    loss.backward()
    for expected, found, limit in ((expected_actor, actor, max_grad_norm), (expected_critic, critic, None)):
        gradients = [before.grad for before in expected.parameters() if before.grad is not None]
        norm = torch.cat([gradient.ravel() for gradient in gradients]).norm()
        assert limit is None or norm > 2 * limit
        scale = 1.0 if limit is None else limit / norm
        if found is actor:
            assert stats.grad_norm_max == pytest.approx(norm.item(), rel=1e-5)
        for before, gradient, after in zip(expected.parameters(), gradients, found.parameters(), strict=True):
            assert gradient.any()
            torch.testing.assert_close(after, before - 0.1 * scale * gradient)

    assert stats.policy_loss == pytest.approx(-surrogate.item(), rel=1e-5)
    assert stats.value_loss == pytest.approx(value_loss.item(), rel=1e-5)
    assert stats.kl == pytest.approx(kl.item(), rel=1e-5)
    assert stats.entropy == pytest.approx(entropy.item(), rel=1e-5)
    assert stats.clip_fraction == pytest.approx(((w - 1).abs() > 0.2).double().mean().item())


def test_one_odd_action_does_not_throw_the_policy_away():
    """An action that was bad and has become a hundred thousand times as likely: the clip of the ratio does not hold it,
    and Adam goes on along its gradient in the steps that follow."""

    def kl_after(max_grad_norm: float | None) -> float:
        actor, critic, samples = random_samples(512)
        with torch.no_grad():  # as it was when the samples were taken, but for one action
            mean, log_std = actor(samples.obs)
            log_prob = gaussian_log_prob(mean, log_std, samples.action)
            log_prob[0] -= math.log(1e5)
            advantage = samples.policy_advantage.clone()
            advantage[0] = -1.0
            odd = replace(samples, mean=mean, log_std=log_std, log_prob=log_prob, policy_advantage=advantage)
        adam = torch.optim.Adam(actor.parameters(), lr=3e-4)
        critic_adams = [torch.optim.Adam(head.parameters()) for head in critic.heads]
        rng, stays = np.random.default_rng(0), replace(odd, log_prob=gaussian_log_prob(mean, log_std, samples.action))
        config = PPOConfig(max_grad_norm=max_grad_norm, update_epochs=1, minibatch_size=512)
        for batch in (*[stays] * 20, odd, *[stays] * 20):
            ppo_update(actor, critic, adam, critic_adams, batch, config, 0.0, rng)
        return float(gaussian_kl(mean, log_std, *(part.detach() for part in actor(samples.obs))))

    thrown, held = kl_after(None), kl_after(10.0)
    assert thrown > 5 * held


class _AtOnce:
    """An executor without a thread: work is done when it is submitted."""

    def __init__(self, max_workers: int):
        pass

    def __enter__(self) -> _AtOnce:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done

    def map(self, work: Any, arguments: Any) -> Any:
        return map(work, arguments)


def test_threads_compute_what_one_does(monkeypatch: pytest.MonkeyPatch):
    config = PPOConfig(minibatch_size=16)
    actor, critic, samples = random_samples(100)
    alone_actor, alone_critic, _ = random_samples(100)
    stats = update(actor, critic, samples, config, torch.optim.Adam)
    monkeypatch.setattr(ppo, "ThreadPoolExecutor", _AtOnce)
    assert update(alone_actor, alone_critic, samples, config, torch.optim.Adam) == stats
    for one, other in zip(state(actor, critic), state(alone_actor, alone_critic), strict=True):
        assert torch.equal(one, other)


def test_an_update_is_deterministic():
    config = PPOConfig(minibatch_size=16)
    runs = []
    for _ in range(2):
        actor, critic, samples = random_samples(100)
        stats = update(actor, critic, samples, config, torch.optim.Adam)
        runs.append((stats, state(actor, critic)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


@pytest.mark.parametrize(("count", "size", "steps"), [(10, 4, 2 * 3), (10, 10, 3), (10, 99, 3), (11, 5, 2 * 3)])
def test_the_smaller_last_minibatch_is_left_out_unless_it_is_the_only_one(count: int, size: int, steps: int):
    taken = []

    class Counting(torch.optim.SGD):
        def step(self, *arguments: Any, **options: Any) -> Any:
            taken.append(self)
            return super().step(*arguments, **options)

    actor, critic, samples = random_samples(count)
    update(actor, critic, samples, PPOConfig(minibatch_size=size, update_epochs=3), Counting)
    assert len(taken) == (1 + len(critic.heads)) * steps


def test_an_update_in_bfloat16_is_nearly_that_in_float32_and_the_policys_the_same():
    """By plain gradient steps, so that how far they lie apart is how far the gradients do."""
    steps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def flat(network: torch.nn.Module) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    for precision in ("float32", "bfloat16"):
        actor, critic, samples = random_samples(64)
        actor, critic = actor.float(), critic.float()
        columns = {name: value.float() for name, value in vars(samples).items() if isinstance(value, torch.Tensor)}
        before = flat(actor), flat(critic)
        sgd = [torch.optim.SGD(network.parameters(), lr=0.01) for network in (actor, *critic.heads)]
        config = PPOConfig(minibatch_size=32, update_epochs=2)
        rng = np.random.default_rng(0)
        ppo_update(actor, critic, sgd[0], sgd[1:], replace(samples, **columns), config, 0.2, rng, precision)
        steps[precision] = flat(actor) - before[0], flat(critic) - before[1]
    (policy, critics), (policy_too, rounded) = steps["float32"], steps["bfloat16"]
    assert torch.equal(policy, policy_too)
    assert 1e-4 < (rounded - critics).norm() / critics.norm() < 0.03


def test_every_sample_is_seen_once_in_a_pass(monkeypatch: pytest.MonkeyPatch):
    actor, critic, samples = random_samples(12)
    marks = torch.arange(12.0, dtype=torch.float64)
    seen: list[float] = []
    policy_step = ppo._PolicySteps._step

    def watch(steps: Any, batch: Samples) -> tuple[torch.Tensor, ...]:
        seen.extend(batch.obs[:, 0].tolist())
        assert torch.equal(batch.log_prob, samples.log_prob[batch.obs[:, 0].long()])  # rows stay together
        return policy_step(steps, batch)

    monkeypatch.setattr(ppo._PolicySteps, "_step", watch)
    obs = torch.cat([marks[:, None], samples.obs[:, 1:]], dim=1)
    update(actor, critic, replace(samples, obs=obs, critic_obs=obs), PPOConfig(minibatch_size=4, update_epochs=2))
    assert sorted(seen[:12]) == sorted(seen[12:]) == marks.tolist()
    assert seen[:12] != seen[12:]


def test_the_kl_coefficient_adapts():
    assert adapt_kl_coef(0.2, 0.021, 0.01) == pytest.approx(0.3)
    assert adapt_kl_coef(0.2, 0.0049, 0.01) == pytest.approx(0.1)
    assert adapt_kl_coef(0.2, 0.019, 0.01) == adapt_kl_coef(0.2, 0.0051, 0.01) == 0.2


def test_explained_variance():
    target = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(target + 5, target) == pytest.approx(1)  # a constant error varies nothing
    assert explained_variance(torch.zeros(3), target) == 0
    assert explained_variance(-target, target) == pytest.approx(-3)
    assert math.isnan(explained_variance(target, torch.ones(3)))


def test_heads_are_in_the_order_of_the_rewards():
    """The global head discounts by its own gamma: with gamma 0 elsewhere only its advantage looks ahead."""
    assert (OWN, NEIGHBOURHOOD, GLOBAL, COORDINATED) == (0, 1, 2, 3)
    rollout = random_rollout(4)
    blind = make_samples(
        rollout, critic_of(3), get_algorithm("copo"), PPOConfig(gamma=0.0, global_gamma=1.0, gae_lambda=1.0), CPU
    )
    now = torch.from_numpy(rollout.reward[rollout.acted]) - blind.value
    torch.testing.assert_close(blind.advantage[:, :GLOBAL], now[:, :GLOBAL])
    assert not torch.allclose(blind.advantage[:, GLOBAL], now[:, GLOBAL])

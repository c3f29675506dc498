"""The policy update shared by all algorithms: from a rollout to samples, from samples to gradient steps."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import Optimizer

from copo_algos.advantages import coordinate, gae, standardise
from copo_algos.algorithms import NEIGHBOURHOOD, OWN, Algorithm
from copo_algos.config import PPOConfig
from copo_algos.losses import clipped_surrogate, clipped_value_loss, gaussian_entropy, gaussian_kl
from copo_algos.networks import GaussianActor, ValueCritic, gaussian_log_prob
from copo_algos.types import Rollout, Samples

FORWARD_ROWS = 8192  # rows per forward pass where no gradient is kept: bounds the memory


@dataclass(frozen=True)
class UpdateStats:
    """Means over the minibatches of the last epoch."""

    policy_loss: float
    value_loss: float
    kl: float
    entropy: float
    clip_fraction: float


def make_samples(
    rollout: Rollout, critic: ValueCritic, algorithm: Algorithm, config: PPOConfig, device: torch.device
) -> Samples:
    """Values, advantages per head, and the standardised advantage that the policy follows."""
    heads = algorithm.value_heads
    value, next_value = _values(rollout, critic, device)
    gamma = np.array([config.gamma, config.gamma, config.global_gamma], np.float32)[:heads]
    advantage = gae(
        rollout.reward[..., :heads],
        value,
        next_value,
        rollout.acted,
        rollout.terminated | rollout.truncated,
        gamma,
        config.gae_lambda,
        config.fragment_steps,
    )
    rows = rollout.acted
    own = advantage[rows][:, OWN]
    lcf = rollout.lcf[rows]
    if algorithm.learns_lcf:
        own = coordinate(own, advantage[rows][:, NEIGHBOURHOOD], lcf)
    policy_advantage, raw_mean, raw_std = standardise(own)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    return Samples(
        obs=tensor(rollout.obs[rows]),
        action=tensor(rollout.action[rows]),
        log_prob=tensor(rollout.log_prob[rows]),
        mean=tensor(rollout.mean[rows]),
        log_std=tensor(rollout.log_std[rows]),
        advantage=tensor(advantage[rows]),
        value=tensor(value[rows]),
        lcf=tensor(lcf),
        policy_advantage=tensor(policy_advantage),
        raw_mean=raw_mean,
        raw_std=raw_std,
    )


def _values(rollout: Rollout, critic: ValueCritic, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """V(o_t) and the bootstrap V(o_t+1) of every sample, (T, E, N, H): 0 after a termination, the value of the last
    observation at a truncation, and the value of the observation after the rollout at its end."""
    shape = (*rollout.acted.shape, critic.heads)
    value = np.zeros(shape, np.float32)
    value[rollout.acted] = _forward(critic, rollout.obs[rollout.acted], device)
    next_value = np.zeros(shape, np.float32)
    next_value[:-1] = value[1:]
    living = rollout.acted[-1] & ~rollout.terminated[-1] & ~rollout.truncated[-1]
    next_value[-1][living] = _forward(critic, rollout.next_obs[living], device)
    next_value[rollout.terminated] = 0.0
    next_value[rollout.truncated] = _forward(critic, rollout.truncated_obs, device)
    return value, next_value


def _forward(critic: ValueCritic, obs: np.ndarray, device: torch.device) -> np.ndarray:
    if len(obs) == 0:
        return np.zeros((0, critic.heads), np.float32)
    with torch.no_grad():
        pieces = torch.from_numpy(obs).to(device).split(FORWARD_ROWS)
        return torch.cat([critic(piece) for piece in pieces]).cpu().numpy()


def ppo_update(
    actor: GaussianActor,
    critic: ValueCritic,
    actor_optimizer: Optimizer,
    critic_optimizer: Optimizer,
    samples: Samples,
    config: PPOConfig,
    kl_coef: float,
    rng: np.random.Generator,
) -> UpdateStats:
    """`update_epochs` passes over the samples in minibatches.

    The policy and the critics share no weights and no loss, so their gradient steps run side by side, on two threads.
    The last, smaller minibatch of a pass is left out, as RLlib does, unless it is the only one.
    """
    count = len(samples)
    size = min(config.minibatch_size, count)
    order = [rng.permutation(count)[: count // size * size].reshape(-1, size) for _ in range(config.update_epochs)]
    batches = [torch.from_numpy(epoch).to(samples.obs.device) for epoch in order]
    with ThreadPoolExecutor(max_workers=1) as pool:
        critics = pool.submit(_critic_epochs, critic, critic_optimizer, samples, batches, config)
        policy_loss, kl, entropy, clipped = _actor_epochs(actor, actor_optimizer, samples, batches, config, kl_coef)
        value_loss = critics.result()
    return UpdateStats(policy_loss, value_loss, kl, entropy, clipped)


def _actor_epochs(
    actor: GaussianActor,
    optimizer: Optimizer,
    samples: Samples,
    batches: list[torch.Tensor],
    config: PPOConfig,
    kl_coef: float,
) -> tuple[float, ...]:
    sums = torch.zeros(4, device=samples.obs.device)
    for epoch in batches:
        sums.zero_()
        for rows in epoch:
            mean, log_std = actor(samples.obs[rows])
            ratio = torch.exp(gaussian_log_prob(mean, log_std, samples.action[rows]) - samples.log_prob[rows])
            surrogate = clipped_surrogate(ratio, samples.policy_advantage[rows], config.clip_coef)
            kl = gaussian_kl(samples.mean[rows], samples.log_std[rows], mean, log_std)
            entropy = gaussian_entropy(log_std)
            loss = -surrogate + kl_coef * kl - config.entropy_coef * entropy
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                clipped = ((ratio - 1).abs() > config.clip_coef).float().mean()
                sums += torch.stack([-surrogate, kl, entropy, clipped])
    return tuple((sums / len(batches[-1])).tolist())


def _critic_epochs(
    critic: ValueCritic, optimizer: Optimizer, samples: Samples, batches: list[torch.Tensor], config: PPOConfig
) -> float:
    returns = samples.returns
    total = torch.zeros((), device=returns.device)
    for epoch in batches:
        total.zero_()
        for rows in epoch:
            value = critic(samples.obs[rows])
            loss = clipped_value_loss(value, samples.value[rows], returns[rows], config.value_clip)
            optimizer.zero_grad(set_to_none=True)
            (config.value_coef * loss).backward()
            optimizer.step()
            total += loss.detach()
    return float(total / len(batches[-1]))


def adapt_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """x1.5 where the KL of the last epoch exceeds twice the target, x0.5 where it is below half of it."""
    if kl > 2 * target:
        return kl_coef * 1.5
    return kl_coef * 0.5 if kl < 0.5 * target else kl_coef


def explained_variance(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """1 - Var[target - prediction] / Var[target]; NaN where the target is constant. Both (B,)."""
    variance = float(target.var())
    return 1 - float((target - prediction).var()) / variance if variance > 0 else math.nan

"""The policy update shared by all algorithms: from a rollout to samples, from samples to gradient steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from copo_algos.advantages import coordinate, gae, standardise
from copo_algos.algorithms import COORDINATED, NEIGHBOURHOOD, OWN, Algorithm
from copo_algos.config import PPOConfig
from copo_algos.losses import (
    clipped_surrogate,
    clipped_value_loss,
    gaussian_entropy,
    gaussian_kl,
    policy_gradient,
    value_gradient,
)
from copo_algos.machine import Precision, cores
from copo_algos.mlp import TanhMLP
from copo_algos.networks import (
    GaussianActor,
    ValueCritic,
    gradients_of,
    layers_of,
    parameters_of,
    split_head,
)
from copo_algos.types import Rollout, Samples

FORWARD_ROWS = 1024  # rows per pass over a whole batch: what a core's cache holds


@dataclass(frozen=True)
class UpdateStats:
    """Means over the minibatches of the last epoch."""

    policy_loss: float
    value_loss: float
    kl: float
    entropy: float
    clip_fraction: float
    grad_norm_max: float
    """Of the policy's gradient, before it is scaled down: the largest of all minibatches."""


def make_samples(
    rollout: Rollout, critic: ValueCritic, algorithm: Algorithm, config: PPOConfig, device: torch.device
) -> Samples:
    """Values, advantages per head, and the standardised advantage that the policy follows."""
    heads = algorithm.value_heads
    value, next_value = _values(rollout, critic, device)
    gamma = np.array([config.gamma, config.gamma, config.global_gamma, config.gamma], np.float32)[:heads]
    reward = rollout.reward
    if heads > COORDINATED:
        coordinated = coordinate(reward[..., OWN], reward[..., NEIGHBOURHOOD], rollout.lcf)
        reward = np.concatenate([reward, coordinated[..., None]], axis=-1)
    advantage = gae(
        reward[..., :heads],
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
    if heads > COORDINATED:
        own = advantage[rows][:, COORDINATED]
    elif algorithm.uses_lcf:
        own = coordinate(own, advantage[rows][:, NEIGHBOURHOOD], lcf)
    policy_advantage, raw_mean, raw_std = standardise(own)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)

    obs = tensor(rollout.obs[rows])
    return Samples(
        obs=obs,
        critic_obs=obs if rollout.critic_obs is rollout.obs else tensor(rollout.critic_obs[rows]),
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
    shape = (*rollout.acted.shape, len(critic.heads))
    value = np.zeros(shape, np.float32)
    value[rollout.acted] = _forward(critic, rollout.critic_obs[rollout.acted], device)
    next_value = np.zeros(shape, np.float32)
    next_value[:-1] = value[1:]
    living = rollout.acted[-1] & ~rollout.terminated[-1] & ~rollout.truncated[-1]
    next_value[-1][living] = _forward(critic, rollout.next_obs[living], device)
    next_value[rollout.terminated] = 0.0
    next_value[rollout.truncated] = _forward(critic, rollout.truncated_obs, device)
    return value, next_value


def _forward(critic: ValueCritic, obs: np.ndarray, device: torch.device) -> np.ndarray:
    if len(obs) == 0:
        return np.zeros((0, len(critic.heads)), np.float32)
    rows = torch.from_numpy(obs).to(device)
    values = rows.new_empty(len(rows), len(critic.heads))
    for number, head in enumerate(critic.heads):
        mlp = TanhMLP(layers_of(parameters_of(head)), min(FORWARD_ROWS, len(rows)))
        for piece, value in zip(rows.split(mlp.rows), values[:, number].split(mlp.rows), strict=True):
            value.copy_(mlp.forward(piece)[:, 0])
    return values.cpu().numpy()


def ppo_update(
    actor: GaussianActor,
    critic: ValueCritic,
    actor_optimizer: Optimizer,
    critic_optimizers: Sequence[Optimizer],
    samples: Samples,
    config: PPOConfig,
    kl_coef: float,
    rng: np.random.Generator,
    precision: Precision = "float32",
) -> UpdateStats:
    """`update_epochs` passes over the samples in minibatches.

    The policy and the critics, one per head, share no weights and no loss, so their gradient steps run side by side, on
    as many threads as there are cores. Which runs where changes no number.
    The last, smaller minibatch of a pass is left out, as RLlib does, unless it is the only one.

    Args:
        critic_optimizers: one per head.
        precision: of the critics' products, see `TanhMLP`. The policy's are in float32, as in acting, so that the
            probability ratio is 1 before the first step.
    """
    size = min(config.minibatch_size, len(samples))
    policy = _PolicySteps(actor, actor_optimizer, size, config, kl_coef)
    values = [
        _ValueSteps(number, head, optimizer, size, config, precision)
        for number, (head, optimizer) in enumerate(zip(critic.heads, critic_optimizers, strict=True))
    ]
    policy_stats, value_loss, grad_norm = (math.nan,) * 4, math.nan, 0.0
    with ThreadPoolExecutor(max_workers=min(1 + len(values), cores())) as pool:
        for epoch in range(config.update_epochs):
            order = torch.from_numpy(rng.permutation(len(samples))).to(samples.obs.device)
            batches = samples.rows(order).batches(size)  # gathered once, so that minibatches are views
            last = epoch == config.update_epochs - 1
            acting = pool.submit(policy.epoch, batches, last)  # first, since it takes longest
            losses = pool.map(lambda head, batches=batches, last=last: head.epoch(batches, last), values)
            value_loss = sum(losses)
            policy_stats, norm = acting.result()
            grad_norm = max(grad_norm, norm)
    policy_loss, kl, entropy, clipped = policy_stats
    return UpdateStats(policy_loss, value_loss, kl, entropy, clipped, grad_norm)


class _PolicySteps:
    """Gradient steps of the policy, minibatch by minibatch."""

    def __init__(self, actor: GaussianActor, optimizer: Optimizer, size: int, config: PPOConfig, kl_coef: float):
        self._mlp = TanhMLP(layers_of(parameters_of(actor)), size)
        self._gradients = layers_of(gradients_of(actor))
        self._parameters = list(actor.parameters())
        self._norms: list[torch.Tensor] = []
        self._optimizer, self._config, self._kl_coef = optimizer, config, kl_coef

    @torch.no_grad()
    def epoch(self, batches: list[Samples], measured: bool) -> tuple[tuple[float, float, float, float], float]:
        """Means over the minibatches of policy loss, KL, entropy and share of clipped ratios, if `measured`; and the
        largest norm of the gradient."""
        found = []
        self._norms.clear()
        for batch in batches:
            head, ratio = self._step(batch)
            if measured:
                found.append(self._stats(batch, *split_head(head), ratio))
        norm = float(torch.stack(self._norms).max())
        if not measured:
            return (math.nan, math.nan, math.nan, math.nan), norm
        policy_loss, kl, entropy, clipped = torch.stack(found).mean(0).tolist()
        return (policy_loss, kl, entropy, clipped), norm

    def _step(self, batch: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the policy (B, 4) and ratio (B,) before the step, until the next one."""
        config = self._config
        head = self._mlp.forward(batch.obs)
        by_head, ratio = policy_gradient(
            head,
            batch.action,
            batch.log_prob,
            batch.policy_advantage,
            batch.mean,
            batch.log_std,
            config.clip_coef,
            self._kl_coef,
            config.entropy_coef,
        )
        self._mlp.backward(batch.obs, by_head, self._gradients)
        # One action that is far likelier now than when it was taken, and was bad, can have a gradient a thousand times
        # as large as all others, as the clip of the ratio is on its other side. Adam remembers it for many steps.
        limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
        self._norms.append(nn.utils.clip_grad_norm_(self._parameters, limit))
        self._optimizer.step()
        return head, ratio

    def _stats(self, batch: Samples, mean: torch.Tensor, log_std: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        surrogate = clipped_surrogate(ratio, batch.policy_advantage, self._config.clip_coef)
        kl = gaussian_kl(batch.mean, batch.log_std, mean, log_std)
        clipped = ((ratio - 1).abs() > self._config.clip_coef).to(ratio.dtype).mean()
        return torch.stack([-surrogate, kl, gaussian_entropy(log_std), clipped])


class _ValueSteps:
    """Gradient steps of the critic of one head, minibatch by minibatch."""

    def __init__(
        self, number: int, head: nn.Module, optimizer: Optimizer, size: int, config: PPOConfig, precision: Precision
    ):
        self._number = number
        self._mlp = TanhMLP(layers_of(parameters_of(head)), size, precision)
        self._gradients = layers_of(gradients_of(head))
        self._optimizer, self._config = optimizer, config

    @torch.no_grad()
    def epoch(self, batches: list[Samples], measured: bool) -> float:
        """Mean over the minibatches of the value loss, if `measured`."""
        clip, found = self._config.value_clip, []
        for batch in batches:
            old, returns = batch.value[:, self._number], batch.returns[:, self._number]
            value = self._mlp.forward(batch.critic_obs)
            by_value = value_gradient(value[:, 0], old, returns, clip)
            self._mlp.backward(batch.critic_obs, self._config.value_coef * by_value[:, None], self._gradients)
            self._optimizer.step()
            if measured:
                found.append(clipped_value_loss(value[:, 0], old, returns, clip))
        return float(torch.stack(found).mean()) if measured else math.nan


def adapt_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """x1.5 where the KL of the last epoch exceeds twice the target, x0.5 where it is below half of it."""
    if kl > 2 * target:
        return kl_coef * 1.5
    return kl_coef * 0.5 if kl < 0.5 * target else kl_coef


def explained_variance(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """1 - Var[target - prediction] / Var[target]; NaN where the target is constant. Both (B,)."""
    variance = float(target.var())
    return 1 - float((target - prediction).var()) / variance if variance > 0 else math.nan

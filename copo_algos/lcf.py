"""Global coordination: learning the distribution of the local coordination factor (CoPO, section 3.3).

With theta the policy after the PPO epochs, theta_old the one before, J_G the expected global reward, and Phi the
mean and standard deviation of phi, the chain rule gives

    dJ_G(theta) / dPhi  ~=  (dJ_G / dtheta)^T  (dtheta / dPhi),   theta ~= theta_old + alpha grad E[log pi A_C(Phi)]

so the meta-step descends  < g_new, grad_theta_old mean(log pi_theta_old(a|o) A_C(Phi)) >  where g_new is the gradient
of the clipped surrogate *loss* with the global advantage. Three estimators of it, by name:

* `per_sample`: as written, the mean of products.
* `split`: the same with g_new from the other half of the samples, so that no sample's product is with itself.
* `released`: the authors' code, which multiplies the mean of log pi's gradient by the mean of A_C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from copo_algos import losses
from copo_algos.advantages import STD_FLOOR
from copo_algos.algorithms import GLOBAL, NEIGHBOURHOOD, OWN
from copo_algos.config import LOG_STD_RANGE, LCFConfig
from copo_algos.mlp import TanhMLP
from copo_algos.networks import GaussianActor, gaussian_log_prob, layers_of, parameters_of, split_head
from copo_algos.types import Samples

GRADIENT_ROWS = 1024  # rows per pass over the whole batch: what a core's cache holds


class LCFDistribution(nn.Module):
    """N(mean, std) of phi, by two free parameters: mean = tanh(x) within +-(1 - 1e-6), std = exp(clip(y, -20, 2)).

    Args:
        mean: at the start, in (-1, 1).
        std: at the start, in [exp(-20), exp(2)].
    """

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(math.atanh(mean)))
        self.y = nn.Parameter(torch.tensor(math.log(std)))

    def mean(self) -> torch.Tensor:
        """() in (-1, 1)."""
        return torch.tanh(self.x).clamp(-1 + 1e-6, 1 - 1e-6)

    def std(self) -> torch.Tensor:
        """() above 0."""
        return torch.exp(self.y.clamp(*LOG_STD_RANGE))


@dataclass(frozen=True)
class LCFStats:
    """What the meta-step did."""

    objective: float
    """Mean of the meta-objective over the meta-steps."""
    gradient_mean: float
    """Mean of its derivative by the mean's parameter x; below 0 pushes phi up."""


def standardised_global_advantage(samples: Samples) -> torch.Tensor:
    """A_G (B,), standardised over the batch."""
    advantage = samples.advantage[:, GLOBAL]
    return (advantage - advantage.mean()) / advantage.std(correction=0).clamp(min=STD_FLOOR)


def surrogate_gradient(
    actor: GaussianActor, samples: Samples, advantage: torch.Tensor, clip_coef: float, rows: torch.Tensor
) -> list[torch.Tensor]:
    """g_new: gradient by the policy's parameters of -mean clipped surrogate with `advantage` (B,), over `rows`."""

    def by_log_prob(log_prob: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
        ratio = torch.exp(log_prob - samples.log_prob[piece])
        return -losses.surrogate_gradient(ratio, advantage[piece], clip_coef) * len(piece)

    return _mean_gradient(actor, samples, rows, by_log_prob)


def log_prob_gradient(actor: GaussianActor, samples: Samples, rows: torch.Tensor) -> list[torch.Tensor]:
    """g_old: gradient by the policy's parameters of mean log pi(a | o), over `rows`."""
    return _mean_gradient(actor, samples, rows, lambda log_prob, piece: torch.ones_like(log_prob))


@torch.no_grad()
def _mean_gradient(
    actor: GaussianActor,
    samples: Samples,
    rows: torch.Tensor,
    by_log_prob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """Gradient of a mean over `rows` whose terms have the derivative `by_log_prob(log pi (b,), piece of rows (b,))`."""
    mlp = TanhMLP(layers_of(parameters_of(actor)), min(GRADIENT_ROWS, len(rows)))
    total, part = ([torch.zeros_like(parameter) for parameter in parameters_of(actor)] for _ in range(2))
    for piece in rows.split(mlp.rows):
        obs, action = samples.obs[piece], samples.action[piece]
        head = mlp.forward(obs)
        mean, log_std = split_head(head)
        weight = by_log_prob(gaussian_log_prob(mean, log_std, action), piece)[:, None] / len(rows)
        by_mean, by_log_std = losses.log_prob_gradient(mean, log_std, action)
        mlp.backward(obs, losses.head_gradient(head, weight * by_mean, weight * by_log_std), layers_of(part))
        for sum_, gradient in zip(total, part, strict=True):
            sum_ += gradient
    return total


@torch.no_grad()
def log_prob_directional(actor: GaussianActor, samples: Samples, direction: list[torch.Tensor]) -> torch.Tensor:
    """c_i = <direction, grad log pi(a_i | o_i)> for every sample (B,), by one forward-mode product.

    It needs neither a backward pass per sample nor a second derivative, and does not depend on Phi.
    """
    mlp = TanhMLP(layers_of(parameters_of(actor)), min(GRADIENT_ROWS, len(samples)))
    along = layers_of(direction)
    pieces = []
    for obs, action in zip(samples.obs.split(mlp.rows), samples.action.split(mlp.rows), strict=True):
        head = mlp.forward(obs)
        by_head = losses.head_gradient(head, *losses.log_prob_gradient(*split_head(head), action))
        pieces.append((by_head * mlp.directional(obs, along)).sum(1))
    return torch.cat(pieces)


def coordinated_advantage(
    distribution: LCFDistribution, samples: Samples, rows: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """A_C(Phi) of `rows`, standardised with the batch's raw mean and std; phi = mean + std * noise, unclipped.

    The angle is phi pi/2, mean and std alike (the authors' torch code; their TensorFlow code scales only the mean).
    """
    angle = (distribution.mean() + distribution.std() * noise) * (math.pi / 2)
    own, neighbourhood = samples.advantage[rows, OWN], samples.advantage[rows, NEIGHBOURHOOD]
    return (torch.cos(angle) * own + torch.sin(angle) * neighbourhood - samples.raw_mean) / samples.raw_std


def lcf_update(
    distribution: LCFDistribution,
    optimizer: Optimizer,
    actor: GaussianActor,
    old_actor: GaussianActor,
    samples: Samples,
    config: LCFConfig,
    clip_coef: float,
    rng: np.random.Generator,
) -> LCFStats:
    """The meta-step: `lcf_passes` passes over the samples that move the distribution of phi.

    Args:
        actor: theta, after the PPO epochs.
        old_actor: theta_old, which acted.
    """
    count = len(samples)
    device = samples.obs.device
    global_advantage = standardised_global_advantage(samples)
    per_sample = torch.zeros(count, dtype=samples.log_prob.dtype, device=device)
    if config.lcf_estimator == "per_sample":
        g_new = surrogate_gradient(actor, samples, global_advantage, clip_coef, torch.arange(count, device=device))
        per_sample = log_prob_directional(old_actor, samples, g_new)
    elif config.lcf_estimator == "split" and count > 1:  # a single sample has no other half
        one, other = torch.from_numpy(rng.permutation(count)).to(device).tensor_split(2)
        for half, rest in ((one, other), (other, one)):
            g_new = surrogate_gradient(actor, samples, global_advantage, clip_coef, rest)
            per_sample[half] = log_prob_directional(old_actor, samples.rows(half), g_new)

    size = min(config.lcf_minibatch_size or count, count)
    objectives, gradients = [], []
    for _ in range(config.lcf_passes):
        order = torch.from_numpy(rng.permutation(count)[: count // size * size].reshape(-1, size)).to(device)
        for rows in order:
            noise = torch.from_numpy(rng.standard_normal(size, dtype=np.float32)).to(device)
            advantage = coordinated_advantage(distribution, samples, rows, noise)
            if config.lcf_estimator != "released":
                objective = (per_sample[rows] * advantage).mean()
            else:
                g_new = surrogate_gradient(actor, samples, global_advantage, clip_coef, rows)
                g_old = log_prob_gradient(old_actor, samples, rows)
                product = sum((new * old).sum() for new, old in zip(g_new, g_old, strict=True))
                objective = product * advantage.mean()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            objectives.append(float(objective.detach()))
            assert distribution.x.grad is not None
            gradients.append(float(distribution.x.grad))
    if not objectives:  # no passes: the distribution stays
        return LCFStats(math.nan, math.nan)
    return LCFStats(float(np.mean(objectives)), float(np.mean(gradients)))

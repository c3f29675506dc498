"""Global coordination: learning the distribution of the local coordination factor (CoPO, section 3.3).

With theta the policy after the PPO epochs, theta_old the one before, J_G the expected global reward, and Phi the
mean and standard deviation of phi, the chain rule gives

    dJ_G(theta) / dPhi  ~=  (dJ_G / dtheta)^T  (dtheta / dPhi),   theta ~= theta_old + alpha grad E[log pi A_C(Phi)]

so the meta-step descends  < g_new, grad_theta_old mean(log pi_theta_old(a|o) A_C(Phi)) >  where g_new is the gradient
of the clipped surrogate *loss* with the global advantage. Two estimators of it, by name:

* `per_sample`: as written, the mean of products.
* `released`: the authors' code, which multiplies the mean of log pi's gradient by the mean of A_C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.optim import Optimizer

from copo_algos.advantages import STD_FLOOR
from copo_algos.algorithms import GLOBAL, NEIGHBOURHOOD, OWN
from copo_algos.config import LCFConfig
from copo_algos.losses import clipped_surrogate
from copo_algos.networks import GaussianActor, gaussian_log_prob
from copo_algos.types import Samples

GRADIENT_ROWS = 8192  # rows per pass over the whole batch: bounds the memory


class LCFDistribution(nn.Module):
    """N(mean, std) of phi, by two free parameters: mean = tanh(x) within +-(1 - 1e-6), std = exp(clip(y, -20, 2)).

    Args:
        mean: at the start, in (-1, 1).
        std: at the start, above 0.
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
        return torch.exp(self.y.clamp(-20, 2))


@dataclass(frozen=True)
class LCFStats:
    """What the meta-step did."""

    objective: float
    """Mean of the meta-objective over the meta-steps."""
    gradient_mean: float
    """Mean of its derivative by the mean's parameter x; below 0 pushes phi up."""


def surrogate_gradient(
    actor: GaussianActor, samples: Samples, advantage: torch.Tensor, clip_coef: float, rows: torch.Tensor
) -> list[torch.Tensor]:
    """g_new: gradient by the policy's parameters of -mean clipped surrogate with `advantage` (B,), over `rows`."""
    parameters = list(actor.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for piece in rows.split(GRADIENT_ROWS):
        mean, log_std = actor(samples.obs[piece])
        ratio = torch.exp(gaussian_log_prob(mean, log_std, samples.action[piece]) - samples.log_prob[piece])
        loss = -clipped_surrogate(ratio, advantage[piece], clip_coef) * (len(piece) / len(rows))
        for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += gradient
    return total


def log_prob_gradient(actor: GaussianActor, samples: Samples, rows: torch.Tensor) -> list[torch.Tensor]:
    """g_old: gradient by the policy's parameters of mean log pi(a | o), over `rows`."""
    mean, log_std = actor(samples.obs[rows])
    log_prob = gaussian_log_prob(mean, log_std, samples.action[rows]).mean()
    return list(torch.autograd.grad(log_prob, list(actor.parameters())))


def log_prob_directional(actor: GaussianActor, samples: Samples, direction: list[torch.Tensor]) -> torch.Tensor:
    """c_i = <direction, grad log pi(a_i | o_i)> for every sample (B,), by one forward-mode product.

    It needs neither a backward pass per sample nor a second derivative, and does not depend on Phi.
    """
    names = [name for name, _ in actor.named_parameters()]
    primals = {name: parameter.detach() for name, parameter in actor.named_parameters()}
    tangents = dict(zip(names, direction, strict=True))
    pieces = []
    for obs, action in zip(samples.obs.split(GRADIENT_ROWS), samples.action.split(GRADIENT_ROWS), strict=True):

        def log_prob(
            parameters: dict[str, torch.Tensor], obs: torch.Tensor = obs, action: torch.Tensor = action
        ) -> torch.Tensor:
            mean, log_std = functional_call(actor, parameters, (obs,))
            return gaussian_log_prob(mean, log_std, action)

        pieces.append(jvp(log_prob, (primals,), (tangents,))[1].detach())
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
    everything = torch.arange(count, device=device)
    global_advantage = samples.advantage[:, GLOBAL]
    spread = global_advantage.std(correction=0).clamp(min=STD_FLOOR)
    global_advantage = (global_advantage - global_advantage.mean()) / spread

    per_sample = torch.zeros(0)
    if config.lcf_estimator == "per_sample":
        g_new = surrogate_gradient(actor, samples, global_advantage, clip_coef, everything)
        per_sample = log_prob_directional(old_actor, samples, g_new)

    size = min(config.lcf_minibatch_size or count, count)
    objectives, gradients = [], []
    for _ in range(config.lcf_passes):
        order = torch.from_numpy(rng.permutation(count)[: count // size * size].reshape(-1, size)).to(device)
        for rows in order:
            noise = torch.from_numpy(rng.standard_normal(size, dtype=np.float32)).to(device)
            advantage = coordinated_advantage(distribution, samples, rows, noise)
            if config.lcf_estimator == "per_sample":
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

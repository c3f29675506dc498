"""The terms of the PPO loss (Schulman et al. 2017), each the mean over a minibatch of B vehicle samples, and their
derivatives by hand.

What a gradient step needs is compiled where it can be (`kernels.takes`); what is written here is what that computes.
"""

from __future__ import annotations

import numpy as np
import torch

from copo_algos import kernels
from copo_algos.config import LOG_STD_RANGE
from copo_algos.networks import gaussian_log_prob, split_head


def clipped_surrogate(ratio: torch.Tensor, advantage: torch.Tensor, clip_coef: float) -> torch.Tensor:
    """mean min(A w, A clip(w, 1 - c, 1 + c)): the objective, to be maximised. ratio, advantage (B,)."""
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return torch.min(advantage * ratio, advantage * clipped).mean()


def clipped_value_loss(
    value: torch.Tensor, old_value: torch.Tensor, returns: torch.Tensor, value_clip: float
) -> torch.Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, -+ v) - R)^2) of one head, mean over B. All (B,)."""
    clipped = old_value + (value - old_value).clamp(-value_clip, value_clip)
    return torch.max((value - returns) ** 2, (clipped - returns) ** 2).mean()


def gaussian_kl(
    old_mean: torch.Tensor, old_log_std: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor
) -> torch.Tensor:
    """KL(old || new) of diagonal Gaussians, mean over B. All (B, 2)."""
    variance_ratio = torch.exp(2 * (old_log_std - log_std))
    distance = ((old_mean - mean) * torch.exp(-log_std)) ** 2
    return (log_std - old_log_std + 0.5 * (variance_ratio + distance - 1)).sum(-1).mean()


def gaussian_entropy(log_std: torch.Tensor) -> torch.Tensor:
    """Entropy of diagonal Gaussians, mean over B. log_std (B, 2)."""
    half_log_2_pi_e = 1.4189385332046727
    return (log_std + half_log_2_pi_e).sum(-1).mean()


def log_prob_gradient(mean: torch.Tensor, log_std: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """d log pi(a) / d mean = z / std and / d log std = z^2 - 1, with z = (a - mean) / std. All (B, 2)."""
    inverse_std = torch.exp(-log_std)
    z = (action - mean) * inverse_std
    return z * inverse_std, z * z - 1


def surrogate_gradient(ratio: torch.Tensor, advantage: torch.Tensor, clip_coef: float) -> torch.Tensor:
    """d clipped_surrogate / d log pi (B,): A w / B, and 0 where the clip holds it: A > 0 above, A < 0 below."""
    held = torch.where(advantage > 0, ratio > 1 + clip_coef, ratio < 1 - clip_coef)
    return (advantage * ratio / len(ratio)).masked_fill_(held, 0.0)


def kl_gradient(
    old_mean: torch.Tensor, old_log_std: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """d gaussian_kl / d mean = (mean - old) / var / B, / d log std = (1 - var_old / var - (mean - old)^2 / var) / B."""
    inverse_variance = torch.exp(-2 * log_std)
    distance = mean - old_mean
    pull = distance * inverse_variance
    by_log_std = 1 - torch.exp(2 * old_log_std) * inverse_variance - distance * pull
    return pull / len(mean), by_log_std / len(mean)


def head_gradient(head: torch.Tensor, by_mean: torch.Tensor, by_log_std: torch.Tensor) -> torch.Tensor:
    """Derivatives by mean and log std (B, 2) as one by the actor's output (B, 4), where log std is clamped."""
    low, high = LOG_STD_RANGE
    raw = head[:, 2:]
    return torch.cat([by_mean, by_log_std * ((raw >= low) & (raw <= high))], dim=1)


def policy_gradient(
    head: torch.Tensor,
    action: torch.Tensor,
    log_prob: torch.Tensor,
    advantage: torch.Tensor,
    old_mean: torch.Tensor,
    old_log_std: torch.Tensor,
    clip_coef: float,
    kl_coef: float,
    entropy_coef: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """d (-clipped_surrogate + kl_coef gaussian_kl - entropy_coef gaussian_entropy) / d head.

    Args:
        head: (B, 4) the actor's output.
        action, old_mean, old_log_std: (B, 2).
        log_prob, advantage: (B,) `log_prob` under the policy that acted.

    Returns:
        The derivative (B, 4) and the probability ratio w (B,).
    """
    if kernels.takes(head):
        arrays = (tensor.numpy() for tensor in (head, action, log_prob, advantage, old_mean, old_log_std))
        found = kernels.policy_gradient(*arrays, *map(np.float32, (clip_coef, kl_coef, entropy_coef)))
        by_head, ratio = map(torch.from_numpy, found)
        return by_head, ratio
    mean, log_std = split_head(head)
    ratio = torch.exp(gaussian_log_prob(mean, log_std, action) - log_prob)
    by_log_prob = -surrogate_gradient(ratio, advantage, clip_coef)[:, None]
    by_mean, by_log_std = (by_log_prob * d for d in log_prob_gradient(mean, log_std, action))
    kl_by_mean, kl_by_log_std = kl_gradient(old_mean, old_log_std, mean, log_std)
    by_mean += kl_coef * kl_by_mean
    by_log_std += kl_coef * kl_by_log_std - entropy_coef / len(head)  # dH / d log std = 1 / B
    return head_gradient(head, by_mean, by_log_std), ratio


def value_gradient(
    value: torch.Tensor, old_value: torch.Tensor, returns: torch.Tensor, value_clip: float
) -> torch.Tensor:
    """d clipped_value_loss / d value (B,) of one head: 2 (V - R) / B, and 0 where the clipped term is the larger one
    and the clip holds it."""
    if kernels.takes(value):
        arrays = (tensor.numpy() for tensor in (value, old_value, returns))
        return torch.from_numpy(kernels.value_gradient(*arrays, np.float32(value_clip)))
    error = value - returns
    moved = value - old_value
    clipped_error = old_value + moved.clamp(-value_clip, value_clip) - returns
    held = (moved.abs() > value_clip) & (clipped_error**2 > error**2)
    return (error * (2 / len(value))).masked_fill_(held, 0.0)

"""The terms of the PPO loss (Schulman et al. 2017), each the mean over a minibatch of B vehicle samples."""

from __future__ import annotations

import torch


def clipped_surrogate(ratio: torch.Tensor, advantage: torch.Tensor, clip_coef: float) -> torch.Tensor:
    """mean min(A w, A clip(w, 1 - c, 1 + c)): the objective, to be maximised. ratio, advantage (B,)."""
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return torch.min(advantage * ratio, advantage * clipped).mean()


def clipped_value_loss(
    value: torch.Tensor, old_value: torch.Tensor, returns: torch.Tensor, value_clip: float
) -> torch.Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, -+ v) - R)^2), mean over B, sum over heads. All (B, H)."""
    clipped = old_value + (value - old_value).clamp(-value_clip, value_clip)
    return torch.max((value - returns) ** 2, (clipped - returns) ** 2).mean(0).sum()


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

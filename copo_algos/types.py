"""Arrays that travel between rooms. Legend: T steps, E environments, N slots, D observation size, H value heads."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch


@dataclass(frozen=True)
class Rollout:
    """T steps of E environments. Rows where `acted` is False hold no sample."""

    obs: np.ndarray
    """(T, E, N, D) float32 as the policy sees it: (phi + 1) / 2 appended where the algorithm has a coordination factor,
    and normalised where it is to be."""
    critic_obs: np.ndarray
    """(T, E, N, C) what the critics see: `obs` itself where that is the same."""
    next_obs: np.ndarray
    """(E, N, C) what the critics see after the last step."""
    action: np.ndarray
    """(T, E, N, 2), unclipped."""
    log_prob: np.ndarray
    """(T, E, N) of the unclipped action."""
    mean: np.ndarray
    """(T, E, N, 2) of the policy that acted."""
    log_std: np.ndarray
    """(T, E, N, 2)"""
    acted: np.ndarray
    """(T, E, N) bool"""
    terminated: np.ndarray
    """(T, E, N) bool"""
    truncated: np.ndarray
    """(T, E, N) bool"""
    reward: np.ndarray
    """(T, E, N, 3): own r, neighbourhood r_N, global r_G."""
    lcf: np.ndarray
    """(T, E, N) phi in [-1, 1], constant over a life; 0 where the algorithm has none."""
    truncated_obs: np.ndarray
    """(number of truncated, C): what the critics see of their last observations, in the order of
    `np.nonzero(truncated)`."""
    lives: Lives
    """The lives that ended in this rollout."""


@dataclass(frozen=True)
class Lives:
    """Lives that ended, in the order in which they did."""

    outcome: np.ndarray
    """(M,) `Outcome` codes."""
    steps: np.ndarray
    """(M,)"""
    reward: np.ndarray
    """(M,) sum of the own reward over the life."""
    route_completion: np.ndarray
    """(M,)"""
    episode_success_rates: list[float]
    """Success rate of each episode that ended."""


@dataclass(frozen=True)
class Samples:
    """The vehicle samples of a rollout, flat: B rows."""

    obs: torch.Tensor
    """(B, D) what the policy sees."""
    critic_obs: torch.Tensor
    """(B, C) what the critics see: `obs` itself where that is the same."""
    action: torch.Tensor
    """(B, 2)"""
    log_prob: torch.Tensor
    """(B,) under the policy that acted."""
    mean: torch.Tensor
    """(B, 2)"""
    log_std: torch.Tensor
    """(B, 2)"""
    advantage: torch.Tensor
    """(B, H) raw, per head."""
    value: torch.Tensor
    """(B, H) before the update."""
    lcf: torch.Tensor
    """(B,)"""
    policy_advantage: torch.Tensor
    """(B,) standardised: what the policy follows."""
    raw_mean: float
    """Mean and std of `policy_advantage` before it was standardised."""
    raw_std: float

    @property
    def returns(self) -> torch.Tensor:
        """(B, H) value targets R = A + V_old with the raw A."""
        return self.advantage + self.value

    def rows(self, index: torch.Tensor | slice) -> Samples:
        """These rows, in this order: copies, or views where `index` is a slice."""
        columns = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.critic_obs is self.obs:
            del columns["critic_obs"]  # gathered once
        taken = {name: column[index] for name, column in columns.items() if isinstance(column, torch.Tensor)}
        if self.critic_obs is self.obs:
            taken["critic_obs"] = taken["obs"]
        return replace(self, **taken)

    def batches(self, size: int) -> list[Samples]:
        """Views of `size` rows each, in order; a smaller rest is left out."""
        return [self.rows(slice(first, first + size)) for first in range(0, len(self) - size + 1, size)]

    def __len__(self) -> int:
        return len(self.obs)

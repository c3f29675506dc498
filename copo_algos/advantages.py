"""Advantages per vehicle life, their coordination, and their standardisation."""

from __future__ import annotations

import numpy as np

STD_FLOOR = 1e-4


def gae(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    acted: np.ndarray,
    ended: np.ndarray,
    gamma: float | np.ndarray,
    gae_lambda: float,
    fragment_steps: int = 0,
) -> np.ndarray:
    """Generalised advantage estimate (Schulman et al. 2016, equation 16) of every life in every slot.

    A life that terminates has `next_value` 0; one that is truncated, or cut by the end of the rollout, has the value
    of its next observation there. The authors' torch code bootstraps a cut with the last *current* value instead.

    Args:
        reward, value, next_value: (T, E, N, H), H value heads.
        acted: (T, E, N) bool. Where a slot did not act the advantage is 0 and joins nothing.
        ended: (T, E, N) bool, the life ended at that step.
        gamma: one, or one per head (H,).
        gae_lambda: lambda.
        fragment_steps: cut the recursion (not the bootstrap) after every so many steps; 0: never.

    Returns:
        (T, E, N, H)
    """
    steps = reward.shape[0]
    assert reward.shape == value.shape == next_value.shape and acted.shape == ended.shape == reward.shape[:3]
    delta = reward + gamma * next_value - value
    advantage = np.zeros_like(delta)
    running = np.zeros_like(delta[0])
    for t in reversed(range(steps)):
        goes_on = ~ended[t]
        if fragment_steps and (t + 1) % fragment_steps == 0:
            goes_on = np.zeros_like(goes_on)
        running = delta[t] + gamma * gae_lambda * goes_on[..., None] * running
        running = np.where(acted[t][..., None], running, 0.0)
        advantage[t] = running
    return advantage


def coordinate(own: np.ndarray, neighbourhood: np.ndarray, lcf: np.ndarray) -> np.ndarray:
    """A_C = cos(phi pi/2) A + sin(phi pi/2) A_N (CoPO, equation 7). All of one shape; lcf phi in [-1, 1]."""
    angle = lcf * (np.pi / 2)
    return np.cos(angle) * own + np.sin(angle) * neighbourhood


def standardise(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(values - mean) / std over the whole batch, and the raw mean and std (floor 1e-4), which the meta-step needs."""
    mean = float(values.mean())
    std = max(float(values.std()), STD_FLOOR)
    return (values - mean) / std, mean, std

"""Observations centred and scaled by what has been seen so far, as Gymnasium's `NormalizeObservation` does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from copo_algos.networks import GaussianActor

STD_FLOOR = 0.1
"""Added in squares to every standard deviation. Entries of an observation lie in [0, 1], so that one that has hardly
changed yet (a ray that nobody has crossed) comes out 10 at most when it does, and needs no clipping. Without clipping
the whole is linear and can be folded into a layer."""


class Normalizer:
    """obs -> (obs - mean) / sqrt(var + STD_FLOOR^2), by mean and variance of the samples of all iterations before.

    In the first iteration observations stay as they are. What the policy and the critics learn from is what they acted
    on: statistics change between iterations alone.

    Args:
        size: D, the coordination factor included where there is one.
    """

    def __init__(self, size: int):
        self._seen = RunningMeanStd(epsilon=0.0, shape=(size,))
        self._scale()

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """obs (..., D) float32 as the networks see it."""
        return (obs - self._mean) * self._inverse_std

    def update(self, normalized: np.ndarray) -> None:
        """Count the samples of an iteration, (B, D) as `__call__` gave them. None changes nothing."""
        if len(normalized) == 0:
            return
        mean, var = normalized.mean(0, np.float64), normalized.var(0, np.float64)
        std = 1 / self._inverse_std.astype(np.float64)
        self._seen.update_from_moments(self._mean + mean * std, var * std**2, len(normalized))
        self._scale()

    def fold(self, actor: GaussianActor) -> GaussianActor:
        """The same policy for plain observations, a copy: y = W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
        actor = copy.deepcopy(actor)
        first = actor.layers[0]
        assert isinstance(first, torch.nn.Linear)
        mean, inverse_std = (torch.from_numpy(x).to(first.weight) for x in (self._mean, self._inverse_std))
        with torch.no_grad():
            first.weight.mul_(inverse_std)
            first.bias.sub_(first.weight @ mean)
        return actor

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"count": self._seen.count, "mean": self._seen.mean.tolist(), "var": self._seen.var.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from these.

        Raises:
            KeyError, TypeError, ValueError: they are not what `state` gives.
        """
        count, mean, var = (np.array(state[name], np.float64) for name in ("count", "mean", "var"))
        if count.shape != () or not mean.shape == var.shape == self._seen.mean.shape:
            raise ValueError(f"statistics of shapes {mean.shape} and {var.shape}, not {self._seen.mean.shape}")
        if not (np.isfinite([count, *mean, *var]).all() and count >= 0 and (var >= 0).all()):
            raise ValueError("statistics of observations that are not finite, or negative")
        self._seen.count, self._seen.mean, self._seen.var = count.item(), mean, var
        self._scale()

    def _scale(self) -> None:
        seen = self._seen
        if seen.count == 0:
            self._mean, self._inverse_std = np.zeros_like(seen.mean, np.float32), np.ones_like(seen.var, np.float32)
            return
        self._mean = seen.mean.astype(np.float32)
        self._inverse_std = (1 / np.sqrt(seen.var + STD_FLOOR**2)).astype(np.float32)

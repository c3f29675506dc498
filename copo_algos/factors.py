"""Coordination factors of single vehicles: how they are drawn, and how the networks see them."""

from __future__ import annotations

import numpy as np


def draw_lcf(count: int, mean: float, std: float, rng: np.random.Generator, uniform: bool = False) -> np.ndarray:
    """phi ~ N(mean, std) clipped to [-1, 1], or U[-1, 1], (count,) float32."""
    if uniform:
        return rng.uniform(-1.0, 1.0, count).astype(np.float32)
    return np.clip(rng.normal(mean, std, count), -1.0, 1.0).astype(np.float32)


def with_lcf(obs: np.ndarray, lcf: np.ndarray) -> np.ndarray:
    """obs (..., D), lcf (...) in [-1, 1] -> (..., D + 1) float32 with (lcf + 1) / 2 appended."""
    return np.concatenate([obs, (lcf[..., None] + 1) / 2], axis=-1, dtype=np.float32)

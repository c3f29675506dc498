"""Who is near whom, and what a vehicle's neighbours do: pure numpy, batched over any leading axes.

Legend: `...` any leading axes (T steps, E envs, or none), N vehicle slots, K nearest neighbours, D observation size.
A slot without a vehicle may hold anything, NaN included: nothing of it reaches a result.
"""

from __future__ import annotations

import numpy as np


def neighbour_mask(position: np.ndarray, present: np.ndarray, distance: float) -> np.ndarray:
    """Which vehicles are neighbours: both present, strictly closer than `distance`, nobody its own.

    Args:
        position: (..., N, 2) metres.
        present: (..., N) bool, the slot holds a vehicle.
        distance: metres; `np.inf` makes everybody present a neighbour.

    Returns:
        (..., N, N) bool, symmetric in the last two axes.
    """
    return _squared_distances(position, present) < float(distance) ** 2


def nearest_neighbours(
    position: np.ndarray, present: np.ndarray, k: int, distance: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The K nearest neighbours of every vehicle, nearest first, ties by slot.

    Args:
        position: (..., N, 2) metres.
        present: (..., N) bool.
        k: K, how many to list; may exceed N - 1.
        distance: metres; only vehicles strictly closer count.

    Returns:
        index (..., N, K) int64, a slot (0 where there is none), and valid (..., N, K) bool.
    """
    squared = _squared_distances(position, present)
    squared[~(squared < float(distance) ** 2)] = np.inf
    index = np.argsort(squared, axis=-1, kind="stable")[..., :k]
    valid = np.isfinite(np.take_along_axis(squared, index, axis=-1))
    index = np.where(valid, index, 0)
    missing = [(0, 0)] * (index.ndim - 1) + [(0, k - index.shape[-1])]
    return np.pad(index, missing), np.pad(valid, missing)


def neighbourhood_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of the neighbours' values, 0 where there is no neighbour.

    Args:
        values: (..., N).
        mask: (..., N, N) bool from `neighbour_mask`.

    Returns:
        (..., N), of the dtype of `values`.
    """
    return _masked_mean(values[..., None], mask)[..., 0]


def nearest_observations(obs: np.ndarray, index: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The neighbours' rows side by side, zeros where a neighbour is missing.

    Args:
        obs: (..., N, D).
        index, valid: (..., N, K) from `nearest_neighbours`.

    Returns:
        (..., N, K * D), the nearest first.
    """
    *lead, n, k = index.shape
    d = obs.shape[-1]
    rows = np.take_along_axis(obs, index.reshape(*lead, n * k, 1), axis=-2).reshape(*lead, n, k, d)
    return np.where(valid[..., None], rows, 0).astype(obs.dtype).reshape(*lead, n, k * d)


def mean_field(obs: np.ndarray, actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean observation and action of the neighbours, zeros where there is none.

    Args:
        obs: (..., N, D).
        actions: (..., N, 2).
        mask: (..., N, N) bool from `neighbour_mask`.

    Returns:
        (..., N, D + 2).
    """
    return _masked_mean(np.concatenate([obs, actions], axis=-1), mask)


def _squared_distances(position: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(..., N, N), NaN for oneself and where either of the two is absent: NaN is closer than no distance."""
    if position.shape[-1] != 2 or position.shape[:-1] != present.shape:
        raise ValueError(
            f"position has shape {position.shape} and present {present.shape}; use (..., N, 2) and (..., N)"
        )
    there = np.where(present[..., None], position, np.nan)
    offset = there[..., :, None, :] - there[..., None, :, :]
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
    diagonal = np.arange(position.shape[-2])
    squared[..., diagonal, diagonal] = np.nan
    return squared


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """values (..., N, F), mask (..., N, N) -> (..., N, F)."""
    # Rows that are nobody's neighbour may hold NaN, and NaN * 0 is NaN.
    clean = np.where(np.expand_dims(mask.any(axis=-2), -1), values, 0)
    total = mask.astype(values.dtype) @ clean
    return (total / np.maximum(mask.sum(axis=-1), 1)[..., None]).astype(values.dtype)

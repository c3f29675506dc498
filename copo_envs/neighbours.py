"""Who is near whom, and what a vehicle's neighbours do: pure numpy, batched over any leading axes.

Legend: `...` any leading axes (T steps, E envs, or none), N vehicle slots, K nearest neighbours, D observation size,
A action size. A slot without a vehicle may hold anything, NaN included: nothing of it reaches a result.

All raise ValueError for a K below 1, a distance that is negative or NaN, and shapes that do not fit each other. A K
beyond the N - 1 others is padded with missing neighbours.
"""

from __future__ import annotations

import math

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
    return _squared_distances(position, present) < _squared(distance)


def nearest_neighbours(
    position: np.ndarray, present: np.ndarray, k: int, distance: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The K nearest neighbours of every vehicle, nearest first, ties by slot.

    Args:
        position: (..., N, 2) metres.
        present: (..., N) bool.
        k: K, how many to list; those beyond N - 1 are missing.
        distance: metres; only vehicles strictly closer count.

    Returns:
        index (..., N, K) int64, a slot (0 where there is none), and valid (..., N, K) bool.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k={k!r} neighbours; use a whole number of 1 or more")
    squared = _squared_distances(position, present)
    squared[~(squared < _squared(distance))] = np.inf
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
        (..., N), of the dtype of `values` where that is floating, else float64.
    """
    if values.shape != mask.shape[:-1]:
        raise ValueError(f"values has shape {values.shape} and mask {mask.shape}; use (..., N) and (..., N, N)")
    return _masked_mean(values[..., None], mask)[..., 0]


def nearest_observations(
    obs: np.ndarray, index: np.ndarray, valid: np.ndarray, actions: np.ndarray | None = None
) -> np.ndarray:
    """The neighbours' observations, or observations and actions, side by side, zeros where a neighbour is missing.

    Args:
        obs: (..., N, D).
        index, valid: (..., N, K) from `nearest_neighbours`.
        actions: (..., N, A); None: observations alone.

    Returns:
        (..., N, K * D) or (..., N, K * (D + A)), the nearest first, each with its observation first.
    """
    rows = obs if actions is None else _side_by_side(obs, actions)
    _check_rows("obs", rows, index.shape[:-1])
    if valid.shape != index.shape:
        raise ValueError(f"valid has shape {valid.shape} and index {index.shape}; use (..., N, K) for both")
    *lead, n, k = index.shape
    size = rows.shape[-1]
    near = np.take_along_axis(rows, index.reshape(*lead, n * k, 1), axis=-2).reshape(*lead, n, k, size)
    return np.where(valid[..., None], near, 0).astype(rows.dtype).reshape(*lead, n, k * size)


def mean_field(obs: np.ndarray, actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean observation and action of the neighbours, zeros where there is none.

    Args:
        obs: (..., N, D).
        actions: (..., N, A).
        mask: (..., N, N) bool from `neighbour_mask`.

    Returns:
        (..., N, D + A).
    """
    _check_rows("obs", obs, mask.shape[:-1])
    return _masked_mean(_side_by_side(obs, actions), mask)


def ego_frame(position: np.ndarray, heading: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each vehicle sees each other one: x ahead of it, y to its left, and how far the other is turned.

    Args:
        position: (..., N, 2) metres.
        heading: (..., N) radians, counter-clockwise from the x axis.
        present: (..., N) bool.

    Returns:
        position (..., N, N, 2) metres, [i, j] that of j in the frame of i, and heading (..., N, N) radians, that of j
        less that of i, in [-pi, pi). Zeros where either is missing.
    """
    offset = _offsets(position, present)
    if heading.shape != present.shape:
        raise ValueError(f"heading has shape {heading.shape} and present {present.shape}; use (..., N) for both")
    heading = np.where(present, heading, 0.0)
    cos, sin = np.cos(heading)[..., :, None], np.sin(heading)[..., :, None]
    x, y = offset[..., 0], offset[..., 1]
    seen = np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)
    both = present[..., :, None] & present[..., None, :]
    turn = (heading[..., None, :] - heading[..., :, None] + np.pi) % (2 * np.pi) - np.pi
    turn = np.where(turn < np.pi, turn, -np.pi)  # the remainder of a tiny negative angle rounds to a full turn
    return np.where(both[..., None], seen, 0.0), np.where(both, turn, 0.0)


def neighbour_graph(
    position: np.ndarray, present: np.ndarray, distance: float = np.inf, k: int | None = None
) -> np.ndarray:
    """The edges from every vehicle's neighbours to it, as graph libraries take them.

    `edge_index` of torch_geometric is `torch.from_numpy` of it; its two rows are DGL's `(source, destination)`.

    Args:
        position: (..., N, 2) metres.
        present: (..., N) bool.
        distance: metres; only vehicles strictly closer count.
        k: only the K nearest of them; None: all.

    Returns:
        (2, M) int64, source and target of each edge, sorted by source, then target. Node `env * N + slot`, `env`
        counting along all leading axes.
    """
    if k is None:
        mask = neighbour_mask(position, present, distance)
    else:
        index, valid = nearest_neighbours(position, present, k, distance)
        mask = ((index[..., None] == np.arange(present.shape[-1])) & valid[..., None]).any(axis=-2)
    *lead, n, _ = mask.shape
    env, source, target = np.nonzero(mask.reshape(math.prod(lead), n, n).swapaxes(1, 2))
    return np.stack([env * n + source, env * n + target]).astype(np.int64)


def _squared(distance: float) -> float:
    if not isinstance(distance, (int, float, np.integer, np.floating)) or not distance >= 0:
        raise ValueError(f"distance={distance!r} metres; use 0 or more, np.inf for no bound")
    return float(distance) * float(distance)


def _offsets(position: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(..., N, N, 2): [i, j] from i to j, NaN where either of the two is absent."""
    if position.shape[-1] != 2 or position.shape[:-1] != present.shape:
        raise ValueError(
            f"position has shape {position.shape} and present {present.shape}; use (..., N, 2) and (..., N)"
        )
    there = np.where(present[..., None], position, np.nan)
    return there[..., None, :, :] - there[..., :, None, :]


def _squared_distances(position: np.ndarray, present: np.ndarray) -> np.ndarray:
    """(..., N, N), NaN for oneself and where either of the two is absent: NaN is closer than no distance."""
    offset = _offsets(position, present)
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
    diagonal = np.arange(position.shape[-2])
    squared[..., diagonal, diagonal] = np.nan
    return squared


def _side_by_side(obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """obs (..., N, D), actions (..., N, A) -> (..., N, D + A)."""
    _check_rows("actions", actions, obs.shape[:-1])
    return np.concatenate([obs, actions], axis=-1)


def _check_rows(name: str, array: np.ndarray, vehicles: tuple[int, ...]) -> None:
    if array.shape[:-1] != vehicles:
        raise ValueError(f"{name} has shape {array.shape}; use one row for each vehicle of {vehicles}")


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """values (..., N, F), mask (..., N, N) -> (..., N, F)."""
    # Rows that are nobody's neighbour may hold NaN, and NaN * 0 is NaN.
    clean = np.where(np.expand_dims(mask.any(axis=-2), -1), values, 0)
    dtype = values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(np.float64)
    exact = np.promote_types(dtype, np.float32)  # a sum of float16 overflows
    total = mask.astype(exact) @ clean.astype(exact)
    return (total / np.maximum(mask.sum(axis=-1), 1)[..., None]).astype(dtype)

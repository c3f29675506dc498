"""Means that a few seeds can support, and how sure they are.

Reference: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021,
https://arxiv.org/abs/2108.13264: interquartile means with stratified bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the values without the lowest and the highest quarter of them.

    floor(n / 4) values go at either end, as in the reference, so fewer than four values give their plain mean.

    Args:
        values: any shape, taken together. NaN if empty.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean()) if ordered.size else float("nan")


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean, and standard deviation with n - 1 below the sum (NaN for one value; both NaN for none)."""
    array = np.asarray(values, np.float64).ravel()
    mean = float(array.mean()) if array.size else float("nan")
    return mean, float(array.std(ddof=1)) if array.size > 1 else float("nan")


def bootstrap_interval(
    strata: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], float],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stratified bootstrap.

    Every resample draws, with replacement, as many rows from each stratum as the stratum has, puts them together and
    computes the statistic. Strata are what was fixed by design (a scene, a map); rows are what could have come out
    otherwise (a seed, an episode). So the lives of one episode, which are not independent, belong in one row.

    Args:
        strata: arrays (n_s, ...), at least one row each; for a plain bootstrap give one.
        statistic: (sum of n_s, ...) -> float.
        rng: makes the draws; the same generator state gives the same interval.
        confidence: share of the resampled statistics inside the interval, in (0, 1).
        resamples: how many.

    Raises:
        ValueError: an empty stratum, or a number out of its range.
    """
    arrays = [np.asarray(stratum) for stratum in strata]
    if not arrays or any(len(array) == 0 for array in arrays):
        raise ValueError("a bootstrap needs at least one row in every stratum")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not a share; use a number between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} is too small; use 1 or more")
    estimates = np.empty(resamples)
    for index in range(resamples):
        drawn = [array[rng.integers(len(array), size=len(array))] for array in arrays]
        estimates[index] = statistic(np.concatenate(drawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)

"""Means and intervals against hand-worked numbers and limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copo_algos.statistics import bootstrap_interval, interquartile_mean, mean_and_std

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


def test_iqm_drops_the_lowest_and_the_highest_quarter():
    assert interquartile_mean(np.array([100.0, 2.0, 3.0, -50.0])) == 2.5
    # Nine values: floor(9 / 4) = 2 go at either end, and 3, 4, 5, 6, 8 stay.
    assert interquartile_mean(np.array([9, 1, 8, 3, 2, 6, 4, 5, 70.0])) == pytest.approx(26 / 5)


def test_iqm_of_fewer_than_four_values_is_their_mean():
    assert interquartile_mean(np.array([0.0, 3.0, 9.0])) == 4.0
    assert math.isnan(interquartile_mean(np.array([])))


@given(values)
def test_iqm_lies_between_the_extremes_and_ignores_order(numbers: list[float]):
    iqm = interquartile_mean(np.array(numbers))
    assert min(numbers) - 1e-9 <= iqm <= max(numbers) + 1e-9
    assert iqm == interquartile_mean(np.array(numbers[::-1]))


def test_mean_and_std_divide_by_n_minus_one():
    mean, std = mean_and_std(np.array([2.0, 4.0, 4.0, 6.0]))
    assert mean == 4.0
    assert std == pytest.approx(math.sqrt(8 / 3))


def test_std_of_one_value_is_unknown():
    mean, std = mean_and_std(np.array([0.7]))
    assert mean == 0.7 and math.isnan(std)
    assert all(math.isnan(value) for value in mean_and_std(np.array([])))


def test_interval_of_equal_values_is_that_value():
    assert bootstrap_interval([np.full(5, 0.25)], np.mean, np.random.default_rng(0)) == (0.25, 0.25)


def test_strata_are_resampled_apart():
    # Each stratum is constant, so nothing varies; drawn together, the mean would.
    strata = [np.zeros(4), np.ones(12)]
    assert bootstrap_interval(strata, np.mean, np.random.default_rng(0)) == (0.75, 0.75)
    low, high = bootstrap_interval([np.concatenate(strata)], np.mean, np.random.default_rng(0))
    assert low < 0.75 < high


def test_interval_agrees_with_all_resamples_of_three_values():
    numbers = np.array([0.0, 1.0, 5.0])
    exact = np.array([np.mean(sample) for sample in itertools.product(numbers, repeat=3)])
    low, high = bootstrap_interval([numbers], np.mean, np.random.default_rng(1), confidence=0.8, resamples=5000)
    # Quantiles of a discrete distribution: the estimate is one of its values, and holds 10 % on either side.
    assert np.mean(exact < low - 1e-9) < 0.1 <= np.mean(exact <= low + 1e-9)
    assert np.mean(exact > high + 1e-9) < 0.1 <= np.mean(exact >= high - 1e-9)


def test_interval_of_a_mean_has_the_width_of_its_standard_error():
    sample = np.random.default_rng(2).normal(size=400)
    low, high = bootstrap_interval([sample], np.mean, np.random.default_rng(3), resamples=4000)
    half_width = 1.96 * sample.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((sample.mean() - half_width, sample.mean() + half_width), abs=0.01)


def test_rows_stay_together():
    # Rows (successes, ended) with equal ratios: any resample has that ratio.
    rows = np.array([[1, 2], [4, 8], [3, 6]])
    interval = bootstrap_interval([rows], lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), np.random.default_rng(4))
    assert interval == (0.5, 0.5)


def test_same_generator_state_same_interval():
    sample = np.arange(10.0)
    first, second = (bootstrap_interval([sample], np.mean, np.random.default_rng(5), resamples=50) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("strata", "options", "message"),
    [
        ([], {}, "at least one row"),
        ([np.ones(3), np.array([])], {}, "at least one row"),
        ([np.ones(3)], {"confidence": 95.0}, "confidence=95.0"),
        ([np.ones(3)], {"resamples": 0}, "resamples=0"),
    ],
)
def test_refusals_say_what_is_wrong(strata: list[np.ndarray], options: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(strata, np.mean, np.random.default_rng(0), **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.parametrize(("episodes", "low", "high"), [(5, 0.78, 0.87), (20, 0.90, 0.96)])
def test_a_percentile_interval_of_few_episodes_is_too_narrow(episodes: int, low: float, high: float):
    """How often a 95 % interval of a success rate holds the true one, 65 %: what docs/benchmark.md says of it.

    Episodes differ by a standard deviation of 5 points and have some 120 lives each.
    """
    rng = np.random.default_rng(0)
    held, trials = 0, 800
    for _ in range(trials):
        lives = rng.integers(100, 140, episodes)
        rows = np.stack([rng.binomial(lives, rng.normal(0.65, 0.05, episodes).clip(0, 1)), lives], axis=1)
        ends = bootstrap_interval([rows], lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), rng, resamples=200)
        held += ends[0] <= 0.65 <= ends[1]
    assert low < held / trials < high

"""Neighbour functions against plain loops, permutations and junk in empty slots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_envs.neighbours import (
    mean_field,
    nearest_neighbours,
    nearest_observations,
    neighbour_mask,
    neighbourhood_mean,
)

D = 3


@st.composite
def crowds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """position (E, N, 2), present (E, N), obs (E, N, D), actions (E, N, 2), distance; on a grid, so ties happen."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (2, draw(st.integers(1, 7)))
    distance = draw(st.sampled_from([1.0, 2.0, 3.5, np.inf]))
    position = rng.integers(-3, 4, size=(*shape, 2)).astype(float)
    present = rng.random(shape) < 0.7
    return position, present, rng.normal(size=(*shape, D)), rng.normal(size=(*shape, 2)), distance


def loop_neighbours(position: np.ndarray, present: np.ndarray, distance: float) -> list[list[int]]:
    """Neighbours of every slot of one environment, nearest first, ties by slot."""
    n = len(position)
    near: list[list[int]] = []
    for i in range(n):
        found = []
        for j in range(n):
            gap = float(np.hypot(*(position[i] - position[j])))
            if i != j and present[i] and present[j] and gap < distance:
                found.append((round(gap, 9), j))
        near.append([j for _, j in sorted(found)])
    return near


@given(crowds())
@settings(deadline=None, max_examples=60)
def test_plain_loops(crowd: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    position, present, obs, actions, distance = crowd
    envs = len(present)
    k = 3
    mask = neighbour_mask(position, present, distance)
    index, valid = nearest_neighbours(position, present, k, distance)
    mean_obs = mean_field(obs, actions, mask)
    mean_value = neighbourhood_mean(obs[..., 0], mask)
    near_obs = nearest_observations(obs, index, valid)
    for e in range(envs):
        for i, near in enumerate(loop_neighbours(position[e], present[e], distance)):
            assert sorted(near) == np.nonzero(mask[e, i])[0].tolist()
            assert index[e, i][valid[e, i]].tolist() == near[:k]
            rows = np.concatenate([obs[e], actions[e]], axis=1)[near]
            expected = rows.mean(axis=0) if near else np.zeros(D + 2)
            np.testing.assert_allclose(mean_obs[e, i], expected, atol=1e-12)
            np.testing.assert_allclose(mean_value[e, i], expected[0], atol=1e-12)
            padded = np.zeros((k, D))
            padded[: len(near[:k])] = obs[e][near[:k]]
            np.testing.assert_array_equal(near_obs[e, i], padded.ravel())


@given(crowds(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_relabelling_the_slots_relabels_the_results(
    crowd: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], shuffle: int
) -> None:
    position, present, obs, actions, distance = crowd
    order = np.random.default_rng(shuffle).permutation(present.shape[1])
    mask = neighbour_mask(position, present, distance)
    moved = neighbour_mask(position[:, order], present[:, order], distance)
    np.testing.assert_array_equal(moved, mask[:, order][:, :, order])
    field = mean_field(obs, actions, mask)
    np.testing.assert_allclose(mean_field(obs[:, order], actions[:, order], moved), field[:, order], atol=1e-12)


@given(crowds(), st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
@settings(deadline=None, max_examples=60)
def test_junk_in_empty_slots_reaches_nothing(
    crowd: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], junk: float
) -> None:
    position, present, obs, actions, distance = crowd

    def results(position: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> list[np.ndarray]:
        mask = neighbour_mask(position, present, distance)
        index, valid = nearest_neighbours(position, present, 4, distance)
        return [
            mask,
            index,
            valid,
            neighbourhood_mean(obs[..., 0], mask),
            nearest_observations(obs, index, valid),
            mean_field(obs, actions, mask),
        ]

    spoilt = [np.where(present[..., None], clean, junk) for clean in (position, obs, actions)]
    for clean, dirty in zip(results(position, obs, actions), results(*spoilt), strict=True):
        np.testing.assert_array_equal(clean, dirty)


def test_hand_worked() -> None:
    position = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, -1.0]])
    present = np.array([True, True, True, True])
    mask = neighbour_mask(position, present, 5.0)
    # Slot 1 is exactly 5 m from slot 0: not strictly closer. From slot 2 it is sqrt(18) = 4.24 m.
    assert mask.tolist() == [
        [False, False, True, True],
        [False, False, True, False],
        [True, True, False, True],
        [True, False, True, False],
    ]
    index, valid = nearest_neighbours(position, present, 5, 5.0)
    assert index.shape == (4, 5) and index[0].tolist() == [2, 3, 0, 0, 0]  # the tie goes to the lower slot
    assert valid[0].tolist() == [True, True, False, False, False]
    assert neighbourhood_mean(np.array([1.0, 2.0, 3.0, 5.0]), mask).tolist() == [4.0, 3.0, 8 / 3, 2.0]


def test_dtype_is_kept_and_no_axes_are_needed() -> None:
    position, present = np.zeros((5, 2)), np.ones(5, dtype=bool)
    mask = neighbour_mask(position, present, np.inf)
    assert mask.sum() == 20
    obs = np.ones((5, D), dtype=np.float32)
    assert mean_field(obs, np.ones((5, 2), dtype=np.float32), mask).dtype == np.float32
    index, valid = nearest_neighbours(position, present, 2)
    assert nearest_observations(obs, index, valid).dtype == np.float32
    assert neighbourhood_mean(obs[:, 0], mask).dtype == np.float32


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"position has shape \(5, 3\)"):
        neighbour_mask(np.zeros((5, 3)), np.ones(5, dtype=bool), 10.0)

"""Neighbour functions against plain loops, permutations and junk in empty slots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_envs.neighbours import (
    ego_frame,
    mean_field,
    nearest_neighbours,
    nearest_observations,
    neighbour_graph,
    neighbour_mask,
    neighbourhood_mean,
)

D = 3
Crowd = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
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
def test_plain_loops(crowd: Crowd) -> None:
    position, present, obs, actions, distance = crowd
    envs = len(present)
    k = 3
    mask = neighbour_mask(position, present, distance)
    index, valid = nearest_neighbours(position, present, k, distance)
    mean_obs = mean_field(obs, actions, mask)
    mean_value = neighbourhood_mean(obs[..., 0], mask)
    near_obs = nearest_observations(obs, index, valid)
    near_both = nearest_observations(obs, index, valid, actions)
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
            both = np.zeros((k, D + 2))
            both[: len(near[:k])] = rows[:k]
            np.testing.assert_array_equal(near_both[e, i], both.ravel())


@given(crowds(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_relabelling_the_slots_relabels_the_results(crowd: Crowd, shuffle: int) -> None:
    position, present, obs, actions, distance = crowd
    order = np.random.default_rng(shuffle).permutation(present.shape[1])
    mask = neighbour_mask(position, present, distance)
    moved = neighbour_mask(position[:, order], present[:, order], distance)
    np.testing.assert_array_equal(moved, mask[:, order][:, :, order])
    field = mean_field(obs, actions, mask)
    np.testing.assert_allclose(mean_field(obs[:, order], actions[:, order], moved), field[:, order], atol=1e-12)
    heading = actions[..., 0] * 9
    for before, after in zip(
        ego_frame(position, heading, present),
        ego_frame(position[:, order], heading[:, order], present[:, order]),
        strict=True,
    ):
        np.testing.assert_array_equal(after, before[:, order][:, :, order])
    # The same edges between other numbers.
    n = len(order)
    number = np.concatenate([np.argsort(order), n + np.argsort(order)])
    edges = number[neighbour_graph(position, present, distance)]
    renumbered = neighbour_graph(position[:, order], present[:, order], distance)
    assert {*map(tuple, edges.T.tolist())} == {*map(tuple, renumbered.T.tolist())}


@given(crowds(), st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
@settings(deadline=None, max_examples=60)
def test_junk_in_empty_slots_reaches_nothing(crowd: Crowd, junk: float) -> None:
    position, present, obs, actions, distance = crowd

    def results(position: np.ndarray, obs: np.ndarray, actions: np.ndarray) -> list[np.ndarray]:
        mask = neighbour_mask(position, present, distance)
        index, valid = nearest_neighbours(position, present, 4, distance)
        return [
            mask,
            index,
            valid,
            neighbourhood_mean(obs[..., 0], mask),
            nearest_observations(obs, index, valid, actions),
            mean_field(obs, actions, mask),
            *ego_frame(position, actions[..., 0], present),
            neighbour_graph(position, present, distance, k=2),
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


def test_means_of_whole_numbers_and_of_halves() -> None:
    mask = neighbour_mask(np.zeros((3, 2)), np.ones(3, dtype=bool), np.inf)
    for dtype in (np.uint8, np.int64, np.float64):
        assert neighbourhood_mean(np.array([1, 2, 4], dtype), mask).tolist() == [3.0, 2.5, 1.5]
    assert neighbourhood_mean(np.full(3, 200, np.uint8), mask).tolist() == [200.0] * 3
    assert neighbourhood_mean(np.array([True, False, False]), mask).tolist() == [0.0, 0.5, 0.5]
    halves = neighbourhood_mean(np.full(3, 40_000, np.float16), mask)
    assert halves.dtype == np.float16 and (halves == np.float16(40_000)).all()


@given(crowds(), st.sampled_from([None, 1, 2, 9]))
@settings(deadline=None, max_examples=60)
def test_edges_are_the_neighbours(crowd: Crowd, k: int | None) -> None:
    position, present, _, _, distance = crowd
    envs, n = present.shape
    edges = neighbour_graph(position, present, distance, k)
    assert edges.dtype == np.int64 and edges.shape[0] == 2
    expected = []
    for e in range(envs):
        for target, near in enumerate(loop_neighbours(position[e], present[e], distance)):
            expected += [[e * n + source, e * n + target] for source in near[:k]]
    assert edges.T.tolist() == sorted(expected)
    if k is None:
        mask = np.zeros((envs * n, envs * n), bool)
        mask[edges[1], edges[0]] = True
        blocks = mask.reshape(envs, n, envs, n)
        for e in range(envs):
            np.testing.assert_array_equal(blocks[e, :, e], neighbour_mask(position, present, distance)[e])
        assert mask.sum() == edges.shape[1]
    # Each population alone has the same edges, and further leading axes count on.
    alone = [neighbour_graph(position[e], present[e], distance, k) + e * n for e in range(envs)]
    np.testing.assert_array_equal(edges, np.concatenate(alone, axis=1))
    np.testing.assert_array_equal(edges, neighbour_graph(position[:, None], present[:, None], distance, k))


def test_edges_by_hand() -> None:
    position, present = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]), np.ones(3, dtype=bool)
    # The nearest of slot 2 is slot 1, but not the other way around: the edge goes from the neighbour to who has it.
    assert neighbour_graph(position, present, k=1).tolist() == [[0, 1, 1], [1, 0, 2]]
    assert neighbour_graph(position, present, 2.5).tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert neighbour_graph(position, np.zeros(3, dtype=bool)).shape == (2, 0)
    assert neighbour_graph(np.zeros((0, 2)), np.zeros(0, dtype=bool), k=1).shape == (2, 0)


def test_ego_frame_by_hand() -> None:
    # Slot 0 looks along y: slot 1 is 2 m ahead of it and 3 m to its left, and turned a quarter to the right.
    position = np.array([[1.0, 1.0], [-2.0, 3.0]])
    place, turn = ego_frame(position, np.array([np.pi / 2, 0.0]), np.ones(2, dtype=bool))
    np.testing.assert_allclose(place[0, 1], [2.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(place[1, 0], [3.0, -2.0], atol=1e-12)
    np.testing.assert_allclose(turn, [[0.0, -np.pi / 2], [np.pi / 2, 0.0]])
    _, turn = ego_frame(position, np.array([0.0, np.pi]), np.ones(2, dtype=bool))
    assert turn.tolist() == [[0.0, -np.pi], [-np.pi, 0.0]]
    # A hair more than half a turn to the right is rounded to half a turn, which is -pi and not pi.
    _, turn = ego_frame(position, np.array([0.0, np.nextafter(-np.pi, -4.0)]), np.ones(2, dtype=bool))
    assert turn[0, 1] == -np.pi
    assert not ego_frame(position, np.array([0.0, 1.0]), np.array([True, False]))[0].any()


angles = st.floats(-20, 20) | st.sampled_from([0.0, np.pi, -np.pi, 1e-17, -1e-17, 3 * np.pi])


@given(crowds(), st.tuples(angles, angles, angles, st.floats(-100, 100)))
@settings(deadline=None, max_examples=60)
def test_ego_frames_and_back_and_wherever_the_scene_lies(crowd: Crowd, given_: tuple[float, ...]) -> None:
    position, present, obs, _, _ = crowd
    heading = np.round(obs[..., 0] * 4) * given_[0]  # some look the same way
    place, turn = ego_frame(position, heading, present)
    both = present[:, :, None] & present[:, None, :]
    assert (turn >= -np.pi).all() and (turn < np.pi).all()
    assert not place[~both].any() and not turn[~both].any()

    cos, sin = np.cos(heading)[..., None], np.sin(heading)[..., None]
    x, y = place[..., 0], place[..., 1]
    back = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + position[:, :, None]
    np.testing.assert_allclose(back[both], np.broadcast_to(position[:, None], back.shape)[both], atol=1e-9)
    full = heading[:, :, None] + turn - heading[:, None, :]
    np.testing.assert_allclose(np.sin(full / 2)[both], 0, atol=1e-9)

    # Turned and moved as a whole, nobody sees a difference. Angles next to -pi may come out next to pi.
    angle, shift = given_[1], np.array(given_[2:])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    elsewhere, again = ego_frame(position @ rotation.T + shift, heading + angle, present)
    np.testing.assert_allclose(elsewhere, place, atol=1e-9)
    np.testing.assert_allclose(np.sin((again - turn) / 2), 0, atol=1e-9)


PRESENT = np.ones(5, dtype=bool)
INDEX, VALID = nearest_neighbours(np.zeros((5, 2)), PRESENT, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: neighbour_mask(np.zeros((5, 3)), PRESENT, 10.0), r"position has shape \(5, 3\)"),
        (lambda: neighbour_mask(np.zeros((5, 2)), PRESENT, -1.0), "distance=-1.0 metres; use 0 or more, np.inf for"),
        (lambda: neighbour_mask(np.zeros((5, 2)), PRESENT, np.nan), "distance=nan metres; use 0 or more"),
        (lambda: nearest_neighbours(np.zeros((5, 2)), PRESENT, 2, -np.inf), "distance=-inf metres"),
        (lambda: nearest_neighbours(np.zeros((5, 2)), PRESENT, 0), "k=0 neighbours; use a whole number of 1 or more"),
        (lambda: neighbour_graph(np.zeros((5, 2)), PRESENT, k=-2), "k=-2 neighbours; use a whole number"),
        (
            lambda: nearest_neighbours(np.zeros((5, 2)), PRESENT, 1.5),  # pyright: ignore[reportArgumentType]
            "k=1.5 neighbours",
        ),
        (lambda: neighbourhood_mean(np.zeros(4), np.zeros((5, 5), bool)), r"values has shape \(4,\) and mask \(5, 5\)"),
        (lambda: nearest_observations(np.zeros((4, D)), INDEX, VALID), r"obs has shape \(4, 3\); use one row for each"),
        (
            lambda: nearest_observations(np.zeros((5, D)), INDEX, VALID, np.zeros((4, 2))),
            r"actions has shape \(4, 2\); use one row for each vehicle of \(5,\)",
        ),
        (lambda: nearest_observations(np.zeros((5, D)), INDEX, VALID[:, :1]), r"valid has shape \(5, 1\) and index"),
        (lambda: mean_field(np.zeros(5), np.zeros(5), np.zeros((5, 5), bool)), r"obs has shape \(5,\); use one row"),
        (lambda: ego_frame(np.zeros((5, 2)), np.zeros((5, 1)), PRESENT), r"heading has shape \(5, 1\) and present"),
    ],
)
def test_refusals(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()

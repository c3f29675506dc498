"""Advantages against hand-worked numbers and a plain loop over lives; their coordination and standardisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_algos.advantages import STD_FLOOR, coordinate, gae, standardise

# One slot: a gap, life A that terminates, a gap, life B that is truncated, life C born at once and cut by the end.
#                     -    A    A    -    B    B    C    C
REWARD = np.array([100, 1.0, 2.0, 100, 0.0, 4.0, 1.0, 2.0])
VALUE = np.array([100., 2.0, 4.0, 100, 1.0, 3.0, 5.0, 6.0])  # fmt: skip
NEXT = np.array([100.0, 4.0, 0.0, 100, 3.0, 8.0, 6.0, 2.0])
ACTED = np.array([0, 1, 1, 0, 1, 1, 1, 1], np.bool_)
ENDED = np.array([0, 0, 1, 0, 0, 1, 0, 0], np.bool_)


def one_slot(gamma: float | np.ndarray, gae_lambda: float, fragment_steps: int = 0, heads: int = 1) -> np.ndarray:
    """(T, H) advantages of the slot above, the same numbers for every head."""

    def column(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[:, None, None, None], heads, axis=3)

    advantage = gae(
        column(REWARD),
        column(VALUE),
        column(NEXT),
        ACTED[:, None, None],
        ENDED[:, None, None],
        gamma,
        gae_lambda,
        fragment_steps,
    )
    return advantage[:, 0, 0]


def lives_in_slot(acted: np.ndarray, ended: np.ndarray) -> list[list[int]]:
    """Steps of each life of a slot, (T,) each."""
    lives: list[list[int]] = []
    open_life: list[int] = []
    for t in range(len(acted)):
        if acted[t]:
            open_life.append(t)
        if open_life and (ended[t] or not acted[t]):
            lives.append(open_life)
            open_life = []
    return [*lives, open_life] if open_life else lives


def test_a_slot_worked_by_hand():
    # deltas with gamma 1/2: A 1, -2; B 1/2, 5; C -1, -3; each joins the next with weight gamma * lambda = 1/4.
    expected = [0, 1 - 2 / 4, -2, 0, 1 / 2 + 5 / 4, 5, -1 - 3 / 4, -3]
    np.testing.assert_allclose(one_slot(0.5, 0.5)[:, 0], expected, rtol=0, atol=1e-12)


def test_lambda_0_is_the_td_error():
    np.testing.assert_allclose(one_slot(0.5, 0.0)[:, 0], np.where(ACTED, REWARD + 0.5 * NEXT - VALUE, 0), atol=1e-12)


def test_lambda_1_is_the_discounted_return_minus_the_value():
    advantage = one_slot(0.5, 1.0)[:, 0]
    for life in lives_in_slot(ACTED, ENDED):
        rewards = [*REWARD[life], NEXT[life[-1]]]  # the bootstrap comes after the last reward
        for position, t in enumerate(life):
            returned = sum(0.5**k * reward for k, reward in enumerate(rewards[position:]))
            assert advantage[t] == pytest.approx(returned - VALUE[t])


def test_every_head_has_its_own_gamma():
    both = one_slot(np.array([0.5, 1.0]), 0.7, heads=2)
    np.testing.assert_allclose(both[:, 0], one_slot(0.5, 0.7)[:, 0])
    np.testing.assert_allclose(both[:, 1], one_slot(1.0, 0.7)[:, 0])


def test_a_fragment_cuts_the_recursion_and_still_bootstraps():
    # Cuts after steps 1, 3, 5, 7: life A falls apart, lives B and C lie within a fragment each.
    cut = one_slot(0.5, 0.5, fragment_steps=2)[:, 0]
    np.testing.assert_allclose(cut, [0, 1, -2, 0, 1 / 2 + 5 / 4, 5, -1 - 3 / 4, -3], atol=1e-12)
    np.testing.assert_allclose(one_slot(0.5, 0.5, fragment_steps=1), one_slot(0.5, 0.0), atol=1e-12)
    np.testing.assert_array_equal(one_slot(0.5, 0.5, fragment_steps=len(REWARD)), one_slot(0.5, 0.5))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    fragment_steps=st.integers(0, 7),
)
def test_equals_a_plain_loop_over_lives(seed: int, gamma: float, gae_lambda: float, fragment_steps: int):
    rng = np.random.default_rng(seed)
    steps, envs, slots, heads = 15, 2, 3, 2
    reward, value, next_value = rng.normal(size=(3, steps, envs, slots, heads))
    acted = rng.random((steps, envs, slots)) < 0.8
    ended = acted & (rng.random(acted.shape) < 0.25)
    gammas = np.array([gamma, 1.0])
    advantage = gae(reward, value, next_value, acted, ended, gammas, gae_lambda, fragment_steps)

    expected = np.zeros_like(advantage)
    for env in range(envs):
        for slot in range(slots):
            for life in lives_in_slot(acted[:, env, slot], ended[:, env, slot]):
                for head in range(heads):
                    for start, first in enumerate(life):
                        weight = 1.0
                        for t in life[start:]:
                            here = (t, env, slot, head)
                            delta = reward[here] + gammas[head] * next_value[here] - value[here]
                            expected[first, env, slot, head] += weight * delta
                            weight *= gammas[head] * gae_lambda
                            if fragment_steps and (t + 1) % fragment_steps == 0:
                                break
    np.testing.assert_allclose(advantage, expected, atol=1e-9)


def test_a_factor_of_0_is_selfish_of_1_altruistic_and_of_minus_1_hostile():
    own, neighbourhood = np.array([3.0, -2.0]), np.array([5.0, 7.0])
    np.testing.assert_allclose(coordinate(own, neighbourhood, np.zeros(2)), own)
    np.testing.assert_allclose(coordinate(own, neighbourhood, np.ones(2)), neighbourhood)
    np.testing.assert_allclose(coordinate(own, neighbourhood, -np.ones(2)), -neighbourhood)


def test_a_factor_of_one_third_is_30_degrees():
    assert coordinate(np.array(2.0), np.array(4.0), np.array(1 / 3)) == pytest.approx(np.sqrt(3) + 2)


@given(st.floats(-1, 1), st.floats(-100, 100), st.floats(-100, 100))
def test_coordination_turns_the_pair_and_keeps_its_length(lcf: float, own: float, neighbourhood: float):
    along = coordinate(np.array(own), np.array(neighbourhood), np.array(lcf))
    across = coordinate(np.array(-neighbourhood), np.array(own), np.array(lcf))
    assert np.hypot(along, across) == pytest.approx(np.hypot(own, neighbourhood), abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_standardising_can_be_undone(values: list[float]):
    array = np.array(values)
    standardised, mean, std = standardise(array)
    np.testing.assert_allclose(standardised * std + mean, array, atol=1e-9)
    assert mean == pytest.approx(array.mean()) and std == pytest.approx(max(array.std(), STD_FLOOR))


def test_standardised_values_have_mean_0_and_std_1():
    standardised, _, _ = standardise(np.random.default_rng(0).normal(5.0, 3.0, 1000))
    assert standardised.mean() == pytest.approx(0, abs=1e-12) and standardised.std() == pytest.approx(1)


def test_equal_values_are_divided_by_the_floor():
    standardised, mean, std = standardise(np.full(5, 2.5))
    assert (mean, std) == (2.5, 1e-4) and not standardised.any()

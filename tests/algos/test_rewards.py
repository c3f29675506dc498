"""Whose reward counts, by each of the three rules: a hand-worked scene, and plain loops over random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copo_algos.rewards import NEIGHBOUR_RULES, NeighbourRule, shared_rewards
from copo_envs.step_batch import StepBatch


def street() -> StepBatch:
    """Four slots on a line, one environment, neighbours within 10 m.

    Slot 0 drives at 0 m with reward 1; slot 1 crashes at 5 m with -10 and a newborn takes its slot at 3 m; slot 2
    drives at 8 m with reward 2; slot 3 was empty and gets a newborn at 50 m.
    """
    batch = StepBatch.zeros(4, 1, lead=(1,))
    batch.acted[0] = [True, True, True, False]
    batch.reward[0] = [1, -10, 2, 0]
    batch.terminated[0] = [False, True, False, False]
    batch.acted_position[0, :, 0] = [0, 5, 8, 0]
    batch.active[0] = True
    batch.spawned[0] = [False, True, False, True]
    batch.position[0, :, 0] = [0, 3, 8, 50]
    return batch


@pytest.mark.parametrize(
    ("rule", "neighbourhood", "everybody"),
    [
        ("ours", [(-10 + 2) / 2, (1 + 2) / 2, (1 - 10) / 2], (1 - 10 + 2) / 3),
        # The crash is nobody's; the newborn at 3 m counts with 0 for both that drive on.
        ("tf", [(2 + 0) / 2, 0, (1 + 0) / 2], (1 - 10 + 2) / 5),
        ("torch", [(-10 + 2 + 0) / 3, (1 + 2 + 0) / 3, (1 - 10 + 0) / 3], (1 - 10 + 2) / 5),
    ],
)
def test_a_crash_beside_two_vehicles_and_a_newborn(rule: NeighbourRule, neighbourhood: list[float], everybody: float):
    reward = shared_rewards(street(), 10.0, rule)
    assert reward.shape == (1, 4, 3)
    np.testing.assert_allclose(reward[0, :3, 0], [1, -10, 2])
    np.testing.assert_allclose(reward[0, :3, 1], neighbourhood)
    np.testing.assert_allclose(reward[0, :3, 2], everybody)
    np.testing.assert_array_equal(reward[0, 3], 0)


@pytest.mark.parametrize("rule", NEIGHBOUR_RULES)
def test_those_born_into_the_next_episode_do_not_count_in_the_last_step_of_this(rule: NeighbourRule):
    batch = street()
    batch.truncated[0] = [True, False, True, False]
    batch.spawned[0] = True
    batch.episode_over[0] = True
    reward = shared_rewards(batch, 10.0, rule)[0]
    np.testing.assert_allclose(reward[:3, 2], -7 / 3)
    np.testing.assert_allclose(reward[:3, 1], [0, 0, 0] if rule == "tf" else [-4, 1.5, -4.5])


@st.composite
def scenes(draw: st.DrawFn) -> StepBatch:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    envs, slots = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    batch = StepBatch.zeros(slots, 1, lead=(envs,))
    batch.acted[...] = rng.random((envs, slots)) < 0.7
    ended = batch.acted & (rng.random((envs, slots)) < 0.3)
    batch.terminated[...] = ended & (rng.random((envs, slots)) < 0.5)
    batch.truncated[...] = ended & ~batch.terminated
    batch.reward[...] = np.where(batch.acted, rng.normal(size=(envs, slots)), 0)
    batch.acted_position[...] = np.where(batch.acted[..., None], rng.random((envs, slots, 2)) * 60, 0)
    survives = batch.acted & ~ended
    batch.spawned[...] = ~survives & (rng.random((envs, slots)) < 0.5)
    batch.active[...] = survives | batch.spawned
    newborn = np.where(batch.spawned[..., None], rng.random((envs, slots, 2)) * 60, 0)
    batch.position[...] = np.where(survives[..., None], batch.acted_position, newborn)
    batch.episode_over[...] = rng.random(envs) < 0.2
    return batch


@given(
    batch=scenes(),
    rule=st.sampled_from(NEIGHBOUR_RULES),
    distance=st.sampled_from([1.0, 20.0, np.inf]),
    counts_itself=st.booleans(),
)
def test_equals_plain_loops(batch: StepBatch, rule: NeighbourRule, distance: float, counts_itself: bool):
    found = shared_rewards(batch, distance, rule, counts_itself)
    for env in range(batch.acted.shape[0]):
        slots = range(batch.acted.shape[1])
        ended = batch.terminated[env] | batch.truncated[env]
        # (slot or None for a newborn, place, reward) of everybody there
        there = [(s, batch.acted_position[env, s], batch.reward[env, s]) for s in slots if batch.acted[env, s]]
        if rule != "ours" and not batch.episode_over[env]:
            there += [(None, batch.position[env, s], 0.0) for s in slots if batch.spawned[env, s]]
        for slot in slots:
            if not batch.acted[env, slot]:
                np.testing.assert_array_equal(found[env, slot], 0)
                continue
            near = [batch.reward[env, slot]] if counts_itself else []
            for other, place, reward in there:
                if other == slot or np.linalg.norm(place - batch.acted_position[env, slot]) >= distance:
                    continue
                if rule == "tf" and (ended[slot] or (other is not None and ended[other])):
                    continue
                near.append(reward)
            expected = [batch.reward[env, slot], np.mean(near) if near else 0, np.mean([r for *_, r in there])]
            np.testing.assert_allclose(found[env, slot], expected, atol=1e-12)

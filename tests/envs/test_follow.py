"""Whom the view follows, step by step, with lives that begin and end on paper."""

from __future__ import annotations

import numpy as np
import pytest

from copo_envs.drawing.follow import Follower
from copo_envs.drawing.options import MARKER_STEPS, RenderError
from copo_envs.step_batch import StepBatch


def at(step: int, *lives: int, ended: int | None = None, at_x: float = 0.0) -> StepBatch:
    """Lives in the slots, -1 for nobody; life k is at (10 * k + step, 0). One may end in slot 3, at (at_x, 0)."""
    batch = StepBatch.zeros(4, 1)
    batch.episode_step[...] = step
    for slot, life in enumerate(lives):
        if life >= 0:
            batch.active[slot], batch.life[slot] = True, life
            batch.position[slot] = 10 * life + step, 0
    if ended is not None:
        batch.acted[3], batch.acted_life[3], batch.terminated[3] = True, ended, True
        batch.acted_position[3] = at_x, 0
    return batch


def x_of(follower: Follower) -> float:
    assert follower.place is not None
    return float(follower.place[0])


def test_the_first_one_is_followed_until_a_while_after_its_end_and_then_the_youngest() -> None:
    follower = Follower("auto")
    assert (follower.life, follower.place, follower.name) == (None, None, "")
    for step in range(5):
        follower.look(at(step, 2, 0, 1))
        assert (follower.life, x_of(follower)) == (0, step)
    follower.look(at(5, 2, 3, 1, ended=0, at_x=4.5))
    assert (follower.life, x_of(follower), follower.name) == (0, 4.5, "agent_0")
    for step in range(6, 5 + MARKER_STEPS):
        follower.look(at(step, 2, 3, 1))
        assert (follower.life, x_of(follower)) == (0, 4.5)
    follower.look(at(5 + MARKER_STEPS, 2, 3, 1))
    assert (follower.life, x_of(follower)) == (3, 30 + 5 + MARKER_STEPS)


def test_a_named_one_is_followed_from_its_first_step_on() -> None:
    follower = Follower("agent_7")
    follower.look(at(0, 0, 1))
    assert follower.life == 0
    follower.look(at(1, 0, 7))
    assert (follower.life, follower.name) == (7, "agent_7")
    follower.look(at(2, 0, 8, ended=7, at_x=70.0))
    follower.look(at(2 + MARKER_STEPS, 0, 8))
    assert follower.life == 8


def test_a_slot_is_followed_from_life_to_life() -> None:
    follower = Follower("slot_1")
    follower.look(at(0, 4, 2))
    assert (follower.life, follower.name) == (2, "slot_1")
    follower.look(at(1, 4, 5, ended=2, at_x=20.0))
    assert follower.life == 2
    follower.look(at(1 + MARKER_STEPS, 4, -1))
    assert (follower.life, x_of(follower)) == (2, 20.0), "the slot is empty: the view stays"
    follower.look(at(2 + MARKER_STEPS, 4, 9))
    assert follower.life == 9


def test_another_episode_begins_with_its_first_one() -> None:
    follower = Follower("auto")
    follower.look(at(50, 8, 9))
    assert follower.life == 8
    follower.look(at(0, 1, 0))
    assert follower.life == 0


def test_the_view_stays_while_nobody_drives() -> None:
    follower = Follower("auto")
    follower.look(at(0))
    assert follower.place is None
    follower.look(at(1, 3))
    follower.look(at(2, ended=3, at_x=31.5))
    follower.look(at(2 + 2 * MARKER_STEPS))
    assert follower.life == 3
    np.testing.assert_array_equal(follower.place, [31.5, 0])


def test_a_slot_that_is_not_there_is_refused() -> None:
    with pytest.raises(RenderError, match="there is no slot_4 to follow; choose one of slot_0 to slot_3"):
        Follower("slot_4").look(at(0, 1))

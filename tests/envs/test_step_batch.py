"""The hand-over arrays, and the one outcome of a life."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np

from copo_envs.outcomes import ENDINGS, Outcome, outcome_of
from copo_envs.step_batch import NOW_FIELDS, StepBatch


def filled(batch: StepBatch) -> StepBatch:
    for number, field in enumerate(fields(batch)):
        getattr(batch, field.name)[...] = number + 1
    return batch


def test_one_outcome_by_precedence() -> None:
    for flags in itertools.product((False, True), repeat=4):
        outcome = outcome_of(
            **dict(zip(("success", "crash", "out_of_road", "max_step"), flags, strict=True))  # pyright: ignore
        )
        expected = next((e for e, holds in zip(ENDINGS, flags, strict=True) if holds), Outcome.RUNNING)
        assert outcome == expected
    assert outcome_of(success=True, crash=True, out_of_road=True, max_step=True) == Outcome.SUCCESS
    assert outcome_of(success=False, crash=True, out_of_road=True, max_step=False) == Outcome.CRASH
    assert [int(ending) for ending in ENDINGS] == [1, 2, 3, 4]


def test_zeros_are_empty_slots() -> None:
    batch = StepBatch.zeros(3, 5, lead=(2,))
    assert batch.obs.shape == (2, 3, 5) and batch.position.shape == (2, 3, 2) and batch.episode_over.shape == (2,)
    assert (batch.life == -1).all() and (batch.acted_life == -1).all() and not batch.active.any()


def test_a_buffer_holds_a_batch_and_overlaps_nothing() -> None:
    size = StepBatch.nbytes(7, 31)
    memory = bytearray(size)
    mine, yours = (StepBatch.from_buffer(memory, 7, 31) for _ in range(2))
    filled(mine)
    for number, field in enumerate(fields(yours)):
        values = getattr(yours, field.name)
        assert (values == values.dtype.type(number + 1)).all(), field.name
        assert values.dtype == getattr(StepBatch.zeros(7, 31), field.name).dtype


def test_clearing_one_half_leaves_the_other() -> None:
    batch, before = filled(StepBatch.zeros(2, 3)), filled(StepBatch.zeros(2, 3))
    batch.clear_now()
    for field in fields(batch):
        values = getattr(batch, field.name)
        if field.name == "life":
            assert (values == -1).all()
        elif field.name in NOW_FIELDS:
            assert not values.any()
        else:
            assert np.array_equal(values, getattr(before, field.name))
    batch = filled(StepBatch.zeros(2, 3))
    batch.clear_transition()
    assert (batch.acted_life == -1).all() and not batch.reward.any() and not batch.final_obs.any()
    for name in (*NOW_FIELDS, "episode_step", "episode_over"):
        assert np.array_equal(getattr(batch, name), getattr(before, name))


def test_rows_are_views_and_copies_are_not() -> None:
    batch = StepBatch.zeros(2, 3, lead=(4,))
    one = filled(StepBatch.zeros(2, 3))
    batch.row(1).copy_from(one)
    one.obs[...] = 0
    assert batch.obs[1].all() and not batch.obs[[0, 2, 3]].any()
    assert batch.episode_step.tolist()[0] == 0 and batch.episode_step[1] > 0

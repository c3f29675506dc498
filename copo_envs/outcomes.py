"""How a life ended: one enum, one precedence."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """How one vehicle's life ended.

    The codes are what `infos[agent]["outcome"]` and `StepBatch.outcome` carry. When several
    conditions hold in the same step the first of `SUCCESS`, `CRASH`, `OUT_OF_ROAD`, `MAX_STEP` counts.
    """

    RUNNING = 0
    SUCCESS = 1
    """Arrived at its destination."""
    CRASH = 2
    """Touched another vehicle, an object, a building or a person."""
    OUT_OF_ROAD = 3
    """Left its lanes, touched the sidewalk, or crossed a line that ends a life in its scene."""
    MAX_STEP = 4
    """None of the above within the horizon: truncated, not terminated."""


ENDINGS = (Outcome.SUCCESS, Outcome.CRASH, Outcome.OUT_OF_ROAD, Outcome.MAX_STEP)


def outcome_of(*, success: bool, crash: bool, out_of_road: bool, max_step: bool) -> Outcome:
    """The one outcome of a vehicle for which these conditions hold, by the stated precedence."""
    for outcome, holds in zip(ENDINGS, (success, crash, out_of_road, max_step), strict=True):
        if holds:
            return outcome
    return Outcome.RUNNING

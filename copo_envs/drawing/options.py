"""What a picture from above shows and how: plain values, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

COLOUR_BY = ("vehicle", "outcome", "speed", "lcf", "value")
MIN_SIZE = 200
MAX_SIZE = 4096
"""Pixels. The view that follows draws the ground six times as large in both directions, here in 2 GB."""
MIN_SPAN = 5.0
DEFAULT_SPAN = 60.0
MARKER_STEPS = 12
"""Env steps for which a ring shows how a life ended."""


class RenderError(ValueError):
    """A picture or a video that cannot be made. The message says why and what to do."""


@dataclass(frozen=True)
class RenderOptions:
    """Make it with `render_options`, which checks the values."""

    size: int = 640
    """Pixels of the picture's longest side, 200 to 4096."""
    colour_by: str = "vehicle"
    """What a vehicle's colour says: "vehicle" (its life's number), "outcome", "speed", "lcf", or "value", any number
    that the caller gives."""
    follow: str | None = None
    """Whom to look at: "agent_<life>", "slot_<number>", or "auto": the first vehicle and, when it has ended, the one
    that began last. None: the whole map."""
    span: float | None = None
    """Metres around the followed vehicle that are seen across the shorter side. None: 60, or enough for the
    neighbourhood."""
    neighbourhood: float | None = None
    """Radius in metres of a circle around the followed vehicle, or around every vehicle. None: no circle."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """The values at both ends of the colours of colour_by="value"."""
    value_name: str = "value"
    """What the legend calls them."""

    @property
    def view_span(self) -> float:
        """The span, or the default."""
        return self.span or max(DEFAULT_SPAN, 2.2 * (self.neighbourhood or 0.0))


def render_options(**options: Any) -> RenderOptions:
    """Checked options of a picture.

    Args:
        options: fields of `RenderOptions`.

    Raises:
        RenderError: an unknown option, or a value that cannot be. The message names what is allowed.
    """
    known = [field.name for field in fields(RenderOptions)]
    for name in options:
        if name not in known:
            raise RenderError(f"unknown render option {name!r}; options are {', '.join(known)}")
    made = RenderOptions(**options)
    if made.colour_by not in COLOUR_BY:
        raise RenderError(f"unknown colour_by {made.colour_by!r}; choose one of {', '.join(COLOUR_BY)}")
    if not _is_number(made.size) or made.size < MIN_SIZE:
        raise RenderError(f"size={made.size} pixels is too small to see anything; use {MIN_SIZE} or more")
    if made.size > MAX_SIZE:
        raise RenderError(f"size={made.size} pixels is too large to draw; use {MAX_SIZE} or less")
    if made.follow is not None and not re.fullmatch(r"auto|(agent|slot)_\d+", str(made.follow)):
        raise RenderError(f"unknown vehicle to follow {made.follow!r}; use auto, agent_<number> or slot_<number>")
    if made.span is not None:
        if made.follow is None:
            raise RenderError(f"span={made.span} says how much to see around a vehicle; give follow too")
        if not _is_number(made.span) or made.span < MIN_SPAN:
            raise RenderError(f"span={made.span} metres is no view; use {MIN_SPAN:g} or more")
    if made.neighbourhood is not None and not (_is_number(made.neighbourhood) and made.neighbourhood > 0):
        raise RenderError(f"neighbourhood={made.neighbourhood} is no radius; use a number of metres above 0")
    ends = made.value_range
    if not (isinstance(ends, Sequence) and len(ends) == 2 and all(map(_is_number, ends)) and ends[0] < ends[1]):
        raise RenderError(f"value_range={ends} is no range; use two numbers, the lower one first")
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)

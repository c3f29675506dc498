"""Pictures of a scene from above. Needs numpy and Pillow, no window and no simulator."""

from __future__ import annotations

from typing import Any

import numpy as np

from copo_envs.drawing import palette
from copo_envs.drawing.canvas import SUPERSAMPLE, Body
from copo_envs.drawing.follow import Follower
from copo_envs.drawing.ground import Ground
from copo_envs.drawing.legend import Legend
from copo_envs.drawing.options import (
    COLOUR_BY,
    MARKER_STEPS,
    MAX_SIZE,
    MIN_SIZE,
    RenderError,
    RenderOptions,
    render_options,
)
from copo_envs.drawing.palette import TOP_SPEED, vehicle_colours
from copo_envs.outcomes import Outcome
from copo_envs.step_batch import StepBatch
from copo_envs.video import check_video, write_gif, write_video

__all__ = [
    "COLOUR_BY",
    "MARKER_STEPS",
    "MAX_SIZE",
    "MIN_SIZE",
    "TOP_SPEED",
    "RenderError",
    "RenderOptions",
    "TopDownRenderer",
    "check_video",
    "render_options",
    "write_gif",
    "write_video",
]


class TopDownRenderer:
    """Draws a scene from above: x to the right, y up, the same number of metres to every pixel.

    Args:
        scenery: from `Simulator.scenery()`, after the first reset.
        size: pixels of the picture's longest side.
        colour_by: what a vehicle's colour says: "vehicle", "outcome", "speed", "lcf" or "value".
        options: the other fields of `RenderOptions`: follow, span, neighbourhood, value_range, value_name.

    Raises:
        RenderError: an unknown option, a value that cannot be, or a scenery without anything to see.
    """

    def __init__(self, scenery: dict[str, Any], size: int = 640, colour_by: str = "vehicle", **options: Any):
        self.options = render_options(size=size, colour_by=colour_by, **options)
        outlines = [*scenery["lanes"], *(line for line, _, _ in scenery["lines"]), *scenery["buildings"]]
        if not outlines:
            raise RenderError("the scenery has no lanes, lines or buildings: there is nothing to draw")
        self._follower = None if self.options.follow is None else Follower(self.options.follow)
        self._endings: dict[int, tuple[int, float, float, int]] = {}
        self._legend = Legend(self.options, traffic=bool(scenery.get("rule_based")))
        points = np.concatenate(outlines)
        self._low, self._high = points.min(axis=0), points.max(axis=0)
        length, width = scenery["vehicle_size"]
        margin = max(length, 0.02 * float((self._high - self._low).max()))
        span = self._high - self._low + 2 * margin if self._follower is None else np.full(2, self.options.view_span)
        self._lay_out(span)
        left = (self._low[0] + self._high[0]) / 2 - self._width / self._scale / 2
        self._ground = Ground(scenery, float(left), float(self._high[1] + margin), self._scale)
        self._corner = np.array([left, self._high[1] + margin])
        self._body = Body(length, width, SUPERSAMPLE * self._scale)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self._height + self._strip, self._width

    @property
    def followed(self) -> int | None:
        """Number of the life in the middle of the last picture; None where the whole map is seen."""
        return None if self._follower is None else self._follower.life

    def frame(
        self,
        batch: StepBatch,
        wrecks: np.ndarray,
        values: np.ndarray | None = None,
        caption: str = "",
        traffic: np.ndarray | None = None,
    ) -> np.ndarray:
        """The picture after a step.

        Args:
            batch: of one environment. Living vehicles are drawn; lives that ended in it, or in a batch this renderer
                was shown less than `MARKER_STEPS` before, get a ring.
            wrecks: (W, 3) x, y, heading, from `Simulator.wrecks()`.
            values: (N,) what colours the vehicle in each slot: LCF in [-1, 1], speed in m/s (default: the batch's
                velocity), the code of the `Outcome` that awaits it (default: 0, not known), or a number in
                `value_range`. NaN: not known.
            caption: text under the picture, with the name of the followed vehicle; cut where it does not fit.
            traffic: (V, 3) x, y, heading, from `Simulator.traffic()`: vehicles that a rule drives, in grey.

        Returns:
            (H, W, 3) uint8, H and W even.

        Raises:
            RenderError: values of another shape, none with colour_by "lcf" or "value", or no such slot to follow.
        """
        colours = vehicle_colours(self.options, batch, values)
        self.note(batch)
        column, row = self._view()
        margin = 0 if self._follower is None else self._height // 2
        canvas = self._ground.view(column, row, self._width, self._height, margin)
        slots = np.flatnonzero(batch.active)
        followed = [slot for slot in slots if self._follower is not None and batch.life[slot] == self._follower.life]
        if self.options.neighbourhood is not None:
            for slot in slots if self._follower is None else followed:
                x, y = batch.position[slot]
                canvas.circle(x, y, self.options.neighbourhood, self._follower is not None)
        for x, y, heading in np.asarray(wrecks, dtype=np.float64).reshape(-1, 3):
            self._body.draw_wreck(canvas, x, y, heading)
        for x, y, heading in [] if traffic is None else traffic:
            self._body.draw_vehicle(canvas, x, y, heading, palette.TRAFFIC, False)
        for slot in slots:
            x, y = batch.position[slot]
            self._body.draw_vehicle(canvas, x, y, batch.heading[slot], colours[slot], slot in followed)
        least = 1.1 * self._legend.em / canvas.scale  # small bodies get rings that can be seen all the same
        for step, x, y, outcome in self._endings.values():
            progress = (int(batch.episode_step) - step) / MARKER_STEPS
            self._body.draw_ending(canvas, x, y, outcome, progress, least)
        if self._follower is not None:
            caption = " · ".join(filter(None, (caption, self._follower.name)))
        strip = self._legend.draw(self._width, self._strip, caption)
        return np.concatenate([np.asarray(part.reduce(SUPERSAMPLE)) for part in (canvas.picture, strip)])

    def note(self, batch: StepBatch) -> None:
        """Remember what happened in a step that is not drawn itself, so that later frames can show it."""
        if self._follower is not None:
            self._follower.look(batch)
        now = int(batch.episode_step)
        for slot in np.flatnonzero(batch.acted & (batch.outcome != Outcome.RUNNING)):
            x, y = batch.acted_position[slot]
            self._endings[int(batch.acted_life[slot])] = (now, float(x), float(y), int(batch.outcome[slot]))
        # An ending in the future belongs to the episode before.
        self._endings = {life: end for life, end in self._endings.items() if 0 <= now - end[0] < MARKER_STEPS}

    def _lay_out(self, span: np.ndarray) -> None:
        """Scale and shape, in pixels as seen: the scene above, caption and legend in a strip below."""
        size = self.options.size
        follows = self._follower is not None
        rows = 1
        while True:  # the rows of text follow from the width, and the width from the rows
            strip = self._legend.height(rows)
            scale = min(size / span[0], (size - strip) / span[1])
            width = _even(size) if follows else min(max(_even(scale * span[0]), _even(0.6 * size)), _even(size))
            needed = self._legend.rows(width)
            if needed <= rows:
                break
            rows = needed
        height = _even(size) if follows else min(_even(scale * span[1] + strip), _even(size))
        self._scale, self._width, self._height, self._strip = float(scale), width, height - strip, strip

    def _view(self) -> tuple[int, int]:
        """Column and row of the upper left corner of what is seen."""
        if self._follower is None:
            return 0, 0
        middle = (self._low + self._high) / 2 if self._follower.place is None else self._follower.place
        x, y = (middle - self._corner) * (self._scale, -self._scale)
        return round(x - self._width / 2), round(y - self._height / 2)


def _even(pixels: float) -> int:
    """MP4 wants even sides."""
    return int(pixels) // 2 * 2

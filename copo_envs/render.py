"""Pictures of a scene from above. Needs numpy and Pillow, no window and no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from copo_envs.outcomes import ENDINGS, Outcome
from copo_envs.step_batch import StepBatch
from copo_envs.video import RenderError, check_video, write_gif, write_video

__all__ = ["COLOUR_BY", "RenderError", "TopDownRenderer", "check_video", "write_gif", "write_video"]

COLOUR_BY = ("vehicle", "outcome", "speed", "lcf")
MARKER_STEPS = 12
"""Env steps for which a ring shows how a life ended."""
TOP_SPEED = 20.0
"""m/s at the upper end of the speed colours; MetaDrive's vehicles reach 22."""
MIN_SIZE = 200

_BAR = 5.0  # length of the legend's colour bar, in heights of its text
_SUPERSAMPLE = 3  # drawn this many times larger and then reduced: Pillow's own polygons have jagged edges
_GROUND, _KERB, _ASPHALT = "#e9eee4", "#c4c9c0", "#4d525b"
_LINES = {"white": "#d6d9dd", "yellow": "#f0be46"}
_ROOF, _ROOF_EDGE = "#c4765c", "#804636"
_OUTLINE, _GLASS, _LAMP = "#262a31", "#28303c", "#fff6cd"
_WRECK, _CROSS = "#1d1f24", "#b0b4bc"
_TEXT, _NEUTRAL = "#343a42", "#e2e6eb"
_ENDING_COLOURS: dict[int, str] = {
    Outcome.SUCCESS: "#2ecc71",
    Outcome.CRASH: "#ef3a3a",
    Outcome.OUT_OF_ROAD: "#ff981f",
    Outcome.MAX_STEP: "#a082eb",
}
_ENDING_NAMES = dict(zip(ENDINGS, ("arrived", "crashed", "out of road", "out of time"), strict=True))
# Few enough for a GIF's palette and bright enough for asphalt. Neighbours in the list differ in hue, because vehicles
# with consecutive numbers often start side by side.
# fmt: off
_VEHICLES = ("#4fc3f7", "#ffd54f", "#f06292", "#81c784", "#b39ddb", "#ff8a65", "#4dd0e1",
             "#dce775", "#ba68c8", "#fff3e0", "#64b5f6", "#ffb74d", "#4db6ac", "#f48fb1")
# Levels rather than a continuum, again for the palette; bright throughout, because the road is dark.
_SPEEDS = ("#7c5ce7", "#5f83ec", "#46a6f0", "#52bfd2", "#78e0a0", "#a4e18c", "#d2e274", "#ffe260")
_LCFS = ("#f0623c", "#f38452", "#f4a571", "#f3c79a", "#f1e2d2", "#f0f0f0",
         "#cfe2f0", "#a3cff0", "#75b6f0", "#4b9cf0", "#2882f0")
# fmt: on


class TopDownRenderer:
    """Draws a scene from above: x to the right, y up, the same number of metres to every pixel.

    Args:
        scenery: from `Simulator.scenery()`, after the first reset.
        size: pixels of the picture's longest side.
        colour_by: what a vehicle's colour says: "vehicle" (its life's number), "outcome", "speed" or "lcf".

    Raises:
        RenderError: an unknown `colour_by`, a size too small to read, or a scenery without anything to see.
    """

    def __init__(self, scenery: dict[str, Any], size: int = 640, colour_by: str = "vehicle"):
        if colour_by not in COLOUR_BY:
            raise RenderError(f"unknown colour_by {colour_by!r}; choose one of {', '.join(COLOUR_BY)}")
        if size < MIN_SIZE:
            raise RenderError(f"size={size} pixels is too small to see anything; use {MIN_SIZE} or more")
        outlines = [*scenery["lanes"], *(line for line, _, _ in scenery["lines"]), *scenery["buildings"]]
        if not outlines:
            raise RenderError("the scenery has no lanes, lines or buildings: there is nothing to draw")
        self.colour_by = colour_by
        self._length, self._width = scenery["vehicle_size"]
        self._endings: dict[int, tuple[int, float, float, int]] = {}
        self._em = _SUPERSAMPLE * min(max(size / 40, 9.0), 13.0)
        self._font = ImageFont.load_default(size=self._em)
        self._legend = self._legend_items()
        self._lay_out(np.concatenate(outlines), size)
        self._background = self._draw_background(scenery)

    def frame(
        self, batch: StepBatch, wrecks: np.ndarray, values: np.ndarray | None = None, caption: str = ""
    ) -> np.ndarray:
        """The picture after a step.

        Args:
            batch: of one environment. Living vehicles are drawn; lives that ended in it, or in a batch this renderer
                was shown less than `MARKER_STEPS` before, get a ring.
            wrecks: (W, 3) x, y, heading, from `Simulator.wrecks()`.
            values: (N,) what colours the vehicle in each slot: LCF in [-1, 1], speed in m/s (default: the batch's
                velocity) or the code of the `Outcome` that awaits it (default: 0, not known).
            caption: text under the picture; cut where it does not fit.

        Returns:
            (H, W, 3) uint8, H and W even.

        Raises:
            RenderError: values of another shape, or none with colour_by="lcf".
        """
        colours = self._vehicle_colours(batch, values)
        self.note(batch)
        picture = self._background.copy()
        draw = ImageDraw.Draw(picture)
        for x, y, heading in np.asarray(wrecks, dtype=np.float64).reshape(-1, 3):
            self._draw_wreck(draw, x, y, heading)
        for slot in np.flatnonzero(batch.active):
            x, y = batch.position[slot]
            self._draw_vehicle(draw, x, y, batch.heading[slot], colours[slot])
        for step, x, y, outcome in self._endings.values():
            self._draw_ending(draw, x, y, outcome, age=int(batch.episode_step) - step)
        draw.text((self._em, self._caption_y), self._fitting(caption), _TEXT, self._font, anchor="lm")
        return np.asarray(picture.resize(self._shape, Image.Resampling.LANCZOS))

    def note(self, batch: StepBatch) -> None:
        """Remember the endings of a step that is not drawn itself, so that later frames can mark them."""
        now = int(batch.episode_step)
        for slot in np.flatnonzero(batch.acted & (batch.outcome != Outcome.RUNNING)):
            x, y = batch.acted_position[slot]
            self._endings[int(batch.acted_life[slot])] = (now, float(x), float(y), int(batch.outcome[slot]))
        # An ending in the future belongs to the episode before.
        self._endings = {life: end for life, end in self._endings.items() if 0 <= now - end[0] < MARKER_STEPS}

    def _vehicle_colours(self, batch: StepBatch, values: np.ndarray | None) -> list[str]:
        if values is None:
            if self.colour_by == "lcf":
                raise RenderError('colour_by="lcf" needs values: one LCF in [-1, 1] per slot')
            # A newborn stands still; the velocity in its slot is that of the life before it.
            moving = self.colour_by == "speed" and ~batch.spawned
            values = np.where(moving, batch.velocity, 0.0)
        if np.shape(values) != batch.active.shape:
            raise RenderError(f"values have shape {np.shape(values)}; one per slot is {batch.active.shape}")
        if self.colour_by == "vehicle":
            return [_VEHICLES[life % len(_VEHICLES)] for life in batch.life]
        if self.colour_by == "outcome":
            return [_ENDING_COLOURS.get(int(value), _NEUTRAL) for value in values]
        if self.colour_by == "speed":
            return [_level(_SPEEDS, value / TOP_SPEED) for value in values]
        return [_level(_LCFS, (value + 1) / 2) for value in values]

    # --- the still part: layout, ground, legend

    def _legend_items(self) -> list[tuple[Any, str, float]]:
        """(ending code, "wreck" or "bar"; its text; its width) of what the picture explains."""
        items: list[tuple[Any, str]] = [(ending, _ENDING_NAMES[ending]) for ending in ENDINGS]
        if self.colour_by == "outcome":
            items.insert(0, (Outcome.RUNNING, "not yet known"))
        items.append(("wreck", "wreck"))
        if self.colour_by in ("speed", "lcf"):
            items.append(("bar", f"0 to {TOP_SPEED:g} m/s" if self.colour_by == "speed" else "LCF -1 to 1"))
        icon = {"wreck": 1.9, "bar": _BAR}
        return [
            (kind, text, (icon.get(kind, 1.2) + 0.4) * self._em + self._font.getlength(text)) for kind, text in items
        ]

    def _lay_out(self, points: np.ndarray, size: int) -> None:
        """Scale, shape and legend places: the scene above, caption and legend in a strip below."""
        low, high = points.min(axis=0), points.max(axis=0)
        margin = max(self._length, 0.02 * float((high - low).max()))
        span_x, span_y = high - low + 2 * margin
        rows = 1
        while True:  # the rows of text follow from the width, and the width from the rows
            strip = round((1.6 * rows + 0.6) * self._em / _SUPERSAMPLE)
            scale = min(size / span_x, (size - strip) / span_y)
            width = min(max(_even(scale * span_x), _even(0.6 * size)), _even(size))
            places = self._place_legend(_SUPERSAMPLE * width)
            if max(row for row, _ in places) < rows:
                break
            rows += 1
        height = min(_even(scale * span_y + strip), _even(size))
        self._shape = (width, height)
        self._scale = _SUPERSAMPLE * scale
        self._left = (low[0] + high[0]) / 2 - width / scale / 2
        self._top = high[1] + margin
        self._strip = _SUPERSAMPLE * (height - strip)
        self._caption_y = self._strip + 1.1 * self._em
        self._places = [(self._strip + (1.1 + 1.6 * row) * self._em, x) for row, x in places]
        self._caption_room = (places[0][1] if places[0][0] == 0 else _SUPERSAMPLE * width) - 2 * self._em

    def _place_legend(self, width: float) -> list[tuple[int, float]]:
        """(row, left edge) of every item: beside the caption where both fit, else in rows of their own below it."""
        gap = self._em
        total = sum(item[2] + gap for item in self._legend)
        caption = 20 * self._em
        row, x = (0, width - total) if total + caption <= width else (1, gap)
        places = []
        for _, _, item_width in self._legend:
            if row > 0 and x > gap and x + item_width + gap > width:
                row, x = row + 1, gap
            places.append((row, x))
            x += item_width + gap
        return places

    def _draw_background(self, scenery: dict[str, Any]) -> Image.Image:
        picture = Image.new("RGB", (_SUPERSAMPLE * self._shape[0], _SUPERSAMPLE * self._shape[1]), _GROUND)
        draw = ImageDraw.Draw(picture)
        lanes = [self._to_pixels(lane) for lane in scenery["lanes"]]
        for lane in lanes:
            draw.line([*lane, lane[0], lane[1]], _KERB, round(1.8 * self._scale), "curve")
        for lane in lanes:
            draw.polygon(lane, _ASPHALT, _ASPHALT)
        thickness = max(round(0.22 * self._scale), 2)
        for line, colour, dashed in scenery["lines"]:
            for piece in _dashes(line) if dashed else [line]:
                draw.line(self._to_pixels(piece), _LINES[colour], thickness, "curve")
        for building in scenery["buildings"]:
            draw.polygon(self._to_pixels(building), _ROOF, _ROOF_EDGE, max(round(0.4 * self._scale), 2))
        for (kind, text, width), (y, x) in zip(self._legend, self._places, strict=True):
            self._draw_legend_item(draw, kind, x, y)
            draw.text((x + width, y), text, _TEXT, self._font, anchor="rm")
        return picture

    def _draw_legend_item(self, draw: ImageDraw.ImageDraw, kind: Any, x: float, y: float) -> None:
        em = self._em
        if kind == "wreck":
            box = (x, y - 0.45 * em, x + 1.9 * em, y + 0.45 * em)
            draw.rounded_rectangle(box, 0.2 * em, _WRECK)
            for sign in (-1, 1):
                ends = [(x + 0.35 * em, y - sign * 0.3 * em), (x + 1.55 * em, y + sign * 0.3 * em)]
                draw.line(ends, _CROSS, round(0.14 * em))
        elif kind == "bar":
            colours = _SPEEDS if self.colour_by == "speed" else _LCFS
            for index, colour in enumerate(colours):
                left, right = (x + _BAR * em * (index + end) / len(colours) for end in (0, 1))
                draw.rectangle((left, y - 0.4 * em, right, y + 0.4 * em), colour)
        else:
            box = (x, y - 0.6 * em, x + 1.2 * em, y + 0.6 * em)
            colour = _ENDING_COLOURS.get(kind, _NEUTRAL)
            fill = colour if self.colour_by == "outcome" else None
            draw.ellipse(
                box, fill, _OUTLINE if kind == Outcome.RUNNING else colour, round((0.1 if fill else 0.26) * em)
            )

    # --- the moving part

    def _draw_vehicle(self, draw: ImageDraw.ImageDraw, x: float, y: float, heading: float, colour: str) -> None:
        edge = max(round(0.12 * self._scale), 1)
        if self._length == self._width:
            draw.polygon(self._placed(_NOSE, x, y, heading), _LAMP)
            self._disc(draw, x, y, self._length / 2, colour, _OUTLINE, edge)
            return
        draw.polygon(self._placed(_BODY, x, y, heading), colour, _OUTLINE, edge)
        for part in _WINDOWS:
            draw.polygon(self._placed(part, x, y, heading), _GLASS)
        for part in _LAMPS:
            draw.polygon(self._placed(part, x, y, heading), _LAMP)

    def _draw_wreck(self, draw: ImageDraw.ImageDraw, x: float, y: float, heading: float) -> None:
        if self._length == self._width:
            self._disc(draw, x, y, self._length / 2, _WRECK, _WRECK, 1)
        else:
            draw.polygon(self._placed(_BODY, x, y, heading), _WRECK)
        thickness = max(round(0.16 * self._width * self._scale), 3)
        for sign in (-1, 1):
            ends = np.array([[-0.3, -0.3 * sign], [0.3, 0.3 * sign]])
            draw.line(self._placed(ends, x, y, heading), _CROSS, thickness)

    def _draw_ending(self, draw: ImageDraw.ImageDraw, x: float, y: float, outcome: int, age: int) -> None:
        """A ring that opens and thins out."""
        progress = age / MARKER_STEPS
        size = max(self._length, 1.1 * self._em / self._scale)  # small bodies get rings that can be seen all the same
        radius = size * (0.6 + 0.5 * progress)
        thickness = max(round((0.22 - 0.16 * progress) * size * self._scale), 2)
        self._disc(draw, x, y, radius, None, _ENDING_COLOURS[outcome], thickness)

    def _disc(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: str | None, edge: str, thickness: int
    ) -> None:
        (left, top), (right, bottom) = self._to_pixels(np.array([[x - radius, y + radius], [x + radius, y - radius]]))
        draw.ellipse((left, top, right, bottom), fill, edge, thickness)

    def _placed(self, part: np.ndarray, x: float, y: float, heading: float) -> list[tuple[float, float]]:
        """Pixels of a part of a vehicle, given in its lengths ahead and its widths to the left."""
        cos, sin = np.cos(heading), np.sin(heading)
        return self._to_pixels(part * (self._length, self._width) @ np.array([[cos, sin], [-sin, cos]]) + (x, y))

    def _to_pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        x, y = (points[:, 0] - self._left) * self._scale, (self._top - points[:, 1]) * self._scale
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def _fitting(self, text: str) -> str:
        if self._font.getlength(text) <= self._caption_room:
            return text
        while text and self._font.getlength(text + "...") > self._caption_room:
            text = text[:-1]
        return text.rstrip() + "..."


def _rounded(half_length: float, half_width: float, radius: tuple[float, float]) -> np.ndarray:
    """Corners of a box, each replaced by a quarter of an ellipse."""
    corners = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    points = []
    for quarter, (ahead, left) in enumerate(corners):
        for angle in np.linspace(quarter, quarter + 1, 5) * np.pi / 2:
            points.append(
                (
                    ahead * (half_length - radius[0]) + radius[0] * np.cos(angle),
                    left * (half_width - radius[1]) + radius[1] * np.sin(angle),
                )
            )
    return np.array(points)


# In lengths ahead and widths to the left of the middle. The large window is the windscreen: it tells front from back.
_BODY = _rounded(0.5, 0.5, (0.13, 0.28))
_WINDOWS = (
    np.array([[0.25, 0.40], [0.25, -0.40], [0.08, -0.32], [0.08, 0.32]]),
    np.array([[-0.30, 0.30], [-0.30, -0.30], [-0.37, -0.34], [-0.37, 0.34]]),
)
_NOSE = np.array([[1.0, 0.0], [0.2, 0.45], [0.2, -0.45]])
_LAMPS = tuple(np.array([[0.50, s * 0.18], [0.50, s * 0.36], [0.42, s * 0.40], [0.42, s * 0.18]]) for s in (-1, 1))


def _dashes(line: np.ndarray, dash: float = 3.0, gap: float = 4.5) -> list[np.ndarray]:
    """Pieces of a polyline, `dash` metres drawn and `gap` metres not."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    pieces = []
    for start in np.arange(0.0, along[-1], dash + gap):
        end = min(start + dash, along[-1])
        stops = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        pieces.append(np.stack([np.interp(stops, along, line[:, axis]) for axis in (0, 1)], axis=1))
    return pieces


def _level(colours: Sequence[str], share: float) -> str:
    return colours[min(max(int(share * len(colours)), 0), len(colours) - 1)]


def _even(pixels: float) -> int:
    """MP4 wants even sides."""
    return int(pixels) // 2 * 2

"""What stands still: the road, its lines and buildings, as a picture that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from copo_envs.drawing import palette
from copo_envs.drawing.canvas import SUPERSAMPLE, Canvas


class Ground:
    """Pictures of parts of a map.

    They lie on a grid of pixels, so that whatever stands still looks the same wherever the view begins. Column 0 and
    row 0 begin at `left` and `top` metres, x to the right and y down.

    Args:
        scenery: from `Simulator.scenery()`.
        left, top: metres.
        scale: pixels per metre, as seen.
    """

    def __init__(self, scenery: dict[str, Any], left: float, top: float, scale: float):
        self._left, self._top, self._scale = left, top, scale
        self._strokes = list(_strokes(scenery))
        self._boxes = np.array([(*points.min(axis=0), *points.max(axis=0)) for points, _ in self._strokes])
        self._picture: Image.Image | None = None
        self._box = (0, 0, 0, 0)  # columns and rows that the picture holds

    def view(self, column: int, row: int, width: int, height: int, margin: int = 0) -> Canvas:
        """A canvas of so many pixels, to draw on.

        Where the picture that is kept does not hold all of it, another is drawn, `margin` pixels larger on every side.
        """
        x0, y0, x1, y1 = self._box
        if self._picture is None or column < x0 or row < y0 or column + width > x1 or row + height > y1:
            self._box = (column - margin, row - margin, column + width + margin, row + height + margin)
            self._picture = self._draw(*self._box)
            x0, y0, x1, y1 = self._box
        left, top = SUPERSAMPLE * (column - x0), SUPERSAMPLE * (row - y0)
        part = self._picture.crop((left, top, left + SUPERSAMPLE * width, top + SUPERSAMPLE * height))
        return self._canvas(part, column, row)

    def _canvas(self, picture: Image.Image, column: int, row: int) -> Canvas:
        left, top = self._left + column / self._scale, self._top - row / self._scale
        return Canvas(picture, left, top, SUPERSAMPLE * self._scale)

    def _draw(self, x0: int, y0: int, x1: int, y1: int) -> Image.Image:
        picture = Image.new("RGB", (SUPERSAMPLE * (x1 - x0), SUPERSAMPLE * (y1 - y0)), palette.GROUND)
        canvas = self._canvas(picture, x0, y0)
        low = np.array([self._left + x0 / self._scale, self._top - y1 / self._scale]) - 3.0  # half a line's width
        high = np.array([self._left + x1 / self._scale, self._top - y0 / self._scale]) + 3.0
        near = ((self._boxes[:, :2] <= high) & (self._boxes[:, 2:] >= low)).all(axis=1)
        for stroke in np.flatnonzero(near):
            points, draw = self._strokes[stroke]
            draw(canvas, points)
        return picture


Stroke = tuple[np.ndarray, Callable[[Canvas, np.ndarray], None]]


def _strokes(scenery: dict[str, Any]) -> list[Stroke]:
    """What to draw, one after the other: (points (K, 2), how)."""

    def kerb(canvas: Canvas, points: np.ndarray) -> None:
        canvas.line(_closed(points), palette.KERB, 1.8)

    def lane(canvas: Canvas, points: np.ndarray) -> None:
        canvas.polygon(points, palette.ASPHALT)

    def line(colour: str) -> Callable[[Canvas, np.ndarray], None]:
        return lambda canvas, points: canvas.line(points, colour, 0.22)

    def building(canvas: Canvas, points: np.ndarray) -> None:
        canvas.polygon(points, palette.ROOF)
        canvas.line(_closed(points), palette.ROOF_EDGE, 0.4)

    strokes: list[Stroke] = [(points, kerb) for points in scenery["lanes"]]
    strokes += [(points, lane) for points in scenery["lanes"]]
    for points, colour, dashed in scenery["lines"]:
        strokes += [(piece, line(palette.LINES[colour])) for piece in (_dashes(points) if dashed else [points])]
    strokes += [(points, building) for points in scenery["buildings"]]
    return strokes


def _closed(points: np.ndarray) -> np.ndarray:
    """The line around a polygon, with its second point once more: so the first corner is rounded as well."""
    return np.concatenate([points, points[:2]])


def _dashes(line: np.ndarray, period: float = 7.5, share: float = 0.4) -> list[np.ndarray]:
    """Pieces of a polyline: a whole number of dashes of about `period` metres each, a `share` of it drawn.

    Half a gap stands at both ends, so that the dashes of one lane go on in the next.
    """
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    count = max(round(along[-1] / period), 1)
    pieces = []
    for number in range(count):
        start, end = ((number + 0.5 + side * share / 2) * along[-1] / count for side in (-1, 1))
        stops = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        pieces.append(np.stack([np.interp(stops, along, line[:, axis]) for axis in (0, 1)], axis=1))
    return pieces

"""Where metres become pixels, and what moves: vehicles, wrecks, rings and circles."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from copo_envs.drawing import palette

SUPERSAMPLE = 3
"""Everything is drawn this many times larger and then reduced: Pillow's own polygons have jagged edges."""


class Canvas:
    """A picture of a rectangle of the map.

    Args:
        picture: `SUPERSAMPLE` times larger than it will be seen.
        left, top: metres of its upper left corner.
        scale: its pixels per metre.
    """

    def __init__(self, picture: Image.Image, left: float, top: float, scale: float):
        self.picture, self.scale = picture, scale
        self.draw = ImageDraw.Draw(picture)
        self._corner = np.array([left, top])

    def pixels(self, points: np.ndarray) -> list[float]:
        """(K, 2) metres -> x, y, x, y, ..."""
        return ((points - self._corner) * (self.scale, -self.scale)).ravel().tolist()

    def polygon(self, points: np.ndarray, fill: str) -> None:
        """(K, 2) metres, and the line around it, one pixel wide."""
        self.draw.polygon(self.pixels(points), fill, fill)

    def line(self, points: np.ndarray, colour: str, width: float, least: int = 2) -> None:
        """(K, 2) and the width in metres, at least so many pixels."""
        self.draw.line(self.pixels(points), colour, max(round(width * self.scale), least), "curve")

    def disc(self, x: float, y: float, radius: float, fill: str | None, edge: str, thickness: int) -> None:
        """Metres; the thickness of its edge in pixels."""
        self.draw.ellipse(self._around(x, y, radius), fill, edge, thickness)

    def circle(self, x: float, y: float, radius: float, followed: bool) -> None:
        """The edge of a neighbourhood: that of the followed vehicle, or one of many."""
        colour = palette.NEIGHBOURHOOD if followed else palette.NEIGHBOURHOODS
        self.disc(x, y, radius, None, colour, round(1.8 * SUPERSAMPLE) if followed else SUPERSAMPLE)

    def _around(self, x: float, y: float, radius: float) -> list[float]:
        return self.pixels(np.array([[x - radius, y + radius], [x + radius, y - radius]]))


class Body:
    """How a vehicle of a size looks: a car from above, or a disc with a nose where length and width are equal."""

    def __init__(self, length: float, width: float, scale: float):
        self.length, self.width = length, width
        edge = max(0.12, 1 / scale)
        self._is_disc = length == width
        self._car = _parts(length, width, edge)
        self._followed = _parts(length, width, max(0.35, 1.4 * SUPERSAMPLE / scale))
        self._outline = _rounded(length, width)

    def draw_vehicle(
        self, canvas: Canvas, x: float, y: float, heading: float, colour: str, followed: bool = False
    ) -> None:
        """Metres and radians. The followed one has a white edge."""
        edge = palette.FOLLOWED if followed else palette.OUTLINE
        if self._is_disc:
            canvas.polygon(_placed(_NOSE * self.length, x, y, heading), palette.LAMP)
            thickness = max(round((0.25 if followed else 0.12) * canvas.scale), 1)
            canvas.disc(x, y, self.length / 2, colour, edge, thickness)
            return
        points, parts = self._followed if followed else self._car
        placed = canvas.pixels(_placed(points, x, y, heading))
        for first, last, fill in parts:
            fill = {"edge": edge, "body": colour}.get(fill, fill)
            canvas.draw.polygon(placed[2 * first : 2 * last], fill, fill)

    def draw_wreck(self, canvas: Canvas, x: float, y: float, heading: float) -> None:
        """A dark body with a cross."""
        if self._is_disc:
            canvas.disc(x, y, self.length / 2, palette.WRECK, palette.WRECK, 1)
        else:
            canvas.polygon(_placed(self._outline, x, y, heading), palette.WRECK)
        for sign in (-1, 1):
            ends = np.array([[-0.3, -0.3 * sign], [0.3, 0.3 * sign]]) * (self.length, self.width)
            canvas.line(_placed(ends, x, y, heading), palette.CROSS, 0.16 * self.width, 3)

    def draw_ending(self, canvas: Canvas, x: float, y: float, outcome: int, progress: float, least: float) -> None:
        """A ring that opens and thins out as `progress` goes from 0 to 1; at least so many metres large."""
        size = max(self.length, least)
        thickness = (1 - 0.73 * progress) * min(0.22 * size * canvas.scale, 4.5 * SUPERSAMPLE)
        canvas.disc(x, y, size * (0.6 + 0.5 * progress), None, palette.ENDINGS[outcome], max(round(thickness), 2))


def _placed(points: np.ndarray, x: float, y: float, heading: float) -> np.ndarray:
    """(K, 2) metres ahead and to the left -> on the map."""
    cos, sin = np.cos(heading), np.sin(heading)
    return points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def _rounded(length: float, width: float) -> np.ndarray:
    """Corners of a box, each replaced by a quarter of an ellipse."""
    radius_ahead, radius_left = 0.13 * length, 0.28 * width
    points = []
    for quarter, (ahead, left) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        for angle in np.linspace(quarter, quarter + 1, 5) * np.pi / 2:
            points.append(
                (
                    ahead * (length / 2 - radius_ahead) + radius_ahead * np.cos(angle),
                    left * (width / 2 - radius_left) + radius_left * np.sin(angle),
                )
            )
    return np.array(points)


_NOSE = np.array([[1.0, 0.0], [0.2, 0.45], [0.2, -0.45]])

# In lengths ahead and widths to the left of the middle. The large window is the windscreen: with the lamps it tells
# front from back.
_GLASS = (
    np.array([[0.25, 0.40], [0.25, -0.40], [0.08, -0.32], [0.08, 0.32]]),
    np.array([[-0.30, 0.30], [-0.30, -0.30], [-0.37, -0.34], [-0.37, 0.34]]),
)
_SIDE = np.array([[0.18, 0.43], [0.04, 0.37], [-0.26, 0.37], [-0.30, 0.43]])
_LAMP = np.array([[0.50, 0.18], [0.50, 0.36], [0.42, 0.40], [0.42, 0.18]])
_TAIL_LAMP = np.array([[-0.50, 0.20], [-0.49, 0.37], [-0.44, 0.40], [-0.44, 0.20]])


def _parts(length: float, width: float, edge: float) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """Points of all parts of a car, and (first, last, colour) of each part in the order in which they are drawn."""
    shapes = [(_rounded(length + 2 * edge, width + 2 * edge), "edge"), (_rounded(length, width), "body")]
    for part, colour in (
        *((part, palette.GLASS) for part in (*_GLASS, _SIDE, _SIDE * (1, -1))),
        *((_LAMP * (1, side), palette.LAMP) for side in (1, -1)),
        *((_TAIL_LAMP * (1, side), palette.TAIL_LAMP) for side in (1, -1)),
    ):
        shapes.append((part * (length, width), colour))
    ends = np.cumsum([len(points) for points, _ in shapes]).tolist()
    slices = list(zip([0, *ends[:-1]], ends, (colour for _, colour in shapes), strict=True))
    return np.concatenate([points for points, _ in shapes]), slices

"""The strip under the picture: a caption, and what colours and marks mean."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from copo_envs.drawing import palette
from copo_envs.drawing.canvas import SUPERSAMPLE
from copo_envs.drawing.options import RenderOptions
from copo_envs.outcomes import ENDINGS, Outcome

_NAMES = dict(zip(ENDINGS, ("arrived", "crashed", "out of road", "out of time"), strict=True))
_BAR = 5.0
_ICON_WIDTHS = {"wreck": 1.9, "traffic": 1.9, "bar": _BAR}
"""In heights of the text; 1.2 for all others."""


class Legend:
    """Lays out and draws the strip. Lengths are pixels of the enlarged picture."""

    def __init__(self, options: RenderOptions, traffic: bool = False):
        self.em = SUPERSAMPLE * min(max(options.size / 40, 9.0), 13.0)
        """Height of the text."""
        self._font = ImageFont.load_default(size=self.em)
        self._options, self._traffic = options, traffic
        self._scale = palette.value_scale(options)
        self._items = self._explained()
        self._strip: Image.Image | None = None
        self._caption_room = 0.0

    def rows(self, width: int) -> int:
        """Rows of text that it needs at so many pixels as seen, the caption's included."""
        return 1 + max(row for row, _ in self._places(SUPERSAMPLE * width))

    def height(self, rows: int) -> int:
        """Pixels of the strip, as seen."""
        return round((1.6 * rows + 0.6) * self.em / SUPERSAMPLE)

    def draw(self, width: int, height: int, caption: str) -> Image.Image:
        """The strip of so many pixels as seen, enlarged; a caption that does not fit is cut."""
        if self._strip is None:
            self._strip = self._draw_strip(SUPERSAMPLE * width, SUPERSAMPLE * height)
        if not caption:
            return self._strip
        strip = self._strip.copy()
        place = (self.em, 1.1 * self.em)
        ImageDraw.Draw(strip).text(place, self._fitting(caption), palette.TEXT, self._font, anchor="lm")
        return strip

    def _explained(self) -> list[tuple[Any, str, float]]:
        """(ending code, "wreck", "traffic", "circle" or "bar"; its text; its width) of what the picture explains."""
        items: list[tuple[Any, str]] = [(ending, _NAMES[ending]) for ending in ENDINGS]
        if self._options.colour_by == "outcome":
            items.insert(0, (Outcome.RUNNING, "not yet known"))
        items.append(("wreck", "wreck"))
        if self._traffic:
            items.append(("traffic", "rule-based"))
        if self._options.neighbourhood is not None:
            items.append(("circle", f"within {self._options.neighbourhood:g} m"))
        if self._scale is not None:
            items.append(("bar", self._scale[2]))
        return [
            (kind, text, (_ICON_WIDTHS.get(kind, 1.2) + 0.4) * self.em + self._font.getlength(text))
            for kind, text in items
        ]

    def _places(self, width: float) -> list[tuple[int, float]]:
        """(row, left edge) of every item: beside the caption where both fit, else in rows of their own below it."""
        gap = self.em
        total = sum(item[2] + gap for item in self._items)
        caption = 20 * self.em
        row, x = (0, width - total) if total + caption <= width else (1, gap)
        places = []
        for _, _, item_width in self._items:
            if row > 0 and x > gap and x + item_width + gap > width:
                row, x = row + 1, gap
            places.append((row, x))
            x += item_width + gap
        return places

    def _draw_strip(self, width: int, height: int) -> Image.Image:
        strip = Image.new("RGB", (width, height), palette.GROUND)
        draw = ImageDraw.Draw(strip)
        places = self._places(width)
        for (kind, text, item_width), (row, x) in zip(self._items, places, strict=True):
            y = (1.1 + 1.6 * row) * self.em
            self._draw_icon(draw, kind, x, y)
            draw.text((x + item_width, y), text, palette.TEXT, self._font, anchor="rm")
        self._caption_room = (places[0][1] if places[0][0] == 0 else width) - 2 * self.em
        return strip

    def _draw_icon(self, draw: ImageDraw.ImageDraw, kind: Any, x: float, y: float) -> None:
        em = self.em
        circle = (x, y - 0.6 * em, x + 1.2 * em, y + 0.6 * em)
        car = (x, y - 0.45 * em, x + 1.9 * em, y + 0.45 * em)
        if kind == "traffic":
            draw.rounded_rectangle(car, 0.2 * em, palette.TRAFFIC)
        elif kind == "wreck":
            draw.rounded_rectangle(car, 0.2 * em, palette.WRECK)
            for sign in (-1, 1):
                ends = [(x + 0.35 * em, y - sign * 0.3 * em), (x + 1.55 * em, y + sign * 0.3 * em)]
                draw.line(ends, palette.CROSS, round(0.14 * em))
        elif kind == "bar":
            assert self._scale is not None
            colours = self._scale[0]
            for index, colour in enumerate(colours):
                left, right = (x + _BAR * em * (index + end) / len(colours) for end in (0, 1))
                draw.rectangle((left, y - 0.4 * em, right, y + 0.4 * em), colour)
        elif kind == "circle":
            draw.ellipse(circle, None, palette.NEIGHBOURHOOD, round(0.14 * em))
        else:
            colour = palette.ENDINGS.get(kind, palette.NEUTRAL)
            fill = colour if self._options.colour_by == "outcome" else None
            edge = palette.OUTLINE if kind == Outcome.RUNNING else colour
            draw.ellipse(circle, fill, edge, round((0.1 if fill else 0.26) * em))

    def _fitting(self, text: str) -> str:
        if self._font.getlength(text) <= self._caption_room:
            return text
        while text and self._font.getlength(text + "...") > self._caption_room:
            text = text[:-1]
        return text.rstrip() + "..."

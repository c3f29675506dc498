"""What colours there are, and which vehicle gets which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from copo_envs.drawing.options import RenderError, RenderOptions
from copo_envs.outcomes import Outcome
from copo_envs.step_batch import StepBatch

TOP_SPEED = 20.0
"""m/s at the upper end of the speed colours; MetaDrive's vehicles reach 22."""

GROUND, KERB, ASPHALT = "#e9eee4", "#c4c9c0", "#4d525b"
LINES = {"white": "#d6d9dd", "yellow": "#f0be46"}
ROOF, ROOF_EDGE = "#c4765c", "#804636"
OUTLINE, FOLLOWED, GLASS, LAMP, TAIL_LAMP = "#22252b", "#ffffff", "#28303c", "#fff6cd", "#d93a3a"
WRECK, CROSS = "#1d1f24", "#b0b4bc"
TEXT, NEUTRAL = "#343a42", "#e2e6eb"
TRAFFIC = "#949ba5"
NEIGHBOURHOOD, NEIGHBOURHOODS = "#408ceb", "#8db4e6"
ENDINGS: dict[int, str] = {
    Outcome.SUCCESS: "#2ecc71",
    Outcome.CRASH: "#ef3a3a",
    Outcome.OUT_OF_ROAD: "#ff981f",
    Outcome.MAX_STEP: "#a082eb",
}
# Few enough for a GIF's palette and bright enough for asphalt. Neighbours in the list differ in hue, because vehicles
# with consecutive numbers often start side by side.
# fmt: off
VEHICLES = ("#4fc3f7", "#ffd54f", "#f06292", "#81c784", "#b39ddb", "#ff8a65", "#4dd0e1",
            "#dce775", "#ba68c8", "#fff3e0", "#64b5f6", "#ffb74d", "#4db6ac", "#f48fb1")
# Levels rather than a continuum, again for the palette; bright throughout, because the road is dark.
VALUES = ("#7c5ce7", "#5f83ec", "#46a6f0", "#52bfd2", "#78e0a0", "#a4e18c", "#d2e274", "#ffe260")
LCFS = ("#f0623c", "#f38452", "#f4a571", "#f3c79a", "#f1e2d2", "#f0f0f0",
        "#cfe2f0", "#a3cff0", "#75b6f0", "#4b9cf0", "#2882f0")
# fmt: on


def value_scale(options: RenderOptions) -> tuple[Sequence[str], tuple[float, float], str] | None:
    """Colours from low to high, the values at both ends, and their name; None where colours stand for no number."""
    if options.colour_by == "speed":
        return VALUES, (0.0, TOP_SPEED), f"0 to {TOP_SPEED:g} m/s"
    if options.colour_by == "lcf":
        return LCFS, (-1.0, 1.0), "LCF -1 to 1"
    if options.colour_by == "value":
        low, high = options.value_range
        return VALUES, options.value_range, f"{options.value_name} {low:g} to {high:g}"
    return None


def vehicle_colours(options: RenderOptions, batch: StepBatch, values: np.ndarray | None) -> list[str]:
    """The colour of the vehicle in each slot.

    Raises:
        RenderError: values of another shape than (N,), or none where the colours stand for them.
    """
    if values is None:
        if options.colour_by in ("lcf", "value"):
            what = "LCF in [-1, 1]" if options.colour_by == "lcf" else f"number ({options.value_name})"
            raise RenderError(f'colour_by="{options.colour_by}" needs values: one {what} per slot')
        # A newborn stands still; the velocity in its slot is that of the life before it.
        moving = (options.colour_by == "speed") & ~batch.spawned
        values = np.where(moving, batch.velocity, 0.0)
    if np.shape(values) != batch.active.shape:
        raise RenderError(f"values have shape {np.shape(values)}; one per slot is {batch.active.shape}")
    if options.colour_by == "vehicle":
        return [VEHICLES[life % len(VEHICLES)] for life in batch.life]
    scale = value_scale(options)
    if scale is None:
        return [ENDINGS.get(int(value), NEUTRAL) for value in values]
    colours, (low, high), _ = scale
    return [_level(colours, (value - low) / (high - low)) for value in np.asarray(values, dtype=np.float64)]


def _level(colours: Sequence[str], share: float) -> str:
    if not np.isfinite(share):  # unknown, not low
        return NEUTRAL
    return colours[min(max(int(share * len(colours)), 0), len(colours) - 1)]

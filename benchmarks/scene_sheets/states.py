"""What the formulas of the sheets are functions of: one vehicle or disc at one moment, in plain geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from metadrive.component.pgblock.tollgate import TollGate


@dataclass(frozen=True)
class VehicleState:
    """A vehicle of MetaDrive after a step, and the little that only the step before knows."""

    vehicle: Any
    """MetaDrive's vehicle."""
    action: Sequence[float]
    """Steering and throttle just applied; zeros for a newborn."""
    position_before: np.ndarray
    """(2,) metres, before the step."""
    heading_before: float
    """Radians, before the step."""

    @property
    def position(self) -> np.ndarray:
        """(2,) metres."""
        return np.array(self.vehicle.position, float)

    @property
    def heading(self) -> float:
        """Radians, counter-clockwise from the x axis."""
        return float(self.vehicle.heading_theta)

    @property
    def km_h(self) -> float:
        """Speed over the ground."""
        velocity = self.vehicle.body.getLinearVelocity()
        return 3.6 * math.hypot(velocity[0], velocity[1])

    @property
    def lane(self) -> Any:
        """The lane that it is on."""
        return self.vehicle.navigation.current_lane

    @property
    def road(self) -> list[Any]:
        """Lanes of the road that it should be on, from left to right."""
        return self.vehicle.navigation.current_ref_lanes

    @property
    def next_road(self) -> list[Any]:
        """Lanes of the one after it; on the last road that one again."""
        return self.vehicle.navigation.next_ref_lanes or self.road

    @property
    def road_width(self) -> float:
        """Metres."""
        return len(self.road) * self.lane.width

    @property
    def on_toll_road(self) -> bool:
        """The road that it should be on is the one with the toll booths."""
        return self.vehicle.navigation.current_road.block_ID() == TollGate.ID

    def right_of(self, lane: Any) -> tuple[float, float]:
        """Metres to the right of a lane's centre line, and the lane's direction there in radians."""
        along, _ = lane.local_coordinates(self.position)
        direction = lane.heading_theta_at(along)
        off = self.position - np.array(lane.position(along, 0.0), float)
        return float(off @ (math.sin(direction), -math.cos(direction))), direction

    def in_own_frame(self, way: np.ndarray) -> tuple[float, float]:
        """A vector (2,) as metres ahead and to the left."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return float(way @ (cos, sin)), float(way @ (-sin, cos))


@dataclass(frozen=True)
class DiscState:
    """A disc of `particles` after a step."""

    position: np.ndarray
    """(2,) metres."""
    heading: float
    """Radians."""
    speed: float
    """m/s."""
    goal: np.ndarray
    """(2,) metres."""
    others: np.ndarray
    """(M, 2) metres, the other discs and wrecks."""

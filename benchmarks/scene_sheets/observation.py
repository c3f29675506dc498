"""What a vehicle observes, entry by entry: the tables of the sheets, and formulas that a test computes.

An entry has its formula twice, as text for the page and as a function of the state; the constants in both are
MetaDrive's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from metadrive.component.lane.circular_lane import CircularLane
from metadrive.component.map.pg_map import PGMap
from metadrive.component.navigation_module.node_network_navigation import NodeNetworkNavigation
from metadrive.component.pg_space import BlockParameterSpace, Parameter, VehicleParameterSpace
from metadrive.component.vehicle.vehicle_type import StaticDefaultVehicle

from benchmarks.scene_sheets.metadrive_config import metadrive_config
from benchmarks.scene_sheets.states import DiscState, VehicleState
from copo_envs import particles
from copo_envs.scenes import get_scene

VEHICLE: Any = VehicleParameterSpace.STATIC_DEFAULT_VEHICLE
_curve: Any = BlockParameterSpace.CURVE
TOP_SPEED = VEHICLE["max_speed_km_h"].value
LANE_SCALE = PGMap.MAX_LANE_WIDTH  # metres
ROAD_SCALE = (PGMap.MAX_LANE_NUM + 1) * PGMap.MAX_LANE_WIDTH  # metres
STEERING_SCALE = StaticDefaultVehicle.MAX_STEERING
REACH = NodeNetworkNavigation.NAVI_POINT_DIST  # metres
UPDATE_RANGE = NodeNetworkNavigation.CKPT_UPDATE_RANGE  # metres
STEP_S = 0.1
BEND_RADIUS, BEND_ANGLE = _curve[Parameter.radius].max, _curve[Parameter.angle].max  # metres, degrees


@dataclass(frozen=True)
class Rays:
    """Rays from the vehicle's centre, equally spaced, counter-clockwise."""

    first: float
    """Degrees from the heading to the first one, counter-clockwise."""
    reach: float
    """Metres."""
    sees: str
    """A key of `SEES`."""


@dataclass(frozen=True)
class Entry:
    """One quantity in the observation, or several of a kind."""

    name: str
    meaning: str
    formula: str
    value: Callable[[Any], float | list[float]] | None = None
    """The entry as a function of a `VehicleState` or a `DiscState`. None: rays, and what only a test by steps sees."""
    low: float = 0.0
    high: float = 1.0
    size: int = 1
    rays: Rays | None = None


def layout(scene: str) -> list[tuple[slice, Entry]]:
    """Where each entry of a scene's observation is."""
    placed, at = [], 0
    for entry in _particles() if scene == "particles" else _metadrive(scene):
        placed.append((slice(at, at + entry.size), entry))
        at += entry.size
    assert at == get_scene(scene).obs_size
    return placed


def _metadrive(scene: str) -> list[Entry]:
    vehicle, toll = metadrive_config(scene)["vehicle_config"], scene == "tollgate"
    entries = [_fan("side", vehicle["side_detector"], 90, "solid")] if _has(vehicle["side_detector"]) else _borders()
    entries += _ego()
    entries.append(
        _fan("lane_lines", vehicle["lane_line_detector"], 90, "lines")
        if _has(vehicle["lane_line_detector"])
        else _lane_offset()
    )
    if not toll:
        entries += [*_checkpoint(1, "its road"), *_checkpoint(2, "the road after it")]
    entries.append(_fan("lidar", vehicle["lidar"], 0, "bodies and booths" if toll else "bodies"))
    if toll:
        enough = vehicle["min_pass_steps"]
        entries += [
            Entry("on_toll_road", "its road is the toll road", "1 if so, else 0", _on_toll_road),
            Entry(
                "stayed_long_enough",
                "whether its steps on the toll road are enough, by a counter that [vehicles share](#kept-as-it-was)",
                f"1 on the toll road while the counter is above {enough}, else 0",
            ),
        ]
    return entries


def _has(detector: Any) -> bool:
    return detector["num_lasers"] > 0


SEES = {
    "bodies": "vehicle or wreck",
    "bodies and booths": "vehicle, wreck or toll booth",
    "solid": "continuous lane line",
    "lines": "lane line, broken or continuous",
}
SIDES = {0: "ahead", 90: "to the left", 180: "behind", 270: "to the right"}


def _fan(name: str, detector: Any, first: int, sees: str) -> Entry:
    count, reach = detector["num_lasers"], detector["distance"]
    turn = 360 / count
    sides = ", ".join(
        f"{round((angle - first) % 360 / turn)} {side}"
        for angle, side in sorted(SIDES.items(), key=lambda pair: (pair[0] - first) % 360)
    )
    return Entry(
        name,
        f"{count} rays from its centre, one every {turn:g} degrees counter-clockwise: {sides}. "
        f"Metres to the nearest {SEES[sees]}",
        f"metres / {reach:g}; 1 where there is none so near",
        size=count,
        rays=Rays(first, reach, sees),
    )


def _borders() -> list[Entry]:
    def border(side: str, metres: Callable[[VehicleState], float]) -> Entry:
        return Entry(
            f"{side}_border",
            f"metres from its centre to the {side} border of its road",
            f"metres / {ROAD_SCALE:g}, cut to [0, 1]",
            lambda state: _cut(metres(state) / ROAD_SCALE),
        )

    def left(state: VehicleState) -> float:
        return state.right_of(state.road[0])[0] + state.lane.width / 2

    return [border("left", left), border("right", lambda state: state.road_width - left(state))]


def _ego() -> list[Entry]:
    def heading(state: VehicleState) -> float:
        return (1 - math.sin(state.heading - state.right_of(state.road[-1])[1])) / 2

    def yaw_rate(state: VehicleState) -> float:
        turned = abs(math.remainder(state.heading - state.heading_before, 2 * math.pi))
        return _cut(turned / STEP_S)

    steering = 1 / STEERING_SCALE / 2
    return [
        Entry(
            "heading",
            "angle from the direction of its road (there, of the rightmost lane) to its heading, counter-clockwise",
            "(1 - sin(angle)) / 2: 0.5 along the road or against it, less when turned to the left",
            heading,
        ),
        Entry(
            "speed",
            "km/h",
            f"(km/h + 1) / {TOP_SPEED + 1:g}, cut to 1",
            lambda state: _cut((state.km_h + 1) / (TOP_SPEED + 1)),
            low=1 / (TOP_SPEED + 1),
        ),
        Entry(
            "steering",
            f"the last steering again: MetaDrive divides the action by {STEERING_SCALE}, as if it were degrees",
            f"(steering / {STEERING_SCALE} + 1) / 2",
            lambda state: (state.action[0] / STEERING_SCALE + 1) / 2,
            low=0.5 - steering,
            high=0.5 + steering,
        ),
        Entry("last_steering", "action just applied", "(steering + 1) / 2", lambda state: (state.action[0] + 1) / 2),
        Entry("last_throttle", "action just applied", "(throttle + 1) / 2", lambda state: (state.action[1] + 1) / 2),
        Entry("yaw_rate", "rad/s in this step, without its sign", "rad/s, cut to 1", yaw_rate),
    ]


def _lane_offset() -> Entry:
    return Entry(
        "lane_offset",
        "metres to the right of the centre line of its lane",
        f"(2 * metres / {LANE_SCALE:g} + 1) / 2, cut to [0, 1]",
        lambda state: _cut((2 * state.right_of(state.lane)[0] / LANE_SCALE + 1) / 2),
    )


def _checkpoint(number: int, which: str) -> list[Entry]:
    def lane(state: VehicleState) -> Any:
        return (state.road, state.next_road)[number - 1][0]

    def way(state: VehicleState) -> tuple[float, float]:
        # MetaDrive looks for the middle of the next road as if it were as wide as this one.
        middle = (state.road_width - state.lane.width) / 2
        vector = np.array(lane(state).position(lane(state).length, middle), float) - state.position
        return state.in_own_frame(vector * min(1.0, REACH / np.hypot(*vector)))

    def bend_radius(state: VehicleState) -> float:
        bend = lane(state)
        return _cut(bend.radius / (BEND_RADIUS + state.road_width)) if isinstance(bend, CircularLane) else 0.0

    def bend_turn(state: VehicleState) -> float:
        bend = lane(state)
        return float(bend.is_clockwise()) if isinstance(bend, CircularLane) else 0.5

    def bend_angle(state: VehicleState) -> float:
        bend = lane(state)
        degrees = math.degrees(bend.length / bend.radius) if isinstance(bend, CircularLane) else 0.0
        return _cut((degrees / BEND_ANGLE + 1) / 2)

    name = f"checkpoint_{number}"
    return [
        Entry(
            f"{name}_ahead",
            f"metres ahead to the end of {which}, in the middle; the way there is cut to {REACH} m",
            f"(metres / {REACH} + 1) / 2",
            lambda state: _cut((way(state)[0] / REACH + 1) / 2),
        ),
        Entry(
            f"{name}_left",
            "metres to the left, likewise",
            f"(metres / {REACH} + 1) / 2",
            lambda state: _cut((way(state)[1] / REACH + 1) / 2),
        ),
        Entry(
            f"{name}_bend_radius",
            "metres, radius of the leftmost lane of that road",
            f"metres / ({BEND_RADIUS:g} + width of its road), cut to 1; 0 where straight",
            bend_radius,
        ),
        Entry(f"{name}_bend_turn", "which way that road bends", "1 right, 0 left, 0.5 straight", bend_turn),
        Entry(
            f"{name}_bend_angle",
            "degrees by which that road bends, without their sign",
            f"(degrees / {BEND_ANGLE:g} + 1) / 2, cut to 1; 0.5 where straight",
            bend_angle,
            low=0.5,
        ),
    ]


def _on_toll_road(state: VehicleState) -> float:
    return float(state.on_toll_road)


def _particles() -> list[Entry]:
    side, reach = 2 * particles.HALF_SIDE, particles.SENSOR_RANGE
    diagonal = math.sqrt(2) * side

    def bearing(state: DiscState) -> float:
        way = state.goal - state.position
        return math.atan2(way[1], way[0]) - state.heading

    def to_wall(quarter_turns: int) -> Callable[[DiscState], float]:
        def value(state: DiscState) -> float:
            angle = state.heading + quarter_turns * math.pi / 2
            walls = []
            for place, step in zip(state.position, (math.cos(angle), math.sin(angle)), strict=True):
                if abs(step) > 1e-9:
                    walls.append((math.copysign(particles.HALF_SIDE, step) - place) / step)
            return _cut(min(walls) / side)

        return value

    def gaps(state: DiscState) -> list[float]:
        nearest = [1.0] * particles.NUM_SECTORS
        for way in state.others - state.position:
            angle = math.atan2(way[1], way[0]) - state.heading
            sector = round(angle / (2 * math.pi) * particles.NUM_SECTORS) % particles.NUM_SECTORS
            nearest[sector] = min(nearest[sector], _cut((math.hypot(*way) - 2 * particles.RADIUS) / reach))
        return nearest

    turn = 360 / particles.NUM_SECTORS
    return [
        Entry("speed", "m/s", f"m/s / {particles.MAX_SPEED:g}", lambda state: state.speed / particles.MAX_SPEED),
        Entry(
            "goal_sine",
            "angle from its heading to its goal, counter-clockwise",
            "(sin(angle) + 1) / 2: more than 0.5 when the goal is to the left",
            lambda state: (math.sin(bearing(state)) + 1) / 2,
        ),
        Entry(
            "goal_cosine",
            "the same angle",
            "(cos(angle) + 1) / 2: 1 when the goal is straight ahead",
            lambda state: (math.cos(bearing(state)) + 1) / 2,
        ),
        Entry(
            "goal_distance",
            "metres to its goal",
            f"metres / {diagonal:.2f}, the diagonal",
            lambda state: math.hypot(*(state.goal - state.position)) / diagonal,
        ),
        *(
            Entry(
                f"wall_{name}",
                f"metres to the side of the square, {where}",
                f"metres / {side:g}, cut to [0, 1]",
                to_wall(quarter_turns),
            )
            for quarter_turns, (name, where) in enumerate(
                (("ahead", "straight ahead"), ("left", "to the left"), ("behind", "behind"), ("right", "to the right"))
            )
        ),
        Entry(
            "gaps",
            f"one sector every {turn:g} degrees, counter-clockwise, the first one centred ahead: metres between its "
            "rim and that of the nearest disc or wreck whose centre is in the sector",
            f"metres / {reach:g}; 1 where there is none so near",
            gaps,
            size=particles.NUM_SECTORS,
        ),
    ]


def _cut(value: float) -> float:
    return min(max(value, 0.0), 1.0)

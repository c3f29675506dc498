"""Rewards, endings and actions of MetaDrive's scenes: the tables of the sheets, and formulas that a test computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from metadrive.component.pgblock.tollgate import TollGate
from metadrive.component.road_network import Road
from metadrive.component.vehicle.vehicle_type import StaticDefaultVehicle

from benchmarks.scene_sheets.metadrive_config import metadrive_config
from benchmarks.scene_sheets.observation import TOP_SPEED, VEHICLE
from benchmarks.scene_sheets.states import VehicleState


class Edges(NamedTuple):
    """What is out of the road in a scene, besides the sidewalk."""

    lanes: bool
    """Its centre is on no lane."""
    yellow: bool
    """It touches a continuous yellow line."""
    white: bool
    """It touches a continuous white one."""


EDGES = {
    "roundabout": Edges(lanes=True, yellow=True, white=True),
    "intersection": Edges(lanes=True, yellow=True, white=True),
    "tollgate": Edges(lanes=False, yellow=True, white=False),
    "bottleneck": Edges(lanes=True, yellow=True, white=True),
    "parking_lot": Edges(lanes=True, yellow=True, white=False),
    "pg_map": Edges(lanes=True, yellow=True, white=True),
}
ARRIVAL = 5
"""Metres from the end of its route's last lane, before it or behind it, at which a vehicle has arrived."""


@dataclass(frozen=True)
class Term:
    """A summand of the reward, or what replaces it in a life's last step."""

    name: str
    key: str
    """Its weight in MetaDrive's configuration."""
    sign: int
    text: str
    value: Callable[[VehicleState], float] | None = None
    """Of which the weight is a multiple; None for what is given once."""

    def weight(self, scene: str) -> float:
        """What its value is multiplied by."""
        return self.sign * float(metadrive_config(scene)[self.key])


def step_terms(scene: str) -> list[Term]:
    """Summands of the reward of an ordinary step."""
    toll = scene == "tollgate"
    signed = scene not in ("tollgate", "bottleneck")
    slow = f", nothing while it is faster than {TollGate.SPEED_LIMIT} km/h on the toll road" if toll else ""

    def sign(state: VehicleState) -> float:
        start, end = state.road[0].index[:2]
        return -1.0 if signed and state.lane not in state.road and Road(start, end).is_negative_road() else 1.0

    def too_fast(state: VehicleState) -> bool:
        return toll and state.on_toll_road and state.km_h > state.lane.speed_limit

    def progress(state: VehicleState) -> float:
        lane = state.lane if state.lane in state.road else state.road[0]
        along, before = (lane.local_coordinates(place)[0] for place in (state.position, state.position_before))
        return 0.0 if too_fast(state) else sign(state) * (along - before)

    def pace(state: VehicleState) -> float:
        return sign(state) * state.km_h / TOP_SPEED

    terms = [
        Term("progress", "driving_reward", 1, f"metres along its lane in this step{slow}", progress),
        Term("speed", "speed_reward", 1, f"km/h / {TOP_SPEED:g}", pace),
    ]
    if toll:
        text = f"km/h / {TOP_SPEED:g} while it is faster than {TollGate.SPEED_LIMIT} km/h on the toll road"
        terms.append(
            Term("overspeed", "overspeed_penalty", -1, text, lambda state: too_fast(state) * state.km_h / TOP_SPEED)
        )
    return terms


LAST_STEP = (
    Term("arrival", "success_reward", 1, "in the step in which it arrives"),
    Term("out of road", "out_of_road_penalty", -1, "in the step in which it leaves the road"),
    Term("crash", "crash_vehicle_penalty", -1, "in the step in which it touches a vehicle or a wreck"),
)
"""What replaces the sum in the last step of a life, the first that holds."""

ENGINE, STEERING = VEHICLE["max_engine_force"].value, VEHICLE["max_steering"].value
"""Newton on each of four wheels; degrees."""
FULL_THROTTLE = 4 * ENGINE / StaticDefaultVehicle.MASS
"""m/s^2."""
FULL_BRAKE, ROLLING = 15.0, 0.36
"""m/s^2, measured: a test drives."""


def action_rows(scene: str) -> list[tuple[str, str]]:
    """Name and meaning of both numbers of an action."""
    if metadrive_config(scene)["vehicle_config"]["enable_reverse"]:
        down = f"-1: {FULL_THROTTLE:.1f} m/s² backwards, which is also all the brake there is"
    else:
        down = f"-1: brakes at {FULL_BRAKE:g} m/s²; no driving backwards"
    return [
        ("steering", f"1: front wheels {STEERING:g} degrees to the left; -1: to the right; they turn at once"),
        (
            "throttle",
            f"1: {FULL_THROTTLE:.1f} m/s² ({ENGINE:g} N at each of four wheels, {StaticDefaultVehicle.MASS:,} kg), "
            f"nothing above {TOP_SPEED:g} km/h; {down}; 0: rolls on, {ROLLING:g} m/s² slower",
        ),
    ]

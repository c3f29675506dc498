"""A driver that follows rules instead of a policy, for MetaDrive's scenes.

Every vehicle follows its route along the middle of a lane, slows down for curves and toll roads, and stops behind what
stands in its path. It drives only where it has claimed its path: no two claims come near each other, and a crossing is
claimed as a whole or not entered. It knows the map and where everybody is and goes; it has no randomness. It never
changes lanes to overtake, so a wreck holds it up until it is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.spatial import KDTree

TOP_SPEED = 9.0
"""m/s; what MetaDrive's vehicles reach is 22."""
TOLL_SPEED = 2.0
"""m/s on a toll road: slow enough to be there for more than the 30 steps that count as a stop."""
POINTS, SPACING = 20, 2.5
"""A path is so many points, so many metres apart, ahead of the vehicle."""
CLEARANCE = 2.4
"""Metres between two vehicles' centre lines, below which they could touch; lanes are 3.5 m apart."""
HALF_LENGTH = 2.3
PATIENCE = 20
"""Steps after which somebody who stands on a crossing may stop on it again, a little further on: better than barring
it for good."""
LONG_PATIENCE = 300
"""The same for who waits before a crossing."""

_BRAKING, _SIDEWAYS = 4.0, 3.5  # m/s^2: what is planned with
_MARGIN = 8.0  # metres before braking would have to begin, from which on a crossing is claimed
_WHEELBASE = 2.5
_TIGHT = 4.0  # metres: nobody chooses a curve of a smaller radius where there is another lane
_BODY = np.array([-1.5, 0.0, 1.5])  # centres of three discs that cover a vehicle, along its axis
_STANDING = 0.3  # m/s
_UNUSED = 2  # steps of standing after which a claim is given back
_AVOID = 20.0  # metres of detour that a lane to avoid is worth
_ACROSS = 0.35  # sine of the angle from which on two lanes cross rather than run together


@dataclass(frozen=True, eq=False)
class _Track:
    """The middle of a lane, a point every metre."""

    lane: Any
    along: np.ndarray
    """(K,) metres from the beginning of the lane, the last one its length."""
    points: np.ndarray
    """(K, 2)."""
    limit: np.ndarray
    """(K,) m/s: top speed, that of the curve, or the toll road's."""
    avoid: bool
    """A curve too tight, or a toll booth in the way."""
    crossing: np.ndarray
    """(K,) bool: another lane crosses here; filled in by `_mark_crossings`."""

    @classmethod
    def of(cls, lane: Any, booths: np.ndarray) -> _Track:
        along = np.append(np.arange(0.0, lane.length, 1.0), lane.length)
        points = np.array([tuple(lane.position(s, 0.0)[:2]) for s in along])
        radius = float(lane.radius) or math.inf  # 0 means straight
        if radius < 2 * _TIGHT:
            # Turn in early, or the front swings out over the line outside.
            inwards = np.array(lane.center)[:2] - points
            inwards /= np.hypot(*inwards.T)[:, None]
            points += 1.2 * np.minimum(2 * along / lane.length, 1.0)[:, None] * inwards
        speed = min(TOP_SPEED, math.sqrt(_SIDEWAYS * radius))
        if lane.speed_limit < 10:  # the toll road's, in km/h; the others mean nothing
            speed = TOLL_SPEED
        booth = bool((np.hypot(*(points[:, None] - booths).T) < CLEARANCE).any())
        return cls(
            lane, along, points, np.full(len(along), speed), radius < _TIGHT or booth, np.zeros(len(along), bool)
        )


class RuleDriver:
    """Actions for the vehicles of a MetaDrive environment.

    Between calls it remembers the map, how long everybody has stood, where it was and what it has claimed. So call it
    once a step, and `forget` at the beginning of an episode.
    """

    def __init__(self) -> None:
        self._tracks: dict[Any, _Track] = {}
        self._stood: dict[str, int] = {}
        self._claimed: dict[str, float] = {}  # in points from where it is, and so less in every step
        self._place: dict[str, list[float]] = {}

    def forget(self) -> None:
        """The next call is about another episode, perhaps on another map."""
        self._tracks.clear()
        self._stood.clear()
        self._claimed.clear()
        self._place.clear()

    def __call__(self, env: Any) -> dict[str, np.ndarray]:
        """Actions (2,) float32, steering and throttle in [-1, 1], by MetaDrive's names of the living vehicles."""
        agents = env.agents
        if not agents:
            return {}
        vehicles = list(agents.values())
        place = np.array([tuple(vehicle.position) for vehicle in vehicles])
        heading = np.array([vehicle.heading_theta for vehicle in vehicles])
        speed = np.array([vehicle.speed for vehicle in vehicles])
        self._stood = {
            agent: self._stood.get(agent, 0) + 1 if v < _STANDING else 0 for agent, v in zip(agents, speed, strict=True)
        }
        if not self._tracks:
            self._tracks = _tracks_of(env.current_map)
        network = env.current_map.road_network.graph
        paths = [self._path(vehicle, at, network) for vehicle, at in zip(vehicles, place, strict=True)]
        path, limit, crossing = (np.array(part) for part in zip(*paths, strict=True))
        wrecks = [entry[0] for entry in env.agent_manager._dying_objects.values()]
        bodies = _bodies(
            np.concatenate([place, np.array([tuple(wreck.position) for wreck in wrecks]).reshape(-1, 2)]),
            np.concatenate([heading, [wreck.heading_theta for wreck in wrecks]]),
        )
        free = _free_points(path, bodies)
        wanted = _target_speed(limit, self._room(place, speed, path, crossing, free))
        steering = _steering(path, place, heading, speed, np.array([vehicle.max_steering for vehicle in vehicles]))
        throttle = np.clip(0.5 * (wanted - speed), -1.0, 0.8)
        actions = np.stack([steering, throttle], axis=1).astype(np.float32)
        return dict(zip(agents, actions, strict=True))

    def _room(
        self, place: np.ndarray, speed: np.ndarray, path: np.ndarray, crossing: np.ndarray, free: np.ndarray
    ) -> np.ndarray:
        """Metres (V,) that each vehicle may drive, infinite where all of its path is its own. Claims them."""
        agents = list(self._stood)
        stood = np.array(list(self._stood.values()))
        before = np.array(
            [
                self._claimed.get(agent, 0.0) - math.dist(at, self._place.get(agent) or at) / SPACING
                for agent, at in zip(agents, place.tolist(), strict=True)
            ]
        )
        before[stood > _UNUSED] = 0.0  # who cannot use what he claimed lets others have it
        # A crossing is claimed when it is time to brake for it, and not before.
        first = np.where(crossing.any(axis=1), crossing.argmax(axis=1), POINTS)
        far = SPACING * first > speed**2 / (2 * _BRAKING) + _MARGIN
        points = _claims(
            path, crossing, np.where(far, np.minimum(free, first), free), np.ceil(before).astype(int), stood
        )
        claimed = np.where(points > np.ceil(before), points, before)
        self._claimed = dict(zip(agents, claimed.tolist(), strict=True))
        self._place = dict(zip(agents, place.tolist(), strict=True))
        return np.where(points < POINTS, SPACING * np.minimum(claimed, free), np.inf)

    def _path(self, vehicle: Any, place: np.ndarray, network: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (POINTS, 2) ahead of a vehicle on its route, the speed limits (POINTS,) there, and where it is crossed
        (POINTS,)."""
        navigation = vehicle.navigation
        at = navigation._target_checkpoints_index[0]
        nodes = navigation.checkpoints[at : at + 5]
        roads = [[self._tracks[lane] for lane in network[start][end]] for start, end in pairwise(nodes)]
        here = [track.lane.local_coordinates(place) for track in roads[0]]
        route = _choose_lanes(roads, [abs(lateral) for _, lateral in here])
        begin, lateral = here[roads[0].index(route[0])]
        starts = np.cumsum([0.0, *(track.lane.length for track in route)])
        along = np.concatenate([track.along + start for track, start in zip(route, starts, strict=False)])
        points = np.concatenate([track.points for track in route])
        wanted = begin + SPACING * np.arange(POINTS)
        path = np.stack([np.interp(wanted, along, points[:, axis]) for axis in (0, 1)], axis=1)
        # Beyond the end of what is known, straight on.
        beyond = np.maximum(wanted - along[-1], 0.0)
        path += beyond[:, None] * _unit(points[-1] - points[0])
        # From where it is, the vehicle comes to the middle of the lane within some metres.
        first = route[0].lane
        aside = np.array(first.position(begin, lateral)[:2]) - np.array(first.position(begin, 0.0)[:2])
        fade = np.clip(1 - SPACING * np.arange(POINTS) / (6.0 + 2.0 * abs(lateral)), 0.0, 1.0)
        limit = np.concatenate([track.limit for track in route])
        crossing = np.concatenate([track.crossing for track in route])
        nearest = np.minimum(np.searchsorted(along, wanted), len(limit) - 1)
        return path + fade[:, None] * aside, limit[nearest], crossing[nearest]


def _tracks_of(road_map: Any) -> dict[Any, _Track]:
    """Every lane of a map as a track."""
    things = [thing for block in road_map.blocks for thing in getattr(block, "_block_objects", None) or []]
    booths = np.array([tuple(thing.position)[:2] for thing in things]).reshape(-1, 2)
    roads = (road for ends in road_map.road_network.graph.values() for road in ends.values())
    tracks = {lane: _Track.of(lane, booths) for road in roads for lane in road}
    _mark_crossings(list(tracks.values()))
    return tracks


def _mark_crossings(tracks: Sequence[_Track]) -> None:
    points = np.concatenate([track.points for track in tracks])
    headings = np.concatenate([np.arctan2(*np.gradient(track.points, axis=0).T[::-1]) for track in tracks])
    pairs = KDTree(points).query_pairs(CLEARANCE, output_type="ndarray")
    across = np.abs(np.sin(headings[pairs[:, 0]] - headings[pairs[:, 1]])) > _ACROSS
    crossing = np.zeros(len(points), bool)
    crossing[pairs[across].ravel()] = True
    start = 0
    for track in tracks:
        track.crossing[:] = crossing[start : start + len(track.points)]
        start += len(track.points)


def _choose_lanes(roads: Sequence[Sequence[_Track]], lateral: Sequence[float]) -> list[_Track]:
    """One lane of every road, by the least sum of what it takes to change from one to the next.

    Args:
        roads: the lanes of the road that the vehicle is on, and of those that follow.
        lateral: metres from the vehicle to the middle of each lane of the first.
    """
    cost = [distance + _AVOID * track.avoid for distance, track in zip(lateral, roads[0], strict=True)]
    best = [[track] for track in roads[0]]
    for before, after in pairwise(roads):
        steps = [
            [cost[i] + 2.0 * _distance(last.points[-1], track.points[0]) for i, last in enumerate(before)]
            for track in after
        ]
        origins = [int(np.argmin(row)) for row in steps]
        cost = [steps[j][i] + _AVOID * track.avoid for j, (i, track) in enumerate(zip(origins, after, strict=True))]
        best = [[*best[i], track] for i, track in zip(origins, after, strict=True)]
    return best[int(np.argmin(cost))]


def _near(path: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(V, POINTS, W, M) bool: points of paths (V, POINTS, 2) closer than CLEARANCE to points (W, M, 2)."""
    a, b = path.reshape(-1, 2).astype(np.float32), other.reshape(-1, 2).astype(np.float32)
    squared = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
    return (squared < CLEARANCE**2).reshape(*path.shape[:2], *other.shape[:2])


def _free_points(path: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """(V,) how many points of its path lie before the first that another body (B, 3, 2) covers; the first V bodies are
    those of the vehicles themselves."""
    count = len(path)
    blocked = _near(path, bodies).max(axis=3)
    blocked[np.arange(count), :, np.arange(count)] = False
    blocked[:, 0] = False  # who is beside me does not stand in my path
    covered = blocked.max(axis=2)
    return np.where(covered.max(axis=1), covered.argmax(axis=1), POINTS)


def _claims(
    path: np.ndarray, crossing: np.ndarray, reach: np.ndarray, claimed: np.ndarray, stood: np.ndarray
) -> np.ndarray:
    """Who may drive how far: no point is near one that somebody else has claimed.

    Nobody stops where he would bar a crossing, until patience ends.

    Args:
        path: (V, POINTS, 2).
        crossing: (V, POINTS) bool, where another lane crosses.
        reach: (V,) points that the vehicle may claim.
        claimed: (V,) points that were claimed before and are still ahead.
        stood: (V,) steps that the vehicle has stood still; who has stood longest claims first.

    Returns:
        (V,) claimed points.
    """
    count = len(path)
    near = _near(path, path)
    near[np.arange(count), :, np.arange(count)] = False
    index = np.arange(POINTS)
    held = index < np.minimum(claimed, reach)[:, None]
    for row in np.argsort(-stood, kind="stable"):
        held[row] = False
        taken = (near[row] & held).any(axis=(1, 2)) | (index >= reach[row])
        end = int(taken.argmax()) if taken.any() else POINTS
        if stood[row] < (PATIENCE if crossing[row, 0] else LONG_PATIENCE):
            stops = np.flatnonzero(~crossing[row, :end])
            end = int(stops[-1]) + 1 if len(stops) else 0
        held[row] = index < max(end, min(claimed[row], reach[row]))
    return held.sum(axis=1)


def _target_speed(limit: np.ndarray, room: np.ndarray) -> np.ndarray:
    """(V,) m/s from which every limit (V, POINTS) ahead can be kept, and the stop at `room` (V,)."""
    distance = SPACING * np.arange(POINTS)
    by_limit = np.sqrt(limit**2 + 2 * _BRAKING * np.maximum(distance - 1.0, 0.0)).min(axis=1)
    return np.minimum(by_limit, np.sqrt(2 * _BRAKING * np.maximum(room - HALF_LENGTH - 1.0, 0.0)))


def _steering(
    path: np.ndarray, place: np.ndarray, heading: np.ndarray, speed: np.ndarray, max_degrees: np.ndarray
) -> np.ndarray:
    """(V,) in [-1, 1]: pure pursuit of the path, from the rear axle."""
    rear = place - 0.5 * _WHEELBASE * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    ahead = np.clip(2.5 + 0.35 * speed, 3.0, 8.0)
    index = ahead / SPACING
    low = np.minimum(index.astype(int), POINTS - 2)
    rows = np.arange(len(path))
    part = (index - low)[:, None]
    goal = (1 - part) * path[rows, low] + part * path[rows, low + 1] - rear
    angle = np.arctan2(goal[:, 1], goal[:, 0]) - heading
    wheel = np.arctan2(2 * _WHEELBASE * np.sin(angle), np.hypot(goal[:, 0], goal[:, 1]))
    return np.clip(np.degrees(wheel) / max_degrees, -1.0, 1.0)


def _bodies(place: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """(B, 3, 2) centres of the discs that cover the vehicles at `place` (B, 2)."""
    direction = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return place[:, None] + _BODY[None, :, None] * direction[:, None]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.hypot(*vector)


def _distance(a: Iterable[float], b: Iterable[float]) -> float:
    return math.dist(tuple(a), tuple(b))

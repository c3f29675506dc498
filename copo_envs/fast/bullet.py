"""What Bullet is asked: the rays and contacts that the kernels cannot rule out, with the calls that MetaDrive makes.

Legend: A vehicles that acted, B boxes that a ray can meet, the A vehicles first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from metadrive.constants import CollisionGroup, MetaDriveType
from metadrive.utils.pg.utils import rect_region_detection
from panda3d.core import LPoint3f

from copo_envs.fast import kernels
from copo_envs.fast.tables import MapTables

TOUCH = 0.12  # metres: Bullet calls bodies in contact from 0.02 m on, and their poses are known within 0.03 m each
SIDEWALK_TOUCH = 0.1  # metres
INSIDE = 0.08  # metres from its faces at which a point is surely inside a box
_EDGES = (MetaDriveType.BOUNDARY_LINE, MetaDriveType.BOUNDARY_SIDEWALK, MetaDriveType.GUARDRAIL)


@dataclass
class Poses:
    """Where the vehicles are after the physics.

    MetaDrive reads poses from Panda3D's nodes, which lag behind Bullet's bodies by one physics step of 0.02 s.
    """

    position: np.ndarray
    """(A, 2) metres, as MetaDrive sees it."""
    theta: np.ndarray
    """(A,) heading in radians, as MetaDrive sees it."""
    seen: np.ndarray
    """(A, BOX.COLUMNS) the vehicles' boxes there."""
    boxes: np.ndarray
    """(A, BOX.COLUMNS) their boxes near where Bullet has them, see `kernels.advance_boxes`."""
    velocity: np.ndarray
    """(A, 3) m/s."""


def cast_rays(
    world: Any,
    mask: Any,
    z: float,
    detector: tuple[int, float],
    phase: float,
    poses: Poses,
    boxes: np.ndarray,
    nodes: Sequence[Any] | None = None,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """`DistanceDetector.perceive`.

    Args:
        world, mask: Bullet's world, and which bodies in it are seen.
        z: metres, height of the rays.
        detector: how many rays R, and how long they are in metres.
        phase: radians from the heading to the first ray.
        boxes: (B, BOX.COLUMNS) all that the rays can meet.
        nodes: of the A vehicles, which are the first of `boxes` then, and are not seen by their own rays.
        allowed: (A, R) bool; other rays see nothing. None: all.

    Returns:
        (A, R): the share of each ray up to what it meets, 1 where it meets nothing.
    """
    rays, distance = detector
    count = len(poses.theta)
    fractions = np.ones((count, rays))
    own = np.full(count, -1) if nodes is None else np.arange(count)
    ask = np.empty((count * rays, 2), np.int64)
    limited = allowed is not None
    asked = kernels.rays_to_ask(
        poses.position, poses.theta, z, float(distance), rays, phase, boxes, own,
        allowed if limited else np.ones((0, rays), np.bool_), limited, ask,
    )  # fmt: skip
    # A ray passes its own vehicle because it starts inside of it. Where that is not sure, look at what it has hit.
    unsure = np.zeros(count, np.bool_)
    if nodes is not None:
        kernels.outside_own_box(poses.position, z, poses.boxes, INSIDE, unsure)
    careful = set(np.nonzero(unsure)[0].tolist())
    # The ends of the rays as MetaDrive computes them, by Python's cosine: a compiled one may differ in the last bit.
    turns = (np.arange(0, rays) * (2 * np.pi / rays) + phase).tolist()
    places, thetas = poses.position.tolist(), poses.theta.tolist()
    starts = [LPoint3f(x, y, z) for x, y in places]
    test, cos, sin = world.rayTestClosest, math.cos, math.sin
    found = []
    for a, ray in ask[:asked].tolist():
        angle, (x, y) = turns[ray] + thetas[a], places[a]
        end = LPoint3f(distance * cos(angle) + x, distance * sin(angle) + y, z)
        hit = test(starts[a], end, mask)
        fraction = hit.getHitFraction()
        if a in careful and nodes is not None and hit.getNode() == nodes[a]:
            hits = world.rayTestAll(starts[a], end, mask).getHits()
            fraction = min((other.getHitFraction() for other in hits if other.getNode() != nodes[a]), default=1.0)
        found.append(fraction)
    fractions[ask[:asked, 0], ask[:asked, 1]] = found
    return fractions


def lidar_mask(
    engine: Any, detector: tuple[int, float], poses: Poses, boxes: np.ndarray, objects: np.ndarray, nodes: Sequence[Any]
) -> np.ndarray:
    """`Lidar._get_lidar_mask`: which rays may see anything.

    Args:
        boxes: (B, BOX.COLUMNS), the vehicles' own first.
        objects: (B, 4) x, y, length, width in metres for which the mask takes them.
        nodes: (B,) of them.

    Returns:
        (A, R) bool.
    """
    rays, distance = detector
    count, own = len(poses.theta), np.arange(len(poses.theta))
    near, doubtful = np.zeros((count, len(objects)), np.bool_), np.zeros(count, np.bool_)
    kernels.near_circle(poses.position, float(int(distance)), boxes, own, near, doubtful)
    for a in np.nonzero(doubtful)[0].tolist():
        found = _within(engine, poses.position[a], int(distance))
        near[a] = [node in found for node in nodes]
    allowed = np.zeros((count, rays), np.bool_)
    kernels.lidar_mask(poses.position, poses.theta, float(distance), rays, objects, own, near, allowed)
    return allowed


def _within(engine: Any, position: np.ndarray, radius: int) -> set[Any]:
    """The nodes that `Lidar.get_surrounding_objects` finds."""
    detector = engine.get_sensor("lidar").get_broad_phase_detector(radius)
    detector.setPos(LPoint3f(*position, 0.0))
    contacts = engine.physics_world.dynamic_world.contactTest(detector.node(), True).getContacts()
    return {node for contact in contacts for node in (contact.getNode0(), contact.getNode1())}


def line_contacts(world: Any, nodes: Sequence[Any], boxes: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """`_state_check`, continuous lines: (A, 2) bool, touches a white one, a yellow one. lines: their boxes."""
    touched, near = np.zeros((len(nodes), 2), np.bool_), np.zeros(len(nodes), np.bool_)
    kernels.may_touch(boxes, lines, False, TOUCH, near)
    for a in np.nonzero(near)[0].tolist():
        for contact in world.contactTest(nodes[a], True).getContacts():
            names = contact.getNode0().getName(), contact.getNode1().getName()
            touched[a, 0] |= MetaDriveType.LINE_SOLID_SINGLE_WHITE in names
            touched[a, 1] |= MetaDriveType.LINE_SOLID_SINGLE_YELLOW in names
    return touched


def on_sidewalk(engine: Any, tables: MapTables, poses: Poses, half: np.ndarray) -> np.ndarray:
    """`_state_check`, sidewalks: (A,) bool. half: (A, 3) half extents in metres."""
    touched, near = np.zeros(len(half), np.bool_), np.zeros(len(half), np.bool_)
    walls = tables.walls, tables.sidewalks, tables.sidewalk_bounds
    kernels.may_touch_sidewalk(poses.seen, *walls, SIDEWALK_TOUCH, near)
    for a in np.nonzero(near)[0].tolist():
        where, degrees = tuple(poses.position[a]), float(np.rad2deg(poses.theta[a]))
        hit = rect_region_detection(engine, where, degrees, 2 * half[a, 1], 2 * half[a, 0], CollisionGroup.Sidewalk)
        touched[a] = hit.hasHit() and hit.getNode().getName() in _EDGES
    return touched


def note_body_contacts(world: Any, vehicles: Sequence[Any], nodes: Sequence[Any], solid: np.ndarray) -> None:
    """`_state_check`, bodies: completes what Bullet's own callback has noted on the vehicles, solid[:A]."""
    near = np.zeros(len(nodes), np.bool_)
    kernels.may_touch(solid[: len(nodes)], solid, True, TOUCH, near)
    for a in np.nonzero(near)[0].tolist():
        for contact in world.contactTest(nodes[a], True).getContacts():
            first, second = contact.getNode0(), contact.getNode1()
            name = (first if second.getName() == MetaDriveType.VEHICLE else second).getName()
            if name == MetaDriveType.VEHICLE:
                vehicles[a].crash_vehicle = True
            elif name == MetaDriveType.BUILDING:
                vehicles[a].crash_building = True

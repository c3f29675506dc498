"""What the kernels know of a map: lanes, their surfaces, lines, sidewalks and buildings as arrays, once per map."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from metadrive.component.lane.circular_lane import CircularLane
from metadrive.component.lane.extension_lane import ExtendingLane
from metadrive.component.lane.straight_lane import StraightLane
from metadrive.component.pgblock.bottleneck import Merge, Split
from metadrive.component.pgblock.tollgate import TollGate
from metadrive.component.road_network import Road
from metadrive.constants import CollisionGroup, MetaDriveType
from panda3d.bullet import BulletBoxShape
from panda3d.core import NodePath
from scipy.spatial import ConvexHull, QhullError

from copo_envs.fast.covered import NotCovered
from copo_envs.fast.kernels import BOX, LANE
from copo_envs.metadrive_fixes import lane_surface

ORDINARY, TOLL, NARROWING = 0, 1, 2  # kinds of road: `MapTables.road_kind`
KEPT = 32  # maps whose tables are kept; each is some hundred kilobytes


@dataclass
class MapTables:
    """A map as arrays. Legend: L lanes, R roads, H corners of lane surfaces, W walls."""

    lanes: np.ndarray
    """(L, LANE.COLUMNS): see `kernels.LANE`."""
    lane_of: dict[Any, int]
    """Lane index (start node, end node, number) -> row of `lanes`."""
    road_of: dict[tuple[str, str], int]
    """(start node, end node) -> road."""
    node_of: dict[str, int]
    road_first: np.ndarray
    """(R,) first lane of a road; its lanes are consecutive."""
    road_lanes: np.ndarray
    """(R,) number of lanes of a road."""
    road_negative: np.ndarray
    """(R,) bool: MetaDrive numbers the road backwards."""
    road_kind: np.ndarray
    """(R,) ORDINARY, TOLL or NARROWING."""
    surfaces: np.ndarray
    """(S, 3): lane, first and last corner (exclusive)."""
    surface_bounds: np.ndarray
    """(S, 4): x from, to, y from, to."""
    corners: np.ndarray
    """(H, 2) of the surfaces, counter-clockwise."""
    line_boxes: np.ndarray
    """(., BOX.COLUMNS): every lane line, for the lane-line detector."""
    solid_boxes: np.ndarray
    """Continuous lines, for the side detector."""
    solid_is_yellow: np.ndarray
    """(number of solid_boxes,) bool: yellow, else white."""
    buildings: np.ndarray
    """Boxes that the lidar sees and a vehicle can hit."""
    building_mask: np.ndarray
    """(number of buildings, 4): x, y, length and width that the lidar's mask takes them for."""
    walls: np.ndarray
    """(W, 4): edges of the sidewalks, x and y of both ends."""
    sidewalks: np.ndarray
    """(P, 2): first and last edge (exclusive) of each sidewalk."""
    sidewalk_bounds: np.ndarray
    """(P, 4): x from, to, y from, to."""
    width_scale: float
    """Metres by which distances to the road's borders are divided."""
    max_lane_width: float


_kept: OrderedDict[Any, MapTables] = OrderedDict()


def tables_of(env: Any, key: Any) -> MapTables:
    """The tables of the map that `env` drives on now.

    Args:
        env: a MetaDrive environment after its reset.
        key: names the map among those of this process; a map of the same name has the same tables.

    Raises:
        NotCovered: something in the map that the kernels do not know.
    """
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    tables = _build(env)
    _kept[key] = tables
    if len(_kept) > KEPT:
        _kept.popitem(last=False)
    return tables


def buildings_of(env: Any) -> list[Any]:
    """The things besides vehicles that the lidar sees, always in the same order."""
    buildings = []
    for thing in env.engine.get_objects().values():
        body = getattr(thing, "_body", None)
        if body is None or body.getName() == MetaDriveType.VEHICLE or not thing.is_attached():
            continue
        if body.getName() != MetaDriveType.BUILDING:
            raise NotCovered(f"an object of type {body.getName()}")
        buildings.append(thing)
    return buildings


def box_of(node: Any) -> np.ndarray:
    """A body with one box shape as a row of boxes (BOX.COLUMNS,)."""
    matrix = NodePath.anyPath(node).getNetTransform().getMat()
    shape = node.getShape(0)
    if not isinstance(shape, BulletBoxShape):
        raise NotCovered(f"a {node.getName()} of shape {type(shape).__name__}")
    half = shape.getHalfExtentsWithMargin()
    row = np.zeros(BOX.COLUMNS)
    row[BOX.CENTRE : BOX.CENTRE + 3] = tuple(matrix.getRow3(3))
    for axis in range(3):
        row[BOX.ACROSS + 3 * axis : BOX.ACROSS + 3 * (axis + 1)] = tuple(matrix.getRow3(axis))
    row[BOX.HALF : BOX.HALF + 3] = tuple(half)
    row[BOX.RADIUS] = math.sqrt(sum(side * side for side in half))
    return row


def _build(env: Any) -> MapTables:
    current_map = env.current_map
    graph = current_map.road_network.graph
    lane_of: dict[Any, int] = {}
    road_of: dict[tuple[str, str], int] = {}
    node_of: dict[str, int] = {}
    rows: list[np.ndarray] = []
    first, number = [], []
    surfaces: list[tuple[int, int, int]] = []
    corners: list[np.ndarray] = []
    corner_count = 0
    for start, targets in graph.items():
        for end, lanes in targets.items():
            road_of[(start, end)] = len(first)
            first.append(len(rows))
            number.append(len(lanes))
            for lane in lanes:
                row = _lane_row(lane)
                row[LANE.START_NODE] = node_of.setdefault(lane.index[0], len(node_of))
                row[LANE.ROAD] = road_of[(start, end)]
                for polygon in lane_surface(lane):
                    points = np.asarray(polygon, np.float32).astype(float)
                    hull = points[_hull(points)]
                    surfaces.append((len(rows), corner_count, corner_count + len(hull)))
                    corners.append(hull)
                    corner_count += len(hull)
                lane_of[lane.index] = len(rows)
                rows.append(row)

    worlds = env.engine.physics_world
    lines, solid, yellow = [], [], []
    for node in worlds.static_world.getGhosts():
        mask = node.getIntoCollideMask().getWord()
        continuous = bool(mask & CollisionGroup.ContinuousLaneLine.getWord())
        if continuous or mask & CollisionGroup.BrokenLaneLine.getWord():
            row = box_of(node)
            lines.append(row)
            if continuous:
                solid.append(row)
                name = node.getName()
                if name not in (MetaDriveType.LINE_SOLID_SINGLE_YELLOW, MetaDriveType.LINE_SOLID_SINGLE_WHITE):
                    raise NotCovered(f"a continuous line of type {name}")
                yellow.append(name == MetaDriveType.LINE_SOLID_SINGLE_YELLOW)
    buildings = buildings_of(env)
    seen = {
        node.getName()
        for node in worlds.dynamic_world.getRigidBodies()
        if node.getIntoCollideMask().getWord() & CollisionGroup.can_be_lidar_detected().getWord()
    }
    if not seen <= {MetaDriveType.VEHICLE, MetaDriveType.BUILDING}:
        raise NotCovered(f"bodies of type {', '.join(sorted(seen))}")

    polygons = [
        np.asarray(sidewalk["polygon"], float)
        for block in current_map.blocks
        for sidewalk in block.sidewalks.values()
        if len(sidewalk["polygon"])
    ]
    walls = [np.concatenate([polygon, np.roll(polygon, -1, axis=0)], axis=1) for polygon in polygons]
    ends = np.cumsum([0, *(len(polygon) for polygon in polygons)])
    points = np.concatenate(corners)
    return MapTables(
        lanes=np.array(rows),
        lane_of=lane_of,
        road_of=road_of,
        node_of=node_of,
        road_first=np.array(first),
        road_lanes=np.array(number),
        road_negative=np.array([Road(*road).is_negative_road() for road in road_of]),
        road_kind=np.array([_kind(road) for road in road_of]),
        surfaces=np.array(surfaces, np.int64),
        surface_bounds=np.array([_bounds(points[low:high]) for _, low, high in surfaces]),
        corners=points,
        line_boxes=_boxes(lines),
        solid_boxes=_boxes(solid),
        solid_is_yellow=np.array(yellow, np.bool_),
        buildings=_boxes([box_of(building.body) for building in buildings]),
        building_mask=np.array([(*b.position, b.LENGTH, b.WIDTH) for b in buildings], float).reshape(-1, 4),
        walls=np.concatenate(walls) if walls else np.zeros((0, 4)),
        sidewalks=np.stack([ends[:-1], ends[1:]], axis=1),
        sidewalk_bounds=np.array([_bounds(polygon) for polygon in polygons]).reshape(-1, 4),
        width_scale=float((current_map.MAX_LANE_NUM + 1) * current_map.MAX_LANE_WIDTH),
        max_lane_width=float(current_map.MAX_LANE_WIDTH),
    )


def _hull(points: np.ndarray) -> np.ndarray:
    try:
        return ConvexHull(points).vertices
    except QhullError as error:
        raise NotCovered("a lane without a surface") from error


def _lane_row(lane: Any) -> np.ndarray:
    row = np.zeros(LANE.COLUMNS)
    row[LANE.LENGTH] = lane.length
    row[LANE.WIDTH] = lane.width
    row[LANE.SPEED_LIMIT] = lane.speed_limit
    if type(lane) in (
        StraightLane,
        ExtendingLane,
    ):  # the latter differs in its width along the way, which no step reads
        row[LANE.START : LANE.START + 2] = lane.start
        row[LANE.DIRECTION : LANE.DIRECTION + 2] = lane.direction
        row[LANE.LATERAL : LANE.LATERAL + 2] = lane.direction_lateral
        row[LANE.HEADING] = lane.heading
        along = lane.end - lane.start
        length = math.sqrt(along[0] ** 2 + along[1] ** 2)
        row[LANE.RIGHT : LANE.RIGHT + 2] = along[1] / length, -along[0] / length
    elif type(lane) is CircularLane:
        row[LANE.CIRCULAR] = 1
        row[LANE.CENTRE : LANE.CENTRE + 2] = lane.center
        row[LANE.RADIUS] = lane.radius
        row[LANE.START_PHASE] = lane.start_phase
        row[LANE.END_PHASE] = lane.end_phase
        row[LANE.CLOCKWISE] = lane.is_clockwise()
        row[LANE.ANGLE] = lane.angle
        row[LANE.SENSE] = lane.direction
    else:
        raise NotCovered(f"a lane of type {type(lane).__name__}")
    return row


def _kind(road: tuple[str, str]) -> int:
    try:
        block = Road(*road).block_ID()
    except AttributeError:  # a road between blocks, as in MetaDrive's own handling
        return ORDINARY
    return {TollGate.ID: TOLL, Merge.ID: NARROWING, Split.ID: NARROWING}.get(block, ORDINARY)


def _boxes(rows: list[np.ndarray]) -> np.ndarray:
    return np.array(rows).reshape(-1, BOX.COLUMNS)


def _bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return x0, x1, y0, y1

"""What MetaDrive 0.4.3 needs to start offline, to repeat an episode bit for bit, and to have the published roads.

Five kinds of repair, installed once per process by `install`:

* **offline**: the first engine start tries to download assets that only 3D rendering uses. It no longer does. Nor
  does it need a system's OpenGL library, without which it used to end in an IndexError.
* **determinism**: a second reset of one engine differs from the first because recycled vehicles keep the rotation
  of their wheels and the physics world keeps the order of its contacts. Both are renewed at every reset (about
  10 ms), so that every reset equals the first one of a fresh engine.
* **ramps**: 0.4.3 draws the taper at the end of a ramp along the x axis, whatever the direction of the road. On a road
  of another direction its continuous line lies across the lanes, and ends the life of everybody who comes there.
* **births**: much of what a vehicle costs that respawns goes into copies of settings, value by value, and into
  generators that are seeded twice, the first time from the operating system and for nothing. The same for less.
* **geometry**: MetaDrive 0.4.x draws some roads otherwise than 0.2.5, on which the published numbers were made.
  `set_geometry("published")` brings the old ones back for the next map that is built; `"metadrive"` leaves 0.4.3's.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from metadrive.component.block.base_block import BaseBlock
from metadrive.component.buildings.tollgate_building import TollGateBuilding
from metadrive.component.lane.extension_lane import ExtendingLane, ExtensionDirection
from metadrive.component.lane.straight_lane import StraightLane
from metadrive.component.pg_space import BlockParameterSpace, ConstantSpace, ParameterSpace
from metadrive.component.pgblock.bottleneck import Bottleneck, Merge, Split
from metadrive.component.pgblock.intersection import InterSection
from metadrive.component.pgblock.pg_block import PGBlock
from metadrive.component.pgblock.ramp import InRampOnStraight, OutRampOnStraight, Ramp
from metadrive.component.pgblock.roundabout import Roundabout
from metadrive.component.pgblock.t_intersection import TInterSection
from metadrive.component.vehicle.base_vehicle import BaseVehicle
from metadrive.constants import CollisionGroup, MetaDriveType, PGLineType
from metadrive.engine.base_engine import BaseEngine
from metadrive.engine.core.collision_callback import collision_callback
from metadrive.engine.physics_node import BaseRigidBodyNode
from metadrive.utils import Config, random_utils
from numpy.random.bit_generator import ISeedSequence
from panda3d.bullet import BulletConvexHullShape, BulletWorld
from panda3d.core import LPoint3f, NodePath, PythonCallbackObject, Vec3, loadPrcFileData

_published = False
_installed = False


def install(display: str = "p3tinydisplay") -> None:
    """Apply the repairs to this process. Calling it again does nothing.

    Args:
        display: what Panda3D draws with. Nothing is drawn by default: its software display comes with its wheel, the
            others need a system's OpenGL, which servers lack.
    """
    global _installed
    if _installed:
        return
    _installed = True
    BaseEngine.try_pull_asset = staticmethod(lambda: None)
    loadPrcFileData("copo", f"load-display {display}")
    _renew_physics_at_reset()
    _turn_tapers_along_the_road()
    _make_geometry_switchable()
    _make_births_cheap()


def set_geometry(geometry: str) -> None:
    """Choose the roads of the next map: "published" (as in 0.2.5) or "metadrive" (as in 0.4.3)."""
    global _published
    _published = geometry == "published"
    for block in (Bottleneck, Merge, Split):
        # Each block class copies its parameter space at import: set it on the classes, not on the shared dictionary.
        parameters = {**BlockParameterSpace.BOTTLENECK_PARAMETER, "solid_center_line": ConstantSpace(int(_published))}
        block.PARAMETER_SPACE = ParameterSpace(parameters)
    for block in (InterSection, TInterSection, Roundabout):
        # Three scenes set this for their own map, on the class, and pg_map in the same process would inherit it.
        block.EXIT_PART_LENGTH = 35


def _renew_physics_at_reset() -> None:
    check = BaseEngine._object_clean_check

    def check_then_renew(self: Any) -> None:
        check(self)  # asserts that no body is left in either world
        # The toll booths of the map before, which nobody else takes off the list of what there is.
        booths = [name for name, thing in self._spawned_objects.items() if isinstance(thing, TollGateBuilding)]
        self.clear_objects(booths, force_destroy=True)
        # Vehicles first: a BulletVehicle keeps a raw pointer to the world it was built in.
        for kind, objects in list(self._dying_objects.items()):
            for vehicle in objects:
                if isinstance(vehicle, BaseVehicle):
                    self._clean_color(vehicle.id)
                    vehicle.destroy()
            self._dying_objects[kind] = [thing for thing in objects if not isinstance(thing, BaseVehicle)]
        worlds = self.physics_world
        worlds.dynamic_world.clearContactAddedCallback()
        fresh = BulletWorld()
        CollisionGroup.set_collision_rule(fresh, disable_collision=self.global_config["disable_collision"])
        fresh.setGravity(Vec3(0, 0, -9.81))
        fresh.setContactAddedCallback(PythonCallbackObject(collision_callback))
        worlds.dynamic_world = fresh

    BaseEngine._object_clean_check = check_then_renew


def _turn_tapers_along_the_road() -> None:
    def taper_of_in_ramp(self: Ramp, lane: StraightLane, length: float) -> ExtendingLane:
        return _taper(lane.end, lane, length, ExtensionDirection.SHRINK, self.lane_width)

    def taper_of_out_ramp(self: Ramp, lane: StraightLane, length: float) -> ExtendingLane:
        return _taper(lane.position(0, self.lane_width), lane, length, ExtensionDirection.EXTEND, self.lane_width)

    in_ramp: Any = InRampOnStraight
    out_ramp: Any = OutRampOnStraight
    in_ramp._get_merge_part = taper_of_in_ramp
    out_ramp._get_merge_part = taper_of_out_ramp


def _taper(start: Any, lane: StraightLane, length: float, kind: ExtensionDirection, width: float) -> ExtendingLane:
    return ExtendingLane(kind, start, start + lane.direction * length, width, [PGLineType.NONE, PGLineType.CONTINUOUS])


def _make_geometry_switchable() -> None:
    metadrive_lane = BaseBlock._construct_lane
    metadrive_sidewalk = PGBlock._generate_sidewalk_from_line
    toll: Any = TollGateBuilding
    toll_length, toll_width = toll.LENGTH, toll.WIDTH

    def construct_lane(self: Any, lane: Any, lane_index: Any) -> None:
        (_published_lane if _published else metadrive_lane)(self, lane, lane_index)

    def generate_sidewalk(self: Any, lane: Any, sidewalk_height: Any = None, lateral_direction: int = 1) -> None:
        (_published_sidewalk if _published else metadrive_sidewalk)(self, lane, sidewalk_height, lateral_direction)

    BaseBlock._construct_lane = construct_lane
    PGBlock._generate_sidewalk_from_line = generate_sidewalk
    # 0.2.5's toll booth had no size of its own; its lidar mask fell back to the size of the ego vehicle.
    toll.LENGTH = property(lambda self: 4.51 if _published else toll_length.fget(self))
    toll.WIDTH = property(lambda self: 1.852 if _published else toll_width.fget(self))


def _make_births_cheap() -> None:
    plain = {int, float, bool, str, type(None)}

    def deepcopy(self: Any, memo: dict[int, Any]) -> Config:
        def copied(attributes: dict[str, Any]) -> dict[str, Any]:
            return {
                key: value if type(value) in plain else copy.deepcopy(value, memo) for key, value in attributes.items()
            }

        same = memo[id(self)] = Config.__new__(Config)
        same.__dict__.update(copied(self.__dict__ | {"_config": None}), _config=copied(self._config))
        return same

    class Unseeded(ISeedSequence):
        def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
            return np.zeros(n_words, dtype)

    unseeded: Any = Unseeded()

    def random_state() -> np.random.RandomState:
        return np.random.RandomState(np.random.MT19937(unseeded))

    config: Any = Config
    config.__deepcopy__ = deepcopy
    # `get_np_random` makes a RandomState, and seeds it in its next line.
    random_utils.np = SimpleNamespace(random=SimpleNamespace(RandomState=random_state))


def lane_surface(lane: Any) -> list[list[tuple[float, float]]]:
    """Corners, metres, of the convex pieces of a lane's surface, on which vehicles are localised."""
    if _published:
        return _published_surface(lane)
    return [[tuple(point[:2]) for point in lane.polygon]] if lane.need_lane_localization else []


def _published_surface(lane: Any) -> list[list[tuple[float, float]]]:
    """Lane surface of 0.2.5: boxes 1.2 m wider than the lane, along its arc (now: a convex hull of its polygon)."""
    length, width = lane.length, lane.width_at(0) + 1.2
    pieces = 0 if isinstance(lane, StraightLane) else int(length / 4)
    if pieces == 0:
        segments = [(lane.position(length / 2, 0), lane.heading_theta_at(length / 2), length + 0.1)]
    else:
        segments = []
        for i in range(pieces):
            middle = lane.position(length * (i + 0.5) / pieces, 0)
            along = lane.position(length * (i + 1) / pieces, 0) - middle
            segments.append((middle, math.atan2(along[1], along[0]), length * 1.3 / pieces + 0.1))
    surface = []
    for middle, heading, piece_length in segments:
        cos, sin = math.cos(heading), math.sin(heading)
        corners = []
        for along, across in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
            a, b = along * piece_length / 2, across * width / 2
            corners.append((middle[0] + a * cos - b * sin, middle[1] + a * sin + b * cos))
        surface.append(corners)
    return surface


def _published_lane(block: Any, lane: Any, lane_index: Any) -> None:
    if lane_index is not None:
        lane.index = lane_index
    for corners in _published_surface(lane):
        node = BaseRigidBodyNode(lane_index, lane.metadrive_type)
        path = NodePath(node)
        block._node_path_list += [path, node]
        node.set_active(False)
        node.setKinematic(False)
        node.setStatic(True)
        shape = BulletConvexHullShape()
        for x, y in corners:
            for z in (0.0, -0.2):
                shape.addPoint(LPoint3f(x, y, z))
        node.addShape(shape)
        block.static_nodes.append(node)
        path.reparentTo(block.lane_node_path)


def _published_sidewalk(block: Any, lane: Any, sidewalk_height: Any, lateral_direction: int) -> None:
    """Sidewalk of 0.2.5: 0.6 m outside the lane line and 3 m wide (now: 0.2 m and 2 m)."""
    if str(lane.index) in block.sidewalks:
        return
    inner = lane.width_at(0) / 2 + 0.6
    outer = inner + 3.0
    if lane.radius != 0 and lane.is_clockwise() and lateral_direction == 1:
        outer = min(outer, lane.radius - 0.05)  # the inner side of a tight bend is clipped, not dropped
    if outer <= inner:
        return
    along = np.minimum(np.arange(0, lane.length + 3, 3), lane.length)
    polygon = [tuple(lane.position(s, inner * lateral_direction)[:2]) for s in along]
    polygon += [tuple(lane.position(s, outer * lateral_direction)[:2]) for s in along[::-1]]
    block.sidewalks[str(lane.index)] = {
        "type": MetaDriveType.BOUNDARY_SIDEWALK,
        "polygon": [list(point) for point in polygon],
        "height": sidewalk_height,
    }

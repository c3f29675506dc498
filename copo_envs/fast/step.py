"""MetaDrive's multi-agent step for all vehicles at once, with the same numbers.

MetaDrive spends 90 % of a step in Python around its physics, vehicle by vehicle and ray by ray. Here Bullet still moves
the vehicles, MetaDrive still makes and removes them, and everything in between is a few kernels over arrays
(`copo_envs.fast.kernels`). What a kernel cannot decide exactly (a ray that could hit something, a contact that could
be one, a position on the border of a lane) is asked of Bullet itself.

Bullet's truth and MetaDrive's view differ by one physics step of 0.02 s: after a step Panda3D's nodes hold poses that
Bullet interpolated back. MetaDrive reads positions and headings from the nodes, so rays *start* there; they are *cast*
against Bullet's bodies, a step ahead. What decides whom to ask has to know both; see `_read`.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from metadrive.component.navigation_module.node_network_navigation import NodeNetworkNavigation
from metadrive.component.road_network import Road
from metadrive.component.vehicle.vehicle_type import StaticDefaultVehicle
from metadrive.constants import CollisionGroup, MetaDriveType
from metadrive.envs.marl_envs import (
    MultiAgentBottleneckEnv,
    MultiAgentParkingLotEnv,
    MultiAgentTollgateEnv,
)
from metadrive.policy.env_input_policy import EnvInputPolicy
from metadrive.utils.math import Vector, norm
from metadrive.utils.pg.utils import ray_localization, rect_region_detection
from panda3d.core import LPoint3f, LVector3f

from copo_envs.fast import kernels
from copo_envs.fast.kernels import BOX, NAV
from copo_envs.fast.tables import NARROWING, TOLL, MapTables, NotCovered, buildings_of, tables_of

_log = logging.getLogger("copo_envs")

KNOWN_METADRIVE = "0.4.3"
TOUCH = 0.12  # metres: Bullet calls bodies in contact from 0.02 m on, and their poses are known within 0.03 m each
SIDEWALK_TOUCH = 0.1  # metres

# Settings that the kernels take for granted: MetaDrive's own for its multi-agent scenes.
_EXPECTED = {
    "decision_repeat": 5,  # with the next one: see `_span`
    "physics_world_step_size": 0.02,
    "agent_policy": EnvInputPolicy,
    "use_lateral_reward": False,
    "out_of_route_done": False,
    "on_continuous_line_done": True,
    "on_broken_line_done": False,
    "crash_done": True,
    "crash_vehicle_done": True,
    "crash_object_done": True,
    "crash_human_done": True,
    "out_of_road_done": True,
    "truncate_as_terminate": False,
    "is_multi_agent": True,
    "discrete_action": False,
    "random_agent_model": False,
    "traffic_density": 0.0,
    "use_render": False,
    "image_observation": False,
    "record_episode": False,
    "replay_episode": None,
    "random_traffic": False,
    "force_destroy": False,
    "debug_static_world": False,
}


class Rules(NamedTuple):
    """What differs between the scenes besides their maps."""

    lane: bool
    """Leaving the lanes is out of the road."""
    yellow: bool
    """So is touching a continuous yellow line,"""
    white: bool
    """or a white one."""
    signed: bool
    """Progress counts negative off the route on a road that MetaDrive numbers backwards."""
    toll: bool
    """Toll booths: too fast on the toll road is punished, too short a stay ends a life."""


class Crew(NamedTuple):
    """A vehicle and the handles of it that a step needs."""

    agent: str
    vehicle: Any
    origin: Any
    body: Any
    node: Any
    system: Any
    reverse: bool
    max_steering: float
    engine_force: float
    brake_force: float
    max_km_h: float
    half: tuple[float, float, float]
    route_length_m: float


@dataclass
class Step:
    """What a step did to those who acted, A of them, in the order in which they were given."""

    obs: np.ndarray
    """(A, D) float32"""
    reward: np.ndarray
    terminated: np.ndarray
    timed_out: np.ndarray
    """(A,) bool: the life has lasted `horizon` steps; may hold beside `terminated`."""
    success: np.ndarray
    crash: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    velocity: np.ndarray
    route_completion: np.ndarray
    cost: np.ndarray
    energy: np.ndarray
    life_steps: np.ndarray
    newborn_obs: dict[str, np.ndarray]
    """Observations of the vehicles that appeared in this step, by MetaDrive's names."""


class BatchedStep:
    """The step of one MetaDrive environment.

    Args:
        env: MetaDrive's environment, started.
        num_slots: N, rows for vehicles.
        obs_size: D.

    Raises:
        NotCovered: a setting of the environment that this step cannot reproduce.
    """

    def __init__(self, env: Any, num_slots: int, obs_size: int):
        try:
            found = version("metadrive-simulator")
        except PackageNotFoundError:  # run from its sources
            found = "of an unknown version"
        if found != KNOWN_METADRIVE:
            raise NotCovered(f"MetaDrive {found}, whose inside may differ; it works with {KNOWN_METADRIVE}")
        _check_config(env)
        _compile()
        self._env = env
        self._rules = _rules(env)
        config = env.config
        vehicle = config["vehicle_config"]
        self._lidar = vehicle["lidar"]["num_lasers"], vehicle["lidar"]["distance"]
        self._side = vehicle["side_detector"]["num_lasers"], vehicle["side_detector"]["distance"]
        self._lines = vehicle["lane_line_detector"]["num_lasers"], vehicle["lane_line_detector"]["distance"]
        borders = self._side[0] or 2
        ego = borders
        offset = ego + 6
        navigation = -1 if self._rules.toll else offset + (self._lines[0] or 1)
        self._layout = np.array(
            [-1 if self._side[0] else 0, ego, -1 if self._lines[0] else offset, navigation], np.int64
        )
        self._lines_at = offset
        self._lidar_at = offset + (self._lines[0] or 1) + (0 if self._rules.toll else 10)
        self._toll_at = self._lidar_at + self._lidar[0]
        size = self._toll_at + (2 if self._rules.toll else 0)
        if size != obs_size:
            raise NotCovered(f"observations of {obs_size} numbers where {size} are known")
        repeat, step = config["decision_repeat"], config["physics_world_step_size"]
        # One call for all physics steps of an env step. Bullet keeps the time it has not simulated yet in single
        # precision; this span leaves it none, so that the steps are the same as in calls of one step each.
        self._span, self._repeat, self._physics_step = float(np.float32(repeat) * np.float32(step)), repeat, step

        self._map: MapTables
        self._crew: dict[int, Crew] = {}
        self._brakes: dict[str, float] = {}  # as set on the wheels
        self._wrecks: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # box, (x, y, heading, length, width) as seen
        integers: Any = lambda *shape: np.zeros(shape, np.int64)  # noqa: E731
        self._num_slots = num_slots
        self._routes = self._nodes = integers(num_slots, 0)
        self._route_length = integers(num_slots)
        self._targets = integers(num_slots, 2)
        self._current, self._final = integers(num_slots), integers(num_slots)
        self._life_steps = integers(num_slots)
        self._last_along, self._travelled = np.zeros(num_slots), np.zeros(num_slots)
        self._last_position, self._last_heading = np.zeros((num_slots, 2)), np.zeros((num_slots, 2))
        self._toll = integers(num_slots, 3)  # kind of road last seen or -1, step of entry, step of exit (0: none)
        rays = num_slots * max(self._lidar[0], self._side[0], self._lines[0])
        self._ask = integers(rays, 2)

    def forget(self) -> None:
        """Let go of the vehicles, which the next reset takes apart."""
        self._crew.clear()
        self._brakes.clear()
        self._wrecks.clear()

    def begin(self, key: Any) -> None:
        """An episode begins: the environment has been reset, nobody is known yet. `key` names the map."""
        self._map = tables_of(self._env, key)
        if self._layout[0] >= 0 and (self._map.road_kind == NARROWING).any():
            raise NotCovered("roads that narrow, in a scene without a side detector")
        self._building_nodes = [building.body for building in buildings_of(self._env)]
        self._graph = self._env.current_map.road_network.graph
        # A route is a shortest path: it comes to no node twice.
        longest = len({node for start, ends in self._graph.items() for node in (start, *ends)})
        self._routes, self._nodes = (np.zeros((self._num_slots, longest + 1), np.int64) for _ in range(2))
        self._lane_objects = [lane for targets in self._graph.values() for lanes in targets.values() for lane in lanes]
        self.forget()
        self._may_end = self._map.solid_boxes[
            np.where(self._map.solid_is_yellow, self._rules.yellow, self._rules.white).astype(bool)
        ]
        half = self._map.buildings[:, BOX.HALF]
        size = self._map.building_mask[:, 2:]
        # Where the lidar's mask covers what it stands for, it removes no hit.
        self._masked = bool((size.sum(axis=1) / 2 < np.hypot(half[:, 0], half[:, 1])).any())

    def enter(self, agent: str, slot: int, vehicle: Any) -> None:
        """A vehicle that MetaDrive has put on the road."""
        navigation, tables = vehicle.navigation, self._map
        checkpoints = navigation.checkpoints
        count = len(checkpoints)
        self._nodes[slot, :count] = [tables.node_of.setdefault(node, len(tables.node_of)) for node in checkpoints]
        roads = pairwise(checkpoints)
        self._routes[slot, : count - 1] = [tables.road_of[road] for road in roads]
        self._route_length[slot] = count
        self._targets[slot] = navigation._target_checkpoints_index
        self._current[slot] = tables.lane_of[navigation.current_lane.index]
        self._final[slot] = tables.lane_of[navigation.final_lane.index]
        self._last_along[slot] = navigation._last_long_in_ref_lane
        self._travelled[slot] = navigation.travelled_length
        self._last_position[slot] = tuple(vehicle.position)
        self._last_heading[slot] = tuple(vehicle.heading)
        self._life_steps[slot] = 0
        self._toll[slot] = -1, 0, 0
        config = vehicle.config
        self._crew[slot] = Crew(
            agent,
            vehicle,
            vehicle.origin,
            vehicle.body,
            vehicle.chassis.node(),
            vehicle.system,
            vehicle.enable_reverse,
            vehicle.max_steering,
            config["max_engine_force"],
            config["max_brake_force"],
            config["max_speed_km_h"],
            (vehicle.WIDTH / 2, vehicle.LENGTH / 2, vehicle.HEIGHT / 2),
            navigation.total_length,
        )
        if self._env.engine.episode_step > 0:  # MetaDrive keeps this record from the first step on
            self._record_toll(slot)

    def step(self, moves: np.ndarray, slots: list[int]) -> Step:
        """One env step. moves (N, 2) float32 in [-1, 1]; slots: of those who act, in MetaDrive's order."""
        env, engine = self._env, self._env.engine
        engine.episode_step += 1
        crew = [self._crew[slot] for slot in slots]
        rows = np.array(slots, np.int64)
        actions = moves[rows]
        self._actuate(crew, actions)
        self._remove_wrecks()
        engine.spawn_manager.step()
        self._advance()
        seen, boxes, velocity = self._read(crew)
        step = self._observe(rows, crew, actions.astype(float), seen, boxes, velocity)
        self._finish(rows, crew, step, seen, boxes)
        if env.config["horizon"] and engine.episode_step >= env.config["horizon"]:
            env.agent_manager.set_allow_respawn(False)
        step.newborn_obs = self._respawn()
        return step

    def wrecks(self) -> np.ndarray:
        """(W, 3): x, y, heading of the vehicles that ended and stand in the way."""
        return np.array([seen[:3] for _, seen in self._wrecks.values()]).reshape(-1, 3)

    def _actuate(self, crew: list[Crew], actions: np.ndarray) -> None:
        """`EnvInputPolicy.act` and `BaseVehicle.before_step`: forces on the wheels, the record of crashes cleared.

        What else MetaDrive notes on a vehicle (its last action and position, distances to the road's borders, lines it
        is on, energy) is not kept up to date there: it is in this object's arrays.
        """
        for one, (steering, throttle) in zip(crew, actions, strict=True):
            vehicle, system = one.vehicle, one.system
            vehicle.crash_vehicle = vehicle.crash_object = vehicle.crash_building = vehicle.crash_human = False
            angle = float(steering * one.max_steering)
            system.setSteeringValue(angle, 0)
            system.setSteeringValue(angle, 1)
            brake = 2.0
            if throttle >= 0:
                velocity = one.body.getLinearVelocity()
                km_h = math.sqrt(velocity[0] ** 2 + velocity[1] ** 2) * 3.6
                force = 0.0 if km_h > one.max_km_h else float(one.engine_force * throttle)
            elif one.reverse:
                force, brake = float(one.engine_force * throttle), 0.0
            else:
                force, brake = 0.0, float(abs(throttle) * one.brake_force)
            for wheel in range(4):
                system.applyEngineForce(force, wheel)
            if self._brakes.get(one.agent) != brake:
                self._brakes[one.agent] = brake
                for wheel in range(4):
                    system.setBrake(brake, wheel)

    def _advance(self) -> None:
        self._env.engine.physics_world.dynamic_world.doPhysics(self._span, self._repeat, self._physics_step)

    def _respawn(self) -> dict[str, np.ndarray]:
        return self._env._respawn_vehicles(randomize_position=False)[0]

    def _remove_wrecks(self) -> None:
        """`VehicleAgentManager.before_step`: wrecks go when their time is over."""
        manager = self._env.agent_manager
        manager._agents_finished_this_frame = {}
        gone = []
        for name, wreck in manager._dying_objects.items():
            wreck[1] -= 1
            if wreck[1] <= 0:
                manager._remove_vehicle(wreck[0])
                gone.append(name)
        for name in gone:
            manager._dying_objects.pop(name)
            self._wrecks.pop(name, None)

    def _read(self, crew: list[Crew]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Poses after the physics.

        Returns:
            seen (A, BOX.COLUMNS + 3): boxes at the poses that MetaDrive sees, then x, y and heading.
            boxes (A, BOX.COLUMNS): near the poses that Bullet has, see `kernels.advance_boxes`.
            velocity (A, 3).
        """
        count = len(crew)
        half = np.array([one.half for one in crew]).reshape(count, 3)
        seen, boxes = np.zeros((count, BOX.COLUMNS + 3)), np.zeros((count, BOX.COLUMNS))
        poses = np.array([(*one.origin.getPos(), *one.origin.getQuat()) for one in crew]).reshape(count, 7)
        degrees = np.array([one.origin.getH() for one in crew])
        linear = np.array([tuple(one.body.getLinearVelocity()) for one in crew]).reshape(count, 3)
        angular = np.array([tuple(one.body.getAngularVelocity()) for one in crew]).reshape(count, 3)
        kernels.pose_boxes(poses, half, seen)
        seen[:, 16:18] = poses[:, :2]
        seen[:, 18] = _wrap_to_pi(_wrap_to_pi(degrees / 180 * np.pi) + np.pi / 2)
        kernels.advance_boxes(seen, linear, angular, self._physics_step, boxes)
        return seen, boxes, linear

    def _observe(
        self,
        rows: np.ndarray,
        crew: list[Crew],
        actions: np.ndarray,
        seen: np.ndarray,
        boxes: np.ndarray,
        velocity: np.ndarray,
    ) -> Step:
        env, tables, rules, count = self._env, self._map, self._rules, len(crew)
        config, worlds = env.config, env.engine.physics_world
        position, theta = _place(seen)
        obs = np.zeros((count, self._toll_at + (2 if rules.toll else 0)))
        out = np.zeros((count, NAV.COLUMNS))
        # Headings and how far they turned as MetaDrive computes them, by Python and NumPy: compiled they differ in the
        # last bit now and then, and the yaw rate, an arc cosine close to 1, shows it.
        heading = [(math.cos(angle), math.sin(angle)) for angle in theta.tolist()]
        turned = [
            (h[0] * p[0] + h[1] * p[1]) / (norm(*h) * norm(*p))
            for h, p in zip(heading, self._last_heading[rows].tolist(), strict=True)
        ]
        heading = np.array(heading).reshape(count, 2)
        self._last_heading[rows] = heading
        before = self._current[rows], self._targets[rows]
        on_lane = self._localise(rows, position, theta)
        max_km_h = crew[0].max_km_h if crew else 0.0
        scale = _scale(tables, max_km_h)
        kernels.navigate(
            rows, position, heading, velocity, actions, tables.lanes, tables.road_first, tables.road_lanes,
            self._routes, self._nodes, self._route_length, self._targets, self._current, self._final,
            self._last_along, self._travelled, self._last_position, scale, obs, self._layout, out,
        )  # fmt: skip

        self._tell_navigation(rows, crew, *before)
        obs[:, self._layout[1] + 5] = np.clip(np.arccos(np.clip(turned, 0.0, 1.0)) / 0.1, 0.0, 1.0)
        if self._layout[3] >= 0:
            self._checkpoints(obs, crew, out)
        wreck_boxes = [box for box, _ in self._wrecks.values()]
        solid = np.concatenate([boxes, np.array(wreck_boxes).reshape(-1, BOX.COLUMNS), tables.buildings])
        none = np.full(count, -1)
        static = worlds.static_world
        side, line = CollisionGroup.ContinuousLaneLine, CollisionGroup.BrokenLaneLine
        walk = CollisionGroup.Sidewalk
        if self._side[0]:
            self._cast(obs, 0, self._side, 0.2, position, theta, static, side | walk, tables.solid_boxes, none)
        if self._lines[0]:
            mask = side | line | walk
            self._cast(obs, self._lines_at, self._lines, 0.2, position, theta, static, mask, tables.line_boxes, none)
        self._look(obs, crew, seen, boxes, solid)

        white, yellow, sidewalk = self._ground_contacts(crew, seen, boxes)
        self._body_contacts(crew, boxes, solid)
        flags = [(v.crash_vehicle, v.crash_object, v.crash_building, v.crash_human) for v in (c.vehicle for c in crew)]
        hit_vehicle, hit_object, hit_building, hit_human = np.array(flags, np.bool_).reshape(count, 4).T

        # reward_function, done_function, cost_function
        self._life_steps[rows] += 1
        out_of_road = sidewalk.copy()
        if rules.lane:
            out_of_road |= ~on_lane
        if rules.yellow:
            out_of_road |= yellow
        if rules.white:
            out_of_road |= white
        success = out[:, NAV.ARRIVED] > 0
        timed_out = self._life_steps[rows] >= config["horizon"] if config["horizon"] else np.zeros(count, np.bool_)
        road = out[:, NAV.ROAD].astype(np.int64)
        km_h = out[:, NAV.SPEED] * 3.6
        sign = np.ones(count)
        if rules.signed:
            sign[(out[:, NAV.ON_ROUTE] == 0) & tables.road_negative[road]] = -1.0
        reward = config["driving_reward"] * (out[:, NAV.PROGRESS] - out[:, NAV.PROGRESS_BEFORE]) * sign
        speed_part = config["speed_reward"] * (km_h / max_km_h if crew else km_h) * sign
        on_toll = tables.road_kind[road] == TOLL
        if rules.toll:
            reward = reward + np.where(on_toll, 0.0, speed_part)
            too_fast = on_toll & (out[:, NAV.OVERSPEED] > 0)
            reward[too_fast] = -config["overspeed_penalty"] * km_h[too_fast] / max_km_h
        else:
            reward = reward + speed_part
        for happened, value in (
            (hit_object, -config["crash_object_penalty"]),
            (hit_vehicle, -config["crash_vehicle_penalty"]),
            (out_of_road, -config["out_of_road_penalty"]),
            (success, config["success_reward"]),
        ):
            reward[happened] = value
        crash = hit_vehicle | hit_object | hit_building | hit_human
        terminated = success | out_of_road | crash
        cost = np.select(
            [out_of_road, hit_vehicle, hit_object],
            [config["out_of_road_cost"], config["crash_vehicle_cost"], config["crash_object_cost"]],
            0,
        )
        if rules.toll:
            passed = (self._toll[rows, 1] > 0) & (self._toll[rows, 2] > 0)
            stay = self._toll[rows, 2] - self._toll[rows, 1]
            terminated |= passed & (stay < config["vehicle_config"]["min_pass_steps"]) & ~timed_out
            self._toll_counter(obs, crew, on_toll)
            for slot in rows:
                self._record_toll(slot)
        return Step(
            obs=obs.astype(np.float32),
            reward=reward,
            terminated=terminated,
            timed_out=timed_out,
            success=success,
            crash=crash,
            position=position,
            heading=theta,
            velocity=out[:, NAV.SPEED],
            route_completion=self._travelled[rows] / np.array([one.route_length_m for one in crew]),
            cost=cost,
            energy=out[:, NAV.ENERGY],
            life_steps=self._life_steps[rows],
            newborn_obs={},
        )

    def _localise(self, rows: np.ndarray, position: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """The current lane of everybody; returns on_lane (A,)."""
        tables, count = self._map, len(rows)
        below = np.zeros((count, len(tables.lanes)), np.int8)
        on_lane, doubtful = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        kernels.lanes_below(position, tables.corners, tables.surfaces, tables.surface_bounds, below)
        kernels.localise(
            rows, position, theta, below, tables.lanes, self._routes, self._targets, self._current, on_lane, doubtful
        )
        for a in np.nonzero(doubtful)[0]:
            row = rows[a]
            heading = Vector((math.cos(theta[a]), math.sin(theta[a])))
            found, on_lane[a] = ray_localization(heading, tuple(position[a]), self._env.engine, return_on_lane=True)
            lanes = [tables.lane_of[index] for _, index, _ in found]
            here, following = self._targets[row]
            wanted = [self._routes[row, here]]
            if here != following:
                wanted.append(self._routes[row, following])
            for road in wanted:
                on_road = [lane for lane in lanes if int(tables.lanes[lane, kernels.LANE.ROAD]) == road]
                if on_road:
                    self._current[row] = on_road[0]
                    break
            else:
                if lanes:
                    self._current[row] = lanes[0]
        return on_lane

    def _checkpoints(self, obs: np.ndarray, crew: list[Crew], out: np.ndarray) -> None:
        """The next two checkpoints in the vehicle's frame, turned by Panda3D itself: the same bits, not just digits."""
        world, reach, at = self._env.engine.origin, NodeNetworkNavigation.NAVI_POINT_DIST, self._layout[3]
        turned = []
        for one, (x0, y0, x1, y1) in zip(crew, out[:, NAV.CHECKPOINTS].tolist(), strict=True):
            first = one.origin.getRelativeVector(world, LVector3f(x0, y0, 0))
            second = one.origin.getRelativeVector(world, LVector3f(x1, y1, 0))
            turned.append((first[1], -first[0], second[1], -second[0]))
        ahead_aside = np.clip((np.array(turned).reshape(-1, 4) / reach + 1) / 2, 0.0, 1.0)
        obs[:, [at, at + 1, at + 5, at + 6]] = ahead_aside

    def _tell_navigation(self, rows: np.ndarray, crew: list[Crew], lanes: np.ndarray, targets: np.ndarray) -> None:
        """Keep MetaDrive's own navigation up to date, for rule-based drivers: it changes every few seconds."""
        for a in np.nonzero(self._current[rows] != lanes)[0]:
            crew[a].vehicle.navigation._current_lane = self._lane_objects[self._current[rows[a]]]
        for a in np.nonzero((self._targets[rows] != targets).any(axis=1))[0]:
            navigation = crew[a].vehicle.navigation
            here, following = (int(k) for k in self._targets[rows[a]])
            checkpoints = navigation.checkpoints
            navigation._target_checkpoints_index = [here, following]
            navigation.current_road = Road(*checkpoints[here : here + 2])
            navigation.current_ref_lanes = self._graph[checkpoints[here]][checkpoints[here + 1]]
            navigation.next_road = navigation.next_ref_lanes = None
            if here != following:
                navigation.next_road = Road(*checkpoints[following : following + 2])
                navigation.next_ref_lanes = self._graph[checkpoints[following]][checkpoints[following + 1]]

    def _cast(
        self,
        obs: np.ndarray,
        at: int,
        detector: tuple[int, float],
        z: float,
        position: np.ndarray,
        theta: np.ndarray,
        world: Any,
        mask: Any,
        boxes: np.ndarray,
        own: np.ndarray,
        allowed: np.ndarray | None = None,
        phase: float = np.pi / 2,
    ) -> np.ndarray:
        """`DistanceDetector.perceive`: writes the fractions into obs; returns the rays asked (., 2)."""
        rays, distance = detector
        obs[:, at : at + rays] = 1.0
        count = kernels.rays_to_ask(
            position, theta, z, float(distance), rays, phase, boxes, own,
            np.ones((0, rays), np.bool_) if allowed is None else allowed, allowed is not None, self._ask,
        )  # fmt: skip
        asked = self._ask[:count]
        # The ends of the rays as MetaDrive computes them, by Python's cosine: along the face of a box, the last bit of
        # the end can decide whether Bullet's cast hits.
        turns = (np.arange(0, rays) * (2 * np.pi / rays) + phase).tolist()
        places, thetas = position.tolist(), theta.tolist()
        starts = [LPoint3f(x, y, z) for x, y in places]
        test, cos, sin = world.rayTestClosest, math.cos, math.sin
        fractions = []
        for a, ray in asked.tolist():
            angle, (x, y) = turns[ray] + thetas[a], places[a]
            end = LPoint3f(distance * cos(angle) + x, distance * sin(angle) + y, z)
            fractions.append(test(starts[a], end, mask).getHitFraction())
        obs[asked[:, 0], at + asked[:, 1]] = fractions
        return asked

    def _look(self, obs: np.ndarray, crew: list[Crew], seen: np.ndarray, boxes: np.ndarray, solid: np.ndarray) -> None:
        """`Lidar.perceive`."""
        count = len(crew)
        world, mask, z = self._env.engine.physics_world.dynamic_world, CollisionGroup.can_be_lidar_detected(), 1.2
        (position, theta), own = _place(seen), np.arange(count)
        allowed = self._lidar_mask(crew, seen, solid) if self._masked else None
        self._cast(obs, self._lidar_at, self._lidar, z, position, theta, world, mask, solid, own, allowed, phase=0.0)
        # A ray passes its own vehicle because it starts inside of it. Where that is not sure, leave it out by hand.
        outside = np.zeros(count, np.bool_)
        kernels.outside_own_box(position, z, boxes, 0.08, outside)
        rays, distance = self._lidar
        for a in np.nonzero(outside)[0]:
            start = LPoint3f(*position[a], z)
            for ray in range(rays):
                if allowed is not None and not allowed[a, ray]:
                    continue
                angle = float(ray * (2 * np.pi / rays) + 0.0 + theta[a])
                end = LPoint3f(
                    distance * math.cos(angle) + position[a, 0], distance * math.sin(angle) + position[a, 1], z
                )
                hits = world.rayTestAll(start, end, mask).getHits()
                others = [hit.getHitFraction() for hit in hits if hit.getNode() != crew[a].node]
                obs[a, self._lidar_at + ray] = min(others, default=1.0)

    def _lidar_mask(self, crew: list[Crew], seen: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """`Lidar._get_lidar_mask`: allowed (A, rays)."""
        count, (rays, distance) = len(crew), self._lidar
        (position, theta), own = _place(seen), np.arange(count)
        mine = np.array([(s[16], s[17], 2 * c.half[1], 2 * c.half[0]) for s, c in zip(seen, crew, strict=True)])
        wrecks = np.array([(s[0], s[1], s[3], s[4]) for _, s in self._wrecks.values()])
        objects = np.concatenate([mine.reshape(-1, 4), wrecks.reshape(-1, 4), self._map.building_mask])
        near, doubtful = np.zeros((count, len(objects)), np.bool_), np.zeros(count, np.bool_)
        kernels.near_circle(position, float(int(distance)), solid, own, near, doubtful)
        for a in np.nonzero(doubtful)[0]:
            near[a] = self._found_by_bullet(position[a], crew, int(distance))
        allowed = np.zeros((count, rays), np.bool_)
        kernels.lidar_mask(position, theta, float(distance), rays, objects, own, near, allowed)
        return allowed

    def _found_by_bullet(self, position: np.ndarray, crew: list[Crew], radius: int) -> np.ndarray:
        """Which of the crew, the wrecks and the buildings `Lidar.get_surrounding_objects` finds."""
        engine = self._env.engine
        detector = engine.get_sensor("lidar").get_broad_phase_detector(radius)
        detector.setPos(LPoint3f(*position, 0.0))
        found = set()
        for contact in engine.physics_world.dynamic_world.contactTest(detector.node(), True).getContacts():
            found |= {contact.getNode0(), contact.getNode1()}
        wrecks = [wreck[0].chassis.node() for wreck in self._env.agent_manager._dying_objects.values()]
        nodes = [*(one.node for one in crew), *wrecks, *self._building_nodes]
        return np.array([node in found for node in nodes])

    def _ground_contacts(
        self, crew: list[Crew], seen: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`_state_check`, the part about lines and sidewalks: on white, on yellow, on a sidewalk, each (A,)."""
        count, engine = len(crew), self._env.engine
        white, yellow, sidewalk = (np.zeros(count, np.bool_) for _ in range(3))
        near = np.zeros(count, np.bool_)
        kernels.may_touch(boxes, self._may_end, False, TOUCH, near)
        for a in np.nonzero(near)[0]:
            for contact in engine.physics_world.static_world.contactTest(crew[a].node, True).getContacts():
                names = contact.getNode0().getName(), contact.getNode1().getName()
                white[a] |= MetaDriveType.LINE_SOLID_SINGLE_WHITE in names
                yellow[a] |= MetaDriveType.LINE_SOLID_SINGLE_YELLOW in names
        tables = self._map
        kernels.may_touch_sidewalk(seen, tables.walls, tables.sidewalks, tables.sidewalk_bounds, SIDEWALK_TOUCH, near)
        for a in np.nonzero(near)[0]:
            vehicle = crew[a].vehicle
            hit = rect_region_detection(
                engine,
                tuple(seen[a, 16:18]),
                np.rad2deg(seen[a, 18]),
                vehicle.LENGTH,
                vehicle.WIDTH,
                CollisionGroup.Sidewalk,
                in_static_world=False,
            )
            sidewalk[a] = hit.hasHit() and hit.getNode().getName() in _EDGES
        return white, yellow, sidewalk

    def _body_contacts(self, crew: list[Crew], boxes: np.ndarray, solid: np.ndarray) -> None:
        """`_state_check`, the part about bodies: completes what Bullet's own callback has noted on the vehicles."""
        near = np.zeros(len(crew), np.bool_)
        kernels.may_touch(boxes, solid, True, TOUCH, near)
        for a in np.nonzero(near)[0]:
            vehicle = crew[a].vehicle
            for contact in self._env.engine.physics_world.dynamic_world.contactTest(crew[a].node, True).getContacts():
                first, second = contact.getNode0(), contact.getNode1()
                name = (first if second.getName() == MetaDriveType.VEHICLE else second).getName()
                if name == MetaDriveType.VEHICLE:
                    vehicle.crash_vehicle = True
                elif name == MetaDriveType.BUILDING:
                    vehicle.crash_building = True

    def _toll_counter(self, obs: np.ndarray, crew: list[Crew], on_toll: np.ndarray) -> None:
        """`TollGateObservation.observe`: on the toll road; has stayed long enough by the counter it was given."""
        observations = self._env.agent_manager.observations
        enough = self._env.config["vehicle_config"]["min_pass_steps"]
        for a in np.nonzero(on_toll)[0]:
            counter = observations[crew[a].vehicle.name]
            counter.in_toll_time += 1
            obs[a, self._toll_at] = 1.0
            obs[a, self._toll_at + 1] = float(counter.in_toll_time > enough)

    def _record_toll(self, slot: int) -> None:
        """`StayTimeManager.record`: the steps at which a vehicle came to the toll road and left it."""
        if not self._rules.toll:
            return
        kind = self._map.road_kind[self._routes[slot, self._targets[slot, 0]]]
        before, step = self._toll[slot, 0], self._env.engine.episode_step
        if before not in (-1, kind):
            if kind == TOLL:
                self._toll[slot, 1] = step
            elif kind == NARROWING and before == TOLL:
                self._toll[slot, 2] = step
        self._toll[slot, 0] = kind

    def _finish(self, rows: np.ndarray, crew: list[Crew], step: Step, seen: np.ndarray, boxes: np.ndarray) -> None:
        """`_after_vehicle_done`: who has arrived goes, who has ended otherwise stays as a wreck."""
        manager, spawns = self._env.agent_manager, self._env.engine.spawn_manager
        parking = isinstance(self._env, MultiAgentParkingLotEnv)
        for a in np.nonzero(step.terminated)[0] if parking else ():
            spawns.after_vehicle_done(crew[a].agent)
        for a in np.nonzero(step.terminated | step.timed_out)[0]:
            one = crew[a]
            name = one.vehicle.name
            manager._finish(one.agent, ignore_delay_done=bool(step.success[a]))
            # MetaDrive would keep these for every vehicle that ever lived.
            manager._agents_finished_this_frame.pop(one.agent, None)
            for kept in (manager.observations, manager.observation_spaces, manager.action_spaces):
                kept.pop(name, None)
            del self._crew[int(rows[a])]
            self._brakes.pop(one.agent, None)
            if name in manager._dying_objects:
                where = np.array([*seen[a, 16:19], 2 * one.half[1], 2 * one.half[0]])
                self._wrecks[name] = boxes[a].copy(), where


@functools.cache
def _compile() -> None:
    """Once per process; from numba's cache but for the first time."""
    cache = Path(os.environ.get("NUMBA_CACHE_DIR", Path(kernels.__file__).parent))
    if not any(cache.rglob("kernels.*.nbi")):
        _log.warning("compiling the kernels of the batched step, once for this installation: about half a minute")
    try:
        kernels.warm_up()
    except Exception as error:
        raise NotCovered(f"this machine: its kernels do not compile here ({error})") from error


_EDGES = (MetaDriveType.BOUNDARY_LINE, MetaDriveType.BOUNDARY_SIDEWALK, MetaDriveType.GUARDRAIL)


def _place(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (A, 2) and heading (A,) as arrays of their own: kernels are compiled for one layout."""
    return seen[:, 16:18].copy(), seen[:, 18].copy()


def _wrap_to_pi(angle: np.ndarray) -> np.ndarray:
    angle = angle % (2 * np.pi)
    return angle - 2 * np.pi * (angle > np.pi)


def _scale(tables: MapTables, max_km_h: float) -> np.ndarray:
    from metadrive.component.pg_space import BlockParameterSpace, Parameter

    curve: Any = BlockParameterSpace.CURVE
    navigation = NodeNetworkNavigation
    return np.array(
        [
            tables.width_scale,
            tables.max_lane_width,
            curve[Parameter.radius].max,
            curve[Parameter.angle].max,
            navigation.NAVI_POINT_DIST,
            navigation.PRE_NOTIFY_DIST,
            StaticDefaultVehicle.MAX_STEERING,
            max_km_h,
        ],
        float,
    )


def _rules(env: Any) -> Rules:
    if isinstance(env, MultiAgentTollgateEnv):
        return Rules(lane=False, yellow=env.config["cross_yellow_line_done"], white=False, signed=False, toll=True)
    if isinstance(env, MultiAgentBottleneckEnv):
        return Rules(lane=True, yellow=env.config["cross_yellow_line_done"], white=True, signed=False, toll=False)
    if isinstance(env, MultiAgentParkingLotEnv):
        return Rules(lane=True, yellow=True, white=False, signed=True, toll=False)
    return Rules(lane=True, yellow=True, white=True, signed=True, toll=False)


def _check_config(env: Any) -> None:
    config = env.config
    for name, value in _EXPECTED.items():
        if config[name] != value:
            raise NotCovered(f"{name}={config[name]!r}")
    lidar = config["vehicle_config"]["lidar"]
    for name in ("num_others", "gaussian_noise", "dropout_prob"):
        if lidar[name]:
            raise NotCovered(f"lidar {name}={lidar[name]}")
    if config["vehicle_config"]["overtake_stat"]:
        raise NotCovered("overtake_stat=True")
    if config["vehicle_config"]["navigation_module"] is not NodeNetworkNavigation:
        raise NotCovered(f"navigation_module={config['vehicle_config']['navigation_module']}")

"""MetaDrive's multi-agent step for all vehicles at once, with the same numbers.

MetaDrive spends most of a step in Python around its physics, vehicle by vehicle and ray by ray. Here Bullet still moves
the vehicles, MetaDrive still makes and removes them, and everything in between is a few kernels over arrays
(`copo_envs.fast.kernels`). What a kernel cannot decide exactly (a ray that could hit something, a contact that could
be one, a position on the border of a lane) is asked of Bullet itself (`copo_envs.fast.bullet`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from metadrive.component.navigation_module.node_network_navigation import NodeNetworkNavigation
from metadrive.component.pg_space import BlockParameterSpace, Parameter
from metadrive.component.road_network import Road
from metadrive.component.vehicle.vehicle_type import StaticDefaultVehicle
from metadrive.constants import CollisionGroup
from metadrive.envs.marl_envs import (
    MultiAgentParkingLotEnv,
)
from metadrive.utils.math import Vector, norm
from metadrive.utils.pg.utils import ray_localization
from panda3d.core import LVector3f

from copo_envs.fast import bullet, kernels
from copo_envs.fast.bullet import Poses
from copo_envs.fast.covered import NotCovered, check_covered, compile_kernels, rules_of
from copo_envs.fast.kernels import BOX, LAYOUT, NAV
from copo_envs.fast.tables import NARROWING, TOLL, MapTables, buildings_of, tables_of


class Handles(NamedTuple):
    """Of a vehicle, what a step needs: MetaDrive's and Panda3D's objects, and its limits."""

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


@dataclass
class Step:
    """What a step did to those who acted, A of them, in the order in which they were given; units as in `StepBatch`."""

    obs: np.ndarray
    """(A, D) float32."""
    reward: np.ndarray
    terminated: np.ndarray
    timed_out: np.ndarray
    """(A,) bool: the life has lasted `horizon` steps; may hold beside `terminated`."""
    success: np.ndarray
    """(A,) bool: has arrived."""
    crash: np.ndarray
    """(A,) bool: touched a vehicle, an object or a building."""
    position: np.ndarray
    heading: np.ndarray
    velocity: np.ndarray
    route_completion: np.ndarray
    """(A,) not cut to [0, 1]."""
    cost: np.ndarray
    energy: np.ndarray
    life_steps: np.ndarray
    newborn_obs: dict[str, np.ndarray]
    """Observations (D,) of the vehicles that appeared in this step, by MetaDrive's names."""


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
        check_covered(env)
        compile_kernels()
        self._env = env
        self._rules = rules_of(env)
        config = env.config
        vehicle = config["vehicle_config"]
        self._lidar = vehicle["lidar"]["num_lasers"], vehicle["lidar"]["distance"]
        self._side = vehicle["side_detector"]["num_lasers"], vehicle["side_detector"]["distance"]
        self._lines = vehicle["lane_line_detector"]["num_lasers"], vehicle["lane_line_detector"]["distance"]
        ego = self._side[0] or 2
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
        self._handles: dict[int, Handles] = {}
        self._wrecks: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # box, (x, y, heading, length, width) as seen

        def numbers(*shape: int) -> np.ndarray:
            return np.zeros((num_slots, *shape))

        def integers(*shape: int) -> np.ndarray:
            return np.zeros((num_slots, *shape), np.int64)

        # By slot, of the vehicle in it
        self._half, self._top_speed, self._brake = numbers(3), numbers(), numbers()  # km/h; as set on the wheels
        self._last_position, self._last_heading = numbers(2), numbers(2)
        self._life_steps = integers()
        self._routes, self._nodes = integers(0), integers(0)  # roads and nodes of its route
        self._checkpoints, self._targets = integers(), integers(2)  # how many nodes; MetaDrive's target checkpoints
        self._current, self._final = integers(), integers()  # lanes
        self._last_along, self._travelled, self._route_length = numbers(), numbers(), numbers()  # metres
        self._toll = integers(3)  # kind of road last seen or -1, step of entry, step of exit (0: none)

    def forget(self) -> None:
        """Let go of the vehicles, which the next reset takes apart."""
        self._handles.clear()
        self._wrecks.clear()

    def begin(self, key: Any) -> None:
        """An episode begins: the environment has been reset, nobody is known yet. `key` names the map."""
        self._map = tables_of(self._env, key)
        if self._layout[LAYOUT.BORDERS] >= 0 and (self._map.road_kind == NARROWING).any():
            raise NotCovered("roads that narrow, in a scene without a side detector")
        self._building_nodes = [building.body for building in buildings_of(self._env)]
        self._graph = self._env.current_map.road_network.graph
        # A route is a shortest path: it comes to no node twice.
        longest = len({node for start, ends in self._graph.items() for node in (start, *ends)})
        self._routes, self._nodes = (np.zeros((len(self._half), longest + 1), np.int64) for _ in range(2))
        self._lane_objects = [lane for targets in self._graph.values() for lanes in targets.values() for lane in lanes]
        self.forget()
        self._scale = _scale(self._map)
        self._may_end = self._map.solid_boxes[
            np.where(self._map.solid_is_yellow, self._rules.yellow, self._rules.white).astype(bool)
        ]
        half = self._map.buildings[:, BOX.HALF : BOX.HALF + 3]
        size = self._map.building_mask[:, 2:]
        # Where the lidar's mask covers what it stands for, it removes no hit.
        self._masked = bool((size.sum(axis=1) / 2 < np.hypot(half[:, 0], half[:, 1])).any())

    def enter(self, agent: str, slot: int, vehicle: Any) -> None:
        """A vehicle that MetaDrive has put on the road."""
        navigation, tables = vehicle.navigation, self._map
        checkpoints = navigation.checkpoints
        count = len(checkpoints)
        self._nodes[slot, :count] = [tables.node_of.setdefault(node, len(tables.node_of)) for node in checkpoints]
        self._routes[slot, : count - 1] = [tables.road_of[road] for road in pairwise(checkpoints)]
        self._checkpoints[slot], self._route_length[slot] = count, navigation.total_length
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
        self._half[slot] = vehicle.WIDTH / 2, vehicle.LENGTH / 2, vehicle.HEIGHT / 2
        self._top_speed[slot], self._brake[slot] = config["max_speed_km_h"], np.nan
        self._handles[slot] = Handles(
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
        )
        if self._env.engine.episode_step > 0:  # MetaDrive keeps this record from the first step on
            self._record_toll(slot)

    def step(self, moves: np.ndarray, slots: list[int]) -> Step:
        """One env step. moves (N, 2) float32 in [-1, 1]; slots: of those who act, in MetaDrive's order."""
        env, engine = self._env, self._env.engine
        engine.episode_step += 1
        acting = [self._handles[slot] for slot in slots]
        rows = np.array(slots, np.int64)
        actions = moves[rows]
        self._actuate(slots, acting, actions)
        self._remove_wrecks()
        engine.spawn_manager.step()
        self._advance()
        poses = self._read(rows, acting)
        step = self._observe(rows, acting, actions.astype(float), poses)
        self._finish(rows, acting, step, poses)
        if env.config["horizon"] and engine.episode_step >= env.config["horizon"]:
            env.agent_manager.set_allow_respawn(False)
        step.newborn_obs = self._respawn()
        return step

    def wrecks(self) -> np.ndarray:
        """(W, 3): x, y, heading of the vehicles that ended and stand in the way."""
        return np.array([where[:3] for _, where in self._wrecks.values()]).reshape(-1, 3)

    def _actuate(self, slots: list[int], acting: list[Handles], actions: np.ndarray) -> None:
        """`EnvInputPolicy.act` and `BaseVehicle.before_step`: forces on the wheels, the record of crashes cleared.

        What else MetaDrive notes on a vehicle (its last action and position, distances to the road's borders, lines it
        is on, energy) is not kept up to date there: it is in this object's arrays.
        """
        for slot, one, (steering, throttle) in zip(slots, acting, actions, strict=True):
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
            if self._brake[slot] != brake:
                self._brake[slot] = brake
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

    def _read(self, rows: np.ndarray, acting: list[Handles]) -> Poses:
        count = len(acting)
        half = self._half[rows]
        seen, boxes = np.zeros((count, BOX.COLUMNS)), np.zeros((count, BOX.COLUMNS))
        poses = np.array([(*one.origin.getPos(), *one.origin.getQuat()) for one in acting]).reshape(count, 7)
        degrees = np.array([one.origin.getH() for one in acting])
        linear = np.array([tuple(one.body.getLinearVelocity()) for one in acting]).reshape(count, 3)
        angular = np.array([tuple(one.body.getAngularVelocity()) for one in acting]).reshape(count, 3)
        theta = _wrap_to_pi(_wrap_to_pi(degrees / 180 * np.pi) + np.pi / 2)
        kernels.pose_boxes(poses, half, seen)
        kernels.advance_boxes(seen, linear, angular, self._physics_step, boxes)
        return Poses(poses[:, :2].copy(), theta, seen, boxes, linear)

    def _observe(self, rows: np.ndarray, acting: list[Handles], actions: np.ndarray, poses: Poses) -> Step:
        tables, count = self._map, len(acting)
        obs = np.zeros((count, self._toll_at + (2 if self._rules.toll else 0)))
        out = np.zeros((count, NAV.COLUMNS))
        # Headings and how far they turned as MetaDrive computes them, by Python and NumPy: compiled they differ in the
        # last bit now and then, and the yaw rate, an arc cosine close to 1, shows it.
        headings = [(math.cos(angle), math.sin(angle)) for angle in poses.theta.tolist()]
        turned = [
            (h[0] * p[0] + h[1] * p[1]) / (norm(*h) * norm(*p))
            for h, p in zip(headings, self._last_heading[rows].tolist(), strict=True)
        ]
        heading = np.array(headings).reshape(count, 2)
        self._last_heading[rows] = heading
        before = self._current[rows], self._targets[rows]
        on_lane = self._localise(rows, poses)
        kernels.navigate(
            rows, poses.position, heading, poses.velocity, actions, tables.lanes, tables.road_first, tables.road_lanes,
            self._routes, self._nodes, self._checkpoints, self._targets, self._current, self._final, self._last_along,
            self._travelled, self._last_position, self._top_speed, self._scale, obs, self._layout, out,
        )  # fmt: skip
        self._tell_navigation(rows, acting, *before)
        obs[:, self._layout[LAYOUT.EGO] + 5] = np.clip(np.arccos(np.clip(turned, 0.0, 1.0)) / 0.1, 0.0, 1.0)
        if self._layout[LAYOUT.NAVIGATION] >= 0:
            self._turn_checkpoints(obs, acting, out)

        wrecks = np.array([box for box, _ in self._wrecks.values()]).reshape(-1, BOX.COLUMNS)
        solid = np.concatenate([poses.boxes, wrecks, tables.buildings])
        self._look(obs, acting, poses, solid)
        return self._judge(rows, acting, poses, solid, on_lane, obs, out)

    def _judge(
        self,
        rows: np.ndarray,
        acting: list[Handles],
        poses: Poses,
        solid: np.ndarray,
        on_lane: np.ndarray,
        obs: np.ndarray,
        out: np.ndarray,
    ) -> Step:
        """`reward_function`, `done_function`, `cost_function` of the scenes."""
        tables, rules, config, count = self._map, self._rules, self._env.config, len(acting)
        worlds, nodes = self._env.engine.physics_world, [one.node for one in acting]
        vehicles = [one.vehicle for one in acting]
        white, yellow = bullet.line_contacts(worlds.static_world, nodes, poses.boxes, self._may_end).T
        out_of_road = bullet.on_sidewalk(self._env.engine, tables, poses, self._half[rows])
        bullet.note_body_contacts(worlds.dynamic_world, vehicles, nodes, solid)
        flags = [(v.crash_vehicle, v.crash_object, v.crash_building, v.crash_human) for v in vehicles]
        hit_vehicle, hit_object, hit_building, hit_human = np.array(flags, np.bool_).reshape(count, 4).T

        self._life_steps[rows] += 1
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
        pace = km_h / self._top_speed[rows]
        sign = np.ones(count)
        if rules.signed:
            sign[(out[:, NAV.ON_ROUTE] == 0) & tables.road_negative[road]] = -1.0
        reward = config["driving_reward"] * (out[:, NAV.PROGRESS] - out[:, NAV.PROGRESS_BEFORE]) * sign
        on_toll = tables.road_kind[road] == TOLL
        reward += np.where(on_toll & rules.toll, 0.0, config["speed_reward"] * pace * sign)
        if rules.toll:
            too_fast = on_toll & (out[:, NAV.OVERSPEED] > 0)
            reward[too_fast] = -config["overspeed_penalty"] * km_h[too_fast] / self._top_speed[rows][too_fast]
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
            self._toll_counter(obs, acting, on_toll)
            for slot in rows:
                self._record_toll(slot)
        return Step(
            obs=obs.astype(np.float32),
            reward=reward,
            terminated=terminated,
            timed_out=timed_out,
            success=success,
            crash=crash,
            position=poses.position,
            heading=poses.theta,
            velocity=out[:, NAV.SPEED],
            route_completion=self._travelled[rows] / self._route_length[rows],
            cost=cost,
            energy=out[:, NAV.ENERGY],
            life_steps=self._life_steps[rows],
            newborn_obs={},
        )

    def _localise(self, rows: np.ndarray, poses: Poses) -> np.ndarray:
        """The current lane of everybody; returns on_lane (A,)."""
        tables, count, position, theta = self._map, len(rows), poses.position, poses.theta
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

    def _turn_checkpoints(self, obs: np.ndarray, acting: list[Handles], out: np.ndarray) -> None:
        """The next two checkpoints in the vehicle's frame, turned by Panda3D itself: the same bits, not just digits."""
        world, reach, at = (
            self._env.engine.origin,
            NodeNetworkNavigation.NAVI_POINT_DIST,
            self._layout[LAYOUT.NAVIGATION],
        )
        turned = []
        for one, (x0, y0, x1, y1) in zip(acting, out[:, NAV.CHECKPOINTS : NAV.CHECKPOINTS + 4].tolist(), strict=True):
            first = one.origin.getRelativeVector(world, LVector3f(x0, y0, 0))
            second = one.origin.getRelativeVector(world, LVector3f(x1, y1, 0))
            turned.append((first[1], -first[0], second[1], -second[0]))
        ahead_aside = np.clip((np.array(turned).reshape(-1, 4) / reach + 1) / 2, 0.0, 1.0)
        obs[:, [at, at + 1, at + 5, at + 6]] = ahead_aside

    def _tell_navigation(self, rows: np.ndarray, acting: list[Handles], lanes: np.ndarray, targets: np.ndarray) -> None:
        """Keep MetaDrive's own navigation up to date, for rule-based drivers: it changes every few seconds."""
        for a in np.nonzero(self._current[rows] != lanes)[0]:
            acting[a].vehicle.navigation._current_lane = self._lane_objects[self._current[rows[a]]]
        for a in np.nonzero((self._targets[rows] != targets).any(axis=1))[0]:
            navigation = acting[a].vehicle.navigation
            here, following = (int(k) for k in self._targets[rows[a]])
            checkpoints = navigation.checkpoints
            navigation._target_checkpoints_index = [here, following]
            navigation.current_road = Road(*checkpoints[here : here + 2])
            navigation.current_ref_lanes = self._graph[checkpoints[here]][checkpoints[here + 1]]
            navigation.next_road = navigation.next_ref_lanes = None
            if here != following:
                navigation.next_road = Road(*checkpoints[following : following + 2])
                navigation.next_ref_lanes = self._graph[checkpoints[following]][checkpoints[following + 1]]

    def _look(self, obs: np.ndarray, acting: list[Handles], poses: Poses, solid: np.ndarray) -> None:
        """The detectors: lidar, and in some scenes the borders of the road and the lines of the lane."""
        tables, worlds = self._map, self._env.engine.physics_world
        border, line = CollisionGroup.ContinuousLaneLine, CollisionGroup.BrokenLaneLine
        for detector, at, mask, boxes in (
            (self._side, 0, border | CollisionGroup.Sidewalk, tables.solid_boxes),
            (self._lines, self._lines_at, border | line | CollisionGroup.Sidewalk, tables.line_boxes),
        ):
            if detector[0]:
                seen = bullet.cast_rays(worlds.static_world, mask, 0.2, detector, np.pi / 2, poses, boxes)
                obs[:, at : at + detector[0]] = seen
        nodes, mask = [one.node for one in acting], CollisionGroup.can_be_lidar_detected()
        allowed = self._lidar_mask(nodes, poses, solid) if self._masked else None
        seen = bullet.cast_rays(worlds.dynamic_world, mask, 1.2, self._lidar, 0.0, poses, solid, nodes, allowed)
        obs[:, self._lidar_at : self._lidar_at + self._lidar[0]] = seen

    def _lidar_mask(self, nodes: list[Any], poses: Poses, solid: np.ndarray) -> np.ndarray:
        standing = self._env.agent_manager._dying_objects.values()
        wrecks = np.array([where for _, where in self._wrecks.values()]).reshape(-1, 5)[:, [0, 1, 3, 4]]
        size = 2 * solid[: len(nodes), [BOX.HALF + 1, BOX.HALF]]  # length and width
        objects = np.concatenate([np.hstack([poses.position, size]), wrecks, self._map.building_mask])
        nodes = [*nodes, *(wreck[0].chassis.node() for wreck in standing), *self._building_nodes]
        return bullet.lidar_mask(self._env.engine, self._lidar, poses, solid, objects, nodes)

    def _toll_counter(self, obs: np.ndarray, acting: list[Handles], on_toll: np.ndarray) -> None:
        """`TollGateObservation.observe`: on the toll road; has stayed long enough by the counter it was given."""
        observations = self._env.agent_manager.observations
        enough = self._env.config["vehicle_config"]["min_pass_steps"]
        for a in np.nonzero(on_toll)[0]:
            counter = observations[acting[a].vehicle.name]
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

    def _finish(self, rows: np.ndarray, acting: list[Handles], step: Step, poses: Poses) -> None:
        """`_after_vehicle_done`: who has arrived goes, who has ended otherwise stays as a wreck."""
        manager, spawns = self._env.agent_manager, self._env.engine.spawn_manager
        parking = isinstance(self._env, MultiAgentParkingLotEnv)
        for a in np.nonzero(step.terminated)[0] if parking else ():
            spawns.after_vehicle_done(acting[a].agent)
        for a in np.nonzero(step.terminated | step.timed_out)[0]:
            one = acting[a]
            name = one.vehicle.name
            manager._finish(one.agent, ignore_delay_done=bool(step.success[a]))
            # MetaDrive would keep these for every vehicle that ever lived.
            manager._agents_finished_this_frame.pop(one.agent, None)
            for kept in (manager.observations, manager.observation_spaces, manager.action_spaces):
                kept.pop(name, None)
            del self._handles[int(rows[a])]
            if name in manager._dying_objects:
                half_width, half_length, _ = self._half[rows[a]]
                where = np.array([*poses.position[a], poses.theta[a], 2 * half_length, 2 * half_width])
                self._wrecks[name] = poses.boxes[a].copy(), where


def _wrap_to_pi(angle: np.ndarray) -> np.ndarray:
    angle = angle % (2 * np.pi)
    return angle - 2 * np.pi * (angle > np.pi)


def _scale(tables: MapTables) -> np.ndarray:
    """What observations are divided by, in the order of `kernels.SCALE`."""
    curve: Any = BlockParameterSpace.CURVE
    return np.array(
        [
            tables.width_scale,
            tables.max_lane_width,
            curve[Parameter.radius].max,
            curve[Parameter.angle].max,
            NodeNetworkNavigation.NAVI_POINT_DIST,
            NodeNetworkNavigation.PRE_NOTIFY_DIST,
            StaticDefaultVehicle.MAX_STEERING,
        ],
        float,
    )

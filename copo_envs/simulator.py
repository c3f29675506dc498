"""The one room that touches MetaDrive: a scene with its life cycle, as arrays by slot.

One MetaDrive engine fits into a process, so at most one `MetaDriveSimulator` is open at a time in it; further
ones live in worker processes (`copo_envs.process`). The engine starts at the first reset, not before, so an
environment can be pickled, and an unused one costs nothing.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import metadrive.envs.marl_envs as marl_envs
import numpy as np
from metadrive.component.lane.straight_lane import StraightLane
from metadrive.component.pgblock.parking_lot import ParkingLot
from metadrive.component.road_network import Road
from metadrive.component.vehicle.base_vehicle import BaseVehicle
from metadrive.constants import PGLineColor, PGLineType
from metadrive.engine.engine_utils import engine_initialized
from metadrive.envs.marl_envs.marl_parking_lot import MultiAgentParkingLotEnv, ParkingLotSpawnManager
from metadrive.envs.marl_envs.multi_agent_metadrive import MultiAgentMetaDrive
from metadrive.manager.pg_map_manager import PGMapManager

from copo_envs import metadrive_fixes
from copo_envs.episodes import EpisodeState
from copo_envs.outcomes import outcome_of
from copo_envs.rule_driver import RuleDriver
from copo_envs.scenes import SceneError, SceneOptions, check_actions, get_scene, map_seed
from copo_envs.step_batch import ACTION_SIZE, StepBatch

_log = logging.getLogger("copo_envs")


class _Observations:
    """`env.observations[agent]` without building a dictionary over every vehicle that ever lived for each look-up."""

    def __init__(self, manager: Any):
        self._manager = manager

    def __getitem__(self, agent: str) -> Any:
        return self._manager.observations[self._manager._agent_to_object[agent]]


class _Scene(MultiAgentMetaDrive):
    """What every scene needs on top of MetaDrive's class. Mixed in before it, see `_scene_class`."""

    episode_rng: np.random.Generator
    max_lives: int
    toll_counter: str = "shared"
    after_step: dict[str, tuple[float, float, float, float]]
    """Agent -> x, y, heading, route completion after the step, before vehicles that ended are taken away."""

    @property
    def _DEBUG_RANDOM_SEED(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        # MetaDrive seeds a new generator with this for every respawn place that it draws; by default from the OS.
        return int(self.episode_rng.integers(2**31))

    def seed(self, seed: int | None = None) -> None:
        super().seed(seed)
        # The scenario index (`seed`) chooses the map; spawn places and destinations belong to the episode.
        engine: Any = self.engine
        engine.spawn_manager.np_random = np.random.RandomState(self.episode_rng.integers(2**32))

    def _respawn_single_vehicle(self, randomize_position: bool = False) -> Any:
        if self.agent_manager.next_agent_count >= self.max_lives:
            self.agent_manager.set_allow_respawn(False)
            return None, None, None
        if self.toll_counter == "per_vehicle":
            # MetaDrive gives agent0's observation object, which holds the toll counter, to every vehicle that respawns.
            self.agent_manager._init_observations["agent0"] = self.get_single_observation()
        return self._respawn(randomize_position)

    def _respawn(self, randomize_position: bool) -> Any:
        return super()._respawn_single_vehicle(randomize_position)

    @property
    def observations(self) -> Any:
        return _Observations(self.agent_manager)

    def _after_vehicle_done(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Any:
        self.after_step = {
            name: (*_state(vehicle), float(vehicle.navigation.route_completion))
            for name, vehicle in self.agents.items()
        }
        return super()._after_vehicle_done(obs, reward, terminated, truncated, info)


class _LastMapManager(PGMapManager):
    """Keeps the map of the last episode, and no other: maps that are not used again would pile up."""

    def before_reset(self) -> None:
        super().before_reset()
        stored: Any = self.maps
        if self.engine.global_seed not in stored:
            self.clear_stored_maps()


class _PgMapScene(_Scene):
    def setup_engine(self) -> None:
        super().setup_engine()
        self.engine.update_manager("map_manager", _LastMapManager())


class _ParkingSpawnManager(ParkingLotSpawnManager):
    """Spaces in an order that does not depend on the hash seed."""

    def get_parking_space(self, v_id: str) -> Any:
        free = sorted(self.parking_space_available, key=lambda road: (road.start_node, road.end_node))
        if not free:
            raise SceneError("parking_lot has no free space left for a vehicle that drives in")
        rng: Any = self.np_random
        space = free[rng.randint(len(free))]
        self.parking_space_available.remove(space)
        self.v_dest_pair[v_id] = space
        return space

    def get_available_respawn_places(self, map: Any, randomize: bool = False) -> Any:
        engine: Any = self.engine
        places: dict[str, Any] = super().get_available_respawn_places(map, randomize)
        for place in places.values():
            config: Any = place["config"]
            road = Road(*config["spawn_lane_index"][:2])
            if road not in engine.global_config["in_spawn_roads"] and ParkingLot.is_in_direction_parking_space(road):
                road = map.parking_lot.out_direction_parking_space(road)
                config["spawn_lane_index"] = (road.start_node, road.end_node, 0)
        return places


class _ParkingScene(_Scene, MultiAgentParkingLotEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    def _respawn(self, randomize_position: bool) -> Any:
        # MetaDrive's own override calls vehicle.reset() without a config, which puts every respawned vehicle on top of
        # the one before it. The base class's method is the same with that repaired.
        return MultiAgentMetaDrive._respawn_single_vehicle(self, randomize_position)

    def setup_engine(self) -> None:
        super().setup_engine()
        self.engine.update_manager("spawn_manager", _ParkingSpawnManager())


def _scene_class(name: str) -> type[_Scene]:
    base = getattr(marl_envs, name)
    if base is MultiAgentParkingLotEnv:
        return _ParkingScene
    if base is MultiAgentMetaDrive:
        return _PgMapScene
    return type(f"_{name}", (_Scene, base), {})


class MetaDriveSimulator:
    """A MetaDrive scene as a `Simulator`.

    Args:
        options: from `scene_options`.
        settings: of MetaDrive's own, beyond those that the options stand for.
    """

    def __init__(self, options: SceneOptions, settings: dict[str, Any] | None = None):
        spec = get_scene(options.scene)
        self.options = options
        self.num_slots = options.num_agents
        self.obs_size = spec.obs_size
        self.max_lives = options.max_lives
        self.batch = StepBatch.zeros(self.num_slots, self.obs_size)
        self._class_name = spec.metadrive_class
        self._settings = dict(settings or {})
        self._env: Any = None
        self._fast: Any = None  # the batched step, once it has been made
        self._batched: Any = None  # the batched step, or None: MetaDrive's own
        self._refused = False  # the batched step was tried and does not work here
        self._state = EpisodeState()
        self._end: weakref.finalize | None = None
        """Ends the engine; calls itself when this object goes."""
        self._vehicle_observations: dict[str, Any] = {}
        self._slot_of: dict[str, int] = {}
        self._rule_driver = RuleDriver()
        self._rule_actions = np.zeros((self.num_slots, ACTION_SIZE), np.float32)
        self._rule_actions_at = -1

    @property
    def backend(self) -> str | None:
        if self._env is None:
            return None
        return "stock" if self._batched is None else "fast"

    @property
    def metadrive(self) -> Any:
        """MetaDrive's environment, None before the first reset. To look at: whoever changes it breaks the episode."""
        return self._env

    def slot_of(self, agent: str) -> int:
        """The slot of a living vehicle, by MetaDrive's name of the agent ("agent0", ...)."""
        return self._slot_of[agent]

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.batch.clear_transition()
        return self.begin_episode(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        map_number = map_seed(self.options, seed, maps)
        count = self.num_slots if num_agents is None else num_agents
        if not 1 <= count <= self.num_slots:
            raise SceneError(f"num_agents={count} at reset; this environment was made for 1 to {self.num_slots}")
        if self._state.interrupted:
            self.close()  # the engine is between two episodes or steps
        with self._state.during("reset"):
            self._begin(seed, count, map_number)
        return self.batch

    def _begin(self, seed: int, count: int, map_number: int) -> None:
        if self._env is None:
            self._env = self._start()
            self._end = weakref.finalize(self, _end_engine, self._env)
            self._end.atexit = False  # the process's end is the engine's too
        env = self._env
        env.episode_rng = np.random.default_rng(seed)
        env.config["num_agents"] = env.num_agents = count
        if engine_initialized():
            env.engine.spawn_manager.num_agents = count
        # MetaDrive asserts that the vehicles at reset are those that it has observations for: the first `count`.
        env.agent_manager._init_observations = {
            agent: self._vehicle_observations[agent] for agent in (f"agent{number}" for number in range(count))
        }
        if self._fast is not None:
            self._fast.forget()
        # To MetaDrive this map is the only one there is, so that it accepts any.
        env.config["start_seed"] = env.start_index = map_number
        obs, _ = env.reset(seed=map_number)
        if not self.options.respawn:
            env.agent_manager.set_allow_respawn(False)

        batch = self.batch
        batch.clear_now()
        batch.episode_step[...] = 0
        batch.episode_over[...] = self._state.over = False
        self._slot_of.clear()
        self._rule_driver.forget()
        self._rule_actions_at = -1
        self._choose_backend(map_number)
        for slot, (agent, vehicle) in enumerate(env.agents.items()):
            self._enter(agent, vehicle, slot, obs[agent])
        self._state.begun = True

    def step(self, actions: np.ndarray) -> StepBatch:
        self._state.check()
        moves = check_actions(actions, self.num_slots, self.batch.active)
        with self._state.during("step"):
            self._advance(moves)
        return self.batch

    def _advance(self, moves: np.ndarray) -> None:
        env, batch = self._env, self.batch
        acting = dict(self._slot_of)

        batch.clear_transition()
        out_of_time = not self.options.drain and env.episode_step + 1 >= self.options.horizon
        slots = list(acting.values())
        batch.acted[slots] = True
        batch.acted_life[slots] = batch.life[slots]
        move = self._step_stock if self._batched is None else self._step_batched
        obs = move(moves, acting, out_of_time)
        batch.episode_step[...] = env.episode_step
        batch.episode_over[...] = False
        self._update_population(obs, ended=batch.terminated | batch.truncated, out_of_time=out_of_time)

    def _step_stock(self, moves: np.ndarray, acting: dict[str, int], out_of_time: bool) -> dict[str, np.ndarray]:
        """MetaDrive's own step. Returns the observations of everybody who is alive after it."""
        env, batch = self._env, self.batch
        obs, rewards, terminated, truncated, infos = env.step({agent: moves[slot] for agent, slot in acting.items()})
        for agent, slot in acting.items():
            info = infos[agent]
            ended = bool(terminated[agent])
            cut = not ended and (bool(truncated[agent]) or out_of_time)
            x, y, heading, completion = env.after_step[agent]
            batch.reward[slot] = rewards[agent]
            batch.terminated[slot] = ended
            batch.truncated[slot] = cut
            batch.acted_position[slot] = x, y
            batch.acted_heading[slot] = heading
            batch.velocity[slot] = info["velocity"]
            batch.route_completion[slot] = min(max(completion, 0.0), 1.0)
            batch.cost[slot] = info["cost"]
            batch.energy[slot] = info["step_energy"]
            batch.life_steps[slot] = info["episode_length"]
            if ended or cut:
                batch.final_obs[slot] = obs[agent]
                batch.outcome[slot] = outcome_of(
                    success=ended and info["arrive_dest"],
                    # MetaDrive's own "crash" includes the sidewalk, which is the edge of the road: out of road.
                    crash=ended
                    and (
                        info["crash_vehicle"] or info["crash_object"] or info["crash_building"] or info["crash_human"]
                    ),
                    out_of_road=ended,
                    max_step=True,
                )
        return obs

    def _step_batched(self, moves: np.ndarray, acting: dict[str, int], out_of_time: bool) -> dict[str, np.ndarray]:
        """The same, all vehicles at once."""
        batch = self.batch
        slots = list(acting.values())
        step = self._batched.step(moves, slots)
        batch.reward[slots] = step.reward
        batch.terminated[slots] = step.terminated
        batch.truncated[slots] = ~step.terminated & (step.timed_out | out_of_time)
        batch.acted_position[slots] = step.position
        batch.acted_heading[slots] = step.heading
        batch.velocity[slots] = step.velocity
        batch.route_completion[slots] = np.clip(step.route_completion, 0.0, 1.0)
        batch.cost[slots] = step.cost
        batch.energy[slots] = step.energy
        batch.life_steps[slots] = step.life_steps
        for row, slot in enumerate(slots):
            if batch.terminated[slot] or batch.truncated[slot]:
                ended = bool(batch.terminated[slot])
                batch.final_obs[slot] = step.obs[row]
                batch.outcome[slot] = outcome_of(
                    success=ended and bool(step.success[row]),
                    crash=ended and bool(step.crash[row]),
                    out_of_road=ended,
                    max_step=True,
                )
        return {**dict(zip(acting, step.obs, strict=True)), **step.newborn_obs}

    def scenery(self) -> dict[str, Any]:
        if self._env is None:
            raise SceneError("the scene has no map before its first reset")
        lanes, lines, buildings = [], [], []
        network = self._env.current_map.road_network
        for lane in network.get_all_lanes():
            bends = not isinstance(lane, StraightLane)
            along = np.linspace(0, lane.length, 2 + int(2 * lane.length) if bends else 2)
            sides = [np.array([lane.position(s, side * lane.width / 2)[:2] for s in along]) for side in (-1, 1)]
            lanes.append(np.concatenate([sides[0], sides[1][::-1]]))
            for side, kind, colour in zip(sides, lane.line_types, lane.line_colors, strict=True):
                if kind != PGLineType.NONE:
                    yellow = tuple(colour) == tuple(PGLineColor.YELLOW)
                    lines.append((side, "yellow" if yellow else "white", kind == PGLineType.BROKEN))
        for block in self._env.current_map.blocks:
            for building in getattr(block, "_block_objects", None) or []:
                if hasattr(building, "BUILDING_LENGTH"):
                    x, y, heading = _state(building)
                    buildings.append(_box(x, y, heading, building.BUILDING_LENGTH, building.lane_width))
        return {"lanes": lanes, "lines": lines, "buildings": buildings, "vehicle_size": (4.51, 1.852)}

    def wrecks(self) -> np.ndarray:
        if self._env is None:
            return np.zeros((0, 3))
        if self._batched is not None:
            return self._batched.wrecks()
        standing = [_state(entry[0]) for entry in self._env.agent_manager._dying_objects.values()]
        return np.array(standing).reshape(-1, 3)

    def traffic(self) -> np.ndarray:
        return np.zeros((0, 3))

    def rule_actions(self) -> np.ndarray:
        if self._env is None:
            raise SceneError("rule_actions() before reset(): call reset(seed) first")
        now = int(self._env.episode_step)
        if self._rule_actions_at != now:  # the driver remembers who has stood how long: it must see a moment once
            actions = np.zeros((self.num_slots, ACTION_SIZE), np.float32)
            for agent, action in self._rule_driver(self._env).items():
                if agent in self._slot_of:  # at the end of an episode that is not drained, MetaDrive's drive on
                    actions[self._slot_of[agent]] = action
            self._rule_actions, self._rule_actions_at = actions, now
        return self._rule_actions.copy()

    def close(self) -> None:
        if self._end is not None:
            end, self._end, self._env = self._end, None, None
            self._fast = self._batched = None
            self._refused = False
            self._state = EpisodeState()
            self._vehicle_observations = {}
            end()

    def __getstate__(self) -> dict[str, Any]:
        if self._env is not None:
            raise TypeError("a scene that has started cannot be pickled; make it and pickle it before the first reset")
        return self.__dict__.copy()

    def _start(self) -> Any:
        if engine_initialized():
            raise SceneError(
                "MetaDrive holds one engine per process and this process has one already; "
                "close the other environment or use in_process=False"
            )
        metadrive_fixes.install()
        metadrive_fixes.set_geometry(self.options.geometry)
        options = self.options
        env = _scene_class(self._class_name)(
            {
                "num_agents": self.num_slots,
                "horizon": options.horizon,
                "delay_done": options.delay_done,
                "start_seed": options.start_seed,
                "force_seed_spawn_manager": True,
                "truncate_as_terminate": False,
                # The scenes with one map of their own build it anew at every reset whatever this says, and with the
                # default they would also keep all the old ones. pg_map really takes its map from the store, which
                # holds one.
                "store_map": options.scene == "pg_map",
                "log_level": logging.ERROR,
                **options.rewards,
                **self._settings,
            }
        )
        env.max_lives = self.max_lives
        env.toll_counter = options.toll_counter
        self._vehicle_observations = dict(env.agent_manager._init_observations)
        return env

    def _choose_backend(self, map_number: int) -> None:
        """Use the batched step for this episode if it was asked for and can reproduce the map."""
        self._batched = None
        if self.options.step_backend == "stock" or self._refused:
            return
        try:
            from copo_envs.fast import BatchedStep, NotCovered  # loads numba: only when needed
        except Exception as error:  # not installed, no place to cache what it compiles, ...
            self._refused = True
            _log.warning("the batched step needs numba, which fails here (%s); using MetaDrive's own step", error)
            return
        try:
            if self._fast is None:
                self._fast = BatchedStep(self._env, self.num_slots, self.obs_size)
            self._fast.begin((self.options.scene, self.options.geometry, map_number))
            self._batched = self._fast
        except NotCovered as reason:
            self._refused = self._fast is None  # what is wrong with one map need not be so with the next
            _log.warning("%s: the batched step does not cover %s; using MetaDrive's own", self.options.scene, reason)

    def _enter(self, agent: str, vehicle: BaseVehicle, slot: int, obs: np.ndarray) -> None:
        if self._batched is not None:
            self._batched.enter(agent, slot, vehicle)
        batch = self.batch
        self._slot_of[agent] = slot
        batch.obs[slot] = obs
        batch.active[slot] = batch.spawned[slot] = True
        batch.life[slot] = int(agent.removeprefix("agent"))
        x, y, heading = _state(vehicle)
        batch.position[slot] = x, y
        batch.heading[slot] = heading

    def _update_population(self, obs: dict[str, np.ndarray], ended: np.ndarray, out_of_time: bool) -> None:
        """The "now" half of the batch after a step, and whether the episode is over."""
        env, batch = self._env, self.batch
        staying = {agent: slot for agent, slot in self._slot_of.items() if not ended[slot]}
        survivors = {slot: int(batch.life[slot]) for slot in staying.values()}
        batch.clear_now()
        self._slot_of = staying
        for agent, slot in staying.items():
            batch.obs[slot] = obs[agent]
            batch.active[slot] = True
            batch.life[slot] = survivors[slot]
            batch.position[slot] = batch.acted_position[slot]
            batch.heading[slot] = batch.acted_heading[slot]
        if out_of_time:
            batch.episode_over[...] = self._state.over = True
            return
        self._admit_newborns(obs)
        while not self._slot_of:
            # Nobody is alive. While somebody may still respawn (wrecks hold the places), let the time pass.
            manager = env.agent_manager
            used_up = not manager._allow_respawn or manager.next_agent_count >= self.max_lives
            if used_up or env.episode_step >= self.options.horizon:
                batch.episode_over[...] = self._state.over = True
                return
            obs = self._pass_time()
            batch.episode_step[...] = env.episode_step
            self._admit_newborns(obs)

    def _admit_newborns(self, obs: dict[str, np.ndarray]) -> None:
        free = (slot for slot in range(self.num_slots) if not self.batch.active[slot])
        for agent, vehicle in self._env.agents.items():
            if agent not in self._slot_of:
                self._enter(agent, vehicle, next(free), obs[agent])

    def _pass_time(self) -> dict[str, np.ndarray]:
        """A step without drivers, which MetaDrive's own `step` refuses. Returns the observations of newborns."""
        env = self._env
        if self._batched is not None:
            return self._batched.step(np.zeros((self.num_slots, 2), np.float32), []).newborn_obs
        env.engine.before_step({})
        env.engine.step(env.config["decision_repeat"])
        for manager in env.engine.managers.values():
            if manager is not env.agent_manager:  # it asserts that somebody is alive
                manager.after_step()
        if env.episode_step >= self.options.horizon:  # as in MetaDrive's own step
            env.agent_manager.set_allow_respawn(False)
        newborn_obs, _ = env._respawn_vehicles(randomize_position=env.config["random_traffic"])
        return newborn_obs


def _end_engine(env: Any) -> None:
    env.close()
    metadrive_fixes.set_geometry("metadrive")  # whoever uses MetaDrive here next finds its own roads


def _state(thing: Any) -> tuple[float, float, float]:
    x, y = thing.position
    return float(x), float(y), float(thing.heading_theta)


def _box(x: float, y: float, heading: float, length: float, width: float) -> np.ndarray:
    cos, sin = np.cos(heading), np.sin(heading)
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (length / 2, width / 2)
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)

"""What only MetaDrive can show: the registry's numbers, populations, roads, and that nothing leaks between scenes."""

from __future__ import annotations

import gc
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.local import local_simulator
from copo_envs.outcomes import Outcome
from copo_envs.scenes import SCENES, SceneError, scene_options
from copo_envs.step_batch import Simulator, StepBatch
from copo_envs.testing import check_simulator

pytestmark = pytest.mark.simulator

METADRIVE_SCENES = [name for name, scene in SCENES.items() if scene.metadrive_class]

Closing = Callable[[Simulator], Simulator]


def simulator_of(scene: str, **options: Any) -> Simulator:
    return local_simulator(scene_options(scene, **options))


@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_the_registry_says_what_metadrive_does(scene: str, closing: Closing) -> None:
    import metadrive.envs.marl_envs as marl_envs
    from metadrive.manager.spawn_manager import SpawnManager

    spec = SCENES[scene]
    config = getattr(marl_envs, spec.metadrive_class)({}).config  # starts nothing
    roads, road_map = config["spawn_roads"], config["map_config"]
    assert config["num_agents"] == spec.num_agents
    assert SpawnManager.max_capacity(roads, road_map["exit_length"], road_map["lane_num"]) == spec.capacity
    simulator = closing(simulator_of(scene, num_agents=spec.capacity))
    batch = simulator.reset(0)
    assert batch.active.all() and batch.obs.shape == (spec.capacity, spec.obs_size)


@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_population_contract(scene: str, closing: Closing) -> None:
    simulator = closing(simulator_of(scene, num_agents=8, horizon=40, max_lives=14))
    assert check_simulator(simulator, steps=100) > 10


@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_number_of_vehicles_at_reset(scene: str, closing: Closing) -> None:
    simulator: Any = closing(simulator_of(scene, num_agents=6))
    assert simulator.reset(0, 2).active.sum() == 2
    engine = simulator.metadrive.engine
    first = simulator.reset(0).obs.copy()
    assert first.any(axis=1).all()
    assert check_simulator(simulator, steps=80, num_agents=3) > 0
    for count in (1, 6, 2):
        assert simulator.reset(0, count).active.sum() == count
    np.testing.assert_array_equal(simulator.reset(0).obs, first)
    assert simulator.metadrive.engine is engine  # no new one
    with pytest.raises(SceneError, match="num_agents=7 at reset; this environment was made for 1 to 6"):
        simulator.reset(0, 7)


def forwards(batch: StepBatch, steering: float = 0.0) -> np.ndarray:
    return np.tile([steering, 1.0], (len(batch.active), 1))


def test_who_leaves_the_road_did_not_crash(closing: Closing) -> None:
    # One vehicle alone has nothing to hit but the sidewalk, which MetaDrive counts as a crash and this package as the
    # edge of the road.
    simulator = closing(simulator_of("roundabout", num_agents=1))
    batch = simulator.reset(0)
    outcomes = []
    for _ in range(250):
        batch = simulator.step(forwards(batch))
        outcomes += batch.outcome[batch.terminated].tolist()
        if batch.terminated.any():
            assert batch.reward[0] < 0
    assert outcomes and set(outcomes) == {Outcome.OUT_OF_ROAD}


def test_wrecks_wait_and_hold_places(closing: Closing) -> None:
    simulator = closing(simulator_of("roundabout", num_agents=1, delay_done=10))
    batch, clock = simulator.reset(0), 0
    while not batch.terminated.any():
        clock = int(batch.episode_step)
        batch = simulator.step(forwards(batch))
    # Nobody else is alive, so the step lasts until the wreck is gone and the next one has come.
    assert batch.spawned[0] and batch.life[0] == 1 and batch.acted_life[0] == 0
    assert 10 <= batch.episode_step - clock <= 13


@pytest.mark.parametrize(
    ("scene", "geometry"), [("parking_lot", "published"), ("parking_lot", "metadrive"), ("bottleneck", "published")]
)
def test_newborns_do_not_land_on_others(scene: str, geometry: str, closing: Closing) -> None:
    simulator = closing(simulator_of(scene, geometry=geometry))
    rng = np.random.default_rng(0)
    batch, births = simulator.reset(2), 0
    for _ in range(150):
        size = len(batch.active)
        batch = simulator.step(np.stack([rng.normal(0, 0.2, size), rng.uniform(0.2, 1, size)], axis=1))
        others = np.concatenate([batch.position[batch.active], simulator.wrecks()[:, :2]])
        for slot in np.nonzero(batch.spawned)[0]:
            gaps = np.sort(np.hypot(*(others - batch.position[slot]).T))
            assert gaps[1] > 2.0
            births += 1
    assert births > 5


def test_the_road_does_not_depend_on_the_scene_before(closing: Closing) -> None:
    def road() -> np.ndarray:
        simulator = simulator_of("pg_map", num_agents=2)
        simulator.reset(0)
        lanes = np.concatenate(simulator.scenery()["lanes"])
        simulator.close()
        return lanes

    first = road()
    for scene in ("intersection", "parking_lot"):
        before = simulator_of(scene, num_agents=2)
        before.reset(0)
        before.close()
        np.testing.assert_array_equal(road(), first)


def test_two_geometries(closing: Closing) -> None:
    def yellow_lines(geometry: str) -> list[bool]:
        simulator = simulator_of("bottleneck", num_agents=2, geometry=geometry)
        simulator.reset(0)
        dashed = [dashed for _, colour, dashed in simulator.scenery()["lines"] if colour == "yellow"]
        simulator.close()
        return dashed

    published, metadrive = yellow_lines("published"), yellow_lines("metadrive")
    assert len(published) == len(metadrive)
    assert sum(published) < sum(metadrive)  # the centre line is solid in one and broken in the other
    assert yellow_lines("published") == published


@pytest.mark.parametrize(
    ("geometry", "sidewalk", "surface", "booth"),
    [("published", (0.6, 3.0), 0.6, (4.51, 1.852)), ("metadrive", (0.2, 2.0), 0.0, (10.0, 3.5))],
)
def test_the_sizes_of_the_two_geometries(
    geometry: str, sidewalk: tuple[float, float], surface: float, booth: tuple[float, float], closing: Closing
) -> None:
    from metadrive.component.buildings.tollgate_building import TollGateBuilding
    from metadrive.utils.pg.utils import ray_localization

    simulator: Any = closing(simulator_of("tollgate", num_agents=2, geometry=geometry))
    simulator.reset(0)
    env = simulator.metadrive
    index = (">", ">>", 2)  # straight, the outermost of its road
    lane = env.current_map.road_network.get_lane(index)
    corners = np.array(env.current_map.blocks[0].sidewalks[str(index)]["polygon"])
    across = np.abs([lane.local_coordinates(corner)[1] for corner in corners]) - lane.width / 2
    assert across.min() == pytest.approx(sidewalk[0]) and np.ptp(across) == pytest.approx(sidewalk[1])

    def found_there(outside: float) -> bool:
        """Whether a vehicle so far outside the lane's line is still on the lane."""
        place = lane.position(lane.length / 2, lane.width / 2 + outside)
        here = ray_localization(lane.heading_at(0), place, env.engine, use_heading_filter=False)
        return index in [where for _, where, _ in here]

    assert found_there(surface - 0.1) and not found_there(surface + 0.1)
    booths = [thing for thing in env.engine.get_objects().values() if isinstance(thing, TollGateBuilding)]
    assert booths and {(thing.LENGTH, thing.WIDTH) for thing in booths} == {booth}


def test_pg_map_has_many_roads(closing: Closing) -> None:
    lengths = set()
    for start_seed in (1, 2, 3):
        simulator = simulator_of("pg_map", num_agents=2, start_seed=start_seed)
        simulator.reset(0)
        lengths.add(sum(len(lane) for lane in simulator.scenery()["lanes"]))
        simulator.close()
    assert len(lengths) > 1


@pytest.mark.parametrize("geometry", ["published", "metadrive"])
def test_the_taper_of_a_ramp_runs_along_its_road(geometry: str, closing: Closing) -> None:
    # MetaDrive 0.4.3 draws it along the x axis; on this map its solid line then bars every lane to everybody.
    simulator: Any = closing(simulator_of("pg_map", num_agents=2, start_seed=5000, geometry=geometry))
    simulator.reset(0)
    road_map = simulator.metadrive.current_map
    ramp = road_map.blocks[-1]
    assert type(ramp).__name__ == "OutRampOnStraight"
    taper = road_map.road_network.graph["decoration"]["decoration_"][0]
    beside = ramp.get_socket(0).get_positive_lanes(road_map.road_network)[-1]
    np.testing.assert_allclose(taper.direction, beside.direction, atol=1e-9)
    assert abs(beside.direction[1]) > 0.2  # a road along x would show nothing
    assert abs(beside.local_coordinates(taper.position(1.0, 0.0))[1] - beside.width) < 1e-6


def lanes_and_drive(simulator: Simulator, seed: int, maps: str | None = None, steps: int = 30) -> list[np.ndarray]:
    """The road of an episode, and all that its first steps say."""
    batch = simulator.reset(seed, maps=maps)
    rng = np.random.default_rng(seed)
    found = [np.concatenate(simulator.scenery()["lanes"])]
    for _ in range(steps):
        size = len(batch.active)
        batch = simulator.step(np.stack([rng.normal(0, 0.2, size), rng.uniform(0.2, 1, size)], axis=1))
        found += [getattr(batch, name).copy() for name in ("obs", "reward", "outcome", "life", "position", "final_obs")]
    return found


def test_pg_map_by_episode_seed_and_its_held_out_maps(closing: Closing) -> None:
    simulator: Any = closing(simulator_of("pg_map", num_agents=8, num_scenarios=3, num_heldout=2))
    first = lanes_and_drive(simulator, seed=4)  # on map 5001
    roads = {5001: first[0].tobytes()}
    counts = []
    others = {5000: (3, None), 5002: (5, "train"), 1_000_000: (4, "heldout"), 1_000_001: (5, "heldout")}
    for number, (seed, maps) in others.items():
        roads[number] = lanes_and_drive(simulator, seed, maps, steps=3)[0].tobytes()
        counts.append(len(simulator._env.engine.map_manager.maps))
    assert len(set(roads.values())) == 5  # five different roads
    assert counts == [1] * 4  # of which the last one is kept
    again = lanes_and_drive(simulator, seed=4)
    simulator.close()
    alone = closing(simulator_of("pg_map", num_agents=8, start_seed=5001))
    for episode in (again, lanes_and_drive(alone, seed=4)):
        for one, other in zip(first, episode, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_environment_says_which_map_it_drives_on(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    env = closing(parallel_env("pg_map", num_agents=2, num_scenarios=2, num_heldout=1, render_mode="rgb_array"))
    frames = []
    for seed, maps in ((0, "train"), (1, "train"), (0, "heldout"), (0, "train")):
        _, infos = env.reset(seed=seed, options={"maps": maps})
        frames.append((infos["agent_0"]["map_seed"], env.render()))
        *_, infos = env.step(dict.fromkeys(env.agents, np.zeros(2)))
        assert infos["agent_0"]["map_seed"] == frames[-1][0] and infos["agent_0"]["seed"] == seed
    assert [number for number, _ in frames] == [5000, 5001, 1_000_000, 5000]
    assert not np.array_equal(frames[0][1], frames[1][1])
    np.testing.assert_array_equal(frames[0][1], frames[3][1])


def test_who_counts_the_steps_at_the_toll(closing: Closing) -> None:
    def steps_until_told(counter: str) -> dict[int, int]:
        """Vehicle -> its own steps on the toll road until it was told that it had stayed long enough."""
        simulator = closing(simulator_of("tollgate", num_agents=6, toll_counter=counter, delay_done=1))
        batch = simulator.reset(0)
        stayed: dict[int, list[bool]] = {}
        for _ in range(170):
            # The first six leave the road and make place; those that respawn drive to the toll and stop there.
            actions = np.where((batch.life < 6)[:, None], [1.0, 1.0], [0.0, 0.0])
            at_toll, told = (batch.obs[:, -2] > 0) & batch.active, batch.obs[:, -1] > 0
            fast = np.where(np.abs(batch.position[:, 0] - 107) > 45, 16, 8)  # m/s; the toll is at x = 107 m
            actions[batch.life >= 6, 1] = np.sign(fast - batch.velocity)[batch.life >= 6]
            actions[at_toll, 1] = -1.0
            for slot in np.nonzero(at_toll)[0]:
                stayed.setdefault(int(batch.life[slot]), []).append(bool(told[slot]))
            batch = simulator.step(actions)
        simulator.close()
        return {life: values.index(True) + 1 for life, values in stayed.items() if any(values)}

    shared, own = steps_until_told("shared"), steps_until_told("per_vehicle")
    assert len(own) >= 3 and min(own) >= 6
    assert set(own.values()) == {31}  # longer than the 30 steps that the toll asks for
    assert shared.keys() >= own.keys()
    assert max(shared.values()) < 31 and min(shared.values()) < 15  # others stood there at the same time


def test_one_outcome_by_precedence(closing: Closing) -> None:
    simulator: Any = closing(simulator_of("bottleneck", num_agents=20, step_backend="stock"))
    batch = simulator.reset(3)
    flags = ("arrive_dest", "crash_vehicle", "crash_object", "crash_building", "crash_sidewalk", "out_of_road")
    combinations = itertools.cycle([held for held in itertools.product([True, False], repeat=6) if any(held)])
    claimed: dict[int, dict[str, bool]] = {}
    step = simulator._env.step

    def step_and_claim(actions: dict[str, np.ndarray]) -> Any:
        # Several at once are rare on the road: claim every combination of reasons in turn, as MetaDrive's infos do.
        obs, rewards, terminated, truncated, infos = step(actions)
        for agent in actions:
            if terminated[agent]:
                held: dict[str, bool] = dict(zip(flags, next(combinations), strict=True))
                infos[agent].update(held, crash=any(held[name] for name in flags if name.startswith("crash")))
                claimed[int(agent.removeprefix("agent"))] = held
        return obs, rewards, terminated, truncated, infos

    simulator._env.step = step_and_claim
    rng = np.random.default_rng(0)
    outcomes = []
    while len(outcomes) < 63:
        batch = simulator.step(np.stack([rng.normal(0, 0.5, 20), rng.uniform(0.5, 1, 20)], axis=1))
        for slot in np.nonzero(batch.terminated)[0]:
            held = claimed[int(batch.acted_life[slot])]
            touched = held["crash_vehicle"] or held["crash_object"] or held["crash_building"]
            wanted = Outcome.SUCCESS if held["arrive_dest"] else Outcome.CRASH if touched else Outcome.OUT_OF_ROAD
            assert batch.outcome[slot] == wanted
            outcomes.append(wanted)
    assert len(set(outcomes)) == 3


def test_the_episode_ends_with_its_last_life(closing: Closing) -> None:
    # MetaDrive itself would wait for the wreck to go before it finds that nobody may come.
    simulator = closing(simulator_of("roundabout", num_agents=2, max_lives=3, delay_done=60))
    batch = simulator.reset(0)
    lives = {0, 1}
    while not batch.episode_over:
        batch = simulator.step(forwards(batch))
        lives |= set(batch.life[batch.active].tolist())
    assert lives == {0, 1, 2}
    assert batch.terminated.any() and len(simulator.wrecks()) >= 1  # the last one still stands there
    simulator.close()

    simulator = closing(simulator_of("roundabout", num_agents=6, respawn=False))
    batch = simulator.reset(1)
    while not batch.episode_over:
        batch = simulator.step(forwards(batch, steering=0.1))
        assert not batch.spawned.any()
    assert batch.terminated.any() and len(simulator.wrecks()) == 6 and batch.episode_step < 1000


def test_one_engine_per_process_and_no_pickle_of_it(closing: Closing) -> None:
    simulator = simulator_of("intersection", num_agents=2)
    copy = closing(pickle.loads(pickle.dumps(simulator)))
    closing(simulator).reset(0)
    with pytest.raises(SceneError, match="one engine per process and this process has one already"):
        copy.reset(0)
    with pytest.raises(TypeError, match="a scene that has started cannot be pickled"):
        pickle.dumps(simulator)
    simulator.close()
    simulator.close()
    copy.reset(0)


@pytest.mark.parametrize("scene", ["intersection", "roundabout", "parking_lot", "pg_map"])
def test_resets_keep_no_old_map(scene: str, closing: Closing) -> None:
    simulator = closing(simulator_of(scene, num_agents=4))
    counts = []
    for seed in range(4):
        simulator.reset(seed)
        gc.collect()
        counts.append(sum("BodyNode" in type(thing).__name__ for thing in gc.get_objects()))
    assert counts[1] == counts[2] == counts[3] > 50


def test_metadrive_finds_its_own_roads_after_us(closing: Closing) -> None:
    from copo_envs import metadrive_fixes

    simulator = closing(simulator_of("intersection", num_agents=2))
    simulator.reset(0)
    assert metadrive_fixes._published
    simulator.close()
    assert not metadrive_fixes._published


@pytest.mark.parametrize("where", ["in MetaDrive's reset", "after it"])
def test_an_interrupted_reset_is_begun_again(where: str, closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator: Any = closing(simulator_of("intersection", num_agents=4))
    first = simulator.reset(3).obs.copy()
    simulator.step(np.zeros((4, 2)))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "after it":
            patch.setattr(simulator, "_choose_backend", interrupt)
        else:
            patch.setattr(simulator.metadrive.engine.spawn_manager, "reset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulator.reset(4)
    with pytest.raises(SceneError, match=r"the last reset was interrupted: call reset\(seed\)"):
        simulator.step(np.zeros((4, 2)))
    np.testing.assert_array_equal(simulator.reset(3).obs, first)
    simulator.step(np.zeros((4, 2)))


def test_an_interrupted_step_is_not_gone_on_from(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator: Any = closing(simulator_of("intersection", num_agents=4))
    first = simulator.reset(3).obs.copy()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulator, "_admit_newborns", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulator.step(np.zeros((4, 2)))
    with pytest.raises(SceneError, match=r"the last step was interrupted: call reset\(seed\)"):
        simulator.step(np.zeros((4, 2)))
    np.testing.assert_array_equal(simulator.reset(3).obs, first)
    simulator.step(np.zeros((4, 2)))


def test_a_forgotten_scene_frees_its_engine() -> None:
    for _ in range(2):
        env = parallel_env("intersection", num_agents=2, in_process=True)
        assert env.backend is None
        env.reset(seed=0)
        assert env.backend == "fast"
        del env
        gc.collect()


@pytest.mark.parametrize("in_process", [True, False])
def test_after_the_last_step_the_rule_has_nobody_to_drive(in_process: bool) -> None:
    env = parallel_env("intersection", num_agents=6, horizon=40, delay_done=1, drain=False, in_process=in_process)
    env.reset(seed=0)
    while env.agents:
        env.step(dict.fromkeys(env.agents, np.array([0.4, 1.0])))  # into the wall: some are younger than the episode
    assert env.rule_actions() == {}
    env.close()

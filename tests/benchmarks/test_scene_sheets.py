"""The data sheets of the scenes say what the scenes do: the pages as committed, held against the simulators."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from shapely import unary_union
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from benchmarks.scene_sheets.metadrive_config import spawn_places
from benchmarks.scene_sheets.observation import layout
from benchmarks.scene_sheets.pages import FOLDER, pages
from benchmarks.scene_sheets.prose import PROSE
from benchmarks.scene_sheets.rules import (
    ARRIVAL,
    EDGES,
    ENGINE,
    FULL_BRAKE,
    FULL_THROTTLE,
    ROLLING,
    STEERING,
    step_terms,
)
from benchmarks.scene_sheets.sections import OPTION_SCENES
from benchmarks.scene_sheets.states import DiscState, VehicleState
from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.outcomes import Outcome
from copo_envs.particles import ParticlesSimulator
from copo_envs.scenes import SCENES, SceneError, SceneOptions, scene_options
from copo_envs.slots_env import slots_env

METADRIVE_SCENES = [name for name, scene in SCENES.items() if scene.metadrive_class]
STEPS = 25


def part(scene: str, heading: str) -> str:
    """The text of a sheet below a heading."""
    text = (FOLDER / f"{scene}.md").read_text(encoding="utf-8")
    return re.split(r"^## ", text.partition(f"## {heading}\n")[2], flags=re.M)[0]


def cells(text: str) -> list[list[str]]:
    """The rows of all tables in it, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    heads = {k for k, row in enumerate(rows[1:]) if set("".join(row)) == {"-"}}
    return [row for k, row in enumerate(rows) if k not in heads and k - 1 not in heads]


def test_the_pages_are_what_the_command_makes() -> None:
    made = pages()
    assert {path.name for path in FOLDER.glob("*")} == {path.name for path in made}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m benchmarks.scene_sheets"


def test_every_sheet_has_its_picture() -> None:
    for page in FOLDER.glob("*.md"):
        sources = re.findall(r'<img src="([^"]*)"', page.read_text(encoding="utf-8"))
        assert sources and all((FOLDER / source).is_file() for source in sources)


@pytest.mark.parametrize("scene", SCENES)
def test_every_number_of_an_observation_has_one_row(scene: str) -> None:
    size = parallel_env(scene).observation_space("agent_0").shape
    rows = cells(part(scene, "Observation"))
    covered: list[int] = []
    for index, *_ in rows:
        first, _, last = index.partition(":")
        covered += range(int(first), int(last or int(first) + 1))
    assert (len(covered),) == size and covered == list(range(len(covered)))
    assert len({name for _, name, *_ in rows}) == len(rows)
    assert [part(scene, "Action").count(f"`{name}`") for name in ("steering", "throttle")] == [1, 1]


@pytest.mark.parametrize("scene", SCENES)
def test_every_view_is_made_as_the_sheet_says(scene: str) -> None:
    text = (FOLDER / f"{scene}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    kinds = []
    names: dict[str, Any] = {}
    imports, _, lines = code.partition("\n\n")
    exec(imports, names)
    for line in lines.splitlines():
        exec(line, names)
        kinds.append(type(names["env"]).__name__)
        names["env"].close()
    assert len(kinds) == len(set(kinds)) == 5


@pytest.mark.parametrize("scene", SCENES)
def test_the_arguments_are_the_options_and_their_defaults(scene: str) -> None:
    made = scene_options(scene, max_lives=10**6)
    rows = cells(part(scene, "Arguments"))
    for name, default, values, text in rows:
        shown = 0 if name == "max_lives" else getattr(made, name)
        assert default == (f'"{shown}"' if isinstance(shown, str) else str(shown))
        assert text
        for word in re.findall(r'"(\w+)"', values):
            if (name, word) != ("maps", "heldout") or scene == "pg_map":
                assert getattr(scene_options(scene, **{name: word}), name) == word
    absent = {field.name for field in fields(SceneOptions)} - {name for name, *_ in rows} - {"scene"}
    assert absent == {name for name, scenes in OPTION_SCENES.items() if scene not in scenes}
    assert set(OPTION_SCENES) <= {field.name for field in fields(SceneOptions)}


@pytest.mark.parametrize("scene", SCENES)
def test_the_bounds_of_the_arguments_are_those_that_are_checked(scene: str) -> None:
    apart = {"num_heldout": 0} if scene == "pg_map" else {}  # held-out maps would be among so many
    bounds = {
        name: [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d|\d", values)]
        for name, default, values, _ in cells(part(scene, "Arguments"))
        if default.isdigit()
    }
    assert {"num_agents", "rule_based", "horizon", "delay_done", "max_lives"} <= set(bounds)
    for name, (least, most, *_) in bounds.items():
        for value in (least, most):
            made = scene_options(scene, **{**apart, name: value})
            assert getattr(made, name) == value or (name, value) == ("max_lives", 0)
        for value in (least - 1, most + 1):
            with pytest.raises(SceneError, match=rf"{name}={value} (is too small|is too large|does not fit)"):
                scene_options(scene, **{**apart, name: value})


def test_of_whom_the_infos_speak() -> None:
    """Driven alike, a slot says of who acted what the lives view says of it; newborns have zeros there alone."""
    slots, lives = slots_env("particles"), parallel_env("particles")
    (_, now), (_, infos) = slots.reset(seed=0), lives.reset(seed=0)
    replaced = 0
    for _ in range(200):
        who = {slot: f"agent_{info['life']}" for slot, info in now.items() if info["active"]}
        _, _, terminations, truncations, infos = lives.step(lives.rule_actions())
        *_, now = slots.step({**dict.fromkeys(slots.agents, np.zeros(2)), **slots.rule_actions()})
        for slot, info in now.items():
            first, ended = {key: info[key] for key in list(info)[:9]}, (info["terminated"], info["truncated"])
            if slot in who:
                assert first == infos[who[slot]]
                assert ended == (terminations[who[slot]], truncations[who[slot]])
            else:
                assert not any(list(first.values())[:7]) and not any(ended)
            successor = f"agent_{info['life']}"
            assert info["active"] == (successor in lives.agents)
            assert info["spawned"] == (info["active"] and successor not in who.values())
            if info["spawned"]:
                assert not any(value for key, value in infos[successor].items() if "seed" not in key)
                replaced += slot in who
    assert replaced > 3


def test_the_infos_of_slots() -> None:
    env = slots_env("particles", num_agents=2)
    env.reset(seed=0)
    *_, infos = env.step(dict.fromkeys(env.agents, np.zeros(2)))
    rows = {name: kind for name, kind, _ in cells(part("particles", "Infos"))}
    assert {name: type(value).__name__ for name, value in infos["slot_1"].items()} == rows


def test_what_a_disc_observes_and_is_rewarded_for() -> None:
    simulator: Any = ParticlesSimulator(scene_options("particles", num_agents=24, delay_done=5))
    batch, rng = simulator.reset(0), np.random.default_rng(0)
    weights = {name: float(weight) for name, weight, _ in cells(part("particles", "Reward"))}
    ended = 0
    for _ in range(60):
        before = np.hypot(*(simulator._goal - simulator._position).T)
        goals = simulator._goal.copy()
        batch = simulator.step(np.stack([rng.normal(0.0, 0.5, 24), rng.uniform(-0.2, 1, 24)], axis=1))
        for slot in np.nonzero(batch.acted)[0]:
            progress = before[slot] - np.hypot(*(goals[slot] - batch.acted_position[slot]))
            extra = {
                Outcome.SUCCESS: weights["arrival"],
                Outcome.CRASH: weights["crash, out of road"],
                Outcome.OUT_OF_ROAD: weights["crash, out of road"],
            }.get(Outcome(batch.outcome[slot]), 0.0)
            assert batch.reward[slot] == pytest.approx(weights["progress"] * progress + extra)
            ended += batch.outcome[slot] != Outcome.RUNNING
        for slot in np.nonzero(batch.active)[0]:
            there = batch.active | (simulator._wreck_steps > 0)
            there[slot] = False
            state = DiscState(
                batch.position[slot],
                float(batch.heading[slot]),
                float(simulator._speed[slot]),
                simulator._goal[slot],
                simulator._position[there],
            )
            for where, entry in layout("particles"):
                assert entry.value is not None
                assert batch.obs[slot, where] == pytest.approx(np.atleast_1d(entry.value(state)), abs=1e-6), entry.name
    assert ended >= 5


# What only MetaDrive can show.


def vehicle_of(live: Any, agent: str) -> Any:
    """MetaDrive's vehicle of an agent of the lives view."""
    return live.agents[agent.replace("_", "")]


class Drive:
    """A scene in this process that is driven at random, and what MetaDrive says of its vehicles before and after."""

    def __init__(self, env: LivesEnv, seed: int = 0):
        self.env, self.rng = env, np.random.default_rng(seed)
        self.obs, self.infos = env.reset(seed=seed)
        self.simulator: Any = env._simulator
        self.live = self.simulator.metadrive
        self.rewards: dict[str, float] = {}
        self.states: dict[str, VehicleState] = {}
        self._note({}, {})

    def step(self, actions: dict[str, Any] | None = None) -> None:
        if actions is None:
            actions = {agent: [self.rng.uniform(-0.5, 0.5), self.rng.uniform(0.2, 1)] for agent in self.env.agents}
        moves = {agent: np.asarray(actions.get(agent, [0.0, 0.0]), np.float32) for agent in self.env.agents}
        before = {
            agent: (np.array(vehicle_of(self.live, agent).position, float), vehicle_of(self.live, agent).heading_theta)
            for agent in self.env.agents
        }
        self.obs, self.rewards, *_, self.infos = self.env.step(moves)
        self._note(moves, before)

    def _note(self, moves: dict[str, np.ndarray], before: dict[str, tuple[np.ndarray, float]]) -> None:
        self.states = {}
        for agent in self.env.agents:
            vehicle = vehicle_of(self.live, agent)
            place, heading = before.get(agent, (np.array(vehicle.position, float), vehicle.heading_theta))
            self.states[agent] = VehicleState(vehicle, moves.get(agent, np.zeros(2)).tolist(), place, heading)

    def outcome(self, agent: str) -> Outcome:
        return Outcome(self.infos[agent]["outcome"])


def check_entries(drive: Drive, scene: str) -> None:
    """Every entry that has a formula has its value, and every number is in its range."""
    for agent, state in drive.states.items():
        for where, entry in layout(scene):
            seen = drive.obs[agent][where]
            assert (seen >= entry.low - 1e-6).all() and (seen <= entry.high + 1e-6).all(), entry.name
            if entry.value is not None:
                # MetaDrive turns the way to a checkpoint into the frame of a vehicle that leans a little.
                leans = re.fullmatch(r"checkpoint_\d_(ahead|left)", entry.name)
                assert seen == pytest.approx(entry.value(state), abs=2e-4 if leans else 1e-6), (agent, entry.name)


def ordinary_reward(scene: str, state: VehicleState) -> float:
    return sum(term.weight(scene) * term.value(state) for term in step_terms(scene) if term.value)


def check_rewards(drive: Drive, scene: str) -> None:
    for agent, state in drive.states.items():
        if drive.infos[agent]["life_steps"]:
            assert drive.rewards[agent] == pytest.approx(ordinary_reward(scene, state), abs=1e-5), agent


def share(origin: np.ndarray, angle: float, reach: float, shape: BaseGeometry) -> float:
    """Of a ray up to where it meets the shape, 1 if it does not."""
    end = origin + reach * np.array([math.cos(angle), math.sin(angle)])
    met = LineString([origin, end]).intersection(shape)
    return 1.0 if met.is_empty else Point(origin).distance(met) / reach


def boxes(poses: list[np.ndarray], vehicle: Any, grow: float) -> BaseGeometry:
    """Vehicles from above, each `grow` metres larger on every side."""
    shapes = []
    for x, y, heading in poses:
        ahead = np.array([math.cos(heading), math.sin(heading)]) * (vehicle.LENGTH / 2 + grow)
        left = np.array([-math.sin(heading), math.cos(heading)]) * (vehicle.WIDTH / 2 + grow)
        shapes.append(Polygon([(x, y) + a * ahead + b * left for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]))
    return unary_union(shapes)


def check_rays(drive: Drive, scene: str) -> None:
    """Rays end where plain geometry says, within 0.3 m; those that see broken lines do."""
    batch = drive.simulator.batch
    poses = np.column_stack([batch.acted_position, batch.acted_heading])[batch.acted]
    standing = [*poses, *drive.simulator.wrecks()]
    entries = [(where, entry, entry.rays) for where, entry in layout(scene) if entry.rays]
    met, broken, sees = dict.fromkeys((entry.name for _, entry, _ in entries), 0), set(), {r.sees for *_, r in entries}
    # What a ray surely meets, and what it may meet; of broken lines the dashes are not known.
    shapes: dict[str, tuple[BaseGeometry, BaseGeometry]] = {}
    if sees & {"solid", "lines"}:
        lines = drive.simulator.scenery()["lines"]
        solid = unary_union([LineString(line) for line, _, dashed in lines if not dashed])
        every = unary_union([LineString(line) for line, *_ in lines])
        shapes = {"solid": (solid, solid.buffer(0.3)), "lines": (solid, every.buffer(0.3))}
    for agent, state in list(drive.states.items())[:5]:
        if not drive.infos[agent]["life_steps"]:
            continue
        others = [pose for pose in standing if np.hypot(*(pose[:2] - state.position)) > 0.5]
        bodies = boxes(others, state.vehicle, -0.3), boxes(others, state.vehicle, 0.3)
        shapes["bodies"] = shapes["bodies and booths"] = bodies  # no booth is near where vehicles begin
        for where, entry, rays in entries:
            certain, possible = shapes[rays.sees]
            for ray, seen in enumerate(drive.obs[agent][where]):
                angle = state.heading + math.radians(rays.first + 360 / entry.size * ray)
                latest = share(state.position, angle, rays.reach, certain)
                earliest = share(state.position, angle, rays.reach, possible)
                assert earliest - 0.01 <= seen <= latest + 0.02, (agent, entry.name, ray)
                met[entry.name] += latest < 1
                if seen < latest - 0.05 and entry.name != "lidar":
                    broken.add(entry.name)
    assert min(met.values()) > 3
    assert broken == {entry.name for _, entry, rays in entries if rays.sees == "lines"}


def check_what_is_fixed(drive: Drive, scene: str) -> None:
    """Roads, places, destinations, the vehicle, weights and infos as the sheet has them."""
    live, simulator = drive.live, drive.simulator
    spawns = live.engine.spawn_manager
    roads, lanes, each = spawn_places(scene)
    assert len(spawns.available_agent_configs) == roads * lanes * each == SCENES[scene].capacity
    assert len(spawns.safe_spawn_places) == roads * lanes
    corners = np.concatenate(simulator.scenery()["lanes"])
    size = tuple(np.rint(corners.max(axis=0) - corners.min(axis=0)).astype(int).tolist())
    blocks = [type(block).__name__ for block in live.current_map.blocks]
    if scene == "pg_map":
        assert blocks == ["FirstPGBlock", "StdTInterSection", "Curve", "OutRampOnStraight"]
    else:
        assert size == PROSE[scene].size
    destinations = {state.vehicle.navigation.checkpoints[-1] for state in drive.states.values()}
    number = {"roundabout": 4, "intersection": 4, "tollgate": 2, "bottleneck": 2, "pg_map": 1}
    assert scene not in number or len(destinations) == number[scene]

    vehicle = next(iter(drive.states.values())).vehicle
    assert vehicle.config["max_engine_force"] == ENGINE and vehicle.max_steering == STEERING
    assert f"{vehicle.MASS:,} kg" in part(scene, "Action") and f"{ENGINE} N" in part(scene, "Action")
    for _, weight, key, _ in cells(part(scene, "Reward")):
        assert abs(float(weight)) == live.config[key], key
    for condition, ends in zip(("on_lane", *EDGES["tollgate"]._fields[1:]), EDGES[scene], strict=True):
        assert bool(live._is_out_of_road(only(condition))) == ends, condition
    assert live._is_out_of_road(only("sidewalk")) and not live._is_out_of_road(only(""))
    rows = {name: kind for name, kind, _ in cells(part(scene, "Infos"))[:9]}
    for info in drive.infos.values():
        assert {name: type(value).__name__ for name, value in info.items()} == rows


def only(condition: str) -> Any:
    """What MetaDrive asks of a vehicle to know whether it is out of the road: one thing at a time."""
    return SimpleNamespace(
        on_lane=condition != "on_lane",
        on_yellow_continuous_line=condition == "yellow",
        on_white_continuous_line=condition == "white",
        crash_sidewalk=condition == "sidewalk",
        on_broken_line=False,
    )


def check_endings(drive: Drive, scene: str) -> None:
    """Vehicles that are put where a life ends, by each of its endings, and one where it just does not."""
    agents = [agent for agent, info in drive.infos.items() if info["life_steps"] and agent in drive.states]
    home, short, away, rear, front = agents[:5]
    last = {name: drive.states[name].vehicle.navigation.final_lane for name in (home, short)}
    before_the_end = {home: ARRIVAL - 0.5, short: ARRIVAL + 0.5}
    for agent, metres in before_the_end.items():
        put(drive, agent, last[agent].position(last[agent].length - metres, 0), last[agent].heading_theta_at(0))
    put(drive, away, drive.states[away].position + np.array([0.0, 500.0]), 0.0)
    ahead = drive.states[front]
    put(drive, rear, ahead.position + np.array([math.cos(ahead.heading), math.sin(ahead.heading)]), ahead.heading)
    drive.step({})
    rewards = {name: float(weight) for name, weight, key, _ in cells(part(scene, "Reward"))}
    assert drive.outcome(home) == Outcome.SUCCESS and drive.rewards[home] == rewards["arrival"]
    assert drive.outcome(short) != Outcome.SUCCESS
    assert (drive.outcome(away) == Outcome.OUT_OF_ROAD) == EDGES[scene].lanes
    assert (drive.rewards[away] == rewards["out of road"]) == EDGES[scene].lanes
    assert drive.outcome(rear) == drive.outcome(front) == Outcome.CRASH
    assert drive.rewards[rear] == drive.rewards[front] == rewards["crash"]


def put(drive: Drive, agent: str, place: Any, heading: float, speed: float = 0.0) -> None:
    vehicle = drive.states[agent].vehicle
    vehicle.set_position(tuple(place))
    vehicle.set_heading_theta(heading)
    vehicle.set_velocity([speed * math.cos(heading), speed * math.sin(heading)])


@pytest.mark.simulator
@pytest.mark.parametrize("scene", METADRIVE_SCENES)
def test_a_sheet_is_true(scene: str, closing: Callable[[LivesEnv], LivesEnv]) -> None:
    drive = Drive(closing(parallel_env(scene, in_process=True)))
    check_entries(drive, scene)
    for _ in range(STEPS):
        drive.step()
        check_entries(drive, scene)
        check_rewards(drive, scene)
    check_rays(drive, scene)
    check_what_is_fixed(drive, scene)
    check_endings(drive, scene)


@pytest.mark.simulator
def test_the_toll_is_as_its_sheet_says(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    env = parallel_env("tollgate", num_agents=6, respawn=False, toll_counter="per_vehicle", in_process=True)
    drive = Drive(closing(env))
    drive.step({})  # where a vehicle was before it came to the toll road is known from its first step on
    hasty, patient, blind = [agent for agent, state in drive.states.items() if math.cos(state.heading) > 0.9][:3]
    lanes = [lane for lane in drive.live.current_map.road_network.get_all_lanes() if lane.speed_limit == 3]
    free, closed, other = [lane for lane in lanes if lane.index[0] == "1Y0_1_"][:3]
    put(drive, hasty, free.position(1, 0), 0.0, speed=5.0)
    put(drive, patient, other.position(1, 0), 0.0)
    put(drive, blind, closed.position(-3.5, 0), 0.0, speed=8.0)
    told, fines = [], []
    drive.step({})
    for _ in range(33):
        check_entries(drive, "tollgate")
        on_toll_road, stayed_long_enough = drive.obs[patient][154:]
        assert on_toll_road == 1
        told.append(stayed_long_enough)
        drive.step({})
        check_rewards(drive, "tollgate")
        if blind in drive.infos and blind not in drive.states:
            assert drive.outcome(blind) == Outcome.CRASH
            assert abs(drive.rewards[blind]) < 1 and drive.infos[blind]["cost"] == 0
        if hasty in drive.states:
            fines.append(drive.rewards[hasty])
        elif hasty in drive.infos:
            assert drive.outcome(hasty) == Outcome.OUT_OF_ROAD and abs(drive.rewards[hasty]) < 1
            assert drive.infos[hasty]["life_steps"] < 30
    assert told == [0.0] * 30 + [1.0] * (len(told) - 30)
    assert fines[0] == pytest.approx(-0.5 * 3.6 * 5 / 80, rel=0.05)
    assert blind not in drive.states and hasty not in drive.states


@pytest.mark.simulator
@pytest.mark.parametrize("scene", ["pg_map", "parking_lot"])
def test_actions_do_what_the_sheet_says(scene: str, closing: Callable[[LivesEnv], LivesEnv]) -> None:
    drive = Drive(closing(parallel_env(scene, num_agents=1, in_process=True)))

    def gained(throttle: float, steps: int) -> float:
        """m/s^2, ahead."""
        begin = ahead()
        for _ in range(steps):
            drive.step({"agent_0": [0.0, throttle]})
        return (ahead() - begin) / (0.1 * steps)

    def ahead() -> float:
        state = drive.states["agent_0"]
        velocity = state.vehicle.body.getLinearVelocity()
        return velocity[0] * math.cos(state.heading) + velocity[1] * math.sin(state.heading)

    assert gained(1.0, 15) == pytest.approx(FULL_THROTTLE, rel=0.02)
    assert gained(0.5, 5) == pytest.approx(FULL_THROTTLE / 2, rel=0.02)
    assert gained(0.0, 2) == pytest.approx(-ROLLING, abs=0.02)
    if scene == "parking_lot":
        assert gained(-1.0, 2) == pytest.approx(-FULL_THROTTLE, rel=0.02)
        gained(-1.0, 20)
        assert ahead() < -0.2
    else:
        assert gained(-1.0, 2) == pytest.approx(-FULL_BRAKE, rel=0.05)
        gained(-1.0, 5)
        assert 0 <= ahead() < 0.2  # and no further
        gained(1.0, 8)
        before = drive.states["agent_0"].heading
        for _ in range(4):
            drive.step({"agent_0": [0.5, 0.0]})
        assert drive.states["agent_0"].heading > before + 0.05  # to the left

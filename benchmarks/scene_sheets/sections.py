"""The parts of a sheet: tables of what the code says."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from benchmarks.published import PUBLISHED, PUBLISHED_LABEL
from benchmarks.scene_sheets.metadrive_config import metadrive_config, spawn_places
from benchmarks.scene_sheets.observation import STEP_S, UPDATE_RANGE, layout
from benchmarks.scene_sheets.prose import PROSE, info_texts
from benchmarks.scene_sheets.rules import ARRIVAL, EDGES, LAST_STEP, action_rows, step_terms
from copo_envs import GYMNASIUM_IDS, particles
from copo_envs.fast.covered import KNOWN_METADRIVE
from copo_envs.lives_env import LivesEnv
from copo_envs.outcomes import ENDINGS, Outcome
from copo_envs.scenes import CHOICES, LEAST, MOST, SCENES, Scene, SceneOptions, get_scene, rewards_of
from copo_envs.slots_env import SlotsEnv

_WITH_ROADS = frozenset(name for name, scene in SCENES.items() if scene.metadrive_class)
_PG_MAP = frozenset({"pg_map"})
OPTION_SCENES: dict[str, frozenset[str]] = {
    "geometry": _WITH_ROADS,
    "step_backend": _WITH_ROADS,
    "rewards": _WITH_ROADS,
    "toll_counter": frozenset({"tollgate"}),
    **dict.fromkeys(("start_seed", "num_scenarios", "heldout_start_seed", "num_heldout", "maps"), _PG_MAP),
}
"""Options that mean something in some scenes only. One that is not in here is on every sheet."""


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def make_lines(scene: str) -> str:
    """Python that makes the scene in every view."""
    views = {
        f"{scene}_v0.parallel_env()": "PettingZoo, one agent per life",
        f"{scene}_v0.env()": "the same, agents in turn (AEC)",
        f'copo_envs.slots_env("{scene}")': "PettingZoo, a fixed set of agents",
        f'gymnasium.make_vec("{GYMNASIUM_IDS[scene]}", num_envs=2)': "Gymnasium, arrays",
        f'SceneVecEnv("{scene}", num_scenes=2)': "Stable-Baselines3",
    }
    imports = [
        "import gymnasium",
        "import copo_envs",
        f"from copo_envs import {scene}_v0",
        "from copo_envs.sb3 import SceneVecEnv  # needs stable-baselines3",
    ]
    return "\n".join([*imports, "", *(f"env = {made}  # {text}" for made, text in views.items()), ""])


def option_texts() -> dict[str, str]:
    """Option -> the docstring of its field."""
    (definition,) = ast.parse(inspect.getsource(SceneOptions)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for line, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            texts[line.target.id] = " ".join(ast.literal_eval(after.value).split())
    return texts


def option_rows(scene: str) -> list[tuple[str, str, str, str]]:
    """Name, default, values and meaning of the options that matter in a scene."""
    texts, spec = option_texts(), get_scene(scene)
    rows = []
    for field in fields(SceneOptions):
        if field.name == "scene" or scene not in OPTION_SCENES.get(field.name, SCENES):
            continue
        default: Any = field.default if field.default is not MISSING else {}
        default = spec.num_agents if field.name == "num_agents" else default
        shown = f'"{default}"' if isinstance(default, str) else default
        rows.append((f"`{field.name}`", f"`{shown}`", _values(field.name, spec), texts[field.name]))
    return rows


def _values(name: str, spec: Scene) -> str:
    """What an option can be."""
    if name in CHOICES:
        return ", ".join(f'`"{word}"`' for word in CHOICES[name])
    if name == "num_agents":
        return f"1 to {spec.capacity}"
    if name == "rule_based":
        return f"0 to {spec.capacity - 1}, and at most {spec.capacity} together with `num_agents`"
    if name == "rewards":
        return "a number for some of " + ", ".join(f"`{weight}`" for weight in rewards_of(spec))
    if name == "max_lives":
        return f"0, or `num_agents` + `rule_based` to {MOST[name]:,}"
    return f"{LEAST[name]} to {MOST[name]:,}" if name in LEAST else "`True`, `False`"


def facts(scene: str) -> list[tuple[str, str]]:
    """Name and value of what is known before the first step."""
    spec, prose = get_scene(scene), PROSE[scene]
    env = LivesEnv(scene)
    if spec.metadrive_class:
        roads, lanes, each = spawn_places(scene)
        spawns = f"{roads * lanes * each}: {_count(roads, 'road')}, {_count(lanes, 'lane')} each, {each} places a lane"
        spawns += f"; for respawns {roads * lanes}, the first of each lane"
        if scene == "parking_lot":
            spaces = metadrive_config(scene)["parking_space_num"]
            spawns = (
                f"{roads}: {roads - spaces} entrances, for respawns only while a space is free, and {spaces} spaces"
            )
        simulator = f"MetaDrive {KNOWN_METADRIVE}, `{spec.metadrive_class}`; roads as in 0.2.5"
    else:
        spawns = (
            f"{len(particles.PLACES)}, eight a side; for respawns all with no disc within {particles.SPAWN_GAP:g} m"
        )
        simulator = "of its own, in [particles.py](../../copo_envs/particles.py)"
    size = f"; {prose.size[0]} x {prose.size[1]} m" if prose.size else ""
    rows = [
        ("Agents", f"{spec.num_agents} by default, at most {spec.capacity}"),
        ("Their ids", f"`agent_0`, `agent_1`, ..., one per life; slots: `slot_0` to `slot_{spec.num_agents - 1}`"),
        ("Observation", _space(env.observation_space("agent_0"))),
        ("Action", _space(env.action_space("agent_0"))),
        ("A step", f"{STEP_S:g} s"),
        ("An episode", f"{SceneOptions.horizon:,} steps with respawning, then until nobody is left"),
        ("Map", f"{prose.map}{size}"),
        ("Spawn places", spawns),
        ("Destination", prose.destination),
        ("Simulator", simulator),
    ]
    if scene in PUBLISHED:
        numbers = ", ".join(f"{name} {value}" for name, value in PUBLISHED[scene].items())
        rows.append(
            (
                "Published success, %",
                f"{numbers}: {PUBLISHED_LABEL}, mean (standard deviation), "
                "[arXiv 2110.13827](https://arxiv.org/abs/2110.13827)",
            )
        )
    return rows


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _space(space: Any) -> str:
    return f"`Box({space.low.min():g}, {space.high.max():g}, {space.shape}, {space.dtype})`"


def observation(scene: str) -> str:
    """Markdown: every entry."""
    rows = []
    for where, entry in layout(scene):
        index = f"`{where.start}`" if entry.size == 1 else f"`{where.start}:{where.stop}`"
        low, high = (f"{value:.4g}" for value in (entry.low, entry.high))
        rows.append((index, f"`{entry.name}`", entry.meaning, entry.formula, f"{low} to {high}"))
    text = table(("index", "name", "what", "value", "range"), rows)
    if scene == "particles":
        return text
    return (
        "*Its road* is the piece of its route that a vehicle should be on; the next piece takes its place when the "
        f"vehicle is on the first {UPDATE_RANGE} m of that.\n\n{text}\n\n"
        "A ray starts at the vehicle's centre and is told as a share of its length. Lidar sees neither lines nor "
        "sidewalks; the other rays see nothing but lines."
    )


def actions(scene: str) -> list[tuple[str, str, str]]:
    """Index, name and meaning of both numbers."""
    rows = _disc_actions() if scene == "particles" else action_rows(scene)
    return [(f"`{index}`", f"`{name}`", meaning) for index, (name, meaning) in enumerate(rows)]


def _disc_actions() -> list[tuple[str, str]]:
    turn, push, top = particles.TURN_RATE, particles.ACCELERATION, particles.MAX_SPEED
    return [
        ("steering", f"1: turns to the left by {turn:g} rad/s, at any speed; -1: to the right"),
        ("throttle", f"1: {push:g} m/s² faster, up to {top:g} m/s; -1: {push:g} m/s² slower, down to 0; 0: goes on"),
    ]


def reward(scene: str) -> str:
    """Markdown: every term."""
    if scene == "particles":
        end = particles.END_REWARD
        rows = [
            ("progress", "1", "metres that the disc has come nearer to its goal in this step"),
            ("arrival", f"{end:+g}", "besides, in the step in which it arrives"),
            ("crash, out of road", f"{-end:+g}", "besides, in the step in which that happens"),
        ]
        return "The sum of\n\n" + table(("term", "weight", "of"), rows)
    terms = [(t.name, f"{t.weight(scene):g}", f"`{t.key}`", t.text) for t in step_terms(scene)]
    last = [(t.name, f"{t.weight(scene):+g}", f"`{t.key}`", t.text) for t in LAST_STEP]
    text = "In every step the sum of\n\n" + table(("term", "weight", "in MetaDrive", "times"), terms)
    if scene not in ("tollgate", "bottleneck"):
        text += "\n\nBoth are negated while it is on no lane of its road and MetaDrive numbers that road backwards."
    text += "\n\nand in the last step of a life, instead, the first of\n\n"
    text += table(("event", "reward", "in MetaDrive", "when"), last)
    otherwise = "otherwise, at a toll booth too," if scene == "tollgate" else "by truncation"
    return f"{text}\n\nA life that ends {otherwise} has an ordinary last step. One that has just begun has 0."


def endings(scene: str) -> list[tuple[int, str, str, str]]:
    """Code, name, way and condition of every outcome, by precedence."""
    if scene == "particles":
        success = f"its centre is less than {particles.GOAL_RADIUS:g} m from its goal"
        crash = f"it touches another disc or a wreck; discs have a radius of {particles.RADIUS:g} m"
        out = "its centre leaves the square"
    else:
        success = f"its centre is less than {ARRIVAL} m from the end of its route, between the borders of the road"
        edges = EDGES[scene]
        touched = ["the sidewalk", *(f"a continuous {c} line" for c in ("yellow", "white") if getattr(edges, c))]
        out = f"it touches {', '.join(touched[:-1])} or {touched[-1]}"
        if edges.lanes:
            out += ", or its centre leaves the lanes"
        crash = "it touches another vehicle or a wreck"
        if scene == "tollgate":
            crash = "it touches another vehicle, a wreck or a toll booth"
            steps = metadrive_config(scene)["vehicle_config"]["min_pass_steps"]
            out += f", or it leaves the toll road less than {steps} steps after it came"
    when = dict(zip(ENDINGS, (success, crash, out, "none of these within `horizon` steps"), strict=True))
    by = {Outcome.MAX_STEP: "truncation"}
    return [(int(o), o.name.lower(), by.get(o, "termination"), when[o]) for o in ENDINGS]


def infos(scene: str) -> list[tuple[str, str, str]]:
    """Key, type and meaning of everything in an info."""
    env, texts = SlotsEnv("particles", num_agents=1), info_texts(scene)  # all scenes have the same keys
    env.reset(seed=0)
    *_, shown = env.step({"slot_0": [0.0, 0.0]})
    return [(f"`{key}`", type(value).__name__, texts[key]) for key, value in shown["slot_0"].items()]


def reset_options(scene: str) -> str:
    """A sentence."""
    maps = ' and `maps` (`"train"` or `"heldout"`)' if scene == "pg_map" else ""
    return f"`reset(seed, options={{...}})` takes `num_agents`, up to that of the constructor{maps}, for one episode."


def seeds(scene: str) -> str:
    """A paragraph."""
    return (
        f"`reset(seed)` and the actions decide everything: {PROSE[scene].drawn}. The same again gives the same episode "
        "bit for bit, in any process and any view, on one kind of processor and with the same versions "
        "([determinism](../environments.md#determinism)). `reset()` draws the next seed, and the infos say which it "
        "was."
    )

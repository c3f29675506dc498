"""The registry of scenes, and the options that make one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scene:
    """What is fixed about a scene."""

    name: str
    num_agents: int
    """Vehicles by default: those of the published benchmark."""
    capacity: int
    """Most vehicles its spawn places hold."""
    obs_size: int
    """D: length of one vehicle's observation."""
    text: str
    """One sentence on what makes it hard."""
    metadrive_class: str = ""
    """Name of the environment class in `metadrive.envs.marl_envs`; empty for scenes without MetaDrive."""


SCENES: dict[str, Scene] = {
    scene.name: scene
    for scene in (
        Scene("roundabout", 40, 48, 91, "Four entries and exits: merge, circulate, leave.", "MultiAgentRoundaboutEnv"),
        Scene("intersection", 30, 48, 91, "A crossing without lights, U-turns allowed.", "MultiAgentIntersectionEnv"),
        Scene("tollgate", 40, 42, 156, "Booths at which every vehicle has to stay a while.", "MultiAgentTollgateEnv"),
        Scene("bottleneck", 20, 48, 96, "Four lanes a side become one and open again.", "MultiAgentBottleneckEnv"),
        Scene(
            "parking_lot", 10, 11, 91, "Drive in or out of eight spaces, reverse allowed.", "MultiAgentParkingLotEnv"
        ),
        Scene("pg_map", 15, 15, 91, "A procedurally generated road of several blocks.", "MultiAgentMetaDrive"),
        Scene("particles", 8, 32, 32, "Discs that cross a square without touching: no simulator, instant."),
    )
}

CHOICES = {
    "geometry": ("published", "metadrive"),
    "step_backend": ("fast", "stock"),
    "toll_counter": ("shared", "per_vehicle"),
    "maps": ("train", "heldout"),
}
"""Options that are one of several words."""


LEAST = {
    "horizon": 1,
    "delay_done": 1,
    "start_seed": 0,
    "num_scenarios": 1,
    "heldout_start_seed": 0,
    "num_heldout": 0,
    "max_lives": 0,
    "rule_based": 0,
}
"""Options that are whole numbers, and the smallest that each can be."""

MOST = {
    "horizon": 1_000_000,
    "delay_done": 1_000_000,
    "start_seed": 2**31 - 1,
    "num_scenarios": 2**31 - 1,
    "heldout_start_seed": 2**31 - 1,
    "num_heldout": 2**31 - 1,
    "max_lives": 10_000_000,
}
"""The greatest that each can be; `rule_based` is bounded by the spawn places. A view has a name for every life, and
arrays hold the numbers of maps."""

REWARDS = (
    *("driving_reward", "speed_reward", "success_reward"),
    *("out_of_road_penalty", "crash_vehicle_penalty", "crash_object_penalty"),
    *("out_of_road_cost", "crash_vehicle_cost", "crash_object_cost"),
)
"""MetaDrive's weights that the option `rewards` can change; in `tollgate` also `overspeed_penalty`."""

MAX_SEED = 2**63 - 1
"""The greatest seed of an episode: arrays hold it."""


class SceneError(ValueError):
    """A scene was asked for something it cannot be. The message says what is allowed."""


@dataclass(frozen=True)
class SceneOptions:
    """Everything that makes a scene; plain values, so it pickles and prints.

    Make it with `scene_options`, which fills in the scene's defaults and checks the values.
    """

    scene: str
    num_agents: int
    """N: agents, wrecks that wait for their removal included; also the number of slots."""
    rule_based: int = 0
    """Vehicles besides the agents that a rule drives: traffic to share the road with. The scene's default number of
    agents is less by so many."""
    horizon: int = 1000
    """Steps after which a life is truncated, and after which nobody respawns. One step is 0.1 s."""
    drain: bool = True
    """True: at the horizon respawning stops and the episode ends when nobody is alive, as in the published protocol.
    False: everybody is truncated at the horizon."""
    respawn: bool = True
    """Put a new vehicle on the road for every one that left it."""
    delay_done: int = 25
    """Steps that a wreck stays in the way. Vehicles that arrive vanish at once."""
    start_seed: int = 5000
    """The first of the random maps that `pg_map` drives on; the other scenes have one map each."""
    num_scenarios: int = 1
    """How many maps `pg_map` drives on, by the seed of the episode: those from `start_seed` on."""
    heldout_start_seed: int = 1_000_000
    """The first of the maps that are kept apart from those above, to test on."""
    num_heldout: int = 1000
    """How many of those there are; 0: none are kept apart."""
    maps: str = "train"
    """"train": `pg_map` drives on the maps from `start_seed` on; "heldout": on those from `heldout_start_seed` on."""
    geometry: str = "published"
    """"published": roads as in MetaDrive 0.2.5, on which the published numbers were made. "metadrive": as in 0.4.3."""
    toll_counter: str = "shared"
    """"shared": as published, all vehicles that respawn in `tollgate` count their steps on the toll road together.
    "per_vehicle": each counts its own."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Weights of MetaDrive's reward and cost that are to differ from its own, {"success_reward": 20.0} say: see
    `REWARDS`, and the scene's data sheet for what each does."""
    max_lives: int = 0
    """Bound on the lives of one episode, those of its beginning and of rule-based traffic included. When as many have
    begun nobody respawns any more, and the episode ends when nobody is alive. 0: a bound that is never reached."""

    step_backend: str = "fast"
    """"fast": MetaDrive's step for all vehicles at once, the same numbers in a fraction of the time. "stock":
    MetaDrive's own code."""

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON."""
        return asdict(self)


def get_scene(name: str) -> Scene:
    """The scene of that name.

    Raises:
        SceneError: no such scene.
    """
    if not isinstance(name, str) or name not in SCENES:
        raise SceneError(f"unknown scene {name!r}; choose one of {', '.join(SCENES)}")
    return SCENES[name]


def scene_options(scene: str, **options: Any) -> SceneOptions:
    """Checked options of a scene, defaults filled in.

    Args:
        scene: a name from `SCENES`.
        options: fields of `SceneOptions`; None means the scene's default.

    Raises:
        SceneError: an unknown scene or option, or a value the scene cannot take. The message names what is allowed.
    """
    spec = get_scene(scene)
    known = SceneOptions.__dataclass_fields__
    for name in options:
        if name not in known or name == "scene":
            raise SceneError(
                f"unknown option {name!r} for {scene}; options are {', '.join(sorted(set(known) - {'scene'}))}"
            )
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, allowed in (
        ("num_agents", f"1 to {spec.capacity}"),
        *((name, f"{least} or more") for name, least in LEAST.items()),
    ):
        if name in given:
            given[name] = _whole(name, given[name], allowed)
    rule_based = given.get("rule_based", 0)
    given.setdefault("num_agents", max(1, spec.num_agents - max(0, rule_based)))
    room = spec.capacity - rule_based
    if not 1 <= given["num_agents"] <= room:
        traffic = f" beside rule_based={rule_based}" if rule_based else ""
        advice = f"use 1 to {room}" if room > 0 else f"use rule_based={spec.capacity - 1} or less"
        raise SceneError(
            f"num_agents={given['num_agents']}{traffic} does not fit {scene}: {spec.capacity} spawn places; {advice}"
        )
    for name, least in LEAST.items():
        if given.get(name, least) < least:
            raise SceneError(f"{name}={given[name]} is too small; use {least} or more")
    for name, most in MOST.items():
        if given.get(name, 0) > most:
            raise SceneError(f"{name}={given[name]} is too large; use {most} or less")
    for name, words in CHOICES.items():
        if name in given and not _is_one_of(given[name], words):
            raise SceneError(f"unknown {name} {given[name]!r}; choose one of {', '.join(words)}")
    for name in ("drain", "respawn"):
        if not isinstance(given.get(name, True), (bool, np.bool_)):
            raise SceneError(f"{name}={given[name]!r} is not a truth value; use True or False")
        if name in given:
            given[name] = bool(given[name])  # NumPy's is no value of JSON
    if not given.get("max_lives"):
        # A wreck holds its place for delay_done steps and nobody arrives within 25: more lives do not fit a place.
        shortest = min(given.get("delay_done", SceneOptions.delay_done), 25)
        given["max_lives"] = (given["num_agents"] + rule_based) * (
            1 + math.ceil(given.get("horizon", SceneOptions.horizon) / shortest)
        )
        if given["max_lives"] > MOST["max_lives"]:
            raise SceneError(
                f"horizon={given.get('horizon', SceneOptions.horizon)} and delay_done="
                f"{given.get('delay_done', SceneOptions.delay_done)} could make {given['max_lives']} lives in an "
                f"episode; use a shorter horizon, or say max_lives, {MOST['max_lives']} at most"
            )
    if given["max_lives"] < given["num_agents"] + rule_based:
        vehicles = f"num_agents={given['num_agents']}" + (f" and rule_based={rule_based}" if rule_based else "")
        raise SceneError(f"max_lives={given['max_lives']} is fewer than {vehicles}; use at least that many")
    if "rewards" in given:
        given["rewards"] = _check_rewards(spec, given["rewards"])
    options_made = SceneOptions(scene=scene, **given)
    _check_maps(options_made)
    return options_made


def everybody_an_agent(options: SceneOptions) -> SceneOptions:
    """The same scene in which the rule-based vehicles are agents too."""
    return replace(options, num_agents=options.num_agents + options.rule_based, rule_based=0)


def map_seed(options: SceneOptions, seed: int, maps: str | None = None) -> int:
    """Seed of the map on which the episode that begins with `reset(seed)` takes place.

    Consecutive episode seeds drive on consecutive maps, and begin anew after the last one. Scenes with one map of their
    own ignore the number.

    Args:
        options: of the scene.
        seed: of the episode.
        maps: "train" or "heldout"; None: as in the options.

    Raises:
        SceneError: neither of the two, or held-out maps of a scene that has one map.
    """
    wanted = options.maps if maps is None else maps
    if not _is_one_of(wanted, CHOICES["maps"]):
        raise SceneError(f"unknown maps {wanted!r} at reset; choose one of {', '.join(CHOICES['maps'])}")
    if wanted == "train":
        return options.start_seed + seed % options.num_scenarios
    if options.scene != "pg_map":
        raise SceneError(f"maps={wanted!r}, but {options.scene} has one map; only pg_map has held-out ones")
    if not options.num_heldout:
        raise SceneError(f"maps={wanted!r}, but num_heldout=0 keeps no maps apart; use num_heldout=1 or more")
    return options.heldout_start_seed + seed % options.num_heldout


def rewards_of(spec: Scene) -> tuple[str, ...]:
    """The weights that the option `rewards` can change in a scene of MetaDrive's."""
    return (*REWARDS, "overspeed_penalty") if spec.name == "tollgate" else REWARDS


def _check_rewards(spec: Scene, rewards: Any) -> dict[str, float]:
    allowed = rewards_of(spec)
    if not isinstance(rewards, Mapping):
        raise SceneError(f"rewards={rewards!r} is no dictionary; use a weight for some of {', '.join(allowed)}")
    if rewards and not spec.metadrive_class:
        raise SceneError(f"rewards={rewards!r}, but {spec.name} has none that can be weighted; use {{}}")
    for name, weight in rewards.items():
        if name not in allowed:
            raise SceneError(f"unknown weight {name!r} in rewards; choose one of {', '.join(allowed)}")
        number = isinstance(weight, (int, float, np.integer, np.floating)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise SceneError(f"rewards has {name}={weight!r}; use a finite number")
    return {name: float(weight) for name, weight in rewards.items()}


def _check_maps(options: SceneOptions) -> None:
    map_seed(options, 0)  # refuses held-out maps where there are none
    train, count = options.start_seed, options.num_scenarios
    if options.scene != "pg_map":
        if count != 1:
            raise SceneError(f"num_scenarios={count}, but {options.scene} has one map; only pg_map has more")
        return
    heldout, num_heldout = options.heldout_start_seed, options.num_heldout
    if max(train, heldout) < min(train + count, heldout + num_heldout):
        raise SceneError(
            f"the maps of start_seed={train}, num_scenarios={count} and those of heldout_start_seed={heldout}, "
            f"num_heldout={num_heldout} overlap; choose ranges that have no map in common, "
            "or num_heldout=0 to keep none apart"
        )


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number, Python's or NumPy's. True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_seed(seed: Any) -> int:
    """The seed of an episode.

    Raises:
        SceneError: it cannot be one.
    """
    if not is_whole(seed) or not 0 <= seed <= MAX_SEED:
        raise SceneError(f"seed={seed!r} at reset; use a whole number of 0 or more, below 2**63, or None")
    return int(seed)


def _whole(name: str, value: Any, allowed: str) -> int:
    if not is_whole(value):
        raise SceneError(f"{name}={value!r} is not a whole number; use {allowed}")
    return int(value)


def _is_one_of(value: Any, words: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in words


def as_numbers(values: Any) -> np.ndarray | None:
    """Actions as a float32 array, None for what is no array of numbers.

    Those of other types are clipped to [-1, 1] first: what float32 cannot hold would become infinite.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # rows of different lengths
        return None
    if array.dtype.kind not in "fiub":
        return None
    if array.dtype != np.float32:
        array = np.where(np.isfinite(array), np.clip(array, -1.0, 1.0), array).astype(np.float32)
    return array


def check_actions(actions: Any, num_slots: int, active: np.ndarray) -> np.ndarray:
    """Actions as a float32 array (N, 2) clipped to [-1, 1].

    Raises:
        SceneError: another shape, or NaN or infinity in the row of a living vehicle.
    """
    array = as_numbers(actions)
    if array is None:
        raise SceneError(f"actions are no array of numbers; this scene takes ({num_slots}, 2) of them")
    if array.shape != (num_slots, 2):
        raise SceneError(
            f"actions have shape {array.shape}; this scene takes ({num_slots}, 2): steering and throttle per slot"
        )
    bad = active & ~np.isfinite(array).all(axis=1)
    if bad.any():
        slot = int(np.nonzero(bad)[0][0])
        raise SceneError(
            f"the action of slot {slot} is {array[slot].tolist()}; actions must be finite numbers in [-1, 1]"
        )
    return np.clip(array, -1.0, 1.0)

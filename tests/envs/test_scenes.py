"""The registry, the options of a scene, and what importing the package costs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pettingzoo.utils.env import AECEnv

import copo_envs
from copo_envs.scenes import SCENES, SceneError, SceneOptions, get_scene, map_seed, scene_options

METADRIVE_SCENES = [name for name, scene in SCENES.items() if scene.metadrive_class]


def test_the_published_sizes() -> None:
    sizes = {scene.name: (scene.num_agents, scene.obs_size) for scene in SCENES.values() if scene.metadrive_class}
    assert sizes == {
        "roundabout": (40, 91),
        "intersection": (30, 91),
        "tollgate": (40, 156),
        "bottleneck": (20, 96),
        "parking_lot": (10, 91),
        "pg_map": (15, 91),
    }


@pytest.mark.parametrize("name", SCENES)
def test_defaults(name: str) -> None:
    options = scene_options(name)
    assert options.num_agents == SCENES[name].num_agents <= SCENES[name].capacity
    assert (options.horizon, options.delay_done, options.drain, options.respawn) == (1000, 25, True, True)
    assert options == scene_options(name, num_agents=None, horizon=None)
    assert SceneOptions(**json.loads(json.dumps(options.as_dict()))) == options
    assert pickle.loads(pickle.dumps(options)) == options


def test_numpy_numbers_are_numbers() -> None:
    options = scene_options("particles", num_agents=np.int64(3), drain=np.bool_(False))
    assert options.num_agents == 3 and type(options.num_agents) is int and not options.drain


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_agents": 0}, "num_agents=0 does not fit bottleneck: 48 spawn places; use 1 to 48"),
        ({"num_agents": 49}, "num_agents=49 does not fit bottleneck: 48 spawn places; use 1 to 48"),
        ({"num_agents": 3.5}, "num_agents=3.5 is not a whole number; use 1 to 48"),
        ({"num_agents": True}, "num_agents=True is not a whole number; use 1 to 48"),
        ({"horizon": float("nan")}, "horizon=nan is not a whole number; use 1 or more"),
        ({"horizon": 10**30}, f"horizon={10**30} is too large; use 1000000 or less"),
        ({"max_lives": 10**8}, "max_lives=100000000 is too large; use 10000000 or less"),
        ({"horizon": 10**6, "delay_done": 1}, "horizon=1000000 and delay_done=1 could make 20000020 lives"),
        ({"horizon": 0}, "horizon=0 is too small; use 1 or more"),
        ({"delay_done": 0}, "delay_done=0 is too small; use 1 or more"),
        ({"start_seed": -1}, "start_seed=-1 is too small; use 0 or more"),
        ({"geometry": "flat"}, "unknown geometry 'flat'; choose one of published, metadrive"),
        ({"toll_counter": "none"}, "unknown toll_counter 'none'; choose one of shared, per_vehicle"),
        ({"maps": "test"}, "unknown maps 'test'; choose one of train, heldout"),
        ({"maps": "heldout"}, "maps='heldout', but bottleneck has one map; only pg_map has held-out ones"),
        ({"num_scenarios": 2}, "num_scenarios=2, but bottleneck has one map; only pg_map has more"),
        ({"num_scenarios": 0}, "num_scenarios=0 is too small; use 1 or more"),
        ({"num_heldout": -1}, "num_heldout=-1 is too small; use 0 or more"),
        ({"heldout_start_seed": -3}, "heldout_start_seed=-3 is too small; use 0 or more"),
        ({"heldout_start_seed": "far"}, "heldout_start_seed='far' is not a whole number"),
        ({"respawn": "capped"}, "respawn='capped' is not a truth value; use True or False"),
        (
            {"rewards": {"success": 1}},
            "unknown weight 'success' in rewards; choose one of driving_reward,",
        ),
        ({"rewards": {"overspeed_penalty": 1}}, "unknown weight 'overspeed_penalty' in rewards"),
        ({"rewards": {"speed_reward": float("nan")}}, "rewards has speed_reward=nan; use a finite number"),
        ({"rewards": {"speed_reward": "high"}}, "rewards has speed_reward='high'; use a finite number"),
        ({"max_lives": -1}, "max_lives=-1 is too small; use 0 or more"),
        ({"drain": 1}, "drain=1 is not a truth value; use True or False"),
        ({"max_lives": 5}, "max_lives=5 is fewer than num_agents=20; use at least that many"),
        ({"num_cars": 5}, "unknown option 'num_cars' for bottleneck; options are delay_done, drain,"),
        ({"scene": "x"}, "scene"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    if "scene" in options:
        with pytest.raises(TypeError, match=sentence):
            scene_options("bottleneck", **options)
        return
    with pytest.raises(SceneError) as refusal:
        scene_options("bottleneck", **options)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in SceneOptions.__dataclass_fields__ if name != "scene"])
def test_every_option_refuses_what_it_cannot_be(name: str) -> None:
    for value in ("x", 1.5, float("nan"), -1, 10**30, [1], {}, b"y", np.array([1, 2]), np.array("train")):
        for scene in ("pg_map", "particles"):
            if name == "rewards" and isinstance(value, dict):
                continue  # none to change
            with pytest.raises(SceneError) as refusal:
                scene_options(scene, **{name: value})
            sentence = str(refusal.value)
            assert name in sentence and repr(value) in sentence and "\n" not in sentence
            assert "; use " in sentence or "; choose one of " in sentence


@pytest.mark.parametrize(
    ("start", "count", "heldout", "num_heldout", "fine"),
    [(10, 5, 15, 5, True), (10, 6, 15, 5, False), (20, 5, 15, 5, True), (19, 1, 15, 5, False), (0, 50, 10, 1, False)],
)
def test_maps_to_train_and_to_test_on_are_kept_apart(
    start: int, count: int, heldout: int, num_heldout: int, fine: bool
) -> None:
    ranges = {"start_seed": start, "num_scenarios": count, "heldout_start_seed": heldout, "num_heldout": num_heldout}
    if fine:
        options = scene_options("pg_map", **ranges)
        train, test = ({map_seed(options, seed, maps) for seed in range(100)} for maps in ("train", "heldout"))
        assert train == set(range(start, start + count)) and test == set(range(heldout, heldout + num_heldout))
        return
    with pytest.raises(SceneError) as refusal:
        scene_options("pg_map", **ranges)
    assert str(refusal.value) == (
        f"the maps of start_seed={start}, num_scenarios={count} and those of heldout_start_seed={heldout}, "
        f"num_heldout={num_heldout} overlap; choose ranges that have no map in common, "
        "or num_heldout=0 to keep none apart"
    )
    assert scene_options("pg_map", **{**ranges, "num_heldout": 0}).start_seed == start


def test_the_map_of_an_episode() -> None:
    published = scene_options("pg_map")
    assert {map_seed(published, seed) for seed in (0, 1, 2**31 - 1)} == {5000}
    assert [map_seed(published, 1_000_000 + k, "heldout") for k in range(3)] == [1_000_000, 1_000_001, 1_000_002]
    several = scene_options("pg_map", num_scenarios=3, maps="heldout", num_heldout=2)
    assert [map_seed(several, seed) for seed in range(4)] == [1_000_000, 1_000_001, 1_000_000, 1_000_001]
    assert [map_seed(several, seed, "train") for seed in range(4)] == [5000, 5001, 5002, 5000]
    assert map_seed(scene_options("roundabout"), 7) == 5000
    with pytest.raises(SceneError, match="maps='heldout', but num_heldout=0 keeps no maps apart; use num_heldout=1"):
        scene_options("pg_map", num_heldout=0, maps="heldout")
    with pytest.raises(SceneError, match="unknown maps 3 at reset; choose one of train, heldout"):
        map_seed(published, 0, 3)  # pyright: ignore[reportArgumentType]


def test_unknown_scene() -> None:
    with pytest.raises(SceneError, match="unknown scene 'crossroads'; choose one of roundabout, intersection"):
        get_scene("crossroads")
    with pytest.raises(SceneError, match=r"unknown scene \['intersection'\]; choose one of"):
        get_scene(["intersection"])  # pyright: ignore[reportArgumentType]


def test_importing_the_package_imports_neither_torch_nor_metadrive() -> None:
    code = """
import sys
import copo_envs
from copo_envs import intersection_v0
copo_envs.pg_map_v0.parallel_env(), copo_envs.slots_env("roundabout"), copo_envs.parallel_env("particles").reset()
import copo_envs.lives_env, copo_envs.slots_env, copo_envs.neighbours, copo_envs.testing
print([name for name in ("torch", "metadrive", "panda3d", "copo_algos") if name in sys.modules])
"""
    root = Path(copo_envs.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_has_its_module(name: str) -> None:
    module = getattr(copo_envs, f"{name}_v0")
    env = module.parallel_env(num_agents=2)
    assert env.metadata["name"] == f"{name}_v0" == str(env)
    assert env.scene == name and env.max_num_agents == env.options.max_lives
    for in_turn in (module.env(num_agents=2), module.raw_env(num_agents=2)):
        assert isinstance(in_turn, AECEnv) and in_turn.metadata == env.metadata
    assert f"{name}_v0" in copo_envs.__all__


def test_the_views_are_functions_of_the_package() -> None:
    import copo_envs.slots_env  # a module of the same name must not hide the function

    assert callable(copo_envs.slots_env) and callable(copo_envs.parallel_env)
    with pytest.raises(AttributeError, match="no attribute 'crossroads_v0'"):
        _ = copo_envs.crossroads_v0


@pytest.mark.parametrize("delay_done", [1, 25, 1000])
def test_the_default_bound_on_lives_is_out_of_reach(delay_done: int) -> None:
    options = scene_options("particles", num_agents=4, horizon=1000, delay_done=delay_done)
    # A place holds a wreck for delay_done steps, or an arrival that took 25: never more lives than this.
    assert options.max_lives == 4 * (1 + 1000 // min(delay_done, 25))

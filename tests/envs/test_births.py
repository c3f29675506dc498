"""That vehicles which respawn are made faster than by MetaDrive changes nothing about them.

In processes of their own, since what is installed stays.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.simulator

SETTINGS = """
import copy
import numpy as np
from metadrive.utils import Config
from metadrive.utils.random_utils import get_np_random
from copo_envs import metadrive_fixes

def states():
    found = []
    for seed in (0, 1, 2**31, 2**64 + 5):
        rng = get_np_random(seed)
        found.append([rng.random_sample(700).tolist(), rng.normal(size=3).tolist(), rng.get_state()[2:]])
    return found

def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, Config):
        assert one is not other and same(one.__dict__, other.__dict__)
    elif isinstance(one, dict):
        assert one is not other and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    elif isinstance(one, (list, np.ndarray)):
        assert one is not other and len(one) == len(other) and all(map(np.array_equal, one, other))
    else:
        assert one == other
    return True

shared = {"c": 3}
config = Config({"a": 1, "b": {"x": [1.0, 2.0], "y": None}, "array": np.arange(3), "name": "car", "on": True})
config.update({"later": ("lane", 0), "nested": Config(shared)})
locked = Config({"config": config}, unchangeable=True)

before, copies = states(), [copy.deepcopy(thing) for thing in (config, locked)]
metadrive_fixes.install()
assert Config.__deepcopy__ is not None  # installed
assert states() == before
for thing, by_metadrive in zip((config, locked), copies):
    mine = copy.deepcopy(thing)
    assert same(mine, by_metadrive) and same(mine, thing)
    assert mine._unchangeable == by_metadrive._unchangeable
mine = copy.deepcopy(config)
mine["b"].update({"x": [7.0]})
mine["array"][0] = 9
assert config["b"]["x"] == [1.0, 2.0] and config["array"][0] == 0
assert mine.b is mine["b"], "one object, as before it was copied"
assert get_np_random().get_state()[1].tolist() != get_np_random().get_state()[1].tolist(), "from the system"
print("the same")
"""

EPISODE = """
import sys
import hashlib
import numpy as np
from copo_envs import metadrive_fixes, vector_env
if sys.argv[1] == "as in MetaDrive":
    metadrive_fixes._make_births_cheap = lambda: None
env = vector_env("intersection", 1, in_process=True)
env.reset(seed=4)
digest, births, rng = hashlib.sha256(), 0, np.random.default_rng(0)
for _ in range(150):
    actions = np.clip(rng.normal(0.0, 0.3, (env.num_envs, 2)) + (0.0, 0.5), -1, 1)
    obs, reward, _, _, infos = env.step(actions)
    digest.update(obs.tobytes() + reward.tobytes())
    births += int(infos["spawned"].sum())
print(births, digest.hexdigest())
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_generators_and_copies_of_settings_are_metadrives() -> None:
    assert run(SETTINGS) == "the same"


def test_an_episode_with_births_is_metadrives() -> None:
    ours, metadrives = run(EPISODE, "ours"), run(EPISODE, "as in MetaDrive")
    births = int(ours.split()[0])
    assert births > 5
    assert ours == metadrives

"""Multi-agent driving scenes with respawning vehicles for PettingZoo and Gymnasium.

`parallel_env(scene)` is the PettingZoo view with one agent per life, `slots_env(scene)` the one with a fixed set of
agents; `copo_envs.intersection_v0` and its neighbours follow PettingZoo's naming. MetaDrive is not imported before a
scene that needs it is reset.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.outcomes import Outcome
from copo_envs.scenes import SCENES, SceneError, SceneOptions, scene_options

# At once and not on demand: the function has the name of its module, and whichever is bound last wins.
from copo_envs.slots_env import SlotsEnv, slots_env

if TYPE_CHECKING:
    from copo_envs import (
        bottleneck_v0,
        intersection_v0,
        parking_lot_v0,
        particles_v0,
        pg_map_v0,
        roundabout_v0,
        tollgate_v0,
    )

__all__ = [
    "SCENES",
    "LivesEnv",
    "Outcome",
    "SceneError",
    "SceneOptions",
    "SlotsEnv",
    "bottleneck_v0",
    "intersection_v0",
    "parallel_env",
    "parking_lot_v0",
    "particles_v0",
    "pg_map_v0",
    "roundabout_v0",
    "scene_options",
    "slots_env",
    "tollgate_v0",
]


def __getattr__(name: str) -> Any:
    if name.endswith("_v0") and name in __all__:
        return import_module(f"copo_envs.{name}")
    raise AttributeError(f"module 'copo_envs' has no attribute {name!r}")

"""Multi-agent driving scenes with respawning vehicles for PettingZoo and Gymnasium.

`parallel_env(scene)` is the PettingZoo view with one agent per life, `slots_env(scene)` the one with a fixed set of
agents, `vector_env(scene)` the one as arrays; `copo_envs.intersection_v0` and its neighbours follow PettingZoo's
naming, and `gymnasium.make_vec("copo_envs/Intersection-v0")` works. MetaDrive is not imported before a scene that needs
it is reset.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.outcomes import Outcome
from copo_envs.process import WorkerDied, WorkerError
from copo_envs.scene_vector import WorkerRestartWarning
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
        testing,
        tollgate_v0,
    )
    from copo_envs.drawing.options import RenderError
    from copo_envs.vector import SceneVectorEnv, vector_env
    from copo_envs.wrappers import CoordinatedReward, LCFObservation, NeighbourInfo, NeighbourObservation

    __version__: str

__all__ = [
    "GYMNASIUM_IDS",
    "SCENES",
    "CoordinatedReward",
    "LCFObservation",
    "LivesEnv",
    "NeighbourInfo",
    "NeighbourObservation",
    "Outcome",
    "RenderError",
    "SceneError",
    "SceneOptions",
    "SceneVectorEnv",
    "SlotsEnv",
    "WorkerDied",
    "WorkerError",
    "WorkerRestartWarning",
    "bottleneck_v0",
    "intersection_v0",
    "parallel_env",
    "parking_lot_v0",
    "particles_v0",
    "pg_map_v0",
    "roundabout_v0",
    "scene_options",
    "slots_env",
    "testing",
    "tollgate_v0",
    "vector_env",
]

GYMNASIUM_IDS = {
    "roundabout": "copo_envs/Roundabout-v0",
    "intersection": "copo_envs/Intersection-v0",
    "tollgate": "copo_envs/Tollgate-v0",
    "bottleneck": "copo_envs/Bottleneck-v0",
    "parking_lot": "copo_envs/ParkingLot-v0",
    "pg_map": "copo_envs/PGMap-v0",
    "particles": "copo_envs/Particles-v0",
}
"""Scene -> its id for `gymnasium.make_vec`."""

for _scene, _id in GYMNASIUM_IDS.items():
    gymnasium.register(
        _id,
        entry_point="copo_envs.vector:refuse_single",
        vector_entry_point="copo_envs.vector:vector_env",
        kwargs={"scene": _scene},
    )


def __getattr__(name: str) -> Any:
    # What a worker or a plain environment does not need is imported on demand.
    if name == "testing" or (name.endswith("_v0") and name in __all__):
        return import_module(f"copo_envs.{name}")
    if name == "RenderError":  # drawing needs Pillow
        return import_module("copo_envs.drawing.options").RenderError
    if name in ("vector_env", "SceneVectorEnv"):
        return getattr(import_module("copo_envs.vector"), name)
    if name in ("CoordinatedReward", "LCFObservation", "NeighbourInfo", "NeighbourObservation"):
        return getattr(import_module("copo_envs.wrappers"), name)
    if name == "__version__":  # on demand: to look it up takes a tenth of the import
        return import_module("copo_envs.versions").version_of("copo")
    raise AttributeError(f"module 'copo_envs' has no attribute {name!r}")

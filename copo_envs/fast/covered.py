"""What the batched step covers: which MetaDrive, with which settings, by which rules, on a machine that compiles it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from metadrive.component.navigation_module.node_network_navigation import NodeNetworkNavigation
from metadrive.envs.marl_envs import (
    MultiAgentBottleneckEnv,
    MultiAgentParkingLotEnv,
    MultiAgentTollgateEnv,
)
from metadrive.policy.env_input_policy import EnvInputPolicy

from copo_envs.fast import kernels

_log = logging.getLogger("copo_envs")


class NotCovered(Exception):
    """The batched step cannot reproduce this scene exactly. The message says what is in it."""


KNOWN_METADRIVE = "0.4.3"

# Settings that the kernels take for granted: MetaDrive's own for its multi-agent scenes.
_EXPECTED = {
    "decision_repeat": 5,  # with the next one: see `_span`
    "physics_world_step_size": 0.02,
    "agent_policy": EnvInputPolicy,
    "use_lateral_reward": False,
    "out_of_route_done": False,
    "on_continuous_line_done": True,
    "on_broken_line_done": False,
    "crash_done": True,
    "crash_vehicle_done": True,
    "crash_object_done": True,
    "crash_human_done": True,
    "out_of_road_done": True,
    "truncate_as_terminate": False,
    "is_multi_agent": True,
    "discrete_action": False,
    "random_agent_model": False,
    "traffic_density": 0.0,
    "use_render": False,
    "image_observation": False,
    "record_episode": False,
    "replay_episode": None,
    "random_traffic": False,
    "force_destroy": False,
    "debug_static_world": False,
}


class Rules(NamedTuple):
    """What differs between the scenes besides their maps."""

    lane: bool
    """Leaving the lanes is out of the road."""
    yellow: bool
    """So is touching a continuous yellow line,"""
    white: bool
    """or a white one."""
    signed: bool
    """Progress counts negative off the route on a road that MetaDrive numbers backwards."""
    toll: bool
    """Toll booths: too fast on the toll road is punished, too short a stay ends a life."""


def check_covered(env: Any) -> None:
    """Refuse a MetaDrive or a setting of its environment that the batched step does not know.

    Raises:
        NotCovered: with what it is.
    """
    try:
        found = version("metadrive-simulator")
    except PackageNotFoundError:  # run from its sources
        found = "of an unknown version"
    if found != KNOWN_METADRIVE:
        raise NotCovered(f"MetaDrive {found}, whose inside may differ; it works with {KNOWN_METADRIVE}")
    config = env.config
    for name, value in _EXPECTED.items():
        if config[name] != value:
            raise NotCovered(f"{name}={config[name]!r}")
    lidar = config["vehicle_config"]["lidar"]
    for name in ("num_others", "gaussian_noise", "dropout_prob"):
        if lidar[name]:
            raise NotCovered(f"lidar {name}={lidar[name]}")
    if config["vehicle_config"]["overtake_stat"]:
        raise NotCovered("overtake_stat=True")
    if config["vehicle_config"]["navigation_module"] is not NodeNetworkNavigation:
        raise NotCovered(f"navigation_module={config['vehicle_config']['navigation_module']}")


def rules_of(env: Any) -> Rules:
    """What holds in the scene of an environment."""
    if isinstance(env, MultiAgentTollgateEnv):
        return Rules(lane=False, yellow=env.config["cross_yellow_line_done"], white=False, signed=False, toll=True)
    if isinstance(env, MultiAgentBottleneckEnv):
        return Rules(lane=True, yellow=env.config["cross_yellow_line_done"], white=True, signed=False, toll=False)
    if isinstance(env, MultiAgentParkingLotEnv):
        return Rules(lane=True, yellow=True, white=False, signed=True, toll=False)
    return Rules(lane=True, yellow=True, white=True, signed=True, toll=False)


@functools.cache
def compile_kernels() -> None:
    """Load the kernels from numba's cache, once per process; the first process of an installation compiles them.

    Workers start together, so they take turns: the first compiles, and the others find its work.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no place for a lock: whoever finds nothing compiles
            name = f"copo_envs-{os.getuid()}.lock"
            turn = stack.enter_context((Path(tempfile.gettempdir()) / name).open("w"))
            fcntl.flock(turn, fcntl.LOCK_EX)
        place: Any = kernels.navigate.stats.cache_path
        if not any(Path(place).glob("kernels.*.nbi")):
            _log.warning("compiling the kernels of the batched step, once for this installation: about half a minute")
        try:
            kernels.warm_up()
        except Exception as error:
            raise NotCovered(f"this machine: its kernels do not compile here ({error})") from error

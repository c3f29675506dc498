"""MetaDrive's own configuration of a scene, read without starting it."""

from __future__ import annotations

from functools import cache
from typing import Any

import metadrive.envs.marl_envs as marl_envs
from metadrive.component.pgblock.first_block import FirstPGBlock
from metadrive.manager.spawn_manager import SpawnManager

from copo_envs.scenes import get_scene


@cache
def metadrive_config(scene: str) -> dict[str, Any]:
    """Name -> value of the scene's class. The package's simulator changes none of those that the sheets show."""
    return getattr(marl_envs, get_scene(scene).metadrive_class).default_config().get_dict()


def spawn_places(scene: str) -> tuple[int, int, int]:
    """Roads on which vehicles appear, lanes of such a road, places of a lane."""
    config = metadrive_config(scene)
    roads, road_map = config["spawn_roads"], config["map_config"]
    # The parking lot's own are listed when it is made: its entrances and its spaces.
    number = len(roads) if roads else len(config["in_spawn_roads"]) + config["parking_space_num"]
    length = road_map["exit_length"] - FirstPGBlock.ENTRANCE_LENGTH
    return number, road_map["lane_num"], int(length // SpawnManager.RESPAWN_REGION_LONGITUDE)

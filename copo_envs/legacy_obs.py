"""What a vehicle would have seen in MetaDrive 0.2.5, for policies that were trained there.

Three conventions of the observation changed from 0.2.5 to 0.4.3 without a change of its size:

* the lateral navigation terms changed sign;
* rays are counted counter-clockwise and were counted clockwise. The first ray of the lidar points ahead in both; that
  of the side and lane-line detectors, which begin at 90 degrees, points left and pointed right;
* "last action" is the action just applied and was the one before. So this needs a memory for every life: what the
  observation before said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo.utils.wrappers import BaseParallelWrapper

from copo_envs.lives_env import LivesEnv
from copo_envs.scenes import SceneError, get_scene


@dataclass(frozen=True)
class ObsLayout:
    """Where in an observation the entries are that changed."""

    last_action: slice
    """Last steering, last throttle."""
    lateral: tuple[int, ...]
    """Lateral navigation terms, 0.5 in the middle."""
    lidar: slice
    """Rays of which the first points ahead."""
    detectors: tuple[slice, ...] = ()
    """Rays of the side and lane-line detectors, which begin at the side."""


LAYOUTS = {
    91: ObsLayout(slice(5, 7), (10, 15), slice(19, 91)),
    96: ObsLayout(slice(7, 9), (15, 20), slice(24, 96), (slice(0, 4), slice(10, 14))),
    156: ObsLayout(slice(75, 77), (), slice(82, 154), (slice(0, 72), slice(78, 82))),
}
"""By length of the observation; the layouts are in docs/scenes."""


class LegacyObs:
    """Observations by slot, 0.4.3's in and 0.2.5's out, one call for every step.

    Args:
        scene: one of MetaDrive's.
        num_slots: N.

    Raises:
        SceneError: a scene that is not MetaDrive's.
    """

    def __init__(self, scene: str, num_slots: int):
        spec = get_scene(scene)
        if not spec.metadrive_class:
            raise SceneError(f"{scene} is not in MetaDrive 0.2.5; choose one of its scenes, such as intersection")
        self.layout = LAYOUTS[spec.obs_size]
        self._order = ray_order(spec.obs_size)
        self._before = np.zeros((num_slots, 2), np.float32)

    def __call__(self, obs: np.ndarray, spawned: np.ndarray) -> np.ndarray:
        """obs (N, D) after a step or reset, and which lives began in it (N,) -> (N, D), a copy."""
        # A newborn has not acted: both entries are in the middle, in both versions.
        now = obs[:, self.layout.last_action]
        seen = self.turned(obs, np.where(spawned[:, None], now, self._before))
        self._before = now.copy()
        return seen

    def turned(self, obs: np.ndarray, last_action: np.ndarray) -> np.ndarray:
        """obs (K, D), and the entries of the last action that were there a step ago (K, 2) -> (K, D), a copy."""
        seen = obs[:, self._order]
        seen[:, self.layout.lateral] = 1 - seen[:, self.layout.lateral]
        seen[:, self.layout.last_action] = last_action
        return seen


def ray_order(obs_size: int) -> np.ndarray:
    """(D,): the entry of 0.4.3's observation that is at each place of 0.2.5's."""
    layout = LAYOUTS[obs_size]
    order = np.arange(obs_size)
    for rays, first in ((layout.lidar, 0.0), *((rays, 0.5) for rays in layout.detectors)):
        count = rays.stop - rays.start
        # `first` of a turn lies between the two first rays, 90 degrees to the left and to the right.
        order[rays] = rays.start + (int(first * count) - np.arange(count)) % count
    return order


class LegacyLivesEnv(BaseParallelWrapper[str, np.ndarray, Any]):
    """A lives view whose vehicles see what they would have seen in 0.2.5.

    Args:
        env: a lives view of one of MetaDrive's scenes, with the observations of the scene.

    Raises:
        SceneError: another view, wrapped observations, or a scene that is not in 0.2.5.
    """

    def __init__(self, env: LivesEnv):
        super().__init__(env)
        if not isinstance(env.unwrapped, LivesEnv):
            raise SceneError(f"{env} is no lives view, whose agents are lives; use copo_envs.parallel_env")
        shape = env.observation_space(env.possible_agents[0]).shape
        if shape != (get_scene(env.scene).obs_size,):
            raise SceneError(
                f"observations of shape {shape} are not those of {env.scene}; wrap it before other wrappers change them"
            )
        self._legacy = LegacyObs(env.scene, 0)
        self._before: dict[str, np.ndarray] = {}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._before = {}
        return self._seen(obs), infos

    def step(self, actions: Mapping[str, Any]) -> Any:
        obs, *rest = self.env.step(dict(actions))
        return self._seen(obs), *rest

    def _seen(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not obs:
            return {}
        now = {agent: row[self._legacy.layout.last_action].copy() for agent, row in obs.items()}
        last_action = np.array([self._before.get(agent, now[agent]) for agent in obs])
        self._before = now
        return dict(zip(obs, self._legacy.turned(np.array(list(obs.values())), last_action), strict=True))

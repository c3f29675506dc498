"""The lives view with the agents in turn, for PettingZoo's AEC interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.env import AECEnv
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from copo_envs.lives_env import LivesEnv


class TurnsEnv(parallel_to_aec_wrapper):
    """PettingZoo's conversion, with what a `LivesEnv` tells besides; all of it is of the last step that all have taken.

    Args:
        env: every agent gives its action in turn, and with the last one it takes a step.
    """

    env: LivesEnv

    @property
    def backend(self) -> str | None:
        """See `SceneEnv.backend`."""
        return self.env.backend

    def rule_actions(self) -> dict[str, np.ndarray]:
        """See `SceneEnv.rule_actions`."""
        return self.env.rule_actions()

    def positions(self) -> dict[str, np.ndarray]:
        """See `LivesEnv.positions`."""
        return self.env.positions()

    def headings(self) -> dict[str, float]:
        """See `LivesEnv.headings`."""
        return self.env.headings()


def turns_env(scene: str, **options: Any) -> AECEnv:
    """The vehicles of a scene act in turn. Arguments as of `copo_envs.parallel_env`."""
    return OrderEnforcingWrapper(TurnsEnv(LivesEnv(scene, **options)))

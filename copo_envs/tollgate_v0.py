"""`tollgate` by PettingZoo's convention: `parallel_env` and `env` (agents in turn), one agent per life."""

from __future__ import annotations

from typing import Any

from pettingzoo.utils.env import AECEnv

from copo_envs.lives_env import LivesEnv
from copo_envs.turns_env import turns_env


def parallel_env(**options: Any) -> LivesEnv:
    """All vehicles act at once. Arguments as of `copo_envs.parallel_env`."""
    return LivesEnv("tollgate", **options)


def env(**options: Any) -> AECEnv:
    """The vehicles act in turn. Arguments as of `copo_envs.parallel_env`."""
    return raw_env(**options)


def raw_env(**options: Any) -> AECEnv:
    """`env` before wrappers, and the same: order and actions are checked without."""
    return turns_env("tollgate", **options)

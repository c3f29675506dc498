"""Coordinated Policy Optimization and its baselines on one parameter-shared PPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":  # on demand: the environments take a second
        from copo_envs import __version__

        return __version__
    raise AttributeError(f"module 'copo_algos' has no attribute {name!r}")

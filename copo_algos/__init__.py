"""Coordinated Policy Optimization and its baselines on one parameter-shared PPO."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copo_algos.config import TrainConfig, preset
    from copo_algos.policy import Policy, load_policy, shipped_policy

    __version__: str

__all__ = ["Policy", "TrainConfig", "load_policy", "preset", "shipped_policy"]

_ROOMS = {"TrainConfig": "config", "preset": "config"}


def __getattr__(name: str) -> Any:
    # On demand: torch takes seconds. `train` and `evaluate` are modules, with a function of that name each.
    if name in __all__:
        return getattr(import_module(f"copo_algos.{_ROOMS.get(name, 'policy')}"), name)
    if name == "__version__":
        from copo_envs import __version__

        return __version__
    raise AttributeError(f"module 'copo_algos' has no attribute {name!r}")

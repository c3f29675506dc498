"""Drivers that nobody trained, with the interface of a `Policy`: the rule-based one, and random actions."""

from __future__ import annotations

import numpy as np

from copo_algos.policy import Policy, PolicyInfo
from copo_envs.scenes import get_scene
from copo_envs.step_batch import ACTION_SIZE, Simulator

BASELINES = ("rule_based", "random")


class _Scripted(Policy):
    def __init__(self, scene: str, name: str):
        spec = get_scene(scene)
        self.info = PolicyInfo(spec.name, name, spec.obs_size, spec.num_agents, uses_lcf=False)


class RuleBased(_Scripted):
    """Drives as `Simulator.rule_actions` says."""

    def actions(
        self, simulator: Simulator, obs: np.ndarray, lcf: np.ndarray, rng: np.random.Generator, deterministic: bool
    ) -> np.ndarray:
        return simulator.rule_actions()


class Random(_Scripted):
    """Steering and throttle uniform in [-1, 1], drawn anew in every step."""

    def actions(
        self, simulator: Simulator, obs: np.ndarray, lcf: np.ndarray, rng: np.random.Generator, deterministic: bool
    ) -> np.ndarray:
        return rng.uniform(-1, 1, (simulator.num_slots, ACTION_SIZE)).astype(np.float32)


def baseline(scene: str, name: str) -> Policy:
    """One of BASELINES, in a scene.

    Raises:
        SceneError: no such scene.
    """
    return {"rule_based": RuleBased, "random": Random}[name](scene, name)

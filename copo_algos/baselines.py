"""Drivers that nobody trained, with the interface of a `Policy`: the rule-based one, and random actions."""

from __future__ import annotations

import numpy as np

from copo_algos.algorithms import get_algorithm
from copo_algos.policy import Policy, PolicyInfo, shipped_policy
from copo_envs.scenes import get_scene
from copo_envs.step_batch import ACTION_SIZE, Simulator


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


BASELINES: dict[str, type[_Scripted]] = {"rule_based": RuleBased, "random": Random}


def named_driver(scene: str, name: str) -> Policy:
    """One of BASELINES, or the policy of an algorithm that comes with the package.

    Raises:
        SceneError: no such scene.
        UserError: no such algorithm.
        CheckpointError: no policy of it for this scene comes with the package.
    """
    get_scene(scene)
    if name in BASELINES:
        return BASELINES[name](scene, name)
    get_algorithm(name)
    return shipped_policy(scene, name)

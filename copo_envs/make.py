"""Simulators by the name of their scene, and where they live: in this process or in a worker."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from copo_envs.local import local_simulator
from copo_envs.process import ProcessSimulator
from copo_envs.scenes import SceneError, SceneOptions, get_scene
from copo_envs.step_batch import Simulator, StepBatch


def make_simulator(options: SceneOptions, in_process: bool | None = None) -> Simulator:
    """A simulator of the scene.

    Args:
        options: from `scene_options`.
        in_process: True: in this process. False: in a worker process. None: in this process, unless the scene needs
            MetaDrive and this process has a MetaDrive engine already (it holds one); decided at the first reset.
    """
    if in_process is None:
        return DeferredSimulator(options)
    return local_simulator(options) if in_process else ProcessSimulator(options)


class DeferredSimulator:
    """Decides at the first reset whether the scene lives in this process or in a worker. See `make_simulator`."""

    def __init__(self, options: SceneOptions):
        self.options = options
        self.num_slots = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.max_lives = options.max_lives
        self._simulator: Simulator | None = None
        self._empty = StepBatch.zeros(self.num_slots, self.obs_size)

    @property
    def batch(self) -> StepBatch:
        """The batch of the simulator; empty before the first reset."""
        return self._empty if self._simulator is None else self._simulator.batch

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        return self._started().reset(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        return self._started().begin_episode(seed, num_agents, maps)

    def step(self, actions: np.ndarray) -> StepBatch:
        if self._simulator is None:
            raise SceneError("step() before reset(): call reset(seed) first")
        return self._simulator.step(actions)

    @property
    def backend(self) -> str | None:
        return None if self._simulator is None else self._simulator.backend

    def scenery(self) -> dict[str, Any]:
        if self._simulator is None:
            raise SceneError("the scene has no map before its first reset")
        return self._simulator.scenery()

    def wrecks(self) -> np.ndarray:
        return np.zeros((0, 3)) if self._simulator is None else self._simulator.wrecks()

    def traffic(self) -> np.ndarray:
        return np.zeros((0, 3)) if self._simulator is None else self._simulator.traffic()

    def rule_actions(self) -> np.ndarray:
        if self._simulator is None:
            raise SceneError("rule_actions() before reset(): call reset(seed) first")
        return self._simulator.rule_actions()

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _started(self) -> Simulator:
        if self._simulator is None:
            needs_engine = bool(get_scene(self.options.scene).metadrive_class)
            self._simulator = (
                ProcessSimulator(self.options) if needs_engine and _engine_here() else local_simulator(self.options)
            )
        return self._simulator


def _engine_here() -> bool:
    module = sys.modules.get("metadrive.engine.base_engine")
    return module is not None and module.BaseEngine.singleton is not None

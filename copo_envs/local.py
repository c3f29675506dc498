"""A scene in this process."""

from __future__ import annotations

from typing import Any

import numpy as np

from copo_envs.episodes import AutoReset
from copo_envs.scenes import SceneOptions, everybody_an_agent, get_scene
from copo_envs.step_batch import Simulator, StepBatch


def local_simulator(options: SceneOptions) -> Simulator:
    """The scene in this process."""
    if options.rule_based:
        from copo_envs.mixed_traffic import MixedTraffic

        return MixedTraffic(local_simulator(everybody_an_agent(options)), options)
    if get_scene(options.scene).metadrive_class:
        from copo_envs.simulator import MetaDriveSimulator  # imports MetaDrive: seconds, so only when needed

        return MetaDriveSimulator(options)
    from copo_envs.particles import ParticlesSimulator

    return ParticlesSimulator(options)


class LocalWorker:
    """A scene that begins new episodes by itself, in the place of a worker process: what is sent is done at once."""

    def __init__(self, options: SceneOptions):
        self._simulator = local_simulator(options)
        self._stepper = AutoReset(self._simulator)

    @property
    def batch(self) -> StepBatch:
        """What the last command left."""
        return self._stepper.batch

    def send(self, command: str, *arguments: Any) -> None:
        """reset, or set_num_agents, of `AutoReset`."""
        getattr(self._stepper, command)(*arguments)

    def step_async(self, actions: np.ndarray) -> None:
        """One step."""
        self._stepper.step(actions)

    def receive(self) -> None:
        """Nothing to wait for."""

    @property
    def backend(self) -> str | None:
        return self._simulator.backend

    def scenery(self) -> dict[str, Any]:
        return self._simulator.scenery()

    def wrecks(self) -> np.ndarray:
        return self._simulator.wrecks()

    def traffic(self) -> np.ndarray:
        return self._simulator.traffic()

    def rule_actions(self) -> np.ndarray:
        return self._simulator.rule_actions()

    def close(self) -> None:
        self._simulator.close()

"""What an episode was reset with holds for those that begin by themselves after it."""

from __future__ import annotations

import numpy as np

from copo_envs.episodes import AutoReset, EpisodeSeeds
from copo_envs.particles import ParticlesSimulator
from copo_envs.scenes import scene_options
from copo_envs.step_batch import StepBatch


class Scribe(ParticlesSimulator):
    """Writes down with what its episodes begin. Particles have one map, so it takes any word for one."""

    def __init__(self) -> None:
        super().__init__(scene_options("particles", num_agents=3, horizon=4, drain=False))
        self.begun: list[tuple[int, int | None, str | None]] = []

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.begun.append((seed, num_agents, maps))
        return super().begin_episode(seed, num_agents)


def test_automatic_resets_keep_the_maps_and_the_number_of_vehicles() -> None:
    scribe = Scribe()
    stepper, still = AutoReset(scribe), np.zeros((3, 2))
    for seed, num_agents, maps in ((7, 2, "heldout"), (8, None, None)):
        scribe.begun.clear()
        stepper.reset(EpisodeSeeds(seed), num_agents, maps)
        for _ in range(8):
            stepper.step(still)
        seeds = EpisodeSeeds(seed)
        assert scribe.begun == [(number, num_agents, maps) for number in (seed, seeds.advance(), seeds.advance())]
    stepper.reset(EpisodeSeeds(9), 1, "heldout")
    stepper.set_num_agents(3)
    for _ in range(4):
        stepper.step(still)
    assert [begun[1:] for begun in scribe.begun[-2:]] == [(1, "heldout"), (3, "heldout")]

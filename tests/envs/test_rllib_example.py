# pyright: reportMissingImports=false
"""The RLlib example, where RLlib is installed: it pins another gymnasium, so it needs an environment of its own."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs

pytest.importorskip(
    "ray.rllib", reason="RLlib is not installed: it wants gymnasium 1.2.2, and an environment of its own"
)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "rllib_ppo.py"))


def test_lives_come_and_go_and_the_episode_ends_with_the_last(example: dict[str, Any]) -> None:
    lives = example["Lives"]({"scene": "particles", "num_agents": 3, "horizon": 200})
    plain = copo_envs.parallel_env("particles", num_agents=3, horizon=200)
    observations, _ = lives.reset(seed=0)
    plain.reset(seed=0)
    assert set(observations) <= set(lives.possible_agents)
    assert set(lives.observation_spaces) == set(lives.action_spaces) == set(plain.possible_agents)
    ended, over = 0, False
    while not over:
        actions = {agent: np.ones(2, np.float32) for agent in lives.agents}
        _, _, terminated, truncated, _ = lives.step(actions)
        _, _, plain_terminated, plain_truncated, _ = plain.step(actions)
        assert not terminated.pop("__all__")
        over = truncated.pop("__all__")
        assert (terminated, truncated) == (plain_terminated, plain_truncated)
        assert over == (not plain.agents) and lives.agents == plain.agents
        ended += sum(terminated.values())
    assert ended > 3  # others came
    lives.close()
    plain.close()


def test_trains_and_drives(example: dict[str, Any]) -> None:
    assert example["main"](["--scene", "particles", "--total-timesteps", "1024"]).total() > 0


@pytest.mark.simulator
def test_runs_on_metadrive(example: dict[str, Any]) -> None:
    example["main"](["--scene", "intersection", "--total-timesteps", "960", "--evaluation-steps", "60"])

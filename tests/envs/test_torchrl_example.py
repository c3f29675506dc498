"""The TorchRL example runs, cuts at the ends of lives, and what it trains drives better than chance."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import copo_envs
from copo_envs.outcomes import Outcome

pytest.importorskip("torchrl")
pytestmark = [
    pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL is tested:UserWarning"),
    pytest.mark.filterwarnings("ignore:The env passed to Collector:FutureWarning"),
]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "torchrl_ppo.py"))


def test_torchrl_finds_the_specs_right(example: dict[str, Any]) -> None:
    from torchrl.envs import check_env_specs

    env = example["make_env"]("particles", 0)
    assert list(env.group_map) == ["slot"] and len(env.group_map["slot"]) == 8
    check_env_specs(env)
    env.close()


def test_a_slot_is_done_where_its_life_ends(example: dict[str, Any]) -> None:
    """The rollout through TorchRL against the arrays view, driven with the same actions."""
    steps = 150
    env = example["make_env"]("particles", 3)
    torch.manual_seed(0)

    def outwards(data: Any) -> Any:  # with some noise, so that they end at different times
        return data.set(("slot", "action"), 0.6 + 0.4 * torch.rand(8, 2))

    data = env.rollout(steps, outwards)
    env.close()
    acted = example["by_lives"](data)
    rows = copo_envs.vector_env("particles", 1, in_process=True)
    rows.reset(seed=3)
    rows.reset()  # TorchRL resets with the seed when it gets it, and begins its first rollout with the next episode
    for t in range(len(data)):
        _, rewards, terminations, truncations, infos = rows.step(data["slot", "action"][t].numpy())
        assert acted[t].tolist() == infos["acted"].tolist()
        assert data["next", "slot", "done"][t, :, 0].tolist() == (terminations | truncations).tolist()
        np.testing.assert_allclose(data["next", "slot", "reward"][t, :, 0], rewards, rtol=1e-6)
    rows.close()
    assert data["next", "slot", "done"].sum() > 5 and not acted.all()


def test_learns_on_particles(example: dict[str, Any]) -> None:
    endings = example["main"](["--scene", "particles", "--total-timesteps", "20000"])
    assert endings[Outcome.SUCCESS] / endings.total() > 0.12  # at random it is below 0.05


def test_a_seed_repeats_the_training(example: dict[str, Any]) -> None:
    one, same, other = (
        torch.cat([p.flatten() for p in example["train"]("particles", 1024, seed).parameters()]) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.simulator
def test_runs_on_metadrive(example: dict[str, Any]) -> None:
    example["main"](["--scene", "intersection", "--total-timesteps", "512", "--evaluation-steps", "60"])

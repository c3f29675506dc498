"""The Stable-Baselines3 examples run, and what they train drives better than chance."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from copo_envs.outcomes import Outcome

pytest.importorskip("supersuit")
pytest.importorskip("stable_baselines3")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sb3_ppo", "sb3_supersuit"])
def example(request: pytest.FixtureRequest) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{request.param}.py"
    spec = importlib.util.spec_from_file_location(request.param, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_learns_on_particles(example: ModuleType) -> None:
    endings = example.main(["--scene", "particles", "--total-timesteps", "24000", "--num-scenes", "2"])
    assert endings[Outcome.SUCCESS] / endings.total() > 0.25  # at random it is below 0.05


def test_a_seed_repeats_the_training(example: ModuleType) -> None:
    obs = np.linspace(0, 1, 32, dtype=np.float32)
    one, same, other = (
        example.train("particles", total_timesteps=512, num_scenes=1, seed=seed).predict(obs, deterministic=True)[0]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.simulator
def test_runs_on_metadrive(example: ModuleType) -> None:
    example.main(["--scene", "intersection", "--total-timesteps", "512", "--evaluation-steps", "60"])

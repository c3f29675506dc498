"""The checks of `copo_envs.testing` find what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from copo_envs import testing
from copo_envs.lives_env import LivesEnv
from copo_envs.particles import ParticlesSimulator
from copo_envs.scenes import scene_options
from copo_envs.step_batch import StepBatch
from copo_envs.testing import check_deterministic, check_scene, check_simulator

pytestmark = pytest.mark.slow


class Spoilt(LivesEnv):
    """The particles, with one thing wrong in every step's results."""

    fault = ""

    def __init__(self, fault: str):
        super().__init__("particles", horizon=60)
        self.fault = fault

    def step(self, actions: Any) -> Any:
        obs, rewards, terminated, truncated, infos = super().step(actions)
        agent = next(iter(obs))
        if self.fault == "bounds":
            obs[agent] = obs[agent] + 2
        elif self.fault == "keys":
            del infos[agent]
        elif self.fault == "info":
            infos[agent]["color"] = 3
        elif self.fault == "nan":
            infos[agent]["energy"] = np.nan
        elif self.fault == "reward":
            rewards[agent] = float("inf")
        elif self.fault == "type":
            terminated[agent] = np.bool_(terminated[agent])  # pyright: ignore
        elif self.fault == "outcome":
            infos[agent]["outcome"] = 2 if not terminated[agent] else 0
        elif self.fault == "life_steps":
            infos[agent]["life_steps"] += 1
        elif self.fault == "chance":
            rewards[agent] += np.random.default_rng().normal()
        return obs, rewards, terminated, truncated, infos

    def observation_space(self, agent: str) -> Any:
        space = super().observation_space(agent)
        return type(space)(0.0, 1.0, space.shape, np.float32) if self.fault == "space" else space  # pyright: ignore

    def positions(self) -> dict[str, np.ndarray]:
        places = super().positions()
        if self.fault == "positions":
            places.popitem()
        return places


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("bounds", "the observation of agent_0 is not in Box"),
        ("keys", "infos are of"),
        ("info", "infos of agent_0 have"),
        ("nan", "info 'energy' of agent_0 is nan"),
        ("reward", "the reward of agent_0 is inf, not a finite float"),
        ("type", "an ending of agent_0 is a bool"),
        ("outcome", "agent_0 has outcome CRASH, terminated=False"),
        ("life_steps", "agent_0 has acted 1 times, life_steps says 2"),
        ("space", r"observation_space\('agent_0'\) is a new object each time"),
        ("positions", "positions are of"),
    ],
)
def test_a_broken_scene_is_found(fault: str, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_scene(Spoilt(fault), steps=100)


def test_chance_is_found() -> None:
    with pytest.raises(AssertionError, match=r"after another reset, at moment 1: rewards of agent_0 are"):
        check_deterministic(lambda: Spoilt("chance"), steps=20)
    assert check_deterministic(lambda: Spoilt(""), steps=100) > 0
    assert check_deterministic(lambda: Spoilt(""), steps=20, min_endings=12) >= 12
    with pytest.raises(AssertionError, match=r"lives ended in 20 steps, and 1000 were asked for"):
        check_deterministic(lambda: Spoilt(""), steps=2, min_endings=1000)


def test_the_command_checks_and_says_what_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--scenes", "particles", "--cycles", "10", "--steps", "200"]
    assert testing.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line.startswith(("ok ", "FAILED"))]
    assert len(lines) == 21 and all(line.startswith("ok ") for line in lines)

    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("no contract")

    monkeypatch.setattr(testing, "check_scene", broken)
    assert testing.main(arguments) == 1
    assert "FAILED  particles, 1 vehicles, contract: AssertionError: no contract" in capsys.readouterr().out


class Leaky(ParticlesSimulator):
    """Shows the observation of a slot that has just become empty."""

    def step(self, actions: np.ndarray) -> StepBatch:
        batch = super().step(actions)
        gone = batch.acted & ~batch.active
        batch.obs[gone] = batch.final_obs[gone]
        return batch


def test_a_leaking_simulator_is_found() -> None:
    with pytest.raises(AssertionError, match="obs of an empty slot is not zero"):
        check_simulator(Leaky(scene_options("particles")), steps=300)

"""The TorchRL example runs, cuts at the ends of lives, and what it trains drives better than chance."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs
from copo_envs.outcomes import Outcome

torch = pytest.importorskip("torch")
pytest.importorskip("torchrl")
pytestmark = [
    pytest.mark.slow,
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


def drive_outwards(env: Any, steps: int) -> Any:
    """A rollout in which half of the slots drive towards one corner, with some noise, and the others stand."""
    torch.manual_seed(0)
    moving = (torch.arange(8) >= 4)[:, None]
    return env.rollout(steps, lambda data: data.set(("slot", "action"), moving * (0.6 + 0.4 * torch.rand(8, 2))))


# With a horizon of 60 those that stand are out of time while successors of the others are still there.
@pytest.mark.parametrize("horizon", [1000, 60])
def test_a_slot_is_done_where_its_life_ends(example: dict[str, Any], horizon: int) -> None:
    """The rollout through TorchRL against the arrays view, driven with the same actions."""
    env = example["make_env"]("particles", 3, horizon=horizon)
    data = drive_outwards(env, 200)
    env.close()
    acted = example["by_lives"](data)
    done, terminated = (data["next", "slot", name][..., 0].numpy() for name in ("done", "terminated"))
    rows = copo_envs.vector_env("particles", 1, in_process=True, horizon=horizon)
    rows.reset(seed=3)
    rows.reset()  # TorchRL resets with the seed when it gets it, and begins its first rollout with the next episode
    out_of_time = 0
    for t in range(len(data)):
        _, rewards, terminations, truncations, infos = rows.step(data["slot", "action"][t].numpy())
        over = infos["episode_over"].all()
        who = infos["acted"]
        assert acted[t].tolist() == who.tolist()
        assert over == done[t].all()
        assert (done[t] & who).tolist() == (terminations | truncations).tolist()
        # Only at the end of the episode is what follows a truncation the vehicle's own last observation.
        assert (terminated[t] & who).tolist() == (terminations | (truncations & (not over))).tolist()
        np.testing.assert_allclose(data["next", "slot", "reward"][t, :, 0], rewards, rtol=1e-6)
        out_of_time += int((truncations & (not over)).sum())
    rows.close()
    assert done.sum() > 5 and not acted.all()
    assert (out_of_time > 0) == (horizon == 60)


def test_advantages_stop_at_the_end_of_a_life(example: dict[str, Any]) -> None:
    """TorchRL's against the recursion A_t = r + gamma V' (1 - terminated) - V + gamma lambda (1 - done) A_t+1."""
    env = example["make_env"]("particles", 3)
    critic = example["make_critic"](env)
    gae, _ = example["make_losses"](example["make_actor"](env), critic)
    data = drive_outwards(env, 200)
    env.close()
    example["by_lives"](data)
    with torch.no_grad():
        gae(data)
    after = data["next", "slot"]
    assert after["terminated"].sum() > 5
    advantage = torch.zeros(8, 1)
    for t in reversed(range(len(data))):
        value, next_value = data["slot", "state_value"][t], after["state_value"][t]
        delta = after["reward"][t] + 0.97 * next_value * ~after["terminated"][t] - value
        advantage = delta + 0.97 * 0.95 * ~after["done"][t] * advantage
        torch.testing.assert_close(data["slot", "advantage"][t], advantage)


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

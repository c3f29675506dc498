# pyright: reportMissingImports=false
"""The BenchMARL example, where BenchMARL is installed: it pins an older TorchRL and has an environment of its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs
from copo_envs.outcomes import Outcome

pytest.importorskip(
    "benchmarl", reason="BenchMARL is not installed: it wants torchrl below 0.12, and an environment of its own"
)
torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL is tested:UserWarning"),
    pytest.mark.filterwarnings("ignore:No episode terminated this iteration:UserWarning"),
    pytest.mark.filterwarnings("ignore:SyncDataCollector has been deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def example() -> Any:
    """As a module that can be imported again, since BenchMARL pickles the task."""
    path = Path(__file__).parents[2] / "examples" / "benchmarl_ppo.py"
    spec = importlib.util.spec_from_file_location("benchmarl_ppo", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["benchmarl_ppo"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_env(example: Any, seed: int, **options: Any) -> Any:
    """The environment that BenchMARL makes of the task."""
    from torchrl.envs import Compose, TransformedEnv

    task = example.SceneTask("particles", options)
    env = task.get_env_fun(1, True, seed, "cpu")()
    return TransformedEnv(env, Compose(*task.get_env_transforms(env)))


def test_torchrl_finds_the_specs_right(example: Any) -> None:
    from torchrl.envs import check_env_specs

    env = make_env(example, 0)
    check_env_specs(env)
    env.close()


def test_copies_drive_different_episodes(example: Any) -> None:
    make = example.SceneTask("particles", {}).get_env_fun(2, True, 5, "cpu")
    for seed in (5, 6):
        copy, plain = make(), copo_envs.slots_env("particles")
        plain.reset(seed=seed)
        observations, _ = plain.reset()  # TorchRL resets with the seed when it gets it; the first rollout is the next
        np.testing.assert_array_equal(copy.reset()["slot", "observation"].numpy(), np.stack([*observations.values()]))
        copy.close()
        plain.close()


# With a horizon of 60 those that stand are out of time while successors of the others are still there.
@pytest.mark.parametrize("horizon", [1000, 60])
def test_a_slot_is_done_where_its_life_ends(example: Any, horizon: int) -> None:
    """The rollout of the task's environment against the arrays view, driven with the same actions."""
    env = make_env(example, 3, horizon=horizon)
    torch.manual_seed(0)
    moving = (torch.arange(8) >= 4)[:, None]  # towards one corner, with some noise
    data = env.rollout(200, lambda data: data.set(("slot", "action"), moving * (0.6 + 0.4 * torch.rand(8, 2))))
    env.close()
    mask = data["slot", "mask"].numpy()
    done, terminated = (data["next", "slot", name][..., 0].numpy() for name in ("done", "terminated"))
    rows = copo_envs.vector_env("particles", 1, in_process=True, horizon=horizon)
    rows.reset(seed=3)
    rows.reset()
    out_of_time = 0
    assert len(data) > 60
    for t in range(len(data)):
        _, rewards, terminations, truncations, infos = rows.step(data["slot", "action"][t].numpy())
        over = infos["episode_over"].all()
        assert bool(data["next", "done"][t]) == over
        assert mask[t].tolist() == infos["acted"].tolist()
        assert (done[t] & mask[t]).tolist() == (terminations | truncations).tolist()
        assert not done[t][~mask[t]].any() or over
        # Only at the end of the episode is what follows a truncation the vehicle's own last observation.
        assert (terminated[t] & mask[t]).tolist() == (terminations | (truncations & (not over))).tolist()
        np.testing.assert_allclose(data["next", "slot", "reward"][t, :, 0], rewards, rtol=1e-6)
        out_of_time += int((truncations & (not over)).sum())
    rows.close()
    assert done.sum() > 5 and not mask.all()
    assert (out_of_time > 0) == (horizon == 60)


@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
def test_what_ppo_learns_from_stops_at_the_end_of_a_life(example: Any, algorithm: str, tmp_path: Path) -> None:
    """Its buffer against the recursion A_t = r + gamma V' (1 - terminated) - V + gamma lambda (1 - done) A_t+1."""
    learned: list[Any] = []

    class Keep(example.Callback):
        def on_train_end(self, training_td: Any, group: str) -> None:
            learned.append(self.experiment.replay_buffers[group][:].clone())

    experiment = example.make_experiment("particles", algorithm, 512, 0, str(tmp_path))
    keep = Keep()
    keep.experiment = experiment
    experiment.callbacks.append(keep)
    experiment.run()
    assert len(learned) == 8
    ended = empty = 0
    for data in learned:
        slots, after, there = data["slot"], data["next", "slot"], data["slot", "mask"][..., None]
        advantage = torch.zeros(8, 1)
        for t in reversed(range(len(data))):
            value, next_value = slots["state_value"][t], after["state_value"][t]
            delta = after["reward"][t] + 0.97 * next_value * ~after["terminated"][t] - value
            advantage = delta + 0.97 * 0.95 * ~after["done"][t] * advantage
            here, target = there[t], slots["value_target"][t]
            torch.testing.assert_close(slots["advantage"][t], advantage * here, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(target[here], (advantage + value)[here], rtol=1e-4, atol=1e-4)
            mean = (advantage + value)[here].mean()
            torch.testing.assert_close(target[~here], mean.expand(int((~here).sum())), rtol=1e-4, atol=1e-4)
        ended += int((after["done"] & there).sum())
        empty += int((~there).sum())
    assert ended > 3 and empty > 10


def test_learns_on_particles(example: Any) -> None:
    endings = example.main(["--scene", "particles", "--total-steps", "2500"])
    assert endings[Outcome.SUCCESS] / endings.total() > 0.12  # at random it is below 0.05


def test_a_seed_repeats_the_training(example: Any) -> None:
    one, same, other = (
        torch.cat([p.flatten() for p in example.train("particles", "ippo", 128, seed).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.simulator
@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
def test_runs_on_metadrive(example: Any, algorithm: str) -> None:
    example.main(
        ["--scene", "intersection", "--algorithm", algorithm, "--total-steps", "32", "--evaluation-steps", "60"]
    )

"""Checkpoints: written whole or not at all, three kept, everything restored bit for bit."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from copo_algos import checkpoint as checkpoint_module
from copo_algos.checkpoint import LearnerParts, best_success, keep_best, load_learner, save_checkpoint
from copo_algos.config import LCFConfig, PPOConfig, TrainConfig
from copo_algos.errors import CheckpointError
from copo_algos.lcf import LCFDistribution
from copo_algos.networks import ValueCritic
from copo_algos.policy import Policy, PolicyInfo, checkpoints, load_policy, make_actor
from copo_algos.train import Trainer

INFO = PolicyInfo("particles", "ippo", obs_size=32, num_agents=4, uses_lcf=False)
CONFIG = TrainConfig(
    algorithm="copo",
    scene="particles",
    num_envs=0,
    num_agents=6,
    horizon=20,
    steps_per_iteration=40,
    total_steps=1000,
    ppo=PPOConfig(update_epochs=2, minibatch_size=64, kl_target=1e-4),
    lcf=LCFConfig(lcf_learning_rate=0.05),
)
FILES = {"policy.safetensors", "policy.json", "learner.safetensors", "learner.json"}


def make_parts(seed: int = 0) -> LearnerParts:
    """A small learner after two steps of Adam."""
    generator = torch.Generator().manual_seed(seed)
    critic, lcf = ValueCritic(3, 2, generator), LCFDistribution(0.1 + seed / 10, 0.2)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "critic_optimizer": torch.optim.Adam(critic.parameters()),  # the trainer has one per head; any number will do
        "lcf_optimizer": torch.optim.Adam(lcf.parameters()),
    }
    for _ in range(2):
        loss = critic(torch.randn(5, 3, generator=generator)).square().mean() + lcf.mean() * lcf.std()
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
    return LearnerParts({"critic": critic, "lcf": lcf}, optimizers, generator)


def save(run: Path, env_steps: int, keep: int = 3, **state: Any) -> Path:
    policy = Policy(make_actor(INFO, torch.Generator().manual_seed(env_steps)), INFO)
    return save_checkpoint(run, env_steps, policy, make_parts(), {"env_steps": env_steps, **state}, keep)


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def tensors(parts: LearnerParts) -> dict[str, torch.Tensor]:
    out = {"generator": parts.generator.get_state()}
    for name, module in parts.modules.items():
        out |= {f"{name} {key}": value.clone() for key, value in module.state_dict().items()}
    for name, optimizer in parts.optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            out |= {f"{name} {index} {key}": value.clone() for key, value in entries.items()}
    return out


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def test_a_checkpoint_is_a_folder_of_four_files(tmp_path: Path):
    folder = save(tmp_path, 1600)
    assert folder == tmp_path / "checkpoints" / "step_000001600"
    assert {path.name for path in folder.iterdir()} == FILES


def test_only_the_last_three_are_kept(tmp_path: Path):
    for env_steps in (900, 1600, 3200, 20_000, 100_000):
        save(tmp_path, env_steps)
    names = [path.name for path in checkpoints(tmp_path)]
    assert names == ["step_000003200", "step_000020000", "step_000100000"]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == set(names)


def test_as_many_are_kept_as_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for env_steps in (100, 200, 300, 400):
        save(tmp_path, env_steps, keep=0)
    assert len(checkpoints(tmp_path)) == 4
    with monkeypatch.context() as patch:
        patch.setattr("os.rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError("busy")))
        save(tmp_path, 500, keep=2)  # what cannot be deleted is no reason to stop
    assert checkpoints(tmp_path)[-1].name == "step_000000500"
    save(tmp_path, 600, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000000500", "step_000000600"]


def test_the_best_is_none_of_the_three_and_stays(tmp_path: Path):
    assert best_success(tmp_path) == -math.inf
    best = keep_best(save(tmp_path, 100), {"success_rate": 0.25})
    for env_steps in (200, 300, 400, 500):
        save(tmp_path, env_steps)
    assert [path.name for path in checkpoints(tmp_path)] == [f"step_000000{n}" for n in (300, 400, 500)]
    assert {path.name for path in best.iterdir()} == {*FILES, "evaluation.json"}
    assert best_success(tmp_path) == 0.25
    keep_best(tmp_path / "checkpoints" / "step_000000500", {"success_rate": 0.5})
    assert best_success(tmp_path) == 0.5
    assert json.loads((best / "learner.json").read_text())["env_steps"] == 500
    assert len(list(best.parent.iterdir())) == 4


@pytest.mark.parametrize("moment", [0, 1])
def test_the_best_survives_a_disk_that_refuses_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int):
    """At the first or the second of the two renames."""
    keep_best(save(tmp_path, 100), {"success_rate": 0.25})
    checkpoint, before = save(tmp_path, 200), contents(tmp_path / "checkpoints" / "best")
    rename, calls = os.replace, []

    def refuse(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == moment + 1:
            raise OSError(28, "No space left on device")
        rename(*paths)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write .*best: .*the other checkpoints are intact"):
        keep_best(checkpoint, {"success_rate": 0.5})
    assert contents(tmp_path / "checkpoints" / "best") == before and len(list(checkpoint.parent.iterdir())) == 3


def test_the_best_is_put_back_after_an_end_between_two_renames(tmp_path: Path):
    best = keep_best(save(tmp_path, 100), {"success_rate": 0.25})
    best.rename(best.with_name("best.old"))
    assert best_success(tmp_path) == 0.25 and [path.name for path in best.parent.glob("best*")] == ["best"]


def test_a_learner_is_restored_bit_for_bit(tmp_path: Path):
    folder = save(tmp_path, 10, kl_coef=0.1 + 0.2, seconds=1.5)
    before, after = make_parts(), make_parts(seed=1)
    state = load_learner(folder, after)
    assert state == {"env_steps": 10, "kl_coef": 0.1 + 0.2, "seconds": 1.5}
    assert_same(tensors(before), tensors(after))
    # and goes on the same: the next draw and the next step
    assert torch.equal(torch.randn(3, generator=before.generator), torch.randn(3, generator=after.generator))
    for parts in (before, after):
        parts.optimizers["critic_optimizer"].zero_grad()
        parts.modules["critic"](torch.ones(2, 3)).sum().backward()
        parts.optimizers["critic_optimizer"].step()
    assert_same(tensors(before), tensors(after))


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_failure_before_the_end_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str):
    """The disk refuses one of the four files, whichever: it holds no bigger ones from here on."""
    save(tmp_path, 100)
    size = (tmp_path / "checkpoints" / "step_000000100" / file).stat().st_size
    before = contents(tmp_path)
    if file.endswith(".json"):
        write_text = Path.write_text

        def refuse(path: Path, *arguments: Any, **options: Any) -> int:
            if path.name == file:
                raise OSError(28, "No space left on device")
            return write_text(path, *arguments, **options)

        monkeypatch.setattr(Path, "write_text", refuse)
        with pytest.raises(CheckpointError, match="earlier checkpoints are intact"):
            save(tmp_path, 200)
    else:
        with files_limited_to(size // 2), pytest.raises(CheckpointError, match="earlier checkpoints are intact"):
            save(tmp_path, 200)
    assert contents(tmp_path) == before
    assert load_policy(tmp_path).info == INFO


class files_limited_to:
    """The operating system refuses to let a file grow beyond so many bytes, as a full disk would."""

    def __init__(self, size: int):
        self.size = size

    def __enter__(self) -> None:
        self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.limits[1]))

    def __exit__(self, *exception: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
        signal.signal(signal.SIGXFSZ, self.handler)


@pytest.mark.parametrize("again", [False, True], ids=["new", "same step again"])
def test_a_failure_in_the_last_moment_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
):
    def refuse(source: Any, target: Any) -> None:
        raise OSError(5, "Input/output error")

    save(tmp_path, 100)
    save(tmp_path, 200)
    before = contents(tmp_path)
    monkeypatch.setattr(checkpoint_module.os, "replace", refuse)
    if again:
        assert save(tmp_path, 200).is_dir()  # it is there: nothing to write
    else:
        with pytest.raises(CheckpointError, match=r"step_000000300: .*Input/output error; earlier .* intact$"):
            save(tmp_path, 300)
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_a_leftover_of_a_killed_run_does_not_count_and_is_replaced(tmp_path: Path):
    save(tmp_path, 100)
    leftover = tmp_path / "checkpoints" / "step_000000200.partial"
    leftover.mkdir()
    (leftover / "policy.json").write_text("{")
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000000100"]
    save(tmp_path, 200)
    assert not leftover.exists() and len(checkpoints(tmp_path)) == 2


def test_a_run_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint") as error:
        save(tmp_path / "file" / "run", 100)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["learner.safetensors", "learner.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_learner_is_refused(tmp_path: Path, file: str, damage: str):
    path = save(tmp_path, 100) / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError, match=str(path)) as error:
        load_learner(path.parent, make_parts())
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["generator", "lcf_optimizer.0.step"])
def test_a_learner_without_all_its_tensors_is_refused(tmp_path: Path, name: str):
    path = save(tmp_path, 100) / "learner.safetensors"
    tensors = load_file(path)
    tensors[f"{name}.more"] = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"{path} does not hold a learner"):
        load_learner(path.parent, make_parts())


def test_the_learner_of_another_network_is_refused(tmp_path: Path):
    folder = save(tmp_path, 100)
    parts = make_parts()
    parts.modules["critic"] = ValueCritic(4, 2, torch.Generator())
    with pytest.raises(CheckpointError, match=r"heads.0.0.weight is \(256, 3\), not \(256, 4\)"):
        load_learner(folder, parts)


def test_weights_without_a_learner_are_refused(tmp_path: Path):
    folder = save(tmp_path, 100)
    shutil.copy(folder / "policy.safetensors", folder / "learner.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_learner(folder, make_parts())


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    out = Trainer(CONFIG)
    yield out
    out.close()


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    out = tensors(trainer._parts())
    return out | {f"actor {name}": value.clone() for name, value in trainer.actor.state_dict().items()}


def test_a_trainer_goes_on_bit_for_bit(tmp_path: Path, trainer: Trainer):
    trainer.begin()
    for _ in range(3):
        trainer.train_iteration()
    folder = trainer.save(tmp_path)
    again = Trainer(CONFIG)
    try:
        again.restore(folder)
        assert_same(everything(trainer), everything(again))
        assert len([name for name in everything(again) if "optimizer" in name]) == 3 * (6 + 3 * 6 + 2)
        assert again.rng.bit_generator.state == trainer.rng.bit_generator.state
        assert again.kl_coef == trainer.kl_coef != CONFIG.ppo.kl_coef
        for name in ("iteration", "env_steps", "vehicle_steps", "seconds"):
            assert getattr(again, name) == getattr(trainer, name) > 0
        assert again.record.state() == trainer.record.state()
        assert again.policy().info == trainer.policy().info == load_policy(tmp_path).info
        # From here both see the same episodes, draw the same and learn the same.
        for one in (trainer, again):
            one.begin()
            one.train_iteration()
        assert_same(everything(trainer), everything(again))
        np.testing.assert_array_equal(trainer.scenes.batch.obs, again.scenes.batch.obs)
    finally:
        again.close()


def test_the_policy_of_another_algorithm_does_not_fit(tmp_path: Path, trainer: Trainer):
    with pytest.raises(CheckpointError, match="does not fit this network"):
        trainer.restore(save(tmp_path, 100))


def test_the_plain_values_are_readable(tmp_path: Path, trainer: Trainer):
    trainer.begin()
    trainer.train_iteration()
    state = json.loads((trainer.save(tmp_path) / "learner.json").read_text())
    assert state["env_steps"] == 40 and state["iteration"] == 1 and state["kl_coef"] == trainer.kl_coef
    assert os.listdir(tmp_path) == ["checkpoints"]

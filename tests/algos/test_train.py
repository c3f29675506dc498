"""Whole trainings on the particles: what they leave, that a seed determines them, and that they can be resumed."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from copo_algos import interrupts
from copo_algos import ppo as ppo_module
from copo_algos import train as train_module
from copo_algos.algorithms import ALGORITHMS
from copo_algos.config import PRESETS, TrainConfig, preset, with_values
from copo_algos.errors import CheckpointError, UserError
from copo_algos.interrupts import Interrupted, Signals
from copo_algos.machine import Precision
from copo_algos.mlp import TanhMLP
from copo_algos.networks import Layers
from copo_algos.policy import checkpoints, load_policy
from copo_algos.ppo import UpdateStats, ppo_update
from copo_algos.run_folder import alone_in, prepare
from copo_algos.train import Trainer, train
from copo_envs.process import WorkerError
from copo_envs.scene_vector import SceneVector, WorkerRestartWarning
from copo_envs.scenes import SceneError
from tests.algos.tiny import TINY, tiny
from tests.envs.workers import kill

pytestmark = pytest.mark.slow


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(folder: Path) -> list[dict[str, str]]:
    """The metrics without what the clock says."""
    return [{name: value for name, value in row.items() if not name.endswith("_s")} for row in metrics(folder)]


def steps(folder: Path) -> list[int]:
    return [int(row["env_steps"]) for row in metrics(folder)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two workers. Look, do not touch."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "a" / "run", num_envs=2))


def test_the_run_folder_holds_what_it_should(run: Path):
    names = {path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {"config.json", "metrics.csv", "checkpoints", "learning_curve.png"}
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert [path.name for path in checkpoints(run)] == [f"step_{n:09d}" for n in (48, 96, 144)]
    written = json.loads((run / "config.json").read_text())
    assert {"torch", "numpy", "copo", "python"} <= set(written.pop("versions"))
    assert written.pop("resumed") == []
    assert written.pop("learns") == f"cpu, {tiny(run).precision}"
    assert written == tiny(run, num_envs=2).as_dict()


def test_the_policy_says_what_it_was_trained_for(run: Path):
    info, last = load_policy(run).info, metrics(run)[-1]
    assert (info.scene, info.algorithm, info.obs_size, info.num_agents) == ("particles", "copo", 32, 6)
    assert info.uses_lcf and info.env_steps == 144
    assert info.lcf_mean * 90 == pytest.approx(float(last["lcf_mean_deg"]), rel=1e-4)
    assert info.lcf_std * 90 == pytest.approx(float(last["lcf_std_deg"]), rel=1e-4)


def test_the_metrics_add_up(run: Path):
    rows = metrics(run)
    assert [(int(row["iteration"]), int(row["env_steps"])) for row in rows] == [(1, 48), (2, 96), (3, 144)]
    ended = lives = vehicle_steps = 0
    for row in rows:
        ended += int(row["ended"])
        lives = int(row["lives"])
        assert lives == ended
        vehicle_steps += round(float(row["vehicles_mean"]) * 48)
        assert int(row["vehicle_steps"]) == vehicle_steps
        rates = [row[f"{name}_rate"] for name in ("success", "crash", "out", "max_step")]
        assert (math.fsum(map(float, rates)) == pytest.approx(1)) if lives else rates == [""] * 4
        assert all(float(row[f"{phase}_s"]) > 0 for phase in ("simulate", "infer", "learn", "meta"))
    assert lives > 0


@pytest.mark.parametrize("num_envs", [0, 2])
def test_the_same_seed_gives_the_same_metrics(tmp_path: Path, run: Path, num_envs: int):
    if num_envs == 0:
        run = train(tiny(tmp_path / "one", num_envs=1))  # a worker computes what this process does
    again = train(tiny(tmp_path / "two", num_envs=num_envs))
    assert untimed(again) == untimed(run)


def test_another_seed_gives_others(tmp_path: Path, run: Path):
    other = untimed(train(tiny(tmp_path, num_envs=2, seed=1, total_steps=48)))[0]
    assert other["policy_loss"] != untimed(run)[0]["policy_loss"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_round_trips_its_checkpoint_and_resumes(tmp_path: Path, algorithm: str):
    config = tiny(tmp_path, algorithm)
    row = metrics(train(config))[-1]
    finite = [name for name, value in row.items() if value != "" and math.isfinite(float(value))]
    assert {"policy_loss", "value_loss", "kl", "entropy", "reward_mean"} <= set(finite)
    assert ("lcf_mean_deg" in finite) == ("lcf_gradient" in finite) == ALGORITHMS[algorithm].learns_lcf
    if ALGORITHMS[algorithm].learns_lcf:
        assert float(row["lcf_mean_deg"]) != 0
    policy = load_policy(tmp_path)
    assert policy.algorithm == algorithm and policy.uses_lcf == ALGORITHMS[algorithm].uses_lcf

    trainer = Trainer(config)
    trainer.restore(checkpoints(tmp_path)[-1])
    again = trainer.save(tmp_path / "copy")
    trainer.close()
    for name in ("policy.safetensors", "learner.safetensors", "learner.json", "policy.json"):
        assert (again / name).read_bytes() == (checkpoints(tmp_path)[-1] / name).read_bytes()
    last = checkpoints(tmp_path)[-1]
    last.rename(last.with_name(last.name + ".partial"))
    train(tiny(tmp_path, algorithm, resume=True))
    assert steps(tmp_path) == [48, 96, 144] and checkpoints(tmp_path)[-1] == last


@pytest.mark.parametrize("algorithm", ["ippo", "copo"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, name: Any):
    """With all of its own values, on small scenes: 800 env steps, or an iteration where that is more."""
    horizon, over = 40, []
    step = SceneVector.step

    def watched(scenes: SceneVector, actions: np.ndarray) -> Any:
        batch = step(scenes, actions)
        over.append(batch.episode_over.copy())
        return batch

    monkeypatch.setattr(SceneVector, "step", watched)
    usual = preset(name, algorithm)
    total = max(800, usual.steps_per_iteration)
    small = {"scene": "particles", "num_agents": 4, "horizon": horizon, "total_steps": total}
    rows = metrics(train(with_values(usual, {**small, "run_dir": tmp_path})))

    settings = json.loads((tmp_path / "config.json").read_text())
    assert {key: settings[key] for key in PRESETS[name]} == PRESETS[name] and settings["preset"] == name
    assert steps(tmp_path) == list(range(usual.steps_per_iteration, total + 1, usual.steps_per_iteration))
    assert all(math.isfinite(float(row["policy_loss"])) for row in rows)

    first = np.argmax(over, axis=0) + 1  # env steps until the first episode of each environment is over
    envs = settings["num_envs"]
    cuts = [env * horizon // envs for env in range(1, envs)]
    assert len(first) == envs and (first[1:].tolist() == cuts) == settings["stagger_episodes"]
    assert settings["stagger_episodes"] or (first >= horizon).all()

    (learned,) = checkpoints(tmp_path)
    samples = np.diff([0, *(int(row["vehicle_steps"]) for row in rows)])
    learner = load_file(learned / "learner.safetensors")
    minibatches = (samples // settings["minibatch_size"]).sum()
    assert learner["actor_optimizer.0.step"].item() == settings["update_epochs"] * minibatches > 0
    normalizer = json.loads((learned / "learner.json").read_text()).get("normalizer", {"count": 0})
    assert normalizer["count"] == (samples.sum() if settings["normalize_observations"] else 0)

    if algorithm == "copo":
        assert settings["lcf_estimator"] == ("released" if name.startswith("paper") else "per_sample")
        assert float(rows[-1]["lcf_mean_deg"]) != 0
        size = settings["lcf_minibatch_size"]
        meta_steps = settings["lcf_passes"] * (samples // size if size else np.ones_like(samples)).sum()
        assert learner["lcf_optimizer.0.step"].item() == meta_steps


def test_staggered_episodes_begin_at_different_times_and_cut_lives_do_not_count():
    trainer = Trainer(tiny(Path("unused"), num_envs=2, stagger_episodes=True, steps_per_iteration=100))
    trainer.begin()
    batches = []
    step = trainer.scenes.step

    def watched(actions: np.ndarray) -> Any:
        batch = step(actions)
        known = batch.outcome != 0
        batches.append((batch.episode_over.copy(), (batch.truncated & ~known).sum(1), known.sum()))
        return batch

    trainer.scenes.step = watched
    trainer.train_iteration()
    trainer.close()
    over, cut, ended = (np.array(column) for column in zip(*batches, strict=True))
    assert over[9].tolist() == [False, True] and not over[:9].any()  # half of the horizon of 20
    assert cut[9, 1] >= 3 and cut.sum() == cut[9, 1]
    assert trainer.record.total_lives == ended.sum() > 0
    assert trainer.record.total_episodes == over.sum() - 1


def test_a_setting_without_effect_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(tiny(tmp_path, "ippo", total_steps=48, num_neighbours=2))
    assert "num_neighbours=2 changes nothing: ippo does not use it\n" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "expected"), [(None, 1e-4), (2e-3, 2e-3)])
def test_critics_may_step_faster_than_the_policy(value: float | None, expected: float):
    trainer = Trainer(tiny(Path("unused"), learning_rate=1e-4, value_learning_rate=value))
    assert trainer.actor_optimizer.param_groups[0]["lr"] == 1e-4
    assert [one.param_groups[0]["lr"] for one in trainer.critic_optimizers] == [expected] * 3
    trainer.close()


def test_a_fixed_factor_is_everybodys_and_a_uniform_one_is_anybodys():
    for algorithm, values, expected in (
        ("copo_fixed_lcf", {"fixed_lcf": -0.5}, {-0.5}),
        ("cooperative", {}, {1.0}),
        ("local_mean", {}, {1.0}),
    ):
        trainer = Trainer(tiny(Path("unused"), algorithm, **values))
        trainer.begin()
        assert set(trainer.collector.collect(trainer.actor, 30, *trainer._lcf_values()).lcf.flat) == expected
        policy = trainer.policy()
        assert set(policy.draw_lcf(5, np.random.default_rng(0))) == expected
        trainer.close()
    trainer = Trainer(tiny(Path("unused"), "copo_uniform_lcf", num_agents=20))
    policy = trainer.policy()
    trainer.close()
    draws = policy.draw_lcf(20_000, np.random.default_rng(0))
    assert np.abs(draws).max() <= 1 and np.histogram(draws, 4, (-1, 1))[0] == pytest.approx([5000] * 4, rel=0.05)


def test_the_cooperative_reward_is_that_of_all_others_and_the_local_one_includes_ones_own():
    for algorithm in ("cooperative", "local_mean"):
        trainer = Trainer(tiny(Path("unused"), algorithm))
        trainer.begin()
        rollout = trainer.collector.collect(trainer.actor, 20, *trainer._lcf_values())
        trainer.close()
        for reward, acted in zip(rollout.reward[:, 0], rollout.acted[:, 0], strict=True):
            own, shared = reward[acted, 0].astype(float), reward[acted, 1]
            if algorithm == "cooperative" and len(own) > 1:
                np.testing.assert_allclose(shared, (own.sum() - own) / (len(own) - 1), atol=1e-5)
        if algorithm == "local_mean":  # alone, the mean is one's own reward
            alone = np.isclose(rollout.reward[..., 1], rollout.reward[..., 0]) & rollout.acted
            assert alone.sum() > 20


def test_resuming_goes_on_where_the_run_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train(tiny(tmp_path, total_steps=96))
    before = untimed(tmp_path)
    train(tiny(tmp_path, total_steps=192, resume=True))
    assert steps(tmp_path) == [48, 96, 144, 192]
    assert untimed(tmp_path)[:2] == before
    rows = metrics(tmp_path)
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4]
    for name in ("vehicle_steps", "wall_s", "lives"):
        values = [float(row[name]) for row in rows]
        assert values == sorted(values) and values[-1] > values[0]
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["total_steps"] == 192 and [entry["env_steps"] for entry in written["resumed"]] == [96]


@pytest.mark.parametrize("total_steps", [96, 48, 1])
def test_resuming_what_is_done_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], total_steps: int):
    train(tiny(tmp_path, total_steps=96))
    before = contents(tmp_path)
    capsys.readouterr()
    train(tiny(tmp_path, total_steps=total_steps, checkpoint_every=7, resume=True))
    assert f"nothing to do: {tmp_path} has 96 env steps already" in capsys.readouterr().out
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a run but the picture, which is drawn again."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("file", "damage", "sentence"),
    [
        ("learner.json", lambda text: "[]", "does not hold the values of a learner"),
        ("learner.json", lambda text: changed(text, rng={}), "learner.json is damaged"),
        ("learner.json", lambda text: changed(text, rng=[]), "learner.json is damaged"),
        ("learner.json", lambda text: changed(text, env_steps="96"), "env_steps='96' is no whole number"),
        ("learner.json", lambda text: changed(text, iteration=-1), "iteration=-1 is no whole number"),
        ("learner.json", lambda text: changed(text, kl_coef=math.nan), "kl_coef=nan"),
        ("learner.json", lambda text: changed(text, seconds=None), "learner.json is damaged"),
        ("learner.json", lambda text: changed(text, record=[]), "learner.json is damaged"),
        ("learner.json", lambda text: changed(text, record={"lives": [7]}), "learner.json is damaged"),
        ("metrics.csv", lambda text: text.replace("env_steps", "steps"), "metrics.csv is damaged"),
        ("metrics.csv", lambda text: text.replace("\n1,48,", "\n1,x,"), "metrics.csv is damaged"),
        ("metrics.csv", lambda text: text + "9," * 99, "metrics.csv is damaged"),
        ("metrics.csv", lambda text: "\udcff" + text, "metrics.csv is damaged"),
        ("evaluations.csv", lambda text: "\udcff", "evaluations.csv is damaged"),
        ("config.json", lambda text: "\udcff", "config.json cannot be read"),
        ("config.json", lambda text: changed(text, resumed=None), "config.json does not hold the settings"),
    ],
)
def test_damaged_files_are_not_gone_on_from_and_nothing_is_lost(
    tmp_path: Path, file: str, damage: Callable[[str], str], sentence: str
):
    train(tiny(tmp_path, total_steps=96))
    path = (checkpoints(tmp_path)[-1] if file == "learner.json" else tmp_path) / file
    text = path.read_text() if path.exists() else ""
    path.write_bytes(damage(text).encode("utf-8", "surrogateescape"))
    before = contents(tmp_path)
    for total_steps in (144, 96):
        assert sentence in refusal(tiny(tmp_path, total_steps=total_steps, resume=True))
    assert contents(tmp_path) == before


def changed(text: str, **values: Any) -> str:
    return json.dumps(json.loads(text) | values)


def test_a_run_goes_on_without_its_metrics(tmp_path: Path):
    train(tiny(tmp_path, total_steps=96))
    (tmp_path / "metrics.csv").unlink()
    train(tiny(tmp_path, total_steps=96, resume=True))
    train(tiny(tmp_path, total_steps=144, resume=True))
    assert steps(tmp_path) == [144]


def test_rows_after_the_last_checkpoint_are_made_again(tmp_path: Path):
    """As after a crash of the machine: a row was written and its checkpoint was not."""
    train(tiny(tmp_path, total_steps=96))
    folder = checkpoints(tmp_path)[-1]
    folder.rename(folder.with_name(folder.name + ".partial"))
    train(tiny(tmp_path, total_steps=144, resume=True))
    assert steps(tmp_path) == [48, 96, 144]


def test_a_damaged_last_checkpoint_can_be_deleted(tmp_path: Path):
    train(tiny(tmp_path, total_steps=96))
    last = checkpoints(tmp_path)[-1]
    weights = last / "learner.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    rows = untimed(tmp_path)
    again = tiny(tmp_path, total_steps=144, resume=True)
    with pytest.raises(CheckpointError, match="Delete that folder to go on from the checkpoint before it") as error:
        train(again)
    assert str(last) in str(error.value) and len(str(error.value).splitlines()) == 1
    assert untimed(tmp_path) == rows
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    train(again)
    assert steps(tmp_path) == [48, 96, 144]


def refusal(config: TrainConfig) -> str:
    with pytest.raises((UserError, SceneError)) as error:
        train(config)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_run_is_not_overwritten(run: Path):
    assert f"{run} holds a run already; add --resume" in refusal(tiny(run, num_envs=2))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gamma": 0.9}, "cannot resume with gamma=0.9: the run was made with 0.99"),
        ({"seed": 7}, "cannot resume with seed=7: the run was made with 0"),
        ({"num_agents": 5}, "cannot resume with num_agents=5: the run was made with 6"),
        ({"lcf_estimator": "released"}, "cannot resume with lcf_estimator=released: the run was made with per_sample"),
        ({"num_envs": 0}, "cannot resume with num_envs=0: the run was made with 2"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(run: Path, changes: dict[str, Any], sentence: str):
    assert sentence in refusal(tiny(run, **{"num_envs": 2, "resume": True, "total_steps": 192, **changes}))


def test_the_step_may_be_changed_as_it_changes_no_number(run: Path):
    assert prepare(tiny(run, num_envs=2, resume=True, total_steps=192, step_backend="stock"), run) is not None


def test_step_sizes_fall_to_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rates = []

    def update(*arguments: Any) -> UpdateStats:
        rates.append([[group["lr"] for group in adam.param_groups] for adam in (arguments[2], *arguments[3])])
        return ppo_update(*arguments)

    monkeypatch.setattr("copo_algos.train.ppo_update", update)
    values: dict[str, Any] = {"learning_rate": 3e-3, "value_learning_rate": 6e-3}
    train(tiny(tmp_path / "falls", anneal_lr=True, **values))
    assert rates == [[[left * 3e-3], *[[left * 6e-3]] * 3] for left in (1, 1 - 48 / 144, 1 - 96 / 144)]
    rates.clear()
    train(tiny(tmp_path / "stays", **values))
    assert rates == [[[3e-3], *[[6e-3]] * 3]] * 3
    message = refusal(tiny(tmp_path / "falls", anneal_lr=True, total_steps=192, resume=True, **values))
    assert "total_steps=192: the run was made with 144, by which its step sizes fall" in message


def test_the_callers_threads_are_left_as_they_were(tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(tiny(tmp_path, total_steps=48))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_run_folder_may_be_a_string(tmp_path: Path):
    assert train(replace(tiny(tmp_path, total_steps=48), run_dir=str(tmp_path / "run"))) == tmp_path / "run"


def test_a_run_from_before_a_setting_existed_was_made_with_its_default(run: Path):
    settings = json.loads((run / "config.json").read_text())
    del settings["neighbour_rule"]
    (run / "config.json").write_text(json.dumps(settings))
    again = tiny(run, num_envs=2, resume=True, total_steps=192)
    assert prepare(again, run) is not None
    message = refusal(tiny(run, num_envs=2, resume=True, total_steps=192, neighbour_rule="tf"))
    assert "cannot resume with neighbour_rule=tf: the run was made with ours" in message


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_critics_learn_in_the_precision_asked_for_and_the_policy_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
):
    asked: list[tuple[int, Precision]] = []

    class Watched(TanhMLP):
        def backward(self, x: torch.Tensor, dy: torch.Tensor, gradients: Layers) -> None:
            asked.append((dy.shape[1], "float32" if self._halves is None else "bfloat16"))
            super().backward(x, dy, gradients)

    monkeypatch.setattr(ppo_module, "TanhMLP", Watched)
    settings = train(tiny(tmp_path, total_steps=48, precision=precision)) / "config.json"
    assert json.loads(settings.read_text())["learns"] == f"cpu, {precision}"
    policy, critics = asked.count((4, "float32")), asked.count((1, precision))
    assert policy > 0 and critics == ALGORITHMS["copo"].value_heads * policy and len(asked) == policy + critics


def test_the_precision_of_learning_is_written_down_and_may_change(run: Path):
    train(tiny(run, num_envs=2, resume=True, total_steps=192, precision="bfloat16"))
    settings = json.loads((run / "config.json").read_text())
    assert settings["learns"] == f"cpu, {TrainConfig('copo').precision}"
    assert [again["learns"] for again in settings["resumed"]] == ["cpu, bfloat16"]


def test_a_run_of_another_preset_says_so(tmp_path: Path):
    values = TINY | {"run_dir": tmp_path, "total_steps": 48}
    train(with_values(preset("fast", "ippo"), values))
    message = refusal(with_values(preset("default", "ippo"), values | {"resume": True}))
    assert "cannot resume with stagger_episodes=False: the run was made with True (preset fast)" in message


def test_another_algorithm_does_not_resume_a_run(run: Path):
    message = refusal(tiny(run, "ippo", num_envs=2, resume=True, total_steps=192))
    assert "cannot resume with algorithm=ippo: the run was made with copo" in message


def test_nothing_to_resume(tmp_path: Path):
    assert "nothing to resume" in refusal(tiny(tmp_path / "nowhere", resume=True))
    assert not (tmp_path / "nowhere").exists()


def test_settings_that_cannot_be_read_are_not_resumed(tmp_path: Path):
    train(tiny(tmp_path, total_steps=48))
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        assert "cannot resume" in refusal(tiny(tmp_path, resume=True))


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert "choose another --run-dir" in refusal(tiny(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"scene": "moon"}, "unknown scene 'moon'"),
        ({"num_agents": 33}, "num_agents=33 does not fit particles"),
        ({"horizon": 0}, "horizon=0 is too small"),
        ({"device": "abacus"}, "unknown device 'abacus'; use cpu, cuda or cuda:<k>"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"precision": "bfloat16", "device": "cuda"}, "precision=bfloat16 is for the CPU, and device=cuda"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
    ],
)
def test_what_is_refused_leaves_no_folder(tmp_path: Path, values: dict[str, Any], sentence: str):
    assert sentence in refusal(tiny(tmp_path / "run", **values))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path):
    assert "torch sees none here; use --device cpu" in refusal(tiny(tmp_path / "run", device="cuda"))


def during_iteration(number: int, act: Callable[[Trainer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` in the tenth step of an iteration."""
    train_iteration = Trainer.train_iteration

    def wrapped(trainer: Trainer, after_step: Callable[[], None]) -> dict[str, Any]:
        count = 0

        def counting() -> None:
            nonlocal count
            count += 1
            if count == 10 and trainer.iteration == number - 1:
                act(trainer)
            after_step()

        return train_iteration(trainer, counting)

    monkeypatch.setattr(Trainer, "train_iteration", wrapped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_that_does_not_depend_on_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    with monkeypatch.context() as patch:
        during_iteration(2, lambda trainer: os.kill(os.getpid(), number), patch)
        with pytest.raises(Interrupted, match=r"stopped; .*step_000000048 is kept, and .* --resume goes on from it"):
            train(tiny(tmp_path / "stopped", total_steps=96))
    train(tiny(tmp_path / "stopped", total_steps=96, resume=True))
    train(tiny(tmp_path / "done", total_steps=48))
    train(tiny(tmp_path / "done", total_steps=96, resume=True))
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "done")


def test_a_signal_in_the_first_iteration_keeps_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        during_iteration(1, lambda trainer: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match="begin again"):
            train(tiny(tmp_path, total_steps=48))
    assert not checkpoints(tmp_path)
    train(tiny(tmp_path, total_steps=48))  # and it can begin again


def test_a_second_ctrl_c_stops_at_once_where_it_is_meant(monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit_info, Signals() as signals:
        assert not signals.raised
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # as of a terminal that closes
            os.kill(os.getpid(), number)
            assert signals.raised
        monkeypatch.setattr(interrupts, "IMPATIENCE", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert exit_info.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before is not interrupts.Signals._remember


def kill_worker(trainer: Trainer) -> None:
    kill(trainer.scenes._workers[1])


def test_a_dead_worker_is_replaced_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        during_iteration(2, kill_worker, patch)
        with pytest.warns(WorkerRestartWarning, match="environment 1, .*killed by SIGKILL"):
            train(tiny(tmp_path, num_envs=2, total_steps=96))
    assert steps(tmp_path) == [48, 96]


def test_a_worker_that_dies_again_and_again_ends_the_run_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(SceneVector, "MAX_DEATHS", 1)
        during_iteration(2, kill_worker, patch)
        with pytest.raises(WorkerError, match=r"environment 1 is given up: .*killed by SIGKILL"):
            train(tiny(tmp_path, num_envs=2, total_steps=96, checkpoint_every=10_000))
    train(tiny(tmp_path, num_envs=2, total_steps=96, checkpoint_every=10_000, resume=True))
    assert steps(tmp_path) == [48, 96]


def test_learning_that_diverges_is_refused(tmp_path: Path):
    message = refusal(tiny(tmp_path, learning_rate=1e30))
    assert "learning has diverged; no checkpoint was written; try a smaller --learning-rate" in message


@pytest.mark.parametrize(
    ("algorithm", "values", "found"),
    [
        ("ippo", {"learning_rate": 1e38}, "a parameter of actor is not finite"),
        ("copo", {"learning_rate": 1e38}, "a parameter of actor is not finite"),
        ("copo", {"learning_rate": 1e30}, "a parameter of lcf is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_last_gradient_step_may_diverge_too(tmp_path: Path, algorithm: str, values: dict[str, Any], found: str):
    """One gradient step an iteration: every loss is from before it, and finite."""
    one_step = {"update_epochs": 1, "minibatch_size": 48, "steps_per_iteration": 8, "total_steps": 8, "lcf_passes": 1}
    message = refusal(tiny(tmp_path, algorithm, **one_step, **values))
    assert message.startswith(f"{found} after 8 env steps: learning has diverged; no checkpoint was written; try")
    assert not checkpoints(tmp_path) and not (tmp_path / "metrics.csv").exists()


def test_a_checkpoint_from_before_the_divergence_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def spoil(trainer: Trainer) -> None:
        trainer.critic_optimizers[-1].param_groups[0]["lr"] = math.inf

    with monkeypatch.context() as patch:
        during_iteration(2, spoil, patch)
        kept = f"{tmp_path / 'checkpoints' / 'step_000000048'} is from before; try a smaller --learning-rate"
        assert kept in refusal(tiny(tmp_path))
    assert steps(tmp_path) == [48] and len(checkpoints(tmp_path)) == 1
    with monkeypatch.context() as patch:
        during_iteration(2, spoil, patch)
        assert kept in refusal(tiny(tmp_path, resume=True))


def test_rule_based_traffic_is_not_learned_from(tmp_path: Path):
    folder = train(tiny(tmp_path / "run", num_agents=2, rule_based=6))
    assert all(float(row["vehicles_mean"]) <= 2 for row in metrics(folder))
    info = load_policy(folder).info
    assert (info.num_agents, info.rule_based) == (2, 6)


@pytest.mark.parametrize("algorithm", ["ippo", "copo"])
def test_less_than_one_iteration_is_one_short_one(tmp_path: Path, algorithm: str):
    folder = train(tiny(tmp_path / "run", algorithm, num_envs=2, total_steps=5))
    assert steps(folder) == [6]  # whole steps of both environments
    assert [path.name for path in checkpoints(folder)] == ["step_000000006"]
    assert float(metrics(folder)[0]["kl"]) >= 0


@pytest.mark.simulator
def test_a_training_does_not_depend_on_the_step_in_use(tmp_path: Path):
    """MetaDrive's own step and the batched one give the same metrics, to the last digit."""
    same = {"scene": "intersection", "num_agents": 6, "horizon": 40, "steps_per_iteration": 60, "total_steps": 120}
    fast, stock = (
        untimed(train(tiny(tmp_path / step, **same, num_envs=1, step_backend=step))) for step in ("fast", "stock")
    )
    assert fast == stock and len(fast) == 2
    assert int(fast[-1]["lives"]) > 4


def test_a_folder_with_what_is_not_the_beginning_of_this_run_is_left_as_it_is(tmp_path: Path):
    for name, text in (("metrics.csv", "a,b\n1,2\n"), ("evaluations.csv", "x\n1\n"), ("config.json", "{}\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(text)
        assert "move it away, or choose another --run-dir" in refusal(tiny(folder))
        assert (folder / name).read_text() == text
    (tmp_path / "checkpoints").write_text("")
    assert "checkpoints is no folder; move it away" in refusal(tiny(tmp_path))


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun_again(tmp_path: Path):
    train(tiny(tmp_path))
    rows = (tmp_path / "metrics.csv").read_text().splitlines(keepends=True)
    for kept in checkpoints(tmp_path):
        shutil.rmtree(kept)
    assert "is there, and no checkpoint that it belongs to" in refusal(tiny(tmp_path))  # 144 steps, 48 per checkpoint
    (tmp_path / "metrics.csv").write_text("".join(rows[:2]))
    assert "is there, and no checkpoint" in refusal(tiny(tmp_path, learning_rate=0.1))
    train(tiny(tmp_path))
    assert steps(tmp_path) == [48, 96, 144]


def test_two_trainings_do_not_share_a_folder(tmp_path: Path):
    train(tiny(tmp_path, total_steps=48))
    with alone_in(tmp_path):
        assert "another process is training into" in refusal(tiny(tmp_path, resume=True))
    train(tiny(tmp_path, resume=True))


def test_a_run_that_ended_while_another_was_to_begin_is_not_overwritten(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def late(folder: Path) -> Iterator[None]:
        """The folder is free at last: whoever held it has finished."""
        shutil.copytree(run, folder, dirs_exist_ok=True)
        with alone_in(folder):
            yield

    monkeypatch.setattr(train_module, "alone_in", late)
    assert "holds a run already" in refusal(tiny(tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()


def test_a_picture_that_cannot_be_drawn_is_said_and_the_run_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "learning_curve.png").mkdir()
    train(tiny(tmp_path, total_steps=48))
    assert "no picture of the learning curve: " in capsys.readouterr().out and checkpoints(tmp_path)


def test_a_copy_of_a_checkpoint_is_none(run: Path, tmp_path: Path):
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    found = checkpoints(tmp_path)
    (tmp_path / "checkpoints" / f"{found[-1].name}_old2").mkdir()
    assert checkpoints(tmp_path) == found

"""What a training begins with: networks of another size, or a policy that was trained before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from copo_algos.config import LOG_STD_RANGE
from copo_algos.errors import CheckpointError, UserError
from copo_algos.evaluate import EvaluateConfig, evaluate
from copo_algos.policy import Policy, PolicyInfo, last_checkpoint, load_policy, make_actor, save_policy, shipped_policy
from copo_algos.train import Trainer, initial_policy, train
from copo_envs.scenes import SCENES
from tests.algos.tiny import tiny

FACTORS: dict[str, Any] = {"lcf_initial_mean": 0.4, "lcf_initial_std": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with 24 units a layer."""
    return train(tiny(tmp_path_factory.mktemp("run"), hidden_size=24, **FACTORS))


def metrics(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv") as file:
        names = file.readline().strip().split(",")
        return [dict(zip(names, map(float, line.strip().split(",")), strict=True)) for line in file]


def test_networks_of_another_size_train_and_drive(run: Path, tmp_path: Path):
    policy = load_policy(run)
    assert json.loads((run / "config.json").read_text())["hidden_size"] == policy.hidden_size == 24
    assert [parameter.shape for parameter in policy.actor.parameters()][::2] == [(24, 33), (24, 24), (4, 24)]
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None
    learner = load_file(checkpoint / "learner.safetensors")
    critics = [tensor.shape for name, tensor in learner.items() if name.startswith("critic.heads") and "weight" in name]
    assert sorted(critics) == sorted([(24, 33), (24, 24), (1, 24)] * 3)
    assert len(evaluate(EvaluateConfig(run, episodes=1, horizon=8, workers=1, output=tmp_path))) == 1
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert load_policy(train(tiny(copy, hidden_size=24, **FACTORS, total_steps=192, resume=True))).env_steps == 192
    with pytest.raises(UserError, match="cannot resume with hidden_size=256: the run was made with 24"):
        train(tiny(copy, **FACTORS, total_steps=240, resume=True))


@pytest.mark.parametrize("size", [0, -3, 8193])
def test_sizes_that_cannot_be(tmp_path: Path, run: Path, size: int):
    with pytest.raises(UserError, match=rf"hidden_size={size} is not in \[1, 8192\]"):
        train(tiny(tmp_path / "run", hidden_size=size))
    checkpoint = last_checkpoint(run)
    assert checkpoint is not None
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    text = (copy / "policy.json").read_text()
    (copy / "policy.json").write_text(text.replace('"hidden_size": 24', f'"hidden_size": {size}'))
    with pytest.raises(CheckpointError, match=f"has hidden_size={size}; use another checkpoint, with 1 to 8192"):
        load_policy(copy)


def test_a_policy_from_before_sizes_could_be_chosen_has_that_of_then(tmp_path: Path):
    policy = Policy(make_actor(INFO), INFO)
    save_policy(policy, tmp_path)
    values = json.loads((tmp_path / "policy.json").read_text())
    del values["hidden_size"]
    (tmp_path / "policy.json").write_text(json.dumps(values))
    assert load_policy(tmp_path).hidden_size == 256


def test_a_training_begins_with_a_trained_policy(run: Path, tmp_path: Path):
    config = tiny(tmp_path / "run", hidden_size=24, init_from=str(run), learning_rate=1e-12, lcf_learning_rate=1e-12)
    policy, trainer = load_policy(run), Trainer(config)
    initial = initial_policy(config)
    assert initial is not None
    critics = {name: tensor.clone() for name, tensor in trainer.critic.state_dict().items()}
    trainer.start_from(initial)
    for name, tensor in policy.actor.state_dict().items():
        assert torch.equal(trainer.actor.state_dict()[name], tensor)
    assert all(torch.equal(tensor, critics[name]) for name, tensor in trainer.critic.state_dict().items())
    assert (trainer.policy().lcf_mean, trainer.policy().lcf_std) == pytest.approx((policy.lcf_mean, policy.lcf_std))
    assert trainer.policy().env_steps == 0

    again = load_policy(train(config))  # with next to no step
    obs, lcf = np.random.default_rng(0).random((5, 32), np.float32), np.full(5, 0.3, np.float32)
    np.testing.assert_allclose(
        again.act(obs, lcf, deterministic=True), policy.act(obs, lcf, deterministic=True), atol=1e-6
    )
    assert (again.lcf_mean, again.lcf_std) == pytest.approx((policy.lcf_mean, policy.lcf_std), abs=1e-6)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == str(run)


def test_a_run_goes_on_without_the_policy_that_it_began_with(run: Path, tmp_path: Path):
    first = shutil.copytree(run, tmp_path / "first")
    settings: dict[str, Any] = {"hidden_size": 24, "init_from": str(first)}
    whole = train(tiny(tmp_path / "whole", **settings))
    part = train(tiny(tmp_path / "part", **settings, total_steps=96))
    shutil.rmtree(first)
    train(tiny(part, **settings, resume=True))
    assert [row["env_steps"] for row in metrics(part)] == [48, 96, 144]
    untrained = train(tiny(tmp_path / "untrained", hidden_size=24, total_steps=48))
    assert metrics(whole)[0]["entropy"] == metrics(part)[0]["entropy"] != metrics(untrained)[0]["entropy"]


def test_a_policy_that_comes_with_the_package_is_named_by_scene_and_algorithm(tmp_path: Path):
    config = tiny(tmp_path / "run", scene="roundabout", init_from="intersection/copo")
    policy, shipped = initial_policy(config), shipped_policy("intersection", "copo")
    assert policy is not None and policy.info == shipped.info and policy.info.lcf_std > 0
    with pytest.raises(CheckpointError, match="no policy for scene 'intersection' and algorithm 'nobody' comes with"):
        train(tiny(tmp_path / "run", init_from="intersection/nobody"))


@pytest.mark.parametrize(
    ("std", "expected"), [(0.0, (0.2, 0.3)), (5e8, (0.999, np.exp(2))), (1e-30, (0.999, np.exp(-20)))]
)
def test_a_distribution_that_nothing_could_be_learned_from_is_not_taken_over(
    tmp_path: Path, std: float, expected: tuple[float, float]
):
    info = PolicyInfo("particles", "copo_fixed_lcf", 32, 6, uses_lcf=True, lcf_mean=1.0, lcf_std=std)
    trainer = Trainer(tiny(tmp_path, lcf_initial_mean=0.2, lcf_initial_std=0.3))
    trainer.start_from(Policy(make_actor(info), info))
    found = (float(trainer.lcf.mean().detach()), float(trainer.lcf.std().detach()))
    assert found == pytest.approx(expected, rel=1e-5)
    assert LOG_STD_RANGE[0] <= float(trainer.lcf.y.detach()) <= LOG_STD_RANGE[1]


INFO = PolicyInfo("particles", "ippo", 32, 6, uses_lcf=False)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another scene": (
        {"scene": "intersection", "obs_size": SCENES["intersection"].obs_size, "algorithm": "copo", "uses_lcf": True},
        "it is copo for intersection, which sees 91 numbers, and particles shows 32; it fits roundabout, intersection",
    ),
    "no factor": ({}, "it is ippo for particles and has no coordination factor, and copo takes one; choose another"),
    "another size": (
        {"uses_lcf": True, "algorithm": "copo", "hidden_size": 8},
        "it is copo for particles with hidden layers of 8 units, not 256; add --hidden-size 8",
    ),
    "another MetaDrive": (
        {"uses_lcf": True, "algorithm": "copo", "obs_version": "0.2.5"},
        r"it is copo for particles with the observations of MetaDrive 0\.2\.5; choose one trained here",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path, case: str):
    values, sentence = REFUSED[case]
    info = PolicyInfo(**{**INFO.__dict__, **values})
    (tmp_path / "policy").mkdir()
    save_policy(Policy(make_actor(info), info), tmp_path / "policy")
    with pytest.raises(UserError, match=f"cannot begin with {tmp_path / 'policy'}: {sentence}"):
        train(tiny(tmp_path / "run", init_from=str(tmp_path / "policy")))
    assert not (tmp_path / "run").exists()


def test_a_factor_that_the_algorithm_does_not_take_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="has a coordination factor, and ippo takes none; choose another"):
        train(tiny(tmp_path / "run", "ippo", hidden_size=24, init_from=str(run)))


def test_nothing_to_begin_with(tmp_path: Path):
    with pytest.raises(CheckpointError, match=f"no policy in {tmp_path / 'nowhere'}"):
        train(tiny(tmp_path / "run", init_from=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"init_from=x with normalize_observations: .* use --no-normalize"):
        train(tiny(tmp_path / "run", init_from="x", normalize_observations=True))
    assert not (tmp_path / "run").exists()

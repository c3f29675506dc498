"""Policies drive the same after a round trip through their files, and other files are refused in one sentence."""

from __future__ import annotations

import json
import math
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import copo_envs
from copo_algos import policy as policy_module
from copo_algos.errors import CheckpointError, UserError
from copo_algos.policy import (
    DESCRIPTION,
    WEIGHTS,
    Policy,
    PolicyInfo,
    last_checkpoint,
    load_policy,
    make_actor,
    save_policy,
    shipped_policy,
)
from copo_envs.scenes import SceneOptions, scene_options

INFO = PolicyInfo(
    scene="particles",
    algorithm="copo",
    obs_size=32,
    num_agents=6,
    uses_lcf=True,
    lcf_mean=0.4,
    lcf_std=0.2,
    env_steps=1234,
    geometry="metadrive",
    start_seed=7000,
)
IPPO = PolicyInfo("particles", "ippo", obs_size=32, num_agents=6, uses_lcf=False)


def make_policy(info: PolicyInfo = INFO) -> Policy:
    actor = make_actor(info, torch.Generator().manual_seed(0))
    head = actor.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(50)
    return Policy(actor, info)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy's folder."""
    out = tmp_path / "policy"
    out.mkdir()
    save_policy(make_policy(), out)
    return out


def refusal(path: Path) -> str:
    """The sentence with which a folder is refused."""
    with pytest.raises(CheckpointError) as error:
        load_policy(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and str(path) in message
    return message


def describe(folder: Path, **changes: Any) -> None:
    """Change fields of policy.json; None removes one."""
    path = folder / DESCRIPTION
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def test_a_policy_drives_the_same_after_a_round_trip(folder: Path):
    before, after = make_policy(), load_policy(folder)
    assert after.info == INFO
    obs = np.random.default_rng(0).random((5, 32), dtype=np.float32)
    lcf = before.draw_lcf(5, np.random.default_rng(1))
    np.testing.assert_array_equal(after.draw_lcf(5, np.random.default_rng(1)), lcf)
    for deterministic in (False, True):
        actions = before.act(obs, lcf, np.random.default_rng(2), deterministic)
        np.testing.assert_array_equal(after.act(obs, lcf, np.random.default_rng(2), deterministic), actions)


def test_the_fields_of_its_description_are_its_attributes():
    policy = make_policy()
    for name in PolicyInfo.__dataclass_fields__:
        assert getattr(policy, name) == getattr(INFO, name)
    with pytest.raises(AttributeError, match="speed"):
        _ = policy.speed


def test_actions_are_clipped_draws_around_the_mean():
    policy, rng = make_policy(), np.random.default_rng(0)
    obs, lcf = np.repeat(rng.random((1, 32), dtype=np.float32), 4000, axis=0), np.zeros(4000, np.float32)
    inputs = torch.from_numpy(np.append(obs[0], np.float32(0.5)))  # the factor 0 is seen as 1/2
    with torch.no_grad():
        mean, log_std = (values.numpy() for values in policy.actor(inputs))
    np.testing.assert_allclose(policy.act(obs, lcf, rng, deterministic=True)[0], np.clip(mean, -1, 1), atol=1e-6)
    actions = policy.act(obs, lcf, rng)
    assert actions.shape == (4000, 2) and actions.dtype == np.float32 and np.abs(actions).max() == 1
    draws = np.clip(mean + np.exp(log_std) * np.random.default_rng(5).standard_normal((4000, 2)), -1, 1)
    np.testing.assert_allclose(actions.mean(0), draws.mean(0), atol=0.06)
    np.testing.assert_allclose(actions.std(0), draws.std(0), atol=0.06)


def test_the_factor_changes_what_a_policy_with_one_does():
    obs, rng = np.zeros((1, 32), np.float32), np.random.default_rng(0)
    selfish, kind = (make_policy().act(obs, np.array([phi]), rng, deterministic=True) for phi in (0.0, 1.0))
    assert not np.allclose(selfish, kind)


def test_a_policy_without_a_factor_draws_zeros_and_takes_them_or_none():
    policy, rng = make_policy(IPPO), np.random.default_rng(0)
    zeros = policy.draw_lcf(4, rng)
    assert zeros.shape == (4,) and not zeros.any()
    obs = rng.random((4, 32), dtype=np.float32)
    one, other = (policy.act(obs, lcf, rng, deterministic=True) for lcf in (zeros, None))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("info", "obs_shape", "lcf", "sentence"),
    [
        (
            INFO,
            (3, 31),
            np.zeros(3),
            "obs has the shape (3, 31), and this policy takes (n, 32), a row per vehicle; "
            "use the observations of particles, without a coordination factor",
        ),
        (IPPO, (3, 33), None, "obs has the shape (3, 33), and this policy takes (n, 32), a row per vehicle; "),
        (INFO, (3, 1, 32), np.zeros(3), "obs has the shape (3, 1, 32), and this policy takes (n, 32)"),
        (INFO, (), np.zeros(1), "obs has the shape (), and this policy takes (n, 32)"),
        (INFO, (32,), np.zeros(1), "takes (n, 32), a row per vehicle; use obs[None] for one vehicle"),
        (IPPO, (32,), None, "takes (n, 32), a row per vehicle; use obs[None] for one vehicle"),
        (INFO, (3, 32), np.zeros(2), "lcf has the shape (2,), and obs has 3 vehicles; use a factor for each, (3,)"),
        (INFO, (3, 32), np.zeros((3, 1)), "lcf has the shape (3, 1), and obs has 3 vehicles"),
        (INFO, (3, 32), 0.5, "lcf has the shape (), and obs has 3 vehicles"),
        (IPPO, (3, 32), np.zeros(2), "lcf has the shape (2,), and obs has 3 vehicles"),
        (
            INFO,
            (3, 32),
            None,
            "lcf=None, but this copo policy needs a coordination factor in [-1, 1] for each of 3 vehicles; "
            "use those drawn at birth by policy.draw_lcf, or np.zeros(3)",
        ),
        (
            IPPO,
            (3, 32),
            np.array([0.0, 0.5, 0.0]),
            "lcf=0.5, but this ippo policy has no factor; use lcf=None or zeros",
        ),
    ],
)
def test_what_a_policy_cannot_act_on_is_one_sentence(
    info: PolicyInfo, obs_shape: tuple[int, ...], lcf: Any, sentence: str
):
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        make_policy(info).act(np.zeros(obs_shape, np.float32), lcf, np.random.default_rng(0))
    assert len(str(error.value).splitlines()) == 1


def test_lists_and_nobody_are_acted_on():
    policy, rng = make_policy(), np.random.default_rng(0)
    obs, lcf = rng.random((2, 32), dtype=np.float32), np.array([0.0, 0.5], np.float32)
    actions = policy.act(obs, lcf, rng, deterministic=True)
    from_lists: Any = policy.act(obs.tolist(), lcf.tolist(), rng, deterministic=True)  # pyright: ignore
    np.testing.assert_array_equal(from_lists, actions)
    assert policy.act(obs[:0], lcf[:0], rng).shape == (0, 2)


def test_factors_come_from_the_distribution_in_the_file(folder: Path):
    draws = load_policy(folder).draw_lcf(4000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(0.4, abs=0.02) and draws.std() == pytest.approx(0.2, abs=0.02)


def test_a_run_folder_gives_its_last_checkpoint(tmp_path: Path):
    for steps in (1000, 20_000, 3000):
        checkpoint = tmp_path / "checkpoints" / f"step_{steps:09d}"
        checkpoint.mkdir(parents=True)
        save_policy(make_policy(PolicyInfo("particles", "ippo", 32, 6, False, env_steps=steps)), checkpoint)
    (tmp_path / "checkpoints" / "step_000090000.partial").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step_000020000"
    assert load_policy(tmp_path).env_steps == load_policy(tmp_path / "checkpoints").env_steps == 20_000
    assert load_policy(str(tmp_path / "checkpoints" / "step_000003000")).env_steps == 3000


def test_a_checkpoint_error_is_a_user_error():
    assert issubclass(CheckpointError, UserError) and issubclass(UserError, ValueError)


def test_nothing_there(tmp_path: Path):
    assert "give a run folder" in refusal(tmp_path)
    assert "give a run folder" in refusal(tmp_path / "nowhere")


def test_missing_weights(folder: Path):
    (folder / WEIGHTS).unlink()
    assert "is missing: the checkpoint is incomplete" in refusal(folder)


def test_missing_description(folder: Path):
    (folder / DESCRIPTION).unlink()
    assert f"a folder with {WEIGHTS} and {DESCRIPTION}" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, kept: int):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:kept])
    assert "is damaged or no safetensors file" in refusal(folder)


def test_random_bytes_for_weights(folder: Path):
    (folder / WEIGHTS).write_bytes(np.random.default_rng(0).bytes(10_000))
    assert "is damaged or no safetensors file" in refusal(folder)


def test_a_folder_for_weights(folder: Path):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refusal(folder)


def test_a_pickle_is_not_opened(folder: Path):
    torch.save(make_policy().actor.state_dict(), folder / WEIGHTS)
    assert "is damaged or no safetensors file" in refusal(folder)


def test_weights_of_another_network(folder: Path):
    weights = load_file(folder / WEIGHTS)
    weights["layers.0.weight"] = torch.zeros(256, 40)
    del weights["layers.1.bias"]
    save_file(weights, folder / WEIGHTS)
    message = refusal(folder)
    assert "layers.0.weight is (256, 40), not (256, 33)" in message
    assert "layers.1.bias is missing, not (256,)" in message


def test_weights_made_without_the_factor(folder: Path):
    describe(folder, uses_lcf=False)
    assert "layers.0.weight is (256, 33), not (256, 32)" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "not JSON", "[1, 2]", '"copo-policy-1"', "null"])
def test_a_description_that_is_none(folder: Path, text: str):
    (folder / DESCRIPTION).write_text(text)
    refusal(folder)


def test_a_description_of_random_bytes(folder: Path):
    (folder / DESCRIPTION).write_bytes(np.random.default_rng(0).bytes(200))
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("changes", [{"format": "copo-policy-2"}, {"format": None}])
def test_another_format(folder: Path, changes: dict[str, Any]):
    describe(folder, **changes)
    assert "is not a copo-policy-1 file" in refusal(folder)


@pytest.mark.parametrize("changes", [{"colour": "red"}, {"num_agents": None}])
def test_other_fields(folder: Path, changes: dict[str, Any]):
    describe(folder, **changes)
    assert "has other fields than a copo-policy-1 file" in refusal(folder)


@pytest.mark.parametrize("changes", [{"scene": "moon"}, {"scene": "bottleneck"}, {"obs_size": 33}])
def test_another_scene_or_another_observation(folder: Path, changes: dict[str, Any]):
    describe(folder, **changes)
    message = refusal(folder)
    assert f"is for scene {changes.get('scene', 'particles')!r}" in message and "particles (32)" in message


def test_a_field_of_the_wrong_kind(folder: Path):
    wrong_for: dict[type, list[Any]] = {
        str: [7, [1], {"a": 1}],
        int: ["much", 0.5, True, [1]],
        float: ["much", True, [1]],
        bool: ["much", 1, [1]],
    }
    for name, value in vars(INFO).items():
        if name == "format":
            continue
        for wrong in wrong_for[type(value)]:
            describe(folder, **{name: wrong})
            assert f"has {name}={wrong!r}, which is no {type(value).__name__}" in refusal(folder)
        describe(folder, **{name: value})
    assert load_policy(folder).info == INFO


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lcf_mean": 1.5}, "has lcf_mean=1.5, which is not in [-1, 1]"),
        ({"lcf_mean": math.nan}, "has lcf_mean=nan, which is not in [-1, 1]"),
        ({"lcf_std": -1.0}, "has lcf_std=-1.0"),
        ({"lcf_std": math.nan}, "has lcf_std=nan"),
        ({"lcf_std": math.inf}, "has lcf_std=inf"),
        ({"obs_version": "0.1"}, "has obs_version='0.1'; use another checkpoint, of 0.4.3 or 0.2.5"),
    ],
)
def test_values_that_cannot_be(folder: Path, changes: dict[str, Any], sentence: str):
    describe(folder, **changes)
    assert sentence in refusal(folder)


def test_a_policy_that_does_not_come_with_the_package():
    with pytest.raises(CheckpointError, match=r"no policy for scene 'moon' and algorithm 'ippo'") as error:
        shipped_policy("moon", "ippo")
    assert "copo train ippo --scene moon" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_refusal_lists_the_policies_that_come_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for algorithm in ("ippo", "copo"):
        out = tmp_path / "policies" / "particles" / algorithm
        out.mkdir(parents=True)
        save_policy(make_policy(), out)
    monkeypatch.setattr(policy_module.resources, "files", lambda package: tmp_path)
    assert shipped_policy("particles", "copo").info == INFO
    with pytest.raises(CheckpointError, match="there are: particles copo, particles ippo"):
        shipped_policy("tollgate", "copo")


def test_the_example_drives_until_nobody_is_left():
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "drive_policy.py"))
    policy = Policy(make_actor(INFO, torch.Generator().manual_seed(0)), INFO)
    outcomes, again = (example["drive"](policy, "particles", 40, 3) for _ in range(2))
    assert sum(outcomes.values()) >= 6 and set(outcomes) <= {"SUCCESS", "CRASH", "OUT_OF_ROAD", "MAX_STEP"}
    assert outcomes == again


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        ("pg_map", {"num_agents": 3, "rule_based": 2, "start_seed": 6000}),
        ("intersection", {"num_agents": 30, "rule_based": 0, "start_seed": 5000}),
    ],
)
def test_the_example_drives_a_policy_at_home_as_it_was_trained(
    scene: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "drive_policy.py"))
    info = replace(INFO, scene="pg_map", obs_size=91, num_agents=3, rule_based=2, start_seed=6000, geometry="metadrive")
    made: list[SceneOptions] = []

    def parallel_env(name: str, **options: Any) -> None:
        made.append(scene_options(name, **options))
        raise InterruptedError

    monkeypatch.setattr(copo_envs, "parallel_env", parallel_env)
    with pytest.raises(InterruptedError):
        example["drive"](Policy(make_actor(info), info), scene, 40, 3)
    assert made == [scene_options(scene, horizon=40, geometry="metadrive", **expected)]

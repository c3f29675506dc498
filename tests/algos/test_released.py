"""Files in the layouts of the released policies, made here; and the released ones themselves, where they are."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.released import WITNESSES, ReleasedConfig, page, rates, released
from copo_algos.errors import CheckpointError, UserError
from copo_algos.evaluate import Episode, EvaluateConfig, drive, evaluate
from copo_algos.policy import load_policy, save_policy
from copo_algos.released import load_released
from copo_algos.watch import WatchConfig, watch
from copo_envs.scenes import SCENES, scene_options
from copo_envs.step_batch import StepBatch

NEEDED = "COPO_RELEASED_POLICIES"


def write(path: Path, layout: str, inputs: int = 91, hidden: int = 256) -> dict[str, np.ndarray]:
    """A file in a layout, and its weights (outputs, inputs) and biases, by layer."""
    rng = np.random.default_rng(0)
    sizes = [(hidden, inputs), (hidden, hidden), (4, hidden)]
    plain, arrays = {}, {}
    for (rows, columns), tensorflow, torch in zip(
        sizes, ("1", "2", "out"), ("_hidden_layers.0", "_hidden_layers.1", "_logits"), strict=True
    ):
        weight = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
        bias = rng.normal(0, 0.1, rows).astype(np.float32)
        plain[f"w{tensorflow}"], plain[f"b{tensorflow}"] = weight, bias
        if layout == "torch":
            arrays |= {f"{torch}._model.0.weight": weight, f"{torch}._model.0.bias": bias}
        else:
            suffix = "_1" if layout == "copo" else ""
            arrays |= {
                f"default/fc_{tensorflow}{suffix}/kernel": weight.T,
                f"default/fc_{tensorflow}{suffix}/bias": bias,
            }
    np.savez(path, **arrays)
    return plain


@pytest.mark.parametrize("layout", ["copo", "tensorflow", "torch"])
def test_a_file_drives_as_its_numbers_say(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "some_inter.npz"
    w = write(path, layout, inputs=92 if layout == "copo" else 91)
    policy = load_released(path, "intersection")
    assert policy.info.algorithm == "some_inter" and policy.info.obs_version == "0.2.5"
    assert policy.info.uses_lcf == (layout == "copo")
    rng = np.random.default_rng(1)
    obs = rng.random((5, 91)).astype(np.float32)
    lcf = policy.draw_lcf(5, rng)
    np.testing.assert_allclose(lcf, 0.3682 if layout == "copo" else 0.0)
    x = np.concatenate([obs, np.full((5, 1), (0.3682 + 1) / 2)], axis=1) if layout == "copo" else obs
    hidden = np.tanh(np.tanh(x @ w["w1"].T + w["b1"]) @ w["w2"].T + w["b2"])
    mean = (hidden @ w["wout"].T + w["bout"])[:, :2]
    np.testing.assert_allclose(policy.act(obs, lcf, rng, deterministic=True), np.clip(mean, -1, 1), atol=1e-5)


@pytest.mark.parametrize("scene", [name for name, scene in SCENES.items() if scene.metadrive_class])
def test_every_scene_of_metadrive_can_be_driven(scene: str, tmp_path: Path) -> None:
    size, rng = SCENES[scene].obs_size, np.random.default_rng(0)
    for layout in ("copo", "tensorflow", "torch"):
        path = tmp_path / f"{layout}.npz"
        write(path, layout, inputs=size + (layout == "copo"))
        policy = load_released(path, scene)
        batch = StepBatch.zeros(3, size)
        batch.active[:] = batch.spawned[:] = True
        batch.obs[:] = rng.random((3, size))
        actions = policy.act(policy.observer(3)(batch), policy.draw_lcf(3, rng), rng)
        assert actions.shape == (3, 2) and np.isfinite(actions).all()


def test_it_sees_as_in_025_also_after_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "ippo_inter.npz"
    write(path, "tensorflow")
    first = load_released(path, "intersection")
    save_policy(first, tmp_path)
    batch = StepBatch.zeros(2, 91)
    batch.obs[:, 10] = 0.2
    batch.spawned[:] = True
    for policy in (first, load_policy(tmp_path)):
        np.testing.assert_allclose(policy.observer(2)(batch)[:, 10], 0.8)


@pytest.mark.parametrize(
    ("layout", "inputs", "scene", "sentence"),
    [
        ("tensorflow", 91, None, "does not say which scene it is for; add --scene"),
        (
            "tensorflow",
            91,
            "particles",
            "drives in MetaDrive, and particles is no scene of it; choose one of roundabout",
        ),
        (
            "tensorflow",
            91,
            "bottleneck",
            r"has layers of \[\(256, 91\), .*sees 96 numbers: choose another scene or file",
        ),
        ("copo", 91, "intersection", "sees 91 numbers and its coordination factor: choose another scene or file"),
        ("torch", 156, "intersection", r"a policy for intersection has \[\(256, 91\)"),
    ],
)
def test_files_that_do_not_fit(layout: str, inputs: int, scene: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    write(path, layout, inputs=inputs)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load_released(path, scene)
    assert "\n" not in str(refusal.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    with pytest.raises(CheckpointError, match=r"no file .*policy.npz; give a policy of CoPO's authors"):
        load_released(path, "intersection")
    write(path, "torch")
    for content in (b"", b"not an archive", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged or no npz file") as refusal:
            load_released(path, "intersection")
        assert "\n" not in str(refusal.value)
    np.savez(path, weights=np.zeros(3), bias=np.array([{"code": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="is damaged or no npz file"):
        load_released(path, "intersection")  # a pickle in it is not opened
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="holds weights, which is no layout of the released policies"):
        load_released(path, "intersection")


def test_commands_ask_for_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "ippo_inter.npz"
    write(path, "tensorflow")
    with pytest.raises(UserError, match="add --scene"):
        evaluate(EvaluateConfig(path=path))
    with pytest.raises(UserError, match=r"algorithm=ippo, but .* was given; leave out --algorithm"):
        evaluate(EvaluateConfig(path=path, scene="intersection", algorithm="ippo"))
    with pytest.raises(UserError, match="add --scene"):
        watch(WatchConfig(run=path))
    with pytest.raises(UserError, match=r"no folder .*absent; give the one that holds copo_inter.npz"):
        released(ReleasedConfig(tmp_path / "absent"))


def test_rates_and_their_page() -> None:
    lives = pd.DataFrame({"episode": [0, 0, 1, 1], "outcome": ["success", "crash", "success", "success"]})
    row = rates(lives, WITNESSES[0])
    assert (row["lives"], row["success"], row["lowest_episode"], row["highest_episode"]) == (4, 0.75, 0.5, 1.0)
    assert row["standard_error"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    summary = {
        "first_seed": 0,
        "episodes": 2,
        "versions": {"numpy": "2"},
        "date": "2026-01-01",
        "horizon": 10,
        "geometry": "published",
        "hardware": "a machine",
    }
    text = page(pd.DataFrame([{"policy": "copo_inter", "scene": "intersection", **row}]), summary)
    assert "| copo_inter | intersection | 4 | 75.0 ± 21.7 | 50 to 100 | 62 | 58 |" in text
    assert "`python -m benchmarks released --policies FOLDER --episodes 2 --first-seed 0 --geometry published`" in text


@pytest.mark.simulator
@pytest.mark.skipif(not os.environ.get(NEEDED), reason=f"{NEEDED} is not set to the folder of the released policies")
def test_released_policies_reach_their_rates() -> None:
    """All six, in the episodes of the committed table: some minutes. Without the conventions undone they reach 0."""
    success, variance = [], []
    for witness in WITNESSES:
        policy = load_released(Path(os.environ[NEEDED]) / f"{witness.name}.npz", witness.scene)
        lives = drive(policy, [Episode(k, k, scene_options(witness.scene)) for k in range(3)], workers=2)
        success.append(rates(lives, witness)["success"])
        by_episode = [(group["outcome"] == "success").mean() for _, group in lives.groupby("episode")]
        variance.append(np.var(by_episode, ddof=1))
    # Lives of one episode hang together, so it is episodes that count: three here, some two elsewhere.
    bound = 2 * math.sqrt(np.mean(variance) * (1 / 3 + 1 / 2))
    assert bound < min(witness.rate_043 for witness in WITNESSES), "too loose to tell a rate from 0"
    for witness, reached in zip(WITNESSES, success, strict=True):
        assert min(abs(reached - rate) for rate in (witness.rate_025, witness.rate_043)) < bound, witness
    difference = np.mean(success) - np.mean([witness.rate_025 for witness in WITNESSES])
    assert abs(difference) < bound / math.sqrt(len(WITNESSES))

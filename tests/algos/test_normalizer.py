"""Normalised observations: the statistics are those of all samples, and folding them in changes no action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo_algos.config import TrainConfig
from copo_algos.errors import CheckpointError
from copo_algos.networks import GaussianActor
from copo_algos.normalizer import STD_FLOOR, Normalizer
from copo_algos.policy import checkpoints
from copo_algos.train import Trainer, train
from tests.algos.tiny import tiny


def normalized(folder: Path, algorithm: str = "copo", **values: Any) -> TrainConfig:
    return tiny(folder, algorithm, normalize_observations=True, **values)


def observations(rows: int, seed: int, size: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre, width = rng.uniform(0.2, 0.8, size), rng.uniform(0, 0.2, size)
    return (centre + width * rng.uniform(-1, 1, (rows, size))).astype(np.float32)


def test_before_any_samples_observations_stay_as_they_are():
    obs = observations(5, 0)
    normalizer = Normalizer(4)
    normalizer.update(obs[:0])
    np.testing.assert_array_equal(normalizer(obs), obs)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_the_statistics_are_those_of_all_samples_of_earlier_updates(sizes: list[int], seed: int):
    normalizer = Normalizer(4)
    pieces = [observations(size, seed + number) for number, size in enumerate(sizes)]
    for piece in pieces:
        normalizer.update(normalizer(piece))  # as the networks saw them
    everything = np.concatenate(pieces).astype(np.float64)
    if len(everything) == 0:
        return
    expected = (everything - everything.mean(0)) / np.sqrt(everything.var(0) + STD_FLOOR**2)
    np.testing.assert_allclose(normalizer(everything.astype(np.float32)), expected, atol=1e-4)
    assert normalizer.state()["count"] == len(everything)


def test_an_entry_that_never_changed_comes_out_ten_at_most():
    normalizer = Normalizer(2)
    normalizer.update(np.ones((100, 2), np.float32))
    np.testing.assert_allclose(normalizer(np.array([[1, 0]], np.float32)), [[0, -1 / STD_FLOOR]], rtol=1e-6)


def test_folding_gives_the_same_policy_for_plain_observations():
    actor = GaussianActor(4, 2, torch.Generator().manual_seed(0), log_std_init=-0.3)
    last = actor.layers[2]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(100)
    normalizer = Normalizer(4)
    normalizer.update(observations(200, 1))
    before = {name: tensor.clone() for name, tensor in actor.state_dict().items()}
    obs = observations(50, 2)
    for folded, normalized in zip(
        normalizer.fold(actor)(torch.from_numpy(obs)), actor(torch.from_numpy(normalizer(obs))), strict=True
    ):
        torch.testing.assert_close(folded, normalized, atol=1e-5, rtol=1e-4)
    for name, tensor in actor.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    "changes",
    [{"mean": [0.0] * 3}, {"var": [-1.0, 1, 1, 1]}, {"count": -1}, {"count": [1]}, {"mean": [np.nan] * 4}],
)
def test_foreign_statistics_are_refused(changes: dict[str, Any]):
    normalizer = Normalizer(4)
    normalizer.update(observations(10, 3))
    kept = normalizer.state()
    with pytest.raises(ValueError, match="statistics"):
        normalizer.restore(kept | changes)
    assert normalizer.state() == kept
    with pytest.raises(KeyError):
        normalizer.restore({})


@pytest.mark.parametrize("algorithm", ["copo", "ccppo_concat"])
def test_what_the_networks_see_has_the_scale_of_what_was_seen(algorithm: str):
    trainer = Trainer(normalized(Path("unused"), algorithm, num_neighbours=2))
    trainer.begin()
    seen = []
    for _ in range(2):
        trainer.train_iteration()
        seen.append(trainer.samples)
    trainer.close()
    first, second = seen
    assert first.obs.min() >= 0 and first.obs.max() <= 1  # plain
    plain = first.obs.double()
    scale = torch.sqrt(plain.var(0, correction=0) + STD_FLOOR**2)
    bounds = torch.stack([(limit - plain.mean(0)) / scale for limit in (0, 1)])
    assert (second.obs >= bounds[0] - 1e-4).all() and (second.obs <= bounds[1] + 1e-4).all()
    assert second.obs.min() < -0.5 and second.obs.mean().abs() < 0.2
    torch.testing.assert_close(second.critic_obs[:, : second.obs.shape[1]], second.obs)


def test_a_saved_policy_drives_as_the_one_that_learned():
    trainer = Trainer(normalized(Path("unused")))
    trainer.begin()
    trainer.train_iteration()
    policy = trainer.policy()
    size = trainer.info.obs_size
    obs, lcf = observations(20, 4, size), np.linspace(-1, 1, 20, dtype=np.float32)
    acted = policy.act(obs, lcf, np.random.default_rng(0), deterministic=True)
    assert trainer.normalizer is not None
    seen = trainer.normalizer(np.concatenate([obs, (lcf[:, None] + 1) / 2], axis=1))
    with torch.no_grad():
        expected = trainer.actor(torch.from_numpy(seen))[0].clamp(-1, 1).numpy()
        plain = trainer.actor(torch.from_numpy(np.concatenate([obs, (lcf[:, None] + 1) / 2], axis=1)))[0].numpy()
    trainer.close()
    np.testing.assert_allclose(acted, expected, atol=1e-5)
    assert np.abs(acted - plain).max() > 1e-4


def test_a_run_resumes_bit_for_bit_and_learns_on_from_it(tmp_path: Path):
    """Two that go on from one checkpoint, the one after it has been saved anew, do the same, and see what was seen."""
    config = normalized(tmp_path)
    train(config)
    last = checkpoints(tmp_path)[-1]
    found = []
    for name, source in (("copy", last), ("again", tmp_path / "copy" / "checkpoints" / last.name)):
        trainer = Trainer(config)
        trainer.restore(source)
        assert trainer.normalizer is not None
        before = trainer.normalizer.state()
        saved = trainer.save(tmp_path / name)
        for file in ("policy.safetensors", "learner.safetensors", "learner.json"):
            assert (saved / file).read_bytes() == (last / file).read_bytes()
        trainer.begin()
        row = trainer.train_iteration()
        trainer.close()
        assert trainer.samples is not None
        found.append((trainer.samples.obs, row["policy_loss"], trainer.normalizer.state()))
        assert before["count"] > 0 and found[-1][2]["count"] == before["count"] + len(trainer.samples)
        assert trainer.samples.obs.min() < 0  # normalised from the first step on
    assert torch.equal(found[0][0], found[1][0]) and found[0][1:] == found[1][1:]


def test_a_checkpoint_without_its_statistics_is_not_gone_on_from(tmp_path: Path):
    train(normalized(tmp_path, total_steps=48))
    path = checkpoints(tmp_path)[-1] / "learner.json"
    state = json.loads(path.read_text())
    del state["normalizer"]
    path.write_text(json.dumps(state))
    trainer = Trainer(normalized(tmp_path))
    with pytest.raises(CheckpointError, match=r"learner.json is damaged .*normalizer"):
        trainer.restore(checkpoints(tmp_path)[-1])
    trainer.close()

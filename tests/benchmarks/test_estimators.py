"""What the estimators say is written down beside a training, and changes nothing in it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import estimators
from benchmarks.estimators import ESTIMATORS, EstimatorsConfig, main, training, what_they_say
from copo_algos.config import TrainConfig, with_values
from copo_algos.errors import UserError
from copo_algos.train import Trainer, train

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"num_envs": 0, "num_agents": 6, "horizon": 20, "steps_per_iteration": 48, "minibatch_size": 64}


def config(folder: Path) -> EstimatorsConfig:
    return EstimatorsConfig(("per_sample",), "particles", 3, 96, runs_dir=folder / "runs", output=folder / "out")


def untimed(path: Path, columns: pd.Index | None = None) -> pd.DataFrame:
    table = pd.read_csv(path)
    table = table.drop(columns=[name for name in table if str(name).endswith("_s")])
    return table if columns is None else table.reindex(columns=columns)


def test_the_training_is_the_one_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimators, "SETUPS", {"per_sample": TINY})
    main(config(tmp_path))
    measured = tmp_path / "out" / "per_sample" / "metrics.csv"
    train(replace(training(config(tmp_path), "per_sample"), run_dir=tmp_path / "plain", resume=False))
    plain = untimed(tmp_path / "plain" / "metrics.csv")
    pd.testing.assert_frame_equal(untimed(measured, plain.columns), plain)
    added = set(pd.read_csv(measured)) - set(pd.read_csv(tmp_path / "plain" / "metrics.csv"))
    assert added == {f"{name}_{what}" for name in ESTIMATORS for what in ("positive", "t")}
    before = measured.read_text()
    main(config(tmp_path))  # complete: nothing is trained again
    assert measured.read_text() == before


def test_a_training_keeps_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimators, "SETUPS", {"per_sample": TINY})
    run, collected = (tmp_path / folder / "per_sample" / "provenance.json" for folder in ("runs", "out"))

    def go(words: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["estimators", *words.split()])
        main(config(tmp_path))
        return json.loads(collected.read_text())

    first = go("--total-steps 96")
    assert first["command"] == "python -m benchmarks.estimators --total-steps 96"
    assert go("--total-steps 96 --setups per_sample") == first == json.loads(run.read_text())
    noted = {**first, "note": "by hand"}
    run.write_text(json.dumps(noted))
    assert go("again") == noted
    run.unlink()
    assert go("from before it was written beside the training") == noted
    collected.unlink()
    assert go("and never collected")["command"].endswith("and never collected")


def test_a_training_with_other_settings_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimators, "SETUPS", {"per_sample": TINY})
    main(config(tmp_path))
    with pytest.raises(UserError, match=r"with seed=4: the run was made with 3; .* choose another --runs-dir"):
        main(replace(config(tmp_path), seed=4))


def test_all_setups_are_trainings_of_copo(tmp_path: Path):
    for setup in estimators.SETUPS:
        settings = training(config(tmp_path), setup)
        assert (settings.algorithm, settings.scene, settings.seed) == ("copo", "particles", 3)
    used = {settings.get("lcf_estimator", "per_sample") for settings in estimators.SETUPS.values()}
    assert used == {"released", "per_sample", "split"}


def test_what_they_say_is_determined_by_seed_and_iteration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimators, "MINIBATCH", 32)
    trainer = Trainer(with_values(TrainConfig("copo", scene="particles", seed=3), TINY))
    try:
        trainer.begin()
        trainer.train_iteration()
        said = what_they_say(trainer)
        assert said == what_they_say(trainer)
        assert all(0 <= said[f"{name}_positive"] <= 1 and math.isfinite(said[f"{name}_t"]) for name in ESTIMATORS)
    finally:
        trainer.close()


def test_what_they_say_has_the_sign_of_what_the_neighbours_are_worth_to_all(monkeypatch: pytest.MonkeyPatch):
    """The global advantage is how far to the left one steers, the own is nothing, and the neighbours' is the global one
    or its opposite: nearly every minibatch pushes phi up, or down."""
    monkeypatch.setattr(estimators, "MINIBATCH", 32)
    trainer = Trainer(with_values(TrainConfig("copo", scene="particles", seed=3), TINY))
    try:
        trainer.begin()
        trainer.train_iteration()
        samples = trainer.samples
        assert samples is not None
        trainer.old_actor = trainer.actor
        noise = ((samples.action - samples.mean) / samples.log_std.exp())[:, :1]
        left = (noise - noise.mean()) / noise.std()
        for worth in (1, -1):
            advantage = torch.cat([torch.zeros_like(left), worth * left, left], dim=1)
            trainer.samples = replace(samples, advantage=advantage, raw_mean=0.0, raw_std=1.0)
            said = what_they_say(trainer)
            for name in ("per_sample", "per_sample_split"):
                down = said[f"{name}_positive"]
                assert (down if worth == 1 else 1 - down) < 0.2 and worth * said[f"{name}_t"] < -1.5
    finally:
        trainer.close()

"""The number of vehicles: as a function, and on the road."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from copo_algos.config import TrainConfig, with_values
from copo_algos.curriculum import vehicles_at
from copo_algos.errors import UserError
from copo_algos.train import Trainer, train
from copo_envs.scene_vector import SceneVector
from copo_envs.scenes import SceneError, scene_options

pytestmark = pytest.mark.slow


def test_a_quarter_of_the_training_each():
    found = [vehicles_at(steps, 2_000_000, 30) for steps in (0, 499_999, 500_000, 1_000_000, 1_500_000, 2_000_000)]
    assert found == [7, 7, 15, 22, 30, 30]
    assert [vehicles_at(steps, 4, 2) for steps in range(4)] == [1, 1, 1, 2]


@pytest.mark.parametrize("num_envs", [0, 2])
def test_a_new_number_begins_with_each_environments_next_episode(num_envs: int):
    with SceneVector(scene_options("particles", num_agents=8, horizon=10, respawn=False), num_envs) as scenes:
        scenes.reset([3] * max(1, num_envs), 2)
        scenes.set_num_agents(6)
        counts = [[2] for _ in range(scenes.num_envs)]
        for _ in range(25):
            batch = scenes.step(np.zeros((scenes.num_envs, 8, 2), np.float32))
            for env in range(scenes.num_envs):
                if batch.episode_over[env]:
                    counts[env].append(int(batch.active[env].sum()))
                else:
                    assert batch.active[env].sum() <= counts[env][-1]
        assert all(found[:2] == [2, 6] for found in counts)
        with pytest.raises(SceneError, match="num_agents=9; these environments were made for 1 to 8"):
            scenes.set_num_agents(9)


SETTINGS = {
    "scene": "particles",
    "num_envs": 0,
    "num_agents": 8,
    "horizon": 8,
    "steps_per_iteration": 20,
    "total_steps": 160,
    "update_epochs": 1,
    "minibatch_size": 40,
}


def test_vehicles_become_more_as_training_goes_on(tmp_path: Path):
    folder = train(with_values(TrainConfig("curriculum", run_dir=tmp_path), SETTINGS))
    with (folder / "metrics.csv").open(newline="") as file:
        vehicles = [float(row["vehicles_mean"]) for row in csv.DictReader(file)]
    assert vehicles[0] <= 2 and 2 < vehicles[3] <= 4 and 4 < vehicles[5] <= 6 and 6 < vehicles[7] <= 8


@pytest.mark.parametrize("total_steps", [80, 320])
def test_a_run_is_not_resumed_with_another_total_whose_quarters_have_other_numbers(tmp_path: Path, total_steps: int):
    config = with_values(TrainConfig("curriculum", run_dir=tmp_path), SETTINGS)
    before = (train(config) / "metrics.csv").read_bytes()
    with pytest.raises(
        UserError, match=f"cannot resume with total_steps={total_steps}: the run was made with 160, by which its number"
    ):
        train(replace(config, total_steps=total_steps, resume=True))
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert json.loads((tmp_path / "config.json").read_text())["total_steps"] == 160
    train(replace(config, resume=True))


def test_a_resumed_run_begins_with_the_vehicles_of_its_stage():
    trainer = Trainer(with_values(TrainConfig("curriculum"), SETTINGS))
    trainer.env_steps = 80
    trainer.begin()
    assert trainer.scenes.batch.active.sum() == 6
    trainer.close()

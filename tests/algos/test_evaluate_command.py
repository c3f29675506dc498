"""What `copo evaluate` and `copo watch` do with what they are given, on the particles."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_algos
from benchmarks.run import _is_evaluated
from copo_algos import policy as policy_module
from copo_algos.config import TrainConfig
from copo_algos.errors import UserError
from copo_algos.evaluate import EvaluateConfig, conditions, default_folder, evaluate, plan
from copo_algos.policy import PolicyInfo, load_policy, shipped_algorithm
from copo_algos.train import train
from copo_algos.watch import WatchConfig, watch
from copo_envs.scenes import SCENES, map_seed
from tests.algos.tiny import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(tmp_path_factory.mktemp("run"), total_steps=48))


def test_evaluations_by_different_settings_do_not_replace_one_another(run: Path):
    shortest = EvaluateConfig(run, episodes=1, workers=1, horizon=8)
    for config in (replace(shortest, horizon=12), shortest, replace(shortest, lcf=0.0, deterministic=True)):
        evaluate(config)
    found = {folder.name: json.loads((folder / "summary.json").read_text()) for folder in run.glob("evaluation*")}
    assert {name: (summary["horizon"], summary["lcf"] == 0.0) for name, summary in found.items()} == {
        "evaluation_episodes-1_horizon-12": (12, False),
        "evaluation_episodes-1_horizon-8": (8, False),
        "evaluation_episodes-1_horizon-8_deterministic_lcf-0.0": (8, True),
    }


def test_more_episodes_of_the_protocol_are_the_same_evaluation():
    assert default_folder(EvaluateConfig(episodes=30, workers=7)) == "evaluation"
    assert default_folder(EvaluateConfig(episodes=3)) == "evaluation_episodes-3"
    assert default_folder(EvaluateConfig(maps="heldout")) == "evaluation_heldout"
    assert default_folder(EvaluateConfig(maps="heldout", first_seed=3)) == "evaluation_heldout_first_seed-3"


def test_paths_may_be_strings(run: Path, tmp_path: Path):
    table = evaluate(EvaluateConfig(str(run), episodes=1, horizon=8, workers=1, output=str(tmp_path)))  # pyright: ignore[reportArgumentType]
    assert len(table) == 1 and (tmp_path / "summary.json").exists()
    video = tmp_path / "film.gif"
    assert watch(WatchConfig(str(run), steps=4, output=str(video))) == video  # pyright: ignore[reportArgumentType]


def test_without_an_algorithm_the_policy_that_there_is_drives():
    assert [shipped_algorithm(scene) for scene in ("intersection", "roundabout", "moon")] == ["copo"] * 3


def test_without_an_algorithm_the_policy_that_there_is_is_scored(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policy_module.resources, "files", lambda package: run.parent)
    monkeypatch.chdir(run.parent)
    for name in ("ippo", "copo"):
        shutil.copytree(run / "checkpoints" / "step_000000048", run.parent / "policies" / "particles" / name)
        evaluate(EvaluateConfig(scene="particles", episodes=1, horizon=8, workers=1))
        assert Path("evaluation_episodes-1_horizon-8", f"particles-{name}", "summary.json").exists()


def test_pg_map_may_be_driven_on_any_map():
    info = PolicyInfo("pg_map", "ippo", SCENES["pg_map"].obs_size, num_agents=2, uses_lcf=False, start_seed=6000)
    cases: list[tuple[dict[str, Any], list[int], str]] = [
        ({}, [6000, 6000], "evaluation"),
        ({"start_seed": 9000}, [9000, 9000], "evaluation_start_seed-9000"),
        ({"start_seed": 1_000_003}, [1_000_003, 1_000_003], "evaluation_start_seed-1000003"),
        ({"maps": "heldout"}, [1_000_000, 1_000_001], "evaluation_heldout"),
    ]
    for settings, maps, folder in cases:
        config = EvaluateConfig(episodes=2, **settings)
        assert [map_seed(episode.options, episode.seed) for episode in plan(info, config)] == maps
        assert conditions(info, config)["start_seed"] == settings.get("start_seed", 6000)
        assert default_folder(replace(config, episodes=20)) == folder
    with pytest.raises(UserError, match="start_seed=9000 is one map, and maps=heldout another one in every episode"):
        plan(info, EvaluateConfig(start_seed=9000, maps="heldout"))
    with pytest.raises(UserError, match="start_seed=9000, but particles has one map; leave out --start-seed"):
        plan(replace(info, scene="particles"), EvaluateConfig(start_seed=9000))


def test_an_evaluation_on_another_map_is_none_of_the_benchmark(run: Path):
    evaluate(EvaluateConfig(run, episodes=1, workers=1, output=run / "evaluation"))
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    older = {name: value for name, value in summary.items() if name != "start_seed"}  # they do not say it
    for kept, counts in ((summary, True), (older, True), ({**summary, "start_seed": 9000}, False)):
        (run / "evaluation" / "summary.json").write_text(json.dumps(kept))
        assert _is_evaluated(run, "train", 1) is counts


def test_a_run_after_follow_is_no_vehicle(run: Path):
    with pytest.raises(UserError, match="is a file or folder and no vehicle; put the run before --follow"):
        watch(WatchConfig(follow=str(run)))


def test_a_policy_asks_only_for_what_it_needs(run: Path, tmp_path: Path):
    obs, policy = np.zeros((2, 32), np.float32), load_policy(run)
    assert policy.act(obs, np.zeros(2), deterministic=True).shape == (2, 2)
    with pytest.raises(UserError, match="no rng to draw the actions with"):
        policy.act(obs, np.zeros(2))
    with pytest.raises(UserError, match=r"rng=0 draws no actions; give a numpy.random.Generator, .*default_rng\(0\)"):
        policy.act(obs, np.zeros(2), 0)  # pyright: ignore[reportArgumentType]
    alone = load_policy(train(tiny(tmp_path, "ippo", total_steps=48)))
    assert alone.act(obs, deterministic=True).shape == (2, 2)


def test_what_the_package_offers():
    assert copo_algos.load_policy is load_policy and copo_algos.TrainConfig is TrainConfig
    assert all(hasattr(copo_algos, name) for name in copo_algos.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        copo_algos.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]

"""The evaluation protocol on the particles, against loops that are plainer than it."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from copo_algos import progress, scores
from copo_algos.baselines import BASELINES
from copo_algos.errors import CheckpointError, UserError
from copo_algos.evaluate import Episode, EvaluateConfig, default_folder, drive, evaluate
from copo_algos.machine import hardware
from copo_algos.policy import Policy, PolicyInfo, make_actor, save_policy
from copo_envs.outcomes import Outcome
from copo_envs.particles import ParticlesSimulator
from copo_envs.scenes import SCENES, SceneError, scene_options

HORIZON = 100
OPTIONS = scene_options("particles", num_agents=4, horizon=HORIZON)

SHORT = [Episode(0, 50, scene_options("particles", num_agents=4, horizon=20))]


def untrained(uses_lcf: bool, env_steps: int = 0) -> Policy:
    info = PolicyInfo(
        scene="particles",
        algorithm="copo" if uses_lcf else "ippo",
        obs_size=SCENES["particles"].obs_size,
        num_agents=4,
        uses_lcf=uses_lcf,
        lcf_mean=0.3 if uses_lcf else 0.0,
        lcf_std=0.2 if uses_lcf else 0.0,
        env_steps=env_steps,
    )
    return Policy(make_actor(info, torch.Generator().manual_seed(7)), info)


def make_run(folder: Path, uses_lcf: bool = True, seed: int = 0) -> Path:
    for env_steps in (100, 200):
        checkpoint = folder / "checkpoints" / f"step_{env_steps:09d}"
        checkpoint.mkdir(parents=True)
        save_policy(untrained(uses_lcf, env_steps), checkpoint)
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    return folder


def config(path: Path | None = None, **settings: object) -> EvaluateConfig:
    values = {"episodes": 2, "horizon": 20, "first_seed": 50, "workers": 1, **settings}
    return EvaluateConfig(path=path, **values)  # pyright: ignore[reportArgumentType]


FOLDER = default_folder(config())
ONE_EPISODE = default_folder(config(episodes=1))


def episodes(count: int) -> list[Episode]:
    return [Episode(k, 50 + k, OPTIONS) for k in range(count)]


@pytest.fixture(scope="module")
def lives() -> pd.DataFrame:
    """Two episodes on one worker."""
    return drive(untrained(uses_lcf=True), episodes(2), workers=1)


def test_lives_do_not_depend_on_the_number_of_workers(lives: pd.DataFrame):
    pd.testing.assert_frame_equal(drive(untrained(uses_lcf=True), episodes(2), workers=2), lives)


def test_an_episode_does_not_depend_on_those_beside_it(lives: pd.DataFrame):
    alone = drive(untrained(uses_lcf=True), episodes(2)[1:], workers=1)
    pd.testing.assert_frame_equal(alone, lives.loc[lives["episode"] == 1, :].reset_index(drop=True))


@pytest.mark.parametrize("episode", [0, 1])
def test_lives_agree_with_a_plain_loop(lives: pd.DataFrame, episode: int):
    policy, simulator = untrained(uses_lcf=True), ParticlesSimulator(OPTIONS)
    rng = np.random.default_rng([50 + episode, 1])
    batch = simulator.reset(50 + episode)
    factor: dict[int, float] = {}
    rewards: dict[int, list[float]] = {}
    speeds: dict[int, list[float]] = {}
    costs: dict[int, list[float]] = {}
    energies: dict[int, list[float]] = {}
    completion: dict[int, float] = {}
    ends: dict[int, tuple[str, int]] = {}
    while True:
        newborn = batch.life[batch.spawned].tolist()
        factor |= dict(zip(newborn, policy.draw_lcf(len(newborn), rng).tolist(), strict=True))
        alive = batch.active.copy()
        actions = np.zeros((4, 2), np.float32)
        phi = np.array([factor[life] for life in batch.life[alive].tolist()], np.float32)
        actions[alive] = policy.act(batch.obs[alive], phi, rng)
        batch = simulator.step(actions)
        for slot in np.nonzero(batch.acted)[0]:
            life = int(batch.acted_life[slot])
            rewards.setdefault(life, []).append(float(batch.reward[slot]))
            speeds.setdefault(life, []).append(float(batch.velocity[slot]))
            costs.setdefault(life, []).append(float(batch.cost[slot]))
            energies.setdefault(life, []).append(float(batch.energy[slot]))
            completion[life] = float(batch.route_completion[slot])
            if batch.outcome[slot]:
                ends[life] = (Outcome(batch.outcome[slot]).name.lower(), int(batch.episode_step))
        if batch.episode_over:
            break

    table = lives[lives["episode"] == episode].set_index("life")
    assert table.index.tolist() == sorted(ends) == list(range(len(ends)))
    for life, row in table.iterrows():
        assert isinstance(life, int)
        assert (row["outcome"], row["ended_at"]) == ends[life]
        assert row["steps"] == len(rewards[life])
        assert row["own_return"] == pytest.approx(sum(rewards[life]))
        assert row["velocity_m_s"] == pytest.approx(np.mean(speeds[life]))
        assert row["lcf"] == pytest.approx(factor[life])
        assert row["cost"] == pytest.approx(sum(costs[life]))
        assert row["energy"] == pytest.approx(sum(energies[life]))
        assert row["route_completion"] == pytest.approx(completion[life])
    assert lives["cost"].sum() == 1 and lives["energy"].min() > 1 and lives["route_completion"].nunique() > 2


def test_a_life_ends_in_its_last_step_whatever_time_passes_until_the_next_one_begins():
    """One vehicle, whose wreck or finish blocks the way for a while in which nobody drives."""
    alone = scene_options("particles", num_agents=1, horizon=300)
    lives = drive(untrained(uses_lcf=False), [Episode(0, 0, alone)], workers=1)
    end = lives["ended_at"].to_numpy()
    birth = end - lives["steps"].to_numpy()
    assert len(lives) > 1 and birth[0] == 0
    assert (birth[1:] >= end[:-1]).all()
    assert (birth < 300).all() and (birth[1:] > end[:-1]).any()


def test_the_population_drains_after_the_horizon(lives: pd.DataFrame):
    # Respawning stops at the horizon, so whoever ends later was born before.
    assert (lives["ended_at"] - lives["steps"] < HORIZON).all()
    assert lives["ended_at"].max() > HORIZON
    assert lives["outcome"].nunique() > 1
    assert lives["steps"].max() <= HORIZON


def test_factors_are_those_asked_for(lives: pd.DataFrame):
    assert lives["lcf"].between(-1, 1).all()
    assert lives["lcf"].nunique() > 1
    assert (drive(untrained(uses_lcf=True), SHORT, workers=1, lcf=-0.5)["lcf"] == -0.5).all()
    assert (drive(untrained(uses_lcf=False), SHORT, workers=1)["lcf"] == 0).all()


def test_a_run_is_scored_by_its_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path / "seed0")
    table = evaluate(config(run))
    assert table["env_steps"].tolist() == [200]

    folder = run / FOLDER
    assert sorted(path.name for path in folder.iterdir()) == ["episodes.csv", "lives.csv", "summary.json"]
    lives, summary = pd.read_csv(folder / "lives.csv"), json.loads((folder / "summary.json").read_text())
    assert list(lives.columns) == list(scores.COLUMNS)
    assert pd.read_csv(folder / "episodes.csv")["seed"].tolist() == [50, 51]
    assert summary["measures"]["success_rate"] == scores.success_rate(lives) == table["success_rate"][0]
    low, high = summary["interval_95"]["failures"]
    assert low <= scores.failures(lives) <= high
    assert (summary["first_seed"], summary["num_agents"], summary["lcf"]) == (50, 4, {"mean": 0.3, "std": 0.2})
    assert set(summary["versions"]) >= {"python", "copo", "metadrive-simulator", "torch", "numpy"}
    assert summary["hardware"] == hardware()
    assert "copo on particles, 200 env steps" in capsys.readouterr().out


def made_up() -> pd.DataFrame:
    """Four episodes: three in which the only vehicle arrives, and one of twelve that end in every way."""
    outcomes = ["success"] * 2 + ["crash"] * 6 + ["out_of_road"] * 3 + ["max_step"]
    rows = [(episode, 0, "success", 10) for episode in range(3)]
    rows += [(3, life, outcome, 21 + life) for life, outcome in enumerate(outcomes)]  # all of it after the horizon
    table = pd.DataFrame(rows, columns=["episode", "life", "outcome", "ended_at"])
    others = {"steps": 10, "own_return": 2.0, "route_completion": 0.5, "velocity_m_s": 3.0, "cost": 4.0, "energy": 5.0}
    return table.assign(seed=50 + table["episode"], lcf=0.0, **others).reindex(columns=list(scores.COLUMNS))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the evaluations that follow ask `drive` for, by name; it gives them the made-up lives."""
    calls: list[dict[str, Any]] = []

    def pretend(*arguments: Any, **named: Any) -> pd.DataFrame:
        calls.append(inspect.signature(drive).bind(*arguments, **named).arguments)
        return made_up()

    monkeypatch.setattr("copo_algos.evaluate.drive", pretend)
    return calls


def test_the_summary_of_made_up_lives(tmp_path: Path, asked: list[dict[str, Any]]):
    """With a horizon of 20. A resample that draws the last episode k times of four has 4 + 11 k vehicles; within the
    middle 95 % k is 0 to 3."""
    run = make_run(tmp_path / "seed0")
    table = evaluate(config(run, episodes=4, horizon=20))
    assert len(asked) == 1
    folder = run / default_folder(config(episodes=4))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["lives"] == 15
    assert summary["measures"] == pytest.approx(
        {
            "success_rate": 5 / 15,
            "crash_rate": 6 / 15,
            "out_rate": 3 / 15,
            "max_step_rate": 1 / 15,
            "efficiency": (5 - 6 - 3) / 20 / 4,
            "safety": -9 / 4,
            "failures": 9 / 4,
            "throughput": 3 / 4,
            "vehicles": 15 / 4,
            "mean_return": 2.0,
            "mean_length": 10.0,
            "success_length": 10.0,
            "mean_velocity_m_s": 3.0,
            "mean_route_completion": 0.5,
            "mean_cost": 4.0,
            "mean_energy": 5.0,
        }
    )
    assert {name: table[name].item() for name in summary["measures"]} == pytest.approx(summary["measures"])
    expected = {
        "success_rate": [(1 + 3 * 2) / 37, 1],
        "crash_rate": [0, 3 * 6 / 37],
        "out_rate": [0, 3 * 3 / 37],
        "max_step_rate": [0, 3 * 1 / 37],
        "efficiency": [(1 - 3 * 7) / 20 / 4, 1 / 20],
        "failures": [0, 3 * 9 / 4],
        "throughput": [1 / 4, 1],
        "vehicles": [1, 37 / 4],
    }
    assert summary["interval_95"].keys() == expected.keys()
    for name, interval in expected.items():
        assert summary["interval_95"][name] == pytest.approx(interval), name
    each = pd.read_csv(folder / "episodes.csv")
    assert each["efficiency"].tolist() == pytest.approx([1 / 20] * 3 + [-7 / 20])
    assert each["throughput"].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, {}),
        ({"geometry": "published"}, {"geometry": "published"}),
        ({"num_agents": 5, "rule_based": 1}, {"num_agents": 5, "rule_based": 1}),
        ({"horizon": 30, "maps": "heldout"}, {"horizon": 30, "maps": "heldout"}),
    ],
)
def test_episodes_are_as_asked_for_and_else_as_in_training(
    tmp_path: Path, asked: list[dict[str, Any]], settings: dict[str, object], changed: dict[str, Any]
):
    info = PolicyInfo(
        scene="pg_map",
        algorithm="ippo",
        obs_size=SCENES["pg_map"].obs_size,
        num_agents=3,
        uses_lcf=False,
        geometry="metadrive",
        rule_based=2,
        start_seed=9000,
    )
    save_policy(Policy(make_actor(info), info), tmp_path)
    evaluate(config(tmp_path, output=tmp_path / "out", **settings))
    trained = {"num_agents": 3, "rule_based": 2, "geometry": "metadrive", "start_seed": 9000}
    expected = {**trained, "horizon": 20, "maps": "train", **changed}
    (call,) = asked
    options = scene_options("pg_map", **expected)
    assert call["episodes"] == [Episode(0, 50, options), Episode(1, 51, options)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    told = {name: value for name, value in expected.items() if name != "start_seed"}
    assert {name: summary[name] for name in told} == told


def test_policies_drive_as_asked_for(tmp_path: Path, asked: list[dict[str, Any]]):
    run = make_run(tmp_path / "seed0")
    evaluate(config(run, workers=3, deterministic=True, lcf=0.25))
    evaluate(config(run))
    assert [(c["workers"], c["deterministic"], c["lcf"]) for c in asked] == [(3, True, 0.25), (1, False, None)]
    assert [call["policy"].info for call in asked] == [untrained(uses_lcf=True, env_steps=200).info] * 2
    weights = untrained(uses_lcf=True).actor.state_dict()
    assert all(torch.equal(asked[0]["policy"].actor.state_dict()[name], weights[name]) for name in weights)


def test_an_evaluation_without_a_terminal_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = make_run(tmp_path / "seed0")
    evaluate(config(run))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run}: driving 2 episodes of copo on particles ..."

    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    evaluate(config(run))
    lines = [line for line in capsys.readouterr().out.splitlines() if "/2 episodes" in line]
    found = [re.fullmatch(r"(\d)/2 episodes( \| \d+ min left)?", line) for line in lines]
    done = [int(line[1]) for line in found if line]
    assert len(done) == len(found) and done == sorted(done) and set(done) == {0, 1, 2}
    assert lines[0] == "0/2 episodes" and "min left" in lines[-1]


def test_a_folder_of_runs_gives_one_row_each(tmp_path: Path):
    make_run(tmp_path / "runs" / "copo" / "seed0")
    make_run(tmp_path / "runs" / "ippo" / "seed0", uses_lcf=False)
    table = evaluate(config(tmp_path / "runs", episodes=1, output=tmp_path / "out"))
    assert table["algorithm"].tolist() == ["copo", "ippo"]
    for name in ("copo", "ippo"):
        assert (tmp_path / "out" / name / "seed0" / "summary.json").exists()
        assert not (tmp_path / "runs" / name / "seed0" / ONE_EPISODE).exists()


def test_a_checkpoint_is_scored_beside_the_checkpoints(tmp_path: Path):
    run = make_run(tmp_path / "seed0")
    table = evaluate(config(run / "checkpoints" / "step_000000100", episodes=1))
    assert table["env_steps"].tolist() == [100]
    assert (run / ONE_EPISODE / "step_000000100" / "lives.csv").exists()


def test_the_folder_of_the_checkpoints_stands_for_its_run(tmp_path: Path):
    run = make_run(tmp_path / "seed0")
    table = evaluate(config(run / "checkpoints", episodes=1))
    assert table["env_steps"].tolist() == [200] and table["run"].tolist() == [str(run)]
    assert (run / ONE_EPISODE / "lives.csv").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lcf": 0.3}, "is ippo, which has none; leave out --lcf"),
        ({"maps": "heldout"}, "particles has one map"),
        ({}, "has lcf_std=-1.0"),
    ],
)
def test_what_does_not_fit_the_last_of_several_runs_is_found_before_the_first_drives(
    tmp_path: Path, settings: dict[str, object], message: str
):
    make_run(tmp_path / "a")
    if "maps" in settings:
        for checkpoint in (tmp_path / "a" / "checkpoints").iterdir():
            info = PolicyInfo("pg_map", "ippo", SCENES["pg_map"].obs_size, num_agents=2, uses_lcf=False)
            save_policy(Policy(make_actor(info), info), checkpoint)
    last = make_run(tmp_path / "b", uses_lcf=False) / "checkpoints" / "step_000000200"
    if not settings:
        description = json.loads((last / "policy.json").read_text())
        (last / "policy.json").write_text(json.dumps(description | {"lcf_std": -1.0}))
    with pytest.raises(UserError, match=message):
        evaluate(config(tmp_path, **settings))
    assert not list(tmp_path.rglob("lives.csv"))


def test_deterministic_driving_draws_no_action_noise():
    policy = untrained(uses_lcf=False)
    first, second = (drive(policy, SHORT, 1, deterministic=d) for d in (True, False))
    assert not first.equals(second)
    batch = ParticlesSimulator(OPTIONS).reset(50)
    draws = [policy.act(batch.obs, np.zeros(4), np.random.default_rng(s), deterministic=True) for s in (0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes=0 is too small"),
        ({"workers": 0}, "workers=0 is too small"),
        ({"first_seed": -1}, "first_seed=-1 is negative"),
        ({"lcf": 1.5}, r"lcf=1.5 is not in \[-1, 1\]"),
        ({"scene": "intersection"}, "not both"),
        ({"maps": "heldout"}, "particles has one map"),
        ({"lcf": 0.5}, "is ippo, which has none"),
        ({"num_agents": 99}, "use 1 to 32"),
    ],
)
def test_refusals_say_what_is_allowed(tmp_path: Path, settings: dict[str, object], message: str):
    run = make_run(tmp_path / "seed0", uses_lcf=False)
    with pytest.raises(ValueError, match=message):
        evaluate(config(run, **settings))
    assert not list(run.glob("evaluation*"))


def test_nothing_to_evaluate_is_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="give a run folder, or --scene and --algorithm"):
        evaluate(config())
    with pytest.raises(CheckpointError, match="no folder"):
        evaluate(config(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        evaluate(config(tmp_path))
    with pytest.raises(CheckpointError, match="comes with the package"):
        evaluate(config(scene="particles", algorithm="ippo"))
    with pytest.raises(SceneError, match="unknown scene 'particle'; choose one of roundabout"):
        evaluate(config(scene="particle", algorithm="copo"))
    with pytest.raises(UserError, match="unknown algorithm 'nobody'"):
        evaluate(config(scene="particles", algorithm="nobody"))


def test_an_interrupted_evaluation_leaves_the_last_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = make_run(tmp_path / "seed0")
    evaluate(config(run, episodes=1))
    before = {path.name: path.read_text() for path in (run / ONE_EPISODE).iterdir()}

    def interrupted(*arguments: object, **options: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(Policy, "act", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(run, episodes=2, output=run / ONE_EPISODE))
    assert {path.name: path.read_text() for path in (run / ONE_EPISODE).iterdir()} == before


@pytest.mark.slow
def test_the_rule_arrives_and_random_actions_do_not(tmp_path: Path):
    rates = {}
    for driver in BASELINES:
        settings = {"scene": "particles", "algorithm": driver, "episodes": 1, "horizon": 150}
        rates[driver] = evaluate(config(**settings, output=tmp_path / driver))["success_rate"].item()
        again = evaluate(config(**settings, output=tmp_path / "again", workers=1))["success_rate"].item()
        assert again == rates[driver]
    assert rates["rule_based"] > 0.7 > 0.2 > rates["random"]


def test_rule_based_traffic_is_as_in_training_and_not_in_the_scores(tmp_path: Path):
    policy = untrained(uses_lcf=False)
    policy.info = replace(policy.info, num_agents=2, rule_based=5)
    save_policy(policy, tmp_path)

    def summary(**settings: object) -> dict[str, Any]:
        evaluate(config(tmp_path, episodes=1, horizon=40, output=tmp_path / "out", **settings))
        return json.loads((tmp_path / "out" / "summary.json").read_text())

    mixed, alone = summary(), summary(rule_based=0)
    assert (mixed["num_agents"], mixed["rule_based"], alone["rule_based"]) == (2, 5, 0)
    lives = pd.read_csv(tmp_path / "out" / "lives.csv")
    assert len(lives) == alone["lives"] and mixed["lives"] <= 2 * (1 + 40 // 25 + 1)


@pytest.mark.simulator
def test_held_out_maps_differ_from_the_trained_one():
    info = PolicyInfo("pg_map", "ippo", SCENES["pg_map"].obs_size, num_agents=3, uses_lcf=False)
    policy = Policy(make_actor(info, torch.Generator().manual_seed(7)), info)
    plans = [
        Episode(k, 50, scene_options("pg_map", num_agents=3, horizon=30, maps=maps))
        for k, maps in enumerate(("train", "heldout"))
    ]
    lives = drive(policy, plans, workers=1, deterministic=True)
    trained, heldout = (lives[lives["episode"] == k].reset_index(drop=True) for k in (0, 1))
    assert len(trained) and len(heldout)
    assert not trained.drop(columns="episode").equals(heldout.drop(columns="episode"))


@pytest.mark.simulator
def test_the_policy_that_comes_with_the_package_arrives(tmp_path: Path):
    """Nobody would untrained or with observations shifted by an entry; one in five with rays counted the other way."""
    settings = {"scene": "intersection", "algorithm": "copo", "episodes": 1, "horizon": 600, "first_seed": 1_000_000}
    success = evaluate(config(**settings, output=tmp_path))["success_rate"].item()
    lives = len(pd.read_csv(tmp_path / "lives.csv"))
    assert success > 0.5 and lives > 50

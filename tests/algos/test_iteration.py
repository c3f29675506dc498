"""One iteration of a training: what its parts are handed, and what it says of itself."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from copo_algos import train as train_module
from copo_algos.algorithms import GLOBAL, NEIGHBOURHOOD, OWN
from copo_algos.policy import PolicyInfo
from copo_algos.train import Trainer
from copo_algos.types import Rollout
from copo_envs.outcomes import Outcome
from tests.algos.tiny import tiny

Make = Callable[..., Trainer]
UNUSED = Path("unused")


@pytest.fixture
def begun(closing: Callable[[Trainer], Trainer]) -> Make:
    """`trainer = begun(algorithm, setting=value, ...)`: a tiny training before its first iteration."""

    def make(algorithm: str = "copo", **values: Any) -> Trainer:
        trainer = closing(Trainer(tiny(UNUSED, algorithm, **values)))
        trainer.begin()
        return trainer

    return make


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[str, Any]]:
    """The calls that follow of a function that the iteration uses: its arguments by name, and what it `gave`."""
    function: Callable[..., Any] = getattr(train_module, name)
    calls: list[dict[str, Any]] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        call = dict(inspect.signature(function).bind(*arguments, **named).arguments)
        calls.append(call)
        call["gave"] = function(*arguments, **named)
        return call["gave"]

    monkeypatch.setattr(train_module, name, watched)
    return calls


def test_the_meta_step_gets_the_policy_that_acted_the_one_after_the_update_and_the_clipping(
    begun: Make, monkeypatch: pytest.MonkeyPatch
):
    calls = watch(monkeypatch, "lcf_update")
    trainer = begun(clip_coef=0.37, learning_rate=0.01)
    before = copy.deepcopy(trainer.actor)
    trainer.train_iteration()
    (call,) = calls
    samples = call["samples"]
    with torch.no_grad():
        torch.testing.assert_close(call["old_actor"](samples.obs)[0], samples.mean)
        assert (call["actor"](samples.obs)[0] - samples.mean).abs().max() > 0.01
    for old, new in zip(before.parameters(), call["old_actor"].parameters(), strict=True):
        assert torch.equal(old, new)
    assert call["actor"] is trainer.actor and call["clip_coef"] == 0.37


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 1.5), (1e9, 0.5)])
def test_an_update_gets_the_weight_of_the_kl_that_the_last_one_led_to(
    begun: Make, monkeypatch: pytest.MonkeyPatch, target: float, factor: float
):
    calls = watch(monkeypatch, "ppo_update")
    trainer = begun("ippo", kl_coef=0.3, kl_target=target)
    rows = [trainer.train_iteration() for _ in range(3)]
    assert [call["kl_coef"] for call in calls] == pytest.approx([0.3, 0.3 * factor, 0.3 * factor**2])
    assert [row["kl_coef"] for row in rows] == pytest.approx([0.3 * factor, 0.3 * factor**2, 0.3 * factor**3])


def test_each_environment_and_each_beginning_has_an_episode_of_its_own(begun: Make):
    trainer = begun(num_envs=2)
    first = trainer.scenes.episode_seed.tolist()
    seen = trainer.scenes.batch.obs.copy()
    trainer.begin()
    assert trainer.scenes.episode_seed.tolist() == first  # nothing was learned in between
    trainer.train_iteration()
    assert trainer.iteration == 1
    trainer.begin()
    assert len({*first, *trainer.scenes.episode_seed.tolist()}) == 4
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen, trainer.scenes.batch.obs)


def make_reckless(trainer: Trainer) -> None:
    """Full throttle with some noise: vehicles end in every way."""
    head = trainer.actor.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(20)
        head.bias.copy_(torch.tensor([0.0, 0.6, -0.5, -0.5]))


def test_a_row_says_what_happened(begun: Make, monkeypatch: pytest.MonkeyPatch):
    updates, metas = watch(monkeypatch, "ppo_update"), watch(monkeypatch, "lcf_update")
    many = {"num_agents": 24, "horizon": 70, "steps_per_iteration": 150, "minibatch_size": 512}
    # By this rule newborns count in everybody's reward, whose mean would else be that of the own.
    trainer = begun(**many, total_steps=150, lcf_initial_mean=0.3, neighbour_rule="torch")
    make_reckless(trainer)
    rollouts: list[Rollout] = []
    collect = trainer.collector.collect

    def watched(*arguments: Any) -> Rollout:
        rollouts.append(collect(*arguments))
        return rollouts[-1]

    monkeypatch.setattr(trainer.collector, "collect", watched)
    row = trainer.train_iteration()

    (rollout,), (update,), (meta,) = rollouts, updates, metas
    lives, acted = rollout.lives, rollout.acted
    ended = [Outcome(int(outcome)) for outcome in lives.outcome]
    count = len(ended)
    rewards = np.array([rollout.reward[place] for place in zip(*np.nonzero(acted), strict=True)], np.float64)
    shares = {outcome: ended.count(outcome) / count for outcome in set(ended)}
    assert len(shares) == 4 and 20 < count <= 300  # else the rates would not be these
    samples = update["samples"]
    returns, value = samples.returns[:, OWN].double(), samples.value[:, OWN].double()
    expected = {
        "iteration": 1,
        "env_steps": 150,
        "vehicle_steps": len(rewards),
        "success_rate": shares[Outcome.SUCCESS],
        "crash_rate": shares[Outcome.CRASH],
        "out_rate": shares[Outcome.OUT_OF_ROAD],
        "max_step_rate": shares[Outcome.MAX_STEP],
        "success_rate_100ep": np.mean(lives.episode_success_rates),
        "lives": count,
        "episodes": len(lives.episode_success_rates),
        "ended": count,
        "successes": ended.count(Outcome.SUCCESS),
        "life_steps_mean": sum(lives.steps) / count,
        "life_reward_mean": sum(lives.reward) / count,
        "route_completion_mean": sum(lives.route_completion) / count,
        "reward_mean": sum(rewards[:, OWN]) / len(rewards),
        "neighbourhood_reward_mean": sum(rewards[:, NEIGHBOURHOOD]) / len(rewards),
        "global_reward_mean": sum(rewards[:, GLOBAL]) / len(rewards),
        "vehicles_mean": len(rewards) / 150,
        "policy_loss": update["gave"].policy_loss,
        "value_loss": update["gave"].value_loss,
        "explained_variance": 1 - float((returns - value).var() / returns.var()),
        "kl": update["gave"].kl,
        "entropy": update["gave"].entropy,
        "clip_fraction": update["gave"].clip_fraction,
        "action_std_mean": np.exp(rollout.log_std[acted]).mean(),
        "lcf_mean_deg": math.tanh(trainer.lcf.x.item()) * 90,
        "lcf_std_deg": math.exp(trainer.lcf.y.item()) * 90,
        "lcf_objective": meta["gave"].objective,
        "lcf_gradient": meta["gave"].gradient_mean,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    means = sorted(expected[f"{whose}reward_mean"] for whose in ("", "neighbourhood_", "global_", "life_"))
    assert (np.diff(means) > 1e-4).all()  # else one could stand in for another


@pytest.mark.parametrize(
    ("algorithm", "factor"),
    [
        ("copo", {"uses_lcf": True, "lcf_mean": 0.3, "lcf_std": 0.4, "lcf_uniform": False}),
        ("copo_fixed_lcf", {"uses_lcf": True, "lcf_mean": -0.5, "lcf_std": 0.0, "lcf_uniform": False}),
        ("copo_uniform_lcf", {"uses_lcf": True, "lcf_mean": 0.0, "lcf_std": 1 / math.sqrt(3), "lcf_uniform": True}),
        ("ippo", {"uses_lcf": False, "lcf_mean": 0.0, "lcf_std": 0.0, "lcf_uniform": False}),
    ],
)
def test_a_policy_knows_all_that_it_was_trained_for(begun: Make, algorithm: str, factor: dict[str, Any]):
    lcf = {"lcf_initial_mean": 0.3, "lcf_initial_std": 0.4, "lcf_passes": 0, "fixed_lcf": -0.5}
    trainer = begun(algorithm, seed=7, num_agents=5, rule_based=3, geometry="metadrive", hidden_size=24, **lcf)
    trainer.train_iteration()
    expected = {
        "scene": "particles",
        "algorithm": algorithm,
        "obs_size": 32,
        "num_agents": 5,
        "rule_based": 3,
        "geometry": "metadrive",
        "start_seed": 12_000,
        "env_steps": 48,
        "hidden_size": 24,
        **factor,
    }
    usual = asdict(PolicyInfo("", "", 0, 0, uses_lcf=False))
    versions = {name: usual[name] for name in ("obs_version", "format")}
    assert asdict(trainer.policy().info) == pytest.approx(expected | versions)
    assert all(usual[name] != value for name, value in expected.items() if name not in factor)

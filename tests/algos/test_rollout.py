"""What the collector writes down, against plain loops over a twin of its scenes that takes the same actions."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from copo_algos.algorithms import get_algorithm
from copo_algos.config import TrainConfig
from copo_algos.factors import draw_lcf, with_lcf
from copo_algos.networks import GaussianActor
from copo_algos.rewards import NeighbourRule, shared_rewards
from copo_algos.rollout import Collector
from copo_algos.types import Lives, Rollout
from copo_envs.outcomes import Outcome
from copo_envs.scene_vector import SceneVector, WorkerRestartWarning
from copo_envs.scenes import scene_options
from copo_envs.step_batch import StepBatch
from tests.envs.workers import kill

OPTIONS = scene_options("particles", num_agents=24, horizon=70)
DISTANCE = 25.0
SEEDS = [12, 13]
STEPS = 75  # of each of two rollouts: an episode lasts at most 70 + 70 steps


def make_actor(uses_lcf: bool) -> GaussianActor:
    """Full throttle with some noise: discs cross the square, crash or leave it, and some take too long."""
    actor = GaussianActor(32 + uses_lcf, 2, torch.Generator().manual_seed(1))
    head = actor.layers[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(20)
        head.bias.copy_(torch.tensor([0.0, 0.6, -0.5, -0.5]))
    return actor


@dataclass
class Recording:
    """Two rollouts joined along T, and the twin's batches."""

    rollout: Rollout
    first: StepBatch
    """After the reset."""
    batches: list[StepBatch]


def collector_of(scenes: SceneVector, uses_lcf: bool) -> Collector:
    config = TrainConfig("copo" if uses_lcf else "ippo", neighbours_distance=DISTANCE)
    generator = torch.Generator().manual_seed(2)
    return Collector(scenes, get_algorithm(config.algorithm), config, np.random.default_rng(3), generator)


def record(num_envs: int, uses_lcf: bool) -> Recording:
    seeds = SEEDS[: max(1, num_envs)]
    with SceneVector(OPTIONS, num_envs) as scenes, SceneVector(OPTIONS, 0) as twin:
        collector = collector_of(scenes, uses_lcf)
        collector.begin(seeds, 0.2, 0.3)
        actor = make_actor(uses_lcf)
        parts = [collector.collect(actor, STEPS, *values) for values in ((0.2, 0.3), (-0.6, 0.01))]
        rollout = join(parts)
        first, batches = follow(twin, rollout, 0)
    return Recording(rollout, first, batches)


def join(parts: list[Rollout]) -> Rollout:
    names = (
        "obs",
        "critic_obs",
        "action",
        "log_prob",
        "mean",
        "log_std",
        "acted",
        "terminated",
        "truncated",
        "reward",
        "lcf",
    )
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    columns = {
        name: np.concatenate([getattr(part.lives, name) for part in parts])
        for name in ("outcome", "steps", "reward", "route_completion")
    }
    rates = [rate for part in parts for rate in part.lives.episode_success_rates]
    return Rollout(
        **joined,
        next_obs=parts[-1].next_obs,
        truncated_obs=np.concatenate([part.truncated_obs for part in parts]),
        lives=Lives(**columns, episode_success_rates=rates),
    )


def follow(twin: SceneVector, rollout: Rollout, env: int) -> tuple[StepBatch, list[StepBatch]]:
    """The batches of one environment, by a simulator that takes the recorded actions."""
    first = copy.deepcopy(twin.reset([SEEDS[env]]).row(0))
    batches = []
    for action in rollout.action[:, env]:
        batches.append(copy.deepcopy(twin.step(np.clip(action, -1, 1)[None]).row(0)))
    return first, batches


@pytest.fixture(scope="module")
def copo() -> Iterator[Recording]:
    yield record(num_envs=0, uses_lcf=True)


def test_the_recording_has_everything(copo: Recording):
    """Otherwise the tests below would not say much."""
    outcomes = set(copo.rollout.lives.outcome.tolist())
    assert outcomes == {Outcome.SUCCESS, Outcome.CRASH, Outcome.OUT_OF_ROAD, Outcome.MAX_STEP}
    assert len(copo.rollout.lives.episode_success_rates) == 1
    assert sum(int(batch.spawned.sum()) for batch in copo.batches) > 10
    assert not copo.rollout.acted.all()
    lonely = (copo.rollout.reward[..., 1] == 0) & copo.rollout.acted
    assert 0 < lonely.sum() < copo.rollout.acted.sum()


def test_who_acted_and_how_it_ended(copo: Recording):
    for t, batch in enumerate(copo.batches):
        for name in ("acted", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(copo.rollout, name)[t, 0], getattr(batch, name))


def test_the_policy_sees_the_observation_before_its_step(copo: Recording):
    before = [copo.first, *copo.batches]
    for t in range(2 * STEPS):
        np.testing.assert_array_equal(copo.rollout.obs[t, 0, :, :-1], before[t].obs)
    np.testing.assert_array_equal(copo.rollout.next_obs[0, :, :-1], before[-1].obs)
    np.testing.assert_allclose(copo.rollout.obs[..., -1], (copo.rollout.lcf + 1) / 2)


def test_rewards_equal_plain_loops(copo: Recording):
    for t, batch in enumerate(copo.batches):
        who = [slot for slot in range(OPTIONS.num_agents) if batch.acted[slot]]
        for slot in range(OPTIONS.num_agents):
            own, neighbourhood, everybody = copo.rollout.reward[t, 0, slot]
            if slot not in who:
                assert (own, neighbourhood) == (0, 0)
                continue
            near = [
                batch.reward[other]
                for other in who
                if other != slot and np.linalg.norm(batch.acted_position[other] - batch.acted_position[slot]) < DISTANCE
            ]
            assert own == pytest.approx(batch.reward[slot], rel=1e-6)
            assert neighbourhood == pytest.approx(np.mean(near) if near else 0.0, rel=1e-5, abs=1e-6)
            assert everybody == pytest.approx(np.mean(batch.reward[who]), rel=1e-5, abs=1e-6)


COUNTS: dict[tuple[str, NeighbourRule], tuple[float, bool]] = {
    ("copo", "ours"): (DISTANCE, False),
    ("copo", "tf"): (DISTANCE, False),
    ("copo", "torch"): (DISTANCE, False),
    ("cooperative", "ours"): (math.inf, False),
    ("local_mean", "ours"): (10.0, True),
}
"""Algorithm and rule -> within how many metres rewards are shared, and whether one's own counts among them."""


def test_whose_rewards_count_is_said_by_the_rule_and_by_the_algorithm():
    actor, shares = make_actor(True), []
    for (algorithm, rule), (distance, itself) in COUNTS.items():
        config = TrainConfig(algorithm, neighbours_distance=DISTANCE, neighbour_rule=rule)
        with SceneVector(OPTIONS, 0) as scenes, SceneVector(OPTIONS, 0) as twin:
            rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(2)
            collector = Collector(scenes, get_algorithm(algorithm), config, rng, generator)
            collector.begin(SEEDS[:1], 0.2, 0.0)
            rollout = collector.collect(actor, STEPS, 0.2, 0.0)
            twin.reset(SEEDS[:1])
            expected = [
                shared_rewards(twin.step(np.clip(action, -1, 1)), distance, rule, itself) for action in rollout.action
            ]
        np.testing.assert_allclose(rollout.reward, expected, rtol=1e-5, atol=1e-6)
        shares.append(rollout.reward)
    for number, share in enumerate(shares):  # otherwise the above would not tell one from another
        assert all((share[..., 1] != other[..., 1]).sum() > 10 for other in shares[:number])


def test_uniform_factors_are_drawn_from_the_whole_interval():
    config = TrainConfig("copo_uniform_lcf")
    generator = torch.Generator().manual_seed(2)
    drawn = []
    with SceneVector(OPTIONS, 0) as scenes:
        collector = Collector(scenes, get_algorithm(config.algorithm), config, np.random.default_rng(3), generator)
        for seed in range(50):
            collector.begin([seed], 0.0, 1 / math.sqrt(3))
            drawn.append(collector.collect(make_actor(True), 1, 0.0, 1 / math.sqrt(3)).lcf)
    assert np.abs(drawn).max() < 1  # normal ones would be clipped
    assert np.histogram(drawn, 4, (-1, 1))[0] == pytest.approx([300] * 4, rel=0.15)


def test_a_vehicle_that_ends_counts_for_its_neighbours_in_that_step(copo: Recording):
    """A crash costs 10, so whoever is near somebody who crashes shares in it."""
    shares = []
    for t, batch in enumerate(copo.batches):
        for slot in np.nonzero(batch.outcome == Outcome.CRASH)[0]:
            distance = np.linalg.norm(batch.acted_position - batch.acted_position[slot], axis=1)
            near = batch.acted & (distance < DISTANCE)
            near[slot] = False
            shares += list(copo.rollout.reward[t, 0, near, 1] * near.sum())
    assert len(shares) > 3 and np.mean(shares) < -5


def test_the_factor_is_constant_over_a_life_and_drawn_at_birth(copo: Recording):
    before = [copo.first, *copo.batches]
    factors: dict[tuple[int, int], set[float]] = {}
    born_in: dict[tuple[int, int], int] = {}
    episode = 0
    for t, batch in enumerate(before[:-1]):
        episode += bool(batch.episode_over)
        for slot in np.nonzero(batch.active)[0]:
            life = (episode, int(batch.life[slot]))
            factors.setdefault(life, set()).add(float(copo.rollout.lcf[t, 0, slot]))
            born_in.setdefault(life, t)
    assert all(len(values) == 1 for values in factors.values())
    drawn = {life: values.pop() for life, values in factors.items()}
    assert len(set(drawn.values())) == len(drawn) > 20
    # Births before the end of step STEPS - 1 draw from N(0.2, 0.3), later ones from N(-0.6, 0.01).
    early = [drawn[life] for life, t in born_in.items() if t <= STEPS]
    late = [drawn[life] for life, t in born_in.items() if t > STEPS]
    assert np.mean(early) == pytest.approx(0.2, abs=0.2) and np.std(early) == pytest.approx(0.3, abs=0.15)
    assert np.mean(late) == pytest.approx(-0.6, abs=0.02) and np.std(late) < 0.03


def test_the_log_prob_belongs_to_the_unclipped_action(copo: Recording):
    rollout = copo.rollout
    rows = rollout.acted
    mean, log_std, action = rollout.mean[rows], rollout.log_std[rows], rollout.action[rows]
    policy = Independent(Normal(torch.from_numpy(mean), torch.from_numpy(log_std).exp()), 1)
    np.testing.assert_allclose(rollout.log_prob[rows], policy.log_prob(torch.from_numpy(action)), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        again = make_actor(True)(torch.from_numpy(rollout.obs[rows]))
    np.testing.assert_allclose(mean, again[0], atol=1e-5)
    np.testing.assert_allclose(log_std, again[1], atol=1e-5)
    assert (np.abs(action) > 1).any()
    noise = (action - mean) / np.exp(log_std)
    assert noise.mean() == pytest.approx(0, abs=0.1) and noise.std() == pytest.approx(1, abs=0.1)


def test_last_observations_of_the_truncated_are_in_their_order(copo: Recording):
    rollout = copo.rollout
    rows = np.argwhere(rollout.truncated)
    assert len(rows) == len(rollout.truncated_obs) > 3
    for row, (t, env, slot) in zip(rollout.truncated_obs, rows, strict=True):
        np.testing.assert_array_equal(row[:-1], copo.batches[t].final_obs[slot])
        # with the factor of the life that ended, not of one that was born into the slot
        assert row[-1] == pytest.approx((rollout.lcf[t, env, slot] + 1) / 2)


def test_lives_equal_those_that_ended(copo: Recording):
    running = np.zeros(OPTIONS.num_agents)
    expected = []
    for batch in copo.batches:
        for slot in range(OPTIONS.num_agents):
            running[slot] += batch.reward[slot]
            if batch.terminated[slot] or batch.truncated[slot]:
                expected.append(
                    (batch.outcome[slot], batch.life_steps[slot], running[slot], batch.route_completion[slot])
                )
                running[slot] = 0
    lives = copo.rollout.lives
    assert len(lives.outcome) == (copo.rollout.terminated | copo.rollout.truncated).sum()
    found = zip(lives.outcome, lives.steps, lives.reward, lives.route_completion, strict=True)
    np.testing.assert_allclose(list(found), expected)


def test_the_success_rate_of_an_episode_counts_its_lives(copo: Recording):
    ended = successes = 0
    for batch in copo.batches:
        ended += int((batch.terminated | batch.truncated).sum())
        successes += int((batch.outcome == Outcome.SUCCESS).sum())
        if batch.episode_over:
            break
    assert successes > 0
    assert copo.rollout.lives.episode_success_rates == [successes / ended]


def test_ippo_has_no_factor():
    rollout = record(num_envs=0, uses_lcf=False).rollout
    assert rollout.obs.shape[-1] == rollout.next_obs.shape[-1] == rollout.truncated_obs.shape[-1] == 32
    assert not rollout.lcf.any()


def test_environments_in_workers_each_follow_their_seed():
    with SceneVector(OPTIONS, 2) as scenes, SceneVector(OPTIONS, 0) as twin:
        collector = collector_of(scenes, True)
        collector.begin(SEEDS, 0.2, 0.3)
        rollout = collector.collect(make_actor(True), 30, 0.2, 0.3)
        for env in range(2):
            _, batches = follow(twin, rollout, env)
            for t, batch in enumerate(batches):
                np.testing.assert_array_equal(rollout.acted[t, env], batch.acted)
                np.testing.assert_allclose(rollout.reward[t, env, :, 0], batch.reward, rtol=1e-6)
    assert not np.array_equal(rollout.obs[0, 0], rollout.obs[0, 1])


def test_lives_in_a_worker_that_dies_are_cut_and_not_counted():
    with SceneVector(OPTIONS, 2, restart=True) as scenes, SceneVector(OPTIONS, 0) as twin:
        collector = collector_of(scenes, True)
        collector.begin(SEEDS, 0.2, 0.3)
        count = 0

        def kill_in_the_tenth_step() -> None:
            nonlocal count
            count += 1
            if count == 10:
                kill(scenes._workers[1])

        with pytest.warns(WorkerRestartWarning):
            rollout = collector.collect(make_actor(True), 30, 0.2, 0.3, kill_in_the_tenth_step)
        _, batches = follow(twin, rollout, 0)
    # The lost step: truncated with the last known observation, which gives its bootstrap, and without reward.
    alive = rollout.acted[9, 1] & ~rollout.terminated[9, 1] & ~rollout.truncated[9, 1]
    assert alive.any() and (rollout.truncated[10, 1] | ~alive).all()
    np.testing.assert_array_equal(rollout.truncated[10, 1], rollout.acted[10, 1])
    assert not rollout.terminated[10, 1].any() and not rollout.reward[10, 1].any()
    t, env, _ = np.nonzero(rollout.truncated)
    rows = (t == 10) & (env == 1)
    np.testing.assert_array_equal(rollout.truncated_obs[rows], rollout.obs[10, 1][rollout.truncated[10, 1]])
    assert rollout.acted[11, 1].all()  # a new episode, everybody there
    # Not counted among the lives: nobody knows how they would have ended.
    known = (rollout.terminated | rollout.truncated).sum() - rollout.truncated[10, 1].sum()
    assert len(rollout.lives.outcome) == known and (rollout.lives.outcome != Outcome.RUNNING).all()
    assert rollout.lives.episode_success_rates == []
    # And nothing of the other environment is lost.
    for t, batch in enumerate(batches):
        np.testing.assert_array_equal(rollout.acted[t, 0], batch.acted)
        np.testing.assert_allclose(rollout.reward[t, 0, :, 0], batch.reward, rtol=1e-6)


def test_without_an_ending_the_lists_are_empty():
    with SceneVector(OPTIONS, 0) as scenes:
        collector = collector_of(scenes, True)
        collector.begin(SEEDS[:1], 0.0, 0.1)
        rollout = collector.collect(make_actor(True), 2, 0.0, 0.1)
    assert rollout.truncated_obs.shape == (0, 33)
    assert len(rollout.lives.outcome) == 0 and rollout.lives.episode_success_rates == []


def test_the_collector_calls_back_after_every_step():
    steps = []
    with SceneVector(OPTIONS, 0) as scenes:
        collector = collector_of(scenes, False)
        collector.begin(SEEDS[:1], 0.0, 0.1)
        collector.collect(make_actor(False), 5, 0.0, 0.1, lambda: steps.append(int(scenes.batch.episode_step[0])))
    assert steps == [1, 2, 3, 4, 5]


def test_factors_are_clipped_draws():
    draws = draw_lcf(10_000, 0.9, 0.5, np.random.default_rng(0))
    assert draws.dtype == np.float32 and draws.min() >= -1 and draws.max() == 1
    assert (draws == 1).mean() == pytest.approx(0.42, abs=0.02)  # P(Z > 0.2)
    np.testing.assert_array_equal(draw_lcf(3, 0.25, 0.0, np.random.default_rng(0)), np.full(3, 0.25, np.float32))


def test_the_factor_is_appended_in_the_unit_interval():
    obs = with_lcf(np.ones((2, 3), np.float32), np.array([-1.0, 0.5], np.float32))
    np.testing.assert_array_equal(obs, np.array([[1, 1, 1, 0], [1, 1, 1, 0.75]], np.float32))
    assert obs.dtype == np.float32

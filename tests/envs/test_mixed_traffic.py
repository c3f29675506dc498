"""Agents among rule-based vehicles: who is who, that nobody is lost, and what a bad number is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_envs import parallel_env, slots_env, vector_env
from copo_envs.local import local_simulator
from copo_envs.scene_vector import SceneVector
from copo_envs.scenes import SceneError, everybody_an_agent, scene_options
from copo_envs.step_batch import NOW_FIELDS
from copo_envs.testing import check_deterministic, check_scene, check_simulator


def drive(rng: np.random.Generator, slots: int) -> np.ndarray:
    return np.stack([rng.normal(0, 0.2, slots), rng.uniform(0.2, 1, slots)], axis=1).clip(-1, 1)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    num_agents=st.integers(1, 6),
    rule_based=st.integers(1, 6),
    at_reset=st.integers(1, 6),
    seed=st.integers(0, 99),
    options=st.fixed_dictionaries(
        {"respawn": st.booleans(), "drain": st.booleans(), "horizon": st.integers(5, 60), "max_lives": st.just(20)}
    ),
)
def test_the_contract_holds_for_the_agents(
    num_agents: int, rule_based: int, at_reset: int, seed: int, options: dict[str, Any]
):
    simulator = local_simulator(
        scene_options("particles", num_agents=num_agents, rule_based=rule_based, delay_done=5, **options)
    )
    assert simulator.num_slots == num_agents
    check_simulator(simulator, 120, seed, min(at_reset, num_agents), rule_based)


def test_the_same_episode_as_when_everybody_is_an_agent():
    options = scene_options("particles", num_agents=5, rule_based=7, horizon=80)
    mixed, whole = local_simulator(options), local_simulator(everybody_an_agent(options))
    ours, theirs = mixed.reset(3), whole.reset(3)
    agents = [int(np.flatnonzero((theirs.position == place).all(axis=1))[0]) for place in ours.position]
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        moves = drive(rng, 5)
        everybody = whole.rule_actions()
        everybody[agents] = moves
        np.testing.assert_array_equal(mixed.rule_actions(), whole.rule_actions()[agents])
        ours, theirs = mixed.step(moves), whole.step(everybody)
        for name in ("obs", "active", "position", "heading", "spawned", "acted", "reward", "outcome", "final_obs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name)[agents], name)
        others = np.delete(np.arange(12), agents)
        others = others[theirs.active[others]]
        np.testing.assert_array_equal(
            mixed.traffic(), np.column_stack([theirs.position[others], theirs.heading[others]])
        )
        np.testing.assert_array_equal(mixed.wrecks(), whole.wrecks())
        ended += int((theirs.outcome > 0).sum())
    assert ended > 2


def test_who_is_an_agent_is_drawn_with_the_episode():
    simulator = local_simulator(scene_options("particles", num_agents=4, rule_based=4))
    places = {seed: simulator.reset(seed).position.copy() for seed in (1, 2, 1)}
    np.testing.assert_array_equal(simulator.reset(1).position, places[1])
    assert not np.array_equal(places[1], places[2])


def test_agents_count_their_lives_from_zero():
    simulator = local_simulator(scene_options("particles", num_agents=3, rule_based=9, horizon=200, delay_done=2))
    batch = simulator.reset(0)
    rng, seen = np.random.default_rng(1), set(batch.life.tolist())
    for _ in range(150):
        batch = simulator.step(drive(rng, 3))
        seen |= set(batch.life[batch.active].tolist())
    assert seen == set(range(len(seen))) and len(seen) > 6


@pytest.mark.parametrize("seed", [3, 12, 15])
def test_an_episode_without_lives_left_ends_with_its_last_agent(seed: int):
    # The life that began last, a rule-based vehicle's, has ended before the agent does.
    simulator: Any = local_simulator(scene_options("particles", num_agents=1, rule_based=6, max_lives=8, delay_done=1))
    batch, rng = simulator.reset(seed), np.random.default_rng(seed)
    clock = 0
    while not batch.episode_over:
        clock = int(batch.episode_step)
        batch = simulator.step(np.array([[rng.normal(0, 0.3), 1.0]]).clip(-1, 1))
    assert batch.episode_step == clock + 1 and not simulator.simulator.batch.episode_over
    assert 7 not in simulator.simulator.batch.life and len(simulator.traffic()) > 0


@pytest.mark.slow
def test_views_and_workers_agree():
    def make(**more: Any) -> Any:
        return parallel_env("particles", num_agents=3, rule_based=5, horizon=50, **more)

    env = make()
    assert sum(check_scene(env, 200).values()) > 5
    assert check_deterministic(make, 150, others=[lambda: make(in_process=False)]) > 5

    slots = slots_env("particles", num_agents=3, rule_based=5, horizon=50)
    with SceneVector(slots.options, 2) as scenes:
        scenes.reset([4, 5])
        rows = scenes.rule_actions()
        assert rows.shape == (2, 3, 2) and len(scenes.traffic(1)) == 5
        slots.reset(seed=5)
        np.testing.assert_array_equal(list(slots.rule_actions().values()), rows[1])
    vector = vector_env("particles", 2, num_agents=3, rule_based=5)
    vector.reset(seed=4)
    np.testing.assert_array_equal(vector.rule_actions(), rows.reshape(6, 2))
    vector.close()


def test_rule_actions_by_agent_and_twice_the_same():
    env = parallel_env("particles", num_agents=4)
    with pytest.raises(SceneError, match="has not been reset"):
        env.rule_actions()
    env.reset(seed=0)
    first = env.rule_actions()
    assert list(first) == env.agents
    for agent, action in env.rule_actions().items():
        assert env.action_space(agent).contains(action)
        np.testing.assert_array_equal(action, first[agent])


def test_the_rule_beats_random_actions_on_particles():
    def arrivals(random: bool) -> tuple[int, int]:
        env, rng = parallel_env("particles", horizon=300), np.random.default_rng(0)
        env.reset(seed=0)
        outcomes = []
        while env.agents:
            draws = {agent: rng.uniform(-1, 1, 2) for agent in env.agents}
            *_, infos = env.step(draws if random else env.rule_actions())
            outcomes += [info["outcome"] for info in infos.values() if info["outcome"]]
        return outcomes.count(1), len(outcomes)

    (arrived, ended), (at_random, ended_at_random) = arrivals(False), arrivals(True)
    assert arrived / ended > 0.7 and at_random / ended_at_random < 0.2


@pytest.mark.simulator
def test_in_metadrive_they_are_on_the_batched_step_and_drive_as_on_its_own(closing: Any):
    def driven(step_backend: str) -> list[np.ndarray]:
        options = scene_options(
            "intersection", num_agents=2, rule_based=6, horizon=25, drain=False, step_backend=step_backend
        )
        simulator: Any = closing(local_simulator(options))
        seen, rng = [], np.random.default_rng(0)
        for seed in (5, 6):
            batch = simulator.reset(seed)
            assert simulator.simulator.backend == step_backend
            while not batch.episode_over:
                batch = simulator.step(drive(rng, 2))
                seen += [batch.obs.copy(), batch.reward.copy(), simulator.traffic()]
        simulator.close()
        return seen

    fast, stock = driven("fast"), driven("stock")
    assert len(fast) == len(stock) == 3 * 2 * 25 and len(fast[2]) == 6
    for ours, metadrives in zip(fast, stock, strict=True):
        np.testing.assert_array_equal(ours, metadrives)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rule_based": -1}, "rule_based=-1 is too small; use 0 or more"),
        ({"rule_based": 0.5}, "rule_based=0.5 is not a whole number"),
        ({"rule_based": 40}, "num_agents=1 beside rule_based=40 does not fit particles: 32 spawn places; use rule_"),
        ({"rule_based": 8, "num_agents": 30}, "num_agents=30 beside rule_based=8 does not fit particles: 32 spawn"),
        ({"rule_based": 8, "num_agents": 4, "max_lives": 9}, "max_lives=9 is fewer than num_agents=4 and rule_based=8"),
    ],
)
def test_bad_numbers(options: dict[str, Any], sentence: str):
    with pytest.raises(SceneError) as refused:
        scene_options("particles", **options)
    assert sentence in str(refused.value)


def test_the_scenes_own_number_is_shared():
    assert scene_options("intersection", rule_based=10).num_agents == 20
    assert scene_options("particles", rule_based=8).num_agents == 1


def test_order_of_calls():
    simulator = local_simulator(scene_options("particles", num_agents=1, rule_based=1, horizon=3, drain=False))
    with pytest.raises(SceneError, match=r"step\(\) before reset\(\)"):
        simulator.step(np.zeros((1, 2)))
    simulator.reset(0)
    while not simulator.step(np.zeros((1, 2))).episode_over:
        pass
    with pytest.raises(SceneError, match="the episode is over"):
        simulator.step(np.zeros((1, 2)))
    with pytest.raises(SceneError, match="num_agents=2 at reset; this environment was made for 1 to 1"):
        simulator.reset(0, 2)
    for name in NOW_FIELDS:
        assert len(getattr(simulator.batch, name)) == 1

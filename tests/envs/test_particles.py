"""The discs: exact next states, endings, wrecks, respawn, and that driving pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copo_envs import particles
from copo_envs.outcomes import Outcome
from copo_envs.particles import HALF_SIDE, NUM_SECTORS, PLACES, SENSOR_RANGE, SPAWN_GAP, ParticlesSimulator
from copo_envs.scenes import SceneError, scene_options
from copo_envs.step_batch import StepBatch
from copo_envs.testing import check_simulator


def discs(states: list[tuple[float, float, float, float]], **options: Any) -> ParticlesSimulator:
    """A started scene with one disc per (x, y, heading, speed), all with the goal (25, 0) if not placed otherwise."""
    simulator = ParticlesSimulator(scene_options("particles", num_agents=len(states), **options))
    simulator.reset(0)
    for slot, (x, y, heading, speed) in enumerate(states):
        simulator._position[slot] = x, y
        simulator._heading[slot] = heading
        simulator._speed[slot] = speed
        simulator._goal[slot] = 25.0, 0.0
        simulator._route[slot] = np.hypot(25 - x, y)
    simulator._show_now()
    return simulator


def coast(simulator: ParticlesSimulator) -> StepBatch:
    return simulator.step(np.zeros((simulator.num_slots, 2)))


def drive_to_goal(obs: np.ndarray) -> np.ndarray:
    bearing = np.arctan2(obs[:, 1] * 2 - 1, obs[:, 2] * 2 - 1)
    turning = (np.abs(bearing) > 0.6) & (obs[:, 0] > 0.3)
    return np.stack([np.clip(3 * bearing, -1, 1), np.where(turning, -1.0, 1.0)], axis=1)


def outcomes(act: Callable[[np.ndarray], np.ndarray], seed: int = 0, **options: Any) -> Counter[Outcome]:
    simulator = ParticlesSimulator(scene_options("particles", **options))
    batch = simulator.reset(seed)
    ended: Counter[Outcome] = Counter()
    while not batch.episode_over:
        batch = simulator.step(act(batch.obs))
        ended.update(Outcome(code) for code in batch.outcome[batch.terminated | batch.truncated])
    return ended


def test_one_step_by_hand() -> None:
    simulator = discs([(0.0, 0.0, 0.0, 2.0)])
    batch = simulator.step(np.array([[1.0, 0.5]]))
    heading = 0.15  # 1.5 rad/s for 0.1 s
    speed = 2.2  # 4 m/s^2 * 0.5 for 0.1 s
    place = 0.22 * np.array([np.cos(heading), np.sin(heading)])
    assert batch.heading[0] == pytest.approx(heading)
    assert batch.velocity[0] == pytest.approx(speed)
    np.testing.assert_allclose(batch.position[0], place)
    left = np.hypot(25 - place[0], place[1])
    assert batch.reward[0] == pytest.approx(25 - left)
    assert batch.route_completion[0] == pytest.approx(1 - left / 25)
    assert batch.energy[0] == pytest.approx(0.5 * 4 * 2.2 * 0.1)
    assert batch.life_steps[0] == 1 and batch.cost[0] == 0 and batch.outcome[0] == Outcome.RUNNING


def test_observation_by_hand() -> None:
    # Me at the origin heading up (+y), the goal to my right; another disc 5 m to my left, one 30 m ahead is too far.
    simulator = discs([(0.0, 0.0, np.pi / 2, 4.0), (-5.0, 0.0, 0.0, 0.0), (0.0, 29.0, 0.0, 0.0)])
    obs = simulator.batch.obs[0]
    np.testing.assert_allclose(obs[:4], [0.5, 0.0, 0.5, 25 / (60 * np.sqrt(2))], atol=1e-6)
    np.testing.assert_allclose(obs[4:8], 0.5, atol=1e-6)  # walls: 30 of 60 m on all sides
    sectors = obs[8:]
    assert sectors[NUM_SECTORS // 4] == pytest.approx((5 - 1) / SENSOR_RANGE)  # a quarter turn to the left
    assert (np.delete(sectors, NUM_SECTORS // 4) == 1).all()


def test_walls_are_seen_in_the_own_frame() -> None:
    simulator = discs([(20.0, -10.0, 0.0, 0.0)])
    np.testing.assert_allclose(simulator.batch.obs[0, 4:8] * 60, [10, 40, 50, 20], atol=1e-4)


def test_two_that_touch_both_crash_and_stay_in_the_way() -> None:
    simulator = discs([(0.0, 0.0, 0.0, 0.0), (1.2, 0.0, np.pi, 3.0), (0.0, -20.0, 0.0, 0.0)], delay_done=3)
    batch = coast(simulator)
    assert batch.outcome.tolist() == [Outcome.CRASH, Outcome.CRASH, Outcome.RUNNING]
    assert batch.terminated.tolist() == [True, True, False] and not batch.truncated.any()
    assert batch.reward[0] == pytest.approx(-10) and batch.reward[1] == pytest.approx(-10 - 0.3)
    assert batch.cost.tolist() == [1, 1, 0]
    assert batch.final_obs[:2].any(axis=1).all() and not batch.obs[:2].any()
    assert batch.active.tolist() == [False, False, True]
    np.testing.assert_allclose(simulator.wrecks()[:, :2], [[0.0, 0.0], [0.9, 0.0]], atol=1e-9)
    simulator._position[2] = 0.0, -3.0  # the third now sees the wrecks and then runs into them
    simulator._heading[2] = np.pi / 2
    simulator._show_now()
    assert batch.obs[2, 8] == pytest.approx(2 / SENSOR_RANGE)
    coast(simulator)
    assert len(simulator.wrecks()) == 2
    simulator._position[2] = 0.0, -0.8
    batch = coast(simulator)
    assert batch.outcome[2] == Outcome.CRASH and batch.acted.tolist() == [False, False, True]
    # Nobody is alive: time passes until the first wrecks are gone, 3 steps after they ended, and new lives come.
    assert batch.episode_step == 4
    assert batch.spawned.tolist() == [True, True, False] and batch.life.tolist() == [3, 4, -1]
    assert len(simulator.wrecks()) == 1


def test_arrival_counts_before_a_crash_and_leaves_no_wreck() -> None:
    simulator = discs([(23.5, 0.0, 0.0, 0.0), (22.6, 0.0, 0.0, 0.0)], respawn=False)
    batch = coast(simulator)
    assert batch.outcome.tolist() == [Outcome.SUCCESS, Outcome.CRASH]
    assert batch.reward[0] == pytest.approx(10)
    assert len(simulator.wrecks()) == 1
    assert batch.episode_over


def test_leaving_the_square() -> None:
    batch = coast(discs([(HALF_SIDE - 0.1, 10.0, 0.0, 8.0), (-HALF_SIDE + 0.1, 0.0, 0.0, 8.0)]))
    assert batch.outcome.tolist() == [Outcome.OUT_OF_ROAD, Outcome.RUNNING]
    np.testing.assert_allclose(batch.acted_position[0], [HALF_SIDE + 0.7, 10.0])


def test_out_of_time_with_and_without_drain() -> None:
    still = ParticlesSimulator(scene_options("particles", num_agents=2, horizon=5))
    still.reset(0)
    for _ in range(4):
        assert not coast(still).truncated.any()
    batch = coast(still)
    assert batch.truncated.all() and (batch.outcome == Outcome.MAX_STEP).all() and batch.episode_over

    # A life that begins at step 2 lives on to step 7 when the scene drains, and is cut at the horizon when not.
    for drain, last in ((True, 7), (False, 5)):
        simulator = discs([(22.0, 0.0, 0.0, 8.0), (0.0, 0.0, 0.0, 0.0)], horizon=5, drain=drain)
        for _ in range(2):
            batch = coast(simulator)
        assert batch.outcome[0] == Outcome.SUCCESS and batch.spawned[0] and batch.life[0] == 2
        while not batch.episode_over:
            batch = coast(simulator)
        assert batch.episode_step == last
        assert batch.truncated.any()


def test_max_lives_is_a_bound() -> None:
    ended = outcomes(drive_to_goal, num_agents=4, max_lives=6)
    assert ended.total() == 6
    assert outcomes(drive_to_goal, num_agents=4, respawn=False).total() == 4


def test_newborns_keep_their_distance() -> None:
    simulator = ParticlesSimulator(scene_options("particles", num_agents=24))
    batch, births = simulator.reset(3), 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        batch = simulator.step(rng.uniform([-0.5, 0], 1, (24, 2)))
        others = np.concatenate([batch.position[batch.active], simulator.wrecks()[:, :2]])
        for slot in np.nonzero(batch.spawned)[0]:
            gaps = np.sort(np.hypot(*(others - batch.position[slot]).T))
            assert gaps[0] == 0 and gaps[1] >= SPAWN_GAP
            births += 1
        if batch.episode_over:
            break
    assert births > 20


def test_goals_lie_on_another_side_and_not_on_a_spawn_place() -> None:
    apart = np.hypot(*np.moveaxis(particles.GOALS.reshape(-1, 1, 2) - PLACES, -1, 0))
    assert apart.min() >= particles.GOAL_RADIUS + particles.RADIUS
    simulator = ParticlesSimulator(scene_options("particles", num_agents=32))
    for seed in range(5):
        simulator.reset(seed)
        sides = [
            # On a side of the square the larger coordinate says which, and its sign.
            (np.abs(points).argmax(axis=1), np.sign(points[np.arange(32), np.abs(points).argmax(axis=1)]))
            for points in (simulator._position, simulator._goal)
        ]
        assert not ((sides[0][0] == sides[1][0]) & (sides[0][1] == sides[1][1])).any()


def test_the_seed_is_the_episode() -> None:
    def run(seed: int) -> list[np.ndarray]:
        simulator = ParticlesSimulator(scene_options("particles"))
        batch = simulator.reset(seed)
        shown = [batch.obs.copy()]
        for _ in range(200):
            batch = simulator.step(drive_to_goal(batch.obs))
            shown += [batch.obs.copy(), batch.reward.copy(), batch.life.copy(), batch.final_obs.copy()]
        return shown

    first = run(5)
    assert all(np.array_equal(one, other) for one, other in zip(first, run(5), strict=True))
    assert not np.array_equal(first[0], run(6)[0])


def test_driving_to_the_goal_succeeds_and_random_does_not() -> None:
    rng = np.random.default_rng(0)
    skilled = outcomes(drive_to_goal)
    clueless = outcomes(lambda obs: rng.uniform(-1, 1, (len(obs), 2)))
    assert skilled[Outcome.SUCCESS] / skilled.total() > 0.7
    assert clueless[Outcome.SUCCESS] / clueless.total() < 0.2


@pytest.mark.slow
@given(
    num_agents=st.integers(1, 32),
    horizon=st.integers(1, 120),
    delay_done=st.integers(1, 40),
    drain=st.booleans(),
    respawn=st.booleans(),
    spare_lives=st.none() | st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=25)
def test_population_contract(num_agents: int, spare_lives: int | None, seed: int, **options: Any) -> None:
    max_lives = None if spare_lives is None else num_agents + spare_lives
    simulator = ParticlesSimulator(scene_options("particles", num_agents=num_agents, max_lives=max_lives, **options))
    check_simulator(simulator, steps=120, seed=seed)


def test_fewer_vehicles_at_reset() -> None:
    simulator = ParticlesSimulator(scene_options("particles", num_agents=6))
    assert check_simulator(simulator, steps=200, num_agents=2) > 0
    assert simulator.reset(0).active.sum() == 6


def test_refusals() -> None:
    simulator = ParticlesSimulator(scene_options("particles", num_agents=2, horizon=1))
    with pytest.raises(SceneError, match=r"before reset\(\)"):
        simulator.step(np.zeros((2, 2)))
    with pytest.raises(SceneError, match="no map before its first reset"):
        simulator.scenery()
    with pytest.raises(SceneError, match="num_agents=3 at reset; this environment was made for 1 to 2"):
        simulator.reset(0, num_agents=3)
    simulator.reset(0)
    with pytest.raises(SceneError, match=r"shape \(3, 2\)"):
        simulator.step(np.zeros((3, 2)))
    with pytest.raises(SceneError, match=r"action of slot 1 is \[nan"):
        simulator.step(np.array([[0, 0], [np.nan, 0]]))
    assert simulator.step(np.zeros((2, 2))).episode_over
    with pytest.raises(SceneError, match="the episode is over"):
        simulator.step(np.zeros((2, 2)))
    assert len(simulator.scenery()["lanes"]) == 1


def test_a_step_that_was_interrupted_is_not_gone_on_from(monkeypatch: pytest.MonkeyPatch):
    simulator = ParticlesSimulator(scene_options("particles", num_agents=4))
    first = simulator.reset(3).obs.copy()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulator, "_respawn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulator.step(np.zeros((4, 2)))
    with pytest.raises(SceneError, match=r"the last step was interrupted: call reset\(seed\)"):
        simulator.step(np.zeros((4, 2)))
    np.testing.assert_array_equal(simulator.reset(3).obs, first)
    simulator.step(np.zeros((4, 2)))

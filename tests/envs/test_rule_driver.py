"""The rule-based driver: its parts by hand, and that it arrives where random actions do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from copo_envs.local import local_simulator
from copo_envs.rule_driver import (
    PATIENCE,
    POINTS,
    SPACING,
    _claims,
    _free_points,
    _steering,
    _target_speed,
)
from copo_envs.scenes import SCENES, scene_options
from copo_envs.testing import check_simulator

ALONG = SPACING * np.arange(POINTS)


def line(x: float, y: float, heading: float) -> np.ndarray:
    return np.stack([x + ALONG * np.cos(heading), y + ALONG * np.sin(heading)], axis=1)


def claims(paths: list[np.ndarray], crossing: np.ndarray, stood: list[int], claimed: list[int] | None = None) -> list:
    count = len(paths)
    everything = np.full(count, POINTS)
    return _claims(np.array(paths), crossing, everything, np.array(claimed or [0] * count), np.array(stood)).tolist()


def test_one_of_two_whose_paths_cross_waits_before_the_crossing():
    paths = [line(-20, 0, 0.0), line(0, -20, np.pi / 2)]
    crossing = np.zeros((2, POINTS), bool)
    crossing[:, 7:10] = True  # 17.5 to 22.5 m ahead of both
    assert claims(paths, crossing, stood=[0, 0]) == [POINTS, 7]
    assert claims(paths, crossing, stood=[0, 1]) == [7, POINTS], "who has stood longer goes first"
    assert claims(paths, crossing, stood=[0, 9], claimed=[POINTS, 0]) == [POINTS, 7], "a claim is kept"


def test_nobody_stops_on_a_crossing_until_patience_ends():
    # The second claims all; the first could drive up to its path at 20 m, through a crossing with a third lane.
    paths = [line(-20, 0, 0.0), line(0, -20, np.pi / 2)]
    crossing = np.zeros((2, POINTS), bool)
    crossing[0, 3:10] = True
    assert claims(paths, crossing, [0, 1], [0, POINTS])[0] == 3
    crossing[0, 0:10] = True
    assert claims(paths, crossing, [0, 1], [0, POINTS])[0] == 0
    assert claims(paths, crossing, [PATIENCE, PATIENCE + 1], [0, POINTS])[0] == 8


def test_parallel_lanes_do_not_mind_each_other():
    paths = [line(0, 0, 0.0), line(0, 3.5, 0.0), line(90, 7, np.pi)]
    assert claims(paths, np.zeros((3, POINTS), bool), [0, 0, 0]) == [POINTS] * 3


def test_the_path_is_free_up_to_a_body():
    path = np.array([line(0, 0, 0.0)])
    bodies = np.array([[[-1.5, 0], [0, 0], [1.5, 0]], [[8.5, 0], [10, 0], [11.5, 0]]], float)
    assert _free_points(path, bodies).tolist() == [3]  # 5 m is more than 2.4 m from the body at 8.5 m, 7.5 m is not
    bodies[1, :, 1] = 3.5
    assert _free_points(path, bodies).tolist() == [POINTS]


def test_speed_from_which_it_can_stop():
    limit = np.full((3, POINTS), 9.0)
    limit[2, 4:] = 2.0  # a toll road 10 m ahead
    free, near, toll = _target_speed(limit, np.array([np.inf, 2.0, np.inf]))
    assert free == 9.0 and near == 0.0
    assert toll == pytest.approx(np.sqrt(2.0**2 + 2 * 4.0 * (10.0 - 1.0)))


@pytest.mark.parametrize("side", [-1, 0, 1])
def test_it_steers_to_the_side_where_the_path_is(side: int):
    path = np.array([line(0, 0, side * 0.3)])
    (steering,) = _steering(path, np.zeros((1, 2)), np.zeros(1), np.full(1, 5.0), np.full(1, 40.0))
    assert np.sign(np.round(steering, 9)) == side and abs(steering) <= 1


@pytest.mark.simulator
@pytest.mark.parametrize("scene", [name for name, spec in SCENES.items() if spec.metadrive_class])
def test_it_arrives_where_random_actions_do_not(scene: str, closing: Any):
    simulator = closing(local_simulator(scene_options(scene, num_agents=5)))

    def outcomes(random: bool, steps: int) -> list[int]:
        found, rng = [], np.random.default_rng(0)
        simulator.reset(1)
        for _ in range(steps):
            actions = rng.uniform(-1, 1, (5, 2)) if random else simulator.rule_actions()
            batch = simulator.step(actions)
            found += batch.outcome[batch.outcome > 0].tolist()
        return found

    ruled = outcomes(False, 520)
    assert ruled.count(1) >= 3 and ruled.count(1) / len(ruled) >= (0.3 if scene == "parking_lot" else 0.7)
    assert outcomes(True, 520).count(1) == 0


@pytest.mark.simulator
def test_mixed_traffic_in_metadrive(closing: Any):
    simulator = closing(local_simulator(scene_options("intersection", num_agents=4, rule_based=8, horizon=60)))
    assert check_simulator(simulator, 110, rule_based=8) > 3
    simulator.reset(7)
    first = [simulator.step(simulator.rule_actions()).obs.copy() for _ in range(20)]
    simulator.reset(7)
    for before in first:
        simulator.rule_actions()
        np.testing.assert_array_equal(simulator.step(simulator.rule_actions()).obs, before)

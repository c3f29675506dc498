"""The kernels' conservative tests rule out nothing that could be: against geometry done plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon

from copo_envs.fast import kernels
from copo_envs.fast.kernels import BOX

HALF = (0.926, 2.255, 0.6)
angles = st.floats(-math.pi, math.pi)
metres = st.floats(-12, 12)


def upright_box(x: float, y: float, heading: float, half: tuple[float, float, float] = HALF) -> np.ndarray:
    """(1, BOX.COLUMNS): a box on the ground whose second axis points to `heading`."""
    turn = heading - math.pi / 2  # a vehicle's own y axis points ahead
    pose = np.array([[x, y, 0.0, math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)]])
    boxes = np.zeros((1, BOX.COLUMNS))
    kernels.pose_boxes(pose, np.array([half]), boxes)
    return boxes


def plan(box: np.ndarray) -> Polygon:
    """The box from above."""
    centre, across, ahead = box[0, :2], box[0, 3:5] * box[0, 12], box[0, 6:8] * box[0, 13]
    return Polygon([centre + a * across + b * ahead for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))])


def test_pose_boxes_by_hand() -> None:
    box = upright_box(10, 20, heading=math.pi / 2)[0]
    assert box[BOX.CENTRE : BOX.CENTRE + 3] == pytest.approx([10, 20, 0.6])
    assert box[3:12].reshape(3, 3) == pytest.approx(np.eye(3))
    assert box[BOX.RADIUS] == pytest.approx(math.sqrt(0.926**2 + 2.255**2 + 0.6**2))


@given(angles, st.floats(-8, 8), st.tuples(metres, metres, st.floats(-1, 1)))
@settings(deadline=None, max_examples=50)
def test_boxes_advance_as_bodies_move(heading: float, spin: float, velocity: tuple[float, float, float]) -> None:
    seen, boxes = upright_box(3, 4, heading), np.zeros((1, BOX.COLUMNS))
    kernels.advance_boxes(seen, np.array([velocity]), np.array([[0.0, 0.0, spin]]), 0.02, boxes)
    expected = upright_box(3 + 0.02 * velocity[0], 4 + 0.02 * velocity[1], heading + 0.02 * spin)
    expected[0, 2] += 0.02 * velocity[2]
    assert boxes == pytest.approx(expected, abs=1e-12)


@given(angles, metres, metres, angles)
@settings(deadline=None, max_examples=100)
def test_every_ray_that_meets_a_box_is_asked(theta: float, x: float, y: float, heading: float) -> None:
    rays, distance = 24, 12.0
    box = upright_box(x, y, heading)
    ask = np.zeros((rays, 2), np.int64)
    everything = np.ones((0, rays), np.bool_)
    count = kernels.rays_to_ask(
        np.zeros((1, 2)), np.array([theta]), 0.6, distance, rays, 0.0, box, np.array([-1]), everything, False, ask
    )
    asked = set(ask[:count, 1].tolist())
    area = plan(box)
    for ray in range(rays):
        angle = theta + ray * 2 * math.pi / rays
        end = (distance * math.cos(angle), distance * math.sin(angle))
        apart = LineString([(0, 0), end]).distance(area)
        if apart == 0:
            assert ray in asked
        if ray in asked:  # and few others are: the reach, square-cornered
            assert apart <= kernels.REACH * math.sqrt(2) + 1e-9


@given(metres, metres, angles, angles, st.floats(0, 0.3))
@settings(deadline=None, max_examples=200)
def test_boxes_that_come_close_are_found(x: float, y: float, first: float, second: float, margin: float) -> None:
    here, there = upright_box(0, 0, first), upright_box(x / 3, y / 2, second)
    found = np.zeros(1, np.bool_)
    kernels.may_touch(here, there, False, margin, found)
    apart = plan(here).distance(plan(there))
    if apart <= margin:
        assert found[0]
    if apart > math.sqrt(2) * margin + 1e-9:  # between corners the gap along an axis is that much shorter at most
        assert not found[0]


@given(metres, metres, angles)
@settings(deadline=None, max_examples=200)
def test_sidewalks_under_a_vehicle_are_found(x: float, y: float, heading: float) -> None:
    corners = np.array([[-9.0, -2.0], [9.0, -2.0], [9.0, 2.0], [-9.0, 2.0]])
    walls = np.concatenate([corners, np.roll(corners, -1, axis=0)], axis=1)
    vehicle = upright_box(x, y, heading)
    found = np.zeros(1, np.bool_)
    bounds = np.array([[-9.0, 9.0, -2.0, 2.0]])
    kernels.may_touch_sidewalk(vehicle, walls, np.array([[0, 4]]), bounds, 0.1, found)
    apart = plan(vehicle).distance(Polygon(corners))
    if apart <= 0.1:
        assert found[0]
    if apart > 0.1 * math.sqrt(2) + 1e-9:
        assert not found[0]


def test_a_lidar_mask_by_hand() -> None:
    # 4 rays of 90 degrees; an object 10 m ahead, 6 m span: 17 degrees to either side, rounded outwards to rays 0, 1, 3
    allowed = np.zeros((1, 4), np.bool_)
    objects = np.array([[10.0, 0.0, 4.0, 2.0]])
    near, own = np.ones((1, 1), np.bool_), np.array([-1])
    kernels.lidar_mask(np.zeros((1, 2)), np.zeros(1), 20.0, 4, objects, own, near, allowed)
    assert allowed.tolist() == [[True, True, False, True]]
    kernels.lidar_mask(np.zeros((1, 2)), np.zeros(1), 20.0, 4, objects, own, ~near, allowed)
    assert not allowed.any()


def test_lane_coordinates_by_hand() -> None:
    straight = np.zeros(kernels.LANE.COLUMNS)
    straight[1:7] = (5, 5, 0, 1, -1, 0)  # from (5, 5) to the north, left is negative x
    assert kernels.lane_coordinates(straight, 4.0, 8.0) == pytest.approx((3, 1))
    bend = np.zeros(kernels.LANE.COLUMNS)
    bend[[0, 7, 11, 12, 13, 15, 16]] = (1, 10 * math.pi / 2, 10, 0, math.pi / 2, math.pi / 2, 1)  # quarter circle
    along, across = kernels.lane_coordinates(bend, 11 * math.cos(0.3), 11 * math.sin(0.3))
    assert (along, across) == pytest.approx((3, 1))
    assert kernels.lane_position(bend, along, across) == pytest.approx((11 * math.cos(0.3), 11 * math.sin(0.3)))

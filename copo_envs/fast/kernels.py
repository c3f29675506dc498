"""MetaDrive's step as arithmetic over all vehicles at once: the formulas of its lanes, navigation, observation, reward.

Every function says which of MetaDrive's it reproduces. They keep its order of operations, so that results agree to
rounding. Where rounding or the physics engine's own tolerance could decide, a kernel reports it, and the caller asks
MetaDrive or Bullet. Legend: A vehicles that acted, B boxes, L lanes, R rays of a vehicle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

PI = math.pi
TWO_PI = 2 * math.pi


class _Lane(NamedTuple):
    CIRCULAR: int = 0  # else straight
    START: int = 1  # x, y
    DIRECTION: int = 3  # x, y
    LATERAL: int = 5  # x, y
    LENGTH: int = 7
    HEADING: int = 8
    CENTRE: int = 9  # x, y
    RADIUS: int = 11
    START_PHASE: int = 12
    END_PHASE: int = 13
    CLOCKWISE: int = 14
    ANGLE: int = 15
    SENSE: int = 16  # MetaDrive's `direction` of a circular lane
    WIDTH: int = 17
    START_NODE: int = 18
    ROAD: int = 19
    RIGHT: int = 20  # x, y: unit vector across a straight lane
    SPEED_LIMIT: int = 22
    COLUMNS: int = 23


class _Box(NamedTuple):
    CENTRE: int = 0  # x, y, z
    ACROSS: int = 3  # x, y, z: unit vector to the right of a vehicle
    ALONG: int = 6  # x, y, z: ahead
    UP: int = 9  # x, y, z
    HALF: int = 12  # half extents along the three
    RADIUS: int = 15  # of the sphere around it
    COLUMNS: int = 16


class _Nav(NamedTuple):
    PROGRESS_BEFORE: int = 0  # metres along its lane, at the position before the step
    PROGRESS: int = 1
    ON_ROUTE: int = 2  # its lane belongs to the road that it should be on
    ARRIVED: int = 3
    ROAD: int = 4
    ENERGY: int = 5
    SPEED: int = 6  # m/s
    OVERSPEED: int = 7
    CHECKPOINTS: int = 8  # x, y from the vehicle to the next two checkpoints, metres, cut to length
    COLUMNS: int = 12


class _Layout(NamedTuple):
    BORDERS: int = 0  # distances to both borders of the road, or -1
    EGO: int = 1  # ego state
    OFFSET: int = 2  # lateral offset in the lane, or -1
    NAVIGATION: int = 3  # or -1


class _Scale(NamedTuple):
    ROAD_WIDTH: int = 0
    LANE_WIDTH: int = 1
    BEND_RADIUS: int = 2
    BEND_ANGLE: int = 3  # degrees
    CHECKPOINT: int = 4  # metres
    NOTICE: int = 5  # metres ahead at which the next road's heading is read
    STEERING: int = 6


# Values, since numba knows no attributes of classes: to it they are constants.
LANE = _Lane()
"""Columns of the table of lanes."""
BOX = _Box()
"""Columns of a table of boxes."""
NAV = _Nav()
"""Columns of what `navigate` says of a vehicle, besides the observation."""
LAYOUT = _Layout()
"""Of the first entry, in an observation, of each part that `navigate` writes."""
SCALE = _Scale()
"""Of what observations are divided by."""


@njit(cache=True, inline="always")
def _wrap(angle):
    """MetaDrive's `wrap_to_pi`."""
    angle = angle % TWO_PI
    if angle > PI:
        angle -= TWO_PI
    return angle


@njit(cache=True, inline="always")
def _clip(value, low, high):
    return min(max(value, low), high)


@njit(cache=True)
def lane_coordinates(lane, x, y):
    """`local_coordinates` of StraightLane and CircularLane: (metres along, metres to the right or left)."""
    if lane[LANE.CIRCULAR] == 0:
        dx, dy = x - lane[LANE.START], y - lane[LANE.START + 1]
        return dx * lane[LANE.DIRECTION] + dy * lane[LANE.DIRECTION + 1], dx * lane[LANE.LATERAL] + dy * lane[
            LANE.LATERAL + 1
        ]
    dx, dy = x - lane[LANE.CENTRE], y - lane[LANE.CENTRE + 1]
    phase = _wrap(math.atan2(dy, dx))
    to_start = abs(_wrap(phase - _wrap(lane[LANE.START_PHASE])))
    to_end = abs(_wrap(phase - _wrap(lane[LANE.END_PHASE])))
    if to_start > to_end:
        turned = lane[LANE.END_PHASE] - phase if lane[LANE.CLOCKWISE] > 0 else phase - lane[LANE.END_PHASE]
        along = _wrap(turned) * lane[LANE.RADIUS] + lane[LANE.LENGTH]
    else:
        turned = lane[LANE.START_PHASE] - phase if lane[LANE.CLOCKWISE] > 0 else phase - lane[LANE.START_PHASE]
        along = _wrap(turned) * lane[LANE.RADIUS]
    return along, lane[LANE.SENSE] * (math.sqrt(dx * dx + dy * dy) - lane[LANE.RADIUS])


@njit(cache=True)
def lane_heading(lane, along):
    """`heading_theta_at` of StraightLane and CircularLane."""
    if lane[LANE.CIRCULAR] == 0:
        return lane[LANE.HEADING]
    return lane[LANE.SENSE] * along / lane[LANE.RADIUS] + lane[LANE.START_PHASE] + PI / 2 * lane[LANE.SENSE]


@njit(cache=True)
def lane_position(lane, along, across):
    """`position` of StraightLane and CircularLane."""
    if lane[LANE.CIRCULAR] == 0:
        return lane[LANE.START] + along * lane[LANE.DIRECTION] + across * lane[LANE.LATERAL], lane[
            LANE.START + 1
        ] + along * lane[LANE.DIRECTION + 1] + across * lane[LANE.LATERAL + 1]
    phase = lane[LANE.SENSE] * along / lane[LANE.RADIUS] + lane[LANE.START_PHASE]
    radius = lane[LANE.RADIUS] + across * lane[LANE.SENSE]
    return lane[LANE.CENTRE] + radius * math.cos(phase), lane[LANE.CENTRE + 1] + radius * math.sin(phase)


@njit(cache=True)
def pose_boxes(poses, half, boxes):
    """Boxes (A, BOX.COLUMNS) of vehicles: poses (A, 7) position and quaternion (w, x, y, z), half (A, 3) extents.

    The chassis stands on its origin, so the centre is half a height up the vehicle's own z axis.
    """
    for a in range(poses.shape[0]):
        w, x, y, z = poses[a, 3], poses[a, 4], poses[a, 5], poses[a, 6]
        box = boxes[a]
        box[BOX.ACROSS], box[BOX.ACROSS + 1], box[BOX.ACROSS + 2] = (
            1 - 2 * (y * y + z * z),
            2 * (x * y + w * z),
            2 * (x * z - w * y),
        )
        box[BOX.ALONG], box[BOX.ALONG + 1], box[BOX.ALONG + 2] = (
            2 * (x * y - w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z + w * x),
        )
        box[BOX.UP], box[BOX.UP + 1], box[BOX.UP + 2] = (
            2 * (x * z + w * y),
            2 * (y * z - w * x),
            1 - 2 * (x * x + y * y),
        )
        for k in range(3):
            box[k] = poses[a, k] + half[a, 2] * box[BOX.UP + k]
            box[BOX.HALF + k] = half[a, k]
        box[BOX.RADIUS] = math.sqrt(half[a, 0] ** 2 + half[a, 1] ** 2 + half[a, 2] ** 2)


@njit(cache=True)
def advance_boxes(seen, linear, angular, seconds, boxes):
    """Boxes moved on by their linear (A, 3) and angular (A, 3) velocities: where Bullet has the vehicles that are seen.

    Wheels push after Bullet has moved a body, so the velocities are those of a moment later. Suspension and friction
    change them by less than 0.9 m/s and 0.4 rad/s in a physics step of 0.02 s: this is right within 0.03 m.
    """
    for a in range(seen.shape[0]):
        box, source = boxes[a], seen[a]
        box[:] = source
        wx, wy, wz = angular[a, 0], angular[a, 1], angular[a, 2]
        speed = math.sqrt(wx * wx + wy * wy + wz * wz)
        if speed > 0:
            ux, uy, uz = wx / speed, wy / speed, wz / speed
            cos, sin = math.cos(speed * seconds), math.sin(speed * seconds)
            for axis in range(3):  # Rodrigues' rotation formula
                k = BOX.ACROSS + 3 * axis
                x, y, z = source[k], source[k + 1], source[k + 2]
                along = (ux * x + uy * y + uz * z) * (1 - cos)
                box[k] = x * cos + (uy * z - uz * y) * sin + ux * along
                box[k + 1] = y * cos + (uz * x - ux * z) * sin + uy * along
                box[k + 2] = z * cos + (ux * y - uy * x) * sin + uz * along
        for k in range(3):
            # the chassis turns around its origin, which lies half a height below the box's centre
            origin = source[k] - source[BOX.HALF + 2] * source[BOX.UP + k]
            box[k] = origin + linear[a, k] * seconds + source[BOX.HALF + 2] * box[BOX.UP + k]


SURFACE_MARGIN = 0.04  # Bullet's margin around a convex hull
SURFACE_DOUBT = 0.04  # how far from its border Bullet's own tolerance may decide


@njit(cache=True)
def _on_polygon(x, y, corners, low, high):
    """0: outside a convex polygon; 1: on it; 2: so close to the border that Bullet has to say."""
    inside = True
    deepest = 1e30
    nearest = 1e30
    for i in range(low, high):
        j = i + 1 if i + 1 < high else low
        ex, ey = corners[j, 0] - corners[i, 0], corners[j, 1] - corners[i, 1]
        px, py = x - corners[i, 0], y - corners[i, 1]
        cross = ex * py - ey * px
        deepest = min(deepest, cross / math.sqrt(ex * ex + ey * ey))
        if cross < 0:
            inside = False
            t = _clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            qx, qy = px - t * ex, py - t * ey
            nearest = min(nearest, qx * qx + qy * qy)
    if inside:
        return 2 if deepest < SURFACE_DOUBT / 2 else 1
    return 2 if nearest < (SURFACE_MARGIN + SURFACE_DOUBT) ** 2 else 0


@njit(cache=True)
def lanes_below(positions, corners, surfaces, bounds, below):
    """Which lanes lie below the vehicles, as a ray straight down finds them: below (A, L), 0, 1, or 2 for doubt."""
    reach = SURFACE_MARGIN + SURFACE_DOUBT
    below[:] = 0
    for a in range(positions.shape[0]):
        x, y = positions[a, 0], positions[a, 1]
        for s in range(surfaces.shape[0]):
            if (
                x < bounds[s, 0] - reach
                or x > bounds[s, 1] + reach
                or y < bounds[s, 2] - reach
                or y > bounds[s, 3] + reach
            ):
                continue
            lane = surfaces[s, 0]
            if below[a, lane] != 1:
                found = _on_polygon(x, y, corners, surfaces[s, 1], surfaces[s, 2])
                if found:
                    below[a, lane] = found


@njit(cache=True)
def _choose_lane(x, y, hx, hy, below, doubt, lanes, road, next_road):
    """`ray_localization` and `_get_current_lane`: (lane or -1, on a lane, two lanes are equally close).

    Of the lanes below that lead the vehicle's way the closest one of its road, else of its next road, else of any.
    """
    on_lane = False
    best = np.full(3, 1e30)
    chosen = np.full(3, -1)
    tied = np.zeros(3, np.bool_)
    for lane in range(lanes.shape[0]):
        if below[lane] == 0 or (below[lane] == 2 and not doubt):
            continue
        on_lane = True
        along, across = lane_coordinates(lanes[lane], x, y)
        heading = lane_heading(lanes[lane], along)
        if math.cos(heading) * hx + math.sin(heading) * hy <= 0:
            continue
        distance = abs(across)
        if along > lanes[lane, LANE.LENGTH]:
            distance += along - lanes[lane, LANE.LENGTH]
        if along < 0:
            distance -= along
        mine = int(lanes[lane, LANE.ROAD])
        for k in range(3):
            if (k == 0 and mine != road) or (k == 1 and mine != next_road):
                continue
            if abs(distance - best[k]) < 1e-9:
                tied[k] = True
            if distance < best[k]:
                tied[k] = abs(distance - best[k]) < 1e-9
                best[k], chosen[k] = distance, lane
    for k in range(3):
        if chosen[k] >= 0:
            return chosen[k], on_lane, tied[k]
    return -1, on_lane, False


@njit(cache=True)
def localise(rows, positions, thetas, below, lanes, routes, targets, current, on_lane, doubtful):
    """The lane of every vehicle. Where lanes in doubt could change it, doubtful (A,) is True and nothing is set."""
    for a in range(rows.shape[0]):
        r = rows[a]
        x, y = positions[a, 0], positions[a, 1]
        hx, hy = math.cos(thetas[a]), math.sin(thetas[a])
        road = routes[r, targets[r, 0]]
        next_road = routes[r, targets[r, 1]] if targets[r, 1] != targets[r, 0] else -1
        lane, found, tied = _choose_lane(x, y, hx, hy, below[a], False, lanes, road, next_road)
        lane_too, found_too, tied_too = _choose_lane(x, y, hx, hy, below[a], True, lanes, road, next_road)
        doubtful[a] = lane != lane_too or found != found_too or tied or tied_too
        if not doubtful[a]:
            on_lane[a] = found
            if lane >= 0:
                current[r] = lane


@njit(cache=True)
def navigate(
    rows, positions, headings, velocities, actions, lanes, road_first, road_lanes, routes, nodes, route_length,
    targets, current, final, last_along, travelled, last_position, top_speed, scale, obs, layout, out,
):  # fmt: skip
    """`NodeNetworkNavigation.update_localization` once the lane is known, `StateObservation`, the geometry of rewards.

    Args:
        rows: (A,) row of each vehicle in the persistent arrays (routes ... top_speed).
        headings: (A, 2) cosine and sine.
        top_speed: km/h.
        scale: (7,) see `SCALE`.
        obs: (A, D), the entries of `layout` are written.
        layout: (4,) see `LAYOUT`. The yaw rate, and where the checkpoints lie in the vehicle's frame, are left to the
            caller.
        out: (A, NAV.COLUMNS).
    """
    for a in range(rows.shape[0]):
        r = rows[a]
        x, y, hx, hy = positions[a, 0], positions[a, 1], headings[a, 0], headings[a, 1]
        lane = current[r]
        along, across = lane_coordinates(lanes[lane], x, y)
        # _update_target_checkpoints
        here, following = targets[r, 0], targets[r, 1]
        moved_on = False
        if here != following and along < 5.0:
            node = int(lanes[lane, LANE.START_NODE])
            count = route_length[r]
            for k in range(following, count - 1):
                if nodes[r, k] == node:
                    moved_on = True
                    targets[r, 0] = k
                    targets[r, 1] = k if k + 1 == count - 1 else k + 1
                    break
        road = routes[r, here]
        first = road_first[road]
        on_first, _ = lane_coordinates(lanes[first], x, y)
        travelled[r] += on_first - last_along[r]
        last_along[r] = on_first
        if moved_on:
            here, following = targets[r, 0], targets[r, 1]
            road = routes[r, here]
            first = road_first[road]
            last_along[r] = lane_coordinates(lanes[first], x, y)[0]
        next_first = road_first[routes[r, following]] if following != here else first
        width = lanes[lane, LANE.WIDTH]
        count = road_lanes[road]
        # _get_info_for_checkpoint
        middle = (float(count) / 2 - 0.5) * width
        if layout[LAYOUT.NAVIGATION] >= 0:
            for k in range(2):
                reference = lanes[first] if k == 0 else lanes[next_first]
                cx, cy = lane_position(reference, reference[LANE.LENGTH], middle)
                dx, dy = cx - x, cy - y
                distance = math.sqrt(dx * dx + dy * dy)
                if distance > scale[SCALE.CHECKPOINT]:
                    dx, dy = dx / distance * scale[SCALE.CHECKPOINT], dy / distance * scale[SCALE.CHECKPOINT]
                out[a, NAV.CHECKPOINTS + 2 * k], out[a, NAV.CHECKPOINTS + 1 + 2 * k] = dx, dy
                bend, sense, angle = 0.0, 0.0, 0.0
                if reference[LANE.CIRCULAR] == 1:
                    bend = reference[LANE.RADIUS] / (scale[SCALE.BEND_RADIUS] + count * width)
                    sense = -reference[LANE.SENSE]
                    angle = reference[LANE.ANGLE]
                at = layout[LAYOUT.NAVIGATION] + 5 * k
                obs[a, at + 2] = _clip(bend, 0.0, 1.0)
                obs[a, at + 3] = _clip((sense + 1) / 2, 0.0, 1.0)
                obs[a, at + 4] = _clip((angle * (180 / PI) / scale[SCALE.BEND_ANGLE] + 1) / 2, 0.0, 1.0)
        # _dist_to_route_left_right
        left = lane_coordinates(lanes[first], x, y)[1] + width / 2
        right = width * count - left
        if layout[LAYOUT.BORDERS] >= 0:
            obs[a, layout[LAYOUT.BORDERS]] = _clip(left / scale[SCALE.ROAD_WIDTH], 0.0, 1.0)
            obs[a, layout[LAYOUT.BORDERS] + 1] = _clip(right / scale[SCALE.ROAD_WIDTH], 0.0, 1.0)
        # vehicle_state: heading_diff, speed, steering, last action, yaw rate
        last = lanes[first + count - 1]
        if last[LANE.CIRCULAR] == 0:
            ax, ay = last[LANE.RIGHT], last[LANE.RIGHT + 1]
        elif last[LANE.CLOCKWISE] == 0:
            ax, ay = x - last[LANE.CENTRE], y - last[LANE.CENTRE + 1]
        else:
            ax, ay = last[LANE.CENTRE] - x, last[LANE.CENTRE + 1] - y
        norm_a, norm_h = math.sqrt(ax * ax + ay * ay), math.sqrt(hx * hx + hy * hy)
        at = layout[LAYOUT.EGO]
        if norm_a * norm_h == 0:
            obs[a, at] = 0.0
        else:
            obs[a, at] = _clip((hx * ax + hy * ay) / (norm_a * norm_h), -1.0, 1.0) / 2 + 0.5
        speed = math.sqrt(velocities[a, 0] ** 2 + velocities[a, 1] ** 2)
        km_h = speed * 3.6
        obs[a, at + 1] = _clip((km_h + 1) / (top_speed[r] + 1), 0.0, 1.0)
        obs[a, at + 2] = _clip((actions[a, 0] / scale[SCALE.STEERING] + 1) / 2, 0.0, 1.0)
        obs[a, at + 3] = _clip((actions[a, 0] + 1) / 2, 0.0, 1.0)
        obs[a, at + 4] = _clip((actions[a, 1] + 1) / 2, 0.0, 1.0)
        if layout[LAYOUT.OFFSET] >= 0:
            obs[a, layout[LAYOUT.OFFSET]] = _clip((across * 2 / scale[SCALE.LANE_WIDTH] + 1.0) / 2.0, 0.0, 1.0)
        # reward_function, _is_arrive_destination, _update_energy_consumption
        on_route = int(lanes[lane, LANE.ROAD]) == road
        measured = lanes[lane] if on_route else lanes[first]
        out[a, NAV.PROGRESS_BEFORE] = lane_coordinates(measured, last_position[r, 0], last_position[r, 1])[0]
        out[a, NAV.PROGRESS] = lane_coordinates(measured, x, y)[0]
        out[a, NAV.ON_ROUTE] = 1.0 if on_route else 0.0
        end = lanes[final[r]]
        to_end, beside = lane_coordinates(end, x, y)
        arrived = end[LANE.LENGTH] - 5 < to_end < end[LANE.LENGTH] + 5 and width / 2 >= beside >= (0.5 - count) * width
        out[a, NAV.ARRIVED] = 1.0 if arrived else 0.0
        out[a, NAV.ROAD] = road
        moved = math.sqrt((last_position[r, 0] - x) ** 2 + (last_position[r, 1] - y) ** 2) / 1000
        out[a, NAV.ENERGY] = 3.25 * math.pow(math.e, 0.01 * km_h) * moved / 100 * 1000
        out[a, NAV.SPEED] = speed
        out[a, NAV.OVERSPEED] = 1.0 if lanes[lane, LANE.SPEED_LIMIT] < km_h else 0.0
        last_position[r, 0], last_position[r, 1] = x, y


REACH = 0.06
"""Metres by which boxes grow in the test that decides which rays Bullet has to be asked about: its cast ends within
0.01 m of a shape, and `advance_boxes` is right within 0.03 m."""
REACH_OF_BUILDINGS = 0.3
"""The same for boxes more than 2 m wide and long: Bullet gives up early on some rays that pass a corner of a toll
booth, and calls it a hit up to 0.08 m beside the corner."""


@njit(cache=True, inline="always")
def _slab(near, far, start, along, half):
    """The part [near, far] of a segment that lies between two planes at -+half; start and along: of it, across them."""
    if abs(along) < 1e-12:
        return near, (far if abs(start) <= half else -1.0)
    t0, t1 = (-half - start) / along, (half - start) / along
    if t0 > t1:
        t0, t1 = t1, t0
    return max(near, t0), min(far, t1)


@njit(cache=True)
def rays_to_ask(positions, thetas, z, distance, rays, phase, boxes, own, allowed, use_allowed, ask):
    """The rays that could hit a box.

    Args:
        positions, thetas: (A, 2), (A,) of the vehicles that look.
        z, distance, rays, phase: height of the rays, their length, how many, angle of the first.
        boxes: (B, BOX.COLUMNS). own: (A,) each vehicle's own box, or -1.
        allowed: (A, rays) bool, used if `use_allowed`: other rays see nothing.
        ask: (., 2) filled with vehicle and ray.

    Returns:
        How many.
    """
    unit = TWO_PI / rays
    found = 0
    marked = np.zeros(rays, np.bool_)
    for a in range(positions.shape[0]):
        ox, oy = positions[a, 0], positions[a, 1]
        marked[:] = False
        for b in range(boxes.shape[0]):
            if b == own[a]:
                continue
            box = boxes[b]
            dx, dy = box[BOX.CENTRE] - ox, box[BOX.CENTRE + 1] - oy
            reach = REACH_OF_BUILDINGS if min(box[BOX.HALF], box[BOX.HALF + 1]) > 1.0 else REACH
            radius = box[BOX.RADIUS] + 2 * reach
            d2 = dx * dx + dy * dy
            if d2 > (distance + radius) ** 2:
                continue
            start, count = 0, rays
            if d2 > radius * radius * 1.02:
                span = math.asin(radius / math.sqrt(d2))
                middle = math.atan2(dy, dx) - thetas[a] - phase
                start = math.floor((middle - span) / unit)
                count = min(math.ceil((middle + span) / unit) - start + 1, rays)
            ez = box[BOX.CENTRE + 2] - z
            # the ray's origin in the box's frame
            lx = -(dx * box[BOX.ACROSS] + dy * box[BOX.ACROSS + 1] + ez * box[BOX.ACROSS + 2])
            ly = -(dx * box[BOX.ALONG] + dy * box[BOX.ALONG + 1] + ez * box[BOX.ALONG + 2])
            lz = -(dx * box[BOX.UP] + dy * box[BOX.UP + 1] + ez * box[BOX.UP + 2])
            for k in range(count):
                i = (start + k) % rays
                if marked[i] or (use_allowed and not allowed[a, i]):
                    continue
                angle = i * unit + phase + thetas[a]
                rx, ry = distance * math.cos(angle), distance * math.sin(angle)
                near, far = 0.0, 1.0
                for axis in range(3):
                    d = rx * box[BOX.ACROSS + 3 * axis] + ry * box[BOX.ACROSS + 1 + 3 * axis]
                    o = lx if axis == 0 else (ly if axis == 1 else lz)
                    near, far = _slab(near, far, o, d, box[BOX.HALF + axis] + reach)
                if near <= far:
                    marked[i] = True
        for i in range(rays):
            if marked[i]:
                ask[found, 0], ask[found, 1] = a, i
                found += 1
    return found


@njit(cache=True)
def lidar_mask(positions, thetas, distance, rays, objects, own, near, allowed):
    """`Lidar._get_lidar_mask`: only rays within the angle of an object near by see anything.

    Args:
        objects: (B, 4) x, y, length, width as the mask takes them.
        near: (A, B) bool: Bullet's broad test finds the object.
        allowed: (A, rays) bool, written.
    """
    unit = 360 / rays
    for a in range(positions.shape[0]):
        allowed[a] = False
        for b in range(objects.shape[0]):
            if b == own[a] or not near[a, b]:
                continue
            half2 = ((objects[b, 2] + objects[b, 3]) / 2) ** 2
            dx, dy = objects[b, 0] - positions[a, 0], objects[b, 1] - positions[a, 1]
            d2 = dx**2 + dy**2
            if d2 < half2:
                allowed[a] = True
                continue
            span = math.asin(math.sqrt(half2 / d2))
            middle = math.atan2(dy, dx) - thetas[a]
            low = ((middle - span) * (180 / PI)) % 360
            high = ((middle + span) * (180 / PI)) % 360
            first, last = math.floor(low / unit), math.ceil(high / unit)
            if high < low:
                allowed[a, first:] = True
                allowed[a, : last + 1] = True
            else:
                allowed[a, first : last + 1] = True


@njit(cache=True)
def near_circle(positions, radius, boxes, own, near, doubtful):
    """Which boxes reach into a circle around each vehicle: near (A, B); doubtful (A,): one ends within 0.3 m of it."""
    for a in range(positions.shape[0]):
        doubtful[a] = False
        for b in range(boxes.shape[0]):
            near[a, b] = False
            if b == own[a]:
                continue
            box = boxes[b]
            dx, dy = positions[a, 0] - box[BOX.CENTRE], positions[a, 1] - box[BOX.CENTRE + 1]
            if dx * dx + dy * dy > (radius + box[BOX.RADIUS] + 1) ** 2:
                continue
            u = max(abs(dx * box[BOX.ACROSS] + dy * box[BOX.ACROSS + 1]) - box[BOX.HALF], 0.0)
            v = max(abs(dx * box[BOX.ALONG] + dy * box[BOX.ALONG + 1]) - box[BOX.HALF + 1], 0.0)
            distance = math.sqrt(u * u + v * v)
            near[a, b] = distance < radius
            if abs(distance - radius) < 0.3:
                doubtful[a] = True


@njit(cache=True)
def _rectangles_meet(a, b, margin):
    """Whether the ground plans of two boxes come closer than `margin`, by separating axes; True where in doubt."""
    dx, dy = b[BOX.CENTRE] - a[BOX.CENTRE], b[BOX.CENTRE + 1] - a[BOX.CENTRE + 1]
    for k in range(4):
        box = a if k < 2 else b
        other = b if k < 2 else a
        axis = BOX.ACROSS if k % 2 == 0 else BOX.ALONG
        half = box[BOX.HALF] if k % 2 == 0 else box[BOX.HALF + 1]
        ux, uy = box[axis], box[axis + 1]
        reach = (
            abs(other[BOX.ACROSS] * ux + other[BOX.ACROSS + 1] * uy) * other[BOX.HALF]
            + abs(other[BOX.ALONG] * ux + other[BOX.ALONG + 1] * uy) * other[BOX.HALF + 1]
        )
        # the third axis leans a little into the plan when a vehicle pitches or rolls
        lean = (
            abs(other[BOX.UP] * ux + other[BOX.UP + 1] * uy) * other[BOX.HALF + 2]
            + abs(box[BOX.UP] * ux + box[BOX.UP + 1] * uy) * box[BOX.HALF + 2]
        )
        if abs(dx * ux + dy * uy) > half + reach + lean + margin:
            return False
    return True


@njit(cache=True)
def may_touch(vehicles, boxes, skip_own, margin, out):
    """out (A,): some box may touch the vehicle's. With `skip_own`, box a is vehicle a itself."""
    for a in range(vehicles.shape[0]):
        out[a] = False
        for b in range(boxes.shape[0]):
            if skip_own and b == a:
                continue
            dx, dy = (
                boxes[b, BOX.CENTRE] - vehicles[a, BOX.CENTRE],
                boxes[b, BOX.CENTRE + 1] - vehicles[a, BOX.CENTRE + 1],
            )
            reach = vehicles[a, BOX.RADIUS] + boxes[b, BOX.RADIUS] + margin
            if dx * dx + dy * dy < reach * reach and _rectangles_meet(vehicles[a], boxes[b], margin):
                out[a] = True
                break


@njit(cache=True)
def may_touch_sidewalk(vehicles, walls, polygons, bounds, margin, out):
    """out (A,): the vehicle's ground plan comes closer than `margin` to a sidewalk, or its centre is on one.

    Args:
        walls: (W, 4) edges, x and y of both ends; those of a sidewalk are consecutive.
        polygons: (P, 2) first and last edge (exclusive) of each sidewalk. bounds: (P, 4) x from, to, y from, to.
    """
    for a in range(vehicles.shape[0]):
        box = vehicles[a]
        out[a] = False
        lean = (abs(box[BOX.UP]) + abs(box[BOX.UP + 1])) * box[BOX.HALF + 2]
        hx, hy = box[BOX.HALF] + margin + lean, box[BOX.HALF + 1] + margin + lean
        radius = math.sqrt(hx * hx + hy * hy)
        for p in range(polygons.shape[0]):
            if (
                box[BOX.CENTRE] < bounds[p, 0] - radius
                or box[BOX.CENTRE] > bounds[p, 1] + radius
                or box[BOX.CENTRE + 1] < bounds[p, 2] - radius
                or box[BOX.CENTRE + 1] > bounds[p, 3] + radius
            ):
                continue
            inside = False
            for w in range(polygons[p, 0], polygons[p, 1]):
                x0, y0 = walls[w, 0] - box[BOX.CENTRE], walls[w, 1] - box[BOX.CENTRE + 1]
                x1, y1 = walls[w, 2] - box[BOX.CENTRE], walls[w, 3] - box[BOX.CENTRE + 1]
                if (y0 > 0) != (y1 > 0) and x0 + (x1 - x0) * (-y0) / (y1 - y0) > 0:
                    inside = not inside
                if (
                    (x0 > radius and x1 > radius)
                    or (x0 < -radius and x1 < -radius)
                    or (y0 > radius and y1 > radius)
                    or (y0 < -radius and y1 < -radius)
                ):
                    continue
                # both ends in the vehicle's frame, then the segment against the rectangle by slabs
                u0, v0 = x0 * box[BOX.ACROSS] + y0 * box[BOX.ACROSS + 1], x0 * box[BOX.ALONG] + y0 * box[BOX.ALONG + 1]
                u1, v1 = x1 * box[BOX.ACROSS] + y1 * box[BOX.ACROSS + 1], x1 * box[BOX.ALONG] + y1 * box[BOX.ALONG + 1]
                near, far = _slab(0.0, 1.0, u0, u1 - u0, hx)
                near, far = _slab(near, far, v0, v1 - v0, hy)
                if near <= far:
                    out[a] = True
                    break
            if inside:
                out[a] = True
            if out[a]:
                break


@njit(cache=True)
def outside_own_box(positions, z, boxes, margin, out):
    """out (A,): a ray that starts at the vehicle's position and height z may start outside its own box, boxes[a]."""
    for a in range(positions.shape[0]):
        box = boxes[a]
        dx, dy, dz = positions[a, 0] - box[BOX.CENTRE], positions[a, 1] - box[BOX.CENTRE + 1], z - box[BOX.CENTRE + 2]
        out[a] = False
        for axis in range(3):
            along = (
                dx * box[BOX.ACROSS + 3 * axis]
                + dy * box[BOX.ACROSS + 1 + 3 * axis]
                + dz * box[BOX.ACROSS + 2 + 3 * axis]
            )
            if abs(along) > box[BOX.HALF + axis] - margin:
                out[a] = True


def warm_up() -> None:
    """Compile every kernel for the types it will be called with, or load it from numba's cache."""
    seen, boxes = np.zeros((1, BOX.COLUMNS)), np.zeros((1, BOX.COLUMNS))
    boxes[:, BOX.HALF : BOX.HALF + 3] = 1.0
    position, theta, row = np.zeros((1, 2)), np.zeros(1), np.zeros(1, np.int64)
    flags, pairs, numbers = np.zeros(1, np.bool_), np.zeros((1, 2), np.int64), np.zeros((1, 2))
    lanes = np.zeros((1, LANE.COLUMNS))
    lanes[:, [LANE.LENGTH, LANE.WIDTH, LANE.RIGHT]] = 1.0
    bounds, none = np.zeros((1, 4)), np.full(1, -1)
    layout, scale = np.zeros(4, np.int64), np.ones(7)
    pose_boxes(np.zeros((1, 7)), np.ones((1, 3)), seen)
    advance_boxes(seen, np.zeros((1, 3)), np.zeros((1, 3)), 0.02, boxes)
    below = np.zeros((1, 1), np.int8)
    lanes_below(position, np.zeros((3, 2)), np.zeros((1, 3), np.int64), bounds, below)
    localise(row, position, theta, below, lanes, pairs, pairs, row, flags, flags)
    navigate(
        row, position, np.ones((1, 2)), np.zeros((1, 3)), numbers, lanes, row, np.ones(1, np.int64), pairs, pairs,
        row, pairs, row, row, np.zeros(1), np.zeros(1), numbers, np.ones(1), scale, np.zeros((1, 32)), layout,
        np.zeros((1, NAV.COLUMNS)),
    )  # fmt: skip
    allowed = np.ones((1, 4), np.bool_)
    ask = np.zeros((4, 2), np.int64)
    rays_to_ask(position, theta, 0.0, 1.0, 4, 0.0, boxes, none, allowed, False, ask)
    near = np.zeros((1, 1), np.bool_)
    near_circle(position, 1.0, boxes, none, near, flags)
    lidar_mask(position, theta, 1.0, 4, np.ones((1, 4)), none, near, allowed)
    may_touch(boxes, boxes, True, 0.1, flags)
    may_touch_sidewalk(seen, np.zeros((1, 4)), pairs, bounds, 0.1, flags)
    outside_own_box(position, 1.0, boxes, 0.1, flags)


KERNELS = (
    pose_boxes, advance_boxes, lanes_below, localise, navigate, rays_to_ask, near_circle, lidar_mask, may_touch,
    may_touch_sidewalk, outside_own_box,
)  # fmt: skip
"""What `step.py` calls."""

"""A driver for benchmarks: follows its lane, keeps its distance, slows down on toll roads; sometimes it errs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class LaneFollower:
    """Drives every vehicle of a MetaDrive environment by what MetaDrive knows of it.

    Args:
        seed: of the noise.
        noise: standard deviation of what is added to each action.
        bias: standard deviation of the error that a vehicle makes all its life; 0.2 and more ends lives soon.
        top_speed: m/s.
    """

    def __init__(self, seed: int, noise: float = 0.03, bias: float = 0.0, top_speed: float = 9.0):
        self._rng = np.random.default_rng(seed)
        self._noise, self._bias, self._top_speed = noise, bias, top_speed
        self._biases: dict[str, np.ndarray] = {}

    def __call__(self, env: Any) -> dict[str, np.ndarray]:
        """Actions (2,) float32 by MetaDrive's names of the agents."""
        vehicles = env.agents
        wrecks = [entry[0] for entry in env.agent_manager._dying_objects.values()]
        places = np.array([tuple(vehicle.position) for vehicle in [*vehicles.values(), *wrecks]]).reshape(-1, 2)
        actions = {}
        for row, (agent, vehicle) in enumerate(vehicles.items()):
            navigation = vehicle.navigation
            lanes = navigation.current_ref_lanes
            lane = vehicle.lane if vehicle.lane in lanes else lanes[0]
            heading, speed = vehicle.heading_theta, vehicle.speed
            ahead = lane.local_coordinates(places[row])[0] + 4 + 0.5 * speed
            following = navigation.next_ref_lanes
            if ahead > lane.length and following is not None:
                goal = following[min(lanes.index(lane), len(following) - 1)].position(ahead - lane.length, 0)
            else:
                goal = lane.position(ahead, 0)
            error = math.atan2(goal[1] - places[row, 1], goal[0] - places[row, 0]) - heading
            error = (error + math.pi) % (2 * math.pi) - math.pi
            offset = places - places[row]
            along = offset @ (math.cos(heading), math.sin(heading))
            across = offset @ (-math.sin(heading), math.cos(heading))
            blocking = (along > 0.5) & (np.abs(across) < 1.8 + 0.05 * along)
            gap = along[blocking].min() - 4.6 if blocking.any() else math.inf
            wanted = min(self._top_speed, max(0.0, 0.8 * (gap - 1.5)), 0.9 * lane.speed_limit / 3.6)
            if abs(error) > 0.3:
                wanted = min(wanted, 5.0)
            action = np.array([1.6 * error, np.clip(0.5 * (wanted - speed), -1.0, 0.7)])
            if agent not in self._biases:
                self._biases[agent] = self._rng.normal(size=2) * self._bias
            noise = self._rng.normal(size=2) * self._noise + self._biases[agent]
            actions[agent] = np.clip(action + noise, -1.0, 1.0).astype(np.float32)
        return actions

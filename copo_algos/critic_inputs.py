"""What a critic sees: its vehicle's observation, and with some algorithms what the neighbours see and do.

The policy stays decentralised. Legend: `...` leading axes (T, E or E), N slots, D observation size, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from copo_algos.algorithms import CriticInputName
from copo_algos.config import CriticConfig
from copo_envs.neighbours import mean_field, nearest_neighbours, nearest_observations, neighbour_mask
from copo_envs.step_batch import ACTION_SIZE


@dataclass(frozen=True)
class CriticInput:
    """The input of CCPPO's critics, by name; `ego` is the plain observation.

    * `mean_field`: the observation, and the mean of [observation, action] over the neighbours within
      `mean_field_distance`, zeros where there is none.
    * `concat`: the observation, and [observation, action] of the `num_neighbours` nearest within `neighbours_distance`,
      the nearest first, zeros where one is missing.

    Without `counterfactual` the actions are left out.
    """

    name: CriticInputName
    config: CriticConfig
    neighbours_distance: float

    def size(self, obs_size: int) -> int:
        """C, for observations of D."""
        each = obs_size + ACTION_SIZE * self.config.counterfactual
        return obs_size + {"ego": 0, "mean_field": each, "concat": self.config.num_neighbours * each}[self.name]

    def __call__(self, obs: np.ndarray, action: np.ndarray, position: np.ndarray, present: np.ndarray) -> np.ndarray:
        """All of one moment: observations (..., N, D), actions taken on them (..., N, 2), zeros where they are not
        known, positions in metres (..., N, 2), and who is there (..., N). Returns (..., N, C) float32."""
        if self.name == "ego":
            return obs
        near_action = action[..., : ACTION_SIZE * self.config.counterfactual]
        if self.name == "mean_field":
            mask = neighbour_mask(position, present, self.config.mean_field_distance)
            neighbours = mean_field(obs, near_action, mask)
        else:
            near = nearest_neighbours(position, present, self.config.num_neighbours, self.neighbours_distance)
            neighbours = nearest_observations(obs, *near, near_action)
        return np.concatenate([obs, neighbours], axis=-1, dtype=np.float32)

"""Whose reward a vehicle learns from: its own, its neighbourhood's, everybody's."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from copo_envs.neighbours import neighbour_mask, neighbourhood_mean
from copo_envs.step_batch import StepBatch

NeighbourRule = Literal["ours", "tf", "torch"]
NEIGHBOUR_RULES: tuple[NeighbourRule, ...] = get_args(NeighbourRule)


def shared_rewards(batch: StepBatch, distance: float, rule: NeighbourRule, counts_itself: bool = False) -> np.ndarray:
    """Own reward r, neighbourhood reward r_N and global reward r_G of every vehicle that acted, 0 in the other slots.

    r_N is the mean of r over the neighbours, 0 where there is none; r_G the mean over everybody. Positions are those
    after the step. Who counts, besides the vehicles that acted and live on:

    | rule | a vehicle that ended in this step | a vehicle that was born in it |
    | --- | --- | --- |
    | ours | with its last reward | no: it has not acted |
    | tf | in r_G; it has no neighbours and is nobody's, so r_N is never a crash or an arrival | with reward 0 |
    | torch | with its last reward | with reward 0 |

    `tf` is the authors' code behind the published table, `torch` their later port.

    Args:
        batch: of E environments and N slots.
        distance: metres; neighbours are closer than this.
        rule: one of the three.
        counts_itself: r_N is the mean over the neighbours and the vehicle itself.

    Returns:
        (E, N, 3)
    """
    reward, acted = batch.reward, batch.acted
    num_slots = reward.shape[1]
    everybody, position, near = acted, batch.acted_position, acted
    if rule == "tf":
        near = acted & ~batch.terminated & ~batch.truncated
    if rule != "ours":
        # A slot can hold one that ended and a newborn, so newborns get columns of their own. Those of the next episode
        # are not there yet.
        born = batch.spawned & ~batch.episode_over[:, None]
        everybody, near = np.concatenate([everybody, born], 1), np.concatenate([near, born], 1)
        position = np.concatenate([position, batch.position], 1)
        reward = np.concatenate([reward, np.zeros_like(reward)], 1)
    mask = neighbour_mask(position, near, distance)
    if counts_itself:
        slots = np.arange(num_slots)
        mask[:, slots, slots] = acted
    neighbourhood = neighbourhood_mean(reward, mask)[:, :num_slots]
    mean = reward.sum(axis=1, keepdims=True) / np.maximum(everybody.sum(axis=1, keepdims=True), 1)
    return np.stack([batch.reward, np.where(acted, neighbourhood, 0), np.where(acted, mean, 0)], axis=-1)

"""What critics see, against plain loops: alone, and as the collector writes it down at cuts and truncations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from copo_algos.algorithms import Algorithm, CriticInputName
from copo_algos.config import CriticConfig, TrainConfig
from copo_algos.critic_inputs import CriticInput
from copo_algos.networks import GaussianActor
from copo_algos.rollout import Collector
from copo_envs.scene_vector import SceneVector
from copo_envs.scenes import scene_options

NAMES: tuple[CriticInputName, ...] = ("ego", "mean_field", "concat")
D = 3


def loop(
    see: CriticInput, obs: np.ndarray, action: np.ndarray, position: np.ndarray, present: np.ndarray
) -> np.ndarray:
    """(N, C) of one moment, vehicle by vehicle; rows of empty slots are zero."""
    size = see.size(obs.shape[-1])
    out = np.zeros((len(obs), size))
    there = [int(slot) for slot in np.nonzero(present)[0]]
    for ego in there:
        gaps = {other: float(np.linalg.norm(position[other] - position[ego])) for other in there if other != ego}

        def seen(other: int) -> np.ndarray:
            return np.concatenate([obs[other], action[other]]) if see.config.counterfactual else obs[other]

        parts = [obs[ego]]
        if see.name == "mean_field":
            near = [seen(other) for other, gap in gaps.items() if gap < see.config.mean_field_distance]
            parts.append(np.mean(near, axis=0) if near else np.zeros(size - len(obs[ego])))
        elif see.name == "concat":
            order = sorted((gap, other) for other, gap in gaps.items() if gap < see.neighbours_distance)
            parts += [seen(other) for _, other in order[: see.config.num_neighbours]]
        row = np.concatenate(parts)
        out[ego, : len(row)] = row
    return out


@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 7),
    name=st.sampled_from(NAMES),
    counterfactual=st.booleans(),
    neighbours=st.integers(1, 4),
)
def test_equals_plain_loops(seed: int, slots: int, name: CriticInputName, counterfactual: bool, neighbours: int):
    rng = np.random.default_rng(seed)
    obs, action = (rng.normal(size=(2, slots, size)).astype(np.float32) for size in (D, 2))
    position, present = rng.random((2, slots, 2)) * 30, rng.random((2, slots)) < 0.7
    see = CriticInput(name, CriticConfig(10.0, neighbours, counterfactual), 15.0)
    found = see(obs, action, position, present)
    assert found.shape == (2, slots, see.size(D)) and found.dtype == np.float32
    for env in range(2):
        expected = loop(see, obs[env], action[env], position[env], present[env])
        np.testing.assert_allclose(found[env][present[env]], expected[present[env]], atol=1e-6)


def test_the_sizes_of_the_specification():
    sizes = [CriticInput(name, CriticConfig(), 40.0).size(91) for name in NAMES]
    assert sizes == [91, 2 * 91 + 2, 91 + 4 * (91 + 2)]


def test_two_neighbours_by_hand():
    """At 0, 3 and 8 m: the first sees the second near, both within 40 m."""
    obs = np.array([[1.0], [2.0], [4.0]], np.float32)
    action = np.array([[0, 0.1], [0.2, 0.3], [0.4, 0.5]], np.float32)
    position = np.array([[0.0, 0], [3, 0], [8, 0]])
    moment = obs, action, position, np.ones(3, np.bool_)
    near = CriticInput("mean_field", CriticConfig(mean_field_distance=6.0), 40.0)(*moment)
    np.testing.assert_allclose(near[0], [1, 2, 0.2, 0.3])
    np.testing.assert_allclose(near[1], [2, 2.5, 0.2, 0.3], atol=1e-6)
    nearest = CriticInput("concat", CriticConfig(num_neighbours=2), 40.0)(*moment)
    np.testing.assert_allclose(nearest[2], [4, 2, 0.2, 0.3, 1, 0, 0.1])


@pytest.mark.parametrize("name", ["mean_field", "concat"])
def test_the_collector_shows_critics_the_neighbours_of_the_same_moment(name: CriticInputName):
    """Against a twin of the scene that takes the same actions: in the rollout, at its end and at truncations."""
    options = scene_options("particles", num_agents=16, horizon=12)
    see = CriticInput(name, CriticConfig(mean_field_distance=30.0), 30.0)
    with SceneVector(options, 0) as scenes, SceneVector(options, 0) as twin:
        generator = torch.Generator().manual_seed(0)
        row = Algorithm("test", "uniform factors, critics that see the neighbours", lcf="uniform", critic_input=name)
        config = TrainConfig("copo", neighbours_distance=30.0, critic=see.config)
        collector = Collector(scenes, row, config, np.random.default_rng(0), generator)
        collector.begin([5], 0.0, 0.0)
        rollout = collector.collect(GaussianActor(33, 2, generator), 30, 0.0, 0.0)
        before = copy.deepcopy(twin.reset([5]).row(0))
        last = iter(rollout.truncated_obs)
        truncated = 0
        for t in range(30):
            acted = rollout.acted[t, 0]
            expected = loop(see, rollout.obs[t, 0], rollout.action[t, 0], before.position, acted)
            np.testing.assert_allclose(rollout.critic_obs[t, 0][acted], expected[acted], atol=1e-5)
            after = copy.deepcopy(twin.step(np.clip(rollout.action[t], -1, 1)).row(0))
            # What those who acted see afterwards, each with its own factor; newborns are not among them.
            own = np.where(after.truncated[:, None], after.final_obs, after.obs)
            own = np.concatenate([own, rollout.obs[t, 0, :, -1:]], axis=1)
            there = after.acted & ~after.terminated
            expected = loop(see, own, np.zeros((16, 2)), after.acted_position, there)
            for slot in np.nonzero(after.truncated)[0]:
                np.testing.assert_allclose(next(last), expected[slot], atol=1e-5)
                truncated += 1
            before = after
    assert truncated > 3 and next(last, None) is None
    assert (np.abs(rollout.truncated_obs[:, 33:]).sum(axis=1) > 0).any()
    expected = loop(see, rollout.next_obs[0, :, :33], np.zeros((16, 2)), before.position, before.active)
    np.testing.assert_allclose(rollout.next_obs[0][before.active], expected[before.active], atol=1e-5)

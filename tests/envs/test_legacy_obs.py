"""What 0.2.5 would have shown, entry by entry, against hand-worked vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from copo_envs.legacy_obs import LAYOUTS, LegacyLivesEnv, LegacyObs, ray_order
from copo_envs.lives_env import LivesEnv, parallel_env
from copo_envs.scenes import SCENES, SceneError
from copo_envs.slots_env import slots_env
from copo_envs.wrappers import LCFObservation


def test_every_scene_of_metadrive_has_a_layout() -> None:
    assert {scene.obs_size for scene in SCENES.values() if scene.metadrive_class} == set(LAYOUTS)
    with pytest.raises(SceneError, match=r"particles is not in MetaDrive 0.2.5; choose one of its scenes"):
        LegacyObs("particles", 1)


@pytest.mark.parametrize("obs_size", LAYOUTS)
def test_turning_the_rays_twice_changes_nothing(obs_size: int) -> None:
    order = ray_order(obs_size)
    np.testing.assert_array_equal(order[order], np.arange(obs_size))
    layout = LAYOUTS[obs_size]
    rays = set(range(layout.lidar.start, layout.lidar.stop))
    for detector in layout.detectors:
        rays |= set(range(detector.start, detector.stop))
    assert [entry for entry in range(obs_size) if order[entry] != entry and entry not in rays] == []


def test_the_lidar_turns_the_other_way_around() -> None:
    # Ray 1 of 72 was 5 degrees to the right, which is now the last one; ahead (0) and behind (36) stay.
    order = ray_order(91)
    assert order[19] == 19 and order[19 + 36] == 19 + 36
    assert order[19 + 1] == 19 + 71 and order[19 + 71] == 19 + 1
    assert order[19 + 18] == 19 + 54  # a quarter turn: the right


def test_detectors_that_begin_at_the_side_swap_left_and_right() -> None:
    # Now: left, behind, right, ahead. Then: right, behind, left, ahead.
    order = ray_order(96)
    assert order[0:4].tolist() == [2, 1, 0, 3]
    assert order[10:14].tolist() == [12, 11, 10, 13]
    # 72 rays from the left on: the first is the one that points right, half a turn on; the next ones go backwards.
    order = ray_order(156)
    assert order[[0, 1, 36, 37, 71]].tolist() == [36, 35, 0, 71, 37]
    assert order[78:82].tolist() == [80, 79, 78, 81]


def test_lateral_terms_and_all_that_stays() -> None:
    legacy = LegacyObs("intersection", 1)
    obs = np.linspace(0, 0.5, 91, dtype=np.float32)[None]
    before = obs.copy()
    seen = legacy(obs, np.array([True]))
    np.testing.assert_array_equal(obs, before)
    np.testing.assert_allclose(seen[0, [10, 15]], 1 - obs[0, [10, 15]])
    stays = [entry for entry in range(20) if entry not in (10, 15)]
    np.testing.assert_array_equal(seen[0, stays], obs[0, stays])


@pytest.mark.parametrize(("scene", "first"), [("roundabout", 5), ("bottleneck", 7), ("tollgate", 75)])
def test_the_last_action_is_the_one_before_of_the_same_life(scene: str, first: int) -> None:
    size = SCENES[scene].obs_size
    legacy = LegacyObs(scene, 2)

    def told(one: float, other: float, spawned: tuple[bool, bool]) -> list[float]:
        obs = np.zeros((2, size), np.float32)
        obs[:, first : first + 2] = [[one, one / 2], [other, other / 2]]
        seen = legacy(obs, np.array(spawned))
        np.testing.assert_array_equal(seen[:, first + 1], seen[:, first] / 2)
        return [round(float(value), 3) for value in seen[:, first]]

    assert told(0.5, 0.5, (True, True)) == [0.5, 0.5]  # nobody has acted
    assert told(0.9, 0.1, (False, False)) == [0.5, 0.5]
    assert told(0.8, 0.2, (False, False)) == [0.9, 0.1]
    assert told(0.5, 0.3, (True, False)) == [0.5, 0.2]  # another life in the first slot
    assert told(0.7, 0.4, (False, False)) == [0.5, 0.3]


def test_other_views_and_wrapped_observations_are_refused() -> None:
    with pytest.raises(SceneError, match="is no lives view"):
        LegacyLivesEnv(slots_env("intersection"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SceneError, match=r"observations of shape \(92,\) are not those of intersection"):
        LegacyLivesEnv(LCFObservation(parallel_env("intersection")))  # pyright: ignore[reportArgumentType]


@pytest.mark.simulator
def test_a_lives_view_that_sees_as_in_025(closing: Callable[[LivesEnv], LivesEnv]) -> None:
    plain = closing(parallel_env("bottleneck", num_agents=4, in_process=True))
    legacy = LegacyLivesEnv(plain)
    rng = np.random.default_rng(0)
    actions = rng.uniform([-0.3, 0.5], [0.3, 1.0], (60, 40, 2))

    def drive(env: LivesEnv | LegacyLivesEnv) -> list[dict[str, np.ndarray]]:
        found = [env.reset(seed=0)[0]]
        for step in actions:
            found.append(env.step({agent: step[int(agent.removeprefix("agent_"))] for agent in env.agents})[0])
        return found

    was: dict[str, np.ndarray] = {}
    lives = set()
    for now, seen in zip(drive(plain), drive(legacy), strict=True):
        assert now.keys() == seen.keys()
        for agent, obs in now.items():
            np.testing.assert_array_equal(seen[agent][7:9], was.get(agent, obs[7:9]))
            np.testing.assert_allclose(seen[agent][[15, 20]], 1 - obs[[15, 20]])
            np.testing.assert_array_equal(seen[agent][[0, 1, 2, 3]], obs[[2, 1, 0, 3]])
            was[agent] = obs[7:9]
        lives |= set(now)
    assert len(lives) > 4

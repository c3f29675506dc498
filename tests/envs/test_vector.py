"""The arrays view: gymnasium's conventions, its masks, its seeds, its refusals, and scenes in workers that die."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import copo_envs
from copo_envs.outcomes import Outcome
from copo_envs.scene_vector import SceneVector, WorkerRestartWarning
from copo_envs.scenes import SCENES, SceneError, scene_options
from copo_envs.vector import SceneVectorEnv, vector_env
from tests.envs.workers import kill

Closing = Callable[[SceneVectorEnv], SceneVectorEnv]
TRANSITION = ("outcome", "own_reward", "velocity_m_s", "route_completion", "cost", "energy", "life_steps")


def forwards(env: SceneVectorEnv, rng: np.random.Generator) -> np.ndarray:
    rows = env.num_envs
    return np.stack([rng.normal(0, 0.2, rows), rng.uniform(0.2, 1, rows)], axis=1).clip(-1, 1).astype(np.float32)


def test_gymnasium_makes_it(closing: Closing) -> None:
    env: Any = closing(gymnasium.make_vec("copo_envs/Particles-v0", num_envs=2, num_agents=3, horizon=40))  # pyright: ignore
    assert isinstance(env, SceneVectorEnv)
    assert (env.num_envs, env.num_scenes, env.num_slots) == (6, 2, 3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (6, 32) and env.single_observation_space.shape == (32,)
    assert env.action_space.shape == (6, 2) and env.single_action_space.shape == (2,)
    assert env.spec is not None and env.spec.id == "copo_envs/Particles-v0"
    assert env.options == scene_options("particles", num_agents=3, horizon=40)


def test_every_scene_has_an_id() -> None:
    assert list(copo_envs.GYMNASIUM_IDS) == list(SCENES)
    for scene, name in copo_envs.GYMNASIUM_IDS.items():
        env: Any = gymnasium.make_vec(name)
        assert env.scene == scene and env.num_envs == SCENES[scene].num_agents and env.num_scenes == 1
        env.close()


def test_a_single_environment_is_refused_in_one_sentence() -> None:
    for make in (gymnasium.make, lambda name: gymnasium.make_vec(name, vectorization_mode="sync")):
        with pytest.raises(SceneError, match=r"intersection has many vehicles .* use gymnasium.make_vec") as refusal:
            make("copo_envs/Intersection-v0")
        assert "\n" not in str(refusal.value)


def test_it_is_the_scene_vector_row_by_row(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=5, horizon=40, drain=False))
    rng, over, moved_on = np.random.default_rng(0), 0, 0
    with SceneVector(env.options, 2) as twin:
        batch = twin.reset([4, 5])
        obs, infos = env.reset(seed=4)
        keys = infos.keys()
        np.testing.assert_array_equal(obs, batch.obs.reshape(10, 32))
        life = infos["life"]
        for _ in range(130):
            moves = forwards(env, rng)
            seeds = twin.episode_seed.repeat(5)
            batch = twin.step(moves.reshape(2, 5, 2))
            obs, rewards, terminated, truncated, infos = env.step(moves)
            ended = terminated | truncated
            assert env.observation_space.contains(obs) and rewards.dtype == np.float64
            assert terminated.dtype == truncated.dtype == np.bool_
            for name, array in (
                *(("obs", obs), ("reward", rewards), ("terminated", terminated), ("truncated", truncated)),
                *((name, infos[name]) for name in ("acted", "active", "life", "spawned", "outcome", "life_steps")),
            ):
                np.testing.assert_array_equal(array, getattr(batch, name).reshape(array.shape), name)
            np.testing.assert_array_equal(infos["seed"], twin.episode_seed.repeat(5))
            np.testing.assert_array_equal(infos["episode_over"], batch.episode_over.repeat(5))
            np.testing.assert_array_equal(env.positions(), infos["position"])
            np.testing.assert_array_equal(env.headings(), infos["heading"])
            acted = batch.acted.ravel()
            for key, then, now in (
                ("position", batch.acted_position.reshape(10, 2), batch.position.reshape(10, 2)),
                ("heading", batch.acted_heading.ravel(), batch.heading.ravel()),
            ):
                np.testing.assert_array_equal(infos[key][acted], then[acted])
                np.testing.assert_array_equal(infos[key][~acted], now[~acted])
                np.testing.assert_array_equal(infos[f"next_{key}"], now)
                np.testing.assert_array_equal(infos[f"_next_{key}"], batch.active.ravel())
            moved_on += int((acted & batch.active.ravel() & ended).sum())
            over += int(batch.episode_over.sum())
            # What the page says about rows.
            assert (infos["acted"] == (life >= 0)).all() and not (ended & ~infos["acted"]).any()
            empty = ~infos["active"]
            assert not obs[empty].any() and not rewards[~infos["acted"]].any() and (infos["life"][empty] == -1).all()
            assert all((infos[f"_{key}"] == infos["acted"]).all() for key in TRANSITION)
            finals = {"final_obs", "_final_obs", "final_info", "_final_info"}
            assert infos.keys() == (keys | finals if ended.any() else keys)
            if ended.any():
                np.testing.assert_array_equal(infos["_final_obs"], ended)
                np.testing.assert_array_equal(infos["_final_info"], ended)
                final = infos["final_info"]
                for row in range(10):
                    last = infos["final_obs"][row]
                    assert (last is not None) == ended[row]
                    if ended[row]:
                        np.testing.assert_array_equal(last, batch.final_obs.reshape(10, 32)[row])
                        assert final["life"][row] == life[row] and final["seed"][row] == seeds[row]
                        assert final["outcome"][row] == infos["outcome"][row] != Outcome.RUNNING
                        assert terminated[row] == (final["outcome"][row] != Outcome.MAX_STEP)
                assert all((final[f"_{key}"] == ended).all() for key in final if not key.startswith("_"))
            life = infos["life"]
    assert over >= 6 and moved_on > 0


def test_arrays_are_the_callers(closing: Closing) -> None:
    env = closing(vector_env("particles", in_process=True))
    kept, infos = env.reset(seed=0)
    copy, life = kept.copy(), infos["life"].copy()
    for _ in range(30):
        env.step(np.full((8, 2), 0.7))
    np.testing.assert_array_equal(kept, copy)
    np.testing.assert_array_equal(infos["life"], life)


def test_seeds(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=3, horizon=30))
    first, infos = env.reset(seed=5)
    assert infos["seed"].tolist() == [5, 5, 5, 6, 6, 6] and env.np_random_seed == 5
    second = env.reset()[1]["seed"]
    assert second[0] != second[3] and second[0] not in (5, 6)
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(again, first)
    assert (env.reset()[1]["seed"] == second).all()
    by_list, infos = env.reset(seed=[6, 5])
    np.testing.assert_array_equal(by_list, np.concatenate([first[3:], first[:3]]))
    lives = copo_envs.parallel_env("particles", num_agents=3, horizon=30)
    np.testing.assert_array_equal(first[:3], np.stack(list(lives.reset(seed=5)[0].values())))
    # Resets without a seed follow the sequence of the PettingZoo views, also after episodes that began by themselves.
    told = [lives.reset()[1]["agent_0"]["seed"] for _ in range(9)]
    env.reset(seed=5)
    assert [env.reset()[1]["seed"][0] for _ in range(3)] == told[:3]
    for _ in range(3):
        while not env.step(np.zeros((6, 2)))[-1]["episode_over"][0]:
            pass
    assert [env.reset()[1]["seed"][0] for _ in range(3)] == told[6:]
    listed = env.reset(seed=[None, None])[1]["seed"]  # pyright: ignore[reportArgumentType]
    assert listed[0] not in (5, 6) and listed[0] != listed[3]
    fresh = [vector_env("particles", in_process=True).reset()[1]["seed"][0] for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_a_reset_without_a_seed_goes_on_where_the_episodes_are(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=2, horizon=8, drain=False))
    driven = env.reset(seed=0)[1]["seed"][::2].tolist()
    for _ in range(16):
        infos = env.step(np.zeros((4, 2)))[4]
        if infos["episode_over"].any():
            driven += infos["seed"][::2].tolist()
    driven += env.reset()[1]["seed"][::2].tolist()
    assert len(driven) == len(set(driven)) == 8


def test_fewer_vehicles_at_reset_leave_rows_empty(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=4, horizon=20))
    obs, infos = env.reset(seed=0, options={"num_agents": 1})
    assert infos["active"].tolist() == [True, False, False, False] * 2 and not obs[1:4].any()
    for _ in range(60):  # over the ends of episodes, too
        _, _, _, _, infos = env.step(np.full((8, 2), 0.5))
        assert (infos["active"].reshape(2, 4).sum(axis=1) == 1).all()
    assert env.reset(seed=0)[1]["active"].all()


def test_actions_of_empty_rows_are_ignored(closing: Closing) -> None:
    env = closing(vector_env("particles", in_process=True, num_agents=2))
    env.reset(seed=0, options={"num_agents": 1})
    env.step(np.array([[0.1, 0.1], [np.nan, np.inf]]))


def test_refusals(closing: Closing) -> None:
    options: tuple[tuple[dict[str, Any], str], ...] = (
        ({"num_envs": 0}, "num_envs=0; use a whole number of scenes, 1 or more"),
        ({"num_envs": 2.0}, "num_envs=2.0; use"),
        ({"in_process": None}, "in_process=None; use True or False"),
        ({"num_envs": 2, "in_process": True}, "in_process=True with num_envs=2"),
        ({"render_mode": "human"}, "unknown render_mode 'human'; use None or 'rgb_array'"),
        ({"num_agents": 33}, "num_agents=33 does not fit particles"),
        ({"cars": 33}, "unknown option 'cars' for particles"),
    )
    for arguments, sentence in options:
        with pytest.raises(SceneError, match=sentence):
            vector_env("particles", **arguments)
    env = vector_env("particles", in_process=True, num_agents=2)
    for call in (lambda: env.step(np.zeros((2, 2))), env.positions):
        with pytest.raises(SceneError, match=r"call reset\(\) first"):
            call()
    resets: tuple[tuple[dict[str, Any], str], ...] = (
        ({"seed": -1}, "seed=-1 at reset; use a whole number"),
        ({"seed": [1, 2]}, "2 seeds for 1 scenes; give one each"),
        ({"seed": [None, None]}, "2 seeds for 1 scenes"),
        ({"seed": 1.5}, "seed=1.5 at reset"),
        ({"seed": 2**63}, f"seed={2**63} at reset; use a whole number of 0 or more, below 2\\*\\*63, or None"),
        ({"seed": np.array("3")}, r"seed=array\('3'.* at reset"),
        ({"options": "num_agents"}, "reset options are 'num_agents'; use a dictionary"),
        ({"options": {"num_agents": 9}}, "num_agents=9 at reset"),
        ({"options": {"num_agents": "2"}}, "num_agents='2' at reset"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, "'reset_mask'.* they reset themselves"),
        ({"options": {"maps": "moon"}}, "unknown maps 'moon' at reset; choose one of train, heldout"),
    )
    for arguments, sentence in resets:
        with pytest.raises(SceneError, match=sentence):
            env.reset(**arguments)
    with pytest.warns(UserWarning, match="unknown reset option 'cars' is ignored"):
        env.reset(seed=1, options={"cars": 2})
    with pytest.raises(SceneError, match=r"actions have shape \(3, 2\); 1 scenes of 2 slots take \(2, 2\)"):
        env.step(np.zeros((3, 2)))
    with pytest.raises(SceneError, match="the action of slot 1 is"):
        env.step(np.array([[0, 0], [0, np.nan]]))
    for actions in ([[0.0, 0.0], [0.0]], {"a": 1}, "left", None, np.zeros((2, 2), complex)):
        with pytest.raises(SceneError, match=r"actions are no array of numbers; use \(2, 2\) of them"):
            env.step(actions)  # pyright: ignore[reportArgumentType]
    env.step(np.full((2, 2), 1e39))  # finite, and beyond what float32 can hold
    env.close()
    env.close()
    for call in (lambda: env.step(np.zeros((2, 2))), env.reset):
        with pytest.raises(SceneError, match="closed"):
            call()


def test_pictures(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=3, render_mode="rgb_array"))
    env.reset(seed=0)
    first = env.render()
    assert first is not None and len(first) == 2
    assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in first)
    for _ in range(20):
        env.step(np.full((6, 2), 0.5))
    later = env.render()
    assert later is not None and not np.array_equal(later[0], first[0]) and not np.array_equal(later[0], later[1])


def test_a_picture_shows_the_endings_since_the_last_one(closing: Closing) -> None:
    seldom, always = (closing(vector_env("particles", in_process=True, render_mode="rgb_array")) for _ in range(2))
    for env in (seldom, always):
        env.reset(seed=0)
        env.render()
    rng, shown = np.random.default_rng(0), 0
    for step in range(1, 121):
        moves = forwards(seldom, rng)
        _, _, terminated, _, _ = seldom.step(moves)
        always.step(moves)
        picture = always.render()
        if step % 3 == 0:
            np.testing.assert_array_equal(seldom.render(), picture)
        else:
            shown += int(terminated.any())
    assert shown >= 3


def test_gymnasiums_wrappers(closing: Closing) -> None:
    env = closing(vector_env("particles", in_process=True, num_agents=4, horizon=60))
    wrapped: Any = DictInfoToList(RecordEpisodeStatistics(env))
    wrapped.reset(seed=0)
    rng, returns, lengths = np.random.default_rng(0), np.zeros(4), 0
    for _ in range(200):
        _, rewards, terminated, truncated, infos = wrapped.step(forwards(env, rng))
        returns += rewards
        for row in np.nonzero(terminated | truncated)[0]:
            assert infos[row]["episode"]["r"] == pytest.approx(returns[row])
            assert infos[row]["final_info"]["outcome"] == infos[row]["outcome"]
            returns[row] = 0
            lengths += 1
    assert lengths > 10


def test_a_scene_whose_worker_dies_goes_on(closing: Closing) -> None:
    env = closing(vector_env("particles", 2, num_agents=4, horizon=50))
    obs, infos = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for step in range(80):
        before, active, life = obs, infos["active"], infos["life"]
        if step == 40:
            kill(env._scenes._workers[0])
            with pytest.warns(WorkerRestartWarning, match="killed by SIGKILL"):
                obs, rewards, terminated, truncated, infos = env.step(forwards(env, rng))
            assert infos["worker_restarted"].tolist() == [True] * 4 + [False] * 4
            np.testing.assert_array_equal(truncated[:4], active[:4])
            assert not terminated[:4].any() and not rewards[:4].any() and infos["active"][:4].all()
            for row in np.nonzero(active[:4])[0]:
                np.testing.assert_array_equal(infos["final_obs"][row], before[row])
                assert infos["final_info"]["worker_restarted"][row] and infos["final_info"]["outcome"][row] == 0
                assert infos["final_info"]["life"][row] == life[row]
            assert infos["episode_over"][:4].all() and not infos["episode_step"][:4].any()
        else:
            obs, *_, infos = env.step(forwards(env, rng))
            assert not infos["worker_restarted"].any()
    twin = closing(vector_env("particles", 2, num_agents=4, horizon=50))
    undisturbed, _ = twin.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(80):
        undisturbed, *_ = twin.step(forwards(twin, rng))
    np.testing.assert_array_equal(undisturbed[4:], obs[4:])  # the other scene lost nothing


def test_it_can_be_pickled_until_it_starts(closing: Closing) -> None:
    env = closing(pickle.loads(pickle.dumps(vector_env("particles", num_agents=2))))
    env.reset(seed=0)
    env.step(np.zeros((2, 2)))


@pytest.mark.simulator
def test_metadrive(closing: Closing) -> None:
    env: Any = closing(gymnasium.make_vec("copo_envs/ParkingLot-v0", num_envs=2, num_agents=4, horizon=40))  # pyright: ignore
    obs, infos = env.reset(seed=3)
    rng, ended, over = np.random.default_rng(0), 0, 0
    for _ in range(100):
        obs, rewards, terminated, truncated, infos = env.step(forwards(env, rng))
        assert env.observation_space.contains(obs)
        assert not obs[~infos["active"]].any() and not rewards[~infos["acted"]].any()
        ended += int((terminated | truncated).sum())
        over += int(infos["episode_over"].reshape(2, 4)[:, 0].sum())
    assert ended > 8 and over >= 2


@pytest.mark.simulator
def test_held_out_maps_stay_held_out_over_automatic_resets(closing: Closing) -> None:
    env = closing(
        vector_env("pg_map", in_process=True, num_agents=2, horizon=3, drain=False, num_scenarios=2, num_heldout=2)
    )
    heldout = {"maps": "heldout"}
    obs, infos = env.reset(seed=0, options=heldout)
    begun = [(int(infos["seed"][0]), int(infos["map_seed"][0]), obs)]
    while len(begun) < 4:
        obs, _, _, _, infos = env.step(np.zeros((2, 2)))
        if infos["episode_over"].any():
            begun.append((int(infos["seed"][0]), int(infos["map_seed"][0]), obs))
    assert {number for _, number, _ in begun[1:]} == {1_000_000, 1_000_001}
    # What is said of the map could be wrong; what is seen on it shows where an episode takes place.
    for seed, number, seen in begun:
        obs, infos = env.reset(seed=seed, options=heldout)
        assert (infos["map_seed"] == number).all()
        np.testing.assert_array_equal(seen, obs)
    on_train, infos = env.reset(seed=begun[-1][0])
    assert infos["map_seed"][0] in (5000, 5001) and not np.array_equal(on_train, begun[-1][2])

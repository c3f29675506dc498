"""Many scenes step as one, begin new episodes by themselves, and survive the death of a worker."""

from __future__ import annotations

import pickle
import signal
import threading
from dataclasses import fields

import numpy as np
import pytest

import copo_envs
from copo_envs.episodes import AutoReset, EpisodeSeeds
from copo_envs.local import local_simulator
from copo_envs.particles import ParticlesSimulator
from copo_envs.process import WorkerDied, WorkerError
from copo_envs.scene_vector import SceneVector, WorkerRestartWarning
from copo_envs.scenes import SceneError, SceneOptions, scene_options
from tests.envs.workers import OPTIONS, actions, alive, assert_same, kill, process_of

pytestmark = pytest.mark.slow


def test_the_next_episode_begins_in_the_step_that_ended_the_last():
    stepper, plain = AutoReset(ParticlesSimulator(OPTIONS)), ParticlesSimulator(OPTIONS)
    seeds = np.random.default_rng(9)
    assert_same(stepper.reset(EpisodeSeeds(9)), plain.reset(9))
    rng = np.random.default_rng(0)
    episodes = 0
    while episodes < 2:
        move = actions(rng)
        batch, alone = stepper.step(move), plain.step(move)
        assert batch.episode_over == alone.episode_over
        if alone.episode_over:
            episodes += 1
            for name in ("acted", "reward", "terminated", "truncated", "outcome", "final_obs", "acted_life"):
                np.testing.assert_array_equal(getattr(batch, name), getattr(alone, name))
            assert batch.spawned.all() and batch.episode_step == 0
            plain.begin_episode(int(seeds.integers(2**31)))
            np.testing.assert_array_equal(batch.obs, plain.batch.obs)
        else:
            assert_same(batch, alone)


def test_an_environment_of_a_vector_follows_its_seed_alone():
    seeds, rng = [4, 8], np.random.default_rng(0)
    with SceneVector(OPTIONS, 2) as vector, SceneVector(OPTIONS, 0) as first, SceneVector(OPTIONS, 0) as second:
        assert (vector.num_envs, first.num_envs, vector.num_slots, vector.obs_size) == (2, 1, 5, 32)
        vector.reset(seeds)
        alone = [one.reset([seed]) for one, seed in zip((first, second), seeds, strict=True)]
        batch, over = vector.batch, 0
        for _ in range(150):
            move = actions(rng, 2)
            for env, one in enumerate((first, second)):
                alone[env] = one.step(move[env : env + 1])
            assert vector.step(move) is batch
            for env in range(2):
                assert_same(batch.row(env), alone[env].row(0))
            over += int(batch.episode_over.sum())
        assert over >= 4  # and each of them begins its next episodes by itself
        assert not np.array_equal(batch.obs[0], batch.obs[1])
        again = vector.reset(seeds).obs.copy()
        np.testing.assert_array_equal(again[0], first.reset([4]).obs[0])


@pytest.mark.parametrize("num_envs", [0, 3])
def test_first_episodes_can_be_cut_so_that_others_begin_at_different_times(num_envs: int):
    """Until the cut everything is as without it; then a vehicle that lives on is truncated without an outcome, its last
    observation is kept, and the episode of the next seed begins."""
    cuts = [7, 0, 11][: max(1, num_envs)]
    seeds = [4, 5, 6][: max(1, num_envs)]
    rng = np.random.default_rng(0)
    with SceneVector(OPTIONS, num_envs) as cut, SceneVector(OPTIONS, num_envs) as whole:
        cut.reset(seeds, first_steps=cuts)
        whole.reset(seeds)
        begun = {env: AutoReset(local_simulator(OPTIONS)) for env, steps in enumerate(cuts) if steps}
        for step in range(1, 15):
            moves = actions(rng, len(seeds))
            one, other = cut.step(moves), whole.step(moves)
            for env, steps in enumerate(cuts):
                row, twin = one.row(env), other.row(env)
                if not steps or step < steps:
                    assert_same(row, twin)
                elif step == steps:
                    living = twin.acted & ~twin.terminated & ~twin.truncated
                    assert living.sum() >= 2 and row.episode_over and not twin.episode_over
                    np.testing.assert_array_equal(row.truncated, twin.truncated | living)
                    np.testing.assert_array_equal(row.final_obs[living], twin.obs[living])
                    assert (row.outcome[living] == 0).all()
                    for name in ("acted", "terminated", "reward", "outcome", "acted_position"):
                        np.testing.assert_array_equal(getattr(row, name), getattr(twin, name))
                    assert cut.episode_seed[env] == EpisodeSeeds(seeds[env]).advance()
                    first = begun[env].reset(EpisodeSeeds(int(cut.episode_seed[env])))
                    for name in ("active", "obs", "position", "spawned"):
                        np.testing.assert_array_equal(getattr(row, name), getattr(first, name))
                else:
                    goes_on = begun[env].step(moves[env])
                    for name in ("acted", "reward", "obs", "terminated", "truncated"):
                        np.testing.assert_array_equal(getattr(row, name), getattr(goes_on, name))


def test_an_episode_that_ends_before_its_cut_is_not_cut():
    with SceneVector(OPTIONS, 0) as cut, SceneVector(OPTIONS, 0) as whole:
        rng = np.random.default_rng(1)
        cut.reset([3], first_steps=[70])  # an episode lasts at most 30 + 30 steps
        whole.reset([3])
        for _ in range(150):
            moves = actions(rng, 1)
            assert_same(cut.step(moves), whole.step(moves))


def test_a_cut_waits_for_a_step_that_somebody_lives_on_after():
    """Or nothing would tell that the episode was cut, and it would count as a whole one."""
    alone = scene_options("particles", num_agents=1, horizon=300)
    moves = np.array([[[0.0, 1.0]]], np.float32)
    with SceneVector(alone, 0) as whole, SceneVector(alone, 0) as cut:
        whole.reset([5])
        end = next(step for step in range(1, 300) if whole.step(moves).terminated.any())
        assert not whole.batch.episode_over.any()  # its successor goes on
        cut.reset([5], first_steps=[end])
        batch = cut.batch
        for _ in range(end):
            cut.step(moves)
        assert batch.terminated.all() and not batch.episode_over.any()
        while not batch.episode_over.any():
            cut.step(moves)
        assert batch.truncated.all() and (batch.outcome == 0).all()


@pytest.mark.parametrize("first_steps", [[1], [1, -1], [1, 2, 3]])
def test_impossible_cuts_are_refused(first_steps: list[int]):
    with SceneVector(OPTIONS, 2) as scenes, pytest.raises(SceneError, match="give 2 numbers of 0 or more"):
        scenes.reset([1, 2], first_steps=first_steps)


def test_a_worker_that_died_is_not_cut_again():
    with SceneVector(OPTIONS, 2, restart=True) as scenes:
        scenes.reset([1, 2], first_steps=[0, 9])
        rng = np.random.default_rng(0)
        for _ in range(3):
            scenes.step(actions(rng, 2))
        process_of(scenes._workers[1]).kill()
        with pytest.warns(WorkerRestartWarning):
            assert scenes.step(actions(rng, 2)).episode_over.tolist() == [False, True]
        assert not any(scenes.step(actions(rng, 2)).episode_over.any() for _ in range(15))


def test_a_vector_refuses_and_goes_on():
    with SceneVector(OPTIONS, 2) as vector, SceneVector(OPTIONS, 0) as twin:
        with pytest.raises(SceneError, match="1 seeds for 2 environments; give one each"):
            vector.reset([1])
        vector.reset([1, 2])
        with pytest.raises(SceneError, match="num_agents=9"):
            vector.reset([1, 2], 9)
        vector.reset([1, 2])
        bad = np.zeros((2, 5, 2))
        bad[1, 3, 0] = np.nan
        with pytest.raises(SceneError, match="the action of slot 3"):
            vector.step(bad)
        batch = vector.step(np.zeros((2, 5, 2)))
        assert batch.episode_step.tolist() == [1, 1]  # neither is a step ahead
        twin.reset([1])
        assert_same(batch.row(0), twin.step(np.zeros((1, 5, 2))).row(0))
    with pytest.raises(SceneError, match="num_envs=-1; use 1 or more"):
        SceneVector(OPTIONS, -1)


def test_a_vector_survives_the_death_of_a_worker():
    with SceneVector(OPTIONS, 2) as vector, SceneVector(OPTIONS, 0) as twin:
        vector.reset([1, 2])
        process_of(vector._workers[0]).kill()
        process_of(vector._workers[0]).wait()
        with pytest.raises(WorkerError, match="SIGKILL"):
            vector.step(np.zeros((2, 5, 2)))
        batch = vector.reset([3, 4])
        for env, seed in enumerate((3, 4)):
            assert_same(batch.row(env), twin.reset([seed]).row(0))


def test_a_death_costs_the_others_nothing():
    # Without `restart`, too: the step that the others took is theirs, and their replies are not left in the pipes.
    with SceneVector(OPTIONS, 2) as vector, SceneVector(OPTIONS, 0) as twin:
        vector.reset([1, 2])
        twin.reset([2])
        kill(vector._workers[0])
        with pytest.raises(WorkerError, match="SIGKILL"):
            vector.step(np.full((2, 5, 2), 0.5))
        assert_same(vector.batch.row(1), twin.step(np.full((1, 5, 2), 0.5)).row(0))
        assert process_of(vector._workers[1]).poll() is None


@pytest.mark.parametrize("when", ["before the step", "in the step"])
def test_a_dead_worker_is_replaced(when: str):
    rng, begun = np.random.default_rng(0), 2
    with (
        SceneVector(OPTIONS, 3, restart=True) as vector,
        SceneVector(OPTIONS, 0) as first,
        SceneVector(OPTIONS, 0) as last,
    ):
        vector.reset([1, 2, 3])
        first.reset([1])
        last.reset([3])
        for step in range(60):
            before = {f.name: getattr(vector.batch, f.name)[1].copy() for f in fields(vector.batch)}
            move = actions(rng, 3)
            if step == 20 and when == "in the step":
                process_of(vector._workers[1]).send_signal(signal.SIGSTOP)  # it does not read its command any more
                threading.Timer(0.2, process_of(vector._workers[1]).kill).start()
            elif step == 20:
                kill(vector._workers[1])
            if step == 20:
                with pytest.warns(WorkerRestartWarning, match="environment 1, step 21: .* died .killed by SIGKILL"):
                    vector.step(move)
                assert vector.restarted.tolist() == [False, True, False]
                cut, alive_before = vector.batch.row(1), before["active"]
                for name in ("acted", "truncated"):
                    np.testing.assert_array_equal(getattr(cut, name), alive_before)
                assert not cut.terminated.any() and not cut.reward.any() and not cut.outcome.any()
                np.testing.assert_array_equal(cut.final_obs, before["obs"])
                np.testing.assert_array_equal(cut.acted_life, before["life"])
                np.testing.assert_array_equal(cut.acted_position, before["position"])
                assert cut.episode_over and cut.episode_step == 0 and cut.spawned.all() and cut.active.all()
                begun = int(vector.episode_seed[1])
                np.testing.assert_array_equal(cut.obs, ParticlesSimulator(OPTIONS).reset(begun).obs)
            else:
                vector.step(move)
                assert not vector.restarted.any()
            assert_same(vector.batch.row(0), first.step(move[:1]).row(0))
            assert_same(vector.batch.row(2), last.step(move[2:]).row(0))
        assert begun != 2


def test_a_replacement_is_determined_by_the_seed_and_the_death():
    seeds = []
    for _ in range(2):
        with SceneVector(OPTIONS, 1, restart=True) as vector:
            vector.reset([7])
            kill(vector._workers[0])
            with pytest.warns(WorkerRestartWarning):
                vector.step(np.zeros((1, 5, 2)))
            seeds.append(int(vector.episode_seed[0]))
    assert seeds[0] == seeds[1] != 7


def test_a_worker_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch):
    still = np.zeros((1, 5, 2))
    with SceneVector(OPTIONS, 1, restart=True) as vector:
        vector.reset([7])
        for _ in range(2):
            kill(vector._workers[0])
            with pytest.warns(WorkerRestartWarning):
                vector.step(still)
        kill(vector._workers[0])
        with pytest.raises(WorkerError, match="environment 0 is given up: its worker has died 3 times within 1000"):
            vector.step(still)
    monkeypatch.setattr(SceneVector, "DEATH_WINDOW", 5)
    with SceneVector(OPTIONS, 1, restart=True) as vector:  # now and then is fine
        vector.reset([7])
        for _ in range(4):
            kill(vector._workers[0])
            with pytest.warns(WorkerRestartWarning):
                vector.step(still)
            for _ in range(5):
                vector.step(still)


def test_a_worker_that_died_between_episodes_is_replaced_at_a_reset():
    with SceneVector(OPTIONS, 2, restart=True) as vector, SceneVector(OPTIONS, 0) as twin:
        vector.reset([1, 2])
        kill(vector._workers[0])
        with pytest.warns(WorkerRestartWarning):
            batch = vector.reset([3, 4])
        for env, seed in enumerate((3, 4)):
            assert_same(batch.row(env), twin.reset([seed]).row(0))


@pytest.mark.parametrize("call", ["set_num_agents", "rule_actions", "scenery"])
def test_a_death_that_another_call_meets_is_mended_by_the_next_step(call: str):
    still = np.zeros((2, 5, 2))
    with SceneVector(OPTIONS, 2, restart=True) as vector, SceneVector(OPTIONS, 0) as twin:
        vector.reset([1, 2])
        twin.reset([2])
        kill(vector._workers[0])
        if call == "set_num_agents":
            vector.set_num_agents(3)
        elif call == "rule_actions":
            assert not vector.rule_actions()[0].any() and vector.rule_actions()[1].any()
        else:
            with pytest.raises(WorkerDied, match="killed by SIGKILL"):
                vector.scenery(0)
        with pytest.warns(WorkerRestartWarning):
            batch = vector.step(still)
        assert vector.restarted.tolist() == [True, False] and batch.truncated[0].all()
        assert batch.active[0].sum() == (3 if call == "set_num_agents" else 5)
        assert_same(batch.row(1), twin.step(still[:1]).row(0))


def test_an_error_in_the_simulation_is_no_death():
    broken = SceneOptions("particles", num_agents=2, horizon="soon", max_lives=10)  # pyright: ignore[reportArgumentType]
    with SceneVector(broken, 1, restart=True) as vector:
        vector.reset([0])
        with pytest.raises(WorkerError, match=r"the worker of particles failed:\n(?s:.*)horizon"):
            vector.step(np.zeros((1, 2, 2)))


def test_episode_seeds_are_those_of_the_pettingzoo_views():
    env = copo_envs.parallel_env("particles", num_agents=5, horizon=30)
    with SceneVector(OPTIONS, 2) as vector:
        vector.reset([11, 12])
        seeds = [{int(seed): None for seed in [vector.episode_seed[e]]} for e in range(2)]
        for _ in range(200):
            vector.step(np.zeros((2, 5, 2)))
            for e in range(2):
                seeds[e][int(vector.episode_seed[e])] = None
    assert all(len(episodes) > 3 for episodes in seeds)
    for e, first in enumerate((11, 12)):
        told = [env.reset(seed=first)[1]["agent_0"]["seed"]]
        told += [env.reset()[1]["agent_0"]["seed"] for _ in range(len(seeds[e]) - 1)]
        assert list(seeds[e]) == told


def test_a_vector_can_be_pickled_until_it_starts():
    with pickle.loads(pickle.dumps(SceneVector(OPTIONS, 1))) as vector, SceneVector(OPTIONS, 0) as twin:
        with pytest.raises(SceneError, match="before reset"):
            vector.step(np.zeros((1, 5, 2)))
        assert_same(vector.reset([3]).row(0), twin.reset([3]).row(0))
        with pytest.raises(TypeError, match="pickle it before the first reset"):
            pickle.dumps(vector)


def test_closing_a_vector_ends_its_workers():
    vector = SceneVector(OPTIONS, 2)
    vector.reset([1, 2])
    pids = [process_of(worker).pid for worker in vector._workers]
    vector.close()
    assert not any(alive(pid) for pid in pids)

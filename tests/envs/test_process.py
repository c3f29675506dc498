"""A scene in a worker process is the scene itself; a worker that dies says how; many scenes step as one."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs
from copo_envs.particles import ParticlesSimulator
from copo_envs.process import (
    AutoReset,
    DeferredSimulator,
    EpisodeSeeds,
    ProcessSimulator,
    SceneVector,
    WorkerDied,
    WorkerError,
    WorkerRestartWarning,
    local_simulator,
    make_simulator,
)
from copo_envs.scenes import SceneError, SceneOptions, scene_options
from copo_envs.step_batch import Simulator, StepBatch
from copo_envs.testing import check_simulator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = scene_options("particles", num_agents=5, horizon=30)


def actions(rng: np.random.Generator, *lead: int) -> np.ndarray:
    """Mostly full throttle, so that lives end."""
    steering, throttle = rng.uniform(-0.3, 0.3, (*lead, 5)), rng.uniform(0, 1, (*lead, 5))
    return np.stack([steering, throttle], axis=-1).astype(np.float32)


def assert_same(one: StepBatch, other: StepBatch) -> None:
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), field.name)


def process_of(simulator: ProcessSimulator) -> subprocess.Popen[bytes]:
    process = simulator._process
    assert process is not None
    return process


def alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope="module")
def worker() -> Any:
    simulator = ProcessSimulator(OPTIONS)
    yield simulator
    simulator.close()


def test_a_worker_computes_what_the_simulator_does(worker: ProcessSimulator):
    local, rng = ParticlesSimulator(OPTIONS), np.random.default_rng(0)
    assert (worker.num_slots, worker.obs_size, worker.max_lives) == (local.num_slots, 32, local.max_lives)
    for seed, count in ((3, None), (4, 2)):
        assert_same(worker.reset(seed, count), local.reset(seed, count))
        while not local.batch.episode_over:
            move = actions(rng)
            assert_same(worker.step(move), local.step(move))
        assert_same(worker.begin_episode(seed + 1), local.begin_episode(seed + 1))
    assert worker.scenery()["lines"][0][1:] == local.scenery()["lines"][0][1:]
    np.testing.assert_array_equal(worker.wrecks(), local.wrecks())


def test_a_worker_keeps_the_contract_of_a_simulator(worker: ProcessSimulator):
    check_simulator(worker)


def test_a_refusal_is_the_simulators_own_and_the_worker_lives_on(worker: ProcessSimulator):
    worker.reset(1)
    process = process_of(worker)
    with pytest.raises(SceneError, match="num_agents=9 at reset"):
        worker.reset(1, 9)
    with pytest.raises(SceneError, match=r"actions have shape \(2, 2\)"):
        worker.step(np.zeros((2, 2)))
    with pytest.raises(SceneError, match="the action of slot 0 is"):
        worker.step(np.full((5, 2), np.nan))
    assert process_of(worker) is process
    assert_same(worker.reset(1), ParticlesSimulator(OPTIONS).reset(1))


def test_before_its_first_reset_a_worker_does_not_start():
    simulator = ProcessSimulator(OPTIONS)
    for call in (lambda: simulator.step(np.zeros((5, 2))), simulator.scenery):
        with pytest.raises(SceneError, match="reset"):
            call()
    assert simulator._process is None or process_of(simulator).poll() is None
    simulator.close()
    simulator.close()  # twice is fine


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_says_how_it_died_and_can_be_reset(
    closing: Callable[[ProcessSimulator], ProcessSimulator], number: signal.Signals
):
    simulator = closing(ProcessSimulator(OPTIONS))
    simulator.reset(1)
    process_of(simulator).send_signal(number)
    process_of(simulator).wait()
    with pytest.raises(WorkerError, match=f"particles died \\(killed by {number.name}\\).*reset to begin another"):
        simulator.step(np.zeros((5, 2)))
    assert_same(simulator.reset(2), ParticlesSimulator(OPTIONS).reset(2))


@pytest.mark.parametrize("view", [copo_envs.parallel_env, copo_envs.slots_env])
def test_the_pettingzoo_views_say_so_too(view: Any, closing: Callable[[Any], Any]):
    env, undisturbed = (closing(view("particles", in_process=False, num_agents=3)) for _ in range(2))
    env.reset(seed=1)
    kill(env._simulator)
    still = dict.fromkeys(env.agents, np.zeros(2))
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"the worker process of particles died .* its episode is lost: reset"):
            env.step(still)
    for agent, obs in undisturbed.reset(seed=2)[0].items():
        np.testing.assert_array_equal(env.reset(seed=2)[0][agent], obs)


def test_a_worker_killed_in_the_middle_of_a_step(closing: Callable[[ProcessSimulator], ProcessSimulator]):
    simulator = closing(ProcessSimulator(OPTIONS))
    simulator.reset(1)
    process_of(simulator).send_signal(signal.SIGSTOP)
    simulator.step_async(np.zeros((5, 2)))  # it will not be read any more
    process_of(simulator).kill()
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        simulator.receive()


def test_signals_to_the_group_are_for_the_parent(worker: ProcessSimulator):
    worker.reset(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        process_of(worker).send_signal(number)
    worker.step(np.zeros((5, 2)))
    assert process_of(worker).poll() is None


def test_an_error_in_the_worker_arrives_with_its_traceback():
    broken = SceneOptions("particles", num_agents=2, horizon="soon", max_lives=10)  # pyright: ignore[reportArgumentType]
    simulator = ProcessSimulator(broken)
    simulator.reset(0)
    with pytest.raises(WorkerError, match=r"the worker of particles failed:\n(?s:.*)horizon"):
        simulator.step(np.zeros((2, 2)))
    assert simulator._process is None


def test_a_worker_starts_after_metadrives_3d_view(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONUTF8", "on")  # as `initialize_asset_loader` leaves it, and a fatal error to Python
    simulator = ProcessSimulator(OPTIONS)
    assert simulator.reset(0).active.any()
    simulator.close()


def test_closing_ends_the_worker():
    simulator = ProcessSimulator(OPTIONS)
    simulator.reset(1)
    pid = process_of(simulator).pid
    simulator.close()
    assert not alive(pid)


def test_a_forgotten_worker_ends():
    simulator = ProcessSimulator(OPTIONS)
    simulator.reset(1)
    pid = process_of(simulator).pid
    del simulator
    assert wait_until_gone(pid)


def test_a_scene_can_be_pickled_until_it_starts():
    simulator = ProcessSimulator(OPTIONS)
    copy = pickle.loads(pickle.dumps(simulator))
    assert_same(copy.reset(5), ParticlesSimulator(OPTIONS).reset(5))
    with pytest.raises(TypeError, match="cannot be pickled; make it and pickle it before the first reset"):
        pickle.dumps(copy)
    copy.close()
    again = pickle.loads(pickle.dumps(copy))  # closed is as good as new
    assert_same(again.reset(5), ParticlesSimulator(OPTIONS).reset(5))
    again.close()
    deferred = make_simulator(OPTIONS)
    assert_same(pickle.loads(pickle.dumps(deferred)).reset(5), ParticlesSimulator(OPTIONS).reset(5))


def test_where_a_simulator_lives():
    assert isinstance(local_simulator(OPTIONS), ParticlesSimulator)
    assert isinstance(make_simulator(OPTIONS, in_process=True), ParticlesSimulator)
    assert isinstance(make_simulator(OPTIONS, in_process=False), ProcessSimulator)
    assert isinstance(make_simulator(OPTIONS), DeferredSimulator)


def test_a_simulator_that_decides_at_its_first_reset():
    simulator = make_simulator(OPTIONS)
    assert not simulator.batch.active.any() and len(simulator.wrecks()) == 0
    for call in (lambda: simulator.step(np.zeros((5, 2))), simulator.scenery):
        with pytest.raises(SceneError, match="first"):
            call()
    check_simulator(simulator)
    local = ParticlesSimulator(OPTIONS)
    assert_same(simulator.reset(1), local.reset(1))
    assert_same(simulator.step(np.zeros((5, 2))), local.step(np.zeros((5, 2))))
    assert_same(simulator.begin_episode(2), local.begin_episode(2))
    simulator.close()
    simulator.close()


def test_the_next_episode_begins_in_the_step_that_ended_the_last():
    stepper, plain = AutoReset(ParticlesSimulator(OPTIONS)), ParticlesSimulator(OPTIONS)
    seeds = np.random.default_rng(9)
    assert_same(stepper.reset(9), plain.reset(9))
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
                    first = begun[env].reset(int(cut.episode_seed[env]))
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


def kill(worker: ProcessSimulator) -> None:
    process_of(worker).kill()
    process_of(worker).wait()


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


SCRIPT = """\
from copo_envs.process import SceneVector
from copo_envs.scenes import scene_options
import numpy as np, os, signal

print("script")
scenes = SceneVector(scene_options("particles", num_agents=2), 2)
scenes.reset([1, 2])
scenes.step(np.zeros((2, 2, 2)))
print(*(worker._process.pid for worker in scenes._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_script_needs_no_main_guard_and_its_workers_end_when_it_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, pids = result.stdout.splitlines()  # once: no worker has run the script again
    assert first == "script" and result.returncode == -signal.SIGKILL and not result.stderr
    assert len(pids.split()) == 2 and all(wait_until_gone(int(pid)) for pid in pids.split())


def test_what_lies_in_the_current_folder_is_none_of_a_workers_modules(tmp_path: Path):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    (here / "random.py").write_text("raise SystemExit('the wrong random')\n")
    (elsewhere / "script.py").write_text(
        "import copo_envs\n"
        "env = copo_envs.parallel_env('particles', in_process=False)\n"
        "print(len(env.reset(seed=0)[0]))\n"
    )
    result = subprocess.run(
        [sys.executable, str(elsewhere / "script.py")],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "8\n", "")


FORKED = """\
import os, time
import numpy as np
import copo_envs
from copo_envs.scenes import SceneError

env = copo_envs.vector_env("particles", 2, num_agents=2)
env.reset(seed=0)
ready, done = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    try:
        env.step(np.zeros((4, 2)))
    except SceneError as error:
        os.write(ready[1], str(error).encode())
    env.close()  # not its workers'
    os.read(done[0], 1)
    os._exit(0)
print(os.read(ready[0], 1000).decode())
print(int(env.step(np.ones((4, 2)))[4]["life_steps"].max()))
began = time.monotonic()
env.close()
print("soon" if time.monotonic() - began < 3 else "late")
os.write(done[1], b".")
os.waitpid(child, 0)
"""


def test_a_forked_process_leaves_the_workers_to_the_one_that_started_them() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 and result.stderr == ""
    refusal, steps, closed = result.stdout.splitlines()
    assert refusal.startswith("this environment belongs to process") and refusal.endswith("make one here")
    assert (steps, closed) == ("1", "soon")


FORGETFUL = """\
import threading
import copo_envs

envs = [copo_envs.parallel_env("particles", in_process=False), copo_envs.vector_env("particles", 2)]
for env in envs:
    env.reset(seed=0)
threading.kept = envs  # they go when modules do, late
print(envs[0]._simulator._process.pid, *(worker._process.pid for worker in envs[1]._scenes._workers))
"""


def test_a_script_that_closes_nothing_ends_quietly_and_so_do_its_workers() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORGETFUL],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 and result.stderr == ""
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 3 and not any(alive(pid) for pid in pids)


def test_simulators_share_one_protocol():
    made: list[Simulator] = [ParticlesSimulator(OPTIONS), ProcessSimulator(OPTIONS), make_simulator(OPTIONS)]
    assert all(simulator.num_slots == 5 for simulator in made)

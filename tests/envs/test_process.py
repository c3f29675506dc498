"""A scene in a worker process is the scene itself; a worker that dies says how."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import copo_envs
from copo_envs.local import local_simulator
from copo_envs.make import DeferredSimulator, make_simulator
from copo_envs.particles import ParticlesSimulator
from copo_envs.process import ProcessSimulator, WorkerDied, WorkerError
from copo_envs.scenes import SceneError, SceneOptions, scene_options
from copo_envs.step_batch import Simulator
from copo_envs.testing import check_simulator
from tests.envs.workers import OPTIONS, actions, alive, assert_same, kill, process_of, wait_until_gone

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_scene_that_cannot_be_made_is_an_error_and_no_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "metadrive"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    simulator = ProcessSimulator(scene_options("intersection", num_agents=2))
    with pytest.raises(WorkerError, match="half of it is missing") as failed:
        simulator.reset(0)
    assert not isinstance(failed.value, WorkerDied)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file is what two processes share")
def test_a_full_folder_for_temporary_files_is_no_matter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.TemporaryFile", None)
    simulator = ProcessSimulator(OPTIONS)
    assert simulator.reset(0).active.any()
    simulator.close()


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


def test_closing_ends_a_worker_that_does_not_react():
    simulator = ProcessSimulator(OPTIONS)
    simulator.reset(1)
    process = process_of(simulator)
    process.send_signal(signal.SIGSTOP)
    closing = threading.Thread(target=simulator.close, daemon=True)  # or a close that waits for ever stops all tests
    closing.start()
    closing.join(timeout=20)
    try:
        assert not closing.is_alive() and not alive(process.pid)
    finally:
        process.kill()


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


SCRIPT = """\
from copo_envs.scene_vector import SceneVector
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

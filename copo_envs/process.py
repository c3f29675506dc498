"""The same simulator in a worker process.

A worker is a fresh interpreter that shares one block of memory with its parent: the arrays of a `StepBatch` and the
actions. Only short messages go through the pipe. Workers start at the first reset, so nothing that has not started yet
stops an environment from being pickled; they end when their parent does, and whoever it has forked since. A process
that was forked from the parent cannot use its workers.
A user's script needs no `if __name__ == "__main__"` guard, as the worker never imports it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from copo_envs.episodes import AutoReset
from copo_envs.local import local_simulator
from copo_envs.scenes import SceneError, SceneOptions, check_actions, get_scene
from copo_envs.step_batch import ACTION_SIZE, StepBatch

# `python -m` would look for modules in the current folder first, where a random.py, say, would be taken for Python's.
_WORKER = "import sys; sys.path[:1] == [''] and sys.path.pop(0); from copo_envs.process import main; main()"


class WorkerError(RuntimeError):
    """A worker process died or failed. What it was simulating is lost; the message says how it ended."""


class WorkerDied(WorkerError):
    """The process ended from outside, killed by a signal say, and not by an error in the simulation."""


class ProcessSimulator:
    """A `Simulator` that lives in a worker process.

    Args:
        options: from `scene_options`.
        auto_reset: begin the next episode by itself, see `AutoReset`.
    """

    def __init__(self, options: SceneOptions, auto_reset: bool = False):
        self.options = options
        self.num_slots = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.max_lives = options.max_lives
        self.batch = StepBatch.zeros(self.num_slots, self.obs_size)
        self._auto_reset = auto_reset
        self._actions = np.zeros((self.num_slots, ACTION_SIZE), np.float32)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._end: Callable[[], Any] | None = None
        """Ends the worker; calls itself when this object or the interpreter goes."""
        self._owner = 0
        """The process that has started the worker."""
        self._died: str | None = None
        """How the worker died, until another one is started."""
        self._waiting = False  # a command was sent whose reply has not been received

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.send("reset", seed, num_agents, maps)
        self.receive()
        return self.batch

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        self.send("begin_episode", seed, num_agents, maps)
        self.receive()
        return self.batch

    def step(self, actions: np.ndarray) -> StepBatch:
        self.step_async(actions)
        self.receive()
        return self.batch

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step; `receive` ends it."""
        self._actions[:] = check_actions(actions, self.num_slots, self.batch.active)
        self.send("step")

    def scenery(self) -> dict[str, Any]:
        self.send("scenery")
        return self.receive()

    def wrecks(self) -> np.ndarray:
        self.send("wrecks")
        return self.receive()

    def traffic(self) -> np.ndarray:
        self.send("traffic")
        return self.receive()

    def rule_actions(self) -> np.ndarray:
        self.send("rule_actions")
        return self.receive()

    @property
    def backend(self) -> str | None:
        if self._process is None:
            return None
        self.send("backend")
        return self.receive()

    def send(self, command: str, *arguments: Any) -> None:
        """Send a command to the worker; `receive` waits for it. The first one starts the worker."""
        if self._process is not None and os.getpid() != self._owner:
            raise SceneError(
                f"this environment belongs to process {self._owner}, from which process {os.getpid()} was forked; "
                "make one here"
            )
        if self._waiting:  # an interrupted call left its reply in the pipe: from here on every answer would be stale
            self.close()
        if self._process is None:
            if command not in ("reset", "begin_episode"):
                if self._died is not None:
                    raise WorkerDied(self._died)
                raise SceneError(f"{command}: no episode of {self.options.scene} is running; call reset(seed) first")
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((command, *arguments))
        except (BrokenPipeError, ConnectionResetError):
            self._raise_dead()
        self._waiting = True

    def receive(self) -> Any:
        """Wait for the command sent last.

        Raises:
            SceneError: the worker refused it.
            WorkerError: the worker died.
        """
        assert self._pipe is not None
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._raise_dead()
        self._waiting = False
        if kind == "refused":
            raise SceneError(value)
        if kind == "failed":
            self.close()
            raise WorkerError(f"the worker of {self.options.scene} failed:\n{value}")
        return value

    def close(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._pipe = self._end = None
        self._waiting = False

    def __getstate__(self) -> dict[str, Any]:
        if self._process is not None:
            raise TypeError("a scene that has started cannot be pickled; make it and pickle it before the first reset")
        return self.__dict__.copy()

    def _start(self) -> None:
        size = StepBatch.nbytes(self.num_slots, self.obs_size) + self._actions.nbytes
        ours, theirs = socket.socketpair()
        with _shared_file(size) as shared, theirs:
            memory = mmap.mmap(shared.fileno(), size)
            environment = dict(os.environ)
            # The worker must find this very package, installed or not, and needs no second thread.
            root = str(Path(__file__).resolve().parent.parent)
            environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
            environment.setdefault("OMP_NUM_THREADS", "1")
            if environment.get("PYTHONUTF8") not in ("0", "1"):
                environment.pop(
                    "PYTHONUTF8", None
                )  # MetaDrive sets it to "on" for 3D, with which Python does not start
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(theirs.fileno()), str(shared.fileno())],
                pass_fds=(theirs.fileno(), shared.fileno()),
                env=environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, whose end is the worker's
            )
        self._pipe = Connection(ours.detach())
        self._died = None
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end_worker, self._process, self._pipe, self._owner)
        self._pipe.send((self.options, self._auto_reset))
        batch = StepBatch.from_buffer(memory, self.num_slots, self.obs_size)
        batch.copy_from(self.batch)
        self.batch = batch
        self._actions = _actions_in(memory, self.num_slots, self.obs_size)

    def _raise_dead(self) -> NoReturn:
        process = self._process
        assert process is not None
        code = process.wait()
        self.close()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._died = (
            f"the worker process of {self.options.scene} died ({how}); its episode is lost: reset to begin another"
        )
        raise WorkerDied(self._died)


def _end_worker(process: subprocess.Popen[bytes], pipe: Connection, owner: int) -> None:
    if os.getpid() != owner:  # in a process forked from the owner: the worker is not its to end
        pipe.close()
        return
    # The worker sees the end of its input and exits, though a forked process may hold another end of the pipe.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)
    pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _shared_file(size: int) -> IO[bytes]:
    """A file of `size` bytes of memory that two processes can map.

    Not one in the folder for temporary files where that can be avoided: should that be full, the first write to the
    mapping would kill the process.
    """
    if sys.platform == "linux":
        shared = os.fdopen(os.memfd_create("copo_envs"), "w+b")
    else:
        shared = tempfile.TemporaryFile()  # noqa: SIM115  (the caller closes it)
    shared.truncate(size)
    return shared


def _actions_in(memory: Any, num_slots: int, obs_size: int) -> np.ndarray:
    offset = StepBatch.nbytes(num_slots, obs_size)
    return np.ndarray((num_slots, ACTION_SIZE), np.float32, buffer=memory, offset=offset)


def _work(pipe: Connection, memory: Any) -> None:
    """The worker's life: commands in, batches out through the shared memory."""
    options, auto_reset = pipe.recv()
    try:
        simulator = local_simulator(options)
    except Exception:  # MetaDrive cannot be imported, say: an error, and no death that another worker would mend
        import traceback

        pipe.recv()
        pipe.send(("failed", traceback.format_exc()))
        return
    stepper = AutoReset(simulator) if auto_reset else simulator
    shared = StepBatch.from_buffer(memory, simulator.num_slots, simulator.obs_size)
    actions = _actions_in(memory, simulator.num_slots, simulator.obs_size)
    while True:
        try:
            command, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            value = None
            if command == "step":
                shared.copy_from(stepper.step(actions))
            elif command == "reset":
                shared.copy_from(stepper.reset(*arguments))
            elif command == "begin_episode":
                shared.copy_from(simulator.begin_episode(*arguments))
            elif command == "set_num_agents":
                assert isinstance(stepper, AutoReset)
                stepper.set_num_agents(*arguments)
            elif command == "backend":
                value = simulator.backend
            else:
                value = getattr(simulator, command)()
            pipe.send(("done", value))
        except SceneError as error:
            pipe.send(("refused", str(error)))
        except Exception:
            import traceback

            pipe.send(("failed", traceback.format_exc()))
            return


def main() -> None:
    """What a worker runs."""
    for number in (signal.SIGINT, signal.SIGTERM):  # what they mean is the parent's to decide; its end is ours
        signal.signal(number, signal.SIG_IGN)
    pipe, memory_fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    memory = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone, and so is the reason to live
        _work(pipe, memory)

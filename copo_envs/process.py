"""The same simulator in a worker process, and many of them at once.

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
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from copo_envs.scenes import SceneError, SceneOptions, check_actions, everybody_an_agent, get_scene
from copo_envs.step_batch import ACTION_SIZE, NOW_FIELDS, Simulator, StepBatch

# `python -m` would look for modules in the current folder first, where a random.py, say, would be taken for Python's.
_WORKER = "import sys; sys.path[:1] == [''] and sys.path.pop(0); from copo_envs.process import main; main()"


class WorkerError(RuntimeError):
    """A worker process died or failed. What it was simulating is lost; the message says how it ended."""


class WorkerDied(WorkerError):
    """The process ended from outside, killed by a signal say, and not by an error in the simulation."""


def local_simulator(options: SceneOptions) -> Simulator:
    """The scene in this process."""
    if options.rule_based:
        from copo_envs.mixed_traffic import MixedTraffic

        return MixedTraffic(local_simulator(everybody_an_agent(options)), options)
    if get_scene(options.scene).metadrive_class:
        from copo_envs.simulator import MetaDriveSimulator  # imports MetaDrive: seconds, so only when needed

        return MetaDriveSimulator(options)
    from copo_envs.particles import ParticlesSimulator

    return ParticlesSimulator(options)


def make_simulator(options: SceneOptions, in_process: bool | None = None) -> Simulator:
    """A simulator of the scene.

    Args:
        options: from `scene_options`.
        in_process: True: in this process. False: in a worker process. None: in this process, unless the scene needs
            MetaDrive and this process has a MetaDrive engine already (it holds one); decided at the first reset.
    """
    if in_process is None:
        return DeferredSimulator(options)
    return local_simulator(options) if in_process else ProcessSimulator(options)


class WorkerRestartWarning(RuntimeWarning):
    """A worker of a `SceneVector` died and was replaced."""


class EpisodeSeeds:
    """The seeds of consecutive episodes: the one given, then draws from a generator seeded with it.

    The PettingZoo views take theirs from the same sequence: `reset(seed=s)`, then `reset()`, `reset()`, ...
    """

    def __init__(self, seed: int):
        self.current = int(seed)
        self._rng = np.random.default_rng(self.current)

    def advance(self) -> int:
        """The seed of the next episode, from now on the current one."""
        self.current = int(self._rng.integers(2**31))
        return self.current


class AutoReset:
    """A simulator that begins the next episode in the step that ended the last one.

    `batch.episode_over` still says that an episode ended; the "now" half belongs to the new one. The seeds of the
    episodes are those of `EpisodeSeeds`.
    """

    def __init__(self, simulator: Simulator):
        self.simulator = simulator
        self.batch = simulator.batch
        self._seeds = EpisodeSeeds(0)
        self._num_agents: int | None = None
        self._maps: str | None = None
        self._first_steps = 0
        self._steps = 0

    def reset(
        self, seed: int, num_agents: int | None = None, maps: str | None = None, first_steps: int = 0
    ) -> StepBatch:
        """Begin the episode of `seed`, which determines all that follow it as well; see `SceneVector.reset`."""
        self._seeds = EpisodeSeeds(seed)
        self._first_steps, self._steps = first_steps, 0
        self._num_agents = num_agents
        self._maps = maps
        return self.simulator.reset(self._seeds.current, num_agents, maps)

    def step(self, actions: np.ndarray) -> StepBatch:
        """One env step."""
        self.simulator.step(actions)
        self._steps += 1
        if self._first_steps and self._steps >= self._first_steps and not self.batch.episode_over:
            self._cut()
        if self.batch.episode_over:
            self._first_steps = 0
            self.simulator.begin_episode(self._seeds.advance(), self._num_agents, self._maps)
            self.batch.episode_over[...] = True
        return self.batch

    def set_num_agents(self, num_agents: int) -> None:
        """Begin the episodes from the next one on with so many vehicles."""
        self._num_agents = num_agents

    def _cut(self) -> None:
        """End the episode here: whoever lives on is truncated, and how that life would have ended is not known.

        Where nobody who acted lives on the next step is as good: truncated lives show that the episode is not whole.
        """
        batch = self.batch
        cut = batch.acted & ~batch.terminated & ~batch.truncated
        batch.truncated[cut] = True
        batch.final_obs[cut] = batch.obs[cut]
        batch.episode_over[...] = cut.any()


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
        with tempfile.TemporaryFile() as shared, theirs:
            shared.truncate(size)
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


class DeferredSimulator:
    """Decides at the first reset whether the scene lives in this process or in a worker. See `make_simulator`."""

    def __init__(self, options: SceneOptions):
        self.options = options
        self.num_slots = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.max_lives = options.max_lives
        self._simulator: Simulator | None = None
        self._empty = StepBatch.zeros(self.num_slots, self.obs_size)

    @property
    def batch(self) -> StepBatch:
        """The batch of the simulator; empty before the first reset."""
        return self._empty if self._simulator is None else self._simulator.batch

    def reset(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        return self._started().reset(seed, num_agents, maps)

    def begin_episode(self, seed: int, num_agents: int | None = None, maps: str | None = None) -> StepBatch:
        return self._started().begin_episode(seed, num_agents, maps)

    def step(self, actions: np.ndarray) -> StepBatch:
        if self._simulator is None:
            raise SceneError("step() before reset(): call reset(seed) first")
        return self._simulator.step(actions)

    def scenery(self) -> dict[str, Any]:
        if self._simulator is None:
            raise SceneError("the scene has no map before its first reset")
        return self._simulator.scenery()

    def wrecks(self) -> np.ndarray:
        return np.zeros((0, 3)) if self._simulator is None else self._simulator.wrecks()

    def traffic(self) -> np.ndarray:
        return np.zeros((0, 3)) if self._simulator is None else self._simulator.traffic()

    def rule_actions(self) -> np.ndarray:
        if self._simulator is None:
            raise SceneError("rule_actions() before reset(): call reset(seed) first")
        return self._simulator.rule_actions()

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _started(self) -> Simulator:
        if self._simulator is None:
            needs_engine = bool(get_scene(self.options.scene).metadrive_class)
            self._simulator = (
                ProcessSimulator(self.options) if needs_engine and _engine_here() else local_simulator(self.options)
            )
        return self._simulator


class SceneVector:
    """E copies of a scene that step together and begin new episodes by themselves.

    Args:
        options: from `scene_options`.
        num_envs: E, one worker process each; 0: one scene in this process, for a debugger.
        restart: replace a worker that dies instead of raising `WorkerDied`. A warning says so, and `restarted` which
            environment it was. Nobody knows what the lost step did, so the lives that were in it are cut in the batch:
            truncated with reward 0, their last known observation as the final one, and outcome 0; a new episode has
            begun. The other environments lose nothing. A worker that dies `MAX_DEATHS` times within `DEATH_WINDOW`
            steps is given up.
    """

    MAX_DEATHS = 3
    DEATH_WINDOW = 1000

    def __init__(self, options: SceneOptions, num_envs: int, restart: bool = False):
        if num_envs < 0:
            raise SceneError(f"num_envs={num_envs}; use 1 or more worker processes, or 0 for one scene in this process")
        self.options = options
        self.num_envs = max(1, num_envs)
        self.num_slots = options.num_agents
        self.obs_size = get_scene(options.scene).obs_size
        self.batch = StepBatch.zeros(self.num_slots, self.obs_size, lead=(self.num_envs,))
        self.restarted = np.zeros(self.num_envs, np.bool_)
        """(E,) in the last step or reset the worker died and another one took its place."""
        self.episode_seed = np.zeros(self.num_envs, np.int64)
        """(E,) seeds of the running episodes."""
        self._restart = restart
        self._local = AutoReset(local_simulator(options)) if num_envs == 0 else None
        self._workers = [ProcessSimulator(options, auto_reset=True) for _ in range(num_envs)]
        self._rows: list[StepBatch] = []
        self._seeds: list[EpisodeSeeds] = []
        self._num_agents: int | None = None
        self._maps: str | None = None
        self._first_steps = [0] * self.num_envs
        self._steps = 0
        self._deaths: list[list[int]] = [[] for _ in range(self.num_envs)]
        """Per environment: the values of `_steps` at which its worker died."""

    def reset(
        self,
        seeds: Sequence[int],
        num_agents: int | None = None,
        maps: str | None = None,
        first_steps: Sequence[int] | None = None,
    ) -> StepBatch:
        """Begin an episode in each environment. `seeds` (E,) determine it and all that follow it there.

        Args:
            seeds: one each.
            num_agents, maps: as of `Simulator.reset`; they hold for the episodes that follow, too.
            first_steps: (E,) cut the first episode after so many steps, so that those that follow begin at different
                times; 0: do not. Lives that are cut are truncated, with outcome 0.
        """
        if len(seeds) != self.num_envs:
            raise SceneError(f"{len(seeds)} seeds for {self.num_envs} environments; give one each")
        cuts = [0] * self.num_envs if first_steps is None else [int(steps) for steps in first_steps]
        if len(cuts) != self.num_envs or min(cuts) < 0:
            raise SceneError(f"first_steps={cuts}; give {self.num_envs} numbers of 0 or more")
        self._first_steps = cuts
        self._rows = [self.batch.row(env) for env in range(self.num_envs)]
        self._seeds = [EpisodeSeeds(seed) for seed in seeds]
        self._num_agents, self._maps = num_agents, maps
        self.restarted[:] = False
        if self._local is not None:
            self._rows[0].copy_from(self._local.reset(self._seeds[0].current, num_agents, maps, cuts[0]))
        else:
            died = self._ask(range(self.num_envs), self._send_reset)
            self._begin_again(died)
        self._note_seeds()
        return self.batch

    def next_seeds(self) -> list[int]:
        """(E,) the seeds of the episodes that would begin next by themselves. Empty before the first reset."""
        return [seeds.advance() for seeds in self._seeds]

    def set_num_agents(self, num_agents: int) -> None:
        """Begin the episodes from each environment's next one on with so many vehicles.

        A worker that died since the last step is replaced by the next one.

        Raises:
            WorkerDied: a worker died and is not to be replaced.
        """
        if not 1 <= num_agents <= self.num_slots:
            raise SceneError(f"num_agents={num_agents}; these environments were made for 1 to {self.num_slots}")
        self._num_agents = num_agents
        if self._local is not None:
            self._local.set_num_agents(num_agents)
            return
        # Who died is replaced in the next step: before it there is no transition in which its lives could be cut.
        self._ask(range(self.num_envs), lambda env: self._workers[env].send("set_num_agents", num_agents))

    def step(self, actions: np.ndarray) -> StepBatch:
        """One step of every environment. actions (E, N, 2)."""
        if not self._rows:
            raise SceneError("step() before reset(): call reset(seeds) first")
        self.restarted[:] = False
        self._steps += 1
        if self._local is not None:
            self._rows[0].copy_from(self._local.step(actions[0]))
        else:
            # All are checked before one is sent: a refusal must not leave some environments a step ahead.
            moves = [
                check_actions(move, self.num_slots, row.active) for move, row in zip(actions, self._rows, strict=True)
            ]
            died = self._ask(range(self.num_envs), lambda env: self._workers[env].step_async(moves[env]))
            if died:
                self._replace(died)
        for env in np.nonzero(self.batch.episode_over & ~self.restarted)[0]:
            self._seeds[env].advance()
        self._note_seeds()
        return self.batch

    def scenery(self, env: int) -> dict[str, Any]:
        """The scenery of an environment, see `Simulator.scenery`."""
        return self._local.simulator.scenery() if self._local is not None else self._workers[env].scenery()

    def wrecks(self, env: int) -> np.ndarray:
        """The wrecks of an environment, see `Simulator.wrecks`."""
        return self._local.simulator.wrecks() if self._local is not None else self._workers[env].wrecks()

    def traffic(self, env: int) -> np.ndarray:
        """The rule-based traffic of an environment, see `Simulator.traffic`."""
        return self._local.simulator.traffic() if self._local is not None else self._workers[env].traffic()

    def rule_actions(self) -> np.ndarray:
        """(E, N, 2): what the rule-based driver would do now, see `Simulator.rule_actions`.

        Zeros where a worker died since the last step and the next one will replace it.

        Raises:
            WorkerDied: a worker died and is not to be replaced.
        """
        if not self._rows:
            raise SceneError("rule_actions() before reset(): call reset(seeds) first")
        if self._local is not None:
            return self._local.simulator.rule_actions()[None]
        actions = np.zeros((self.num_envs, self.num_slots, ACTION_SIZE), np.float32)
        for env, worker in enumerate(self._workers):
            try:
                actions[env] = worker.rule_actions()
            except WorkerDied:
                if not self._restart:
                    raise
        return actions

    def close(self) -> None:
        """End the workers."""
        if self._local is not None:
            self._local.simulator.close()
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> SceneVector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # Views do not survive pickling; a reset makes them anew. What has started refuses by itself.
        return {**self.__dict__, "_rows": []}

    def _send_reset(self, env: int) -> None:
        self._workers[env].send("reset", self._seeds[env].current, self._num_agents, self._maps, self._first_steps[env])

    def _ask(self, envs: Iterable[int], send: Callable[[int], None]) -> dict[int, WorkerDied]:
        """Send a command to some workers, wait for all of them, and take over what they did. Returns who died."""
        died: dict[int, WorkerDied] = {}
        errors: list[Exception] = []
        asked = []
        for env in envs:
            try:
                send(env)
                asked.append(env)
            except WorkerDied as error:
                died[env] = error
        for env in asked:
            try:
                self._workers[env].receive()
            except WorkerDied as error:
                died[env] = error  # what it left in the shared memory may be half a step
                continue
            except (SceneError, WorkerError) as error:  # the others' replies must not stay in their pipes
                errors.append(error)
            self._rows[env].copy_from(self._workers[env].batch)
        if errors:
            raise errors[0]
        if died and not self._restart:
            raise next(iter(died.values()))
        return died

    def _replace(self, died: dict[int, WorkerDied]) -> None:
        """Cut the lives that were in the workers that died in a step, and begin new episodes there."""
        cut = {env: StepBatch.zeros(self.num_slots, self.obs_size) for env in died}
        for env, lost in cut.items():
            row = self._rows[env]
            lost.acted[:] = lost.truncated[:] = row.active
            for name, source in (
                ("acted_life", row.life),
                ("final_obs", row.obs),
                ("acted_position", row.position),
                ("acted_heading", row.heading),
            ):
                getattr(lost, name)[row.active] = source[row.active]
            self._first_steps[env] = 0
            # The same state and number of deaths give the same episode again.
            self._seeds[env] = EpisodeSeeds(self._seeds[env].advance())
        self._begin_again(died)
        for env, lost in cut.items():
            row = self._rows[env]
            for name in NOW_FIELDS:
                getattr(lost, name)[...] = getattr(row, name)
            lost.episode_over[...] = True
            row.copy_from(lost)

    def _begin_again(self, died: dict[int, WorkerDied]) -> None:
        """New workers for those that died, at the beginning of an episode."""
        while died:
            for env, error in died.items():
                self._count_death(env, error)
                self.restarted[env] = True
            died = self._ask(died, self._send_reset)

    def _count_death(self, env: int, error: WorkerDied) -> None:
        recent = [step for step in self._deaths[env] if step > self._steps - self.DEATH_WINDOW]
        self._deaths[env] = [*recent, self._steps]
        if len(self._deaths[env]) >= self.MAX_DEATHS:
            raise WorkerError(
                f"environment {env} is given up: its worker has died {self.MAX_DEATHS} times within "
                f"{self.DEATH_WINDOW} steps; the last time, {error}"
            ) from error
        warnings.warn(
            f"environment {env}, step {self._steps}: {error}. A new worker has taken its place and begins another one",
            WorkerRestartWarning,
            stacklevel=5,
        )

    def _note_seeds(self) -> None:
        self.episode_seed[:] = [seeds.current for seeds in self._seeds]


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


def _engine_here() -> bool:
    module = sys.modules.get("metadrive.engine.base_engine")
    return module is not None and module.BaseEngine.singleton is not None


def _actions_in(memory: Any, num_slots: int, obs_size: int) -> np.ndarray:
    offset = StepBatch.nbytes(num_slots, obs_size)
    return np.ndarray((num_slots, ACTION_SIZE), np.float32, buffer=memory, offset=offset)


def _work(pipe: Connection, memory: Any) -> None:
    """The worker's life: commands in, batches out through the shared memory."""
    options, auto_reset = pipe.recv()
    simulator = local_simulator(options)
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

"""Train and evaluate what is missing, and copy the small files that the report reads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.origin import ROOT, origin
from benchmarks.suite import CONFIG, EVALUATIONS, METRICS, PROVENANCE, Cell, cells, env_steps_done, is_complete
from copo_algos.errors import UserError
from copo_algos.evaluate import EPISODES, LIVES, SUMMARY
from copo_algos.policy import last_checkpoint, steps_of


@dataclass(frozen=True)
class RunConfig:
    """Train and evaluate every cell, algorithm x scene x seed, that is not complete.

    A complete cell is skipped and an interrupted one resumes, so the same command again goes on where it stopped:
    after Ctrl-C, after a power cut, or with more seeds or more steps. Example:

      python -m benchmarks run --scenes intersection --algorithms ippo copo --seeds 0 1 2 --total-steps 1000000
    """

    scenes: tuple[str, ...] = ("intersection",)
    """Scenes to drive in."""
    algorithms: tuple[str, ...] = ("ippo", "copo")
    """Algorithms to compare."""
    seeds: tuple[int, ...] = (0,)
    """Run seeds. Report on 0, 1, 2, ...; tune on 100 and above."""
    total_steps: int = 1_000_000
    """Env steps of every run."""
    evaluate: int = 5
    """Episodes to evaluate the last checkpoint in; 0: do not."""
    workers: int = 2
    """Simulator processes of an evaluation."""
    runs_dir: Path = Path("runs")
    """Where runs are, or will be: <runs-dir>/<scene>/<algorithm>/seed<k>."""
    results_dir: Path = Path("benchmarks/results")
    """Where the small files go that the report reads and that are worth committing."""
    train_options: str = ""
    """Further options of copo train, in one string: --train-options="--preset paper --num-envs 2"."""


def run(config: RunConfig) -> None:
    """Train, evaluate and collect every cell.

    Raises:
        UserError: impossible settings before anything is run; or, at the end, the cells that failed.
        KeyboardInterrupt: SIGINT or SIGTERM; the training in progress has left a checkpoint.
    """
    if config.total_steps < 1:
        raise UserError(f"total_steps={config.total_steps} is too small; use 1 or more")
    if config.evaluate < 0:
        raise UserError(f"evaluate={config.evaluate} is negative; use 0 for no evaluation")
    wanted = cells(config.scenes, config.algorithms, config.seeds)
    failed = []
    with _terminate_is_interrupt():
        for number, cell in enumerate(wanted, start=1):
            print(f"[{number}/{len(wanted)}] {cell}: ", end="")
            if not (_train(config, cell) and _evaluate(config, cell)):
                failed.append(str(cell))
                continue
            collect(config, cell)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(wanted)} cells failed (their messages are above): {'; '.join(failed)}; "
            "the same command tries them again"
        )
    print(f"complete ({len(wanted)} of {len(wanted)}): see {config.results_dir}; next: python -m benchmarks report")


def train_command(config: RunConfig, cell: Cell) -> list[str]:
    """Arguments of `copo` that train the cell, or go on with it."""
    folder = cell.folder(config.runs_dir)
    command = ["train", cell.algorithm, "--scene", cell.scene, "--seed", str(cell.seed)]
    command += ["--total-steps", str(config.total_steps), "--run-dir", str(folder)]
    command += shlex.split(config.train_options)
    return [*command, "--resume"] if last_checkpoint(folder) else command


def collect(config: RunConfig, cell: Cell) -> None:
    """Copy the small files of a complete cell into the results, each whole or not at all.

    Raises:
        UserError: the disk refuses.
    """
    source, target = cell.folder(config.runs_dir), cell.folder(config.results_dir)
    names = [METRICS, CONFIG, *(f"{f}/{name}" for f in EVALUATIONS.values() for name in (LIVES, EPISODES, SUMMARY))]
    try:
        for name in names:
            if not (source / name).exists():
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / f"{name}.partial")
            os.replace(target / f"{name}.partial", target / name)
        # Beside the run too: results can be collected again later, elsewhere, and still say where it was trained.
        if not (source / PROVENANCE).exists():
            _write_json(source / PROVENANCE, provenance(config, cell))
        shutil.copyfile(source / PROVENANCE, target / PROVENANCE)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error}; choose another --results-dir") from error


def provenance(config: RunConfig, cell: Cell) -> dict[str, Any]:
    """What a result depends on besides its settings."""
    command = [word for word in train_command(config, cell) if word != "--resume"]
    return origin(["copo", *command])


def _train(config: RunConfig, cell: Cell) -> bool:
    folder = cell.folder(config.runs_dir)
    if is_complete(folder, config.total_steps):
        print(f"complete, {env_steps_done(folder):,} env steps", flush=True)
        return True
    command = train_command(config, cell)
    print(f"resuming {last_checkpoint(folder)}" if "--resume" in command else "training", flush=True)
    (folder / PROVENANCE).unlink(missing_ok=True)
    return _copo(command)


def _evaluate(config: RunConfig, cell: Cell) -> bool:
    folder = cell.folder(config.runs_dir)
    if config.evaluate == 0 or last_checkpoint(folder) is None:
        return True
    done = True
    for maps in EVALUATIONS if cell.scene == "pg_map" else ("train",):
        if not _is_evaluated(folder, maps, config.evaluate):
            command = ["evaluate", str(folder), "--episodes", str(config.evaluate), "--maps", maps]
            done = _copo([*command, "--workers", str(config.workers)]) and done
    return done


def _is_evaluated(folder: Path, maps: str, episodes: int) -> bool:
    """Whether the last checkpoint has been evaluated by the protocol in that many episodes."""
    path = folder / EVALUATIONS[maps] / SUMMARY
    checkpoint = last_checkpoint(folder)
    if checkpoint is None or not path.exists():
        return False
    try:
        summary = json.loads(path.read_text())
        by_protocol = not isinstance(summary["lcf"], (int, float))  # a number is a factor that somebody has fixed
    except (ValueError, KeyError, TypeError):
        return False  # whatever it is, evaluating again replaces it
    step = steps_of(checkpoint)
    wanted = {"env_steps": step, "episodes": episodes, "first_seed": 1_000_000, "horizon": 1000, "deterministic": False}
    return by_protocol and all(summary.get(name) == value for name, value in wanted.items())


def _copo(arguments: list[str]) -> bool:
    """Run `copo` in a process of its own; True if it ends well. An interruption reaches it once, and is waited for."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(
        [sys.executable, "-m", "copo_algos.cli", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C in a terminal goes to this process alone, which passes it on
    )
    try:
        return child.wait() == 0
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    finally:
        if child.poll() is None:  # interrupted while waiting for an interrupted child
            child.kill()
            child.wait()


@contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)

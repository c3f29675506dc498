"""Train and evaluate what is missing, and copy the small files that the report reads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.origin import ROOT, write_origin
from benchmarks.suite import CONFIG, EVALUATIONS, METRICS, PROVENANCE, Cell, cells, env_steps_done, is_complete
from copo_algos.cli import train_config
from copo_algos.driving import Maps
from copo_algos.errors import UserError
from copo_algos.evaluate import EPISODES, LIVES, SUMMARY, EvaluateConfig, conditions
from copo_algos.policy import last_checkpoint, load_policy
from copo_algos.run_folder import refuse_changes


@dataclass(frozen=True)
class RunConfig:
    """Train and evaluate every cell, algorithm x scene x seed, that is not complete.

    A complete cell is skipped and an interrupted one resumes, so the same command again goes on where it stopped:
    after Ctrl-C, after a power cut, or with more seeds or more steps (of a curriculum: with as many). Example:

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
    evaluate: int = EvaluateConfig.episodes
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
        UserError: impossible settings, or others than a cell was made with, before anything is run; or, at the end, the
            cells that failed.
        KeyboardInterrupt: the training in progress has left a checkpoint.
    """
    if config.total_steps < 1:
        raise UserError(f"total_steps={config.total_steps} is too small; use 1 or more")
    if config.evaluate < 0:
        raise UserError(f"evaluate={config.evaluate} is negative; use 0 for no evaluation")
    _check_train_options(config.train_options)
    wanted = cells(config.scenes, config.algorithms, config.seeds)
    for cell in wanted:
        _refuse_changes(config, cell)
    failed = []
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


def _check_train_options(options: str) -> None:
    """Refuse options that cannot be read, or that say what the cell says."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UserError(
            f"train_options={options!r} cannot be read ({error}); write them as on a command line"
        ) from error
    for name in ("--scene", "--seed", "--total-steps", "--run-dir", "--resume"):
        if any(word.partition("=")[0].replace("_", "-") == name for word in words):
            raise UserError(f"train_options={options!r}: {name} is the cell's to say; use the options of this command")


def train_command(config: RunConfig, cell: Cell) -> list[str]:
    """Arguments of `copo` that train the cell, or go on with it."""
    folder = cell.folder(config.runs_dir)
    command = ["train", cell.algorithm, "--scene", cell.scene, "--seed", str(cell.seed)]
    command += ["--total-steps", str(config.total_steps), "--run-dir", str(folder)]
    command += shlex.split(config.train_options)
    return [*command, "--resume"] if last_checkpoint(folder) else command


def collect(config: RunConfig, cell: Cell) -> None:
    """Copy the small files of a complete cell into the results, each whole or not at all.

    An evaluation is copied if it is of the last checkpoint and by the protocol. Where there is none, none is left in
    the results: it would be of another checkpoint.

    Raises:
        UserError: the disk refuses.
    """
    source, target = cell.folder(config.runs_dir), cell.folder(config.results_dir)
    try:
        # Beside the run too: results can be collected again later, elsewhere, and still say where it was trained.
        if not (source / PROVENANCE).exists():
            command = [word for word in train_command(config, cell) if word != "--resume"]
            write_origin(source / PROVENANCE, ["copo", *command])
        _copy(source, target, (METRICS, CONFIG, PROVENANCE))
        if last_checkpoint(source) is None:
            return  # nothing to hold an evaluation against: what has been collected stays
        for maps, folder in EVALUATIONS.items():
            names = (LIVES, EPISODES, SUMMARY)
            if _is_evaluated(source, maps):
                _copy(source / folder, target / folder, names)
                continue
            stale = [target / folder / name for name in names if (target / folder / name).exists()]
            for path in stale:
                path.unlink()
            if stale:
                print(f"emptied {target / folder}: the last checkpoint is not evaluated by the protocol", flush=True)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error}; choose another --results-dir") from error


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    """Those of the files that are there, each whole or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).exists():
            shutil.copyfile(source / name, target / f"{name}.partial")
            os.replace(target / f"{name}.partial", target / name)


def _refuse_changes(config: RunConfig, cell: Cell) -> None:
    """Refuse to pass off a run that is there, whole or in part, as one with other settings."""
    folder = cell.folder(config.runs_dir)
    if last_checkpoint(folder) is None and not is_complete(folder, config.total_steps):
        return
    try:
        refuse_changes(train_config(train_command(config, cell)[1:]), folder, "--runs-dir")
    except UserError as error:
        raise UserError(f"{cell}: {error}") from error


def _train(config: RunConfig, cell: Cell) -> bool:
    folder = cell.folder(config.runs_dir)
    if is_complete(folder, config.total_steps):
        print(f"complete, {env_steps_done(folder):,} env steps", flush=True)
        return True
    command = train_command(config, cell)
    print(f"resuming {last_checkpoint(folder)}" if "--resume" in command else "training", flush=True)
    try:
        (folder / PROVENANCE).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --runs-dir") from error
    return _copo(command)


def _evaluate(config: RunConfig, cell: Cell) -> bool:
    folder = cell.folder(config.runs_dir)
    if config.evaluate == 0 or last_checkpoint(folder) is None:
        return True
    done = True
    for maps in EVALUATIONS if cell.scene == "pg_map" else ("train",):
        if not _is_evaluated(folder, maps, config.evaluate):
            command = ["evaluate", str(folder), "--episodes", str(config.evaluate), "--maps", maps]
            command += ["--output", str(folder / EVALUATIONS[maps]), "--workers", str(config.workers)]
            done = _copo(command) and done
    return done


def _is_evaluated(folder: Path, maps: Maps, episodes: int | None = None) -> bool:
    """Whether the last checkpoint has been evaluated by the protocol in that many episodes; None: however many."""
    try:
        summary = json.loads((folder / EVALUATIONS[maps] / SUMMARY).read_text())
        driven = summary["episodes"]
        protocol = EvaluateConfig(episodes=driven if episodes is None else episodes, maps=maps)
        wanted = conditions(load_policy(folder).info, protocol)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # whatever it is, evaluating again replaces it
    summary.setdefault("start_seed", wanted["start_seed"])  # not said before there was a choice
    return all(summary.get(name) == value for name, value in wanted.items())


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
        child.terminate()  # not SIGINT: a shell's background jobs, and so their children, ignore that
        child.wait()
        raise
    finally:
        if child.poll() is None:  # interrupted while waiting for an interrupted child
            child.kill()
            child.wait()

"""The run folder: what is refused before a run begins, config.json, and the versions that a result depends on."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from copo_algos.algorithms import get_algorithm
from copo_algos.checkpoint import BEST, best_success
from copo_algos.config import TrainConfig, check, with_values
from copo_algos.errors import UserError
from copo_algos.logs import EVALUATIONS, METRICS, read_table
from copo_algos.policy import last_checkpoint
from copo_envs.scenes import SceneError
from copo_envs.versions import version_of

CONFIG = "config.json"


def prepare(config: TrainConfig, folder: Path) -> Path | None:
    """Make the run folder, or find the checkpoint to go on from.

    Raises:
        UserError: a run is there already, there is none to resume, its settings differ, a file of it is damaged, what
            is there is no run, or it cannot be written.
    """
    try:
        found = last_checkpoint(folder)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error}; choose another --run-dir") from error
    if config.resume and found is None:
        raise UserError(f"nothing to resume: {folder} has no checkpoint; leave out --resume to begin")
    if not config.resume and found is not None:
        raise UserError(f"{folder} holds a run already; add --resume to go on, or choose another --run-dir")
    if (folder / "checkpoints").exists() and not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder / 'checkpoints'} is no folder; move it away, or choose another --run-dir")
    if not config.resume:
        _refuse_to_replace(config, folder)
    best = folder / "checkpoints" / BEST
    if not config.resume and best.exists():
        raise UserError(f"{best} is left of an earlier run; move it away to begin, or choose another --run-dir")
    if config.resume:
        refuse_changes(config, folder)
        for name in (METRICS, EVALUATIONS):
            read_table(folder / name)
        if config.evaluate_every:
            best_success(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --run-dir") from error
    return found


def _refuse_to_replace(config: TrainConfig, folder: Path) -> None:
    """Refuse to begin where a training would delete more than the beginning of itself."""
    for name in (METRICS, EVALUATIONS):
        if not (folder / name).exists():
            continue
        if not _is_a_beginning(config, folder, name):
            raise UserError(
                f"{folder / name} is there, and no checkpoint that it belongs to; move it away, or choose another "
                "--run-dir"
            )
    settings = folder / CONFIG
    if settings.exists() and "algorithm" not in _read(settings, "begin"):
        raise UserError(f"{settings} is not that of a run; move it away, or choose another --run-dir")


def _is_a_beginning(config: TrainConfig, folder: Path, name: str) -> bool:
    """Whether a table has nothing but what the same training wrote before it was killed, short of a checkpoint."""
    try:
        _, rows = read_table(folder / name)
        if rows:
            refuse_changes(config, folder)
    except UserError:
        return False
    return not rows or int(rows[-1]["env_steps"]) <= config.checkpoint_every


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run folder: whoever else trains into it meanwhile would mix its files with ours.

    Raises:
        UserError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is training into {folder}; choose another --run-dir") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def write_settings(config: TrainConfig, folder: Path, env_steps: int) -> None:
    """Write config.json: the settings, what learns here (`learns`) and the versions at the start, and those of every
    resumption (`resumed`).

    Raises:
        UserError: the folder cannot be written.
    """
    settings = folder / CONFIG
    here = {"learns": f"{config.device}, {config.precision}", "versions": versions()}
    began: dict[str, Any] = {**here, "resumed": []}
    if config.resume:
        before = _read(settings)
        resumed = [*before.get("resumed", []), {"env_steps": env_steps, **here}]
        began = {**{name: before.get(name) for name in here}, "resumed": resumed}
    try:
        partial = settings.with_suffix(".partial")
        partial.write_text(json.dumps({**config.as_dict(), **began}, indent=2) + "\n")
        partial.replace(settings)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --run-dir") from error


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings in a run's config.json that this version knows, by their flat names; none where they are no whole
    ones, which `prepare` says."""
    try:
        values = _read(folder / CONFIG)
        known = TrainConfig("ippo").as_dict()
        values = {name: values[name] for name in known if name in values}
        check(with_values(TrainConfig("ippo"), values))
    except (UserError, SceneError, TypeError):
        return {}
    return values


MAY_CHANGE = (
    *("total_steps", "checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_episodes", "wandb", "preset"),
    *("device", "precision", "step_backend"),  # the same numbers, but for rounding
)


def refuse_changes(config: TrainConfig, folder: Path, option: str = "--run-dir") -> None:
    """Refuse settings under which the run in a folder would become another one.

    Args:
        config: asked for.
        folder: of the run, which has a config.json.
        option: chooses another folder, for the message.

    Raises:
        UserError: they differ from those that the run was made with, or these cannot be read.
    """
    # A setting that came after the run: its default is what the run was made with, but for those that may change.
    before = {**TrainConfig(config.algorithm).as_dict(), **_read(folder / CONFIG)}
    for name, value in config.as_dict().items():
        # A curriculum's quarters are of its total: with another one, vehicles that are there already would leave. And
        # step sizes that had fallen would jump.
        grows = name == "total_steps" and get_algorithm(config.algorithm).curriculum
        falls = name == "total_steps" and config.ppo.anneal_lr
        if before[name] != value and (grows or falls or name not in MAY_CHANGE):
            why = ", by which its number of vehicles grows" if grows else ""
            why += ", by which its step sizes fall" if falls else ""
            if before["preset"] != config.preset:
                why += f" (preset {before['preset']})"
            raise UserError(
                f"cannot resume with {name}={value}: the run was made with {before[name]}{why}; "
                f"give the same, or choose another {option}"
            )


def _read(settings: Path, what: str = "resume") -> dict[str, Any]:
    try:
        values = json.loads(settings.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot {what}: {settings} cannot be read ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("resumed", []), list):
        raise UserError(f"cannot {what}: {settings} does not hold the settings of a run")
    return values


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("copo", "metadrive-simulator", "panda3d", "numpy", "torch", "gymnasium", "pettingzoo")
    return {"python": platform.python_version(), **{name: version_of(name) for name in names}}

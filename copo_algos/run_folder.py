"""The run folder: what is refused before a run begins, config.json, and the versions that a result depends on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from copo_algos.config import TrainConfig
from copo_algos.errors import UserError
from copo_algos.policy import last_checkpoint


def prepare(config: TrainConfig, folder: Path) -> Path | None:
    """Make the run folder, or find the checkpoint to go on from.

    Raises:
        UserError: a run is there already, there is none to resume, its settings differ, or it cannot be written.
    """
    found = last_checkpoint(folder)
    settings = folder / "config.json"
    if config.resume and found is None:
        raise UserError(f"nothing to resume: {folder} has no checkpoint; leave out --resume to begin")
    if not config.resume and found is not None:
        raise UserError(f"{folder} holds a run already; add --resume to go on, or choose another --run-dir")
    if config.resume:
        _refuse_changes(config, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = settings.with_suffix(".partial")
        partial.write_text(json.dumps({**config.as_dict(), "versions": versions()}, indent=2) + "\n")
        partial.replace(settings)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another --run-dir") from error
    return found


MAY_CHANGE = ("total_steps", "checkpoint_every", "device", "versions", "preset")


def _refuse_changes(config: TrainConfig, settings: Path) -> None:
    try:
        before = json.loads(settings.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot resume: {settings} cannot be read ({error})") from error
    for name, value in config.as_dict().items():
        if name not in MAY_CHANGE and before.get(name) != value:
            raise UserError(
                f"cannot resume with {name}={value}: the run in {settings.parent} was made with {before.get(name)}; "
                f"give the same, or choose another --run-dir"
            )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("copo", "metadrive-simulator", "panda3d", "numpy", "torch", "gymnasium", "pettingzoo"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found

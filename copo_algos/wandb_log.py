"""Weights & Biases, where it is asked for: what TensorBoard gets. What fails there does not end a training."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from copo_algos.config import TrainConfig
from copo_algos.errors import UserError

ID_FILE = "wandb_id.txt"
"""In the run folder: the id of its W&B run, with which a resumed training goes on."""


def require_wandb() -> None:
    """Refuse where the package is missing.

    Raises:
        UserError: it is.
    """
    try:
        from wandb import init  # noqa: F401  # a folder ./wandb, which it leaves where it logs, can be imported too
    except ImportError as error:
        raise UserError(
            'wandb: the package wandb is missing; install it in the checkout with: pip install ".[wandb]", '
            "or leave out --wandb"
        ) from error


class WandbLog:
    """A run of Weights & Biases, named <scene>/<algorithm>/seed<seed>, with the settings as its config.

    Its own environment variables hold: WANDB_MODE, WANDB_DIR (default: the run folder), WANDB_NAME, WANDB_RUN_ID, ...
    Where the server cannot be reached it logs offline, for `wandb sync`.

    Args:
        config: `wandb` is the project.
        folder: the run folder.
        resumed: go on with the run whose id is there; False: begin another one.

    Raises:
        UserError: nobody is logged in, or the project cannot have this name.
    """

    def __init__(self, config: TrainConfig, folder: Path, resumed: bool):
        import wandb
        from wandb.errors import UsageError

        id_file = folder / ID_FILE
        known = id_file.read_text().strip() if resumed and id_file.exists() else None
        settings: dict[str, Any] = {
            "project": config.wandb,
            "config": config.as_dict(),
            "name": os.environ.get("WANDB_NAME") or f"{config.scene}/{config.algorithm}/seed{config.seed}",
            "dir": os.environ.get("WANDB_DIR") or folder,
            "id": known,
            "resume": "allow" if known else None,
        }
        try:
            self._run = wandb.init(**settings)
        except UsageError as error:
            raise UserError(
                f"wandb: {' '.join(str(error).split())}; mend that, or set WANDB_MODE=offline, or leave out --wandb"
            ) from error
        except Exception as error:  # no network, a timeout, a server that refuses: the training matters more
            _warn(f"cannot reach its server ({error}), so this run is logged offline; `wandb sync` sends it later")
            self._run = wandb.init(**settings, mode="offline")
        self._failed = False
        try:
            id_file.write_text(f"{self._run.id}\n")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error}; choose another --run-dir") from error

    def write(self, values: dict[str, Any], env_steps: int) -> None:
        """Some values after so many env steps."""
        if self._failed:
            return
        try:
            self._run.log(values, step=env_steps)
        except Exception as error:
            self._failed = True
            _warn(f"does not log any more ({error}); metrics.csv and TensorBoard go on")

    def close(self) -> None:
        """Send the rest."""
        try:
            self._run.finish()
        except Exception as error:
            _warn(f"did not get everything ({error}); metrics.csv has it")


def _warn(sentence: str) -> None:
    warnings.warn(f"Weights & Biases {' '.join(sentence.split())}", RuntimeWarning, stacklevel=3)

"""The cells of the benchmark, algorithm x scene x seed, and where each one keeps its files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from copo_algos.algorithms import get_algorithm
from copo_algos.driving import Maps
from copo_algos.errors import UserError
from copo_algos.policy import last_checkpoint, steps_of
from copo_envs.scenes import get_scene

METRICS, CONFIG, PROVENANCE = "metrics.csv", "config.json", "provenance.json"
EVALUATIONS: dict[Maps, str] = {"train": "evaluation", "heldout": "evaluation_heldout"}
"""Maps that were driven on -> folder in a run, and in its results."""


@dataclass(frozen=True)
class Cell:
    """One training run of the benchmark."""

    scene: str
    algorithm: str
    seed: int

    def folder(self, root: Path) -> Path:
        """Its folder under runs/ or under the results."""
        return root / self.scene / self.algorithm / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.algorithm} on {self.scene}, seed {self.seed}"


def cells(scenes: tuple[str, ...], algorithms: tuple[str, ...], seeds: tuple[int, ...]) -> list[Cell]:
    """Every combination, seed by seed, so that a benchmark that is stopped early has compared all algorithms.

    Raises:
        UserError, SceneError: an unknown name, a negative seed, or nothing to combine.
    """
    for scene in scenes:
        get_scene(scene)
    for algorithm in algorithms:
        get_algorithm(algorithm)
    if any(seed < 0 for seed in seeds):
        raise UserError(f"seed {min(seeds)} is negative; use 0 or more")
    if not (scenes and algorithms and seeds):
        raise UserError("nothing to run: give at least one of each, such as --scenes intersection --algorithms copo")
    return [Cell(scene, algorithm, seed) for seed, scene, algorithm in product(seeds, scenes, algorithms)]


def env_steps_done(run: Path) -> int:
    """Env steps in the last row of a run's metrics.csv; 0 where there is none.

    Raises:
        UserError: the file is not a metrics.csv.
    """
    path = run / METRICS
    if not path.exists():
        return 0
    try:
        with path.open(newline="") as file:
            return max((int(row["env_steps"]) for row in csv.DictReader(file)), default=0)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not as copo train wrote it ({error!r}); move it away to train {run} again"
        ) from error


def is_complete(run: Path, total_steps: int) -> bool:
    """Whether a run has trained for `total_steps`, and its last checkpoint, where it has any, is from its end."""
    done = env_steps_done(run)
    checkpoint = last_checkpoint(run)
    # A run that was killed between the last row and the last checkpoint has to do its last stretch again.
    saved = done if checkpoint is None else steps_of(checkpoint)
    return min(done, saved) >= total_steps

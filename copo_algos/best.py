"""Evaluation while a training goes on, and the best checkpoint by it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from copo_algos import scores
from copo_algos.algorithms import get_algorithm
from copo_algos.checkpoint import best_success, keep_best
from copo_algos.config import TrainConfig
from copo_algos.curriculum import everybody_drives
from copo_algos.evaluate import EvaluateConfig, drive, plan
from copo_algos.logs import MetricsLog
from copo_algos.policy import load_policy
from copo_algos.progress import TrainingProgress
from copo_envs.process import WorkerDied

# Not the test episodes, 1_000_000 + k: the best of many is partly the luckiest on the episodes that it was picked by,
# and its score on the test episodes must not have that luck in it.
FIRST_SEED = 2_000_000

MEASURES = (
    "success_rate",
    "crash_rate",
    "out_rate",
    "max_step_rate",
    "efficiency",
    "failures",
    "throughput",
)


class Evaluations:
    """The evaluations of a training: when, of what, and what is kept.

    They have worker processes and generators of their own, so the training does not notice them.

    Args:
        config: of the training.
        folder: its run folder.
        log: gets a row for each.
        progress: says how they went.

    Raises:
        CheckpointError: the best checkpoint so far cannot be read.
    """

    def __init__(self, config: TrainConfig, folder: Path, log: MetricsLog, progress: TrainingProgress):
        self._config = config
        self._log = log
        self._progress = progress
        self._best = best_success(folder) if config.evaluate_every else -math.inf

    def due(self, env_steps: int) -> bool:
        """Whether there is to be an evaluation after `env_steps` and it has not been done: a signal may have stopped it
        before the run was resumed."""
        return evaluation_due(self._config, env_steps) and not self._log.evaluated(env_steps)

    def run(self, checkpoint: Path, after_step: Callable[[], None]) -> None:
        """Evaluate a checkpoint, write the row, and keep a copy if more vehicles arrived than ever before.

        Args:
            checkpoint: the one written after the last iteration.
            after_step: called after every env step, for interruptions.
        """
        done = 0

        def step(number: int, over: bool) -> None:
            nonlocal done
            done += over
            self._progress.evaluating(done)
            after_step()

        self._progress.evaluating(0)
        try:
            row = evaluate_checkpoint(checkpoint, self._config, step)
        except WorkerDied as error:  # of its own workers: the training has lost nothing
            self._progress.say(f"no evaluation of {checkpoint}: {error}")
            return
        better = row["success_rate"] > self._best and has_all_vehicles(self._config, row["env_steps"])
        if better:
            self._best = row["success_rate"]
            keep_best(checkpoint, row)
        self._log.write_evaluation(row)
        self._progress.evaluation(row, better)


def evaluation_due(config: TrainConfig, env_steps: int) -> bool:
    """Whether the iteration that ended after `env_steps` crossed a multiple of `evaluate_every`."""
    every = config.evaluate_every
    before = max(0, env_steps - config.iteration_steps)
    return every > 0 and before // every < env_steps // every


def evaluate_checkpoint(
    checkpoint: Path, config: TrainConfig, progress: Callable[[int, bool], None] = lambda step, over: None
) -> dict[str, Any]:
    """A row of evaluations.csv: the policy of a checkpoint by the protocol of `copo evaluate`, on its own episodes."""
    begin = time.perf_counter()
    policy = load_policy(checkpoint)
    settings = EvaluateConfig(episodes=config.evaluate_episodes, first_seed=FIRST_SEED, workers=max(1, config.num_envs))
    lives = drive(policy, plan(policy.info, settings), settings.workers, progress=progress)
    measures = scores.overall(lives, settings.horizon)
    return {
        "env_steps": policy.info.env_steps,
        "episodes": settings.episodes,
        **{name: measures[name] for name in MEASURES},
        "evaluate_s": time.perf_counter() - begin,
    }


def has_all_vehicles(config: TrainConfig, env_steps: int) -> bool:
    """Whether the iteration that ended after `env_steps` trained with all vehicles.

    Before the last quarter of a curriculum it did not, and what is best there says nothing about the end.
    """
    if not get_algorithm(config.algorithm).curriculum:
        return True
    return everybody_drives(max(0, env_steps - config.iteration_steps), config.total_steps)

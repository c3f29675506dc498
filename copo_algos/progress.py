"""The progress line of a training: steps/s, success rate, remaining time."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from copo_algos.config import TrainConfig

PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal


class TrainingProgress:
    """A live bar on a terminal, and one plain line every half minute where there is none."""

    def __init__(self, config: TrainConfig, env_steps: int):
        self._console = Console()
        self._config = config
        self._begin = env_steps
        self._steps = env_steps
        self._start = time.monotonic()
        self._last_line = -PLAIN_EVERY
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        name = f"{config.algorithm} on {config.scene}, seed {config.seed}"
        self._task = self._bar.add_task(name, total=config.total_steps, completed=env_steps, rates="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def starting(self) -> None:
        """Say that the simulators are starting, which takes seconds."""
        count = max(1, self._config.num_envs)
        self.say(f"starting {count} environment{'s' if count > 1 else ''} of {self._config.scene} ...")
        self.say(f"writing to {self._config.folder()}")

    def step(self, env_steps: int) -> None:
        """Some env steps are done."""
        self._steps += env_steps
        self._bar.update(self._task, completed=self._steps)

    def evaluating(self, done: int) -> None:
        """So many episodes of an evaluation are over."""
        self._bar.update(self._task, rates=f"evaluating, {done}/{self._config.evaluate_episodes} episodes")

    def evaluation(self, row: dict[str, Any], best: bool) -> None:
        """An evaluation is done: show its rates."""
        shown = {"success": "success_rate", "crash": "crash_rate", "out": "out_rate", "max step": "max_step_rate"}
        rates = " ".join(f"{label} {row[name]:.0%}" for label, name in shown.items() if row[name] == row[name])
        best_so_far = ", the best so far" if best else ""
        self.say(f"evaluation after {row['env_steps']} env steps: {rates}{best_so_far}, {row['evaluate_s']:.0f} s")

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def iteration(self, row: dict[str, Any]) -> None:
        """An iteration is done: show its rates."""
        now = time.monotonic()
        self._steps = row["env_steps"]
        speed = (self._steps - self._begin) / (now - self._start)
        # How far a life gets rises long before the first one arrives. NaN (no life has ended) is left out.
        shown = {"success": "success_rate", "crash": "crash_rate", "out": "out_rate", "route": "route_completion_mean"}
        rates = " ".join(f"{label} {row[name]:.0%}" for label, name in shown.items() if row[name] == row[name])
        if "lcf_mean_deg" in row:
            rates += f" lcf {round(row['lcf_mean_deg'])}°"
        rates += f" {speed:.0f} steps/s"
        self._bar.update(self._task, completed=self._steps, rates=rates)
        last = self._steps >= self._config.total_steps
        if not self._console.is_terminal and (now - self._last_line >= PLAIN_EVERY or last):
            self._last_line = now
            left = max(0, self._config.total_steps - self._steps) / max(speed, 1e-9)
            line = f"{self._steps}/{self._config.total_steps} env steps | {rates} | {left / 60:.0f} min left"
            self.say(line)

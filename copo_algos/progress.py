"""The progress line of a training: steps/s, success rate, remaining time; and lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

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
T = TypeVar("T")


def say(console: Console, line: str) -> None:
    """A line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


class PlainLines:
    """One line every half minute where there is no terminal, and none where there is one.

    Args:
        console: prints them.
        at_once: the first one comes when it can, not after half a minute.
    """

    def __init__(self, console: Console, at_once: bool = False):
        self._console = console
        self._start = time.monotonic()
        self._next = self._start + (0 if at_once else PLAIN_EVERY)

    def show(self, words: str, done: float, last: bool = False) -> None:
        """These words and, of `done` in [0, 1], the minutes left, if it is time for a line or `last`."""
        now = time.monotonic()
        if self._console.is_terminal or (now < self._next and not last):
            return
        self._next = now + PLAIN_EVERY
        left = f" | {(now - self._start) * (1 / done - 1) / 60:.0f} min left" if done else ""
        say(self._console, words + left)

    def over(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """The items, and lines on how many of them are done."""
        for done, item in enumerate(items, start=1):
            yield item
            self.show(f"{done}/{total} {what}", done / total)


class TrainingProgress:
    """A live bar on a terminal, and one plain line every half minute where there is none."""

    def __init__(self, config: TrainConfig, env_steps: int):
        self._console = Console()
        self._config = config
        self._begin = env_steps
        self._steps = env_steps
        self._start = time.monotonic()
        self._lines = PlainLines(self._console, at_once=True)
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
        say(self._console, line)

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
        total = self._config.total_steps
        done = 1.0 if self._steps >= total else (self._steps - self._begin) / (total - self._begin)
        self._lines.show(f"{self._steps}/{total} env steps | {rates}", done, last=self._steps >= total)

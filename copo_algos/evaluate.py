"""Drive a trained policy and score it: the evaluation protocol, from a checkpoint to tables.

The last checkpoint, stochastic actions, coordination factors drawn from the learned distribution at birth, the scene's
vehicles, horizon 1000 after which respawning stops and the episode goes on until nobody is alive; episode k is
`reset(seed=first_seed + k)`. On one kind of processor and with the same versions, what happens in an episode depends on
its seed alone, not on the number of workers.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from copo_algos import scores
from copo_algos.baselines import named_driver
from copo_algos.driving import Driving, EpisodeSettings, episode_generator, scene_to_drive
from copo_algos.errors import CheckpointError, UserError
from copo_algos.machine import hardware
from copo_algos.option_help import with_help
from copo_algos.policy import (
    DESCRIPTION,
    Policy,
    PolicyInfo,
    last_checkpoint,
    load_policy,
    run_of,
    shipped_algorithm,
)
from copo_algos.progress import PlainLines, say
from copo_algos.released import is_released, load_released
from copo_algos.run_folder import versions
from copo_algos.statistics import bootstrap_interval
from copo_envs.outcomes import Outcome
from copo_envs.process import ProcessSimulator
from copo_envs.scenes import SceneOptions
from copo_envs.step_batch import StepBatch

FILE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""
LIVES, EPISODES, SUMMARY = "lives.csv", "episodes.csv", "summary.json"


@with_help
@dataclass(frozen=True)
class EvaluateConfig(EpisodeSettings):
    """Drive a trained policy and score it.

    Give a run folder (its last checkpoint counts), a checkpoint, or a folder that holds several runs, such as runs/;
    or --scene, and --algorithm, for a policy that comes with the package; or an .npz file that CoPO's authors released,
    and --scene. Writes lives.csv (one row per vehicle life), episodes.csv and summary.json, and prints a table. On one
    kind of processor and with the same versions the same seeds give the same numbers, whatever --workers is.
    """

    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FOLDER")] = None
    """A run folder, a checkpoint, a folder that holds several runs, or an .npz file of CoPO's authors."""
    scene: str | None = None
    """Scene of a policy that comes with the package, or of an .npz file, which does not say."""
    algorithm: str | None = None
    """Algorithm of a policy that comes with the package; or rule_based, or random: drivers that nobody trained.
    Default: copo, or whichever comes with the package for the scene. A run knows its own."""
    episodes: int = 20
    """Episodes to drive."""
    first_seed: Annotated[int, tyro.conf.arg(aliases=["--seed"])] = 1_000_000
    """Seed of the first episode; episode k has this plus k."""
    output: Path | None = None
    """Where to write. Default: evaluation/ in the run folder, or evaluation/<scene>-<algorithm>/ here for a policy that
    comes with the package; evaluation_heldout/ for held-out maps. Settings that are not the protocol's, and fewer
    episodes than it has, are in the name too, as evaluation_horizon-500_deterministic/."""
    workers: int = 2
    """Simulator processes that drive episodes side by side."""

    def __post_init__(self) -> None:
        for name in ("path", "output"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True)
class Episode:
    """What determines an episode, besides the policy."""

    number: int
    seed: int
    options: SceneOptions


def evaluate(config: EvaluateConfig) -> pd.DataFrame:
    """Evaluate one policy or several, write their tables, print a summary.

    Returns:
        One row per policy: run, scene, algorithm, env_steps, episodes, and every measure of `scores.MEASURES`.

    Raises:
        UserError: a setting that cannot be; CheckpointError: nothing to evaluate, or damaged.
    """
    _check(config)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    jobs = _jobs(config)
    policies = [job.policy() for job in jobs]
    # All are read and fit the settings before the first of them drives, which can take hours.
    plans = [_plan_for(policy, job, config) for job, policy in zip(jobs, policies, strict=True)]
    for job in jobs:
        _make(job.output)
    summaries = []
    for job, policy, episodes in zip(jobs, policies, plans, strict=True):
        summary, lives = _evaluate_one(config, job, policy, episodes, console)
        _write(job.output, lives, summary)
        summaries.append(summary)
    _print(console, summaries, [job.output for job in jobs])
    described = ("run", "scene", "algorithm", "env_steps", "episodes")
    return pd.DataFrame([{**{name: s[name] for name in described}, **s["measures"]} for s in summaries])


def plan(info: PolicyInfo, config: EvaluateConfig) -> list[Episode]:
    """The episodes that the settings ask for; what they leave open is as in the policy's training."""
    options = scene_to_drive(info, info.scene, config)
    return [Episode(k, config.first_seed + k, options) for k in range(config.episodes)]


def conditions(info: PolicyInfo, config: EvaluateConfig) -> dict[str, Any]:
    """What an evaluation is of, as summary.json says it: the policy, the episodes and how they are driven."""
    options = scene_to_drive(info, info.scene, config)
    learned = {"mean": info.lcf_mean, "std": info.lcf_std}
    return {
        "scene": info.scene,
        "algorithm": info.algorithm,
        "env_steps": info.env_steps,
        "episodes": config.episodes,
        "first_seed": config.first_seed,
        "horizon": config.horizon,
        "num_agents": options.num_agents,
        "rule_based": options.rule_based,
        "geometry": options.geometry,
        "maps": config.maps,
        "start_seed": options.start_seed,
        "deterministic": config.deterministic,
        "lcf": None if not info.uses_lcf else learned if config.lcf is None else config.lcf,
    }


def drive(
    policy: Policy,
    episodes: Sequence[Episode],
    workers: int = 2,
    deterministic: bool = False,
    lcf: float | None = None,
    progress: Callable[[int, bool], None] = lambda step, over: None,
) -> pd.DataFrame:
    """Drive episodes and return the lives in them, a table as in `scores.COLUMNS`, by episode and life.

    Args:
        policy: drives every vehicle.
        episodes: in any order; their numbers must differ.
        workers: simulator processes. The policy acts here, for one while the others simulate.
        deterministic: mean actions.
        lcf: one coordination factor for everybody; None: drawn from the learned distribution.
        progress: called after every env step with the episode's step and whether the episode is over.
    """
    waiting = list(reversed(episodes))
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        lanes: list[_Lane] = []
        for _ in range(min(workers, len(waiting))):
            lane = _Lane(policy, deterministic, lcf)
            stack.callback(lane.close)
            lane.begin(waiting.pop())
            lanes.append(lane)
        while lanes:
            for lane in list(lanes):
                over = lane.advance()
                progress(int(lane.batch.episode_step), over)
                if not over:
                    continue
                rows += lane.lives
                if waiting:
                    lane.begin(waiting.pop())
                else:
                    lanes.remove(lane)
                    lane.close()
    table = pd.DataFrame(rows, columns=list(scores.COLUMNS))
    return table.sort_values(["episode", "life"], ignore_index=True)


class _Lane:
    """A simulator process, the episode in it, and the lives that have ended in that episode."""

    def __init__(self, policy: Policy, deterministic: bool, lcf: float | None):
        self._policy = policy
        self._deterministic = deterministic
        self._fixed_lcf = lcf
        self._simulator: ProcessSimulator | None = None

    @property
    def batch(self) -> StepBatch:
        assert self._simulator is not None
        return self._simulator.batch

    def begin(self, episode: Episode) -> None:
        """Ask the simulator for the episode; `advance` waits for it."""
        if self._simulator is None or self._simulator.options != episode.options:
            self.close()
            self._simulator = ProcessSimulator(episode.options)
        self._episode = episode
        rng, slots = episode_generator(episode.seed), self._simulator.num_slots
        self._driving = Driving(self._policy, slots, rng, self._deterministic, self._fixed_lcf)
        # By slot, of the life in it: sums of reward, velocity, cost and energy.
        self._sums = np.zeros((4, slots))
        self.lives: list[dict[str, Any]] = []
        self._simulator.send("reset", episode.seed)

    def advance(self) -> bool:
        """Wait for the step that was asked for, write down what happened and ask for the next; True at the end."""
        assert self._simulator is not None
        self._simulator.receive()
        batch = self._simulator.batch
        self._write_down(batch)
        if batch.episode_over:
            return True
        self._sums[:, batch.spawned] = 0
        self._driving.admit(batch)
        self._next_step = int(batch.episode_step) + 1  # more time passes in a step after which nobody is left
        self._simulator.step_async(self._driving.actions(self._simulator))
        return False

    def close(self) -> None:
        """End the simulator process."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _write_down(self, batch: StepBatch) -> None:
        self._sums += np.stack([batch.reward, batch.velocity, batch.cost, batch.energy])
        for slot in np.nonzero(batch.terminated | batch.truncated)[0]:
            own_return, velocity, cost, energy = self._sums[:, slot]
            steps = int(batch.life_steps[slot])
            self.lives.append(
                {
                    "episode": self._episode.number,
                    "seed": self._episode.seed,
                    "life": int(batch.acted_life[slot]),
                    "outcome": Outcome(batch.outcome[slot]).name.lower(),
                    "steps": steps,
                    "ended_at": self._next_step,
                    "own_return": own_return,
                    "route_completion": batch.route_completion[slot],
                    "velocity_m_s": velocity / steps,
                    "cost": cost,
                    "energy": energy,
                    "lcf": float(self._driving.lcf[slot]),
                }
            )


@dataclass(frozen=True)
class _Job:
    """A policy to evaluate and where its tables go."""

    name: str
    policy: Callable[[], Policy]
    output: Path


def _check(config: EvaluateConfig) -> None:
    for name, value, least in (("episodes", config.episodes, 1), ("workers", config.workers, 1)):
        if value < least:
            raise UserError(f"{name}={value} is too small; use {least} or more")
    if config.first_seed < 0:
        raise UserError(f"first_seed={config.first_seed} is negative; use 0 or more")
    if config.lcf is not None and not -1 <= config.lcf <= 1:
        raise UserError(f"lcf={config.lcf} is not in [-1, 1]; 0 is selfish, 1 lives for the neighbours")
    if config.path is None and config.scene is None:
        raise UserError("nothing to evaluate: give a run folder, or --scene and --algorithm of a policy in the package")
    if is_released(config.path):
        if config.algorithm:
            raise UserError(f"algorithm={config.algorithm}, but {config.path} was given; leave out --algorithm")
    elif config.path is not None and (config.scene or config.algorithm):
        raise UserError(f"give either {config.path} or --scene and --algorithm, not both: a run knows its own scene")


def _jobs(config: EvaluateConfig) -> list[_Job]:
    """Every policy that the path or the scene and algorithm stand for."""
    folder = default_folder(config)
    if config.path is None:
        scene = config.scene or ""
        algorithm = config.algorithm or shipped_algorithm(scene)
        name = f"{scene}-{algorithm}"
        output = config.output or Path(folder) / name
        return [_Job(name, lambda: named_driver(scene, algorithm), output)]
    if is_released(config.path):
        released, scene = config.path, config.scene
        output = config.output or Path(folder) / f"{scene}-{released.stem}"
        return [_Job(released.name, lambda: load_released(released, scene), output)]
    runs = _runs_in(config.path)
    jobs = []
    for run in runs:
        if config.output is not None:
            output = config.output if len(runs) == 1 else config.output / run.relative_to(config.path)
        elif run.parent.name == "checkpoints":  # beside the checkpoints, which training deletes when they are old
            output = run.parent.parent / folder / run.name
        else:
            output = run / folder
        jobs.append(_Job(str(run), lambda run=run: load_policy(run), output))
    return jobs


VARIATIONS = ("first_seed", "horizon", "num_agents", "rule_based", "geometry", "start_seed", "deterministic", "lcf")
"""Settings with which another evaluation is made than the protocol's."""


def default_folder(config: EvaluateConfig) -> str:
    """Where an evaluation is written: evaluations by different settings do not replace one another, and one in fewer
    episodes than the protocol's does not replace that."""
    parts = ["evaluation"] if config.maps == "train" else ["evaluation", "heldout"]
    if config.episodes < EvaluateConfig.episodes:
        parts.append(f"episodes-{config.episodes}")
    for name in VARIATIONS:
        value = getattr(config, name)
        if value != getattr(EvaluateConfig, name):
            parts.append(name if value is True else f"{name}-{value}")
    return "_".join(parts)


def _runs_in(path: Path) -> list[Path]:
    path = run_of(path)
    if not path.is_dir():
        raise CheckpointError(f"no folder {path}; give a run folder such as runs/intersection/copo/seed0")
    if (path / DESCRIPTION).exists() or last_checkpoint(path):
        return [path]
    runs = sorted(folder.parent for folder in path.rglob("checkpoints") if last_checkpoint(folder.parent))
    if not runs:
        raise CheckpointError(f"no checkpoint in {path} or in the folders below it; train first, with: copo train")
    return runs


def _plan_for(policy: Policy, job: _Job, config: EvaluateConfig) -> list[Episode]:
    """The episodes of a policy; refuses settings that do not fit it."""
    info = policy.info
    if config.lcf is not None and not info.uses_lcf:
        raise UserError(f"lcf={config.lcf}, but {job.name} is {info.algorithm}, which has none; leave out --lcf")
    return plan(info, config)


def _evaluate_one(
    config: EvaluateConfig, job: _Job, policy: Policy, episodes: list[Episode], console: Console
) -> tuple[dict[str, Any], pd.DataFrame]:
    info = policy.info
    torch.set_num_threads(1)  # a population is a small batch: handing it between threads costs more than it wins
    begin = time.perf_counter()
    if not console.is_terminal:
        count = f"{config.episodes} episode{'s' if config.episodes > 1 else ''}"
        say(console, f"{job.name}: driving {count} of {info.algorithm} on {info.scene} ...")
    with _Bar(console, f"{escape(info.algorithm)} on {info.scene}", config.episodes, config.horizon) as bar:
        lives = drive(policy, episodes, config.workers, config.deterministic, config.lcf, bar.step)
    summary = {
        "run": job.name,
        **conditions(info, config),
        "lives": len(lives),
        "measures": scores.overall(lives, config.horizon),
        "interval_95": _intervals(lives, config),
        "wall_s": round(time.perf_counter() - begin, 1),
        "workers": config.workers,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": versions(),
        "hardware": hardware(),
    }
    return summary, lives


def _intervals(lives: pd.DataFrame, config: EvaluateConfig) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over the episodes, of the rates and the counts per episode; none for one episode."""
    if config.episodes == 1:
        return {}
    table = scores.per_episode(lives, config.horizon)
    rng = np.random.default_rng(config.first_seed)
    found = {}
    for name in ("success_rate", "crash_rate", "out_rate", "max_step_rate"):
        rows = np.stack([table[name] * table["vehicles"], table["vehicles"]], axis=1)
        found[name] = bootstrap_interval([rows], lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), rng)
    for name in ("efficiency", "failures", "throughput", "vehicles"):
        found[name] = bootstrap_interval([table[name].to_numpy()], np.mean, rng)
    return found


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{SUMMARY}.partial").touch()
        (output / f"{SUMMARY}.partial").unlink()
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error}; choose another --output") from error


def _write(output: Path, lives: pd.DataFrame, summary: dict[str, Any]) -> None:
    """All three files, each whole or not at all.

    Raises:
        UserError: the disk refuses.
    """
    values = json.dumps(_without_nan(summary), indent=2) + "\n"
    tables = {LIVES: lives, EPISODES: scores.per_episode(lives, summary["horizon"])}
    texts = {name: table.to_csv(index=False, float_format="%.6g") for name, table in tables.items()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in {**texts, SUMMARY: values}.items():
            (output / f"{name}.partial").write_text(text)
        for name in (*texts, SUMMARY):
            os.replace(output / f"{name}.partial", output / name)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error}; choose another --output") from error


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class _Bar:
    """Progress over all episodes: a live bar on a terminal, and lines where there is none."""

    def __init__(self, console: Console, name: str, episodes: int, horizon: int):
        self._horizon = horizon
        self._episodes = episodes
        self._done = 0
        self._lines = PlainLines(console)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[done]} episodes"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=episodes * horizon, done=f"0/{episodes}")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self, step: int, over: bool) -> None:
        """An env step is done; an episode counts as `horizon` steps, and its drain as none."""
        self._done += over
        missing = max(0, self._horizon - step) if over else 0
        advance = (1 if 0 < step <= self._horizon else 0) + missing
        done = f"{self._done}/{self._episodes}"
        self._bar.update(self._task, advance=advance, done=done)
        self._lines.show(f"{done} episodes", self._bar.tasks[0].percentage / 100)


LABELS = {
    "success_rate": ("success", "%"),
    "crash_rate": ("crash", "%"),
    "out_rate": ("out of road", "%"),
    "max_step_rate": ("max step", "%"),
    "efficiency": ("efficiency", ""),
    "failures": ("failures per episode", ""),
    "throughput": ("arrivals by the horizon", ""),
    "vehicles": ("vehicles per episode", ""),
    "mean_return": ("return", ""),
    "mean_length": ("life", "steps"),
    "success_length": ("life that arrived", "steps"),
    "mean_velocity_m_s": ("velocity", "m/s"),
    "mean_route_completion": ("route completion", "%"),
    "mean_cost": ("cost", ""),
    "mean_energy": ("energy", ""),
}
"""Measure -> its name and unit in printed tables."""


def show(name: str, value: float | None) -> str:
    """A measure in print, without its unit."""
    if value is None or math.isnan(value):
        return "-"
    if LABELS[name][1] == "%":
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "efficiency" else f"{value:.1f}"


def _print(console: Console, summaries: list[dict[str, Any]], outputs: list[Path]) -> None:
    if len(summaries) == 1:
        _print_one(console, summaries[0])
    else:
        table = Table(title="Evaluation")
        for name in ("run", "env steps"):
            table.add_column(name, justify="left" if name == "run" else "right")
        columns = ("success_rate", "crash_rate", "out_rate", "max_step_rate", "efficiency", "failures", "throughput")
        for name in columns:
            table.add_column(" ".join(LABELS[name]).strip(), justify="right")
        for summary in summaries:
            values = (show(name, summary["measures"][name]) for name in columns)
            table.add_row(escape(summary["run"]), f"{summary['env_steps']:,}", *values)
        console.print(table)
    for output in outputs:
        console.print(f"wrote {output}", highlight=False, soft_wrap=True, markup=False)


def _print_one(console: Console, summary: dict[str, Any]) -> None:
    count, first = summary["episodes"], summary["first_seed"]
    seeds = f"1 episode (seed {first})" if count == 1 else f"{count} episodes (seeds {first} to {first + count - 1})"
    table = Table(
        title=f"{escape(summary['algorithm'])} on {summary['scene']}, {summary['env_steps']:,} env steps",
        caption=f"{seeds}, {summary['lives']} lives",
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval over episodes", justify="right")
    for name, (label, unit) in LABELS.items():
        low, high = summary["interval_95"].get(name, (None, None))
        interval = "" if low is None else f"{show(name, low)} to {show(name, high)}"
        table.add_row(f"{label} ({unit})" if unit else label, show(name, summary["measures"][name]), interval)
    console.print(table)

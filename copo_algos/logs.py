"""What a run tells: metrics.csv, evaluations.csv, TensorBoard events, Weights & Biases, and the curve at the end."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from copo_algos.checkpoint import counts
from copo_algos.errors import UserError
from copo_algos.types import Lives
from copo_algos.wandb_log import WandbLog
from copo_envs.outcomes import Outcome

METRICS, EVALUATIONS = "metrics.csv", "evaluations.csv"
LEARNING = (
    *("policy_loss", "value_loss", "explained_variance", "kl", "kl_coef", "entropy", "clip_fraction"),
    "grad_norm_max",
    *("action_std_mean", "lcf_mean_deg", "lcf_std_deg", "lcf_objective", "lcf_gradient"),
)
RECENT_LIVES = 300
RECENT_EPISODES = 100


class Record:
    """Running rates over the last 300 lives and the last 100 episodes."""

    def __init__(self) -> None:
        self._lives: deque[int] = deque(maxlen=RECENT_LIVES)
        self._episodes: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.total_lives = 0
        self.total_episodes = 0

    def add(self, lives: Lives) -> None:
        """Count the lives and episodes that ended in a rollout."""
        self._lives.extend(int(outcome) for outcome in lives.outcome)
        self._episodes.extend(lives.episode_success_rates)
        self.total_lives += len(lives.outcome)
        self.total_episodes += len(lives.episode_success_rates)

    def rate(self, outcome: Outcome) -> float:
        """Share of the last 300 lives that ended so; NaN before the first life has ended."""
        return sum(o == outcome for o in self._lives) / len(self._lives) if self._lives else math.nan

    def episode_success_rate(self) -> float:
        """Mean success rate of the last 100 episodes, as in the published table; NaN before one has ended."""
        return float(np.mean(self._episodes)) if self._episodes else math.nan

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "lives": list(self._lives),
            "episodes": list(self._episodes),
            "total_lives": self.total_lives,
            "total_episodes": self.total_episodes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        self._lives.extend(int(Outcome(outcome)) for outcome in state["lives"])
        self._episodes.extend(float(rate) for rate in state["episodes"])
        self.total_lives, self.total_episodes = counts(state, "total_lives", "total_episodes")


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file of a run, none where there is no file. Rows that a full disk cut short are left
    out.

    Raises:
        UserError: it is damaged.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
        if columns and "env_steps" not in columns:
            raise ValueError("it has no column env_steps")
        rows = [row for row in rows if None not in row.values()]
        for row in rows:
            if None in row:  # where the reader puts values beyond the columns
                raise ValueError("a row has more values than there are columns")
            int(row["env_steps"])
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); move it away to go on with a new one") from error
    return columns, rows


class Table:
    """A CSV file that grows row by row, each with its `env_steps`.

    Args:
        path: the file.
        resume_at: keep the rows up to this many env steps and drop later ones; None: begin a new file.

    Raises:
        OSError: the folder cannot be written.
        UserError: the file is damaged.
    """

    def __init__(self, path: Path, resume_at: int | None = None):
        self.path = path
        self.env_steps: set[int] = set()
        """Of all rows."""
        self._columns: list[str] | None = None
        if resume_at is None:
            path.unlink(missing_ok=True)
        else:
            self._keep_rows_until(resume_at)

    def write(self, row: dict[str, Any]) -> None:
        """A value per column, the same columns every time.

        Raises:
            UserError: the file cannot be written.
        """
        new = self._columns is None
        self._columns = self._columns or list(row)
        try:
            if not set(row) <= set(self._columns):  # resumed, and the first part knew fewer columns
                self._columns += [name for name in row if name not in self._columns]
                with self.path.open(newline="") as file:
                    self._rewrite(list(csv.DictReader(file)))
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                if new:
                    writer.writeheader()
                writer.writerow({name: _short(value) for name, value in row.items()})
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error}; the last checkpoint is intact") from error
        self.env_steps.add(row["env_steps"])

    def _keep_rows_until(self, env_steps: int) -> None:
        columns, rows = read_table(self.path)
        if not columns:
            return
        self._columns = columns
        rows = [row for row in rows if int(row["env_steps"]) <= env_steps]
        self.env_steps = {int(row["env_steps"]) for row in rows}
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._columns is not None
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)


class MetricsLog:
    """Appends rows to metrics.csv and evaluations.csv, and their values to TensorBoard, by the groups of `tag`.

    Args:
        folder: the run folder.
        resume_at: keep the rows up to this many env steps and drop later ones; None: begin new files.
        also: gets what TensorBoard gets.
        settings: of the run, which TensorBoard shows as a text.

    Raises:
        UserError: the folder cannot be written, or a file in it is damaged.
    """

    def __init__(
        self,
        folder: Path,
        resume_at: int | None = None,
        also: WandbLog | None = None,
        settings: dict[str, Any] | None = None,
    ):
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / METRICS
        self._also = also
        try:
            if resume_at is None:
                for old in folder.glob("events.out.tfevents*"):
                    old.unlink(missing_ok=True)
            self._metrics = Table(self.path, resume_at)
            self._evaluations = Table(folder / EVALUATIONS, resume_at)
            # What has this step or a later one is purged, and the row at `resume_at` stays.
            self._tensorboard = SummaryWriter(str(folder), purge_step=None if resume_at is None else resume_at + 1)
            if settings is not None:
                indented = json.dumps(settings, indent=2).replace("\n", "\n    ")  # code, in its Markdown
                self._tensorboard.add_text("settings", f"    {indented}", resume_at or 0)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error}; choose another --run-dir") from error

    def write(self, row: dict[str, Any]) -> None:
        """One iteration: a value per column, the same columns every time."""
        self._metrics.write(row)
        self._scalars(row, row["env_steps"])

    def write_evaluation(self, row: dict[str, Any]) -> None:
        """One evaluation, likewise; in TensorBoard under evaluation/."""
        self._evaluations.write(row)
        self._scalars({f"evaluation/{name}": value for name, value in row.items()}, row["env_steps"])

    def evaluated(self, env_steps: int) -> bool:
        """Whether evaluations.csv has a row for so many env steps."""
        return env_steps in self._evaluations.env_steps

    def close(self) -> None:
        """Flush everything."""
        with suppress(OSError):
            if self._tensorboard is not None:
                self._tensorboard.close()
        if self._also is not None:
            self._also.close()

    def _scalars(self, values: dict[str, Any], env_steps: int) -> None:
        finite = {name: v for name, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
        try:
            if self._tensorboard is not None:
                for name, value in finite.items():
                    self._tensorboard.add_scalar(tag(name), value, env_steps)
        except OSError as error:  # metrics.csv has it all: no reason to stop
            warnings.warn(f"no more TensorBoard events, as they cannot be written: {error}", stacklevel=3)
            self._tensorboard = None
        if self._also is not None:
            self._also.write({tag(name): value for name, value in finite.items()}, env_steps)


def tag(name: str) -> str:
    """A column of metrics.csv as TensorBoard and Weights & Biases have it, which group by what stands before the
    slash: rollout/, train/ or time/; evaluation/ is said already."""
    if "/" in name:
        return name
    if name in LEARNING:
        return f"train/{name}"
    return f"time/{name}" if name.endswith("_s") else f"rollout/{name}"


def plot_learning_curve(metrics: Path, picture: Path, title: str) -> None:
    """Success, crash, out-of-road and max-step rates over env steps, from metrics.csv to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, rows = read_table(metrics)
    steps = [int(row["env_steps"]) for row in rows]
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for column, label, colour in (
        ("success_rate", "success", "#2a9d5c"),
        ("crash_rate", "crash", "#d1495b"),
        ("out_rate", "out of road", "#edae49"),
        ("max_step_rate", "max step", "#8d99ae"),
    ):
        axis.plot(steps, [float(row.get(column) or "nan") for row in rows], label=label, color=colour, linewidth=1.8)
    axis.set(xlabel="env steps", ylabel=f"share of the last {RECENT_LIVES} lives", ylim=(0, 1), title=title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, ncols=4, loc="upper center")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value

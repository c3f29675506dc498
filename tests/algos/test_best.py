"""Evaluation while a training goes on: what it leaves, that the training does not notice it, and that it resumes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from copo_algos import best as best_module
from copo_algos.best import FIRST_SEED, MEASURES, Evaluations, has_all_vehicles
from copo_algos.config import TrainConfig, with_values
from copo_algos.errors import CheckpointError, UserError
from copo_algos.evaluate import EvaluateConfig, evaluate
from copo_algos.interrupts import Interrupted
from copo_algos.logs import MetricsLog
from copo_algos.policy import checkpoints, last_checkpoint, load_policy
from copo_algos.progress import TrainingProgress
from copo_algos.train import train

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "scene": "particles",
    "num_envs": 0,
    "num_agents": 4,
    "horizon": 20,
    "steps_per_iteration": 48,
    "total_steps": 144,
    "update_epochs": 1,
    "minibatch_size": 64,
    "evaluate_every": 60,
    "evaluate_episodes": 1,
}
FILES = ("policy.safetensors", "policy.json", "learner.safetensors", "learner.json")


def tiny(folder: Path, **values: Any) -> TrainConfig:
    return with_values(TrainConfig("copo", run_dir=folder), TINY | values)


def table(folder: Path, name: str = "evaluations.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in table(folder, "metrics.csv")]


def evaluated(folder: Path) -> list[int]:
    return [int(row["env_steps"]) for row in table(folder)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iterations of 48 env steps cross the marks 60 and 120 with the second and the third. Look, do not touch."""
    return train(tiny(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same, to go on with."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_row_at_every_mark(run: Path):
    rows = table(run)
    assert evaluated(run) == [96, 144]
    assert list(rows[0]) == ["env_steps", "episodes", *MEASURES, "evaluate_s"]
    for row in rows:
        assert row["episodes"] == "1" and float(row["evaluate_s"]) > 0
        rates = [float(row[f"{name}_rate"]) for name in ("success", "crash", "out", "max_step")]
        assert sum(rates) == pytest.approx(1, abs=1e-5)


def test_the_training_does_not_notice(run: Path, tmp_path: Path):
    assert untimed(train(tiny(tmp_path, evaluate_every=0))) == untimed(run)
    assert not (tmp_path / "evaluations.csv").exists() and not (tmp_path / "checkpoints" / "best").exists()


def test_tensorboard_has_the_same(run: Path):
    events = EventAccumulator(str(run)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("evaluation/success_rate")]
    wanted = [(int(row["env_steps"]), float(row["success_rate"])) for row in table(run)]
    assert found == [(step, pytest.approx(value, abs=1e-5)) for step, value in wanted]


def test_the_best_is_a_copy_of_the_checkpoint_with_most_arrivals(run: Path):
    best = run / "checkpoints" / "best"
    row = max(table(run), key=lambda row: float(row["success_rate"]))  # the first of equals
    source = run / "checkpoints" / f"step_{int(row['env_steps']):09d}"
    assert all((best / name).read_bytes() == (source / name).read_bytes() for name in FILES)
    kept = json.loads((best / "evaluation.json").read_text())
    assert kept["env_steps"] == int(row["env_steps"])
    assert kept["success_rate"] == pytest.approx(float(row["success_rate"]), abs=1e-5)
    assert {path.name for path in best.parent.iterdir()} == {"best", "step_000000096", "step_000000144"}
    assert last_checkpoint(run) == best.parent / "step_000000144"


def test_copo_evaluate_says_the_same_of_the_best(copy: Path):
    best = copy / "checkpoints" / "best"
    found = evaluate(EvaluateConfig(best, episodes=1, first_seed=FIRST_SEED, workers=1))
    kept = json.loads((best / "evaluation.json").read_text())
    assert {name: found[name].item() for name in MEASURES} == {name: kept[name] for name in MEASURES}
    assert found["env_steps"].item() == kept["env_steps"] == load_policy(best).info.env_steps
    assert (copy / f"evaluation_episodes-1_first_seed-{FIRST_SEED}" / "best" / "lives.csv").exists()


def test_resuming_goes_on_with_the_rows_and_the_best(copy: Path):
    """As after a damaged last checkpoint: its row is dropped and made again."""
    best = copy / "checkpoints" / "best"
    kept = json.loads((best / "evaluation.json").read_text())
    (best / "evaluation.json").write_text(json.dumps({**kept, "success_rate": 1.0}))  # nobody will be better
    shutil.rmtree(checkpoints(copy)[-1])
    before = table(copy)
    train(tiny(copy, total_steps=192, resume=True, evaluate_every=96, evaluate_episodes=2))
    assert evaluated(copy) == [96, 192] and table(copy)[0] == before[0]
    assert table(copy)[1]["episodes"] == "2"
    assert load_policy(best).info.env_steps == kept["env_steps"]
    assert load_policy(copy).info.env_steps == 192
    names = {path.name for path in best.parent.iterdir()}
    assert names == {"best", "step_000000096", "step_000000192"}


def in_an_evaluation(act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` in the tenth step of every evaluation."""
    count = 0

    def evaluating(progress: TrainingProgress, done: int) -> None:
        nonlocal count
        count += 1
        if count == 10:
            act()

    monkeypatch.setattr(TrainingProgress, "evaluating", evaluating)


def test_a_signal_in_an_evaluation_loses_nothing_and_it_is_made_up_for(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        in_an_evaluation(lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match=r"stopped; .*step_000000096 is kept, and .* --resume goes on from it"):
            train(tiny(tmp_path, total_steps=96))
    assert untimed(tmp_path) == untimed(run)[:2]
    assert not (tmp_path / "evaluations.csv").exists() and not (tmp_path / "checkpoints" / "best").exists()
    train(tiny(tmp_path, total_steps=96, resume=True))
    assert {k: v for k, v in table(tmp_path)[0].items() if k != "evaluate_s"} == {
        k: v for k, v in table(run)[0].items() if k != "evaluate_s"
    }
    assert untimed(tmp_path) == untimed(run)[:2]
    assert (tmp_path / "checkpoints" / "best").exists()


def test_a_dead_worker_of_an_evaluation_costs_the_evaluation_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def children() -> set[str]:
        me = os.getpid()
        return set(Path(f"/proc/{me}/task/{me}/children").read_text().split())

    others = children()  # other tests' workers and helpers of the interpreter's

    def kill_child() -> None:
        (child,) = children() - others
        os.kill(int(child), signal.SIGKILL)

    in_an_evaluation(kill_child, monkeypatch)
    train(tiny(tmp_path, total_steps=96))
    assert "no evaluation of " in (out := capsys.readouterr().out) and "killed by SIGKILL" in out
    assert len(table(tmp_path, "metrics.csv")) == 2 and not (tmp_path / "evaluations.csv").exists()


@pytest.mark.parametrize(
    ("every", "marks"),
    [
        (0, []),
        (1, [48, 96, 144, 192, 240]),
        (48, [48, 96, 144, 192, 240]),
        (60, [96, 144, 192, 240]),
        (100, [144, 240]),
        (241, []),
    ],
)
def test_an_evaluation_is_due_when_an_iteration_has_crossed_a_mark(tmp_path: Path, every: int, marks: list[int]):
    config = tiny(tmp_path, total_steps=240, evaluate_every=every)
    log = MetricsLog(tmp_path)
    with TrainingProgress(config, 0) as progress:
        evaluations = Evaluations(config, tmp_path, log, progress)
        assert [steps for steps in range(0, 241, 48) if evaluations.due(steps)] == marks
        log.write_evaluation({"env_steps": 96})
        assert not evaluations.due(96)
    log.close()


def test_only_what_is_better_takes_the_place_of_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path):
    scores = {100: 0.0, 200: 0.5, 300: 0.5, 400: float("nan"), 500: 0.6}

    def row(checkpoint: Path, *arguments: Any) -> dict[str, Any]:
        return {"env_steps": (steps := int(checkpoint.name[5:])), "success_rate": scores[steps], "evaluate_s": 1.0}

    monkeypatch.setattr(best_module, "evaluate_checkpoint", row)
    monkeypatch.setattr(TrainingProgress, "evaluation", lambda *arguments: None)
    config, kept = tiny(tmp_path), []
    for steps in scores:
        checkpoint = shutil.copytree(checkpoints(run)[0], tmp_path / "checkpoints" / f"step_{steps:09d}")
        log = MetricsLog(tmp_path, resume_at=steps)
        with TrainingProgress(config, 0) as progress:  # made anew each time, as after a resumption
            Evaluations(config, tmp_path, log, progress).run(checkpoint, lambda: None)
        log.close()
        kept.append(json.loads((tmp_path / "checkpoints" / "best" / "evaluation.json").read_text())["env_steps"])
    assert kept == [100, 200, 200, 200, 500] and evaluated(tmp_path) == list(scores)


def test_a_curriculum_has_a_best_from_its_last_quarter_on():
    config = replace(tiny(Path("unused"), total_steps=480), algorithm="curriculum")
    assert [steps for steps in range(48, 481, 48) if has_all_vehicles(config, steps)] == [432, 480]
    assert has_all_vehicles(tiny(Path("unused")), 48)


def test_what_is_left_of_an_earlier_run_is_not_overwritten(copy: Path):
    for path in checkpoints(copy):
        shutil.rmtree(path)
    with pytest.raises(UserError, match=r"checkpoints/best is left of an earlier run; move it away to begin"):
        train(tiny(copy))
    assert (copy / "checkpoints" / "best" / "policy.json").exists() and (copy / "metrics.csv").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"success_rate": null}'])
def test_a_damaged_best_is_one_sentence(copy: Path, text: str):
    (copy / "checkpoints" / "best" / "evaluation.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"evaluation\.json cannot be read .*; move .*best away") as error:
        train(tiny(copy, total_steps=192, resume=True))
    assert len(str(error.value).splitlines()) == 1

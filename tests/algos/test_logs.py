"""Running rates by hand, metrics.csv line by line, and the events and the picture beside it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from copo_algos.errors import UserError
from copo_algos.logs import RECENT_EPISODES, RECENT_LIVES, MetricsLog, Record, plot_learning_curve, tag
from copo_algos.types import Lives
from copo_envs.outcomes import Outcome


def ended(outcomes: list[Outcome], rates: list[float] | None = None) -> Lives:
    count = len(outcomes)
    return Lives(np.array(outcomes, np.int8), np.zeros(count, np.int64), np.zeros(count), np.zeros(count), rates or [])


def row(env_steps: int, **values: float) -> dict[str, float]:
    return {"iteration": env_steps // 10, "env_steps": env_steps, "loss": 0.5, **values}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[MetricsLog]:
    out = MetricsLog(tmp_path)
    yield out
    out.close()


def test_before_anything_has_ended_there_is_no_rate():
    record = Record()
    assert math.isnan(record.rate(Outcome.SUCCESS)) and math.isnan(record.episode_success_rate())


def test_rates_are_shares_of_the_lives_that_ended():
    record = Record()
    record.add(ended([Outcome.SUCCESS, Outcome.CRASH, Outcome.SUCCESS], [2 / 3]))
    record.add(ended([Outcome.OUT_OF_ROAD], [0.0]))
    assert record.rate(Outcome.SUCCESS) == 0.5
    assert record.rate(Outcome.CRASH) == record.rate(Outcome.OUT_OF_ROAD) == 0.25
    assert record.rate(Outcome.MAX_STEP) == 0
    assert record.episode_success_rate() == pytest.approx(1 / 3)
    assert record.total_lives == 4


def test_only_recent_lives_and_episodes_count():
    record = Record()
    record.add(ended([Outcome.CRASH] * 200, [0.0] * 50))
    record.add(ended([Outcome.SUCCESS] * (RECENT_LIVES - 30), [1.0] * (RECENT_EPISODES - 10)))
    assert record.rate(Outcome.CRASH) == 30 / 300
    assert record.episode_success_rate() == pytest.approx(0.9)
    assert record.total_lives == 470


def test_a_record_goes_on_from_its_state():
    record, again = Record(), Record()
    record.add(ended([Outcome.SUCCESS, Outcome.CRASH], [0.5]))
    again.restore(record.state())
    for one in (record, again):
        one.add(ended([Outcome.CRASH], [0.0]))
    assert (
        again.state()
        == record.state()
        == {
            "lives": [1, 2, 2],
            "episodes": [0.5, 0.0],
            "total_lives": 3,
            "total_episodes": 2,
        }
    )


def test_a_row_per_iteration(tmp_path: Path, log: MetricsLog):
    log.write(row(10))
    log.write(row(20, loss=1 / 3))
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "iteration,env_steps,loss",
        "1,10,0.5",
        "2,20,0.333333",
    ]


def test_what_is_not_known_is_empty(tmp_path: Path, log: MetricsLog):
    log.write(row(10, loss=math.nan))
    assert rows(tmp_path)[0]["loss"] == ""


def test_the_same_scalars_go_to_tensorboard(tmp_path: Path, log: MetricsLog):
    log.write(row(10, loss=math.nan))
    log.write(row(20, loss=2.5))
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("rollout/loss")] == [(20, 2.5)]
    assert [(event.step, event.value) for event in events.Scalars("rollout/iteration")] == [(10, 1), (20, 2)]


def test_scalars_are_in_groups():
    for name, group in (
        ("success_rate", "rollout"),
        ("kl", "train"),
        ("lcf_mean_deg", "train"),
        ("learn_s", "time"),
        ("steps_per_s", "time"),
    ):
        assert tag(name) == f"{group}/{name}"
    assert tag("evaluation/failures") == "evaluation/failures"


def test_tensorboard_shows_the_settings(tmp_path: Path):
    MetricsLog(tmp_path, settings={"algorithm": "copo", "gamma": 0.5}).close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (text,) = events.Tensors("settings/text_summary")
    assert '"gamma": 0.5' in text.tensor_proto.string_val[0].decode()


def test_without_room_for_tensorboard_the_table_goes_on(
    tmp_path: Path, log: MetricsLog, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._tensorboard, "add_scalar", full)
    with pytest.warns(UserWarning, match=r"no more TensorBoard events, .*No space left"):
        log.write(row(10))
    log.write(row(20))
    log.close()
    assert [line["env_steps"] for line in rows(tmp_path)] == ["10", "20"]


def test_a_new_log_forgets_an_old_one(tmp_path: Path, log: MetricsLog):
    log.write(row(10))
    log.close()
    again = MetricsLog(tmp_path)
    again.write(row(20))
    again.close()
    assert [line["env_steps"] for line in rows(tmp_path)] == ["20"]
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 1


def test_resuming_keeps_the_rows_up_to_the_checkpoint(tmp_path: Path, log: MetricsLog):
    for env_steps in (10, 20, 30, 40):
        log.write(row(env_steps, loss=0.1))
    again = MetricsLog(tmp_path, resume_at=20)
    again.write(row(30, loss=0.2))
    again.close()
    assert [(line["env_steps"], line["loss"]) for line in rows(tmp_path)] == [
        ("10", "0.1"),
        ("20", "0.1"),
        ("30", "0.2"),
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_evaluations_have_a_file_of_their_own_and_go_on_likewise(tmp_path: Path, log: MetricsLog):
    for env_steps in (10, 20, 30):
        log.write(row(env_steps))
        log.write_evaluation({"env_steps": env_steps, "success_rate": env_steps / 100, "failures": math.nan})
    log.close()
    time.sleep(1.1)  # event files are read in the order of their names, which begin with the second
    again = MetricsLog(tmp_path, resume_at=20)
    assert [again.evaluated(env_steps) for env_steps in (10, 20, 30)] == [True, True, False]
    again.write_evaluation({"env_steps": 30, "success_rate": 0.5, "failures": 2.0})
    again.close()
    assert (tmp_path / "evaluations.csv").read_text().splitlines() == [
        "env_steps,success_rate,failures",
        "10,0.1,",
        "20,0.2,",
        "30,0.5,2",
    ]
    assert [line["env_steps"] for line in rows(tmp_path)] == ["10", "20"]
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("evaluation/success_rate")]
    assert found == [(10, pytest.approx(0.1)), (20, pytest.approx(0.2)), (30, 0.5)]
    assert [event.step for event in events.Scalars("evaluation/failures")] == [30]
    assert [event.step for event in events.Scalars("rollout/loss")] == [10, 20]


@pytest.mark.parametrize("kept", ["4", "4,4", "4,40", "4,40,"])
def test_resuming_drops_a_row_that_was_cut_by_a_full_disk(tmp_path: Path, log: MetricsLog, kept: str):
    for env_steps in (10, 20, 30):
        log.write(row(env_steps))
    with log.path.open("a") as file:
        file.write(kept)
    again = MetricsLog(tmp_path, resume_at=30)
    again.write(row(40))
    again.close()
    assert [line["env_steps"] for line in rows(tmp_path)] == ["10", "20", "30", "40"]


def test_a_column_that_came_after_the_first_part_is_empty_there(tmp_path: Path, log: MetricsLog):
    log.write(row(10, loss=0.1))
    again = MetricsLog(tmp_path, resume_at=10)
    again.write(row(20, loss=0.2, infer_s=0.5))
    again.write(row(30, loss=0.3, infer_s=0.6))
    again.close()
    assert [(line["env_steps"], line["loss"], line["infer_s"]) for line in rows(tmp_path)] == [
        ("10", "0.1", ""),
        ("20", "0.2", "0.5"),
        ("30", "0.3", "0.6"),
    ]


def test_resuming_without_rows_begins_a_file(tmp_path: Path):
    for text in (None, ""):
        path = tmp_path / "metrics.csv"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        again = MetricsLog(tmp_path, resume_at=20)
        again.write(row(30))
        again.close()
        assert [line["env_steps"] for line in rows(tmp_path)] == ["30"]


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*choose another --run-dir"):
        MetricsLog(tmp_path / "file" / "run")


def test_a_file_that_cannot_be_written_any_more(tmp_path: Path, log: MetricsLog):
    log.path.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics\.csv.*the last checkpoint is intact"):
        log.write(row(10))


def test_the_learning_curve_is_a_picture(tmp_path: Path, log: MetricsLog):
    rates = dict.fromkeys(("success_rate", "crash_rate", "out_rate", "max_step_rate"), 0.25)
    log.write(row(10, **dict.fromkeys(rates, math.nan)))
    log.write(row(20, **rates))
    picture = tmp_path / "learning_curve.png"
    plot_learning_curve(log.path, picture, "a title")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (480, 840, 3) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20

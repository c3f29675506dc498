"""Weights & Biases offline: what its files hold, read back record by record."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from copo_algos.config import TrainConfig, with_values
from copo_algos.errors import UserError
from copo_algos.train import train
from copo_algos.wandb_log import WandbLog

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "scene": "particles",
    "num_envs": 0,
    "num_agents": 4,
    "horizon": 20,
    "steps_per_iteration": 48,
    "total_steps": 96,
    "update_epochs": 1,
    "minibatch_size": 64,
    "seed": 3,
    "wandb": "swarm",
}


def tiny(folder: Path, **values: Any) -> TrainConfig:
    return with_values(TrainConfig("ippo", run_dir=folder), TINY | values)


@pytest.mark.parametrize("module", [None, ModuleType("wandb")])  # not there; a mere folder ./wandb
def test_a_missing_package_is_one_sentence_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match=r'wandb is missing; install it .*pip install "\.\[wandb\]", or leave') as error:
        train(tiny(tmp_path / "run"))
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # it reads its variables once
    yield
    wandb.teardown()


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md,
    with a header of 7 bytes in the first block."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

    data, position, parts = path.read_bytes(), 7, b""
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def sent(folder: Path) -> tuple[Any, dict[int, dict[str, float]]]:
    """The latest run below a folder: its description, and its values by step."""
    import wandb

    wandb.teardown()  # its process ends, and with it what it had still to write
    path = max(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    described, steps = None, {}
    for record in records(path):
        if record.HasField("run"):
            described = record.run
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps[int(row.pop("_step"))] = row
    return described, steps


def test_a_training_is_logged_and_a_resumed_one_goes_on_with_the_same_run(tmp_path: Path, offline: None):
    run = train(tiny(tmp_path / "run", evaluate_every=96, evaluate_episodes=1))
    described, steps = sent(run)
    assert (described.project, described.display_name) == ("swarm", "particles/ippo/seed3")
    config = {item.key: json.loads(item.value_json) for item in described.config.update}
    assert config["gamma"] == 0.99 and config["seed"] == 3 and config["algorithm"] == "ippo"
    assert list(steps) == [48, 96]
    for name in ("rollout/success_rate", "train/policy_loss", "rollout/env_steps"):
        assert [name in row for row in steps.values()] == [True, True]
    assert ["evaluation/success_rate" in row for row in steps.values()] == [False, True]
    assert described.run_id == (run / "wandb_id.txt").read_text().strip()

    train(tiny(run, total_steps=144, resume=True))
    again, steps = sent(run)
    assert again.run_id == described.run_id and list(steps) == [144]


def test_its_own_variables_hold(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_NAME", "mine")
    log = WandbLog(tiny(tmp_path / "run"), tmp_path, resumed=False)
    log.write({"loss": 0.5}, 10)
    log.close()
    described, steps = sent(tmp_path)
    assert described.display_name == "mine" and steps[10]["loss"] == 0.5


def test_what_fails_there_does_not_end_a_training(tmp_path: Path, offline: None):
    log = WandbLog(tiny(tmp_path), tmp_path, resumed=False)
    log._run.finish()
    with pytest.warns(RuntimeWarning, match=r"Weights & Biases does not log any more \(.*finished"):
        log.write({"loss": 0.5}, 10)
    log.write({"loss": 0.5}, 20)  # said once
    log.close()


def test_a_server_that_is_not_there_is_logged_for_later(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the port of "discard"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with pytest.warns(RuntimeWarning, match="cannot reach its server .* logged offline; `wandb sync` sends it later"):
        log = WandbLog(tiny(tmp_path), tmp_path, resumed=False)
    log.write({"loss": 0.5}, 10)
    log.close()
    described, steps = sent(tmp_path)
    assert described.project == "swarm" and steps[10]["loss"] == 0.5


def test_a_project_that_cannot_be_is_one_sentence(tmp_path: Path, offline: None):
    with pytest.raises(UserError, match=r"wandb: Invalid project name 'a/b'.*or leave out --wandb") as error:
        train(tiny(tmp_path, wandb="a/b"))
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match="wandb='' is no name of a project"):
        train(tiny(tmp_path, wandb=""))

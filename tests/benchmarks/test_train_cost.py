"""The cost benchmark on the particles: phases add up, and workers' time is found."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import train_cost
from benchmarks.train_cost import CostConfig, main, worker_cpu_seconds
from copo_algos.config import TrainConfig

pytestmark = pytest.mark.slow


def test_a_childs_cpu_time_is_counted():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint('busy no more', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        before = worker_cpu_seconds()
        child.stdout.readline()
        assert worker_cpu_seconds() - before > 0.1
    finally:
        child.communicate(b"\n")


def test_the_table(tmp_path: Path):
    config = CostConfig(("copo",), ("ippo",), ("ippo",), (), "particles", num_envs=2, env_steps=500, output=tmp_path)
    main(config)
    with (tmp_path / "train_cost.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    runs = [(row["algorithm"], row["preset"], row["step"], row["env_steps"]) for row in found[::5]]
    assert runs == [
        ("copo", "default", "fast", "800"),
        ("ippo", "fast", "fast", "800"),
        ("ippo", "default", "stock", "800"),
    ]
    assert {row["precision"] for row in found} == {TrainConfig("copo").precision}
    rows = {row["phase"]: row for row in found[:5]}
    assert list(rows) == ["simulate", "infer", "learn", "meta", "all"]
    for kind in ("cpu", "wall"):
        seconds = [float(row[f"{kind}_s_per_1000_env_steps"]) for row in rows.values()]
        assert min(seconds) > 0 and sum(seconds[:4]) == pytest.approx(seconds[4], abs=0.01)
    assert {row["env_steps"] for row in rows.values()} == {"800"}
    assert {"command", "date", "hardware", "versions"} <= set(json.loads((tmp_path / "train_cost.json").read_text()))


def test_where_the_processor_has_bfloat16_it_is_measured_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_cost, "bfloat16_instructions", lambda: ["amx_bf16"])
    main(CostConfig(("ippo",), (), (), ("ippo",), "particles", env_steps=1, output=tmp_path))
    with (tmp_path / "train_cost.csv").open(newline="") as file:
        found = [(row["algorithm"], row["precision"]) for row in csv.DictReader(file) if row["phase"] == "learn"]
    assert found == [("ippo", "float32"), ("ippo", "bfloat16")]

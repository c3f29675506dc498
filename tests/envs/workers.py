"""What the tests of workers and of vectors of them share."""

from __future__ import annotations

import subprocess
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from copo_envs.process import ProcessSimulator
from copo_envs.scenes import scene_options
from copo_envs.step_batch import StepBatch

OPTIONS = scene_options("particles", num_agents=5, horizon=30)


def actions(rng: np.random.Generator, *lead: int) -> np.ndarray:
    """Mostly full throttle, so that lives end."""
    steering, throttle = rng.uniform(-0.3, 0.3, (*lead, 5)), rng.uniform(0, 1, (*lead, 5))
    return np.stack([steering, throttle], axis=-1).astype(np.float32)


def assert_same(one: StepBatch, other: StepBatch) -> None:
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), field.name)


def process_of(worker: object) -> subprocess.Popen[bytes]:
    assert isinstance(worker, ProcessSimulator) and worker._process is not None
    return worker._process


def kill(worker: object) -> None:
    process_of(worker).kill()
    process_of(worker).wait()


def alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)

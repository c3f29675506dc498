"""The command line: what a user may get wrong is one sentence and exit code 2, and a signal loses nothing.

A fresh interpreter takes seconds, so most of the wrong commands run in this one, through the same `main`.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copo_algos.cli import main, train_config
from copo_algos.config import PRESETS, preset, with_values
from copo_algos.policy import checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (  # of the trainings that are interrupted
    "train copo --scene particles --num-envs 2 --num-agents 4 --horizon 20 --steps-per-iteration 64 "
    "--update-epochs 1 --minibatch-size 64 --lcf-passes 1"
)


def start(arguments: str, cwd: Path, python_path: Path = ROOT) -> subprocess.Popen[str]:
    """`copo ...` in a process group of its own, as a shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "copo_algos.cli", *arguments.split()],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(python_path), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints on stderr before it exits with 2."""
    try:
        code = main(arguments.split())
    except SystemExit as error:
        code = error.code
    assert code == 2
    return capsys.readouterr().err


def test_an_unknown_scene(tmp_path: Path):
    process = start("train ippo --scene moon", tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("copo train: unknown scene 'moon'; choose one of roundabout, ")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train sac --scene particles", "unknown algorithm 'sac'; choose one of ippo, ccppo_mean_field, "),
        ("train ippo --scene particles --num-agents 80", "num_agents=80 does not fit particles: 32 spawn places"),
        ("train ippo --scene bottleneck --num-agents 80", "use 1 to 48"),
        ("train ippo --scene particles --num-agents 0", "num_agents=0 does not fit particles"),
        ("train ippo --scene particles --horizon 0", "horizon=0 is too small; use 1 or more"),
        ("train ippo --scene particles --gamma 1.5", "gamma=1.5 is not in [0, 1]"),
        ("train ippo --scene particles --learning-rate nan", "learning_rate=nan; use a number above 0"),
        ("train ippo --scene particles --num-envs 3", "steps_per_iteration=800 does not split over 3"),
        ("train ippo --scene particles --total-steps 0", "total_steps=0; use 1 or more"),
        ("train ippo --scene particles --device abacus", "unknown device 'abacus'"),
        ("train ippo --scene particles --resume", "nothing to resume"),
        ("train ippo --scene particles --seed 5000000", "seed=5000000 is too large"),
        ("train ippo --scene pg_map --seed 995", "seed=995 is map 1000000 of pg_map"),
        (
            "train copo --scene particles --lcf-initial-std inf",
            "lcf_initial_std=inf is not between exp(-20) and exp(2)",
        ),
        ("train ccppo_concat --num-neighbours 1000000", "each of the 30 vehicles has 29 others"),
        ("evaluate nowhere", "nowhere"),
        ("evaluate --scene roundabot --algorithm copo", "unknown scene 'roundabot'; choose one of roundabout, "),
        ("watch --scene roundabot", "unknown scene 'roundabot'; choose one of roundabout, "),
        ("watch nowhere", "nowhere"),
    ],
)
def test_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    sentence: str,
):
    monkeypatch.chdir(tmp_path)
    err = refused(arguments, capsys)
    assert err.startswith(f"copo {arguments.split()[0]}: ") and sentence in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    err = refused(f"train ippo --scene particles --run-dir {tmp_path}/file/run", capsys)
    assert err.startswith(f"copo train: cannot write to {tmp_path}/file/run: ")
    assert err.endswith("choose another --run-dir\n") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("train ippo --total-steps many", "many"),
        ("train ippo --learning-rate 3e-4x", "3e-4x"),
        ("train ippo --num-agents 2.5", "'2.5' is no whole number; use one such as 100000 or 1e5"),
        ("evaluate --workers nan", "'nan' is no whole number"),
        ("watch --lcf half", "'half' is no number; use one such as 0.5 or 3e-4"),
        ("train ippo --preset mine", "paper"),
        ("train ippo --preset=mine", "default"),
        ("train ippo --colour red", "colour"),
        ("train", "ALGORITHM"),
    ],
)
def test_the_parser_says_what_it_does_not_take(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    named: str,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    err = refused(arguments, capsys)
    assert named.lower() in err.lower() and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["torch", "tyro"])
def test_without_the_training_extra(tmp_path: Path, missing: str):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module named {missing}', name='{missing}')")
    process = start("train ippo --scene particles", tmp_path, python_path=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"copo train needs the training extra, and '{missing}' is missing" in err
    assert len(err.splitlines()) == 1


def test_presets_decide_the_defaults_of_all_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The paper's preset has fragments of 200 steps; a flag after it wins."""
    from copo_algos import train as train_module

    seen = []
    monkeypatch.setattr(train_module, "train", seen.append)
    for arguments in ("", "--preset paper", "--preset=paper --fragment-steps 50", "--fragment-steps 50 --preset paper"):
        assert main(["train", "copo", *arguments.split()]) == 0
    assert [config.ppo.fragment_steps for config in seen] == [0, 200, 50, 50]
    assert [config.lcf.lcf_estimator for config in seen] == ["per_sample", "released", "released", "released"]
    assert [config.preset for config in seen] == ["default", "paper", "paper", "paper"]


def test_watch_needs_no_word(monkeypatch: pytest.MonkeyPatch):
    from copo_algos import watch as watch_module

    seen = []
    monkeypatch.setattr(watch_module, "watch", seen.append)
    assert main(["watch"]) == 0
    assert seen == [watch_module.WatchConfig()]


@pytest.mark.parametrize("last", ["default", "paper", "paper_torch"])
def test_the_last_of_several_presets_counts(monkeypatch: pytest.MonkeyPatch, last: str):
    from copo_algos import train as train_module

    seen = []
    monkeypatch.setattr(train_module, "train", seen.append)
    for arguments in (f"--preset paper --preset {last}", f"--preset=paper_torch --preset={last}"):
        assert main(["train", "copo", *arguments.split()]) == 0
    assert seen == [preset(last)] * 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_switch_can_be_turned_on_and_off_whatever_the_preset_has(name: str):
    config = preset(name)
    switches = [setting for setting, value in config.as_dict().items() if isinstance(value, bool)]
    assert {"stagger_episodes", "normalize_observations", "counterfactual"} <= set(switches)
    for switch in switches:
        option = switch.replace("_", "-")
        for word, wanted in ((f"--{option}", True), (f"--no-{option}", False)):
            assert train_config(["copo", "--preset", name, word]) == with_values(config, {switch: wanted}), word


def env_steps(run: Path) -> list[int]:
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [int(row["env_steps"]) for row in csv.DictReader(file)]


def test_a_signal_in_the_middle_of_a_training_loses_nothing(tmp_path: Path):
    """Ctrl-C in one training and SIGTERM in another, side by side."""
    runs = {signal.SIGINT: tmp_path / "ctrl-c", signal.SIGTERM: tmp_path / "term"}
    processes = {
        number: start(f"{SETTINGS} --run-dir {run} --total-steps 100000000", tmp_path) for number, run in runs.items()
    }
    try:
        deadline = time.monotonic() + 120
        for run in runs.values():
            while len(env_steps(run)) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
        for number, process in processes.items():
            os.killpg(process.pid, number)  # to the workers too, as a terminal or a batch system does
        for number, process in processes.items():
            _, err = process.communicate(timeout=60)
            assert process.returncode == 130, err
            kept = checkpoints(runs[number])[-1]
            assert err == f"copo train: stopped; {kept} is kept, and the same command with --resume goes on from it\n"
    finally:
        for process in processes.values():
            process.kill()

    for run in runs.values():
        done = env_steps(run)
        assert checkpoints(run)[-1].name == f"step_{done[-1]:09d}"
        assert main(f"{SETTINGS} --run-dir {run} --total-steps {done[-1] + 64} --resume".split()) == 0
        assert env_steps(run) == [64 * n for n in range(1, len(done) + 2)]


def test_what_is_not_said_at_a_resumption_is_as_the_run_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = f"train copo --scene particles --run-dir {tmp_path}"
    made = f"{SETTINGS} --run-dir {tmp_path} --preset fast --gamma 0.9 --total-steps 64 --steps-per-iteration 64"
    assert main(made.split()) == 0
    asked = train_config(f"{run} --resume --total-steps 128".split()[1:])
    given = train_config(f"{made} --resume --total-steps 128".split()[1:])
    assert asked == given and (asked.ppo.gamma, asked.preset, asked.num_agents) == (0.9, "fast", 4)
    assert "cannot resume with gamma=0.5: the run was made with 0.9" in refused(f"{run} --resume --gamma 0.5", capsys)
    assert "cannot resume with" in refused(f"{run} --resume --preset paper", capsys)
    for damage in ("{", "{}", '{"gamma": "x", "algorithm": "copo"}'):
        (tmp_path / "config.json").write_text(damage)
        assert len(refused(f"{run} --resume", capsys).splitlines()) == 1


def test_a_training_goes_on_though_nobody_reads_what_it_says(tmp_path: Path):
    """Its output is a pipe that is closed after the first line, a full disk, and a terminal that has no degree sign."""
    command = f"{sys.executable} -m copo_algos.cli {SETTINGS} --total-steps 128 --run-dir"
    shown, said = {"pipe": "| head -1", "disk": "> /dev/full", "ascii": ""}, ""
    for name, where in shown.items():
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} {tmp_path / name} {where}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii" if name == "ascii" else "utf-8"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (result.returncode, result.stderr) == (0, ""), name
        assert env_steps(tmp_path / name) == [64, 128] and checkpoints(tmp_path / name)
        said = result.stdout
    assert "lcf 0? " in said


def test_a_closed_terminal_loses_nothing(tmp_path: Path):
    process = start(f"{SETTINGS} --run-dir {tmp_path / 'run'} --total-steps 100000000", tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(env_steps(tmp_path / "run")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGHUP)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "is kept, and the same command with --resume goes on" in err
    assert checkpoints(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_is_one_sentence(tmp_path: Path, number: int):
    process = start("evaluate nowhere", tmp_path)
    time.sleep(1.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    # Before Python has begun there is nobody to say something; Python itself turns some interrupted imports into -2.
    assert process.returncode in (130, 2, -signal.SIGINT, -number) and len(err.splitlines()) <= 1
    assert process.returncode != 130 or err == "copo evaluate: stopped\n"

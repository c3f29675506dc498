"""The house: what the package ships, who may import whom, and that what the README and the help say is true."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields, make_dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from copo_envs.versions import version_of

ROOT = Path(__file__).resolve().parent.parent
MAY_NOT_IMPORT = {
    "copo_envs": {"torch", "copo_algos", "benchmarks", "examples", "tests"},
    "copo_algos": {"metadrive", "panda3d", "benchmarks", "examples", "tests"},
}
METADRIVE_ROOMS = {
    "copo_envs/simulator.py",
    "copo_envs/metadrive_fixes.py",
    "copo_envs/view_3d.py",
    "copo_envs/fast/bullet.py",
    "copo_envs/fast/covered.py",
    "copo_envs/fast/step.py",
    "copo_envs/fast/tables.py",
}


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere in it, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def python(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this tree."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("room", MAY_NOT_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    offences = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imported_packages(path) & MAY_NOT_IMPORT[room]
    }
    assert not offences


def test_only_the_simulator_touches_metadrive() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "copo_envs").rglob("*.py")
        if imported_packages(path) & {"metadrive", "panda3d"}
    }
    assert users == METADRIVE_ROOMS


def test_only_the_batched_step_needs_numba() -> None:
    users = {path.parent.name for path in (ROOT / "copo_envs").rglob("*.py") if "numba" in imported_packages(path)}
    assert users == {"fast"}


def test_only_the_window_needs_pygame() -> None:
    users = {path.name for path in (ROOT / "copo_envs").rglob("*.py") if "pygame" in imported_packages(path)}
    assert users == {"window.py"}


def test_only_one_room_needs_stable_baselines3() -> None:
    users = {path.name for path in (ROOT / "copo_envs").rglob("*.py") if "stable_baselines3" in imported_packages(path)}
    assert users == {"sb3.py"}


def test_only_one_room_needs_weights_and_biases() -> None:
    users = {path.name for path in (ROOT / "copo_algos").rglob("*.py") if "wandb" in imported_packages(path)}
    assert users == {"wandb_log.py"}


def test_importing_the_environments_is_light() -> None:
    result = python(
        "import sys, copo_envs\n"
        "copo_envs.parallel_env('particles').reset(seed=0)\n"
        "copo_envs.vector_env('particles', in_process=True).reset(seed=0)\n"
        "print([name for name in ('torch', 'stable_baselines3', 'copo_algos', 'metadrive', 'panda3d', 'matplotlib',"
        " 'pandas', 'pygame')"
        " if name in sys.modules])"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_wheel_has_types_and_policies_and_nothing_from_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("copo_envs", "copo_algos", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    result = python(build, str(tmp_path), cwd=source)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("copo-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"copo_envs/py.typed", "copo_algos/py.typed"} <= set(names)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"copo_envs", "copo_algos"}
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "copo_algos" / "policies").rglob("*") if path.is_file()}
    assert {name for name in shipped if "__pycache__" not in name} <= set(names)


def test_the_readme_scene_runs_on_particles() -> None:
    result = python(python_blocks("README.md")[0].replace('"intersection"', '"particles"'))
    assert result.returncode == 0, result.stderr
    assert re.search(r"^agent_\d+ \w+ after \d+ steps$", result.stdout, re.M)


@pytest.mark.simulator
@pytest.mark.parametrize("block", range(len(python_blocks("README.md"))))
def test_the_readme_code_runs(block: int) -> None:
    result = python(python_blocks("README.md")[block])
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_code_about_particles_in_the_docs_runs() -> None:
    blocks = [block for block in python_blocks("docs/environments.md") if "articles" in block]
    assert len(blocks) == 3
    for block in blocks:
        result = python(block)
        assert result.returncode == 0, result.stderr


def test_the_readme_commands_are_those_that_are_checked() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in ('pip install -c constraints.txt -e ".[dev]"', "python -m pytest"):
        assert line in readme
        assert line.removeprefix("pip install ") in ci


def test_the_readme_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name} links to {target}, which is not there"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor[1:] in slugs, f"{page.name} links to {anchor} of {path.name}"


def test_constraints_name_every_direct_dependency_and_agree_with_it() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    quoted = re.findall(r'^    "([a-z][\w-]*(?:\[\w+\])?[<>=][^"]*)",$', text, re.M)
    wanted = [Requirement(requirement) for requirement in quoted]
    assert {"numpy", "torch", "ruff"} <= {requirement.name for requirement in wanted}
    for requirement in wanted:
        versions = [str(pin.specifier).removeprefix("==") for pin in pins if pin.name == requirement.name]
        assert versions, f"{requirement.name} has no exact version"
        assert all(requirement.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("command", ["train", "evaluate", "watch"])
def test_help_has_every_setting_with_its_sentences_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from copo_algos.cli import main
    from copo_algos.config import CriticConfig, LCFConfig, PPOConfig, TrainConfig
    from copo_algos.driving import EpisodeSettings
    from copo_algos.evaluate import EvaluateConfig
    from copo_algos.option_help import descriptions
    from copo_algos.watch import WatchConfig

    configs = {
        "train": (TrainConfig, PPOConfig, LCFConfig, CriticConfig),
        "evaluate": (EvaluateConfig, EpisodeSettings),
        "watch": (WatchConfig, EpisodeSettings),
    }
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    elsewhere = {"train": {"algorithm", "ppo", "lcf", "critic"}, "evaluate": {"path"}, "watch": {"run"}}[command]
    names = {field.name for config in configs[command] for field in fields(config)} - elsewhere
    assert [name for name in names if f"--{name.replace('_', '-')}" not in text] == []
    sentences = {name: words for config in configs[command] for name, words in descriptions(config).items()}
    assert names <= set(sentences)
    assert [name for name, words in sentences.items() if words not in text] == []


def test_settings_whose_code_is_not_there_have_no_sentences() -> None:
    from copo_algos.option_help import with_help

    made = make_dataclass("Made", [("size", "int")])
    assert with_help(made) is made and made.__annotations__ == {"size": "int"}


def test_help_of_the_command_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from copo_algos.cli import main

    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"copo {command}" in text for command in ("train", "evaluate", "watch"))


def test_every_place_says_the_same_version(capsys: pytest.CaptureFixture[str]) -> None:
    import copo_algos
    import copo_envs
    from copo_algos.cli import main
    from copo_algos.run_folder import versions

    assert copo_envs.__version__ == copo_algos.__version__ == version("copo") == versions()["copo"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"copo {version('copo')}\n"


def test_the_version_is_looked_up_when_it_is_asked_for() -> None:
    result = python("import sys, copo_envs, copo_algos; print('copo_envs.versions' in sys.modules)")
    assert result.stdout == "False\n", result.stderr
    result = python(
        "import sys, copo_algos.cli; copo_algos.cli.main(['--version'])\n"
        "print([name for name in ('torch', 'tyro', 'metadrive') if name in sys.modules])"
    )
    assert result.stdout.splitlines()[1:] == ["[]"], result.stderr


def test_what_is_not_installed_has_no_version() -> None:
    assert version_of("no-such-package") == "not installed"


def test_an_unknown_command_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    from copo_algos.cli import main

    assert main(["drive"]) == 2
    assert capsys.readouterr().err.startswith("unknown command 'drive'; choose train, evaluate or watch\n")


@pytest.mark.slow
def test_without_the_sb3_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import copo_envs.sb3"
    result = python(code, cwd=tmp_path)
    last = result.stderr.splitlines()[-1]
    assert last == 'ImportError: copo_envs.sb3 needs stable-baselines3: pip install ".[sb3]" in the checkout'


@pytest.mark.slow
def test_without_the_train_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['tyro'] = None; from copo_algos.cli import main; sys.exit(main(['train', 'copo']))"
    result = python(code, cwd=tmp_path)
    assert result.returncode == 2
    assert "'tyro' is missing" in result.stderr and len(result.stderr.splitlines()) == 1

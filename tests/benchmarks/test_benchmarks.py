"""The benchmark: tables worked out by hand from a small results folder, and cells that run, are skipped, and resume."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import algorithm_pages
from benchmarks import report as reporting
from benchmarks.__main__ import main
from benchmarks.curves import across_seeds
from benchmarks.markdown import block_names, markers
from benchmarks.results_folder import (
    Result,
    best_success,
    best_success_100ep,
    comparable,
    load,
    over_seeds,
    success_interval,
    windowed_success,
)
from benchmarks.run import RunConfig, _is_evaluated, collect, run, train_command
from benchmarks.suite import EVALUATIONS, Cell, cells, env_steps_done, is_complete
from copo_algos import scores
from copo_algos.algorithms import ALGORITHMS
from copo_algos.cli import train_config
from copo_algos.errors import UserError
from copo_algos.evaluate import EvaluateConfig
from copo_algos.policy import Policy, PolicyInfo, last_checkpoint, make_actor, save_policy
from copo_algos.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = markers("results")
VERSIONS = {"python": "3.11.7", "copo": "0.1.0"}


def metrics(successes: list[int], ended: list[int], success_100ep: list[float], wall_s: float = 7200.0) -> pd.DataFrame:
    count = len(successes)
    return pd.DataFrame(
        {
            "env_steps": 1600 * np.arange(1, count + 1),
            "wall_s": np.linspace(wall_s / count, wall_s, count),
            "success_rate_100ep": success_100ep,
            "ended": ended,
            "successes": successes,
            "episodes": 100 * np.arange(1, count + 1),
        }
    )


def life(episode: int, number: int, outcome: str, ended_at: int) -> dict[str, object]:
    values = dict.fromkeys(scores.COLUMNS, 0.0)
    return {**values, "episode": episode, "seed": episode, "life": number, "outcome": outcome, "ended_at": ended_at}


def write_result(root: Path, cell: Cell, table: pd.DataFrame, lives: list[dict[str, object]] | None = None) -> Path:
    folder = cell.folder(root)
    folder.mkdir(parents=True)
    table.to_csv(folder / "metrics.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"preset": "default", "total_steps": 1600 * len(table)}))
    provenance = {
        "command": f"copo train {cell.algorithm} --scene {cell.scene} --seed {cell.seed}",
        "date": "2026-01-02",
        "commit": "abc",
        "hardware": "a processor, 2 cores",
        "versions": VERSIONS,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if lives is not None:
        (folder / "evaluation").mkdir()
        pd.DataFrame(lives).to_csv(folder / "evaluation" / "lives.csv", index=False)
        (folder / "evaluation" / "summary.json").write_text(json.dumps({"horizon": 1000}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """CoPO with two seeds, IPPO with one, on the intersection; 12 iterations each."""
    root = tmp_path / "results"
    # Ten consecutive iterations: 0 to 9 have 30 / 100, 1 to 10 have 38 / 100, 2 to 11 have 37 / 100.
    successes = [0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 8, 0]
    write_result(
        root,
        Cell("intersection", "copo", 0),
        metrics(successes, [10] * 12, [math.nan] * 2 + [0.3] * 9 + [0.35]),
        # 3 of 5 arrive, one of them after the horizon; 2 crashes or outs in 2 episodes.
        [
            life(0, 0, "success", 100),
            life(0, 1, "success", 1001),
            life(0, 2, "crash", 50),
            life(1, 0, "success", 1000),
            life(1, 1, "out_of_road", 70),
        ],
    )
    write_result(
        root,
        Cell("intersection", "copo", 1),
        metrics([5] * 12, [10] * 12, [0.45] * 12, wall_s=3600.0),
        # All four arrive.
        [life(0, 0, "success", 10), life(0, 1, "success", 20), life(1, 0, "success", 30), life(1, 1, "success", 40)],
    )
    write_result(root, Cell("intersection", "ippo", 0), metrics([1] * 12, [10] * 12, [math.nan] * 12))
    return root


def rows_of(markdown: str, first: str) -> list[list[str]]:
    """Cells of the table rows that begin with this text."""
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_best_success_sums_lives_before_it_divides():
    table = metrics([0] * 9 + [9, 1], [1] * 9 + [11, 1], [0.0] * 11)
    # Iterations 0 to 9: 9 / 20; 1 to 10: 10 / 20. The mean of the ten rates would be far lower.
    assert best_success(table) == 0.5
    assert math.isnan(best_success(table.iloc[:9]))
    assert best_success(table.iloc[:2], window=3200) == 0


def test_a_window_is_as_many_env_steps_whatever_an_iteration_has():
    coarse = metrics([1, 2, 3, 4], [10, 10, 10, 10], [0.0] * 4)
    fine = metrics([1, 0, 1, 1, 2, 1, 1, 3], [5] * 8, [0.0] * 8).assign(env_steps=800 * np.arange(1, 9))
    assert (
        windowed_success(coarse, 3200).tolist()
        == windowed_success(fine, 3200)[1::2].tolist()
        == [0.1, 0.15, 0.25, 0.35]
    )
    assert best_success(coarse, 3200) == best_success(fine, 3200) == 0.35
    assert math.isnan(best_success(fine.iloc[:3], 3200))


def test_a_mean_over_100_episodes_needs_as_many():
    table = metrics([1, 2, 3], [10] * 3, [0.9, 0.2, 0.3])
    assert best_success_100ep(table.assign(episodes=[99, 100, 101])) == 0.3
    assert math.isnan(best_success_100ep(table.assign(episodes=[1, 2, 3])))


def test_of_a_curriculum_the_last_quarter_counts():
    """8 iterations of 1,600 in a training of 12,800: two per quarter; from the 7th on everybody drives."""
    table = metrics([9, 9, 9, 9, 9, 9, 1, 3], [10] * 8, [0.9] * 8).assign(episodes=np.arange(0, 800, 100) + 50)
    cell, about = Cell("particles", "curriculum", 0), {"total_steps": 12_800}
    scored = comparable(Result(cell, table, about, {}))
    assert scored["env_steps"].tolist() == [11_200, 12_800]
    assert best_success(scored, 3200) == 0.2
    assert best_success_100ep(scored) == 0.9
    few = comparable(Result(cell, table.assign(episodes=np.arange(8)), about, {}))
    assert math.isnan(best_success_100ep(few))  # its 100 episodes would be of the easy quarters
    assert comparable(Result(Cell("particles", "ippo", 0), table, about, {})) is table


def test_the_beginning_of_a_curve_uses_what_there_is():
    curve = windowed_success(metrics([0, 1, 2], [0, 2, 2], [0.0] * 3))
    assert math.isnan(curve[0])
    assert curve[1:].tolist() == [1 / 2, 3 / 4]


def test_over_seeds_says_how_many_are_known():
    def show(value: float) -> str:
        return f"{value:.1f}"

    assert over_seeds([2.0, 4.0, 6.0], show) == "4.0 (2.0)"
    assert over_seeds([2.0], show) == "2.0"
    assert over_seeds([2.0, math.nan, 4.0], show) == "3.0 (1.4), n = 2"
    assert over_seeds([math.nan], show) == "-"


def test_tables_are_those_worked_out_by_hand(results: Path):
    text = reporting.full_report(load(results))
    (ippo_training,) = rows_of(text, "IPPO")
    copo_training, copo_evaluation = rows_of(text, "CoPO")
    # 38 % and 50 %: mean 44, deviation 12 / sqrt 2. 35 and 45: 40, 7.1. 2 h and 1 h. 19200 steps in 7200 s and 3600 s.
    assert copo_training == [
        *("CoPO", "0, 1 (n = 2)", "19,200", "44.0 (8.5)", "40.0 (7.1)", "79.5 (5.0)", "1.50 (0.71)", "4.0 (1.9)")
    ]
    assert ippo_training == ["IPPO", "0 (n = 1)", "19,200", "10.0", "-", "71.9 (5.3)", "2.00", "2.7"]
    # Success 3/5 and 4/4; crash and out 1/5 and 0; efficiency (3 - 2) / 2000 and 4 / 2000; failures 1 and 0; arrivals
    # by step 1000 2/2 and 4/2.
    assert copo_evaluation == [
        *("CoPO", "2", "2", "80.0 (28.3)", "10.0 (14.1)", "10.0 (14.1)", "0.0 (0.0)"),
        *("0.001 (0.001)", "0.5 (0.7)", "1.5 (0.7)"),
    ]


def test_report_names_its_origin_and_its_definitions(results: Path):
    text = reporting.full_report(load(results))
    for part in (
        "Versions: python 3.11.7, copo 0.1.0\n",  # said once: all three runs have them in common
        "Hardware: a processor, 2 cores\n",
        "Date: 2026-01-02\n",
        "best 100 episodes after 1,000,000 env steps (CL: 2,000,000) in MetaDrive 0.2.5",
        "CL 75.7 (6.2)",
        "copo train copo --scene intersection --seed 1  # at abc\n",
        "(successes - crashes - outs) / 1000",
    ):
        assert part in text


def test_a_note_stands_in_the_report_and_on_the_page_of_its_algorithm(results: Path):
    path = Cell("intersection", "copo", 1).folder(results) / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "stopped before the end"}))
    note, found = "Note (copo on intersection, seed 1): stopped before the end\n", load(results)
    assert f"* {note}" in reporting.full_report(found)
    assert algorithm_pages.results_block("copo", found, "report.md").endswith(f"```\n\n{note}")
    assert "Note" not in algorithm_pages.results_block("ippo", found, "report.md")


def test_report_writes_tables_pictures_and_the_block_in_the_readme(results: Path, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["report", "--results-dir", str(results), "--readme", str(readme)]
    assert main(arguments) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| scene |") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "](results/intersection.png)" in text
    row = next(line for line in text.splitlines() if "CoPO |" in line)
    assert row == (
        "| intersection | CoPO | 2 | 19,200 | 40.0 (7.1) | 79.5 (5.0) | 44.0 (8.5) | 80.0 (28.3) | 0.001 (0.001) "
        "| 0.5 (0.7) | 1.5 (0.7) |"
    )
    assert (results / "README.md").read_text() == reporting.full_report(load(results))
    assert (results / "intersection.png").read_bytes().startswith(b"\x89PNG")
    assert not (results / "scenes.png").exists()
    assert not list(results.rglob("*.partial"))

    assert main(arguments) == 0
    assert readme.read_text() == text, "the same results give the same block"


def test_the_readme_names_each_processor_once_and_the_report_what_else_the_machines_did(results: Path):
    others = {0: "a processor, 2 cores; beside a training", 1: "another one, 4 cores"}
    for seed, hardware in others.items():
        path = Cell("intersection", "copo", seed).folder(results) / "provenance.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "hardware": hardware}))
    found = load(results)
    assert " Processors: a processor; another one; 2026-01-02. " in reporting.short_report(found, "results")
    text = reporting.full_report(found)
    assert "Hardware: a processor, 2 cores; a processor, 2 cores; beside a training; another one, 4 cores\n" in text


def test_several_scenes_have_one_picture_in_the_readme(results: Path, tmp_path: Path):
    shutil.copytree(results / "intersection", results / "roundabout")
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main(["report", "--results-dir", str(results), "--readme", str(readme)]) == 0
    assert readme.read_text().count("![") == 1 and "](results/scenes.png)" in readme.read_text()
    sizes = [Image.open(results / f"{name}.png").size for name in ("scenes", "intersection", "roundabout")]
    assert sizes[0][0] > sizes[1][0] == sizes[2][0]  # side by side
    text = (results / "README.md").read_text()
    assert "](intersection.png)" in text and "](roundabout.png)" in text


def test_an_algorithms_block_is_that_worked_out_by_hand(results: Path):
    found = load(results)
    text = algorithm_pages.results_block("copo", found, "report.md")
    # Episodes: 2 of 3 and 1 of 2 arrive with seed 0, everybody with seed 1; so drawing them anew gives, with equal
    # chances for each pair, 2/3, 3/5, 3/5 or 1/2 for seed 0, and means with seed 1 from 75 to 83.3 %.
    (row,) = rows_of(text, "`intersection`")
    assert row == [
        *("`intersection`", "0, 1 (n = 2)", "19,200", "44.0 (8.5)", "40.0 (7.1)"),
        *("80.0 (28.3) [75.0 to 83.3]", "79.5 (5.0)"),
    ]
    commands = [f"copo train copo --scene intersection --seed {seed}  # at abc\n" for seed in (0, 1)]
    assert "".join(commands) in text
    assert "last checkpoint over 2 episodes" in text and "](report.md)" in text
    text = algorithm_pages.results_block("ippo", found, "report.md")
    assert rows_of(text, "`intersection`")[0][5:] == ["-", "71.9 (5.3)"]
    assert "copo evaluate" not in text and "train copo" not in text
    nothing = algorithm_pages.results_block("local_mean", found, "report.md")
    assert nothing.startswith("There are no results of `local_mean` yet;") and "|" not in nothing


def test_every_scene_of_an_algorithm_has_a_row_and_held_out_maps_stand_beside_those_of_training(results: Path):
    folder = write_result(results, Cell("pg_map", "copo", 0), metrics([1], [2], [0.5]), [life(0, 0, "success", 9)])
    (folder / "evaluation").rename(folder / "evaluation_heldout")
    write_result(results, Cell("particles", "copo", 7), metrics([1], [2], [0.5]), [life(0, 0, "crash", 9)])
    text = algorithm_pages.results_block("copo", load(results), "report.md")
    rows = [rows_of(text, f"`{scene}`")[0] for scene in ("intersection", "pg_map", "particles")]
    assert [row[5] for row in rows[1:]] == ["held-out maps 100.0", "0.0"], "one episode has no interval"
    assert [row[1] for row in rows] == ["0, 1 (n = 2)", "0 (n = 1)", "7 (n = 1)"]


def test_the_interval_of_one_seed_is_that_of_its_evaluation():
    for result in load(ROOT / "benchmarks" / "results"):
        for maps, name in EVALUATIONS.items():
            if maps not in result.evaluations:
                continue
            folder = result.cell.folder(ROOT / "benchmarks" / "results") / name
            wanted = json.loads((folder / "summary.json").read_text())["interval_95"]["success_rate"]
            assert success_interval([result], maps) == pytest.approx(wanted, abs=1e-5)


def test_report_fills_the_blocks_of_the_pages_and_nothing_else(results: Path, tmp_path: Path):
    pages = tmp_path / "docs"
    pages.mkdir()
    block = "<!-- results:{0}:begin -->\nold\n<!-- results:{0}:end -->\n".format
    (pages / "two.md").write_text(
        f"before\n{block('copo')}between\n{block('curriculum')}after `<!-- results:x:begin -->`"
    )
    (pages / "one.md").write_text(block("ippo"))
    (pages / "other.md").write_text("nothing to fill\n")
    arguments = ["report", "--results-dir", str(results), "--docs", str(pages)]
    assert main(arguments) == 0
    text = (pages / "two.md").read_text()
    assert text.startswith("before\n<!-- results:copo:begin -->\n| scene |") and text.endswith(":begin -->`")
    assert "old" not in text and "no results of `curriculum` yet" in text and "../results/README.md" in text
    assert (pages / "other.md").read_text() == "nothing to fill\n"
    assert main(arguments) == 0 and (pages / "two.md").read_text() == text

    (pages / "one.md").write_text("")
    with pytest.raises(
        UserError, match=r"no page in .*docs has a place for the results of ippo: put <!-- results:ippo"
    ):
        reporting.report(reporting.ReportConfig(results, docs=pages))
    (pages / "one.md").write_text(block("ppo"))
    with pytest.raises(UserError, match="unknown algorithm 'ppo'"):
        reporting.report(reporting.ReportConfig(results, docs=pages))


def test_only_a_report_of_the_committed_results_is_about_the_committed_pages(tmp_path: Path):
    assert reporting.ReportConfig().pages == algorithm_pages.FOLDER
    assert reporting.ReportConfig(results_dir=tmp_path).pages is None
    assert reporting.ReportConfig(output=tmp_path).pages is None
    assert reporting.ReportConfig(results_dir=tmp_path, docs=tmp_path).pages == tmp_path


def test_the_pages_show_the_committed_results_of_every_algorithm():
    output, folder = ROOT / "benchmarks" / "results", ROOT / algorithm_pages.FOLDER
    blocks = [name for path in folder.glob("*.md") for name in block_names(path.read_text(encoding="utf-8"))]
    assert sorted(name for name in blocks if name.startswith("results:")) == sorted(f"results:{a}" for a in ALGORITHMS)
    for path, text in algorithm_pages.filled(folder, load(output), output).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m benchmarks report"


def test_the_readme_and_the_report_show_the_committed_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("plot_curves", "plot_scenes"):  # the pictures are not compared
        monkeypatch.setattr(reporting, name, lambda *arguments: None)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "results" in block_names(page)
    readme, folder = tmp_path / "README.md", Path("benchmarks") / "results"
    readme.write_text(page, encoding="utf-8")
    reporting.report(reporting.ReportConfig(ROOT / folder, output=tmp_path / folder, readme=readme))
    for name in ("README.md", folder / "README.md"):
        made, there = (root.joinpath(name).read_text(encoding="utf-8") for root in (tmp_path, ROOT))
        assert made == there, f"{name}: run python -m benchmarks report --readme README.md"


def test_a_curve_of_many_seeds_lies_in_its_band():
    rng = np.random.default_rng(0)
    steps = np.arange(1.0, 21.0)
    curves = [(steps, rng.uniform(20, 80, 20)) for _ in range(5)]
    grid, middle, low, high = across_seeds(curves)
    assert grid.tolist() == steps.tolist()
    assert (low <= middle).all() and (middle <= high).all()
    # Five seeds: the lowest and the highest are left out.
    at_first = sorted(success[0] for _, success in curves)
    assert middle[0] == pytest.approx(np.mean(at_first[1:4]))


def test_curves_are_compared_where_all_seeds_have_been():
    short, long = (
        (np.array([2.0, 4.0]), np.array([0.0, 20.0])),
        (np.array([1.0, 3.0, 5.0]), np.array([10.0, 30.0, 50.0])),
    )
    grid, middle, low, high = across_seeds([short, long])
    assert grid.tolist() == [2, 3, 4]
    assert middle.tolist() == [10, 20, 30]
    assert (low.tolist(), high.tolist()) == ([0, 10, 20], [20, 30, 40])


def test_no_results_are_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks report: no results in") and error.count("\n") == 1


def test_what_cannot_be_reported_is_one_sentence(results: Path, tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(UserError, match="has no place for the results"):
        reporting.report(reporting.ReportConfig(results, readme=readme))
    assert readme.read_text() == "no markers"
    assert not (results / "README.md").exists()

    folder = Cell("intersection", "copo", 0).folder(results)
    (folder / "provenance.json").write_text("{")
    with pytest.raises(UserError, match=r"provenance.json cannot be read"):
        load(results)
    (folder / "metrics.csv").write_text("env_steps\n1600\n")
    with pytest.raises(UserError, match=r"metrics.csv cannot be read.*no column ended"):
        load(results)


def test_cells_are_every_combination_seed_by_seed():
    found = cells(("intersection", "particles"), ("ippo", "copo"), (0, 1))
    assert len(found) == len(set(found)) == 8
    assert [cell.seed for cell in found] == [0] * 4 + [1] * 4
    with pytest.raises(ValueError, match="unknown scene 'moon'"):
        cells(("moon",), ("ippo",), (0,))
    with pytest.raises(ValueError, match="unknown algorithm 'ppo'"):
        cells(("particles",), ("ppo",), (0,))
    with pytest.raises(ValueError, match="seed -1 is negative"):
        cells(("particles",), ("ippo",), (0, -1))
    with pytest.raises(ValueError, match="nothing to run"):
        cells(("particles",), ("ippo",), ())


def test_complete_means_trained_and_saved(tmp_path: Path):
    assert env_steps_done(tmp_path) == 0 and not is_complete(tmp_path, 1)
    metrics([1] * 3, [1] * 3, [0.0] * 3).to_csv(tmp_path / "metrics.csv", index=False)
    assert env_steps_done(tmp_path) == 4800
    assert is_complete(tmp_path, 4800) and not is_complete(tmp_path, 4801)
    (tmp_path / "checkpoints" / "step_000003200").mkdir(parents=True)
    assert not is_complete(tmp_path, 4800), "killed before its last checkpoint"
    (tmp_path / "checkpoints" / "step_000004800").mkdir()
    assert is_complete(tmp_path, 4800)
    (tmp_path / "metrics.csv").write_text("something else\n1\n")
    with pytest.raises(UserError, match=r"metrics.csv is not as copo train wrote it"):
        env_steps_done(tmp_path)


def test_run_trains_skips_resumes_and_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    runs, results = tmp_path / "runs", tmp_path / "results"
    options = "--num-envs 0 --num-agents 4 --steps-per-iteration 200 --update-epochs 1"

    def go(total_steps: int, episodes: int = 0) -> str:
        arguments = ["run", "--scenes", "particles", "--algorithms", "ippo", "--total-steps", str(total_steps)]
        arguments += ["--evaluate", str(episodes), "--runs-dir", str(runs), "--results-dir", str(results)]
        assert main([*arguments, f"--train-options={options}"]) == 0
        return capfd.readouterr().out

    cell = Cell("particles", "ippo", 0)
    assert "training" in go(400)
    stamps = {path: path.stat().st_mtime_ns for path in cell.folder(runs).rglob("*") if path.is_file()}
    assert "complete, 400 env steps" in go(400)
    assert stamps == {path: path.stat().st_mtime_ns for path in cell.folder(runs).rglob("*") if path.is_file()}
    assert "resuming" in go(600, episodes=1)

    folder = cell.folder(results)
    assert pd.read_csv(folder / "metrics.csv")["env_steps"].tolist() == [200, 400, 600]
    assert json.loads((folder / "config.json").read_text())["total_steps"] == 600
    assert json.loads((folder / "evaluation" / "summary.json").read_text())["env_steps"] == 600
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["command"].startswith("copo train ippo --scene particles --seed 0 --total-steps 600")
    assert "--resume" not in provenance["command"]
    training, evaluation = rows_of(reporting.full_report(load(results)), "IPPO")
    assert training[:4] == ["IPPO", "0 (n = 1)", "600", "-"]
    assert evaluation[:3] == ["IPPO", "1", "1"]


def test_a_cell_that_fails_is_named_and_does_not_count(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    config = RunConfig(
        scenes=("particles",),
        algorithms=("ippo",),
        runs_dir=tmp_path / "runs",
        results_dir=tmp_path / "results",
        train_options="--num-agents 99",
    )
    with pytest.raises(UserError, match=r"1 of 1 cells failed .*: ippo on particles, seed 0"):
        run(config)
    assert "use 1 to 32" in capfd.readouterr().err
    assert not (tmp_path / "results").exists()


def test_origin_of_a_run_is_kept_when_it_is_collected_again(tmp_path: Path):
    cell = Cell("particles", "ippo", 0)
    config = RunConfig(runs_dir=tmp_path / "runs", results_dir=tmp_path / "results")
    source = write_result(config.runs_dir, cell, metrics([1], [1], [0.0]))
    collect(config, cell)
    kept = json.loads((cell.folder(config.results_dir) / "provenance.json").read_text())
    assert kept["hardware"] == "a processor, 2 cores"
    (source / "provenance.json").unlink()
    collect(config, cell)
    made = json.loads((cell.folder(config.results_dir) / "provenance.json").read_text())
    assert made["command"].endswith(f"--run-dir {cell.folder(config.runs_dir)}")
    assert "--resume" not in train_command(config, cell)


PROTOCOL = {
    "env_steps": 1600,
    "episodes": 2,
    "first_seed": 1_000_000,
    "horizon": 1000,
    "num_agents": 4,
    "rule_based": 1,
    "geometry": "metadrive",
    "maps": "train",
    "deterministic": False,
    "lcf": {"mean": 0.25, "std": 0.125},
}
"""What summary.json says of an evaluation of `write_run`."""


def save_checkpoint(run: Path, env_steps: int) -> None:
    info = PolicyInfo("particles", "copo", 32, 4, True, 0.25, 0.125, False, env_steps, "metadrive", 1)
    folder = run / "checkpoints" / f"step_{env_steps:09d}"
    folder.mkdir(parents=True)
    save_policy(Policy(make_actor(info), info), folder)


def write_run(root: Path) -> Path:
    """A run of CoPO on the particles, one iteration of 1,600 env steps, evaluated in two episodes."""
    lives = [life(0, 0, "success", 9), life(1, 0, "crash", 9)]
    run = write_result(root, Cell("particles", "copo", 0), metrics([1], [2], [0.5]), lives)
    save_checkpoint(run, 1600)
    write_summary(run)
    return run


def write_summary(run: Path, **changes: object) -> None:
    about = {"run": str(run), "scene": "particles", "algorithm": "copo", **PROTOCOL, **changes}
    (run / "evaluation" / "summary.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_agents": 3},
        {"rule_based": 0},
        {"geometry": "published"},
        {"maps": "heldout"},
        {"lcf": 0.0},
        {"deterministic": True},
        {"first_seed": 0},
        {"horizon": 100},
        {"env_steps": 800},
    ],
    ids=str,
)
def test_only_the_protocol_counts_as_evaluated_and_is_collected(tmp_path: Path, changes: dict[str, object]):
    config = RunConfig(runs_dir=tmp_path / "runs", results_dir=tmp_path / "results", evaluate=0)
    cell, run = Cell("particles", "copo", 0), write_run(config.runs_dir)
    assert _is_evaluated(run, "train", 2) and not _is_evaluated(run, "train", 20)
    write_summary(run, **changes)
    assert not _is_evaluated(run, "train", 2)
    collect(config, cell)
    assert not (cell.folder(config.results_dir) / "evaluation").exists()


def test_an_evaluation_of_an_earlier_checkpoint_does_not_stay_in_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = RunConfig(runs_dir=tmp_path / "runs", results_dir=tmp_path / "results", evaluate=0)
    cell, run = Cell("particles", "copo", 0), write_run(config.runs_dir)
    collect(config, cell)
    (result,) = load(config.results_dir)
    assert result.episodes == 2 and result.evaluations["train"]["success_rate"] == 0.5
    (run / "checkpoints").rename(run / "elsewhere")
    collect(config, cell)
    assert load(config.results_dir)[0].episodes == 2, "nothing says that it is of an earlier one"
    (run / "elsewhere").rename(run / "checkpoints")
    capsys.readouterr()
    save_checkpoint(run, 3200)
    for said in (f"emptied {cell.folder(config.results_dir) / 'evaluation'}: the last checkpoint is not", ""):
        collect(config, cell)
        assert not load(config.results_dir)[0].evaluations
        printed = capsys.readouterr().out
        assert printed.startswith(said) and bool(printed) == bool(said)
    assert (run / "evaluation" / "lives.csv").exists(), "the run keeps what it has"


def test_a_cell_that_was_made_with_other_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    same = "--num-envs 0 --num-agents 4 --steps-per-iteration 40 --update-epochs 1 --minibatch-size 64"
    config = RunConfig(total_steps=80, train_options=same, runs_dir=tmp_path / "runs")
    for algorithm in ("ippo", "curriculum"):
        train(train_config(train_command(config, Cell("particles", algorithm, 0))[1:]))

    def go(algorithm: str, total_steps: int, options: str) -> str:
        arguments = ["run", "--scenes", "particles", "--algorithms", algorithm, "--total-steps", str(total_steps)]
        arguments += ["--evaluate", "0", "--runs-dir", str(tmp_path / "runs"), f"--train-options={options}"]
        capsys.readouterr()
        code = main([*arguments, "--results-dir", str(tmp_path / "results")])
        out, err = capsys.readouterr()
        assert code == (2 if err else 0) and err.count("\n") == bool(err)
        assert bool(err) != out.startswith("[1/1]"), "refused before anything is begun"
        return err or out

    assert "complete, 80 env steps" in go("ippo", 80, same)
    assert "complete, 80 env steps" in go("curriculum", 80, f"{same} --checkpoint-every 40")
    for total_steps in (40, 80, 120):
        assert go("ippo", total_steps, f"{same} --preset paper --clip-coef 0.9 --num-envs 0") == (
            "benchmarks run: ippo on particles, seed 0: cannot resume with neighbour_rule=tf: "
            "the run was made with ours (preset default); give the same, or choose another --runs-dir\n"
        )
        assert "cannot resume with clip_coef=0.9: the run was made with 0.2;" in go(
            "ippo", total_steps, f"{same} --clip-coef 0.9"
        )
    for total_steps in (40, 120):
        assert go("curriculum", total_steps, same) == (
            f"benchmarks run: curriculum on particles, seed 0: cannot resume with total_steps={total_steps}: the run "
            "was made with 80, by which its number of vehicles grows; give the same, or choose another --runs-dir\n"
        )


def test_a_cell_is_evaluated_in_as_many_episodes_as_the_protocol_has():
    assert RunConfig().evaluate == EvaluateConfig().episodes == 20


@pytest.mark.parametrize("arguments", [["--total-steps", "0"], ["--evaluate", "-1"], ["--scenes", "moon"]])
def test_impossible_settings_run_nothing(arguments: list[str], tmp_path: Path):
    assert main(["run", *arguments, "--runs-dir", str(tmp_path), "--results-dir", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("'", "cannot be read (No closing quotation)"),
        ("--seed 7", "--seed is the cell's to say"),
        ("--gamma 0.9 --total_steps=5", "--total-steps is the cell's to say"),
        ("--run-dir elsewhere", "--run-dir is the cell's to say"),
    ],
)
def test_train_options_that_are_the_cells_are_refused(tmp_path: Path, options: str, sentence: str):
    with pytest.raises(UserError) as error:
        run(RunConfig(train_options=options, runs_dir=tmp_path / "runs", results_dir=tmp_path / "results"))
    assert sentence in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_background_job_can_be_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """A shell script's background jobs ignore SIGINT, and so does whatever they start."""
    runs = tmp_path / "runs"
    cell = ["--scenes", "particles", "--algorithms", "ippo", "--total-steps", "100000", "--evaluate", "0"]
    folders = ["--runs-dir", str(runs), "--results-dir", str(tmp_path / "results")]
    code = (
        "import signal, sys; from benchmarks.__main__ import main; "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); sys.exit(main())"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, "run", *cell, *folders],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics = runs / "particles" / "ippo" / "seed0" / "metrics.csv"
        deadline = time.monotonic() + 60
        while not metrics.is_file():
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        job.send_signal(number)
        _, sentence = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 130
    assert "stopped; the same command goes on" in sentence
    assert last_checkpoint(metrics.parent) is not None

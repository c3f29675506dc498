"""The measurements of the batched step: the page shows what the committed files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import baselines, performance_page, settings_page, step_speed
from copo_algos.algorithms import ALGORITHMS
from copo_envs.scenes import SCENES


def test_the_page_shows_the_committed_measurements() -> None:
    text = performance_page.PAGE.read_text(encoding="utf-8")
    assert performance_page.fill(text) == text


def test_the_cost_of_older_measurements_is_not_on_the_page() -> None:
    text = performance_page.cost_table()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| `" in line]
    shown = [tuple(row[:4]) for row in rows]
    assert {name for name, *_ in shown} == {f"`{name}`" for name in ALGORITHMS}
    assert [row[0] for row in rows if row[3] == "bfloat16"] == ["`copo`"] == [shown[-1][0]]
    twice = ("`copo`", "`default`", "batched", "float32")
    assert len(shown) == len(set(shown)) + 1 and shown.count(twice) == 2 and shown[-2] == twice
    assert text.count("| algorithm |") == 1
    assert "(../benchmarks/results/train_cost) alone. `epyc`: the rows in bfloat16 are" in text
    assert "`xeon_amx`: before gradient steps had compiled passes" in text


def test_every_scene_was_measured_and_compared() -> None:
    wanted = {name for name, scene in SCENES.items() if scene.metadrive_class}
    speeds = sorted((performance_page.RESULTS / "step_speed").glob("*/step_speed.csv"))
    ratios = []
    equality = performance_page._rows(performance_page.RESULTS / "step_equality" / "step_equality.csv")
    for path in speeds:
        assert {row["scene"] for row in performance_page._rows(path)} == wanted
        ratios += [float(row["ratio"]) for row in performance_page._rows(path)]
    said = f"{min(ratios):.1f} to {max(ratios):.1f} times"
    for page in ("README.md", "docs/performance.md", "copo_envs/scene_env.py"):
        assert said in (performance_page.PAGE.parent.parent / page).read_text(encoding="utf-8"), page
    for scene in wanted:
        seeds = [row for row in equality if (row["scene"], row["geometry"]) == (scene, "published")]
        assert len(seeds) >= 3
        assert sum(int(row["steps"]) for row in seeds) >= 2000
        assert sum(int(row["endings"]) for row in seeds) >= 200
        assert all((row["cells_apart"], row["parted_at"]) == ("0", "-1") for row in seeds)


def test_the_tables_of_settings_show_the_committed_runs() -> None:
    for path, text in settings_page.pages().items():
        assert path.read_text(encoding="utf-8") == text


def test_the_baselines_table_shows_the_committed_measurement() -> None:
    text = baselines.PAGE.read_text(encoding="utf-8")
    assert baselines.fill(text) == text
    rows = pd.read_csv(baselines.FOLDER / "baselines.csv").set_index(["scene", "driver"])
    for scene in SCENES:
        ruled, random = rows.loc[(scene, "rule_based")], rows.loc[(scene, "random")]
        assert ruled["episodes"] == random["episodes"] >= 5
        assert ruled["success_low"] > random["success_high"], scene
    assert rows.loc[("intersection", "rule_based"), "success_rate"] > 0.3


def test_scores_are_shown_by_preset_and_what_was_not_reached_says_so(tmp_path: Path) -> None:
    header = "scene,algorithm,preset,seed,score,reached,env_steps,wall_min,cpu_min,best_success_rate\n"
    about = {
        "load_average": [1.2, 1, 1],
        "hardware": "a machine",
        "versions": {"copo": "1", "torch": "2"},
        "date": "now",
    }
    for name, row in (
        ("fast", "intersection,copo,fast,1,0.7,True,61600,9.50,14.25,0.713"),
        ("default", "intersection,copo,default,0,0.7,False,80000,20.00,31.00,0.426"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "time_to_score.csv").write_text(header + row + "\n")
        (tmp_path / name / "time_to_score.json").write_text(json.dumps(about))
    text = performance_page.score_table(tmp_path)
    assert "| `fast` | 1 | 61,600 | 9.50 | 14.25 |" in text
    assert "| `default` | 0 | not within 80,000 (best 43 %) | 20.00 | 31.00 |" in text
    assert "`fast` seed 1: load average at the end 1.2; a machine; torch 2; now." in text


def test_runs_on_shared_machines_give_env_steps_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    rows = ["800,299,0.9", "1600,300,0.699", "2400,310,0.7", "3200,320,0.8"]
    paths[0].write_text("\n".join(["env_steps,lives,success_rate", *rows]))
    paths[1].write_text("\n".join(["env_steps,lives,success_rate", *rows[:2]]))
    assert "first held 70% after 2,400 and never env steps." in performance_page.shared_runs(paths)


def test_the_first_time_of_a_success_is_over_a_whole_window(tmp_path: Path) -> None:
    """Alone, the first 8,000 env steps have 100 %, the third 80; over two rows, 16,000 env steps, it is 50, 40, 70."""
    path = tmp_path / "metrics.csv"
    rows = ["8000,10,10", "16000,10,0", "24000,10,8", "32000,10,6"]
    path.write_text("\n".join(["env_steps,ended,successes", *rows]))
    assert settings_page.table({"a run": path}, [16_000]).splitlines()[-1] == "| a run | 50 | 70 | 32,000 | - |"
    path.write_text("\n".join(["env_steps,ended,successes", *rows[:3]]))
    assert settings_page.table({"a run": path}, [32_000]).splitlines()[-1] == "| a run |  | 50 | - | - |"


@pytest.mark.simulator
def test_speed_is_measured_on_both_sides() -> None:
    row = step_speed.measure("parking_lot", num_agents=4, blocks=1, steps=3, seed=0)
    assert row["stock_us"] > 0 and row["fast_us"] > 0
    assert row["ratio"] == pytest.approx(row["stock_us"] / row["fast_us"], abs=0.02)
    assert row["fast_alive"] >= 1 and "physics" in row["shares"]

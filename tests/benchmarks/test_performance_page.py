"""The measurements of the batched step: the page shows what the committed files hold."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import baselines, performance_page, settings_page, step_speed
from copo_envs.scenes import SCENES


def test_the_page_shows_the_committed_measurements() -> None:
    text = performance_page.PAGE.read_text(encoding="utf-8")
    assert performance_page.fill(text) == text


def test_every_scene_was_measured_and_compared() -> None:
    wanted = {name for name, scene in SCENES.items() if scene.metadrive_class}
    speed = performance_page._rows(performance_page.RESULTS / "step_speed" / "step_speed.csv")
    equality = performance_page._rows(performance_page.RESULTS / "step_equality" / "step_equality.csv")
    assert {row["scene"] for row in speed} == wanted
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


@pytest.mark.simulator
def test_speed_is_measured_on_both_sides() -> None:
    row = step_speed.measure("parking_lot", num_agents=4, blocks=1, steps=3, seed=0)
    assert row["stock_us"] > 0 and row["fast_us"] > 0
    assert row["ratio"] == pytest.approx(row["stock_us"] / row["fast_us"], abs=0.02)
    assert row["fast_alive"] >= 1 and "physics" in row["shares"]

"""The pictures in the docs, and the table of their speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import render_speed, scene_pictures
from copo_envs.make import make_simulator
from copo_envs.scenes import SCENES, scene_options

IMAGES = Path(__file__).resolve().parent.parent.parent / "docs" / "images"


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_has_a_small_picture_of_the_same_width(scene: str) -> None:
    path = IMAGES / "scenes" / f"{scene}.png"
    with Image.open(path) as picture:
        assert picture.width == scene_pictures.WIDTH and picture.height <= scene_pictures.TALLEST
    assert path.stat().st_size < 60_000


def test_the_command_makes_the_committed_picture(tmp_path: Path) -> None:
    (particles,) = (picture for picture in scene_pictures.PICTURES if picture.scene == "particles")
    made = np.asarray(Image.open(scene_pictures.write(particles, tmp_path)).convert("RGB")).astype(int)
    committed = np.asarray(Image.open(IMAGES / "scenes" / "particles.png").convert("RGB"))
    assert np.abs(made - committed).mean() < 1.0, "but for the letters, which other versions of Pillow draw otherwise"


def test_a_row_of_the_speed_table_speaks_of_the_frames_that_were_drawn() -> None:
    simulator = make_simulator(scene_options("particles", num_agents=5), in_process=True)
    batch = simulator.reset(0)
    shots = [(batch, simulator.wrecks())] * 4
    row = render_speed.measure(simulator.scenery(), shots, "following, 60 m", 200, rounds=3)
    assert (row["frames"], row["vehicles"], row["wrecks"]) == (12, 5.0, 0.0)
    assert (row["height"], row["width"]) == (200, 200)
    assert row["ms_quartile_1"] <= row["ms_per_frame"] <= row["ms_quartile_3"]
    assert row["frames_per_second"] * row["ms_per_frame"] == pytest.approx(1000, rel=0.02)

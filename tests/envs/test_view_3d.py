"""The 3D view: what is said where MetaDrive's assets are missing, and pictures where they are not."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from copo_envs.make import make_simulator
from copo_envs.render import RenderError
from copo_envs.scenes import scene_options
from copo_envs.view_3d import View3D, assets_folder, check_assets, loading_assets


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("copo_envs.view_3d.assets_folder", lambda: tmp_path / "assets")
    return tmp_path / "assets"


def test_missing_assets_are_one_sentence_with_the_command(assets: Path) -> None:
    with pytest.raises(RenderError, match=r"not installed; fetch them with: python -m metadrive\.pull_asset$"):
        check_assets()
    with pytest.raises(RenderError, match="pull_asset"):
        View3D(scene_options("intersection"))


def test_assets_of_another_version_are_to_be_updated(assets: Path) -> None:
    assets.mkdir()
    (assets / "version.txt").write_text("0.3.0\n")
    with pytest.raises(RenderError, match=r"and those of 0\.3\.0 are installed; .*pull_asset --update$"):
        check_assets()
    (assets / "version.txt").write_text(version("metadrive-simulator") + "\n")
    check_assets()


def test_incomplete_assets_are_one_sentence_with_the_command() -> None:
    with (
        pytest.raises(RenderError, match=r"not complete \(Could not load texture: a\.png\); .* --update$"),
        loading_assets(),
    ):
        raise OSError("Could not load texture: a.png")


def test_metadrive_looks_for_them_beside_its_modules() -> None:
    assert (assets_folder().parent / "pull_asset.py").exists()


def test_what_cannot_be_seen_in_3d_is_refused(assets: Path) -> None:
    with pytest.raises(RenderError, match="particles has no 3D view: it is not one of MetaDrive's scenes"):
        View3D(scene_options("particles"))
    with pytest.raises(RenderError, match="unknown camera 'drone'; choose one of follow, top"):
        View3D(scene_options("intersection"), camera="drone")
    with pytest.raises(RenderError, match="unknown vehicle to follow 'car'"):
        View3D(scene_options("intersection"), follow="car")
    with pytest.raises(RenderError, match="size=100000 pixels is too large to draw; use 4096 or less"):
        View3D(scene_options("intersection"), size=100_000)


@pytest.mark.simulator
@pytest.mark.skipif(not (assets_folder() / "version.txt").exists(), reason="MetaDrive's assets are not installed")
def test_a_picture_leaves_the_numbers_as_they_are() -> None:
    moves = np.tile(np.array([0.0, 0.5], np.float32), (4, 1))
    options = scene_options("intersection", num_agents=4)
    view = View3D(options, size=240)
    batch = view.simulator.reset(0)
    first = view.frame(batch)
    seen = view.simulator.step(moves).obs.copy()
    second = view.frame(view.simulator.batch)
    view.simulator.close()
    assert first.shape == (134, 240, 3) and first.dtype == np.uint8
    assert first.std() > 10 and (first != second).any()
    plain = make_simulator(options, in_process=False)
    plain.reset(0)
    np.testing.assert_array_equal(plain.step(moves).obs, seen)
    plain.close()

"""MetaDrive's own 3D view, off-screen, with OpenGL.

It needs MetaDrive's assets (models and textures), which come neither with its package nor with this one: nothing is
downloaded here, `check_assets` says what command does. The step is MetaDrive's own, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from copo_envs.drawing.follow import Follower
from copo_envs.drawing.options import RenderError, render_options
from copo_envs.scenes import SceneOptions, get_scene
from copo_envs.step_batch import StepBatch

CAMERAS = ("follow", "top")
_BEHIND, _ABOVE, _PITCH = 9.0, 4.0, -14.0  # metres and degrees of the camera that follows
_SAMPLES = 4
"""Most samples per pixel. MetaDrive asks for 16, which software OpenGL and some graphics cards do not have."""


def assets_folder() -> Path:
    """Where MetaDrive looks for its models and textures."""
    spec = find_spec("metadrive")
    if spec is None or not spec.submodule_search_locations:
        raise RenderError("the 3D view is MetaDrive's, which is not installed: pip install metadrive-simulator")
    return Path(spec.submodule_search_locations[0]) / "assets"


def check_assets() -> None:
    """Refuse if MetaDrive's assets are not there or are those of another version.

    Raises:
        RenderError: with the command that fetches them.
    """
    written = assets_folder() / "version.txt"
    if not written.exists():
        raise RenderError(
            "the 3D view needs MetaDrive's assets, which are not installed; fetch them with: "
            "python -m metadrive.pull_asset"
        )
    there, wanted = written.read_text().strip(), version("metadrive-simulator")
    if there != wanted:
        raise RenderError(
            f"the 3D view needs the assets of MetaDrive {wanted}, and those of {there} are installed; fetch them with: "
            "python -m metadrive.pull_asset --update"
        )


@contextmanager
def loading_assets() -> Iterator[None]:
    """Around a reset in 3D: a model or texture that is not among the assets is one sentence.

    Raises:
        RenderError: with the command that fetches them again.
    """
    try:
        yield
    except OSError as error:
        raise RenderError(
            f"MetaDrive's assets are not complete ({error}); fetch them again with: "
            "python -m metadrive.pull_asset --update"
        ) from error


class View3D:
    """A scene with a camera in it. One per process, and before any other scene of MetaDrive's.

    `simulator` is the scene as a `Simulator`.

    Args:
        options: from `scene_options`.
        size: pixels of the picture's width; its height is 9/16 of that.
        camera: "follow": behind a vehicle. "top": straight down on a vehicle, or on the whole map.
        follow: as of `RenderOptions`; None is "auto" for the camera that follows, and the whole map for "top".
        span: metres that "top" sees around a vehicle.

    Raises:
        RenderError: no assets, a scene that is not MetaDrive's, or a value that cannot be.
    """

    def __init__(
        self,
        options: SceneOptions,
        size: int = 640,
        camera: str = "follow",
        follow: str | None = None,
        span: float | None = None,
    ):
        if camera not in CAMERAS:
            raise RenderError(f"unknown camera {camera!r}; choose one of {', '.join(CAMERAS)}")
        if not get_scene(options.scene).metadrive_class:
            raise RenderError(f"{options.scene} has no 3D view: it is not one of MetaDrive's scenes")
        if camera == "follow":
            follow = follow or "auto"
        self._look = render_options(size=size, follow=follow, span=span)
        check_assets()
        self.size = (size // 2 * 2, size * 9 // 16 // 2 * 2)
        self._camera = camera
        self._follower = None if follow is None else Follower(follow)
        self._heading = 0.0
        self.simulator = _simulator(options, self.size)

    def note(self, batch: StepBatch) -> None:
        """Go on to this step without a picture of it."""
        if self._follower is None:
            return
        self._follower.look(batch)
        for slot in np.flatnonzero(batch.active & (batch.life == self._follower.life)):
            self._heading = float(batch.heading[slot])

    def frame(self, batch: StepBatch) -> np.ndarray:
        """The picture after a step of `simulator`, (H, W, 3) uint8."""
        self.note(batch)
        engine: Any = self.simulator.metadrive.engine
        camera = engine.get_sensor("rgb_camera")
        position, angles = self._pose(camera.lens.getFov())
        # Light and shadow are computed for what MetaDrive's main camera sees, which shows nothing here.
        engine.camera.setPos(*position)
        engine.camera.setHpr(*angles)
        engine.camLens.setFov(90.0)
        engine.pssm.camera_rig.set_pssm_distance(max(engine.global_config["shadow_range"], 2 * position[2]))
        picture = camera.perceive(to_float=False, new_parent_node=engine.origin, position=position, hpr=angles)
        return np.ascontiguousarray(np.asarray(picture)[..., ::-1])  # it is blue first

    def _pose(self, field: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """x, y, z in metres; heading, pitch and roll in degrees, heading 0 along the y axis."""
        place = None if self._follower is None else self._follower.place
        if self._camera == "follow" and place is not None:
            x, y = place - _BEHIND * np.array([math.cos(self._heading), math.sin(self._heading)])
            return (float(x), float(y), _ABOVE), (math.degrees(self._heading) - 90.0, _PITCH, 0.0)
        if place is None:
            lanes = np.concatenate(self.simulator.scenery()["lanes"])
            place, span = (lanes.min(axis=0) + lanes.max(axis=0)) / 2, np.ptp(lanes, axis=0) + 10.0
        else:
            span = np.full(2, self._look.view_span)
        height = max(side / 2 / math.tan(math.radians(angle) / 2) for side, angle in zip(span, field, strict=True))
        return (float(place[0]), float(place[1]), float(height)), (0.0, -90.0, 0.0)


def _simulator(options: SceneOptions, size: tuple[int, int]) -> Any:
    from metadrive.component.sensors.rgb_camera import RGBCamera
    from metadrive.obs.state_obs import LidarStateObservation

    from copo_envs import metadrive_fixes
    from copo_envs.simulator import MetaDriveSimulator

    _limit_samples()
    metadrive_fixes.install(display="p3headlessgl")
    settings = {
        # What makes MetaDrive draw at all; what vehicles see stays what it is without.
        "image_observation": True,
        "agent_observation": LidarStateObservation,
        "sensors": {"rgb_camera": (RGBCamera, *size)},
        "interface_panel": [],
        "preload_models": False,
        "vehicle_config": {"show_navi_mark": False},
    }
    return MetaDriveSimulator(replace(options, step_backend="stock"), settings)


def _limit_samples() -> None:
    import panda3d.core as panda

    properties: Any = panda.FrameBufferProperties
    if properties.__name__ == "Limited":
        return

    class Limited(properties):
        def set_multisamples(self, samples: int) -> None:
            super().set_multisamples(min(samples, _SAMPLES))

    panda.FrameBufferProperties = Limited

"""One picture per scene with traffic in it, for the docs: `python -m benchmarks.scene_pictures`.

Driven by the scripted driver that errs, in particles by the rule. All pictures are equally wide; the same versions
write the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.lane_follower import LaneFollower
from copo_envs.make import make_simulator
from copo_envs.render import TopDownRenderer
from copo_envs.scenes import SCENES, scene_options
from copo_envs.step_batch import ACTION_SIZE, StepBatch

WIDTH, TALLEST = 720, 560
COLOURS = 96


@dataclass(frozen=True)
class Picture:
    """A moment of a scene."""

    scene: str
    step: int
    seed: int = 0
    bias: float = 0.15
    """How badly the driver drives, see `LaneFollower`: without wrecks the picture would not show what they are."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of `SceneOptions`."""
    look: dict[str, Any] = field(default_factory=dict)
    """Fields of `RenderOptions`."""
    name: str = ""
    """Of the file; the scene's by default."""


PICTURES = (
    Picture("roundabout", step=350),
    Picture("intersection", step=350),
    Picture("tollgate", step=350),
    Picture("bottleneck", step=350),
    Picture("parking_lot", step=120, bias=0.1),
    Picture("pg_map", step=300),
    Picture("particles", step=60, options={"num_agents": 24}),
    Picture("intersection", step=220, bias=0.1, look={"follow": "agent_5", "neighbourhood": 40.0}, name="../follow"),
)


def driver_of(picture: Picture, simulator: Any) -> Callable[[StepBatch], np.ndarray]:
    """What drives: batch -> actions (N, 2)."""
    if not SCENES[picture.scene].metadrive_class:
        return lambda batch: simulator.rule_actions()
    driver = LaneFollower(picture.seed, bias=picture.bias)

    def by_slot(batch: StepBatch) -> np.ndarray:
        actions = np.zeros((simulator.num_slots, ACTION_SIZE), np.float32)
        for agent, action in driver(simulator.metadrive).items():
            actions[simulator.slot_of(agent)] = action
        return actions

    return by_slot


def draw(picture: Picture) -> np.ndarray:
    """(H, W, 3) uint8; whole maps are WIDTH wide."""
    simulator = make_simulator(scene_options(picture.scene, **picture.options), in_process=True)
    try:
        batch = simulator.reset(picture.seed)
        drive = driver_of(picture, simulator)
        renderer = largest_renderer(simulator.scenery(), picture.look)
        for _ in range(picture.step):
            renderer.note(batch)
            batch = simulator.step(drive(batch))
        caption = f"{picture.scene} · {float(batch.episode_step) / 10:.1f} s"
        frame = renderer.frame(batch, simulator.wrecks(), caption=caption)
    finally:
        simulator.close()
    if picture.look:
        return frame
    wide = np.empty((frame.shape[0], WIDTH, 3), np.uint8)
    wide[:] = frame[0, 0]  # the ground
    left = (WIDTH - frame.shape[1]) // 2
    wide[:, left : left + frame.shape[1]] = frame
    return wide


def largest_renderer(scenery: dict[str, Any], look: dict[str, Any]) -> TopDownRenderer:
    """The one whose pictures are as wide as may be and not too tall."""
    size = WIDTH
    while (renderer := TopDownRenderer(scenery, size, **look)).shape[0] > TALLEST:
        size -= 20
    return renderer


def write(picture: Picture, folder: Path) -> Path:
    """Draw it and write it as a PNG with few colours."""
    path = folder / f"{picture.name or picture.scene}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = Image.fromarray(draw(picture))
    frame.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scene_pictures", description=__doc__)
    names = [picture.name or picture.scene for picture in PICTURES]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--output", type=Path, default=Path("docs/images/scenes"))
    args = parser.parse_args()
    for picture in PICTURES:
        if (picture.name or picture.scene) in args.only:
            path = write(picture, args.output)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()

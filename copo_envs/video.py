"""Frames to a GIF (base install) or an MP4 (with imageio)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from copo_envs.drawing.options import RenderError

GIF_FPS, MP4_FPS = 50, 240
"""Most frames a second. Browsers slow down a GIF that asks for more."""


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int = 10) -> Path:
    """Write a .gif or an .mp4, whichever the name of the file asks for. See `write_gif`.

    Raises:
        RenderError: another suffix, no imageio for an MP4, an impossible fps, no frames, or an unwritable place.
    """
    path = check_video(path, fps)
    if path.suffix.lower() == ".gif":
        return write_gif(path, frames, fps)
    import imageio.v2 as imageio

    with _replacing(path) as partial, imageio.get_writer(partial, fps=fps, macro_block_size=2, quality=8) as writer:
        for picture in _checked(frames):
            writer.append_data(picture)  # pyright: ignore[reportAttributeAccessIssue]
    return path


def write_gif(path: str | Path, frames: Iterable[np.ndarray], fps: int = 10, max_colours: int = 64) -> Path:
    """Write an endless GIF.

    Small because all frames share one palette and only what changes is stored. Identical successive frames become one
    that lasts longer.

    Args:
        path: where; its folder is made, and a file already there is replaced when the new one is complete.
        frames: (H, W, 3) uint8 each, all of one shape.
        fps: 1 to 50. Rounded to what a GIF can say: hundredths of a second per frame.
        max_colours: 8 to 255, size of the palette.

    Raises:
        RenderError: no frames, frames of different shapes, an impossible fps or palette, or an unwritable place.
    """
    if not 8 <= max_colours <= 255:
        raise RenderError(f"max_colours={max_colours} is not a size for a GIF's palette; use 8 to 255")
    _check_fps(fps, GIF_FPS)
    pictures = list(_checked(frames))
    palette = _shared_palette(pictures, max_colours)
    indexed = [Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with _replacing(Path(path)) as partial:
        indexed[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=indexed[1:],
            duration=10 * round(100 / fps),
            loop=0,
            optimize=True,
            disposal=1,
        )
    return Path(path)


def check_video(path: str | Path, fps: int = 10) -> Path:
    """The path, if `write_video` can write there: to ask before an hour of simulation, not after.

    Raises:
        RenderError: as `write_video`.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise RenderError(f"cannot write a video to {path}: the name has to end in .gif or .mp4")
    if path.suffix.lower() == ".mp4" and not (find_spec("imageio") and find_spec("imageio_ffmpeg")):
        raise RenderError('an MP4 needs imageio: pip install ".[train]" in the checkout, or choose a .gif')
    _check_fps(fps, GIF_FPS if path.suffix.lower() == ".gif" else MP4_FPS)
    with _replacing(path) as partial:
        partial.touch()
        partial.unlink()
    return path


def _check_fps(fps: int, most: int) -> None:
    if not isinstance(fps, (int, float, np.integer, np.floating)) or not 1 <= fps <= most:
        raise RenderError(f"fps={fps!r} is not possible in this kind of video; use 1 to {most}")


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        if not isinstance(frame, np.ndarray):
            raise RenderError(
                f"a frame is a {type(frame).__name__}; all have to be uint8 arrays (H, W, 3) of one shape"
            )
        shape = shape or frame.shape
        if frame.shape != shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise RenderError(f"a frame is {frame.dtype} {frame.shape}; all have to be uint8 (H, W, 3) of one shape")
        yield frame
    if shape is None:
        raise RenderError("there are no frames to write; draw at least one")


def _shared_palette(pictures: list[np.ndarray], max_colours: int) -> Image.Image:
    """A palette for all pictures. A colour counts with the root of its area, or the ground would take all places."""
    sample = np.stack(pictures[:: max(1, len(pictures) // 24)]).astype(np.uint32)
    packed, areas = np.unique((sample << np.array([16, 8, 0], np.uint32)).sum(axis=-1), return_counts=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8)
    swatches = Image.fromarray(np.repeat(colours, np.ceil(np.sqrt(areas)).astype(int), axis=0)[None])
    return swatches.quantize(max_colours, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end takes the place of `path` at once."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.exists():
            os.replace(partial, path)
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})" if error.filename else str(error)
        raise RenderError(f"cannot write {path}: {reason}; choose another place") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)

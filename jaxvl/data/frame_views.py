"""A video as a few frames, each once whole (the middle square) and once squeezed to a square that is cut in tiles.

For towers that see one picture of R x R at a time: the tiles, g x g of them a frame, show the whole width in detail,
the middle square shows the frame at a glance. Frames are resized one by one as they are decoded, so the size of the
video does not matter. No jax here.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import images
from jaxvl.data.frames import FrameSource
from jaxvl.data.sampling import interval_middles
from jaxvl.data.transforms import BICUBIC
from jaxvl.data.video import VideoFile, open_source, visit_frames

VERSION = 1
"""Raised whenever the same file gives other pixels; part of the provenance of features."""


@dataclasses.dataclass(frozen=True, eq=False)
class FrameView:
    """whole: uint8 `[T, R, R, 3]`. tiled: uint8 `[T, gR, gR, 3]`. times: `[T]` seconds. duration: of the video,
    seconds. timed: False where the seconds are frame numbers."""

    whole: np.ndarray
    tiled: np.ndarray
    times: np.ndarray
    duration: float
    timed: bool = True


def preprocessing(num_frames: int, size: int, grid: int) -> dict[str, Any]:
    """What `load_view` does, for a provenance."""
    return {
        "sampling": f"middles of {num_frames} equal intervals",
        "preprocessing": f"bicubic; middle square of {size}, whole frame squeezed to {grid}x{grid} tiles of {size}",
        "preprocessing_version": VERSION,
    }


def load_view(
    media: str | os.PathLike | FrameSource,
    *,
    num_frames: int,
    size: int,
    grid: int,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> FrameView:
    """Samples T = `num_frames` frames (`sampling.interval_middles`) and resizes each to R = `size` and g·R.

    media: as `video.open_source`, with fps the rate of folders and arrays of frames. start_s, end_s: only this part.
    Whole: short side R, bicubic with antialias, centre crop. Tiled: g·R x g·R, aspect not kept, likewise bicubic.
    Raises BadMedia (also where the part begins behind the end) and InputError (a part of frames of unknown rate).
    """
    source = open_source(media, fps)
    count = len(source.times)
    begin, end = 0.0, float(count)
    if start_s is not None or end_s is not None:
        if not source.timed:
            raise InputError(f"{source.path}: a range in seconds needs the rate of these frames")
        if end_s is not None and end_s < (start_s or 0.0):
            raise InputError(f"{source.path}: the range {start_s or 0.0:g} to {end_s:g} s is inverted")
        rate = count / source.duration
        begin = 0.0 if start_s is None else start_s * rate
        end = end if end_s is None else min(end_s * rate, count)
        if begin >= count:
            raise BadMedia(source.path, f"the range starts at {start_s:g} s, the video ends at {source.duration:.2f} s")
    picks = interval_middles(num_frames, count, begin, end)
    whole = np.empty((num_frames, size, size, 3), np.uint8)
    tiled = np.empty((num_frames, grid * size, grid * size, 3), np.uint8)

    def keep(index: int, picture: np.ndarray) -> None:
        picture = Image.fromarray(picture)
        rows = picks == index
        whole[rows] = images.square(picture, size)
        tiled[rows] = np.asarray(picture.resize((grid * size, grid * size), BICUBIC))

    _visit(source, np.unique(picks), keep)
    return FrameView(whole, tiled, source.times[picks], source.duration, source.timed)


def _visit(source: FrameSource, indices: np.ndarray, visit) -> None:
    """Calls `visit(index, picture [H, W, 3])` for each of `indices`, one frame held at a time."""
    if isinstance(source, VideoFile):
        number = {int(source.index.pts[i]): int(i) for i in indices}
        visit_frames(
            source.media, list(number), source.index, lambda pts, p: visit(number[pts], np.ascontiguousarray(p))
        )
        return
    for i in indices:
        visit(int(i), source.read([int(i)], None, crop=False)[0])

"""Sources of frames that are not a video file: a folder of pictures, and arrays on disk.

Every source has the same face, `FrameSource`, so that `video.load_clip` treats them all alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from jaxvl.core.errors import DAMAGE, BadMedia
from jaxvl.data import images

PICTURE_ENDINGS = tuple(end for end in images.IMAGE_ENDINGS if end != ".gif")  # a GIF is a video of its own
ARRAY_ENDINGS = (".npy", ".npz")


@runtime_checkable
class FrameSource(Protocol):
    """Frames with their times.

    path: what errors call it.
    times: `[n]` float64, seconds since the first frame, ascending.
    duration: seconds, the end of the last frame.
    timed: False where the seconds are only frame numbers, as the frame rate is not known.
    """

    path: str
    times: np.ndarray
    duration: float
    timed: bool

    def read(self, indices: Sequence[int], short_side: int | None, crop: bool = True) -> np.ndarray:
        """Frames by index (any order, repeats allowed), the shorter side resized to `short_side`, then the
        centre square cut out: `[T, R, R, 3]` uint8; without `crop` `[T, H, W, 3]`. With None the size stays as it is,
        and nothing is cut out."""


class FrameFiles:
    """Pictures in a given order.

    path: what errors call them. fps: at which rate they were extracted; None counts one second a frame and sets
    `timed` False. Raises BadMedia where there is none.
    """

    def __init__(self, path: str | os.PathLike, files: Sequence[str], fps: float | None = None):
        self.path = os.fspath(path)
        if not files:
            raise BadMedia(self.path, f"no {'/'.join(PICTURE_ENDINGS)} file in this folder of frames")
        self.files = list(files)
        self.times, self.duration = _even_times(len(self.files), fps)
        self.timed = fps is not None

    def read(self, indices: Sequence[int], short_side: int | None, crop: bool = True) -> np.ndarray:
        """See `FrameSource.read`."""
        return stack_frames(self.path, indices, lambda i: images.read_image(self.files[i]), short_side, crop)


class FrameFolder(FrameFiles):
    """A folder of extracted frames (jpg, png), in the order of the numbers in their names.

    fps: as in `FrameFiles`. Raises BadMedia where the folder holds no picture.
    """

    def __init__(self, path: str | os.PathLike, fps: float | None = None):
        with os.scandir(path) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(PICTURE_ENDINGS) and not e.name.startswith(".")]
        if not names:
            raise BadMedia(os.fspath(path), "no picture (.jpg, .png, ...) in this folder of frames")
        super().__init__(path, [os.path.join(path, name) for name in sorted(names, key=number_key)], fps)


class ArrayFrames:
    """Frames in a `.npy`, or in a `.npz` with one array or one called `frames`: `[n, H, W, 3]` uint8.

    fps: as in `FrameFolder`. A `.npy` is mapped, not loaded. Raises BadMedia on anything else in the file.
    """

    def __init__(self, path: str | os.PathLike, fps: float | None = None):
        self._take(os.fspath(path), _load_frames(os.fspath(path)), fps)

    @classmethod
    def of(cls, frames: np.ndarray, name: str, fps: float | None = None) -> ArrayFrames:
        """The same from an array at hand, which errors call `name`."""
        source = cls.__new__(cls)
        source._take(name, frames, fps)
        return source

    def _take(self, path: str, frames: np.ndarray, fps: float | None) -> None:
        self.path, self.frames = path, frames
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            got = f"{self.frames.dtype} {list(self.frames.shape)}"
            raise BadMedia(self.path, f"frames must be uint8 [n, H, W, 3], this file holds {got}")
        if not len(self.frames):
            raise BadMedia(self.path, "no frames")
        self.times, self.duration = _even_times(len(self.frames), fps)
        self.timed = fps is not None

    def read(self, indices: Sequence[int], short_side: int | None, crop: bool = True) -> np.ndarray:
        """See `FrameSource.read`."""
        return stack_frames(self.path, indices, self._picture, short_side, crop)

    def _picture(self, index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.frames[index]))


def number_key(name: str) -> tuple:
    """Sort key that reads runs of digits as numbers: `2.jpg` before `10.jpg`, with or without leading zeros."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts))


def stack_frames(
    path: str, indices: Sequence[int], picture: Callable[[int], Image.Image], short_side: int | None, crop: bool
) -> np.ndarray:
    """Reads, resizes and stacks the pictures of a `FrameSource`; a repeated index is decoded once.

    Raises BadMedia where uncropped pictures differ in size.
    """
    finish = images.whole if short_side is None else images.square if crop else images.resized
    wanted = [int(i) for i in indices]
    frames = {i: finish(picture(i), short_side) for i in sorted(set(wanted))}
    if len(shapes := {frame.shape for frame in frames.values()}) > 1:
        raise BadMedia(path, f"frames of different sizes: {sorted(shape[:2] for shape in shapes)}")
    return np.stack([frames[i] for i in wanted])


def _even_times(count: int, fps: float | None) -> tuple[np.ndarray, float]:
    rate = 1.0 if fps is None else float(fps)
    return np.arange(count) / rate, count / rate


def _load_frames(path: str) -> np.ndarray:
    if os.path.exists(path) and not os.path.isfile(path):
        raise BadMedia(path, "is a folder, a pipe or a device, not a numpy file")
    try:
        data = np.load(path, mmap_mode="r" if path.lower().endswith(".npy") else None, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            names = data.files
            if len(names) != 1 and "frames" not in names:
                raise BadMedia(path, f"needs one array, or one called 'frames'; it holds {', '.join(names) or 'none'}")
            found = data["frames" if "frames" in names else names[0]]
            if not isinstance(found, np.ndarray):  # another file in a zip comes as bytes
                raise ValueError("holds no array")
            return found
    except FileNotFoundError as error:
        raise BadMedia(path, "file is missing") from error
    except DAMAGE as error:
        raise BadMedia(path, f"not a readable numpy file: {str(error) or type(error).__name__}") from error

"""What a user hands over from Python, a path or an array, as the readers' own objects."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data.frames import ArrayFrames, FrameSource
from jaxvl.data.images import read_image


def picture(given: Any, number: int = 0) -> Image.Image:
    """A path, a Pillow picture, or uint8 `[H, W, 3]` (or `[H, W]`), decoded. number: its place in the list, for errors.

    Raises BadMedia (a file that is no picture) and InputError (anything else).
    """
    if isinstance(given, str | os.PathLike):
        return read_image(given)
    if isinstance(given, Image.Image):
        return given
    array = np.asarray(given) if hasattr(given, "__array__") else None
    if array is not None and array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        return Image.fromarray(np.ascontiguousarray(array))
    raise InputError(f"picture {number}: needs a path or uint8 [H, W, 3], got {_described(given)}")


def video(given: Any, number: int = 0, fps: float | None = None) -> str | os.PathLike | FrameSource:
    """A path, or uint8 frames `[n, H, W, 3]` at `fps` a second (None: unknown), as `load_clip` takes it.

    Raises InputError for anything else.
    """
    if isinstance(given, str | os.PathLike | FrameSource):
        return given
    array = np.asarray(given) if hasattr(given, "__array__") else None
    if array is not None and array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3 and len(array):
        return ArrayFrames.of(array, f"video {number}", fps)
    raise InputError(f"video {number}: needs a path or uint8 [frames, H, W, 3], got {_described(given)}")


def _described(given: Any) -> str:
    if hasattr(given, "dtype") and hasattr(given, "shape"):
        return f"{given.dtype} {list(given.shape)}"
    return type(given).__name__

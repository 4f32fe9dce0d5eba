"""Square crops around a box for tracking, and the plain bilinear resize that trackers' weights were made with.

No antialias: this is OpenCV's bilinear resize (half-pixel centres, edges repeated), to a grey level. No jax here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image


class Crop(NamedTuple):
    """A square of a picture. image: uint8 `[S, S, 3]`, 0 outside of the picture. pad: bool `[S, S]`, True where a pixel
    reaches outside. scale: pixels of the crop a pixel of the picture. left, top: of the square in the picture."""

    image: np.ndarray
    pad: np.ndarray
    scale: float
    left: int
    top: int


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[H, W, 3] -> [height, width, 3]`, bilinear without antialias."""
    if image.shape[:2] == (height, width):
        return image
    scale = (image.shape[1] / width, 0.0, 0.0, 0.0, image.shape[0] / height, 0.0)
    picture = Image.fromarray(np.ascontiguousarray(image))
    moved = picture.transform((width, height), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR)
    return np.asarray(moved)


def fitted_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Height and width whose short side is `short`, or less so that the long side is at most `longest`; sides are
    rounded half up, and the short one first where the long one decides (1080x1920, 800, 1440 -> 800x1422)."""
    low, high = min(height, width), max(height, width)
    if high / low * short > longest:
        short = round(longest * low / high)
    other = int(short * high / low)
    return (short, other) if height <= width else (other, short)


def side_of(box: np.ndarray, factor: float) -> int:
    """Side of the square around a box (left, top, width, height): `ceil(factor sqrt(w h))`, at least a pixel."""
    return max(1, math.ceil(math.sqrt(max(float(box[2]) * float(box[3]), 0.0)) * factor))


def crop(image: np.ndarray, box: np.ndarray, factor: float, size: int) -> Crop:
    """The square of `factor` times the side of `box` (left, top, width, height) around it, resized to `size`.

    As published, the last row or column of the picture is dropped as soon as the square reaches it.
    """
    height, width = image.shape[:2]
    n = side_of(box, factor)
    left = round(float(box[0]) + 0.5 * float(box[2]) - 0.5 * n)
    top = round(float(box[1]) + 0.5 * float(box[3]) - 0.5 * n)
    x = _inside(left, n, width)
    y = _inside(top, n, height)
    square = np.zeros((n, n, 3), np.uint8)
    if x[0] < x[1] and y[0] < y[1]:
        square[y[0] : y[1], x[0] : x[1]] = image[top + y[0] : top + y[1], left + x[0] : left + x[1]]
    whole = np.outer(_covered(*y, n, size), _covered(*x, n, size)) >= 1 - 1e-9
    return Crop(resize(square, size, size), ~whole, size / n, left, top)


def _inside(first: int, n: int, extent: int) -> tuple[int, int]:
    """`[begin, end)` of the places first .. first + n that lie in the picture, but for the published slip."""
    end = n - max(first + n - extent + 1, 0)
    begin = max(-first, 0)
    return (begin, end) if begin < end else (0, 0)


def _covered(begin: int, end: int, n: int, size: int) -> np.ndarray:
    """`[size]`: share of each resized pixel, along one axis, that comes from places `[begin, end)` of n."""
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    share = at - low
    inside = (np.arange(n) >= begin) & (np.arange(n) < end)
    return (1 - share) * inside[low] + share * inside[np.minimum(low + 1, n - 1)]

"""Square crops around a box for tracking, and the plain bilinear resize that trackers' weights were made with.

No antialias: this is OpenCV's bilinear resize (half-pixel centres, edges repeated), in float32 and rounded; OpenCV
rounds in fixed point and may differ by a grey level. No jax here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Crop(NamedTuple):
    """A square of a picture. image: uint8 `[S, S, 3]`, 0 outside of the picture. pad: bool `[S, S]`, True where a pixel
    reaches outside. scale: pixels of the crop a pixel of the picture. left, top: of the square in the picture."""

    image: np.ndarray
    pad: np.ndarray
    scale: float
    left: int
    top: int


class Taps(NamedTuple):
    """Where each resized pixel comes from, along one axis: two places `[S]` int and their shares `[S]` float32."""

    low: np.ndarray
    high: np.ndarray
    low_share: np.ndarray
    high_share: np.ndarray


def taps(size: int, n: int, begin: int = 0, end: int | None = None) -> Taps:
    """Of `n` places, resized to `size`; those outside of `[begin, end)` have no share."""
    at = np.clip((np.arange(size) + 0.5) * (n / size) - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int64)
    high, share = np.minimum(low + 1, n - 1), at - low
    inside = lambda i: (i >= begin) & (i < (n if end is None else end))  # noqa: E731
    return Taps(low, high, ((1 - share) * inside(low)).astype(np.float32), (share * inside(high)).astype(np.float32))


def resize(image: np.ndarray, height: int, width: int, window: Sequence[int] | None = None) -> np.ndarray:
    """uint8 `[H, W, 3] -> [height, width, 3]`, bilinear without antialias. window: (top, left, height, width) of the
    part of the result that is wanted; nothing else is computed."""
    top, left, h, w = window or (0, 0, height, width)
    if image.shape[:2] == (height, width):
        return image[top : top + h, left : left + w]
    y, x = taps(height, image.shape[0]), taps(width, image.shape[1])
    y, x = Taps(*(t[top : top + h] for t in y)), Taps(*(t[left : left + w] for t in x))
    return _resample(image, y, x)


def _resample(image: np.ndarray, y: Taps, x: Taps) -> np.ndarray:
    """Weighted sums of two rows, then of two columns, rounded."""
    rows = image[y.low] * y.low_share[:, None, None]
    rows += image[y.high] * y.high_share[:, None, None]
    found = rows[:, x.low] * x.low_share[:, None]
    found += rows[:, x.high] * x.high_share[:, None]
    found += 0.5
    return found.astype(np.uint8)


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
    x, y = taps(size, n, *_inside(left, n, width)), taps(size, n, *_inside(top, n, height))
    shares = [np.outer(t.low_share + t.high_share, np.ones(size)) for t in (y, x)]
    pad = shares[0] * shares[1].T < 1 - 1e-6
    # places outside of the picture have no share, so that any pixel may stand there
    at = lambda t, first, extent: t._replace(  # noqa: E731
        low=np.clip(t.low + first, 0, extent - 1), high=np.clip(t.high + first, 0, extent - 1)
    )
    x, y = at(x, left, width), at(y, top, height)
    # only the columns that are looked at: a large window around a large object costs no more than a small one
    first, last = int(x.low.min()), int(x.high.max()) + 1
    part = x._replace(low=x.low - first, high=x.high - first)
    return Crop(_resample(image[:, first:last], y, part), pad, size / n, left, top)


def _inside(first: int, n: int, extent: int) -> tuple[int, int]:
    """`[begin, end)` of the places first .. first + n that lie in the picture, but for the published slip."""
    end = n - max(first + n - extent + 1, 0)
    begin = max(-first, 0)
    return (begin, end) if begin < end else (0, 0)

"""One object followed through a video: which part of a frame the network sees, and what its answer means there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.crops import Crop, crop, side_of

COORDS = ("exact", "official")
MARGIN = 2
"""Pixels that a box keeps inside of the frame, and its smallest side."""


@dataclasses.dataclass
class Single:
    """A single-object tracker between two frames.

    box: left, top, width, height in the frame. vector: `[C]` of the target, made in the first frame and kept; None
    before it. coords: 'exact' maps a crop by its whole-pixel corner; 'official' as the released tracker, by the centre
    of the last box, which is up to a pixel beside it. guard: keeps the place and widens the box where the score is
    below; 0: off.
    """

    box: np.ndarray
    factor: float
    size: int
    coords: str = "exact"
    guard: float = 0.0
    vector: np.ndarray | None = None
    seen: Crop | None = None

    def __post_init__(self):
        if self.coords not in COORDS:
            raise InputError(f"config.eval.sot.coords: {self.coords!r} is none of {', '.join(COORDS)}")
        self.box = np.asarray(self.box, np.float64)

    def look(self, image: np.ndarray) -> tuple[Crop, np.ndarray]:
        """The crop around the last box, and that box in it, as corners in its pixels."""
        self.seen = crop(image, self.box, self.factor, self.size)
        return self.seen, in_crop(self.box, self.seen, self.size, self.coords)

    def take(self, found: np.ndarray, score: float, height: int, width: int) -> np.ndarray:
        """The box in the frame, from corners in the crop that was looked at last; it is where the next look goes."""
        if self.guard and score < self.guard:
            self.box = widened(self.box, height, width)
        else:
            self.box = inside(in_frame(found, self.box, self.seen, self.size, self.coords), height, width)
        return self.box


def in_crop(box: np.ndarray, seen: Crop, size: int, coords: str = "exact") -> np.ndarray:
    """The box that a crop was cut around, as corners `[4]` in its pixels."""
    if coords == "official":  # it is the centre by definition
        half = box[2:] * seen.scale / 2
        return np.concatenate([size / 2 - half, size / 2 + half])
    low = (box[:2] - (seen.left, seen.top)) * seen.scale
    return np.concatenate([low, low + box[2:] * seen.scale])


def in_frame(found: np.ndarray, last: np.ndarray, seen: Crop, size: int, coords: str = "exact") -> np.ndarray:
    """Corners `[4]` in a crop -> left, top, width, height in the frame; last: the box that the crop was cut around."""
    found = np.asarray(found, np.float64) / seen.scale
    corner = np.array([seen.left, seen.top], np.float64)
    if coords == "official":
        corner = last[:2] + (last[2:] - 1) / 2 - size / seen.scale / 2
    return np.concatenate([found[:2] + corner, found[2:] - found[:2]])


def inside(box: np.ndarray, height: int, width: int, margin: float = MARGIN) -> np.ndarray:
    """A box moved into the frame, its sides at least `margin`."""
    low = np.minimum(np.maximum(box[:2], 0), [width - margin, height - margin])
    high = np.minimum(np.maximum(box[:2] + box[2:], margin), [width, height])
    return np.concatenate([low, np.maximum(high - low, margin)])


def widened(box: np.ndarray, height: int, width: int, scale: float = 1.1) -> np.ndarray:
    """A box grown around its centre, to a sixth of the frame's short side at most."""
    size = np.minimum(box[2:] * scale, min(height, width) / 6)
    return np.concatenate([box[:2] + (box[2:] - size) / 2, size])


def check_start(box: Any, height: int, width: int, what: str) -> np.ndarray:
    """A first box `left, top, width, height` that lies in the frame, at least in part. Raises InputError otherwise."""
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"{what}: needs four numbers x, y, width, height, got {box.tolist()}")
    if box[2] <= 0 or box[3] <= 0:
        raise InputError(f"{what}: {box.tolist()} has no area; give x, y, width, height")
    if box[0] >= width or box[1] >= height or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        raise InputError(f"{what}: {box.tolist()} lies outside of the first frame, which is {width}x{height}")
    if side_of(box, 1.0) > 4 * max(height, width):
        raise InputError(f"{what}: {box.tolist()} is far larger than the first frame, which is {width}x{height}")
    return box

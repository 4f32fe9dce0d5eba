"""Labelled pictures of one size in memory: what digit sets, CIFAR and IDX files are read into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxvl.core.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayPicture:
    """One picture that is in memory. pixels: `[H, W, C]` uint8, C 1 or 3. label: class index."""

    pixels: np.ndarray
    label: int
    image_id: str


@dataclasses.dataclass(frozen=True, eq=False)
class ImageArrays:
    """A whole set, an `ArrayPicture` by index.

    images: `[N, H, W, C]` uint8, C 1 or 3. labels: `[N]` int32 class indices. classes: their names.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] not in (1, 3):
            got = f"{self.images.dtype}{list(self.images.shape)}"
            raise InputError(f"{self.name}: pictures are {got}; needed uint8 [N, H, W, 1 or 3]")
        if self.labels.shape != (len(self.images),):
            raise InputError(f"{self.name}: {len(self.images):,} pictures but labels {list(self.labels.shape)}")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            at, label = int(wrong[0]), int(self.labels[wrong[0]])
            raise InputError(f"{self.name}: item {at} has label {label}; labels are 0 to {len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ArrayPicture:
        i = range(len(self))[int(index)]  # raises IndexError past the end
        return ArrayPicture(self.images[i], int(self.labels[i]), f"{self.name}#{i}")

    def take(self, indices: Sequence[int] | np.ndarray, name: str = "") -> ImageArrays:
        """The pictures at `indices`, in that order, as a set of its own."""
        at = np.asarray(indices, np.int64)
        return ImageArrays(name or self.name, self.images[at], self.labels[at], self.classes)

    def line(self) -> str:
        """What was read, in one line."""
        size = "x".join(str(n) for n in self.images.shape[1:])
        return f"{self.name}: {len(self):,} images {size} of {len(self.classes):,} classes"

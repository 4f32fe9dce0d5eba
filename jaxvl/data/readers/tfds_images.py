"""Labelled pictures of TFDS data sets (MNIST, USPS-like sets, SVHN, ...), read one at a time from their shards.

Sets with the features `image` and `label`, prepared as array_record; see `jaxvl.data.tfds_source`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import near, read_text
from jaxvl.data.tfds_source import open_tfds


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImage:
    """Record `index` of an open data set; nothing is read before `load`."""

    source: Sequence[dict[str, Any]]
    index: int
    image_id: str

    def load(self) -> tuple[np.ndarray, int]:
        """`(uint8 [H, W, C], label)`."""
        row = self.source[self.index]
        return np.asarray(row["image"]), int(row["label"])


@dataclasses.dataclass(frozen=True)
class TfdsReading:
    """A split: its records and class names. `line` as in `ImageReading`."""

    name: str
    images: list[TfdsImage]
    classes: tuple[str, ...]

    def line(self) -> str:
        """The report in one line."""
        return f"{self.name}: {len(self.images):,} images of {len(self.classes):,} classes (TFDS)"


def read_tfds_images(root: str | os.PathLike, name: str, split: str) -> TfdsReading:
    """The split of `ROOT/NAME[/VERSION]`, the only version where there is one. Raises InputError."""
    folder = os.path.join(os.fspath(root), name)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such TFDS data set{near(folder)}")
    if not os.path.isfile(os.path.join(folder, "dataset_info.json")):
        below = sorted(d for d in os.listdir(folder) if os.path.isfile(os.path.join(folder, d, "dataset_info.json")))
        if len(below) == 1:
            folder = os.path.join(folder, below[0])
    source = open_tfds(folder, split)
    first = source[0]
    if lost := [f for f in ("image", "label") if f not in first]:
        raise InputError(f"{folder}: has no feature {lost[0]!r}; it has {', '.join(first)}")
    names = os.path.join(folder, "label.labels.txt")
    if not os.path.isfile(names):
        raise InputError(f"{folder}: label.labels.txt is not there, so the classes have no names; prepare it again")
    classes = tuple(line.strip() for line in read_text(names, "the class names").splitlines() if line.strip())
    return TfdsReading(name, [TfdsImage(source, i, f"{name}/{split}/{i}") for i in range(len(source))], classes)

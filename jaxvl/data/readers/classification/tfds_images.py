"""Labelled pictures of TFDS data sets (ImageNet, MNIST, SVHN, ...), read one at a time from their shards.

Sets with the features `image` and `label`, prepared as array_record; without TensorFlow, see `jaxvl.data.tfds_source`.
TFDS counts ImageNet's classes by sorted wnid, as class folders do.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_arrays import ArrayPicture
from jaxvl.data.readers.common import near, read_text
from jaxvl.data.tfds_source import open_tfds

INFO, NAMES = "dataset_info.json", "label.labels.txt"


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImages:
    """A split: `len`, `[i] -> ArrayPicture` (read and decoded then), names of the labels. Picklable."""

    name: str
    source: Sequence[dict[str, Any]]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> ArrayPicture:
        i = range(len(self))[int(index)]  # raises IndexError past the end
        item = self.source[i]
        name = item.get("file_name", f"{self.name}#{i}")
        image_id = name.decode() if isinstance(name, bytes) else str(name)
        return ArrayPicture(np.asarray(item["image"]), int(item["label"]), image_id)

    @property
    def images(self) -> list[TfdsImage]:
        """The records in order, of which nothing is read yet; what a list of files is to a folder."""
        return [TfdsImage(self, i) for i in range(len(self))]

    def line(self) -> str:
        """What was read, in one line."""
        return f"{self.name}: {len(self):,} images of {len(self.classes):,} classes (TFDS)"


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImage:
    """Record `index` of a split."""

    split: TfdsImages
    index: int

    @property
    def image_id(self) -> str:
        """What logs and errors call it."""
        return f"{self.split.name}#{self.index}"

    def load(self) -> ArrayPicture:
        """Reads and decodes it."""
        return self.split[self.index]


def find_tfds(root: str | os.PathLike, name: str) -> str:
    """The folder `ROOT/NAME/VERSION`, or `ROOT/NAME` where that is one; the only version where there is one.
    Raises InputError where there is no such folder, or several versions."""
    folder = os.path.join(os.fspath(root), name)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such TFDS data set{near(folder)}")
    if os.path.isfile(os.path.join(folder, INFO)):
        return folder
    below = sorted(d for d in os.listdir(folder) if os.path.isfile(os.path.join(folder, d, INFO)))
    if len(below) > 1:
        raise InputError(f"{folder}: has the versions {', '.join(below)}; name one of them, as {name}/{below[-1]}")
    return os.path.join(folder, below[0]) if below else folder


def read_tfds_images(folder: str | os.PathLike, split: str) -> TfdsImages:
    """A split (`train`, `validation`, a slice) of the data set in `folder`, as `.../imagenet2012/5.1.0`.

    Raises InputError as `open_tfds`, where a feature is absent, and where the classes have no names.
    """
    path = os.fspath(folder)
    source = open_tfds(path, split)
    if lost := [f for f in ("image", "label") if len(source) and f not in source[0]]:
        raise InputError(f"{path}: has no feature {lost[0]!r}; it has {', '.join(source[0])}")
    names = os.path.join(path, NAMES)
    if not os.path.isfile(names):
        raise InputError(f"{path}: {NAMES} is not there, so the classes have no names; prepare it again")
    classes = tuple(line.strip() for line in read_text(names, "the class names").splitlines() if line.strip())
    name = os.path.basename(os.path.dirname(os.path.normpath(path))) or "tfds"
    return TfdsImages(f"{name} {split}", source, classes)

"""Labelled pictures as ArrayRecord shards: what `jaxvl prepare` writes of an image data set, and their reader.

ROOT/
  train/   dataset.json, clips-*.array_record     one record a picture (a clip of one frame), its label in the index
  val/ test/                                      the same; a split that was not written is not there
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import DAMAGE, BadMedia, InputError
from jaxvl.data import images
from jaxvl.data.readers.classification.image_arrays import ArrayPicture
from jaxvl.data.readers.classification.image_folder import LabelledImage
from jaxvl.data.records import INDEX_FILE, ClipItem, ClipRecord, ClipRecords, Written, write_clips

Picture = LabelledImage | ArrayPicture | ClipRecord
"""What image readers give for one example: a file, pixels in memory, or a record."""


def load_picture(picture: Picture) -> Image.Image:
    """RGB. Raises BadMedia."""
    if isinstance(picture, LabelledImage):
        return images.to_rgb(images.read_image(picture.path))
    if isinstance(picture, ArrayPicture):
        pixels = picture.pixels
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    try:
        with Image.open(io.BytesIO(picture.jpegs[0])) as image:
            image.load()
            return images.to_rgb(image)
    except DAMAGE as error:
        raise BadMedia(picture.path, f"broken JPEG: {error}") from error


def label_of(picture: Picture) -> int:
    """Class index, -1 where unknown."""
    return int(picture.annotations["label"]) if isinstance(picture, ClipRecord) else picture.label


def picture_id(picture: Picture) -> str:
    """What logs and errors call it."""
    return picture.video_id if isinstance(picture, ClipRecord) else picture.image_id


@dataclasses.dataclass(frozen=True, eq=False)
class OneFrame:
    """A picture as a `frames.FrameSource` of one frame; `read` never enlarges."""

    picture: Picture
    times: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    duration: float = 1.0
    timed: bool = False

    @property
    def path(self) -> str:
        """What errors call it."""
        return picture_id(self.picture)

    def read(self, indices: Sequence[int], short_side: int, crop: bool = True) -> np.ndarray:
        """See `frames.FrameSource.read`. Raises BadMedia."""
        image = load_picture(self.picture)
        side = min(short_side, *image.size)
        one = images.square(image, side) if crop else images.resized(image, side)
        return np.stack([one for _ in indices])


class ImageRecords:
    """One split of what `write_pictures` wrote: a `ClipRecord` by index. classes: names of the labels. Picklable.

    short_side: pixels asked for; a set that was written smaller is refused. Raises InputError, also as `ClipRecords`.
    """

    def __init__(self, root: str | os.PathLike, split: str, short_side: int = 0):
        folder = Path(root) / split
        if not (folder / INDEX_FILE).is_file():
            raise InputError(
                f"{folder / INDEX_FILE}: no such file, so the split {split!r} was not written there; write it with: "
                "jaxvl prepare --config FILE --out DIR, and name DIR in config.data.root"
            )
        self.records = ClipRecords(folder)
        made = self.records.provenance
        if made.get("kind") != "labelled pictures" or made.get("split") != split:
            raise InputError(f"{folder / INDEX_FILE}: is not the split {split!r} of a set of labelled pictures")
        written = made.get("short_side") or short_side
        if written < short_side:
            raise InputError(
                f"{folder / INDEX_FILE}: pictures were written at short side {written}, {short_side} is asked for; "
                "prepare again with a larger config.data.records.short_side"
            )
        self.name = f"records of {made.get('dataset', 'pictures')} {split}"
        self.classes = tuple(made.get("classes", ()))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ClipRecord:
        return self.records[index]

    def line(self) -> str:
        """What was read, in one line."""
        return f"{self.name}: {len(self):,} images of {len(self.classes):,} classes"


def write_pictures(
    folder: str | os.PathLike,
    pictures: Sequence[Picture],
    split: str,
    classes: Sequence[str],
    *,
    provenance: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Written:
    """Writes `pictures` in order, as JPEG with the shorter side at most `short_side`.

    settings: of `records.write_clips` (short_side, quality, num_shards, num_threads, on_error). Raises InputError.
    """
    items = [ClipItem(picture_id(p), OneFrame(p), {"label": label_of(p)}) for p in pictures]
    about = {**(provenance or {}), "kind": "labelled pictures", "split": split, "classes": list(classes)}
    return write_clips(folder, items, provenance=about, **settings)

"""`jaxvl classify`: zero-shot classes of a folder of pictures, by the CLIP of a weights folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.model import Classified
from jaxvl.data import inputs
from jaxvl.data.readers.classification.image_folder import read_unlabelled
from jaxvl.models.clip import TEMPLATES, CLIPModel


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Classes of the pictures of a folder. paths: of those that were decoded, in the order of the rows of `classes`;
    skipped: `path: reason` of the others."""

    paths: tuple[str, ...]
    classes: Classified
    skipped: tuple[str, ...]


def classify(
    weights: str | Path,
    folder: str | Path,
    classes: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    say: Callable[[str], None] = print,
) -> Pictures:
    """Classifies every picture under `folder`. Raises InputError: no CLIP, no picture, doubled or empty classes."""
    names = [name.strip() for name in classes]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--classes {', '.join(classes)}: names must be given, each once")
    model = CLIPModel.of_folder(weights, say=say)
    paths, skipped, parts = [], [], []
    found = [image.path for image in read_unlabelled(folder)]
    for begin in range(0, len(found), model.batch_size):
        good = []
        for path in found[begin : begin + model.batch_size]:
            try:
                good.append(inputs.picture(path))
                paths.append(str(path))
            except BadMedia as error:
                skipped.append(str(error))
        if good:
            parts.append(model.encode_image(good))
    if not parts:
        raise InputError(f"--images {folder}: none of its {len(found)} pictures can be decoded; first: {skipped[0]}")
    return Pictures(tuple(paths), model.classify(np.concatenate(parts), names, templates), tuple(skipped))


def lines(found: Pictures, top: int, as_json: bool) -> Iterator[str]:
    """For the terminal: a row a picture, or one line of JSON. InputError: `top` is no number of classes."""
    rows = found.classes.top(top)
    if as_json:
        pictures = [
            {"path": path, "classes": [{"class": name, "probability": round(p, 6)} for name, p in row]}
            for path, row in zip(found.paths, rows)
        ]
        yield json.dumps({"pictures": pictures, "skipped": list(found.skipped)})
        return
    width = max(map(len, found.paths))
    for path, row in zip(found.paths, rows):
        yield f"{path:<{width}}  " + "  ".join(f"{name} {100 * p:.1f} %" for name, p in row)
    yield from (f"skipped {line}" for line in found.skipped)

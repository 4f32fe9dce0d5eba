"""Sets of pictures as sequences of one frame: COCO instances, a sequence an annotation, and CrowdHuman, a sequence a
picture.

COCO        annotations/instances_train2017.json, train2017/000000000009.jpg; 80 classes with ids up to 90
CrowdHuman  annotation_train.odgt, one JSON a line, Images/ID.jpg
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import near, read_text, require_file
from jaxvl.data.readers.tracking.single import existing, known
from jaxvl.data.readers.tracking.tracks import Frames, TrackReading, TracksBuilder, braced

PERSON = "person"


def read_coco(
    root: str | os.PathLike, split: str = "train2017", *, annotations: str = "", check_media: bool = True
) -> TrackReading:
    """COCO: each annotation of one object (no crowd) is a sequence of one frame, called `IMAGE_ANNOTATION`.

    split: the folder of pictures, 'train2017'. annotations: the file, by default `annotations/instances_SPLIT.json`.
    The file is read whole, but its outlines are dropped on the way. Boxes without extent are left out. Raises
    InputError.
    """
    top = existing(root, "COCO")
    path = os.path.join(top, annotations or os.path.join("annotations", f"instances_{split}.json"))
    content = read_instances(path)
    pictures = existing(os.path.join(top, split), "COCO") if check_media else os.path.join(top, split)
    there = names_in(pictures) if check_media else None
    files, sizes, categories = {}, {}, {}
    for number, image in enumerate(listed(content["images"], path, "images")):
        field(image, ("id", "file_name"), path, f"images[{number}]")
        files[key(image["id"], path, f"images[{number}].id")] = str(image["file_name"])
        sides = image.get("width"), image.get("height")
        known_size = all(isinstance(side, int) and 0 < side < 2**31 for side in sides)
        sizes[image["id"]] = sides if known_size else (0, 0)
    for number, one in enumerate(listed(content.get("categories", []), path, "categories")):
        field(one, ("id", "name"), path, f"categories[{number}]")
        categories[key(one["id"], path, f"categories[{number}].id")] = str(one["name"])
    found = TracksBuilder("COCO", [categories[i] for i in sorted(categories, key=lambda i: (str(type(i)), i))])
    lost: dict[str, None] = {}
    for number, item in enumerate(listed(content["annotations"], path, "annotations")):
        field(item, ("id", "image_id", "category_id", "bbox"), path, f"annotations[{number}]")
        if item.get("iscrowd"):
            continue
        image = key(item["image_id"], path, f"annotations[{number}].image_id")
        if image not in files:
            raise InputError(
                f"{path}: annotations[{number}] is of the image {image!r}, which the list lacks; fetch it again"
            )
        box = four_numbers(item["bbox"], path, f"annotations[{number}].bbox")
        name = f"{image}_{item['id']}"
        if box[2] <= 0 or box[3] <= 0:
            found.skip(name, "box without extent")
            continue
        file = os.path.basename(files[image])
        if there is not None and file not in there:
            lost[file] = None
            continue
        kind = key(item["category_id"], path, f"annotations[{number}].category_id")
        kind = found.class_of(categories.get(kind, str(kind)))
        found.add(name, picture_of(pictures, file, image), box[None], class_id=kind, size=sizes[image])
    found.absent += lost
    return found.reading(split, path)


def read_crowdhuman(root: str | os.PathLike, split: str, *, check_media: bool = True) -> TrackReading:
    """CrowdHuman: each picture is a sequence of one frame, each person a track of its own, numbered from 1.

    split: 'train', 'val'. Boxes are `fbox`, the full body, which may leave the picture. Left out: `mask` entries,
    `extra.ignore` = 1, boxes without extent; pictures without a person. Raises InputError.
    """
    top = existing(root, "CrowdHuman")
    known({"train": "", "val": ""}, split, "CrowdHuman")
    path = require_file(os.path.join(top, f"annotation_{split}.odgt"), "the annotations")
    pictures = os.path.join(top, "Images")
    there = names_in(existing(pictures, "CrowdHuman")) if check_media else None
    found = TracksBuilder("CrowdHuman", [PERSON])
    for number, line in enumerate(read_text(path, "the annotations").split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
            why = getattr(error, "msg", "it nests too deep, or holds an endless number")
            raise InputError(f"{path}: {where} is broken JSON ({why}); fetch the file again") from None
        field(item, ("ID", "gtboxes"), path, where)
        name, boxes = str(item["ID"]), []
        listed(item["gtboxes"], path, f"{where}, gtboxes")
        for k, one in enumerate(item["gtboxes"]):
            field(one, ("tag", "fbox"), path, f"{where}, gtboxes[{k}]")
            extra = one.get("extra")
            ignored = one["tag"] != PERSON or (isinstance(extra, dict) and bool(extra.get("ignore")))
            box = four_numbers(one["fbox"], path, f"{where}, gtboxes[{k}].fbox")
            if not ignored and box[2] > 0 and box[3] > 0:
                boxes.append(box)
        file = f"{name}.jpg"
        if there is not None and file not in there:
            found.absent.append(name)
        elif not boxes:
            found.skip(name, "no person to train on")
        else:
            rows = {"frame": np.zeros(len(boxes)), "track_id": np.arange(1, len(boxes) + 1)}
            found.add(name, picture_of(pictures, file, None), np.array(boxes), **rows)
    return found.reading(split, path)


def read_instances(path: str) -> dict[str, Any]:
    """The annotation file of COCO without its outlines, which are most of it. Raises InputError."""
    text = read_text(path, "the annotations of COCO")

    def without_outline(item: dict[str, Any]) -> dict[str, Any]:
        item.pop("segmentation", None)
        return item

    try:
        content = json.loads(text, object_hook=without_outline)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{path}: broken JSON at {where} ({error.msg}); fetch the annotations again") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: no JSON that can be read ({str(error)[:80]}); fetch the annotations again") from None
    field(content, ("images", "annotations"), path, "it")
    return content


def picture_of(folder: str, file: str, number: Any) -> Frames:
    """One picture; names made of their number share a pattern, so that a table of many stays small."""
    if isinstance(number, int) and 0 <= number < 2**31 and file == f"{number:012d}.jpg":
        return Frames(folder, "{:012d}.jpg", number, 1)
    return Frames(folder, braced(file), 0, 1)


def names_in(folder: str) -> frozenset[str]:
    """The names in a folder."""
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries)


def four_numbers(value: Any, path: str, where: str) -> np.ndarray:
    """float64 `[4]`. Raises InputError."""
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(isinstance(v, int | float) and abs(v) < 1e9 for v in numbers):
        raise InputError(f"{path}: {where} needs four numbers (left, top, width, height), got {str(value)[:60]}")
    return np.array(numbers, np.float64)


def listed(value: Any, path: str, where: str) -> list[Any]:
    """Raises InputError where `value` is no list."""
    if not isinstance(value, list):
        raise InputError(f"{path}: {where} is {type(value).__name__}, needs a list; fetch the annotations again")
    return value


def key(value: Any, path: str, where: str) -> int | str:
    """Raises InputError where `value` is neither a number nor a text."""
    if not isinstance(value, int | str):
        raise InputError(f"{path}: {where} is {type(value).__name__}, needs a number; fetch the annotations again")
    return value


def field(item: Any, names: tuple[str, ...], path: str, where: str) -> None:
    """Raises InputError where `item` is no object with these fields."""
    if not isinstance(item, dict):
        raise InputError(f"{path}: {where} is no object with {', '.join(names)}{near(path) if item is None else ''}")
    if lost := [name for name in names if name not in item]:
        raise InputError(f"{path}: {where} has no {', '.join(lost)}; it has {', '.join(list(item)[:8]) or 'nothing'}")

"""Sets with one target a sequence, in their published folders: LaSOT, GOT-10k, TrackingNet, OTB-100.

LaSOT        CLASS/CLASS-N/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt}, training_set.txt
             and testing_set.txt beside the classes; absent frames carry boxes of zeros
GOT-10k      train|val|test/{list.txt, NAME/{00000001.jpg, groundtruth.txt, absence.label, cover.label, meta_info.ini}};
             test has one row of truth
TrackingNet  TRAIN_0 .. TRAIN_11|TEST/{anno/ID.txt, frames/ID/0.jpg}, counted from 0 without zeros in front
OTB-100      NAME/{img/0001.jpg, groundtruth_rect.txt}, boxes from 1, commas, tabs or blanks; some sequences begin and
             end elsewhere than their pictures, some have two targets (`groundtruth_rect.1.txt`, `.2.txt`)

Each target is a row a frame: `boxes[i]` belongs to frame i. Missing pictures are counted and never visible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.data.readers.common import first_few, near, read_ids, read_text
from jaxvl.data.readers.tracking.tables import finite_boxes, read_flags, read_table
from jaxvl.data.readers.tracking.tracks import Frames, TrackReading, TracksBuilder, list_frames

TRUTH = "groundtruth.txt"
COVERS = 8
"""Of GOT-10k's `cover.label`: the whole target is seen."""
TRACKINGNET_TRAIN = tuple(f"TRAIN_{i}" for i in range(12))
OTB_FRAMES = {
    "BlurCar1": (247, 988),
    "BlurCar3": (3, 359),
    "BlurCar4": (18, 397),
    "David": (300, 770),
    "Diving": (1, 215),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
    "Tiger1": (6, 354),
}
"""First and last picture of the sequences whose truth does not span their pictures (Wu et al., TPAMI 2015)."""


def read_lasot(root: str | os.PathLike, split: str, *, check_media: bool = True) -> TrackReading:
    """LaSOT. split: 'train' and 'test' by the lists `training_set.txt` and `testing_set.txt`, or 'all' folders.

    Considered: neither fully occluded nor out of view. Visible: that, and the box lies fully inside of the picture.
    check_media: False lists no folder of pictures. Raises InputError.
    """
    top = existing(root, "LaSOT")
    if split == "all":
        names = [f for c in folders(top) for f in folders(os.path.join(top, c)) if f.rpartition("-")[0] == c]
    else:
        lists = {"train": "training_set.txt", "test": "testing_set.txt"}
        names = read_ids(
            os.path.join(top, known(lists, split, "LaSOT")), "the list of sequences; split 'all' needs none"
        )
    found = TracksBuilder("LaSOT")
    unsaid: dict[str, list[str]] = {}
    for name in names:
        kind = name.rpartition("-")[0]
        here = next((p for p in (os.path.join(top, kind, name), os.path.join(top, name)) if os.path.isdir(p)), None)
        truth = read_truth(found, name, here and os.path.join(here, TRUTH))
        if truth is None:
            continue
        boxes, visible = finite_boxes(truth)
        seen = np.ones(len(boxes), bool)
        for file in ("full_occlusion.txt", "out_of_view.txt"):
            if os.path.isfile(os.path.join(here, file)):
                seen &= ~read_flags(os.path.join(here, file), len(boxes), "one flag a frame")
            else:
                unsaid[file] = [*unsaid.get(file, ()), name]
        visible &= seen
        frames = frames_of(os.path.join(here, "img"), 1, len(boxes), "{:08d}.jpg", check_media)
        if frames is None:
            found.absent.append(name)
            continue
        size = picture_size(frames) if check_media else (0, 0)
        if size[0]:
            right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
            visible &= (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0) & (right <= size[0]) & (bottom <= size[1])
        kind = found.class_of(kind)
        found.add(name, frames, boxes, visible=visible, considered=seen, class_id=kind, size=size)
    for file, without in unsaid.items():
        found.notes.append(f"{len(without):,} without {file}, so all their boxes count as seen ({first_few(without)})")
    return found.reading(split, top)


def read_got10k(
    root: str | os.PathLike, split: str, *, only: str | os.PathLike = "", check_media: bool = True
) -> TrackReading:
    """GOT-10k. split: 'train', 'val', 'test'. only: a file of sequence names, or of their numbers from 0 in `list.txt`,
    one a line (training without the sequences that VOT holds: 7,934). Visible and considered: not absent, and some of
    it is seen. Raises InputError."""
    known(dict.fromkeys(("train", "val", "test"), ""), split, "GOT-10k")
    top = existing(os.path.join(existing(root, "GOT-10k"), split), "GOT-10k")
    names = read_ids(os.path.join(top, "list.txt"), "the list of sequences")
    if only:
        names = chosen_of(names, read_ids(only, "a list of sequences"), os.fspath(only))
    found = TracksBuilder("GOT-10k")
    for name in names:
        here = os.path.join(top, name)
        truth = read_truth(found, name, os.path.join(here, TRUTH) if os.path.isdir(here) else None)
        if truth is None:
            continue
        boxes, visible = finite_boxes(truth)
        labels = {name: os.path.join(here, f"{name}.label") for name in ("absence", "cover")}
        cover = np.full(len(boxes), COVERS)
        if os.path.isfile(labels["absence"]):  # test has neither
            visible &= ~read_flags(labels["absence"], len(boxes), "one flag a frame")
        if os.path.isfile(labels["cover"]):
            cover = read_table(labels["cover"], 1, "what is seen of the target, 0 to 8")[:, 0]
            if len(cover) != len(boxes):
                raise InputError(f"{labels['cover']}: {len(cover)} rows for {len(boxes)} boxes; fetch the file again")
            visible &= cover > 0
        frames = frames_of(here, 1, -1 if len(boxes) == 1 else len(boxes), "{:08d}.jpg", check_media)
        if frames is None:
            found.absent.append(name)
            continue
        about = read_meta(os.path.join(here, "meta_info.ini"))
        kind = found.class_of(about.get("object_class", "object"))
        size = resolution(about.get("resolution", ""))
        rows = {"visible": visible, "considered": visible, "visibility": cover / COVERS}
        found.add(name, frames, boxes, **rows, class_id=kind, size=size)
    return found.reading(split, top)


def read_trackingnet(
    root: str | os.PathLike, split: str, *, chunks: Sequence[str] = (), check_media: bool = True
) -> TrackReading:
    """TrackingNet. split: 'train' (`TRAIN_0` .. `TRAIN_11`, those that are there) or 'test'. chunks: these folders
    alone, which must then be there. Raises InputError."""
    top = existing(root, "TrackingNet")
    wanted = tuple(chunks) or known({"train": TRACKINGNET_TRAIN, "test": ("TEST",)}, split, "TrackingNet")
    there = [c for c in wanted if os.path.isdir(os.path.join(top, c, "anno"))]
    if (lost := [c for c in wanted if c not in there]) and (chunks or not there):
        folder = os.path.join(top, lost[0], "anno")
        raise InputError(f"{folder}: no such folder (TrackingNet {lost[0]}){near(os.path.join(top, lost[0]), True)}")
    found = TracksBuilder("TrackingNet")
    if lost:
        found.notes.append(f"{', '.join(lost)} not there")
    for chunk in there:
        anno = os.path.join(top, chunk, "anno")
        for file in sorted(f for f in os.listdir(anno) if f.endswith(".txt") and not f.startswith(".")):
            name = file[: -len(".txt")]
            truth = read_truth(found, name, os.path.join(anno, file))
            if truth is None:
                continue
            boxes, visible = finite_boxes(truth)
            count = -1 if chunk == "TEST" and len(boxes) == 1 else len(boxes)
            frames = frames_of(os.path.join(top, chunk, "frames", name), 0, count, "{:d}.jpg", check_media)
            if frames is None:
                found.absent.append(name)
                continue
            found.add(name, frames, boxes, visible=visible)
    return found.reading(split, top)


def read_otb(root: str | os.PathLike, split: str = "test", *, check_media: bool = True) -> TrackReading:
    """OTB-100: every folder that holds a truth file; the k-th target of several is `NAME.k`. Raises InputError."""
    known({"test": ""}, split, "OTB-100")
    top = existing(root, "OTB-100")
    found = TracksBuilder("OTB-100")
    for folder in folders(top):
        here = os.path.join(top, folder)
        for file in sorted(f for f in os.listdir(here) if re.fullmatch(r"groundtruth_rect(\.[0-9]+)?\.txt", f)):
            number = file[len("groundtruth_rect") : -len(".txt")]
            truth = read_truth(found, folder + number, os.path.join(here, file))
            if truth is None:
                continue
            boxes, visible = finite_boxes(truth)
            boxes[visible, :2] -= 1
            first, boxes, visible = otb_span(folder, os.path.join(here, file), boxes, visible)
            frames = frames_of(os.path.join(here, "img"), first, len(boxes), "{:04d}.jpg", check_media)
            if frames is None:
                found.absent.append(folder + number)
                continue
            found.add(folder + number, frames, boxes, visible=visible)
    return found.reading(split, top)


def otb_span(name: str, path: str, boxes: np.ndarray, visible: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """`(number of the first picture, boxes, visible)` of a sequence of OTB."""
    first, last = OTB_FRAMES.get(name, (1, len(boxes)))
    if len(boxes) == last - first + 1:
        return first, boxes, visible
    if len(boxes) >= last:  # rows are numbered as the pictures
        return first, boxes[first - 1 : last], visible[first - 1 : last]
    raise InputError(f"{path}: {len(boxes)} rows; {name} spans the pictures {first} to {last}; fetch the file again")


def read_truth(found: TracksBuilder, name: str, path: str | None) -> np.ndarray | None:
    """float64 `[n, 4]`; None where the sequence has no folder, no file, or an empty one, which is noted."""
    if path is None:
        found.absent.append(name)
        return None
    if not os.path.isfile(path):
        found.skip(name, f"no {os.path.basename(path) if os.path.basename(path) == TRUTH else 'truth file'}")
        return None
    boxes = read_table(path, 4, "left, top, width, height")
    if not len(boxes):
        found.skip(name, "empty truth file")
        return None
    return boxes


def frames_of(folder: str, first: int, count: int, default: str, check: bool) -> Frames | None:
    """The pictures of a sequence; without `check` the names that the data set publishes, unseen."""
    if check or count < 0:
        frames = list_frames(folder, first, count)
        return None if frames is None or not frames.count or len(frames.missing) == frames.count else frames
    return Frames(folder, default, first, count)


def picture_size(frames: Frames) -> tuple[int, int]:
    """(width, height) of the first picture that is there and can be opened; (0, 0) where it cannot."""
    path = frames.path(next(i for i in range(frames.count) if i not in frames.missing))
    try:
        with Image.open(path) as image:  # the header alone is read
            return image.size
    except (*DAMAGE, Image.DecompressionBombError):
        return 0, 0  # its own turn in training or evaluation names it


def read_meta(path: str) -> dict[str, str]:
    """`key: value` lines of a `meta_info.ini`, which is no proper ini file; empty where there is none."""
    if not os.path.isfile(path):
        return {}
    pairs = (line.partition(":") for line in read_text(path, "about the sequence").split("\n"))
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def resolution(text: str) -> tuple[int, int]:
    """(width, height) of `(1920, 1080)`; (0, 0) for anything else."""
    numbers = re.findall(r"[0-9]+", text)
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, 0)


def chosen_of(names: Sequence[str], wanted: Sequence[str], path: str) -> list[str]:
    """The names that a list gives, as names or as numbers from 0. Raises InputError for what is neither."""
    known_names, chosen = set(names), []
    for line, word in enumerate(wanted, 1):
        if word in known_names:
            chosen.append(word)
        elif word.isdecimal() and int(word) < len(names):
            chosen.append(names[int(word)])
        else:
            raise InputError(f"{path}: entry {line}, {word!r}, is neither a sequence nor a number below {len(names)}")
    return chosen


def existing(folder: str | os.PathLike, dataset: str) -> str:
    """The folder as a string. Raises InputError where there is none."""
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder ({dataset}){near(top, folders=True)}")
    return top


def folders(top: str) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    with os.scandir(top) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def known(table: Mapping[str, Any], split: str, dataset: str) -> Any:
    """The entry of a split. Raises InputError for one that the set lacks."""
    if split not in table:
        raise InputError(f"split {split!r}: {dataset} has {', '.join(table)}")
    return table[split]

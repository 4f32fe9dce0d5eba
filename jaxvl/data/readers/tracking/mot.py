"""MOTChallenge: MOT16, MOT17, MOT20 as published, its text files, and the same layout for data of one's own.

    train|test/NAME/{img1/000001.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}

A row of `gt.txt` is frame, id, left, top, width, height, consider, class, visibility; of a detector or a tracker frame,
id (-1), left, top, width, height, score. All of it counts from 1, boxes included; here all of it counts from 0, but
for ids. MOT17 holds each sequence three times, once a detector, with the same truth: one copy is read.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.files import write_text
from jaxvl.data.readers.common import read_text
from jaxvl.data.readers.tracking.single import existing, folders, known
from jaxvl.data.readers.tracking.tables import read_table
from jaxvl.data.readers.tracking.tracks import MOST_FRAMES, Frames, TrackReading, TracksBuilder, braced, list_frames

CLASSES = (
    *("none", "pedestrian", "person_on_vehicle", "car", "bicycle", "motorbike", "non_mot_vehicle", "static_person"),
    *("distractor", "occluder", "occluder_on_ground", "occluder_full", "reflection", "crowd"),
)
"""Names of the published classes, by number."""
PEDESTRIAN = 1
MIN_VISIBILITY = 0.25
DETECTORS = ("FRCNN", "DPM", "SDP")
SPLITS = {
    "train": ("train", ""),
    "test": ("test", ""),
    "train_half": ("train", "first"),
    "val_half": ("train", "second"),
}
"""Split -> (folder, half of each sequence)."""


@dataclasses.dataclass(frozen=True, eq=False)
class MotRows:
    """The rows of a MOT text file. frame int32 `[n]` from 0; track_id int32 `[n]`, -1 where there is none; boxes
    float32 `[n, 4]`, left, top, width, height from 0; score float32 `[n]` (in truth files whether the row counts);
    class_id int32 `[n]`; visibility float32 `[n]`."""

    frame: np.ndarray
    track_id: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    class_id: np.ndarray
    visibility: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> MotRows:
        """These rows (numbers or flags)."""
        return MotRows(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def read_mot(
    root: str | os.PathLike,
    split: str,
    *,
    dataset: str = "MOT17",
    detector: str = "FRCNN",
    min_visibility: float = MIN_VISIBILITY,
    check_media: bool = True,
) -> TrackReading:
    """Sequences of MOT16, MOT17 or MOT20.

    split: 'train', 'test' (no truth), 'train_half' and 'val_half': frames 0 .. n // 2 and n // 2 + 1 .. n - 1 of each
    training sequence, counted anew. detector: which of the three copies of MOT17. Visible, so trained on: rows that
    count, of class 1, with `min_visibility`. Other rows stay, as evaluation needs them. Raises InputError.
    """
    folder, half = known(SPLITS, split, dataset)
    top = existing(os.path.join(existing(root, dataset), folder), f"{dataset} {split}")
    found = TracksBuilder(dataset, CLASSES)
    names, others = one_detector(folders(top), detector)
    if others:
        found.notes.append(f"{others} copies for other detectors left alone")
    for name in names:
        here = os.path.join(top, name)
        info = read_info(os.path.join(here, "seqinfo.ini"))
        length = number(info, "seqLength", here)
        frames = frames_of(here, info, length, check_media)
        if frames is None:
            found.absent.append(name)
            continue
        truth = os.path.join(here, "gt", "gt.txt")
        if not os.path.isfile(truth) and split != "test":
            found.skip(name, "no gt/gt.txt")
            continue
        rows = read_mot_truth(truth) if os.path.isfile(truth) else empty_rows()
        beyond = (rows.frame < 0) | (rows.frame >= frames.count)
        if beyond.any():
            found.notes.append(f"{name}: {int(beyond.sum()):,} boxes beyond its {frames.count} frames left out")
            rows = rows.take(~beyond)
        if half:
            frames, rows = half_of(frames, rows, half)
        counts = rows.score > 0
        train = counts & (rows.class_id == PEDESTRIAN) & (rows.visibility >= min_visibility)
        found.add(
            name,
            frames,
            rows.boxes,
            visible=train & (rows.boxes[:, 2:] > 0).all(1),
            track_id=rows.track_id,
            class_id=rows.class_id,
            frame=rows.frame,
            visibility=rows.visibility,
            considered=counts,
            size=(number(info, "imWidth", here), number(info, "imHeight", here)),
            fps=number(info, "frameRate", here),
        )
    return found.reading(split, top)


def one_detector(names: list[str], detector: str) -> tuple[list[str], int]:
    """`(the sequences, how many copies for other detectors are left alone)`. Raises InputError where a sequence has
    copies for others alone."""
    kept, stems, left = [], {}, 0
    for name in names:
        stem, _, end = name.rpartition("-")
        if end in DETECTORS:
            stems.setdefault(stem, []).append(end)
        else:
            kept.append(name)
    for stem, ends in stems.items():
        if detector not in ends:
            raise InputError(
                f"{stem}-{detector}: no such sequence, there are {', '.join(ends)}; name the detector you have"
            )
        kept.append(f"{stem}-{detector}")
        left += len(ends) - 1
    return sorted(kept), left


def read_info(path: str) -> dict[str, str]:
    """`seqinfo.ini`, with or without its section line; empty where there is none. Raises InputError."""
    if not os.path.isfile(path):
        return {}
    text = read_text(path, "about the sequence").replace("\r\n", "\n").strip()
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    try:
        parser.read_string(text if text.startswith("[") else f"[Sequence]\n{text}")
    except configparser.Error as error:
        raise InputError(f"{path}: no ini file ({str(error).splitlines()[0][:80]}); fetch it again") from None
    section = "Sequence" if parser.has_section("Sequence") else next(iter(parser.sections()), "")
    return {key: value.strip() for key, value in parser.items(section)} if section else {}


def number(info: dict[str, str], key: str, where: str) -> int:
    """A number of `seqinfo.ini`, rounded, 0 where it is not given. Raises InputError."""
    try:
        value = round(float(info.get(key) or 0))
        if not 0 <= value <= MOST_FRAMES:
            raise ValueError
        return value
    except (ValueError, OverflowError):
        raise InputError(
            f"{where}/seqinfo.ini: {key} is {info[key][:40]!r}, needs a number of 0 to {MOST_FRAMES:,}"
        ) from None


def frames_of(here: str, info: dict[str, str], length: int, check: bool) -> Frames | None:
    """The pictures; a sequence without `seqLength` has as many as its highest number says."""
    folder = os.path.join(here, info.get("imDir") or "img1")
    if check or not length:
        frames = list_frames(folder, 1, length or -1)
        return None if frames is None or not frames.count or len(frames.missing) == frames.count else frames
    return Frames(folder, "{:06d}" + braced(info.get("imExt") or ".jpg"), 1, length)


def half_of(frames: Frames, rows: MotRows, half: str) -> tuple[Frames, MotRows]:
    """The first half 0 .. n // 2 or the second n // 2 + 1 .. n - 1 of a sequence, frames counted anew."""
    middle = frames.count // 2 + 1
    begin, end = (0, min(middle, frames.count)) if half == "first" else (middle, frames.count)
    kept = (rows.frame >= begin) & (rows.frame < end)
    gone = frozenset(i - begin for i in frames.missing if begin <= i < end)
    part = dataclasses.replace(frames, first=frames.first + begin, count=max(end - begin, 0), missing=gone)
    rows = rows.take(kept)
    return part, dataclasses.replace(rows, frame=rows.frame - begin)


def empty_rows() -> MotRows:
    """No rows."""
    return rows_of(np.zeros((0, 9)))


def rows_of(table: np.ndarray) -> MotRows:
    """`[n, 9]` as published, from 1, to `MotRows`."""
    boxes = table[:, 2:6].astype(np.float32)
    boxes[:, :2] = table[:, 2:4] - 1
    whole = lambda column: column.astype(np.int32)  # noqa: E731
    floats = table[:, 6].astype(np.float32), table[:, 8].astype(np.float32)
    return MotRows(whole(table[:, 0]) - 1, whole(table[:, 1]), boxes, floats[0], whole(table[:, 7]), floats[1])


def read_mot_truth(path: str | os.PathLike) -> MotRows:
    """A `gt.txt` of MOT16 and later; with seven columns, or the places in the world of MOT15 in the rest, each row is a
    pedestrian that is seen whole. Raises InputError, also where an object has two boxes in a frame."""
    table = read_table(path, 7, "frame, id, left, top, width, height, consider", exact=False)
    if len(table):
        wide = widest(path)
        if wide >= 9:
            table = read_table(path, 9, "frame, id, left, top, width, height, consider, class, visibility", exact=False)
        if wide < 9 or wide > 9 or (table[:, 7] < 1).all():  # MOT15 has ten columns
            table = np.concatenate([table[:, :7], np.tile([float(PEDESTRIAN), 1.0], (len(table), 1))], 1)
    else:
        table = np.zeros((0, 9))
    return checked(table, path)


def read_mot_results(path: str | os.PathLike) -> MotRows:
    """Detections or results: frame, id, left, top, width, height, and a score where there is a seventh column (else 1).
    Raises InputError, also where an id (not -1) has two boxes in a frame."""
    what = "frame, id, left, top, width, height, score"
    table = read_table(path, 6, what, exact=False)
    score = np.ones((len(table), 1))
    if len(table) and widest(path) >= 7:
        table = read_table(path, 7, what, exact=False)
        table, score = table[:, :6], table[:, 6:7]
    return checked(np.concatenate([table, score, np.tile([float(PEDESTRIAN), 1.0], (len(table), 1))], 1), path)


def checked(table: np.ndarray, path: str | os.PathLike) -> MotRows:
    """The rows of a table `[n, 9]`. Raises InputError for frames, ids and classes that are no whole numbers, frames
    below 1, boxes and scores that are no finite numbers, and an id twice in a frame."""
    name = os.fspath(path)
    for column, what in ((0, "frame"), (1, "id"), (7, "class")):
        good = np.abs(table[:, column]) < 2**31
        good &= np.mod(np.where(good, table[:, column], 0), 1) == 0
        if (bad := np.flatnonzero(~good)).size:
            value = table[bad[0], column]
            raise InputError(f"{name}: row {bad[0] + 1} has the {what} {value:g}, which is no whole number in range")
    rows = rows_of(table)
    if (bad := np.flatnonzero(rows.frame < 0)).size:
        raise InputError(f"{name}: row {bad[0] + 1} is of frame {rows.frame[bad[0]] + 1}; frames count from 1")
    if (bad := np.flatnonzero(~np.isfinite(rows.boxes).all(1))).size:
        raise InputError(f"{name}: row {bad[0] + 1} has a box that is no number; fetch the file again")
    if (bad := np.flatnonzero(~(np.isfinite(rows.score) & np.isfinite(rows.visibility)))).size:
        raise InputError(f"{name}: row {bad[0] + 1} has a score or a visibility that is no finite number")
    known_ids = rows.track_id >= 0
    pairs = np.stack([rows.frame[known_ids], rows.track_id[known_ids]], 1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    if (counts > 1).any():
        frame, track = values[counts > 1][0]
        raise InputError(f"{name}: id {track} has two boxes in frame {frame + 1}; an object is in one place")
    return rows


def widest(path: str | os.PathLike) -> int:
    """Numbers in the first row."""
    line = next((line for line in read_text(path, "rows").split("\n") if line.strip()), "")
    return len([word for word in re.split(r"[,;\s]+", line) if word])


def mot_text(rows: MotRows) -> str:
    """Rows in the official form: frame, id, left, top, width, height, score, -1, -1, -1; all from 1, a decimal each.

    Rows come by frame, then id. Ids are counted anew from 1, in their order.
    """
    order = np.lexsort((rows.track_id, rows.frame))
    numbers = {int(track): i for i, track in enumerate(sorted(set(rows.track_id.tolist())), 1)}
    lines = []
    for i in order:
        left, top, width, height = (float(v) for v in rows.boxes[i])
        score = f"{float(rows.score[i]):.4g}"
        box = f"{left + 1:.1f},{top + 1:.1f},{width:.1f},{height:.1f}"
        lines.append(f"{int(rows.frame[i]) + 1},{numbers[int(rows.track_id[i])]},{box},{score},-1,-1,-1\n")
    return "".join(lines)


def write_mot_results(path: str | os.PathLike, rows: MotRows) -> None:
    """Writes a result file, see `mot_text`."""
    write_text(Path(path), mot_text(rows))

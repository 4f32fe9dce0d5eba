"""Sequences of anybody's own, one a file, and any sequence file by its ending.

`.csv`   a header line `frame,body,x0,y0,z0,x1,...` and a line for each body of each frame; `body` may be left out
`.json`  `{"joints": ...}` or the joints alone, `[M][F][J][3]`, or `[F][J][3]` of one body; null where a body is absent
`.npy`   a float array of the same shapes

Joints are in the order of the skeleton, in metres; a body with an empty or NaN coordinate is absent in that frame. As a
data set they lie in class folders, ROOT/SPLIT/CLASS/NAME.csv, SPLIT of train and test.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import DAMAGE, BadMedia, InputError
from jaxvl.data.readers.common import Report, near, walk_folders
from jaxvl.data.readers.skeletons.clips import UNKNOWN, SkeletonClip, SkeletonReading
from jaxvl.data.readers.skeletons.ntu_classes import NAMES
from jaxvl.data.readers.skeletons.ntu_file import read_clip
from jaxvl.data.readers.skeletons.prepared import array_clips, load_annotations, pickle_clips, trimmed
from jaxvl.data.readers.skeletons.protocols import SPLITS
from jaxvl.data.readers.skeletons.utkinect import read_joints
from jaxvl.data.skeletons import NTU25, Skeleton, present_frames

BODIES = 2
PLAIN = (".csv", ".json", ".npy")
ENDINGS = (*PLAIN, ".skeleton", ".txt")
PREPARED = (".npz", ".pkl")


def read_sequence(path: str | os.PathLike, skeleton: Skeleton, track_gaps: str = "official") -> np.ndarray:
    """The bodies of one file, float32 `[M, F, J, 3]`, M of 1 or 2: `PLAIN`, `.skeleton` of NTU RGB+D, or `.txt`, the
    joints of a recording of UTKinect-Action3D. Raises BadMedia."""
    name = os.fspath(path)
    ending = os.path.splitext(name)[1].lower()
    if ending == ".skeleton":
        bodies = read_clip(name, track_gaps)[0]
    elif ending == ".txt":
        bodies = read_joints(name)[1][None]
    elif ending in PLAIN:
        bodies = {".csv": _csv, ".json": _json, ".npy": _npy}[ending](name)
    else:
        raise BadMedia(name, f"its ending is none of {', '.join(ENDINGS)}")
    return as_bodies(bodies, skeleton, name)


def read_clips(path: str | os.PathLike, skeleton: Skeleton, track_gaps: str = "official") -> list[SkeletonClip]:
    """All sequences of a file: the one of `read_sequence`; or the test split of prepared arrays (`.npz`), or whatever a
    pickle of annotations (`.pkl`) holds. Raises BadMedia, and InputError for the latter two."""
    name = os.fspath(path)
    ending = os.path.splitext(name)[1].lower()
    if ending not in PREPARED:
        return [SkeletonClip(name, UNKNOWN, read_sequence(name, skeleton, track_gaps))]
    if skeleton.name != NTU25.name:
        raise BadMedia(name, f"holds sequences of the skeleton {NTU25.name}, not {skeleton.name}")
    about: dict[str, Any] = {"skipped": [], "missing": []}
    if ending == ".npz":
        found = array_clips(name, "test", 0, about)
    else:
        found = pickle_clips(name, load_annotations(name), "", len(NAMES), about)
    return [dataclasses.replace(clip, name=f"{name}/{clip.name}") for clip in found]


FARTHEST = 1e4
"""Metres. What is farther is another unit, or damage, and no float32 could turn it."""


def as_bodies(values: Any, skeleton: Skeleton, name: str) -> np.ndarray:
    """`[M, F, J, 3]`, or `[F, J, 3]` of one body, as float32, without frames that nobody is in; NaN: absent. Raises
    BadMedia."""
    try:
        bodies = np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadMedia(name, "its joints are no array of numbers [bodies][frames][joints][3]") from error
    bodies = bodies[None] if bodies.ndim == 3 else bodies
    if bodies.ndim != 4 or bodies.shape[2:] != (len(skeleton), 3):
        wants = f"[bodies, frames, {len(skeleton)}, 3] of the skeleton {skeleton.name}"
        raise BadMedia(name, f"joints of shape {list(bodies.shape)}, not {wants}")
    if len(bodies) > BODIES:
        raise BadMedia(name, f"{len(bodies)} bodies; at most {BODIES} are read")
    if (far := bodies[np.abs(bodies) > FARTHEST]).size:  # of a NaN nothing is true
        raise BadMedia(name, f"a joint is at {far[0]:g} m; joints are in metres, NaN where a body is absent")
    bodies = trimmed(bodies.astype(np.float32))
    if not len(bodies):
        raise BadMedia(name, "no frame has a body")
    return bodies[:, present_frames(bodies).any(axis=0)]


def read_files(root: str | os.PathLike, skeleton: Skeleton, track_gaps: str = "official") -> dict[str, SkeletonReading]:
    """Both splits of `ROOT/SPLIT/CLASS/NAME`; classes are the folders of train, in order of their names.

    A file that cannot be read is left out with its reason. Raises InputError: no such folders, a class of test that
    train lacks, nothing that can be read.
    """
    top = Path(root)
    classes: tuple[str, ...] = ()
    readings = {}
    for split in SPLITS:
        folder = top / split
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; the layout is ROOT/SPLIT/CLASS/NAME.csv{near(str(folder))}")
        names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
        if unknown := [name for name in names if classes and name not in classes]:
            raise InputError(f"{folder / unknown[0]}: a class that {top / 'train'} does not have")
        classes = classes or names
        clips, skipped = [], []
        for name in names:
            for path in _sequences(folder / name):
                key = os.path.relpath(path, top)
                try:
                    bodies = read_sequence(path, skeleton, track_gaps)
                    clips.append(SkeletonClip(key, classes.index(name), bodies, subject=UNKNOWN))
                except BadMedia as bad:
                    skipped.append((key, bad.reason))
        if not clips:
            first = f"; first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
            raise InputError(f"{folder}: holds no sequence that can be read, as CLASS/NAME.csv{first}")
        report = Report(top.name, split, len(clips), (), tuple(skipped), 0, (), "", "sequences")
        readings[split] = SkeletonReading(clips, skeleton, classes, report)
    return readings


def find_sequences(place: str | os.PathLike) -> list[str]:
    """The sequence file, or those under a folder, in order. Raises InputError where there is none."""
    if not os.path.exists(place):
        raise InputError(f"{os.fspath(place)}: no such file or folder{near(os.fspath(place))}")
    if not os.path.isdir(place):
        return [os.fspath(place)]
    found = _sequences(place, (*ENDINGS, *PREPARED))
    if not found:
        raise InputError(f"{os.fspath(place)}: holds no file that ends in one of {', '.join((*ENDINGS, *PREPARED))}")
    return found


def _sequences(folder: str | os.PathLike, endings: Sequence[str] = ENDINGS) -> list[str]:
    files = [os.path.join(here, name) for here, _, names in walk_folders(folder) for name in names]
    return [path for path in files if os.path.splitext(path)[1].lower() in endings]


def _content(name: str) -> str:
    try:
        with open(name, "rb") as file:
            return file.read().decode("utf-8-sig")
    except OSError as error:
        raise BadMedia(name, f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise BadMedia(name, f"not UTF-8 at byte {error.start}") from error


def _csv(name: str) -> np.ndarray:
    reader = csv.reader(io.StringIO(_content(name), newline=""))
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise BadMedia(name, f"broken csv at line {reader.line_num} ({error})") from error
    header = [field.strip().lower() for field in rows[0][1]] if rows else []
    lead = 2 if header[1:2] == ["body"] else 1
    joints = (len(header) - lead) // 3
    if header[:1] != ["frame"] or not joints or header[lead:] != [f"{c}{j}" for j in range(joints) for c in "xyz"]:
        raise BadMedia(name, "line 1: needs the header frame,body,x0,y0,z0,x1,y1,z1 and so on")
    found: dict[tuple[int, int], Sequence[float]] = {}
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise BadMedia(name, f"line {line}: {len(row)} fields, the header has {len(header)}")
        try:
            place = int(row[0]), int(row[1]) if lead == 2 else 0
            values = [float(v) if v.strip() else np.nan for v in row[lead:]]
        except ValueError:
            raise BadMedia(name, f"line {line}: a field that is no number") from None
        if place in found:
            raise BadMedia(name, f"line {line}: frame {place[0]} of body {place[1]} a second time")
        found[place] = values
    if not found:
        raise BadMedia(name, "no frame has a body")
    frames, bodies = (sorted({place[axis] for place in found}) for axis in (0, 1))
    if len(bodies) > BODIES:
        raise BadMedia(name, f"{len(bodies)} bodies; at most {BODIES} are read")
    out = np.full((len(bodies), len(frames), 3 * joints), np.nan)
    at_frame, at_body = ({value: i for i, value in enumerate(values)} for values in (frames, bodies))
    for (frame, body), values in found.items():
        out[at_body[body], at_frame[frame]] = values
    return out.reshape(len(bodies), len(frames), joints, 3)


def _json(name: str) -> Any:
    try:
        content = json.loads(_content(name))
    except (ValueError, RecursionError) as error:
        raise BadMedia(name, f"no JSON that can be read ({str(error)[:80]})") from error
    values = content.get("joints") if isinstance(content, dict) else content
    if not isinstance(values, list):
        raise BadMedia(name, 'needs {"joints": [[[[x, y, z], ...], ...], ...]}')
    depth = _depth(values)
    bodies = values if depth == 4 else [values]
    if depth not in (3, 4) or not all(isinstance(body, list) for body in bodies):
        raise BadMedia(name, "its joints are no [bodies][frames][joints][3], nor [frames][joints][3] of one body")
    joints = max(len(frame) for body in bodies for frame in body if isinstance(frame, list))
    absent = [[np.nan] * 3] * joints
    return [[absent if frame is None else frame for frame in body] for body in bodies]


def _depth(value: Any) -> int:
    """Lists in lists, as far as the first that is not null says."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = next((v for v in value if v not in (None, [])), None)
    return depth


def _npy(name: str) -> np.ndarray:
    try:
        return np.load(name, allow_pickle=False)
    except DAMAGE as error:
        raise BadMedia(name, f"no .npy array of numbers ({str(error)[:80]})") from error

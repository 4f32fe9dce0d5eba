"""The test set of MPI-INF-3DHP, in each form in which people have it.

`test_3dhp.npz`            `pose3d` `[N, 16, 3]` metres, camera's axes, `pose2d` `[N, 16, 2]` normalised; 2929 poses
`mpi_inf_3dhp_valid.npz`   `imgname`, `part` `[N, 24, 3]` pixels, `S` `[N, 24, 4]` metres
`TS1` ... `TS6`            `annot_data.mat` each (HDF5, v7.3): `annot2` `[F, 1, 17, 2]` pixels, `annot3` and
                           `univ_annot3` `[F, 1, 17, 3]` millimetres, `valid_frame` and `activity_annotation` `[F]`

The package h5py is needed for the last (`jaxvl[hdf5]`).
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.features import open_hdf5
from jaxvl.data.readers.common import Report, first_few, near
from jaxvl.data.readers.poses import checks
from jaxvl.data.readers.poses.pairs import PosePairs
from jaxvl.data.readers.poses.pickled import read_member, reason
from jaxvl.ops import cameras

COMMON, VALID, ANNOTATIONS = "test_3dhp.npz", "mpi_inf_3dhp_valid.npz", "annot_data.mat"
POSES = 2929
"""Of the published files, of the official ones those with `valid_frame`."""
SIXTEEN_OF_24 = [14, 2, 1, 0, 3, 4, 5, 16, 12, 18, 9, 10, 11, 8, 7, 6]
SIXTEEN_OF_17 = [14, 8, 9, 10, 11, 12, 13, 15, 1, 0, 5, 6, 7, 2, 3, 4]
SEQUENCES = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
SIZES = dict.fromkeys(SEQUENCES[:4], (2048, 2048)) | dict.fromkeys(SEQUENCES[4:], (1920, 1080))
"""Width and height of the pictures."""
ACTIVITIES = ("unknown", "stand/walk", "exercise", "sit", "crouch/reach", "on floor", "sports", "miscellaneous")
TARGETS = ("univ_annot3", "annot3")
DATASET = "MPI-INF-3DHP"


def read_test(root: str | os.PathLike, target: str = "univ_annot3") -> PosePairs:
    """What `root` is or holds: one of the two `.npz`, or the folders of the official test set.

    target: of the latter, `univ_annot3` (bodies scaled to one height, as papers report) or `annot3`. Raises InputError.
    """
    path = os.fspath(root)
    if os.path.isdir(path):
        there = [name for name in (COMMON, VALID) if os.path.isfile(os.path.join(path, name))]
        if not there:
            return read_official(path, target)
        path = os.path.join(path, there[0])
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file or folder (config.data.root_3dhp){near(path)}")
    members = read_member(path, ["pose3d", "pose2d", "imgname", "part", "S"], "the test set of MPI-INF-3DHP")
    if members["pose3d"] is not None:
        return _common(path, members)
    return _valid(path, members)


def _common(path: str, members: dict[str, Any]) -> PosePairs:
    x3d = checks.check_shape(members["pose3d"], (16,), 3, f"{path}: pose3d")
    x2d = checks.check_shape(members["pose2d"], (16,), 2, f"{path}: pose2d")
    _same_length(path, pose3d=x3d, pose2d=x2d)
    checks.check_screen(x2d, False, f"{path}: pose2d")
    checks.check_metres(x3d, f"{path}: pose3d")
    checks.check_sides(x3d, f"{path}: pose3d")
    checks.check_same_sides(x2d, x3d, f"{path}: pose2d")
    count = len(x3d)
    notes = ["no clips: no velocities"] + ([] if count == POSES else [f"the published file has {POSES:,} poses"])
    zeros = np.zeros(count, np.int32)
    # nothing says which frames follow each other: numbers two apart never do
    frames = 2 * np.arange(count, dtype=np.int32)
    report = Report(DATASET, "test", count, notes=tuple(notes), unit="", media="poses")
    return PosePairs(x2d, x3d, zeros, zeros, frames, (ACTIVITIES[0],), (COMMON,), report)


def _valid(path: str, members: dict[str, Any]) -> PosePairs:
    parts = checks.check_shape(members["part"], (24,), 3, f"{path}: part")[:, SIXTEEN_OF_24, :2]
    x3d = np.ascontiguousarray(checks.check_shape(members["S"], (24,), 4, f"{path}: S")[:, SIXTEEN_OF_24, :3])
    names = members["imgname"]
    if not isinstance(names, np.ndarray) or names.ndim != 1 or names.dtype.kind not in "US":
        raise InputError(f"{path}: imgname: needs a list of file names")
    _same_length(path, part=parts, S=x3d, imgname=names)
    clip, frame = np.zeros(len(names), np.int32), np.zeros(len(names), np.int32)
    for row, name in enumerate(names.astype(str)):
        found = re.search(r"TS([1-6])\D.*?(\d+)\D*$", name)
        if not found:
            raise InputError(f"{path}: imgname {name[:80]!r} of row {row} names no sequence TS1 to TS6 and frame")
        clip[row], frame[row] = int(found[1]) - 1, int(found[2])
    checks.check_screen(parts, True, f"{path}: part")
    x2d = np.concatenate([np.zeros((0, 16, 2), np.float32), parts])
    for number, name in enumerate(SEQUENCES):
        x2d[clip == number] = cameras.normalise_screen(parts[clip == number], *SIZES[name])
    checks.check_metres(x3d, f"{path}: S")
    checks.check_sides(x3d, f"{path}: S")
    checks.check_same_sides(x2d, x3d, f"{path}: part")
    notes = () if len(x3d) == POSES else (f"the published file has {POSES:,} poses",)
    report = Report(DATASET, "test", len(np.unique(clip)), (), (), len(x3d), notes, "poses", "sequences")
    return PosePairs(x2d, x3d, np.zeros(len(x3d), np.int32), clip, frame, (ACTIVITIES[0],), SEQUENCES, report)


def read_official(root: str | os.PathLike, target: str = "univ_annot3") -> PosePairs:
    """The sequences `ROOT/TSn/annot_data.mat` that are there; frames with `valid_frame` alone. Raises InputError."""
    if target not in TARGETS:
        raise InputError(f"config.data.target_3dhp: {target!r} is none of {', '.join(TARGETS)}")
    found = [name for name in SEQUENCES if os.path.isfile(os.path.join(root, name, ANNOTATIONS))]
    if not found:
        raise InputError(
            f"{os.fspath(root)}: holds none of {COMMON}, {VALID}, TS1/{ANNOTATIONS} ... TS6/{ANNOTATIONS}"
            f"{near(os.path.join(root, 'TS1'), folders=True)}"
        )
    parts = [_sequence(os.path.join(root, name, ANNOTATIONS), name, target) for name in found]
    x2d, x3d, activity, frame = (np.concatenate([part[i] for part in parts]) for i in range(4))
    clip = np.repeat(np.arange(len(found)), [len(part[0]) for part in parts])
    lost = [name for name in SEQUENCES if name not in found]
    notes = [f"target {target}"] + ([f"without {first_few(lost)}"] if lost else [])
    if not lost and len(x2d) != POSES:
        notes.append(f"the published files have {POSES:,} valid frames")
    report = Report(DATASET, "test", len(found), (), (), len(x2d), tuple(notes), "poses", "sequences")
    return PosePairs(x2d, x3d, activity, clip.astype(np.int32), frame, ACTIVITIES, tuple(found), report)


def _sequence(path: str, name: str, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(x2d, x3d, activity, frame)` of the valid frames."""
    read: dict[str, np.ndarray] = {}
    _check_format(path)
    with open_hdf5(path) as file:
        for key, values in (("annot2", 2), (target, 3), ("valid_frame", 0), ("activity_annotation", 0)):
            try:
                data = file.get(key)
                array = None if data is None or not hasattr(data, "shape") else np.asarray(data)
                has = ", ".join(file) or "nothing"
            except (OSError, ValueError, TypeError, RuntimeError, KeyError, MemoryError) as error:  # as h5py has it
                raise InputError(f"{path}: {key} cannot be read ({reason(error)}); copy it again") from error
            if array is None:
                raise InputError(f"{path}: has no {key!r}; it has {has[:200]}")
            if array.dtype.kind not in "fiub":
                raise InputError(f"{path}: {key} holds {array.dtype}, not numbers")
            read[key] = array.reshape(-1) if not values else array
    length = len(read["valid_frame"])
    for key, values in (("annot2", 2), (target, 3)):
        if read[key].shape not in ((length, 1, 17, values), (length, 17, values)):
            raise InputError(f"{path}: {key} is {list(read[key].shape)}, needs [{length}, 1, 17, {values}]")
        read[key] = read[key].reshape(length, 17, values)
    if len(read["activity_annotation"]) != length:
        raise InputError(f"{path}: {len(read['activity_annotation'])} activities for {length} frames")
    kept = np.flatnonzero(read["valid_frame"] == 1)
    if not len(kept):
        raise InputError(f"{path}: no frame has valid_frame 1")
    x2d = checks.check_shape(read["annot2"][kept], (17,), 2, f"{path}: annot2")[:, SIXTEEN_OF_17]
    x3d = checks.check_shape(read[target][kept], (17,), 3, f"{path}: {target}")[:, SIXTEEN_OF_17]
    checks.check_screen(x2d, True, f"{path}: annot2")
    checks.check_millimetres(x3d, f"{path}: {target}")
    checks.check_sides(x3d, f"{path}: {target}")
    activity = read["activity_annotation"][kept]
    if ((activity < 0) | (activity >= len(ACTIVITIES))).any():
        raise InputError(f"{path}: activity_annotation holds {activity.max():.0f}; needs 1 to 7")
    x2d = cameras.normalise_screen(x2d, *SIZES[name]).astype(np.float32)
    checks.check_same_sides(x2d, x3d, f"{path}: annot2")
    return x2d, (x3d / 1000).astype(np.float32), activity.astype(np.int32), kept.astype(np.int32)


def _check_format(path: str) -> None:
    """Raises InputError for a file that MATLAB saved anew in its older format."""
    try:
        with open(path, "rb") as file:
            begin = file.read(10)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from error
    if begin == b"MATLAB 5.0":
        raise InputError(f"{path}: is in MATLAB's older format, the published file in HDF5; save it with '-v7.3'")


def _same_length(path: str, **arrays: np.ndarray) -> None:
    if len({len(x) for x in arrays.values()}) > 1:
        counts = ", ".join(f"{len(x):,} {name}" for name, x in arrays.items())
        raise InputError(f"{path}: {counts}; each needs as many rows as the others")

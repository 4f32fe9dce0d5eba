"""UTKinect-Action3D: ten subjects, two recordings each, ten actions one after the other in each recording.

    ROOT/actionLabel.txt               blocks of `s01_e01`, then ten lines `walk: 252 390`: first and last frame number
    ROOT/joints/joints_s01_e01.txt     a line a frame: its number, then 20 times x y z, metres, Kinect v1

Frame numbers have gaps and come twice (the first line counts). One action, of s10_e02, has `NaN NaN` for frames.
"""

from __future__ import annotations

import os
import re

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.common import Report, read_text, require_file
from jaxvl.data.readers.skeletons.clips import SkeletonClip, SkeletonReading
from jaxvl.data.readers.skeletons.protocols import SPLITS, utkinect_training
from jaxvl.data.skeletons import UTKINECT20

ACTIONS = ("walk", "sitDown", "standUp", "pickUp", "carry", "throw", "push", "pull", "waveHands", "clapHands")
"""Label -> action."""
RECORDING = re.compile(r"s(\d+)_e(\d+)")
RANGE = re.compile(r"(\w+)\s*:\s*(\S+)\s+(\S+)")


def read_utkinect(root: str | os.PathLike, protocol: str = "loso", fold: int = 0) -> dict[str, SkeletonReading]:
    """Both splits of a protocol: 'loso', recording number `fold` is tested, or 'xsub_odd'.

    Raises InputError: a file that is missing or not as published, an empty split.
    """
    clips, missing, skipped = read_all(root)
    subject = np.array([clip.subject for clip in clips])
    trained = utkinect_training(protocol, fold, subject, np.array([clip.take for clip in clips]))
    readings = {}
    for split in SPLITS:
        rows = np.flatnonzero(trained if split == "train" else ~trained)
        if not len(rows):
            raise InputError(f"{os.fspath(root)}: no {split} sequence of {protocol}")
        name = f"UTKinect-Action3D {protocol}" + (f" fold {fold}" if protocol == "loso" else "")
        report = Report(
            name,
            split,
            len(rows),
            missing if split == "train" else (),  # once, not for each split
            skipped if split == "train" else (),
            0,
            (),
            "",
            "sequences",
        )
        readings[split] = SkeletonReading([clips[i] for i in rows], UTKINECT20, ACTIONS, report)
    return readings


def read_all(root: str | os.PathLike) -> tuple[list[SkeletonClip], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """`(all sequences, recordings without a file, (sequence, why it is left out))`, in the order of the labels."""
    labels = read_labels(os.path.join(os.fspath(root), "actionLabel.txt"))
    clips, missing, skipped = [], [], []
    for recording, ranges in labels.items():
        path = os.path.join(os.fspath(root), "joints", f"joints_{recording}.txt")
        if not os.path.isfile(path):
            missing.append(recording)
            continue
        try:
            numbers, joints = read_joints(path)
        except BadMedia as bad:
            skipped.append((recording, bad.reason))
            continue
        subject, take = map(int, RECORDING.fullmatch(recording).groups())
        for action, span in ranges.items():
            name = f"{recording}/{action}"
            if span is None:
                skipped.append((name, "its frames are NaN"))
                continue
            rows = (numbers >= span[0]) & (numbers <= span[1])
            if not rows.any():
                skipped.append((name, "no frame in its range"))
            else:
                clips.append(SkeletonClip(name, ACTIONS.index(action), joints[None, rows], subject, take=take))
    if not clips:
        raise InputError(f"{os.fspath(root)}: holds none of the recordings, joints/joints_s01_e01.txt and so on")
    return clips, tuple(missing), tuple(skipped)


def read_labels(path: str | os.PathLike) -> dict[str, dict[str, tuple[int, int] | None]]:
    """`{recording: {action: (first, last frame), None where that is NaN}}`. Raises InputError."""
    found: dict[str, dict[str, tuple[int, int] | None]] = {}
    current: dict[str, tuple[int, int] | None] | None = None
    for number, line in enumerate(read_text(path, "the ranges of the actions").splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        where = f"{os.fspath(path)}: line {number}"
        if RECORDING.fullmatch(line):
            if line in found:
                raise InputError(f"{where}: the recording {line} comes a second time")
            current = found[line] = {}
            continue
        match = RANGE.fullmatch(line)
        if match is None or current is None:
            raise InputError(f"{where}: {line[:40]!r} is neither a recording, like s01_e01, nor like walk: 252 390")
        action, *ends = match.groups()
        if action not in ACTIONS or action in current:
            raise InputError(f"{where}: {action!r} is none of the actions that are left, {', '.join(ACTIONS)}")
        if all(end.lower() == "nan" for end in ends):
            current[action] = None
        elif all(end.isdigit() and len(end) < 10 for end in ends):
            current[action] = int(ends[0]), int(ends[1])
        else:
            raise InputError(f"{where}: {ends[0]} and {ends[1]} are no frame numbers")
    if not found:
        raise InputError(f"{os.fspath(path)}: names no recording, like s01_e01")
    return found


def read_joints(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """`(frame numbers int64 [F], joints float32 [F, 20, 3])` in the order of the numbers, each once; frames with NaN
    are left out. Raises BadMedia."""
    name = require_file(path, "the joints of a recording")
    numbers: dict[int, list[float]] = {}
    with open(name, "rb") as file:
        for count, line in enumerate(file, 1):
            values = line.split()
            if not values:
                continue
            if len(values) != 1 + 3 * len(UTKINECT20):
                raise BadMedia(name, f"line {count}: {len(values)} values, not {1 + 3 * len(UTKINECT20)}")
            try:
                number, joints = float(values[0]), [float(v) for v in values[1:]]
            except ValueError:
                raise BadMedia(name, f"line {count}: a value that is no number") from None
            if not number.is_integer() or not 0 <= number < 2**31:
                raise BadMedia(name, f"line {count}: {values[0].decode(errors='replace')[:20]} is no frame number")
            numbers.setdefault(int(number), joints)
    order = sorted(numbers)
    with np.errstate(over="ignore"):
        joints = np.array([numbers[n] for n in order], np.float64).astype(np.float32).reshape(-1, len(UTKINECT20), 3)
    real = np.isfinite(joints).all(axis=(1, 2))
    if not real.any():
        raise BadMedia(name, "no frame with joints")
    return np.array(order, np.int64)[real], joints[real]

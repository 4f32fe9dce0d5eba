"""One `.skeleton` file of NTU RGB+D: text, all bodies that Kinect v2 tracked in each frame.

<frames>
of each frame:   <bodies>, 0 to 6
  of each body:  <body id> and 9 more values
                 25
                 25 lines: x y z, and 9 more values
"""

from __future__ import annotations

import dataclasses
import os
import re

import numpy as np

from jaxvl.core.errors import BadMedia
from jaxvl.data.readers.skeletons.ntu_bodies import JOINTS, select_bodies

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
VALUES = 12
"""On the line of a joint."""
SHORT = "ends before the frames that its first line promises"
SURPLUS = "goes on behind the frames that its first line promises"
UNREAL = "bodies with NaN or infinite coordinates left out of their frames"
TWICE = "a body id twice in one frame, the first one kept"


@dataclasses.dataclass(frozen=True)
class Parsed:
    """frames: body id -> joints float32 `[25, 3]`, of every frame in the file, empty ones too. notes: what is odd."""

    frames: list[dict[bytes, np.ndarray]]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a file name says, as published: all counted from 1."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int


def parse_name(stem: str) -> Sample | None:
    """`SsssCcccPpppRrrrAaaa`; None for any other name."""
    match = NAME.fullmatch(stem)
    return Sample(*map(int, match.groups())) if match else None


def read_clip(path: str | os.PathLike, track_gaps: str = "official") -> tuple[np.ndarray, tuple[str, ...]]:
    """`(bodies float32 [M, F, 25, 3], notes)` of one file, by the published choice of bodies. Raises BadMedia."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except OSError as error:
        raise BadMedia(name, f"cannot be read ({error.strerror or error})") from error
    parsed = parse_skeleton(data, name)
    if not any(parsed.frames):
        raise BadMedia(name, "no frame has a body" if parsed.frames else "no frames")
    return select_bodies(parsed.frames, track_gaps), parsed.notes


def parse_skeleton(data: bytes, path: str) -> Parsed:
    """The bytes of a file. Frames that are cut off at the end are left out with a note; raises BadMedia where anything
    else is not as published."""
    return _Lines(data.removeprefix(b"\xef\xbb\xbf"), path).parse()


class _Cut(Exception):
    """The file ends."""


class _Lines:
    """The lines of a file that are not blank, one after the other; `at` is the next one."""

    def __init__(self, data: bytes, path: str):
        self.all, self.path, self.at = data.split(b"\n"), path, 0
        self.lines = [line for line in self.all if line.strip()]
        self.underscore = b"_" in data

    def parse(self) -> Parsed:
        """The whole file."""
        if not self.lines:
            raise BadMedia(self.path, "is empty")
        if self.underscore:  # Python's numbers may hold one
            at = next(i for i, line in enumerate(self.lines) if b"_" in line)
            raise BadMedia(self.path, f"line {self.number_of(at)}: a value that is no number")
        promised = self.number("the number of frames")
        names: list[list[bytes]] = []
        values: list[float] = []
        notes = []
        for _ in range(promised):
            try:
                frame, numbers = self.frame()
            except _Cut:
                notes.append(SHORT)
                break
            names.append(frame)
            values += numbers
        else:
            if self.at < len(self.lines):
                if not self.lines[self.at].strip().isdigit():  # a line too many in the last frame, not another frame
                    raise BadMedia(self.path, f"line {self.number_of(self.at)}: a line that belongs to no frame")
                notes.append(SURPLUS)
        with np.errstate(over="ignore"):
            joints = np.array(values, np.float64).astype(np.float32).reshape(-1, JOINTS, 3)
        real = np.isfinite(joints).all(axis=(1, 2))
        if not real.all():
            notes.append(UNREAL)
        frames, at = [], 0
        for frame in names:
            found: dict[bytes, np.ndarray] = {}
            if len(set(frame)) < len(frame) and TWICE not in notes:
                notes.append(TWICE)
            for name in frame:
                if real[at]:
                    found.setdefault(name, joints[at])
                at += 1
            frames.append(found)
        return Parsed(frames, tuple(notes))

    def frame(self) -> tuple[list[bytes], list[float]]:
        """Body ids, and `x y z` of all their joints."""
        names: list[bytes] = []
        values: list[float] = []
        for _ in range(self.number("the number of bodies")):
            name = self.next().split()[0]
            if not name.isdigit():
                raise self.broken("no body id", self.at - 1)
            names.append(name)
            if (count := self.number("the number of joints")) != JOINTS:
                raise self.broken(f"{count} joints, not {JOINTS}", self.at - 1)
            for line in self.lines[self.at : self.at + JOINTS]:
                numbers = line.split(None, 3)
                quick = len(numbers) == 4 and numbers[3].count(b" ") == VALUES - 4
                if not quick and len(line.split()) != VALUES:
                    raise self.broken(f"{len(line.split())} values of a joint, not {VALUES}", self.at)
                try:
                    values += map(float, numbers[:3])
                except ValueError:
                    raise self.broken("a coordinate that is no number", self.at) from None
                self.at += 1
            if len(values) != 3 * JOINTS * len(names):
                raise _Cut
        return names, values

    def next(self) -> bytes:
        """The next line."""
        if self.at >= len(self.lines):
            raise _Cut
        self.at += 1
        return self.lines[self.at - 1]

    def number(self, what: str) -> int:
        """A line that holds a count alone."""
        text = self.next().strip()
        if not text.isdigit() or len(text) > 9:
            raise self.broken(f"{what} is missing", self.at - 1)
        return int(text)

    def broken(self, reason: str, at: int) -> BadMedia | _Cut:
        """With the number of the line in the file; the last line is one that was cut."""
        if at and at == len(self.lines) - 1:
            return _Cut()
        return BadMedia(self.path, f"line {self.number_of(at)}: {reason}")

    def number_of(self, at: int) -> int:
        """Of a line that is not blank, in the file, from 1."""
        return [number for number, line in enumerate(self.all, 1) if line.strip()][at]

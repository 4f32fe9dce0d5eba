"""A table of tracking sequences: the same for one target a sequence and for many.

Boxes are `(left, top, width, height)` in pixels, float32, with (0, 0) the corner of the top left pixel, whatever the
data set counts from. Frames of a sequence are numbered from 0. A table of millions of boxes is a few arrays, so that it
travels to worker processes.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.frames import PICTURE_ENDINGS
from jaxvl.data.images import read_image, to_rgb
from jaxvl.data.readers.common import Report, first_few
from jaxvl.data.video import VideoFile

NUMBERED = re.compile(r"(.*?)([0-9]+)(\.[^.]+)")
ROWS = ("boxes", "visible", "track_id", "class_id", "frame", "visibility", "considered")
"""Columns with one entry a box."""
MOST_FRAMES = 10_000_000
"""A longer sequence is taken for a slip in a number."""
KINDS = {"boxes": np.float32, "visibility": np.float32, "visible": np.bool_, "considered": np.bool_}


@dataclasses.dataclass(frozen=True)
class Frames:
    """The pictures of a sequence, in order: `folder/pattern.format(first + i)`, i below `count`, or, where the pattern
    is empty, the video file `folder`. missing: the frames that have no file."""

    folder: str
    pattern: str
    first: int
    count: int
    missing: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return self.count

    def path(self, i: int) -> str:
        """The file of frame `i` (of all frames, where it is a video)."""
        if not 0 <= i < self.count:
            raise IndexError(f"frame {i} of {self.count} of {self.folder}")
        return os.path.join(self.folder, self.pattern.format(self.first + i)) if self.pattern else self.folder

    @property
    def paths(self) -> list[str]:
        """The file of every frame."""
        return [self.path(i) for i in range(self.count)]

    def read(self, i: int) -> np.ndarray:
        """Frame `i`, uint8 `[H, W, 3]`. Raises BadMedia."""
        path = self.path(i)
        if self.pattern:
            return np.asarray(to_rgb(read_image(path)))
        video = VideoFile(path)
        if i >= len(video.times):
            raise BadMedia(path, f"has {len(video.times)} frames, the annotations speak of {self.count}")
        return video.read([i], None)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class TrackSequence:
    """One sequence. R rows, each the box of one object in one frame, in the order of the file.

    boxes `[R, 4]` float32; visible `[R]` bool: to be trained on; track_id, class_id `[R]` int32 (class_id counts in
    `Tracks.classes`, in MOTChallenge it is the published class); frame `[R]` int32, from 0; visibility `[R]` float32,
    share that is seen, 1 where not known; considered `[R]` bool, False for rows that evaluation ignores. size: (width,
    height), (0, 0) where not known. fps: 0 where not known.
    """

    dataset: str
    name: str
    frames: Frames
    boxes: np.ndarray
    visible: np.ndarray
    track_id: np.ndarray
    class_id: np.ndarray
    frame: np.ndarray
    visibility: np.ndarray
    considered: np.ndarray
    size: tuple[int, int] = (0, 0)
    fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrackReading:
    """A split that was read, with the reader's report."""

    tracks: Tracks
    report: Report


class TracksBuilder:
    """Collects sequences of a data set; `build` gives the table."""

    def __init__(self, dataset: str, classes: Sequence[str] = ()):
        self.dataset, self.classes = dataset, {name: i for i, name in enumerate(classes)}
        self.names: list[str] = []
        self.pools: dict[str, dict[str, int]] = {"folder": {}, "pattern": {}}
        self.codes = {name: array.array("i") for name in ("folder", "pattern", "first", "count", "width", "height")}
        self.fps = array.array("f")
        self.rows: dict[str, list[np.ndarray]] = {name: [] for name in ROWS}
        self.ends, self.missing, self.missing_ends = [0], array.array("i"), [0]
        self.absent: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def skip(self, name: str, reason: str) -> None:
        """Leaves a sequence, or a box of it, out with the reason."""
        self.skipped.append((name, reason))

    def class_of(self, name: str) -> int:
        """The number of a class, a new one where it was not met before."""
        return self.classes.setdefault(name, len(self.classes))

    def add(
        self,
        name: str,
        frames: Frames,
        boxes: np.ndarray,
        *,
        visible: np.ndarray | bool = True,
        track_id: np.ndarray | int = 0,
        class_id: np.ndarray | int = 0,
        frame: np.ndarray | None = None,
        visibility: np.ndarray | float = 1.0,
        considered: np.ndarray | bool = True,
        size: tuple[int, int] = (0, 0),
        fps: float = 0.0,
    ) -> None:
        """One sequence; `frame` by default one box a frame. Frames without a file are not visible."""
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        n = len(boxes)
        rows = {"boxes": boxes, "frame": np.arange(n) if frame is None else frame}
        rows |= {"visible": visible, "track_id": track_id, "class_id": class_id}
        rows |= {"visibility": visibility, "considered": considered}
        for key, value in rows.items():
            value = np.asarray(value, KINDS.get(key, np.int32))
            rows[key] = np.broadcast_to(value, (n, 4) if key == "boxes" else (n,))
        if frames.missing:
            rows["visible"] = rows["visible"] & ~np.isin(rows["frame"], sorted(frames.missing))
        for key, value in rows.items():
            self.rows[key].append(value)
        self.names.append(name)
        for key, value in (("folder", frames.folder), ("pattern", frames.pattern)):
            self.codes[key].append(self.pools[key].setdefault(value, len(self.pools[key])))
        for key, value in (("first", frames.first), ("count", frames.count), ("width", size[0]), ("height", size[1])):
            self.codes[key].append(int(value))
        self.fps.append(fps)
        self.ends.append(self.ends[-1] + n)
        self.missing.extend(sorted(frames.missing))
        self.missing_ends.append(len(self.missing))

    def build(self) -> Tracks:
        """The table, in memory. ValueError where it is empty."""
        columns = {name: np.frombuffer(code, np.int32) for name, code in self.codes.items()}
        columns["name"] = np.array([name.encode("utf-8", "surrogatepass") for name in self.names])
        columns["fps"] = np.frombuffer(self.fps, np.float32)
        columns |= {"ends": np.array(self.ends, np.int64), "missing": np.frombuffer(self.missing, np.int32)}
        columns["missing_ends"] = np.array(self.missing_ends, np.int64)
        columns |= {key: np.concatenate(values) for key, values in self.rows.items()}
        pools = {name: tuple(pool) for name, pool in self.pools.items()}
        return Tracks(self.dataset, columns, pools, tuple(self.classes))

    def reading(self, split: str, where: str) -> TrackReading:
        """The table with its report. Raises InputError where nothing is left."""
        if not len(self):
            reasons = "; ".join(dict.fromkeys(reason for _, reason in self.skipped))
            lost = f"{len(self.absent):,} have no pictures" if self.absent else ""
            why = ", ".join(part for part in (lost, reasons) if part) or "there are none"
            raise InputError(
                f"{where}: no sequence of {self.dataset} {split} can be used ({why}); is it the right folder?"
            )
        tracks = self.build()
        notes = list(self.notes)
        gone = np.diff(tracks.columns["missing_ends"])
        if gone.any():
            names = [self.names[i] for i in np.flatnonzero(gone)]
            notes.append(f"{int(gone.sum()):,} frames missing in {len(names):,} sequences ({first_few(names)})")
        report = Report(
            self.dataset, split, len(self), tuple(self.absent), tuple(self.skipped), len(tracks.columns["frame"]),
            tuple(notes), "boxes", "sequences",
        )  # fmt: skip
        return TrackReading(tracks, report)


class Tracks(Sequence):
    """A table of sequences: `tracks[i]` is a `TrackSequence`. Picklable. classes: names, by `class_id`."""

    def __init__(
        self,
        dataset: str,
        columns: Mapping[str, np.ndarray],
        pools: Mapping[str, tuple[str, ...]],
        classes: tuple[str, ...] = (),
        chosen: np.ndarray | None = None,
    ):
        self.dataset, self.columns, self.pools, self.classes, self.chosen = dataset, columns, pools, classes, chosen

    def __len__(self) -> int:
        return len(self.columns["name"]) if self.chosen is None else len(self.chosen)

    def number(self, i: int) -> int:
        """Where sequence `i` lies in the columns."""
        i = range(len(self))[i]
        return i if self.chosen is None else int(self.chosen[i])

    def name(self, i: int) -> str:
        """The name of sequence `i`."""
        return self.columns["name"][self.number(i)].decode("utf-8", "surrogatepass")

    @property
    def names(self) -> list[str]:
        """The names in order."""
        return [self.name(i) for i in range(len(self))]

    def rows(self, i: int) -> slice:
        """The rows of sequence `i` in the columns of `ROWS`."""
        number = self.number(i)
        return slice(int(self.columns["ends"][number]), int(self.columns["ends"][number + 1]))

    def __getitem__(self, i) -> TrackSequence:
        """Sequence number i."""
        number, rows, c = self.number(i), self.rows(i), self.columns
        gone = c["missing"][int(c["missing_ends"][number]) : int(c["missing_ends"][number + 1])]
        folder, pattern = (self.pools[name][int(c[name][number])] for name in ("folder", "pattern"))
        frames = Frames(folder, pattern, int(c["first"][number]), int(c["count"][number]), frozenset(gone.tolist()))
        size = int(c["width"][number]), int(c["height"][number])
        fields = {name: c[name][rows] for name in ROWS}
        return TrackSequence(self.dataset, self.name(i), frames, **fields, size=size, fps=float(c["fps"][number]))

    def select(self, chosen: Iterable[int]) -> Tracks:
        """The sequences of these numbers, sharing the columns."""
        chosen = np.array([self.number(int(i)) for i in chosen], np.int64)
        return Tracks(self.dataset, self.columns, self.pools, self.classes, chosen)

    def visible_counts(self) -> np.ndarray:
        """`[len]`: visible rows of each sequence."""
        total = np.concatenate([[0], np.cumsum(self.columns["visible"])])
        ends = self.columns["ends"]
        counts = total[ends[1:]] - total[ends[:-1]]
        return counts if self.chosen is None else counts[self.chosen]

    def frame_counts(self) -> np.ndarray:
        """`[len]`: frames of each sequence."""
        return self.columns["count"] if self.chosen is None else self.columns["count"][self.chosen]


def list_frames(folder: str | os.PathLike, first: int, count: int = -1) -> Frames | None:
    """The pictures numbered `first`, `first + 1`, ... in a folder, with or without zeros in front, of any ending; those
    that are not there are `missing`. Names of another form (thumbnails, copies) are left alone. None where there is no
    such folder, or no numbered picture in it. count: -1 for as many as the highest number says."""
    top = os.fspath(folder)
    if not os.path.isdir(top):
        return None
    groups: dict[tuple[str, str], list[str]] = {}
    with os.scandir(top) as entries:
        for entry in entries:
            found = NUMBERED.fullmatch(entry.name)
            if found and found[3].lower() in PICTURE_ENDINGS and not entry.name.startswith("."):
                groups.setdefault((found[1], found[3]), []).append(found[2])
    if not groups:
        return None
    (prefix, ending), digits = max(groups.items(), key=lambda item: (len(item[1]), item[0]))
    padded = collections.Counter(len(d) for d in digits if d[0] == "0" and len(d) > 1)
    form = f"{{:0{padded.most_common(1)[0][0]}d}}" if padded else "{:d}"
    there = {int(d) for d in digits if form.format(int(d)) == d}
    count = max(there) - first + 1 if count < 0 else count
    if count > MOST_FRAMES:
        raise InputError(
            f"{top}: would be a sequence of {count:,} frames, the limit is {MOST_FRAMES:,}; is a name wrong?"
        )
    missing = frozenset(i for i in range(count) if first + i not in there)
    return Frames(top, braced(prefix) + form + braced(ending), first, max(count, 0), missing)


def braced(text: str) -> str:
    """A text that `str.format` gives back as it is."""
    return text.replace("{", "{{").replace("}", "}}")

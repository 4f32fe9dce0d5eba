"""From detections to identities, frame by frame: the three trackers of many objects (section 3.5 of the paper, and its
released code).

`released` is what the published driver computes: detections linked by GIoU, the network's boxes not used. `transformer`
is what the paper describes: detections linked to the boxes of the target transformer, also those of lost objects.
`byte` is ByteTrack (arXiv 2110.06864) with the transformer's boxes in it. All boxes are corners in pixels of the video.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxvl.core.errors import InputError
from jaxvl.methods.utt import kalman


class Detections(NamedTuple):
    """What the detector found in a frame. boxes `[n, 4]`, scores `[n]`, vectors `[n, C]`."""

    boxes: np.ndarray
    scores: np.ndarray
    vectors: np.ndarray

    def where(self, keep: np.ndarray) -> Detections:
        """Those that `keep` picks, in their order."""
        return Detections(self.boxes[keep], self.scores[keep], self.vectors[keep])


class Predicted(NamedTuple):
    """What the target transformer says of the tracks that `proposals` gave, in that order. boxes `[n, 4]`; scores `[n]`
    in [0, 1], or None for a network without."""

    boxes: np.ndarray
    scores: np.ndarray | None = None


class Object(NamedTuple):
    """A tracked object of one frame: its identity from 1, its box, its score."""

    id: int
    box: np.ndarray
    score: float


@dataclasses.dataclass
class Track:
    """box: where it was seen, or is believed to be. vector: of its last detection. age: frames, as each tracker counts
    them. frame, start: of the last and of the first match. motion: Kalman state of `byte`."""

    id: int
    box: np.ndarray
    score: float
    vector: np.ndarray
    age: int = 0
    frame: int = 0
    start: int = 0
    state: str = "tracked"
    confirmed: bool = True
    motion: Any = None
    guess: np.ndarray | None = None


def overlaps(a: np.ndarray, b: np.ndarray, kind: str = "iou", pixel: float = 0.0) -> np.ndarray:
    """`[n, m]` IoU or GIoU of corners `[n, 4]`, `[m, 4]`. pixel: 1 where corners are the last pixels, not edges."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    side = lambda low, high: np.maximum(high - low + pixel, 0)  # noqa: E731
    size = lambda x: (x[..., 2] - x[..., 0] + pixel) * (x[..., 3] - x[..., 1] + pixel)  # noqa: E731
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    common = side(low, high).prod(-1)
    union = np.maximum(size(a) + size(b) - common, 1e-12)
    if kind == "iou":
        return common / union
    hull = np.maximum(side(np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])).prod(-1), 1e-12)
    return common / union - (hull - union) / hull


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the least total cost, as many as the shorter side has."""
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost))] if cost.size else []


def assign_below(cost: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Pairs of the least `sum of their costs + limit / 2 for each row and each column left out` (`lapjv` with
    `cost_limit`)."""
    n, m = cost.shape
    if not cost.size:
        return []
    square = np.full((n + m, n + m), limit / 2)
    square[n:, m:] = 0
    square[:n, :m] = cost
    return [(i, j) for i, j in assign(square) if i < n and j < m]


class Released:
    """The published driver (`SiameseTracker`): every detection of at least `detection` is linked by GIoU to the objects
    of the last frame and to those lost for fewer than `max_age` frames."""

    def __init__(self, detection: float = 0.4, match: float = 1.2, max_age: int = 10):
        self.detection, self.match, self.max_age = detection, match, max_age
        self.visible: list[Track] = []  # in the order of their detections
        self.lost: list[Track] = []
        self.count = 0

    def proposals(self) -> list[Track]:
        """Nothing: the network's boxes are never used."""
        return []

    def update(self, found: Detections, predicted: Predicted | None = None) -> list[Object]:
        """The objects of this frame."""
        del predicted
        found = found.where(found.scores >= self.detection)
        tracks = self.visible + self.lost
        n, m = len(found.scores), len(tracks)
        cost = 1 - overlaps(found.boxes, [t.box for t in tracks], "giou") if n and m else np.zeros((n, m))
        pairs = assign(cost)
        undone = [(i, j) for i, j in pairs if cost[i, j] > self.match]
        kept = {i: j for i, j in pairs if cost[i, j] <= self.match}
        assigned = {i for i, _ in pairs}, {j for _, j in pairs}
        fresh = [i for i in range(n) if i not in assigned[0]] + [i for i, _ in undone]
        names = {i: tracks[j].id for i, j in kept.items()}
        for i in fresh:
            self.count += 1
            names[i] = self.count
        self.visible = [
            Track(names[i], found.boxes[i], float(found.scores[i]), found.vectors[i], age=1) for i in range(n)
        ]
        self.lost = []
        for j in [j for j in range(m) if j not in assigned[1]] + [j for _, j in undone]:
            if tracks[j].age < self.max_age:
                tracks[j].age += 1
                self.lost.append(tracks[j])
        return [Object(t.id, t.box, t.score) for t in self.visible]


class Transformer:
    """The paper's tracker: each live object, seen or lost, is proposed where it was believed last; detections are
    linked to where the target transformer moves these boxes. A lost object goes on with the predicted box and its old
    vector."""

    def __init__(
        self,
        detection: float = 0.4,
        match: float = 0.9,
        max_age: int = 30,
        birth: float = 0.4,
        size: tuple[int, int] | None = None,
    ):
        self.detection, self.match, self.max_age, self.birth = detection, match, max_age, birth
        self.size = size  # (height, width) of the video, which predicted boxes are clipped to
        self.tracks: list[Track] = []
        self.count = 0

    def proposals(self) -> list[Track]:
        """All live tracks, those seen last first."""
        self.tracks.sort(key=lambda t: t.age)
        return self.tracks

    def update(self, found: Detections, predicted: Predicted | None = None) -> list[Object]:
        """The objects of this frame. Tracks beyond those of `predicted` stay where they were."""
        for track, box in zip(self.tracks, () if predicted is None else predicted.boxes):
            track.box = box if self.size is None else clipped(box, *self.size)
        found = found.where(found.scores >= self.detection)
        n, m = len(found.scores), len(self.tracks)
        cost = 1 - overlaps(found.boxes, [t.box for t in self.tracks]) if n and m else np.zeros((n, m))
        pairs = {i: j for i, j in assign_below(cost, self.match)}
        for track in self.tracks:
            track.age += 1
        out = []
        for i in range(n):
            box, score, vector = found.boxes[i], float(found.scores[i]), found.vectors[i]
            if i in pairs:
                track = self.tracks[pairs[i]]
                track.box, track.score, track.vector, track.age = box, score, vector, 0
            elif score >= self.birth:
                self.count += 1
                track = Track(self.count, box, score, vector)
                self.tracks.append(track)
            else:
                continue
            out.append(Object(track.id, box, score))
        self.tracks = [t for t in self.tracks if t.age <= self.max_age]
        return out


class Byte:
    """ByteTrack with the transformer in it (`UTTracker`). end_frame_bug: as released, where from frame 31 on a lost
    track dies one frame after it is lost. trust: a track is looked for at the transformer's box if its score is
    above."""

    def __init__(
        self,
        detection: float = 0.4,
        low: float = 0.2,
        matches: tuple[float, float, float] = (0.9, 0.5, 0.7),
        birth: float = 0.1,
        max_age: int = 30,
        trust: float = 0.9,
        end_frame_bug: bool = False,
    ):
        self.detection, self.low, self.matches, self.birth = detection, low, matches, birth
        self.max_age, self.trust, self.end_frame_bug = max_age, trust, end_frame_bug
        self.tracked: list[Track] = []
        self.lost: list[Track] = []
        self.removed: set[int] = set()
        self.last: list[Track] = []  # those matched or born in the last frame, in the order in which that happened
        self.count, self.frame = 0, 0

    def proposals(self) -> list[Track]:
        """The tracks of the last frame, moved on by their Kalman filters; call it once a frame."""
        for track in self.last:
            self._move(track)
            track.guess = None
        return self.last

    def update(self, found: Detections, predicted: Predicted | None = None) -> list[Object]:
        """The objects of this frame."""
        self.frame += 1
        if predicted is not None and predicted.scores is not None:
            for track, box, score in zip(self.last, predicted.boxes, predicted.scores):
                if score > self.trust:
                    track.guess = box
        high = found.where(found.scores > self.detection)
        low = found.where((found.scores > self.low) & (found.scores < self.detection))
        for track in self.lost:
            self._move(track)
        new, again, seen = [], [], []

        def match(track: Track, boxes: Detections, i: int) -> None:
            refound = track.state != "tracked"
            track.motion = kalman.update(track.motion, kalman.measured_of(boxes.boxes[i]))
            track.box, track.score, track.frame = kalman.box_of(track.motion), float(boxes.scores[i]), self.frame
            track.state, track.confirmed = "tracked", True
            if not refound:
                track.vector = boxes.vectors[i]
            (again if refound else new).append(track)
            seen.append(track)

        unconfirmed = [t for t in self.tracked if not t.confirmed]
        pool = joined([t for t in self.tracked if t.confirmed], self.lost)
        pairs = assign_below(self._cost(pool, high, True), self.matches[0])
        for j, i in pairs:
            match(pool[j], high, i)
        left = [t for j, t in enumerate(pool) if j not in {j for j, _ in pairs} and t.state == "tracked"]
        rest = high.where(np.array([i not in {i for _, i in pairs} for i in range(len(high.scores))], bool))

        pairs = assign_below(self._cost(left, low, False), self.matches[1])
        for j, i in pairs:
            match(left[j], low, i)
        gone = [t for j, t in enumerate(left) if j not in {j for j, _ in pairs}]
        for track in gone:
            track.state = "lost"

        pairs = assign_below(self._cost(unconfirmed, rest, True, guessed=False), self.matches[2])
        for j, i in pairs:
            match(unconfirmed[j], rest, i)
        dead = [t for j, t in enumerate(unconfirmed) if j not in {j for j, _ in pairs}]
        for i in range(len(rest.scores)):
            if i not in {i for _, i in pairs} and rest.scores[i] >= self.detection + self.birth:
                new.append(self._born(rest, i))
                seen.append(new[-1])
        dead += [t for t in self.lost if self.frame - (0 if self.end_frame_bug else t.frame) > self.max_age]
        for track in dead:
            track.state = "removed"

        self.tracked = joined(joined([t for t in self.tracked if t.state == "tracked"], new), again)
        alive = {t.id for t in self.tracked}
        self.lost = [t for t in [*[t for t in self.lost if t.id not in alive], *gone] if t.id not in self.removed]
        self.removed |= {t.id for t in dead}
        self._drop_duplicates()
        self.last = seen
        return [Object(t.id, kalman.box_of(t.motion), t.score) for t in self.tracked if t.confirmed]

    def _born(self, found: Detections, i: int) -> Track:
        self.count += 1
        motion = kalman.born(kalman.measured_of(found.boxes[i]))
        return Track(
            self.count, kalman.box_of(motion), float(found.scores[i]), found.vectors[i],
            frame=self.frame, start=self.frame, confirmed=self.frame == 1, motion=motion,
        )  # fmt: skip

    def _move(self, track: Track) -> None:
        mean, covariance = track.motion
        if track.state != "tracked":
            mean = mean.copy()
            mean[7] = 0
        track.motion = kalman.predict((mean, covariance))
        track.box = kalman.box_of(track.motion)

    def _cost(self, tracks: list[Track], found: Detections, fused: bool, guessed: bool = True) -> np.ndarray:
        if not tracks or not len(found.scores):
            return np.zeros((len(tracks), len(found.scores)))
        boxes = [t.guess if guessed and t.guess is not None else kalman.box_of(t.motion) for t in tracks]
        overlap = overlaps(boxes, found.boxes, pixel=1.0)
        return 1 - overlap * found.scores if fused else 1 - overlap

    def _drop_duplicates(self) -> None:
        """Of a tracked and a lost track with an IoU above .85 the one that began later goes; at once: the tracked
        one."""
        if not self.tracked or not self.lost:
            return
        boxes = ([kalman.box_of(t.motion) for t in tracks] for tracks in (self.tracked, self.lost))
        twins = np.argwhere(1 - overlaps(*boxes, pixel=1.0) < 0.15)
        first = [(p, q, self.tracked[p].start < self.lost[q].start) for p, q in twins]
        drop = {p for p, _, older in first if not older}, {q for _, q, older in first if older}
        self.tracked = [t for i, t in enumerate(self.tracked) if i not in drop[0]]
        self.lost = [t for i, t in enumerate(self.lost) if i not in drop[1]]


def joined(a: list[Track], b: list[Track]) -> list[Track]:
    """`a`, then those of `b` whose identity is not there yet."""
    out = {t.id: t for t in a}
    for track in b:
        out.setdefault(track.id, track)
    return list(out.values())


def clipped(box: np.ndarray, height: float, width: float) -> np.ndarray:
    """Corners moved into the picture."""
    return np.clip(box, 0, [width, height, width, height])


TRACKERS = {"transformer": Transformer, "released": Released, "byte": Byte}
"""Trackers of many objects, by the name that a config gives."""


def tracker_of(name: str, **settings: Any) -> Released | Transformer | Byte:
    """A tracker at its first frame."""
    if name not in TRACKERS:
        raise InputError(f"config.eval.mot.tracker: {name!r} is none of {', '.join(TRACKERS)}")
    return TRACKERS[name](**settings)

"""A trained UTT on a video of one's own: one object from its first box, or all objects, frame by frame."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.session import Loaded
from jaxvl.data.frames import FrameSource
from jaxvl.data.readers.tracking.mot import MotRows, read_mot_results
from jaxvl.data.video import VideoFile, open_source, visit_frames
from jaxvl.methods.utt.association import TRACKERS, Track
from jaxvl.methods.utt.data import corners
from jaxvl.methods.utt.evaluators import FollowAll, FollowOne
from jaxvl.methods.utt.single import check_start

Visit = Callable[[int, np.ndarray], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Tracked:
    """The tracks of a video. R rows, by frame: frame int32 `[R]` from 0, as the video counts them; ids int32 `[R]` from
    1; boxes float32 `[R, 4]`, left, top, width, height; scores float32 `[R]`. times: `[T]` seconds of all its frames,
    shown: the frames that were looked at; duration in seconds (timed False: frame numbers stand for them). rate: frames
    a second that were followed, without the first, which compiles. left_out: given detections without extent, outside
    of the picture, of frames that the video does not have, or beyond `max_detections` of one frame."""

    frame: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    times: np.ndarray
    shown: np.ndarray
    duration: float
    timed: bool
    size: tuple[int, int]
    rate: float
    left_out: int = 0

    @property
    def identities(self) -> list[int]:
        """The identities, ascending."""
        return sorted(set(self.ids.tolist()))

    def of(self, identity: int) -> np.ndarray:
        """The rows of an identity."""
        return np.flatnonzero(self.ids == identity)

    def at(self, frame: int) -> np.ndarray:
        """The rows of a frame."""
        return np.arange(*np.searchsorted(self.frame, [frame, frame + 1]))

    def spans(self, identity: int) -> list[tuple[float, float]]:
        """When an identity was there: `(from, to)` in seconds, a pair for each run of looked-at frames."""
        place = {int(f): k for k, f in enumerate(self.shown)}
        runs: list[list[int]] = []
        for k in sorted(place[int(f)] for f in self.frame[self.of(identity)]):
            if runs and k == runs[-1][1] + 1:
                runs[-1][1] = k
            else:
                runs.append([k, k])
        return [(float(self.times[self.shown[a]]), self._end(b)) for a, b in runs]

    def _end(self, k: int) -> float:
        if k + 1 < len(self.shown):
            return float(self.times[self.shown[k + 1]])
        following = int(self.shown[k]) + 1
        return float(self.times[following]) if following < len(self.times) else float(self.duration)

    def mot_rows(self) -> MotRows:
        """As rows of a MOT text file."""
        n = len(self.frame)
        return MotRows(self.frame, self.ids, self.boxes, self.scores, np.ones(n, np.int32), np.ones(n, np.float32))


def frames_between(source: FrameSource, start_s: float | None, end_s: float | None) -> np.ndarray:
    """Numbers of the frames from a second to another. Raises InputError where there is none."""
    if (start_s is not None or end_s is not None) and not source.timed:
        raise InputError(f"{source.path}: --start and --end need the rate of these frames: give --fps")
    start = 0.0 if start_s is None else start_s
    end = np.inf if end_s is None else end_s
    chosen = np.flatnonzero((source.times >= start - 1e-6) & (source.times <= end + 1e-6))
    if not len(chosen):
        raise InputError(
            f"{source.path}: no frame lies between {start:g} and {end:g} s; it lasts {source.duration:.2f} s"
        )
    return chosen


def visit_source(source: FrameSource, frames: Sequence[int], visit: Visit) -> None:
    """Calls `visit(frame number, uint8 [H, W, 3])` for these frames, ascending; one is in memory at a time, each has
    its own size. Raises BadMedia."""
    if isinstance(source, VideoFile):
        stamps = source.index.pts[np.asarray(frames)]
        number = {int(stamp): int(i) for stamp, i in zip(stamps, frames)}
        visit_frames(source.media, stamps, source.index, lambda stamp, picture: visit(number[int(stamp)], picture))
        return
    for i in frames:
        visit(int(i), source.read([i], None)[0])


def ask(loaded: Loaded, stream: str, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One row through the model, copied to as many as the mesh needs."""
    rows = loaded.mesh.shape["data"] * loaded.mesh.shape["fsdp"]
    batch = {name: np.stack([value] * rows) for name, value in row.items()}
    return {name: np.asarray(value)[0] for name, value in loaded.predict(loaded.variables, {stream: batch}).items()}


def follow_video(
    loaded: Loaded,
    video: Any,
    box: Sequence[float] | None = None,
    detections: Any = None,
    *,
    fps: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    tracker: str = "",
    least_score: float | None = None,
    everything: bool = False,
) -> Tracked:
    """Follows the object that is at `box` (left, top, width, height) in the first frame; without one, all objects.

    everything: with a box, all other objects, too: the one at `box` is identity 1 and moves among them in whole frames,
    by the target transformer alone; a detector that finds it gives it a second identity. video: a path or a
    `FrameSource`. detections: of the user's own detector, a MOT text file or its `MotRows`, in place
    of the network's. fps: of a folder or array of frames. tracker: another one than `config.eval.mot.tracker`.
    least_score: of a detection, in place of the config's. Raises BadMedia and InputError.
    """
    mode = loaded.config.model.mode
    if everything and box is None:
        raise InputError(
            "--all: says that the object of --box is followed among all others; give --box, or leave it out"
        )
    one = box is not None and not everything
    if one and detections is not None:
        raise InputError("--detections: are for following everything; leave --box out, or add --all")
    if one and mode == "mot":
        raise InputError("--box: this model was trained on all objects alone (config.model.mode 'mot'); leave it out")
    if not one and mode == "sot":
        raise InputError("--box: this model follows one object (config.model.mode 'sot'); say where it is at first")
    if not one and detections is None and loaded.config.model.detector == "none":
        raise InputError("--detections: this model has no detector of its own; give a MOT text file of yours")
    source = open_source(video, fps)
    frames = frames_between(source, start_s, end_s)
    if one:
        run = _One(loaded, box)
    else:
        given, lost = given_of(detections, len(source.times))
        run = _All(loaded, given, tracker, least_score, box)
        run.left_out += lost
    visit_source(source, frames, run.look)
    if run.count != len(frames):
        raise BadMedia(source.path, f"gave {run.count} of {len(frames)} frames")
    rows = [np.concatenate(part) if part else np.zeros((0, 4) if k == 2 else 0) for k, part in enumerate(run.rows)]
    return Tracked(
        frame=rows[0].astype(np.int32),
        ids=rows[1].astype(np.int32),
        boxes=rows[2].astype(np.float32).reshape(-1, 4),
        scores=rows[3].astype(np.float32),
        times=np.asarray(source.times, np.float64),
        shown=frames,
        duration=float(source.duration),
        timed=source.timed,
        size=run.size,
        rate=run.rate,
        left_out=run.left_out,
    )


def given_of(detections: Any, count: int) -> tuple[MotRows | None, int]:
    """The rows of a user's detections, and how many cannot be used. Raises InputError, also where all are beyond the
    video."""
    if detections is None:
        return None, 0
    rows = detections if isinstance(detections, MotRows) else read_mot_results(detections)
    if len(rows) and (rows.frame >= count).all():
        first = int(rows.frame.min()) + 1
        raise InputError(f"--detections: the first is of frame {first}, the video has {count}; frames count from 1")
    good = (rows.boxes[:, 2:] > 0).all(1) & (rows.frame < count)
    return rows.take(good), int((~good).sum())


def meets(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """bool `[n]`: whether boxes (left, top, width, height) `[n, 4]` show in a picture of this size, if only in part."""
    left, top = boxes[:, 0], boxes[:, 1]
    return (left < width) & (top < height) & (left + boxes[:, 2] > 0) & (top + boxes[:, 3] > 0)


class _Run:
    """Rows so far, and the time they took. rows: frame, id, box, score, an array a frame each."""

    def __init__(self) -> None:
        self.rows: tuple[list[np.ndarray], ...] = ([], [], [], [])
        self.count, self.began, self.left_out = 0, 0.0, 0
        self.size = (0, 0)

    def look(self, number: int, picture: np.ndarray) -> None:
        """The next frame."""
        if not self.count:
            self.size = picture.shape[1], picture.shape[0]
        self.step(number, picture)
        self.count += 1
        if self.count == 1:
            self.began = time.perf_counter()

    def step(self, number: int, picture: np.ndarray) -> None:
        raise NotImplementedError

    def keep(self, number: int, ids: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
        for kept, value in zip(self.rows, (np.full(len(ids), number), ids, np.reshape(boxes, (-1, 4)), scores)):
            kept.append(np.asarray(value))

    @property
    def rate(self) -> float:
        """Frames a second, without the first; 0 where there is only one."""
        return (self.count - 1) / max(time.perf_counter() - self.began, 1e-9) if self.count > 1 else 0.0


class _One(_Run):
    def __init__(self, loaded: Loaded, box: Sequence[float]):
        super().__init__()
        self.loaded, self.box, self.state = loaded, box, None
        self.follower = FollowOne(loaded.config)

    def step(self, number: int, picture: np.ndarray) -> None:
        frame = {"image": picture, "box": np.zeros(4), "visible": True}
        first = self.state is None
        if first:
            frame["box"] = check_start(self.box, *picture.shape[:2], "--box")
            self.state = self.follower.begin("sot", frame)
        out = ask(self.loaded, "sot", self.follower.ask(self.state, frame))
        self.state = self.follower.answer(self.state, frame, out)
        score = 1.0 if first else float(out["score"])
        self.keep(number, np.array([1]), np.asarray(self.state.boxes[-1]), np.array([score]))
        for kept in (self.state.boxes, self.state.truth, self.state.visible):
            kept.clear()  # the rows are kept here; a long video shall not be kept twice


class _All(_Run):
    def __init__(
        self,
        loaded: Loaded,
        given: MotRows | None,
        tracker: str,
        least_score: float | None,
        box: Sequence[float] | None = None,
    ):
        super().__init__()
        config = copy.deepcopy(loaded.config)
        with config.unlocked():
            config.eval.mot.detections = "own" if given is None else "public"
            config.eval.mot.beside = ()
            if tracker:
                if tracker not in TRACKERS:
                    raise InputError(f"--tracker: {tracker!r} is none of {', '.join(TRACKERS)}")
                config.eval.mot.tracker = tracker
            if least_score is not None:
                config.eval.mot.detection = least_score
                config.eval.mot.birth = least_score
        self.loaded, self.given, self.box, self.state = loaded, given, box, None
        self.follower = FollowAll(config)

    def target(self, frame: Mapping[str, Any]) -> Track:
        """The object that was pointed out, described by the network in the first frame."""
        box = check_start(self.box, *frame["image"].shape[:2], "--box")
        config = copy.deepcopy(self.follower.config)
        with config.unlocked():
            config.eval.mot.detections = "public"
        looker = FollowAll(config)
        shown = {**frame, "given": corners(box)}
        described = ask(self.loaded, "mot", looker.ask(looker.begin("mot", shown), shown))["described"][0]
        return Track(0, corners(box)[0], 1.0, described)

    def step(self, number: int, picture: np.ndarray) -> None:
        frame: dict[str, Any] = {"image": picture}
        if self.given is not None:
            here = np.flatnonzero(self.given.frame == number)
            inside = meets(self.given.boxes[here], picture.shape[1], picture.shape[0])
            self.left_out += int((~inside).sum())
            here = here[inside]
            here = here[np.argsort(-self.given.score[here], kind="stable")]  # the best, where there are too many
            self.left_out += max(0, len(here) - self.loaded.config.eval.mot.max_detections)
            frame |= {"given": corners(self.given.boxes[here]), "given_scores": self.given.score[here]}
        if self.state is None:
            self.state = self.follower.begin("mot", frame)
            target = None if self.box is None else self.target(frame)
        else:
            target = self.state.target
        out = ask(self.loaded, "mot", self.follower.ask(self.state, frame))
        self.state = self.follower.answer(self.state, frame, out)
        found, scores = self.state.found[-1], self.state.scores[-1]
        ids, boxes = found.ids, found.boxes
        if target is not None:
            self.state.target = target  # from the second frame on it moves
            shape = np.concatenate([target.box[:2], target.box[2:] - target.box[:2]])
            ids, boxes, scores = np.append(1, ids + 1), np.vstack([shape, boxes]), np.append(1.0, scores)
        self.keep(number, ids, boxes, scores)
        for kept in (self.state.found, self.state.scores, self.state.truth):
            kept.clear()

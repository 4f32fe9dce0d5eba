"""UTT's two evaluations: one object followed from its first box, all objects found and linked. Both feed each frame's
result into the next (`jaxvl.core.method.Follower`).

A frame is `{image uint8 [H, W, 3], ...}` with, for one object, `box` (left, top, width, height; the truth, zeros where
unknown) and `visible`; for all objects `truth` (`metrics.multi_object.Truth`) and `given` boxes (corners) where the
detections are not the network's own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Follower
from jaxvl.data.crops import fitted_size, resize
from jaxvl.methods.utt import online
from jaxvl.methods.utt.association import (
    Byte,
    Detections,
    Object,
    Predicted,
    Released,
    Track,
    Transformer,
    clipped,
    tracker_of,
)
from jaxvl.methods.utt.single import Single
from jaxvl.metrics import multi_object, single_object
from jaxvl.metrics.multi_object import Frame, Truth
from jaxvl.metrics.single_object import Followed

BESIDE = ("mota", "idf1", "hota", "ids")
"""Scores of a tracker beside that are kept."""


@dataclasses.dataclass
class One:
    """Between two frames of one object: the tracker, all boxes so far, and how long each took; asked: when."""

    tracker: Single
    boxes: list[np.ndarray] = dataclasses.field(default_factory=list)
    truth: list[np.ndarray] = dataclasses.field(default_factory=list)
    visible: list[bool] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    asked: float = 0.0


@dataclasses.dataclass(frozen=True)
class FollowOne(Follower):
    """Follows the target of each sequence from its first true box."""

    config: ConfigDict
    streams: tuple[str, ...] = ("sot",)

    def fields(self, stream: str, shape: Any) -> Mapping[str, jax.ShapeDtypeStruct]:
        """As `online.sot_fields`; crops have one size, so frames may have any."""
        return online.sot_fields(self.config)

    def begin(self, stream: str, frame: Mapping[str, Any]) -> One:
        """At the true box of the first frame."""
        d, e = self.config.data, self.config.eval.sot
        return One(Single(frame["box"], d.crop_factor, d.crop_size, e.coords, e.guard))

    def ask(self, state: One, frame: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The crop around the last box."""
        state.asked = time.perf_counter()
        seen, at = state.tracker.look(frame["image"])
        vector = state.tracker.vector
        vector = np.zeros(self.config.model.dim, np.float32) if vector is None else vector
        return {"crop": seen.image, "pad": seen.pad, "box": at.astype(np.float32), "vector": vector}

    def answer(self, state: One, frame: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> One:
        """Moves the box; in the first frame the target's vector is kept instead."""
        if state.tracker.vector is None:
            state.tracker.vector = outputs["described"].astype(np.float32)
        else:
            state.tracker.take(outputs["box"], float(outputs["score"]), *frame["image"].shape[:2])
        state.boxes.append(np.array(state.tracker.box))
        state.truth.append(np.asarray(frame["box"], np.float64))
        state.visible.append(bool(frame.get("visible", True)))
        state.seconds.append(time.perf_counter() - state.asked)
        return state

    def end(self, state: One) -> Followed:
        """All boxes."""
        return Followed(np.stack(state.boxes), np.stack(state.truth), np.array(state.visible), np.array(state.seconds))

    def compute(self, acc: Mapping[tuple[str, str], Followed]) -> dict[str, float]:
        """Success and precision (LaSOT, TrackingNet), average overlap (GOT-10k), and the average overlap of boxes that
        stay where they were first."""
        found = {name: s for (_, name), s in acc.items()}
        if not found:
            raise InputError("no sequence could be followed, see the bad media above")
        still = {name: s._replace(predicted=single_object.controls([s.truth])[0]) for name, s in found.items()}
        return {
            **single_object.success(found, self.config.eval.sot.exclude_invalid),
            **single_object.average_overlap(found),
            "ao_first_box": single_object.average_overlap(still)["ao"],
            "sequences": len(found),
        }

    def artifacts(self, acc: Mapping[tuple[str, str], Followed]) -> dict[str, np.ndarray]:
        """Boxes of each sequence, `sot/NAME` `[T, 4]`: left, top, width, height. For GOT-10k, whose server asks for it,
        also `sot_seconds/NAME` `[T]`: from the crop of a frame to its box, which is the time of all sequences that are
        followed at once."""
        found = {f"sot/{name}": s.predicted for (_, name), s in acc.items()}
        if self.config.data.sot_test == "got10k":
            found |= {f"sot_seconds/{name}": s.seconds for (_, name), s in acc.items()}
        return found


@dataclasses.dataclass
class All:
    """Between two frames of all objects: the tracker, which of its tracks the network was asked about, what was found;
    beside: other trackers of the same detections, with what they found; target: one object that was pointed out, which
    the network moves among the others and no detection is linked to."""

    tracker: Released | Transformer | Byte
    size: tuple[int, int]  # of the pictures that the network sees
    asked: int = 0
    scale: np.ndarray | None = None
    found: list[Frame] = dataclasses.field(default_factory=list)
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)
    truth: list[Truth | None] = dataclasses.field(default_factory=list)
    beside: dict[str, tuple[Released | Byte, list[Frame]]] = dataclasses.field(default_factory=dict)
    target: Track | None = None


class Linked(NamedTuple):
    """What is kept of a sequence, frame by frame: objects, their scores, the truth, and what other trackers found."""

    found: list[Frame]
    scores: list[np.ndarray]
    truth: list[Truth | None]
    beside: dict[str, list[Frame]]


@dataclasses.dataclass(frozen=True)
class FollowAll(Follower):
    """Finds and links all objects of each sequence."""

    config: ConfigDict
    streams: tuple[str, ...] = ("mot",)

    def fields(self, stream: str, shape: tuple[int, int]) -> Mapping[str, jax.ShapeDtypeStruct]:
        """As `online.mot_fields`; shape: of the pictures that the network sees."""
        return online.mot_fields(self.config, shape)

    def begin(self, stream: str, frame: Mapping[str, Any]) -> All:
        """Nothing is known. Raises InputError for a tracker beside that asks the network itself."""
        m = self.config.eval.mot
        height, width = frame["image"].shape[:2]
        beside = {name: (self.tracker(name, height, width), []) for name in m.beside}
        for name in beside:
            if name == "transformer" or (name == "byte" and self.config.model.output_score):
                raise InputError(
                    f"config.eval.mot.beside: {name!r} asks the network where its own tracks are; name it in "
                    "config.eval.mot.tracker and evaluate again"
                )
        return All(self.tracker(m.tracker, height, width), seen_size(self.config, height, width), beside=beside)

    def tracker(self, name: str, height: int, width: int) -> Released | Transformer | Byte:
        """A tracker at its first frame, with the config's settings."""
        m = self.config.eval.mot
        settings: dict[str, Any] = {"detection": m.detection}
        if m.match and name == m.tracker:
            settings |= {"matches": (m.match, 0.5, 0.7)} if name == "byte" else {"match": m.match}
        if m.max_age and name == m.tracker:
            settings["max_age"] = m.max_age
        if name == "transformer":
            settings |= {"birth": m.birth, "size": (height, width)}
        if name == "byte":
            settings["end_frame_bug"] = m.byte_end_frame_bug
        return tracker_of(name, **settings)

    def ask(self, state: All, frame: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The picture, and the tracks that the tracker proposes."""
        m, (height, width) = self.config.eval.mot, state.size
        image, size = placed(frame["image"], height, width)
        old = frame["image"].shape
        state.scale = np.array([size[1] / old[1], size[0] / old[0]] * 2)
        tracks = state.tracker.proposals()[: m.max_tracks - (state.target is not None)]
        for other, _ in state.beside.values():
            other.proposals()
        state.asked = len(tracks)
        tracks = tracks if state.target is None else [*tracks, state.target]
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (m.max_tracks, 1))
        vectors = np.zeros((m.max_tracks, self.config.model.dim), np.float32)
        for i, track in enumerate(tracks):
            boxes[i], vectors[i] = track.box * state.scale, track.vector
        pad = np.ones((height, width), bool)
        pad[: size[0], : size[1]] = False
        row = {
            "image": image,
            "pad": pad,
            "size": np.array(size, np.float32),
            "boxes": boxes,
            "vectors": vectors,
            "valid": np.arange(m.max_tracks) < len(tracks),
        }
        if m.detections != "own":
            given = np.zeros((m.max_detections, 4), np.float32)
            count = min(len(frame["given"]), m.max_detections)
            given[:count] = frame["given"][:count] * state.scale
            row["given"] = given
        return row

    def answer(self, state: All, frame: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> All:
        """Links the detections."""
        old = frame["image"].shape
        boxes, scores = outputs["found"] / state.scale, outputs["scores"]
        if "given" in frame:
            scores = np.zeros(len(boxes))
            count = min(len(frame["given"]), len(boxes))
            scores[:count] = frame.get("given_scores", np.ones(len(frame["given"])))[:count]
        keep = scores > 0
        found = Detections(boxes[keep], scores[keep], outputs["described"][keep])
        moved = outputs["tracks"][: state.asked] / state.scale
        belief = outputs["track_scores"][: state.asked] if "track_scores" in outputs else None
        if isinstance(state.tracker, Transformer):
            state.tracker.size = old[:2]  # a frame may have another size than the one before
        if state.target is not None:
            state.target.box = clipped(outputs["tracks"][state.asked] / state.scale, *old[:2])
        objects = state.tracker.update(found, Predicted(moved, belief))
        state.found.append(frame_of(objects))
        for other, frames in state.beside.values():
            frames.append(frame_of(other.update(found)))
        state.scores.append(np.array([o.score for o in objects]))
        state.truth.append(frame.get("truth"))
        return state

    def end(self, state: All) -> Linked:
        """Objects, their scores, and the truth, frame by frame."""
        beside = {name: frames for name, (_, frames) in state.beside.items()}
        return Linked(state.found, state.scores, state.truth, beside)

    def compute(self, acc: Mapping[tuple[str, str], Linked]) -> dict[str, float]:
        """CLEAR MOT, IDF1, HOTA over the sequences that have a truth; of each tracker beside, `TRACKER_mota`, `_idf1`,
        `_hota`, `_ids`."""
        known = {name: s for (_, name), s in acc.items() if all(t is not None for t in s.truth)}
        if not known:
            raise InputError("no sequence with true boxes could be followed; look at the set's test part")
        use = self.config.eval.mot.preprocess
        scores = multi_object.evaluate({name: (s.truth, s.found) for name, s in known.items()}, use)
        for other in self.config.eval.mot.beside:
            of = multi_object.evaluate({name: (s.truth, s.beside[other]) for name, s in known.items()}, use)
            scores |= {f"{other}_{key}": of[key] for key in BESIDE}
        return {k: float(v) for k, v in scores.items()} | {"sequences": len(known)}

    def artifacts(self, acc: Mapping[tuple[str, str], Linked]) -> dict[str, np.ndarray]:
        """Rows (frame from 1, id, left, top, width, height, score) of each sequence, `mot/NAME`."""
        return {f"mot/{name}": rows_of(s.found, s.scores) for (_, name), s in acc.items()}


def frame_of(objects: Sequence[Object]) -> Frame:
    """Objects of a frame: left, top, width, height. Boxes may leave the frame, as true ones of MOTChallenge do."""
    corners = np.array([o.box for o in objects], np.float64).reshape(-1, 4)
    shape = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    return Frame(np.array([o.id for o in objects], int), shape)


def rows_of(found: list[Frame], scores: list[np.ndarray]) -> np.ndarray:
    """`[n, 7]` float64: frame from 1, id, left, top, width, height, score."""
    rows = [
        np.column_stack([np.full(len(f.ids), i), f.ids, f.boxes, s]) for i, (f, s) in enumerate(zip(found, scores), 1)
    ]
    return np.concatenate([np.zeros((0, 7)), *[r for r in rows if len(r)]])


def seen_size(config: ConfigDict, height: int, width: int) -> tuple[int, int]:
    """Size of the pictures that the network sees of frames of this size."""
    return fitted_size(height, width, config.eval.mot.short, config.eval.mot.longest)


def placed(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A frame resized into `[height, width]`, padded right or below where its shape is another one (a video whose frame
    size changes): `(picture, (height, width) of the frame in it)`."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = min(height, round(image.shape[0] * scale)), min(width, round(image.shape[1] * scale))
    if abs(image.shape[0] / image.shape[1] - height / width) < 2 / min(height, width):
        size = height, width  # the same shape but for rounding
    small = resize(image, *size)
    if size == (height, width):
        return small, size
    out = np.zeros((height, width, 3), np.uint8)
    out[: size[0], : size[1]] = small
    return out, size

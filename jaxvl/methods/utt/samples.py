"""Training samples of both tasks, drawn and cut on the host: crops of one object, pairs of frames of all objects
(sections 4.1 and 4.2 of the paper, with the figures of its code).

A sample is drawn anew each time: the set, the sequence, the frames and all augmentation come from the generator that
`make` is given. No jax here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.crops import crop, resize
from jaxvl.data.readers.tracking.tracks import Tracks, TrackSequence

LEAST_FRAMES = 20
"""Shorter sequences give no sample of one object."""
LEAST_TRACK = 10
"""A sequence with fewer frames gives no pair."""
DRAWS = 100
"""Draws before a sample is given up."""
STRIDE = 16
GREY = np.array([0.299, 0.587, 0.114], np.float32)
NOWHERE = (0.0, 0.0, 1.0, 1.0)
"""Box of a place without object."""


def usable_sequences(tracks: Tracks, frames: int) -> np.ndarray:
    """Numbers of the sequences that samples of T `frames` may come from: more than 2 T visible frames of at least
    `LEAST_FRAMES`; a single picture needs one visible box."""
    visible, length = tracks.visible_counts(), tracks.frame_counts()
    return np.flatnonzero(((visible > 2 * frames) & (length >= LEAST_FRAMES)) | ((length == 1) & (visible > 0)))


def usable_tracks(tracks: Tracks) -> np.ndarray:
    """`[n, 2]` (sequence, track id) of the tracks that pairs may come from: more than 2 visible frames in a sequence of
    at least `LEAST_TRACK`. Of a single picture any track does, so that it is drawn once: (sequence, -1)."""
    found = []
    visible, length = tracks.visible_counts(), tracks.frame_counts()
    for i in range(len(tracks)):
        if length[i] == 1 and visible[i]:
            found.append([(i, -1)])
        elif length[i] >= LEAST_TRACK:
            rows = tracks.rows(i)
            seen = tracks.columns["track_id"][rows][tracks.columns["visible"][rows]]
            found.append([(i, int(t)) for t, n in zip(*np.unique(seen, return_counts=True)) if n > 2])
    return np.array([pair for pairs in found for pair in pairs], np.int64).reshape(-1, 2)


def draw_frames(visible: np.ndarray, count: int, gap: int, rng: np.random.Generator) -> np.ndarray:
    """`[count]` frame numbers, ascending: a base frame, uniform among the visible ones, then as many as needed, with
    replacement, from the visible ones in [base - gap, base + gap). visible: their numbers, ascending."""
    base = visible[rng.integers(len(visible))]
    near = visible[np.searchsorted(visible, base - gap) : np.searchsorted(visible, base + gap)]
    return np.sort(near[rng.integers(len(near), size=count)])


def jittered(box: np.ndarray, scale: float, centre: float, rng: np.random.Generator) -> np.ndarray:
    """A box near (left, top, width, height): sides times `exp(scale N(0, 1))` each, the centre moved by `centre
    sqrt(w' h') U(-.5, .5)` along each axis."""
    size = box[2:] * np.exp(scale * rng.standard_normal(2))
    middle = box[:2] + box[2:] / 2 + np.sqrt(size.prod()) * centre * (rng.random(2) - 0.5)
    return np.concatenate([middle - size / 2, size])


def in_crop(box: np.ndarray, around: np.ndarray, seen: Any, size: int, coords: str) -> np.ndarray:
    """A box (left, top, width, height) of the picture as corners in the pixels of a crop.

    coords: 'exact' counts from the crop's whole-pixel corner; 'official' puts the centre of the box that it was cut
    around at (size - 1) / 2, as published.
    """
    if coords == "official":
        middle = (size - 1) / 2 + (box[:2] + box[2:] / 2 - around[:2] - around[2:] / 2) * seen.scale
        half = box[2:] * seen.scale / 2
        return np.concatenate([middle - half, middle + half])
    low = (box[:2] - (seen.left, seen.top)) * seen.scale
    return np.concatenate([low, low + box[2:] * seen.scale])


def all_padding(pad: np.ndarray) -> bool:
    """Whether no cell of the map at stride 16 shows the picture (the mask is read at the nearest pixel)."""
    cells = -(-len(pad) // STRIDE)
    at = np.arange(cells) * len(pad) // cells
    return bool(pad[np.ix_(at, at)].all())


def augmented(image: np.ndarray, grey: float, brightness: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 `[H, W, 3]`: grey with probability `grey`, then times U(1 - brightness, 1 + brightness), cut at white."""
    found = image.astype(np.float32)
    if rng.random() < grey:
        found = np.repeat(np.round(found @ GREY)[..., None], 3, -1)
    found *= rng.uniform(max(0.0, 1 - brightness), 1 + brightness)
    return np.clip(np.round(found), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class MakeOne:
    """`record -> one row of stream 'sot'`; the record number says nothing, everything is drawn.

    sets: of sequences, drawn from equally often; usable: of each, the sequences that may be drawn. start: also the box
    that each crop was cut around. Other fields as in `recipe`.
    """

    sets: Sequence[Tracks]
    usable: Sequence[np.ndarray]
    frames: int
    size: int
    factor: float
    gap: int
    centre_jitter: float
    scale_jitter: float
    grey: float
    brightness: float
    hflip: float
    coords: str
    start: bool

    def __call__(self, record: int, rng: np.random.Generator) -> dict[str, Any]:
        """Reads the frames and cuts them; raises BadMedia."""
        for _ in range(DRAWS):
            number = int(rng.integers(len(self.sets)))
            tracks, usable = self.sets[number], self.usable[number]
            row = self.drawn(tracks[int(usable[rng.integers(len(usable))])], rng)
            if row is not None:
                return row
        raise InputError(f"{DRAWS} crops in a row showed nothing of their picture; lower config.data.centre_jitter")

    def drawn(self, sequence: TrackSequence, rng: np.random.Generator) -> dict[str, Any] | None:
        """A sample of a sequence; None where a crop shows nothing of its picture."""
        visible = sequence.frame[sequence.visible]
        if len(sequence.frames) == 1:  # the rows of a picture are other objects: one of them is the target
            rows = np.full(self.frames, rng.choice(np.flatnonzero(sequence.visible)))
        else:
            rows = np.searchsorted(sequence.frame, draw_frames(visible, self.frames, self.gap, rng))
        images, pads, boxes, starts = [], [], [], []
        pictures: dict[int, np.ndarray] = {}
        for row in rows:
            frame, box = int(sequence.frame[row]), sequence.boxes[row].astype(np.float64)
            if frame not in pictures:
                pictures[frame] = sequence.frames.read(frame)
            around = jittered(box, self.scale_jitter, self.centre_jitter, rng)
            seen = crop(pictures[frame], around, self.factor, self.size)
            if all_padding(seen.pad):
                return None
            image, pad = augmented(seen.image, self.grey, self.brightness, rng), seen.pad
            corners = [in_crop(b, around, seen, self.size, self.coords) for b in (box, around)]
            if rng.random() < self.hflip:
                image, pad = image[:, ::-1], pad[:, ::-1]
                corners = [np.array([self.size - c[2], c[1], self.size - c[0], c[3]]) for c in corners]
            images.append(image)
            pads.append(pad)
            boxes.append(corners[0])
            starts.append(corners[1])
        found = {
            "images": np.stack(images),
            "pad": np.stack(pads),
            "boxes": np.array(boxes, np.float32),
            "ref": np.int32(rng.integers(self.frames)),
            "_sequence": f"{sequence.dataset}/{sequence.name}",
        }
        return found | ({"start": np.array(starts, np.float32)} if self.start else {})


@dataclasses.dataclass(frozen=True)
class View:
    """How the frames of a pair are brought to their size, one draw for both.

    first: (height, width) of a resize that is cropped, () for none; window: (top, left, height, width) in it; size:
    (height, width) at last; flip: mirrored.
    """

    first: tuple[int, ...]
    window: tuple[int, ...]
    size: tuple[int, int]
    flip: bool


def sized(height: int, width: int, short: int, longest: float = np.inf) -> tuple[int, int]:
    """Height and width whose short side is `short`, or less so that the long side is at most `longest`; sides are
    rounded half up, as `int(v + 0.5)`."""
    low, high = min(height, width), max(height, width)
    scale = min(short / low, longest / high)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclasses.dataclass(frozen=True, eq=False)
class MakePair:
    """`record -> one row of stream 'mot'`; the record number says nothing, everything is drawn.

    sets: of sequences, drawn from equally often; usable: of each, the tracks that may be drawn, `[n, 2]`. Other fields
    as in `recipe`.
    """

    sets: Sequence[Tracks]
    usable: Sequence[np.ndarray]
    gap: int
    size: tuple[int, int]
    short: tuple[int, ...]
    longest: int
    crop: tuple[int, ...]
    hflip: float
    min_area: float
    max_objects: int

    def __call__(self, record: int, rng: np.random.Generator) -> dict[str, Any]:
        """Reads both frames and brings them to their size; raises BadMedia."""
        for _ in range(DRAWS):
            number = int(rng.integers(len(self.sets)))
            tracks, usable = self.sets[number], self.usable[number]
            sequence, track = usable[rng.integers(len(usable))]
            row = self.drawn(tracks[int(sequence)], int(track), rng)
            if row is not None:
                return row
        raise InputError(f"{DRAWS} pairs in a row shared no object; lower config.data.min_area")

    def drawn(self, sequence: TrackSequence, track: int, rng: np.random.Generator) -> dict[str, Any] | None:
        """A pair that shows a track (-1: a picture twice); None where the crop left no object in both frames."""
        pair = (0, 0)
        if track >= 0:
            shown = np.sort(sequence.frame[sequence.visible & (sequence.track_id == track)])
            first = shown[rng.integers(len(shown))]
            near = shown[np.searchsorted(shown, first - self.gap) : np.searchsorted(shown, first + self.gap)]
            pair = int(first), int(near[rng.integers(len(near))])
        pictures = {frame: sequence.frames.read(frame) for frame in sorted(set(pair))}
        height, width = pictures[pair[0]].shape[:2]
        view = self.view(height, width, rng)
        row, ids = {}, []
        for name, frame in zip(("template", "search"), pair):
            rows = sequence.visible & (sequence.frame == frame)
            part = self.seen(pictures[frame], sequence.boxes[rows], sequence.track_id[rows], view, track)
            row |= {f"{name}_{key}": value for key, value in part.items()}
            ids.append(set(part["track_id"][part["valid"]].tolist()))
        row["_sequence"] = f"{sequence.dataset}/{sequence.name}"
        return row if ids[0] & ids[1] else None

    def view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """A draw for pictures of this size."""
        first, window = (), ()
        if self.crop and rng.random() < 0.5:
            first = sized(height, width, int(rng.choice(self.crop)))
            low, high = min(self.crop), max(self.crop)
            sides = [int(rng.integers(min(low, side), min(side, high) + 1)) for side in first]
            corner = [int(rng.integers(side - part + 1)) for side, part in zip(first, sides)]
            window = (*corner, *sides)
            height, width = sides
        size = sized(height, width, int(rng.choice(self.short)), self.longest)
        if size[0] > self.size[0] or size[1] > self.size[1]:  # of another shape than the batch's
            scale = min(self.size[0] / height, self.size[1] / width)
            size = max(1, int(height * scale)), max(1, int(width * scale))
        return View(tuple(first), window, size, bool(rng.random() < self.hflip))

    def seen(self, image: np.ndarray, boxes: np.ndarray, ids: np.ndarray, view: View, track: int) -> dict[str, Any]:
        """A frame and its objects (left, top, width, height) as `view` has it, padded."""
        height, width = image.shape[:2]
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float64)
        keep = np.ones(len(boxes), bool)
        if view.first:
            image = resize(image, *view.first, view.window)
            boxes *= np.array([view.first[1] / width, view.first[0] / height] * 2)
            boxes -= np.array([view.window[1], view.window[0]] * 2)
            height, width = view.window[2:]
            if self.min_area > 0:
                whole = areas(boxes)
                boxes = boxes.clip(0, np.array([width, height, width, height]))
                keep = areas(boxes) >= self.min_area * whole
        image = resize(image, *view.size)
        boxes *= np.array([view.size[1] / width, view.size[0] / height] * 2)
        height, width = view.size
        if view.flip:
            image, boxes = (
                image[:, ::-1],
                np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
            )
        inside = (boxes[:, 0] <= width) & (boxes[:, 1] <= height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        keep &= inside & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, ids = boxes[keep], ids[keep]
        if len(ids) > self.max_objects:  # the drawn track, then the largest
            order = np.argsort(-areas(boxes) - np.where(ids == track, np.inf, 0), kind="stable")
            order = np.sort(order[: self.max_objects])
            boxes, ids = boxes[order], ids[order]
        full, n = self.size, len(ids)
        placed, pad = np.zeros((*full, 3), np.uint8), np.ones(full, bool)
        placed[:height, :width], pad[:height, :width] = image, False
        slots = np.tile(np.array(NOWHERE, np.float32), (self.max_objects, 1))
        names = np.full(self.max_objects, -1, np.int32)
        slots[:n], names[:n] = boxes, ids
        return {
            "image": placed,
            "pad": pad,
            "boxes": slots,
            "valid": np.arange(self.max_objects) < n,
            "track_id": names,
            "size": np.array([height, width], np.float32),
        }


def areas(boxes: np.ndarray) -> np.ndarray:
    """`[n]` of corners `[n, 4]`; 0 for boxes without extent."""
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)


def sample_id(task: str) -> Callable[[int], str]:
    """What logs call a sample: its number; its sequence stands in `_sequence`."""
    return _SampleId(task)


@dataclasses.dataclass(frozen=True)
class _SampleId:
    task: str

    def __call__(self, record: int) -> str:
        return f"{self.task} sample {record}"

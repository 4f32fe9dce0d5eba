"""The sets that `config.data` names to UTT's streams: samples drawn for training, sequences followed for evaluation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Data, Examples, Sequences
from jaxvl.data.crops import fitted_size
from jaxvl.data.readers.common import first_few, write_ids
from jaxvl.data.readers.tracking.mot import CLASSES, PEDESTRIAN, read_mot, read_mot_results
from jaxvl.data.readers.tracking.pictures import read_coco, read_crowdhuman
from jaxvl.data.readers.tracking.single import (
    folders,
    picture_size,
    read_got10k,
    read_lasot,
    read_otb,
    read_trackingnet,
)
from jaxvl.data.readers.tracking.tracks import TrackReading, TrackSequence
from jaxvl.methods.utt.buckets import Bucket, buckets
from jaxvl.methods.utt.samples import MakeOne, MakePair, sample_id, usable_sequences, usable_tracks
from jaxvl.metrics.multi_object import Truth

SOT, MOT = "sot", "mot"
FOLDERS = {
    "coco": ("coco", "coco2017", "mscoco"),
    "lasot": ("lasot", "lasotbenchmark"),
    "trackingnet": ("trackingnet",),
    "got10k": ("got10k", "got10kdata", "fulldata"),
    "otb100": ("otb100", "otb", "otb2015"),
    "crowdhuman": ("crowdhuman",),
    "mot16": ("mot16",),
    "mot17": ("mot17",),
    "mot20": ("mot20",),
}
"""Set -> names of its folder, case and punctuation left out."""
GOT10K_LIST = "got10k_vot_train_split.txt"
"""Where it lies beside the folders of GOT-10k, training takes the 7,934 sequences that it names."""
IMAGE_SETS = ("coco", "crowdhuman")


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    if d.root or d.world:
        return []
    names = dict.fromkeys((*d.sot_train, *d.mot_train, *(n for n in (d.sot_test, d.mot_test) if n)))
    return [f"data.root: a folder with a folder for each of {', '.join(names)}, as published"]


def build_data(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> Data:
    """Reads the sets that `config.data` names, rendering the tracking world first where it asks for one."""
    d, mode = config.data, config.model.mode
    root = find_root(config, Path(workdir))
    if d.world:
        render_world(config, root, say)
    reports: list[str] = []
    train: dict[str, Examples] = {}
    for task, wanted in ((SOT, d.sot_train), (MOT, d.mot_train)):
        if mode not in ("mix", task):
            continue
        if not wanted:
            raise InputError(f"config.data.{task}_train: is empty, but config.model.mode {mode!r} trains on it")
        sets = {name: read_set(config, root, name, "train") for name in wanted}
        reports += [reading.report.line() for reading in sets.values()]
        if task == SOT:
            train[SOT] = Examples(range(d.samples), make_one(config, sets), sample_id(SOT), d.sot_batch_size)
        else:
            for stream, bucket in buckets(d).items():
                make = make_pair(config, sets, bucket)
                train[stream] = Examples(range(d.samples), make, sample_id(stream), d.mot_batch_size)
        names = [f"{k}/{n}" for k, r in sets.items() if k not in IMAGE_SETS for n in r.tracks.names]
        if line := write_ids(workdir, f"train_{task}", names):
            say(line)
    splits: dict[str, dict[str, Sequences]] = {"test": {}}
    if d.sot_test:
        splits["test"][SOT] = followed(config, read_set(config, root, d.sot_test, "test"), SOT, reports)
    if d.mot_test:
        splits["test"][MOT] = followed(config, read_set(config, root, d.mot_test, "test"), MOT, reports)
    if d.sot_test == "got10k" and os.path.isdir(os.path.join(set_folder(root, "got10k"), "val")):  # it has a truth
        splits["val"] = {**splits["test"], SOT: followed(config, read_set(config, root, "got10k", "val"), SOT, reports)}
    splits = {name: streams for name, streams in splits.items() if streams}
    for name, streams in splits.items():
        for stream, sequences in streams.items():
            if line := write_ids(workdir, f"{name}_{stream}", [sequences.id_of(s) for s in sequences.source]):
                say(line)
    return Data(train, splits, list(dict.fromkeys(reports)))


def find_root(config: ConfigDict, workdir: Path) -> Path:
    """The folder of the sets."""
    if config.data.root:
        return Path(config.data.root)
    if not config.data.world:
        raise InputError("config.data.root: is empty; name the folder of the data sets (a world is rendered there)")
    return workdir / "data"


def render_world(config: ConfigDict, root: Path, say: Callable[[str], None]) -> None:
    """Renders the tracking world into `root`, as LaSOT and as MOT17, unless it stands there already."""
    from jaxvl.data.synthetic.on_disk import told
    from jaxvl.data.synthetic.tracking.layouts import ensure_tracking_world
    from jaxvl.data.synthetic.tracking.world import TrackingWorldConfig

    try:
        world = TrackingWorldConfig(**config.data.world.to_dict())
    except TypeError as error:
        raise InputError(f"config.data.world: {error}") from None
    ensure_tracking_world(world, root, progress=told(say, "the tracking world", "sequences"))


def set_folder(root: Path, name: str) -> str:
    """The folder of a set below `root`, under any of its names. Raises InputError where there is none, or two."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder (config.data.root)")
    bare = lambda text: "".join(c for c in text.lower() if c.isalnum())  # noqa: E731
    found = [folder for folder in folders(top) if bare(folder) in FOLDERS[name]]
    if len(found) != 1:
        there = f"{' and '.join(found)} both are" if found else f"it has {first_few(folders(top)) or 'none'}"
        raise InputError(f"{top}: needs one folder called {name}, {there}; rename or link it")
    return os.path.join(top, found[0])


def read_set(config: ConfigDict, root: Path, name: str, part: str) -> TrackReading:
    """A set for training ('train') or evaluation ('test', for GOT-10k also 'val')."""
    folder = set_folder(root, name)
    if name == "coco":
        return read_coco(folder, f"{part}2017")
    if name == "crowdhuman":
        return read_crowdhuman(folder, part)
    if name == "lasot":
        return read_lasot(folder, part)
    if name == "trackingnet":
        return read_trackingnet(folder, part)
    if name == "otb100":
        return read_otb(folder, part)
    if name == "got10k":
        only = os.path.join(folder, GOT10K_LIST)
        return read_got10k(folder, part, only=only if part == "train" and os.path.isfile(only) else "")
    if config.data.mot_part == "half":
        part = {"train": "train_half", "test": "val_half"}[part]
    return read_mot(folder, part, dataset=name.upper(), min_visibility=config.data.min_visibility)


def make_one(config: ConfigDict, sets: dict[str, TrackReading]) -> MakeOne:
    """Samples of one object. Raises InputError where a set has no sequence that is long enough."""
    d = config.data
    tracks = [reading.tracks for reading in sets.values()]
    usable = [usable_sequences(t, d.frames) for t in tracks]
    for name, numbers in zip(sets, usable):
        if not len(numbers):
            raise InputError(
                f"{name}: no sequence has more than {2 * d.frames} visible frames; lower config.data.frames"
            )
    return MakeOne(
        sets=tracks, usable=usable, frames=d.frames, size=d.crop_size, factor=d.crop_factor, gap=d.max_gap,
        centre_jitter=d.centre_jitter, scale_jitter=d.scale_jitter, grey=d.grey, brightness=d.brightness,
        hflip=d.hflip, coords=config.eval.sot.coords, start=not config.model.proposal_decoder,
    )  # fmt: skip


def make_pair(config: ConfigDict, sets: dict[str, TrackReading], bucket: Bucket) -> MakePair:
    """Pairs of frames of one size. Raises InputError where a set has no track that is seen often enough."""
    d = config.data
    tracks = [reading.tracks for reading in sets.values()]
    usable = [usable_tracks(t) for t in tracks]
    for name, numbers in zip(sets, usable):
        if not len(numbers):
            raise InputError(f"{name}: no track is visible in more than 2 frames; is its gt.txt whole?")
    return MakePair(
        sets=tracks, usable=usable, gap=d.max_gap, size=bucket.size, short=bucket.short,
        longest=d.mot_longest, crop=tuple(d.mot_crop), hflip=d.mot_hflip, min_area=d.min_area,
        max_objects=d.max_objects,
    )  # fmt: skip


def followed(config: ConfigDict, reading: TrackReading, task: str, reports: list[str]) -> Sequences:
    """A stream of sequences for an evaluation."""
    reports.append(reading.report.line())
    tracks, d, m = reading.tracks, config.data, config.eval.mot
    if task == SOT:
        begin = [i for i in range(len(tracks)) if (tracks.columns["boxes"][tracks.rows(i).start, 2:] > 0).all()]
        if len(begin) < len(tracks):
            lost = [tracks.name(i) for i in range(len(tracks)) if i not in set(begin)]
            reports.append(f"{tracks.dataset}: {len(lost):,} sequences have no box in frame 1 ({first_few(lost)})")
            tracks = tracks.select(begin)
        return Sequences(tracks, frames_of_one, frame_count, any_shape, sequence_name, d.sot_eval_rows)
    shape = SeenShape(m.short, m.longest)
    return Sequences(tracks, FramesOfAll(m.detections), frame_count, shape, sequence_name, d.mot_eval_rows)


def frames_of_one(sequence: TrackSequence) -> Iterator[dict[str, Any]]:
    """Frames with the target: `image`, `box` (left, top, width, height; zeros where it is not known), `visible`, by the
    set's own flags."""
    for i in range(len(sequence.frames)):
        known = i < len(sequence.boxes)
        box = sequence.boxes[i].astype(np.float64) if known else np.zeros(4)
        yield {"image": sequence.frames.read(i), "box": box, "visible": bool(known and sequence.considered[i])}


@dataclasses.dataclass(frozen=True)
class FramesOfAll:
    """Frames with all objects: `image`; `truth`, where the set publishes it; and with `detections` 'public' (those of
    `det/det.txt`) or 'truth', `given`, corners `[n, 4]`, with `given_scores`."""

    detections: str

    def __call__(self, sequence: TrackSequence) -> Iterator[dict[str, Any]]:
        """One frame at a time."""
        public = public_detections(sequence) if self.detections == "public" else None
        if self.detections == "truth" and not len(sequence.boxes):
            raise InputError(f"{sequence.name}: has no true boxes; config.eval.mot.detections 'truth' needs them")
        for i in range(len(sequence.frames)):
            frame: dict[str, Any] = {"image": sequence.frames.read(i)}
            rows = sequence.frame == i
            ids, boxes, kinds = (x[rows] for x in (sequence.track_id, sequence.boxes, sequence.class_id))
            counted = sequence.considered[rows] & (kinds == PEDESTRIAN)
            if sequence.dataset == "MOT20":  # its evaluation takes other vehicles for distractors, too
                kinds = np.where(kinds == CLASSES.index("non_mot_vehicle"), CLASSES.index("distractor"), kinds)
            if len(sequence.boxes):
                frame["truth"] = Truth(ids, boxes.astype(np.float64), counted, kinds)
            if self.detections == "truth":
                given = boxes[counted]
                frame |= {"given": corners(given), "given_scores": np.ones(len(given))}
            if public is not None:
                here = public.frame == i
                frame |= {"given": corners(public.boxes[here]), "given_scores": public.score[here]}
            yield frame


def public_detections(sequence: TrackSequence) -> Any:
    """The rows of `det/det.txt`, frames counted as the sequence does."""
    path = os.path.join(os.path.dirname(sequence.frames.folder), "det", "det.txt")
    found = read_mot_results(path)
    return dataclasses.replace(found, frame=found.frame - (sequence.frames.first - 1))


def corners(boxes: np.ndarray) -> np.ndarray:
    """float64 `[n, 4]`: left, top, width, height -> left, top, right, bottom."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def frame_count(sequence: TrackSequence) -> int:
    """Frames of a sequence."""
    return len(sequence.frames)


def any_shape(sequence: TrackSequence) -> None:
    """Crops have one size, whatever the frames have."""


@dataclasses.dataclass(frozen=True)
class SeenShape:
    """`sequence -> (height, width)` of the pictures that the network sees."""

    short: int
    longest: int

    def __call__(self, sequence: TrackSequence) -> tuple[int, int]:
        """From `seqinfo.ini`, else from the first picture."""
        width, height = sequence.size
        if not (width and height):
            width, height = picture_size(sequence.frames)
        if not (width and height):
            raise InputError(f"{sequence.name}: its first picture cannot be read; fetch {sequence.frames.folder} again")
        return fitted_size(height, width, self.short, self.longest)


def sequence_name(sequence: TrackSequence) -> str:
    """What logs and results call a sequence."""
    return sequence.name

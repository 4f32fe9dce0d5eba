"""Skeleton sequences to AFE-CNN's batches: normalised, cut, resampled and, in training, turned; see `recipe` for the
fields of a batch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import class_names
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import printable, write_text
from jaxvl.core.method import Data, Examples
from jaxvl.core.writers import Progress
from jaxvl.data import skeletons
from jaxvl.data.bad_media import LEFT_OUT
from jaxvl.data.readers.common import Report
from jaxvl.data.readers.skeletons import clips as store
from jaxvl.data.readers.skeletons import ntu, plain, prepared, utkinect
from jaxvl.data.readers.skeletons.clips import ClipStore, SkeletonClip, SkeletonReading, clip_name
from jaxvl.data.readers.skeletons.protocols import NTU_PROTOCOLS, UTKINECT_PROTOCOLS
from jaxvl.data.skeletons import SKELETONS, Skeleton
from jaxvl.data.sources import Repeated
from jaxvl.data.synthetic import actions

STREAM = "clips"
BODIES = 2
FOLDS = "loso"
"""The protocol that has a fold for each recording."""


@dataclasses.dataclass(frozen=True)
class MakeClip:
    """`SkeletonClip -> one row of stream 'clips'`.

    view, size: of `normalise`. frames: T. share, least: of the random window; centre: share of the window in the
    middle, 0: a random one. rotation: largest angle about each axis, radians. classes: names of the labels. bodies: M
    of the row, 1 or 2.
    """

    skeleton: Skeleton
    frames: int
    view: bool = True
    size: bool = True
    share: tuple[float, float] = (0.5, 1.0)
    least: int = 64
    centre: float = 0.0
    rotation: float = 0.0
    classes: tuple[str, ...] = ()
    bodies: int = BODIES

    def __call__(self, clip: SkeletonClip, rng: np.random.Generator) -> dict[str, Any]:
        """Draws the window, then the rotation. Raises BadMedia for more bodies than the row has."""
        if len(clip.bodies) > self.bodies:
            raise BadMedia(clip.name, f"shows {len(clip.bodies)} bodies, but config.data.bodies is {self.bodies}")
        x = skeletons.normalise(whole(clip.bodies, self.bodies), self.skeleton, self.view, self.size)
        x = x[:, : skeletons.valid_length(x)]
        if not x.shape[1]:
            raise BadMedia(clip.name, "no frame has a body with an extent: all of its joints lie in one place")
        if self.centre:
            window = skeletons.centre_window(x.shape[1], self.centre)
        else:
            window = skeletons.random_window(x.shape[1], rng, self.share, self.least)
        cut = skeletons.resample(x[:, window], self.frames)
        if not cut.any():  # a hole: nobody is seen in it, and somebody has to be
            cut = skeletons.resample(x[:, skeletons.present_frames(x).any(axis=0)], self.frames)
        x = cut
        if self.rotation:
            x = skeletons.rotate(x, skeletons.random_rotation(rng, self.rotation))
        label = np.int32(clip.label)
        return {"x": x, "present": x.any(axis=(1, 2, 3)), "label": label, "_label": int(label)}


def whole(bodies: np.ndarray, count: int = BODIES) -> np.ndarray:
    """`[count, F, J, 3]` of one or more bodies `[M, F, J, 3]`, zeros for those that are not there."""
    if len(bodies) == count:
        return bodies
    return np.concatenate([bodies, np.zeros((count - len(bodies), *bodies.shape[1:]), bodies.dtype)])


def training_maker(config: ConfigDict, classes: tuple[str, ...] = ()) -> MakeClip:
    """Random windows, turned."""
    d = config.data
    cut = {"share": tuple(d.train_crop), "least": d.least_frames, "classes": classes, "bodies": d.bodies}
    return MakeClip(SKELETONS[config.model.skeleton], d.frames, d.view, d.size, **cut, rotation=d.rotation)


def evaluation_maker(config: ConfigDict) -> MakeClip:
    """The centre of each sequence; random windows where `config.data.test_crops` is above 1."""
    d = config.data
    cut = {"centre": d.test_crop} if d.test_crops == 1 else {"share": tuple(d.train_crop), "least": d.least_frames}
    return MakeClip(SKELETONS[config.model.skeleton], d.frames, d.view, d.size, **cut, bodies=d.bodies)


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    return [] if d.root or d.world else [f"data.root: {LAYOUTS[d.reader]}"]


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads the data set that `config.data` names, parsing it first where its cache does not hold it."""
    d, workdir = config.data, Path(workdir)
    readings = read_all(config, workdir, say)
    for reading in readings.values():
        if reading.skeleton.name != config.model.skeleton:
            raise InputError(f"config.model.skeleton: {config.model.skeleton!r}, but this is {reading.skeleton.name!r}")
        if len(reading.classes) != config.model.classes:
            raise InputError(
                f"config.model.classes: {config.model.classes}, but the data has {len(reading.classes)}; set it to that"
            )
    class_names.write(workdir, readings["train"].classes)
    train = readings["train"].clips
    if len(train) * d.repeats < d.batch_size:
        raise InputError(f"config.data.batch_size: {d.batch_size} is more than the {len(train)} training sequences")
    source = train if d.repeats == 1 else Repeated(train, d.repeats)
    look = evaluation_maker(config)
    splits = {
        split: {
            STREAM: Examples(
                reading.clips if d.test_crops == 1 else Repeated(reading.clips, d.test_crops),
                look,
                clip_name,
                d.eval_batch_size,
            )
        }
        for split, reading in readings.items()
        if split != "train"
    }
    reports = [reading.report.line() for reading in readings.values()]
    if left_out(workdir, readings):
        reports.append(f"all that was left out, each with its reason: {LEFT_OUT}")
    make = training_maker(config, tuple(readings["train"].classes))
    return Data({STREAM: Examples(source, make, clip_name, d.batch_size)}, splits, reports)


def left_out(workdir: Path, readings: Mapping[str, SkeletonReading]) -> int:
    """Writes `WORKDIR/left_out.txt`, a line `split, name, reason` for each sequence that was left out; how many."""
    rows = []
    for split, reading in readings.items():
        rows += [(split, name, reason) for name, reason in reading.report.skipped]
        rows += [(split, name, "is not there") for name in reading.report.missing]
    if rows or (workdir / LEFT_OUT).is_file():
        write_text(workdir / LEFT_OUT, "".join("\t".join(map(printable, row)) + "\n" for row in rows))
    return len(rows)


def read_all(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> dict[str, SkeletonReading]:
    """Every split by the reader that `config.data.reader` names. InputError for an unknown one."""
    d = config.data
    if d.reader not in READERS:
        raise InputError(f"config.data.reader: {d.reader!r} is none of {', '.join(READERS)}")
    if not d.root and not d.world:
        raise InputError(f"config.data.root: is empty; name {LAYOUTS[d.reader]}")
    if d.world:
        config = write_world(config, workdir, say)
    return READERS[d.reader](config, workdir, say)


def write_world(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> ConfigDict:
    """Writes the world of `config.data.world` into the root (by default `WORKDIR/data`) unless it stands there; the
    config with that root. InputError where another reader is to read it than that of plain files."""
    d = config.data
    if d.reader == "records":  # records of a world hold its sequences
        return config
    if d.reader != "files":
        raise InputError(f"config.data.reader: {d.reader!r}, but the world is written as plain files; set 'files'")
    config = ConfigDict(config.copy_and_resolve_references())
    config.data.root = d.root or str(workdir / "data")
    actions.ensure_world(actions.ActionWorld(**d.world.to_dict()), Path(config.data.root), say)
    return config


class _Bar:
    """The progress of reading, shown from the first file on."""

    def __init__(self, unit: str):
        self.unit, self.bar = unit, None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = Progress(total, what="read", unit=self.unit, every=10.0)
        self.bar.show(done, "")
        if done == total:
            self.bar.close()
            self.bar = None


def _cache(config: ConfigDict, workdir: Path) -> Path:
    return Path(config.data.cache) if config.data.cache else workdir / "cache" / "skeletons"


def _ntu(config: ConfigDict, workdir: Path, say) -> dict[str, SkeletonReading]:
    d = config.data
    lists = [Path(d.root) / path for path in d.missing]
    return ntu.read_ntu(
        d.root,
        d.protocol,
        config.model.classes,
        _cache(config, workdir),
        track_gaps=d.track_gaps,
        missing=lists,
        processes=d.processes,
        progress=_Bar("file"),
    )


def _prepared(read: Callable, config: ConfigDict, workdir: Path, say) -> dict[str, SkeletonReading]:
    d = config.data
    return read(d.root, d.protocol, config.model.classes, _cache(config, workdir), _Bar("sequence"))


def _utkinect(config: ConfigDict, workdir: Path, say) -> dict[str, SkeletonReading]:
    return utkinect.read_utkinect(config.data.root, config.data.protocol, config.data.fold)


def _files(config: ConfigDict, workdir: Path, say) -> dict[str, SkeletonReading]:
    return plain.read_files(config.data.root, SKELETONS[config.model.skeleton], config.data.track_gaps)


def _records(config: ConfigDict, workdir: Path, say) -> dict[str, SkeletonReading]:
    root = Path(config.data.root)
    found = {split: ClipStore(root / split) for split in ("train", "val", "test") if (root / split).is_dir()}
    if not {"train", "test"} <= set(found):
        raise InputError(f"{root}: holds no train/ and test/, which `jaxvl prepare --out` writes")
    readings = {}
    for split, clips in found.items():
        report = Report(clips.about.get("dataset", "records"), split, len(clips), unit="", media="sequences")
        readings[split] = SkeletonReading(clips, clips.skeleton, clips.classes, report)
    return readings


READERS: dict[str, Callable[[ConfigDict, Path, Callable[[str], None]], dict[str, SkeletonReading]]] = {
    "ntu": _ntu,
    "npz": functools.partial(_prepared, prepared.read_arrays),
    "pkl": functools.partial(_prepared, prepared.read_pickle),
    "utkinect": _utkinect,
    "files": _files,
    "records": _records,
}
LAYOUTS: Mapping[str, str] = {
    "ntu": "the folder of the .skeleton files of NTU RGB+D",
    "npz": "the folder of NTU60_CS.npz and its like, or that file",
    "pkl": "the folder of ntu60_3danno.pkl, or that file",
    "utkinect": "the folder of UTKinect-Action3D, with actionLabel.txt and joints/",
    "files": "a folder of sequences, train/CLASS/NAME.csv and test/CLASS/NAME.csv",
    "records": "the folder that `jaxvl prepare --out` wrote",
}
"""Reader -> what its root is."""
PROTOCOLS = (*NTU_PROTOCOLS, *UTKINECT_PROTOCOLS, "")


def folds(config: ConfigDict) -> list[dict[str, Any]]:
    """The fields that `config` takes in each fold of its protocol; none where it has no folds. Raises InputError."""
    d = config.data
    if d.reader != "utkinect" or d.protocol != FOLDS:
        return []
    if not d.root:
        raise InputError(f"config.data.root: is empty; name {LAYOUTS[d.reader]}")
    clips, _, _ = utkinect.read_all(d.root)
    recordings = {(clip.subject, clip.take) for clip in clips}
    return [{"data.fold": fold} for fold in range(len(recordings))]


def write_records(config: ConfigDict, data: Data, out: Path, splits: Sequence[str], say) -> None:
    """Writes `OUT/SPLIT` for each of `splits` (all, if empty) as shards that the reader 'records' takes. Raises
    InputError."""
    if config.data.reader == "records":
        raise InputError("config.data.reader: 'records' are what prepare writes; name the reader of the original data")
    sources = {"train": data.train[STREAM].source, **{s: streams[STREAM].source for s, streams in data.splits.items()}}
    sources = {s: x.source if isinstance(x, Repeated) else x for s, x in sources.items()}
    wanted = list(splits) or list(sources)
    for split in wanted:
        if (out / split).exists():
            raise InputError(f"--out {out / split}: is there already; choose another folder or remove it")
    classes = data.train[STREAM].make.classes
    for split in wanted:
        skeleton = SKELETONS[config.model.skeleton]
        about = {"dataset": f"{config.data.reader} {config.data.protocol}".strip(), "root": str(config.data.root)}
        written = store.write_clips(out / split, iter(sources[split]), skeleton, classes, about)
        say(f"{split}: {len(written):,} sequences in {out / split}")
    say(f"train from it with --config.data.reader=records --config.data.root={out}")

"""Image data sets to SlimCLR's batches: two augmented views in training, one central crop in evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.core.method import Data, Examples
from jaxvl.data import transforms
from jaxvl.data.readers.classification import digits
from jaxvl.data.readers.classification.cifar import read_cifar
from jaxvl.data.readers.classification.idx import DIGITS, FASHION, read_idx_images
from jaxvl.data.readers.classification.image_folder import ImageReading, read_image_folder
from jaxvl.data.readers.classification.image_records import (
    ImageRecords,
    Picture,
    label_of,
    load_picture,
    picture_id,
    write_pictures,
)
from jaxvl.data.readers.classification.imagenet import read_imagenet
from jaxvl.data.readers.classification.tfds_images import read_tfds_images
from jaxvl.data.records import INDEX_FILE
from jaxvl.methods.slimclr.augment import View, views_of
from jaxvl.methods.slimclr.frameworks import WITH_LABELS

SPLITS = ("train", "val", "test")
DIGIT_SPLIT = {"mnist5k": 1000, "optdigits": 397}
"""Test pictures of the sets that have no split of their own, drawn by `RandomState(0).permutation`."""


@dataclasses.dataclass(frozen=True, eq=False)
class PictureSet:
    """A split: pictures by index (those of `source` at `indices`, all where that is None), the names of its labels, and
    the report's line. Picklable, and nothing is copied."""

    source: Sequence[Picture]
    classes: tuple[str, ...]
    line: str
    indices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source if self.indices is None else self.indices)

    def __getitem__(self, index: int) -> Picture:
        return self.source[int(index if self.indices is None else self.indices[index])]

    def take(self, indices: Sequence[int]) -> PictureSet:
        """The pictures at `indices`, in their order."""
        at = np.sort(np.asarray(indices, np.int64))
        return dataclasses.replace(self, indices=at if self.indices is None else self.indices[at])


@dataclasses.dataclass(frozen=True)
class MakeViews:
    """`picture -> {view_a, view_b: uint8 [R, R, 3]}`; each view draws from a generator of its own."""

    views: tuple[View, View]
    size: int

    def __call__(self, picture: Picture, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes once, augments twice; raises BadMedia."""
        image = load_picture(picture)
        a, b = (view(image, self.size, own) for view, own in zip(self.views, rng.spawn(2), strict=True))
        return {"view_a": a, "view_b": b}


@dataclasses.dataclass(frozen=True)
class MakeLabelled:
    """`picture -> {image uint8 [R, R, 3], label int32 []}`, augmented by `view`, or cropped in the middle."""

    view: View | None
    size: int
    resize: int

    def __call__(self, picture: Picture, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes; raises BadMedia."""
        image = load_picture(picture)
        if self.view is not None:
            return {"image": self.view(image, self.size, rng), "label": np.int32(label_of(picture))}
        pixels = central(image, self.size, self.resize)
        return {"image": pixels, "_label": label_of(picture), "_image_id": picture_id(picture)}


def central(image, size: int, resize: int) -> np.ndarray:
    """The published `val` transform: short side to `resize` (bilinear, antialiased), central crop `[size, size, 3]`."""
    return np.asarray(transforms.center_crop(transforms.resize_short_side(image, resize), size))


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    if d.reader in digits.READERS:
        return [f"data.reader: {line}" for line in digits.missing(d.reader)]
    return [] if d.root or d.world else [f"data.root: the folder of your data in the layout of {d.reader!r}"]


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads the data set that `config.data` names (rendering the pattern world first where it asks for one)."""
    d = config.data
    sets = read_sets(config, Path(workdir), say)
    train = sets["train"]
    if d.holdout:
        if "val" in sets:
            raise InputError("config.data.holdout: this data set has a split 'val' of its own; set it to 0")
        if not 0 < d.holdout < len(train):
            raise InputError(f"config.data.holdout: {d.holdout} of {len(train)} training pictures")
        order = np.random.RandomState(0).permutation(len(train))
        sets["val"] = train.take(order[: d.holdout])
        train = train.take(order[d.holdout :])
    if len(train) < d.batch_size:
        raise InputError(f"config.data.batch_size: {d.batch_size} is more than the {len(train)} pictures")
    if len(train.classes) > d.classes:
        raise InputError(f"config.data.classes: {d.classes}, but the data has {len(train.classes)}")
    labelled = config.model.framework in WITH_LABELS
    if labelled and config.model.dim != d.classes:
        raise InputError(f"config.model.dim: {config.model.dim} outputs for {d.classes} classes")
    views = views_of(d.augment, d.view.to_dict())
    make = MakeLabelled(views[0], d.image_size, d.eval_resize) if labelled else MakeViews(views, d.image_size)
    look = MakeLabelled(None, d.image_size, d.eval_resize)
    bank = train
    if d.bank and d.bank < len(train):
        bank = train.take(np.random.RandomState(1).permutation(len(train))[: d.bank])
    streams = {} if labelled else {"bank": Examples(bank, look, picture_id, d.eval_batch_size)}
    splits = {
        split: {**streams, "query": Examples(sets[split], look, picture_id, d.eval_batch_size)}
        for split in ("val", "test")
        if split in sets
    }
    reports = [s.line for s in sets.values()]
    if config.model.framework == "mocov2" and config.model.bn_groups == 1:
        reports.append(
            "note: config.model.bn_groups is 1, so keys are not shuffled, and a query shares batch statistics with its "
            "key that the queue's keys lack; large batches want batch / 256 groups"
        )
    return Data({"train": Examples(train, make, picture_id, d.batch_size)}, splits, list(dict.fromkeys(reports)))


def of_reading(reading: Any) -> PictureSet:
    """A split from what any image reader gives."""
    source = reading.images if isinstance(reading, ImageReading) else reading
    return PictureSet(source, tuple(reading.classes), reading.line())


def read_sets(config: ConfigDict, workdir: Path, say) -> dict[str, PictureSet]:
    """Every split there is by the reader that `config.data.reader` names. InputError for an unknown one."""
    d = config.data
    if d.reader not in READERS:
        raise InputError(f"config.data.reader: {d.reader!r} is none of {', '.join(READERS)}")
    if d.reader in digits.READERS:
        return _read_digits(d.reader)
    root = Path(d.root) if d.root else workdir / "data"
    if d.world and d.reader != "records":  # records of a world hold its pictures
        _render(d, root, say)
    elif not d.root:
        raise InputError("config.data.root: is empty; name the folder of the data set")
    return {split: of_reading(reading) for split, reading in READERS[d.reader](config, root).items()}


def _render(d: ConfigDict, root: Path, say) -> None:
    from jaxvl.data.synthetic.patterns import PatternWorld, ensure_world

    if d.reader != "folder":
        raise InputError("config.data.reader: the pattern world is rendered as class folders; set 'folder'")
    try:
        world = PatternWorld(**d.world.to_dict())
    except TypeError as error:
        raise InputError(f"config.data.world: {error}") from None
    ensure_world(world, root, say)


def _read_digits(name: str) -> dict[str, PictureSet]:
    whole = digits.READERS[name]()
    order = np.random.RandomState(0).permutation(len(whole))
    count = DIGIT_SPLIT[name]
    if name == "optdigits":  # ink from 0 to 16
        whole = dataclasses.replace(whole, images=(whole.images.astype(np.uint16) * 255 // 16).astype(np.uint8))
    parts = {"train": np.sort(order[count:]), "test": np.sort(order[:count])}
    return {split: of_reading(whole.take(at, f"{name} {split}")) for split, at in parts.items()}


def _folders(config: ConfigDict, root: Path) -> dict[str, ImageReading]:
    train = read_image_folder(root / "train", name=f"{root.name} train")
    there = [s for s in ("val", "test") if (root / s).is_dir()]
    if not there:
        raise InputError(f"{root}: holds neither val/ nor test/ beside train/; the layout is ROOT/SPLIT/<class>/<file>")
    return {
        "train": train,
        **{s: read_image_folder(root / s, name=f"{root.name} {s}", classes=train.classes) for s in there},
    }


def _records(config: ConfigDict, root: Path) -> dict[str, ImageRecords]:
    there = [s for s in SPLITS if s == "train" or (root / s / INDEX_FILE).is_file()]
    return {s: ImageRecords(root, s, config.data.eval_resize) for s in there}


def _both(read: Callable) -> Callable:
    return lambda config, root: {s: read(root, s) for s in ("train", "test")}


READERS: dict[str, Callable[[ConfigDict, Path], dict[str, Any]]] = {
    "imagenet": lambda config, root: {s: read_imagenet(root, s) for s in ("train", "val")},
    "folder": _folders,
    "tfds": lambda config, root: {
        "train": read_tfds_images(root, "train"), "val": read_tfds_images(root, "validation"),
    },
    "records": _records,
    "mnist": _both(lambda root, s: read_idx_images(root, s, classes=DIGITS, name="mnist")),
    "fashion_mnist": _both(lambda root, s: read_idx_images(root, s, classes=FASHION, name="fashion-mnist")),
    "cifar10": _both(lambda root, s: read_cifar(root, s, classes=10)),
    "cifar100": _both(lambda root, s: read_cifar(root, s, classes=100)),
    **{name: lambda config, root: {} for name in digits.READERS},
}  # fmt: skip


def write_records(config: ConfigDict, data: Data, out: Path, splits: Sequence[str], say) -> None:
    """Writes `OUT/SPLIT` for each of `splits` (all, if empty) as ArrayRecord shards of JPEG. Raises InputError."""
    r, d = config.data.records, config.data
    if d.reader == "records":
        raise InputError("config.data.reader: 'records' are what prepare writes; name the reader of the original data")
    sets = {"train": data.train["train"].source, **{s: streams["query"].source for s, streams in data.splits.items()}}
    wanted = list(splits) or list(sets)
    for split in wanted:
        if (out / split / INDEX_FILE).exists():
            raise InputError(f"--out {out / split}: holds a data set already; choose another folder or remove it")
    for split in wanted:
        written = write_pictures(
            out / split,
            sets[split],
            split,
            sets[split].classes,
            short_side=r.short_side,
            quality=r.quality,
            num_shards=r.shards,
            num_threads=max(1, config.pipeline.threads),
            on_error=config.pipeline.on_error,
            provenance={"dataset": d.reader, "root": str(d.root)},
        )
        written.report(split, "pictures", out / split, config.pipeline.max_bad_fraction, say)
    say(f"train from it with --config.data.reader=records --config.data.root={out}")

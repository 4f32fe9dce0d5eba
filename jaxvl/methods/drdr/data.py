"""Domains to DRDR's batches: labelled source images, unlabelled target images, one test stream a domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jaxvl.core import class_names
from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.core.method import Data, Examples
from jaxvl.data import images, transforms
from jaxvl.data.readers.adaptation import emoji
from jaxvl.data.readers.adaptation.domain_sets import SETS, read_domain
from jaxvl.data.readers.adaptation.emoji import read_emoji
from jaxvl.data.readers.classification import digits
from jaxvl.data.readers.classification.image_arrays import ArrayPicture
from jaxvl.data.readers.classification.image_folder import (
    ImageReading,
    LabelledImage,
    read_unlabelled,
    require_same_classes,
)
from jaxvl.data.readers.classification.image_records import load_picture
from jaxvl.data.readers.classification.tfds_images import TfdsImage, find_tfds, read_tfds_images
from jaxvl.methods.drdr import task as tasks
from jaxvl.methods.drdr.task import Task

DIGIT_BORDER = {"mnist5k": 4, "optdigits": 0}
"""Pixels cut off each side, so that the digits of both sets fill their pictures (specification 9b)."""
READERS = (*SETS, "digits", "emoji", "emoji_packages", "tfds", "features")


Record = LabelledImage | ArrayPicture | TfdsImage


def opened(record: Record, channels: int) -> tuple[Image.Image, int]:
    """The decoded picture in RGB, or grey for one channel, and its label. Raises BadMedia."""
    picture = record.load() if isinstance(record, TfdsImage) else record
    image = load_picture(picture)
    return (image if channels == 3 else image.convert("L")), picture.label


@dataclasses.dataclass(frozen=True)
class MakeImage:
    """`record -> {images uint8 [R, R, C]}`, with `label` int32 if asked for, and `_label`.

    augment: random crop and flips as the fields say (section 2.3), in the order crop, flips, affine jitter; else resize
    to `test_resize` squared without keeping the aspect and crop the centre (0: resize to R directly).
    """

    size: int
    channels: int
    augment: bool = False
    labelled: bool = False
    crop_scale: tuple[float, float] = (0.8, 1.25)
    hflip: bool = True
    vflip: bool = False
    affine_jitter: float = 0.0
    test_resize: int = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """Decodes one picture; raises BadMedia."""
        image, label = opened(record, self.channels)
        out: dict[str, Any] = {"images": self.pixels(image, rng), "_label": label}
        return out | {"label": np.int32(label)} if self.labelled else out

    def pixels(self, image: Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """A decoded picture, RGB or grey, as the network sees it: uint8 `[R, R, C]`. rng: needed to augment."""
        image = image.convert("L") if self.channels == 1 else images.to_rgb(image)
        if self.augment:
            image = transforms.random_resized_crop(image, self.size, rng, self.crop_scale)
            image = transforms.random_flip(image, rng) if self.hflip else image
            image = transforms.random_flip(image, rng, vertical=True) if self.vflip else image
            image = transforms.affine_jitter(image, rng, self.affine_jitter)
        elif self.test_resize:
            image = transforms.resize(image, self.test_resize, self.test_resize)
            image = transforms.center_crop(image, self.size)
        else:
            image = transforms.resize(image, self.size, self.size)
        return np.asarray(image, np.uint8).reshape(self.size, self.size, self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A feature vector `[F]` float32 in the place of a picture, for `config.model.trunk` 'none'."""

    values: np.ndarray
    label: int
    image_id: str


@dataclasses.dataclass(frozen=True)
class MakeVector:
    """`Vector -> {images float32 [F]}`, with `label` if asked for, and `_label`."""

    labelled: bool = False

    def __call__(self, record: Vector, rng: np.random.Generator) -> dict[str, Any]:
        """As it is; nothing is augmented."""
        del rng
        out: dict[str, Any] = {"images": record.values, "_label": record.label}
        return out | {"label": np.int32(record.label)} if self.labelled else out


def image_id(record: Record) -> str:
    """What logs call an image."""
    return record.image_id


def training_maker(config: ConfigDict) -> MakeImage | MakeVector:
    """How a picture is prepared for training, without its label."""
    if config.model.trunk == "none":
        return MakeVector()
    d = config.data
    return MakeImage(
        d.image_size,
        len(config.model.mean),
        augment=d.augment,
        crop_scale=tuple(d.crop_scale),
        hflip=d.hflip,
        vflip=d.vflip,
        affine_jitter=d.affine_jitter,
        test_resize=d.test_resize,
    )


def evaluation_maker(config: ConfigDict) -> MakeImage | MakeVector:
    """How a picture is prepared for evaluation and prediction."""
    if config.model.trunk == "none":
        return MakeVector()
    return MakeImage(config.data.image_size, len(config.model.mean), test_resize=config.data.test_resize)


def needs(config: ConfigDict) -> list[str]:
    """What the user has to give before this config can be trained, each as `field: what`."""
    d = config.data
    if d.reader == "digits":
        return [f"data.reader: {line}" for name in digits.READERS for line in digits.missing(name)]
    return [] if d.root else [f"data.root: the folder of your domains in the layout of {d.reader!r}"]


def build_data(config: ConfigDict, workdir: Path, say) -> Data:
    """Reads every domain of `config.data.task` and checks that all have the same classes."""
    del say
    d, task = config.data, tasks.parse(config.data.task, config.data.external)
    bare = without_labels(config, task)
    train = {domain: read(config, domain, "train") for domain in task.sources + task.targets if domain not in bare}
    tested = {domain: read(config, domain, "test") for domain in task.sources + task.tested if domain not in bare}
    classes = require_same_classes(train | {f"{k} (test)": v for k, v in tested.items()})
    for domain in bare:
        images = read_unlabelled(Path(d.root) / domain)
        train[domain] = ImageReading(f"{domain} (without labels)", images, classes)
    if len(classes) != config.model.classes:
        raise InputError(f"config.model.classes: {config.model.classes}, but the data has {len(classes)} classes")
    class_names.write(workdir, classes)
    make = training_maker(config)
    streams = {"source": side(train, task.sources, dataclasses.replace(make, labelled=True), d.batch_size)}
    if task.targets:
        streams["target"] = side(train, task.targets, make, d.batch_size)
    test = evaluation_maker(config)
    splits = {
        name: {k: Examples(tested[k].images, test, image_id, d.eval_batch_size) for k in domains if k in tested}
        for name, domains in (("test", task.tested), ("source", task.sources))
    }
    reports = [reading.line() for reading in train.values()]
    reports += [f"test {r.line()}" for d, r in tested.items() if d not in train or not same_images(r, train[d])]
    return Data(streams, {k: v for k, v in splits.items() if v}, [*reports, protocol(task, train, tested)])


def without_labels(config: ConfigDict, task: Task) -> tuple[str, ...]:
    """The targets of `config.data.unlabelled`. Raises InputError for another domain, or another reader than folders."""
    bare = tuple(config.data.unlabelled)
    if wrong := [domain for domain in bare if domain not in task.targets]:
        raise InputError(f"config.data.unlabelled: {wrong[0]!r} is no target of config.data.task {config.data.task!r}")
    if bare and config.data.reader != "folders":
        raise InputError(f"config.data.unlabelled: goes with the reader 'folders', not {config.data.reader!r}")
    if bare and not set(task.tested) - set(bare) and config.eval.split == "test":
        raise InputError(
            "config.eval.split: no tested domain has labels, so there is nothing to test; set it, and "
            "config.train.eval_split, to 'source'"
        )
    return bare


def side(readings: dict[str, ImageReading], domains: Sequence[str], make: Any, batch: int) -> Examples:
    """One stream of all domains of a side, each with its rows of every batch."""
    images = [image for domain in domains for image in readings[domain].images]
    rows = tasks.rows_of(len(domains), batch)
    blocks = tuple((len(readings[d].images), n) for d, n in zip(domains, rows)) if len(domains) > 1 else ()
    return Examples(images, make, image_id, batch, blocks)


def same_images(a: ImageReading, b: ImageReading) -> bool:
    """Whether two readings hold the same images in the same order."""
    return [i.image_id for i in a.images] == [i.image_id for i in b.images]


def protocol(task: Task, train: dict[str, ImageReading], tested: dict[str, ImageReading]) -> str:
    """What the test is a test of, in one line."""
    same = [d for d in task.targets if d in tested and same_images(train[d], tested[d])]
    line = f"setting {task.setting}"
    if same:
        line += f"; transductive: the images of {', '.join(same)} train without labels and are the test"
    if task.external:
        line += f"; {', '.join(task.external)} is never trained on"
    return line


def read(config: ConfigDict, domain: str, part: str) -> ImageReading:
    """One domain by the reader that `config.data.reader` names."""
    d = config.data
    if d.reader not in READERS:
        raise InputError(f"config.data.reader: {d.reader!r} is none of {', '.join(READERS)}")
    if (d.reader == "features") != (config.model.trunk == "none"):
        raise InputError(
            f"config.data.reader: {d.reader!r} does not go with config.model.trunk {config.model.trunk!r}; "
            "'features' and 'none' go together"
        )
    classes = tuple(d.classes) or None
    if d.reader == "digits":
        return read_digits(domain)
    if not d.root:
        raise InputError("config.data.root: is empty; name the folder that holds the domains")
    if d.reader.startswith("emoji"):
        # source and target must not show the same names in two styles
        source = domain in tasks.parse(d.task, d.external).sources
        half = None if d.shared_names else (0 if source else 1)
        return read_emoji(d.root, domain, half) if d.reader == "emoji" else unpacked_emoji(d.root, domain, half)
    if d.reader == "features":
        return read_features(d.root, domain, d.feature_dim)
    if d.reader == "tfds":
        return read_tfds_images(find_tfds(d.root, domain), d.train_split if part == "train" else d.test_split)
    return read_domain(d.reader, d.root, domain, part, classes)


def unpacked_emoji(root: str, style: str, half: int | None) -> ImageReading:
    """One style of the emoji composed from the npm packages below `root`, without writing them first."""
    packages = emoji.find_packages(root)
    if style not in packages:
        raise InputError(f"config.data.task: {style!r} is no style of emoji; there are {', '.join(emoji.STYLES)}")
    found = emoji.list_emoji(packages)
    classes = sorted({emoji.folder_name(e.label) for e in found})
    label_of = {name: i for i, name in enumerate(classes)}
    images = [
        ArrayPicture(emoji.compose(packages, style, e), label_of[emoji.folder_name(e.label)], f"{e.label}/{e.name}")
        for e in found
        if half is None or e.half == half
    ]
    return ImageReading(style, images, tuple(classes))


def write_records(config: ConfigDict, data: Data, out: Path, splits: Sequence[str], say) -> None:
    """`jaxvl prepare --out`: writes the four styles of the emoji packages as class folders. Raises InputError for other
    readers, whose images are trained from as they lie."""
    del data, splits
    if config.data.reader != "emoji_packages":
        raise InputError(
            f"config.data.reader: {config.data.reader!r} is read as it lies and has no prepared form; leave out --out "
            "to only check the data"
        )
    for line in emoji.write_emoji(config.data.root, out):
        say(line)
    say(f"train from it with --config.data.reader=emoji --config.data.root={out}")


def read_features(root: str, domain: str, dim: int) -> ImageReading:
    """`ROOT/<domain>.npz` with `features [N, F]`, `labels [N]` and `classes [K]` (texts). Raises InputError."""
    path = Path(root) / f"{domain}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            values, labels, classes = (file[name] for name in ("features", "labels", "classes"))
    except DAMAGE as error:
        raise InputError(f"{path}: needs the arrays features, labels and classes ({error})") from None
    if values.ndim != 2 or len(values) != len(labels) or values.shape[1] != dim:
        raise InputError(
            f"{path}: features {list(values.shape)} and labels {list(labels.shape)}; config.data.feature_dim is {dim}"
        )
    rows = [Vector(v, int(y), f"{domain}/{i}") for i, (v, y) in enumerate(zip(values.astype(np.float32), labels))]
    return ImageReading(domain, rows, tuple(map(str, classes)))


def read_digits(domain: str) -> ImageReading:
    """Digits that lie inside installed packages, border cut off, full ink at 255."""
    if domain not in digits.READERS:
        raise InputError(f"config.data.task: {domain!r} is no set of digits; there are {', '.join(digits.READERS)}")
    found, border = digits.READERS[domain](), DIGIT_BORDER[domain]
    pixels = found.images[:, border : found.images.shape[1] - border, border : found.images.shape[2] - border]
    scaled = np.rint(pixels * (255.0 / digits.PIXEL_MAX[domain])).astype(np.uint8)
    images = [ArrayPicture(x, int(y), f"{domain}/{i}") for i, (x, y) in enumerate(zip(scaled, found.labels))]
    return ImageReading(domain, images, found.classes)

"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: a big-endian header, then raw bytes, often gzipped.

ROOT/
  train-images-idx3-ubyte[.gz]  train-labels-idx1-ubyte[.gz]     and `t10k-...` for the test split
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_arrays import ImageArrays
from jaxvl.data.readers.common import near

PREFIX = {"train": "train", "test": "t10k"}
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGITS = tuple("0123456789")
UBYTE = 0x08


def read_idx_images(root: str | os.PathLike, split: str, *, classes: Sequence[str], name: str = "") -> ImageArrays:
    """The pictures `[N, H, W, 1]` and labels of a split, 'train' or 'test'.

    classes: names of the labels (`FASHION`, `DIGITS`). Raises InputError: no such folder or file, damaged or truncated
    files, pictures and labels swapped or of different numbers, a label without a name.
    """
    folder = os.fspath(root)
    if split not in PREFIX:
        raise InputError(f"{folder}: an IDX data set has the splits train and test, not {split!r}")
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of IDX files{near(folder)}")
    images_path = find_idx(folder, f"{PREFIX[split]}-images", 3)
    labels_path = find_idx(folder, f"{PREFIX[split]}-labels", 1)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise InputError(f"{labels_path}: {len(labels):,} labels for the {len(images):,} pictures of {images_path}")
    title = name or os.path.basename(os.path.normpath(folder))
    return ImageArrays(f"{title} {split}", images[..., None], labels.astype(np.int32), tuple(classes))


def find_idx(folder: str, stem: str, dims: int) -> str:
    """The file of `stem` under the names in use (`-idx3-ubyte`, `.idx3-ubyte`, with or without `.gz`). InputError."""
    names = [f"{stem}{dot}idx{dims}-ubyte{end}" for dot in ("-", ".") for end in ("", ".gz")]
    for name in names:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    there = ", ".join(sorted(os.listdir(folder))[:6]) or "nothing"
    raise InputError(f"{folder}: has no {names[0]}[.gz]; it holds {there}")


def read_idx(path: str | os.PathLike, dims: int) -> np.ndarray:
    """A uint8 array of `dims` dimensions. InputError: no IDX file, other dimensions, another length than it says."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(name, "rb") if packed else open(name, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be unpacked ({error}); download it again") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UBYTE:
        hint = "; it looks like a web page" if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html")) else ""
        raise InputError(f"{name}: is no IDX file of bytes (it begins with {data[:4].hex()}){hint}")
    if data[3] != dims:
        kind = {1: "labels", 3: "pictures"}
        raise InputError(
            f"{name}: holds {data[3]} dimensions, {kind.get(dims, dims)} need {dims}; are pictures and labels swapped?"
        )
    begin = 4 + 4 * dims
    shape = tuple(int(n) for n in np.frombuffer(data[4:begin], ">u4"))
    if len(shape) != dims or len(data) - begin != int(np.prod(shape)):
        raise InputError(f"{name}: says {list(shape)} and holds {max(0, len(data) - begin):,} bytes; download it again")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)

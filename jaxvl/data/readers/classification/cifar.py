"""CIFAR-10 and CIFAR-100 as published: the `python` archive (pickles) or the `binary` one, unpacked.

cifar-10-batches-py/   data_batch_1..5, test_batch, batches.meta       cifar-100-python/   train, test, meta
cifar-10-batches-bin/  data_batch_1..5.bin, test_batch.bin             cifar-100-binary/   train.bin, test.bin

Pickles are read with a whitelist: a file that asks for anything but numpy arrays is refused, never run.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_arrays import ImageArrays
from jaxvl.data.readers.common import near, require_file

SIDE, PIXELS = 32, 3072
FILES = {
    10: {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    100: {"train": ("train",), "test": ("test",)},
}
FOLDERS = {10: ("cifar-10-batches-py", "cifar-10-batches-bin"), 100: ("cifar-100-python", "cifar-100-binary")}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


def read_cifar(root: str | os.PathLike, split: str, *, classes: int = 10) -> ImageArrays:
    """The pictures `[N, 32, 32, 3]` with labels (CIFAR-100: the fine ones) of a split, 'train' or 'test'.

    root: the unpacked folder, or the one that holds it. classes: 10 or 100. Raises InputError: no such folder, an
    archive that was not unpacked, a missing, truncated or foreign file.
    """
    if classes not in FILES:
        raise InputError(f"CIFAR has 10 or 100 classes, not {classes}")
    if split not in FILES[classes]:
        raise InputError(f"CIFAR-{classes} has the splits train and test, not {split!r}")
    folder = find_folder(root, classes)
    files = FILES[classes][split]
    binary = os.path.isfile(os.path.join(folder, f"{files[0]}.bin"))
    read = _read_binary if binary else _read_pickle
    parts = [read(os.path.join(folder, f"{f}.bin" if binary else f), classes) for f in files]
    pixels = np.concatenate([p for p, _ in parts]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    labels = np.concatenate([y for _, y in parts]).astype(np.int32)
    return ImageArrays(f"cifar{classes} {split}", np.ascontiguousarray(pixels), labels, _names(folder, classes))


def find_folder(root: str | os.PathLike, classes: int) -> str:
    """The unpacked folder at or below `root`. InputError, which says if only the archive is there."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of CIFAR-{classes}{near(top)}")
    first = FILES[classes]["train"][0]
    for folder in (top, *(os.path.join(top, name) for name in FOLDERS[classes])):
        if any(os.path.isfile(os.path.join(folder, first + end)) for end in ("", ".bin")):
            return folder
    archives = [n for n in sorted(os.listdir(top)) if n.endswith((".tar.gz", ".tgz", ".tar"))]
    mend = f"; unpack {archives[0]} there" if archives else ""
    raise InputError(f"{top}: holds neither {first} nor {first}.bin of CIFAR-{classes}{mend}")


class _Unpickler(pickle.Unpickler):
    """Numpy arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str):
        """Refuses whatever is not on the list."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module, name)


def _load(path: str) -> dict:
    name = require_file(path, "a batch of CIFAR")
    try:
        with open(name, "rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError) as error:
        raise InputError(f"{name}: is damaged or no file of CIFAR ({error}); unpack the archive again") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: holds a {type(content).__name__}, not the dictionary of CIFAR")
    return {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}


def _read_pickle(path: str, classes: int) -> tuple[np.ndarray, Sequence[int]]:
    content = _load(path)
    key = "labels" if classes == 10 else "fine_labels"
    pixels = content.get("data")
    if key not in content or not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise InputError(f"{path}: lacks {key!r} or `data` [N, {PIXELS}]; is this CIFAR-{classes}?")
    return pixels, content[key]


def _read_binary(path: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    data = np.fromfile(require_file(path, "a batch of CIFAR"), np.uint8)
    head = 1 if classes == 10 else 2  # CIFAR-100: coarse label, fine label
    if not len(data) or len(data) % (head + PIXELS):
        raise InputError(
            f"{path}: {len(data):,} bytes are no whole number of records of {head + PIXELS}; copy it again"
        )
    rows = data.reshape(-1, head + PIXELS)
    return rows[:, head:], rows[:, head - 1]


def _names(folder: str, classes: int) -> tuple[str, ...]:
    if classes == 10:
        return CIFAR10
    meta, text = os.path.join(folder, "meta"), os.path.join(folder, "fine_label_names.txt")
    if os.path.isfile(text):
        with open(text, encoding="utf-8") as file:
            names: list = [line.strip() for line in file if line.strip()]
    elif os.path.isfile(meta):
        names = [n.decode() if isinstance(n, bytes) else n for n in _load(meta).get("fine_label_names", [])]
    else:
        names = []
    return tuple(names) if len(names) == classes else tuple(str(i) for i in range(classes))

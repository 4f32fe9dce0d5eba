"""NTU RGB+D as public toolboxes keep it: prepared arrays (`.npz`), and annotations in a pickle (`ntu60_3danno.pkl`).

Both are copied once, without their padding, into shards (`clips.py`) in a cache whose name hangs on the file, so that
worker processes share them. Nothing that the pickle names is imported or called (`core/pickles.py`).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.core.pickles import NUMPY_ARRAYS, Bounded, NumpyArray, check_opcodes
from jaxvl.data.readers.common import Report, require_file
from jaxvl.data.readers.skeletons import clips as store
from jaxvl.data.readers.skeletons.clips import ClipStore, SkeletonClip, SkeletonReading
from jaxvl.data.readers.skeletons.ntu_classes import class_names
from jaxvl.data.readers.skeletons.ntu_file import Sample, parse_name
from jaxvl.data.skeletons import NTU25, valid_length

READ = 1  # raised whenever the same file gives other sequences
BODIES = 2
WIDTH = BODIES * len(NTU25) * 3
FILES = {(60, "xsub"): "NTU60_CS.npz", (60, "xview"): "NTU60_CV.npz", (120, "xsub"): "NTU120_CSub.npz"}
FILES[120, "xset"] = "NTU120_CSet.npz"
"""`(classes, protocol)` -> the file of prepared arrays."""
PICKLES = {60: "ntu60_3danno.pkl", 120: "ntu120_3danno.pkl"}
PARTS = {"train": "train", "test": "val"}
"""Split -> how the pickle calls it, behind the protocol."""
Progress = Callable[[int, int], None]


def read_arrays(
    root: str | os.PathLike, protocol: str, classes: int, cache: str | os.PathLike, progress: Progress | None = None
) -> dict[str, SkeletonReading]:
    """Both splits of `NTU60_CS.npz` and its like, in the folder `root` or `root` itself.

    Raises InputError: no such file, other arrays than `x_train, y_train, x_test, y_test` of the published shapes.
    """
    if (classes, protocol) not in FILES:
        known = ", ".join(f"{p} of {c}" for c, p in FILES)
        raise InputError(
            f"config.data.protocol: {protocol!r} of {classes} classes has no prepared arrays; {known} have"
        )
    path = _file(root, FILES[classes, protocol], "prepared arrays")
    readings = {}
    for split in ("train", "test"):
        make = lambda about, split=split: array_clips(path, split, classes, about, progress)  # noqa: E731
        clips = _copied(path, cache, split, classes, make)
        readings[split] = _reading(f"NTU RGB+D {os.path.basename(path)}", split, clips, classes)
    return readings


def array_clips(
    path: str, split: str, classes: int, about: dict[str, Any], progress: Progress | None = None
) -> Iterator[SkeletonClip]:
    """The sequences of `x_SPLIT`, read row by row. classes: 0, whatever the labels are. about: its `skipped` grows."""
    try:
        with zipfile.ZipFile(path) as archive:
            labels = _labels(path, archive, split, classes)
            with archive.open(f"x_{split}.npy") as file:
                shape, dtype = _header(file)
                if len(shape) != 3 or shape[2] != WIDTH or dtype.kind != "f" or shape[0] != len(labels):
                    raise InputError(
                        f"{path}: x_{split} is {dtype} {list(shape)} for {len(labels)} labels; needs float "
                        f"[{len(labels)}, frames, {WIDTH}], two bodies of {len(NTU25)} joints"
                    )
                for row, label in enumerate(labels):
                    flat = np.frombuffer(_exactly(file, shape[1] * WIDTH * dtype.itemsize), dtype)
                    name = f"{Path(path).stem}/{split}/{row:06d}"
                    if progress:
                        progress(row + 1, len(labels))
                    bodies = trimmed(flat.reshape(shape[1], BODIES, len(NTU25), 3).transpose(1, 0, 2, 3))
                    reason = "no frame has a body" if not len(bodies) else "no one-hot label" if label < 0 else ""
                    if reason:
                        about["skipped"].append([name, reason])
                    else:
                        yield SkeletonClip(name, int(label), bodies)
    except DAMAGE as error:
        what = str(error.args[0]) if error.args else type(error).__name__
        raise InputError(
            f"{path}: x_{split} and y_{split} cannot be read ({what}); needs a .npz of x_train, y_train, x_test, y_test"
        ) from error


def _labels(path: str, archive: zipfile.ZipFile, split: str, classes: int) -> np.ndarray:
    """Of each row, -1 where it is no one-hot."""
    with archive.open(f"y_{split}.npy") as file:
        y = np.lib.format.read_array(file, allow_pickle=False)
    if not classes:
        return np.zeros(len(y), np.int64)
    if y.ndim == 1 and y.dtype.kind in "iu":
        return np.where((y >= 0) & (y < classes), y, -1)
    if y.ndim != 2 or y.shape[1] != classes or y.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: y_{split} is {y.dtype} {list(y.shape)}; config.model.classes = {classes} needs one-hot rows of "
            "as many values"
        )
    good = ((y != 0).sum(1) == 1) & (y.max(1) == 1)
    return np.where(good, y.argmax(1), -1)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("it is stored column by column")
    return shape, dtype


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("the array ends early")
    return data


def trimmed(bodies: np.ndarray) -> np.ndarray:
    """`[M, F, J, 3]` -> float32 without the padding behind the last frame, and without what is no body of its own: one
    that is absent, or the copy of a lone actor that some scripts write. A frame of a body with NaN is absent. M is 0
    where nothing is left."""
    bodies = np.array(bodies, np.float32)
    bodies[~np.isfinite(bodies).all(axis=(2, 3))] = 0
    bodies = bodies[:, : valid_length(bodies)]
    if len(bodies) > 1 and (not bodies[1].any() or np.array_equal(bodies[0], bodies[1])):
        bodies = bodies[:1]
    return bodies if bodies.any() else bodies[:0]


def read_pickle(
    root: str | os.PathLike, protocol: str, classes: int, cache: str | os.PathLike, progress: Progress | None = None
) -> dict[str, SkeletonReading]:
    """Both splits of `ntu60_3danno.pkl` (`ntu120_3danno.pkl`), in the folder `root` or `root` itself.

    Raises InputError: no such file, no such pickle, classes of objects in it that are none of numbers and arrays.
    """
    if classes not in PICKLES:
        raise InputError(f"config.model.classes: {classes}, but NTU RGB+D has 60 actions, NTU RGB+D 120 has 120")
    path = _file(root, PICKLES[classes], "annotations of skeletons")
    loaded: list[dict] = []
    readings = {}
    for split, part in PARTS.items():

        def make(about: dict[str, Any], wanted: str = f"{protocol}_{part}") -> Iterator[SkeletonClip]:
            if not loaded:
                loaded.append(load_annotations(path))
            return pickle_clips(path, loaded[0], wanted, classes, about, progress)

        clips = _copied(path, cache, f"{protocol}-{split}", classes, make)
        readings[split] = _reading(f"NTU RGB+D {os.path.basename(path)} {protocol}", split, clips, classes)
    return readings


def load_annotations(path: str) -> dict[str, Any]:
    """The pickle, with arrays of numbers in it and nothing else. Raises InputError."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            bounded = Bounded(file, size)
            check_opcodes(bounded)
            content = _Unpickler(bounded, path).load()
    except InputError:
        raise
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path}: no pickle of annotations ({str(error)[:120]}); copy it again") from error
    except (OverflowError, MemoryError, RecursionError, ArithmeticError) as error:
        raise InputError(f"{path}: no pickle of annotations ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict) or not {"split", "annotations"} <= set(content):
        raise InputError(f"{path}: needs a dict with 'split' and 'annotations'")
    if not isinstance(content["split"], dict) or not isinstance(content["annotations"], list):
        raise InputError(f"{path}: 'split' must be a dict of names, 'annotations' a list")
    return content


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Bounded, path: str):
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for what a file names; never the thing itself."""
        if (module, name) not in NUMPY_ARRAYS:
            raise InputError(f"{self.path}: holds an object of class {module}.{name}; only arrays of numbers are read")
        return NUMPY_ARRAYS[module, name]


def pickle_clips(
    path: str,
    content: Mapping[str, Any],
    part: str,
    classes: int,
    about: dict[str, Any],
    progress: Progress | None = None,
) -> Iterator[SkeletonClip]:
    """The annotations that `split[part]` names, all where that is '', in the order of the list. about: its `skipped`
    grows."""
    if part and part not in content["split"]:
        raise InputError(f"{path}: has no split {part!r}; it has {', '.join(map(str, content['split']))}")
    names = content["split"][part] if part else [i["frame_dir"] for i in content["annotations"] if "frame_dir" in i]
    wanted = {str(name) for name in names}
    count = len(content["annotations"])
    for number, item in enumerate(content["annotations"], 1):
        if progress:
            progress(number, count)
        if not isinstance(item, dict) or "frame_dir" not in item:
            about["skipped"].append([f"annotation {number}", "no 'frame_dir'"])
            continue
        name = str(item["frame_dir"])
        if name not in wanted:
            continue
        wanted.remove(name)
        found = _annotation(item, classes)
        if isinstance(found, str):
            about["skipped"].append([name, found])
            continue
        label, bodies = found
        s = parse_name(name) or Sample(-1, -1, -1, -1, -1)
        yield SkeletonClip(name, label, bodies, s.performer, s.camera, s.setup, s.replication)
    about["missing"] += sorted(wanted)


def _annotation(item: Mapping[str, Any], classes: int) -> tuple[int, np.ndarray] | str:
    """`(label, bodies)`, or why there are none."""
    label, points = item.get("label"), item.get("keypoint")
    if not isinstance(label, int | np.integer):
        return "no label"
    if not 0 <= label < classes:
        return f"a label beyond the {classes} classes"
    shape = getattr(getattr(points, "value", None), "shape", None)
    if not isinstance(points, NumpyArray) or shape is None or len(shape) != 4 or shape[2:] != (len(NTU25), 3):
        return "no 'keypoint' of [bodies, frames, 25, 3]"
    if shape[0] > BODIES:
        return f"more than {BODIES} bodies"
    bodies = trimmed(points.value)
    return (int(label), bodies) if len(bodies) else "no frame has a body"


def _file(root: str | os.PathLike, name: str, what: str) -> str:
    """`root` itself where it is a file, else the file of this name in it."""
    path = os.fspath(root)
    return path if os.path.isfile(path) else require_file(os.path.join(path, name), what)


def _copied(
    path: str, cache: str | os.PathLike, part: str, classes: int, make: Callable[[dict[str, Any]], Any]
) -> ClipStore:
    """The sequences of a part of the file in the cache, made where they are not there yet."""
    state = os.stat(path)
    key = f"{READ} {os.path.abspath(path)} {state.st_size} {state.st_mtime_ns} {part} {classes}"
    stamp = hashlib.blake2b(key.encode(errors="replace"), digest_size=16).hexdigest()
    folder = Path(cache) / f"prepared-{stamp}"
    if (folder / store.INDEX).is_file():
        return ClipStore(folder)
    about: dict[str, Any] = {"skipped": [], "missing": []}
    try:
        return store.write_clips(folder, make(about), NTU25, class_names(classes), about)
    except store.NoClips:
        reasons = ", ".join(sorted({reason for _, reason in about["skipped"]})) or "there is none"
        raise InputError(f"{path}: no sequence of {part} can be used ({reasons})") from None


def _reading(dataset: str, split: str, clips: ClipStore, classes: int) -> SkeletonReading:
    skipped = tuple((name, reason) for name, reason in clips.about["skipped"])
    missing = tuple(clips.about["missing"])
    report = Report(dataset, split, len(clips), missing, skipped, 0, (), "", "sequences")
    return SkeletonReading(clips, NTU25, class_names(classes), report)

"""Features computed beforehand: named arrays a video (or a part of one), by id.

Two forms are read. A folder that `jaxvl prepare --extract` wrote (`extract.py`):

    features-00000-of-00012.array_record ...   one record an example
    features.json                              version, ids in record order, shards, arrays, provenance; written last

and the HDF5 file that the authors of MIST distribute: `features` float32 `[videos, T, 1 + N, F]`, the whole frame
first, then its N patches, and `ids` bytes `[videos]`; or no `ids` and a list `qid.json`, an entry a row that begins
with the id.

A record is `JVF1`, the length of the header (uint32, little endian), the header (JSON, UTF-8), then the bytes of the
arrays. Header: `id`, `arrays` (`{name: [dtype, shape]}`), `times` (seconds of each frame), `timed` (false where these
are only frame numbers), `duration`.

No jax here: features are read in worker processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.common import first_few, near, read_json, repeated
from jaxvl.data.records import shard_length

VERSION = 1
MAGIC = b"JVF1"
INDEX_FILE = "features.json"
HDF5_FILE = "clip_patch_feat_all.h5"
HDF5_PLACES = (HDF5_FILE, f"frame_feat/{HDF5_FILE}")
ROW_IDS = "qid.json"
_HEADER = struct.Struct("<4sI")
_PROBED = 8  # numbers of a row that are read to see that it is not all zero


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """One example. arrays: by name. times `[T]`: seconds of its frames, None where the file does not say; duration:
    seconds, None likewise; timed: False where these are frame numbers."""

    arrays: Mapping[str, np.ndarray]
    times: np.ndarray | None = None
    duration: float | None = None
    timed: bool = True


class FeatureStore(Protocol):
    """What both forms have in common; picklable, worker processes open the files anew.

    path: what errors call it. ids: in the order of the file. shapes: of the arrays of one example, by name.
    provenance: how they were made; empty where the file does not say. refused: ids that are there and all zero.
    """

    path: str
    ids: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    provenance: Mapping[str, Any]
    refused: tuple[str, ...]

    def __contains__(self, name: str) -> bool: ...

    def by_id(self, name: str) -> Features:
        """The features of one example. Raises BadMedia: no such id, damaged, not finite."""


def open_features(path: str | os.PathLike, row_ids: str | os.PathLike | None = None) -> FeatureStore:
    """The features at `path`: a folder of records, an HDF5 file, or a folder that holds one under its usual name.

    row_ids: the list of ids of an HDF5 file without `ids`; by default `qid.json` beside it, if there is one.
    Raises InputError where there is neither, and for whatever is wrong with the files.
    """
    name = os.fspath(path)
    if os.path.isfile(os.path.join(name, INDEX_FILE)):
        return FeatureRecords(name)
    if os.path.isfile(name):
        return HDF5Features(name, row_ids)
    for place in HDF5_PLACES:
        if os.path.isfile(inside := os.path.join(name, place)):
            return HDF5Features(inside, row_ids)
    if not os.path.isdir(name):
        raise InputError(
            f"{name}: no such file or folder of features{near(name, folders=True)}; see jaxvl prepare --extract"
        )
    unfinished = "; the extraction into it has not ended, run it again" if _unfinished(name) else ""
    raise InputError(f"{name}: holds neither {INDEX_FILE} nor {' nor '.join(HDF5_PLACES)}{unfinished}")


def check_features(
    store: FeatureStore, shapes: Mapping[str, tuple[int, ...]], provenance: Mapping[str, Any] | None = None
) -> None:
    """Raises InputError, one line, where the features have other arrays than a model takes or were made another way
    than `provenance` says. What the file does not say is not compared."""
    other = [
        f"{name} {list(store.shapes.get(name, ()))} instead of {list(shape)}"
        for name, shape in shapes.items()
        if tuple(store.shapes.get(name, ())) != tuple(shape)
    ]
    other += [
        f"{key} {store.provenance[key]!r} instead of {wanted!r}"
        for key, wanted in (provenance or {}).items()
        if key in store.provenance and store.provenance[key] != wanted
    ]
    if other:
        raise InputError(
            f"{store.path}: these features do not fit ({'; '.join(other)}); extract them anew, or set the config"
        )


class FeatureRecords:
    """A folder that `extract.extract_features` wrote; see `FeatureStore`.

    Raises InputError: no such folder, another version, a shard that is missing, truncated or of another length.
    """

    refused: tuple[str, ...] = ()  # left out when it was written

    def __init__(self, folder: str | os.PathLike):
        self.path = os.fspath(folder)
        path = os.path.join(self.path, INDEX_FILE)
        index = read_json(path, "the index of a folder of features")
        if not isinstance(index, dict) or index.get("version") != VERSION:
            said = index.get("version") if isinstance(index, dict) else None
            raise InputError(f"{path}: version {said!r} of features, this program reads {VERSION}; extract them again")
        try:
            self.ids = tuple(index["ids"])
            self.shapes = {name: tuple(shape) for name, (_, shape) in index["arrays"].items()}
            self.provenance = dict(index["provenance"])
            shards = [(os.path.join(self.path, s["file"]), int(s["count"])) for s in index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: damaged index ({error!r}); extract the features again") from error
        if sum(n for _, n in shards) != len(self.ids):
            raise InputError(f"{path}: contradicts itself; extract the features again")
        for file, said in shards:
            if (there := shard_length(file)) != said:
                raise InputError(
                    f"{file}: holds {there} records, {INDEX_FILE} says {said}; copy the whole folder again"
                )
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._numbers = {name: i for i, name in enumerate(self.ids)}
        self._source = ArrayRecordDataSource([file for file, n in shards if n])

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def by_id(self, name: str) -> Features:
        """See `FeatureStore.by_id`."""
        if name not in self._numbers:
            raise BadMedia(self.path, f"has no features of {name!r}")
        try:
            data = self._source[self._numbers[name]]
        except RuntimeError as error:  # what the library makes of every failure
            raise BadMedia(f"{self.path}#{name}", f"damaged record: {error}") from error
        return unpack_features(data, f"{self.path}#{name}")


class HDF5Features:
    """The distributed HDF5 file; see `FeatureStore`. Rows are mapped, not loaded, where the file is neither compressed
    nor chunked, as the distributed one is; else h5py reads them one by one.

    row_ids: see `open_features`. Raises InputError: not HDF5, no `features` of four axes, ids that are missing, of
    another number, or there twice.
    """

    def __init__(self, path: str | os.PathLike, row_ids: str | os.PathLike | None = None):
        self.path = os.fspath(path)
        self.row_ids = None if row_ids is None else os.fspath(row_ids)
        self._file: tuple[int, Any] | None = None
        with open_hdf5(self.path) as file:
            data = file.get("features")
            if getattr(data, "ndim", 0) != 4 or data.dtype.kind != "f":
                has = ", ".join(file) or "nothing"
                raise InputError(f"{self.path}: needs floats 'features' [videos, T, 1 + N, F]; it has {has}")
            self.shape, self.dtype = data.shape, data.dtype
            self.offset = (
                data.id.get_offset() if data.chunks is None and not data.id.get_create_plist().get_nfilters() else None
            )
            self.ids = self._read_ids(file)
        count, frames, regions, width = self.shape
        self.shapes = {"frames": (frames, width), "patches": (frames, regions - 1, width)}
        self.provenance: dict[str, Any] = {}
        if len(self.ids) != count:
            raise InputError(
                f"{self.path}: {count:,} rows of features, but {len(self.ids):,} ids; the two do not belong together"
            )
        if twice := repeated(self.ids):
            raise InputError(
                f"{self.path}: {len(twice):,} ids come twice ({first_few(twice)}); which row is meant is unknown"
            )
        self._numbers = {name: i for i, name in enumerate(self.ids)}
        self.refused = self._zero_rows()
        for name in self.refused:
            del self._numbers[name]

    def _read_ids(self, file) -> tuple[str, ...]:
        if "ids" in file and self.row_ids is None:
            return tuple(name.decode("utf-8", "backslashreplace") for name in np.asarray(file["ids"]).astype(bytes))
        beside = self.row_ids or os.path.join(os.path.dirname(self.path), ROW_IDS)
        if not os.path.isfile(beside):
            raise InputError(
                f"{self.path}: has no 'ids', and there is no {ROW_IDS}, the list of ids in the order of its rows"
            )
        rows = read_json(beside, "the ids of the rows")
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and row and isinstance(row[0], str) for row in rows
        ):
            raise InputError(f"{beside}: needs a list of lists that begin with an id")
        return tuple(row[0] for row in rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def by_id(self, name: str) -> Features:
        """See `FeatureStore.by_id`."""
        if name not in self._numbers:
            why = "are all zero: its video could not be read" if name in self.refused else "are not there"
            raise BadMedia(self.path, f"features of {name!r} {why}")
        row = np.asarray(self._rows()[self._numbers[name]])
        if not np.isfinite(row).all():
            raise BadMedia(f"{self.path}#{name}", "features are not finite")
        return Features({"frames": row[:, 0], "patches": row[:, 1:]})

    def _rows(self):
        if self._file is None or self._file[0] != os.getpid():
            if self.offset is not None:
                rows = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            else:
                rows = open_hdf5(self.path)["features"]
            self._file = (os.getpid(), rows)
        return self._file[1]

    def _zero_rows(self) -> tuple[str, ...]:
        """Ids of rows of zeros: a few numbers of each tell nearly always, the whole row is read where they do not."""
        rows = self._rows()
        probe = np.asarray(rows[:, 0, 0, :_PROBED])
        return tuple(self.ids[i] for i in np.flatnonzero(~probe.any(axis=1)) if not np.asarray(rows[i]).any())


def pack_features(name: str, features: Features) -> bytes:
    """One record, as the head of this file describes."""
    arrays = {key: np.ascontiguousarray(value) for key, value in features.arrays.items()}
    header = {
        "id": name,
        "arrays": {key: [value.dtype.str, list(value.shape)] for key, value in arrays.items()},
        "times": [float(t) for t in features.times],
        "timed": features.timed,
        "duration": float(features.duration),
    }
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"".join([_HEADER.pack(MAGIC, len(text)), text, *(value.tobytes() for value in arrays.values())])


def unpack_features(data: bytes, path: str) -> Features:
    """The inverse of `pack_features`. Raises BadMedia, naming `path`, on anything else."""
    try:
        magic, length = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise BadMedia(path, "not a record of features")
        at = _HEADER.size + length
        header = json.loads(data[_HEADER.size : at].decode("utf-8", "surrogatepass"))
        arrays = {}
        for name, (dtype, shape) in header["arrays"].items():
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += arrays[name].nbytes
        if at != len(data):
            raise BadMedia(path, "a record of another length than it says")
        return Features(arrays, np.asarray(header["times"], np.float64), header["duration"], header["timed"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise BadMedia(path, f"not a record of features: {error}") from error


def known_features(store: FeatureStore, names: Sequence[str]) -> dict[str, str]:
    """`{name: id in the store}` of those that have features: of exactly this id, else without the ending `.mp4`."""
    found = {}
    for name in names:
        key = name if name in store else name.removesuffix(".mp4")
        if key in store:
            found[name] = key
    return found


def open_hdf5(path: str) -> Any:
    """The file, opened to be read. Raises InputError where h5py is not installed, and for another file."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: reading HDF5 needs the package h5py; pip install 'jaxvl[hdf5]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error})") from error


def _unfinished(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return any(name.startswith("features-") or name == "extract.json" for name in os.listdir(folder))
    return False

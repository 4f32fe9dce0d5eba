"""Skeleton sequences as records, in memory or in shards on disk that all worker processes share.

FOLDER/
  clips-00000.npz ...   2048 sequences each: `data` float32 `[sum of F, M*J*3]` (body by body, joint by joint, x y z;
                        absent bodies are zeros), `offset` int64 `[n+1]` into it, and a column a field of a record
  clips.json            written last: version, count, shards, skeleton, classes, `about`

Arrays lie in the shards uncompressed, so `data` is mapped and never loaded as a whole.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.data.readers.common import Report, read_json
from jaxvl.data.skeletons import SKELETONS, Skeleton

VERSION = 1
INDEX = "clips.json"
SHARD = 2048
NUMBERS = ("label", "subject", "camera", "setup", "take")
UNKNOWN = -1


@dataclasses.dataclass(frozen=True, eq=False)
class SkeletonClip:
    """One sequence. name: as published. label: of its action, from 0; -1 unknown. bodies: float32 `[M, F, J, 3]`,
    metres as recorded, zeros where a body is absent. subject, camera, setup, take (the replication): as published, -1
    unknown."""

    name: str
    label: int
    bodies: np.ndarray
    subject: int = UNKNOWN
    camera: int = UNKNOWN
    setup: int = UNKNOWN
    take: int = UNKNOWN


def clip_name(clip: SkeletonClip) -> str:
    """What logs call a sequence."""
    return clip.name


@dataclasses.dataclass(frozen=True, eq=False)
class SkeletonReading:
    """A split that was read. classes: names of the labels."""

    clips: Sequence[SkeletonClip]
    skeleton: Skeleton
    classes: tuple[str, ...]
    report: Report


class NoClips(InputError):
    """There is nothing to write."""


class ClipStore(Sequence):
    """Sequences in shards on disk: `store[i]` is a `SkeletonClip`. It travels to other processes as its path."""

    def __init__(self, folder: str | os.PathLike, rows: np.ndarray | None = None):
        """Raises InputError where no finished store lies there, or a damaged one."""
        self.folder, self.rows = Path(folder), rows
        content = read_json(self.folder / INDEX, "the index of skeleton sequences")
        try:
            if content["version"] != VERSION:
                raise ValueError(f"of version {content['version']}, this program reads {VERSION}")
            self.skeleton = SKELETONS[content["skeleton"]]
            self.classes, self.about = tuple(content["classes"]), content["about"]
            self.shards = tuple(content["shards"])
            columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
            self._data = []
            for name in self.shards:
                with np.load(self.folder / name) as file:
                    for field in ("offset", "num_bodies", "name", *NUMBERS):
                        columns[field].append(file[field])
                self._data.append(None)
            self.columns = {f: np.concatenate(v) for f, v in columns.items() if f != "offset"}
            self._offsets = columns["offset"]
            if len(self.columns["label"]) != content["count"]:
                raise ValueError("its shards hold another number of sequences than it says")
        except DAMAGE as error:
            raise InputError(f"{self.folder}: damaged skeleton sequences ({error}); have them made again") from error

    def __len__(self) -> int:
        return len(self.columns["label"]) if self.rows is None else len(self.rows)

    def __getitem__(self, i: int) -> SkeletonClip:
        """The sequence number i."""
        i = range(len(self))[i]
        row = i if self.rows is None else int(self.rows[i])
        shard, at = divmod(row, SHARD)
        begin, end = self._offsets[shard][at : at + 2]
        flat = np.array(self._mapped(shard)[begin:end], np.float32)
        bodies = flat.reshape(len(flat), -1, len(self.skeleton), 3).transpose(1, 0, 2, 3)
        numbers = {f: int(self.columns[f][row]) for f in NUMBERS}
        kept = np.ascontiguousarray(bodies[: int(self.columns["num_bodies"][row])])
        return SkeletonClip(name=str(self.columns["name"][row]), bodies=kept, **numbers)

    def column(self, field: str) -> np.ndarray:
        """A field of all selected records: name, num_bodies, or one of `NUMBERS`."""
        return self.columns[field] if self.rows is None else self.columns[field][self.rows]

    def frames(self) -> np.ndarray:
        """Frames of all selected records, int64."""
        counts = np.concatenate([np.diff(offset) for offset in self._offsets])
        return counts if self.rows is None else counts[self.rows]

    def select(self, rows: np.ndarray) -> ClipStore:
        """The sequences of these rows."""
        rows = np.asarray(rows, np.int64)
        return ClipStore(self.folder, rows if self.rows is None else self.rows[rows])

    def __reduce__(self):
        """A path and rows."""
        return ClipStore, (str(self.folder), self.rows)

    def _mapped(self, shard: int) -> np.ndarray:
        if self._data[shard] is None:
            self._data[shard] = map_member(self.folder / self.shards[shard], "data.npy")
        return self._data[shard]


def map_member(path: str | os.PathLike, member: str) -> np.ndarray:
    """An array inside of an uncompressed `.npz`, mapped. A compressed one is loaded. Raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as inside:
            info = archive.getinfo(member)
            version = np.lib.format.read_magic(inside)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(inside)
            header = inside.tell()
            if info.compress_type != zipfile.ZIP_STORED or fortran or dtype.hasobject or 0 in shape:
                inside.seek(0)
                return np.lib.format.read_array(inside, allow_pickle=False)
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)  # lengths of the name and of the extra field (APPNOTE 4.3.7)
            lengths = np.frombuffer(file.read(4), "<u2")
        begin = info.header_offset + 30 + int(lengths.sum()) + header
        return np.memmap(path, dtype, "r", begin, shape)
    except DAMAGE as error:
        raise InputError(f"{os.fspath(path)}: {member} cannot be read ({error}); copy the file again") from error


def write_clips(
    folder: str | os.PathLike,
    clips: Iterable[SkeletonClip],
    skeleton: Skeleton,
    classes: Sequence[str],
    about: Mapping[str, Any],
    bodies: int = 2,
) -> ClipStore:
    """Writes `clips`, of at most `bodies` bodies each, to `folder`, which appears when it is finished; gives the store.

    about: JSON, read when the last clip has come. Raises NoClips where there is none, and InputError where `folder`
    cannot be written or holds other files.
    """
    folder = Path(folder)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        unfinished.mkdir(parents=True)
        shards, count, waiting = [], 0, []
        for clip in clips:
            waiting.append(clip)
            count += 1
            if len(waiting) == SHARD:
                shards.append(_write_shard(unfinished, len(shards), waiting, bodies))
                waiting = []
        if waiting:
            shards.append(_write_shard(unfinished, len(shards), waiting, bodies))
        if not count:
            raise NoClips(f"{folder}: there is no sequence to write")
        content = {"version": VERSION, "count": count, "shards": shards, "skeleton": skeleton.name}
        content |= {"classes": list(classes), "about": dict(about)}
        (unfinished / INDEX).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        if not (folder / INDEX).is_file():  # another process may have been faster
            os.replace(unfinished, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); name another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ClipStore(folder)


def _write_shard(folder: Path, number: int, clips: Sequence[SkeletonClip], bodies: int) -> str:
    flat = []
    for clip in clips:
        whole = np.zeros((bodies, *clip.bodies.shape[1:]), np.float32)
        whole[: len(clip.bodies)] = clip.bodies
        flat.append(whole.transpose(1, 0, 2, 3).reshape(whole.shape[1], -1))
    name = f"clips-{number:05d}.npz"
    np.savez(
        folder / name,
        data=np.concatenate(flat),
        offset=np.cumsum([0, *map(len, flat)], dtype=np.int64),
        num_bodies=np.array([len(clip.bodies) for clip in clips], np.int32),
        name=np.array([clip.name for clip in clips]),
        **{field: np.array([getattr(clip, field) for clip in clips], np.int32) for field in NUMBERS},
    )
    return name

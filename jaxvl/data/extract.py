"""Features of many examples, computed once: sharded over files and processes, resumable, with their provenance.

What an example is, how it is decoded and what is computed of it, a method says (`Extraction`). The work on the device
and the decoding of the next examples overlap. The result does not depend on where the work was cut:

    extract.json                             what is being made; another extraction into the same folder is refused
    features-00003-of-00012.spool            finished examples of the file that is being made, each with a checksum
    features-00003-of-00012.array_record     a finished file, and .json beside it: its ids, and who was left out and why
    features.json                            the index, written by the process that finishes last (`features.py`)

A process killed at any moment loses the example that it was working on: the next run reads the spool up to its last
whole record and goes on behind it. Process p of P makes the files p, p + P, ...; they need not know of each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.files import write_text
from jaxvl.core.writers import Progress
from jaxvl.data.bad_media import BadBudget
from jaxvl.data.features import INDEX_FILE, VERSION, Features, pack_features, unpack_features
from jaxvl.data.readers.common import read_json, repeated
from jaxvl.data.threads import map_ahead

CLAIM = "extract.json"
_FRAME = struct.Struct("<QI")  # of the spool: length, checksum
_RECORD, _SKIPPED = b"R", b"S"


@dataclasses.dataclass(frozen=True)
class Item:
    """An example. key: its id. media: anything that `video.open_source` takes. start_s, end_s: the part, in seconds."""

    key: str
    media: Any
    start_s: float | None = None
    end_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What to compute.

    items: of different keys. decode: an item to host arrays, called in threads; may raise BadMedia. encode: these
    arrays to features, called one by one on the device; of the same shapes every time, or each shape compiles once
    more. provenance: JSON, what the features depend on beside the media; compared when they are used. frames: of an
    item.
    """

    items: Sequence[Item]
    decode: Callable[[Item], Any]
    encode: Callable[[Any], Features]
    provenance: Mapping[str, Any]
    frames: int


@dataclasses.dataclass(frozen=True)
class Extracted:
    """What a call did. done: examples in this process's files; skipped: `(id, reason)`; complete: whether all files of
    all processes are there, so that the index is written; frames_per_s: of what was computed now, 0 if nothing was."""

    done: int
    skipped: tuple[tuple[str, str], ...]
    complete: bool
    frames_per_s: float


def extract_features(
    folder: str | os.PathLike,
    extraction: Extraction,
    *,
    process: int = 0,
    processes: int = 1,
    threads: int = 2,
    per_file: int = 64,
    max_bad_fraction: float = 0.05,
    progress: Progress | None = None,
) -> Extracted:
    """Computes what is missing in `folder`.

    process, processes: this one of so many that share the work. threads: that decode. per_file: examples a file.
    max_bad_fraction: more bad media than this share is an error, at the end.
    Raises InputError: a folder of other features or of anything else, a file that another process is making, too many
    bad media.
    """
    if not 0 <= process < processes:
        raise InputError(f"--process {process}: must be 0 to {processes - 1}")
    if not extraction.items:
        raise InputError(f"{os.fspath(folder)}: there is nothing to extract")
    if twice := repeated([item.key for item in extraction.items]):
        raise InputError(f"the id {twice[0]!r} comes more than once; each example is extracted once")
    folder = Path(folder)
    files = -(-len(extraction.items) // per_file)
    _claim(folder, extraction, per_file)
    shards = [_Shard(folder, k, files, extraction.items[k * per_file : (k + 1) * per_file]) for k in range(files)]
    own = shards[process::processes]
    total, done = sum(len(shard.items) for shard in own), 0
    begun, rate = time.monotonic(), 0.0
    with contextlib.ExitStack() as stack:

        def pending() -> Iterator[tuple[_Shard, Item]]:  # opens a file when its turn comes
            nonlocal done
            for shard in own:
                if not shard.finished():
                    stack.enter_context(shard.writing())
                    done += len(shard.spool)
                    yield from ((shard, item) for item in shard.items[len(shard.spool) :])
                    shard.close_if_whole()
                else:
                    done += len(shard.items)

        decoded = map_ahead(lambda pair: (*pair, _decoded(extraction, pair[1])), pending(), threads)
        for number, (shard, item, got) in enumerate(decoded, 1):
            done += 1
            shard.add(item.key, got if isinstance(got, BadMedia) else _encoded(extraction, item, got))
            shard.close_if_whole()
            rate = number * extraction.frames / (time.monotonic() - begun)
            if progress is not None:
                progress.show(done, f"{rate:.1f} frames/s")
    complete = all(shard.finished() for shard in shards)
    if complete and not (folder / INDEX_FILE).exists():
        _write_index(folder, shards, extraction)
    reports = [read_json(shard.report, "the ids of a file of features") for shard in own]
    skipped = tuple((name, reason) for report in reports for name, reason in report["skipped"])
    budget = BadBudget(max_bad_fraction)
    budget.add(total, len(skipped))
    budget.finish()
    return Extracted(total - len(skipped), skipped, complete, rate)


def _decoded(extraction: Extraction, item: Item) -> Any:
    try:
        return extraction.decode(item)
    except BadMedia as bad:
        return bad


def _encoded(extraction: Extraction, item: Item, decoded: Any) -> Features | BadMedia:
    features = extraction.encode(decoded)
    values = list(features.arrays.values())
    if not any(np.any(value) for value in values):
        return BadMedia(str(item.media), "all features are zero")
    if not all(np.isfinite(value).all() for value in values):
        return BadMedia(str(item.media), "features are not finite; float16 may be too small for them")
    return features


class _Shard:
    """One file of features in the making."""

    def __init__(self, folder: Path, number: int, files: int, items: Sequence[Item]):
        stem = f"features-{number:05d}-of-{files:05d}"
        self.items, self.file = items, folder / f"{stem}.array_record"
        self.report, self.path = folder / f"{stem}.json", folder / f"{stem}.spool"
        self.spool: list[bytes] = []
        self.handle = None

    def finished(self) -> bool:
        return self.file.exists() and self.report.exists()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Opens the spool, reads what a former run left whole in it, and keeps other processes out."""
        self.handle = self.path.open("a+b")
        try:
            _lock(self.handle, self.path)
            self.handle.seek(0)
            good = 0
            for data in _records(self.handle):
                self.spool.append(data)
                good += _FRAME.size + len(data)
            self.handle.truncate(good)
            self.handle.seek(0, os.SEEK_END)
            yield
        finally:
            if self.handle is not None:
                self.handle.close()
                self.handle = None

    def add(self, key: str, got: Features | BadMedia) -> None:
        if isinstance(got, BadMedia):
            data = _SKIPPED + json.dumps([key, got.reason], ensure_ascii=False).encode("utf-8", "surrogatepass")
        else:
            data = _RECORD + pack_features(key, got)
        self.handle.write(_FRAME.pack(len(data), zlib.crc32(data)) + data)
        self.handle.flush()
        self.spool.append(data)

    def close_if_whole(self) -> None:
        """A spool with all examples becomes the file."""
        if self.handle is None or len(self.spool) < len(self.items):
            return
        from array_record.python.array_record_module import ArrayRecordWriter

        ids, skipped, arrays = [], [], {}
        partial = f"{self.file}.partial"
        writer = ArrayRecordWriter(partial, "group_size:1,uncompressed")
        for item, data in zip(self.items, self.spool):
            kind, data = data[:1], data[1:]
            if kind == _SKIPPED:
                skipped.append(json.loads(data.decode("utf-8", "surrogatepass")))
                continue
            writer.write(data)
            ids.append(item.key)
            if not arrays:
                got = unpack_features(data, str(self.file)).arrays
                arrays = {name: [value.dtype.str, list(value.shape)] for name, value in got.items()}
        writer.close()
        _write_json(self.report, {"count": len(ids), "ids": ids, "skipped": skipped, "arrays": arrays})
        os.replace(partial, self.file)
        self.handle.close()
        self.handle = None
        self.path.unlink()
        self.spool = []


def _records(handle) -> Iterator[bytes]:
    """The whole records of a spool, up to the first that is cut off or damaged."""
    while len(head := handle.read(_FRAME.size)) == _FRAME.size:
        length, checksum = _FRAME.unpack(head)
        data = handle.read(length)
        if len(data) != length or zlib.crc32(data) != checksum:
            return
        yield data


def _lock(handle, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{path}: another process is making this file; give each its own --process") from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
            raise


def _claim(folder: Path, extraction: Extraction, per_file: int) -> None:
    """Says what is made in the folder; InputError where that is something else."""
    keys = hashlib.sha256(
        "\n".join(f"{i.key}\t{i.start_s}\t{i.end_s}" for i in extraction.items).encode("utf-8", "replace")
    )
    claim = {"version": VERSION, "examples": len(extraction.items), "ids": keys.hexdigest(), "per_file": per_file}
    claim = json.loads(json.dumps({**claim, "provenance": dict(extraction.provenance)}))
    path = folder / CLAIM
    if path.exists():
        found = read_json(path, "what is extracted here")
        old, new = ({**c, **c.get("provenance", {})} for c in (found, claim))
        other = [f"{k} {old.get(k)!r} instead of {new[k]!r}" for k in new if k != "provenance" and old.get(k) != new[k]]
        if other:
            raise InputError(
                f"{folder}: holds features of another extraction ({'; '.join(other[:3])}); choose another folder, or "
                "remove it"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no extraction; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(path, claim)


def _write_index(folder: Path, shards: Sequence[_Shard], extraction: Extraction) -> None:
    reports = [read_json(shard.report, "the ids of a file of features") for shard in shards]
    arrays = next((report["arrays"] for report in reports if report["arrays"]), None)
    if arrays is None:
        first = reports[0]["skipped"][0]
        raise InputError(f"{folder}: none of the examples can be used; first: {first[0]}: {first[1]}")
    content = {
        "version": VERSION,
        "count": sum(report["count"] for report in reports),
        "arrays": arrays,
        "shards": [{"file": s.file.name, "count": r["count"]} for s, r in zip(shards, reports)],
        "ids": [name for report in reports for name in report["ids"]],
        "skipped": [pair for report in reports for pair in report["skipped"]],
        "provenance": dict(extraction.provenance),
    }
    _write_json(folder / INDEX_FILE, content)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1))

"""Videos in an LMDB, as some published pipelines keep them: key = base name of the file, value = its encoded bytes.

A video inside is called by a path, `videos.lmdb/KEY`, so that records, logs and every function that takes a path
of a video (`video.open_source`, `video.load_clip`) need no other case. Either a folder with `data.mdb` or a single
file is taken. The package `lmdb` is needed only here: `pip install jaxvl[lmdb]`.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from typing import Any

from jaxvl.core.errors import BadMedia, InputError

ENDING = ".lmdb"
_LOCK = threading.Lock()
_OPEN: dict[str, tuple[int, Any]] = {}  # real path -> (process, environment): LMDB forbids a second one of a file


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """A video file in memory. name: what errors call it, `videos.lmdb/KEY`."""

    name: str
    data: bytes = dataclasses.field(repr=False)

    def __fspath__(self) -> str:
        """The name, where a path is printed."""
        return self.name


def is_lmdb(path: str | os.PathLike) -> bool:
    """Whether `path` is an LMDB: a folder with `data.mdb`, or a file that ends in `.lmdb` or `.mdb`."""
    name = os.fspath(path)
    if os.path.isdir(name):
        return os.path.isfile(os.path.join(name, "data.mdb"))
    return name.lower().endswith((ENDING, ".mdb")) and os.path.isfile(name)


def split_path(path: str | os.PathLike) -> tuple[str, str] | None:
    """`(LMDB, key)` of the path of a video inside an LMDB; None for every other path."""
    where, key = os.path.split(os.fspath(path))
    inside = bool(where and key) and is_lmdb(where) and not os.path.exists(os.path.join(where, key))
    return (where, key) if inside else None


def lmdb_keys(path: str | os.PathLike) -> Iterator[str]:
    """All keys, in their order (bytes). Raises InputError: no package `lmdb`, not an LMDB, a key that is not UTF-8."""
    name = os.fspath(path)
    with _environment(name).begin() as read, read.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            try:
                yield bytes(key).decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{name}: the key {bytes(key)!r} is not UTF-8; keys must be file names") from error


def read_video(path: str | os.PathLike) -> EncodedVideo:
    """The bytes behind `videos.lmdb/KEY`. Raises BadMedia where there is no such key or it is empty; else as
    `lmdb_keys`."""
    name = os.fspath(path)
    where, key = os.path.split(name)
    with _environment(where).begin() as read:
        data = read.get(key.encode())
    if data is None:
        raise BadMedia(name, "no such key in this LMDB")
    if not data:
        raise BadMedia(name, "empty value (0 bytes)")
    return EncodedVideo(name, bytes(data))


def _environment(path: str):
    """The open database, one a process: an environment must not be used across a fork."""
    try:
        import lmdb
    except ImportError as error:
        raise InputError(f"{path}: reading an LMDB needs the package lmdb: pip install 'jaxvl[lmdb]'") from error
    place = os.path.realpath(path)
    with _LOCK:
        process, environment = _OPEN.get(place, (None, None))
        if environment is not None and process != os.getpid():
            environment.close()  # inherited by a fork: closed for this process alone
            environment = None
        if environment is None:
            try:
                # lock=False: nobody writes, and the folder may be read-only; readahead would fetch what is not asked
                environment = lmdb.open(
                    path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False, create=False
                )
            except lmdb.Error as error:
                raise InputError(f"{path}: not a readable LMDB ({error}); copy it again") from error
            _OPEN[place] = (os.getpid(), environment)
        return environment

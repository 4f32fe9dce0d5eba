"""Where a run's workdir lies: a folder of this machine or one in a bucket. The only place that knows the difference.

`Disk` is a folder: everything happens in it. `Bucket` is `gs://BUCKET/FOLDER`, where objects are written as wholes, and
neither grow nor lock: a run works in a spool, a folder of its own on this machine's disk, so that readers, methods and
writers see files as ever. `fetch` brings what the bucket holds, `publish` takes back what has changed. Checkpoints
never pass through the spool: Orbax writes them into the bucket, after `publish`, so that a checkpoint's rows of metrics
are there before it is.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.storage.bucket import Bucket
from jaxvl.core.storage.disk import Disk
from jaxvl.core.storage.errors import as_os_errors, is_away, patiently, reached

__all__ = [
    "Bucket",
    "Disk",
    "address",
    "as_os_errors",
    "at",
    "check_folder",
    "is_away",
    "named",
    "opened",
    "patiently",
    "reached",
    "under",
]
Say = Callable[[str], None]

SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL | re.IGNORECASE)
CUT = re.compile(r"(gs|s3|az|hf|hdfs|https?|file):/(?=[^/])", re.IGNORECASE)  # a Path takes one of the slashes away
NO_FOLDER = re.compile(r"[^/]*|/.*|.*//.*|.*[#?*\[\]\x00-\x1f].*|(.*/)?\.\.?(/.*)?", re.DOTALL)


def address(workdir: str | Path, field: str = "--workdir") -> str | None:
    """`gs://BUCKET/FOLDER`, or None for a folder of this machine. Raises InputError, which names `field`, for anything
    else."""
    text = str(workdir)
    if not text.strip() or "\0" in text:
        raise InputError(f"{field}: is empty; name a folder")
    found = SCHEME.fullmatch(CUT.sub(r"\1://", text, count=1) if CUT.match(text) else text)
    if found is None or os.path.exists(text):
        return None
    scheme, rest = found.group(1).lower(), found.group(2).rstrip("/")
    if scheme == "file":
        raise InputError(f"{field} {text}: name the folder as it is, without file://")
    if scheme != "gs":
        raise InputError(
            f"{field} {text}: Orbax writes arrays to folders and to gs:// alone; mount the bucket and name the mount"
        )
    if NO_FOLDER.fullmatch(rest):
        raise InputError(
            f"{field} {text}: name a folder in the bucket, gs://BUCKET/FOLDER, without any of # ? * [ ] and without "
            "steps of . or .."
        )
    return f"gs://{rest}"


def check_folder(workdir: str | Path, field: str = "--workdir") -> None:
    """Raises InputError where `workdir` is a file."""
    if os.path.exists(workdir) and not os.path.isdir(workdir):
        raise InputError(f"{field} {workdir}: is a file; name a folder")


def under(workdir: str | Path, name: str) -> str | Path:
    """The address of a folder in a workdir, which is a workdir, too."""
    url = address(workdir)
    return f"{url}/{name}" if url else Path(workdir) / name


def at(workdir: str | Path | Disk) -> Disk:
    """The place of a workdir. One in a bucket is fetched, and kept as long as this process lives."""
    if isinstance(workdir, Disk):
        return workdir
    if (url := address(workdir)) is None:
        return Disk(workdir)
    place = Bucket(url)
    atexit.register(place.close)
    place.fetch()
    return place


@contextlib.contextmanager
def opened(
    workdir: str | Path, say: Say, fetch: bool = True, asked: bool = True, field: str = "--workdir"
) -> Iterator[Disk]:
    """The place of a workdir, for one verb. At the end, also of one that fails, what it has written is published.

    fetch: before anything else. Without it the caller does both, as long as it holds the workdir. asked: whether a
    bucket that cannot be written is an error, or costs a line. field: what an error names.
    """
    url = address(workdir, field)
    if url is None:
        check_folder(workdir, field)
        yield Disk(workdir)
        return
    place = Bucket(url)
    try:
        if fetch:
            place.fetch()
        try:
            with named(place):
                yield place
        except BaseException:
            if fetch:
                _publish(place, say, asked=False)
            raise
        if fetch:
            _publish(place, say, asked)
    finally:
        place.close()


@contextlib.contextmanager
def named(place: Disk) -> Iterator[None]:
    """While it lasts, what the user is told is wrong is named as `place.shown` does."""
    try:
        yield
    except InputError as error:
        error.args = (place.shown(str(error)),)
        raise
    except BadMedia as error:
        error.path, error.reason = place.shown(error.path), place.shown(error.reason)
        raise


def _publish(place: Disk, say: Say, asked: bool) -> None:
    try:
        place.publish()
    except InputError as error:
        if asked:
            raise
        say(f"not kept: {error}")

"""A workdir in a bucket of Google Cloud Storage: what is written at its place, and what by way of the spool."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxvl.core import processes
from jaxvl.core.errors import InputError
from jaxvl.core.files import write_bytes
from jaxvl.core.storage.disk import Disk, Say, Stored, crc
from jaxvl.core.storage.errors import as_os_errors, patiently, reached, reason
from jaxvl.core.storage.spool import HERE_ONLY, Spool

THERE_ONLY = ("checkpoints", "integrity", "damaged", "previous", "run.lock")
"""What is read and written at its place and is never in the spool."""
NOT_READ = ("tensorboard",)
"""What is published and not fetched: a run adds files, and reads none."""
OWN = "bad_inputs.jsonl"
"""A file that each process writes for itself: in a bucket process 1 calls it `bad_inputs.1.jsonl`."""
MARKS = ("config.json", "weights.json", "metrics.jsonl")
"""A run, also one that has lost its config, or converted weights: anything else is not fetched."""
PUBLISH_S = 30.0
"""Between two looks for what a running training has written."""
AT_ONCE = 16
"""Objects that are on their way at the same time."""


class Bucket(Disk):
    """A workdir in a bucket of Google Cloud Storage, with its spool. Raises InputError where gcsfs is not installed, or
    the spool cannot be made."""

    has_locks = False
    sums = ".crc32c"  # what the service keeps of every object: no byte has to be read again

    def __init__(self, url: str):
        self.url, self._fs = url, _filesystem(url)
        self._spool = Spool(url)
        super().__init__(self._spool.folder)
        self.title = url.rsplit("/", 1)[-1]
        self._known: dict[str, tuple[int, int, int]] = {}
        """Files that are alike here and there: `(size, time of the last change here, CRC-32)`."""
        self._fetched: dict[str, str] = {}
        """Of them those that were fetched, by their name in the bucket, with their generation."""
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self.url

    # -- the spool -----------------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Brings what the bucket holds and this process has not, if a run was made there."""
        with self._lock, self._reading():
            if not any(self._fs.exists(f"{self.url}/{name}") for name in MARKS):
                return
            there = {n: str(row.get("generation")) for n, row in self._listed("").items() if self._is_fetched(n)}
            for name in [name for name in self._fetched if name not in there]:
                self._forget(self._local(name))
            new = [n for n, generation in there.items() if self._fetched.get(n) != generation]
            others = [n for n in new if n in self._fetched and _owner(n) is None]
            new = [n for n in new if n in others or self._local(n) not in self._known]
            self._in_parallel(self._fetch_one, new)
            self._fetched |= {n: there[n] for n in new}

    def publish(self) -> None:
        """Takes what has changed here to the bucket. Of several processes the first one does, the others take `OWN`.

        Nothing is taken away there: who clears a folder of caches means no results. Raises InputError then, since what
        is written here from now on may never be seen."""
        self.guard()
        with self._lock:
            found = {name: path for name, path in self._files() if self._is_published(name)}
            if lost := [name for name in self._known if name not in found and self._is_published(name)]:
                raise InputError(
                    f"{self.url}: its {lost[0]} in {self.folder.parent} was taken away while it was in use; give the "
                    "same command again, with a folder that nobody clears in JAXVL_SPOOL"
                )
            with self._writing():
                changed = [name for name, path in found.items() if self._has_changed(name, path)]
                self._in_parallel(self._publish_one, changed)

    @contextlib.contextmanager
    def kept_up(self, say: Say) -> Iterator[None]:
        """A thread publishes while it lasts. A bucket that cannot be reached is told once, and costs nothing yet."""
        ended, failing = threading.Event(), False

        def work() -> None:
            nonlocal failing
            while not ended.wait(PUBLISH_S):
                try:
                    self.publish()
                except InputError as error:
                    if not failing:
                        say(f"{error}; tried again every {PUBLISH_S:.0f} s, and before a checkpoint")
                    failing = True
                else:
                    failing = False

        thread = threading.Thread(target=work, name="workdir publisher", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            try:
                self.publish()
            except InputError as error:
                say(f"not kept: {error}")
            raise
        ended.set()
        thread.join()
        patiently(self.publish, say)

    def shown(self, text: str) -> str:
        """`text` with the bucket in the place of the spool, but where this machine's disk is at fault."""
        return text if "cannot be written" in text else text.replace(str(self.folder), self.url)

    @contextlib.contextmanager
    def printing(self) -> Iterator[None]:
        """Both streams of this process speak of the bucket."""
        with (
            contextlib.redirect_stdout(_Shown(sys.stdout, self.shown)),  # type: ignore[type-var]
            contextlib.redirect_stderr(_Shown(sys.stderr, self.shown)),  # type: ignore[type-var]
        ):
            yield

    def _files(self) -> Iterator[tuple[str, Path]]:
        for root, folders, names in os.walk(self.folder):
            folders[:] = [
                f for f in folders if not f.startswith(".") and (Path(root) != self.folder or f not in HERE_ONLY)
            ]
            for name in names:
                if not name.startswith("."):  # one that is being made, and will have another name or none
                    path = Path(root, name)
                    yield path.relative_to(self.folder).as_posix(), path

    def _is_fetched(self, name: str) -> bool:
        top = name.split("/", 1)[0]
        hidden = name.startswith(".") or "/." in name
        owner = _owner(name)
        return not hidden and top not in (*THERE_ONLY, *HERE_ONLY, *NOT_READ) and owner in (None, processes.index())

    def _is_published(self, name: str) -> bool:
        return name == OWN or processes.index() == 0

    def _remote(self, name: str) -> str:
        """What a file of the spool is called in the bucket."""
        index = processes.index()
        return OWN.replace(".", f".{index}.") if name == OWN and index else name

    def _local(self, name: str) -> str:
        return name if _owner(name) is None else OWN

    def _has_changed(self, name: str, path: Path) -> bool:
        now, known = path.stat(), self._known.get(name)
        if known is None or known[0] != now.st_size:
            return True
        if known[1] == now.st_mtime_ns:
            return False
        if known[2] != crc(path):
            return True
        self._known[name] = (known[0], now.st_mtime_ns, known[2])
        return False

    def _forget(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self._known.pop(name, None)
        self._fetched.pop(self._remote(name), None)

    def _fetch_one(self, name: str) -> None:
        path = self.folder / self._local(name)
        content = self._fs.cat_file(f"{self.url}/{name}")
        write_bytes(path, content)
        self._known[self._local(name)] = (len(content), path.stat().st_mtime_ns, zlib.crc32(content))

    def _publish_one(self, name: str) -> None:
        path = self.folder / name
        changed, content = path.stat().st_mtime_ns, path.read_bytes()
        self._fs.pipe_file(f"{self.url}/{self._remote(name)}", content)
        self._known[name] = (len(content), changed, zlib.crc32(content))

    @staticmethod
    def _in_parallel(function: Callable[[str], None], names: Sequence[str]) -> None:
        if not names:
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
            list(pool.map(function, names))

    # -- the bucket ----------------------------------------------------------------------------------------------------

    def where(self, name: str) -> Path | str:
        """A folder's address."""
        return f"{self.url}/{name}"

    def children(self, name: str) -> list[str]:
        """Names of what lies in a folder."""
        with self._reading():
            try:
                found = self._fs.ls(f"{self.url}/{name}", detail=False)
            except FileNotFoundError:
                return []
        return sorted({p.rstrip("/").rsplit("/", 1)[-1] for p in found} - {""})

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name, or one in such a folder."""
        with self._reading():
            return self._fs.exists(f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        """An object's content. Raises OSError, or Unavailable."""
        with reached(f"{self.url}/{name}"):
            return self._fs.cat_file(f"{self.url}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Writes an object."""
        with self._writing(name):
            self._fs.pipe_file(f"{self.url}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object that is not there; False where it is."""
        with self._writing(name):
            try:
                self._fs.pipe_file(f"{self.url}/{name}", content, mode="create")
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Takes the objects of this name, or in such a folder, away."""
        with self._writing(name):
            self._in_parallel(self._remove_one, list(self._listed(name)))

    def _remove_one(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # also said of one that is gone by the first of two tries
            self._fs.rm_file(f"{self.url}/{name}")

    def move(self, source: str, target: str) -> None:
        """Copies the objects within the bucket, then takes them away where they were."""
        with self._writing(target):
            names = list(self._listed(source))
            if names:
                self.remove(target)
            copy = lambda n: self._fs.cp_file(f"{self.url}/{n}", f"{self.url}/{target}{n.removeprefix(source)}")  # noqa: E731
            self._in_parallel(copy, names)
            self._in_parallel(self._remove_one, names)
        with self._lock:  # and out of the spool
            for name in [n for n in self._known if n == source or n.startswith(f"{source}/")]:
                self._forget(name)

    def stored(self, name: str) -> dict[str, Stored]:
        """Every object below a folder; the checksums are those that the service keeps."""
        rows = {n.removeprefix(f"{name}/"): row for n, row in self._listed(name).items()}
        return {n: Stored(int(r["size"]), lambda r=r: _crc32c(r)) for n, r in sorted(rows.items())}

    def _listed(self, name: str) -> dict[str, dict[str, Any]]:
        """The objects of this name, or in such a folder, by their path from the workdir."""
        root = self.url.removeprefix("gs://")
        with reached(f"{self.url}/{name}"):
            found = self._fs.find(f"{root}/{name}".rstrip("/"), detail=True)
        return {n.removeprefix(f"{root}/"): row for n, row in found.items() if not n.endswith("/")}

    def close(self) -> None:
        """Leaves the spool to the next."""
        self._spool.close()

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return _told(self.url, "read")

    def _writing(self, name: str = "") -> contextlib.AbstractContextManager[None]:
        return _told(f"{self.url}/{name}".rstrip("/"), "written")


@contextlib.contextmanager
def _told(where: str, done: str) -> Iterator[None]:
    """A bucket that does not answer as it should, as one line."""
    try:
        with reached(where, done):
            yield
    except OSError as error:
        gone = done == "written" and isinstance(error, FileNotFoundError) and error.filename is None  # needs no folder
        raise InputError(
            f"{where}: cannot be {done} ({'there is no such bucket' if gone else reason(error)}); look at its name, at "
            "the network, and whether this machine has the right (gcloud auth application-default login)"
        ) from None


class _Shown(io.TextIOBase):
    """A stream in front of another, which changes what is written."""

    def __init__(self, stream: Any, change: Callable[[str], str]):
        self._stream, self._change = stream, change

    def write(self, text: str) -> int:
        self._stream.write(self._change(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def _filesystem(url: str) -> Any:
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # prints a traceback of what it raises as well
    logging.getLogger("google.auth").setLevel(logging.ERROR)  # where else it has looked for the right
    for name in ("gs", "gcs"):  # also for Orbax: what another process writes must show
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    try:
        with as_os_errors():
            return fsspec.filesystem("gs")
    except ImportError as error:
        why = error.__cause__ or error  # of gcsfs itself, or of something that it needs
        raise InputError(
            f"--workdir {url}: needs gcsfs ({why}); pip install 'jaxvl[gcs]', or mount the bucket"
        ) from None
    except OSError as error:
        raise InputError(f"--workdir {url}: cannot be reached ({reason(error)})") from None


def _owner(name: str) -> int | None:
    """The process whose own file this is."""
    if name == OWN:
        return 0
    found = re.fullmatch(re.escape(OWN).replace(r"\.", r"\.([0-9]+)\.", 1), name)
    return int(found.group(1)) if found else None


def _crc32c(row: dict[str, Any]) -> int:
    return int.from_bytes(base64.b64decode(row.get("crc32c") or "AAAAAA=="), "big")

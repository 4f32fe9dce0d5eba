"""One training a workdir: a lock that a killed run does not leave behind, also on disks that several machines share.

`WORKDIR/run.lock` is locked (`flock`) as long as its run lives: the kernel frees it with the process, however that
ends, also on NFS. It names its run, and the run writes a counter into it every few seconds, since some shared disks do
not lock between machines, or not at all. A file of a run on another machine is watched for a while: does its counter
stand still, that run is gone. A bucket has no locks: there the counter alone tells.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxvl.core import storage
from jaxvl.core.errors import InputError, Unavailable
from jaxvl.core.files import cannot_write, printable

LOCK_FILE = "run.lock"
BEAT_S = 10.0
"""Between two counts of a run."""
PATIENCE_S = 35.0
"""So long a counter stands still before its run is taken for gone."""
SIZE = 512
"""Bytes of the file: it never grows, so that a full disk does not stop the counter."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Lease:
    """A workdir held by this run, until `release`. `lost`: who took it, if this run stood still for too long."""

    def __init__(self, workdir: str | Path | storage.Disk, say: Callable[[str], None], beat_s: float = BEAT_S):
        self.place = storage.at(workdir)
        self.path, self.say = self.place.folder / LOCK_FILE, say
        self.lost: str | None = None
        self._own = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "boot": _boot(),
            "token": uuid.uuid4().hex,
            "beat": 0,
        }
        self._ended = threading.Event()
        self._handle: int | None = None
        if self.place.has_locks:
            self._handle, locks = self._open()
            try:
                self._await_the_other(locks)
                self._write()
                if not locks:
                    self._look_twice()
            except BaseException:
                os.close(self._handle)
                raise
        else:
            self._create()
        self._thread = threading.Thread(target=self._beat, args=(beat_s,), name="workdir lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises InputError where another run holds the workdir by now: nothing more is written into it."""
        if self.lost is not None:
            raise InputError(f"--workdir {self.place}: was taken over by another training ({self.lost}); this one ends")

    def release(self) -> None:
        """Lets the next run in."""
        self._ended.set()
        self._thread.join()
        if self.lost is None:
            with contextlib.suppress(OSError, InputError):  # a disk that went read-only: the lock ends with the handle
                self.place.remove(LOCK_FILE)
        if self._handle is not None:
            os.close(self._handle)

    def _open(self) -> tuple[int, bool]:
        """The file's handle, and whether this disk locks. Raises InputError where a run on this machine holds it."""
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise cannot_write(self.path, error) from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return handle, False
                other = self._read()
                os.close(handle)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise cannot_write(self.path, error) from None
                raise self._refusal(other) from None
            with contextlib.suppress(FileNotFoundError):  # its run ended just now, and took it away
                if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                    return handle, True
            os.close(handle)

    def _create(self) -> None:
        """The file in a bucket, where one alone of several can create it. One that a killed run has left is taken away
        after its counter was watched; where two do so at once, the later one holds it."""
        left = False
        while not self.place.create(LOCK_FILE, self._text()):
            other = self._read()
            if other is None:
                raise Unavailable(f"{self.place}/{LOCK_FILE}: cannot be read; look at the network and give this again")
            self._await_the_other(False)
            if self._read() == other:
                self.place.remove(LOCK_FILE)
                left = True
        if left:
            self._look_twice()

    def _look_twice(self) -> None:
        """Where two came at once the later writer holds the workdir. Raises InputError if that was the other."""
        time.sleep(1.0)
        self._read_back()
        self.check()

    def _await_the_other(self, locks: bool) -> None:
        """Returns once no run holds the file; watches the counter of one that no lock tells of."""
        other = self._read()
        if not other or (locks and other.get("boot") == self._own["boot"]):
            return
        self.say(f"{self.path}: of {_named(other)}; waiting {PATIENCE_S:.0f} s to see whether that run still lives")
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE_S:
            time.sleep(min(1.0, PATIENCE_S / 10))
            now = self._read()
            if now == {}:
                return
            if now and (now.get("token"), now.get("beat")) != (other.get("token"), other.get("beat")):
                raise self._refusal(now)

    def _refusal(self, other: dict[str, Any] | None) -> InputError:
        return InputError(
            f"--workdir {self.place}: another training is at work there ({_named(other)}); wait for it, end it, or "
            "name another folder"
        )

    def _text(self) -> bytes:
        return json.dumps(self._own).encode()[:SIZE].ljust(SIZE)

    def _write(self) -> None:
        text = self._text()
        if self._handle is None:
            self.place.write(LOCK_FILE, text)
            return
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)  # opened anew: NFS then shows it to others
            try:
                os.write(handle, text)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _beat(self, every: float) -> None:
        while not self._ended.wait(every):
            self._read_back()
            if self.lost is not None:
                return
            self._own["beat"] += 1
            with contextlib.suppress(InputError):  # a disk that is away for a moment
                self._write()

    def _read_back(self) -> None:
        now = self._read()
        if now and now.get("token") != self._own["token"]:
            self.lost = _named(now)

    def _read(self) -> dict[str, Any] | None:
        """Who holds the file; {} where nobody does, or where it says nothing; None where it cannot be read."""
        try:
            found = json.loads(self.place.read(LOCK_FILE).decode())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        except (OSError, Unavailable):
            return None
        return found if isinstance(found, dict) else {}


def _named(other: dict[str, Any] | None) -> str:
    if not other:
        return "it has not said which"
    return printable(f"host {other.get('host')}, process {other.get('pid')}, since {other.get('since')}")


def _boot() -> str:
    """This start of this machine, which a host's name alone does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()

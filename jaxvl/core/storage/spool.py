"""The folder of this machine in which a process works with a bucket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import zlib
from pathlib import Path
from urllib.parse import quote

from jaxvl.core.errors import InputError

HERE_ONLY = ("cache",)
"""What stays in a spool from run to run and is never in the bucket: compiled programs, what a reader has prepared."""


class Spool:
    """A folder of this process for one address. Killed, it leaves the folder to the next, which empties it."""

    def __init__(self, url: str):
        root = Path(os.environ.get("JAXVL_SPOOL") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxvl")
        root = root.expanduser().absolute()
        above = root / f"{quote(url, safe='')[-100:]}-{zlib.crc32(url.encode()):08x}"
        try:
            above.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number in range(1000):
                self._handle = os.open(above / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # of another process that works with this address
                    os.close(self._handle)
                    continue
                self.folder = above / str(number)
                self.folder.mkdir(exist_ok=True)
                self._empty()
                return
        except OSError as error:
            raise InputError(
                f"--workdir {url}: needs a folder on this machine to work in, and {root} cannot be made "
                f"({error.strerror or error}); name one by JAXVL_SPOOL"
            ) from None
        raise InputError(f"--workdir {url}: a thousand processes of this machine work with it; end some")

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in HERE_ONLY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Takes the files away and lets the next in."""
        with contextlib.suppress(OSError):
            self._empty()
        os.close(self._handle)

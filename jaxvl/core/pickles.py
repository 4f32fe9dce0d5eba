"""Pickles of strangers: no size that they claim is allocated. What their names mean is the reader's to say."""

from __future__ import annotations

import pickletools
from typing import BinaryIO


class Bounded:
    """A file of which no more is asked than there is left: some readers allocate what they are told first."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        left = max(0, self.size - self.file.tell())
        return self.file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        """As of a file."""
        return self.file.readline()

    def tell(self) -> int:
        """As of a file."""
        return self.file.tell()


def check_opcodes(file: Bounded) -> None:
    """Looks through the next pickle and goes back to its beginning.

    Raises ValueError where it puts something at a place of the memo that it could not have reached, as many of which
    the unpickler would allocate, and for what is no pickle.
    """
    begin = file.tell()
    for count, (code, argument, _) in enumerate(pickletools.genops(file), 1):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise ValueError(f"memo place {argument} after {count} opcodes")
    file.file.seek(begin)

"""The errors that end a command with one line, and nothing else.

`InputError` ends a command with exit code 2 and its message as the only line (no traceback); `Unavailable`, a kind of
it that is nobody's wrong input, with 1, so that a supervisor starts the command again.
`BadMedia` is one file that cannot be used; the data pipeline turns it into a counted skip or an
`InputError`, by `config.pipeline.on_error`.
"""

from __future__ import annotations

import pickle
import struct
import tokenize
import zipfile
import zlib

DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, MemoryError),
    *(RuntimeError, SyntaxError, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile),
    pickle.UnpicklingError,
)
"""What numpy, Pillow and the standard library raise for files that are damaged: whatever their reading happens on."""


class InputError(Exception):
    """What the user gave is wrong. The message names the file or field and the mend, in one line. `code`: the exit
    code."""

    code = 2


class Unavailable(InputError):
    """A service does not answer. The same command, given later, goes on from the last checkpoint."""

    code = 1


class BadMedia(Exception):
    """One media file cannot be decoded. Args: `path` of the file, `reason` in a few words."""

    code = 2

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both in args, so that it survives pickling between processes
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

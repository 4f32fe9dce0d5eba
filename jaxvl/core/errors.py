"""The two errors a user's input may raise, and nothing else.

`InputError` ends a command with exit code 2 and its message as the only line (no traceback).
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
    """What the user gave is wrong. The message names the file or field and the mend, in one line."""


class BadMedia(Exception):
    """One media file cannot be decoded. Args: `path` of the file, `reason` in a few words."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both in args, so that it survives pickling between processes
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

"""Small files of a run: UTF-8 whatever the locale, replaced as a whole, and one line where they are damaged or cannot
be written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxvl.core.errors import InputError

UNSEEN = ("Cc", "Cs", "Zl", "Zp")
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable"),
    **dict.fromkeys((errno.EIO, errno.ETIMEDOUT, errno.ESTALE), "look whether its disk still answers"),
}
"""What is wrong with a disk -> what helps."""
KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end: a reader sees the old content or the new one, never half of
    it. Raises InputError where it cannot be written (no space, no right), and the old content stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """The line for a file that cannot be written."""
    either = f"{mend(error)}, or name another place" if mend(error) else "name another place"
    return InputError(f"{path}: cannot be written ({error.strerror or error}); {either}")


def mend(error: Exception) -> str:
    """What helps a place that cannot be written, '' where it depends.

    Libraries in C++ give the reason in words, without a number.
    """
    for number, words in MENDS.items():
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return words
    return "look whether its disk still answers" if isinstance(error, TimeoutError) else ""


def keep(path: Path, write: Callable[[Path], None], asked: bool, say: Callable[[str], None]) -> Path | None:
    """Lets `write` make a file that takes the place of `path`. Where nobody asked for it there, a place that cannot be
    written costs a line only, and None comes back; else InputError."""
    try:
        with replacing(path) as unfinished:
            write(unfinished)
    except InputError as error:
        if asked:
            raise
        say(f"not kept: {error}")
        return None
    return path


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one go, see `replacing`. Lone surrogates, of names that are not UTF-8, are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one go, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_json(path: Path, kind: type, mend: str) -> Any:
    """What a JSON file holds, a `kind`. Raises InputError with `mend` for whatever else is there."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {mend}") from None
    return json_of(content, kind, path, mend)


def json_of(content: bytes, kind: type, path: str | Path, mend: str) -> Any:
    """As `read_json`, of what was read from `path`."""
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); {mend}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error.msg}, line {error.lineno}); {mend}") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, thousands of brackets
        raise InputError(f"{path}: not JSON that a run writes; {mend}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds {type(value).__name__} in place of {KINDS[kind]}; {mend}")
    return value


def printable(text: str) -> str:
    """`text` with everything escaped that changes what a terminal shows: line breaks, escape codes, marks that turn the
    direction of writing, bytes of names that are not UTF-8."""
    return "".join(_escaped(c) if unicodedata.category(c) in UNSEEN or c in TURNING else c for c in text)


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape", "surrogatepass").decode()

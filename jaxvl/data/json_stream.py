"""Large JSON files item by item, with memory for a few items only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import require_file

CHUNK = 1 << 22  # characters read at a time
LARGEST = 1 << 26  # characters of one item; more is taken for broken JSON
_SPACE = " \t\r\n"


def stream_json(path: str | os.PathLike, what: str) -> Iterator[tuple[str | None, Any]]:
    """The items of a JSON file in order, as `(key, value)`; the key is None where there is none.

    The file is an object of objects, `{id: {...}, ...}`, a list, or one value a line (`.jsonl`); which one is seen from
    its first characters, not from its name. A key that comes twice is given twice. `what` the file is for goes into
    errors. Raises InputError: no such file, broken or cut JSON (with the place and the last good key), not UTF-8.
    """
    name = require_file(path, what)
    with open(name, encoding="utf-8-sig", newline="") as file:
        yield from _Walk(file, name, what).items()


class _Walk:
    """A position in the text of a file that is read piece by piece."""

    def __init__(self, file, name: str, what: str):
        self.file, self.name, self.what = file, name, what
        self.decode = json.JSONDecoder().raw_decode
        self.text, self.at, self.dropped, self.ended = "", 0, 0, False
        self.last = "the beginning"

    def items(self) -> Iterator[tuple[str | None, Any]]:
        first = self.peek()
        if first == "[":
            self.at += 1
            yield from self.listed("]", keyed=False)
        elif first == "{" and self.is_keyed():
            self.at += 1
            yield from self.listed("}", keyed=True)
        elif first:
            while self.peek():
                value = self.value()
                yield None, value
        else:
            raise InputError(f"{self.name}: empty file ({self.what})")
        if self.peek():
            raise self.broken("more text after the end")

    def listed(self, end: str, keyed: bool) -> Iterator[tuple[str | None, Any]]:
        if self.peek() == end:
            self.at += 1
            return
        while True:
            key = None
            if keyed:
                if self.peek() != '"':
                    raise self.broken("a key in quotes is missing")
                key = self.value()
                self.expect(":")
                self.last = repr(key)
            yield key, self.value()
            mark = self.peek()
            if mark == end:
                self.at += 1
                return
            self.expect(",")

    def is_keyed(self) -> bool:
        """Whether the object that begins here holds objects, so that it is the whole file and not the first of many."""
        begun = self.at
        self.at += 1
        if self.peek(begun) == '"':
            self.value(begun)
            keyed = self.peek(begun) == ":" and self.peek_behind(begun) == "{"
        else:
            keyed = self.peek(begun) == "}"
        self.at = begun
        return keyed

    def peek_behind(self, kept: int) -> str:
        self.at += 1
        return self.peek(kept)

    def peek(self, kept: int | None = None) -> str:
        """The next character that is no blank, '' at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.fill(kept):
                return ""

    def expect(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.broken(f"{mark!r} is missing")
        self.at += 1

    def value(self, kept: int | None = None) -> Any:
        self.peek(kept)
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > LARGEST or not self.fill(kept):
                    reason = f"the file is cut off ({error.msg})" if self.ended else error.msg
                    raise self.broken(reason) from error
                continue
            if end == len(self.text) and not self.ended and self.fill(kept):
                continue  # a number or word may go on
            self.at = end
            return value

    def fill(self, kept: int | None = None) -> bool:
        """Reads on; what lies before the position (or before `kept`) is dropped."""
        try:
            more = self.file.read(CHUNK)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: not UTF-8 ({error.reason}); save {self.what} as UTF-8") from error
        if not more:
            self.ended = True
            return False
        if kept is None:
            self.text, self.dropped, self.at = self.text[self.at :] + more, self.dropped + self.at, 0
        else:
            self.text += more
        return True

    def broken(self, reason: str) -> InputError:
        where = f"near character {self.dropped + self.at:,}, after {self.last}"
        return InputError(f"{self.name}: broken JSON {where}: {reason}; fetch {self.what} again")

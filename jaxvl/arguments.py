"""Argument parsing with one-line errors: a wrong word on the command line is wrong input like any other."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable
from typing import NoReturn

from jaxvl.core.errors import InputError


def workdir(text: str) -> str:
    """A folder, or an address: `~` is the home folder, which no shell resolves behind a `=`."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("is empty; name a file or folder")
    return os.path.expanduser(text)


def place(text: str) -> str:
    """A path of this machine on the command line, as `workdir`."""
    if "://" in text and not os.path.exists(text):  # a path would be made of it, in the current folder
        raise argparse.ArgumentTypeError(f"{text[:80]}: name a file or folder of this machine; addresses are workdirs")
    return workdir(text)


PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of picture files with what Pillow calls them."""


def picture(text: str) -> str:
    """A picture file to write."""
    if os.path.splitext(place(text))[1].lower() not in PICTURES or os.path.isdir(place(text)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}: name a picture file ({', '.join(PICTURES)})")
    return place(text)


def whole(low: int) -> Callable[[str], int]:
    """A whole number of at least `low`."""

    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or int(text) < low:
            raise argparse.ArgumentTypeError(f"needs a whole number of at least {low}, got {text[:40]!r}")
        return int(text)

    return parse


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A finite number from `low` to `high`."""
    needs = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number of at least {low:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            raise argparse.ArgumentTypeError(f"needs {needs}, got {text[:40]!r}")
        return value

    return parse


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"needs a number above 0, got {text[:40]!r}")
    return value


def word(text: str) -> str:
    """A text that is not empty."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("is empty; leave the flag out, or name what you mean")
    return text


def pattern(text: str) -> str:
    """A regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no regular expression ({error})") from None
    return text


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that raises InputError, one line with the nearest verb, in place of a usage text."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Called by argparse for everything it refuses."""
        raise InputError(f"{message}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """argparse lists all choices; the nearest one is what the user needs."""
        if action.choices is not None and value not in action.choices:
            names = [str(name) for name in action.choices]
            near = difflib.get_close_matches(str(value), names, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise argparse.ArgumentError(action, f"{value!r} is unknown, {hint}")

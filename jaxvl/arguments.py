"""Argument parsing with one-line errors: a wrong word on the command line is wrong input like any other."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from jaxvl.core.errors import InputError


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

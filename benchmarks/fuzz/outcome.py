"""What a command made of a case: done, refused in one line, a traceback, a hang, or an answer that is wrong."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxvl import cli

HANG_S = 300
"""Of a machine that may be busy with other things: compiling alone takes ten quiet ones."""


class Case(NamedTuple):
    """One case. run: gives its outcome; expects: the outcomes that are right."""

    name: str
    run: Callable[[], tuple[str, str]]
    expects: tuple[str, ...] = ("refused",)


class Reached(Exception):
    """Raised by a stub: the command got to where it would begin to work."""


def command(words: Sequence[Any], printed: list[str] | None = None) -> tuple[str, str]:
    """`(outcome, last line of the errors)` of a `jaxvl` command, run in this process. printed: takes what it wrote to
    standard output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        outcome, detail = judged(lambda: cli.main([str(w) for w in words]))
    if printed is not None:
        printed[:] = [out.getvalue(), err.getvalue()]
    lines = [line for line in err.getvalue().splitlines() if line.startswith("jaxvl: ")]
    if outcome == "done" and detail == "2":
        raw = " ".join(lines)
        clean = len(lines) == 1 and not re.search(r"[\x00-\x1f\x7f]", raw) and "Traceback" not in err.getvalue()
        return ("refused" if clean else "more than a line"), (raw or err.getvalue())[:200]
    return outcome, detail


def judged(call: Callable[[], Any]) -> tuple[str, str]:
    """The outcome of anything, with its result in words."""
    with _alarm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "done", str(call())
        except Reached:
            return "accepted", ""
        except TimeoutError:
            return "hang", ""
        except SystemExit as end:
            return ("done" if end.code == 0 else "refused"), str(end.code)
        except Exception as error:  # noqa: BLE001 - whatever a user would see a traceback of
            if type(error).__name__ in ("InputError", "BadMedia"):
                return "refused", str(error)[:200]
            return report(error)


def report(error: Exception) -> tuple[str, str]:
    """A traceback that a user would see."""
    return "traceback", f"{type(error).__name__}: {error}"[:200].replace("\n", " ")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_):
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def tally(cases: Sequence[Case], say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> dict:
    """How many cases had which outcome, how many of them right, and the wrong ones."""
    counts: dict[str, int] = {}
    wrong: list[list[str]] = []
    for case in cases:
        outcome, detail = case.run()
        counts[outcome] = counts.get(outcome, 0) + 1
        if outcome not in case.expects:
            wrong.append([case.name, outcome, detail])
            say(f"{case.name}: {outcome} {detail}")
    return {"cases": len(cases), "right": len(cases) - len(wrong), "outcomes": counts, "wrong": wrong}

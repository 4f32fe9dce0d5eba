"""What becomes of files that cannot be decoded: a line in a log, a count, and a limit to the count."""

from __future__ import annotations

import json
import os

from jaxvl.core.errors import BadMedia, InputError

POLICIES = ("skip", "raise")
LEFT_OUT = "left_out.txt"
"""In a workdir: what the readers left out, a line `split, name, reason` each, where a report has room for a few."""


def check_policy(on_error: str) -> None:
    """Raises InputError where `on_error` is none of `POLICIES`."""
    if on_error not in POLICIES:
        raise InputError(f"config.pipeline.on_error is {on_error!r}: choose 'skip' or 'raise'")


def log_bad(bad_log: str | os.PathLike | None, example_id: str, bad: BadMedia) -> None:
    """Appends `{"id", "path", "reason"}` as one JSON line. One write: lines of several processes never mix."""
    if bad_log is None:
        return
    line = json.dumps({"id": example_id, "path": bad.path, "reason": bad.reason}, ensure_ascii=False) + "\n"
    os.makedirs(os.path.dirname(os.path.abspath(bad_log)), exist_ok=True)
    handle = os.open(bad_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(handle)


class BadBudget:
    """Stops a run when too large a share of its examples is bad.

    max_fraction: share that is allowed. min_seen: examples before the share counts (a bad file among the
    first ten says nothing). bad_log: named in the message.
    """

    def __init__(self, max_fraction: float, min_seen: int = 50, bad_log: str | os.PathLike | None = None):
        if not 0 <= max_fraction <= 1:
            raise InputError(f"config.pipeline.max_bad_fraction is {max_fraction}: it must lie between 0 and 1")
        self.max_fraction, self.min_seen, self.bad_log = max_fraction, min_seen, bad_log
        self.seen = self.bad = 0

    def add(self, seen: int, bad: int) -> None:
        """Counts `seen` more examples, `bad` of them bad. Raises InputError past the limit."""
        self.seen += int(seen)
        self.bad += int(bad)
        if self.seen >= self.min_seen:
            self.finish()

    def finish(self) -> None:
        """Applies the limit whatever the number of examples: for the end of a pass. Raises InputError."""
        if self.seen and self.bad > self.max_fraction * self.seen:
            where = f"; they are listed in {os.fspath(self.bad_log)}" if self.bad_log else ""
            raise InputError(
                f"{self.bad} of {self.seen} examples ({100 * self.bad / self.seen:.1f} %) have media that cannot be "
                f"decoded, more than config.pipeline.max_bad_fraction = {self.max_fraction:g}{where}"
            )

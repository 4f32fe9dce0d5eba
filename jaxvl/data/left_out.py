"""What a video file holds that no player can show, packets before its first key frame: counted where frames are read,
in whichever thread or process, and said once.

Nothing here may import jax: it runs in worker processes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

FIELD = "_left_out"
"""The field of a host batch: for each row `{path: packets}`. A batch of whole videos has none."""
_of_this_thread = threading.local()
_of_this_process: list[dict[str, int]] = []


def note(path: str, packets: int) -> None:
    """Counts `packets` of the file at `path` for whoever collects: `of_thread` of this thread, else `told`."""
    found = getattr(_of_this_thread, "found", None)
    for notes in [found] if found is not None else _of_this_process[-1:]:
        notes[path] = packets


@contextlib.contextmanager
def of_thread() -> Iterator[dict[str, int]]:
    """`{path: packets}` of the files that are read inside, by this thread."""
    before = getattr(_of_this_thread, "found", None)
    _of_this_thread.found = found = {}
    try:
        yield found
    finally:
        _of_this_thread.found = before


@contextlib.contextmanager
def told(say: Callable[[str], object]) -> Iterator[None]:
    """Says at the end, in a line, which files read inside, by any thread, lack a beginning."""
    whole = LeftOut()
    _of_this_process.append(whole.files)
    try:
        yield
    finally:
        _of_this_process.remove(whole.files)
        whole.tell(say)


class LeftOut:
    """The files of a run that lack a beginning, each once. files: `{path: packets}`."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}

    def watch(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same batches, without `FIELD`, whose files are counted."""
        try:
            for batch in batches:
                self.add(batch.pop(FIELD, ()))
                yield batch
        finally:
            batches.close()

    def add(self, rows: Iterable[dict[str, int]]) -> None:
        """Counts the files of the rows of a batch."""
        for row in rows:
            self.files |= row

    def tell(self, say: Callable[[str], object]) -> None:
        """One line, where there is anything to say."""
        if not self.files:
            return
        first = ", ".join(sorted(self.files)[:3]) + (", ..." if len(self.files) > 3 else "")
        say(
            f"{len(self.files):,} of the videos that were read begin without a key frame: what stands before it "
            f"({sum(self.files.values()):,} packets) cannot be shown and is left out ({first})"
        )

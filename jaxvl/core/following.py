"""Sequences followed frame by frame: the evaluation of a `Follower`, whose next question hangs on the last answer.

Each row of a batch follows one sequence; where it ends, the next one takes the row. Which sequences a row gets is dealt
beforehand, longest first to the least loaded row, from their lengths alone: every process knows the plan, so all call
`predict` equally often, and the result does not depend on how many processes or rows there are. A row without a
sequence gives zeros. Frames are read in threads, one ahead of the device; no more than two frames a row are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxvl.core import processes
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.method import Follower, Sequences
from jaxvl.core.sharding import Mesh, check_batch_size, put_batch, rows_of_process

Predict = Callable[[Any], Mapping[str, np.ndarray]]
"""`{stream: fields on the device} -> outputs`, whole on the host."""


def deal(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Which sequences each row follows, in order: longest first, to the row with the fewest frames so far."""
    dealt: list[list[int]] = [[] for _ in range(rows)]
    load = [0] * rows
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = min(range(rows), key=lambda r: (load[r], r))
        dealt[row].append(i)
        load[row] += lengths[i]
    return dealt


def filling(sequences: Sequences) -> tuple[int, int, int]:
    """`(frames, rows that are computed for them, rows that can be busy at once)`."""
    used = computed = most = 0
    for members in shapes(sequences).values():
        lengths = [sequences.length_of(sequences.source[i]) for i in members]
        longest = max(sum(lengths[i] for i in row) for row in deal(lengths, sequences.batch_size))
        used, computed, most = used + sum(lengths), computed + longest * sequences.batch_size, max(most, len(members))
    return used, computed, most


def shapes(sequences: Sequences) -> dict[Any, list[int]]:
    """Shape -> indices of the sequences that have it, in the order of the source."""
    found: dict[Any, list[int]] = {}
    for i, record in enumerate(sequences.source):
        found.setdefault(sequences.shape_of(record), []).append(i)
    return found


class _Row:
    """The sequences of one row, one frame a call of `read`."""

    def __init__(self, sequences: Sequences, records: Sequence[int]):
        self.sequences, self.waiting = sequences, list(records)
        self.record: Any = None
        self.frames: Iterator[Mapping[str, Any]] | None = None
        self.left = 0

    def read(self) -> tuple[str, bool, Mapping[str, Any] | BadMedia, bool] | None:
        """`(id, whether it is the first frame, the frame, whether it is the last)`, None where nothing is left. The
        frame is a BadMedia once for a sequence that cannot be read on; its other frames are then passed over."""
        if not self.left:
            if not self.waiting:
                return None
            self.record = self.sequences.source[self.waiting.pop(0)]
            self.frames, self.left = None, self.sequences.length_of(self.record)
        first, self.left = self.frames is None, self.left - 1
        name = str(self.sequences.id_of(self.record))
        try:
            if first:
                self.frames = iter(self.sequences.frames(self.record))
            frame = next(self.frames, None)
        except BadMedia as bad:
            frame, self.frames = bad, iter(())
        if not self.left:
            self.close()
        return name, first, frame, not self.left

    def close(self) -> None:
        """Closes the open sequence."""
        if hasattr(self.frames, "close"):
            self.frames.close()


def follow(
    follower: Follower,
    stream: str,
    sequences: Sequences,
    predict: Predict,
    mesh: Mesh,
    threads: int = 4,
    on_error: str = "skip",
) -> tuple[dict[str, Any], int]:
    """`({id: what the follower kept of the sequence}, sequences that could not be read)`, the same on every process.

    on_error: 'skip' counts a sequence with bad media and goes on, 'raise' stops.
    """
    size = sequences.batch_size
    check_batch_size(size, mesh, f"batch size of stream {stream!r}")
    kept: dict[str, Any] = {}
    bad: dict[str, str] = {}
    for shape, members in shapes(sequences).items():
        spec = follower.fields(stream, shape)
        lengths = [sequences.length_of(sequences.source[i]) for i in members]
        plan = [[members[i] for i in row] for row in deal(lengths, size)]
        steps = max(sum(sequences.length_of(sequences.source[i]) for i in row) for row in plan)
        mine = rows_of_process(mesh, size, jax.process_index())
        rows = {int(r): _Row(sequences, plan[r]) for r in mine}
        _follow(follower, stream, rows, spec, steps, predict, mesh, size, threads, on_error, kept, bad)
    for part, lost in processes.gather((kept, bad)) if processes.count() > 1 else []:
        kept, bad = {**part, **kept}, {**lost, **bad}
    return {k: v for k, v in kept.items() if k not in bad}, len(bad)


def _follow(follower, stream, rows, spec, steps, predict, mesh, size, threads, on_error, kept, bad) -> None:
    """All sequences of one shape."""
    zeros = {name: np.zeros(s.shape, s.dtype) for name, s in spec.items()}
    states: dict[int, Any] = {}
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = {r: pool.submit(row.read) for r, row in rows.items()}
        try:
            for _ in range(steps):
                now = {r: future.result() for r, future in ahead.items()}
                ahead = {r: pool.submit(row.read) for r, row in rows.items()}
                asked = {r: zeros for r in rows}
                live = {}
                for r, item in now.items():
                    if item is None:
                        continue
                    name, first, frame, _ = item
                    if frame is None and name not in bad:
                        frame = BadMedia(name, "has fewer frames than it was said to have")
                    if isinstance(frame, BadMedia):
                        if on_error == "raise":
                            raise InputError(f"sequence {name}: {frame}")
                        bad[name] = str(frame)
                    if name in bad:
                        continue
                    if first:
                        states[r] = follower.begin(stream, frame)
                    asked[r], live[r] = follower.ask(states[r], frame), item
                batch = {name: np.stack([asked[r][name] for r in sorted(rows)]) for name in spec}
                outputs = predict({stream: put_batch(batch, mesh, size)})
                for r, (name, _, frame, last) in live.items():
                    row = {key: np.asarray(value)[r] for key, value in outputs.items()}
                    states[r] = follower.answer(states[r], frame, row)
                    if last:
                        kept[name] = follower.end(states.pop(r))
        finally:
            for future in ahead.values():
                future.cancel()
            for row in rows.values():
                row.close()

"""What a run writes: metrics.jsonl, TensorBoard events, and a progress line or bar.

`metrics.jsonl` is append-only, one object a line: `{"step", "kind": "train" | "eval" | "event", ...}`. A resumed
run writes the steps after its checkpoint again, with the same values; readers take the last row of a step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxvl.core.errors import InputError
from jaxvl.core.files import cannot_write, printable


class Appender:
    """A file that grows by whole records. One that cannot be written, since the disk is full, is kept for the next try,
    and half of it is cut off again: the file never ends in the middle of a record.

    Without a thread or a queue: nothing dies in silence, and nothing waits.
    """

    def __init__(self, path: Path, say: Callable[[str], None]):
        self.path, self.say = path, say
        self._kept: list[bytes] = []
        self._failing = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._end_line()
        except OSError as error:
            raise cannot_write(path, error) from None

    def _end_line(self) -> None:
        """A killed run may have left half a line of text."""
        size = os.fstat(self._handle).st_size
        if size and self.path.suffix == ".jsonl" and os.pread(self._handle, 1, size - 1) != b"\n":
            self._kept.append(b"\n")

    def append(self, record: bytes) -> None:
        """Writes what was kept, and this. Says once where it cannot."""
        self._kept.append(record)
        try:
            self._drain()
        except OSError as error:
            if not self._failing:
                self.say(f"{self.path}: cannot be written ({error.strerror or error}); kept until it can")
            self._failing = True
        else:
            if self._failing:
                self.say(f"{self.path}: can be written again; nothing is missing")
            self._failing = False

    def _drain(self) -> None:
        while self._kept:
            size = os.fstat(self._handle).st_size
            try:
                written = os.write(self._handle, self._kept[0])
                if written < len(self._kept[0]):  # the disk's last bytes: the next write says why
                    written += os.write(self._handle, self._kept[0][written:])
            except OSError:
                os.ftruncate(self._handle, size)
                raise
            if written < len(self._kept[0]):
                os.ftruncate(self._handle, size)
                raise OSError(0, "it takes no more")
            del self._kept[0]

    def close(self) -> None:
        """Tries for the last time. Says how much is lost."""
        try:
            self._drain()
        except OSError as error:
            self.say(f"{self.path}: {len(self._kept)} records are lost ({error.strerror or error})")
        os.close(self._handle)


class Writer:
    """Sinks of one run. On processes other than 0 it is silent. say: where it tells of a disk that takes no more, which
    costs rows of the log and never the training."""

    def __init__(
        self,
        workdir: str | Path,
        active: bool = True,
        tensorboard: bool = True,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        self.active = active
        self._board: Board | None = None
        if active:
            path = Path(workdir)
            self._file = Appender(path / "metrics.jsonl", say)
            if tensorboard:
                self._board = Board(path / "tensorboard", say)

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """One row of numbers."""
        if not self.active:
            return
        self._line({"step": step, "kind": kind, **{k: _number(v) for k, v in values.items()}})
        if self._board is not None:
            self._board.scalars(step, {f"{kind}/{name}": v for name, v in values.items() if math.isfinite(v)})

    def event(self, step: int, what: str, **fields: Any) -> None:
        """Something that happened: resume, checkpoint, preemption."""
        if self.active:
            self._line({"step": step, "kind": "event", "event": what, **fields})

    def _line(self, row: Mapping[str, Any]) -> None:
        self._file.append(json.dumps(row).encode() + b"\n")

    def close(self) -> None:
        """Closes all sinks."""
        if self.active:
            self._file.close()
            if self._board is not None:
                self._board.close()


class Board:
    """TensorBoard events of one run, written at once. tensorboardX gives the records; its own writer hands them to a
    thread, whose death nobody hears of until its queue is full and the training waits for ever."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._parts = _tensorboard()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        count = len(list(folder.glob(f"{name}.*"))) if folder.is_dir() else 0
        self._file = Appender(folder / f"{name}.{count}", say)
        self._append(file_version="brain.Event:2")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One event for all values of a step."""
        parts = [part for name, value in values.items() for part in self._parts.scalar(name, value).value]
        if parts:
            self._append(step=step, summary=self._parts.Summary(value=parts))

    def _append(self, **fields: Any) -> None:
        event = self._parts.Event(wall_time=time.time(), **fields).SerializeToString()
        checked, size = self._parts.checked, struct.pack("<Q", len(event))
        record = size + struct.pack("<I", checked(size)) + event + struct.pack("<I", checked(event))
        self._file.append(record)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(workdir: str | Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind, the last of each step, ascending. A line that is no row (cut by a kill, damaged) is left
    out. Raises InputError where the file cannot be read."""
    path = Path(workdir) / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    for line in content.split(b"\n"):
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and row.get("kind") == kind and type(row.get("step")) is int:
            rows[row["step"]] = row
    return [rows[s] for s in sorted(rows)]


def _number(value: Any) -> float | int | str | None:
    if isinstance(value, bool | int | str):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _tensorboard():
    # tensorboardX imports torch where it is installed, for seconds; hide it for the moment of the import
    hidden = sys.modules.get("torch")
    if hidden is None:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c
        from tensorboardX.summary import scalar
    finally:
        if hidden is None:
            sys.modules.pop("torch", None)
    return types.SimpleNamespace(Event=Event, Summary=Summary, checked=masked_crc32c, scalar=scalar)


class Progress:
    """A live bar on a terminal, one line at every log step elsewhere."""

    def __init__(
        self,
        total: int,
        start: int = 0,
        active: bool = True,
        stream=None,
        what: str = "train",
        unit: str = "step",
        every: float = 0.0,
    ):
        self.total = total
        self.unit = unit
        self.every = every  # seconds between two lines of `show`
        self._shown = time.monotonic()
        self.active = active
        self.stream = stream if stream is not None else sys.stderr
        self._paced = (start, time.monotonic())  # what the pace is counted from
        self._start = start
        self._bar = None
        self._task = None
        if active and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(f"[bold]{what}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=start, text="")

    def step(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Shows loss, rate, data wait and what is left."""
        if not self.active:
            return
        loss, rate, each, wait = (
            values.get("loss", math.nan),
            values.get("examples_per_s", math.nan),
            values.get("step_s", math.nan),
            values.get("data_wait", 0),
        )
        text = f"loss {loss:.4f}  {_seconds(each)} a step  {rate:.1f} examples/s  data wait {100 * wait:.0f}%"
        self.show(step, text)

    def show(self, step: int, text: str) -> None:
        """Moves the bar to `step` with this text; elsewhere a line, if the last one is `every` seconds old."""
        if not self.active:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
            return
        now = time.monotonic()
        if now - self._shown < self.every and step < self.total:
            return
        self._shown = now
        first, since = self._paced
        left = (now - since) / (step - first) * (self.total - step) if step - first > 1 else math.nan
        if first == self._start:  # compilation lies before the first line
            self._paced = (step, now)
        _show(f"{self.unit} {step}/{self.total}  {text}  ETA {_clock(left)}", self.stream)

    def phase(self, what: str) -> None:
        """Shows on the bar what the run does instead of training: compiling, evaluating, saving."""
        if self._bar is not None:
            self._bar.update(self._task, text=what)

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        if self.active:
            line = printable(line)
            if self._bar is not None:
                self._bar.console.print(line, highlight=False, markup=False)
            else:
                _show(line, self.stream)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()


def _seconds(seconds: float) -> str:
    """`12 ms`, `1.3 s`."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _show(line: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # nobody listens, or the disk of the log is full: the rows are in metrics.jsonl
        print(line, file=stream, flush=True)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"

"""What a run writes: metrics.jsonl, TensorBoard events, and a progress line or bar.

`metrics.jsonl` is append-only, one object a line: `{"step", "kind": "train" | "eval" | "event", ...}`. A resumed
run writes the steps after its checkpoint again, with the same values; readers take the last row of a step.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Writer:
    """Sinks of one run. On processes other than 0 it is silent."""

    def __init__(self, workdir: str | Path, active: bool = True, tensorboard: bool = True):
        self.active = active
        self._board = None
        if active:
            path = Path(workdir)
            path.mkdir(parents=True, exist_ok=True)
            self._file = (path / "metrics.jsonl").open("a", buffering=1)
            if tensorboard:
                self._board = _summary_writer(path / "tensorboard")

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """One row of numbers."""
        if not self.active:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **{k: _number(v) for k, v in values.items()}}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def event(self, step: int, what: str, **fields: Any) -> None:
        """Something that happened: resume, checkpoint, preemption."""
        if self.active:
            self._file.write(json.dumps({"step": step, "kind": "event", "event": what, **fields}) + "\n")

    def close(self) -> None:
        """Flushes and closes all sinks."""
        if self.active:
            self._file.close()
            if self._board is not None:
                self._board.close()


def read_metrics(workdir: str | Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind, the last of each step, ascending. A line cut by a kill is left out."""
    path = Path(workdir) / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if row.get("kind") == kind:
                    rows[row["step"]] = row
    return [rows[s] for s in sorted(rows)]


def _number(value: Any) -> float | int | str | None:
    if isinstance(value, bool | int | str):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _summary_writer(path: Path):
    # tensorboardX imports torch where it is installed, for seconds; hide it for the moment of the import
    hidden = sys.modules.get("torch")
    if hidden is None:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden is None:
            sys.modules.pop("torch", None)
    return SummaryWriter(str(path))


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
        self._begun = time.monotonic()
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
        loss, rate, wait = (
            values.get("loss", math.nan),
            values.get("examples_per_s", math.nan),
            values.get("data_wait", 0),
        )
        text = f"loss {loss:.4f}  {rate:.1f} examples/s  data wait {100 * wait:.0f}%"
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
        done = step - self._start
        left = (now - self._begun) / done * (self.total - step) if done else math.nan
        print(f"{self.unit} {step}/{self.total}  {text}  ETA {_clock(left)}", file=self.stream, flush=True)

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        if self.active:
            if self._bar is not None:
                self._bar.console.print(line, highlight=False, markup=False)
            else:
                print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"

"""The faults: each hits a run that is at work, and leaves it as the world would. Their moments and places are drawn."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.runs import EVERY, MEDIA, Run


@dataclass(frozen=True)
class Fault:
    """hit: acts on the run and gives the exit codes of its end. codes: those that are right (a killed process has -9).
    after: what is done to the workdir before the next start."""

    name: str
    hit: Callable[[Run, random.Random], list[int | None]]
    codes: tuple[int, ...]
    after: Callable[[Run, random.Random], None] = lambda run, draw: None
    one_line: bool = False  # whether the end is a refusal
    media: bool = False  # whether it needs a run with files
    root: bool = False  # whether it needs to mount a disk
    steps: int = 1  # that a start makes at least before it is hit; 0: it is hit before its first one


def _kill(run: Run, draw: random.Random) -> list[int | None]:
    run.send(signal.SIGKILL, draw.randrange(len(run.children)))
    return run.ended()


def _terminate(run: Run, draw: random.Random) -> list[int | None]:
    run.send(signal.SIGTERM, draw.randrange(len(run.children)))
    return run.ended()


def _interrupt(run: Run, draw: random.Random) -> list[int | None]:
    run.send(signal.SIGINT)
    return run.ended()


def _stop_and_go(run: Run, draw: random.Random) -> list[int | None]:
    """It stands still for a while, goes on for some steps, and is killed."""
    run.send(signal.SIGSTOP)
    time.sleep(draw.uniform(0.5, 3))
    before = run.last_step()
    run.send(signal.SIGCONT)
    run.wait_for(before + 2)
    return _kill(run, draw)


def _fill_disk(run: Run, draw: random.Random) -> list[int | None]:
    """All but some pages of the disk that the workdir lies on, fewer than a checkpoint has files."""
    filler = run.workdir.parent / "filler"
    state = os.statvfs(run.workdir.parent)
    rest = max((state.f_bavail - draw.randrange(4)) * state.f_frsize, 0)
    try:
        with filler.open("wb", buffering=0) as file:
            while rest:
                rest -= file.write(bytes(min(rest, 2**20)))
    except OSError as error:  # the run was faster
        if error.errno != errno.ENOSPC:
            raise
    try:
        return run.ended()
    finally:
        filler.unlink()


def _remove_media(run: Run, draw: random.Random) -> list[int | None]:
    """Every video goes, as of a disk that is gone, until the run has ended; and comes back."""
    folder = run.data / MEDIA[run.method]
    aside = folder.with_name("gone")
    shutil.move(folder, aside)
    try:
        return run.ended()
    finally:
        shutil.move(aside, folder)


def _of_newest(run: Run, draw: random.Random) -> Path | None:
    """A file of the newest checkpoint, where there is an older one, too; it counts as damaged from now on."""
    steps = run.checkpoints()
    if len(steps) < 2:
        return None
    run.damaged(steps[-1])
    files = sorted(p for p in (run.workdir / "checkpoints" / str(steps[-1])).rglob("*") if p.is_file())
    files = [p for p in files if p.stat().st_size and p.name != "checksums.json"]
    return files[draw.randrange(len(files))]


def _truncate(run: Run, draw: random.Random) -> None:
    if (file := _of_newest(run, draw)) is not None:
        os.truncate(file, draw.randrange(file.stat().st_size))


def _flip(run: Run, draw: random.Random) -> None:
    if (file := _of_newest(run, draw)) is not None:
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)


def _move(run: Run, draw: random.Random) -> None:
    run.move(run.workdir.with_name(f"{run.workdir.name.split('-')[0]}-{draw.randrange(10**6)}"))


TWO = 2 * EVERY + 1  # two checkpoints are written by then
FAULTS = (
    Fault("killed in the middle", _kill, (-9,)),
    Fault("killed before its first step", _kill, (-9,), steps=0),
    Fault("terminated (SIGTERM)", _terminate, (0,)),
    Fault("Ctrl-C", _interrupt, (130,)),
    Fault("stopped, continued, killed", _stop_and_go, (-9,)),
    Fault("disk full", _fill_disk, (2,), one_line=True, root=True),
    Fault("killed, newest checkpoint truncated", _kill, (-9,), _truncate, steps=TWO),
    Fault("killed, a bit of the newest checkpoint flipped", _kill, (-9,), _flip, steps=TWO),
    Fault("workdir moved", _terminate, (0,), _move),
    Fault("the videos removed", _remove_media, (2,), one_line=True, media=True),
)


def moment(fault: Fault, draw: random.Random, begun: int) -> int:
    """The step after which a fault hits a start that goes on from `begun`."""
    return begun + draw.randint(fault.steps, fault.steps + EVERY)


def mounted(folder: Path, size: str) -> bool:
    """A small disk at `folder`, where this may be done."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    return done.returncode == 0

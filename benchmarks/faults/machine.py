"""Faults that need processes of their own: two runs at once, Ctrl-C, a disk that is full or read-only, a clock
that jumps."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzz import small
from benchmarks.fuzz.outcome import Case

TRIALS = 20
JUMPS = """
import time
begun, real, real_ns, weeks = time.monotonic(), time.time, time.time_ns, 7 * 86400
def off():
    return (0, {jumps})[int(time.monotonic() - begun) % {count}] * weeks
time.time = lambda: real() + off()
time.time_ns = lambda: real_ns() + off() * 10**9
"""
"""A `sitecustomize` whose wall clock jumps every second, there and back."""
CLOCKS = {"forward": "6,", "backward": "-6,", "both ways": "6, -6, 300, -300"}


def cases(root: Path) -> dict[str, list[Case]]:
    """By kind. Disks are tmpfs mounts, so a full or read-only disk needs root; without it that kind is left out."""
    here = root / "machine"
    small.make(here)
    found = {
        "two trainings in one workdir": [
            Case("the second", lambda: _second(here)),
            Case("the second, clocks jump", lambda: _second(here, _clock(here, "both ways"))),
        ],
        "clock jumps while training": [
            Case(f"{name}", lambda name=name: _jumping(here, name), ("same",)) for name in CLOCKS
        ],
        "Ctrl-C before the loop": [
            Case(f"after {t:.2f} s", lambda t=t: _interrupted(here, t), ("130",)) for t in _times()
        ],
    }
    if os.geteuid() == 0:
        full = [Case(f"{kb} kB left", lambda kb=kb: _full(here, kb), ("resumed",)) for kb in (40, 300, 800, 1400, 2000)]
        found["disk full while training"] = full
        found["read-only data"] = [
            Case(
                " ".join(map(str, v)).replace(str(QUICKSTART), "QUICKSTART"),
                lambda v=v: _read_only_data(here, v),
                (right,),
            )
            for v, right in READS
        ]
        verbs = (["evaluate"], ["evaluate", "--json"], ["report"], ["report", "--out", "page.html"], ["train"], PREDICT)
        found["read-only workdir"] = [
            Case(
                " ".join(v),
                lambda v=v: _read_only(here, v),
                ("refused",) if v[-1] in ("report", "train") else ("done",),
            )
            for v in verbs
        ]
    return found


PREDICT = ["predict", "--videos", "videos", "--text", "clip"]
DATA = ["--config", "small.py", "--config.data.root=locked_data"]
QUICKSTART = Path(__file__).parents[2] / "configs" / "centerclip" / "quickstart.py"
READS = (  # `locked_data` is the data on a read-only disk: reading it is enough, writing is one line
    (["train", *DATA, "--workdir", "of_locked", "--fresh"], "done"),
    (["evaluate", "--workdir", "kept", "--config.data.root=locked_data"], "done"),
    (["prepare", *DATA], "done"),
    (["predict", "--workdir", "kept", "--videos", "locked_data/films", "--text", "clip"], "done"),
    (["prepare", *DATA, "--out", "locked_data/records"], "refused"),
    (["train", "--config", QUICKSTART, "--config.data.root=locked_data/world", "--workdir", "world"], "refused"),
)


def _times() -> list[float]:
    draw = random.Random(0)
    return [draw.uniform(0.15, 5) for _ in range(TRIALS)]


def _start(here: Path, *words: str, clock: Path | None = None, **options) -> subprocess.Popen:
    words = [sys.executable, "-m", "jaxvl.cli", *map(str, words)]
    path = [*([clock] if clock else []), *(os.path.abspath(p) for p in sys.path if p)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.Popen(
        words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options
    )


def _ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int | None, str]:
    try:
        _, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, "hang"
    return process.returncode, error


def _judged(code: int | None, error: str) -> tuple[str, str]:
    if code is None:
        return "hang", ""
    if "Traceback" in error:
        return "traceback", error.strip().splitlines()[-1][:200]
    lines = [line for line in error.splitlines() if line.startswith("jaxvl: ")]
    if code == 2:
        return ("refused" if len(lines) == 1 else "more than a line"), " ".join(lines)[:200]
    return ("done" if code == 0 else str(code)), ""


def _train(here: Path, workdir: Path | str, *words: str, clock: Path | None = None) -> subprocess.Popen:
    return _start(here, "train", "--config", "small.py", "--workdir", str(workdir), *words, clock=clock)


def _clock(here: Path, name: str) -> Path:
    """The folder of a `sitecustomize` with that clock."""
    folder = here / "clocks" / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    text = JUMPS.format(jumps=CLOCKS[name], count=1 + len(CLOCKS[name].strip(",").split(",")))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return folder


def _jumping(here: Path, name: str) -> tuple[str, str]:
    """A run under that clock: the losses of one under a steady clock, and every step in the events of TensorBoard."""
    clean, run = _clean(here), here / f"clock {name}"
    outcome = _judged(*_ended(_train(here, run, clock=_clock(here, name))))
    if outcome[0] != "done":
        return outcome
    events = b"".join(file.read_bytes() for file in (run / "tensorboard").iterdir())
    if _losses(run) != _losses(clean):
        return "other losses", ""
    return ("same", "") if events.count(b"train/loss") == len(_losses(run)) else ("events are missing", "")


def _clean(here: Path) -> Path:
    """A run that nothing happened to."""
    clean = here / "clean"
    if not clean.is_dir():
        code, error = _ended(_train(here, clean))
        assert code == 0, (code, error[-500:])
    return clean


def _second(here: Path, clock: Path | None = None) -> tuple[str, str]:
    """The first is stopped for a moment, with its lock, while the second tries."""
    two = "two" if clock is None else "two_clocks"
    first = _train(here, two, "--config.train.steps=2000", clock=clock)
    while first.poll() is None and not (here / two / "checkpoints").is_dir():
        time.sleep(0.1)
    first.send_signal(signal.SIGSTOP)
    outcome = _judged(*_ended(_train(here, two, "--config.train.steps=2000", clock=clock)))
    first.kill()
    first.communicate()
    after = _judged(*_ended(_train(here, two, "--config.train.steps=2", "--resume", clock=clock)))
    return outcome if after[0] == "done" else after


def _interrupted(here: Path, seconds: float) -> tuple[str, str]:
    process = _train(here, "interrupted", "--fresh", "--config.train.steps=1000000")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    code, error = _ended(process, 120)
    return ("hang" if code is None else str(code)), error[-100:]


def _losses(workdir: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {r["step"]: r["loss"] for r in rows if r["kind"] == "train"}


def _full(here: Path, left: int) -> tuple[str, str]:
    """Trains on a small disk, makes room, trains on: the losses of a run that never saw a full disk."""
    clean = _clean(here)
    disk = here / "disk"
    disk.mkdir(exist_ok=True)
    _mount(disk, "size=4m")
    try:
        (disk / "fill").write_bytes(bytes((4096 - left) * 1024))
        outcome = _judged(*_ended(_train(here, disk / "run")))
        if outcome[0] != "refused":
            return outcome
        (disk / "fill").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        after = _judged(*_ended(_train(here, disk / "run")))
        if after[0] != "done":
            return after
        return ("resumed" if _losses(disk / "run") == _losses(clean) else "other losses"), ""
    finally:
        subprocess.run(["umount", disk], check=True)


def _read_only(here: Path, words: Sequence[str]) -> tuple[str, str]:
    run, place = here / "kept", here / "locked"
    if not run.is_dir():
        assert _ended(_train(here, run))[0] == 0
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", run, place], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    verb, *rest = words
    more = ["--config", "small.py", "--config.train.steps=30", "--resume"] if verb == "train" else []
    try:
        return _judged(*_ended(_start(here, verb, "--workdir", str(place), *more, *rest)))
    finally:
        subprocess.run(["umount", place], check=True)


def _read_only_data(here: Path, words: Sequence[str]) -> tuple[str, str]:
    if not (here / "kept").is_dir():
        assert _ended(_train(here, here / "kept"))[0] == 0
    place, films = here / "locked_data", here / "data" / "films"
    if not films.is_dir():
        shutil.copytree(here / "videos", films)
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", here / "data", place], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    try:
        return _judged(*_ended(_start(here, *words)))
    finally:
        subprocess.run(["umount", place], check=True)


def _mount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)

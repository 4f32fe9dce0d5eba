"""How fast `.skeleton` files of NTU RGB+D are parsed, opened again, and turned into examples.

    python -m benchmarks.speed.skeleton_files [--files N]

The files are made up, in the published layout: 40 to 120 frames of one body, of two in every fifth file. They lie in
the page cache, so the disk is not measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxvl.data.readers.skeletons import ntu

ID = 72057594037931101
SET = 56_880
DIFFERENT = 40
EXAMPLES = 4096


def text(rng: np.random.Generator, bodies: int) -> bytes:
    """One file, with as many digits as a published one."""
    frames = int(rng.integers(40, 121))
    rest = rng.uniform(-1, 1, (bodies, 1, 25, 3)) * [0.3, 0.9, 0.1]
    x = rest + rng.normal(0, 0.02, (bodies, frames, 25, 3)).cumsum(1)
    lines = [str(frames)]
    for f in range(frames):
        lines.append(str(bodies))
        for b in range(bodies):
            lines += [f"{ID + b} 0 1 1 1 1 0 -0.1215841 0.1136378 2", "25"]
            for p in x[b, f]:
                more = " ".join(f"{v:.7f}" for v in rng.uniform(-1, 1, 8))
                lines.append(" ".join([*(f"{v:.7f}" for v in p), more, "2"]))
    return ("\n".join(lines) + "\n").encode()


class _Clock:
    """Seconds on the wall, and of this process's CPU time."""

    def __enter__(self) -> _Clock:
        self.begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]


def _row(name: str, count: int, clock: _Clock, own: bool = True) -> list[str | float]:
    return [name, count / clock.wall, 1000 * clock.cpu / count if own else "–", SET * clock.wall / count]


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed.skeleton_files", description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    args = parser.parse_args()
    # here, as the processes that parse import this file, and need none of it
    from benchmarks import results
    from jaxvl.core.method import Examples
    from jaxvl.data.pipeline import train_batches
    from jaxvl.data.readers.skeletons.clips import clip_name
    from jaxvl.data.skeletons import NTU25
    from jaxvl.methods.afe_cnn.data import MakeClip

    rng = np.random.default_rng(0)
    contents = [text(rng, 2 if i % 5 == 0 else 1) for i in range(DIFFERENT)]
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ntu"
        root.mkdir()
        for i in range(args.files):
            setup, rest = divmod(i, 480)
            performer, action = divmod(rest, 60)
            name = f"S{setup + 1:03d}C001P{performer + 1:03d}R001A{action + 1:03d}.skeleton"
            (root / name).write_bytes(contents[i % DIFFERENT])
        size = sum(map(len, contents)) / DIFFERENT / 1024
        for processes in dict.fromkeys((1, os.cpu_count() or 1)):
            with _Clock() as clock:
                found = ntu.parse_ntu(root, Path(folder) / f"cache{processes}", processes=processes)
            name = f"parsed, {processes} process{'es' * (processes > 1)}"
            rows.append(_row(name, args.files, clock, own=processes == 1))
            raw[f"parse_{processes}"] = clock.wall, clock.cpu
        with _Clock() as clock:
            again = ntu.parse_ntu(root, Path(folder) / "cache1")
        rows.append(_row("opened from the cache", args.files, clock))
        raw["open"] = clock.wall, clock.cpu
        make = MakeClip(NTU25, 64, rotation=0.3)
        batches = train_batches(Examples(again.clips, make, clip_name, 64), seed=0, num_threads=1)
        next(batches)
        with _Clock() as clock:
            for _ in range(EXAMPLES // 64):
                next(batches)
        rows.append(_row("read, normalised, cut, resampled, turned, batched; 1 thread", EXAMPLES, clock))
        raw["examples"] = clock.wall, clock.cpu
        frames = int(again.clips.frames().sum())
    note = (
        f"{args.files:,} made-up files in the published layout, {size:.0f} KiB and {frames / args.files:.0f} frames on "
        "average, every fifth of two bodies, all in the page cache. CPU time is that of this process; other programs "
        f"ran on the machine (load {os.getloadavg()[0]:.1f}), so it says more than the rate. The last column is the "
        f"rate for the {SET:,} files of NTU RGB+D."
    )
    raw |= {"files": args.files, "mean_kib": size, "skipped": len(found.skipped)}
    columns = ["", "sequences/s", "CPU ms each", "s for NTU RGB+D"]
    results.save("skeleton_files", "Reading skeleton files", columns, rows, note, raw)


if __name__ == "__main__":
    main()

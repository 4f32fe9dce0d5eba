"""The table of one kind of files alone."""

from __future__ import annotations

import argparse
import collections
import tempfile
from pathlib import Path

from benchmarks.fuzz import COUNTED, LINE, OUTCOMES, RIGHT


def table(kind: str, title: str, note: str) -> None:
    """The command `python -m benchmarks.fuzz.KIND`: each file in a process of its own, `docs/results/fuzz_KIND.md`."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.fuzz.{kind}", description=title)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=200, help="files of each seed")
    args = parser.parse_args()
    from benchmarks.fuzz.__main__ import child

    rows, wrong = [], []
    for seed in args.seed:
        found: collections.Counter[str] = collections.Counter()
        for number in range(args.count):
            with tempfile.TemporaryDirectory() as folder:
                what, outcome = child(kind, seed, number, Path(folder))
            found[outcome] += 1
            if outcome not in (RIGHT, COUNTED, LINE):
                wrong.append([seed, number, outcome, what])
        rows.append([seed, args.count, *(found[o] for o in OUTCOMES)])
    from benchmarks import results  # imports jax, whose threads must not be there when a process forks

    results.save(f"fuzz_{kind}", title, ["seed", "files", *OUTCOMES], rows, note, {"wrong": wrong})

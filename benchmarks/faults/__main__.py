"""Runs all of it and writes the table.

    python -m benchmarks.faults [--only NAME ...] [--out FILE] [--before FILE ...] [--kept FILE ...]

`--out` keeps the counts as JSON instead of the table; `--kept` makes the table of such files, measured part by
part, and `--before` lays those of an older version beside it. `machine` mounts small disks, so it needs root; it takes
some twelve minutes on two busy cores, most of them the compiler's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.faults import machine
from benchmarks.fuzz import values, words, workdirs
from benchmarks.fuzz.outcome import tally
from benchmarks.fuzz.rooms import Place

NOTE = (
    "Each case has outcomes that are right (one line and exit 2, or values that equal those saved); the rest counts as "
    "wrong: tracebacks, hangs, values accepted that no field may hold, more than a line. 'Before' is the version just "
    "before these faults were mended, by the same command. The wrong values are listed by the type of the default, not "
    "taken from the table of the fields. MIST, AFE-CNN and UTT came later: their fields and flags have no 'before'. "
    "Before, a second training in a workdir was not refused, and under a clock that jumps training hung: these cases "
    "ended at the limit of 180 or 300 seconds."
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path, nargs="*", default=[])
    parser.add_argument("--kept", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    found = _read(args.kept) if args.kept else measure(args.only)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return
    before = _read(args.before)
    rows = []
    for name, row in found.items():
        old = before.get(name)
        rows.append([name, row["cases"], f"{old['right']} of {old['cases']}" if old else "-", row["right"]])
    title = "Faults of the machine and of the user"
    columns = ["what", "cases", "right before", "right now"]
    results.save("faults", title, columns, rows, NOTE, {"now": found, "before": before})


def _read(files: list[Path]) -> dict[str, dict]:
    """What `--out` kept, without where its folder lay."""
    texts = [re.sub(r"/\w+/tmp\w+", "ROOT", file.read_text(encoding="utf-8")) for file in files]
    return {name: row for text in texts for name, row in json.loads(text).items()}


def measure(only: list[str]) -> dict[str, dict]:
    """Every kind of fault with its counts."""
    rng = np.random.default_rng(0)
    root = Path(tempfile.mkdtemp())
    os.chdir(root)
    found = {}
    asked = lambda name: not only or any(name.startswith(o) for o in only)  # noqa: E731
    if asked("values"):
        found["values of config fields"] = tally(values.cases(root))
    if asked("lists"):
        toy = workdirs.Toy(root / "toy")
        found["checksum list damaged"] = tally(workdirs.lists(toy, rng))
        found["list gone and data damaged"] = tally(workdirs.without_list(toy, rng))
    if asked("files") or asked("words") or asked("index"):
        place = Place.make(root)
        run, videos = place.run, place.videos
        if asked("words"):
            found["wrong command lines"] = tally(words.cases(root, run, videos, place.file))
        if asked("files"):
            found["small files of a workdir damaged"] = tally(
                workdirs.small_files(root, run, videos, place.config, rng)
            )
        if asked("index"):
            found["search index by hand"] = tally(workdirs.indexes(root, run, videos, rng))
            found["odd lines of --ask"] = tally(workdirs.asked(root, run, videos))
    if asked("annotations"):
        found["annotation files mutated"] = _annotations(root / "annotations.json")
    for name, cases in machine.cases(root).items():
        if asked("machine") or asked(name):
            found[name] = tally(cases)
    return found


def _annotations(file: Path) -> dict:
    """Those that the fuzz command draws, by the command, since each runs in a process that has not loaded JAX."""
    words = [sys.executable, "-m", "benchmarks.fuzz", "--only", "annotations", "--count", "200", "--out", str(file)]
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": path})
    content = json.loads(file.read_text(encoding="utf-8"))
    counts = dict(zip(content["columns"][3:], content["rows"][0][3:]))
    cases = content["rows"][0][2]
    return {"cases": cases, "right": cases - len(content["wrong"]), "outcomes": counts, "wrong": content["wrong"]}


if __name__ == "__main__":
    main()

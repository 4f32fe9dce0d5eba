"""Runs the generators and writes the table.

    python -m benchmarks.fuzz --seed S [--count N] [--only KIND ...] [--show]

Each input has a child process of its own with limits of time and memory. The same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from pathlib import Path

import numpy as np

from benchmarks.fuzz import (
    HANG,
    MEMORY,
    OUTCOMES,
    SILENT,
    TRACEBACK,
    annotations,
    media,
    pictures,
    skeletons,
    weights,
)

GENERATORS = {
    "media": media.run,
    "pictures": pictures.run,
    "annotations": annotations.run,
    "weights": weights.run,
    "skeletons": skeletons.run,
}
SECONDS, BYTES = 60, 3 * 2**30
NOTE = (
    "Each input runs in a process of its own with 60 seconds and 3 GiB of addresses. Right: the answer is the one that "
    "the generator knows. Counted: something is left out, and the report says so. Silent: another answer, without a "
    "word. What no reader can notice is not asked: values inside safetensors, stamps of MPEG streams and the tails of "
    "broadcasts have no checksum and no length. Command lines, fields and workdirs: `benchmarks.faults`."
)


def child(kind: str, seed: int, number: int, folder: Path) -> tuple[str, str]:
    """`(what was done, outcome)` of one input, in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        try:
            rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
            answer = GENERATORS[kind](rng, folder)
        except MemoryError:
            answer = ("", MEMORY)
        except BaseException as error:  # noqa: BLE001  this is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            answer = (f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})", TRACEBACK)
        os.write(write, json.dumps(answer).encode()[: 1 << 16])
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], SECONDS)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    data = os.read(read, 1 << 16) if ready else b""
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if not ready:
        return "", HANG
    if not data:
        return f"ended by signal {os.WTERMSIG(status)}", TRACEBACK
    what, outcome = json.loads(data)
    return what, outcome


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="inputs in all")
    parser.add_argument("--only", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    parser.add_argument("--show", action="store_true", help="print what went wrong, write no table")
    args = parser.parse_args()
    share = -(-args.count // len(args.only))
    rows, raw = [], {}
    for kind in args.only:
        found: collections.Counter[str] = collections.Counter()
        wrong = []
        for number in range(share):
            folder = Path(tempfile.mkdtemp())
            try:
                what, outcome = child(kind, args.seed, number, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            found[outcome] += 1
            if outcome in (SILENT, TRACEBACK, HANG, MEMORY):
                wrong.append([number, outcome, what])
                print(kind, number, outcome, what, file=sys.stderr)
        rows.append([kind, share, *(found[o] for o in OUTCOMES)])
        raw[kind] = {"outcomes": dict(found), "wrong": wrong}
    rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, len(rows[0])))])
    if args.show:
        print(rows)
        return
    from benchmarks import results  # imports jax, whose threads must not be there when a process forks

    results.save("fuzz", "Inputs drawn at random", ["input", "number", *OUTCOMES], rows, NOTE, raw)


if __name__ == "__main__":
    main()

"""Runs the generators and writes the table.

    python -m benchmarks.fuzz --seed S [S ...] [--count N] [--only KIND ...] [--show]

Files of media, pictures, annotations and weights have a child process each, with limits of time and memory; command
lines and workdirs run in this process (`rooms`). The same seed makes the same inputs.
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
from collections.abc import Iterable, Iterator
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
    poses,
    skeletons,
    weights,
)

GENERATORS = {
    "media": media.run,
    "pictures": pictures.run,
    "annotations": annotations.run,
    "weights": weights.run,
    "skeletons": skeletons.run,
    "poses": poses.run,
}
ROOMS = ("command lines", "workdirs")
SECONDS, BYTES = 60, 3 * 2**30
COLUMNS = ["seed", "input", "number", *OUTCOMES]
WRONG = (SILENT, TRACEBACK, HANG, MEMORY)
NOTE = (
    "Each file of media, pictures, annotations and weights is read in a process of its own with 60 seconds and 3 GiB "
    "of addresses; a command has 300 seconds. Right: the answer is the one that is known beforehand. Counted: "
    "something is left out, or an older checkpoint is taken, and that is said. Silent: another answer, without a word, "
    "or a wrong value that is accepted. What no reader can notice is not asked: values inside safetensors, stamps of "
    "MPEG streams and the tails of broadcasts have no checksum and no length. Bits inside a picture of a WMV that give "
    "another legal picture cannot be told either (one of 120 places tried in wmv1, none of 120 in wmv2). Kinds may be "
    "run apart: `--only KIND --count 143` draws what a whole run draws of it."
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


def of_files(kind: str, seed: int, count: int) -> Iterator[tuple[int, str, str, str]]:
    """`(seed, kind, what was done, outcome)` of `count` files."""
    for number in range(count):
        folder = Path(tempfile.mkdtemp())
        try:
            what, outcome = child(kind, seed, number, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        yield seed, kind, f"{number}: {what}", outcome


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs of each seed, in all")
    parser.add_argument("--only", nargs="+", choices=[*GENERATORS, *ROOMS], default=[*GENERATORS, *ROOMS])
    parser.add_argument("--show", action="store_true", help="print what went wrong, write no table")
    parser.add_argument("--out", type=Path, help="keep the rows as JSON here instead, after each kind")
    parser.add_argument("--kept", type=Path, nargs="+", help="write the table of such files; nothing is tried")
    args = parser.parse_args()
    if args.kept:
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in args.kept]
        _save([row for part in parts for row in part["rows"]], [row for part in parts for row in part["wrong"]])
        return
    share = -(-args.count // len(args.only))
    found = {(seed, kind): collections.Counter[str]() for seed in args.seed for kind in args.only}
    wrong: list[list] = []

    def take(inputs: Iterable[tuple[int, str, str, str]]) -> None:
        for seed, kind, what, outcome in inputs:
            found[seed, kind][outcome] += 1
            if outcome in WRONG:
                wrong.append([seed, kind, outcome, what])
                print(seed, kind, outcome, ascii(what)[1:-1], file=sys.stderr)
            if args.out and found[seed, kind].total() == share:
                args.out.write_text(json.dumps({"columns": COLUMNS, "rows": rows(), "wrong": wrong}), encoding="utf-8")

    def rows() -> list[list]:
        return [[seed, kind, c.total(), *(c[o] for o in OUTCOMES)] for (seed, kind), c in found.items() if c.total()]

    for seed in args.seed:
        for kind in GENERATORS:
            if kind in args.only:
                take(of_files(kind, seed, share))
    if asked := [kind for kind in ROOMS if kind in args.only]:
        from benchmarks.fuzz import rooms  # imports jax, whose threads must not be there when a process forks

        take(rooms.run(asked, args.seed, share))
    if args.show:
        for row in rows():
            print(*row)
    elif not args.out:
        _save(rows(), wrong)


def _save(rows: list[list], wrong: list[list]) -> None:
    from benchmarks import results

    for seed in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == seed]
        rows = [*rows, [seed, "all", *(sum(row[i] for row in mine) for i in range(2, len(COLUMNS)))]]
    results.save("fuzz", "Inputs drawn at random", COLUMNS, rows, NOTE, {"wrong": wrong})


if __name__ == "__main__":
    main()

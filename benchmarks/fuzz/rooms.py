"""Command lines and workdirs, drawn from all that the rooms of this package know: they need JAX, so they run in the
process of the benchmark, after those that need a process each."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.fuzz import COUNTED, HANG, LINE, RIGHT, SILENT, TRACEBACK, small, values, words, workdirs
from benchmarks.fuzz.outcome import Case, command

MEANS = {"older": COUNTED, "told": COUNTED, "refused": LINE, "traceback": TRACEBACK, "more than a line": TRACEBACK}
MEANS |= {"hang": HANG}
"""An outcome of a case in the words of the table. The rest is right where the case expects it, else silent."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with a small trained run. config: the words of a command that trains it."""

    root: Path
    run: Path
    videos: Path
    file: Path
    config: list

    @classmethod
    def make(cls, root: Path) -> Place:
        """Trains it, some ten seconds."""
        here, run = root / "small", root / "run"
        small.make(here)
        config = ["--config", here / "small.py", f"--config.data.root={here / 'data'}", "--config.train.steps=2"]
        outcome = command(["train", *config, "--workdir", run])
        assert outcome == ("done", "0"), outcome
        return cls(root, run, here / "videos", here / "small.py", config)


def command_lines(place: Place, rng: np.random.Generator, count: int) -> list[Case]:
    """`count` of all wrong command lines, of all wrong values of fields, and of right ones with letters changed."""
    drawn = _drawn(words.cases(place.root, place.run, place.videos, place.file), rng, count // 3)
    drawn += _drawn(values.cases(place.root), rng, count // 3)
    return drawn + words.scrambled(place.root, rng, count - len(drawn))


def damaged_workdirs(place: Place, rng: np.random.Generator, count: int) -> list[Case]:
    """`count` of all damaged lists, arrays, small files and indexes, and of all odd lines of `--ask`."""
    toy = workdirs.Toy(place.root / "toy")
    few = count // 6
    drawn = _drawn(workdirs.lists(toy, rng), rng, few) + _drawn(workdirs.without_list(toy, rng), rng, few)
    drawn += _drawn(workdirs.indexes(place.root, place.run, place.videos, rng), rng, few)
    drawn += _drawn(workdirs.asked(place.root, place.run, place.videos), rng, few // 2)
    files = workdirs.small_files(place.root, place.run, place.videos, place.config, rng)
    return drawn + _drawn(files, rng, count - len(drawn))


KINDS: dict[str, Callable[[Place, np.random.Generator, int], list[Case]]] = {
    "command lines": command_lines,
    "workdirs": damaged_workdirs,
}


def run(kinds: list[str], seeds: list[int], count: int) -> Iterator[tuple[int, str, str, str]]:
    """`(seed, kind, what was done, outcome)` of `count` inputs of each kind and seed."""
    root, before = Path(tempfile.mkdtemp()), Path.cwd()
    os.chdir(root)
    try:
        place = Place.make(root)
        for seed in seeds:
            for kind in kinds:
                for case in KINDS[kind](place, np.random.default_rng([seed, zlib.crc32(kind.encode())]), count):
                    outcome, detail = case.run()
                    yield seed, kind, f"{case.name}: {outcome} {detail}", judged(outcome, case)
    finally:
        os.chdir(before)
        shutil.rmtree(root, ignore_errors=True)


def judged(outcome: str, case: Case) -> str:
    """The outcome in the words of the table."""
    return MEANS.get(outcome, RIGHT if outcome in case.expects else SILENT)


def _drawn(cases: list[Case], rng: np.random.Generator, count: int) -> list[Case]:
    picks = rng.choice(len(cases), min(count, len(cases)), replace=False)
    return [cases[i] for i in sorted(picks)]

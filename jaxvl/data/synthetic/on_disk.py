"""A rendered world in a folder: made once, gone on with after a stop, never mixed with another one.

    ROOT/world.jsonl        the only truth: one line an item, in their order; annotation files derive from it
    ROOT/world_stamp.json   written last: version, layout, config and a hash of the three

No jax here: rendering runs in spawned processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json

STAMP, TRUTH, PARTS = "world_stamp.json", "world.jsonl", ".parts"
_IN_PROCESS = 16  # fewer items than this are not worth starting processes for


@dataclasses.dataclass(frozen=True)
class Item:
    """name: of the item, unique. video: its path under the root. what: plain values that the renderer takes."""

    name: str
    video: str
    what: tuple[Any, ...]


Save = Callable[[Callable[[], dict]], None]
"""Takes a function that makes an item's record and keeps the record, if it is not kept already."""
Render = Callable[[Item, str, Save], None]
"""`(item, path of the video, save)`: renders an item, saves its record, then writes the video as a whole."""


def make_stamp(version: int, layout: str, config: Any) -> dict:
    """What `world_stamp.json` holds for a config, a dataclass of plain values."""
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    what = {"version": version, "layout": layout, "config": fields}
    return {**what, "hash": hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()}


def told(say: Callable[[str], None], what: str, unit: str) -> Callable[[int, int], None]:
    """A `progress` for `ensure` that says a line at every tenth: `rendering WHAT: 3 of 30 UNIT`."""
    done = -1

    def progress(n: int, total: int) -> None:
        nonlocal done
        if total and n * 10 // total != done:
            done = n * 10 // total
            say(f"rendering {what}: {n} of {total} {unit}")

    return progress


def ensure(
    root: str | Path,
    stamp: dict,
    items: Sequence[Item],
    render: Render,
    annotate: Callable[[Sequence[dict], Path], None],
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Makes sure that `root` holds the world of `stamp`; returns it.

    A finished world with the same stamp is left as it is (files that were deleted are rendered again). A rendering that
    was stopped goes on with what is missing; the stamp is written last. Two calls on the same root at the same time are
    not supported: on several hosts let one of them call it.

    render: a function of a module (it is sent to other processes). annotate: `(records, root)`, writes the annotations.
    processes: spawned (so a script needs its `if __name__ == "__main__"` guard); default: the number of CPUs, and none
        for a handful of items; 1 renders in this process.
    progress: called with (items done, items in all) after every item.
    Raises InputError for a root that holds anything else.
    """
    root = Path(root)
    finished = _claim(root, stamp)
    jobs, done = [], 0
    for item in items:
        video, part = root / item.video, root / PARTS / f"{item.name}.json"
        if video.is_file() and (finished or part.is_file()):
            done += 1
        else:
            jobs.append((render, item, str(video), None if finished else str(part)))
    for folder in {Path(job[2]).parent for job in jobs} | (set() if finished else {root / PARTS}):
        folder.mkdir(parents=True, exist_ok=True)
    if progress:
        progress(done, len(items))
    for _ in _run(jobs, processes):
        done += 1
        if progress:
            progress(done, len(items))
    if not finished:
        _finish(root, stamp, items, annotate)
    return root


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file or none: beside it, then renamed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(unfinished, path)


def read_truth(root: str | Path) -> list[dict]:
    """The records of a finished world, in order. Raises InputError where there is none."""
    path = Path(root) / TRUTH
    if not path.is_file():
        raise InputError(f"{path}: no such file, so no rendered world stands here")
    try:
        rows = [json.loads(line) for line in path.read_bytes().decode("utf-8").splitlines()]
    except (ValueError, RecursionError):
        rows = [None]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: damaged; delete {root} to have the world rendered anew")
    return rows


def _claim(root: Path, stamp: dict) -> bool:
    """True: the finished world of this stamp is there. False: `root` may be rendered into."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file: choose another root for the synthetic world")
    for name, finished in ((STAMP, True), (f"{PARTS}/{STAMP}", False)):
        path = root / name
        if path.is_file():
            found = read_json(path, dict, "name an empty folder to render the world anew")
            if found.get("hash") != stamp["hash"]:
                raise InputError(
                    f"{path} belongs to another world ({_difference(found, stamp)}): "
                    f"delete {root} or choose another root"
                )
            return finished
    others = [p.name for p in root.iterdir()] if root.is_dir() else []
    if [name for name in others if name != PARTS]:
        raise InputError(
            f"{root} is not empty and holds no sprite world: name an empty folder, or, to read what is there, use a "
            "config without a world"
        )
    (root / PARTS).mkdir(parents=True, exist_ok=True)
    write(root / PARTS / STAMP, json.dumps(stamp, indent=1))
    return False


def _difference(found: dict, wanted: dict) -> str:
    """The first thing in which two stamps differ, in words."""
    for key in ("version", "layout"):
        if found.get(key) != wanted[key]:
            return f"{key} {found.get(key)!r} instead of {wanted[key]!r}"
    old = found.get("config", {})
    changed = [k for k, v in wanted["config"].items() if old.get(k) != v]
    return ", ".join(f"{k} = {old.get(k)!r} instead of {wanted['config'][k]!r}" for k in changed[:2]) or "another hash"


def _render_one(job: tuple[Render, Item, str, str | None]) -> None:
    render, item, video, part = job

    def save(make: Callable[[], dict]) -> None:
        if part is not None:
            write(Path(part), json.dumps(make()))

    render(item, video, save)


def _run(jobs: list[tuple], processes: int | None) -> Iterator[None]:
    """Renders all jobs, yielding once per finished item. A worker's exception is raised here; a worker
    that is killed ends in an InputError instead of being waited for."""
    processes = processes or (1 if len(jobs) < _IN_PROCESS else min(os.cpu_count() or 1, 16))
    if processes == 1 or not jobs:
        for job in jobs:
            yield _render_one(job)
        return
    try:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_render_one, jobs, chunksize=max(1, min(16, len(jobs) // (4 * processes))))
    except BrokenProcessPool as error:
        raise InputError(
            "a rendering process died: a script that renders needs `if __name__ == '__main__':` around its work, and a "
            "file of its own (not standard input); or memory ran out, then render with fewer processes"
        ) from error


def _finish(root: Path, stamp: dict, items: Sequence[Item], annotate: Callable[[Sequence[dict], Path], None]) -> None:
    """world.jsonl, then the annotations, then the stamp; the parts go last."""
    lines = [(root / PARTS / f"{item.name}.json").read_text(encoding="utf-8") for item in items]
    write(root / TRUTH, "".join(line + "\n" for line in lines))
    annotate([json.loads(line) for line in lines], root)
    for left in root.glob("*/.*"):  # of a killed encoder
        if left.is_file() and left.suffix in (".mp4", ".avi"):
            left.unlink()
    write(root / STAMP, json.dumps(stamp, indent=1))
    shutil.rmtree(root / PARTS)

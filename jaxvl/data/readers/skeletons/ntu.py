"""NTU RGB+D and NTU RGB+D 120, a folder of `.skeleton` files as published.

    ROOT/.../SsssCcccPpppRrrrAaaa.skeleton                    in any folders
    ROOT/.../NTU_RGBD_samples_with_missing_skeletons.txt      and that of NTU RGB+D 120, if they are there

The files are parsed once, in processes, into shards (`clips.py`) in a cache whose name hangs on the files; protocols
then choose rows of it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.common import Report, first_few, near, walk_folders
from jaxvl.data.readers.skeletons import clips as store
from jaxvl.data.readers.skeletons.clips import ClipStore, SkeletonClip, SkeletonReading
from jaxvl.data.readers.skeletons.ntu_classes import class_names
from jaxvl.data.readers.skeletons.ntu_file import parse_name, read_clip
from jaxvl.data.readers.skeletons.protocols import SPLITS, find_missing_lists, ntu_training, read_missing
from jaxvl.data.skeletons import NTU25
from jaxvl.data.workers import map_in_processes

PARSED = 1  # raised whenever the same files give other sequences
ENDING = ".skeleton"
FEW = 256  # files that this process parses itself
NAMELESS = "no name like S001C001P001R001A001"
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class NTU:
    """What was parsed. clips: all good files, in order of their names. skipped: `(name, reason)` of the others. notes:
    reason -> names of files that were read although something is odd."""

    clips: ClipStore
    skipped: tuple[tuple[str, str], ...]
    notes: Mapping[str, tuple[str, ...]]


def read_ntu(
    root: str | os.PathLike,
    protocol: str,
    classes: int,
    cache: str | os.PathLike,
    *,
    track_gaps: str = "official",
    missing: Sequence[str | os.PathLike] = (),
    processes: int = 0,
    progress: Progress | None = None,
) -> dict[str, SkeletonReading]:
    """Both splits of a protocol, `classes` of 60 or 120.

    cache: folder of the parsed sequences. missing: lists of samples to leave out; by default those found under `root`.
    processes, progress: of `parse_ntu`. Raises InputError where nothing is left of a split.
    """
    if classes not in (60, 120):
        raise InputError(f"config.model.classes: {classes}, but NTU RGB+D has 60 actions, NTU RGB+D 120 has 120")
    found = parse_ntu(root, cache, track_gaps=track_gaps, processes=processes, progress=progress)
    lists = [os.fspath(path) for path in missing] or find_missing_lists(root)
    gone = set().union(*(read_missing(path) for path in lists))
    clips = found.clips
    listed = np.isin(clips.column("name"), sorted(gone)) if gone else np.zeros(len(clips), bool)
    beyond = clips.column("label") >= classes
    columns = {field: clips.column(field) for field in ("subject", "camera", "setup")}
    trained = ntu_training(protocol, columns)
    broken = [(name, reason) for name, reason in found.skipped if name not in gone]
    data = f"NTU RGB+D{' 120' if classes > 60 else ''} {protocol}"
    readings = {}
    for split in SPLITS:
        mine = trained if split == "train" else ~trained
        rows = np.flatnonzero(mine & ~listed & ~beyond)
        if not len(rows):
            raise InputError(
                f"{os.fspath(root)}: no {split} sequence of {protocol} is left of {len(clips):,} files that were read"
            )
        parts = _notes(lists, int((mine & listed).sum()), int((mine & beyond & ~listed).sum()), classes)
        skipped = ()
        if split == "train":  # once, not for each split
            skipped = tuple(broken)
            odd = {reason: [name for name in names if name not in gone] for reason, names in found.notes.items()}
            parts += [f"{len(names):,} {reason} ({first_few(names)})" for reason, names in odd.items() if names]
        report = Report(data, split, len(rows), (), skipped, 0, tuple(parts), "", "sequences")
        readings[split] = SkeletonReading(clips.select(rows), NTU25, class_names(classes), report)
    return readings


def _notes(lists: Sequence[str], listed: int, beyond: int, classes: int) -> list[str]:
    parts = [f"{listed:,} on the list of missing skeletons"] if lists else ["no list of missing skeletons was found"]
    return parts + ([f"{beyond:,} of actions beyond A{classes:03d} left out"] if beyond else [])


def parse_ntu(
    root: str | os.PathLike,
    cache: str | os.PathLike,
    *,
    track_gaps: str = "official",
    processes: int = 0,
    progress: Progress | None = None,
) -> NTU:
    """Parses every `.skeleton` file under `root`, or opens what was parsed of the very same files before.

    track_gaps: of `select_bodies`. processes: 0, one a core. progress: called with (files done, files in all).
    Raises InputError: no such folder, no file, one name twice, a cache that cannot be written.
    """
    files, odd = find_files(root)
    stamp = hashlib.blake2b(f"{PARSED} {track_gaps}".encode(), digest_size=16)
    for path in files.values():
        about = os.stat(path)
        stamp.update(f"{os.path.relpath(path, root)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="replace"))
    folder = Path(cache) / f"ntu-{stamp.hexdigest()}"
    if (folder / store.INDEX).is_file():
        clips = ClipStore(folder)
    else:
        found = _Parsing(files, track_gaps, processes, progress)
        try:
            clips = store.write_clips(folder, found.clips(), NTU25, class_names(120), found.about)
        except store.NoClips:
            name, reason = found.about["skipped"][0]
            raise InputError(
                f"{os.fspath(root)}: none of its {len(files):,} files can be read; {name}: {reason}"
            ) from None
    skipped = [(name, NAMELESS) for name in odd] + [(name, reason) for name, reason in clips.about["skipped"]]
    return NTU(clips, tuple(skipped), {reason: tuple(names) for reason, names in clips.about["notes"].items()})


def find_files(root: str | os.PathLike) -> tuple[dict[str, str], list[str]]:
    """`({name: path} of the samples under `root`, in order of their names, file names of another form)`. Raises
    InputError: no such folder, no file, two of one name."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of {ENDING} files{near(top, folders=True)}")
    found: dict[str, str] = {}
    odd = []
    for here, _, files in walk_folders(top):
        for name in files:
            stem, ending = os.path.splitext(name)
            if ending != ENDING:
                continue
            if parse_name(stem) is None:
                odd.append(name)
            elif stem in found:
                raise InputError(
                    f"{os.path.join(here, name)}: a second file of this name beside {found[stem]}; remove one"
                )
            else:
                found[stem] = os.path.join(here, name)
    if not found:
        others = f"; {len(odd)} are called otherwise ({first_few(odd)})" if odd else ""
        raise InputError(f"{top}: holds no file like S001C001P001R001A001{ENDING}{others}")
    return dict(sorted(found.items())), odd


class _Parsing:
    """Files to sequences. about: the report, complete when the last one has come."""

    def __init__(self, files: Mapping[str, str], track_gaps: str, processes: int, progress: Progress | None):
        self.files, self.track_gaps, self.processes, self.progress = files, track_gaps, processes, progress
        self.about: dict[str, Any] = {"track_gaps": track_gaps, "skipped": [], "notes": {}}

    def clips(self) -> Iterator[SkeletonClip]:
        """Good files, in order."""
        read = functools.partial(_read, track_gaps=self.track_gaps)
        results = map_in_processes(read, list(self.files.values()), self.processes, few=FEW)
        for number, ((name, _), found) in enumerate(zip(self.files.items(), results, strict=True), 1):
            if self.progress:
                self.progress(number, len(self.files))
            if isinstance(found, BadMedia):
                self.about["skipped"].append([name, found.reason])
                continue
            bodies, notes = found
            for note in notes:
                self.about["notes"].setdefault(note, []).append(name)
            s = parse_name(name)
            yield SkeletonClip(name, s.action - 1, bodies, s.performer, s.camera, s.setup, s.replication)


def _read(path: str, track_gaps: str) -> tuple[np.ndarray, tuple[str, ...]] | BadMedia:
    """Runs in a worker: what is wrong with a file comes back instead of ending the rest."""
    try:
        return read_clip(path, track_gaps)
    except BadMedia as bad:
        return bad

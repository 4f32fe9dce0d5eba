"""A search index of a folder of videos: embeddings of whole videos and of their segments, kept between searches.

PATH/index.npz holds `video [n, E]`, `segments [n, S, E]`, `segment_mask [n, S]`, `spans [n, S, 2]` (seconds) and
`about`: JSON with version, provenance, folder, names of the rows, and the state of every file: size, mtime, reason.

It is one file that is replaced as a whole. So a killed run leaves the index that was there before, and of two runs
that write at once the later one wins: what it lacks is embedded again by the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.data.readers.common import VIDEO_ENDINGS, walk_folders, without_companions

VERSION = 2
INDEX_FILE = "index.npz"
ABOUT = "about"
SAVE_SECONDS = 60  # between two writes while embedding: what a killed run loses
SAVE_SHARE = 20  # and so many times what a write takes, since each is of the whole


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """One video. video: unit `[E]`; segments: unit `[S, E]`; segment_mask: `[S]` bool; spans: `[S, 2]`, seconds."""

    video: np.ndarray
    segments: np.ndarray
    segment_mask: np.ndarray
    spans: np.ndarray


Embed = Callable[[Sequence[Path]], Iterator[tuple[Path, "Vectors | str"]]]
"""Paths -> each with its vectors, or with the reason why it cannot be used. In any order."""


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A search result. name: below the folder; score: of the whole video; segment: `(start_s, end_s)` of the
    segment that scores best."""

    name: str
    score: float
    segment: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Counts:
    """What `refresh` did with the files of the folder. bad: `(name, reason)` of all that cannot be used."""

    embedded: int
    kept: int
    dropped: int
    bad: tuple[tuple[str, str], ...]

    def line(self) -> str:
        """For the user."""
        words = f"{self.embedded:,} videos embedded, {self.kept:,} unchanged, {self.dropped:,} dropped"
        return words + (f", {len(self.bad):,} cannot be decoded" if self.bad else "")


@dataclasses.dataclass(eq=False)
class SearchIndex:
    """`files`: name -> `[size, mtime_ns, reason]`, reason '' for those with vectors; `vectors`: name -> Vectors."""

    folder: str
    provenance: Mapping[str, Any]
    files: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    vectors: dict[str, Vectors] = dataclasses.field(default_factory=dict)

    def stack(self) -> Gallery:
        """The arrays that searching needs, in the order of the names."""
        names = sorted(self.vectors)
        return Gallery(tuple(names), *(np.stack(part) for part in zip(*(_parts(self.vectors[n]) for n in names))))


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """n videos. video `[n, E]`, segments `[n, S, E]`, segment_mask `[n, S]`, spans `[n, S, 2]`."""

    names: tuple[str, ...]
    video: np.ndarray
    segments: np.ndarray
    segment_mask: np.ndarray
    spans: np.ndarray

    def search(self, queries: np.ndarray, top: int) -> list[list[Found]]:
        """The `top` best videos for each of `queries` `[q, E]` (unit), best first; ties by name."""
        scores = queries @ self.video.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return [
            [Found(self.names[j], float(scores[i, j]), self.best_segment(queries[i], j)) for j in row]
            for i, row in enumerate(best)
        ]

    def best_segment(self, query: np.ndarray, row: int) -> tuple[float, float]:
        """`(start_s, end_s)` of the valid segment of video `row` that is nearest to `query` `[E]`."""
        similar = np.where(self.segment_mask[row], self.segments[row] @ query, -np.inf)
        start, end = self.spans[row, int(similar.argmax())]
        return float(start), float(end)


def segment_spans(times: np.ndarray, mask: np.ndarray, duration: float, segments: int) -> np.ndarray:
    """`[S, 2]` seconds that the segments of a sampled clip stand for; together they cover the whole video.

    times, mask: `[T]`, when each sampled frame appears and whether it is a real one; segment s holds T/S frames in
    a row. Between two sampled frames the border is half-way; the first begins at 0, the last ends at `duration`.
    Segments of repeated frames alone are empty spans at the end.
    """
    real = times[mask]
    borders = np.concatenate([[0.0], (real[1:] + real[:-1]) / 2, [duration]])
    per_segment, count = len(times) // segments, len(real)
    first = np.minimum(np.arange(segments) * per_segment, count)
    last = np.minimum(first + per_segment, count)
    return np.stack([borders[first], borders[last]], axis=1)


def weights_digest(variables: Any) -> str:
    """A hash of all arrays with their names: other weights, another digest."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def list_videos(folder: Path) -> dict[str, list[int]]:
    """Video files under `folder` by name below it, each `[size, mtime_ns]`, sorted.

    Hidden files and folders are left out; links to folders are followed, each folder once. A GIF beside a
    video of its name is its preview.
    """
    found: dict[str, list[int]] = {}
    for here, folders, files in walk_folders(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        videos = [n for n in files if not n.startswith(".") and n.lower().endswith(VIDEO_ENDINGS)]
        for name in without_companions(videos):
            path = os.path.join(here, name)
            if not os.path.isfile(path):
                continue
            state = os.stat(path)
            found[Path(path).relative_to(folder).as_posix()] = [state.st_size, state.st_mtime_ns]
    return dict(sorted(found.items()))


def refresh(
    path: Path,
    folder: Path,
    provenance: Mapping[str, Any],
    embed: Embed,
    *,
    rebuild: bool = False,
    say: Callable[[str], None] = print,
    required: bool = True,
) -> tuple[SearchIndex, Counts]:
    """Brings the index at `path` up to date with the videos under `folder`, and saves it where anything changed.

    Only files that are new, or have another size or modification time, go to `embed`; those that are gone are
    dropped. rebuild: forget what was there. required: else an index that cannot be written is only not kept.
    Raises InputError: another provenance or folder than the index was made with, a damaged index, one that has to be
    written and cannot be.
    """
    states = list_videos(folder)
    if not states:
        raise InputError(f"--videos {folder}: holds no video file ({', '.join(VIDEO_ENDINGS[:5])}, ...)")
    here = str(folder.resolve())
    index = None if rebuild else read(path)
    if index is None:
        index = SearchIndex(here, dict(provenance))
    _check(path, index, here, provenance, states)
    before, index.folder = set(index.files), here
    gone = [name for name in index.files if name not in states]
    todo = [name for name, state in states.items() if index.files.get(name, [None, None])[:2] != state]
    kept = len(states) - len(todo) - sum(bool(index.files[n][2]) for n in set(states) - set(todo))
    for name in [*gone, *todo]:
        index.files.pop(name, None)
        index.vectors.pop(name, None)
    writable = True
    embedded, unsaved, due = 0, bool(gone) or not before, time.monotonic() + SAVE_SECONDS
    by_path = {folder / name: name for name in todo}
    if todo or gone:
        try:
            with _writing(path) as probe:  # before the work, not after it
                probe.touch()
        except InputError as error:
            if required:
                raise
            say(f"not kept: {error}")
            writable = False
    if todo:
        say(f"indexing: {len(todo):,} videos to embed")
    try:
        for number, (file, result) in enumerate(embed(list(by_path)), 1):
            name = by_path[file]
            reason = result if isinstance(result, str) else ""
            index.files[name] = [*states[name], reason]
            if not reason:
                index.vectors[name] = result
                embedded += 1
            unsaved = True
            if not writable:
                continue
            if (begun := time.monotonic()) >= due:
                save(path, index)
                unsaved = False
                due = time.monotonic() + max(SAVE_SECONDS, SAVE_SHARE * (time.monotonic() - begun))
                say(f"indexing: {number:,} of {len(todo):,} videos")
    finally:  # interrupted, too
        if unsaved and writable:
            save(path, index)
    bad = tuple((name, index.files[name][2]) for name in states if index.files[name][2])
    return index, Counts(embedded, kept, len(gone), bad)


def save(path: Path, index: SearchIndex) -> None:
    """Writes the index; the previous one stays in force until the new one is whole. InputError where it cannot."""
    order = sorted(index.vectors)
    names = [field.name for field in dataclasses.fields(Vectors)]
    parts = zip(*(_parts(index.vectors[n]) for n in order)) if order else [[]] * len(names)
    columns = {name: np.stack(part) if part else np.zeros(0) for name, part in zip(names, parts)}
    about = {"version": VERSION, "provenance": dict(index.provenance), "folder": index.folder}
    about |= {"rows": order, "files": index.files}
    text = json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogateescape")
    with _writing(path) as unfinished:
        with unfinished.open("wb") as file:
            np.savez(file, **{ABOUT: np.frombuffer(text, np.uint8)}, **columns)
        os.replace(unfinished, path / INDEX_FILE)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A file of this process in the folder `path`, gone afterwards; OSErrors (no right, no space) as InputError."""
    unfinished = path / f".{INDEX_FILE}.{os.getpid()}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--index {path}: cannot be written ({error.strerror}); name another folder") from error


def read(path: Path) -> SearchIndex | None:
    """The index at `path`; None where there is none. Raises InputError where it is damaged."""
    file = path / INDEX_FILE
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:  # checks the checksum of each array
            about = json.loads(arrays[ABOUT].tobytes().decode("utf-8", "surrogateescape"))
            _check_about(about)
            if about["version"] != VERSION:
                raise InputError(f"{file}: is of version {about['version']}, this is {VERSION}; --rebuild it")
            columns = [arrays[field.name] for field in dataclasses.fields(Vectors)]
        _check_columns(columns, len(about["rows"]))
        vectors = {name: Vectors(*(c[i] for c in columns)) for i, name in enumerate(about["rows"])}
        if set(vectors) != {name for name, state in about["files"].items() if not state[2]}:
            raise ValueError("its files and rows differ")
        return SearchIndex(about["folder"], about["provenance"], about["files"], vectors)
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: damaged search index ({reason}); make it again with --rebuild") from error


def _check_about(about: Any) -> None:
    """Raises ValueError where it is not what `save` writes; of another version it may be anything."""
    if not isinstance(about, dict) or type(about.get("version")) is not int:
        raise ValueError("it does not say its version")
    if about["version"] != VERSION:
        return
    rows, files = about["rows"], about["files"]
    texts = [about["folder"], *rows, *files] if isinstance(rows, list) and isinstance(files, dict) else [None]
    if not all(isinstance(text, str) for text in texts) or not isinstance(about["provenance"], dict):
        raise ValueError("it does not say what it is of")
    for state in files.values():
        if not isinstance(state, list) or [type(x) for x in state] != [int, int, str]:
            raise ValueError("the state of a file is no size, time and reason")
    if len(set(rows)) < len(rows):
        raise ValueError("a row occurs twice")


def _check_columns(columns: Sequence[np.ndarray], count: int) -> None:
    """Raises ValueError where the arrays do not belong together, or hold what no embedding is."""
    if any(len(column) != count for column in columns):
        raise ValueError("its lengths differ")
    if not count:
        return
    video, segments, mask, spans = columns
    n, s = mask.shape if mask.ndim == 2 else (-1, -1)
    if video.ndim != 2 or segments.shape != (n, s, video.shape[1]) or spans.shape != (n, s, 2) or mask.dtype != bool:
        raise ValueError("its shapes differ")
    if not all(np.issubdtype(x.dtype, np.floating) and np.isfinite(x).all() for x in (video, segments, spans)):
        raise ValueError("it holds what is no finite number")
    if not mask.any(1).all():
        raise ValueError("a video has no segment")


def _check(
    path: Path, index: SearchIndex, folder: str, provenance: Mapping[str, Any], states: Mapping[str, list]
) -> None:
    """Refuses an index of other embeddings, or of another folder (a moved one still holds files that it knows)."""
    other = [
        key if key in ("weights", "model") else f"{key} {index.provenance.get(key)!r} instead of {provenance[key]!r}"
        for key in provenance
        if index.provenance.get(key) != provenance[key]
    ]
    if other:
        raise InputError(
            f"{path}: this search index was made by another model or sampling ({', '.join(other)}); "
            "--rebuild makes it again, --index PATH keeps both"
        )
    if index.folder != folder and not any(index.files.get(n, [])[:2] == state for n, state in states.items()):
        raise InputError(
            f"{path}: is the search index of {index.folder}, which shares no file with {folder}; "
            "give another --index, or --rebuild"
        )


def _parts(vectors: Vectors) -> tuple[np.ndarray, ...]:
    return tuple(getattr(vectors, field.name) for field in dataclasses.fields(Vectors))

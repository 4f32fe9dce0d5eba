"""What every reader of a published data set shares: records, the report, media look-up, careful file reading.

A reader turns a folder, exactly as published, into records plus a report of what it found, missed and
skipped. It opens annotation files only; media files are located, not decoded.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.frames import ARRAY_ENDINGS, PICTURE_ENDINGS
from jaxvl.data.lmdb_source import is_lmdb, lmdb_keys

VIDEO_ENDINGS = (
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".3g2", ".flv", ".wmv", ".asf"),
    *(".ts", ".m2ts", ".mts", ".ogv", ".ogg", ".vob", ".gif"),
)
BESIDE = (".gif", ".ogg")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
SHOWN = 3  # names printed before "..."


@dataclasses.dataclass(frozen=True)
class VideoText:
    """One (video, caption) pair.

    path: a video file, a folder of frames or an array file. caption_index: which caption of this video,
    as counted in the annotation file. start_s, end_s: the part of the video that is meant, in seconds.
    """

    video_id: str
    path: str
    caption: str
    caption_index: int
    start_s: float | None = None
    end_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a reader found.

    found: videos in use. pairs: records made of them. missing: ids without a media file.
    skipped: `(id, reason)` of what was left out although it is there. notes: what the user should know. unit: what the
    records are called, '' where each video is one. media: what stands in the place of videos.
    """

    dataset: str
    split: str
    found: int
    missing: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    pairs: int = 0
    notes: tuple[str, ...] = ()
    unit: str = "pairs"
    media: str = "videos"

    def line(self) -> str:
        """The report in one line, with the first few names."""
        records = f", {self.pairs:,} {self.unit}" if self.unit else ""
        parts = [f"{self.dataset} {self.split}: {self.found:,} {self.media}{records}"]
        if self.missing:
            parts.append(f"{len(self.missing):,} without a media file ({first_few(self.missing)})")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            by_reason.setdefault(reason, []).append(name)
        parts += [f"{len(names):,} skipped, {reason} ({first_few(names)})" for reason, names in by_reason.items()]
        return "; ".join([*parts, *self.notes])


@dataclasses.dataclass(frozen=True)
class Reading:
    """A split that was read. ids: the videos in use, in order, so that two people can compare subsets."""

    pairs: list[VideoText]
    report: Report
    ids: tuple[str, ...]


def first_few(names: Collection[str]) -> str:
    """`a, b, c, ...`"""
    shown = ", ".join(list(names)[:SHOWN])
    return f"{shown}, ..." if len(names) > SHOWN else shown


def make_reading(
    dataset: str,
    split: str,
    captions: Mapping[str, Sequence[str]],
    videos: str | os.PathLike,
    *,
    strict: bool = False,
    check_media: bool = True,
    skipped: Iterable[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    media: Mapping[str, str] | None = None,
    spans: Mapping[str, tuple[float, float]] | None = None,
) -> Reading:
    """Joins captions, in their order, with the media files under the folder `videos`.

    captions: video id -> its captions. Empty captions and files of 0 bytes are skipped with a reason.
    strict: a missing or empty media file is an error. check_media: False (records are read from elsewhere)
        looks nothing up and sets `path` to `videos/ID`.
    media: video id -> its media, where names need a rule of their own; by default `find_media(videos, captions)`.
    spans: video id -> `(start_s, end_s)` of its pairs.
    Raises InputError where the folder does not exist or nothing is left.
    """
    if not check_media:
        media = {name: os.path.join(videos, name) for name in captions}
    elif media is None:
        media = find_media(videos, captions)
    skipped, missing, pairs = list(skipped), [], []
    for video_id, texts in captions.items():
        path = media.get(video_id)
        if path is None:
            missing.append(video_id)
        elif check_media and os.path.isfile(path) and os.path.getsize(path) == 0:
            skipped.append((video_id, "media file of 0 bytes"))
            if strict:
                raise InputError(f"{path}: empty media file (0 bytes); copy it again or read without strict")
        elif not texts:
            skipped.append((video_id, "no caption"))
        else:
            empty = [(video_id, "empty caption") for text in texts if not text.strip()]
            skipped += empty
            span = (spans or {}).get(video_id, (None, None))
            pairs += [VideoText(video_id, path, t.strip(), i, *span) for i, t in enumerate(texts) if t.strip()]
    if missing and strict:
        raise InputError(
            f"{dataset} {split}: {len(missing)} of {len(captions)} videos have no file under {os.fspath(videos)} "
            f"({first_few(missing)}); complete the folder or read without strict"
        )
    if not pairs:
        raise InputError(
            f"{dataset} {split}: none of the {len(captions)} videos ({first_few(list(captions))}) can be used: "
            f"{len(missing)} have no media file under {os.fspath(videos)}, {len(skipped)} were skipped; "
            "is this the right folder?"
        )
    ids = tuple(dict.fromkeys(pair.video_id for pair in pairs))
    if twins := _same_media(pairs):
        notes = [*notes, f"{len(twins):,} are the file of another id ({first_few(twins)})"]
    report = Report(dataset, split, len(ids), tuple(missing), tuple(skipped), len(pairs), tuple(notes))
    return Reading(pairs, report, ids)


def _same_media(pairs: Sequence[VideoText]) -> list[str]:
    """Ids whose medium and part of it another id before them has, as `X` and `X.mp4`: one video counted twice."""
    first: dict[tuple, str] = {}
    return list(
        dict.fromkeys(
            p.video_id for p in pairs if first.setdefault((p.path, p.start_s, p.end_s), p.video_id) != p.video_id
        )
    )


def find_media(folder: str | os.PathLike, ids: Collection[str]) -> dict[str, str]:
    """Walks `folder` once and gives the media of each of `ids` that has one.

    The id of a medium is its `stem` of `walk_media`. Raises InputError where the folder does not exist or a
    wanted id has two files.
    """
    wanted = set(ids)
    # Names that differ in their Unicode form alone (accents apart, as macOS writes them) are the same name.
    composed = {unicodedata.normalize("NFC", name): name for name in ids}
    found: dict[str, str] = {}
    for stem, path in walk_media(folder):
        video_id = stem if stem in wanted else composed.get(unicodedata.normalize("NFC", stem))
        if video_id is not None:
            if video_id in found:
                raise InputError(f"{path}: a second file for the id {video_id!r} beside {found[video_id]}; remove one")
            found[video_id] = path
    return found


def walk_media(folder: str | os.PathLike) -> Iterator[tuple[str, str]]:
    """`(stem, path)` of every medium under `folder`, or in it where it is an LMDB (`lmdb_source`).

    The stem of a file is its name without the last ending (ids may contain dots); that of a folder of frames
    (one that holds pictures) is its name; that of an LMDB key its name without a video ending. Links to folders
    are followed. Raises InputError where the folder does not exist.
    """
    top = os.fspath(folder)
    if is_lmdb(top):
        for key in lmdb_keys(top):
            stem, end = os.path.splitext(key)
            yield stem if end.lower() in VIDEO_ENDINGS else key, os.path.join(top, key)
        return
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of videos{near(top, folders=True)}")
    for here, _, files in walk_folders(top):
        names = [(name, *os.path.splitext(name)) for name in files]
        media = [(stem, name) for name, stem, end in names if end.lower() in VIDEO_ENDINGS + ARRAY_ENDINGS]
        own = set(without_companions([name for _, name in media]))
        media = [(stem, name) for stem, name in media if name in own]  # pictures beside media are thumbnails
        if here != top and not media and any(end.lower() in PICTURE_ENDINGS for _, _, end in names):
            media.append((os.path.basename(here), ""))
        yield from ((stem, os.path.join(here, name) if name else here) for stem, name in media)


def without_companions(names: Sequence[str]) -> list[str]:
    """Of the media of a folder those that stand for themselves: a GIF or a sound beside a video of its name shows or
    accompanies it."""
    real = {os.path.splitext(name)[0] for name in names if not name.lower().endswith(BESIDE)}
    return [name for name in names if os.path.splitext(name)[0] not in real or not name.lower().endswith(BESIDE)]


def walk_folders(top: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in sorted order that follows links to folders, each real folder once; what the caller takes out of the
    second list is not entered."""
    seen: set[str] = set()
    for here, folders, files in os.walk(top, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield here, folders, sorted(files)


class NamesOnDisk:
    """Finds paths also where their names differ from those on disk in Unicode form alone (accents apart or not); each
    folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path as it is on disk, None where there is nothing. Raises InputError where two names would do."""
        if os.path.exists(path):
            return path
        parent, name = os.path.split(path)
        if path.isascii() or not name:
            return None
        folder = self.find(parent or os.curdir)
        names = self._composed(folder).get(unicodedata.normalize("NFC", name), []) if folder else []
        if len(names) > 1:
            raise InputError(f"{path}: {len(names)} names in {folder} differ from it in Unicode form alone; keep one")
        return os.path.join(folder if parent else "", names[0]) if names else None

    def _composed(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by their composed form."""
        if folder not in self._listed:
            found = self._listed[folder] = {}
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                found.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        return self._listed[folder]


def media_from_paths(videos: str | os.PathLike, paths: Mapping[str, str]) -> dict[str, str]:
    """The media that exist of `paths`, id -> path relative to the folder `videos` (or absolute).

    A file that was encoded anew counts under its new ending (`a/b.avi` -> `a/b.mp4`), a folder of frames under
    the name without one, and names may differ in Unicode form. Raises InputError where the folder does not exist.
    """
    top = os.fspath(videos)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of videos{near(top, folders=True)}")
    found, names = {}, NamesOnDisk()
    for video_id, relative in paths.items():
        path = os.path.join(top, relative)
        stem = os.path.splitext(path)[0]
        choices = [path, *(stem + end for end in VIDEO_ENDINGS + ARRAY_ENDINGS), stem]
        if there := next((p for choice in choices if (p := names.find(choice))), None):
            found[video_id] = there
    return found


def read_video_paths(path: str | os.PathLike) -> dict[str, str]:
    """`video_path.json`: `{id: relative path}`. InputError as `read_json`, and where it is of another shape."""
    data = read_json(path, "the paths of the videos")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise InputError(f"{os.fspath(path)}: needs one object, {{id: path of the video}}")
    return data


def write_ids(workdir: str | os.PathLike, split: str, ids: Sequence[str]) -> str | None:
    """Writes `WORKDIR/ids/SPLIT.txt`, the videos in use, one id a line, so that two people can compare subsets.

    Returns a line for the user where the file was there and named other videos, else None.
    """
    folder = os.path.join(workdir, "ids")
    path = os.path.join(folder, f"{split}.txt")
    line = None
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="surrogatepass", newline="") as file:
            before = file.read().split("\n")[:-1]
        if before == list(ids):
            return None
        gone, new = len(set(before) - set(ids)), len(set(ids) - set(before))
        line = f"{path}: other videos than when it was written: {gone:,} gone, {new:,} new; written again"
    os.makedirs(folder, exist_ok=True)
    unfinished = f"{path}.{uuid.uuid4().hex}.tmp"  # several hosts may write the same list at once
    with open(unfinished, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.writelines(f"{name}\n" for name in ids)
    os.replace(unfinished, path)
    return line


def read_json(path: str | os.PathLike, what: str) -> Any:
    """A JSON file. `what` it is for goes into the InputError (missing, broken: with line and column, not UTF-8)."""
    text = read_text(path, what)
    try:
        content = json.loads(text)
        if SURROGATE.search(text):  # half of a character is no text: it cannot be printed, stored or named
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{os.fspath(path)}: broken JSON at {where} ({error.msg}); fetch {what} again") from error
    except (RecursionError, UnicodeEncodeError, ValueError) as error:  # nested too deep; a number of 5,000 digits
        why = "it nests too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise InputError(f"{os.fspath(path)}: no JSON that can be read ({why}); fetch {what} again") from error


def read_csv(path: str | os.PathLike, columns: Sequence[str], what: str, *, text: str = "") -> list[dict[str, str]]:
    """Rows of a comma-separated file with a header line that has at least `columns`. InputError as `read_json`, and
    for a row with more or fewer fields than the header.

    text: a column of free text; where it is the last one, surplus fields are its commas, written without quotes.
    """
    # Not `splitlines`: a caption may hold a Unicode line separator.
    reader = csv.DictReader(io.StringIO(read_text(path, what), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        lost = [c for c in columns if c not in header]
        if lost:
            has = ", ".join(header) or "nothing"
            raise InputError(f"{os.fspath(path)}: {what} needs a header line with {', '.join(lost)}; it has {has}")
        if twice := [c for c in columns if header.count(c) > 1]:
            raise InputError(f"{os.fspath(path)}: the header line of {what} has {twice[0]} more than once; keep one")
        rows = []
        for row in reader:
            if surplus := row.pop(None, None):
                if not text or header[-1] != text:
                    where = f"{os.fspath(path)}: line {reader.line_num}"
                    raise InputError(f"{where} has more fields than the header; quote what holds a comma")
                row[text] = ",".join([row[text], *surplus])
            if any(row[c] is None for c in columns):
                raise InputError(f"{os.fspath(path)}: line {reader.line_num} has fewer fields than the header")
            rows.append(row)
    except csv.Error as error:
        begin = reader.line_num + 1  # of the row that is broken; `line_num` is the end of the last good one
        raise InputError(f"{os.fspath(path)}: broken csv at line {begin} ({error})") from error
    return rows


def read_ids(path: str | os.PathLike, what: str) -> list[str]:
    """One id a line; blank lines are dropped. InputError where the file is missing or has none."""
    ids = [line.strip() for line in read_text(path, what).split("\n") if line.strip()]
    if not ids:
        raise InputError(f"{os.fspath(path)}: {what} is empty")
    return ids


def read_text(path: str | os.PathLike, what: str) -> str:
    """A whole UTF-8 file, with or without a byte order mark. InputError where it is missing or not UTF-8."""
    name = require_file(path, what)
    with open(name, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; save {what} as UTF-8") from error


def require_file(path: str | os.PathLike, what: str) -> str:
    """The path as a string. Raises InputError, with the nearest name in the folder, where there is no such file."""
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise InputError(f"{name}: no such file ({what}){near(name)}")
    return name


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur a second time, in order."""
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]


def near(path: str, folders: bool = False) -> str:
    """`; there is X beside it` for the nearest name in the same folder, or which folder does not exist.

    folders: where no name is near, the folders there are.
    """
    folder, name = os.path.split(path.rstrip(os.sep))
    if not os.path.isdir(folder or "."):
        return f"; the folder {folder} does not exist either"
    names = sorted(os.listdir(folder or "."))
    beside = difflib.get_close_matches(name, names, 1, 0.5)
    if folders and not beside:
        beside = [n for n in names if os.path.isdir(os.path.join(folder, n)) and not n.startswith(".")]
    return f"; there is {first_few(beside)} beside it" if beside else ""

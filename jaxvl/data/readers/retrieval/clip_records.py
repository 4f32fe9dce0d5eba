"""(video, caption) pairs as ArrayRecord shards: what `jaxvl prepare` writes and the reader 'records' reads back.

ROOT/
  train/   dataset.json, clips-*.array_record     one record a video, its captions in the record's annotations
  val/ test/                                      the same; a split that was not written is not there

The captions stand in the index of the shards as well, so that opening a set reads no picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import Reading, Report, VideoText
from jaxvl.data.records import INDEX_FILE, ClipItem, ClipRecords, Written, write_clips

DATASET = "records"
CAPTION = ("caption", "caption_index", "start_s", "end_s")


def write_pairs(
    folder: str | os.PathLike,
    pairs: Sequence[VideoText],
    split: str,
    *,
    provenance: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Written:
    """Writes every video of `pairs` once, with its captions, to `folder`.

    settings: those of `records.write_clips` (short_side, quality, fps, max_frames, num_shards, on_error, ...).
    provenance: where the pairs came from; JSON. Raises InputError as `write_clips`, and where the pairs of one
    video name two files.
    """
    paths: dict[str, str] = {}
    captions: dict[str, list[list[Any]]] = {}
    for pair in pairs:
        if paths.setdefault(pair.video_id, pair.path) != pair.path:
            raise InputError(f"video {pair.video_id}: its captions name two files, {paths[pair.video_id]}, {pair.path}")
        captions.setdefault(pair.video_id, []).append([getattr(pair, name) for name in CAPTION])
    items = [ClipItem(name, paths[name], {"captions": captions[name]}) for name in paths]
    about = {**(provenance or {}), "split": split, "captions": captions}
    return write_clips(folder, items, provenance=about, **settings)


def read_pairs(
    root: str | os.PathLike,
    split: str,
    *,
    image_size: int,
    fps: float | None = None,
    num_frames: int = 1,
) -> tuple[Reading, ClipRecords]:
    """The pairs of `ROOT/SPLIT` and the records to read their clips from, `records.by_id(pair.video_id)`.

    image_size, fps, num_frames: what the clips will be asked for; a set that was written smaller, slower or
    shorter than that is refused rather than blown up.
    Raises InputError: no such set, damaged or truncated shards, another split, too small.
    """
    folder = Path(root) / split
    if not (folder / INDEX_FILE).is_file():
        raise InputError(
            f"{folder / INDEX_FILE}: no such file, so the split {split!r} was not (or not wholly) written there; "
            "write it with: jaxvl prepare --config FILE --out DIR, and name DIR in config.data.root"
        )
    records = ClipRecords(folder)
    made, index = records.provenance, folder / INDEX_FILE
    if made.get("split") != split or not isinstance(made.get("captions"), dict):
        raise InputError(
            f"{index}: is not the split {split!r} of a set of captioned clips (its provenance says "
            f"split {made.get('split')!r}); write it with jaxvl prepare"
        )
    _check_size(index, made, image_size, fps, num_frames)
    path = os.fspath(folder)
    try:
        pairs = [
            VideoText(name, path, **dict(zip(CAPTION, row, strict=True)))
            for name in records.ids
            for row in made["captions"][name]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{index}: damaged captions ({error!r}); write the data set again") from error
    skipped = tuple((name, "not decoded when the set was written") for name, _ in made.get("skipped", ()))
    report = Report(f"{DATASET} of {made.get('dataset', 'clips')}", split, len(records), (), skipped, len(pairs))
    return Reading(pairs, report, records.ids), records


def _check_size(index: Path, made: Mapping[str, Any], image_size: int, fps: float | None, num_frames: int) -> None:
    short, rate, most = made.get("short_side"), made.get("fps"), made.get("max_frames")
    if short is not None and short < image_size:
        raise InputError(
            f"{index}: frames were written at short side {short}, the model takes {image_size}; "
            "prepare again with a larger config.data.records.short_side"
        )
    if rate is not None and fps is not None and rate < fps:
        raise InputError(
            f"{index}: frames were written at {rate:g} a second, config.data.fps asks for {fps:g}; "
            "prepare again with a larger config.data.records.fps"
        )
    if most is not None and most < num_frames:
        raise InputError(
            f"{index}: at most {most} frames a video were written, config.data.frames asks for {num_frames}; "
            "prepare again with a larger config.data.records.max_frames"
        )

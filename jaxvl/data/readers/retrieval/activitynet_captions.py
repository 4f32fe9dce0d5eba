"""ActivityNet Captions (Krishna et al. 2017) for paragraph retrieval: a whole video against all its sentences.

ROOT/
  train_ids.json  val_ids.json        lists of "v_<id>"
  train.json      val_1.json          {"v_<id>": {"duration": 82.73, "timestamps": [[s, e], ...], "sentences": [...]}}
  video_path.json                     {id without v_: path below videos/}; if absent, videos/ is walked
  videos/**/v_<id>.mp4                or <id>.mp4, any video ending
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.lmdb_source import is_lmdb
from jaxvl.data.readers import common

SPLITS = ("train", "val")
ALIASES = {"val_1": "val", "test": "val"}
"""The official test captions are not public: val_1 is what everybody reports on."""
DATASET = "ActivityNet Captions"
FILES = {"train": ("train_ids.json", "train.json"), "val": ("val_ids.json", "val_1.json")}
BROKEN = ("v_NHznDFD3V3k",)
"""Left out: the file that YouTube delivered does not decode."""
PREFIX = "v_"


def read_activitynet_captions(
    root: str | os.PathLike,
    split: str,
    *,
    ids: str | None = None,
    annotations: str | None = None,
    video_paths: str | None = None,
    videos: str = "videos",
    strict: bool = False,
    check_media: bool = True,
) -> common.Reading:
    """One (video, paragraph) pair a video: 10,009 in train, 4,917 in val_1 (names 'val', 'val_1' and 'test').

    The caption is all sentences joined with a blank; the clip is the whole video, 0 to ceil(duration) seconds.
    Ids keep their `v_`. The report counts spans that end after the video and those that are empty or inverted;
    paragraph retrieval does not use spans.
    ids, annotations, video_paths: other names of the files, relative to `root` or absolute. `strict` and
    `check_media` as in `common.make_reading`.
    Raises InputError naming the file and entry: missing, broken, of another shape, unknown split, no video found.
    """
    name = ALIASES.get(split, split)
    if name not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}: choose one of {', '.join((*SPLITS, *ALIASES))}")
    root = os.fspath(root)
    ids_path, data_path = (os.path.join(root, own or there) for own, there in zip((ids, annotations), FILES[name]))
    listed = _read_list(ids_path, name)
    data = _read_annotations(data_path, name, listed)
    skipped = [(v, "repeated in the list") for v in common.repeated(listed)]
    skipped += [(v, "known not to decode") for v in dict.fromkeys(listed) if v in BROKEN]
    used = [v for v in dict.fromkeys(listed) if v not in BROKEN]
    if not any(v in data for v in used):
        raise InputError(f"{data_path}: has no captions for any id of {ids_path} ({common.first_few(used)})")
    captions = {v: [paragraph(data[v]["sentences"])] if v in data else [] for v in used}
    there = {v: data[v] for v in used if v in data}
    folder, media = os.path.join(root, videos), None
    if check_media:
        named = os.path.join(root, video_paths or "video_path.json")
        if not is_lmdb(folder) and (video_paths or os.path.isfile(named)):
            paths = common.read_video_paths(named)
            paths = {v: paths.get(v.removeprefix(PREFIX), paths.get(v)) for v in used}
            media = common.media_from_paths(folder, {v: p for v, p in paths.items() if p is not None})
        else:
            media = find_prefixed(folder, used)
    return common.make_reading(
        DATASET,
        name,
        captions,
        folder,
        strict=strict,
        check_media=check_media,
        skipped=skipped,
        notes=_span_notes(there),
        media=media,
        spans={v: (0.0, float(math.ceil(entry["duration"]))) for v, entry in there.items()},
    )


def paragraph(sentences: Sequence[str]) -> str:
    """All sentences joined with one blank. The published ones begin with blanks, which are dropped first."""
    return " ".join(s for s in (sentence.strip() for sentence in sentences) if s)


def find_prefixed(folder: str | os.PathLike, ids: Sequence[str]) -> dict[str, str]:
    """The media of ids `v_<id>`: a file `v_<id>.*`, or `<id>.*` where no other id of the list is called so.

    Only the first `v_` is the prefix: an id may begin with those letters itself. Raises InputError where a video
    has two files.
    """
    listed = set(ids)
    bare = {v.removeprefix(PREFIX): v for v in ids}
    media = common.find_media(folder, listed | set(bare))
    found = {v: media[v] for v in ids if v in media}
    for name, video_id in bare.items():
        if name in media and name not in listed:
            if video_id in found:
                other = found[video_id]
                raise InputError(f"{media[name]}: a second file for the id {video_id!r} beside {other}; remove one")
            found[video_id] = media[name]
    return found


def _read_list(path: str, split: str) -> list[str]:
    ids = common.read_json(path, f"the {split} list of {DATASET}")
    if not isinstance(ids, list) or not ids or not all(isinstance(v, str) for v in ids):
        raise InputError(f"{path}: needs a list of video ids ('v_...')")
    return ids


def _read_annotations(path: str, split: str, listed: Sequence[str]) -> Mapping[str, Any]:
    data = common.read_json(path, f"the {split} captions of {DATASET}")
    if not isinstance(data, dict):
        raise InputError(f"{path}: needs one object, {{'v_...': {{duration, timestamps, sentences}}}}")
    for video_id in listed:
        if video_id in data and (wrong := _wrong(data[video_id])):
            raise InputError(f"{path}: entry {video_id!r}: {wrong}")
    return data


def _wrong(entry: Any) -> str | None:
    """What is wrong with an annotation, in a few words."""
    if not isinstance(entry, dict):
        return "is not an object with duration, timestamps and sentences"
    if not _number(entry.get("duration")) or entry["duration"] <= 0:
        return f"'duration' must be seconds above 0, it is {entry.get('duration')!r}"
    texts, spans = entry.get("sentences"), entry.get("timestamps")
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        return "'sentences' must be a list of texts"
    pairs = isinstance(spans, list) and all(isinstance(s, list) and len(s) == 2 and all(map(_number, s)) for s in spans)
    if not pairs or len(spans) != len(texts):
        return "'timestamps' must be one pair of seconds for each sentence"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _span_notes(entries: Mapping[str, Any]) -> list[str]:
    spans = [(start, end, entry["duration"]) for entry in entries.values() for start, end in entry["timestamps"]]
    late = sum(end > duration for _, end, duration in spans)
    inverted = sum(end <= start for start, end, _ in spans)
    counts = [(late, "end after the video"), (inverted, "are empty or inverted")]
    said = " and ".join(f"{n:,} {what}" for n, what in counts if n)
    return [f"of {len(spans):,} spans {said} (a paragraph is matched with the whole video)"] if said else []

"""LSMDC 2016 (Rohrbach et al. 2017) as text-video retrieval uses it: one sentence a row, clips cut from films.

ROOT/
  LSMDC16_annos_training.csv                     tab-separated, no header, six fields: clip id, start and end as
  LSMDC16_annos_val.csv                          aligned, start and end as extracted, sentence
  LSMDC16_challenge_1000_publictect.csv          the test of 1,000 clips; the misspelt name is the published one
  video_path.json                                {clip id: path below videos/}; if absent, videos/ is walked
  videos/0001_American_Beauty/0001_American_Beauty_00.00.51.926-00.00.54.129.avi
"""

from __future__ import annotations

import os

from jaxvl.core.errors import InputError
from jaxvl.data.lmdb_source import is_lmdb
from jaxvl.data.readers import common

SPLITS = ("train", "val", "test")
DATASET = "LSMDC"
FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
FIELDS = ("clip id", "start aligned", "end aligned", "start extracted", "end extracted", "sentence")


def read_lsmdc(
    root: str | os.PathLike,
    split: str,
    *,
    annotations: str | None = None,
    video_paths: str | None = None,
    videos: str = "videos",
    strict: bool = False,
    check_media: bool = True,
) -> common.Reading:
    """The (clip, sentence) pairs of one split: about 101,000 / 7,408 / 1,000.

    A clip id that comes in several rows is one video with several captions. The times of a row say where in the
    film the clip was cut; a clip is used whole.
    annotations: the file to read; by default the published name of the split. video_paths: the json of paths; by
    default `video_path.json` where ROOT has one (a clip that it does not name has no media file), else the folder
    `videos` is walked for `CLIP_ID.*`. Names are relative to `root` or absolute; `strict` and `check_media` as in
    `common.make_reading`.
    Raises InputError naming the file and line: missing, not six fields, no clip id, unknown split.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}: choose one of {', '.join(SPLITS)}")
    root = os.fspath(root)
    captions = read_rows(os.path.join(root, annotations or FILES[split]), split)
    folder, media = os.path.join(root, videos), None
    named = os.path.join(root, video_paths or "video_path.json")
    if check_media and not is_lmdb(folder) and (video_paths or os.path.isfile(named)):
        paths = common.read_video_paths(named)
        media = common.media_from_paths(folder, {name: paths[name] for name in captions if name in paths})
    return common.make_reading(DATASET, split, captions, folder, strict=strict, check_media=check_media, media=media)


def read_rows(path: str | os.PathLike, split: str) -> dict[str, list[str]]:
    """Clip id -> sentences, in the order of the file.

    Split at tabs and nothing else: quotes stand for themselves (`csv` would join rows at an unbalanced one).
    Raises InputError as `read_lsmdc`.
    """
    name = os.fspath(path)
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(common.read_text(path, f"the {split} rows of {DATASET}").split("\n"), 1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("\t")
        if len(fields) != len(FIELDS):
            raise InputError(
                f"{name}: line {number} has {len(fields)} tab-separated fields instead of {len(FIELDS)} "
                f"({', '.join(FIELDS)})"
            )
        clip, sentence = fields[0].strip(), fields[-1]
        if not clip:
            raise InputError(f"{name}: line {number} has no clip id")
        captions.setdefault(clip, []).append(sentence)
    if not captions:
        raise InputError(f"{name}: has no rows")
    return captions

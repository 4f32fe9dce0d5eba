"""DiDeMo (Hendricks et al. 2017) for paragraph retrieval: a video of half a minute against all its descriptions.

ROOT/
  train_list.txt  val_list.txt  test_list.txt       names of the videos, with their ending, one a line
  train_data.json ...                               list of {"video": name, "description", "times": [[a, b], ...]}
  videos/**/NAME                                    as published, or NAME.mp4, or the name with another ending
"""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.readers import common

SPLITS = ("train", "val", "test")
DATASET = "DiDeMo"
SPAN = (0.0, 31.0)
"""Seconds: the videos were cut at 30 s for annotation, retrieval takes them to 31 s."""
GONE = (
    "37996615073@N01_3336195519_579ea4136c.3gp",
    "44124421772@N01_2867159874_e39e716b7e.mpg",
    "59627558@N00_4659075184_253744838b.3gp",
)
"""Files that no known copy of the data set holds."""


def read_didemo(
    root: str | os.PathLike,
    split: str,
    *,
    lists: str = "{split}_list.txt",
    annotations: str = "{split}_data.json",
    videos: str = "videos",
    strict: bool = False,
    check_media: bool = True,
) -> common.Reading:
    """One (video, paragraph) pair a video: 8,395 / 1,065 / 1,004 in the lists.

    The caption is all descriptions of a video, in the order of the file, joined with a blank; the clip is 0 to
    31 s. Ids are the published names, with their ending. The times (numbers of 5-second parts) are not used.
    File names are relative to `root` or absolute; `strict` and `check_media` as in `common.make_reading` (files of
    `GONE` are reported, never an error).
    Raises InputError naming the file and entry: missing, broken, of another shape, unknown split, no video found.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}: choose one of {', '.join(SPLITS)}")
    root = os.fspath(root)
    list_path, data_path = (os.path.join(root, name.format(split=split)) for name in (lists, annotations))
    ids = common.read_ids(list_path, f"the {split} list of {DATASET}")
    texts = _descriptions(data_path, split)
    if not any(name in texts for name in ids):
        raise InputError(f"{data_path}: has no description for any video of {list_path} ({common.first_few(ids)})")
    folder = os.path.join(root, videos)
    media = find_named(folder, dict.fromkeys(ids)) if check_media else None
    skipped = [(name, "repeated in the list") for name in common.repeated(ids)]
    captions = {}
    for name in dict.fromkeys(ids):
        if name in GONE and media is not None and name not in media:
            skipped.append((name, "in no known copy of the data set"))
        else:
            captions[name] = [" ".join(texts[name])] if name in texts else []
    return common.make_reading(
        DATASET,
        split,
        captions,
        folder,
        strict=strict,
        check_media=check_media,
        skipped=skipped,
        media=media,
        spans=dict.fromkeys(captions, SPAN),
    )


def find_named(folder: str | os.PathLike, names: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    """The media of published names `a.3gp`: the file `a.3gp` itself, else `a.3gp.mp4` (any video ending behind the
    name), else `a.mp4` (another ending) if no other of the names has the same stem.

    Raises InputError where the folder does not exist, or two files fit equally well.
    """
    wanted = set(names)
    stems = {name: os.path.splitext(name)[0] for name in wanted}
    shared = collections.Counter(stems.values())
    by_stem = {stem: name for name, stem in stems.items() if shared[stem] == 1}
    found: dict[str, tuple[int, str]] = {}
    for stem, path in common.walk_media(folder):
        for rank, name in enumerate((os.path.basename(path), stem, by_stem.get(stem))):
            if name in wanted:
                best = found.get(name)
                if best is not None and best[0] == rank:
                    raise InputError(f"{path}: a second file for the id {name!r} beside {best[1]}; remove one")
                if best is None or rank < best[0]:
                    found[name] = (rank, path)
                break
    return {name: path for name, (_, path) in found.items()}


def _descriptions(path: str, split: str) -> dict[str, list[str]]:
    data = common.read_json(path, f"the {split} descriptions of {DATASET}")
    if not isinstance(data, list):
        raise InputError(f"{path}: needs a list of {{video, description, times}}")
    texts: dict[str, list[str]] = {}
    for number, item in enumerate(data):
        good = isinstance(item, dict) and all(isinstance(item.get(k), str) for k in ("video", "description"))
        if not good:
            raise InputError(f"{path}: entry {number} needs the texts 'video' and 'description'")
        if item["description"].strip():
            texts.setdefault(item["video"], []).append(item["description"].strip())
    return texts

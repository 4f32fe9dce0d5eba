"""MSR-VTT (Xu et al. 2016) in the layout that text-video retrieval uses: one json, csv files of ids, mp4 files.

ROOT/
  MSRVTT_data.json              {"videos": [{"video_id", "split", ...}], "sentences": [{"video_id", "caption", ...}]}
  MSRVTT_train.9k.csv           header `video_id`; or MSRVTT_train.7k.csv
  MSRVTT_JSFUSION_test.csv      header `key,vid_key,video_id,sentence`: the 1k-A test, one caption a video
  videos/**/video123.mp4
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.readers import common

SPLITS = ("train", "val", "test")
DATASET = "MSR-VTT"


def read_msrvtt(
    root: str | os.PathLike,
    split: str,
    *,
    train_csv: str = "MSRVTT_train.9k.csv",
    annotations: str = "MSRVTT_data.json",
    test_csv: str = "MSRVTT_JSFUSION_test.csv",
    val_csv: str | None = None,
    videos: str = "videos",
    strict: bool = False,
    check_media: bool = True,
) -> common.Reading:
    """The (video, caption) pairs of one split.

    train: every caption that the json has for the videos of `train_csv` (9k: 180,000 pairs, 7k: 140,200).
        The json also holds the captions of the test videos: only the csv decides.
    test: the rows of `test_csv` as they stand, one caption each (1,000).
    val: the rows of `val_csv`, with their `sentence` if the file has that column, else all their captions.
        Without a `val_csv`: all captions of the videos that the json marks `validate` (497). Both published
        train lists contain those, so the note in the report says how many of them are trained on.
    File names are relative to `root` or absolute; `strict` and `check_media` as in `common.make_reading`.
    Raises InputError naming the file: missing, broken, wrong json, unknown split, no video found.
    """
    if split not in SPLITS:
        raise InputError(f"{DATASET} has no split {split!r}: choose one of {', '.join(SPLITS)}")
    root = os.fspath(root)
    where = {name: os.path.join(root, name) for name in (train_csv, annotations, test_csv, videos)}
    notes: list[str] = []
    skipped: list[tuple[str, str]] = []

    chosen = {"train": train_csv, "test": test_csv, "val": val_csv}[split]
    if chosen is None:
        data = _read_annotations(where[annotations])
        ids = [v["video_id"] for v in data["videos"] if v.get("split") == "validate"]
        if not ids:
            raise InputError(f"{where[annotations]}: marks no video as 'validate', so there is no val split")
        captions = _captions_of(ids, data, where[annotations])
        notes += _overlap_note(ids, where[train_csv])
    else:
        path = os.path.join(root, chosen)
        columns = ["video_id", "sentence"] if split == "test" else ["video_id"]
        rows = common.read_csv(path, columns, f"the {split} list of {DATASET}", text="sentence")
        if not rows:
            raise InputError(f"{path}: the {split} list has a header but no rows")
        rows = [{**row, "video_id": row["video_id"].strip()} for row in rows]
        if "sentence" in rows[0] and split != "train":
            captions = {}
            for row in rows:
                captions.setdefault(row["video_id"], []).append(row["sentence"])
        else:
            ids = [row["video_id"] for row in rows]
            skipped += [(name, "repeated in the list") for name in common.repeated(ids)]
            captions = _captions_of(ids, _read_annotations(where[annotations]), where[annotations])
    return common.make_reading(
        DATASET,
        split,
        captions,
        where[videos],
        strict=strict,
        check_media=check_media,
        skipped=skipped,
        notes=notes,
    )


def _read_annotations(path: str) -> Mapping[str, Any]:
    data = common.read_json(path, f"the captions of {DATASET}")
    good = isinstance(data, dict) and all(isinstance(data.get(k), list) for k in ("videos", "sentences"))
    if not good:
        raise InputError(f"{path}: not the {DATASET} json: it needs the lists 'videos' and 'sentences'")
    for key, needed in (("videos", ("video_id",)), ("sentences", ("video_id", "caption"))):
        for number, item in enumerate(data[key]):
            if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in needed):
                raise InputError(f"{path}: entry {number} of '{key}' needs the texts {' and '.join(needed)}")
    return data


def _captions_of(ids: Sequence[str], data: Mapping[str, Any], path: str) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {name: [] for name in ids}
    for sentence in data["sentences"]:
        if sentence["video_id"] in captions:
            captions[sentence["video_id"]].append(sentence["caption"])
    if not any(captions.values()):
        raise InputError(f"{path}: has no caption for any video of the list ({common.first_few(list(captions))})")
    return captions


def _overlap_note(ids: Sequence[str], train_csv: str) -> list[str]:
    if not os.path.isfile(train_csv):
        return []
    trained = {
        row["video_id"].strip() for row in common.read_csv(train_csv, ["video_id"], f"the train list of {DATASET}")
    }
    shared = len(trained.intersection(ids))
    return [f"{shared:,} of these videos are in {os.path.basename(train_csv)} too"] if shared else []

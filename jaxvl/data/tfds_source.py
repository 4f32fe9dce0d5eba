"""TFDS data sets on disk as random-access sources, without TensorFlow.

They must have been prepared in the array_record format (`tfds build --file_format=array_record`); images
arrive as uint8 arrays, texts as bytes, labels as ints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import read_json, require_file
from jaxvl.data.records import shard_length

READABLE = ("array_record",)


def open_tfds(folder: str | os.PathLike, split: str) -> Sequence[dict[str, Any]]:
    """The split of a prepared TFDS data set: `len`, `[i] -> {feature: value}`, picklable.

    folder: the one with `dataset_info.json`, `.../NAME[/CONFIG]/VERSION`. split: a name, or a slice of one
    (`train[:50%]`).
    Raises InputError: not such a folder, the TFRecord format, an unknown split, a missing or truncated shard.
    """
    folder = os.fspath(folder)
    info_path = os.path.join(folder, "dataset_info.json")
    if os.path.isdir(folder) and not os.path.exists(info_path):
        below = sorted(d for d in os.listdir(folder) if os.path.isfile(os.path.join(folder, d, "dataset_info.json")))
        versions = f": it has the versions {', '.join(below)}, name one" if below else ""
        raise InputError(f"{folder}: no dataset_info.json in this TFDS folder{versions}")
    info = read_json(info_path, "the description of a TFDS data set")
    require_file(os.path.join(folder, "features.json"), "the features of a TFDS data set")
    kind = info.get("fileFormat", "tfrecord") if isinstance(info, dict) else "unknown"
    if kind not in READABLE:
        raise InputError(
            f"{folder}: prepared in the {kind} format, which needs TensorFlow; prepare it again with "
            "`tfds build --file_format=array_record`, or `tfds.builder(name, file_format='array_record')`"
        )
    _check_split(info, split, folder)

    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder).as_data_source(split=split)
    except (ValueError, RuntimeError, KeyError, OSError, AssertionError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: TFDS cannot open the split {split!r}: {reason}") from error


def _check_split(info: dict[str, Any], split: str, folder: str) -> None:
    known = [s.get("name") for s in info.get("splits", [])]
    for part in split.split("+"):
        if part.split("[")[0].strip() not in [*known, "all"]:
            raise InputError(f"{folder}: no split {part!r}; it has {', '.join(map(str, known)) or 'none'}")
    for entry in info["splits"]:
        name = entry["name"]
        if name in split or "all" in split:
            count = len(entry.get("shardLengths", []))
            shards = [file for file in os.listdir(folder) if f"-{name}.array_record-" in file]
            if len(shards) < count:
                raise InputError(f"{folder}: {len(shards)} of the {count} shards of {name!r} are there; copy the rest")
            for file in shards:
                shard_length(os.path.join(folder, file))

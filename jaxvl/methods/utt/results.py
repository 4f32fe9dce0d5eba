"""What an evaluation kept of its tracks as the files that benchmarks take, and the tables of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.arrays import read_npz
from jaxvl.core.errors import InputError
from jaxvl.core.files import write_text
from jaxvl.data.readers.tracking.mot import DETECTORS, PEDESTRIAN, MotRows, write_mot_results
from jaxvl.data.readers.tracking.tables import read_table

TASKS = ("sot", "mot")
KINDS = {"sot": (4,), "mot": (7,), "sot_seconds": ()}
"""What an evaluation keeps of a sequence, see `evaluators`, and the shape of a row of it."""


def read_tracks(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """`WORKDIR/eval/SPLIT.npz` -> one of `KINDS` -> sequence -> rows, as `evaluators` keep them. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; `jaxvl evaluate` writes it")
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in read_npz(path, "evaluate again").items():
        parts = key.split("/")
        if len(parts) > 2 and parts[0] in TASKS and parts[1] in KINDS:
            parts = parts[1:]  # behind the name of the evaluator, where there are two of them
        if parts[0] in KINDS and len(parts) > 1:
            name = "/".join(parts[1:])
            good = value.ndim > 0 and value.shape[1:] == KINDS[parts[0]] and value.dtype.kind in "fiu"
            if not good or not np.isfinite(value).all() or {"", ".", ".."} & set(name.split("/")):
                raise InputError(f"{path}: {key} holds no tracks of a sequence; evaluate again")
            found.setdefault(parts[0], {})[name] = value
    if not found:
        raise InputError(f"{path}: holds no tracks; evaluate again")
    return found


def write_submission(tracks: Mapping[str, Mapping[str, np.ndarray]], data: Any, folder: Path) -> list[Path]:
    """Writes a file a sequence in the form that its benchmark takes, below `folder/SET`; data: `config.data`.

    One object: `left, top, width, height` a line, tabs (LaSOT, TrackingNet, OTB, the last from 1), or commas in
    `NAME/NAME_001.txt` with the seconds of each frame in `NAME/NAME_time.txt` (GOT-10k). All objects: MOTChallenge's
    rows in `NAME.txt`, for MOT17 under the names of all three detectors.
    """
    written: list[Path] = []
    for name, boxes in tracks.get("sot", {}).items():
        boxes = np.asarray(boxes, np.float64)
        top = folder / data.sot_test
        path = top / name / f"{name}_001.txt" if data.sot_test == "got10k" else top / f"{name}.txt"
        between = "," if data.sot_test == "got10k" else "\t"
        shown = boxes + ([1, 1, 0, 0] if data.sot_test == "otb100" else 0)
        write_text(path, "".join(between.join(f"{v:.2f}" for v in box) + "\n" for box in shown))
        written.append(path)
        if name in tracks.get("sot_seconds", {}):
            path = top / name / f"{name}_time.txt"
            write_text(path, "".join(f"{v:.8f}\n" for v in tracks["sot_seconds"][name]))
            written.append(path)
    for name, rows in tracks.get("mot", {}).items():
        stem, _, end = name.rpartition("-")
        names = [f"{stem}-{d}" for d in DETECTORS] if end in DETECTORS else [name]
        for one in names:
            path = folder / data.mot_test / f"{one}.txt"
            write_mot_results(path, mot_rows(rows))
            written.append(path)
    return written


def read_boxes(path: Path) -> np.ndarray:
    """float64 `[T, 4]` of a result file of one object, as it is written (OTB: from 1). Raises InputError."""
    return read_table(path, 4, "left, top, width, height")


def mot_rows(rows: np.ndarray) -> MotRows:
    """`[n, 7]` (frame from 1, id, left, top, width, height, score), boxes from 0."""
    rows = np.asarray(rows, np.float64).reshape(-1, 7)
    n = len(rows)
    return MotRows(
        frame=rows[:, 0].astype(np.int32) - 1,
        track_id=rows[:, 1].astype(np.int32),
        boxes=rows[:, 2:6].astype(np.float32),
        score=rows[:, 6].astype(np.float32),
        class_id=np.full(n, PEDESTRIAN, np.int32),
        visibility=np.ones(n, np.float32),
    )


PERCENT = (
    *("auc", "op50", "op75", "precision", "norm_precision", "ao", "sr50", "sr75", "ao_first_box"),
    *("mota", "motp", "idf1", "idp", "idr", "hota", "deta", "assa"),
)
BESIDE = ("released", "byte")
"""Trackers that may be scored beside the config's, `byte_mota`."""
NAMES = {
    "auc": "success (AUC)",
    "op50": "overlap > .5",
    "op75": "overlap > .75",
    "precision": "precision, 20 px",
    "norm_precision": "precision, .2 of the size",
    "ao": "average overlap (AO)",
    "sr50": "SR .5",
    "sr75": "SR .75",
    "ao_first_box": "AO of the first box, kept",
    "ids": "identity switches",
    "fp": "false boxes",
    "fn": "missed boxes",
}


def results_tables(metrics: Mapping[str, float]) -> list[tuple[str, list[str], list[list[Any]], str]]:
    """A table for each task that was evaluated."""
    tables = []
    for task, title in (("sot", "One object, followed from its first box"), ("mot", "All objects, found and linked")):
        own = {k.removeprefix(f"{task}/"): v for k, v in metrics.items() if k.startswith(f"{task}/")}
        if not own and ("auc" if task == "sot" else "mota") in metrics:
            own = dict(metrics)  # the only evaluator
        if not own:
            continue
        rows = [[NAMES.get(k, k.upper()), round(100 * own[k], 2)] for k in PERCENT if k in own]
        beside = [k for k in own if k.partition("_")[0] in BESIDE]
        told = {*PERCENT, *beside, "sequences", "skipped"}
        rest = [[NAMES.get(k, k), int(v)] for k, v in own.items() if k not in told]
        for key in beside:
            tracker, _, kind = key.partition("_")
            value = round(100 * own[key], 2) if kind in PERCENT else int(own[key])
            rest.append([f"{NAMES.get(kind, kind.upper())}, linked by {tracker!r}", value])
        sequences = f"{title}: {int(own.get('sequences', 0))} sequences"
        tables.append((sequences, ["", "percent or count"], [*rows, *rest], ""))
    return tables

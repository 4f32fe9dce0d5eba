"""Annotation files of published layouts with a field changed, a part gone, or bytes that are no text; right are the
captions that were written, less what the report counts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz import COUNTED, RIGHT, SILENT, one_line
from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_list import read_image_list
from jaxvl.data.readers.retrieval.msrvtt import read_msrvtt
from jaxvl.data.readers.retrieval.msvd import load_plain_pickle

ODD: list[Any] = [None, 7, -1, 1.5, True, "", [], {}, ["x"], "\ud800", "1" * 5000, [[[]]], "a\nb", "\0"]
WORDS = ["a man", "a dog runs", "red, green", "café", "two  blanks", "she said: yes", "x" * 300]


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One set of annotations."""
    kind = [_msrvtt_csv, _msrvtt_json, _image_list, _pickle][rng.integers(4)]
    try:
        return kind(rng, folder)
    except InputError as error:
        return kind.__name__, one_line(error)


def _hurt(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    how = str(rng.choice(["whole", "whole", "cut", "bytes", "BOM", "CRLF"]))
    if how == "cut":
        data = data[: int(rng.integers(0, len(data)))]
    elif how == "bytes":
        place = int(rng.integers(0, len(data)))
        data = data[:place] + b"\xff\xfe" + data[place:]
    elif how == "BOM":
        data = b"\xef\xbb\xbf" + data
    elif how == "CRLF":
        data = data.replace(b"\n", b"\r\n")
    return data, how


def _videos(folder: Path, count: int) -> list[str]:
    (folder / "videos").mkdir()
    names = [f"video{i}" for i in range(count)]
    for name in names:
        (folder / "videos" / f"{name}.mp4").write_bytes(b"x")
    return names


def _compare(what: str, reading, right: list[tuple[str, str]], cut: bool) -> tuple[str, str]:
    got = [(p.video_id, p.caption) for p in reading.pairs]
    if got == right:
        return what, RIGHT
    told = len(reading.report.missing) + len(reading.report.skipped)
    inside = all(pair in right for pair in got)
    if cut and inside and got == right[: len(got)]:
        return what, RIGHT  # a table that ends early at a line's end is a shorter table
    return f"{what}: {got[:3]} for {right[:3]}", COUNTED if inside and told >= len(right) - len(got) else SILENT


def _msrvtt_csv(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    names = _videos(folder, 4)
    captions = [WORDS[i] for i in rng.integers(len(WORDS), size=4)]
    lines = [f"ret{i},msr{i},{n},{c}" for i, (n, c) in enumerate(zip(names, captions))]
    field = str(rng.choice(["as it is", "quoted", "few", "blank line"]))
    place = int(rng.integers(4))
    if field == "quoted":
        lines[place] = f'ret,msr,{names[place]},"{captions[place]}"'
    elif field == "few":
        lines[place] = f"ret,msr,{names[place]}"
    elif field == "blank line":
        lines.insert(place, "")
    data, how = _hurt(rng, ("key,vid_key,video_id,sentence\n" + "\n".join(lines) + "\n").encode())
    (folder / "MSRVTT_JSFUSION_test.csv").write_bytes(data)
    reading = read_msrvtt(folder, "test")
    right = list(zip(names, captions))
    if how == "cut":  # the last line may be cut inside its caption, which nothing can tell
        got = [(p.video_id, p.caption) for p in reading.pairs]
        last = not got or (got[-1][0] == right[len(got) - 1][0] and right[len(got) - 1][1].startswith(got[-1][1]))
        return f"csv {field} {how}", RIGHT if got[:-1] == right[: max(0, len(got) - 1)] and last else SILENT
    return _compare(f"csv {field} {how}", reading, right, False)


def _msrvtt_json(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    names = _videos(folder, 4)
    captions = [WORDS[i] for i in rng.integers(len(WORDS), size=4)]
    content: dict[str, Any] = {
        "videos": [{"video_id": n, "split": "train"} for n in names],
        "sentences": [{"video_id": n, "caption": c} for n, c in zip(names, captions)],
    }
    place, odd = int(rng.integers(4)), ODD[rng.integers(len(ODD))]
    field = str(rng.choice(["none", "caption", "video_id", "sentence", "sentences", "videos", "all"]))
    if field in ("caption", "video_id"):
        content["sentences"][place][field] = odd
    elif field == "sentence":
        content["sentences"][place] = odd
    elif field in ("sentences", "videos"):
        content[field] = odd
    body: Any = odd if field == "all" else content
    data, how = _hurt(rng, json.dumps(body).encode())
    (folder / "MSRVTT_data.json").write_bytes(data)
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(names) + "\n")
    reading = read_msrvtt(folder, "train")
    right = list(zip(names, captions))
    if field in ("caption", "video_id", "sentence"):
        rest = right[:place] + right[place + 1 :]
        got = [(p.video_id, p.caption) for p in reading.pairs]
        if isinstance(odd, str) and field == "caption":
            right[place] = (names[place], odd.strip())
            return _compare(f"json {field} {odd!r:.20} {how}", reading, right, False)
        if got == rest and reading.report.skipped:
            return f"json {field} {how}", COUNTED
    return _compare(f"json {field} {odd!r:.20} {how}", reading, right, False)


def _image_list(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    right, lines = [], []
    for i in range(6):
        name = f"class {i % 2}/{i}.jpg"
        (folder / f"class {i % 2}").mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        right.append((name, i % 2))
        lines.append(f"{name} {i % 2}")
    place = int(rng.integers(6))
    label = str(rng.choice(["none", "99999999", "-1", "1.0", "²", "", "1" * 5000, "0x1", "+1", "١"]))
    if label != "none":
        lines[place] = f"{right[place][0]} {label}"
    data, how = _hurt(rng, ("\n".join(lines) + "\n").encode())
    (folder / "list.txt").write_bytes(data)
    reading = read_image_list(folder / "list.txt", folder)
    got = [(i.image_id, i.label) for i in reading.images]
    what = f"list {label:.10} {how}"
    if got == right or (how == "cut" and got == right[: len(got)]):
        return what, RIGHT
    told = len(reading.missing) + len(reading.skipped)
    return f"{what}: {got[:3]}", COUNTED if told and all(g in right for g in got) else SILENT


def _pickle(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    content = {f"v{i}": [w.split() for w in WORDS[: int(rng.integers(1, 5))]] for i in range(3)}
    data = bytearray(pickle.dumps(content, protocol=int(rng.integers(0, 5))))
    how = str(rng.choice(["whole", "cut", "opcode", "memo", "bytes"]))
    if how == "cut":
        data = data[: int(rng.integers(0, len(data)))]
    elif how == "opcode":
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    elif how == "memo":
        data[3:3] = b"r" + int(rng.integers(2**20, 2**31)).to_bytes(4, "little")
    elif how == "bytes":
        data[2:2] = b"\x8e" + int(rng.integers(2**30, 2**50)).to_bytes(8, "little")
    (folder / "a.pkl").write_bytes(data)
    got = load_plain_pickle(folder / "a.pkl", "the captions")
    # One changed opcode may be another pickle of the same kind: the reader need only give plain containers or refuse.
    return f"pickle {how}", RIGHT if got == content or how == "opcode" else SILENT

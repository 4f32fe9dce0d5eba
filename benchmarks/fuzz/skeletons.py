"""Files of skeletons that are cut, have lines or values too many or too few, or hold what is no number; right are the
bodies that were written, less what the reader says it left out.

A digit that is changed, or a last number that is cut short, is another number; no reader can notice it.

    python -m benchmarks.fuzz.skeletons [--seed S ...] [--count N]
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.fuzz import COUNTED, LINE, RIGHT, SILENT, one_line
from benchmarks.fuzz.alone import table
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.skeletons import ntu_file, plain, prepared
from jaxvl.data.readers.skeletons.ntu_bodies import select_bodies
from jaxvl.data.readers.skeletons.utkinect import read_joints
from jaxvl.data.skeletons import HUMANOID16

NOTE = (
    "Six of ten files are of NTU RGB+D, the others a CSV or JSON of joints, a recording of UTKinect-Action3D, prepared "
    "arrays, or a pickle of annotations. Lines and values are taken out, doubled or replaced, files cut, bytes "
    "overwritten; some are left whole. Right: the bodies that were written. Counted: frames, bodies or files are left "
    "out, and that is said. One line: refused. Silent: other bodies, without a word. A digit that is changed is "
    "another number, which no reader can notice, so it is not asked."
)
ID = 72057594037931101
STATE = "0 1 0 1 1 0 0.1 -0.2 2"
REST = "1 2 3 4 0.5 0.5 0.5 0.5 2"


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One file, six times of ten of NTU RGB+D."""
    kind = [*[_ntu] * 6, _csv, _json, _utkinect, _prepared][rng.integers(10)]
    try:
        return kind(rng, folder)
    except (InputError, BadMedia) as error:
        return f"{kind.__name__}: {error}", one_line(error)


def _bodies(rng: np.random.Generator, bodies: int, frames: int, joints: int) -> np.ndarray:
    """`[M, F, J, 3]` float32, higher than wide."""
    rest = rng.uniform(-1, 1, (bodies, 1, joints, 3)) * [0.3, 0.9, 0.1]
    moved = rest + rng.normal(0, 0.02, (bodies, frames, joints, 3)).cumsum(1)
    return (moved + np.arange(bodies)[:, None, None, None]).astype(np.float32)


def _hurt_bytes(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Line ends, marks and bytes that are no text: always noticed, or without meaning."""
    how = str(rng.choice(["whole", "whole", "CRLF", "BOM", "byte", "NUL", "cut"]))
    if how == "CRLF":
        data = data.replace(b"\n", b"\r\n")
    elif how == "BOM":
        data = b"\xef\xbb\xbf" + data
    elif how in ("byte", "NUL"):
        place = int(rng.integers(len(data)))
        data = data[:place] + (b"\xff" if how == "byte" else b"\0") + data[place + 1 :]
    elif how == "cut":
        data = data[: int(rng.integers(len(data)))]
    return data, how


def _ntu(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x = _bodies(rng, int(rng.integers(1, 4)), int(rng.integers(13, 20)), 25)
    frames = [[(ID + b, x[b, f]) for b in range(len(x)) if rng.uniform() < 0.9] for f in range(x.shape[1])]
    lines, kinds = [str(len(frames))], ["frames"]
    for bodies in frames:
        lines.append(str(len(bodies)))
        kinds.append("bodies")
        for name, joints in bodies:
            lines += [f"{name} {STATE}", "25", *(" ".join([*(f"{v:.9g}" for v in p), REST]) for p in joints)]
            kinds += ["body", "joints", *["joint"] * 25]
    how, told = _change_line(rng, lines, kinds, frames)
    data, bytes_how = _hurt_bytes(rng, ("\n".join(lines) + "\n").encode())
    path = folder / "S001C001P001R001A001.skeleton"
    path.write_bytes(data)
    what = f"ntu {how}, {bytes_how}"
    got, notes = ntu_file.read_clip(path)
    expected = [_selected(f) for f in ([dict(b) for b in frames], told) if f is not None]
    if any(np.array_equal(got, e) for e in expected if e is not None):
        return what, COUNTED if notes else RIGHT
    parsed = ntu_file.parse_skeleton(data, str(path)).frames
    begun = [{int(n): j for n, j in frame.items()} for frame in parsed if frame]  # empty ones mean nothing
    known = [frame for frame in told or [dict(b) for b in frames] if frame]
    prefix = all(
        set(a) == set(b) and all(np.array_equal(a[n], b[n]) for n in a) for a, b in zip(begun, known, strict=False)
    )
    return what, COUNTED if notes and prefix else SILENT


def _selected(frames: list[dict[int, np.ndarray]]) -> np.ndarray | None:
    return select_bodies([{str(n): j for n, j in f.items()} for f in frames]) if any(frames) else None


def _change_line(rng, lines: list[str], kinds: list[str], frames) -> tuple[str, list[dict] | None]:
    """What was done, and what then is right where that is known to be something else."""
    how = str(rng.choice(["none", "gone", "twice", "value gone", "value more", "no number", "nan", "count", "blank"]))
    at = int(rng.integers(len(lines)))
    if how == "gone":
        del lines[at], kinds[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "blank":
        lines.insert(at, "  ")
    elif how == "count":
        at = int(rng.choice([i for i, k in enumerate(kinds) if k in ("frames", "bodies", "joints")]))
        lines[at] = str(
            rng.choice(["0", "1", "7", "24", "26", "25", "999999999", "9" * 400, "-1", "2.0", "x", "\u0662"])
        )
    elif how in ("value gone", "value more", "no number", "nan"):
        at = int(rng.choice([i for i, k in enumerate(kinds) if k == "joint"] or [0]))
        values = lines[at].split()
        place = int(rng.integers(len(values)))
        if how == "value gone":
            del values[place]
        elif how == "value more":
            values.insert(place, "0.25")
        elif how == "no number":
            values[place] = str(rng.choice(["x", "1_0", "0x1", "1,5", "--1", "1e", "()"]))
        else:
            values[int(rng.integers(3))] = str(rng.choice(["nan", "NaN", "inf", "-inf", "1e999", "1e39"]))
        lines[at] = " ".join(values)
        if how == "nan" and kinds[at] == "joint":
            return how, _without_body(frames, [k == "body" for k in kinds[:at]].count(True) - 1)
    return f"{how} at {at}", None


def _without_body(frames, number: int) -> list[dict]:
    """The frames less the body that is the `number`-th of the file."""
    out, seen = [], 0
    for bodies in frames:
        kept = {}
        for name, joints in bodies:
            if seen != number:
                kept[name] = joints
            seen += 1
        out.append(kept)
    return out


def _csv(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x = _bodies(rng, int(rng.integers(1, 3)), 6, 16)
    header = ["frame", "body", *(f"{c}{j}" for j in range(16) for c in "xyz")]
    rows = [[str(f), str(b), *(repr(float(v)) for v in x[b, f].ravel())] for f in range(6) for b in range(len(x))]
    how = str(rng.choice(["none", "field gone", "field more", "no number", "row twice", "header"]))
    at, place = int(rng.integers(len(rows))), int(rng.integers(50))
    if how == "field gone":
        del rows[at][place]
    elif how == "field more":
        rows[at].insert(place, "0.5")
    elif how == "no number":
        rows[at][place] = str(rng.choice(["x", "1;5", "0x1", '"']))
    elif how == "row twice":
        rows.insert(at, rows[at])
    elif how == "header":
        header[place] = str(rng.choice(["", "x", "x0 y0", "frame"]))
    data, bytes_how = _hurt_bytes(rng, "\n".join(map(",".join, [header, *rows])).encode() + b"\n")
    path = folder / "a.csv"
    path.write_bytes(data)
    return _compare(f"csv {how}, {bytes_how}", plain.read_sequence(path, HUMANOID16), x, bytes_how == "cut")


def _json(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x = _bodies(rng, int(rng.integers(1, 3)), 6, 16)
    content = x.astype(float).tolist()
    body, frame, joint = int(rng.integers(len(x))), int(rng.integers(6)), int(rng.integers(16))
    how = str(
        rng.choice(["none", "null frame", "null joint", "short", "text", "deep", "wrapped", "wrong field", "number"])
    )
    odd = {"null joint": None, "short": [1.0, 2.0], "text": ["a", "b", "c"], "deep": [[1.0]] * 3, "number": 5}
    if how == "null frame":
        content[body][frame] = None
        x[body, frame] = 0
    elif how in odd:
        content[body][frame][joint] = odd[how]
    whole = {"joint": content} if how == "wrong field" else {"joints": content} if how == "wrapped" else content
    data, bytes_how = _hurt_bytes(rng, json.dumps(whole).encode())
    path = folder / "a.json"
    path.write_bytes(data)
    right = x[:, x.any(axis=(0, 2, 3))]
    return _compare(f"json {how}, {bytes_how}", plain.read_sequence(path, HUMANOID16), right, False)


def _utkinect(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x = _bodies(rng, 1, 6, 20)
    rows = [[str(2 * f), *(f"{v:.9g}" for v in x[0, f].ravel())] for f in range(6)]
    how = str(rng.choice(["none", "value gone", "value more", "no number", "row twice", "swapped", "nan"]))
    at, place = int(rng.integers(6)), int(rng.integers(1, 61))
    if how == "value gone":
        del rows[at][place]
    elif how == "value more":
        rows[at].insert(place, "0.5")
    elif how == "no number":
        rows[at][int(rng.integers(61))] = "x"
    elif how == "row twice":
        rows.insert(at + 1, [rows[at][0], *["9"] * 60])
    elif how == "swapped":
        rows[0], rows[5] = rows[5], rows[0]
    elif how == "nan":
        rows[at][place] = "nan"
        x = np.delete(x, at, axis=1)
    data, bytes_how = _hurt_bytes(rng, "\n".join(map("  ".join, rows)).encode() + b"\n")
    if bytes_how == "BOM":
        return "utkinect", LINE if _refused(lambda: read_joints(_written(folder / "j.txt", data))) else SILENT
    got = read_joints(_written(folder / "j.txt", data))[1][None]
    return _compare(f"utkinect {how}, {bytes_how}", got, x, bytes_how == "cut")


def _prepared(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x = _bodies(rng, 2, 6, 25)
    if rng.uniform() < 0.5:
        flat = np.zeros((1, 9, 150), np.float32)
        flat[0, :6] = x.transpose(1, 0, 2, 3).reshape(6, 150)
        name, known = (
            "NTU60_CS.npz",
            lambda: list(prepared.array_clips(str(folder / "NTU60_CS.npz"), "test", 60, about)),
        )
        np.savez(folder / name, x_test=flat, y_test=np.eye(60)[[3]])
    else:
        name = "ntu60_3danno.pkl"
        item = {"frame_dir": "S001C001P001R001A004", "label": 3, "keypoint": x, "total_frames": 6}
        content = {"split": {"xsub_val": [item["frame_dir"]]}, "annotations": [item]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=int(rng.integers(2, 6))))
        path = str(folder / name)
        known = lambda: list(prepared.pickle_clips(path, prepared.load_annotations(path), "xsub_val", 60, about))  # noqa: E731
    about: dict = {"skipped": [], "missing": []}
    data, how = bytearray((folder / name).read_bytes()), str(rng.choice(["whole", "cut", "opcode", "memo", "size"]))
    structure = name.endswith("pkl")
    if how == "cut":
        data = data[: int(rng.integers(len(data)))]
    elif structure and how == "opcode":
        data[int(rng.integers(60))] = int(rng.integers(256))
    elif structure and how == "memo":
        data[3:3] = b"r" + int(rng.integers(2**20, 2**31)).to_bytes(4, "little")
    elif structure and how == "size":
        data[2:2] = b"\x8e" + int(rng.integers(2**30, 2**50)).to_bytes(8, "little")
    elif how == "opcode":  # a checksum of the archive fails, or what is changed has no meaning
        data[int(rng.integers(len(data)))] ^= 0x55
    (folder / name).write_bytes(data)
    clips = known()
    what = f"{name} {how}"
    if not clips:
        return what, COUNTED if about["skipped"] or about["missing"] else SILENT
    right = len(clips) == 1 and np.array_equal(clips[0].bodies, x) and clips[0].label == 3
    return what, RIGHT if right or (structure and how == "opcode") else SILENT


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except (BadMedia, InputError):
        return True
    return False


def _compare(what: str, got: np.ndarray, right: np.ndarray, cut: bool) -> tuple[str, str]:
    """Equal; of a file that was cut at a line's end the first frames, the last number possibly shorter."""
    if got.shape == right.shape and np.array_equal(got, right):
        return what, RIGHT
    if cut and got.shape[1] <= right.shape[1] and len(got) <= len(right):
        rest = right[: len(got), : got.shape[1]]
        wrong = got != np.where(got.any(axis=(2, 3), keepdims=True), rest, 0)
        if wrong.sum() <= 1:
            return what, RIGHT
    return f"{what}: {got.shape} for {right.shape}", SILENT


if __name__ == "__main__":
    table("skeletons", "Files of skeletons drawn at random", NOTE)

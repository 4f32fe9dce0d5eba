"""Joints in 2-D of anybody's own, as Human3.6M's sixteen on a normalised screen; and poses in 3-D to draw others from.

`.json`  COCO's keypoints (`[{"image_id", "keypoints": [x, y, confidence, ...]}, ...]`, alone or as `annotations` beside
         `images` with `width` and `height`); or `{"joints": ..., "width", "height"}` or the joints alone
`.npz`   `joints`, and `width` and `height` where the file knows them; `.npy` the joints alone
`.csv`   a header line `x0,y0,x1,y1,...` and a line a pose; a first column `name` may name it

Joints are `[16][2]` or `[17][2]` of one pose or `[N][...]` of several, a third number of each joint its confidence.

From COCO's 17 joints hips, knees, ankles, shoulders, elbows and wrists are taken as they are. Hip: the middle of the
hips. Thorax: the middle of the shoulders. Spine: halfway between the two. Head: from the middle of the shoulders 1.25
times as far as the middle of the ears (of the eyes, of the nose, where they are not seen). These four are estimates,
and what the two data sets call hip and shoulder is not the same point either. On the bodies of the package's motion
capture thorax and spine come out 3 cm off (`ESTIMATED_MM`); how far the head does was not measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.common import read_csv, read_json
from jaxvl.data.readers.poses.checks import ON_SCREEN, check_metres, check_sides
from jaxvl.data.readers.poses.h36m import sixteen_of
from jaxvl.data.readers.poses.pickled import BROKEN, reason
from jaxvl.data.skeletons import H36M16
from jaxvl.ops import cameras

ENDINGS = (".json", ".npz", ".npy", ".csv")
LAYOUTS = {"coco17": 17, "h36m16": 16, "h36m17": 17}
"""Order of the joints -> how many there are."""
COCO = (
    *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow"),
    *("right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle"),
    "right ankle",
)
TAKEN = {1: 12, 2: 14, 3: 16, 4: 11, 5: 13, 6: 15, 10: 5, 11: 7, 12: 9, 13: 6, 14: 8, 15: 10}
"""Joint of the sixteen -> COCO's."""
HEAD = 1.25
ESTIMATED_MM = {"hip": 0, "spine": 35, "thorax": 31}
"""How far the estimates lie from the joints on motion capture, with true shoulders and hips: means in millimetres."""


class Joints(NamedTuple):
    """n poses. names: of each. x2d: float32 `[n, 16, 2]`, normalised. layout: the order that they came in."""

    names: tuple[str, ...]
    x2d: np.ndarray
    layout: str


def find_joints(path: str | os.PathLike) -> list[str]:
    """The file, or all files of joints of a folder by name. Raises InputError."""
    top = Path(path)
    if top.is_file():
        return [str(top)]
    if not top.is_dir():
        raise InputError(f"{top}: no such file or folder")
    found = sorted(str(p) for p in top.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    if not found:
        raise InputError(f"{top}: holds no file of joints ({', '.join(ENDINGS)})")
    return found


def read_joints(
    path: str | os.PathLike,
    size: tuple[float, float] | None = None,
    layout: str = "",
    skipped: list[BadMedia] | None = None,
) -> Joints:
    """All poses of a file. size: width and height of the pictures in pixels, where the file does not say. skipped: gets
    a line for each pose that cannot be used, where others of the file can. Raises BadMedia: no such joints, a pose that
    cannot be used where `skipped` is None, or pixels of pictures of unknown size."""
    name = os.fspath(path)
    try:
        content = _read(name)
    except InputError as error:
        raise BadMedia(name, str(error).removeprefix(f"{name}: ")) from error
    return as_joints(content["joints"], name, content.get("names", ()), size or content.get("size"), layout, skipped)


def as_joints(
    values: Any,
    name: str,
    names: Sequence[str] = (),
    size: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    layout: str = "",
    skipped: list[BadMedia] | None = None,
) -> Joints:
    """`[16|17, 2|3]` of one pose or `[n, ...]` of several, see `read_joints`. size: also one for each pose."""
    x = numbers(values, name, (2, 3), (16, 17))
    layout = layout or ("h36m16" if x.shape[1] == 16 else "coco17")
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if x.shape[1] != LAYOUTS[layout]:
        raise BadMedia(name, f"{x.shape[1]} joints; {layout} has {LAYOUTS[layout]}")
    x, faults = from_coco(x) if layout == "coco17" else _from_h36m(x)
    names = tuple(names) or tuple(f"{name}#{i}" if len(x) > 1 else name for i in range(len(x)))
    kept = [i for i, fault in enumerate(faults) if not fault]
    lines = [BadMedia(name, f"pose {i} {fault}") for i, fault in enumerate(faults) if fault]
    if lines and (skipped is None or not kept):
        raise lines[0]
    if size is not None:
        try:
            sizes = np.broadcast_to(np.asarray(size, np.float64), (len(x), 2))
        except (ValueError, TypeError) as error:
            raise BadMedia(name, f"the size of its pictures, {str(size)[:40]}, is no width and height") from error
        if not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise BadMedia(name, f"the size of its pictures, {sizes.min():g}, is no number of pixels")
        if np.abs(x[kept]).max() < ON_SCREEN:
            raise BadMedia(name, "is normalised already, it holds no pixels; leave the size of its pictures out")
        x = cameras.normalise_screen(x, sizes[:, :1], sizes[:, 1:])
    x = x[kept]
    if size is None and np.abs(x).max() > ON_SCREEN:
        raise BadMedia(
            name, f"holds pixels (up to {np.abs(x).max():.0f}); say the size of the pictures, width and height"
        )
    if np.abs(x).max() > 2 * ON_SCREEN:
        raise BadMedia(
            name, "joints lie far outside of the picture; is its size right, or are they normalised already?"
        )
    if lines:
        skipped += lines
    return Joints(tuple(names[i] for i in kept), x.astype(np.float32), layout)


def seen_joints(x: np.ndarray) -> np.ndarray:
    """`[n, J, 2|3]` -> bool `[n, J]`: numbers, and not of confidence 0."""
    return np.isfinite(x[..., :2]).all(-1) & (x[..., 2] > 0 if x.shape[2] == 3 else True)


def _from_h36m(x: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Human3.6M's 16 or 17 joints as `from_coco` gives COCO's."""
    x = x[:, sixteen_of(x.shape[1])]
    seen = seen_joints(x)
    faults = ["" if row.all() else f"lacks the {H36M16.joints[int(row.argmin())]}" for row in seen]
    return np.where(seen[..., None], x[..., :2], 0.0), faults


def from_coco(x: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """COCO's joints `[n, 17, 2|3]` -> the sixteen `[n, 16, 2]`, see above; and of each pose '' or what it lacks. A
    confidence of 0 means that a joint is not seen."""
    seen, taken = seen_joints(x), list(TAKEN.values())
    x, out = np.where(seen[..., None], x[..., :2], 0.0), np.zeros((len(x), 16, 2))
    out[:, list(TAKEN)] = x[:, taken]
    out[:, 0], out[:, 8] = (out[:, 1] + out[:, 4]) / 2, (out[:, 10] + out[:, 13]) / 2
    out[:, 7] = (out[:, 0] + out[:, 8]) / 2
    face = np.zeros((len(x), 2))
    for pair in ((0,), (1, 2), (3, 4)):  # the ears count most
        there = seen[:, list(pair)]
        middle = (x[:, list(pair)] * there[..., None]).sum(1) / np.maximum(there.sum(1), 1)[:, None]
        face = np.where(there.any(1)[:, None], middle, face)
    out[:, 9] = out[:, 8] + HEAD * (face - out[:, 8])
    faults = []
    for row in seen:
        lost = [f"the {COCO[joint]}" for joint in taken if not row[joint]]
        lost += [] if row[:5].any() else ["nose, eyes and ears"]
        faults.append(f"lacks {lost[0]}" if lost else "")
    return out, faults


def read_world(path: str | os.PathLike) -> np.ndarray:
    """Poses in 3-D, `[n, 16, 3]` metres with z up, of `.npz` or `.json` (`joints`), `.npy`, or `.csv` with
    `x0,y0,z0,...`. Raises InputError."""
    name = os.fspath(path)
    try:
        return as_world(_read(name, 3)["joints"], name)
    except BadMedia as bad:
        raise InputError(str(bad)) from bad


def as_world(values: Any, name: str) -> np.ndarray:
    """The same of an array. Raises BadMedia for what is none, InputError for NaN, another unit and swapped sides."""
    x = numbers(values, name, (3,), (16,))
    if not np.isfinite(x).all():
        raise InputError(f"{name}: holds NaN")
    check_metres(x, name)
    check_sides(x, name)
    return x.astype(np.float32)


def numbers(values: Any, name: str, width: tuple[int, ...], joints: tuple[int, ...]) -> np.ndarray:
    """`[n, J, C]` float64 of such an array, or of one pose `[J, C]`; null is NaN. Raises BadMedia."""
    wants = f"[poses][{' or '.join(map(str, joints))}][{' or '.join(map(str, width))}]"
    try:
        if np.iscomplexobj(values):
            raise TypeError("complex numbers")
        x = np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadMedia(name, f"its joints are no array of numbers {wants}") from error
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1] not in joints or x.shape[2] not in width or not len(x):
        raise BadMedia(
            name, f"joints of shape {list(x.shape)}, not {wants} of {H36M16.name}" + " or COCO" * (17 in joints)
        )
    return x


def _read(name: str, width: int = 2) -> dict[str, Any]:
    """`joints`, and where the file has them `names` and `size`. Raises InputError and BadMedia."""
    ending = os.path.splitext(name)[1].lower()
    if ending == ".json":
        return _json(name)
    if ending == ".csv":
        return _csv(name, width)
    if ending not in ENDINGS:
        raise BadMedia(name, f"its ending is none of {', '.join(ENDINGS)}")
    try:
        with open(name, "rb") as opened:
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"joints": found}
            if "joints" not in found:
                raise BadMedia(name, f"has no 'joints'; it has {', '.join(found) or 'nothing'}"[:200])
            size = tuple(found[k].item() for k in ("width", "height")) if {"width", "height"} <= set(found) else None
            return {"joints": found["joints"], "size": size}
    except BROKEN as error:
        raise BadMedia(name, f"cannot be read ({reason(error)})") from error


def _json(name: str) -> dict[str, Any]:
    content = read_json(name, "joints")
    images: dict[Any, tuple[float, float]] = {}
    if isinstance(content, dict) and "annotations" in content:
        for image in content.get("images", []):
            if isinstance(image, dict) and {"id", "width", "height"} <= set(image):
                images[json.dumps(image["id"])] = (image["width"], image["height"])
        content = content["annotations"]
    if isinstance(content, dict) and "joints" in content:
        size = (content["width"], content["height"]) if {"width", "height"} <= set(content) else None
        return {"joints": content["joints"], "size": size}
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return _coco(name, content, images)
    return {"joints": content}


def _coco(name: str, rows: list[Any], images: dict[str, tuple[float, float]]) -> dict[str, Any]:
    joints, names, sizes = [], [], []
    for number, row in enumerate(rows):
        points = row.get("keypoints") if isinstance(row, dict) else None
        if not isinstance(points, list) or len(points) != 3 * len(COCO):
            raise BadMedia(name, f"entry {number} has no 'keypoints' of {3 * len(COCO)} numbers")
        joints.append([points[3 * j : 3 * j + 3] for j in range(len(COCO))])
        key = json.dumps(row.get("image_id"))
        names.append(f"{name}#{row.get('image_id', number)}")
        sizes.append(images.get(key))
    if len(set(names)) < len(names):
        names = [f"{name}/{number}" for number, name in enumerate(names)]
    if images and None in sizes:
        raise BadMedia(name, f"entry {sizes.index(None)} is of an image that 'images' does not list with its size")
    return {"joints": joints, "names": names, "size": sizes if images else None}


def _csv(name: str, width: int) -> dict[str, Any]:
    axes = "xyz"[:width]
    rows = read_csv(name, [f"{a}{j}" for j in range(16) for a in axes], "joints")
    if not rows:
        raise BadMedia(name, "has no line of joints")
    count = 17 if all(f"{a}16" in rows[0] for a in axes) else 16
    values = []
    for number, row in enumerate(rows):
        try:
            values.append([[float(row[f"{a}{j}"]) for a in axes] for j in range(count)])
        except ValueError as error:
            raise BadMedia(name, f"line {number + 2}: {error}") from error
    named = [f"{name}#{row['name']}" for row in rows] if "name" in rows[0] else ()
    return {"joints": values, "names": named}

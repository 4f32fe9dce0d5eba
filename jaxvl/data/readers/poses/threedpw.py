"""3DPW: `sequenceFiles/{train,validation,test}/NAME.pkl`, pickles of Python 2.

Of each actor `jointPositions` `[F, 72]` (24 joints of SMPL, world, metres), `poses2d` `[F, 3, 18]`, `campose_valid`
`[F]`; of all `cam_poses` `[F, 4, 4]` (world to camera), `cam_intrinsics` `[3, 3]`, `img_frame_ids`. A frame of an actor
counts where its camera is valid and anything of it was found in the picture. The 2-D input is the projection of the
joints; pictures are twice as large as the principal point, which is their middle.

SMPL's joints are not Human3.6M's: hips lie lower and closer, the head's is inside of the head. So PA-MPJPE is the
figure to look at; MPJPE holds a constant error.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import Report, near
from jaxvl.data.readers.poses import checks
from jaxvl.data.readers.poses.pairs import PosePairs
from jaxvl.data.readers.poses.pickled import read_pickle
from jaxvl.ops import cameras

SPLITS = ("train", "validation", "test")
FOLDER = "sequenceFiles"
SIXTEEN_OF_SMPL = [0, 2, 5, 8, 1, 4, 7, 6, 12, 15, 16, 18, 20, 17, 19, 21]
"""Spine: SMPL's 6; thorax: its neck; head: its head."""
NEEDED = ("jointPositions", "poses2d", "campose_valid", "cam_poses", "cam_intrinsics")


def read_split(root: str | os.PathLike, split: str = "test") -> PosePairs:
    """All actors of all sequences of a split. root: `sequenceFiles`, or the folder that holds it. Raises InputError."""
    top = Path(root)
    top = top / FOLDER if (top / FOLDER).is_dir() else top
    folder = top / split
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (config.data.root_3dpw){near(str(folder), folders=True)}")
    files = sorted(p for p in folder.iterdir() if p.suffix == ".pkl" and not p.name.startswith("."))
    if not files:
        raise InputError(f"{folder}: holds no .pkl")
    rows, clips, skipped = [], [], []
    for path in files:
        for actor, (x2d, x3d, frame) in enumerate(read_sequence(path)):
            name = f"{path.stem}/{actor}"
            if not len(frame):
                skipped.append((name, "no valid frame"))
                continue
            rows.append((x2d, x3d, np.full(len(frame), len(clips), np.int32), frame))
            clips.append(name)
    if not rows:
        raise InputError(f"{folder}: no frame of its {len(files)} sequences is valid")
    x2d, x3d, clip, frame = (np.concatenate(column) for column in zip(*rows, strict=True))
    checks.check_sides(x3d, f"{folder}: jointPositions")
    report = Report("3DPW", split, len(clips), (), tuple(skipped), len(frame), (), "poses", "actors")
    return PosePairs(x2d, x3d, np.zeros(len(frame), np.int32), clip, frame, ("all",), tuple(clips), report)


def read_sequence(path: str | os.PathLike) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each actor `(x2d [n, 16, 2] normalised, x3d [n, 16, 3] of the camera, frame [n])`, valid frames. Raises
    InputError."""
    name = os.fspath(path)
    content = read_pickle(path, "a sequence of 3DPW")
    if not isinstance(content, dict) or (lost := [key for key in NEEDED if key not in content]):
        has = f"lacks {', '.join(lost)}" if isinstance(content, dict) else f"holds {type(content).__name__}"
        raise InputError(f"{name}: needs a dict with {', '.join(NEEDED)}; it {has}")
    poses = _numbers(content["cam_poses"], (None, 4, 4), f"{name}: cam_poses")
    lens = _numbers(content["cam_intrinsics"], (3, 3), f"{name}: cam_intrinsics")
    size = tuple(np.round(2 * np.nan_to_num(lens[:2, 2])))
    if min(size) <= 0 or not (np.abs(lens) < checks.LARGEST).all():
        raise InputError(f"{name}: cam_intrinsics has its middle at ({lens[0, 2]:.0f}, {lens[1, 2]:.0f})")
    camera = cameras.camera((lens[0, 0], lens[1, 1]), (lens[0, 2], lens[1, 2]), size)
    for key in ("jointPositions", "poses2d", "campose_valid"):
        if not isinstance(content[key], list) or len(content[key]) != len(content["jointPositions"]):
            raise InputError(f"{name}: {key}: needs a list with an array for each actor")
    out, count = [], len(poses)
    for actor in range(len(content["jointPositions"])):
        where = f"{name}: actor {actor}"
        joints = _numbers(content["jointPositions"][actor], (count, 72), f"{where}: jointPositions")
        found = _numbers(content["poses2d"][actor], (count, 3, 18), f"{where}: poses2d")
        valid = _numbers(content["campose_valid"][actor], (count,), f"{where}: campose_valid")
        frame = np.flatnonzero((valid != 0) & found.any((1, 2)))
        world = joints.reshape(count, 24, 3)[frame][:, SIXTEEN_OF_SMPL]
        turn, shift = poses[frame, :3, :3], poses[frame, :3, 3]
        fits = [
            (np.abs(a) < checks.LARGEST).reshape(len(frame), math.prod(a.shape[1:])).all(1)
            for a in (world, turn, shift)
        ]
        if (bad := ~np.logical_and.reduce(fits)).any():  # what is not valid may hold anything
            raise InputError(f"{where}: {int(bad.sum())} valid frames hold NaN, first frame {frame[bad.argmax()]}")
        if len(world):
            checks.check_metres(world, f"{where}: jointPositions")
        x3d = np.einsum("nij,nkj->nki", turn, world) + shift[:, None]
        good = (x3d[..., 2] > 0).all(1)  # somebody behind the camera is not seen
        frame, x3d = frame[good], x3d[good].astype(np.float32)
        x2d = cameras.project(x3d, camera.astype(np.float32), distort=False)
        out.append((x2d, x3d, frame.astype(np.int32)))
    return out


def _numbers(value: Any, shape: tuple[int | None, ...], where: str) -> np.ndarray:
    """An array of numbers of this shape, float64; None: any length. Raises InputError."""
    wants = [side or "F" for side in shape]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise InputError(f"{where}: needs numbers {wants}, holds {type(value).__name__}")
    fits = value.ndim == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
    if not fits:
        raise InputError(f"{where}: has the shape {list(value.shape)}, needs {wants}")
    return value.astype(np.float64)

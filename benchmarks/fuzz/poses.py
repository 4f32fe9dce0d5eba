"""Files of poses that are cut, overwritten, or hold what the published ones do not; right are the joints that were
written, less what the reader says it left out.

A bit that is changed inside the numbers of a pickle is another number; no reader can notice it.

    python -m benchmarks.fuzz.poses [--seed S ...] [--count N]
"""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz import COUNTED, RIGHT, SILENT, one_line
from benchmarks.fuzz.alone import table
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import mocap
from jaxvl.data.readers.poses import h36m, h36m_cameras, joints, mpi_inf_3dhp, threedpw
from jaxvl.data.readers.poses.motions import upright
from jaxvl.data.skeletons import H36M16
from jaxvl.ops import cameras, kinematics

NOTE = (
    "Three of ten files are of Human3.6M in 3-D and 2-D, two of 3DPW, two of MPI-INF-3DHP (common and official), three "
    "of joints of one's own (JSON, CSV, NumPy). They hold real motion. Sides are swapped, units and axes changed, "
    "joints, frames, cameras and subjects taken out, NaN and texts put in, files cut and bytes overwritten; some are "
    "left whole. Right: the joints that were written. Counted: poses are left out, and that is said. One line: "
    "refused. Silent: other joints, without a word. A bit that is changed inside the numbers of a pickle is not asked."
)
LEFT, RIGHT_SIDE = H36M16.sides
SWAPPED = np.arange(16)
SWAPPED[[*LEFT, *RIGHT_SIDE]] = [*RIGHT_SIDE, *LEFT]
LENS = np.array([1.5, 1.5, 0, 0, 0, 0, 0, 0, 0], np.float32)
SIZE = (1920, 1080)


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One file."""
    kind = [_h36m, _h36m, _h36m, _3dpw, _3dpw, _3dhp, _official, _own, _own, _own][rng.integers(10)]
    try:
        return kind(rng, folder)
    except (InputError, BadMedia) as error:
        return f"{kind.__name__}: {error}", one_line(error)


@functools.cache
def _walk(frames: int = 12) -> np.ndarray:
    """`[frames, 16, 3]` metres, z up."""
    x = upright(mocap.clips()["walk"].joints)[:frames]
    return x - [*x[0, 0, :2], 0]


def _before_camera() -> np.ndarray:
    q, t = h36m_cameras.extrinsics("S1")
    return kinematics.world_to_camera(_walk(), q[0], t[0])


def _spread(x: np.ndarray, places: list[int], count: int) -> np.ndarray:
    out = np.repeat(x.mean(1, keepdims=True), count, 1)
    out[:, places] = x
    return out


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], Any]] = {
    "NaN": lambda x, rng: _put(x, rng, np.nan),
    "inf": lambda x, rng: _put(x, rng, np.inf),
    "huge": lambda x, rng: _put(x, rng, 1e30),
    "thousandfold": lambda x, rng: 1000 * x,
    "a thousandth": lambda x, rng: x / 1000,
    "a frame less": lambda x, rng: x[:-1],
    "a joint less": lambda x, rng: x[:, :-1],
    "a value more": lambda x, rng: np.concatenate([x, x[..., :1]], -1),
    "flat": lambda x, rng: x.reshape(len(x), -1),
    "no frame": lambda x, rng: x[:0],
    "text": lambda x, rng: "text",
    "None": lambda x, rng: None,
    "list": lambda x, rng: x.tolist(),
    "texts": lambda x, rng: x.astype(str),
    "complex": lambda x, rng: x.astype(complex),
}
"""What is done to an array. Nothing of it is what was published, so nothing but the joints may come out."""


def _put(x: np.ndarray, rng: np.random.Generator, value: float) -> np.ndarray:
    x = np.array(x, np.float64)
    x[rng.integers(len(x))] = value
    return x


def _changed(rng: np.random.Generator, x: np.ndarray, more: dict[str, Callable] | None = None) -> tuple[str, Any]:
    """How an array is changed, four times of ten not at all, and it."""
    if rng.uniform() < 0.4:
        return "whole", x
    changes = CHANGES | (more or {})
    how = str(rng.choice(list(changes)))
    return how, changes[how](x, rng)


def _hurt(rng: np.random.Generator, path: Path, structure: int = 0) -> str:
    """Cuts or overwrites a file, three times of ten. structure: of one without checksums, how many bytes at its
    beginning hold no numbers."""
    how = str(rng.choice(["whole"] * 7 + ["cut", "byte", "empty"]))
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: int(rng.integers(len(data)))]
    elif how == "empty":
        data = data[:0]
    elif how == "byte":
        data[int(rng.integers(structure or len(data)))] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return how


def _judged(what: str, pairs: Any, x2d: np.ndarray, x3d: np.ndarray) -> tuple[str, str]:
    same = pairs.x2d.shape == x2d.shape and np.allclose(pairs.x2d, x2d, atol=1e-4)
    right = same and pairs.x3d.shape == x3d.shape and np.allclose(pairs.x3d, x3d, atol=1e-4)
    return what, RIGHT if right else COUNTED if pairs.report.skipped else SILENT


def _h36m(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    count, count_2d = int(rng.choice([32, 17, 16])), int(rng.choice([17, 16]))
    poses: dict[Any, Any] = {}
    seen: dict[Any, Any] = {}
    x2d, x3d = [], []
    for subject in ("S9", "S11"):
        poses[subject], seen[subject] = {}, {}
        q, t = h36m_cameras.extrinsics(subject)
        for take in ("WalkTogether", "Walking 1"):
            poses[subject][take] = _spread(_walk(), h36m.sixteen_of(count), count).astype(np.float32)
            seen[subject][take] = []
            for c, size in enumerate(h36m_cameras.SIZES):
                x3d.append(kinematics.world_to_camera(_walk(), q[c], t[c]))
                x2d.append(cameras.project(x3d[-1], h36m_cameras.intrinsics()[c]))
                pixels = cameras.restore_screen(x2d[-1], *size)
                pixels = np.concatenate([pixels, pixels[-1:].repeat(rng.integers(3), 0)])
                seen[subject][take].append(_spread(pixels, h36m.sixteen_of(count_2d), count_2d).astype(np.float32))
    subject, take = str(rng.choice(["S9", "S11"])), str(rng.choice(["WalkTogether", "Walking 1"]))
    sixteen = h36m.sixteen_of(count)
    every = {
        "swapped": lambda x: _spread(x[:, sixteen][:, SWAPPED], sixteen, count),
        "mirrored": lambda x: x * [-1, 1, 1],
        "y up": lambda x: x @ cameras.Y_UP.T,
        "metres to millimetres": lambda x: 1000 * x,
    }
    place = str(rng.choice(["nothing", "an array", "a camera", "all", "a key", "2-D swapped", "cameras"]))
    how = ""
    if place == "an array":
        how, array = _changed(rng, poses[subject][take])
        if how != "a frame less":  # which is a shorter take: 2-D that is longer is cut, as published
            poses[subject][take] = array
    elif place == "a camera":
        number = int(rng.integers(4))
        how, seen[subject][take][number] = _changed(rng, seen[subject][take][number])
    elif place == "all":
        how = str(rng.choice(list(every)))
        poses[subject] = {name: every[how](x) for name, x in poses[subject].items()}
    elif place == "a key":
        part = seen if rng.uniform() < 0.7 else poses
        how = str(rng.choice(["subject", "take"])) if part is seen else "subject"
        del (part if how == "subject" else part[subject])[subject if how == "subject" else take]
    elif place == "2-D swapped":
        two = h36m.sixteen_of(count_2d)
        turn = lambda v: _spread(v[:, two][:, SWAPPED], two, count_2d)  # noqa: E731
        seen[subject] = {name: [turn(v) for v in views] for name, views in seen[subject].items()}
    elif place == "cameras":
        views = seen[subject][take]
        seen[subject][take] = views[: rng.integers(4)] if rng.uniform() < 0.5 else views[0]
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=np.array(poses, dtype=object))
    metadata = {"keypoints_symmetry": [list(s) for s in (h36m.SYMMETRY_17 if count_2d == 17 else h36m.SYMMETRY_16)]}
    np.savez(folder / "data_2d_h36m_gt.npz", positions_2d=np.array(seen, dtype=object), metadata=np.array(metadata))
    hurt = _hurt(rng, folder / str(rng.choice(["data_3d_h36m.npz", "data_2d_h36m_gt.npz"])))
    pairs = h36m.Human36M(folder, "gt").test()
    right_2d, right_3d = np.concatenate(x2d), np.concatenate(x3d)
    return _judged(f"h36m {count} {count_2d} {place} {how}, {hurt}", pairs, right_2d, right_3d)


def _3dpw(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    q, t = (x[0].astype(np.float64) for x in h36m_cameras.extrinsics("S1"))
    turn, count = kinematics.quaternion_matrix(q).T, len(_walk())
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, -turn @ t
    valid = np.ones(count)
    valid[rng.integers(count)] = 0
    content: dict[str, Any] = {
        "jointPositions": [_spread(_walk(), threedpw.SIXTEEN_OF_SMPL, 24).reshape(count, 72)],
        "poses2d": [np.ones((count, 3, 18))],
        "campose_valid": [valid],
        "cam_poses": np.repeat(pose[None], count, 0),
        "cam_intrinsics": np.array([[1962.0, 0, 540], [0, 1969, 960], [0, 0, 1]]),
        "genders": ["m"],
    }
    x3d = _before_camera()[valid > 0]
    x2d = (x3d[..., :2] / x3d[..., 2:] * [1962, 1969]) / 540
    how, key = "whole", str(rng.choice(list(content)[:3]))
    if rng.uniform() < 0.5 and key == "jointPositions":
        how, content[key][0] = _changed(rng, content[key][0])
    elif rng.uniform() < 0.3:
        key = str(rng.choice(list(content)[:5]))
        how = "gone"
        del content[key]
    place = folder / "sequenceFiles" / "test"
    place.mkdir(parents=True)
    (place / "walk_00.pkl").write_bytes(pickle.dumps(content, protocol=int(rng.integers(2, 6))))
    hurt = _hurt(rng, place / "walk_00.pkl", 60)
    pairs = threedpw.read_split(folder)
    return _judged(f"3dpw {key} {how}, {hurt}", pairs, x2d, x3d)


def _3dhp(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x3d = _before_camera()
    x2d = cameras.project(x3d, LENS)
    sides = {"mirrored": lambda x, rng: x[:, SWAPPED]}
    how, space = _changed(rng, x3d, sides)
    with np.errstate(all="ignore"):
        np.savez(folder / "test_3dhp.npz", pose3d=space, pose2d=x2d)
    hurt = _hurt(rng, folder / "test_3dhp.npz")
    return _judged(f"3dhp {how}, {hurt}", mpi_inf_3dhp.read_test(folder), x2d, x3d)


def _official(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    import h5py

    x3d = _before_camera()
    x2d = cameras.project(x3d, LENS)
    pixels = cameras.restore_screen(x2d, 2048, 2048)
    members: dict[str, Any] = {
        "annot2": _spread(pixels, mpi_inf_3dhp.SIXTEEN_OF_17, 17)[:, None],
        "univ_annot3": 1000 * _spread(x3d, mpi_inf_3dhp.SIXTEEN_OF_17, 17)[:, None],
        "valid_frame": np.ones((len(x3d), 1)),
        "activity_annotation": np.ones((len(x3d), 1)),
    }
    key, how = str(rng.choice(list(members)[:2])), "whole"
    changes = [name for name in CHANGES if name not in ("None", "texts")]
    if rng.uniform() < 0.6:
        how = str(rng.choice([*changes, "gone"]))
        members[key] = None if how == "gone" else CHANGES[how](members[key], rng)
    (folder / "TS1").mkdir()
    with h5py.File(folder / "TS1" / "annot_data.mat", "w") as file:
        for name, value in members.items():
            if value is not None:
                file[name] = value
    hurt = str(rng.choice(["whole", "cut"]))  # HDF5 has no checksum of numbers
    if hurt == "cut":
        path = folder / "TS1" / "annot_data.mat"
        path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])
    return _judged(f"official {key} {how}, {hurt}", mpi_inf_3dhp.read_test(folder), x2d, x3d)


def _own(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    x2d = cameras.project(_before_camera(), LENS)
    pixels = bool(rng.integers(2))
    values = cameras.restore_screen(x2d.astype(np.float64), *SIZE) if pixels else x2d.astype(np.float64)
    kinds = {name: change for name, change in CHANGES.items() if name not in ("a frame less", "list", "a thousandth")}
    how = "whole" if rng.uniform() < 0.4 else str(rng.choice(list(kinds)))
    changed = values if how == "whole" else kinds[how](values, rng)
    if how == "a value more":  # a third number is a confidence
        changed[..., 2] = rng.uniform(size=changed.shape[:2]) > 0.02
    form = str(rng.choice(["json", "npy", "csv"])) if isinstance(changed, np.ndarray) else "json"
    path = folder / f"a.{form}"
    if form == "npy":
        np.save(path, changed)
    elif form == "json" or changed.ndim < 3 or changed.shape[1:] != (16, 2) or changed.dtype.kind == "c":
        path = folder / "a.json"
        path.write_text(json.dumps(changed if not isinstance(changed, np.ndarray) else _plain(changed)))
    else:
        header = ",".join(f"{a}{j}" for j in range(16) for a in "xy")
        path.write_text("\n".join([header, *(",".join(map(str, row.ravel())) for row in changed)]) + "\n")
    data = path.read_bytes()
    hurt = str(rng.choice(["whole", "whole", "cut"]))
    if hurt == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    skipped: list[BadMedia] = []
    found = joints.read_joints(path, SIZE if pixels else None, skipped=skipped)
    what = f"own {path.suffix} {how}, {hurt}"
    if hurt == "cut" and path.suffix == ".csv":  # whole lines are gone, and the last number may be shorter
        same = np.isclose(found.x2d, x2d[: len(found.x2d)], atol=1e-5)
        return what, RIGHT if (~same).sum() <= 1 else SILENT
    lost = {int(bad.reason.split()[1]) for bad in skipped}
    right = x2d[[i for i in range(len(x2d)) if i not in lost]]
    if found.x2d.shape != right.shape or not np.allclose(found.x2d, right, atol=1e-5):
        return what, SILENT
    return what, COUNTED if lost else RIGHT


def _plain(x: np.ndarray) -> Any:
    return x.astype(str).tolist() if x.dtype.kind == "c" else x.tolist()


if __name__ == "__main__":
    table("poses", "Files of poses drawn at random", NOTE)

"""Data sets of poses in their published layouts, small, of the real motion that the package has."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path

import numpy as np

from jaxvl.data import mocap
from jaxvl.data.readers.poses import h36m, h36m_cameras, mpi_inf_3dhp, threedpw
from jaxvl.data.readers.poses.motions import upright
from jaxvl.ops import cameras, kinematics

SUBJECTS = {"S1": 24, "S5": 10, "S6": 10, "S7": 10, "S8": 10, "S9": 12, "S11": 12}
"""Frames of each take."""
TAKES = {"Walking": "walk", "Walking 1": "walk", "Photo": "kick"}
LONGER = 3
"""Frames that the 2-D has more than the 3-D."""


def scatter(x: np.ndarray, places: list[int], joints: int) -> np.ndarray:
    """`[N, 16, C]` into `[N, joints, C]`, the middle of the body where no joint of the sixteen belongs."""
    out = np.repeat(x.mean(1, keepdims=True), joints, 1)
    out[:, places] = x
    return out


def motion(name: str, frames: int, shift: float = 0.0) -> np.ndarray:
    """`[frames, 16, 3]`, z up, near the middle of the room."""
    x = upright(mocap.clips()[name].joints)
    x = x[np.arange(frames) % len(x)]
    x[..., :2] -= x[:1, :1, :2] - shift
    return x


def h36m_3d(joints: int = 32) -> dict:
    """`{subject: {take: [T, joints, 3]}}`; what else the file may hold, S11/Directions, too."""
    out = {}
    for number, (subject, frames) in enumerate(SUBJECTS.items()):
        out[subject] = {}
        for take, clip in TAKES.items():
            x = motion(clip, frames, 0.1 * number)
            out[subject][take] = scatter(x, h36m.sixteen_of(joints), joints).astype(np.float32)
    return out


def h36m_2d(poses: dict, joints: int = 17) -> dict:
    """What the four cameras see, pixels, a few frames more than the 3-D."""
    out = {}
    for subject, takes in poses.items():
        q, t = h36m_cameras.extrinsics(subject)
        out[subject] = {}
        for take, x in takes.items():
            x = x[:, h36m.sixteen_of(x.shape[1])]
            x = np.concatenate([x, x[-1:].repeat(LONGER, 0)])
            views = []
            for c in range(4):
                screen = cameras.project(kinematics.world_to_camera(x, q[c], t[c]), h36m_cameras.intrinsics()[c])
                pixels = cameras.restore_screen(screen, *h36m_cameras.SIZES[c])
                views.append(scatter(pixels, h36m.sixteen_of(joints), joints).astype(np.float32))
            out[subject][take] = views
    return out


METADATA = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [list(s) for s in h36m.SYMMETRY_17]}


def write_h36m(folder: Path, poses=None, keypoints=None, metadata=METADATA, name: str = "gt") -> Path:
    """Both files, as `np.savez_compressed` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    poses = h36m_3d() if poses is None else poses
    keypoints = h36m_2d(poses) if keypoints is None else keypoints
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=np.array(poses, dtype=object))
    extra = {} if metadata is None else {"metadata": np.array(metadata, dtype=object)}
    np.savez_compressed(folder / f"data_2d_h36m_{name}.npz", positions_2d=np.array(keypoints, dtype=object), **extra)
    return folder


def camera_poses(frames: int = 12) -> np.ndarray:
    """`[frames, 16, 3]` before a camera, metres."""
    q, t = h36m_cameras.extrinsics("S1")
    return kinematics.world_to_camera(motion("walk", frames), q[0], t[0])


LENS = np.array([1.5, 1.5, 0, 0, 0, 0, 0, 0, 0], np.float32)


def write_3dhp_common(path: Path, **changes) -> Path:
    """`test_3dhp.npz`."""
    x3d = camera_poses()
    arrays = {"pose3d": x3d, "pose2d": cameras.project(x3d, LENS)} | changes
    np.savez(path, **arrays)
    return path


def write_3dhp_valid(path: Path) -> Path:
    """`mpi_inf_3dhp_valid.npz`: frames of TS1 and TS6."""
    x3d = camera_poses()
    names = [f"mpi_inf_3dhp_test_set/TS{1 if i < 6 else 6}/imageSequence/img_{i:06d}.jpg" for i in range(len(x3d))]
    x2d = cameras.project(x3d, LENS)
    pixels = np.concatenate([cameras.restore_screen(x2d[:6], 2048, 2048), cameras.restore_screen(x2d[6:], 1920, 1080)])
    with_one = lambda x: np.concatenate([x, np.ones((*x.shape[:2], 1))], -1)  # noqa: E731
    part = with_one(scatter(pixels, mpi_inf_3dhp.SIXTEEN_OF_24, 24))
    space = with_one(scatter(x3d, mpi_inf_3dhp.SIXTEEN_OF_24, 24))
    np.savez(path, imgname=np.array(names), part=part, S=space)
    return path


def official(x3d: np.ndarray, sequence: str) -> dict[str, np.ndarray]:
    """The members of one `annot_data.mat`, as h5py gives them; two of the frames are not valid."""
    size = mpi_inf_3dhp.SIZES[sequence]
    pixels = cameras.restore_screen(cameras.project(x3d, LENS), *size)
    places, count = mpi_inf_3dhp.SIXTEEN_OF_17, len(x3d)
    valid = np.ones((count, 1), np.float64)
    valid[[0, 5]] = 0
    return {
        "annot2": scatter(pixels, places, 17)[:, None].astype(np.float64),
        "annot3": 1000.0 * scatter(x3d, places, 17)[:, None],
        "univ_annot3": 900.0 * scatter(x3d, places, 17)[:, None],
        "valid_frame": valid,
        "activity_annotation": np.full((count, 1), 2.0),
        "bb_crop": np.zeros((count, 4)),
    }


def write_official(folder: Path, sequences=("TS1", "TS5"), change=None) -> Path:
    """Folders of the official test set. change: of the members of each."""
    import h5py

    for name in sequences:
        members = official(camera_poses(), name)
        members = members if change is None else change(members)
        (folder / name).mkdir(parents=True)
        with h5py.File(folder / name / "annot_data.mat", "w") as file:
            for key, value in members.items():
                file[key] = value
    return folder


def threedpw_sequence(frames: int = 10) -> dict:
    """A sequence of two actors, one of whom is out of sight in some frames."""
    world = motion("walk", frames)
    q, t = (x[0].astype(np.float64) for x in h36m_cameras.extrinsics("S1"))
    turn = kinematics.quaternion_matrix(q).T
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, -turn @ t
    smpl = scatter(world.astype(np.float64), threedpw.SIXTEEN_OF_SMPL, 24).reshape(frames, 72)
    found = np.ones((frames, 3, 18))
    lost = found.copy()
    lost[:4] = 0
    valid = np.ones(frames)
    valid[-1] = 0
    return {
        "sequence": "walk_00",
        "jointPositions": [smpl, smpl],
        "poses": [np.zeros((frames, 72))] * 2,
        "trans": [np.zeros((frames, 3))] * 2,
        "betas": [np.zeros(10)] * 2,
        "genders": ["m", "f"],
        "poses2d": [found, lost],
        "campose_valid": [valid, valid],
        "cam_poses": np.repeat(pose[None], frames, 0),
        "cam_intrinsics": np.array([[1962.0, 0, 540], [0, 1969, 960], [0, 0, 1]]),
        "img_frame_ids": np.arange(frames),
    }


class _Python2(pickle._Pickler):
    """Writes text and the bytes of arrays alike, as strings of Python 2, and NumPy's functions where they were then."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write((b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(text)

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core").replace("builtins", "__builtin__")
        self.write(f"c{module}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch |= {str: save_text, bytes: save_text, type: save_global}


def python2_pickle(content) -> bytes:
    """A pickle of protocol 2 as Python 2 wrote it."""
    file = io.BytesIO()
    _Python2(file, 2, fix_imports=False).dump(content)
    return file.getvalue()


def write_3dpw(folder: Path, content=None, split: str = "test") -> Path:
    """`sequenceFiles/SPLIT/walk_00.pkl`, of Python 2 as published."""
    place = folder / "sequenceFiles" / split
    place.mkdir(parents=True)
    (place / "walk_00.pkl").write_bytes(python2_pickle(threedpw_sequence() if content is None else content))
    return folder

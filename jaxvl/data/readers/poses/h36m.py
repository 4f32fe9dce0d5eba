"""Human3.6M as public lifting code keeps it: `data_3d_h36m.npz`, and a 2-D file for each way to find joints.

3-D: `positions_3d`, a pickled `{subject: {action: float [T, 32, 3]}}`, metres, world axes with z up; also of 17 or 16
joints. 2-D: `positions_2d`, `{subject: {action: [a camera each: float [T', 17 or 16, 2]]}}`, pixels, T' >= T (what is
longer is cut); `metadata` with the order of the joints may be missing. Takes are `Walking` and `Walking 1`, both of the
action Walking.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import Report, first_few, near
from jaxvl.data.readers.poses import checks, h36m_cameras
from jaxvl.data.readers.poses.h36m_cameras import SUBJECTS
from jaxvl.data.readers.poses.pairs import PosePairs, PoseSeeds
from jaxvl.data.readers.poses.pickled import read_member
from jaxvl.data.readers.poses.seeds import TRAINING, SeedRule, choose
from jaxvl.ops import cameras, kinematics

TEST = ("S9", "S11")
POSES, KEYPOINTS = "data_3d_h36m.npz", "data_2d_h36m_{}.npz"
DROPPED_OF_32 = (4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31)
NECK_OF_17 = 9
SYMMETRY_17 = ([4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16])
"""Left and right joints of the 17, as `metadata` lists them."""
SYMMETRY_16 = ([4, 5, 6, 10, 11, 12], [1, 2, 3, 13, 14, 15])
ACTIONS = (
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting"),
    *("SittingDown", "Smoking", "Waiting", "WalkDog", "WalkTogether", "Walking"),
)
CORRUPT = ("S11", "Directions")
"""A take that no published evaluation counts; `Directions 1` of this subject is counted."""
FRAMES = {"train": 1_559_752, "test": 543_344}
"""Of the published files, all four cameras."""


class Take(NamedTuple):
    """One take of a subject: its poses `[T, 16, 3]` in the world."""

    subject: str
    name: str
    world: np.ndarray

    @property
    def action(self) -> str:
        """`Walking 1` is a take of Walking."""
        return self.name.split(" ")[0]


def sixteen_of(joints: int) -> list[int]:
    """Which of 32, 17 or 16 joints the sixteen are."""
    kept = [j for j in range(32) if j not in DROPPED_OF_32] if joints == 32 else list(range(joints))
    return kept if joints == 16 else [j for number, j in enumerate(kept) if number != NECK_OF_17]


class Human36M:
    """Both files. root: their folder. keypoints: how the 2-D joints were found, as the name of their file says."""

    def __init__(self, root: str | os.PathLike, keypoints: str):
        self.path = os.path.join(root, POSES)
        self.path_2d = os.path.join(root, KEYPOINTS.format(keypoints))
        self.keypoints = keypoints
        self.layouts: dict[str, tuple[int, str]] = {}  # of each file: joints of its arrays, and of which first
        content = _dict(read_member(self.path, ["positions_3d"], "Human3.6M in 3-D")["positions_3d"], self.path)
        self.content: Mapping[str, Mapping[str, Any]] = {
            str(s): _dict(v, f"{self.path}: {s}") for s, v in content.items()
        }
        if not os.path.isfile(self.path_2d):
            found = sorted(n[len("data_2d_h36m_") : -4] for n in _names(root) if n.startswith("data_2d_h36m_"))
            has = f"; there are {', '.join(found)}" if found else near(self.path_2d)
            raise InputError(f"{self.path_2d}: no such file (config.data.keypoints = {keypoints!r}){has}")
        members = read_member(self.path_2d, ["positions_2d", "metadata"], "joints of Human3.6M in 2-D")
        self.seen = _dict(members["positions_2d"], self.path_2d)
        self.notes = _check_metadata(members["metadata"], self.path_2d)

    def takes(self, subjects: Sequence[str]) -> list[Take]:
        """The takes of these subjects in order of their names, looked through. Raises InputError."""
        out = []
        for subject in subjects:
            if not self.content.get(subject):
                has = ", ".join(self.content) or "nobody"
                raise InputError(f"{self.path}: has no poses of subject {subject}; it has {has}")
            mine = []
            for name in sorted(self.content[subject], key=str):
                take = f"{self.path}: {subject}/{name}"
                if (subject, str(name)) == CORRUPT:
                    continue
                x = checks.check_shape(self.content[subject][name], (32, 17, 16), 3, take)
                self._same_layout(x, self.path, take)
                mine.append(Take(subject, str(name), np.ascontiguousarray(x[:, sixteen_of(x.shape[1])])))
                checks.check_metres(mine[-1].world, take)
            if not mine:
                raise InputError(f"{self.path}: has no poses of subject {subject}")
            together = np.concatenate([checks.sample(take.world) for take in mine])
            where = f"{self.path}: {subject}"
            checks.check_upright(together, where)
            checks.check_sides(together, where)
            out += mine
        return out

    def training(self, rule: SeedRule, seed: int) -> tuple[PoseSeeds, PosePairs]:
        """The poses that `rule` chooses, and what the four cameras saw of them. Raises InputError."""
        takes = self.takes(rule.subjects)
        world = np.concatenate([take.world for take in takes])
        rows = choose(rule, world, seed)
        clip = np.repeat(np.arange(len(takes)), [len(take.world) for take in takes])
        frame = np.concatenate([np.arange(len(take.world)) for take in takes])
        subject = np.array([SUBJECTS.index(take.subject) for take in takes])[clip]
        names = tuple(f"{take.subject}/{take.name}" for take in takes)
        report = Report("Human3.6M seeds of", ", ".join(rule.subjects), len(rows), unit="", media="poses")
        numbers = (np.asarray(x[rows], np.int32) for x in (subject, clip, frame))
        seeds = PoseSeeds(world[rows], *numbers, names, report)
        chosen = [frame[rows[clip[rows] == number]] for number in range(len(takes))]
        whole = rule.share == 1 and not rule.count and rule.subjects == TRAINING
        return seeds, self.pairs(takes, chosen, "train", FRAMES["train"] if whole else 0)

    def test(self) -> PosePairs:
        """All frames of the test subjects. Raises InputError."""
        takes = self.takes(TEST)
        return self.pairs(takes, [np.arange(len(take.world)) for take in takes], "test", FRAMES["test"])

    def pairs(self, takes: Sequence[Take], frames: Sequence[np.ndarray], split: str, published: int) -> PosePairs:
        """The chosen frames of each take as each camera sees them, take by take and camera by camera. Raises
        InputError."""
        notes, clips, rows = list(self.notes), [], []
        actions = tuple(sorted({take.action for take in takes}))
        looked: dict[tuple[str, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        lenses = h36m_cameras.intrinsics()
        for take, chosen in zip(takes, frames, strict=True):
            if not len(chosen):
                continue
            q, t = h36m_cameras.extrinsics(take.subject)
            for number, x in enumerate(self._views(take)):
                x2d = cameras.normalise_screen(x[chosen], *h36m_cameras.SIZES[number])
                x3d = kinematics.world_to_camera(take.world[chosen], q[number], t[number])
                some = checks.sample(np.arange(len(chosen)))[:: max(1, len(chosen) // 50)]
                looked.setdefault((take.subject, number), []).append(
                    (x2d[some], cameras.project(x3d[some], lenses[number]))
                )
                rows.append((x2d, x3d, actions.index(take.action), len(clips), chosen))
                clips.append(f"{take.subject}/{take.name}/{h36m_cameras.NAMES[number]}")
        for (subject, number), parts in looked.items():
            x2d, seen = (np.concatenate(part) for part in zip(*parts, strict=True))
            checks.check_seen(x2d, seen, f"{self.path_2d}: {subject} by camera {h36m_cameras.NAMES[number]}")
        notes += _missing(takes)
        counts = [len(row[0]) for row in rows]
        if published and sum(counts) != published:
            notes.append(f"the published files have {published:,} frames")
        report = Report(
            f"Human3.6M {self.keypoints}", split, len(clips), (), (), sum(counts), tuple(notes), "frames", "clips"
        )
        return PosePairs(
            np.concatenate([row[0] for row in rows]),
            np.concatenate([row[1] for row in rows]),
            np.repeat([row[2] for row in rows], counts).astype(np.int32),
            np.repeat([row[3] for row in rows], counts).astype(np.int32),
            np.concatenate([row[4] for row in rows]).astype(np.int32),
            actions,
            tuple(clips),
            report,
        )

    def _same_layout(self, x: np.ndarray, path: str, where: str) -> None:
        """Raises InputError where a file holds arrays of different numbers of joints: one of 17 without its last joint
        is none of 16."""
        joints, first = self.layouts.setdefault(path, (x.shape[1], where))
        if x.shape[1] != joints:
            raise InputError(f"{where}: has {x.shape[1]} joints, but {first.removeprefix(f'{path}: ')} has {joints}")

    def _views(self, take: Take) -> list[np.ndarray]:
        """What each camera saw of a take, `[T, 16, 2]` pixels, cut to the length of the 3-D."""
        where = f"{self.path_2d}: {take.subject}/{take.name}"
        mine = self.seen.get(take.subject)
        if not isinstance(mine, dict) or take.name not in mine:
            raise InputError(f"{where} is missing, but {POSES} has it; the two files do not belong together")
        views = mine[take.name]
        if not isinstance(views, list) or len(views) != len(h36m_cameras.NAMES):
            count = len(views) if isinstance(views, list) else type(views).__name__
            raise InputError(f"{where}: needs a list of {len(h36m_cameras.NAMES)} cameras, has {count}")
        out = []
        for number, view in enumerate(views):
            camera = f"{where}, camera {h36m_cameras.NAMES[number]}"
            x = checks.check_shape(view, (17, 16), 2, camera, len(take.world))
            self._same_layout(x, self.path_2d, camera)
            if len(x) < len(take.world):
                raise InputError(f"{camera}: {len(x):,} frames in 2-D, but {len(take.world):,} in 3-D")
            x = x[:, sixteen_of(x.shape[1])]
            checks.check_screen(x, True, camera)
            out.append(x)
        return out


def _dict(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{where}: needs a dict of subjects, then of actions, holds {type(value).__name__}")
    return value


def _names(root: str | os.PathLike) -> list[str]:
    return os.listdir(root) if os.path.isdir(root) else []


def _check_metadata(metadata: Any, path: str) -> list[str]:
    """Notes on the order of the 2-D joints. Raises InputError for another one than Human3.6M's."""
    if not isinstance(metadata, dict):
        return ["no metadata: the order of the 2-D joints is taken for Human3.6M's"]
    sides = metadata.get("keypoints_symmetry")
    try:
        plain = [[int(j) for j in side] for side in sides]
    except (TypeError, ValueError):
        return ["metadata without keypoints_symmetry: the order of the 2-D joints is taken for Human3.6M's"]
    if tuple(plain) in (SYMMETRY_17, SYMMETRY_16):
        return []
    if tuple(plain[::-1]) in (SYMMETRY_17, SYMMETRY_16):
        raise InputError(f"{path}: metadata lists right before left joints; the order is left, right")
    layout = metadata.get("layout_name", "another layout")
    raise InputError(
        f"{path}: joints are in the order of {str(layout)[:40]!r} (left and right: {plain}), not Human3.6M's"
    )


def _missing(takes: Sequence[Take]) -> list[str]:
    """A note on actions that are not there."""
    subjects = dict.fromkeys(take.subject for take in takes)
    there = {(take.subject, take.action) for take in takes}
    lost = [f"{s}/{a}" for s in subjects for a in ACTIONS if (s, a) not in there]
    return [f"without {len(lost)} actions ({first_few(lost)})"] if lost else []

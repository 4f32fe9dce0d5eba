"""Worlds of real human motion for action recognition: the twenty clips of `jaxvl.data.mocap`, seen by other cameras, on
bodies of other sizes, in part, and with noise.

`clips`     which of the twenty motions is it? Coarse: what is asked is whether view and size matter.
`gestures`  a small gesture of one arm inside of a motion of the whole body that means nothing. Fine: eight classes of
            side, joint and direction.

Samples are sequences of the skeleton 'humanoid16' before any normalisation, as a reader gives them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json
from jaxvl.data import mocap
from jaxvl.data.skeletons import HUMANOID16, random_window, resample
from jaxvl.ops import kinematics

WORLD_FILE = "actions.json"
RATIO_GROUPS = (0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8)
"""Of bones 1 to 15, left and right alike: pelvis, thigh, shank, lower and upper spine, head, shoulder, upper arm,
forearm."""
RATIOS = 0.08
"""Each group of bones is longer or shorter by up to this share."""
PART = (0.6, 1.0)
"""Share of a motion that a sample shows."""
NUISANCES = ("walk", "0walk_forward", "turn_left0", "turn_right0", "run", "punch", "kick", "dance_a")
NUISANCE_FRAMES = (30, 44)
GESTURE_FRAMES = 48
PEAK, WIDTH, CENTRE = (40.0, 60.0), 0.055, (0.15, 0.85)
"""Of a gesture: degrees; standard deviation and place as shares of its 48 frames."""
HIP, THORAX = 0, 8
ARMS = ((10, 11), (13, 14))
"""Shoulder and elbow, left then right."""
GESTURES = tuple(
    f"{side}_{joint}_{way}"
    for way in ("forward", "sideways")
    for joint in ("shoulder", "elbow")
    for side in ("left", "right")
)
"""Class side + 2 elbow + 4 sideways -> its name."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """How a sample is seen. yaw, pitch: degrees, drawn uniformly. size: factor of the body. noise: metres, of each
    coordinate."""

    yaw: tuple[float, float]
    pitch: tuple[float, float]
    size: tuple[float, float]
    noise: float


FRONT = Seen((-20, 20), (-5, 5), (0.95, 1.05), 0.01)
CONDITIONS = {
    "same": FRONT,
    "view": dataclasses.replace(FRONT, yaw=(40, 320), pitch=(-20, 20)),
    "size": dataclasses.replace(FRONT, size=(0.6, 0.8)),
    "both": Seen((40, 320), (-20, 20), (0.6, 0.8), 0.01),
    "gestures": Seen((40, 320), (-20, 20), (0.6, 0.8), 0.008),
}
"""Training is always seen as 'same'; the test as one of these."""


def show(joints: np.ndarray, seen: Seen, rng: np.random.Generator) -> np.ndarray:
    """A motion `[F, 16, 3]` on another body, from a camera, with noise; float32."""
    ratios = rng.uniform(1 - RATIOS, 1 + RATIOS, 9)[list(RATIO_GROUPS)]
    bones = kinematics.bones(joints, HUMANOID16.parents)
    bones[:, 1:] *= ratios[:, None]
    body = kinematics.joints(bones, HUMANOID16.parents) + joints[:, :1]
    angles = [np.array(kinematics.degrees(rng.uniform(*limits))) for limits in (seen.yaw, seen.pitch)]
    out = rng.uniform(*seen.size) * body @ kinematics.view(*angles).T
    return (out + rng.normal(0, seen.noise, out.shape)).astype(np.float32)


def part(joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window of 60 to 100 % of the frames."""
    return joints[random_window(len(joints), rng, PART, least=2)]


def clip_sample(label: int, seen: Seen, rng: np.random.Generator) -> np.ndarray:
    """A part of motion number `label` of `mocap.CLIPS`, `[F, 16, 3]` float32."""
    return show(part(mocap.clips()[mocap.CLIPS[label]].joints, rng), seen, rng)


def gesture_sample(label: int, seen: Seen, rng: np.random.Generator) -> np.ndarray:
    """A part of a motion of the whole body with gesture number `label` in it, `[F, 16, 3]` float32."""
    base = nuisance(rng)
    peak, centre = kinematics.degrees(rng.uniform(*PEAK)), rng.uniform(*CENTRE) * GESTURE_FRAMES
    return show(part(gesture(base, label, peak, centre), rng), seen, rng)


def nuisance(rng: np.random.Generator) -> np.ndarray:
    """A window of `NUISANCE_FRAMES` of one of `NUISANCES` with its reverse behind it, which makes the shortest of them
    long enough; at about its own speed, `[48, 16, 3]` float64."""
    motion = mocap.clips()[NUISANCES[rng.integers(len(NUISANCES))]].joints
    there_and_back = np.concatenate([motion, motion[::-1]])
    length = int(rng.integers(NUISANCE_FRAMES[0], NUISANCE_FRAMES[1] + 1))
    start = int(rng.integers(0, len(there_and_back) - length + 1))
    return resample(there_and_back[start : start + length], GESTURE_FRAMES).astype(np.float64)


def gesture(joints: np.ndarray, label: int, peak: float, centre: float) -> np.ndarray:
    """`[F, 16, 3]` with one arm turned below its shoulder or elbow, by `peak` radians in frame `centre` and less around
    it (a Gaussian): forward about the lateral axis of the torso, or sideways about its forward axis."""
    side, elbow, sideways = label % 2, label // 2 % 2, label // 4
    bump = peak * np.exp(-0.5 * ((np.arange(len(joints)) - centre) / (WIDTH * len(joints))) ** 2)
    lateral, _, forward = np.moveaxis(
        kinematics.torso_frame(joints[:, HIP], joints[:, THORAX], joints[:, ARMS[0][0]], joints[:, ARMS[1][0]]), 1, 0
    )
    axis = forward * (1 - 2 * side) if sideways else -lateral
    turn = kinematics.axis_angle_matrix(axis * bump[:, None])
    return kinematics.turn_limb(joints, ARMS[side][elbow], turn, HUMANOID16.parents)


Draw = Callable[[int, Seen, np.random.Generator], np.ndarray]
KINDS: dict[str, tuple[tuple[str, ...], Draw]] = {
    "clips": (mocap.CLIPS, clip_sample),
    "gestures": (GESTURES, gesture_sample),
}
"""Kind of world -> its classes and what draws a sample of one."""


def samples(kind: str, count: int, seen: Seen, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """`count` pairs of label and sequence `[F, 16, 3]`, the classes in turn. Sample i depends on seed and i alone."""
    classes, draw = KINDS[kind]
    for i in range(count):
        yield i % len(classes), draw(i % len(classes), seen, np.random.default_rng([seed, i]))


@dataclasses.dataclass(frozen=True)
class ActionWorld:
    """kind: one of `KINDS`. seen: of `CONDITIONS`, how the test is seen. seed: of everything drawn."""

    kind: str = "clips"
    num_train: int = 600
    num_test: int = 200
    seen: str = "both"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("seen", CONDITIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"action world: {name} {getattr(self, name)!r} is none of {', '.join(known)}")
        if min(self.num_train, self.num_test) < len(KINDS[self.kind][0]):
            raise InputError(f"action world: num_train and num_test need {len(KINDS[self.kind][0])}, one of each class")


def ensure_world(world: ActionWorld, root: Path, say: Callable[[str], None] = print) -> None:
    """Writes `root/{train,test}/CLASS/00000.csv` ..., the layout of anybody's own sequences, unless the very same world
    stands there; one that was begun is written again. InputError for another one, and for a folder of anything else."""
    file, begun, wanted = root / WORLD_FILE, root / f".{WORLD_FILE}", dataclasses.asdict(world)
    for there in (file, begun):
        if there.is_file() and read_json(there, dict, "remove the folder, or name another") != wanted:
            raise InputError(f"{root}: holds another world of actions; name another config.data.root or remove it")
    if file.is_file():
        return
    if root.is_dir() and any(root.iterdir()) and not begun.is_file():
        raise InputError(
            f"{root}: holds other files, among which no world of actions is written; name an empty folder, or, to read "
            "what is there, a config without a world"
        )
    root.mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(wanted), encoding="utf-8")
    classes = KINDS[world.kind][0]
    splits = (("train", world.num_train, FRONT, 0), ("test", world.num_test, CONDITIONS[world.seen], 1))
    for split, count, seen, number in splits:
        say(f"writing the world of actions: {count} sequences of split {split!r}")
        for name in classes:
            os.makedirs(root / split / name, exist_ok=True)
        for i, (label, joints) in enumerate(samples(world.kind, count, seen, 2 * world.seed + number)):
            (root / split / classes[label] / f"{i:05d}.csv").write_text(to_csv(joints), encoding="utf-8")
    os.replace(begun, file)


def to_csv(joints: np.ndarray) -> str:
    """One body `[F, J, 3]` as the text of a plain file, to a hundredth of a millimetre."""
    header = ",".join(f"{c}{j}" for j in range(joints.shape[1]) for c in "xyz")
    rows = (f"{i}," + ",".join(f"{v:.5f}" for v in frame.ravel()) for i, frame in enumerate(joints))
    return "\n".join([f"frame,{header}", *rows, ""])

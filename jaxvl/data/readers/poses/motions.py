"""The motion-capture clips of the package (`jaxvl.data.mocap`) as poses to learn from and to be tested on.

They come without cameras: an upright one is drawn around each pose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data import mocap
from jaxvl.data.readers.common import Report
from jaxvl.data.readers.poses.pairs import PosePairs, PoseSeeds
from jaxvl.data.readers.poses.seeds import SPREAD, choose, parse_seeds
from jaxvl.ops import cameras

WALKING = ("walk", *mocap.CLIPS[15:])
SCREEN = np.array([2.29, 2.29, 0, 0, 0, 0, 0, 0, 0], np.float32)
"""The camera that is drawn: focal length of Human3.6M's, no distortion."""
PITCH_DEG = (10.0, 5.0)
"""Mean and standard deviation; the yaw is uniform."""
NEAR_LEFT, FAR_RIGHT = np.array([-0.5, -0.3, 4.0]), np.array([0.5, 0.3, 6.0])
"""Metres: corners of the box in which the root stands before the camera, uniformly."""


def clips_of(seeds: str) -> tuple[str, ...]:
    """The clips that seeds are taken from: names joined by `+`; of `seeds:N` all that walk or turn. Raises
    InputError."""
    if SPREAD.fullmatch(seeds):
        return WALKING
    names = tuple(seeds.split("+"))
    for name in names:
        if name not in mocap.CLIPS:
            known = ", ".join(mocap.CLIPS)
            raise InputError(f"config.data.seeds: {name[:80]!r} is no clip; there are {known}; join several by '+'")
    if len(set(names)) < len(names):
        raise InputError(f"config.data.seeds: {seeds[:80]!r} names a clip twice")
    return names


def read_seeds(seeds: str, every: int = 1) -> PoseSeeds:
    """Every so many frames of `clips_of(seeds)`, from the first on; of `seeds:N` then the N frames that differ most.
    Raises InputError."""
    names = clips_of(seeds)
    worlds = [upright(mocap.clips()[name].joints)[::every] for name in names]
    world, counts = np.concatenate(worlds), [len(x) for x in worlds]
    clip = np.repeat(np.arange(len(names)), counts)
    frame = np.concatenate([every * np.arange(count) for count in counts])
    if SPREAD.fullmatch(seeds):
        chosen = choose(parse_seeds(seeds), world, 0)
        world, clip, frame = world[chosen], clip[chosen], frame[chosen]
    report = Report("motion capture", "train", len(world), unit="", media="poses")
    numbers = (np.zeros(len(world)), clip, frame)
    return PoseSeeds(world, *(np.asarray(x, np.int32) for x in numbers), names, report)


def upright(joints: np.ndarray) -> np.ndarray:
    """From y up, as the clips are, to z up; float32."""
    return (np.asarray(joints, np.float64) @ cameras.Y_UP).astype(np.float32)


def see(world: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Poses `[..., 16, 3]` with z up, each before a camera that is drawn: `(x2d [..., 16, 2], x3d [..., 16, 3])`
    float32, camera's axes."""
    each = world.shape[:-2]
    yaw, pitch = rng.uniform(-np.pi, np.pi, each), np.radians(rng.normal(*PITCH_DEG, each))
    root = NEAR_LEFT + (FAR_RIGHT - NEAR_LEFT) * rng.uniform(size=(*each, 1, 3))
    turn = cameras.upright_view(np.asarray(yaw), np.asarray(pitch))
    x3d = ((world - world[..., :1, :]) @ np.swapaxes(turn, -1, -2) + root).astype(np.float32)
    return cameras.project(x3d, SCREEN, distort=False), x3d


def read_test(held: Sequence[str], seed: int = 0) -> PosePairs:
    """All frames of the fifteen actions but those `held` out, each before a camera of its own that is drawn by a
    generator of this seed; every clip is an action. Raises InputError where none is left."""
    names = tuple(name for name in mocap.ACTIONS if name not in held)
    if not names:
        raise InputError("config.data.seeds: names every clip of motion capture; none is left for the test")
    pairs, clip, frame = [], [], []
    for number, name in enumerate(names):
        world = upright(mocap.clips()[name].joints)
        pairs += [see(pose, np.random.default_rng([seed, number, f])) for f, pose in enumerate(world)]
        clip += [number] * len(world)
        frame += range(len(world))
    x2d, x3d = (np.stack(part) for part in zip(*pairs, strict=True))
    clip = np.array(clip, np.int32)
    report = Report("motion capture", "test", len(names), (), (), len(clip), (), "poses", "clips")
    return PosePairs(x2d, x3d, clip, clip, np.array(frame, np.int32), names, names, report)

"""Twenty short clips of real human motion that come with the package, as joints in space.

They are the humanoid motions of PyBullet 3.2.7 (`pybullet_data/data/motions`), files unchanged, under the zlib licence
(`jaxvl/assets/LICENSE.humanoid_mocap`): fifteen actions and five ways to walk or turn, 15 to 227 frames each.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
from collections.abc import Mapping
from importlib import resources

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.ops import kinematics

ARCHIVE = "humanoid_mocap.zip"
"""In `jaxvl/assets`: the files as they were published, in one archive of 0.45 MB."""
CLIPS = (
    *("backflip", "cartwheel", "crawl", "dance_a", "dance_b", "getup_facedown", "getup_faceup", "jump", "kick"),
    *("punch", "roll", "run", "spin", "spinkick", "walk"),
    *("0walk_forward", "turn_left0", "turn_left1", "turn_right0", "turn_right1"),
)
"""Names, the fifteen actions first."""
ACTIONS = CLIPS[:15]


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """A clip.

    joints: `[F, 16, 3]` float64, metres, y up, of the skeleton 'humanoid16'. seconds: `[F]`, how long a frame lasts.
    """

    name: str
    joints: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.joints)


def parse(content: str | bytes, name: str) -> Motion:
    """One file, JSON with `Frames` of 44 numbers, see `jaxvl.ops.kinematics.humanoid_joints`. Raises InputError."""
    try:
        frames = np.asarray(json.loads(content)["Frames"], np.float64)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{name}: is no motion of the humanoid, JSON with 'Frames' ({error!r})") from None
    if frames.ndim != 2 or frames.shape[1] != kinematics.FRAME_VALUES or not len(frames):
        raise InputError(f"{name}: frames of {list(frames.shape)} numbers; a humanoid has {kinematics.FRAME_VALUES}")
    if not np.isfinite(frames).all():
        raise InputError(f"{name}: holds numbers that are not finite")
    return Motion(name, kinematics.humanoid_joints(frames), frames[:, 0])


@functools.cache
def clips() -> Mapping[str, Motion]:
    """All of `CLIPS` by name."""
    with resources.files("jaxvl").joinpath("assets", ARCHIVE).open("rb") as file, zipfile.ZipFile(file) as archive:
        return {name: parse(archive.read(_member(name)), name) for name in CLIPS}


def _member(name: str) -> str:
    return f"humanoid3d_{name}.txt" if name in ACTIONS else f"walker/{name}.txt"

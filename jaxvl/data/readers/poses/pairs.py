"""Poses with what a picture shows of them, as every reader of poses gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxvl.data.readers.common import Report


@dataclasses.dataclass(frozen=True, eq=False)
class PosePair:
    """One frame. x2d: `[16, 2]` on the normalised screen. x3d: `[16, 3]` metres, in the camera's axes, where it stands.
    name: unique. action, clip, frame: numbers; frames of a clip that follow each other are one apart."""

    x2d: np.ndarray
    x3d: np.ndarray
    name: str
    action: int
    clip: int
    frame: int


def pair_name(pair: PosePair) -> str:
    """What logs call a frame."""
    return pair.name


@dataclasses.dataclass(frozen=True, eq=False)
class PosePairs(Sequence):
    """Frames of a data set, one row each, of Human3.6M's sixteen joints (`jaxvl.data.skeletons.H36M16`).

    x2d: float32 `[N, 16, 2]`, normalised screen. x3d: float32 `[N, 16, 3]`, metres, camera's axes. action, clip, frame:
    int32 `[N]`; actions and clips name the first two.
    """

    x2d: np.ndarray
    x3d: np.ndarray
    action: np.ndarray
    clip: np.ndarray
    frame: np.ndarray
    actions: tuple[str, ...]
    clips: tuple[str, ...]
    report: Report

    def __len__(self) -> int:
        return len(self.x2d)

    def __getitem__(self, i: int) -> PosePair:
        """Frame number i."""
        clip, frame = int(self.clip[i]), int(self.frame[i])
        name = f"{self.clips[clip]}/{frame:06d}"
        return PosePair(self.x2d[i], self.x3d[i], name, int(self.action[i]), clip, frame)


@dataclasses.dataclass(frozen=True, eq=False)
class PoseSeeds(Sequence):
    """The poses that are learned from.

    world: float32 `[P, 16, 3]`, metres, z up. subject: int32 `[P]`, row of the cameras that see it; 0 where none do.
    clip, frame: int32 `[P]`, where it comes from; clips names the first.
    """

    world: np.ndarray
    subject: np.ndarray
    clip: np.ndarray
    frame: np.ndarray
    clips: tuple[str, ...]
    report: Report

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, i: int) -> tuple[str, np.ndarray]:
        """Name and pose number i."""
        return f"{self.clips[self.clip[i]]}/{int(self.frame[i]):06d}", self.world[i]

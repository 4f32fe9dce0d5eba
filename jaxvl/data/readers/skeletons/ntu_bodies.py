"""One or two actors out of the bodies that a Kinect tracked: the published preparation of NTU RGB+D, which SGN, VA-CNN
and CTR-GCN share, with its quirks."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

JOINTS = 25
LENGTH = 11
"""Frames up to which a body counts as noise."""
SPREAD = 0.8
"""A frame is good where its joints spread over x at most this share of their spread over y: bodies stand."""
NOISE = 0.69754
"""Share of bad frames from which on a body counts as noise."""
TRACKING = ("official", "true_index")


@dataclasses.dataclass(eq=False)
class Track:
    """A body over time. frames: joints `[25, 3]` of each; at: the kept frames they lie in; motion: how it moves."""

    frames: list[np.ndarray]
    at: list[int]
    motion: float = 0.0

    @property
    def joints(self) -> np.ndarray:
        """`[n, 25, 3]`."""
        return np.stack(self.frames)

    @property
    def span(self) -> tuple[int, int]:
        """First and last kept frame."""
        return self.at[0], self.at[-1]


def select_bodies(frames: Sequence[Mapping[Hashable, np.ndarray]], track_gaps: str = "official") -> np.ndarray:
    """`[{body id: joints [25, 3]}]`, frame by frame -> float32 `[M, F, 25, 3]`, M of 1 or 2.

    Frames without a body are dropped, time closes up. track_gaps: 'official' puts each further appearance of a body
    right behind its last one, whatever frames it missed, as the published code does; 'true_index' where it was seen.
    Raises ValueError where no frame has a body.
    """
    if track_gaps not in TRACKING:
        raise ValueError(f"track_gaps {track_gaps!r}: is none of {', '.join(TRACKING)}")
    kept = [frame for frame in frames if frame]
    if not kept:
        raise ValueError("no frame has a body")
    tracks: dict[Hashable, Track] = {}
    for index, frame in enumerate(kept):
        for name, joints in frame.items():
            track = tracks.setdefault(name, Track([], []))
            track.at.append(track.at[-1] + 1 if track.at and track_gaps == "official" else index)
            track.frames.append(np.asarray(joints, np.float32))
    if len(tracks) == 1:
        (track,) = tracks.values()
        return track.joints[None]
    actors = _denoised(list(tracks.values()))
    out = np.zeros((min(2, len(actors)), len(kept), JOINTS, 3), np.float32)
    _place(out, actors)
    flat = out.transpose(1, 0, 2, 3).reshape(len(kept), -1)
    return out[:, flat.sum(axis=1) != 0]


def motion(joints: np.ndarray) -> float:
    """Sum over x, y, z of the variance over all values of `[n, 25, 3]`, frames and joints together."""
    return float(np.asarray(joints, np.float64).reshape(-1, 3).var(axis=0).sum())


def good_frames(joints: np.ndarray) -> np.ndarray:
    """Which frames of `[n, 25, 3]` show a body higher than wide; bool `[n]`."""
    wide, high = (np.ptp(np.asarray(joints, np.float64)[..., axis], axis=1) for axis in (0, 1))
    return wide <= SPREAD * high


def _denoised(tracks: list[Track]) -> list[Track]:
    """What is left of several bodies, the one that moves most first; at least one."""
    left = [track for track in tracks if len(track.at) > LENGTH]
    if not left:
        left = [max(tracks, key=lambda track: len(track.at))]
    if len(left) == 1:
        return left
    for track in left:
        track.motion = motion(track.joints)
    for track in list(left):
        if len(left) == 1:
            break
        good = good_frames(track.joints)
        ratio = (~good).sum() / len(good)
        if ratio >= NOISE:
            left.remove(track)
        elif ratio:
            track.motion = min(track.motion, motion(track.joints[good]))
    return sorted(left, key=lambda track: track.motion, reverse=True)


def _place(out: np.ndarray, actors: Sequence[Track]) -> None:
    """Writes the first actor, and each further one where it does not overlap the first, else the second; else it is
    lost. The second one's time starts at frame 0, as published."""
    out[0, actors[0].at] = actors[0].joints
    spans = [actors[0].span, (0, 0)]
    for actor in actors[1:]:
        start, end = actor.span
        for body, (begin, stop) in enumerate(spans):
            if min(stop, end) - max(begin, start) <= 0:
                out[body, actor.at] = actor.joints
                spans[body] = min(begin, start), max(stop, end)
                break

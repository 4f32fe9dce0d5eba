"""Skeletons, and what is done to a sequence of joints before a network sees it: view and size normalisation, windows in
time, resampling, rotation. Numpy on the host; float64 inside, float32 out.

A sequence is `[M, F, J, 3]`: bodies, frames, joints, metres. A frame of a body is *present* where any of its values is
not 0; absent frames are zeros and stay zeros.
"""

from __future__ import annotations

import dataclasses

import numpy as np

TINY = 1e-3
"""Metres below which a torso or a line of shoulders has no direction, and a body no size."""


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """joints: names, J of them. parents: of each joint, -1 for the root. columns: the joints in the order of body
    parts, as an action picture has its columns. base, mid, top: joints on the spine, from below; left_shoulder,
    right_shoulder.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    columns: tuple[int, ...]
    base: int
    mid: int
    top: int
    left_shoulder: int
    right_shoulder: int

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """`(joint, parent)` of every joint but the root."""
        return tuple((j, p) for j, p in enumerate(self.parents) if p >= 0)

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Joints of the left side, and those of the right in the same order, by their names."""
        left = tuple(j for j, name in enumerate(self.joints) if name.startswith("left "))
        return left, tuple(self.joints.index(self.joints[j].replace("left ", "right ", 1)) for j in left)


def _sides(*parts: str) -> tuple[str, ...]:
    return tuple(f"{side} {part}" for side in ("left", "right") for part in parts)


NTU25 = Skeleton(
    "ntu25",
    (
        *("spine base", "spine mid", "neck", "head"),
        *_sides("shoulder", "elbow", "wrist", "hand"),
        *_sides("hip", "knee", "ankle", "foot"),
        *("spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb"),
    ),
    (-1, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 22, 7, 24, 11),
    (0, 1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19),
    *(0, 1, 20, 4, 8),
)
"""Kinect v2, as NTU RGB+D numbers its joints; the parents are the usual ones (a hand's tip hangs on its thumb)."""

UTKINECT20 = Skeleton(
    "utkinect20",
    (
        *("hip centre", "spine", "shoulder centre", "head"),
        *_sides("shoulder", "elbow", "wrist", "hand"),
        *_sides("hip", "knee", "ankle", "foot"),
    ),
    (-1, 0, 1, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    tuple(range(20)),
    *(0, 1, 2, 4, 8),
)
"""Kinect v1, as UTKinect-Action3D numbers its joints."""

HUMANOID16 = Skeleton(
    "humanoid16",
    (
        "root",
        *(f"{side} {part}" for side in ("right", "left") for part in ("hip", "knee", "ankle")),
        *("chest", "neck", "head"),
        *_sides("shoulder", "elbow", "wrist"),
    ),
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14),
    (0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 3, 4, 5, 6),
    *(0, 7, 8, 10, 13),
)
"""Sixteen joints of motion capture, in Human3.6M's order."""

H36M16 = Skeleton(
    "h36m16",
    (
        "hip",
        *(f"{side} {part}" for side in ("right", "left") for part in ("hip", "knee", "foot")),
        *("spine", "thorax", "head"),
        *_sides("shoulder", "elbow", "wrist"),
    ),
    *(HUMANOID16.parents, HUMANOID16.columns),
    *(0, 7, 8, 10, 13),
)
"""Sixteen of the joints of Human3.6M, which networks that lift poses take: without neck, hands and toes."""

SKELETONS = {s.name: s for s in (NTU25, UTKINECT20, HUMANOID16)}


def present_frames(x: np.ndarray) -> np.ndarray:
    """`[M, F, J, 3]` -> bool `[M, F]`."""
    return (np.asarray(x) != 0).any(axis=(-1, -2))


def valid_length(x: np.ndarray) -> int:
    """Frames up to the last one in which a body is present, of `[M, F, J, 3]`: what comes behind is padding."""
    there = np.flatnonzero(present_frames(x).any(axis=0))
    return int(there[-1]) + 1 if len(there) else 0


def normalise(x: np.ndarray, skeleton: Skeleton, view: bool = True, size: bool = True) -> np.ndarray:
    """`R (x - o) / s` of every present frame of `[M, F, J, 3]`, with one `(o, R, s)` for the whole clip, float32.

    All three are of the first body (NTU RGB+D's recipe). o: the middle of its spine in its first present frame. R
    (`view`): its rows are the line of shoulders, right to left, made orthogonal to the torso, the torso, and their
    cross product, in the first present frame where both have a direction; else no rotation. s (`size`): the median
    length of its torso, `|top - mid| + |mid - base|`, over its present frames; 1 where that is below a millimetre.
    """
    x = np.asarray(x, np.float64)
    there = present_frames(x)
    frames = x[0, there[0]]
    if not len(frames):
        return x.astype(np.float32)
    base, mid, top = (frames[:, j] for j in (skeleton.base, skeleton.mid, skeleton.top))
    out = x - mid[0]
    if view:
        out = out @ _axes(top - base, frames[:, skeleton.left_shoulder] - frames[:, skeleton.right_shoulder]).T
    if size:
        scale = np.median(np.linalg.norm(top - mid, axis=-1) + np.linalg.norm(mid - base, axis=-1))
        out = out / (scale if scale >= TINY else 1.0)
    return np.where(there[:, :, None, None], out, 0.0).astype(np.float32)


def _axes(torso: np.ndarray, shoulders: np.ndarray) -> np.ndarray:
    """Rows of the rotation into the body's own axes, from the first of the frames `[F, 3]` that has them; `[3, 3]`."""
    length = np.linalg.norm(torso, axis=-1, keepdims=True)
    up = torso / np.maximum(length, TINY)
    across = shoulders - (shoulders * up).sum(-1, keepdims=True) * up
    width = np.linalg.norm(across, axis=-1, keepdims=True)
    good = np.flatnonzero((length >= TINY)[:, 0] & (width >= TINY)[:, 0])
    if not len(good):
        return np.eye(3)
    y, a = up[good[0]], across[good[0]] / width[good[0]]
    return np.stack([a, y, np.cross(a, y)])


def resample(x: np.ndarray, frames: int, axis: int = -3) -> np.ndarray:
    """Linear interpolation along the axis of time to `frames`: half-pixel centres, edges clamped, float32."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
    n = len(x)
    t = np.maximum((np.arange(frames) + 0.5) * n / frames - 0.5, 0.0)
    low = np.floor(t).astype(np.int64)
    part = (t - low).reshape(-1, *[1] * (x.ndim - 1))
    out = x[low] * (1 - part) + x[np.minimum(low + 1, n - 1)] * part
    return np.moveaxis(out, 0, axis).astype(np.float32)


def random_window(
    length: int, rng: np.random.Generator, share: tuple[float, float] = (0.5, 1.0), least: int = 64
) -> slice:
    """A training window: a share of the frames drawn uniformly, at least `least` of them where there are as many; then
    its start."""
    size = min(max(int(np.floor(length * rng.uniform(*share))), least), length)
    start = int(rng.integers(0, length - size + 1))
    return slice(start, start + size)


def centre_window(length: int, share: float = 0.95) -> slice:
    """The window of the evaluation: `share` of the frames, the same number left out at both ends."""
    bias = int((1 - share) * length / 2)
    return slice(bias, length - bias)


def rotation(angles: np.ndarray) -> np.ndarray:
    """`Rz(c) Ry(b) Rx(a)` of angles `(a, b, c)` in radians, `[3, 3]` float64, in the published sense of turning."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, ca, sa], [0, -sa, ca]])
    ry = np.array([[cb, 0, -sb], [0, 1, 0], [sb, 0, cb]])
    rz = np.array([[cc, sc, 0], [-sc, cc, 0], [0, 0, 1]])
    return rz @ ry @ rx


def rotate(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`matrix @ point` of every point of `[..., 3]`, float32."""
    return (np.asarray(x, np.float64) @ np.asarray(matrix, np.float64).T).astype(np.float32)


def random_rotation(rng: np.random.Generator, limit: float) -> np.ndarray:
    """`rotation` by three angles drawn from `[-limit, limit]`."""
    return rotation(rng.uniform(-limit, limit, 3))

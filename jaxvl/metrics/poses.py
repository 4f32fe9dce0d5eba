"""Errors of 3-D poses, and how varied poses are; numpy on the host, float64 inside.

Poses are `[N, J, 3]` in metres; errors come in metres pose by pose (`[N]`), so that they can be averaged per action or
per frame, see `average`. What has no pose is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxvl.data.skeletons import H36M16
from jaxvl.ops import kinematics

MILLIMETRES = 1000.0
PCK_MM = 150.0
AUC_MM = np.arange(0.0, 151.0, 5.0)
"""Thresholds whose PCK the AUC is the mean of: 31."""
JOINT_SETS = {"all16": tuple(range(16)), "official14": (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15)}
"""Of Human3.6M's 16 joints those that PCK and AUC count; 'official14' is MPI-INF-3DHP's: without hip and spine."""
AVERAGES = ("per_action", "per_frame")
LIMBS = (2, 3, 5, 6, 11, 12, 14, 15)
"""Joints of the 16 whose bones (to their parents) `direction_histograms` looks at."""
AZIMUTHS, HEIGHTS = 24, 12


def rooted(x: np.ndarray, root: int = 0) -> np.ndarray:
    """Joints relative to joint `root`, float64."""
    x = np.asarray(x, np.float64)
    return x - x[..., root : root + 1, :]


def distances(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Euclid's, of each joint: `[..., J, 3]` twice -> `[..., J]`. ValueError where the shapes differ."""
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if predicted.shape != target.shape:
        raise ValueError(f"poses of {list(predicted.shape)} against {list(target.shape)}")
    return np.linalg.norm(predicted - target, axis=-1)


def mpjpe(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean distance of the joints of each pose, the root included; both sides as they are."""
    return distances(predicted, target).mean(-1)


def aligned(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`a Y R + t`: each prediction Y turned, scaled and shifted onto its target X with the least squared error, never
    mirrored.

    Of centred poses divided by their Frobenius norms nX, nY: `X^T Y = U S V^T`, `R = V U^T`, with the last column of V
    and the last singular value negated where det R < 0; `a = sum(S) nX / nY`. A prediction of one single point becomes
    the mean of its target.
    """
    x, y = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"poses of {list(y.shape)} against {list(x.shape)}")
    mean_x, mean_y = x.mean(-2, keepdims=True), y.mean(-2, keepdims=True)
    x, y = x - mean_x, y - mean_y
    size_x, size_y = (np.sqrt((v * v).sum((-2, -1), keepdims=True)) for v in (x, y))
    # of a point nothing but rounding errors is left, which have no direction
    flat_x, flat_y = (
        s <= 1e-12 * (1 + np.abs(m).max(-1, keepdims=True)) for s, m in ((size_x, mean_x), (size_y, mean_y))
    )
    safe_x, safe_y = np.where(flat_x, 1.0, size_x), np.where(flat_y, 1.0, size_y)
    u, s, vt = np.linalg.svd((x / safe_x).swapaxes(-1, -2) @ (y / safe_y))
    v, ut = vt.swapaxes(-1, -2).copy(), u.swapaxes(-1, -2)
    mirrored = np.linalg.det(v @ ut) < 0
    sign = np.where(mirrored, -1.0, 1.0)
    v[..., -1] *= sign[..., None]
    scale = (s[..., :-1].sum(-1) + sign * s[..., -1])[..., None, None] * size_x / safe_y
    return np.where(flat_x | flat_y, 0.0, scale) * (y @ (v @ ut)) + mean_x


def pa_mpjpe(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`mpjpe` of `aligned` predictions (protocol 2 of Human3.6M)."""
    return mpjpe(aligned(predicted, target), target)


def n_mpjpe(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`mpjpe` of predictions scaled by `mean_j(X.Y) / mean_j(|Y|^2)`, pose by pose; rooted poses, nothing is centred.
    A prediction of zeros stays one."""
    x, y = np.asarray(target, np.float64), np.asarray(predicted, np.float64)
    power = (y * y).sum((-2, -1))
    scale = np.where(power > 0, (x * y).sum((-2, -1)) / np.where(power > 0, power, 1.0), 0.0)
    return mpjpe(scale[..., None, None] * y, x)


def mpjve(
    predicted: np.ndarray, target: np.ndarray, clips: np.ndarray, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of the joints' steps from each frame to the next one: `(errors [P], rows [P])`, rows of the later
    frames, in the order of clips and frames.

    clips, frames: ints `[N]`. A step is between two rows of one clip whose frames are neighbours: none leads from clip
    to clip or over a frame that is missing. ValueError where a frame of a clip comes twice.
    """
    clips, frames = np.asarray(clips), np.asarray(frames)
    order = np.lexsort((frames, clips))
    same, step = np.diff(clips[order]) == 0, np.diff(frames[order])
    if (same & (step == 0)).any():
        at = order[np.flatnonzero(same & (step == 0))[0]]
        raise ValueError(f"frame {frames[at]} of clip {clips[at]} comes twice")
    late = np.flatnonzero(same & (step == 1)) + 1
    after, before = order[late], order[late - 1]
    steps = [np.asarray(x, np.float64)[after] - np.asarray(x, np.float64)[before] for x in (predicted, target)]
    return mpjpe(*steps), after


def pck(errors: np.ndarray, threshold: float = PCK_MM) -> float:
    """Percent of `errors` (of joints, in millimetres) strictly below `threshold`; NaN without any."""
    errors = np.asarray(errors, np.float64)
    return 100.0 * float((errors < threshold).mean()) if errors.size else float("nan")


def auc(errors: np.ndarray, thresholds: Sequence[float] = AUC_MM) -> float:
    """Mean of `pck` over the thresholds, in percent; the one at 0 counts and is 0."""
    return float(np.mean([pck(errors, threshold) for threshold in thresholds]))


def average(values: np.ndarray, actions: np.ndarray, how: str = "per_action") -> float:
    """`per_action`: the mean over each action's values, then the plain mean over the actions that have any (what papers
    print). `per_frame`: over all values. NaN without any. ValueError for another `how`."""
    values, actions = np.asarray(values, np.float64), np.asarray(actions)
    if how not in AVERAGES:
        raise ValueError(f"{how!r} is none of {', '.join(AVERAGES)}")
    if not values.size:
        return float("nan")
    if how == "per_frame":
        return float(values.mean())
    return float(np.mean([values[actions == a].mean() for a in np.unique(actions)]))


# -- diversity


def in_torso(x: np.ndarray) -> np.ndarray:
    """Root-relative poses `[N, 16, 3]` in their torso's own axes (left, up, forward): whichever way they face is gone.
    Poses whose torso or hips have no direction are NaN."""
    x = rooted(x)
    good = np.linalg.norm(np.cross(x[:, 8], x[:, 4] - x[:, 1]), axis=-1) > 1e-9
    out = np.full(x.shape, np.nan)
    frame = kinematics.torso_frame(*(x[good][:, j] for j in (0, 8, 4, 1)))
    out[good] = np.einsum("nij,nkj->nki", frame, x[good])
    return out


def nearest(x: np.ndarray, others: np.ndarray, at_once: int = 64) -> np.ndarray:
    """Of each pose of `[N, 16, 3]` the mean distance of its joints from the nearest of `others` `[M, 16, 3]`, both in
    their torso's axes, in metres. NaN where one has none."""
    x, others = in_torso(x).astype(np.float32), in_torso(others).astype(np.float32)
    others = others[np.isfinite(others).all((1, 2))]
    if not len(others):
        return np.full(len(x), np.nan)
    parts = [
        np.linalg.norm(x[i : i + at_once, None] - others, axis=-1).mean(-1).min(1) for i in range(0, len(x), at_once)
    ]
    return np.concatenate([np.zeros(0), *parts])


def direction_histograms(x: np.ndarray, limbs: Sequence[int] = LIMBS) -> np.ndarray:
    """How often each limb bone points where, in the torso's frame: poses `[N, 16, 3]` -> counts `[limbs, 24, 12]`.

    Bins: of the azimuth atan2(forward, left) from -180 to 180 degrees, and of the height (the part along the torso)
    from -1 to 1. Poses whose torso or hips have no direction, and bones without length, are not counted.
    """
    x = in_torso(x)
    x = x[np.isfinite(x).all((1, 2))]
    counts = np.zeros((len(limbs), AZIMUTHS, HEIGHTS), np.int64)
    bones = kinematics.bones(x, H36M16.parents)[:, list(limbs)]
    length = np.linalg.norm(bones, axis=-1, keepdims=True)
    direction = bones / np.maximum(length, 1e-9)
    azimuth = np.arctan2(direction[..., 2], direction[..., 0])
    column = np.clip(((azimuth + np.pi) / (2 * np.pi) * AZIMUTHS).astype(int), 0, AZIMUTHS - 1)
    row = np.clip(((direction[..., 1] + 1) / 2 * HEIGHTS).astype(int), 0, HEIGHTS - 1)
    for limb in range(len(limbs)):
        there = length[:, limb, 0] > 1e-9
        np.add.at(counts[limb], (column[there, limb], row[there, limb]), 1)
    return counts


def entropy(counts: np.ndarray) -> np.ndarray:
    """Bits, of the distribution that counts `[..., A, H]` make, over their last two axes; NaN where there is none."""
    total = counts.sum((-2, -1), keepdims=True)
    share = counts / np.where(total > 0, total, 1)
    bits = -(share * np.log2(np.where(share > 0, share, 1.0))).sum((-2, -1))
    return np.where(total[..., 0, 0] > 0, bits, np.nan)


def diversity(x: np.ndarray) -> float:
    """Mean over the limb bones of the entropy of their directions in bits, of poses `[N, 16, 3]`: 0 to log2(288) = 8.17
    (0 for one pose, repeated)."""
    return float(entropy(direction_histograms(x)).mean())

"""What is usually wrong with files of poses, each as one line. Poses are `[N, 16, 3]` of `H36M16`."""

from __future__ import annotations

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.skeletons import H36M16
from jaxvl.ops.kinematics import bones

LOOKED_AT = 2000
"""Poses that a check looks at, spread evenly."""
BONE = (0.06, 1.2)
"""Metres between which the mean bone of a person lies."""
ON_SCREEN = 4.0
"""Normalised values are smaller, pixels larger."""
LARGEST = 1e6
"""Neither pixels nor millimetres of a joint are as large."""
EVIDENCE = 0.3
"""How one-sided the poses must be before they are called mirrored, 0 to 1."""
FAR, CLOSE = 0.2, 0.5
"""Of the normalised screen: how far a picture's joints may lie from where the camera sees them; how much nearer those
of the other side must be to be called swapped."""


def sample(x: np.ndarray) -> np.ndarray:
    """At most `LOOKED_AT` rows, spread evenly."""
    return x[np.unique(np.linspace(0, len(x) - 1, min(len(x), LOOKED_AT)).astype(int))] if len(x) else x


def check_shape(x: object, joints: tuple[int, ...], values: int, where: str, frames: int | None = None) -> np.ndarray:
    """An array of numbers `[T, one of joints, values]`, finite, at least one frame, float32. frames: what is behind so
    many is cut off unread. Raises InputError."""
    wants = f"numbers [frames, {' or '.join(map(str, joints))}, {values}]"
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        raise InputError(f"{where}: needs {wants}, holds {type(x).__name__}")
    if x.ndim != 3 or x.shape[2] != values or x.shape[1] not in joints or not len(x):
        raise InputError(f"{where}: has the shape {list(x.shape)}, needs {wants}")
    x = x[:frames]
    bad = ~(np.abs(x) < LARGEST).all((1, 2))
    if bad.any():
        what = "numbers that no joint has" if np.isfinite(x).all() else "NaN"
        raise InputError(
            f"{where}: {int(bad.sum()):,} of {len(x):,} frames hold {what}, first frame {int(bad.argmax())}"
        )
    return np.ascontiguousarray(x, np.float32)


def check_metres(x: np.ndarray, where: str) -> None:
    """Raises InputError where bones are not as long as people's in metres."""
    mean = mean_bone(x)
    if BONE[0] <= mean <= BONE[1]:
        return
    if 1000 * BONE[0] <= mean <= 1000 * BONE[1]:
        raise InputError(f"{where}: holds millimetres (the mean bone is {mean:.0f}); divide by 1000")
    raise InputError(f"{where}: the mean bone is {mean:.3g} m long; needs joints of people in metres")


def check_millimetres(x: np.ndarray, where: str) -> None:
    """The same of a file that is published in millimetres."""
    mean = mean_bone(x)
    if not 1000 * BONE[0] <= mean <= 1000 * BONE[1]:
        unit = "metres" if BONE[0] <= mean <= BONE[1] else "another unit"
        raise InputError(f"{where}: holds {unit} (the mean bone is {mean:.3g}); needs millimetres, as published")


def mean_bone(x: np.ndarray) -> float:
    """The median over poses of the mean length of their bones."""
    return float(np.median(np.linalg.norm(bones(sample(x), H36M16.parents)[:, 1:], axis=-1).mean(-1)))


def check_upright(x: np.ndarray, where: str) -> None:
    """Raises InputError where people do not stand along z on the whole."""
    torso = sample(x)[:, 8] - sample(x)[:, 0]
    mean = torso.mean(0) / max(float(np.linalg.norm(torso, axis=-1).mean()), 1e-9)
    if mean[2] < 0.3:
        axis = "xyz"[int(np.abs(mean).argmax())]
        raise InputError(
            f"{where}: torsos point along {axis} ({mean[0]:.1f}, {mean[1]:.1f}, {mean[2]:.1f}), not up along z; needs "
            "world coordinates, not those of a camera"
        )


def check_sides(x: np.ndarray, where: str) -> None:
    """Raises InputError where left and right stand the other way round: knees bend forwards, and forward is left x up.

    The sign of the triple product (left minus right, up, forward) is summed over all poses, for hips and for shoulders;
    straight legs say nothing.
    """
    legs, arms = handedness(x)
    wrong = [name for name, value in (("legs", legs), ("arms", arms)) if value < -EVIDENCE]
    if len(wrong) == 2:
        raise InputError(f"{where}: bodies are mirrored: left and right are swapped, or an axis points the other way")
    if wrong:
        raise InputError(f"{where}: left and right {wrong[0]} are swapped; put the joints into the published order")


def handedness(x: np.ndarray) -> tuple[float, float]:
    """`(legs, arms)`, 1 where hips and shoulders always stand as the knees say, -1 where never, 0 without evidence."""
    x = np.asarray(sample(x), np.float64)
    forward = np.zeros((len(x), 3))
    for hip, knee, ankle in ((1, 2, 3), (4, 5, 6)):
        line, bend = x[:, ankle] - x[:, hip], x[:, knee] - (x[:, hip] + x[:, ankle]) / 2
        along = (bend * line).sum(-1, keepdims=True) / np.maximum((line * line).sum(-1, keepdims=True), 1e-9)
        forward += bend - along * line
    up = x[:, 8] - x[:, 0]
    out = []
    for left, right in ((4, 1), (10, 13)):
        triple = np.einsum("ni,ni->n", x[:, left] - x[:, right], np.cross(up, forward))
        total = np.abs(triple).sum()
        out.append(float(triple.sum() / total) if total > 1e-6 * len(x) else 0.0)
    return out[0], out[1]


def check_screen(x2d: np.ndarray, pixels: bool, where: str) -> None:
    """Raises InputError for normalised values where pixels belong (`pixels`), or the other way round."""
    largest = float(np.median(np.abs(sample(x2d)).max((1, 2))))
    if pixels and largest < ON_SCREEN:
        raise InputError(f"{where}: is normalised (values around {largest:.2g}); needs pixels")
    if not pixels and largest > ON_SCREEN:
        raise InputError(f"{where}: holds pixels (values around {largest:.0f}); needs x / w * 2 - 1 and y alike")


def check_same_sides(x2d: np.ndarray, x3d: np.ndarray, where: str) -> None:
    """Raises InputError where left and right of a picture's joints `[N, 16, 2]` are those of the other side of the 3-D
    ones `[N, 16, 3]`, in the axes of a camera that is not known: focal length and middle that fit best are taken. Says
    nothing of poses that stand behind it."""
    if not (x3d[..., 2] > 0).all():
        return
    ray, x2d = (sample(x) for x in (x3d[..., :2] / x3d[..., 2:], x2d))

    def off(joints: np.ndarray) -> float:
        rest = [np.polyfit(ray[..., a].ravel(), joints[..., a].ravel(), 1, full=True)[1].sum() for a in (0, 1)]
        return float(np.sqrt(sum(rest) / ray[..., 0].size))

    here, swapped = off(x2d), off(x2d[:, _other_side()])
    if here > 0.02 and swapped < CLOSE * here:
        raise InputError(f"{where}: left and right are swapped in 2-D")


def _other_side() -> np.ndarray:
    """Of each joint the one of the other side, `[16]`."""
    left, right = H36M16.sides
    other = np.arange(len(H36M16))
    other[[*left, *right]] = [*right, *left]
    return other


def check_seen(x2d: np.ndarray, seen: np.ndarray, where: str) -> None:
    """Raises InputError where joints of the picture `[N, 16, 2]` do not lie where the camera sees the 3-D ones: other
    sides, another camera, another take."""
    far = lambda a: float(np.median(np.linalg.norm(a - seen, axis=-1).mean(-1)))  # noqa: E731
    here, swapped = far(x2d), far(x2d[:, _other_side()])
    if here > 0.02 and swapped < CLOSE * here:
        raise InputError(f"{where}: left and right are swapped in 2-D")
    if here > FAR:
        raise InputError(
            f"{where}: 2-D joints lie {here:.2f} of half a picture from where this camera sees the 3-D ones; do the "
            "two files belong together?"
        )

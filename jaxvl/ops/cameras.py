"""Cameras: pixels and normalised screens, projection with and without distortion, views of an upright world.

Like `ops/kinematics.py`, every function takes NumPy or JAX arrays and answers in kind. Points of a camera have x to the
right, y down, z forward, in metres; where a camera stands is `kinematics.world_to_camera`'s to say.

A camera is nine numbers of a normalised screen: focal lengths x y, centre x y, radial distortion k1 k2 k3, tangential
distortion p1 p2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxvl.ops.kinematics import Array, like

VALUES = 9
"""Numbers of a camera."""


def normalise_screen(x: Array, width: Array, height: Array) -> Array:
    """Pixels `[..., 2]` -> `x / w * 2 - [1, h/w]`: x in -1..1, y in -h/w..h/w, so that the aspect ratio is kept. width,
    height: numbers, or arrays that broadcast over the leading axes."""
    xp = like(x)
    width, height = xp.asarray(width, dtype=x.dtype), xp.asarray(height, dtype=x.dtype)
    return x / width[..., None] * 2 - xp.stack(xp.broadcast_arrays(xp.ones_like(width), height / width), -1)


def restore_screen(x: Array, width: Array, height: Array) -> Array:
    """The inverse of `normalise_screen`: `(x + [1, h/w]) * w / 2`."""
    xp = like(x)
    width, height = xp.asarray(width, dtype=x.dtype), xp.asarray(height, dtype=x.dtype)
    return (x + xp.stack(xp.broadcast_arrays(xp.ones_like(width), height / width), -1)) * width[..., None] / 2


def camera(
    focal: Sequence[float],
    centre: Sequence[float],
    size: tuple[float, float],
    radial: Sequence[float] = (0.0, 0.0, 0.0),
    tangential: Sequence[float] = (0.0, 0.0),
) -> np.ndarray:
    """The nine numbers, float64, of what is measured in pixels of a picture of `size` (width, height). Both focal
    lengths are divided by the width."""
    width, height = size
    middle = normalise_screen(np.asarray(centre, np.float64), width, height)
    return np.array([*(2 * np.asarray(focal, np.float64) / width), *middle, *radial, *tangential], np.float64)


def project(points: Array, cameras: Array, distort: bool = True) -> Array:
    """Points `[..., 3]` of a camera's axes -> its normalised screen `[..., 2]`; leading axes of `cameras` `[..., 9]`
    broadcast (give joints an axis: `cameras[:, None]`).

    With a = clip(xy / z, -1, 1) and r = |a|^2 (Human3.6M as VideoPose3D projects it; not OpenCV's tangential term):
    `f (a (1 + k1 r + k2 r^2 + k3 r^3 + p.a) + p r) + c`, without distortion `f a + c`.

    What lies behind the camera (z < 0) lands on the screen, too; z of 0 is not finite or at the border: drop both.
    """
    xp = like(points)
    focal, centre, radial, tangential = cameras[..., :2], cameras[..., 2:4], cameras[..., 4:7], cameras[..., 7:]
    a = xp.clip(points[..., :2] / points[..., 2:], -1, 1)
    if not distort:
        return focal * a + centre
    r = (a * a).sum(-1, keepdims=True)
    bend = (
        1
        + r * (radial[..., :1] + r * (radial[..., 1:2] + r * radial[..., 2:]))
        + (tangential * a).sum(-1, keepdims=True)
    )
    return focal * (a * bend + tangential * r) + centre


Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Turns a world whose z points up into one whose y does: `x @ Y_UP.T`. Its transpose turns it back."""


def upright_view(yaw: Array, pitch: Array) -> Array:
    """`diag(1, -1, -1) Rx(pitch) Ry(yaw)` behind `Y_UP`: from a world with z up to the axes of a camera that stands
    upright; radians `[...]`, `[...] -> [..., 3, 3]`."""
    xp = like(yaw)
    (cy, sy), (cp, sp) = ((xp.cos(angle), xp.sin(angle)) for angle in (yaw, pitch))
    rows = (cy, -sy, xp.zeros_like(cy), -sp * sy, -sp * cy, -cp, cp * sy, cp * cy, -sp)
    return xp.stack(rows, -1).reshape(*yaw.shape, 3, 3)

"""Rotations, trees of joints, forward kinematics of motion capture, and cameras.

Every function takes NumPy or JAX arrays and answers in kind, traced ones included; none imports JAX itself, so that
readers and synthetic worlds, which run in processes without it, use the same code. Lengths are metres, angles radians,
axes right-handed with y up; quaternions are `(w, x, y, z)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any
"""NumPy's or JAX's."""

SERIES = 1e-6
"""Angle below which an axis-angle rotation is taken from its series."""


def like(x: Array) -> Any:
    """The namespace (`numpy` or `jax.numpy`) of an array."""
    return x.__array_namespace__()


# -- rotations


def rotate(q: Array, v: Array) -> Array:
    """`v + 2 (w (u x v) + u x (u x v))`: unit quaternions `[..., 4]` on vectors `[..., 3]`."""
    xp = like(q)
    w, u = q[..., :1], q[..., 1:]
    once = xp.linalg.cross(*xp.broadcast_arrays(u, v))
    return v + 2 * (w * once + xp.linalg.cross(*xp.broadcast_arrays(u, once)))


def conjugate(q: Array) -> Array:
    """The inverse of unit quaternions `[..., 4]`."""
    return q * like(q).asarray([1.0, -1.0, -1.0, -1.0], dtype=q.dtype)


def compose(a: Array, b: Array) -> Array:
    """The quaternion of "first `b`, then `a`": Hamilton's product of `[..., 4]` and `[..., 4]`."""
    xp = like(a)
    w, u, s, v = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    vector = w * v + s * u + xp.linalg.cross(*xp.broadcast_arrays(u, v))
    return xp.concatenate([w * s - (u * v).sum(-1, keepdims=True), vector], -1)


def quaternion_matrix(q: Array) -> Array:
    """Rotation matrices `[..., 3, 3]` of quaternions `[..., 4]` of any length but 0."""
    xp = like(q)
    w, x, y, z = (c for c in xp.moveaxis(q / xp.sqrt((q * q).sum(-1, keepdims=True)), -1, 0))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return xp.stack([xp.stack(row, -1) for row in rows], -2)


def axis_angle_matrix(omega: Array) -> Array:
    """`exp([w]x) = I + sin(a)/a K + (1 - cos(a))/a^2 K^2`, a = |w| (Rodrigues): `[..., 3] -> [..., 3, 3]`. Below
    `SERIES` the factors are those of the series, so that values and derivatives are finite at 0."""
    xp = like(omega)
    square = (omega * omega).sum(-1)[..., None, None]
    small = square < SERIES**2
    safe = xp.where(small, xp.ones_like(square), square)
    angle = xp.sqrt(safe)
    first = xp.where(small, 1 - square / 6, xp.sin(angle) / angle)
    second = xp.where(small, 0.5 - square / 24, (1 - xp.cos(angle)) / safe)
    x, y, z = (c for c in xp.moveaxis(omega, -1, 0))
    zero = xp.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    k = xp.stack([xp.stack(row, -1) for row in rows], -2)
    return xp.eye(3, dtype=omega.dtype) + first * k + second * (k @ k)


def axis_angle_quaternion(omega: Array) -> Array:
    """The same rotation as a unit quaternion, `(cos(a/2), sin(a/2) w/a)`: `[..., 3] -> [..., 4]`."""
    xp = like(omega)
    square = (omega * omega).sum(-1, keepdims=True)
    small = square < SERIES**2
    angle = xp.sqrt(xp.where(small, xp.ones_like(square), square))
    part = xp.where(small, 0.5 - square / 48, xp.sin(angle / 2) / angle)
    whole = xp.where(small, 1 - square / 8, xp.cos(angle / 2))
    return xp.concatenate([whole, part * omega], -1)


def about(axis: int, angle: Array) -> Array:
    """Turns by `angle` `[...]` about coordinate axis 0, 1 or 2, counter-clockwise seen from its tip: `[..., 3, 3]`."""
    xp = like(angle)
    omega = [xp.zeros_like(angle)] * 3
    omega[axis] = angle
    return axis_angle_matrix(xp.stack(omega, -1))


# -- trees of joints


def bones(x: Array, parents: Sequence[int]) -> Array:
    """`x_j - x_parent(j)`: joints `[..., J, 3]` -> `[..., J, 3]`; the root's is 0."""
    own = [j if p < 0 else p for j, p in enumerate(parents)]
    return x - x[..., np.array(own), :]


def joints(b: Array, parents: Sequence[int]) -> Array:
    """The inverse of `bones`: each joint the sum of the bones down from the root, which stays where its bone is (0 for
    root-relative joints). One product with a 0/1 matrix."""
    xp = like(b)
    return xp.asarray(_ancestors(tuple(parents)), dtype=b.dtype) @ b


@functools.cache
def _ancestors(parents: tuple[int, ...]) -> np.ndarray:
    """`[J, J]`: 1 where column is row or one of its ancestors."""
    out = np.eye(len(parents))
    for joint in range(len(parents)):
        above = parents[joint]
        while above >= 0:
            out[joint, above] = 1
            above = parents[above]
    return out


def carried(rotations: Array, parents: Sequence[int]) -> Array:
    """Rotations of each joint with those above it, `D_j = D_parent(j) R_j`, so that a rotation carries the whole limb
    below: quaternions `[..., J, 4] -> [..., J, 4]`, level by level of the tree."""
    levels = _levels(tuple(parents))
    done, order = rotations[..., levels[0], :], list(levels[0])
    for level in levels[1:]:
        above = done[..., np.array([order.index(parents[j]) for j in level]), :]
        done = like(rotations).concatenate([done, compose(above, rotations[..., level, :])], -2)
        order += list(level)
    return done[..., np.argsort(order), :]


@functools.cache
def _levels(parents: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The joints by how many there are above them."""
    depth = _ancestors(parents).sum(1).astype(int) - 1
    return tuple(np.flatnonzero(depth == d) for d in range(depth.max() + 1))


def descendants(joint: int, parents: Sequence[int]) -> tuple[int, ...]:
    """All joints below `joint`, without itself."""
    below = _ancestors(tuple(parents))[:, joint]
    return tuple(j for j in range(len(parents)) if below[j] and j != joint)


def turn_limb(x: Array, joint: int, rotation: Array, parents: Sequence[int]) -> Array:
    """`x` `[..., J, 3]` with everything below `joint` turned about it by `rotation` `[..., 3, 3]`."""
    xp = like(x)
    moved = np.zeros((len(parents), 1), bool)
    moved[list(descendants(joint, parents))] = True
    centre = x[..., joint : joint + 1, :]
    turned = (x - centre) @ xp.swapaxes(rotation, -1, -2) + centre
    return xp.where(xp.asarray(moved), turned, x)


def unit(v: Array, floor: float = 0.0) -> Array:
    """`v / max(|v|, floor)` of vectors `[..., 3]`."""
    xp = like(v)
    return v / xp.maximum(xp.sqrt((v * v).sum(-1, keepdims=True)), xp.asarray(floor, dtype=v.dtype))


def torso_frame(hip: Array, thorax: Array, left: Array, right: Array, floor: float = 0.0) -> Array:
    """Rows: to the body's left (right to left shoulder or hip, orthogonal to the torso), up (hip to thorax), forward
    (left x up); four points `[..., 3]` -> `[..., 3, 3]`. floor: least length that a direction is divided by."""
    xp = like(hip)
    up = unit(thorax - hip, floor)
    across = left - right
    lateral = unit(across - (across * up).sum(-1, keepdims=True) * up, floor)
    return xp.stack([lateral, up, xp.linalg.cross(lateral, up)], -2)


# -- forward kinematics of motion capture

FRAME_VALUES = 44
"""Numbers of a frame: seconds, root position, then rotations, see `humanoid_joints`."""
UNIT = 0.25
"""Metres of a unit of the offsets below."""
CHEST, NECK, HEAD = (0.0, 0.944604, 0.0), (0.0, 0.895576, 0.0), (0.0, 0.70, 0.0)
HIP, KNEE, ANKLE = (0.0, 0.0, 0.339548), (0.0, -1.686184, 0.0), (0.0, -1.639480, 0.0)
SHOULDER, ELBOW, WRIST = (-0.0962, 0.974, 0.73244), (0.0, -1.099152, 0.0), (0.0, -1.035788, 0.0)
"""Offsets from the parent, of the right side where there are two; on the left z is negative."""


def humanoid_joints(frames: Array) -> Array:
    """Frames of the humanoid of DeepMimic and PyBullet `[F, 44]` -> joints `[F, 16, 3]` in metres, y up.

    A frame: its duration, root position 1:4, quaternions of root 4:8, chest 8:12, neck 12:16, right hip 16:20, right
    knee's angle 20, right ankle 21:25, right shoulder 25:29, right elbow 29, and the same five of the left from 30 on.
    A child's rotation is its parent's times its own; knees and elbows turn about their z. Ankles turn nothing here.

    Joints: root; right hip, knee, ankle; left hip, knee, ankle; chest, neck, head; left shoulder, elbow, wrist; right
    shoulder, elbow, wrist.
    """
    xp = like(frames)
    turn = lambda start: quaternion_matrix(frames[..., start : start + 4])  # noqa: E731
    hinge = lambda column: about(2, frames[..., column])  # noqa: E731
    at = lambda place, rotation, offset: place + UNIT * (rotation @ xp.asarray(offset, dtype=frames.dtype))  # noqa: E731
    root, pelvis = frames[..., 1:4], turn(4)
    chest, trunk = at(root, pelvis, CHEST), pelvis @ turn(8)
    neck = at(chest, trunk, NECK)
    head = at(neck, trunk @ turn(12), HEAD)
    legs, arms = {}, {}
    for side, sign, hip, knee, shoulder, elbow in (("right", 1, 16, 20, 25, 29), ("left", -1, 30, 34, 39, 43)):
        first, thigh = at(root, pelvis, (*HIP[:2], sign * HIP[2])), pelvis @ turn(hip)
        second = at(first, thigh, KNEE)
        legs[side] = [first, second, at(second, thigh @ hinge(knee), ANKLE)]
        first, upper = at(chest, trunk, (*SHOULDER[:2], sign * SHOULDER[2])), trunk @ turn(shoulder)
        second = at(first, upper, ELBOW)
        arms[side] = [first, second, at(second, upper @ hinge(elbow), WRIST)]
    return xp.stack([root, *legs["right"], *legs["left"], chest, neck, head, *arms["left"], *arms["right"]], -2)


# -- cameras


def world_to_camera(x: Array, q: Array, t: Array) -> Array:
    """Points `[..., 3]` in the frame of a camera at `t` whose unit quaternion `q` turns camera to world."""
    return rotate(conjugate(q), x - t)


def camera_to_world(x: Array, q: Array, t: Array) -> Array:
    """The inverse of `world_to_camera`."""
    return rotate(q, x) + t


def view(yaw: Array, pitch: Array) -> Array:
    """How a camera sees the world: a turn by `yaw` about the upward axis, then by `pitch` about the camera's own
    lateral one, `Rx(pitch) Ry(yaw)`; `[...]`, `[...] -> [..., 3, 3]`."""
    return about(0, pitch) @ about(1, yaw)


def degrees(angle: float) -> float:
    """Degrees to radians."""
    return angle * math.pi / 180

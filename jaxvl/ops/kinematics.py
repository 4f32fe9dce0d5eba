"""Rotations, trees of joints, forward kinematics of motion capture, and cameras.

Every function takes NumPy or JAX arrays and answers in kind, traced ones included; none imports JAX itself, so that
readers and synthetic worlds, which run in processes without it, use the same code. Lengths are metres, angles radians,
axes right-handed with y up; quaternions are `(w, x, y, z)`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any
"""NumPy's or JAX's."""
Parts = Sequence[Array]
"""Components of vectors or quaternions, each an array of its own."""

SERIES = 1e-6
"""Angle below which an axis-angle rotation is taken from its series."""


def like(x: Array) -> Any:
    """The namespace (`numpy` or `jax.numpy`) of an array."""
    return x.__array_namespace__()


# -- rotations


def components(x: Array) -> tuple[Array, ...]:
    """Of arrays `[..., C]` their C components `[...]`."""
    return tuple(x[..., i] for i in range(x.shape[-1]))


def cross_of(a: Parts, b: Parts) -> Parts:
    """The cross product of two vectors, each given by its three components."""
    (x, y, z), (u, v, w) = a, b
    return y * w - z * v, z * u - x * w, x * v - y * u


def rotate_of(q: Parts, v: Parts) -> Parts:
    """`rotate` of components: four of a quaternion, three of a vector. Arrays whose last axis is a long one, as that of
    many poses, are computed on in this form: one that ends in 3 or 4 fills rows of 128 on TPU, and no vector on CPU."""
    w, *u = q
    once = cross_of(u, v)
    return tuple(x + 2 * (w * a + b) for x, a, b in zip(v, once, cross_of(u, once)))


def compose_of(a: Parts, b: Parts) -> Parts:
    """`compose` of the four components each."""
    (w, *u), (s, *v) = a, b
    vector = (w * y + s * x + c for x, y, c in zip(u, v, cross_of(u, v)))
    return w * s - dot_of(u, v), *vector


def rotate(q: Array, v: Array) -> Array:
    """`v + 2 (w (u x v) + u x (u x v))`: unit quaternions `[..., 4]` on vectors `[..., 3]`."""
    return like(q).stack(rotate_of(components(q), components(v)), -1)


def conjugate(q: Array) -> Array:
    """The inverse of unit quaternions `[..., 4]`."""
    return q * like(q).asarray([1.0, -1.0, -1.0, -1.0], dtype=q.dtype)


def compose(a: Array, b: Array) -> Array:
    """The quaternion of "first `b`, then `a`": Hamilton's product of `[..., 4]` and `[..., 4]`."""
    return like(a).stack(compose_of(components(a), components(b)), -1)


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


def axis_angle_quaternion_of(omega: Parts) -> Parts:
    """`axis_angle_quaternion` of components."""
    xp, square = like(omega[0]), dot_of(omega, omega)
    small = square < SERIES**2
    angle = xp.sqrt(xp.where(small, xp.ones_like(square), square))
    part = xp.where(small, 0.5 - square / 48, xp.sin(angle / 2) / angle)
    return xp.where(small, 1 - square / 8, xp.cos(angle / 2)), *(part * x for x in omega)


def axis_angle_quaternion(omega: Array) -> Array:
    """The same rotation as a unit quaternion, `(cos(a/2), sin(a/2) w/a)`: `[..., 3] -> [..., 4]`."""
    return like(omega).stack(axis_angle_quaternion_of(components(omega)), -1)


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


def carried_of(turns: Sequence[Parts | None], parents: Sequence[int]) -> list[Parts | None]:
    """Rotations of each joint with those above it, `D_j = D_parent(j) R_j`, so that a rotation carries the whole limb
    below: components of quaternions, one set for each joint, None for one that does not turn; in kind. A parent comes
    before its children."""
    done: list[Parts | None] = []
    for own, parent in zip(turns, parents, strict=True):
        above = done[parent] if parent >= 0 else None
        done.append(above if own is None else own if above is None else compose_of(above, own))
    return done


def joints_of(b: Sequence[Parts], parents: Sequence[int]) -> list[Parts]:
    """`joints` of components, one set for each joint. A parent comes before its children."""
    done: list[Parts] = []
    for own, parent in zip(b, parents, strict=True):
        done.append(tuple(x + y for x, y in zip(done[parent], own)) if parent >= 0 else tuple(own))
    return done


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
    return like(v).stack(unit_of(components(v), floor), -1)


def unit_of(v: Parts, floor: float = 0.0) -> Parts:
    """`unit` of components."""
    xp = like(v[0])
    length = xp.maximum(xp.sqrt(dot_of(v, v)), xp.asarray(floor, dtype=v[0].dtype))
    return tuple(x / length for x in v)


def dot_of(a: Parts, b: Parts) -> Array:
    """The scalar product of two vectors, each given by its components."""
    return functools.reduce(operator.add, (x * y for x, y in zip(a, b, strict=True)))


def less_of(a: Parts, b: Parts) -> Parts:
    """`a - b` of components."""
    return tuple(x - y for x, y in zip(a, b, strict=True))


def torso_frame(hip: Array, thorax: Array, left: Array, right: Array, floor: float = 0.0) -> Array:
    """Rows: to the body's left (right to left shoulder or hip, orthogonal to the torso), up (hip to thorax), forward
    (left x up); four points `[..., 3]` -> `[..., 3, 3]`. floor: least length that a direction is divided by."""
    xp = like(hip)
    rows = torso_frame_of(*(components(x) for x in (hip, thorax, left, right)), floor)
    return xp.stack([xp.stack(row, -1) for row in rows], -2)


def torso_frame_of(hip: Parts, thorax: Parts, left: Parts, right: Parts, floor: float = 0.0) -> tuple[Parts, ...]:
    """`torso_frame` of components."""
    up, across = unit_of(less_of(thorax, hip), floor), less_of(left, right)
    along = dot_of(across, up)
    lateral = unit_of(tuple(x - along * y for x, y in zip(across, up)), floor)
    return lateral, up, cross_of(lateral, up)


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

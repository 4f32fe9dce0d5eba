"""Which poses a human body can take: limits of joints as tests on directions of bones in the frame of the torso.

Joints are those of `jaxvl.data.skeletons.H36M16`; NumPy or JAX arrays. The table is a choice of the reconstruction; of
real motion capture it passes 67 to 100 % of the frames of each of twenty clips, all of walking, punching and dancing.
"""

from __future__ import annotations

from jaxvl.ops import kinematics
from jaxvl.ops.kinematics import Array, degrees, like, unit

FLOOR = 1e-9
"""Least length that a direction is divided by."""
FLEXION = (degrees(-45), degrees(135))
ABDUCTION = (degrees(-35), degrees(75))
KNEE, ELBOW, NECK, SPINE = degrees(155), degrees(150), degrees(60), degrees(60)
HINGE = -0.17
"""Least (thigh x shank) . h, h the lateral axis made orthogonal to the thigh: knees do not bend forward."""
ARM_BACK, ARM_ACROSS = -0.85, -0.75
"""An upper arm points no further back, and no further to the other side."""
LEGS, ARMS = ((1, 5, 6), (-1, 2, 3)), ((1, 11, 12), (-1, 14, 15))
"""Side (left is +1) and the joints at the lower ends of the two bones."""


def within_limits(x: Array) -> Array:
    """Joints `[..., 16, 3]`, any position and orientation -> bool `[...]`: all tests of the table hold. False where a
    value is not finite."""
    xp = like(x)
    bone = lambda joint, parent: unit(x[..., joint, :] - x[..., parent, :], FLOOR)  # noqa: E731
    dot = lambda a, b: (a * b).sum(-1)  # noqa: E731
    angle = lambda a, b: xp.arccos(xp.clip(dot(a, b), -1, 1))  # noqa: E731
    frame = kinematics.torso_frame(x[..., 0, :], x[..., 8, :], x[..., 4, :], x[..., 1, :], FLOOR)
    local = lambda v: (frame * v[..., None, :]).sum(-1)  # noqa: E731
    good = (angle(bone(9, 8), bone(8, 7)) <= NECK) & (angle(bone(7, 0), bone(8, 7)) <= SPINE)
    lateral = xp.asarray([1.0, 0.0, 0.0], dtype=x.dtype)
    for side, knee, foot in LEGS:
        thigh, shank = local(bone(knee, knee - 1)), local(bone(foot, knee))
        flexion = xp.arctan2(thigh[..., 2], -thigh[..., 1])
        abduction = xp.arcsin(xp.clip(side * thigh[..., 0], -1, 1))
        good &= (flexion >= FLEXION[0]) & (flexion <= FLEXION[1])
        good &= (abduction >= ABDUCTION[0]) & (abduction <= ABDUCTION[1])
        good &= angle(thigh, shank) <= KNEE
        axis = unit(lateral - thigh[..., :1] * thigh, FLOOR)
        good &= dot(xp.linalg.cross(thigh, shank), axis) >= HINGE
    for side, elbow, wrist in ARMS:
        upper, lower = local(bone(elbow, elbow - 1)), local(bone(wrist, elbow))
        good &= (upper[..., 2] >= ARM_BACK) & (side * upper[..., 0] >= ARM_ACROSS)
        good &= angle(upper, lower) <= ELBOW
    return good


def everything(x: Array) -> Array:
    """No limits: True for each of joints `[..., 16, 3]`."""
    return like(x).ones(x.shape[:-2], dtype=bool)


LIMITS = {"table": within_limits, "none": everything}

"""Which poses a human body can take: limits of joints as tests on directions of bones in the frame of the torso.

Joints are those of `jaxvl.data.skeletons.H36M16`; NumPy or JAX arrays. The table is a choice of the reconstruction; of
real motion capture it passes 67 to 100 % of the frames of each of twenty clips, all of walking, punching and dancing.
"""

from __future__ import annotations

import numpy as np

from jaxvl.data.skeletons import H36M16
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
SIDES = (1.0, -1.0)
"""Left, right."""
THIGHS, SHANKS, UPPER_ARMS, FOREARMS = (np.array(pair) for pair in ((5, 2), (6, 3), (11, 14), (12, 15)))
"""Joints at the lower ends of these bones."""
BENDING, BENDS = np.array([9, 7]), (NECK, SPINE)
"""Of the bones to head and spine, how far they turn from the one to the thorax."""


def within_limits(x: Array) -> Array:
    """Joints `[..., 16, 3]`, any position and orientation -> bool `[...]`: all tests of the table hold. False where a
    value is not finite."""
    xp = like(x)
    frame = kinematics.torso_frame(x[..., 0, :], x[..., 8, :], x[..., 4, :], x[..., 1, :], FLOOR)
    bone = unit(kinematics.bones(x, H36M16.parents), FLOOR)
    bone = (frame[..., None, :, :] * bone[..., None, :]).sum(-1)  # in the frame of the torso
    dot = lambda a, b: (a * b).sum(-1)  # noqa: E731
    angle = lambda a, b: xp.arccos(xp.clip(dot(a, b), -1, 1))  # noqa: E731
    side, lateral = (xp.asarray(values, dtype=x.dtype) for values in (SIDES, (1.0, 0.0, 0.0)))
    thigh, shank, upper, lower = (bone[..., joints, :] for joints in (THIGHS, SHANKS, UPPER_ARMS, FOREARMS))
    flexion = xp.arctan2(thigh[..., 2], -thigh[..., 1])
    abduction = xp.arcsin(xp.clip(side * thigh[..., 0], -1, 1))
    axis = unit(lateral - thigh[..., :1] * thigh, FLOOR)
    good = (flexion >= FLEXION[0]) & (flexion <= FLEXION[1])
    good &= (abduction >= ABDUCTION[0]) & (abduction <= ABDUCTION[1])
    good &= (angle(thigh, shank) <= KNEE) & (dot(xp.linalg.cross(thigh, shank), axis) >= HINGE)
    good &= (upper[..., 2] >= ARM_BACK) & (side * upper[..., 0] >= ARM_ACROSS) & (angle(upper, lower) <= ELBOW)
    return (good & (angle(bone[..., BENDING, :], bone[..., 8:9, :]) <= xp.asarray(BENDS, dtype=x.dtype))).all(-1)


def everything(x: Array) -> Array:
    """No limits: True for each of joints `[..., 16, 3]`."""
    return like(x).ones(x.shape[:-2], dtype=bool)


LIMITS = {"table": within_limits, "none": everything}

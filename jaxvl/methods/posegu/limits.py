"""Which poses a human body can take: limits of joints as tests on directions of bones in the frame of the torso.

Joints are those of `jaxvl.data.skeletons.H36M16`; NumPy or JAX arrays. The table is a choice of the reconstruction; of
real motion capture it passes 67 to 100 % of the frames of each of twenty clips, all of walking, punching and dancing.
"""

from __future__ import annotations

from jaxvl.data.skeletons import H36M16
from jaxvl.ops import kinematics
from jaxvl.ops.kinematics import Array, components, cross_of, degrees, dot_of, less_of, like, unit_of

FLOOR = 1e-9
"""Least length that a direction is divided by."""
FLEXION = (degrees(-45), degrees(135))
ABDUCTION = (degrees(-35), degrees(75))
KNEE, ELBOW, NECK, SPINE = degrees(155), degrees(150), degrees(60), degrees(60)
HINGE = -0.17
"""Least (thigh x shank) . h, h the lateral axis made orthogonal to the thigh: knees do not bend forward."""
ARM_BACK, ARM_ACROSS = -0.85, -0.75
"""An upper arm points no further back, and no further to the other side."""
SIDES = ((1.0, (5, 6, 11, 12)), (-1.0, (2, 3, 14, 15)))
"""Left, right: the joints at the lower ends of thigh, shank, upper arm and forearm."""
BENDS = ((9, NECK), (7, SPINE))
"""Of the bones to head and spine, how far they turn at most from the one to the thorax."""


def within_limits(x: Array) -> Array:
    """Joints `[..., 16, 3]`, any position and orientation -> bool `[...]`: all tests of the table hold. False where a
    value is not finite."""
    xp = like(x)
    joint = lambda j: components(x[..., j, :])  # noqa: E731
    frame = kinematics.torso_frame_of(*(joint(j) for j in (0, 8, 4, 1)), FLOOR)

    def bone(j):  # its direction, in the frame of the torso
        own = unit_of(less_of(joint(j), joint(H36M16.parents[j])), FLOOR)
        return tuple(dot_of(axis, own) for axis in frame)

    angle = lambda a, b: xp.arccos(xp.clip(dot_of(a, b), -1, 1))  # noqa: E731
    chest, good = bone(8), xp.isfinite(x[..., 0, 0])
    for j, largest in BENDS:
        good &= angle(bone(j), chest) <= largest
    for side, (thigh, shank, upper, lower) in SIDES:
        thigh, shank, upper, lower = bone(thigh), bone(shank), bone(upper), bone(lower)
        flexion, abduction = xp.arctan2(thigh[2], -thigh[1]), xp.arcsin(xp.clip(side * thigh[0], -1, 1))
        across = unit_of((1 - thigh[0] * thigh[0], -thigh[0] * thigh[1], -thigh[0] * thigh[2]), FLOOR)
        good &= (flexion >= FLEXION[0]) & (flexion <= FLEXION[1])
        good &= (abduction >= ABDUCTION[0]) & (abduction <= ABDUCTION[1])
        good &= (angle(thigh, shank) <= KNEE) & (dot_of(cross_of(thigh, shank), across) >= HINGE)
        good &= (upper[2] >= ARM_BACK) & (side * upper[0] >= ARM_ACROSS) & (angle(upper, lower) <= ELBOW)
    return good


def everything(x: Array) -> Array:
    """No limits: True for each of joints `[..., 16, 3]`."""
    return like(x).ones(x.shape[:-2], dtype=bool)


LIMITS = {"table": within_limits, "none": everything}

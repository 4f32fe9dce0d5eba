"""PoseGU's generator written again in numpy and scipy, from the formulas: matrices where jaxvl has quaternions, loops
where it has arrays, quadrature where it has closed forms."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.spatial.transform import Rotation

PARENT = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14]
CHILD = [0, 7, 8, 9, 2, 3, 5, 6, 11, 12, 14, 15]
GROUP = [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8]
SIGMA = np.radians([40, 10, 10, 15, 30, 30, 30, 30, 45, 45, 45, 45])


def act(x, omega, ratio):
    """One seed `[16, 3]`, rotation vectors `[12, 3]`, ratios `[9]` -> pose `[16, 3]`, joint 0 at the origin."""
    own = [np.eye(3)] * 16
    for k, joint in enumerate(CHILD):
        own[joint] = Rotation.from_rotvec(omega[k]).as_matrix()
    turned, out = [own[0]], np.zeros((16, 3))
    for j in range(1, 16):
        p = PARENT[j]
        turned.append(turned[p] @ own[j])
        out[j] = out[p] + ratio[GROUP[j - 1]] * turned[j] @ (x[j] - x[p])
    return out


def log_p(omega, mix=((1.0, 1.0),)):
    """Of one action `[12, 3]`: log of the sum over components of the product of truncated normal densities."""
    total = []
    for share, factor in mix:
        each = np.log(share)
        for k, sigma in enumerate(SIGMA):
            limit = min(3 * sigma, np.pi)
            normal = stats.multivariate_normal(np.zeros(3), (factor * sigma) ** 2 * np.eye(3))
            each += normal.logpdf(omega[k]) - np.log(stats.chi(3).cdf(limit / (factor * sigma)))
        total.append(each)
    return np.logaddexp.reduce(total)


def log_q(omega):
    """Of one action: uniform rotations of up to the largest angles."""
    out = 0.0
    for k, sigma in enumerate(SIGMA):
        limit, angle = min(3 * sigma, np.pi), np.linalg.norm(omega[k])
        grid = np.linspace(0, limit, 20001)
        volume = np.trapezoid(4 * np.pi * (1 - np.cos(grid)), grid)
        out += np.log((1 - np.cos(angle)) / angle**2) - np.log(volume)
    return out


def within_limits(x):
    """Of one pose `[16, 3]`: the table of limits, test by test."""
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    bone = lambda j: unit(x[j] - x[PARENT[j]])  # noqa: E731
    between = lambda a, b: np.degrees(np.arccos(np.clip(a @ b, -1, 1)))  # noqa: E731
    y = unit(x[8] - x[0])
    hips = x[4] - x[1]
    left = unit(hips - (hips @ y) * y)
    frame = np.stack([left, y, np.cross(left, y)])
    checks = [between(bone(9), bone(8)) <= 60, between(bone(7), bone(8)) <= 60]
    for s, a, b in ((1, 5, 6), (-1, 2, 3)):
        thigh, shank = frame @ bone(a), frame @ bone(b)
        flexion, abduction = np.degrees(np.arctan2(thigh[2], -thigh[1])), np.degrees(np.arcsin(s * thigh[0]))
        hinge = np.array([1.0, 0, 0]) - thigh[0] * thigh
        checks += [-45 <= flexion <= 135, -35 <= abduction <= 75, between(thigh, shank) <= 155]
        checks.append(np.cross(thigh, shank) @ unit(hinge) >= -0.17)
    for s, a, b in ((1, 11, 12), (-1, 14, 15)):
        upper, lower = frame @ bone(a), frame @ bone(b)
        checks += [upper[2] >= -0.85, s * upper[0] >= -0.75, between(upper, lower) <= 150]
    return all(checks)

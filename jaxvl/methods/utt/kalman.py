"""The Kalman filter of the `byte` tracker: centre, aspect ratio w / h, height, and their velocities, at a constant
velocity (DeepSORT, arXiv 1703.07402). Numpy, float64."""

from __future__ import annotations

import numpy as np

POSITION, VELOCITY = 1 / 20, 1 / 160
STEP = np.eye(8) + np.eye(8, k=4)
SEEN = np.eye(4, 8)

State = tuple[np.ndarray, np.ndarray]
"""Mean `[8]` and covariance `[8, 8]`."""


def born(measured: np.ndarray) -> State:
    """The state of an object first seen at `measured` (cx, cy, w / h, h)."""
    h = measured[3]
    wide, fast = 2 * POSITION * h, 10 * VELOCITY * h
    std = np.array([wide, wide, 1e-2, wide, fast, fast, 1e-5, fast])
    return np.concatenate([measured, np.zeros(4)]), np.diag(std**2)


def predict(state: State) -> State:
    """One frame later."""
    mean, covariance = state
    h = mean[3]
    std = np.array([POSITION * h, POSITION * h, 1e-2, POSITION * h, VELOCITY * h, VELOCITY * h, 1e-5, VELOCITY * h])
    return STEP @ mean, STEP @ covariance @ STEP.T + np.diag(std**2)


def update(state: State, measured: np.ndarray) -> State:
    """With a measurement `[4]`; its noise goes by the predicted height."""
    mean, covariance = state
    h = mean[3]
    noise = np.diag(np.array([POSITION * h, POSITION * h, 1e-1, POSITION * h]) ** 2)
    spread = SEEN @ covariance @ SEEN.T + noise
    gain = np.linalg.solve(spread, SEEN @ covariance).T
    return mean + gain @ (measured - SEEN @ mean), covariance - gain @ spread @ gain.T


def measured_of(box: np.ndarray) -> np.ndarray:
    """Corners -> (cx, cy, w / h, h)."""
    w, h = box[2] - box[0], box[3] - box[1]
    return np.array([box[0] + w / 2, box[1] + h / 2, w / h, h], np.float64)


def box_of(state: State) -> np.ndarray:
    """Corners of a state."""
    x, y, ratio, h = state[0][:4]
    return np.array([x - ratio * h / 2, y - h / 2, x + ratio * h / 2, y + h / 2])

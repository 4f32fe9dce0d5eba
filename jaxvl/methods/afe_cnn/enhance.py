"""What enhances an action before it is a picture: differences in time, directions of bones, and what the gates read.

AFE-CNN names four enhancers (key joint, bone vector, key frame, temporal); their equations are the reconstruction's.
Pure functions of joints `[N, T, J, 3]`, float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.ops import kinematics

EPSILON = 1e-6
GATES = ("relative", "absolute")


def differences(x: jax.Array, span: int = 4) -> tuple[jax.Array, jax.Array]:
    """Temporal enhancement: `x_{t+1} - x_t`, 0 in the last frame, and `x_{min(t+span, T-1)} - x_t`."""
    frames = x.shape[1]
    step = jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1) - x
    return step, x[:, np.minimum(np.arange(frames) + span, frames - 1)] - x


def directions(x: jax.Array, parents: Sequence[int]) -> jax.Array:
    """Bone-vector enhancement: `b / (|b| + 1e-6)`, b from parent to joint; 0 for the root. Free of the body's size."""
    b = kinematics.bones(x, parents)
    return b / (_length(b)[..., None] + EPSILON)


def streams(x: jax.Array, parents: Sequence[int], bve: bool = True, te: bool = True, span: int = 4) -> jax.Array:
    """Coordinates, directions of bones (`bve`), both differences (`te`) as channels, `[N, T, J, C]` in this order."""
    parts = [x]
    if bve:
        parts.append(directions(x, parents))
    if te:
        parts += differences(x, span)
    return jnp.concatenate(parts, axis=-1)


def descriptors(x: jax.Array, kind: str = "relative") -> tuple[jax.Array, jax.Array]:
    """What the gates read: `(of joints [N, J, 3], of frames [N, T, 3])`.

    With v the length of a step and e the distance from the clip's mean: mean and largest v over time and mean e of each
    joint; mean and largest v over joints and mean e of each frame. 'relative': each divided by (its mean over joints,
    or frames, + 1e-6), minus 1, so that neither the body's size nor its speed counts. 'absolute' is the design that was
    rejected: `log(. + 1e-6)`. No gradient.
    """
    x = jax.lax.stop_gradient(x)
    v = _length(differences(x)[0])
    e = _length(x - x.mean(1, keepdims=True))
    of_joints = jnp.stack([v.mean(1), v.max(1), e.mean(1)], axis=-1)
    of_frames = jnp.stack([v.mean(2), v.max(2), e.mean(2)], axis=-1)
    if kind == "absolute":
        return jnp.log(of_joints + EPSILON), jnp.log(of_frames + EPSILON)
    if kind != "relative":
        raise InputError(f"config.model.gates: {kind!r} is none of {', '.join(GATES)}")
    return _relative(of_joints), _relative(of_frames)


def gate(value: jax.Array, kind: str = "relative", reach: float = 0.5) -> jax.Array:
    """`1 + reach · tanh(.)`; of 'absolute' `2 · sigmoid(.)`. Both are 1 at 0."""
    return 2 * jax.nn.sigmoid(value) if kind == "absolute" else 1 + reach * jnp.tanh(value)


def encode_uint8(x: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """`clip(round(255 (x - low) / (high - low)), 0, 255)` as uint8, half to even: a picture for display, or for
    networks that read pictures. low, high: of the data set; by default those of x itself. Raises InputError where they
    do not ascend."""
    x = np.asarray(x, np.float64)
    low, high = (float(x.min()) if low is None else low), (float(x.max()) if high is None else high)
    if not low < high:
        if low == high:
            return np.zeros(x.shape, np.uint8)
        raise InputError(f"encode_uint8: the range {low:g} to {high:g} does not ascend")
    return np.clip(np.round(255 * (x - low) / (high - low)), 0, 255).astype(np.uint8)


def _length(x: jax.Array) -> jax.Array:
    """The norm, whose gradient at 0 is 0 and not NaN: the root's bone and the last frame's step are exactly 0."""
    square = (x * x).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _relative(x: jax.Array) -> jax.Array:
    return x / (x.mean(1, keepdims=True) + EPSILON) - 1

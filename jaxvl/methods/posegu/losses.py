"""How far a predicted pose is from the true one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxvl.core.precision import loss_term


@loss_term("pose")
def pose_losses(predicted: jax.Array, target: jax.Array, kind: str = "mse") -> jax.Array:
    """Poses `[n, J, 3]` in metres, `target` absolute and rooted here at joint 0 -> `[n]` float32.

    'mse': mean over joints and coordinates of the squared error, square metres; 'mpjpe': mean over joints of the
    distance, metres, with slope 0 where it is 0.
    """
    error = (predicted - (target - target[:, :1])).astype(jnp.float32)
    square = error * error
    if kind == "mse":
        return square.mean((1, 2))
    total = square.sum(-1)
    there = total > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, total, 1.0)), 0.0).mean(1)

"""Learning rates that change once an epoch."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def falling_by_epoch(lr: float, total_steps: int, epochs: int):
    """`step -> lr (1 - e / (epochs + 1))` in epoch e = 0, 1, ... of `epochs` that last equally long (PoseAug's)."""

    def rate(step: jax.Array) -> jax.Array:
        epoch = jnp.minimum(jnp.floor(step * (epochs / total_steps)), epochs - 1)
        return lr * (1 - epoch / (epochs + 1))

    return rate

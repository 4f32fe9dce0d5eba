"""Learning rates that change once an epoch."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def falling_by_epoch(lr: float, total_steps: int, epochs: int) -> Callable[[jax.Array], jax.Array]:
    """`step -> lr (1 - e / (epochs + 1))` in epoch e = 0, 1, ... of `epochs` that last equally long (PoseAug's);
    updates that are left over belong to the last one."""

    def rate(step: jax.Array) -> jax.Array:
        epoch = jnp.minimum(step // max(total_steps // epochs, 1), epochs - 1)
        return lr * (1 - epoch / (epochs + 1))

    return rate

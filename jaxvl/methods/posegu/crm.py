"""Counterfactual risk minimisation: weights that make a loss over generated poses one over the target's, and an
objective that also looks at how much the weighted losses vary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.core.precision import loss_term
from jaxvl.methods.posegu.recipe import WEIGHTINGS

FLOOR = 1e-12
"""Square metres squared, inside of the root of the penalty, whose slope would be infinite at 0."""


def weights(
    log_p: jax.Array,
    log_q: jax.Array,
    mode: str = "default",
    alpha: float = 1 / 12,
    clip_m: float = 10.0,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Weights of a pool of generated poses from the log densities of generator and target, any shape, float32.

    With `z = alpha (log q - log p)`:
    'ips': `exp(log q - log p)`, the unbiased estimator (alpha is 1, nothing is clipped);
    'clipped': `min(M, exp z)`; 'snips': `exp z` divided by its mean over the pool; 'default': that, then `min(M, .)`.
    Poses that are not `valid` have weight 0 and no part in maximum and mean. No gradient passes.
    """
    if mode not in WEIGHTINGS:
        raise InputError(f"config.model.crm.mode: {mode!r} is none of {', '.join(WEIGHTINGS)}")
    valid = jnp.ones(log_p.shape, bool) if valid is None else valid
    z = jnp.where(valid, (1.0 if mode == "ips" else alpha) * (log_q - log_p), -jnp.inf)
    if mode in ("snips", "default"):
        z = z - jnp.where(valid.any(), z.max(), 0.0)
    w = jnp.where(valid, jnp.exp(z), 0.0)
    if mode in ("snips", "default"):
        w = w * (valid.sum() / jnp.maximum(w.sum(), jnp.finfo(w.dtype).tiny))
    if mode in ("clipped", "default"):
        w = jnp.minimum(clip_m, w)
    return jax.lax.stop_gradient(w.astype(jnp.float32))


def effective_share(w: jax.Array) -> jax.Array:
    """Effective sample size `(sum w)^2 / sum w^2` of weights of any shape, as a share of how many are above 0."""
    w = w / jnp.maximum(w.max(), jnp.finfo(w.dtype).tiny)
    return w.sum() ** 2 / jnp.maximum((w * w).sum() * (w > 0).sum(), 1.0)


@loss_term("risk")
def risk(
    losses: jax.Array, w: jax.Array, lambda_var: float = 0.1, counted: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(objective, mean, penalty)` of losses and weights `[n]`, with `u = w * loss`:

    `mean(u) + lambda sqrt(V / n + 1e-12)`, V their variance (over n - 1), in two passes, over the whole batch on
    however many devices. counted: bool `[n]`, the rows that there are; n is their number.
    """
    counted = jnp.ones(losses.shape, bool) if counted is None else counted
    u = jnp.where(counted, w * losses, 0.0)
    n = jnp.maximum(counted.sum(), 1).astype(u.dtype)
    mean = u.sum() / n
    variance = jnp.where(counted, (u - mean) ** 2, 0.0).sum() / jnp.maximum(n - 1, 1)
    penalty = lambda_var * jnp.sqrt(variance / n + FLOOR)
    return mean + penalty, mean, penalty

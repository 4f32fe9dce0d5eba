"""Losses that are textbook operations, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

EXCLUDED_LOGIT = -1e9


def symmetric_infonce(sim: jax.Array, same_id: jax.Array | None = None) -> jax.Array:
    """Symmetric InfoNCE: mean of the row-wise and column-wise cross entropies with the diagonal as target.

    `½ [mean_i −log softmax_row(S)_ii + mean_i −log softmax_col(S)_ii]` (CLIP, arXiv 2103.00020, figure 3).

    Args:
        sim: `[N, N]` logits, already scaled by the temperature.
        same_id: `[N, N]` bool, or `[N]` integer ids; pairs off the diagonal that share an id are left out of
            both denominators instead of counting as negatives. None: every other pair is a negative.
    Returns: scalar float32. `S = c·I` gives `log(1 + (N−1) e^−c)`.
    """
    sim = sim.astype(jnp.float32)
    if same_id is not None:
        if same_id.ndim == 1:
            same_id = same_id[:, None] == same_id[None, :]
        others = same_id.astype(bool) & ~jnp.eye(sim.shape[0], dtype=bool)
        sim = jnp.where(others, EXCLUDED_LOGIT, sim)
    diagonal = jnp.diagonal(sim)
    rows = jax.nn.logsumexp(sim, axis=1) - diagonal
    columns = jax.nn.logsumexp(sim, axis=0) - diagonal
    return 0.5 * (rows.mean() + columns.mean())

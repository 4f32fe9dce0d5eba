"""Similarity and objective of CenterCLIP: mean-pooled segments (CLIP4Clip's meanP) and symmetric InfoNCE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxvl.core.precision import loss_term
from jaxvl.ops.losses import symmetric_infonce
from jaxvl.ops.masking import l2_normalize, unit_mean

LOGIT_SCALE_RANGE = (0.1, 4.6052)


def pool_segments(video: jax.Array, mask: jax.Array) -> jax.Array:
    """Unit mean of the unit features of the valid segments: `[B, S, E]`, `[B, S]` -> `[B, E]` float32.

    A video without a valid segment gives 0.
    """
    return unit_mean(video, mask)


def mean_pool_similarity(text: jax.Array, video: jax.Array, mask: jax.Array, logit_scale: jax.Array) -> jax.Array:
    """`exp(logit_scale) · t̂ p̂ᵀ` in float32: text `[Bt, E]`, video `[Bv, S, E]`, mask `[Bv, S]` -> `[Bt, Bv]`.

    p̂ is `pool_segments` (CLIP4Clip, arXiv 2104.08860, parameter-free type).
    """
    cosine = jnp.einsum(
        "te,ve->tv", l2_normalize(text), pool_segments(video, mask), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.exp(jnp.asarray(logit_scale, jnp.float32)) * cosine


@loss_term("contrast")
def retrieval_loss(
    text: jax.Array,
    video: jax.Array,
    mask: jax.Array,
    logit_scale: jax.Array,
    same_id: jax.Array | None = None,
) -> jax.Array:
    """`½ (CE_rows + CE_cols)` of `mean_pool_similarity` over the global batch; rows are texts, gold on the diagonal.

    text `[B, E]`, video `[B, S, E]`, mask `[B, S]`; `same_id`: see `symmetric_infonce`. Scalar float32.
    """
    return symmetric_infonce(mean_pool_similarity(text, video, mask, logit_scale), same_id)


def clamp_logit_scale(
    params: Mapping[str, Any], lo: float = LOGIT_SCALE_RANGE[0], hi: float = LOGIT_SCALE_RANGE[1]
) -> dict[str, Any]:
    """Params with `logit_scale` clipped to [lo, hi]; for after the update (in the forward pass it would kill the
    gradient at the bound)."""
    return {**params, "logit_scale": jnp.clip(params["logit_scale"], lo, hi)}


def scale_gradient(x: jax.Array, scale: float) -> jax.Array:
    """x unchanged, its gradient times `scale` (the published multi-GPU runs used 1/GPUs below the features)."""
    still = jax.lax.stop_gradient(x)
    return still + scale * (x - still)

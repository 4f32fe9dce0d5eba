"""Reductions that honour a mask, and normalisation that survives zero vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Mean of `x` over `axis` where `mask` is true, float32; 0 where nothing is.

    `mask` is broadcast against `x` from the left: `[B, S]` fits `[B, S, E]`. Masked entries may hold anything
    finite or not.
    """
    mask = mask.astype(bool).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    total = jnp.where(mask, x.astype(jnp.float32), 0.0).sum(axis)
    count = mask.astype(jnp.float32).sum(axis)
    return total / jnp.maximum(count, 1.0)


def l2_normalize(x: jax.Array, axis: int = -1, eps: float = 1e-12) -> jax.Array:
    """`x · rsqrt(max(Σ x², eps))` in float32: unit length, and 0 (not NaN) for a zero vector."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis, keepdims=True), eps))


def unit_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Unit mean of the unit vectors `x [..., S, E]` where `mask [..., S]` is true: `[..., E]` float32, 0 where none is.

    Frames of a video (CLIP4Clip's meanP), or the prompts of a class in zero-shot classification (CLIP, arXiv
    2103.00020, section 3.1.4).
    """
    return l2_normalize(masked_mean(l2_normalize(x), mask, axis=x.ndim - 2))

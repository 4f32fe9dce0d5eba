"""Multi-head attention in the parameter layout of CLIP's canonical tree.

Kernels are `[W, H, D]` for query, key and value and `[H, D, W]` for the output, the layout of
`flax.linen.MultiHeadDotProductAttention`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

ATTENTION_IMPLEMENTATIONS = ("einsum", "xla", "cudnn")
MASKED_LOGIT = -1e9  # finite, so that a row with no valid key stays finite


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "einsum",
    dropout: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention with a float32 softmax.

    Args:
        query, key, value: `[B, n, H, D]`; scale `D^-0.5` is applied here.
        key_mask: `[B, n]` bool, False keys are not attended to.
        causal: position i sees positions j <= i only.
        implementation: 'einsum' (own), 'xla' or 'cudnn' (both `jax.nn.dot_product_attention`; cudnn is
            flash attention: NVIDIA GPU and bfloat16 only, never materialises `[B, H, n, n]`).
        dropout, rng: rate and key of dropout on the attention weights ('einsum' alone); no key: none.
    Returns: `[B, n, H, D]` in the dtype of `query`.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise InputError(
            f"attention: unknown implementation {implementation!r}; use one of {ATTENTION_IMPLEMENTATIONS}"
        )
    if implementation != "einsum":
        if dropout and rng is not None:
            raise InputError(f"attention: {implementation!r} has no dropout of attention weights; use 'einsum'")
        mask = None if key_mask is None else key_mask[:, None, None, :].astype(bool)
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation=implementation
        )
    length = query.shape[1]
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    if causal:
        visible = jnp.tril(jnp.ones((length, key.shape[1]), bool))
        logits = jnp.where(visible, logits, MASKED_LOGIT)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :].astype(bool), logits, MASKED_LOGIT)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    if dropout and rng is not None:
        kept = jax.random.bernoulli(rng, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class MultiHeadAttention(nn.Module):
    """Self-attention `[B, n, W] -> [B, n, W]` with biases everywhere.

    Fields: `heads` H (W must be divisible); `in_std`, `out_std` standard deviations of the normal initialisers
    of the input and output projections; `dtype` of the matmuls; `causal`; `implementation` as in
    `dot_product_attention`; `dropout` of the attention weights in training (rng stream 'dropout').
    """

    heads: int
    in_std: float
    out_std: float
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    implementation: str = "einsum"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x `[B, n, W]`, key_mask `[B, n]` bool or None -> `[B, n, W]` in `dtype`."""
        width = x.shape[-1]
        if width % self.heads:
            raise InputError(f"attention: width {width} is not divisible by heads {self.heads}")

        def project(name: str) -> jax.Array:
            return nn.DenseGeneral(
                (self.heads, width // self.heads),
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(self.in_std),
                name=name,
            )(x)

        y = dot_product_attention(
            project("query"),
            project("key"),
            project("value"),
            key_mask=key_mask,
            causal=self.causal,
            implementation=self.implementation,
            dropout=self.dropout,
            rng=self.make_rng("dropout") if train and self.dropout else None,
        )
        return nn.DenseGeneral(
            width, axis=(-2, -1), dtype=self.dtype, kernel_init=nn.initializers.normal(self.out_std), name="out"
        )(y)

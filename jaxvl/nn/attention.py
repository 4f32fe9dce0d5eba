"""Multi-head attention in the parameter layout of CLIP's canonical tree.

Kernels are `[W, H, D]` for query, key and value and `[H, D, W]` for the output, the layout of
`flax.linen.MultiHeadDotProductAttention`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

ATTENTION_IMPLEMENTATIONS = ("auto", "einsum", "xla", "cudnn")
MASKED_LOGIT = -1e9  # finite, so that a row with no valid key stays finite


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
    dropout: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention with a float32 softmax.

    Args:
        query, key, value: `[B, n, H, D]`; scale `D^-0.5` is applied here.
        key_mask: `[B, n]` bool, False keys are not attended to.
        causal: position i sees positions j <= i only.
        implementation: 'einsum' (own), 'xla' or 'cudnn' (both `jax.nn.dot_product_attention`; cudnn is flash attention,
            which never materialises `[B, H, n, n]`: NVIDIA GPUs and 16-bit floats only), or 'auto': cudnn where it can
            compute this, as many queries as keys attend and none is masked, else einsum. (With a mask JAX has cuDNN
            compute the gradient of the mask, too, and no GPU has shown here that it does.)
        dropout, rng: rate and key of dropout on the attention weights ('einsum' and 'auto'); no key: none.
    Returns: `[B, n, H, D]` in the dtype of `query`. Raises InputError where 'cudnn' cannot compute it.
    """
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise InputError(
            f"config.model.attention: {implementation!r} is none of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
        )
    dropping = bool(dropout) and rng is not None
    if implementation in ("xla", "cudnn") and dropping:
        raise InputError(
            f"config.model.attention: {implementation!r} has no dropout of attention weights; use 'auto' or 'einsum'"
        )
    own = functools.partial(_einsum, causal=causal, dropout=dropout if dropping else 0.0, rng=rng)
    if implementation == "einsum":
        return own(query, key, value, key_mask)
    library = functools.partial(_library, causal=causal)
    if implementation == "xla":
        return library(query, key, value, key_mask, implementation="xla")
    lack = "it has no dropout of attention weights" if dropping else _lack_of_cudnn(query, key)
    if lack and implementation == "cudnn":
        raise InputError(f"config.model.attention: 'cudnn' cannot be used: {lack}; use 'auto'")
    plain = key_mask is None and query.shape[1] == key.shape[1]
    if lack or (implementation == "auto" and not plain):
        return own(query, key, value, key_mask)
    return _on_cuda(functools.partial(library, implementation="cudnn"), own, query, key, value, key_mask)


def _on_cuda(there: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array], *args: Any) -> jax.Array:
    """A process with a GPU may compile for another platform, too."""
    return jax.lax.platform_dependent(*args, cuda=there, default=elsewhere)


def _lack_of_cudnn(query: jax.Array, key: jax.Array) -> str:
    """Why cuDNN's flash attention cannot compute this here, '' where it can."""
    if not _has_flash_attention():
        return "this process has no NVIDIA GPU of compute capability 8.0 or above"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"its inputs are {query.dtype}, and it computes in 16 bits (config.precision.compute=bfloat16)"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"heads are {query.shape[-1]} wide, and it takes multiples of 8 up to 128"
    if query.shape[1] % 2 or key.shape[1] % 2:
        return f"{query.shape[1]} and {key.shape[1]} tokens; its gradient, as JAX calls it, needs even numbers"
    return ""


def _has_flash_attention() -> bool:
    """Whether this process computes on NVIDIA GPUs for which cuDNN has flash attention (Ampere and later)."""
    if jax.default_backend() != "gpu":
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) >= 8.0  # of AMD: gfx90a


def _library(query, key, value, key_mask, *, causal: bool, implementation: str) -> jax.Array:
    mask = None
    if key_mask is not None:  # cuDNN takes no mask that is still to be broadcast over the queries
        mask = jnp.broadcast_to(
            key_mask[:, None, None, :].astype(bool), (len(key_mask), 1, query.shape[1], key.shape[1])
        )
    return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal, implementation=implementation)


def _einsum(query, key, value, key_mask, *, causal: bool, dropout: float, rng: jax.Array | None) -> jax.Array:
    query = query * query.shape[-1] ** -0.5
    if key_mask is None and not dropout:
        return plain_attention(query, key, value, causal)
    logits = _logits(query, key, causal)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :].astype(bool), logits, MASKED_LOGIT)
    weights = (softmax(logits) if key_mask is None else jax.nn.softmax(logits, axis=-1)).astype(value.dtype)
    if dropout:
        kept = jax.random.bernoulli(rng, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _logits(query: jax.Array, key: jax.Array, causal: bool, precision: Any = None) -> jax.Array:
    """`[B, H, n, n]` float32 of scaled queries."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32, precision=precision)
    if causal:
        visible = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        logits = jnp.where(visible, logits, MASKED_LOGIT)
    return logits


def plain_attention(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> jax.Array:
    """Attention without a mask of keys and without dropout, `[B, n, H, D]` of scaled queries.

    On CPUs the softmax keeps its weights. Elsewhere neither they nor the float32 logits are kept: products of queries
    and keys, which are cheap beside the memory that `[B, H, n, n]` go through, are computed anew for the largest logit,
    for the weights, and in the backward pass; there the mean of the gradient under the weights is the product of the
    output and its gradient (Dao et al., NeurIPS 2022, arXiv 2205.14135, algorithms 1 and 4, in one tile). In 16 bits
    gradients by queries and keys are less exact so, as with flash kernels: up to 1 % off.
    """
    kept = lambda q, k, v: jnp.einsum(  # noqa: E731
        "bhqk,bkhd->bqhd", jax.nn.softmax(_logits(q, k, causal), axis=-1).astype(v.dtype), v
    )
    # as in `products.product`: what is set around a trace is not set around that of its gradient
    precision = jax.config.jax_default_matmul_precision or "default"
    anew = functools.partial(_computed_anew, causal, precision)
    return jax.lax.platform_dependent(query, key, value, cpu=kept, default=anew)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _computed_anew(causal: bool, precision: Any, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return _anew_forward(causal, precision, query, key, value)[0]


def _anew_forward(causal, precision, query, key, value):
    largest = _logits(query, key, causal, precision).max(-1, keepdims=True)
    again, largest = jax.lax.optimization_barrier((query, largest))  # else both products are one, and are written
    weights = jnp.exp(_logits(again, key, causal, precision) - largest)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum(
        "bhqk,bkhd->bqhd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32, precision=precision
    )
    # what is kept is the output as it is returned, not a float32 copy of it
    out = jax.lax.optimization_barrier((out / total.swapaxes(1, 2)).astype(value.dtype))
    return out, (query, key, value, out, largest + jnp.log(total))


def _anew_backward(causal, precision, saved, dout):
    query, key, value, out, total = saved
    query, total, dout = jax.lax.optimization_barrier((query, total, dout))
    product = functools.partial(jnp.einsum, precision=precision)
    weights = jnp.exp(_logits(query, key, causal, precision) - total).astype(value.dtype)
    dweights = product("bqhd,bkhd->bhqk", dout, value, preferred_element_type=jnp.float32)
    mean = (dout.astype(jnp.float32) * out).sum(-1).swapaxes(1, 2)[..., None]
    dlogits = (weights * (dweights - mean)).astype(query.dtype)
    dquery, dkey = product("bhqk,bkhd->bqhd", dlogits, key), product("bhqk,bqhd->bkhd", dlogits, query)
    return dquery, dkey, product("bhqk,bqhd->bkhd", weights, dout)


_computed_anew.defvjp(_anew_forward, _anew_backward)


def softmax(logits: jax.Array) -> jax.Array:
    """`exp(x - ln Σ exp x)` over the last axis, any shape; every row must have a logit that is not masked.

    On CPUs JAX's own. Elsewhere what is kept and read again is the logits and one number a row, and the weights are
    computed anew within each product that reads them, so that they need not be written (cf. Dao et al., NeurIPS 2022,
    arXiv 2205.14135, algorithm 4). Equal up to the rounding of the logarithm, 1e-6 of a weight for logits up to 16.
    """
    own = functools.partial(jax.nn.softmax, axis=-1)
    return jax.lax.platform_dependent(logits, cpu=own, default=_softmax_of_logits)


@jax.custom_vjp
def _softmax_of_logits(logits: jax.Array) -> jax.Array:
    return _softmax_forward(logits)[0]


def _softmax_forward(logits):
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.exp(logits - total), (logits, total)


def _softmax_backward(saved, dy):
    logits, total = saved
    weights = jnp.exp(logits - total)
    return (weights * (dy - (dy * weights).sum(-1, keepdims=True)),)


_softmax_of_logits.defvjp(_softmax_forward, _softmax_backward)


class _Projection(nn.Module):
    """Kernel `[W, H, D]` and bias `[H, D]` of a projection to heads."""

    shape: tuple[int, int]
    std: float

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.normal(self.std), (width, *self.shape))
        return kernel, self.param("bias", nn.initializers.zeros, self.shape)


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
    implementation: str = "auto"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, key_mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x `[B, n, W]`, key_mask `[B, n]` bool or None -> `[B, n, W]` in `dtype`."""
        width = x.shape[-1]
        if width % self.heads:
            raise InputError(f"attention: width {width} is not divisible by heads {self.heads}")

        shape = (self.heads, width // self.heads)
        each = [_Projection(shape, self.in_std, name=name)(width) for name in ("query", "key", "value")]
        kernels, biases = (jnp.stack([p.astype(self.dtype) for p in parts]) for parts in zip(*each, strict=True))
        # one product for all three reads the tokens once, and so does its gradient
        query, key, value = jnp.einsum("bnw,cwhd->cbnhd", x.astype(self.dtype), kernels) + biases[:, None, None]
        y = dot_product_attention(
            query,
            key,
            value,
            key_mask=key_mask,
            causal=self.causal,
            implementation=self.implementation,
            dropout=self.dropout,
            rng=self.make_rng("dropout") if train and self.dropout else None,
        )
        return nn.DenseGeneral(
            width, axis=(-2, -1), dtype=self.dtype, kernel_init=nn.initializers.normal(self.out_std), name="out"
        )(y)

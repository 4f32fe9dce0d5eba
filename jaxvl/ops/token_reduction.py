"""Selecting, shifting and averaging the tokens of a video."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError


def gather_tokens(x: jax.Array, index: jax.Array) -> jax.Array:
    """Tokens `index [..., K]` of `x [..., N, W]` -> `[..., K, W]`; tokens not selected get exactly no gradient."""
    return jnp.take_along_axis(x, index[..., None], axis=-2)


def cluster_mean(x: jax.Array, assign: jax.Array, k: int) -> jax.Array:
    """Mean of the members of each cluster: `x [..., N, W]`, `assign [..., N]` -> `[..., K, W]` float32.

    An empty cluster gives 0.
    """
    members = (assign[..., None, :] == jnp.arange(k)[:, None]).astype(jnp.float32)
    total = jnp.einsum("...kn,...nw->...kw", members, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(members.sum(-1), 1.0)[..., None]


def sparse_indices(n: int, k: int, key: jax.Array | None = None, shape: tuple[int, ...] = ()) -> jax.Array:
    """K of n token indices, one from each of K equal strides, ascending (sparse sampling, CenterCLIP section 4.3).

    key None (evaluation): `int(n/(2K) + n/K·i)`, the middles. With a key (training): `i·(n // K) + randint(n // K)`
    with a draw for each index of `shape`. Returns `[*shape, K]` int32.
    """
    _check(k, n)
    if key is None:
        middles = np.asarray([int(n / (2 * k) + n / k * i) for i in range(k)], np.int32)  # the paper's float rounding
        return jnp.broadcast_to(middles, (*shape, k))
    stride = n // k
    return jnp.arange(k, dtype=jnp.int32) * stride + jax.random.randint(key, (*shape, k), 0, stride, jnp.int32)


def random_indices(key: jax.Array, n: int, k: int, shape: tuple[int, ...] = ()) -> jax.Array:
    """K of n token indices without replacement, ascending, a draw for each index of `shape`: `[*shape, K]` int32."""
    _check(k, n)
    order = jnp.argsort(jax.random.uniform(key, (*shape, n)), axis=-1)
    return jnp.sort(order[..., :k], axis=-1).astype(jnp.int32)


def temporal_shift(x: jax.Array, fold_div: int = 8) -> jax.Array:
    """Shifts channels of `[B, T, n, W]` between frames: the first `W // fold_div` channels of frame t come from frame
    t+1, the next as many from t−1, the rest stay; beyond the ends 0 (TSM, arXiv 1811.08383)."""
    fold = x.shape[-1] // fold_div
    from_next = jnp.pad(x[:, 1:, :, :fold], ((0, 0), (0, 1), (0, 0), (0, 0)))
    from_previous = jnp.pad(x[:, :-1, :, fold : 2 * fold], ((0, 0), (1, 0), (0, 0), (0, 0)))
    return jnp.concatenate([from_next, from_previous, x[..., 2 * fold :]], axis=-1)


def patch_shift(x: jax.Array, fold_div: int = 8) -> jax.Array:
    """`temporal_shift` of the patch tokens of `[B, T, 1+n, W]`; token 0 (class) unchanged."""
    return jnp.concatenate([x[:, :, :1], temporal_shift(x[:, :, 1:], fold_div)], axis=2)


def token_shift(x: jax.Array, fold_div: int = 8) -> jax.Array:
    """`temporal_shift` of token 0 (class) of `[B, T, 1+n, W]`; patch tokens stay (Token Shift, arXiv 2108.02432)."""
    return jnp.concatenate([temporal_shift(x[:, :, :1], fold_div), x[:, :, 1:]], axis=2)


def _check(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise InputError(f"tokens: {k} of {n} tokens asked for; choose between 1 and {n}")

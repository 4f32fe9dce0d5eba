"""Products of tokens with a matrix."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any = None, precision: Any = None) -> jax.Array:
    """`[..., W] @ [W, F] -> [..., F]`, as `dot_general` of `nn.Dense`, whose dimension numbers are always these.

    The tokens are not made rows of one matrix, though XLA's CPU backend likes that: on TPU a sequence of 197 tokens is
    kept as 200, so it would copy all of them before and after. The weight's gradient alone is a product of such
    matrices; without it the CPU backend copies the tokens transposed, and on TPU it is the same program.
    """
    del dimension_numbers
    return _product(x, kernel, precision or jax.config.jax_default_matmul_precision or "default")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(x, kernel, precision=precision)


def _product_forward(x, kernel, precision):
    return jnp.dot(x, kernel, precision=precision), (x, kernel)  # in the open: a remat policy sees no `custom_vjp`


def _product_backward(precision, saved, dy):
    x, kernel = saved
    dx = jnp.einsum("...f,wf->...w", dy, kernel, precision=precision)
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dx, jnp.dot(rows.T, drows, precision=precision)


_product.defvjp(_product_forward, _product_backward)

"""Compute precision: parameters, norms, softmax and losses stay float32; `compute` is what matmuls run in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

COMPUTE = {"float32": jnp.float32, "f32": jnp.float32, "bfloat16": jnp.bfloat16, "bf16": jnp.bfloat16}
MATMUL = ("default", "high", "highest")


def compute_dtype(precision) -> jnp.dtype:
    """The dtype of `config.precision.compute`."""
    if precision.compute not in COMPUTE:
        raise InputError(f"config.precision.compute: {precision.compute!r} is none of {', '.join(COMPUTE)}")
    return jnp.dtype(COMPUTE[precision.compute])


def matmul_precision(precision) -> str:
    """`config.precision.matmul`, for `jax.default_matmul_precision`. Float32 matmuls on TPU are bf16 passes
    by default; 'highest' makes them true float32."""
    if precision.matmul not in MATMUL:
        raise InputError(f"config.precision.matmul: {precision.matmul!r} is none of {', '.join(MATMUL)}")
    return precision.matmul


@contextlib.contextmanager
def loss_term(name: str) -> Iterator[None]:
    """Around what computes a term of a loss: it is called `loss/NAME` in profiles and programs, and its float32
    products are true ones. By default they have 8 bits of mantissa on TPU (one bfloat16 pass) and 11 on GPU (TF32)."""
    with jax.named_scope(f"loss/{name}"), jax.default_matmul_precision("highest"):
        yield

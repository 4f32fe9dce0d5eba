"""Compute precision: parameters, norms, softmax and losses stay float32; `compute` is what matmuls run in."""

from __future__ import annotations

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

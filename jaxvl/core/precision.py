"""Compute precision: parameters, norms, softmax and losses stay float32; `compute` is what matmuls run in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

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


def blocks_again(config: ConfigDict) -> bool:
    """Whether the backward pass computes the blocks of a trunk again, by `config.precision.remat` 'none' or 'full'.
    Raises InputError where `config.model.trunk` is not 'resnet', the one trunk that has such blocks."""
    remat, trunk = config.precision.remat, config.model.trunk
    if remat not in ("none", "full"):
        raise InputError(f"config.precision.remat: {remat!r} is none of none, full")
    if remat == "full" and trunk != "resnet":
        raise InputError(
            f"config.precision.remat: 'full' would change nothing in config.model.trunk {trunk!r}, only 'resnet' has "
            "blocks to compute again; take 'none'"
        )
    return remat == "full"


@contextlib.contextmanager
def loss_term(name: str) -> Iterator[None]:
    """Around what computes a term of a loss: it is called `loss/NAME` in profiles and programs, and its float32
    products are true ones. By default they have 8 bits of mantissa on TPU (one bfloat16 pass) and 11 on GPU (TF32)."""
    with jax.named_scope(f"loss/{name}"), jax.default_matmul_precision("highest"):
        yield

"""Initialisers that PyTorch's layers start from."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±fan_in^-0.5): kernels and biases of PyTorch's linear layers and convolutions."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def xavier_uniform(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    """U(±(6 / (fan_in + fan_out))^0.5), for kernels whose fans their shape does not tell (heads, fused projections)."""
    bound = (6 / (fan_in + fan_out)) ** 0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)

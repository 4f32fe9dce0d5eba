"""AFE-CNN's objective: cross-entropy with label smoothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.precision import loss_term


@loss_term("classification")
def classification_loss(logits: jax.Array, labels: jax.Array, smoothing: float = 0.1) -> tuple[jax.Array, jax.Array]:
    """Mean of `-sum_k q_k log softmax(logits)_k` with `q = 1 - s + s/K` for the true class and `s/K` for the others
    (PyTorch's smoothing), and the share of right ones.

    logits `[B, K]`, labels `[B]` int -> two scalars float32.
    """
    logits = logits.astype(jnp.float32)
    target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target).mean(), (logits.argmax(-1) == labels).mean()

"""MIST's objective: cross-entropy over the answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.precision import loss_term


@loss_term("answer")
def answer_loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of `-log softmax(logits)[label]` over the questions that have a right answer, and the share of right ones
    among them (section 4 of the specification; the code of the paper cannot take labels of -1).

    logits `[B, V]` float32, labels `[B]` int, -1 where the answer is outside the vocabulary -> two scalars float32.
    """
    known = labels >= 0
    count = jnp.maximum(known.sum(), 1).astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.maximum(labels, 0))
    right = (logits.argmax(-1) == labels) & known
    return jnp.where(known, each, 0.0).sum() / count, right.sum() / count

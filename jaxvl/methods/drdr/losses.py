"""The terms of DRDR's objective (sections 4.2 to 4.7 of the specification), one function each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.precision import loss_term
from jaxvl.methods.drdr import structure
from jaxvl.methods.drdr.structure import Structure


def ramp(it: jax.Array, total: int) -> jax.Array:
    """`q = 2 / (1 + exp(-10 it / total)) - 1`, the weight of all adaptation terms at update `it` = 1 ... total.

    Computed as `tanh(5 it / total)`, the same function: the difference of two numbers near 1 loses most of a small q.
    """
    return jnp.tanh(5 * it / total)


@loss_term("classification")
def classification(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of `[B, K]` against `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


@loss_term("translation")
def translation(source: Structure, target: Structure) -> jax.Array:
    """Mean squared difference of the global anchors, over the D coordinates (section 4.3)."""
    return jnp.square(target.centre - source.centre).mean()


@loss_term("distance")
def distance(source: Structure, target: Structure) -> jax.Array:
    """Mean squared difference of matched spokes, over K and D (section 4.4)."""
    return jnp.square(source.spokes - target.spokes).mean()


@loss_term("angular")
def angular(source: Structure, target: Structure, mask: float = structure.MASK) -> jax.Array:
    """Mean of `1 - cos` of matched spokes over the classes whose spokes have a direction in both domains.

    The others are left out, values and gradient: at a length of 1e-8 the gradient would be 1e7 (specification 8.2).
    mask: as in `structure.with_direction`.
    """
    a, b = source.spokes, target.spokes
    kept = structure.with_direction(a, b, mask)
    one = jnp.ones_like(a)
    cos = structure.cosines(jnp.where(kept[:, None], a, one), jnp.where(kept[:, None], b, one))
    return jnp.where(kept, 1 - cos, 0).sum() / jnp.maximum(kept.sum(), 1)


def assignment(features: jax.Array, anchors: jax.Array) -> jax.Array:
    """Student-t assignment `[B, K]`, one degree of freedom: `q_ik ~ 1 / (1 + |F_i - A_k|^2)` (section 4.6)."""
    squared = jnp.square(features[:, None, :] - jax.lax.stop_gradient(anchors)[None]).sum(-1)
    q = 1 / (1 + squared)
    return q / q.sum(1, keepdims=True)


def consensus(q: jax.Array, logits: jax.Array, variant: str = "paper") -> jax.Array:
    """Agreement of geometry and classifier for one domain, a mean over its rows (section 4.6).

    q: assignment `[B, K]`. logits: `[B, K]` of features centred on their global anchor; of detached features in the
    variant 'code'. 'paper': `KL(Q || P) + H(P)`, Q detached. 'code', as published: `KL(softmax(Q) || P) +
    H(softmax(Q))`, where only the second term's gradient reaches the features.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    if variant == "code":
        soft = jax.nn.softmax(q, axis=1)
        return (_divergence(jax.lax.stop_gradient(soft), log_p) + _entropy(soft, jnp.log(soft))).mean()
    return (_divergence(jax.lax.stop_gradient(q), log_p) + _entropy(jnp.exp(log_p), log_p)).mean()


def _divergence(q: jax.Array, log_p: jax.Array) -> jax.Array:
    return (q * (jnp.log(jnp.maximum(q, 1e-30)) - log_p)).sum(1)


def _entropy(p: jax.Array, log_p: jax.Array) -> jax.Array:
    return -(p * log_p).sum(1)


def anchor_weights(labels: jax.Array, classes: int, rule: str) -> jax.Array | None:
    """Weights `[K]` of the anchors in the transport: None (equal) for 'uniform', or for 'pseudo' the share of each
    class among `labels [B]` plus 1e-3, normalised."""
    if rule == "uniform":
        return None
    share = jax.nn.one_hot(labels, classes, dtype=jnp.float32).mean(0) + 1e-3
    return share / share.sum()

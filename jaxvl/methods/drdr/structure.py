"""Radial structures: the global anchor (mean) and the local anchors (class means) of a domain, kept with momentum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MASK = 1e-3
"""Spokes shorter than this share of the mean one have no direction (specification 8.2)."""


class Structure(NamedTuple):
    """centre: global anchor `[D]`. local: class anchors `[K, D]`."""

    centre: jax.Array
    local: jax.Array

    @property
    def spokes(self) -> jax.Array:
        """`[K, D]`, from the global anchor, which passes no gradient."""
        return self.local - jax.lax.stop_gradient(self.centre)


def class_means(features: jax.Array, labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """`(means [K, D], counts [K])` of `features [B, D]` by `labels [B]`; the mean of an absent class is 0.

    A product with the one-hot labels, so that a sharded batch is summed over all devices before the division.
    """
    hot = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    sums = jnp.matmul(hot.T, features.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    counts = hot.sum(0)
    return sums / jnp.maximum(counts, 1)[:, None], counts


def momentum(
    old: Structure, features: jax.Array, labels: jax.Array, theta: float = 0.3, absent: str = "zero"
) -> Structure:
    """The structure after this batch, `theta * batch + (1 - theta) * old` (section 4.1); the gradient goes through the
    batch's part only.

    absent: what a class without a row in the batch contributes. 'zero': a zero vector (the published code), so that its
    anchor shrinks; 'keep': nothing, its anchor stays.
    """
    old = jax.lax.stop_gradient(old)
    means, counts = class_means(features, labels, len(old.local))
    local = theta * means + (1 - theta) * old.local
    if absent == "keep":
        local = jnp.where(counts[:, None] > 0, local, old.local)
    return Structure(theta * features.astype(jnp.float32).mean(0) + (1 - theta) * old.centre, local)


def lengths(spokes: jax.Array) -> jax.Array:
    """`[K]` lengths of `[K, D]`, differentiable at 0."""
    return jnp.sqrt(jnp.square(spokes).sum(-1) + 1e-12)


def with_direction(a: jax.Array, b: jax.Array, mask: float = MASK) -> jax.Array:
    """Which classes `[K]` have spokes long enough, in both structures, to have a direction: at least `mask` times the
    mean length."""
    la, lb = lengths(a), lengths(b)
    least = mask * (la.mean() + lb.mean()) / 2
    return jax.lax.stop_gradient((la >= least) & (lb >= least))


def cosines(a: jax.Array, b: jax.Array) -> jax.Array:
    """`[K]` cosines of the rows of two `[K, D]`."""
    return (a * b).sum(-1) / (lengths(a) * lengths(b))


def facts(first: Structure, second: Structure, mask: float = MASK) -> dict[str, jax.Array]:
    """What the paper's figure shows, as scalars: mean spoke length, mean cosine of matched spokes of the two domains,
    and of the first domain's different classes."""
    a, b = first.spokes, second.spokes
    kept = with_direction(a, b, mask)
    unit = a / lengths(a)[:, None]
    k = len(a)
    return {
        "spoke_length": (lengths(a).mean() + lengths(b).mean()) / 2,
        "matched_cosine": jnp.where(kept, cosines(a, b), 0).sum() / jnp.maximum(kept.sum(), 1),
        "between_cosine": (jnp.square(unit.sum(0)).sum() - jnp.square(unit).sum()) / (k * (k - 1)),
    }

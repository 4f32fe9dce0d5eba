"""Differentiable selection of a few items by their scores: mixtures with Gumbel noise, straight-through choices, and
the controls they are compared with.

A *slot* is one of the s picks. All functions give weights `[..., s, n]` over the n items; what a slot holds is
`einsum('...sn,...nd->...sd', weights, items)`. float32 throughout: bfloat16 loses the ties.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

SELECTORS = ("official", "logp", "hard", "uniform", "random", "oracle")
NOISY = ("official", "logp")
"""The soft selectors, whose evaluation may draw noise too."""
PICKS = ("topk", "replace")


def gumbel(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`-log E`, E ~ Exp(1) bounded below by 1e-20: standard Gumbel noise, float32."""
    return -jnp.log(jnp.maximum(jax.random.exponential(key, shape, jnp.float32), 1e-20))


def gumbel_of(key: jax.Array, examples: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gumbel noise `[B, *shape]` that hangs on the key and on each example's own number alone, `[B]` int32: the same
    wherever in whichever batch on whichever device the example is."""
    return jax.vmap(lambda number: gumbel(jax.random.fold_in(key, number), shape))(examples)


def default_scale(mode: str, width: int) -> float:
    """What scores of vectors of this width are divided by: nothing in the published code, else `sqrt(width)`."""
    return 1.0 if mode == "official" else float(width) ** 0.5


def soft_weights(scores: jax.Array, noise: jax.Array | None, slots: int, *, tau: float, on_log: bool) -> jax.Array:
    """`softmax((f(p) + g) / tau)` for each slot, p = softmax(scores), f = log or identity.

    Args:
        scores: `[..., n]`. noise: g `[..., s, n]`, None for 0.
        on_log: log p is the smallest mend of adding the noise to p itself, as the published code of MIST (CVPR 2023,
            arXiv 2212.09522) does: there even a sure item raises its logit by 1 only.
    Returns: `[..., s, n]` float32.
    """
    scores = scores.astype(jnp.float32)
    value = jax.nn.log_softmax(scores) if on_log else jax.nn.softmax(scores)
    logits = jnp.broadcast_to(value[..., None, :], (*scores.shape[:-1], slots, scores.shape[-1]))
    return jax.nn.softmax((logits if noise is None else logits + noise) / tau)


def straight_through(weights: jax.Array) -> jax.Array:
    """One-hot at the largest weight (the first of equals) with the gradient of the weights. What is not chosen weighs
    exactly 0."""
    n = weights.shape[-1]
    return jax.lax.stop_gradient(jax.nn.one_hot(weights.argmax(-1), n) - weights) + weights


def largest(scores: jax.Array, slots: int, pick: str = "topk") -> jax.Array:
    """One-hot weights of the `slots` largest scores in the order of the items ('topk'), or as many copies of the
    largest ('replace'). Of equal scores the first wins. Passes no gradient."""
    if pick not in PICKS:
        raise InputError(f"selection: pick {pick!r} is none of {', '.join(PICKS)}")
    scores = jax.lax.stop_gradient(scores.astype(jnp.float32))
    n = scores.shape[-1]
    if pick == "replace":
        index = jnp.broadcast_to(scores.argmax(-1)[..., None], (*scores.shape[:-1], slots))
    else:
        if slots > n:
            raise InputError(f"selection: {slots} distinct items of {n}")
        index = jnp.sort(jax.lax.top_k(scores, slots)[1], axis=-1)
    return jax.nn.one_hot(index, n)


def select(
    mode: str,
    scores: jax.Array,
    slots: int,
    *,
    train: bool,
    noise: jax.Array | None = None,
    indices: jax.Array | None = None,
    tau: float = 1.0,
    scale: float = 1.0,
    pick: str = "topk",
) -> jax.Array:
    """Weights of `slots` picks by one of `SELECTORS`.

    Args:
        mode: 'official': soft, noise added to the probabilities. 'logp': soft, noise added to their logarithms.
            'hard': in training `straight_through` of 'logp'; in evaluation `largest` by `pick`, whatever the noise.
            'uniform': 1/n. 'random': one-hot at the largest noise, so an item drawn uniformly. 'oracle': one-hot at
            `indices`.
        scores: `[..., n]`; divided by `scale`.
        noise: `[..., slots, n]` Gumbel; None for none. 'random' needs it.
        indices: `[..., slots]` int, of 'oracle'.
    Returns: `[..., slots, n]` float32; each slot sums to 1.
    """
    n = scores.shape[-1]
    scaled = scores.astype(jnp.float32) / scale
    if mode in ("official", "logp"):
        return soft_weights(scaled, noise, slots, tau=tau, on_log=mode == "logp")
    if mode == "hard":
        if train:
            return straight_through(soft_weights(scaled, noise, slots, tau=tau, on_log=True))
        return largest(scaled, slots, pick)
    if mode == "uniform":
        return jnp.full((*scores.shape[:-1], slots, n), 1 / n, jnp.float32)
    if mode == "random":
        if noise is None:
            raise InputError("selection: 'random' draws its items from the noise, and there is none")
        return jax.nn.one_hot(noise.argmax(-1), n)
    if mode == "oracle":
        if indices is None:
            raise InputError("selection: 'oracle' needs the indices")
        return jax.nn.one_hot(indices, n)
    raise InputError(f"selection: mode {mode!r} is none of {', '.join(SELECTORS)}")

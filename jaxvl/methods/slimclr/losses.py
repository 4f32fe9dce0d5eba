"""Losses of SlimCLR (specification, section 4): contrastive terms, distillation between widths, their weights.

All in float32. `s` are logits `[B, n]` of a student width, `t` those of the teacher, the full width of this very step,
which passes no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.errors import InputError

DISTILLATIONS = ("none", "ce", "mse", "mse_features", "kd_features", "dkd", "atkd")
ON_FEATURES = ("mse_features", "kd_features")
REWEIGHTINGS = tuple(range(8))
EPSILON = 1e-12


def normalize(x: jax.Array) -> jax.Array:
    """Rows of unit length, `x / max(‖x‖, 1e-12)`, float32; the gradient at a row of zeros is finite."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, EPSILON**2))


def width_weights(widths: Sequence[float], mode: int) -> tuple[float, ...]:
    """λ of every width, `slim_loss_weighted` of the published code.

    5 (the paper's): `λ_1 = 1 + Σ_{i≥2} w_i`, others 1. 0: ones. 1: `w_i / Σw`. 2: `w_i`. 3: `n w_i / Σw`.
    6: `v_i = 1 + Σ_{j>i} w_j`, scaled to `n v_i / Σv`. 7: `λ_1 = 1 + w_2`. Modes 1, 3, 6 are rounded to 3 digits.
    Raises InputError for another mode (4 was never published).
    """
    n, total = len(widths), sum(widths)
    if mode in (0, 5, 7):
        extra = {0: 0.0, 5: sum(widths[1:]), 7: sum(widths[1:2])}[mode]
        return (1.0 + extra, *[1.0] * (n - 1))
    if mode == 1:
        return tuple(round(w / total, 3) for w in widths)
    if mode == 2:
        return tuple(float(w) for w in widths)
    if mode == 3:
        return tuple(round(n * w / total, 3) for w in widths)
    if mode == 6:
        v = [1 + sum(widths[i + 1 :]) for i in range(n)]
        return tuple(round(n * x / sum(v), 3) for x in v)
    raise InputError(f"config.model.reweight: {mode} is none of 0, 1, 2, 3, 5, 6, 7")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of `-log softmax(logits)[label]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def moco_logits(q: jax.Array, k: jax.Array, queue: jax.Array) -> jax.Array:
    """Cosines `[B, 1 + K]`: of the positive `q·k` in column 0, then of the queue `[K, D]`."""
    return jnp.concatenate([(q * k).sum(-1, keepdims=True), q @ queue.T], axis=1)


def info_nce(cosines: jax.Array, temperature: float) -> jax.Array:
    """`mean_b −log softmax(s / T)_0`: the positive is column 0."""
    return cross_entropy(cosines / temperature, jnp.zeros(len(cosines), jnp.int32))


def batch_contrast(cosines: jax.Array, temperature: float) -> jax.Array:
    """MoCo v3's `2T · mean_b −log softmax(q K^T / T)_bb`, `cosines [B, B]`."""
    return 2 * temperature * cross_entropy(cosines / temperature, jnp.arange(len(cosines)))


def without_diagonal(x: jax.Array) -> jax.Array:
    """`[n, n] -> [n, n - 1]`: each row without its own entry, the order kept."""
    n = len(x)
    return x.reshape(-1)[1:].reshape(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def simclr_labels(rows: int) -> jax.Array:
    """Where the positive of each of the `2N` rows stands once the diagonal is removed: `r + N - 1`, then `r - N`."""
    r = jnp.arange(rows)
    half = rows // 2
    return jnp.where(r < half, r + half - 1, r - half)


def soft_cross_entropy(t: jax.Array, s: jax.Array, temperature: float = 1.0, teacher_temperature: float = 0.0):
    """`τ² mean_b −Σ softmax(t/τ_t) log softmax(s/τ)`, the teacher's entropy included (published `D`, equation 4).
    teacher_temperature: 0 is `temperature`."""
    target = jax.nn.softmax(jax.lax.stop_gradient(t) / (teacher_temperature or temperature))
    return temperature**2 * -(target * jax.nn.log_softmax(s / temperature)).sum(-1).mean()


def decoupled(t: jax.Array, s: jax.Array, labels: jax.Array, alpha: float = 1.0, beta: float = 0.5, tau: float = 1.0):
    """Decoupled distillation (Zhao et al., CVPR 2022): `α KL(target against rest) + β KL(within the rest)`, each times
    τ² over the batch size."""
    t, own = jax.lax.stop_gradient(t), jax.nn.one_hot(labels, t.shape[-1], dtype=bool)
    log_t, log_s = jax.nn.log_softmax(t / tau), jax.nn.log_softmax(s / tau)

    def target_and_rest(log_p):
        target = jnp.where(own, log_p, 0).sum(-1)
        return target, jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_p), axis=-1)

    (target_t, rest_t), (target_s, rest_s) = target_and_rest(log_t), target_and_rest(log_s)
    binary = jnp.exp(target_t) * (target_t - target_s) + jnp.exp(rest_t) * (rest_t - rest_s)
    p = jnp.where(own, 0, jnp.exp(log_t - rest_t[:, None]))
    within = (p * jnp.where(own, 0, (log_t - rest_t[:, None]) - (log_s - rest_s[:, None]))).sum(-1)
    return tau**2 * (alpha * binary + beta * within).mean()


def attentive(t: jax.Array, s: jax.Array, tau: float = 4.0) -> jax.Array:
    """`atkd`: both logits are normalised over the classes (no affine, eps 1e-5), doubled, and compared by KL at
    temperature 4, times 16, mean over the batch."""

    def prepare(x):
        centred = x - x.mean(-1, keepdims=True)
        return 2 * centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)

    log_t = jax.nn.log_softmax(prepare(jax.lax.stop_gradient(t)) / tau)
    log_s = jax.nn.log_softmax(prepare(s) / tau)
    return tau**2 * (jnp.exp(log_t) * (log_t - log_s)).sum(-1).mean()


def distillation(
    kind: str, t: jax.Array, s: jax.Array, labels: jax.Array, tau: float, teacher_tau: float = 0.0
) -> jax.Array:
    """One of `DISTILLATIONS` but 'none'. t, s: logits, or normalised outputs for the kinds `ON_FEATURES`. labels: the
    column of the positive, for 'dkd'. teacher_tau: of 'ce' and 'kd_features', 0 is `tau`."""
    if kind in ("ce", "kd_features"):
        return soft_cross_entropy(t, s, tau, teacher_tau)
    if kind in ("mse", "mse_features"):
        return jnp.square(jax.lax.stop_gradient(t) - s).mean()
    if kind == "dkd":
        return decoupled(t, s, labels)
    if kind == "atkd":
        return attentive(t, s)
    raise InputError(f"config.model.distill: {kind!r} is none of {', '.join(DISTILLATIONS)}")


def ema_momentum(base: float, schedule: str, share: jax.Array) -> jax.Array:
    """Momentum of the key encoder at `share` of all steps: `base`, or `1 − ½ (1 + cos(π share)) (1 − base)`."""
    if schedule == "constant":
        return jnp.float32(base)
    if schedule == "cosine":
        return 1 - 0.5 * (1 + jnp.cos(jnp.pi * share)) * (1 - base)
    raise InputError(f"config.model.momentum_schedule: {schedule!r} is neither constant nor cosine")

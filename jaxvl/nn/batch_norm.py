"""Batch normalisation as PyTorch has it: biased variance to normalise, unbiased in the running statistics.

Flax's own layer keeps the biased one, which is 3 % off where a layer sees 32 values, and knows no groups.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, ICML 2015, arXiv 1502.03167).

    Parameters `scale`, `bias` `[C]`; running `mean`, `var` `[C]` in the collection `batch_stats`; all float32.

    groups: the batch is cut into this many runs of consecutive rows, each normalised by its own statistics, as
        replicas without synchronisation do; running statistics take the mean over groups. 1: the whole batch, on
        however many devices (synchronised).
    runs: how many consecutive rows have statistics of their own, run by run, as passes over one run after another have:
        running statistics are updated by each in turn. Any sizes that add up to the batch, wherever its rows lie on
        devices. Empty: one run.
    momentum: share of the old running value (PyTorch's `momentum=0.1` is 0.9 here).
    affine: False leaves out scale and bias.
    repeats: how often each row stands in the batch, where equal rows are passed once; only the unbiased variance of the
        running statistics can tell.
    unbiased: False keeps the biased variance in the running statistics, as Flax's own layer does.
    frozen: scale, bias, mean and var are constants in `batch_stats`, the same in training; no parameters.
    dtype: of the result; statistics and arithmetic are float32.
    """

    groups: int = 1
    runs: tuple[int, ...] = ()
    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    frozen: bool = False
    repeats: int = 1
    unbiased: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """`[B, ..., C] -> [B, ..., C]`. train: normalise by the batch and update the running statistics (make
        `batch_stats` mutable). mask: bool `[B]`, the rows that count in the statistics; all rows are normalised by
        them. Raises InputError where the groups do not divide the batch or the runs do not add up to it, or where two
        of groups, runs and mask come together."""
        shape = x.shape[-1:]
        scale, bias = self._affine(shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if self.frozen or not train:
            factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
            y = x.astype(jnp.float32) * factor + (bias - mean.value * factor)
            return y.astype(self.dtype)
        self._check(x.shape[0], mask)
        rows = x.reshape(x.shape[0], -1, *shape)
        if mask is not None:
            y, batch_mean, batch_var = normalize_some(rows, mask.astype(jnp.float32), scale, bias, self.epsilon)
            passes = [(batch_mean, batch_var, mask.sum() * float(rows.shape[1]))]
        elif self.runs:
            y, means, variances = normalize_runs(rows, scale, bias, self.runs, self.epsilon)
            passes = list(zip(means, variances, (n * rows.shape[1] for n in self.runs)))
        else:
            grouped = x.reshape(self.groups, -1, *shape)
            y, batch_mean, batch_var = normalize(grouped, scale, bias, self.epsilon)
            passes = [(batch_mean.mean(0), batch_var.mean(0), grouped.shape[1])]
        if not self.is_initializing():
            for batch_mean, batch_var, count in passes:
                count = count * self.repeats
                kept = batch_var * (count / jnp.maximum(count - 1, 1)) if self.unbiased else batch_var
                mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * kept
        return y.reshape(x.shape).astype(self.dtype)

    def _check(self, batch: int, mask: jax.Array | None) -> None:
        if batch % self.groups:
            raise InputError(f"batch of {batch}: cannot be cut into {self.groups} groups for batch normalisation")
        if self.groups > 1 and mask is not None:
            raise InputError(f"batch normalisation in {self.groups} groups: takes no mask; use one group")
        if not self.runs:
            return
        sizes = ", ".join(map(str, self.runs))
        if self.groups > 1 or mask is not None:
            other = "a mask" if mask is not None else f"{self.groups} groups"
            raise InputError(f"batch normalisation in runs of {sizes} rows: does not go with {other}")
        if min(self.runs) < 1 or sum(self.runs) != batch:
            raise InputError(f"batch of {batch}: is not runs of {sizes} rows for batch normalisation")

    def _affine(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        if not self.affine:
            return jnp.ones(shape), jnp.zeros(shape)
        if self.frozen:
            scale = self.variable("batch_stats", "scale", jnp.ones, shape, jnp.float32)
            return scale.value, self.variable("batch_stats", "bias", jnp.zeros, shape, jnp.float32).value
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        return scale, self.param("bias", nn.initializers.zeros, shape, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, ...]:
    """Normalises each group over its rows: x `[G, N, C]` -> `(y [G, N, C] in x's dtype, mean [G, C], var [G, C])`.

    The variance is the biased one, in two passes: with `E[x²] - E[x]²` values around 300 would lose all digits.
    Mean and variance are for the running statistics and pass no gradient; the gradient of y is the closed form, two
    sums over the rows and one pass, instead of the differentiated two-pass variance.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(1, keepdims=True)
    centred = wide - mean
    var = jnp.square(centred).mean(1, keepdims=True)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (centred * (inverse * scale) + bias).astype(x.dtype)
    return (y, mean[:, 0], var[:, 0]), (x, scale, mean, inverse)


def _normalize_backward(epsilon, saved, cotangents):
    del epsilon
    x, scale, mean, inverse = saved
    dy = cotangents[0].astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    sum_dy, sum_dy_unit = (total[:, None] for total in _both_sums(dy, unit))
    dx = (inverse * scale) * (dy - (sum_dy + unit * sum_dy_unit) / x.shape[1])
    return dx.astype(x.dtype), sum_dy_unit.sum((0, 1)), sum_dy.sum((0, 1))


def _both_sums(dy: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`dy` and `dy * unit`, `[G, N, C]`, each summed over the rows."""
    return jax.lax.platform_dependent(dy, unit, cpu=_sums_at_once, default=_sums)


def _sums(dy: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy.sum(1), (dy * unit).sum(1)


def _sums_at_once(dy: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_sums` as one reduction of both: XLA's CPU backend would compute the input twice, at a quarter of the speed."""
    zero = jnp.zeros((), jnp.float32)
    return tuple(jax.lax.reduce((dy, dy * unit), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,)))


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_runs(
    x: jax.Array, scale: jax.Array, bias: jax.Array, runs: tuple[int, ...], epsilon: float
) -> tuple[jax.Array, ...]:
    """`normalize` with groups of unlike sizes: x `[B, P, C]`, whose rows are `runs` one after another, which add up to
    B -> `(y [B, P, C] in x's dtype, mean [G, C], var [G, C])`.

    A run's sum is one of sums of rows, so rows stay on their devices and only `[G, C]` is summed over devices; cut out
    of the batch, a run would lie on some of the devices only. Differentiated as `normalize` is.
    """
    return _runs_forward(x, scale, bias, runs, epsilon)[0]


def _runs_forward(x, scale, bias, runs, epsilon):
    wide, count = x.astype(jnp.float32), x.shape[1] * np.array(runs, np.float32)[:, None]
    mean = _of_runs(wide.sum(1), runs) / count
    centred = wide - _to_rows(mean, runs)
    var = _of_runs(jnp.square(centred).sum(1), runs) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (centred * _to_rows(inverse * scale, runs) + bias).astype(x.dtype)
    return (y, mean, var), (x, scale, mean, inverse)


def _runs_backward(runs, epsilon, saved, cotangents):
    del epsilon
    x, scale, mean, inverse = saved
    dy, count = cotangents[0].astype(jnp.float32), x.shape[1] * np.array(runs, np.float32)[:, None]
    unit = (x.astype(jnp.float32) - _to_rows(mean, runs)) * _to_rows(inverse, runs)
    sums = _both_sums(dy, unit)
    mean_dy, mean_dy_unit = (_to_rows(_of_runs(rows, runs) / count, runs) for rows in sums)
    dx = _to_rows(inverse * scale, runs) * (dy - (mean_dy + unit * mean_dy_unit))
    return dx.astype(x.dtype), sums[1].sum(0), sums[0].sum(0)


def _members(runs: tuple[int, ...]) -> np.ndarray:
    """Which rows belong to each run: 0 and 1, `[G, B]`."""
    return np.repeat(np.eye(len(runs), dtype=np.float32), runs, axis=1)


def _of_runs(rows: jax.Array, runs: tuple[int, ...]) -> jax.Array:
    """`[B, C]`, summed over the rows of each run: `[G, C]`."""
    return jnp.matmul(_members(runs), rows, precision=jax.lax.Precision.HIGHEST)


def _to_rows(values: jax.Array, runs: tuple[int, ...]) -> jax.Array:
    """A value for each run, `[G, C]`, at each of its rows `[B, 1, C]`."""
    return jnp.matmul(_members(runs).T, values, precision=jax.lax.Precision.HIGHEST)[:, None]


normalize_runs.defvjp(_runs_forward, _runs_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalize_some(
    x: jax.Array, weight: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, ...]:
    """`normalize` with statistics of some rows only: x `[N, P, C]`, weight `[N]` of 0 and 1 ->
    `(y [N, P, C], mean [C], var [C])`.

    All rows come out normalised. Without any row that counts, mean and variance are 0. Differentiated by the closed
    form, with respect to x, scale and bias; mean and variance pass no gradient.
    """
    return _some_forward(x, weight, scale, bias, epsilon)[0]


def _some_forward(x, weight, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    count = jnp.maximum(weight.sum() * x.shape[1], 1.0)
    mean = _weighted_sum(wide, weight) / count
    centred = wide - mean
    var = _weighted_sum(jnp.square(centred), weight) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (centred * (inverse * scale) + bias).astype(x.dtype)
    return (y, mean, var), (x, weight, count, scale, mean, inverse)


def _some_backward(epsilon, saved, cotangents):
    del epsilon
    x, weight, count, scale, mean, inverse = saved
    dy = cotangents[0].astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    ones = jnp.ones_like(weight)
    sum_dy, sum_dy_unit = _weighted_sum(dy, ones), _weighted_sum(dy * unit, ones)
    dx = (inverse * scale) * (dy - weight[:, None, None] * ((sum_dy + unit * sum_dy_unit) / count))
    return dx.astype(x.dtype), None, sum_dy_unit, sum_dy


def _weighted_sum(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`[N, P, C]`, `[N] -> [C]`. A sum over all but the last axis is several times as fast in XLA's CPU backend as a
    product of matrices."""
    return jax.lax.platform_dependent(x, weight, cpu=_weighted_by_product, default=_weighted_by_sum)


def _weighted_by_product(x: jax.Array, weight: jax.Array) -> jax.Array:
    return (jnp.repeat(weight, x.shape[1])[None] @ x.reshape(-1, x.shape[-1]))[0]


def _weighted_by_sum(x: jax.Array, weight: jax.Array) -> jax.Array:
    return (x * weight[:, None, None]).sum((0, 1))


normalize_some.defvjp(_some_forward, _some_backward)

"""Entropic optimal transport between weighted point sets: plans and debiased Sinkhorn divergences, on ott-jax.

Everything is float32 at highest matmul precision, whatever the points' dtype. The cost is `c(x, y) = |x - y|²/2` and

    OT_ε(a, b) = min_P <P, C> + ε KL(P | a bᵀ)  over plans P with marginals a and b,
    S_ε(a, b) = OT_ε(a, b) - OT_ε(a, a)/2 - OT_ε(b, b)/2   (Feydy et al., AISTATS 2019, arXiv 1810.08278).

`S` is not negative and 0 only for equal measures, which `OT` alone is not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

THRESHOLD, MAX_ITERATIONS = 1e-3, 500


class Divergence(NamedTuple):
    """What a divergence came to.

    value: `S`, scalar float32. converged: whether all three problems met the threshold, bool. error: the largest
    marginal error of the three, summed over points. iterations: of the three together, int32.
    """

    value: jax.Array
    converged: jax.Array
    error: jax.Array
    iterations: jax.Array


class Plan(NamedTuple):
    """A transport plan: `matrix [N, M]`, `cost` `OT_ε`, whether it `converged`, and its `iterations`."""

    matrix: jax.Array
    cost: jax.Array
    converged: jax.Array
    iterations: jax.Array


def half_squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """`|x_i - y_j|²/2 [N, M]` float32, not negative, of `x [N, D]`, `y [M, D]`.

    The mean of y is subtracted first, which changes no distance and keeps cancellation small for points far from 0.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    centre = jax.lax.stop_gradient(y.mean(0))
    x, y = x - centre, y - centre
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1)[None, :]
    return jnp.maximum(norms / 2 - product, 0.0)


def relative_epsilon(cost: jax.Array, share: float) -> jax.Array:
    """`share * mean(cost)`, without gradient; a tiny positive number where all points coincide."""
    return jnp.maximum(share * jax.lax.stop_gradient(cost).mean(), 1e-8)


def transport_plan(
    cost: jax.Array,
    epsilon: jax.Array | float,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    threshold: float = THRESHOLD,
    max_iterations: int = MAX_ITERATIONS,
) -> Plan:
    """The plan of least cost plus `epsilon` times its divergence from `a bᵀ`, by Sinkhorn's iteration.

    Args:
        cost: `[N, M]`. epsilon: in the cost's unit. a, b: marginals `[N]`, `[M]`, positive, each of sum 1 (uniform by
            default; give padding a weight of 1e-9, since the gradient at a weight of 0 is not defined).
        threshold: stop when the marginal error, summed over points, is below it.
    The gradient of `matrix` is that of the solution (implicit differentiation), not of the iteration.
    """
    from ott.geometry import geometry
    from ott.solvers import linear

    geom = geometry.Geometry(cost_matrix=cost.astype(jnp.float32), epsilon=epsilon)
    out = linear.solve(geom, a=a, b=b, threshold=threshold, max_iterations=max_iterations)
    return Plan(out.matrix, out.reg_ot_cost, out.converged, out.n_iters)


def sinkhorn_divergence(
    x: jax.Array,
    y: jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    epsilon_share: float = 0.05,
    threshold: float = THRESHOLD,
    max_iterations: int = MAX_ITERATIONS,
) -> Divergence:
    """The converged divergence `S_ε` of `x [N, D]` with weights `a [N]` and `y [M, D]` with `b [M]`.

    Args:
        a, b: positive, each of sum 1; uniform by default. epsilon_share: `ε = epsilon_share * mean C(x, y)`, a constant
            for the gradient; an absolute ε that is small against the costs never converges in float32.
        threshold, max_iterations: of each of the three problems.
    The gradient is that of the solution (Danskin's theorem: the potentials are held), as exact as the convergence.
    The three problems are two loops, and under `jax.vmap` those of all divergences are: a problem that has converged
    waits, as it is, for the others of its loop.
    """
    n, m = len(x), len(y)
    a = jnp.full(n, 1 / n, jnp.float32) if a is None else jnp.asarray(a, jnp.float32)
    b = jnp.full(m, 1 / m, jnp.float32) if b is None else jnp.asarray(b, jnp.float32)
    cost = half_squared_distances(x, y)
    epsilon = relative_epsilon(cost, epsilon_share)
    stop = {"threshold": threshold, "max_iterations": max_iterations}
    cross = _solved(cost, epsilon, a, b, **stop)
    # Both measures against themselves in one loop: the smaller one is filled up with points of no weight.
    size = max(n, m)
    square = lambda p: jnp.pad(half_squared_distances(p, p), (0, size - len(p)))  # noqa: E731
    costs, weights = jnp.stack([square(x), square(y)]), jnp.stack([jnp.pad(w, (0, size - len(w))) for w in (a, b)])
    selves = jax.vmap(lambda c, w: _solved(c, epsilon, w, w, symmetric=True, **stop))(costs, weights)
    value = cross.cost - selves.cost.sum() / 2 + epsilon * jnp.square(a.sum() - b.sum()) / 2
    return Divergence(
        value,
        cross.converged & selves.converged[0] & selves.converged[1],
        jnp.maximum(cross.error, selves.error.max()),
        cross.iterations + selves.iterations.sum(),
    )


class _Solved(NamedTuple):
    cost: jax.Array
    converged: jax.Array
    error: jax.Array
    iterations: jax.Array


def _solved(cost, epsilon, a, b, *, symmetric: bool = False, **stop) -> _Solved:
    """`OT_ε`, its gradient by Danskin's theorem. symmetric: of a measure against itself, where both potentials are
    updated at once and by half (Feydy et al., equation 25)."""
    from ott.geometry import geometry
    from ott.solvers import linear
    from ott.solvers.linear import acceleration

    if symmetric:
        stop |= {"parallel_dual_updates": True, "momentum": acceleration.Momentum(start=0, value=0.5)}
    geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    out = linear.solve(geom, a=a, b=b, use_danskin=True, **stop)
    return _Solved(out.reg_ot_cost, out.converged, jax.lax.stop_gradient(_last(out.errors)), out.n_iters)


def _last(errors: jax.Array) -> jax.Array:
    """The last of the errors that ott keeps, which writes -1 behind it."""
    errors = errors.reshape(-1)
    return errors[jnp.maximum((errors > -1).sum() - 1, 0)]


def annealed_divergence(x: jax.Array, y: jax.Array, *, blur: float = 0.05, scaling: float = 0.9) -> Divergence:
    """The divergence of uniform measures as one sweep of ε from the points' extent down to `blur²` leaves it.

    This is the default loss of the geomloss package (Feydy's thesis, 2020, section 3.3.3), which published code uses: ε
    runs through `d²`, `d² scaling²ᵏ`, `blur²` with d the diagonal of the box around all points; at each ε one averaged
    update of all four potentials, then a last one through which the gradient goes. It does not converge: the value is
    up to 15 % low and the gradient ignores one marginal. For comparisons; x `[N, D]`, y `[M, D]`.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    hold = jax.lax.stop_gradient
    costs = {
        "xy": half_squared_distances(x, hold(y)),
        "yx": half_squared_distances(y, hold(x)),
        "xx": half_squared_distances(x, hold(x)),
        "yy": half_squared_distances(y, hold(y)),
    }
    log_a, log_b = -jnp.log(float(len(x))), -jnp.log(float(len(y)))
    points = hold(jnp.concatenate([x, y]))
    extent = jnp.maximum(jnp.linalg.norm(points.max(0) - points.min(0)), blur)
    steps = jnp.ceil((jnp.log(blur) - jnp.log(extent)) / jnp.log(scaling) - 1e-6).astype(jnp.int32)

    def epsilon_at(k: jax.Array) -> jax.Array:
        falling = jnp.square(extent) * scaling ** (2.0 * jnp.maximum(k - 1, 0))
        return jnp.where(k > steps, blur**2, falling)

    def softmin(epsilon, cost, h):
        return -epsilon * jax.nn.logsumexp(h[None, :] - cost / epsilon, axis=1)

    def sweep(potentials, epsilon, costs):
        """b_x, a_y, a_x, b_y after one update from the old values."""
        b_x, a_y, a_x, b_y = potentials
        return (
            softmin(epsilon, costs["xy"], log_b + a_y / epsilon),
            softmin(epsilon, costs["yx"], log_a + b_x / epsilon),
            softmin(epsilon, costs["xx"], log_a + a_x / epsilon),
            softmin(epsilon, costs["yy"], log_b + b_y / epsilon),
        )

    held = hold(costs)
    zeros = (jnp.zeros(len(x)), jnp.zeros(len(y)), jnp.zeros(len(x)), jnp.zeros(len(y)))
    start = sweep(zeros, epsilon_at(jnp.int32(0)), held)

    def body(k, potentials):
        return tuple((f + new) / 2 for f, new in zip(potentials, sweep(potentials, epsilon_at(k), held)))

    potentials = hold(jax.lax.fori_loop(0, steps + 2, body, start))
    b_x, a_y, a_x, b_y = sweep(potentials, blur**2, costs)
    last = hold(jnp.stack([jnp.abs(b_x - potentials[0]).max(), jnp.abs(a_y - potentials[1]).max()]).max())
    return Divergence((b_x - a_x).mean() + (a_y - b_y).mean(), jnp.bool_(False), last, 4 * (steps + 2))

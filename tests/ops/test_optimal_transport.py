"""Sinkhorn against an exact solver and float64 references, its gradient, its behaviour at small epsilon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import logsumexp

from jaxvl.core import sharding
from jaxvl.ops import optimal_transport as ot

# compiled whole, as a method's step does, not operation by operation
STATIC = ("threshold", "max_iterations")
sinkhorn_divergence = jax.jit(ot.sinkhorn_divergence, static_argnames=STATIC)
transport_plan = jax.jit(ot.transport_plan, static_argnames=STATIC)
annealed_divergence = jax.jit(ot.annealed_divergence)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 3)), 0.7 * RNG.normal(size=(5, 3)) + 0.5
A, B = RNG.dirichlet(np.full(7, 3.0)), RNG.dirichlet(np.full(5, 3.0))


def cost64(x, y):
    return 0.5 * ((x[:, None] - y[None]) ** 2).sum(-1)


def exact(cost, a, b):
    """The optimal cost of unregularised transport, as a linear program."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    done = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.hstack([a, b]), method="highs")
    assert done.status == 0
    return done.fun


def converged64(cost, a, b, epsilon):
    """OT_eps and its plan after 20,000 updates in float64."""
    kernel = np.exp(-cost / epsilon)  # in float64 and with these costs nothing underflows
    u, v = np.ones(len(a)), np.ones(len(b))
    for _ in range(20_000):  # averaged updates, which also the problem of a measure against itself needs
        u = np.sqrt(u / (kernel @ (v * b)))
        v = np.sqrt(v / (kernel.T @ (u * a)))
    plan = u[:, None] * kernel * v * a[:, None] * b
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-6)
    return (plan * cost).sum() + epsilon * (plan * np.log(plan / np.outer(a, b))).sum(), plan


def divergence64(x, y, a, b, epsilon):
    cross, left, right = (
        converged64(cost64(p, q), u, v, epsilon)[0] for p, q, u, v in ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    )
    return cross - left / 2 - right / 2


def test_distances_by_hand_and_far_from_the_origin():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(ot.half_squared_distances(x, x[:1]), [[0.0], [12.5]])
    far = 1000 + RNG.normal(size=(20, 8))
    np.testing.assert_allclose(ot.half_squared_distances(far, far[:9]), cost64(far, far[:9]), atol=1e-3)


def test_plan_has_the_marginals_and_the_cost_of_the_float64_solution():
    cost = cost64(X, Y)
    epsilon = 0.05 * cost.mean()
    plan = transport_plan(jnp.asarray(cost), epsilon, A, B, threshold=1e-5, max_iterations=5000)
    value, want = converged64(cost, A, B, epsilon)
    assert bool(plan.converged)
    np.testing.assert_allclose(plan.matrix.sum(1), A, atol=1e-5)
    np.testing.assert_allclose(plan.matrix.sum(0), B, atol=1e-5)
    np.testing.assert_allclose(plan.matrix, want, atol=1e-5)
    np.testing.assert_allclose(plan.cost, value, rtol=1e-4)


def test_small_epsilon_reaches_the_linear_program_or_says_that_it_did_not():
    cost = cost64(X, Y)
    best = exact(cost, A, B)
    gaps = []
    for share in (0.2, 0.05, 0.01):
        plan = transport_plan(jnp.asarray(cost), share * cost.mean(), A, B, max_iterations=20_000)
        assert bool(plan.converged)
        gaps.append(float((plan.matrix * cost).sum() - best))
    assert gaps[0] > gaps[1] > gaps[2] > -2e-3 * best
    assert gaps[2] < 0.01 * best
    stopped = transport_plan(jnp.asarray(cost), 1e-4 * cost.mean(), A, B, max_iterations=50)
    assert not bool(stopped.converged)
    assert np.isfinite(stopped.matrix).all()


@pytest.mark.parametrize("share", [0.2, 0.05])
def test_divergence_is_the_float64_one(share):
    got = sinkhorn_divergence(X, Y, A, B, epsilon_share=share, threshold=1e-6, max_iterations=5000)
    want = divergence64(X, Y, A, B, share * cost64(X, Y).mean())
    assert bool(got.converged)
    assert got.error < 1e-6
    np.testing.assert_allclose(got.value, want, rtol=1e-4)


def test_divergence_of_equal_measures_is_zero_and_of_others_not():
    anchors = 2 * RNG.normal(size=(6, 4))
    same = sinkhorn_divergence(anchors, anchors[::-1])
    assert abs(float(same.value)) < 1e-4
    assert float(sinkhorn_divergence(anchors, anchors + 0.5).value) == pytest.approx(0.5, abs=1e-3)  # |shift|²/2
    plan = transport_plan(ot.half_squared_distances(anchors, anchors), 0.01, threshold=1e-5)
    np.testing.assert_allclose(plan.matrix, np.eye(6) / 6, atol=1e-5)


def test_gradient_is_that_of_the_converged_value():
    def value(x):
        return sinkhorn_divergence(x, Y, A, B, threshold=1e-6, max_iterations=5000).value

    gradient = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(X, jnp.float32)))
    epsilon, step = 0.05 * cost64(X, Y).mean(), 1e-5  # epsilon is a constant for the gradient
    for i, j in ((0, 0), (3, 2), (6, 1)):
        up, down = X.copy(), X.copy()
        up[i, j] += step
        down[i, j] -= step
        want = (divergence64(up, Y, A, B, epsilon) - divergence64(down, Y, A, B, epsilon)) / (2 * step)
        assert gradient[i, j] == pytest.approx(want, abs=1e-3)


def test_gradient_of_the_plan_is_implicit():
    """It equals the differences of converged plans, whether or not the forward pass was short of exact."""
    cost = cost64(X, Y)
    epsilon, step = 0.1 * cost.mean(), 1e-4
    weights = RNG.normal(size=cost.shape)

    def value(c):
        return (transport_plan(c, epsilon, A, B, threshold=1e-6, max_iterations=5000).matrix * weights).sum()

    gradient = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(cost, jnp.float32)))
    for i, j in ((0, 0), (4, 3)):
        up, down = cost.copy(), cost.copy()
        up[i, j] += step
        down[i, j] -= step
        want = sum(s * (converged64(c, A, B, epsilon)[1] * weights).sum() for s, c in ((1, up), (-1, down)))
        assert gradient[i, j] == pytest.approx(want / (2 * step), abs=2e-3)


def test_padding_with_tiny_weights_changes_nothing():
    a = np.append(A, [1e-9, 1e-9])
    padded = np.vstack([X, np.zeros((2, 3))])
    # the share is of the mean cost, which padding would change: the same epsilon on both sides
    share = 0.05 * cost64(X, Y).mean() / cost64(padded, Y).mean()
    plain = sinkhorn_divergence(X, Y, A, B, threshold=1e-6, max_iterations=5000).value
    more = sinkhorn_divergence(padded, Y, a, B, epsilon_share=share, threshold=1e-6, max_iterations=5000).value
    np.testing.assert_allclose(more, plain, rtol=1e-4)


def annealed64(x, y, blur, scaling):
    """The published sweep, from its description."""
    points = np.vstack([x, y])
    d = np.linalg.norm(points.max(0) - points.min(0))
    grid = np.exp(np.arange(2 * np.log(d), 2 * np.log(blur), 2 * np.log(scaling)))
    schedule = [d**2, *grid, blur**2]
    costs = [cost64(x, y), cost64(y, x), cost64(x, x), cost64(y, y)]
    la, lb = -np.log(len(x)), -np.log(len(y))
    weights = [lb, la, la, lb]
    soft = lambda e, c, h: -e * logsumexp(h - c / e, axis=1)  # noqa: E731
    f = [soft(schedule[0], c, w) for c, w in zip(costs, weights)]  # b_x, a_y, a_x, b_y
    partner = (1, 0, 2, 3)
    for e in schedule:
        new = [soft(e, c, w + f[p] / e) for c, w, p in zip(costs, weights, partner)]
        f = [(u + v) / 2 for u, v in zip(f, new)]
    f = [soft(blur**2, c, w + f[p] / blur**2) for c, w, p in zip(costs, weights, partner)]
    return (f[0] - f[2]).mean() + (f[1] - f[3]).mean()


@pytest.mark.parametrize("size", [1.0, 5.0])
def test_annealed_sweep_is_the_published_one(size):
    got = annealed_divergence(size * X, size * Y)
    np.testing.assert_allclose(got.value, annealed64(size * X, size * Y, 0.05, 0.9), rtol=2e-4)
    assert not bool(got.converged)
    gradient = jax.jit(jax.grad(lambda x: annealed_divergence(x, Y).value))(jnp.asarray(X, jnp.float32))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.01


def test_points_that_coincide_give_zero_and_no_nan():
    x = jnp.ones((4, 3))
    for function in (sinkhorn_divergence, annealed_divergence):
        value, gradient = jax.jit(jax.value_and_grad(lambda x: function(x, x[:2]).value))(x)  # noqa: B023
        assert abs(float(value)) < 1e-6
        assert np.isfinite(gradient).all()


def test_sharded_points_give_the_same_divergence_computed_on_every_device():
    mesh = sharding.make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    x, y = RNG.normal(size=(16, 4)).astype(np.float32), RNG.normal(size=(5, 4)).astype(np.float32)

    def value(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return sinkhorn_divergence(sharding.on_every_device(x), y).value

    run = jax.jit(jax.value_and_grad(value), in_shardings=sharding.batch_sharding(mesh))
    placed = sharding.put_batch({"x": x}, mesh)["x"]
    want = jax.jit(jax.value_and_grad(lambda x: sinkhorn_divergence(x, y).value))(x)
    for got, expected in zip(run(placed), want):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    text = run.lower(placed).compile().as_text()
    loops = [part for part in text.split("\n\n") if "while" in part.split("\n")[0] or "body" in part.split("(")[0]]
    assert "all-gather" in text
    assert not any(word in part for part in loops for word in ("all-reduce", "all-gather"))


def test_divergences_of_a_step_are_two_loops_together_and_the_same_numbers():
    """Each loop has a loop of ten updates inside, between two looks at the error: four in all, where each of the three
    problems of each divergence had two. (A potential's rounding is in the gradient divided by epsilon; a share of 0.1
    keeps it below a millionth.)"""
    share, rng = 0.1, np.random.default_rng(0)  # the number of turns hangs on the points
    x, y = rng.normal(size=(2, 7, 3)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    x[1] *= 3  # takes another number of turns
    b = rng.dirichlet(np.full(5, 3.0), 2).astype(np.float32)

    def value(x):
        found = jax.vmap(lambda x, y, b: ot.sinkhorn_divergence(x, y, b=b, epsilon_share=share))(x, y, b)
        return found.value.sum(), found

    run = jax.jit(jax.value_and_grad(value, has_aux=True)).lower(x)
    assert run.as_text().count("stablehlo.while") == 4
    (_, together), gradient = run.compile()(x)
    alone = jax.jit(jax.value_and_grad(lambda x, y, b: ot.sinkhorn_divergence(x, y, b=b, epsilon_share=share).value))
    for i in range(2):
        want, slope = alone(x[i], y[i], b[i])
        np.testing.assert_allclose(together.value[i], want, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(gradient[i], slope, atol=1e-6)
    assert together.iterations[0] != together.iterations[1]
    assert together.converged.all()

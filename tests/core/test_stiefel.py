"""Orthogonal parameters: the published sequence of updates, staying on the manifold, beside ordinary parameters."""

import jax
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim, stiefel
from jaxvl.core.errors import InputError


def rotation(d, seed=0):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q * np.where(np.arange(d) == 0, -1, 1)


def published(x, gradients, lr, momentum, decay, nesterov):
    """The sequence of geoopt's RiemannianSGD, on the weight, in float64."""
    m, eye = None, np.eye(len(x))
    for g in gradients:
        if m is None:
            m = g.copy()
        g = g + decay * x
        r = g - x @ g.T @ x
        m = momentum * m + r
        u = -lr * (r + momentum * m if nesterov else m)
        a = u @ x.T - x @ u.T
        moved = np.linalg.solve(eye - a / 2, (eye + a / 2) @ np.hstack([x, m]))
        x, m = moved[:, : len(eye)], moved[:, len(eye) :]
    return x


def optimizer(**fields):
    return optim.build(configs.optimizer(name="sgd", schedule="constant", stiefel="^turn/", **fields), 10)


@pytest.mark.parametrize("nesterov", [True, False])
def test_updates_are_the_published_ones(nesterov):
    x, rng = rotation(5), np.random.default_rng(1)
    gradients = [rng.normal(size=(5, 5)) for _ in range(6)]
    opt = optimizer(lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=1e-2, groups=(("^turn/", 2.0),))
    params = {"turn/kernel": np.float32(x.T)}  # a kernel is the transposed weight
    state, update = jax.jit(opt.direction.init)(params), jax.jit(opt.updates)
    for step, g in enumerate(gradients):
        moves, state, _ = update({"turn/kernel": np.float32(g.T)}, state, params, step)
        params = {"turn/kernel": np.add(params["turn/kernel"], moves["turn/kernel"])}
    want = published(x, gradients, 0.1, 0.9, 1e-2, nesterov)
    np.testing.assert_allclose(params["turn/kernel"].T, want, atol=2e-6)
    assert np.abs(want - x).max() > 0.1


def test_a_hundred_random_steps_stay_orthogonal_and_keep_the_determinant():
    opt = optimizer(lr=0.05, momentum=0.9, nesterov=True)
    params = {"turn/kernel": np.eye(16, dtype=np.float32)}
    state = jax.jit(opt.direction.init)(params)

    @jax.jit
    def step(params, state, gradient):
        moves, state, _ = opt.updates({"turn/kernel": gradient}, state, params, 0)
        return {k: params[k] + moves[k] for k in params}, state

    for gradient in np.random.default_rng(0).normal(size=(100, 16, 16)).astype(np.float32):
        params, state = step(params, state, gradient)
    w = np.asarray(params["turn/kernel"], np.float64)
    assert np.abs(w.T @ w - np.eye(16)).max() < 1e-5
    assert float(jax.jit(stiefel.orthogonality_error)(params["turn/kernel"])) < 1e-5
    assert np.linalg.det(w) == pytest.approx(1, abs=1e-4)
    assert np.abs(w - np.eye(16)).max() > 0.5


def test_projection_puts_a_drifted_matrix_back():
    drifted = np.float32(rotation(6)) * np.float32(1.01)
    sgd = stiefel.riemannian_sgd(0.0, project_every=2)
    params, zero = {"w": drifted}, {"w": np.zeros((6, 6), np.float32)}
    state, errors = jax.jit(sgd.init)(params), []

    @jax.jit
    def step(state, params):
        moves, state = sgd.update(zero, state, params, rates={"w": 0.1})
        params = {"w": params["w"] + moves["w"]}
        return state, params, stiefel.orthogonality_error(params["w"])

    for _ in range(2):
        state, params, error = step(state, params)
        errors.append(float(error))
    assert errors[0] == pytest.approx(0.0201, rel=1e-3)  # without gradient nothing moves, but for the projection
    assert errors[1] < 1e-6
    np.testing.assert_allclose(params["w"], rotation(6), atol=1e-6)


def test_other_parameters_are_updated_as_before_and_a_rate_of_zero_moves_nothing():
    rng = np.random.default_rng(0)
    params = {k: np.float32(rng.normal(size=(3, 3))) for k in ("a/kernel", "b/bias")}
    grads = {k: np.full((3, 3), 0.3, np.float32) for k in params}
    fields = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "groups": (("^b", 10.0),)}
    plain = optim.build(configs.optimizer(name="sgd", schedule="constant", **fields), 10)
    first = lambda opt: jax.jit(lambda grads, params: opt.updates(grads, opt.direction.init(params), params, 0))  # noqa: E731
    want, _, _ = first(plain)(grads, params)
    both = params | {"turn/kernel": np.eye(3, dtype=np.float32)}
    for kwargs, still in (({}, False), ({"lr": 0.0}, True)):
        opt = optimizer(**(fields | kwargs))
        grads_of_both = grads | {"turn/kernel": np.arange(9, dtype=np.float32).reshape(3, 3)}
        got, _, rate = first(opt)(grads_of_both, both)
        assert (np.abs(got["turn/kernel"]).max() < 1e-6) == still
        assert float(rate) == pytest.approx(kwargs.get("lr", 0.1))
        for k in params:
            np.testing.assert_array_equal(got[k], want[k] if not still else np.zeros((3, 3)))


def test_wrong_uses_are_named():
    with pytest.raises(InputError, match=r"turn/kernel: shape \[2, 3\] is no square matrix"):
        optimizer().direction.init({"turn/kernel": np.zeros((2, 3), np.float32)})
    with pytest.raises(InputError, match=r"config.optim.main.stiefel: only sgd has a manifold form, name is 'adamw'"):
        optim.build(configs.optimizer(stiefel="turn"), 10)
    assert "stiefel" not in configs.optimizer()
    with pytest.raises(InputError, match=r"unknown field 'steifel'; did you mean stiefel"):
        configs.optimizer(steifel="turn")

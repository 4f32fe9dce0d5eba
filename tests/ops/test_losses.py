from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxvl.ops.losses import symmetric_infonce
from jaxvl.ops.masking import l2_normalize, masked_mean, unit_mean

infonce = jax.jit(symmetric_infonce)


@pytest.mark.parametrize(("n", "c"), [(4, 0.0), (4, 2.0), (7, 5.0)])
def test_scaled_identity(n, c):
    expected = math.log(1 + (n - 1) * math.exp(-c))
    assert float(infonce(c * np.eye(n, dtype=np.float32))) == pytest.approx(expected, rel=1e-5)


def test_agrees_with_scipy_in_both_directions():
    s = np.random.default_rng(0).normal(size=(6, 6)) * 4
    expected = -0.5 * (np.diag(log_softmax(s, 1)).mean() + np.diag(log_softmax(s, 0)).mean())
    assert float(infonce(s)) == pytest.approx(expected, rel=1e-5)
    assert jax.eval_shape(symmetric_infonce, jax.ShapeDtypeStruct(s.shape, jnp.bfloat16)).dtype == jnp.float32


def test_same_id_pairs_leave_the_denominator():
    s = np.random.default_rng(1).normal(size=(4, 4))
    ids = np.array([0, 1, 0, 2])
    rows = []
    for m in (s, s.T):
        for i in range(4):
            keep = [j for j in range(4) if j == i or ids[j] != ids[i]]
            rows.append(np.log(np.exp(m[i, keep]).sum()) - m[i, i])
    value, gradient = jax.jit(jax.value_and_grad(symmetric_infonce))(s, ids)
    for found in (value, infonce(s, ids[:, None] == ids[None, :])):
        assert float(found) == pytest.approx(np.mean(rows), rel=1e-5)
    gradient = np.asarray(gradient)
    assert gradient[0, 2] == 0
    assert gradient[2, 0] == 0
    assert gradient[0, 1] != 0


def test_l2_normalize():
    def total(x):
        unit = l2_normalize(x)
        return unit.sum(), unit

    slope = jax.jit(jax.grad(total, has_aux=True))
    np.testing.assert_allclose(slope(np.array([3, 4, 0], np.float32))[1], [0.6, 0.8, 0], rtol=1e-6)
    gradient, unit = slope(np.zeros(3, np.float32))
    np.testing.assert_array_equal(unit, 0)
    assert np.isfinite(np.asarray(gradient)).all()


def test_masked_mean():
    x = np.array([[[1, 2], [3, 4], [np.nan, np.inf]], [[5, 6]] * 3], np.float32)
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(jax.jit(masked_mean, static_argnums=2)(x, mask, 1), [[2, 3], [0, 0]])


def test_unit_mean():
    """(3, 0) and (0, 4) point to (1, 1) / sqrt 2, however long they are; nothing gives 0 and a finite gradient."""
    x = np.array([[[3, 0], [0, 4], [np.nan, 7]]] * 2, np.float32)
    mask = np.array([[1, 1, 0], [0, 0, 0]])

    @jax.jit
    def every(x, mask, ones):
        slope = jax.grad(lambda x: unit_mean(x, mask).sum())(ones)
        return unit_mean(x, mask), unit_mean(x[None], mask[None]), slope

    mean, deeper, gradient = jax.device_get(every(x, mask, np.ones((2, 3, 2), np.float32)))
    np.testing.assert_allclose(mean, [[0.5**0.5] * 2, [0, 0]], atol=1e-6)
    np.testing.assert_allclose(deeper, mean[None])
    assert np.isfinite(gradient).all()

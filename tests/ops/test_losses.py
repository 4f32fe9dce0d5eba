from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxvl.ops.losses import symmetric_infonce
from jaxvl.ops.masking import l2_normalize, masked_mean, unit_mean


@pytest.mark.parametrize(("n", "c"), [(4, 0.0), (4, 2.0), (7, 5.0)])
def test_scaled_identity(n, c):
    expected = math.log(1 + (n - 1) * math.exp(-c))
    assert float(symmetric_infonce(c * jnp.eye(n))) == pytest.approx(expected, rel=1e-5)


def test_agrees_with_scipy_in_both_directions():
    s = np.random.default_rng(0).normal(size=(6, 6)) * 4
    expected = -0.5 * (np.diag(log_softmax(s, 1)).mean() + np.diag(log_softmax(s, 0)).mean())
    assert float(symmetric_infonce(jnp.asarray(s))) == pytest.approx(expected, rel=1e-5)
    assert symmetric_infonce(jnp.asarray(s, jnp.bfloat16)).dtype == jnp.float32


def test_same_id_pairs_leave_the_denominator():
    s = np.random.default_rng(1).normal(size=(4, 4))
    ids = np.array([0, 1, 0, 2])
    rows = []
    for m in (s, s.T):
        for i in range(4):
            keep = [j for j in range(4) if j == i or ids[j] != ids[i]]
            rows.append(np.log(np.exp(m[i, keep]).sum()) - m[i, i])
    for given in (jnp.asarray(ids), jnp.asarray(ids[:, None] == ids[None, :])):
        assert float(symmetric_infonce(jnp.asarray(s), given)) == pytest.approx(np.mean(rows), rel=1e-5)
    gradient = jax.grad(lambda s: symmetric_infonce(s, jnp.asarray(ids)))(jnp.asarray(s))
    assert gradient[0, 2] == 0
    assert gradient[2, 0] == 0
    assert gradient[0, 1] != 0


def test_l2_normalize():
    np.testing.assert_allclose(l2_normalize(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(l2_normalize(jnp.zeros(3)), 0)
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))).all()


def test_masked_mean():
    x = jnp.array([[[1.0, 2.0], [3.0, 4.0], [jnp.nan, jnp.inf]], [[5.0, 6.0]] * 3])
    mask = jnp.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(masked_mean(x, mask, 1), [[2, 3], [0, 0]])


def test_unit_mean():
    """(3, 0) and (0, 4) point to (1, 1) / sqrt 2, however long they are; nothing gives 0 and a finite gradient."""
    x = jnp.array([[[3.0, 0.0], [0.0, 4.0], [jnp.nan, 7.0]]] * 2)
    mask = jnp.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(unit_mean(x, mask), [[0.5**0.5] * 2, [0, 0]], atol=1e-6)
    np.testing.assert_allclose(unit_mean(x[None], mask[None]), unit_mean(x, mask)[None])
    assert np.isfinite(jax.grad(lambda x: unit_mean(x, mask).sum())(jnp.ones((2, 3, 2)))).all()

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.ops import token_reduction as R


def test_sparse_indices_in_evaluation():
    np.testing.assert_array_equal(R.sparse_indices(48, 10), [2, 7, 12, 16, 21, 26, 31, 36, 40, 45])
    np.testing.assert_array_equal(R.sparse_indices(9, 9), np.arange(9))
    assert R.sparse_indices(48, 10, shape=(2, 3)).shape == (2, 3, 10)


def test_sparse_indices_in_training_take_one_of_each_stride():
    drawn = np.asarray(R.sparse_indices(50, 8, jax.random.key(0), (200,)))
    np.testing.assert_array_equal(drawn // 6, np.broadcast_to(np.arange(8), (200, 8)))
    assert {int(v) for v in drawn[:, 3] % 6} == set(range(6))


def test_random_indices_are_distinct_ascending_and_uniform():
    drawn = np.asarray(R.random_indices(jax.random.key(1), 12, 4, (3000,)))
    assert (np.diff(drawn, axis=-1) > 0).all()
    share = np.bincount(drawn.ravel(), minlength=12) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=0.05)


@pytest.mark.parametrize("k", [0, 6])
def test_too_many_tokens(k):
    with pytest.raises(InputError, match="of 5 tokens"):
        R.sparse_indices(5, k)
    with pytest.raises(InputError, match="of 5 tokens"):
        R.random_indices(jax.random.key(0), 5, k)


def test_gather_and_its_gradient():
    x = jnp.arange(24.0).reshape(2, 4, 3)
    index = jnp.array([[3, 0], [1, 2]])
    np.testing.assert_array_equal(R.gather_tokens(x, index)[:, 0, 0], [9, 15])
    gradient = jax.grad(lambda x: (R.gather_tokens(x, index) * 2).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [2, 0, 0, 2])
    np.testing.assert_array_equal(gradient[1, :, 0], [0, 2, 2, 0])


def test_cluster_mean():
    x = np.random.default_rng(0).normal(size=(2, 10, 3)).astype(np.float32)
    assign = np.array([np.arange(10) % 3, np.zeros(10, int)])
    out = np.asarray(R.cluster_mean(x, assign, 3))
    for c in range(3):
        np.testing.assert_allclose(out[0, c], x[0, assign[0] == c].mean(0), rtol=1e-5)
    np.testing.assert_allclose(out[1, 0], x[1].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(out[1, 1:], 0)


def test_shifts_by_hand():
    x = np.arange(3, dtype=np.float32)[None, :, None, None] + np.zeros((1, 3, 2, 16), np.float32) + 1  # frames 1, 2, 3
    out = np.asarray(R.temporal_shift(x))
    np.testing.assert_array_equal(out[0, :, 0, 0], [2, 3, 0])
    np.testing.assert_array_equal(out[0, :, 1, 1], [2, 3, 0])
    np.testing.assert_array_equal(out[0, :, 0, 3], [0, 1, 2])
    np.testing.assert_array_equal(out[..., 4:], x[..., 4:])
    patches, tokens = np.asarray(R.patch_shift(x)), np.asarray(R.token_shift(x))
    np.testing.assert_array_equal(patches[:, :, 0], x[:, :, 0])
    np.testing.assert_array_equal(patches[:, :, 1], out[:, :, 1])
    np.testing.assert_array_equal(tokens[:, :, 1], x[:, :, 1])
    np.testing.assert_array_equal(tokens[:, :, 0], out[:, :, 0])

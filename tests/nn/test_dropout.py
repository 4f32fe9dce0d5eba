"""Dropout with few random bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.nn.dropout import Dropout


def dropped(rate, x, key=0, **kwargs):
    return Dropout(rate).apply({}, x, rngs={"dropout": jax.random.key(key)}, **{"deterministic": False} | kwargs)


@pytest.mark.parametrize("rate", [0.25, 0.1, 0.999])
def test_units_are_dropped_at_the_rate_and_the_mean_stays(rate):
    x = jnp.full((400, 501), 3.0)
    y = np.asarray(dropped(rate, x))
    kept = y != 0
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * np.sqrt(rate * (1 - rate) / x.size))
    np.testing.assert_allclose(y[kept], 3 / (1 - rate), rtol=1e-6)


def test_units_are_dropped_each_for_itself():
    kept = np.asarray(dropped(0.25, jnp.ones((2000, 12)))) != 0
    together = np.corrcoef(kept.T) - np.eye(12)
    assert np.abs(together).max() < 5 / np.sqrt(2000)
    assert np.abs(kept.mean(0) - 0.75).max() < 5 * np.sqrt(0.75 * 0.25 / 2000)
    assert (kept != (np.asarray(dropped(0.25, jnp.ones((2000, 12)), key=1)) != 0)).any()


def test_gradients_pass_where_units_do_and_nothing_is_drawn_outside_of_training():
    x = jnp.arange(1.0, 33.0).reshape(4, 8)
    slope = jax.grad(lambda x: dropped(0.25, x).sum())(x)
    np.testing.assert_allclose(slope, np.where(np.asarray(dropped(0.25, x)) != 0, 1 / 0.75, 0), rtol=1e-6)
    assert dropped(0.25, x, deterministic=True) is x
    assert dropped(0.0, x) is x
    assert dropped(0.25, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16

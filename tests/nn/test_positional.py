from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.nn.positional import RULES, cubic_matrix, resize_positions

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rule", RULES)
def test_same_grid_is_the_identity(rule):
    table = RNG.standard_normal((50, 6)).astype(np.float32)
    np.testing.assert_array_equal(resize_positions(table, 7, rule), table)
    np.testing.assert_allclose(cubic_matrix(7, 7, rule), np.eye(7), atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (7, 10), (16, 24), (24, 16), (3, 8)])
def test_openclip_rule_is_jax_cubic_with_antialias(old, new):
    table = RNG.standard_normal((1 + old * old, 5)).astype(np.float32)
    grid = table[1:].reshape(old, old, 5)
    expected = jax.image.resize(grid, (new, new, 5), "cubic", antialias=True, precision="highest")
    got = resize_positions(table, new, "openclip")
    np.testing.assert_allclose(
        got[1:], np.reshape(expected, (new * new, 5)), atol=1e-5
    )  # jax has its weights in float32
    np.testing.assert_array_equal(got[0], table[0])


def test_hf_rule_by_hand():
    """2 -> 4 of the values 0 and 1: centres at -0.25, 0.25, 0.75, 1.25, edges repeated, a = -0.75."""

    def w(x, a=-0.75):
        x = abs(x)
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    # the taps on 1 for s = 0.25 are at distance 0.75 (sample 1) and 1.75 (sample 2, which repeats sample 1)
    quarter = w(0.75) + w(1.75)
    # for s = -0.25: sample 1 only, at distance 1.25
    assert cubic_matrix(2, 4, "hf")[:, 1] == pytest.approx([w(1.25), quarter, 1 - quarter, 1 - w(1.25)])
    assert w(0) == 1
    assert w(1) == pytest.approx(0)


@pytest.mark.parametrize("rule", RULES)
def test_constants_stay_and_axes_do_not_mix(rule):
    np.testing.assert_allclose(cubic_matrix(7, 11, rule).sum(1), 1)
    np.testing.assert_allclose(cubic_matrix(11, 7, rule).sum(1), 1)
    rows = np.repeat(np.arange(4.0), 4)[:, None]  # the value is the row
    out = resize_positions(np.concatenate([[[9.0]], rows]), (8, 4), rule)
    assert out.shape == (33, 1)
    grid = out[1:].reshape(8, 4)
    np.testing.assert_allclose(grid, np.repeat(grid[:, :1], 4, 1))
    assert np.all(np.diff(grid[:, 0]) > 0)


def test_the_two_rules_differ():
    table = RNG.standard_normal((50, 2))
    assert np.abs(resize_positions(table, 14, "hf") - resize_positions(table, 14, "openclip")).max() > 0.01


def test_errors():
    with pytest.raises(InputError, match="unknown rule 'linear'"):
        cubic_matrix(2, 4, "linear")
    with pytest.raises(InputError, match="49 rows are not a class token and a square grid"):
        resize_positions(np.zeros((49, 2)), 14)

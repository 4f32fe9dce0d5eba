"""FLOPs of a trace, against counts by hand and XLA's own analysis."""

import jax
import jax.numpy as jnp
import pytest

from jaxvl.core import flops

X, W = jnp.ones((4, 8)), jnp.ones((8, 8))
ONE = 2 * 4 * 8 * 8


def test_a_scan_counts_as_often_as_it_turns():
    """Six layers: forward 6, with gradients three times as many, with all of it computed again four times."""
    w = jnp.ones((6, 8, 8))
    run = lambda w, x: jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()  # noqa: E731
    again = lambda w, x: jax.lax.scan(jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None)), x, w)[0].sum()  # noqa: E731
    assert flops.of(run, w, X) == 6 * ONE
    assert flops.of(jax.grad(run, argnums=(0, 1)), w, X) == 3 * 6 * ONE
    assert flops.of(jax.grad(again, argnums=(0, 1)), w, X) == 4 * 6 * ONE


def test_of_branches_the_most_expensive_and_of_a_while_one_turn():
    branches = lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ W @ W, lambda x: x @ W, x)  # noqa: E731
    assert flops.of(branches, X) == 2 * ONE
    assert flops.of(lambda x: jax.lax.while_loop(lambda s: s.sum() < 9, lambda s: s @ W, x), X) == ONE


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients(stride):
    """XLA's analysis of the program as it is lowered, which counts what a padded point gives as nothing."""
    run = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x, k = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 6))
    assert flops.of(run, x, k) == jax.jit(run).lower(x, k).cost_analysis()["flops"]
    _, pull = jax.vjp(run, x, k)
    dy = jnp.ones(jax.eval_shape(run, x, k).shape)
    assert flops.of(pull, dy) == jax.jit(pull).lower(dy).cost_analysis()["flops"]


def test_padding_counts_if_asked_for():
    assert flops.valid_pairs(8, 3, 8, low=1) == 8 * 3 - 2
    assert flops.valid_pairs(8, 3, 8, low=1, padding=True) == 8 * 3
    assert flops.valid_pairs(4, 1, 7, dilation=2) == 4

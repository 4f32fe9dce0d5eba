from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.ops import selection

SURE = jnp.array([60.0, 0, 0, 0])  # a softmax of one-hot to the last bit


def test_known_weights_without_noise():
    """e / (e + 3) and 1 / (e + 3): a sure item raises its logit by 1."""
    w = selection.select("official", SURE, 2, train=True)
    np.testing.assert_allclose(w, [[0.475367, 0.174878, 0.174878, 0.174878]] * 2, atol=1e-6)
    w = selection.select("official", jnp.eye(32)[5] * 60, 1, train=False, tau=100.0)
    np.testing.assert_allclose(w[0, 5], 0.0315542, atol=1e-7)
    np.testing.assert_allclose(w[0, 4], 0.0312402, atol=1e-7)
    np.testing.assert_allclose(
        selection.select("official", jnp.array([1.0, 3, 2]), 1, train=True, tau=1e-3), [[0, 1, 0]]
    )
    np.testing.assert_allclose(selection.select("logp", SURE, 1, train=True), [[1, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(selection.select("uniform", SURE, 3, train=True), np.full((3, 4), 0.25))
    np.testing.assert_array_equal(
        selection.select("oracle", SURE, 2, train=True, indices=jnp.array([3, 1])), np.eye(4)[[3, 1]]
    )


@pytest.mark.parametrize(("n", "weight", "first"), [(8, 0.2285, 0.280), (16, 0.1244, 0.153), (32, 0.0661, 0.081)])
def test_noise_on_probabilities_hardly_selects(n, weight, first):
    """Expected weight of a sure item, and how often it is the largest: e / (e + n - 1)."""
    noise = selection.gumbel(jax.random.key(n), (100_000, 1, n))
    w = selection.select("official", jnp.zeros((100_000, n)).at[:, 0].set(60.0), 1, train=True, noise=noise)[:, 0]
    np.testing.assert_allclose(w[:, 0].mean(), weight, atol=0.003)
    np.testing.assert_allclose((w.argmax(-1) == 0).mean(), np.e / (np.e + n - 1), atol=0.005)
    np.testing.assert_allclose((w.argmax(-1) == 0).mean(), first, atol=0.006)


def test_noise_on_log_probabilities_draws_items_by_their_probability():
    """The largest of log p + g is distributed as p (Gumbel-max)."""
    p = jnp.array([0.5, 0.3, 0.15, 0.05])
    noise = selection.gumbel(jax.random.key(1), (100_000, 1, 4))
    w = selection.select("hard", jnp.broadcast_to(jnp.log(p), (100_000, 4)), 1, train=True, noise=noise)
    np.testing.assert_allclose(w[:, 0].mean(0), p, atol=0.006)


def test_hard_is_one_hot_with_the_gradient_of_the_soft_one():
    rng = np.random.default_rng(0)
    scores, noise = jnp.array(rng.normal(size=(3, 5))), selection.gumbel(jax.random.key(2), (3, 2, 5))
    readout, items = jnp.array(rng.normal(size=(3, 2, 4))), jnp.array(rng.normal(size=(3, 5, 4)))

    def value(scores, items, mode):
        w = selection.select(mode, scores, 2, train=True, noise=noise, tau=0.7, scale=1.3)
        return (jnp.einsum("bsn,bnd->bsd", w, items) * readout).sum()

    w = selection.select("hard", scores, 2, train=True, noise=noise, tau=0.7, scale=1.3)
    np.testing.assert_allclose(w.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(w, jax.nn.one_hot(w.argmax(-1), 5), atol=1e-6)
    hard, soft = (jax.grad(value)(scores, items, mode) for mode in ("hard", "logp"))
    np.testing.assert_allclose(hard, soft, atol=1e-6)
    to_items = jax.grad(value, 1)(scores, items, "hard")
    chosen = np.asarray(w.argmax(-1))
    unchosen = np.array([[i not in chosen[b] for i in range(5)] for b in range(3)])
    assert (np.asarray(to_items)[unchosen] == 0).all()  # exactly
    assert (np.abs(hard) > 1e-4).all()  # while every score is reached


@pytest.mark.parametrize("mode", ["official", "logp"])
def test_gradient_is_that_of_finite_differences(mode):
    """Of a read-out that is not linear, against central differences in float64 numpy."""
    rng = np.random.default_rng(3)
    scores, items, noise = rng.normal(size=6) * 2, rng.normal(size=(6, 3)), rng.gumbel(size=(2, 6))
    tau, scale = 0.8, 1.7

    def reference(scores):
        p = np.exp(scores / scale) / np.exp(scores / scale).sum()
        z = ((p if mode == "official" else np.log(p)) + noise) / tau
        w = np.exp(z - z.max(-1, keepdims=True))
        return np.tanh((w / w.sum(-1, keepdims=True)) @ items).sum()

    def ours(scores):
        w = selection.select(mode, scores, 2, train=True, noise=jnp.array(noise), tau=tau, scale=scale)
        return jnp.tanh(w @ items).sum()

    steps = np.eye(6) * 1e-5
    expected = [(reference(scores + h) - reference(scores - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(jax.grad(ours)(jnp.array(scores, jnp.float32)), expected, atol=2e-5)


def test_largest_picks_are_distinct_and_in_order():
    scores = jnp.array([[0.1, 0.9, 0.9, 0.2, 0.9], [5.0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(selection.select("hard", scores, 2, train=False).argmax(-1), [[1, 2], [0, 4]])
    np.testing.assert_array_equal(
        selection.select("hard", scores, 2, train=False, pick="replace").argmax(-1), [[1, 1], [0, 0]]
    )
    np.testing.assert_array_equal(
        selection.select("hard", scores, 5, train=False), np.broadcast_to(np.eye(5), (2, 5, 5))
    )
    assert not jax.grad(lambda s: (selection.select("hard", s, 2, train=False) * scores[:, None]).sum())(scores).any()


def test_noise_of_an_example_does_not_hang_on_its_place():
    key, numbers = jax.random.key(7), jnp.array([11, 5, 11, 2**31 - 1], jnp.int32)
    noise = selection.gumbel_of(key, numbers, (2, 3))
    np.testing.assert_array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(selection.gumbel_of(key, numbers[1:2], (2, 3))[0], noise[1])
    assert (noise[0] != noise[1]).all()
    draws = selection.gumbel_of(key, jnp.arange(20_000), (4,))
    np.testing.assert_allclose(draws.mean(), np.euler_gamma, atol=0.02)
    np.testing.assert_allclose(draws.var(), np.pi**2 / 6, atol=0.04)


def test_random_draws_every_item_alike_and_wrong_calls_are_refused():
    noise = selection.gumbel(jax.random.key(3), (40_000, 1, 4))
    w = selection.select("random", jnp.zeros((40_000, 4)).at[:, 0].set(9.0), 1, train=False, noise=noise)
    np.testing.assert_allclose(w.mean((0, 1)), 0.25, atol=0.01)
    for wrong in (
        lambda: selection.select("random", SURE, 1, train=True),
        lambda: selection.select("oracle", SURE, 1, train=True),
        lambda: selection.select("best", SURE, 1, train=True),
        lambda: selection.select("hard", SURE, 5, train=False),
        lambda: selection.largest(SURE, 1, "first"),
    ):
        with pytest.raises(InputError, match="selection"):
            wrong()

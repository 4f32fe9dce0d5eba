from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.ops import selection

SURE = np.array([60.0, 0, 0, 0], np.float32)  # a softmax of one-hot to the last bit


def test_known_weights_without_noise():
    """e / (e + 3) and 1 / (e + 3): a sure item raises its logit by 1."""

    @jax.jit
    def every(sure, of_many, three, indices):
        return (
            selection.select("official", sure, 2, train=True),
            selection.select("official", of_many, 1, train=False, tau=100.0),
            selection.select("official", three, 1, train=True, tau=1e-3),
            selection.select("logp", sure, 1, train=True),
            selection.select("uniform", sure, 3, train=True),
            selection.select("oracle", sure, 2, train=True, indices=indices),
        )

    three = np.array([1, 3, 2], np.float32)
    found = map(np.asarray, every(SURE, np.eye(32, dtype=np.float32)[5] * 60, three, np.array([3, 1])))
    official, of_many, cold, logp, uniform, oracle = found
    np.testing.assert_allclose(official, [[0.475367, 0.174878, 0.174878, 0.174878]] * 2, atol=1e-6)
    np.testing.assert_allclose(of_many[0, 5], 0.0315542, atol=1e-7)
    np.testing.assert_allclose(of_many[0, 4], 0.0312402, atol=1e-7)
    np.testing.assert_allclose(cold, [[0, 1, 0]])
    np.testing.assert_allclose(logp, [[1, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(uniform, np.full((3, 4), 0.25))
    np.testing.assert_array_equal(oracle, np.eye(4)[[3, 1]])


@pytest.mark.parametrize(("n", "weight", "first"), [(8, 0.2285, 0.280), (16, 0.1244, 0.153), (32, 0.0661, 0.081)])
def test_noise_on_probabilities_hardly_selects(n, weight, first):
    """Expected weight of a sure item, and how often it is the largest: e / (e + n - 1)."""

    @jax.jit
    def weights(key, scores):
        noise = selection.gumbel(key, (100_000, 1, n))
        return selection.select("official", scores, 1, train=True, noise=noise)

    sure = 60 * np.eye(n, dtype=np.float32)[0]
    w = np.asarray(weights(jax.random.key(n), np.broadcast_to(sure, (100_000, n))))[:, 0]
    np.testing.assert_allclose(w[:, 0].mean(), weight, atol=0.003)
    np.testing.assert_allclose((w.argmax(-1) == 0).mean(), np.e / (np.e + n - 1), atol=0.005)
    np.testing.assert_allclose((w.argmax(-1) == 0).mean(), first, atol=0.006)


def test_noise_on_log_probabilities_draws_items_by_their_probability():
    """The largest of log p + g is distributed as p (Gumbel-max)."""
    p = np.array([0.5, 0.3, 0.15, 0.05], np.float32)

    @jax.jit
    def weights(key, scores):
        noise = selection.gumbel(key, (100_000, 1, 4))
        return selection.select("hard", scores, 1, train=True, noise=noise)

    w = np.asarray(weights(jax.random.key(1), np.broadcast_to(np.log(p), (100_000, 4))))
    np.testing.assert_allclose(w[:, 0].mean(0), p, atol=0.006)


def test_hard_is_one_hot_with_the_gradient_of_the_soft_one():
    rng = np.random.default_rng(0)
    scores, noise = jnp.array(rng.normal(size=(3, 5))), jnp.array(rng.gumbel(size=(3, 2, 5)))
    readout, items = jnp.array(rng.normal(size=(3, 2, 4))), jnp.array(rng.normal(size=(3, 5, 4)))

    def value(scores, items, mode):
        w = selection.select(mode, scores, 2, train=True, noise=noise, tau=0.7, scale=1.3)
        return (jnp.einsum("bsn,bnd->bsd", w, items) * readout).sum(), w

    slopes = jax.jit(jax.grad(value, (0, 1), has_aux=True), static_argnums=2)
    (hard, to_items), w = slopes(scores, items, "hard")
    (soft, _), _ = slopes(scores, items, "logp")
    w = np.asarray(w)
    np.testing.assert_allclose(w.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(w, np.eye(5)[w.argmax(-1)], atol=1e-6)
    np.testing.assert_allclose(hard, soft, atol=1e-6)
    chosen = w.argmax(-1)
    unchosen = np.array([[i not in chosen[b] for i in range(5)] for b in range(3)])
    assert (np.asarray(to_items)[unchosen] == 0).all()  # exactly
    assert (np.abs(np.asarray(hard)) > 1e-4).all()  # while every score is reached


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
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(jnp.array(scores, jnp.float32)), expected, atol=2e-5)


def test_largest_picks_are_distinct_and_in_order():
    scores = jnp.array([[0.1, 0.9, 0.9, 0.2, 0.9], [5.0, 1, 2, 3, 4]])

    def value(s):
        w = selection.select("hard", s, 2, train=False)
        again = selection.select("hard", s, 2, train=False, pick="replace")
        return (w * scores[:, None]).sum(), (w, again, selection.select("hard", s, 5, train=False))

    gradient, picked = jax.jit(jax.grad(value, has_aux=True))(scores)
    two, replaced, all_five = map(np.asarray, picked)
    np.testing.assert_array_equal(two.argmax(-1), [[1, 2], [0, 4]])
    np.testing.assert_array_equal(replaced.argmax(-1), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(all_five, np.broadcast_to(np.eye(5), (2, 5, 5)))
    assert not np.asarray(gradient).any()


def test_noise_of_an_example_does_not_hang_on_its_place():
    key, numbers = jax.random.key(7), np.array([11, 5, 11, 2**31 - 1], np.int32)
    draw = jax.jit(selection.gumbel_of, static_argnums=2)
    noise = np.asarray(draw(key, numbers, (2, 3)))
    np.testing.assert_array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(draw(key, numbers[1:2], (2, 3))[0], noise[1])
    assert (noise[0] != noise[1]).all()
    draws = np.asarray(draw(key, np.arange(20_000), (4,)))
    np.testing.assert_allclose(draws.mean(), np.euler_gamma, atol=0.02)
    np.testing.assert_allclose(draws.var(), np.pi**2 / 6, atol=0.04)


def test_random_draws_every_item_alike_and_wrong_calls_are_refused():
    @jax.jit
    def weights(key, scores):
        noise = selection.gumbel(key, (40_000, 1, 4))
        return selection.select("random", scores, 1, train=False, noise=noise)

    w = weights(jax.random.key(3), np.broadcast_to(9 * np.eye(4, dtype=np.float32)[0], (40_000, 4)))
    np.testing.assert_allclose(np.asarray(w).mean((0, 1)), 0.25, atol=0.01)
    for wrong in (
        lambda: selection.select("random", SURE, 1, train=True),
        lambda: selection.select("oracle", SURE, 1, train=True),
        lambda: selection.select("best", SURE, 1, train=True),
        lambda: selection.select("hard", SURE, 5, train=False),
        lambda: selection.largest(SURE, 1, "first"),
    ):
        with pytest.raises(InputError, match="selection"):
            wrong()

"""The state's replacement: the same numbers as without it, in place, and none where a number was not finite."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvl.core import in_place, session, sharding
from tests import toys

OPTIMIZERS = {
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "plain": optax.sgd(0.1),
    "parts": optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, 0.9)}, {"a": "a", "b": "b"}),
    "every second": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
}


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moves_and_state_are_those_of_the_optimizer(name):
    params, optimizer = drawn(0), OPTIMIZERS[name]

    def function(state, grads):
        moves, state = optimizer.update(grads, state, params)
        return state, moves

    replaced = jax.jit(lambda *a: in_place.replaced(function, *a))
    ours = theirs = optimizer.init(params)
    for seed in (1, 2, 3):
        ours, moves = replaced(True, ours, drawn(seed))
        theirs, wanted = jax.jit(function)(theirs, drawn(seed))
        for a, b in zip(jax.tree.leaves((ours, moves)), jax.tree.leaves((theirs, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    kept, _ = replaced(False, ours, jax.tree.map(lambda x: x * np.nan, params))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_is_constant_or_does_not_change():
    state = (jnp.ones(3), jnp.zeros(3), jnp.full(3, 2.0))
    function = lambda s, x: ((s[0], jnp.float32(0) * s[1], s[2] + x), s[2] * x)  # noqa: E731
    new, rest = jax.jit(lambda *a: in_place.replaced(function, *a))(True, state, jnp.ones(3))
    np.testing.assert_array_equal(jnp.stack(new), [[1] * 3, [0] * 3, [3] * 3])
    np.testing.assert_array_equal(rest, [2] * 3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_compiled_step_copies_no_moment_and_no_parameter(optimizer):
    config = toys.toy_config(ema=0.9, clip_norm=0.5)
    momentum = {"momentum": 0.9, "nesterov": True} if optimizer == "sgd" else {}
    config.optim.main.update({"name": optimizer, **momentum})
    method = toys.contrastive()
    compiled = session.compile_method(config, method, jax.devices()[:1])
    state = compiled.fresh_state()
    batch = {s: sharding.put_batch(b, compiled.mesh) for s, b in next(iter(toys.host_batches(1))).items()}
    text = compiled.updates[method.objective_at(0)].jitted.lower(state, batch).compile().as_text()
    shapes = {",".join(map(str, x.shape)) for x in jax.tree.leaves(state.params)}
    copied = re.findall(r"= f32\[([\d,]+)\]\S* copy\(", text)
    assert not shapes & set(copied)

"""A linear classifier on frozen features, fitted to the end: what a representation knows, without a recipe to tune.

Features are standardised by the training rows; the loss is the mean cross-entropy plus `l2/2` times the squared norm
of the weights, which has one minimum, found by L-BFGS. So two representations are compared by one number each.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 200


def probe_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, l2: float = 1e-3, steps: int = STEPS
) -> np.ndarray:
    """Logits `[N, classes]` of `test [N, D]` by the classifier fitted to `train [M, D]`, labels `[M]`.

    l2: weight decay, in units of the mean loss. steps: of L-BFGS. ValueError without training rows.
    """
    if len(train) == 0:
        raise ValueError("a linear probe without training rows")
    train, test = np.asarray(train, np.float32), np.asarray(test, np.float32)
    mean, sd = train.mean(0), train.std(0) + 1e-6
    weights = _fit((jnp.asarray((train - mean) / sd),), jnp.asarray(labels, jnp.int32), classes, l2, steps)
    return (test - mean) / sd @ np.asarray(weights["w"]) + np.asarray(weights["b"])


@functools.partial(jax.jit, static_argnames=("classes", "steps"))
def _fit(xs: tuple[jax.Array, ...], y: jax.Array, classes: int, l2: float, steps: int) -> dict[str, jax.Array]:
    def nll(weights, x):
        logits = x @ weights["w"][: x.shape[1]] + weights["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def loss(weights):
        return sum(nll(weights, x) for x in xs) + 0.5 * l2 * jnp.square(weights["w"]).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    weights = {"w": jnp.zeros((max(x.shape[1] for x in xs), classes)), "b": jnp.zeros(classes)}

    def step(carry, _):
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = optimizer.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)[0][0]


def shared_probe_scores(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    classes: int,
    l2: float = 1e-3,
    steps: int = STEPS,
) -> dict[str, np.ndarray]:
    """Logits `{name: [N, classes]}` of one classifier for networks whose features are nested in size.

    features: `{name: (train [M, D_i], test [N, D_i])}`; network i uses the leading `D_i` rows of the one weight matrix,
    and all share its bias. The sum of their losses is minimised; each is standardised on its own. ValueError without
    training rows.
    """
    trains, tests = [], []
    for train, test in features.values():
        if len(train) == 0:
            raise ValueError("a linear probe without training rows")
        mean, sd = train.mean(0), train.std(0) + 1e-6
        trains.append(jnp.asarray((train - mean) / sd, jnp.float32))
        tests.append((test - mean) / sd)
    weights = _fit(tuple(trains), jnp.asarray(labels, jnp.int32), classes, l2, steps)
    w, b = np.asarray(weights["w"]), np.asarray(weights["b"])
    return {name: test @ w[: test.shape[1]] + b for name, test in zip(features, tests, strict=True)}

"""A linear classifier on frozen features, fitted to the end: what a representation knows, without a recipe to tune.

Features are standardised by the training rows; the loss is the mean cross-entropy plus `l2/2` times the squared norm
of the weights, which has one minimum, found by L-BFGS. So two representations are compared by one number each.
"""

from __future__ import annotations

import functools

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
    weights = _fit(jnp.asarray((train - mean) / sd), jnp.asarray(labels, jnp.int32), classes, l2, steps)
    return (test - mean) / sd @ np.asarray(weights["w"]) + np.asarray(weights["b"])


@functools.partial(jax.jit, static_argnames=("classes", "steps"))
def _fit(x: jax.Array, y: jax.Array, classes: int, l2: float, steps: int) -> dict[str, jax.Array]:
    def loss(weights):
        nll = optax.softmax_cross_entropy_with_integer_labels(x @ weights["w"] + weights["b"], y).mean()
        return nll + 0.5 * l2 * jnp.square(weights["w"]).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    weights = {"w": jnp.zeros((x.shape[1], classes)), "b": jnp.zeros(classes)}

    def step(carry, _):
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = optimizer.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=steps)[0][0]

"""Gradient descent on orthogonal matrices (the square Stiefel manifold, canonical metric), for optax.

Riemannian gradient, momentum and Cayley retraction in the order of geoopt's RiemannianSGD (Li et al., "Efficient
Riemannian Optimization on the Stiefel Manifold via the Cayley Transform", ICLR 2020), always in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.errors import InputError

PROJECT_EVERY = 1000
"""Updates between polar projections: rounding adds about 1e-7 an update to the orthogonality error."""


class StiefelState(NamedTuple):
    """count: updates done, int32. momentum: tangent vectors `{path: [D, D]}`, transposed like the parameters."""

    count: jax.Array
    momentum: Mapping[str, Any]


def riemannian_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """`G - X Gᵀ X`: the canonical gradient at the orthogonal `X [D, D]` of the Euclidean one `G [D, D]`."""
    return gradient - _mm(x, _mm(gradient.T, x))


def cayley(x: jax.Array, u: jax.Array, *carried: jax.Array) -> tuple[jax.Array, ...]:
    """The Cayley retraction of the step `u [D, D]` at `x [D, D]`, with `carried` tangents transported along.

    With `A = u xᵀ - x uᵀ` (skew): `(I - A/2)⁻¹ (I + A/2) [x | carried...]`. The result is orthogonal where `x` is.
    """
    ux = _mm(u, x.T)
    half = (ux - ux.T) / 2
    eye = jnp.eye(x.shape[0], dtype=x.dtype)
    moved = jnp.linalg.solve(eye - half, _mm(eye + half, jnp.concatenate([x, *carried], axis=1)))
    return tuple(jnp.split(moved, 1 + len(carried), axis=1))


def polar(x: jax.Array) -> jax.Array:
    """The orthogonal matrix nearest to `x [D, D]`: `U Vᵀ` of its singular value decomposition."""
    u, _, vt = jnp.linalg.svd(x)
    return _mm(u, vt)


def orthogonality_error(x: jax.Array) -> jax.Array:
    """`max |xᵀ x - I|` of `x [D, D]`, a scalar."""
    return jnp.abs(_mm(x.T, x) - jnp.eye(x.shape[1], dtype=x.dtype)).max()


def riemannian_sgd(
    momentum: float, nesterov: bool = False, weight_decay: float = 0.0, project_every: int = PROJECT_EVERY
) -> optax.GradientTransformationExtraArgs:
    """SGD on orthogonal kernels `{path: [D, D]}`; its updates already hold the rate, which `update` takes as
    `rates={path: scalar}`.

    A kernel is the transpose of the weight `X` (`y = x Wᵀ`) that the formulas are written for. With the Euclidean
    gradient `G`: `m ← G` at the first update; `G ← G + decay X`; `R = G - X Gᵀ X`; `m ← momentum m + R`;
    `U = -rate (R + momentum m)` (Nesterov) or `-rate m`; then `cayley` of U at X, which also carries `m`. Every
    `project_every` updates X is put back on the manifold by `polar`.
    InputError for parameters that are not square matrices.
    """

    def init(params):
        for path, x in _present(params).items():
            if x.ndim != 2 or x.shape[0] != x.shape[1]:
                raise InputError(
                    f"parameter {path}: shape {list(x.shape)} is no square matrix, so it cannot be kept orthogonal; "
                    "mend the pattern config.optim.NAME.stiefel"
                )
        zeros = {path: jnp.zeros(x.shape, jnp.float32) for path, x in _present(params).items()}
        return StiefelState(jnp.zeros((), jnp.int32), zeros)

    def update(grads, state, params, *, rates, **extra):
        del extra
        updates, carried = dict(grads), {}
        for path, gradient in _present(grads).items():
            x, g = params[path].T.astype(jnp.float32), gradient.T.astype(jnp.float32)
            m = jnp.where(state.count == 0, g, state.momentum[path].T)
            r = riemannian_gradient(x, g + weight_decay * x)
            m = momentum * m + r
            new, m = cayley(x, -rates[path] * (r + momentum * m if nesterov else m), m)
            new = jax.lax.cond((state.count + 1) % project_every == 0, polar, lambda y: y, new)
            updates[path], carried[path] = (new - x).T, m.T
        return updates, StiefelState(state.count + 1, carried)

    return optax.GradientTransformationExtraArgs(init, update)


def _present(tree):
    """Without what `optax.partition` gives to others."""
    return {path: x for path, x in tree.items() if not isinstance(x, optax.MaskedNode)}


def _mm(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

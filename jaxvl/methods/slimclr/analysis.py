"""Gradient imbalance between the widths (the paper's analysis; specification, section 6).

Of the gradient of the whole loss: how large it is on the part of the weights that a narrow width uses against the part
it does not use. In an ordinary network the rest has the larger gradient; under naive sharing the shared part has.
Of the gradients of the single widths: whether they point the same way on what all widths share.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxvl.methods.slimclr.model import ModelConfig, slices_of

CLAMP = 1000.0
"""Norms of single layers are cut here, as published."""


def weights_of(paths: Sequence[str]) -> list[str]:
    """Paths of the shared weight matrices and convolutions; norms, biases and layers of one width are left out."""
    return [p for p in paths if p.endswith("/kernel") and not re.search(r"_w\d{3}/", p)]


def measure(
    c: ModelConfig, gradients: Sequence[Mapping[str, jax.Array]], indices: Sequence[int]
) -> dict[str, jax.Array]:
    """Numbers to log. gradients: of each term (width) of `indices`, `{path below the encoder: array}`.

    `rest_over_NAME`: published ratio g_{1\\w} / g_w; g_w is the mean over layers of the norm of the slice (a head's
    outputs whole), cut at 1000, `g_{1\\w} = √(g_1² − g_w²)`. `share_NAME`: share of the slice in the squared norm of
    the gradient, exact over all layers. `cosine_A_B`: of the gradients of two widths on the weights of the narrowest.
    """
    paths = weights_of(list(gradients[0]))
    total = {p: sum(g[p] for g in gradients) for p in paths}
    out: dict[str, jax.Array] = {}
    full = sum(_norm(total[p]) for p in paths) / len(paths)
    square = sum(jnp.square(total[p]).sum() for p in paths)
    out["gradient/norm_w100"] = full
    for index, name in list(enumerate(c.names))[1:]:
        published = sum(_norm(_cut(c, p, total[p], index, published=True)) for p in paths) / len(paths)
        inside = sum(jnp.square(_cut(c, p, total[p], index)).sum() for p in paths)
        rest = jnp.sqrt(jnp.maximum(full**2 - published**2, 0.0))
        out[f"gradient/norm_{name}"] = published
        out[f"gradient/rest_over_{name}"] = rest / jnp.maximum(published, 1e-12)
        out[f"gradient/share_{name}"] = inside / jnp.maximum(square, 1e-24)
    narrow = len(c.widths) - 1
    parts = [jnp.concatenate([_cut(c, p, g[p], narrow).ravel() for p in paths]) for g in gradients]
    for (i, a), (j, b) in itertools.combinations(zip(indices, parts, strict=True), 2):
        norm = jnp.linalg.norm(a) * jnp.linalg.norm(b)
        out[f"gradient/cosine_{c.names[i]}_{c.names[j]}"] = (a @ b) / jnp.maximum(norm, 1e-24)
    return out


def _norm(x: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.sqrt(jnp.square(x).sum()), CLAMP)


def _cut(c: ModelConfig, path: str, x: jax.Array, index: int, published: bool = False) -> jax.Array:
    rows, columns = slices_of(c, path, x.shape, index)
    if published and path.startswith("head/"):
        columns = slice(None)
    return x[..., rows, columns]

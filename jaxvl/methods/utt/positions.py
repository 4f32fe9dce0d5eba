"""Where the cells of a map are: padding masks, sine positions, shares of a map that hold image."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

TEMPERATURE = 10_000.0


def level_mask(pad: jax.Array, height: int, width: int) -> jax.Array:
    """`[B, H, W]` bool, True in the padding -> `[B, height, width]`: the nearest pixel, index `floor(i H / height)`."""
    rows = np.arange(height) * pad.shape[1] // height
    columns = np.arange(width) * pad.shape[2] // width
    return pad[:, rows][:, :, columns]


def sine_position(mask: jax.Array, width: int) -> jax.Array:
    """DETR's position of each cell (arXiv 2005.12872): `[B, h, w]` bool, True in the padding -> `[B, h, w, width]`
    float32.

    Cells without padding are counted from 1 along each direction and divided by the last count, times 2 pi; `width / 2`
    features a direction of frequencies `10000^-(2 floor(i/2) / (width/2))`, sine and cosine in turn; y first.
    """
    inside = (~mask).astype(jnp.float32)
    half = width // 2
    frequency = TEMPERATURE ** (2 * (np.arange(half) // 2) / half)

    def features(count: jax.Array, last: jax.Array) -> jax.Array:
        angle = (count / (last + 1e-6) * 2 * jnp.pi)[..., None] / frequency.astype(np.float32)
        pair = jnp.stack([jnp.sin(angle[..., 0::2]), jnp.cos(angle[..., 1::2])], -1)
        return pair.reshape(*angle.shape[:-1], half)

    y, x = jnp.cumsum(inside, 1), jnp.cumsum(inside, 2)
    return jnp.concatenate([features(y, y[:, -1:]), features(x, x[:, :, -1:])], -1)


def valid_ratio(mask: jax.Array) -> jax.Array:
    """`[B, h, w]` bool -> `[B, 2]` float32 (x, y): share of the first row and of the first column without padding; at
    least one cell, so that a picture of padding stays finite."""
    x = jnp.maximum((~mask[:, 0, :]).sum(1), 1) / mask.shape[2]
    y = jnp.maximum((~mask[:, :, 0]).sum(1), 1) / mask.shape[1]
    return jnp.stack([x, y], -1).astype(jnp.float32)


def cell_centres(shapes: Sequence[tuple[int, int]], ratios: jax.Array) -> jax.Array:
    """Centres of the cells of all levels, one behind the other, as shares (x, y) of the picture without its padding.

    shapes: (h, w) a level; ratios: `[B, L, 2]`. Returns `[B, sum of h w, 2]`.
    """
    found = []
    for level, (height, width) in enumerate(shapes):
        y, x = np.mgrid[:height, :width].reshape(2, -1) + 0.5
        grid = np.stack([x / width, y / height], -1).astype(np.float32)
        found.append(grid / ratios[:, level, None])
    return jnp.concatenate(found, 1)


def inverse_sigmoid(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """`log(max(x, eps) / max(1 - x, eps))` of x clipped to [0, 1]."""
    x = jnp.clip(x, 0.0, 1.0)
    return jnp.log(jnp.maximum(x, eps) / jnp.maximum(1 - x, eps))

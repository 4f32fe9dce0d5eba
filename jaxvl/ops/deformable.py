"""Sampling of multi-scale deformable attention (Zhu et al., ICLR 2021, arXiv 2010.04159, equation 3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

NORMS = ("hw", "wh")
"""What an offset (x, y) of a 2-d reference point is divided by: 'wh' (W, H), as Deformable DETR; 'hw' (H, W), a slip of
the tracker's released code that all of its weights live with. Equal on square maps."""


def sampling_locations(
    reference: jax.Array, offsets: jax.Array, shapes: Sequence[tuple[int, int]], norm: str = "wh"
) -> jax.Array:
    """Where each query looks, in shares of the map.

    reference: `[B, Q, L, 2]` points or `[B, Q, L, 4]` boxes (cx, cy, w, h), for each level. offsets:
    `[B, Q, heads, L, points, 2]` (x, y): cells of the level for points, `1 / (2 points)` of the size for boxes.
    shapes: (H, W) of each level. norm: of `NORMS`, for points. Returns `[B, Q, heads, L, points, 2]` float32.
    """
    if norm not in NORMS:
        raise InputError(f"deformable attention: unknown norm {norm!r}; use one of {', '.join(NORMS)}")
    reference, offsets = reference.astype(jnp.float32), offsets.astype(jnp.float32)
    centre = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 4:
        return centre + offsets / offsets.shape[-2] * reference[:, :, None, :, None, 2:] * 0.5
    sizes = jnp.array([(h, w) if norm == "hw" else (w, h) for h, w in shapes], jnp.float32)
    return centre + offsets / sizes[:, None, :]


@functools.partial(jax.jit, static_argnames=("shapes",))
def deformable_sample(
    values: jax.Array, shapes: tuple[tuple[int, int], ...], locations: jax.Array, weights: jax.Array
) -> jax.Array:
    """Weighted sum of bilinear samples of all levels. The location (0, 0) is the outer corner of the first cell; what
    lies outside is 0 (`grid_sample` with `align_corners=False`).

    Args:
        values: `[B, S, heads, D]`, the levels flattened row by row, one behind the other.
        shapes: (H, W) of each level; S is the sum of their products.
        locations: `[B, Q, heads, L, points, 2]` (x, y), shares of the map.
        weights: `[B, Q, heads, L, points]`.
    Returns: `[B, Q, heads * D]` in the dtype of `values`.
    """
    batch, _, heads, depth = values.shape
    queries, points = locations.shape[1], locations.shape[4]
    total = jnp.zeros((batch, heads, queries, depth), jnp.float32)
    begin = 0
    for level, (height, width) in enumerate(shapes):
        flat = values[:, begin : begin + height * width].transpose(0, 2, 1, 3)
        begin += height * width
        size = jnp.array([width, height], jnp.float32)
        at = locations[:, :, :, level].transpose(0, 2, 1, 3, 4) * size - 0.5  # [B, heads, Q, points, 2]
        weight = weights[:, :, :, level].transpose(0, 2, 1, 3).astype(jnp.float32)
        first = jnp.floor(at)
        for dy in (0, 1):
            for dx in (0, 1):
                cell = first + jnp.array([dx, dy], jnp.float32)
                near = 1 - jnp.abs(at - cell)
                inside = ((cell >= 0) & (cell < size)).all(-1)
                share = jnp.where(inside, near[..., 0] * near[..., 1], 0.0) * weight
                place = jnp.clip(cell, 0, size - 1).astype(jnp.int32)
                index = (place[..., 1] * width + place[..., 0]).reshape(batch, heads, queries * points, 1)
                found = jnp.take_along_axis(flat, index, axis=2).reshape(batch, heads, queries, points, depth)
                total += jnp.einsum("bhqpd,bhqp->bhqd", found, share.astype(found.dtype))
    return total.transpose(0, 2, 1, 3).reshape(batch, queries, heads * depth).astype(values.dtype)

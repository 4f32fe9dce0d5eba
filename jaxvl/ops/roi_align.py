"""RoIAlign as torchvision computes it with `aligned=True` and two samples a side in every bin (He et al., ICCV 2017,
arXiv 1703.06870), on one map or on the levels of a pyramid.

A bin is the mean of 2x2 bilinear samples, pixel centres at integers behind the shift by half a pixel. A sample beyond
-1 or H counts as 0 and still divides by four. Nothing is clipped, there is no smallest size, negative sizes just work.
**Boxes get no gradient**, as in torchvision.

The operation is separable: `out = Wy · F · Wxᵀ`. This form is all matrix products; the other gathers the sixteen values
of each bin and is there for CPUs. The two agree to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

SAMPLES = 2
FORMS = ("auto", "separable", "gather")
SMALL_MAP = 256
"""Cells up to which the products are faster than the gathers on CPUs, too."""
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4
"""A box of this side belongs to this level (FPN, arXiv 1612.03144, equation 1); the finest map here is level 3."""


def roi_align(
    features: jax.Array, boxes: jax.Array, scale: float, size: int, form: str = "auto", keep: jax.Array | None = None
) -> jax.Array:
    """Pools `size` x `size` bins of each box.

    Args:
        features: `[B, H, W, C]`.
        boxes: `[B, N, 4]` corners in image pixels.
        scale: cells a pixel, the nominal 1/stride also where the map was rounded up.
        form: of `FORMS`; 'auto': by platform and map size.
        keep: `[B, N]` bool; the bins of other boxes are zeros.
    Returns: `[B, N, size, size, C]` in the dtype of `features`, rows first.
    """
    if form not in FORMS:
        raise InputError(f"roi_align: unknown form {form!r}; use one of {', '.join(FORMS)}")
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    keep = jnp.ones(boxes.shape[:2], bool) if keep is None else keep
    separable = functools.partial(_separable, scale=scale, size=size)
    gather = functools.partial(_gather, scale=scale, size=size)
    if form != "auto":
        return {"separable": separable, "gather": gather}[form](features, boxes, keep)
    if features.shape[1] * features.shape[2] <= SMALL_MAP:
        return separable(features, boxes, keep)
    return jax.lax.platform_dependent(features, boxes, keep, cpu=gather, default=separable)


def roi_align_pyramid(
    maps: Sequence[jax.Array], boxes: jax.Array, scales: Sequence[float], size: int, form: str = "auto"
) -> jax.Array:
    """`roi_align` of each box on the level that suits its area (`level_of`); boxes without a level give zeros.

    maps: `[B, H_l, W_l, C]` each, the finest first; scales: one each. Returns `[B, N, size, size, C]`.
    """
    level = level_of(boxes, len(maps))
    pooled = [roi_align(f, boxes, s, size, form, level == i) for i, (f, s) in enumerate(zip(maps, scales))]
    return functools.reduce(jnp.add, pooled)


def level_of(boxes: jax.Array, levels: int = 4) -> jax.Array:
    """`[..., 4]` corners in pixels -> `[...]` int32, `clamp(floor(4 + log2(sqrt(area)/224 + 1e-8)), 3, 2 + levels) - 3`
    of the unclipped box; -1 where the area is negative, as one side is."""
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    side = jnp.sqrt(jnp.maximum(area, 0.0))
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(side / CANONICAL_SIZE + 1e-8)).astype(jnp.int32)
    return jnp.where(area < 0, -1, jnp.clip(level, 3, 2 + levels) - 3)


def _positions(low: jax.Array, high: jax.Array, scale: float, size: int, cells: int) -> tuple[jax.Array, jax.Array]:
    """Sample positions along one axis, `[B, N, size, 2]`, moved into the map, and whether they count."""
    low, high = low * scale - 0.5, high * scale - 0.5
    step = (high - low) / size
    inner = jnp.arange(size, dtype=jnp.float32)[:, None] + (jnp.arange(SAMPLES, dtype=jnp.float32) + 0.5) / SAMPLES
    at = low[..., None, None] + inner * step[..., None, None]
    return jnp.clip(at, 0.0, cells - 1), (at >= -1.0) & (at <= cells)


def _weights(low: jax.Array, high: jax.Array, scale: float, size: int, cells: int) -> jax.Array:
    """`[B, N, size, cells]`: the mean of the samples' bilinear weights, which are triangles around the positions."""
    at, counts = _positions(low, high, scale, size, cells)
    triangles = jnp.maximum(0.0, 1.0 - jnp.abs(at[..., None] - jnp.arange(cells, dtype=jnp.float32)))
    return jnp.where(counts[..., None], triangles, 0.0).mean(-2)


@functools.partial(jax.jit, static_argnames=("scale", "size"))
def _separable(features: jax.Array, boxes: jax.Array, keep: jax.Array, scale: float, size: int) -> jax.Array:
    height, width = features.shape[1:3]
    rows = _weights(boxes[..., 1], boxes[..., 3], scale, size, height) * keep[..., None, None]
    columns = _weights(boxes[..., 0], boxes[..., 2], scale, size, width)
    across = jnp.einsum("bhwc,bnqw->bnqhc", features, columns.astype(features.dtype))
    return jnp.einsum("bnqhc,bnph->bnpqc", across, rows.astype(features.dtype))


@functools.partial(jax.jit, static_argnames=("scale", "size"))
def _gather(features: jax.Array, boxes: jax.Array, keep: jax.Array, scale: float, size: int) -> jax.Array:
    batch, height, width, channels = features.shape
    taps = []
    for low, high, cells in ((1, 3, height), (0, 2, width)):
        at, counts = _positions(boxes[..., low], boxes[..., high], scale, size, cells)
        first = jnp.minimum(jnp.floor(at), cells - 1)
        share = at - first
        index = jnp.stack([first, jnp.minimum(first + 1, cells - 1)], -1).astype(jnp.int32)
        weight = jnp.where(counts[..., None], jnp.stack([1 - share, share], -1), 0.0) / SAMPLES
        taps.append([x.reshape(*x.shape[:3], 2 * SAMPLES) for x in (index, weight)])
    (rows, row_weight), (columns, column_weight) = taps
    row_weight = row_weight * keep[..., None, None]
    flat = features.reshape(batch, height * width, channels)
    shape = (batch, boxes.shape[1], size, size, channels)
    out = jnp.zeros(shape, jnp.float32)
    for i in range(2 * SAMPLES):
        for j in range(2 * SAMPLES):
            cell = rows[..., i][..., :, None] * width + columns[..., j][..., None, :]
            value = jnp.take_along_axis(flat, cell.reshape(batch, -1, 1), axis=1).reshape(shape)
            out += (row_weight[..., i][..., :, None] * column_weight[..., j][..., None, :])[..., None] * value
    return out.astype(features.dtype)

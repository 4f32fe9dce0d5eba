"""Boxes as arrays: formats, overlaps, and the exact assignment of predictions to truths. Everything is float32.

Formats: `xyxy` corners, `xywh` left, top, width, height, `cxcywh` centre and size. Coordinates are edges: a box of
(0, 0, 1, 1) has the area 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

SMALLEST = 1e-9
"""Lower bound of the denominators of IoU and GIoU: their gradient at an empty union would be NaN."""
FORBIDDEN = 1e4
"""Cost of truths that are padding, where there are fewer predictions than places; never infinite."""


def xyxy_from_cxcywh(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` centre and size -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def cxcywh_from_xyxy(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` corners -> centre and size; the size of a box with swapped corners is negative."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], -1)


def xyxy_from_xywh(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` left, top, width, height -> corners."""
    return jnp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xywh_from_xyxy(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` corners -> left, top, width, height."""
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def area(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` corners -> `[...]`; negative where one side is."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def valid(boxes: jax.Array) -> jax.Array:
    """`[..., 4]` corners -> `[...]` bool: x2 >= x1 and y2 >= y1."""
    return (boxes[..., 2] >= boxes[..., 0]) & (boxes[..., 3] >= boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of corners `[..., 4]` with `[..., 4]`, which broadcast; 0 for two empty boxes."""
    return _overlaps(a, b)[0]


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU, `IoU - (hull - union) / hull` (Rezatofighi et al., CVPR 2019, arXiv 1902.09630, algorithm 1).

    Corners `[..., 4]` with `[..., 4]`, which broadcast -> `[...]` in (-1, 1]. It means something for valid corners only
    (see `valid`); others give a finite number.
    """
    overlap, union = _overlaps(a, b)
    low, high = jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])
    sides = jnp.maximum(high - low, 0.0)
    hull = sides[..., 0] * sides[..., 1]
    return overlap - (hull - union) / jnp.maximum(hull, SMALLEST)


def _overlaps(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    sides = jnp.maximum(high - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    union = area(a) + area(b) - common
    return common / jnp.maximum(union, SMALLEST), union


def pairwise(function, a: jax.Array, b: jax.Array) -> jax.Array:
    """`function` of every pair: `[..., n, 4]`, `[..., m, 4]` -> `[..., n, m]`."""
    return function(a[..., :, None, :], b[..., None, :, :])


def assign(cost: jax.Array, present: jax.Array) -> jax.Array:
    """The assignment of least total cost (Hungarian algorithm, `optax.assignment`) of truths to predictions.

    Args:
        cost: `[..., n, m]` finite cost of n predictions for m places; it passes no gradient.
        present: `[..., m]` bool; places without a truth are left out.
    Returns: `[..., m]` int32, the prediction that each truth has, -1 for none (no truth there, or n is less than their
        number). No prediction is given twice. Of several optima any one.
    """
    n, m = cost.shape[-2:]
    # every place takes a prediction where there are enough: a constant column then changes nothing, and 0 rounds best
    filler = 0.0 if n >= m else FORBIDDEN
    cost = jax.lax.stop_gradient(cost.astype(jnp.float32))
    cost = jnp.where(present[..., None, :], cost, filler)

    def one(cost, present):
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        found = jnp.full((m,), -1, jnp.int32).at[columns].set(rows.astype(jnp.int32))
        return jnp.where(present, found, -1)

    flat = jax.vmap(one)(cost.reshape(-1, n, m), present.reshape(-1, m))
    return flat.reshape(*cost.shape[:-2], m)

"""Where the tracks of a training pair begin: detections of the first picture, those of known objects moved to a noisy
place in the second (section 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvl.ops import boxes as box

SIGMAS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
TRIES, SHRINK = 16, 0.9


class Proposals(NamedTuple):
    """N proposals a picture. boxes: `[B, N, 4]`, where the target transformer begins, in pixels of the second picture.
    marked: `[B, N]` bool, whether the object is known in both. truth: `[B, N, 4]`, where it is in the second; 0 where
    not marked."""

    boxes: jax.Array
    marked: jax.Array
    truth: jax.Array


def noisy(rng: jax.Array, truth: jax.Array, min_iou: float) -> jax.Array:
    """A box near each true one: corners `[..., 4]` in pixels -> corners, rounded to whole pixels.

    A draw of sigma for each box; centre and size move by N(0, sigma sqrt(w h)); a side of at most a pixel becomes
    U(.15, .5) of the true one. Sixteen tries, sigma shrinking by .9; the first with an IoU above `min_iou`, else the
    true box.
    """
    keys = jax.random.split(rng, 3)
    shape = truth.shape[:-1]
    sigma = jax.random.choice(keys[0], jnp.array(SIGMAS), shape) * SHRINK ** jnp.arange(TRIES).reshape(
        -1, *[1] * len(shape)
    )
    known = box.cxcywh_from_xyxy(truth.astype(jnp.float32))
    size = jnp.maximum(known[..., 2:], 0)
    spread = (sigma * jnp.sqrt(jnp.prod(size, -1)))[..., None]
    moved = known + spread * jax.random.normal(keys[1], (TRIES, *known.shape))
    small = size * jax.random.uniform(keys[2], (TRIES, *size.shape), minval=0.15, maxval=0.5)
    sides = jnp.where(moved[..., 2:] <= 1, small, moved[..., 2:])
    tries = jnp.round(box.xyxy_from_cxcywh(jnp.concatenate([moved[..., :2], sides], -1)))
    good = box.iou(tries, truth) > min_iou
    first = jnp.argmax(good, 0)
    chosen = jnp.take_along_axis(tries, first[None, ..., None], 0)[0]
    return jax.lax.stop_gradient(jnp.where(good.any(0)[..., None], chosen, truth))


def common(first: jax.Array, first_present: jax.Array, second: jax.Array, second_present: jax.Array):
    """Where each object of the first picture is listed in the second: ids `[B, M]`, present `[B, M]` bool each ->
    (index `[B, M]` int32, whether it is there `[B, M]` bool)."""
    same = (first[:, :, None] == second[:, None, :]) & first_present[:, :, None] & second_present[:, None, :]
    return jnp.argmax(same, -1).astype(jnp.int32), same.any(-1)


def place(
    detections: jax.Array, match: jax.Array, near: jax.Array, truth: jax.Array, index: jax.Array, there: jax.Array
) -> Proposals:
    """Detections with those of known objects replaced; all others stay, for the self-attention to tell apart.

    detections `[B, N, 4]` of the first picture, in pixels of the second; match `[B, M]`, the detection of each object
    of the first, -1 for none; near, truth `[B, M, 4]`: noisy and true boxes in the second; index, there: of `common`.
    """
    at = lambda x: jnp.take_along_axis(x, index[..., None], 1)  # noqa: E731
    known = there & (match >= 0)
    rows, columns = jnp.arange(len(match))[:, None], jnp.where(known, match, detections.shape[1])
    detections = jax.lax.stop_gradient(detections)
    moved = detections.at[rows, columns].set(at(near), mode="drop")
    marked = jnp.zeros(detections.shape[:2], bool).at[rows, columns].set(True, mode="drop")
    return Proposals(moved, marked, jnp.zeros_like(detections).at[rows, columns].set(at(truth), mode="drop"))

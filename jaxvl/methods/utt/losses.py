"""Losses of UTT: boxes of targets (equations 4 and 5), the detector's set loss, the optional score."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxvl.core.errors import InputError
from jaxvl.core.precision import loss_term
from jaxvl.ops import boxes as box

FALLBACKS = ("sample", "batch")
"""What a box with swapped corners does: its own GIoU term is the constant 1, or, as released, that of all boxes."""
L1_WEIGHT, GIOU_WEIGHT, CLASS_WEIGHT = 5.0, 2.0, 2.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
CLASS_COST_EPS = 1e-8


def box_terms(
    predicted: jax.Array, truth: jax.Array, counts: jax.Array, fallback: str = "sample"
) -> tuple[jax.Array, jax.Array]:
    """`(l1, g)` of boxes, corners as shares of the picture: `[..., N, 4]`, `[..., N, 4]`, counts `[..., N]` bool.

    l1: mean over the boxes that count of the sum of the four differences of (cx, cy, w, h). g: mean of 1 - GIoU. The
    mean is over the last axis; 0 where no box counts. Returns `[...]`, `[...]` float32.
    """
    if fallback not in FALLBACKS:
        raise InputError(f"config.model.giou_fallback: {fallback!r} is none of {', '.join(FALLBACKS)}")
    predicted, truth = predicted.astype(jnp.float32), truth.astype(jnp.float32)
    number = jnp.maximum(counts.sum(-1), 1)
    apart = jnp.abs(box.cxcywh_from_xyxy(predicted) - box.cxcywh_from_xyxy(truth)).sum(-1)
    fine = box.valid(predicted)
    if fallback == "batch":
        fine = jnp.broadcast_to((fine | ~counts).all(-1, keepdims=True), fine.shape)
    # where the corners are swapped the other branch must be finite, too: its gradient is multiplied by 0
    safe = jnp.where(fine[..., None], predicted, truth)
    off = jnp.where(fine, 1 - box.giou(safe, truth), 1.0)
    return jnp.where(counts, apart, 0).sum(-1) / number, jnp.where(counts, off, 0).sum(-1) / number


@loss_term("track")
def track_loss(
    predicted: jax.Array, truth: jax.Array, counts: jax.Array, fallback: str = "sample"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean over the predictions of `5 l1 + 2 g`: predicted `[P, N, 4]`, truth `[N, 4]`, counts `[N]` bool -> the loss
    and `l1`, `giou` of the last prediction. (The paper writes a sum over the predictions, the code divides.)"""
    l1, off = box_terms(predicted, truth[None], jnp.broadcast_to(counts, predicted.shape[:2]), fallback)
    return (L1_WEIGHT * l1 + GIOU_WEIGHT * off).mean(), {"l1": l1[-1], "giou": off[-1]}


def score_target(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """How central a predicted centre lies in the true box: `sqrt(min(l,r)/max(l,r) · min(t,b)/max(t,b))` of its
    distances to the sides, each ratio at least 0. Corners `[..., 4]`, `[..., 4]` -> `[...]`, without gradient."""
    predicted = jax.lax.stop_gradient(predicted)
    centre = (predicted[..., :2] + predicted[..., 2:]) / 2
    near, far = centre - truth[..., :2], truth[..., 2:] - centre
    ratio = jnp.minimum(near, far) / jnp.maximum(jnp.maximum(near, far), 1e-6)
    return jnp.sqrt(jnp.prod(jnp.maximum(ratio, 0.0), -1))


@loss_term("score")
def score_loss(scores: jax.Array, predicted: jax.Array, truth: jax.Array, counts: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits `[P, N]` to `score_target` of boxes `[P, N, 4]`; the mean over predictions and
    over the boxes that count `[N]`, 0 in a step whose mean 1 - GIoU of the last prediction is at least 1."""
    losses = optax.sigmoid_binary_cross_entropy(scores.astype(jnp.float32), score_target(predicted, truth[None]))
    mean = jnp.where(counts, losses, 0).sum() / (len(scores) * jnp.maximum(counts.sum(), 1))
    _, off = box_terms(predicted[-1], truth, counts)
    return jnp.where(off < 1, mean, 0.0)


def focal(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Sigmoid focal loss of each logit (Lin et al., ICCV 2017, arXiv 1708.02002), alpha 1/4, gamma 2; same shapes."""
    return optax.sigmoid_focal_loss(
        logits.astype(jnp.float32), targets.astype(jnp.float32), alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA
    )


def detection_cost(logits: jax.Array, boxes: jax.Array, truth: jax.Array, label: jax.Array) -> jax.Array:
    """Matching cost `2 class + 5 L1(cx, cy, w, h) - 2 GIoU` of every query and truth.

    logits `[..., Q, K]`, boxes `[..., Q, 4]` and truth `[..., M, 4]` as (cx, cy, w, h) in shares, label `[..., M]` int
    -> `[..., Q, M]` float32. Class cost: `.25 (1-p)² (-ln(p + 1e-8)) - .75 p² (-ln(1 - p + 1e-8))` at the label.
    """
    p = jax.nn.sigmoid(logits.astype(jnp.float32))
    hit = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -jnp.log(p + CLASS_COST_EPS)
    miss = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -jnp.log(1 - p + CLASS_COST_EPS)
    label = jnp.broadcast_to(label[..., None, :], (*p.shape[:-1], label.shape[-1]))
    kind = jnp.take_along_axis(hit - miss, label, -1)
    apart = jnp.abs(boxes[..., :, None, :] - truth[..., None, :, :]).sum(-1)
    corners = box.xyxy_from_cxcywh
    overlap = box.pairwise(box.giou, corners(boxes), corners(truth))
    return CLASS_WEIGHT * kind + L1_WEIGHT * apart - GIOU_WEIGHT * overlap


@loss_term("detection")
def detection_loss(
    logits: jax.Array, boxes: jax.Array, truth: jax.Array, label: jax.Array, present: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The set loss of all decoder layers: `sum over layers of 2 focal + 5 l1 + 2 g`, each a sum over the global batch
    divided by the global number of truths.

    logits `[layers, B, Q, K]`, boxes `[layers, B, Q, 4]` (cx, cy, w, h in shares); truth `[B, M, 4]` alike, label
    `[B, M]` int32, present `[B, M]` bool. Every layer and image is matched by itself. Returns the loss, and the terms
    of the last layer.
    """
    layers, batch, queries, classes = logits.shape
    repeat = lambda x: jnp.broadcast_to(x, (layers, *x.shape))  # noqa: E731
    cost = detection_cost(logits, boxes, repeat(truth), repeat(label))
    match = box.assign(cost, repeat(present))  # [layers, B, M]
    matched = match >= 0
    place = jnp.where(matched, match, queries)  # one behind the end: dropped
    number = jnp.maximum(present.sum(), 1).astype(jnp.float32)

    rows = jnp.arange(layers)[:, None, None], jnp.arange(batch)[None, :, None]
    targets = jnp.zeros((layers, batch, queries, classes), jnp.float32)
    targets = targets.at[(*rows, place, repeat(label))].set(1.0, mode="drop")
    kind = focal(logits, targets).sum((1, 2, 3)) / number
    found = jnp.take_along_axis(boxes, jnp.maximum(match, 0)[..., None], 2)
    l1 = jnp.where(matched, jnp.abs(found - truth).sum(-1), 0).sum((1, 2)) / number
    off = 1 - box.giou(box.xyxy_from_cxcywh(found), box.xyxy_from_cxcywh(truth))
    off = jnp.where(matched, off, 0).sum((1, 2)) / number
    total = (CLASS_WEIGHT * kind + L1_WEIGHT * l1 + GIOU_WEIGHT * off).sum()
    return total, {"class": kind[-1], "det_l1": l1[-1], "det_giou": off[-1]}

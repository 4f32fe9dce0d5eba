"""Scores of one object's boxes against the true ones, as the toolkits of OTB, LaSOT, TrackingNet and GOT-10k define
them.

Boxes are left, top, width, height. Numpy, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

OVERLAPS = np.arange(21) / 20
DISTANCES = np.arange(51)
NORMALISED = np.arange(51) / 100
NEAR, NEAR_NORMALISED = 20, 20
"""Index of the distance that `precision` and `norm_precision` are read at: 20 pixels, 0.2 of the size."""


class Followed(NamedTuple):
    """One sequence. predicted, truth: `[T, 4]`; visible: `[T]` bool, or None where a set does not say; seconds: `[T]`
    that each frame took, or None."""

    predicted: np.ndarray
    truth: np.ndarray
    visible: np.ndarray | None = None
    seconds: np.ndarray | None = None


def overlap(a: np.ndarray, b: np.ndarray, pixel: float = 0.0) -> np.ndarray:
    """IoU of `[T, 4]` with `[T, 4]`. pixel: 1 for the convention that a box of width w covers the pixels x .. x + w -
    1, as the OTB toolkit has it; 0 for areas."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:] - pixel, b[:, :2] + b[:, 2:] - pixel)
    common = np.maximum(high - low + pixel, 0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - common
    return common / np.maximum(union, 1e-12)


def success(sequences: Mapping[str, Followed], exclude_invalid: bool = False) -> dict[str, float]:
    """OTB's success and precision over sequences: `auc` (mean over 21 thresholds of overlap), `op50`, `op75`,
    `precision` (centre within 20 pixels), `norm_precision` (within .2 of the true size).

    The first prediction is replaced by the truth; one without area repeats the last. A frame without target is never a
    hit, but stays in the denominator; its normalised distance is one where the true box alone is empty (OTB,
    TrackingNet), and none where `visible` says that the target is gone (LaSOT). exclude_invalid: such frames are left
    out, as in LaSOT's own toolkit.
    """
    rows = [_curves(s, exclude_invalid) for s in sequences.values()]
    over, near, scaled = (np.mean([r[i] for r in rows], 0) for i in range(3))
    return {
        "auc": float(over.mean()),
        "op50": float(over[10]),
        "op75": float(over[15]),
        "precision": float(near[NEAR]),
        "norm_precision": float(scaled[NEAR_NORMALISED]),
    }


def _curves(sequence: Followed, exclude_invalid: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted = filled(sequence.predicted, sequence.truth)
    truth = np.asarray(sequence.truth, np.float64)
    there = (truth[:, 2:] > 0).all(1)
    said = np.ones(len(truth), bool) if sequence.visible is None else np.asarray(sequence.visible, bool)
    unseen = ~(there & said)
    shared = overlap(predicted, truth, pixel=1.0)
    centre = lambda x: x[:, :2] + 0.5 * (x[:, 2:] - 1)  # noqa: E731
    gap = centre(predicted) - centre(truth)
    distance = np.hypot(*gap.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.hypot(*(gap / truth[:, 2:]).T)
    scaled = np.where(said, np.where(there, scaled, -1.0), np.inf)
    shared, distance = np.where(unseen, -1.0, shared), np.where(unseen, np.inf, distance)
    if exclude_invalid and not unseen.all():
        shared, distance, scaled = shared[~unseen], distance[~unseen], scaled[~unseen]
    above = (shared[:, None] > OVERLAPS).mean(0)
    return above, (distance[:, None] <= DISTANCES).mean(0), (scaled[:, None] <= NORMALISED).mean(0)


def average_overlap(sequences: Mapping[str, Followed]) -> dict[str, float]:
    """GOT-10k's `ao` and success rates `sr50`, `sr75` of plain IoU: means over the frames of all sequences, as its
    toolkit joins them; the first frame and frames without target are left out."""
    kept = [np.zeros(0)]
    for s in sequences.values():
        keep = (np.asarray(s.truth)[:, 2:] > 0).all(1)
        keep &= True if s.visible is None else np.asarray(s.visible, bool)
        keep[0] = False
        kept.append(overlap(s.predicted, s.truth)[keep])
    shared = np.concatenate(kept)
    if not len(shared):
        return {"ao": 0.0, "sr50": 0.0, "sr75": 0.0}
    return {"ao": float(shared.mean()), "sr50": float((shared > 0.5).mean()), "sr75": float((shared > 0.75).mean())}


def filled(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Predictions `[T, 4]` with the truth in the first frame and, where one has no area, the one before."""
    out = np.array(predicted, np.float64)
    out[0] = truth[0]
    for t in range(1, len(out)):
        if (out[t, 2:] <= 0).any():
            out[t] = out[t - 1]
    return out


def controls(truths: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a tracker must beat: the first box, kept in every frame."""
    return [np.tile(np.asarray(t[0], np.float64), (len(t), 1)) for t in truths]

"""Scores of identities over a video: CLEAR MOT (Bernardin & Stiefelhagen, 2008), IDF1 (Ristani et al., 2016, arXiv
1609.01775) and HOTA (Luiten et al., IJCV 2020, arXiv 2009.07736), with MOTChallenge's rule of ignored classes.

Boxes are left, top, width, height. Numpy, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

LEAST_OVERLAP = 0.5
ALPHAS = np.arange(1, 20) / 20
PEDESTRIAN = 1
DISTRACTORS = (2, 7, 8, 12)
"""Classes of MOTChallenge: people on vehicles, static people, distractors, reflections. A result on one is no
mistake."""


class Frame(NamedTuple):
    """Objects of one frame: ids `[n]` int, boxes `[n, 4]`."""

    ids: np.ndarray
    boxes: np.ndarray


class Truth(NamedTuple):
    """True objects of one frame. counted: `[n]` bool, False for those that neither count nor may be missed. kinds:
    `[n]` int, MOTChallenge's classes."""

    ids: np.ndarray
    boxes: np.ndarray
    counted: np.ndarray
    kinds: np.ndarray


Sequence_ = tuple[Sequence[Truth], Sequence[Frame]]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[n, m]` IoU of boxes `[n, 4]`, `[m, 4]`."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    common = np.maximum(high - low, 0).prod(-1)
    return common / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common, 1e-12)


def preprocess(truth: Truth, found: Frame) -> tuple[Truth, Frame]:
    """MOTChallenge's rule: results are first assigned to all true objects of at least half overlap; those on a
    distractor are dropped, and then every true object that does not count."""
    shared = overlaps(truth.boxes, found.boxes)
    rows, columns = _matched(np.where(shared >= LEAST_OVERLAP, shared, 0.0))
    on = np.isin(np.asarray(truth.kinds)[rows], DISTRACTORS)
    keep = np.ones(len(found.ids), bool)
    keep[columns[on]] = False
    return counted(truth), Frame(found.ids[keep], found.boxes[keep])


def counted(truth: Truth) -> Truth:
    """Without the objects that do not count."""
    return Truth(*(np.asarray(x)[np.asarray(truth.counted, bool)] for x in truth))


def _matched(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (row, column) of the largest total gain; those without gain are left out."""
    if not gain.size:
        return np.zeros(0, int), np.zeros(0, int)
    rows, columns = linear_sum_assignment(-gain)
    keep = gain[rows, columns] > 0
    return rows[keep], columns[keep]


def evaluate(sequences: Mapping[str, Sequence_], use_preprocess: bool = True) -> dict[str, float]:
    """Scores over all sequences: `mota`, `motp` (mean overlap of matches), `idf1`, `idp`, `idr`, `hota`, `deta`, `assa`
    (sequences joined by their counts), and the counts `fp`, `fn`, `ids` (identity switches), `fragments`, `objects`."""
    clear, identity, higher = [], [], []
    for truths, found in sequences.values():
        pairs = [preprocess(t, f) if use_preprocess else (counted(t), f) for t, f in zip(truths, found, strict=True)]
        clear.append(clear_counts(pairs))
        identity.append(identity_counts(pairs))
        higher.append(hota_counts(pairs))
    total = {k: sum(c[k] for c in clear) for k in clear[0]}
    idtp, idfp, idfn = np.sum(identity, 0)
    objects = max(total["objects"], 1)
    return {
        "mota": 1 - (total["fp"] + total["fn"] + total["ids"]) / objects,
        "motp": total.pop("overlap") / max(total.pop("matches"), 1),
        "idf1": 2 * idtp / max(2 * idtp + idfp + idfn, 1),
        "idp": idtp / max(idtp + idfp, 1),
        "idr": idtp / max(idtp + idfn, 1),
        **hota_scores(higher),
        **total,
    }


def clear_counts(pairs: Sequence[tuple[Truth, Frame]]) -> dict[str, float]:
    """Counts of CLEAR MOT. A pair of the last frame stays while it overlaps by a half; the rest is assigned by overlap.
    A switch is counted where an object has another identity than when it was last matched, a fragment where it is found
    again after having been missed."""
    c = dict.fromkeys(("fp", "fn", "ids", "fragments", "objects", "matches", "overlap"), 0.0)
    last: dict[int, int] = {}
    now: dict[int, int] = {}
    missed: set[int] = set()
    for truth, found in pairs:
        shared = overlaps(truth.boxes, found.boxes)
        allowed = shared >= LEAST_OVERLAP
        names = {int(t): i for i, t in enumerate(truth.ids)}
        places = {int(f): j for j, f in enumerate(found.ids)}
        kept: dict[int, int] = {}
        for i, t in enumerate(truth.ids):
            j = places.get(last.get(int(t), -1))
            if j is not None and allowed[i, j] and j not in kept.values():
                kept[i] = j
        free = np.where(allowed, shared, 0.0)
        free[list(kept)] = 0
        free[:, list(kept.values())] = 0
        rows, columns = _matched(free)
        match = {**kept, **{int(i): int(j) for i, j in zip(rows, columns)}}
        now = {}
        for i, j in match.items():
            t, f = int(truth.ids[i]), int(found.ids[j])
            c["ids"] += t in last and last[t] != f
            c["fragments"] += t in missed
            missed.discard(t)
            last[t] = now[t] = f
            c["overlap"] += shared[i, j]
        missed |= {t for t in names if t not in now and t in last}
        c["objects"] += len(truth.ids)
        c["matches"] += len(match)
        c["fn"] += len(truth.ids) - len(match)
        c["fp"] += len(found.ids) - len(match)
    return c


def identity_counts(pairs: Sequence[tuple[Truth, Frame]]) -> tuple[float, float, float]:
    """True positives, false positives and false negatives of the one-to-one assignment of whole tracks that has the
    fewest mistakes."""
    true = sorted({int(t) for truth, _ in pairs for t in truth.ids})
    given = sorted({int(f) for _, found in pairs for f in found.ids})
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (true, given))
    together = np.zeros((len(true), len(given)))
    objects = results = 0
    for truth, found in pairs:
        objects, results = objects + len(truth.ids), results + len(found.ids)
        for i, j in np.argwhere(overlaps(truth.boxes, found.boxes) >= LEAST_OVERLAP):
            together[rows[int(truth.ids[i])], columns[int(found.ids[j])]] += 1
    best = together[_matched(together)].sum()
    return float(best), float(results - best), float(objects - best)


def hota_counts(pairs: Sequence[tuple[Truth, Frame]]) -> dict[str, np.ndarray]:
    """For each of `ALPHAS`: true positives, misses, false alarms, and the sum of their association accuracies."""
    true = sorted({int(t) for truth, _ in pairs for t in truth.ids})
    given = sorted({int(f) for _, found in pairs for f in found.ids})
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (true, given))
    potential = np.zeros((len(true), len(given)))
    of_true, of_given = np.zeros(len(true)), np.zeros(len(given))
    frames = []
    for truth, found in pairs:
        r = np.array([rows[int(t)] for t in truth.ids], int)
        k = np.array([columns[int(f)] for f in found.ids], int)
        shared = overlaps(truth.boxes, found.boxes)
        of_true[r] += 1
        of_given[k] += 1
        if shared.size:
            union = shared.sum(0)[None] + shared.sum(1)[:, None] - shared
            potential[np.ix_(r, k)] += np.where(union > 1e-12, shared / np.maximum(union, 1e-12), 0)
        frames.append((r, k, shared))
    alignment = potential / np.maximum(of_true[:, None] + of_given[None] - potential, 1e-12)
    n = len(ALPHAS)
    hits = np.zeros((n, len(true), len(given)))
    tp, fn, fp = np.zeros(n), np.zeros(n), np.zeros(n)
    for r, k, shared in frames:
        i, j = _matched(alignment[np.ix_(r, k)] * shared) if shared.size else (np.zeros(0, int), np.zeros(0, int))
        for a, alpha in enumerate(ALPHAS):
            good = shared[i, j] >= alpha - 1e-12 if len(i) else np.zeros(0, bool)
            tp[a] += good.sum()
            fn[a] += len(r) - good.sum()
            fp[a] += len(k) - good.sum()
            np.add.at(hits[a], (r[i[good]], k[j[good]]), 1)
    shares = hits / np.maximum(of_true[:, None] + of_given[None] - hits, 1)
    return {"tp": tp, "fn": fn, "fp": fp, "association": (hits * shares).sum((1, 2))}


def hota_scores(counts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Means over `ALPHAS` of HOTA and of its detection and association accuracy, sequences joined by their counts."""
    total = {k: np.sum([c[k] for c in counts], 0) for k in counts[0]}
    detection = total["tp"] / np.maximum(total["tp"] + total["fn"] + total["fp"], 1)
    association = total["association"] / np.maximum(total["tp"], 1)
    return {
        "hota": float(np.sqrt(detection * association).mean()),
        "deta": float(detection.mean()),
        "assa": float(association.mean()),
    }

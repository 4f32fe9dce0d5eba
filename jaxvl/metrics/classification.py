"""Accuracy of classifiers, in numpy on the host: top-k, mean per class, confusion.

Ties are broken by the lowest class index, so a constant predictor scores the share of class 0 and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def top_k(scores: np.ndarray, k: int = 1) -> np.ndarray:
    """Indices `[N, k]` of the k highest of `scores [N, K]`, best first, equal scores by index. NaN ranks last."""
    clean = np.where(np.isnan(scores), -np.inf, scores)
    return np.argsort(-clean, axis=-1, kind="stable")[:, :k]


def accuracy(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """`top1`, `top5`, ... in percent: share of rows of `scores [N, K]` whose label is among the k best.

    A k above K counts every row. ValueError without rows.
    """
    labels = np.asarray(labels)
    if len(labels) == 0:
        raise ValueError("accuracy of no examples")
    best = top_k(scores, max(ks))
    return {f"top{k}": 100.0 * float((best[:, :k] == labels[:, None]).any(1).mean()) for k in ks}


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts `[classes, classes]` int64: rows are the true labels, columns the predictions."""
    out = np.zeros((classes, classes), np.int64)
    np.add.at(out, (np.asarray(labels), np.asarray(predicted)), 1)
    return out


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Recall of each class `[classes]`, in percent; NaN for a class without examples."""
    counts = confusion(predicted, labels, classes)
    total = counts.sum(1)
    return np.where(total > 0, 100.0 * counts.diagonal() / np.maximum(total, 1), np.nan)


def mean_per_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean of the recalls of the classes that have examples, in percent (VisDA-2017's score)."""
    return float(np.nanmean(per_class_accuracy(predicted, labels, classes)))

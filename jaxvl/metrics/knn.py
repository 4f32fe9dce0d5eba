"""Nearest-neighbour classification of embeddings, in numpy on the host (Wu et al., CVPR 2018, arXiv 1805.01978)."""

from __future__ import annotations

import numpy as np

CHUNK = 1024
"""Queries at a time; bounds the matrix of similarities."""


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of unit length `[N, D]` float32; a row of zeros stays zero."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def neighbours(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`(indices [N, k], cosines [N, k])` of the k rows of `bank [M, D]` nearest to each of `queries [N, D]`, nearest
    first, equal ones by index. k above M gives M. ValueError for an empty bank."""
    if len(bank) == 0:
        raise ValueError("neighbours in an empty bank")
    bank, queries, k = unit_rows(bank), unit_rows(queries), min(k, len(bank))
    found, cosines = [], []
    for start in range(0, len(queries), CHUNK):
        similarity = queries[start : start + CHUNK] @ bank.T
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        found.append(best)
        cosines.append(np.take_along_axis(similarity, best, 1))
    if not found:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    return np.concatenate(found), np.concatenate(cosines)


def knn_scores(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> np.ndarray:
    """Votes `[N, classes]`: the k nearest vote for their class with weight `exp(cosine / temperature)`.

    bank `[M, D]` with labels `[M]`, queries `[N, D]`. The highest score is the prediction (`classification.accuracy`).
    """
    found, cosines = neighbours(bank, queries, k)
    votes = np.asarray(labels)[found]
    weights = np.exp(cosines.astype(np.float64) / temperature)
    scores = np.zeros((len(found), classes))
    np.add.at(scores, (np.arange(len(found))[:, None], votes), weights)
    return scores

"""Weighted nearest neighbours and the linear probe: by hand, and against scikit-learn."""

import numpy as np
import pytest

from jaxvl.metrics.knn import knn_scores, neighbours, unit_rows
from jaxvl.metrics.linear_probe import probe_scores


def test_votes_by_hand():
    bank = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    scores = knn_scores(bank, np.array([0, 1, 1, 2]), np.array([[5.0, 0.0]]), classes=3, k=3, temperature=0.5)
    np.testing.assert_allclose(scores, [[np.exp(2), np.exp(2) + 1, 0]], rtol=1e-6)


def test_nearest_first_and_ties_by_index():
    found, cosines = neighbours(np.array([[0.0, 1], [1, 0], [1, 0]]), np.array([[2.0, 0]]), k=9)
    assert found.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(cosines, [[1, 1, 0]])
    np.testing.assert_array_equal(unit_rows(np.zeros((1, 2))), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="empty bank"):
        neighbours(np.zeros((0, 2)), np.zeros((1, 2)), 1)


def test_chunks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    bank, labels, queries = rng.normal(size=(50, 4)), rng.integers(0, 3, 50), rng.normal(size=(23, 4))
    whole = knn_scores(bank, labels, queries, 3, k=7)
    monkeypatch.setattr("jaxvl.metrics.knn.CHUNK", 5)
    np.testing.assert_array_equal(knn_scores(bank, labels, queries, 3, k=7), whole)


def test_probe_finds_the_minimum_that_scikit_learn_finds():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 5)) * [1, 10, 0.1, 1, 1] + labels[:, None] * [1, 10, 0, 0.5, 0]
    ours = probe_scores(x, labels, x, classes=3, l2=1e-2)
    z = (x - x.mean(0)) / x.std(0)
    theirs = linear_model.LogisticRegression(C=1 / (1e-2 * 300), max_iter=2000, tol=1e-8).fit(z, labels)
    log = lambda s: s - np.log(np.exp(s).sum(1, keepdims=True))  # noqa: E731
    np.testing.assert_allclose(log(ours), log(theirs.decision_function(z)), atol=5e-3)

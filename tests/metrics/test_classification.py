"""Top-k with ties, mean per class and confusion, by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from jaxvl.metrics import classification as C


def test_ties_go_to_the_lowest_class():
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [np.nan, -1.0, -2.0]])
    np.testing.assert_array_equal(C.top_k(scores, 2), [[0, 1], [1, 2], [1, 2]])
    assert C.accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 0]), (1, 2)) == {"top1": 50.0, "top2": 75.0}


def test_k_above_the_classes_counts_everything():
    assert C.accuracy(np.eye(2), np.array([1, 0])) == {"top1": 0.0, "top5": 100.0}


def test_mean_per_class_weighs_rare_classes_alike():
    labels = np.array([0] * 8 + [1] * 2)
    predicted = np.array([0] * 8 + [0, 1])
    assert C.accuracy(np.eye(2)[predicted], labels, (1,))["top1"] == pytest.approx(90)
    assert C.mean_per_class(predicted, labels, 2) == pytest.approx(75)
    np.testing.assert_array_equal(C.confusion(predicted, labels, 3), [[8, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert np.isnan(C.per_class_accuracy(predicted, labels, 3)[2])
    assert C.mean_per_class(predicted, labels, 3) == pytest.approx(75)  # a class without examples does not count


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    predicted = C.top_k(scores)[:, 0]
    got = C.accuracy(scores, labels, (1, 3))
    assert got["top1"] == pytest.approx(100 * reference.accuracy_score(labels, predicted))
    assert got["top3"] == pytest.approx(100 * reference.top_k_accuracy_score(labels, scores, k=3))
    assert C.mean_per_class(predicted, labels, 7) == pytest.approx(
        100 * reference.balanced_accuracy_score(labels, predicted)
    )


def test_no_examples():
    with pytest.raises(ValueError, match="no examples"):
        C.accuracy(np.zeros((0, 3)), np.zeros(0, int))

from __future__ import annotations

import numpy as np
import pytest

from jaxvl.metrics import question_answering as qa


def test_hits_count_the_right_answer_among_the_first_and_never_an_unknown_one():
    logits = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [1, 1, 1, 1], [5, 0, 0, 0]])
    labels = np.array([0, 1, 1, -1])
    assert qa.hits(logits, labels).tolist() == [True, False, False, False]  # of equal scores the first is taken
    assert qa.hits(logits, labels, 2).tolist() == [True, False, True, False]
    assert qa.hits(logits, labels, 3).tolist() == [True, True, True, False]
    assert not qa.hits(logits, labels, 10)[3]
    assert not qa.hits(np.full((1, 3), np.nan), np.array([0]), 3)[0]


@pytest.mark.parametrize("k", [1, 3])
def test_hits_agree_with_sorting(k):
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 5, (200, 9)).astype(float), rng.integers(-1, 9, 200)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(qa.hits(logits, labels, k), (order == labels[:, None]).any(1))


def test_open_answers_by_every_type_that_a_question_has():
    logits = np.eye(4)[[0, 1, 2, 3]]
    labels = np.array([0, 1, 3, -1])
    groups = [
        {"global": ("obj-rel", "exists"), "ans_type": ("binary",)},
        {"global": ("obj-rel",), "ans_type": ("open",)},
        {"global": ("exists", "exists"), "ans_type": ("binary",)},
        {"global": (), "ans_type": ("open",)},
    ]
    out = qa.open_accuracy(logits, labels, groups)
    assert out == {
        "acc@1": 50.0, "acc@10": 75.0, "unanswerable": 25.0, "ans_type/binary": 50.0, "ans_type/open": 50.0,
        "global/exists": 50.0, "global/obj-rel": 100.0,
    }  # fmt: skip


def test_nextqa_counts_questions_not_types():
    codes = ["CW", "CW", "CH", "TN", "TP", "TC", "DC", "DL", "DO", "DO"]
    flags = [True, False, True, True, False, False, True, True, False, True]
    out = qa.nextqa_accuracy(flags, codes)
    expected = {"acc": 60.0, "acc_C": 200 / 3, "acc_T": 100 / 3, "acc_D": 75.0, "Why": 50.0, "How": 100.0}
    expected |= {"Bef&Aft": 50.0, "When": 0.0, "Cnt": 100.0, "Loc": 100.0, "Other": 50.0}
    assert out == pytest.approx(expected)
    with pytest.raises(ValueError, match="XX"):
        qa.nextqa_accuracy([True], ["XX"])


def test_star_is_the_mean_of_its_types():
    types = ["Interaction"] * 4 + ["Sequence"] * 2 + ["Prediction"] + ["Feasibility"]
    flags = [True, True, True, False, True, False, False, True]
    out = qa.star_accuracy(flags, types)
    assert out["mean"] == pytest.approx((75 + 50 + 0 + 100) / 4)
    assert out["micro"] == pytest.approx(62.5)
    assert qa.star_accuracy([True], ["Sequence"])["mean"] == 100.0

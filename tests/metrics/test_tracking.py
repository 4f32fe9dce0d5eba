"""Scores of tracks: published golden values, TrackEval's figures, answers by hand, and loops."""

from pathlib import Path

import numpy as np
import pytest

from jaxvl.data.readers.tracking.mot import read_mot_results, read_mot_truth
from jaxvl.metrics import multi_object, single_object
from jaxvl.metrics.multi_object import Frame, Truth
from jaxvl.metrics.single_object import Followed

TUD = Path(__file__).parent / "tud"


def frames_of(name):
    truth, found = read_mot_truth(TUD / f"{name}-gt.txt"), read_mot_results(TUD / f"{name}-test.txt")
    count = int(max(truth.frame.max(), found.frame.max())) + 1
    pairs = []
    for i in range(count):
        t, f = truth.take(truth.frame == i), found.take(found.frame == i)
        pairs.append((Truth(t.track_id, t.boxes, t.score > 0, t.class_id), Frame(f.track_id, f.boxes)))
    return [t for t, _ in pairs], [f for _, f in pairs]


SEQUENCES = {name: frames_of(name) for name in ("Campus", "Stadtmitte")}


def test_published_values_of_py_motmetrics():
    """Its documentation: IDF1 55.8, IDP 73.0, IDR 45.1, MOTA 52.6, MOTP 0.277 as distance; overall IDF1 62.4, MOTA
    55.5."""
    campus = multi_object.evaluate({"a": SEQUENCES["Campus"]})
    shown = {k: round(100 * campus[k], 1) for k in ("idf1", "idp", "idr", "mota")}
    assert shown == {"idf1": 55.8, "idp": 73.0, "idr": 45.1, "mota": 52.6}
    assert round(1 - campus["motp"], 3) == 0.277
    assert [campus[k] for k in ("fp", "fn", "ids", "fragments")] == [13, 150, 7, 7]
    city = multi_object.evaluate({"a": SEQUENCES["Stadtmitte"]})
    assert [round(100 * city[k], 1) for k in ("idf1", "mota")] == [64.5, 56.4]
    assert round(1 - city["motp"], 3) == 0.346
    assert [city[k] for k in ("fp", "fn", "ids")] == [45, 452, 7]
    both = multi_object.evaluate(SEQUENCES)
    assert [round(100 * both[k], 1) for k in ("idf1", "mota")] == [62.4, 55.5]


@pytest.mark.parametrize(
    ("name", "want"), [("Campus", (0.39140, 0.41805, 0.36912)), ("Stadtmitte", (0.39785, 0.39227, 0.40884))]
)
def test_hota_as_trackeval_1_3_0_has_it(name, want):
    scores = multi_object.evaluate({name: SEQUENCES[name]})
    np.testing.assert_allclose([scores[k] for k in ("hota", "deta", "assa")], want, atol=5e-6)


def truth(boxes, ids=None, counted=None, kinds=None):
    n = len(boxes)
    ids, counted = np.arange(n) if ids is None else ids, np.ones(n, bool) if counted is None else counted
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Truth(np.array(ids), boxes, np.array(counted), np.ones(n, int) if kinds is None else np.array(kinds))


def found(boxes, ids):
    return Frame(np.array(ids, int), np.array(boxes, float).reshape(-1, 4))


A, B = [0, 0, 10, 10], [50, 0, 10, 10]


def test_the_truth_scores_one_and_nothing_scores_zero():
    sequence = [truth([A, B])] * 4
    best = multi_object.evaluate({"x": (sequence, [found([A, B], [7, 3])] * 4)})
    assert [best[k] for k in ("mota", "motp", "idf1", "hota", "ids")] == [1, 1, 1, 1, 0]
    worst = multi_object.evaluate({"x": (sequence, [found([], [])] * 4)})
    assert [worst[k] for k in ("mota", "idf1", "hota", "fn")] == [0, 0, 0, 8]


def test_swapped_identities_are_two_switches():
    swapped = [found([A, B], [1, 2])] * 2 + [found([A, B], [2, 1])] * 2
    scores = multi_object.evaluate({"x": ([truth([A, B])] * 4, swapped)})
    assert (scores["ids"], scores["fp"], scores["fn"]) == (2, 0, 0)
    assert scores["mota"] == pytest.approx(1 - 2 / 8)
    assert scores["idf1"] == pytest.approx(0.5)
    # every hit belongs to a pair that shares 2 of 6 frames: 2 / (4 + 4 - 2)
    assert scores["assa"] == pytest.approx(1 / 3)


def test_results_on_distractors_are_dropped_and_on_ignored_people_are_not():
    rows = truth([A, B, [100, 0, 10, 10]], counted=[True, False, False], kinds=[1, 8, 1])
    results = found([A, B, [100, 0, 10, 10], [200, 0, 10, 10]], [1, 2, 3, 4])
    kept = multi_object.evaluate({"x": ([rows], [results])})
    assert (kept["objects"], kept["fp"], kept["fn"]) == (1, 2, 0)  # the distractor's is gone
    raw = multi_object.evaluate({"x": ([rows], [results])}, use_preprocess=False)
    assert raw["fp"] == 3
    # assigned before it is dropped: a person beside a distractor keeps its result
    near = truth([A, [3, 0, 10, 10]], counted=[True, False], kinds=[1, 7])
    one = multi_object.evaluate({"x": ([near], [found([[1, 0, 10, 10]], [1])])})
    assert (one["fp"], one["fn"]) == (0, 0)


def loops(sequences, exclude):
    """Success and precision pixel by pixel, frame by frame."""
    rows = []
    for s in sequences.values():
        last, shares, near, scaled = s.truth[0], [], [], []
        for t in range(len(s.truth)):
            p, g = (s.truth[0] if t == 0 else s.predicted[t]), s.truth[t]
            p = last if p[2] <= 0 or p[3] <= 0 else p
            last = p
            there = g[2] > 0 and g[3] > 0
            shown = there and bool(s.visible[t])
            if exclude and not shown:
                continue
            w = max(min(p[0] + p[2] - 1, g[0] + g[2] - 1) - max(p[0], g[0]) + 1, 0)
            h = max(min(p[1] + p[3] - 1, g[1] + g[3] - 1) - max(p[1], g[1]) + 1, 0)
            shares.append(w * h / (p[2] * p[3] + g[2] * g[3] - w * h) if shown else -1)
            d = [p[k] + (p[k + 2] - 1) / 2 - g[k] - (g[k + 2] - 1) / 2 for k in (0, 1)]
            near.append(np.hypot(*d) if shown else np.inf)
            empty = -1 if s.visible[t] else np.inf  # a hit where only the box is empty
            scaled.append(np.hypot(d[0] / g[2], d[1] / g[3]) if shown else empty)
        levels = [np.mean([x > k / 20 for x in shares]) for k in range(21)]
        rows.append([*levels, np.mean(np.array(near) <= 20), np.mean(np.array(scaled) <= 0.2)])
    mean = np.mean(rows, 0)
    names = ("auc", "op50", "op75", "precision", "norm_precision")
    return dict(zip(names, (mean[:21].mean(), mean[10], mean[15], mean[21], mean[22])))


@pytest.mark.parametrize("exclude", [False, True])
def test_success_and_precision_by_loops(exclude):
    rng = np.random.default_rng(0)
    sequences = {}
    for name, n in (("a", 30), ("b", 11)):
        boxes = np.concatenate([rng.uniform(0, 100, (n, 2)), rng.uniform(20, 60, (n, 2))], 1)
        predicted = boxes + rng.normal(0, 9, (n, 4))
        predicted[5, 2] = 0
        visible = rng.random(n) > 0.2
        boxes[7:9] = 0
        visible[7:9] = True, False
        sequences[name] = Followed(predicted, boxes, visible)
    got = single_object.success(sequences, exclude)
    want = loops(sequences, exclude)
    assert got.keys() == want.keys()
    for name in want:
        assert got[name] == pytest.approx(want[name], abs=1e-12), name


def test_frames_without_target():
    boxes = np.tile([10.0, 10, 20, 20], (4, 1))
    boxes[2] = 0
    perfect = np.tile([10.0, 10, 20, 20], (4, 1))
    unsaid = single_object.success({"x": Followed(perfect, boxes)})
    assert (unsaid["op50"], unsaid["precision"], unsaid["norm_precision"]) == (0.75, 0.75, 1.0)
    said = single_object.success({"x": Followed(perfect, boxes, boxes[:, 2] > 0)})
    assert (said["op50"], said["norm_precision"]) == (0.75, 0.75)
    empty = single_object.success({"x": Followed(perfect, boxes, np.ones(4, bool))})  # as OTB's reader gives it
    assert (empty["op50"], empty["norm_precision"]) == (0.75, 1.0)
    assert single_object.success({"x": Followed(perfect, boxes)}, exclude_invalid=True)["op50"] == 1
    assert single_object.success({"x": Followed(perfect, boxes)})["auc"] == pytest.approx(
        0.75 * 20 / 21
    )  # 1 > 1 is not


def test_average_overlap_joins_the_frames_of_all_sequences():
    long, short = np.tile([0.0, 0, 10, 10], (5, 1)), np.tile([0.0, 0, 10, 10], (3, 1))
    half = short.copy()
    half[:, 2] = 6
    found = {"a": Followed(long, long, np.array([1, 1, 1, 0, 1], bool)), "b": Followed(half, short)}
    scores = single_object.average_overlap(found)  # three frames of 1, two of .6; the first of each is left out
    assert scores["ao"] == pytest.approx((3 + 2 * 0.6) / 5)
    assert (scores["sr50"], scores["sr75"]) == (1.0, pytest.approx(0.6))

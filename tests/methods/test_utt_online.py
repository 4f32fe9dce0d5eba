"""Trackers between frames: identities through absence, published limits, the Kalman filter, crops there and back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxvl.core.errors import InputError
from jaxvl.methods.utt import kalman
from jaxvl.methods.utt.association import (
    TRACKERS,
    Byte,
    Detections,
    Predicted,
    Released,
    Transformer,
    assign_below,
    overlaps,
    tracker_of,
)
from jaxvl.methods.utt.single import Single, check_start, in_crop, in_frame, inside


def found(*rows, score=1.0):
    boxes = np.array([r[:4] for r in rows], float).reshape(-1, 4)
    scores = np.array([r[4] if len(r) > 4 else score for r in rows], float)
    return Detections(boxes, scores, np.zeros((len(rows), 3)))


A, B = (0, 0, 10, 20), (50, 0, 60, 20)


def ids(objects):
    return [o.id for o in objects]


def test_overlaps_with_whole_pixels():
    assert overlaps([[0, 0, 9, 9]], [[5, 0, 14, 9]], pixel=1)[0, 0] == pytest.approx(50 / 150)
    assert overlaps([[0, 0, 1, 1]], [[2, 0, 3, 1]], "giou")[0, 0] == pytest.approx(-1 / 3)


def test_assignment_with_a_limit_is_the_best_partial_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cost, limit = rng.random((3, 4)), 0.5
        pairs = assign_below(cost, limit)
        best = np.inf
        for mask in np.ndindex(*(2,) * 12):  # every set of pairs
            chosen = np.array(mask, bool).reshape(3, 4)
            if chosen.sum(0).max() <= 1 and chosen.sum(1).max() <= 1:
                best = min(best, cost[chosen].sum() + limit / 2 * (7 - 2 * chosen.sum()))
        got = sum(cost[i, j] for i, j in pairs) + limit / 2 * (7 - 2 * len(pairs))
        assert got == pytest.approx(best)
        assert len(linear_sum_assignment(cost)[0]) >= len(pairs)


def test_released_links_by_giou_below_its_limit():
    near, far = (12, 0, 22, 20), (17, 0, 27, 20)  # GIoU -0.09 and -0.26
    for box, same in ((near, True), (far, False)):
        tracker = Released()
        assert ids(tracker.update(found(A))) == [1]
        assert ids(tracker.update(found(box))) == [1 if same else 2]


@pytest.mark.parametrize(("gap", "same"), [(9, True), (10, False), (11, False)])
def test_released_keeps_an_identity_for_nine_frames(gap, same):
    tracker = Released()
    tracker.update(found(A))
    for _ in range(gap):
        assert tracker.update(found()) == []
    assert ids(tracker.update(found(A))) == [1 if same else 2]


def test_released_numbers_new_objects_in_the_order_of_detections_then_those_undone():
    tracker = Released()
    assert ids(tracker.update(found(A, (90, 90, 99, 99, 0.39), B))) == [1, 2]
    # a third object, and one where nothing was: the assignment is undone and it comes last
    assert ids(tracker.update(found((200, 0, 210, 20), A, (300, 300, 310, 320)))) in ([3, 1, 4], [4, 1, 3])


@pytest.mark.parametrize("name", list(TRACKERS))
def test_perfect_detections_in_slow_motion_never_switch(name):
    rng = np.random.default_rng(0)
    starts = np.array([[20 + 60 * i, 30, 50 + 60 * i, 90] for i in range(5)], float)
    speed = rng.uniform(-0.4, 0.4, (5, 2))
    tracker, seen = tracker_of(name), {}
    for frame in range(50):
        boxes = starts + np.tile(speed, 2) * frame
        order = rng.permutation(5)
        tracks = tracker.proposals()
        # what the network says must not matter where it is not used; the paper's tracker is given boxes that stay
        guess = np.array([t.box for t in tracks]).reshape(-1, 4)
        nonsense = rng.normal(size=guess.shape) * 100
        predicted = Predicted(guess if name == "transformer" else nonsense)
        objects = tracker.update(Detections(boxes[order], np.ones(5), np.zeros((5, 3))), predicted)
        assert len(objects) == 5
        for o in objects:
            who = int(np.argmin(np.abs(boxes - o.box).sum(1)))
            assert seen.setdefault(who, o.id) == o.id, frame


def test_transformer_follows_a_lost_object_along_the_predicted_boxes():
    tracker = Transformer(size=(100, 400))
    tracker.update(found(A))
    for step in range(1, 6):  # hidden, while the network sees it move by 20 pixels a frame
        (track,) = tracker.proposals()
        moved = np.add(A, [20.0 * step, 0, 20 * step, 0])
        assert tracker.update(found(), Predicted(moved[None])) == []
        np.testing.assert_array_equal(track.box, moved)
    there = (104, 0, 114, 20)
    assert ids(tracker.update(found(there), Predicted(tracker.proposals()[0].box[None]))) == [1]
    unseen = Transformer()
    unseen.update(found(A))
    for _ in range(6):
        objects = unseen.update(found(there))
    assert ids(objects) == [2]


def test_transformer_forgets_after_thirty_frames():
    for gap, same in ((29, True), (30, True), (31, False)):
        tracker = Transformer()
        tracker.update(found(A))
        for _ in range(gap):
            tracker.update(found())
        assert (ids(tracker.update(found(A))) == [1]) is same


def test_byte_confirms_in_the_second_frame_and_uses_low_scores_for_known_objects():
    tracker = Byte()
    assert ids(tracker.update(found(A))) == [1]
    assert ids(tracker.update(found(A, B))) == [1]  # the newcomer is not confirmed yet
    tracker.proposals()
    assert ids(tracker.update(found(A, B))) == [1, 2]
    tracker.proposals()
    assert ids(tracker.update(found((*A, 0.3), (*B, 0.9)))) == [1, 2]
    tracker.proposals()
    assert ids(tracker.update(found((*A, 0.9), (200, 0, 210, 20, 0.3)))) == [1]  # low scores give no birth


def byte_after(gap, bug, before=1):
    tracker = Byte(end_frame_bug=bug)
    for _ in range(before):
        tracker.proposals()
        tracker.update(found(A))
    for _ in range(gap):
        tracker.proposals()
        tracker.update(found())
    tracker.proposals()
    for _ in range(2):
        objects = tracker.update(found(A))
        tracker.proposals()
    return ids(objects)


def test_byte_remembers_for_thirty_frames_but_for_the_released_slip():
    assert byte_after(29, False) == [1]
    assert byte_after(33, False) == [2]
    assert byte_after(3, False, before=40) == [1]
    assert byte_after(3, True, before=40) == [2]
    assert byte_after(3, True, before=5) == [1]


def test_byte_looks_at_the_transformers_box_only_if_its_score_is_high():
    for score, same in ((0.95, True), (0.5, False)):
        tracker = Byte()
        tracker.update(found(A))
        tracker.proposals()
        jump = np.array([300.0, 0, 310, 20])
        objects = tracker.update(found(tuple(jump)), Predicted(jump[None], np.array([score])))
        assert (ids(objects) == [1]) is same


def test_kalman_is_the_textbook_filter():
    """Against matrices written out, in another form of the update."""
    state = kalman.born(np.array([10.0, 20, 0.5, 40]))
    np.testing.assert_allclose(np.sqrt(np.diag(state[1])), [4, 4, 0.01, 4, 2.5, 2.5, 1e-5, 2.5])
    mean, cov = kalman.predict(state)
    f = np.block([[np.eye(4), np.eye(4)], [np.zeros((4, 4)), np.eye(4)]])
    q = np.diag(np.array([2, 2, 0.01, 2, 0.25, 0.25, 1e-5, 0.25]) ** 2)
    np.testing.assert_allclose(cov, f @ state[1] @ f.T + q)
    z = np.array([12.0, 21, 0.55, 42])
    r = np.diag(np.array([2, 2, 0.1, 2]) ** 2)
    h = np.eye(4, 8)
    information = np.linalg.inv(cov) + h.T @ np.linalg.inv(r) @ h
    want = np.linalg.solve(information, np.linalg.inv(cov) @ mean + h.T @ np.linalg.inv(r) @ z)
    got = kalman.update((mean, cov), z)
    np.testing.assert_allclose(got[0], want, rtol=1e-8)
    np.testing.assert_allclose(got[1], np.linalg.inv(information), rtol=1e-6, atol=1e-12)
    box = np.array([3.0, 4, 13, 44])
    np.testing.assert_allclose(kalman.box_of(kalman.born(kalman.measured_of(box))), box)


IMAGE = np.zeros((480, 640, 3), np.uint8)


@pytest.mark.parametrize("coords", ["exact", "official"])
def test_a_box_goes_into_the_crop_and_back(coords):
    box = np.array([100.3, 80.6, 50.4, 32.2])
    tracker = Single(box, 6.0, 352, coords)
    seen, at = tracker.look(IMAGE)
    back = in_frame(at, box, seen, 352, coords)
    # the released mapping takes the centre (w - 1) / 2 of the box for the middle of the crop: half a pixel
    np.testing.assert_allclose(back, box - [0.5, 0.5, 0, 0] if coords == "official" else box, atol=1e-9)
    if coords == "official":
        np.testing.assert_allclose((at[:2] + at[2:]) / 2, 176)
    assert tracker.take(at, 1.0, 480, 640).tolist() == back.tolist()


def test_boxes_stay_inside_and_the_guard_keeps_the_place():
    np.testing.assert_allclose(inside(np.array([-50.0, 470, 20, 50]), 480, 640), [0, 470, 2, 10])
    np.testing.assert_allclose(inside(np.array([700.0, -90, 20, 50]), 480, 640), [638, 0, 2, 2])
    tracker = Single(np.array([100.0, 100, 40, 20]), 6.0, 352, guard=0.4)
    tracker.look(IMAGE)
    np.testing.assert_allclose(tracker.take(np.zeros(4), 0.3, 480, 640), [98, 99, 44, 22])
    for _ in range(20):
        tracker.take(np.zeros(4), 0.3, 480, 640)
    np.testing.assert_allclose(tracker.box[2:], [80, 80])


@pytest.mark.parametrize(
    ("box", "said"), [((700, 10, 5, 5), "outside"), ((5, 5, 0, 5), "no area"), ((1, 2, 3), "four numbers")]
)
def test_first_boxes_that_cannot_be_followed_are_refused(box, said):
    with pytest.raises(InputError, match=said):
        check_start(box, 480, 640, "--box")


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="tracker: 'sort'"):
        tracker_of("sort")
    with pytest.raises(InputError, match="coords: 'near'"):
        Single(np.ones(4), 6.0, 352, "near")
    assert in_crop(np.array([0.0, 0, 2, 2]), Single(np.array([0.0, 0, 2, 2]), 6.0, 12).look(IMAGE)[0], 12).shape == (4,)

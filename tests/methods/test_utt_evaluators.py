"""UTT's evaluations between network and score: what is asked, how answers come back to the frame, perfect answers."""

from __future__ import annotations

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.methods.utt import recipe
from jaxvl.methods.utt.association import Detections, tracker_of
from jaxvl.methods.utt.evaluators import FollowAll, FollowOne, placed, rows_of
from jaxvl.metrics.multi_object import Truth

HEIGHT, WIDTH, FRAMES = 60, 90, 12
SCALE = np.array([48 / 90, 32 / 60] * 2)


def config(**mot):
    c = recipe.base()
    c.model.dim = 16
    c.data.update({"crop_size": 64, "crop_factor": 4.0})
    c.eval.mot.update({"short": 32, "longest": 48, "max_tracks": 3, "max_detections": 6, "detections": "truth", **mot})
    return c


def world():
    """Three boxes (left, top, width, height) that move slowly, the last one in from outside: `[FRAMES, 3, 4]`."""
    start, speed = (
        np.array([[5, 5, 12, 16], [40, 10, 14, 14], [-6, 35, 16, 12.0]]),
        np.array([[1, 0.5], [0.5, 1], [1, 0]]),
    )
    return np.stack([np.concatenate([start[:, :2] + f * speed, start[:, 2:]], 1) for f in range(FRAMES)])


def frames():
    for boxes in world():
        truth = Truth(np.arange(3) + 7, boxes, np.ones(3, bool), np.ones(3, int))
        given = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)[[2, 0, 1]]
        yield {"image": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "truth": truth, "given": given}


@pytest.mark.parametrize("tracker", ["transformer", "released", "byte"])
def test_perfect_detections_are_scored_as_perfect(tracker):
    follower = FollowAll(config(tracker=tracker))
    spec, state = follower.fields("mot", (32, 48)), None
    for frame in frames():
        state = state or follower.begin("mot", frame)
        row = follower.ask(state, frame)
        assert {k: (v.shape, np.asarray(v).dtype) for k, v in row.items()} == {
            k: (v.shape, v.dtype) for k, v in spec.items()
        }
        assert row["size"].tolist() == [32, 48]
        np.testing.assert_allclose(row["given"][:3], frame["given"] * SCALE, rtol=1e-5)
        outputs = {"found": row["given"], "scores": np.ones(6), "described": np.ones((6, 16)), "tracks": row["boxes"]}
        state = follower.answer(state, frame, outputs)
    acc = {("mot", "street"): follower.end(state)}
    scores = follower.compute(acc)
    assert scores["ids"] == scores["fp"] == scores["fn"] == 0
    assert scores["mota"] == scores["idf1"] == 1
    assert scores["hota"] == pytest.approx(1, abs=0.02)
    rows = follower.artifacts(acc)["mot/street"]
    assert rows.shape == (3 * FRAMES, 7)
    assert (rows[0, 0], rows[-1, 0]) == (1, FRAMES)


def test_other_trackers_are_scored_on_the_same_detections():
    follower, state = FollowAll(config(beside=("released", "byte"))), None
    alone = {name: tracker_of(name) for name in ("released", "byte")}
    for number, frame in enumerate(frames()):
        state = state or follower.begin("mot", frame)
        row = follower.ask(state, frame)
        lost = {**frame, "given": frame["given"][: 3 - (number == 5)]}  # one is missed once
        outputs = {"found": row["given"], "described": np.ones((6, 16)), "tracks": row["boxes"], "scores": np.ones(6)}
        state = follower.answer(state, lost, outputs)
        for name, tracker in alone.items():
            tracker.proposals()
            count = len(lost["given"])
            seen = tracker.update(Detections(row["given"][:count] / SCALE, np.ones(count), np.ones((count, 16))))
            assert [o.id for o in seen] == state.beside[name][1][-1].ids.tolist()
    scores = follower.compute({("mot", "street"): follower.end(state)})
    assert scores["fn"] == 1
    assert scores["byte_ids"] == scores["released_ids"] == 0
    assert scores["byte_idf1"] == pytest.approx(2 * 35 / (2 * 35 + 1), abs=0.03)
    c = config(beside=("byte",))
    c.model.output_score = True
    with pytest.raises(InputError, match="beside: 'byte' asks the network"):
        FollowAll(c).begin("mot", next(frames()))


def test_more_tracks_than_places_are_cut_and_empty_frames_pass():
    follower = FollowAll(config(max_tracks=2))
    first = next(frames())
    state = follower.begin("mot", first)
    follower.ask(state, first)
    outputs = {
        "found": np.zeros((6, 4)),
        "scores": np.zeros(6),
        "described": np.ones((6, 16)),
        "tracks": np.zeros((2, 4)),
    }
    outputs["found"][:3] = first["given"] * SCALE
    state = follower.answer(state, first, outputs)
    assert follower.ask(state, first)["valid"].tolist() == [True, True]
    nothing = {**first, "given": np.zeros((0, 4))}
    state = follower.answer(state, nothing, outputs)
    assert len(state.found[1].ids) == 0
    assert rows_of(state.found, state.scores).shape == (3, 7)


def test_predicted_boxes_are_clipped_to_the_frame_that_is_there():
    follower = FollowAll(config())
    first = next(frames())
    state = follower.begin("mot", first)
    row = follower.ask(state, first)
    outputs = {"found": row["given"], "scores": np.ones(6), "described": np.ones((6, 16)), "tracks": row["boxes"]}
    state = follower.answer(state, first, outputs)
    wide = {**first, "image": np.zeros((HEIGHT, 3 * WIDTH, 3), np.uint8), "given": np.zeros((0, 4))}
    row = follower.ask(state, wide)
    far = np.tile(np.array([200.0, 10, 220, 40]) * state.scale, (3, 1))  # beyond the first frame's width
    state = follower.answer(state, wide, {**outputs, "found": row["given"], "tracks": far})
    np.testing.assert_allclose(state.tracker.tracks[0].box, [200, 10, 220, 40])


def test_one_object_follows_what_the_network_says():
    c = config()
    follower, boxes, state = FollowOne(c), world()[:, 0], None
    for box in boxes:
        frame = {"image": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "box": box, "visible": True}
        state = state or follower.begin("sot", frame)
        row = follower.ask(state, frame)
        spec = follower.fields("sot", None)
        assert {k: (v.shape, np.asarray(v).dtype) for k, v in row.items()} == {
            k: (v.shape, v.dtype) for k, v in spec.items()
        }
        seen = state.tracker.seen
        corners = (
            np.array([*(box[:2] - (seen.left, seen.top)), *(box[:2] + box[2:] - (seen.left, seen.top))]) * seen.scale
        )
        described = np.full(16, len(state.boxes) + 1.0)
        state = follower.answer(state, frame, {"box": corners, "score": np.float32(1), "described": described})
        assert state.tracker.vector.tolist() == [1.0] * 16  # that of the first frame, kept
    followed = follower.end(state)
    assert (followed.seconds > 0).all()
    assert follower.artifacts({("sot", "ball"): followed}).keys() == {"sot/ball"}  # times would differ from run to run
    c.data.sot_test = "got10k"
    assert follower.artifacts({("sot", "ball"): followed})["sot_seconds/ball"].shape == (FRAMES,)
    scores = follower.compute({("sot", "ball"): followed})
    assert scores["ao"] == pytest.approx(1, abs=1e-6)
    assert scores["precision"] == 1
    assert scores["ao_first_box"] < 0.6
    with pytest.raises(InputError, match="no sequence"):
        follower.compute({})


def test_a_frame_of_another_size_is_padded_and_counted_back():
    image = np.full((50, 50, 3), 9, np.uint8)
    picture, size = placed(image, 32, 48)
    assert (picture.shape, size) == ((32, 48, 3), (32, 32))
    assert (picture[:, :32] == 9).all()
    assert not picture[:, 32:].any()
    assert placed(np.zeros((60, 90, 3), np.uint8), 32, 48)[1] == (32, 48)

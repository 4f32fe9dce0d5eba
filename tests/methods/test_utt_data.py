"""UTT's samples: where the target lies in what is cut, what is drawn how often, every set in its published layout."""

import pickle

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data import pipeline
from jaxvl.data.crops import crop
from jaxvl.data.readers.tracking.mot import PEDESTRIAN
from jaxvl.data.readers.tracking.tracks import Frames, TracksBuilder
from jaxvl.data.spec import check_batch
from jaxvl.methods.utt import data as sources
from jaxvl.methods.utt import recipe
from jaxvl.methods.utt.method import batch_spec
from jaxvl.methods.utt.samples import (
    MakeOne,
    MakePair,
    View,
    all_padding,
    augmented,
    draw_frames,
    in_crop,
    jittered,
    sized,
    usable_sequences,
    usable_tracks,
)
from tests.data.readers import tracking_files as files

RED, BLUE = (255, 0, 0), (0, 0, 255)
FRAMES = 24


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """One sequence of 24 frames on grey, 160 x 120: a red object that moves right, a blue one that moves left."""
    folder = tmp_path_factory.mktemp("painted")
    boxes, frame, ids = [], [], []
    for i in range(FRAMES):
        image = np.full((120, 160, 3), 128, np.uint8)
        for k, (x, y, w, h) in enumerate(((20 + 2 * i, 30, 24, 40), (110 - i, 60, 30, 20))):
            image[y : y + h, x : x + w] = (RED, BLUE)[k]
            boxes.append([x, y, w, h])
            frame.append(i)
            ids.append(k + 1)
        Image.fromarray(image).save(folder / f"{i}.png")
    found = TracksBuilder("painted")
    rows = {"frame": np.array(frame), "track_id": np.array(ids), "class_id": PEDESTRIAN}
    found.add("both", Frames(str(folder), "{:d}.png", 0, FRAMES), np.array(boxes), **rows, size=(160, 120))
    red = np.array(ids) == 1
    found.add("red", Frames(str(folder), "{:d}.png", 0, FRAMES), np.array(boxes)[red], size=(160, 120))
    return found.build()


def extent(image, colour, pad=None):
    """Corners of what has the colour, in pixel edges; None where nothing has."""
    near = (np.abs(image.astype(int) - np.array(colour)) < 60).all(-1)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) if len(rows) else None


def one(painted, **changes):
    settings = {
        "sets": [painted.select([1])], "usable": [np.array([0])], "frames": 3, "size": 96, "factor": 4.0, "gap": 5,
        "centre_jitter": 1.5, "scale_jitter": 0.3, "grey": 0.0, "brightness": 0.0, "hflip": 0.5, "coords": "exact",
        "start": True,
    }  # fmt: skip
    return MakeOne(**settings | changes)


def pair(painted, **changes):
    settings = {
        "sets": [painted.select([0])], "usable": [np.array([[0, 1], [0, 2]])], "gap": 6, "size": (160, 192),
        "short": (96, 112, 128), "longest": 192, "crop": (100, 120, 140), "hflip": 0.5, "min_area": 0.25,
        "max_objects": 3,
    }  # fmt: skip
    return MakePair(**settings | changes)


def test_the_box_of_a_crop_lies_where_its_object_is_seen(painted):
    make, flips = one(painted), set()
    for seed in range(12):
        row = make(0, np.random.default_rng(seed))
        assert row["_sequence"] == "painted/red"
        assert row["pad"].dtype == bool
        for image, pad, box in zip(row["images"], row["pad"], row["boxes"]):
            assert (image[pad] < 200).all()
            whole = box[0] > 1 and box[1] > 1 and box[2] < 95 and box[3] < 95
            if whole:  # an edge may lie anywhere in its pixel
                np.testing.assert_allclose(extent(image, RED), box, atol=1.6)
            flips.add(bool(whole))
    assert True in flips
    assert "start" not in one(painted, start=False)(0, np.random.default_rng(0))


def test_the_box_that_a_crop_was_cut_around_is_its_middle(painted):
    still = one(painted, centre_jitter=0.0, scale_jitter=0.0, hflip=0.0)(0, np.random.default_rng(1))
    np.testing.assert_allclose(still["start"], still["boxes"], atol=1e-4)
    middle = (still["boxes"][:, :2] + still["boxes"][:, 2:]) / 2
    np.testing.assert_allclose(middle, 48, atol=0.6)
    official = one(painted, centre_jitter=0.0, scale_jitter=0.0, coords="official")(0, np.random.default_rng(1))
    flipped = np.abs((official["boxes"][:, 0] + official["boxes"][:, 2]) / 2 - 47.5) > 1e-4
    np.testing.assert_allclose((official["boxes"][~flipped][:, :2] + official["boxes"][~flipped][:, 2:]) / 2, 47.5)
    np.testing.assert_allclose((official["boxes"][flipped][:, 0] + official["boxes"][flipped][:, 2]) / 2, 48.5)


def test_labels_of_both_conventions():
    image, box = np.zeros((480, 640, 3), np.uint8), np.array([100.0, 80, 50, 32])
    seen = crop(image, box, 6, 352)  # left 5, top -24, scale 352 / 240
    r = 352 / 240
    other = np.array([110.0, 90, 20, 10])
    np.testing.assert_allclose(in_crop(other, box, seen, 352, "exact"), [105 * r, 114 * r, 125 * r, 124 * r])
    # centres are 5 px left of and 1 px above the middle of the window, which lies at 175.5
    want = [175.5 - 5 * r - 10 * r, 175.5 - r - 5 * r, 175.5 - 5 * r + 10 * r, 175.5 - r + 5 * r]
    np.testing.assert_allclose(in_crop(other, box, seen, 352, "official"), want)


def test_frames_are_visible_near_the_base_and_ascending():
    visible = np.array([0, 1, 5, 6, 7, 30, 31, 60])
    rng = np.random.default_rng(0)
    drawn = [draw_frames(visible, 3, 4, rng) for _ in range(400)]
    for frames in drawn:
        assert (np.diff(frames) >= 0).all()
        assert np.isin(frames, visible).all()
        assert frames[-1] - frames[0] <= 7  # both within [base - 4, base + 4)
    counts = np.bincount([f[0] for f in drawn], minlength=61)
    assert counts[60] == pytest.approx(400 / 8, abs=25)  # the base is uniform, and alone there
    assert any(len(set(f)) < 3 for f in drawn)  # with replacement
    assert all(5 not in f or 1 in f or 0 in f or set(f) <= {5, 6, 7} for f in drawn)


def test_jitter_has_the_published_spread():
    rng, box = np.random.default_rng(0), np.array([100.0, 50, 40, 10])
    np.testing.assert_allclose(jittered(box, 0, 0, rng), box)
    draws = np.array([jittered(box, 0.5, 5.5, rng) for _ in range(4000)])
    ratio = np.log(draws[:, 2:] / box[2:])
    np.testing.assert_allclose(ratio.std(0), 0.5, atol=0.02)
    shift = (draws[:, :2] + draws[:, 2:] / 2 - (box[:2] + box[2:] / 2)) / np.sqrt(draws[:, 2:].prod(1))[:, None]
    assert np.abs(shift).max() <= 2.75
    np.testing.assert_allclose(shift.std(0), 5.5 / np.sqrt(12), rtol=0.03)


def test_a_crop_that_shows_nothing_is_drawn_again(painted):
    pad = np.ones((352, 352), bool)
    pad[1:15, 1:15] = False  # between the cells of the map
    assert all_padding(pad)
    pad[16, 32] = False
    assert not all_padding(pad)
    far = one(painted, centre_jitter=400.0, factor=1.0)
    with pytest.raises(InputError, match="100 crops in a row showed nothing"):
        far(0, np.random.default_rng(0))


def test_colours():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(augmented(image, 0, 0, rng), image)
    grey = augmented(image, 1, 0, rng)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    np.testing.assert_allclose(grey[..., 0], image @ np.array([0.299, 0.587, 0.114]), atol=0.51)
    ratios = [augmented(np.full((1, 1, 3), 100, np.uint8), 0, 0.2, rng)[0, 0, 0] / 100 for _ in range(300)]
    assert (min(ratios), max(ratios)) == (pytest.approx(0.8, abs=0.02), pytest.approx(1.2, abs=0.02))
    assert augmented(np.full((1, 1, 3), 250, np.uint8), 0, 0.2, np.random.default_rng(3)).max() <= 255


def test_the_boxes_of_a_pair_lie_where_their_objects_are_seen(painted):
    make, sizes, cut = pair(painted), set(), 0
    for seed in range(16):
        row = make(0, np.random.default_rng(seed))
        shared = set(row["template_track_id"][row["template_valid"]]) & set(row["search_track_id"][row["search_valid"]])
        assert shared
        np.testing.assert_array_equal(row["template_size"], row["search_size"])
        for name in ("template", "search"):
            height, width = row[f"{name}_size"].astype(int)
            sizes.add((int(height), int(width)))
            assert not row[f"{name}_pad"][:height, :width].any()
            assert row[f"{name}_pad"].sum() == 160 * 192 - height * width
            assert (row[f"{name}_image"][row[f"{name}_pad"]] == 0).all()
            valid, ids = row[f"{name}_valid"], row[f"{name}_track_id"]
            assert (ids[~valid] == -1).all()
            np.testing.assert_array_equal(row[f"{name}_boxes"][~valid], np.tile([0, 0, 1, 1], (3 - valid.sum(), 1)))
            for box, track in zip(row[f"{name}_boxes"][valid], ids[valid]):
                seen = extent(row[f"{name}_image"], (RED, BLUE)[track - 1])
                if track == 1 or 2 not in ids or 1 not in ids:
                    cut += box[0] <= 0 or box[1] <= 0 or box[2] >= width or box[3] >= height
                    np.testing.assert_allclose(seen, box, atol=2.1)
    assert len(sizes) > 6
    assert cut


def test_crops_of_pairs_may_be_off_and_small_boxes_are_dropped(painted):
    plain = pair(painted, crop=(), short=(96,), longest=999, hflip=0.0)(0, np.random.default_rng(0))
    assert plain["search_size"].tolist() == [96, 128]
    i = np.flatnonzero(plain["search_track_id"] == 2)[0]
    x = plain["search_boxes"][i] / 0.8
    np.testing.assert_allclose(x[[1, 3]], [60, 80], atol=1e-4)
    kept = pair(painted)
    boxes = np.array([[0.0, 0, 10, 10], [6.0, 0, 10, 10]])
    cropped = View((120, 160), (0, 9, 100, 100), (100, 100), False)
    image = np.zeros((120, 160, 3), np.uint8)
    found = kept.seen(image, boxes, np.array([4, 5]), cropped, 4)
    assert found["track_id"].tolist() == [5, -1, -1]  # a tenth of the first is left
    np.testing.assert_allclose(found["boxes"][0], [0, 0, 7, 10])
    whole = pair(painted, min_area=0.0).seen(image, boxes, np.array([4, 5]), cropped, 4)
    np.testing.assert_allclose(whole["boxes"][:2], [[-9, 0, 1, 10], [-3, 0, 7, 10]])  # neither cut nor dropped
    crowd = np.tile([[20.0, 20, 5, 5]], (5, 1)) + np.arange(5)[:, None] * [0, 0, 1, 1]
    few = kept.seen(image, crowd, np.arange(5), View((), (), (120, 160), False), 0)
    assert few["track_id"].tolist() == [0, 3, 4]  # the drawn track, then the largest


def test_a_pair_of_another_shape_is_made_to_fit(painted):
    tall = pair(painted, size=(64, 192), crop=()).view(120, 90, np.random.default_rng(0))
    assert tall.size == (64, 48)
    assert sized(480, 640, 800, 1333) == (800, 1067)
    assert sized(1080, 1920, 800, 1333) == (750, 1333)


def test_which_sequences_and_tracks_may_be_drawn(painted):
    found = TracksBuilder("x")
    frames = lambda n: Frames("f", "{:d}.jpg", 0, n)  # noqa: E731
    box = np.array([[1.0, 2, 3, 4]])
    found.add("short", frames(19), np.tile(box, (19, 1)))
    found.add("hidden", frames(30), np.tile(box, (30, 1)), visible=np.arange(30) < 6)
    found.add("good", frames(30), np.tile(box, (30, 1)), visible=np.arange(30) < 7, track_id=np.arange(30) // 4)
    found.add("picture", frames(1), np.tile(box, (2, 1)), frame=np.zeros(2), track_id=np.array([1, 2]))
    tracks = found.build()
    assert usable_sequences(tracks, 3).tolist() == [2, 3]
    assert usable_tracks(tracks).tolist() == [[0, 0], [1, 0], [2, 0], [2, 1], [3, -1]]
    picture = painted.select([0])
    assert usable_tracks(picture).tolist() == [[0, 1], [0, 2]]


def small(root, **changes):
    """A config at toy size on the fixtures."""
    config = recipe.base()
    config.data.update({
        "root": str(root), "crop_size": 64, "mot_size": (64, 96), "mot_short": (40, 48), "mot_longest": 96,
        "mot_crop": (30, 40), "max_objects": 4, "samples": 8, "sot_batch_size": 2, "mot_batch_size": 2,
    })  # fmt: skip
    config.eval.mot.short, config.eval.mot.longest = 48, 96
    for name, value in changes.items():
        config.data[name] = value
    return config


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """All sets in one folder, under their published names."""
    root = tmp_path_factory.mktemp("sets")
    files.coco(root / "COCO")
    files.lasot(root / "LaSOT")
    files.trackingnet(root / "TrackingNet")
    files.got10k(root / "GOT-10k")
    files.otb(root / "OTB100")
    files.crowdhuman(root / "CrowdHuman")
    files.mot(root / "MOT17", n=24)
    files.mot(root / "MOT16", "MOT16-02", 24, ())
    return root


@pytest.mark.parametrize(
    "changes",
    [{"mot_buckets": ((44, 80),)}, {"mot_train": ("mot16", "crowdhuman"), "mot_test": "mot16", "sot_test": "otb100"}],
)
def test_published_layouts_give_the_promised_batches(published, tmp_path, changes):
    config = small(published, **changes)
    found = sources.build_data(config, tmp_path, print)
    for stream, spec in batch_spec(config).items():
        batch = next(pipeline.train_batches(found.train[stream], seed=0, num_threads=0))
        check_batch(batch, spec, stream)
        if config.data.mot_buckets and stream != "sot":  # short sides 40 and 48
            limits = {"mot_44x80": (0, 40), "mot_64x96": (41, 48)}[stream]
            short = batch["search_size"].min(1)
            assert ((limits[0] < short) | (batch["search_size"].max(1) == spec["search_pad"].shape[2])).all()
            assert (short <= limits[1]).all()
        again = next(pipeline.train_batches(found.train[stream], seed=0, num_threads=0))
        np.testing.assert_array_equal(next(iter(batch.values())), next(iter(again.values())))
        assert len(pickle.loads(pickle.dumps(found.train[stream])).source) == 8  # as worker processes get it
    assert any("frames missing" in line for line in found.reports)
    assert (tmp_path / "ids" / "train_mot.txt").is_file()
    assert set(found.splits) == {"test"}
    assert set(found.splits["test"]) == {"sot", "mot"}


def test_sequences_to_follow(published, tmp_path):
    config = small(published, sot_test="got10k")
    found = sources.build_data(config, tmp_path, print)
    one, many = found.splits["test"]["sot"], found.splits["test"]["mot"]
    frames = list(one.frames(one.source[0]))
    assert len(frames) == one.length_of(one.source[0]) == 3
    assert [f["visible"] for f in frames] == [True, False, False]  # the truth of GOT-10k's test part is one row
    assert "val" in found.splits
    sequence = many.source[0]
    assert (many.shape_of(sequence), many.length_of(sequence)) == ((48, 64), 11)
    frame = next(many.frames(sequence))
    assert frame["truth"].ids.tolist() == [1, 2, 7, 8, 9]
    assert frame["truth"].counted.tolist() == [True, True, False, False, False]
    assert frame["truth"].boxes[0].tolist() == [17, 5, 12, 30]  # frame 14 of the whole, 0-based 13
    config.eval.mot.detections = "public"
    many = sources.build_data(config, tmp_path, print).splits["test"]["mot"]
    frame = next(many.frames(many.source[0]))
    np.testing.assert_allclose(frame["given"], [[17, 5, 29, 35]])
    np.testing.assert_allclose(frame["given_scores"], [0.9])


def test_vehicles_distract_in_mot20_alone(tmp_path):
    root = files.mot(tmp_path / "MOT20", "MOT20-01", 12, ())
    truth = root / "train" / "MOT20-01" / "gt" / "gt.txt"
    truth.write_text(truth.read_text() + "12,11,2,2,9,9,0,6,1\n")
    for name, kind in (("mot20", 8), ("mot16", 6)):
        (tmp_path / "MOT20").rename(tmp_path / name.upper())
        config = small(tmp_path, mot_test=name)
        reading = sources.read_set(config, tmp_path, name, "test")
        sequence = reading.tracks[0]
        frames = list(sources.FramesOfAll("own")(sequence))
        assert frames[-1]["truth"].kinds.tolist() == [1, 1, 3, 12, 7, kind]
        (tmp_path / name.upper()).rename(tmp_path / "MOT20")


def test_what_is_missing_is_said(published, tmp_path):
    config = recipe.base()
    assert sources.needs(config) == [
        "data.root: a folder with a folder for each of coco, lasot, trackingnet, got10k, mot17, as published"
    ]
    assert sources.needs(small(published)) == []
    with pytest.raises(InputError, match="needs one folder called mot20, it has COCO, CrowdHuman, GOT-10k"):
        sources.build_data(small(published, mot_train=("mot20",)), tmp_path, print)
    with pytest.raises(InputError, match="lasot: no sequence has more than 60 visible frames"):
        sources.build_data(small(published, sot_train=("lasot",), frames=30), tmp_path, print)
    with pytest.raises(InputError, match=r"config.data.root: is empty"):
        sources.build_data(small(""), tmp_path, print)

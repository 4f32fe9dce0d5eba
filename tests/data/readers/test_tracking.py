"""Readers of tracking data: every published layout with its traps, and one line for a bad file."""

import json
import pickle

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.tracking.mot import (
    mot_text,
    read_mot,
    read_mot_results,
    read_mot_truth,
    write_mot_results,
)
from jaxvl.data.readers.tracking.pictures import read_coco, read_crowdhuman
from jaxvl.data.readers.tracking.single import read_got10k, read_lasot, read_otb, read_trackingnet
from jaxvl.data.readers.tracking.tables import read_table
from jaxvl.data.readers.tracking.tracks import Frames, TracksBuilder, list_frames
from jaxvl.data.synthetic.encode import write_video
from tests.data.readers import tracking_files as files


def test_lasot(tmp_path):
    reading = read_lasot(files.lasot(tmp_path), "train")
    tracks = reading.tracks
    assert tracks.names == ["airplane-1", "t-shirt-2"]
    assert tracks.classes == ("airplane", "t-shirt")
    first = tracks[0]
    assert first.size == (64, 48)
    # absent, occluded, beyond the border, without a picture
    assert np.flatnonzero(~first.visible).tolist() == [3, 4, 5, 6]
    assert np.flatnonzero(~first.considered).tolist() == [3, 4]  # what LaSOT's own score leaves out
    assert first.boxes[0].tolist() == [4, 5, 20, 16]
    assert first.frames.missing == {6}
    assert first.frames.path(9).endswith("airplane/airplane-1/img/00000010.jpg")
    assert first.frames.read(9).shape == (48, 64, 3)
    with pytest.raises(BadMedia, match=r"00000007\.jpg"):
        first.frames.read(6)
    assert tracks.visible_counts().tolist() == [20, 24]
    line = reading.report.line()
    assert line.startswith("LaSOT train: 2 sequences, 48 boxes; 1 without a media file (airplane-9)")
    assert "1 frames missing in 1 sequences (airplane-1)" in line
    assert read_lasot(tmp_path, "all").tracks.names == ["airplane-1", "t-shirt-2"]
    assert read_lasot(tmp_path, "test").tracks.names == ["t-shirt-2"]
    (tmp_path / "t-shirt" / "t-shirt-2" / "out_of_view.txt").unlink()
    line = read_lasot(tmp_path, "test").report.line()
    assert "1 without out_of_view.txt, so all their boxes count as seen (t-shirt-2)" in line
    unseen = read_lasot(tmp_path, "train", check_media=False).tracks[0]
    assert unseen.visible[5:7].all()
    assert unseen.frames.paths == [first.frames.path(i) for i in range(24)]


def test_got10k(tmp_path):
    files.got10k(tmp_path)
    first = read_got10k(tmp_path, "train").tracks[0]
    assert (first.size, np.flatnonzero(~first.visible).tolist()) == ((64, 48), [2, 19])  # absent; nothing of it seen
    assert first.visibility[[0, 20]].tolist() == [1, 0.5]
    files.text(tmp_path / "some.txt", "1\n")
    chosen = read_got10k(tmp_path, "train", only=tmp_path / "some.txt").tracks
    assert chosen.names == ["GOT-10k_Train_000002"]
    assert chosen.classes == ("bear",)
    test = read_got10k(tmp_path, "test").tracks[0]
    assert (len(test.boxes), len(test.frames)) == (1, 3)
    files.text(tmp_path / "some.txt", "GOT-10k_Train_000001\n17\n")
    with pytest.raises(InputError, match=r"some\.txt: entry 2, '17', is neither a sequence nor a number below 2"):
        read_got10k(tmp_path, "train", only=tmp_path / "some.txt")


def test_trackingnet(tmp_path):
    reading = read_trackingnet(files.trackingnet(tmp_path), "train")
    assert reading.tracks.names == ["abc-1_0", "xyz_0"]
    frames = reading.tracks[0].frames
    assert [p.rpartition("/")[2] for p in frames.paths][9:11] == ["9.jpg", "10.jpg"]
    line = reading.report.line()
    assert "1 without a media file (lost_0)" in line
    assert "TRAIN_1, TRAIN_2, TRAIN_4" in line
    assert len(read_trackingnet(tmp_path, "test").tracks[0].frames) == 12
    with pytest.raises(InputError, match=r"TRAIN_1"):
        read_trackingnet(tmp_path, "train", chunks=("TRAIN_0", "TRAIN_1"))


def test_otb(tmp_path):
    tracks = read_otb(files.otb(tmp_path)).tracks
    by = {tracks.name(i): tracks[i] for i in range(len(tracks))}
    assert list(by) == ["Basket", "David", "Jogging.1", "Jogging.2", "Tiger1"]
    assert by["Basket"].boxes[0].tolist() == [3, 4, 20, 16]  # from 1 to 0
    assert by["Jogging.2"].boxes[0, 0] == 19
    assert (by["David"].frames.first, len(by["David"].boxes)) == (300, 471)
    assert by["David"].frames.path(0).endswith("0300.jpg")
    assert np.flatnonzero(by["David"].visible).tolist() == [0, 1]  # the other pictures are not there
    assert (by["Tiger1"].frames.first, len(by["Tiger1"].boxes)) == (6, 349)
    assert by["Tiger1"].boxes[0, 0] == 8  # row 6 of the file


def test_coco(tmp_path):
    reading = read_coco(files.coco(tmp_path))
    tracks = reading.tracks
    assert tracks.names == ["9_100", "9_101"]
    assert [tracks.classes[tracks[i].class_id[0]] for i in range(2)] == ["person", "toothbrush"]
    assert tracks[1].boxes.tolist() == [[30, 10, 12.25, 14]]
    assert tracks[1].frames.read(0).shape == (48, 64, 3)
    assert "1 without a media file (000000000041.jpg)" in reading.report.line()
    assert "1 skipped, box without extent (25_103)" in reading.report.line()


def test_crowdhuman(tmp_path):
    reading = read_crowdhuman(files.crowdhuman(tmp_path), "train")
    only = reading.tracks[0]
    assert reading.tracks.names == ["a,1"]
    assert only.boxes.tolist() == [[-5, 2, 20, 40], [30, 3, 18, 38]]
    assert (only.track_id.tolist(), only.frame.tolist()) == ([1, 2], [0, 0])
    assert "1 without a media file (c,3)" in reading.report.line()
    assert "no person to train on (b,2)" in reading.report.line()


def test_mot17_halves_and_copies(tmp_path):
    reading = read_mot(files.mot(tmp_path), "train")
    whole = reading.tracks[0]
    assert reading.tracks.names == ["MOT17-02-FRCNN"]
    assert "2 copies for other detectors left alone" in reading.report.line()
    assert whole.frames.missing == {4}
    assert (whole.size, whole.fps, len(whole.frames)) == ((64, 48), 30, 21)
    assert whole.boxes[0].tolist() == [4, 5, 12, 30]  # from 1 to 0
    seen = [(int(f), int(t)) for f, t in zip(whole.frame[whole.visible], whole.track_id[whole.visible])]
    assert (3, 1) not in seen  # hidden
    assert not {t for _, t in seen} - {1, 2}
    assert not any(f == 4 for f, _ in seen)  # no picture
    assert whole.considered.sum() == 42
    first, second = (read_mot(tmp_path, s).tracks[0] for s in ("train_half", "val_half"))
    assert (len(first.frames), len(second.frames)) == (11, 10)
    assert second.frames.path(0).endswith("000012.jpg")
    assert second.frame.min() == 0
    assert second.boxes[0].tolist() == whole.boxes[whole.frame == 11][0].tolist()
    assert len(first.boxes) + len(second.boxes) == len(whole.boxes)
    with pytest.raises(InputError, match="MOT17-02-XYZ: no such sequence, there are DPM, FRCNN, SDP"):
        read_mot(tmp_path, "train", detector="XYZ")


def test_mot_without_section_or_ini(tmp_path):
    root = files.mot(tmp_path, "MOT20-01", 6, ())
    info = root / "train" / "MOT20-01" / "seqinfo.ini"
    info.write_text("seqLength=6\nimWidth=64\nimHeight=48\nimDir=img1\n")
    assert len(read_mot(root, "train", dataset="MOT20").tracks[0].frames) == 6
    info.unlink()
    found = read_mot(root, "train", dataset="MOT20").tracks[0]
    assert (len(found.frames), found.size) == (6, (0, 0))
    info.write_text("[Sequence]\nseqLength=many\n")
    with pytest.raises(InputError, match=r"seqinfo.ini: seqLength is 'many', needs a number of 0"):
        read_mot(root, "train", dataset="MOT20")


def test_mot_text_files(tmp_path):
    files.text(tmp_path / "det.txt", "1,-1,5.5,6,12,30,0.75\n1,-1,9,6,12,30,0.25\n3,-1,5,6,12,30,1\n")
    found = read_mot_results(tmp_path / "det.txt")
    assert found.frame.tolist() == [0, 0, 2]
    assert found.boxes[0].tolist() == [4.5, 5, 12, 30]
    files.text(tmp_path / "res.txt", "2,9,5.5,6,12,30,0.75,-1,-1,-1\n1,12,1,2,3,4\n1,9,5,6,7,8\n")
    with pytest.raises(InputError, match=r"line 2 .* needs at least 7 numbers"):
        read_mot_results(tmp_path / "res.txt")
    files.text(tmp_path / "res.txt", "2,9,5.5,6,12,30,0.75,-1,-1,-1\n1,12,1,2,3,4,1\n1,9,5,6,7,8,.5\n")
    results = read_mot_results(tmp_path / "res.txt")
    want = "1,1,5.0,6.0,7.0,8.0,0.5,-1,-1,-1\n1,2,1.0,2.0,3.0,4.0,1,-1,-1,-1\n2,1,5.5,6.0,12.0,30.0,0.75,-1,-1,-1\n"
    assert mot_text(results) == want
    write_mot_results(tmp_path / "out.txt", results)
    again = read_mot_results(tmp_path / "out.txt")
    np.testing.assert_array_equal(np.sort(again.boxes, 0), np.sort(results.boxes, 0))
    files.text(tmp_path / "res.txt", "1,9,5,6,7,8,1\n1,9,5,6,7,8,1\n")
    with pytest.raises(InputError, match=r"res.txt: id 9 has two boxes in frame 1"):
        read_mot_results(tmp_path / "res.txt")
    files.text(tmp_path / "res.txt", "0,9,5,6,7,8,1\n")
    with pytest.raises(InputError, match="frames count from 1"):
        read_mot_results(tmp_path / "res.txt")
    files.text(tmp_path / "gt.txt", "1,1,399,182,121,229,1,-1,-1,-1\n")
    assert read_mot_truth(tmp_path / "gt.txt").class_id.tolist() == [1]  # MOT15: everybody walks


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("airplane/airplane-1/groundtruth.txt", "1,2,3,4\n1,2,x,4\n", r"line 2 \('1,2,x,4'\) needs 4 numbers"),
        ("airplane/airplane-1/groundtruth.txt", "1,2,3\n", r"line 1 \('1,2,3'\) needs 4 numbers"),
        ("airplane/airplane-1/out_of_view.txt", "0,1\n", r"out_of_view.txt: 2 flags for 24 boxes"),
        ("airplane/airplane-1/full_occlusion.txt", "a\n", r"full_occlusion.txt: holds what is no number"),
        ("training_set.txt", "\n", r"training_set.txt: the list of sequences.* is empty"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, file, content, line):
    files.text(files.lasot(tmp_path) / file, content)
    with pytest.raises(InputError, match=line) as error:
        read_lasot(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_bad_annotations_of_pictures_are_one_line(tmp_path):
    files.text(files.coco(tmp_path / "c") / "annotations" / "instances_train2017.json", '{"images": [')
    with pytest.raises(InputError, match=r"broken JSON at line 1"):
        read_coco(tmp_path / "c")
    odgt = files.crowdhuman(tmp_path / "h") / "annotation_train.odgt"
    files.text(odgt, odgt.read_text() + '{"ID": "d", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3]}]}\n')
    with pytest.raises(InputError, match=r"line 4, gtboxes\[0\].fbox needs four numbers"):
        read_crowdhuman(tmp_path / "h", "train")
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        read_coco(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("1.5,1,1,1,5,5,1", "row 1 has the frame 1.5, which is no whole number in range"),
        ("1e20,1,1,1,5,5,1", "row 1 has the frame 1e\\+20"),
        ("1,nan,1,1,5,5,1", "row 1 has the id nan"),
        ("1,1,inf,1,5,5,1", "row 1 has a box that is no number"),
        ("1,1,1,1,5,5,nan", "row 1 has a score or a visibility that is no finite number"),
        ("1,1,1", "line 1 .* needs at least 6 numbers"),
        ("eins,1,1,1,5,5,1", "line 1 .* needs at least 6 numbers"),
    ],
)
def test_numbers_that_are_none_are_one_line(tmp_path, row, line):
    files.text(tmp_path / "r.txt", f"{row}\n2,2,1,1,5,5,1\n")
    with pytest.raises(InputError, match=line):
        read_mot_results(tmp_path / "r.txt")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"images": {}}, "images is dict, needs a list"),
        ({"images": [{"id": [1], "file_name": "a"}]}, r"images\[0\].id is list, needs a number"),
        ({"categories": [{"id": 1}]}, r"categories\[0\] has no name; it has id"),
        ({"annotations": [7]}, r"annotations\[0\] is no object with id, image_id"),
        ({"annotations": [{"id": 1, "image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]}]}, "which the list lacks"),
        ({"annotations": [{"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 2, None, 4]}]}, "needs four numbers"),
    ],
)
def test_coco_of_another_shape_is_one_line(tmp_path, change, line):
    path = files.coco(tmp_path) / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=line) as error:
        read_coco(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"ID": "x", "gtboxes": 5}', "line 1, gtboxes is int, needs a list"),
        ('{"ID": "x", "gtboxes": [{"tag": "person", "fbox": [NaN, 1, 2, 3]}]}', "needs four numbers"),
        ('{"ID": "x", "gtboxes": [' + "9" * 5000 + "]}", "line 1 is broken JSON"),
        ("[" * 100_000, "line 1 is broken JSON"),
    ],
)
def test_crowdhuman_of_another_shape_is_one_line(tmp_path, line, said):
    files.text(files.crowdhuman(tmp_path) / "annotation_train.odgt", line + "\n")
    with pytest.raises(InputError, match=said):
        read_crowdhuman(tmp_path, "train")


def test_numbers_far_too_large_are_said_before_memory_is_asked_for(tmp_path):
    root = files.mot(tmp_path, "MOT20-01", 6, ())
    info = root / "train" / "MOT20-01" / "seqinfo.ini"
    info.write_text("[Sequence]\nseqLength=1e15\n")
    with pytest.raises(InputError, match="seqLength is '1e15', needs a number of 0 to 10,000,000"):
        read_mot(root, "train", dataset="MOT20")
    info.unlink()
    files.picture(root / "train" / "MOT20-01" / "img1" / "99999999999999.jpg")
    for i in range(1, 7):
        (root / "train" / "MOT20-01" / "img1" / f"{i:06d}.jpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match="would be a sequence of 99,999,999,999,999 frames"):
        read_mot(root, "train", dataset="MOT20")


def test_names_that_are_no_text_stay_as_they_are():
    found = TracksBuilder("x")
    for name in ("a\udcff-1", "b\ud800"):
        found.add(name, Frames("f", "{:d}.jpg", 0, 1), np.ones((1, 4)))
    assert found.build().names == ["a\udcff-1", "b\ud800"]


def test_a_table_is_small_to_send_and_can_be_cut(tmp_path):
    tracks = read_lasot(files.lasot(tmp_path), "train").tracks
    again = pickle.loads(pickle.dumps(tracks))
    np.testing.assert_array_equal(again[0].boxes, tracks[0].boxes)
    assert again[0].frames == tracks[0].frames
    part = tracks.select([1]).select([0])
    assert part.names == ["t-shirt-2"]
    assert part.visible_counts().tolist() == [24]
    assert part[0].track_id.tolist() == [0] * 24


def test_frames_of_a_video_file(tmp_path):
    pixels = np.repeat(np.arange(40, 200, 40, dtype=np.uint8), 32 * 32 * 3).reshape(4, 32, 32, 3)
    write_video(tmp_path / "v.mp4", pixels, 5)
    found = Frames(str(tmp_path / "v.mp4"), "", 0, 5)
    assert found.paths == [str(tmp_path / "v.mp4")] * 5
    assert found.read(2).mean() == pytest.approx(120, abs=3)
    with pytest.raises(BadMedia, match="has 4 frames, the annotations speak of 5"):
        found.read(4)


def test_numbered_pictures_of_any_form(tmp_path):
    for name in ("9.png", "10.png", "thumb_1.png", "._9.png", "notes.txt"):
        files.picture(tmp_path / name) if name.endswith(".png") else files.text(tmp_path / name, "")
    found = list_frames(tmp_path, 9)
    assert [p.rpartition("/")[2] for p in found.paths] == ["9.png", "10.png"]
    assert list_frames(tmp_path / "none", 1) is None
    assert read_table(tmp_path / "notes.txt", 4, "boxes").shape == (0, 4)

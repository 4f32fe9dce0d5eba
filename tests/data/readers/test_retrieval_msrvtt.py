from __future__ import annotations

import csv
import json
import pickle
import shutil

import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.common import Report, VideoText, find_media
from jaxvl.data.readers.retrieval.msrvtt import read_msrvtt
from jaxvl.data.video import load_clip
from tests.data import media_files as mf

CAPTIONS = {
    "video0": ["a man is singing", "a man sings on a stage", "  "],
    "video1": ["a man is singing", "une fille prépare un gâteau \u2028 日本"],  # the first also belongs to video0
    "video2.v2": ["an id with a dot"],
    "video3": ["this video has no file"],
    "video4": ["this file has zero bytes"],
    "video7": ["the caption of a test video", "a second one, in the json only"],
    "video8": ["another test video"],
    "video9": [],
}


def videos_json():
    split = {"video7": "test", "video8": "test", "video1": "validate"}
    return {
        "info": {"year": "2016"},
        "videos": [
            {"video_id": v, "category": 1, "url": "", "start time": 0.0, "end time": 2.0, "id": i}
            | {"split": split.get(v, "train")}
            for i, v in enumerate(CAPTIONS)
        ],
        "sentences": [
            {"sen_id": i, "video_id": v, "caption": c}
            for i, (v, c) in enumerate((v, c) for v in CAPTIONS for c in CAPTIONS[v])
        ],
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory, media):
    """The folder as people have it, with every trap in it."""
    root = tmp_path_factory.mktemp("msrvtt")
    (root / "MSRVTT_data.json").write_text(json.dumps(videos_json(), ensure_ascii=False), encoding="utf-8")
    with open(root / "MSRVTT_train.9k.csv", "w") as file:
        file.write("video_id\n" + "".join(f"video{n}\n" for n in ("0", "1", "2.v2", "3", "4", "9", "0")))
    with open(root / "MSRVTT_JSFUSION_test.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        rows.writerow(["ret0", "msr8", "video8", 'he says "hi", then leaves'])
        rows.writerow(["ret1", "msr7", "video7", "the sentence of the csv"])
    (root / "videos" / "all").mkdir(parents=True)
    sources = {"0": media.good, "1": media.vfr, "7": media.rotated, "8": media.good, "9": media.good}
    for name, source in sources.items():
        shutil.copy(source, root / "videos" / "all" / f"video{name}.mp4")
    mf.write_video(root / "videos" / "video2.v2.avi", 4, codec="mpeg4", bframes=0)
    (root / "videos" / "video4.mp4").write_bytes(b"")
    (root / "videos" / "video0.json").write_text("{}")  # what a downloader leaves beside the video
    return root


def test_train(published):
    got = read_msrvtt(published, "train")
    assert [(p.video_id, p.caption_index, p.caption) for p in got.pairs] == [
        ("video0", 0, "a man is singing"),
        ("video0", 1, "a man sings on a stage"),
        ("video1", 0, "a man is singing"),
        ("video1", 1, "une fille prépare un gâteau \u2028 日本"),
        ("video2.v2", 0, "an id with a dot"),
    ]
    assert got.ids == ("video0", "video1", "video2.v2")
    assert got.report.missing == ("video3",)
    assert got.report.skipped == (
        ("video0", "repeated in the list"),
        ("video0", "empty caption"),
        ("video4", "media file of 0 bytes"),
        ("video9", "no caption"),
    )
    assert (got.report.found, got.report.pairs) == (3, 5)
    assert pickle.loads(pickle.dumps(got.pairs)) == got.pairs


def test_test_split_takes_the_sentences_of_the_csv(published):
    got = read_msrvtt(published, "test", strict=True)
    assert [(p.video_id, p.caption) for p in got.pairs] == [
        ("video8", 'he says "hi", then leaves'),
        ("video7", "the sentence of the csv"),
    ]
    for pair in got.pairs:
        assert load_clip(pair.path, num_frames=2, image_size=32, sampling="uniform").frames.shape == (2, 32, 32, 3)


def test_validation_split_and_its_overlap(published):
    got = read_msrvtt(published, "val")
    assert got.ids == ("video1",)
    assert got.report.pairs == 2
    assert "1 of these videos are in MSRVTT_train.9k.csv too" in got.report.line()


def test_validation_list_of_ones_own(published):
    (published / "val.csv").write_text("video_id\nvideo8\n")
    assert [p.caption for p in read_msrvtt(published, "val", val_csv="val.csv").pairs] == ["another test video"]
    (published / "val2.csv").write_text("video_id,sentence\nvideo8,mine\n")
    assert [p.caption for p in read_msrvtt(published, "val", val_csv="val2.csv").pairs] == ["mine"]


def test_strict_stops_at_the_first_hole(published):
    with pytest.raises(InputError, match="strict"):
        read_msrvtt(published, "train", strict=True)


def test_without_media_check_every_video_stays(published):
    got = read_msrvtt(published, "train", check_media=False)
    assert got.ids == ("video0", "video1", "video2.v2", "video3", "video4")
    assert got.report.missing == ()


def broken(published, tmp_path, **files):
    """A copy of the annotations with some files replaced (None: removed), the media where they are."""
    for source in published.iterdir():
        if source.is_file():
            shutil.copy(source, tmp_path / source.name)
    for name, text in files.items():
        path = tmp_path / {"json": "MSRVTT_data.json", "train": "MSRVTT_train.9k.csv"}.get(
            name, "MSRVTT_JSFUSION_test.csv"
        )
        path.unlink() if text is None else path.write_bytes(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({"json": None}, "train", r"MSRVTT_data\.json: no such file"),
        ({"json": b'{"videos": [\n  1,'}, "train", r"MSRVTT_data\.json: broken JSON at line 2 column"),
        ({"json": b'{"a": 1}'}, "train", r"MSRVTT_data\.json: not the MSR-VTT json"),
        ({"json": b'{"videos": [{"video_id": 3}], "sentences": []}'}, "train", "entry 0 of 'videos'"),
        ({"json": b'{"videos": [], "sentences": [{"video_id": "video0"}]}'}, "train", "entry 0 of 'sentences'"),
        ({"json": b'{"videos": [], "sentences": []}'}, "train", "no caption for any video"),
        ({"json": b'{"videos": [], "sentences": []}'}, "val", "marks no video as 'validate'"),
        ({"json": b'\xff\xfe{"'}, "train", "not UTF-8 at byte 0"),
        ({"train": None}, "train", r"MSRVTT_train\.9k\.csv: no such file"),
        ({"train": b"video\nvideo0\n"}, "train", "needs a header line with video_id; it has video"),
        ({"train": b""}, "train", "it has nothing"),
        ({"train": b"video_id\n"}, "train", "no rows"),
        ({"train": b"video_id\nvideo33\n"}, "train", "no caption for any video of the list"),
        ({"test": b"key,vid_key,video_id,sentence\nr,m\n"}, "test", "line 2 has fewer fields"),
        ({"test": b'key,vid_key,video_id,sentence\nr,m,video8,"open\n'}, "test", "broken csv at line"),
    ],
)
def test_broken_annotations_name_the_file(published, tmp_path, files, split, message):
    root = broken(published, tmp_path, **files)
    with pytest.raises(InputError, match=message) as error:
        read_msrvtt(root, split, videos=str(published / "videos"))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_blanks_around_ids_are_no_part_of_them(published, tmp_path):
    root = broken(published, tmp_path, train=b"\xef\xbb\xbfvideo_id\r\nvideo0 \r\n video1\r\n")
    assert read_msrvtt(root, "train", videos=str(published / "videos")).ids == ("video0", "video1")


def test_wrong_names(published, tmp_path):
    with pytest.raises(InputError, match="train, val, test"):
        read_msrvtt(published, "training")
    with pytest.raises(InputError, match=r"there is MSRVTT_train\.9k\.csv beside it"):
        read_msrvtt(published, "train", train_csv="MSRVTT_train.8k.csv")
    with pytest.raises(InputError, match="no such folder of videos; there is videos beside it"):
        read_msrvtt(published, "train", videos="video")
    (tmp_path / "YouTubeClips").mkdir()
    with pytest.raises(InputError, match=r"no such folder of videos; there is YouTubeClips beside it"):
        read_msrvtt(published, "train", videos=str(tmp_path / "videos"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"none of the 6 videos .* is this the right folder"):
        read_msrvtt(published, "train", videos=str(tmp_path / "empty"))


def test_two_files_for_one_id(tmp_path):
    for name in ("a/x.1.mp4", "b/x.1.webm", "b/other.mp4", "c/other.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(InputError, match=r"x\.1\.webm: a second file for the id 'x\.1'"):
        find_media(tmp_path, {"x.1"})
    assert find_media(tmp_path, {"x"}) == {}


def test_folders_of_frames_are_media_and_link_loops_end(tmp_path):
    (tmp_path / "clip.7").mkdir()
    (tmp_path / "clip.7" / "0001.jpg").write_bytes(b"1")
    (tmp_path / "clip.7" / "loop").symlink_to(tmp_path)
    assert find_media(tmp_path, {"clip.7", "0001"}) == {"clip.7": str(tmp_path / "clip.7")}


def test_report_line_shows_the_first_few():
    report = Report("X", "train", 1200, ("a", "b", "c", "d"), (("e", "broken"), ("f", "broken"), ("g", "old")), 4000)
    assert report.line() == (
        "X train: 1,200 videos, 4,000 pairs; 4 without a media file (a, b, c, ...); "
        "2 skipped, broken (e, f); 1 skipped, old (g)"
    )


def test_pairs_are_frozen():
    with pytest.raises(AttributeError):
        VideoText("v", "p", "c", 0).caption = "other"


def test_undecodable_media_is_found_by_the_decoder_not_the_reader(published, media):
    shutil.copy(media.text, published / "videos" / "video3.mp4")
    got = read_msrvtt(published, "train")
    assert "video3" in got.ids
    bad = next(p for p in got.pairs if p.video_id == "video3")
    with pytest.raises(BadMedia, match="not a video file"):
        load_clip(bad.path, num_frames=2, image_size=32, sampling="uniform")
    (published / "videos" / "video3.mp4").unlink()

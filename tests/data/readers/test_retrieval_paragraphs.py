"""LSMDC, ActivityNet Captions and DiDeMo, as published, with the traps of each."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.readers.common import write_ids
from jaxvl.data.readers.retrieval.activitynet_captions import find_prefixed, paragraph, read_activitynet_captions
from jaxvl.data.readers.retrieval.didemo import GONE, find_named, read_didemo
from jaxvl.data.readers.retrieval.lsmdc import read_lsmdc
from jaxvl.data.video import load_clip

# ---------------------------------------------------------------- LSMDC

CLIPS = (
    "0001_American_Beauty_00.00.51.926-00.00.54.129",
    "0001_American_Beauty_00.01.14.077-00.01.16.009",
    "1004_Juno_00.02.11.500-00.02.14.000",
    "1004_Juno_00.09.09.009-00.09.10.000",
)
TIMES = "00:00:51.926\t00:00:54.129\t00:00:51.800\t00:00:54.300"


def movie_path(clip):
    return f"{clip[: clip.rindex('_')]}/{clip}.avi"


@pytest.fixture
def lsmdc(tmp_path, media):
    train = [
        f'{CLIPS[0]}\t{TIMES}\tSOMEONE looks at the "camera.',  # an opening quote that never closes
        f'{CLIPS[1]}\t{TIMES}\tHe says "no", \u2028 et sort du café.',
        f"{CLIPS[0]}\t{TIMES}\tSOMEONE blinks.",  # the clip id of the first row again
        f"{CLIPS[2]}\t{TIMES}\tA row without a file.",
        f"{CLIPS[3]}\t{TIMES}\t ",
    ]
    (tmp_path / "LSMDC16_annos_training.csv").write_bytes(("\r\n".join(train) + "\r\n").encode())
    (tmp_path / "LSMDC16_annos_val.csv").write_text(f"{CLIPS[1]}\t{TIMES}\tOne.\n")
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").write_text(f"{CLIPS[2]}\t{TIMES}\tShe runs.\n")
    for clip, source in ((CLIPS[0], media.good), (CLIPS[1], media.vfr), (CLIPS[3], media.good)):
        path = tmp_path / "videos" / movie_path(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
    return tmp_path


def check_lsmdc_train(got, ending=".avi"):
    assert [(p.video_id, p.caption_index, p.caption) for p in got.pairs] == [
        (CLIPS[0], 0, 'SOMEONE looks at the "camera.'),
        (CLIPS[0], 1, "SOMEONE blinks."),
        (CLIPS[1], 0, 'He says "no", \u2028 et sort du café.'),
    ]
    assert got.ids == CLIPS[:2]
    assert got.report.missing == (CLIPS[2],)
    assert got.report.skipped == ((CLIPS[3], "empty caption"),)
    assert {os.path.basename(p.path) for p in got.pairs} == {c + ending for c in CLIPS[:2]}
    assert {(p.start_s, p.end_s) for p in got.pairs} == {(None, None)}


def test_lsmdc_walks_the_folders_of_the_films(lsmdc):
    check_lsmdc_train(read_lsmdc(lsmdc, "train"))
    clip = load_clip(read_lsmdc(lsmdc, "train").pairs[0].path, num_frames=2, image_size=32, sampling="uniform")
    assert clip.mask.all()
    assert read_lsmdc(lsmdc, "val").ids == (CLIPS[1],)


def test_lsmdc_video_path_json_decides(lsmdc):
    where = lsmdc / "video_path.json"
    where.write_text(json.dumps({clip: movie_path(clip) for clip in CLIPS}))
    check_lsmdc_train(read_lsmdc(lsmdc, "train"))
    for path in (lsmdc / "videos").rglob("*.avi"):
        path.rename(path.with_suffix(".mp4"))  # what `jaxvl prepare --shrink` leaves
    check_lsmdc_train(read_lsmdc(lsmdc, "train"), ".mp4")
    where.write_text(json.dumps({CLIPS[1]: movie_path(CLIPS[1])}))
    assert read_lsmdc(lsmdc, "train").ids == (CLIPS[1],)
    where.write_text('["a"]')
    with pytest.raises(InputError, match=r"video_path\.json: needs one object"):
        read_lsmdc(lsmdc, "train")


def test_lsmdc_errors_name_file_and_line(lsmdc):
    with pytest.raises(InputError, match="train, val, test"):
        read_lsmdc(lsmdc, "training")
    with pytest.raises(InputError, match="none of the 1 videos"):
        read_lsmdc(lsmdc, "test")
    with pytest.raises(InputError, match="1 of 1 videos have no file"):
        read_lsmdc(lsmdc, "test", strict=True)
    test = lsmdc / "LSMDC16_challenge_1000_publictect.csv"
    for text, message in (
        (f"{CLIPS[0]}\t{TIMES}\ta\n\n{CLIPS[1]}\t{TIMES}\ta\tb\n", "line 3 has 7 tab-separated fields instead of 6"),
        (f"{CLIPS[0]},1,2,3,4,comma-separated\n", "line 1 has 1 tab"),
        (f" \t{TIMES}\ta\n", "line 1 has no clip id"),
        ("\n", "has no rows"),
    ):
        test.write_text(text)
        with pytest.raises(InputError, match=message) as error:
            read_lsmdc(lsmdc, "test")
        assert str(test) in str(error.value)
    test.rename(lsmdc / "LSMDC16_challenge_1000_publictest.csv")  # spelt right is wrong
    with pytest.raises(InputError, match=r"publictect\.csv: no such file .* there is .*publictest\.csv beside it"):
        read_lsmdc(lsmdc, "test")


# ---------------------------------------------------------------- ActivityNet Captions


def entry(duration, spans, sentences):
    return {"duration": duration, "timestamps": spans, "sentences": sentences}


VAL = {
    "v_aaaaaaaaaa.": entry(82.73, [[0.83, 19.86], [17.37, 60.81]], ["A man sits.", "  Il prépare \u2028 le café. "]),
    "v_bbbbbbbbbbb": entry(30, [[0, 31.5], [20, 20], [9, 3]], [" One. ", " ", "Three."]),
    "v_v_ccccccccc": entry(7.0, [[0, 7.0]], ["An id that begins like the prefix."]),
    "v_NHznDFD3V3k": entry(10.0, [[0, 5]], ["The broken one."]),
    "v_ddddddddddd": entry(10.0, [[0, 50]], ["No file."]),
    "v_unlisted000": {"duration": "long"},
}


@pytest.fixture
def activitynet(tmp_path, media):
    ids = ["v_bbbbbbbbbbb", "v_aaaaaaaaaa.", "v_v_ccccccccc", "v_NHznDFD3V3k", "v_ddddddddddd", "v_eeeeeeeeeee"]
    (tmp_path / "val_ids.json").write_text(json.dumps([*ids, ids[0]]))
    (tmp_path / "train_ids.json").write_text(json.dumps(["v_bbbbbbbbbbb"]))
    (tmp_path / "val_1.json").write_text(json.dumps(VAL))
    (tmp_path / "train.json").write_text(json.dumps({k: VAL[k] for k in ("v_bbbbbbbbbbb",)}))
    (tmp_path / "videos" / "part").mkdir(parents=True)
    names = ("part/aaaaaaaaaa..mkv", "v_bbbbbbbbbbb.mp4", "v_ccccccccc.mp4", "v_NHznDFD3V3k.mp4", "eeeeeeeeeee.mp4")
    for name in names:
        shutil.copy(media.good, tmp_path / "videos" / name)
    return tmp_path


@pytest.mark.parametrize("paths", [False, True])
def test_activitynet_paragraphs(activitynet, paths):
    if paths:
        where = {"aaaaaaaaaa.": "part/aaaaaaaaaa..webm", "bbbbbbbbbbb": "v_bbbbbbbbbbb.mp4"}
        where |= {
            "v_ccccccccc": "v_ccccccccc.mp4",
            "ddddddddddd": "v_ddddddddddd.mp4",
            "eeeeeeeeeee": "eeeeeeeeeee.mp4",
        }
        (activitynet / "video_path.json").write_text(json.dumps(where))
    got = read_activitynet_captions(activitynet, "val")
    assert [(p.video_id, p.caption, p.start_s, p.end_s) for p in got.pairs] == [
        ("v_bbbbbbbbbbb", "One. Three.", 0.0, 30.0),
        ("v_aaaaaaaaaa.", "A man sits. Il prépare \u2028 le café.", 0.0, 83.0),
        ("v_v_ccccccccc", "An id that begins like the prefix.", 0.0, 7.0),
    ]
    names = ["v_bbbbbbbbbbb.mp4", "aaaaaaaaaa..mkv", "v_ccccccccc.mp4"]
    assert [os.path.basename(p.path) for p in got.pairs] == names
    assert got.report.missing == ("v_ddddddddddd",)
    assert got.report.skipped == (
        ("v_bbbbbbbbbbb", "repeated in the list"),
        ("v_NHznDFD3V3k", "known not to decode"),
        ("v_eeeeeeeeeee", "no caption"),
    )
    assert "of 7 spans 2 end after the video and 2 are empty or inverted" in got.report.line()
    for name in ("val_1", "test"):
        assert read_activitynet_captions(activitynet, name).ids == got.ids
    assert read_activitynet_captions(activitynet, "train").ids == ("v_bbbbbbbbbbb",)
    clip = load_clip(got.pairs[0].path, num_frames=4, image_size=32, sampling="uniform", start_s=0.0, end_s=30.0)
    assert clip.mask.all()  # a video shorter than its annotation says is taken to its end


def test_activitynet_prefix_is_one_pair_of_letters(tmp_path):
    for name in ("v_xyz.mp4", "v_v_abc.mp4", "v_abc.mp4", "abc.mkv"):
        (tmp_path / name).write_bytes(b"1")
    base = lambda ids: {k: os.path.basename(v) for k, v in find_prefixed(tmp_path, ids).items()}  # noqa: E731
    assert base(["v_xyz"]) == {"v_xyz": "v_xyz.mp4"}
    assert base(["v_v_xyz"]) == {"v_v_xyz": "v_xyz.mp4"}
    assert base(["v_xyz", "v_v_xyz"]) == {"v_xyz": "v_xyz.mp4"}  # the file is the first one's
    with pytest.raises(InputError, match=r"abc\.mkv: a second file for the id 'v_abc'"):
        base(["v_abc"])
    assert paragraph([" a ", "", "b c"]) == "a b c"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("text", "is not an object"),
        (entry(0, [], []), "'duration' must be seconds above 0, it is 0"),
        (entry(float("nan"), [], []), "'duration' must be"),
        (entry(True, [], []), "'duration' must be"),
        (entry("9", [], []), "'duration' must be"),
        (entry(9, [[0, 1]], ["a", "b"]), "one pair of seconds for each sentence"),
        (entry(9, [[0, "1"]], ["a"]), "one pair of seconds"),
        (entry(9, [[0, 1]], [3]), "'sentences' must be"),
    ],
)
def test_activitynet_broken_entries(activitynet, wrong, message):
    (activitynet / "val_1.json").write_text(json.dumps(VAL | {"v_ddddddddddd": wrong}))
    with pytest.raises(InputError, match=message) as error:
        read_activitynet_captions(activitynet, "val")
    assert "val_1.json: entry 'v_ddddddddddd'" in str(error.value)


def test_activitynet_wrong_files(activitynet):
    with pytest.raises(InputError, match="train, val, val_1, test"):
        read_activitynet_captions(activitynet, "val_2")
    (activitynet / "val_ids.json").write_text('{"v_a": 1}')
    with pytest.raises(InputError, match=r"val_ids\.json: needs a list of video ids"):
        read_activitynet_captions(activitynet, "val")
    (activitynet / "val_ids.json").write_text('["v_nobody"]')
    with pytest.raises(InputError, match="has no captions for any id"):
        read_activitynet_captions(activitynet, "val")


# ---------------------------------------------------------------- DiDeMo

NAMES = (
    "100@N01_1_a.3gp",
    "100@N01_2_b.mov",
    "100@N01_3_c.mpg",
    "100@N01_4_d.v2.avi",
    "100@N01_5_e.mov",
    GONE[0],
    "100@N01_6_f.mov",
)


@pytest.fixture
def didemo(tmp_path, media):
    (tmp_path / "train_list.txt").write_text("\n".join(NAMES) + "\r\n" + NAMES[0] + "\n")
    rows = [(NAMES[1], "b first"), (NAMES[0], " the camera pans "), (NAMES[0], "un café"), (NAMES[1], "b second")]
    rows += [(NAMES[2], "the camera pans"), (NAMES[3], "dots"), (NAMES[4], "gone"), (GONE[0], "x"), ("z.mov", "none")]
    rows += [(NAMES[1], " ")]
    data = [{"annotation_id": i, "video": v, "times": [[0, 0]], "description": d} for i, (v, d) in enumerate(rows)]
    (tmp_path / "train_data.json").write_text(json.dumps(data))
    (tmp_path / "videos").mkdir()
    files = ("100@N01_1_a.3gp", "100@N01_2_b.mov.mp4", "100@N01_3_c.mp4", "100@N01_4_d.v2.mp4", "100@N01_6_f.mov")
    for name in files:
        shutil.copy(media.good, tmp_path / "videos" / name)
    return tmp_path


def test_didemo_paragraphs(didemo):
    got = read_didemo(didemo, "train")
    assert [(p.video_id, p.caption, os.path.basename(p.path)) for p in got.pairs] == [
        (NAMES[0], "the camera pans un café", "100@N01_1_a.3gp"),
        (NAMES[1], "b first b second", "100@N01_2_b.mov.mp4"),
        (NAMES[2], "the camera pans", "100@N01_3_c.mp4"),
        (NAMES[3], "dots", "100@N01_4_d.v2.mp4"),
    ]
    assert {(p.start_s, p.end_s) for p in got.pairs} == {(0.0, 31.0)}
    assert got.report.missing == (NAMES[4],)
    assert got.report.skipped == (
        (NAMES[0], "repeated in the list"),
        (GONE[0], "in no known copy of the data set"),
        (NAMES[6], "no caption"),
    )
    assert load_clip(got.pairs[0].path, num_frames=2, image_size=32, sampling="uniform", end_s=31.0).mask.all()


def test_didemo_file_that_is_gone_elsewhere_is_used_where_it_is(didemo, media):
    shutil.copy(media.good, didemo / "videos" / GONE[0])
    assert GONE[0] in read_didemo(didemo, "train").ids
    (didemo / "videos" / GONE[0]).unlink()
    with pytest.raises(InputError, match=r"1 of 6 videos have no file .*100@N01_5_e\.mov"):
        read_didemo(didemo, "train", strict=True)


def test_didemo_names_with_one_stem_and_several_files(tmp_path):
    for name in ("a.mp4", "b.mov", "b.mp4", "d.avi.mp4", "d.avi.mkv"):
        (tmp_path / name).write_bytes(b"1")
    base = lambda names: {k: os.path.basename(v) for k, v in find_named(tmp_path, names).items()}  # noqa: E731
    assert base(["a.mov"]) == {"a.mov": "a.mp4"}
    assert base(["a.mov", "a.avi"]) == {}  # whose would it be?
    assert base(["b.mov"]) == {"b.mov": "b.mov"}  # the very name comes before another ending
    assert base(["b.mov", "b.mp4"]) == {"b.mov": "b.mov", "b.mp4": "b.mp4"}
    with pytest.raises(InputError, match=r"a second file for the id 'd\.avi'"):
        base(["d.avi"])


def test_didemo_broken_files(didemo):
    with pytest.raises(InputError, match="train, val, test"):
        read_didemo(didemo, "dev")
    with pytest.raises(InputError, match=r"val_list\.txt: no such file"):
        read_didemo(didemo, "val")
    for data, message in (
        ({"a": 1}, "needs a list"),
        ([{"video": "a.mov"}], "entry 0 needs the texts 'video' and 'description'"),
        ([{"video": "a.mov", "description": "x"}], "has no description for any video"),
    ):
        (didemo / "train_data.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=message):
            read_didemo(didemo, "train")


# ---------------------------------------------------------------- ids of a run


def test_ids_are_written_and_a_change_is_told(tmp_path):
    assert write_ids(tmp_path, "train", ("a", "b\u2028c")) is None
    assert write_ids(tmp_path, "train", ("a", "b\u2028c")) is None
    assert (tmp_path / "ids" / "train.txt").read_text() == "a\nb\u2028c\n"
    line = write_ids(tmp_path, "train", ("a", "d", "e"))
    assert "other videos than when it was written: 1 gone, 2 new" in line
    assert os.listdir(tmp_path / "ids") == ["train.txt"]
    assert (tmp_path / "ids" / "train.txt").read_text() == "a\nd\ne\n"

"""What real folders and annotation files hold beside what is published: right, counted, or one line."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import images
from jaxvl.data.readers import common
from jaxvl.data.readers.classification.image_folder import read_image_folder
from jaxvl.data.readers.classification.image_list import parse_list, read_image_list
from jaxvl.data.readers.retrieval.msvd import load_plain_pickle


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        *[("uint16", 65535), ("int32", 65535), ("int32", 255), ("int32", 2**31 - 1)],
        *[("float32", 1.0), ("float32", 255.0), ("float32", 65535.0)],
    ],
)  # fmt: skip
def test_grey_of_any_depth_keeps_its_shades(tmp_path, dtype, white):
    ramp = np.linspace(0, 1, 16)
    values = (ramp * white).astype(dtype)[None].repeat(4, 0)
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path)
    got = np.asarray(images.to_rgb(images.read_image(path)))
    assert got.shape == (4, 16, 3)
    assert np.abs(got[0, :, 1].astype(int) - ramp * 255).max() <= 1


@pytest.mark.parametrize("depth", [12, 16])
def test_deep_pgm(tmp_path, depth):
    white = 2**depth - 1
    values = (np.linspace(0, 1, 16) * white).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(f"P5 16 1 {white}\n".encode() + values.tobytes())
    got = np.asarray(images.to_rgb(images.read_image(tmp_path / "a.pgm")))
    assert np.abs(got[0, :, 0].astype(int) - np.linspace(0, 255, 16)).max() <= 1


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_grey_that_no_picture_has_is_refused(value):
    with pytest.raises(BadMedia, match="which no picture has"):
        images.to_rgb(Image.fromarray(np.array([[0.5, value]], np.float32)))


def test_every_ending_that_pillow_reads(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    kinds = {
        "jfif": "JPEG",
        "jpe": "JPEG",
        "avif": "AVIF",
        "webp": "WEBP",
        "tga": "TGA",
        "jp2": "JPEG2000",
        "png": "JPEG",
    }
    for end, kind in kinds.items():
        Image.new("RGB", (40, 40), (200, 9, 9)).save(tmp_path / "cat" / f"a.{end}", kind)
    reading = read_image_folder(tmp_path)
    assert [r.image_id for r in reading.images] == sorted(f"cat/a.{end}" for end in kinds)
    for image in reading.images:
        pixel = np.asarray(images.to_rgb(images.read_image(image.path)))[20, 20].astype(int)
        assert np.abs(pixel - (200, 9, 9)).max() < 12, image.path
    assert reading.skipped == (("dog", "class folder without a picture"),)
    assert "1 skipped, class folder without a picture (dog)" in reading.line()


def test_surplus_commas_belong_to_the_text_or_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,sentence\n1,"a, b"\n2,a, b, c\n\n3,plain\n')
    rows = common.read_csv(path, ["id", "sentence"], "the list", text="sentence")
    assert [r["sentence"] for r in rows] == ["a, b", "a, b, c", "plain"]
    with pytest.raises(InputError, match=r"a\.csv: line 3 has more fields than the header"):
        common.read_csv(path, ["id", "sentence"], "the list")
    path.write_text("sentence,id\na, b,1\n")
    with pytest.raises(InputError, match="line 2 has more fields"):
        common.read_csv(path, ["id", "sentence"], "the list", text="sentence")
    path.write_text("id,id,sentence\n1,2,a\n")
    with pytest.raises(InputError, match="has id more than once"):
        common.read_csv(path, ["id", "sentence"], "the list", text="sentence")


@pytest.mark.parametrize("row", ['3,"open', "3," + "x" * 200_000])
def test_a_broken_row_is_named_by_the_line_where_it_begins(tmp_path, row):
    path = tmp_path / "a.csv"
    path.write_text(f'id,sentence\n1,"a\nb"\n2,c\n{row}\n4,d\n')
    with pytest.raises(InputError, match=r"a\.csv: broken csv at line 5 \("):
        common.read_csv(path, ["id", "sentence"], "the list", text="sentence")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_that_differ_in_unicode_form_alone_are_the_same(tmp_path, forms):
    in_list, on_disk = (unicodedata.normalize(form, "café_ü") for form in forms)
    (tmp_path / f"{on_disk}.mp4").write_bytes(b"x")
    assert common.find_media(tmp_path, [in_list]) == {in_list: str(tmp_path / f"{on_disk}.mp4")}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_paths_that_differ_in_unicode_form_alone_are_the_same(tmp_path, forms):
    (folder, name), (folder_there, name_there) = (
        [unicodedata.normalize(form, text) for text in ("élan", "café_ü")] for form in forms
    )
    (tmp_path / folder_there / "plain").mkdir(parents=True)
    video = tmp_path / folder_there / f"{name_there}.mp4"
    video.write_bytes(b"x")
    (tmp_path / folder_there / "plain" / "a.mp4").write_bytes(b"x")
    paths = {"v": f"{folder}/{name}.avi", "w": f"{folder}/plain/a.mp4", "gone": f"{folder}/é.mp4"}
    found = common.media_from_paths(tmp_path, paths)
    assert found == {"v": str(video), "w": str(tmp_path / folder_there / "plain" / "a.mp4")}
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/{name}.mp4 0\n{folder}/é.mp4 0\n", encoding="utf-8")
    reading = read_image_list(listed, tmp_path)
    assert [image.path for image in reading.images] == [str(video)]
    assert reading.missing == (f"{folder}/é.mp4",)


def test_two_names_that_both_match_are_refused(tmp_path):
    for stem in ("a\u0323\u0307", "\u1ea1\u0307"):  # the same letter, apart and half composed
        (tmp_path / f"{stem}.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"2 names in .* differ from it in Unicode form alone"):
        common.media_from_paths(tmp_path, {"v": "a\u0307\u0323.mp4"})
    exact = common.media_from_paths(tmp_path, {"v": "\u1ea1\u0307.mp4"})
    assert exact == {"v": str(tmp_path / "\u1ea1\u0307.mp4")}


def test_what_lies_beside_a_video_is_no_second_video(tmp_path):
    folder = tmp_path / "v1"
    folder.mkdir()
    for name in ("v1.mp4", "v1.gif", "v1.txt", "v1.jpg", "thumb.png", "v1.ogg"):
        (folder / name).write_bytes(b"x")
    frames = tmp_path / "v2"
    frames.mkdir()
    (frames / "0001.webp").write_bytes(b"x")
    found = common.find_media(tmp_path, ["v1", "v2", "thumb"])
    assert found == {"v1": str(folder / "v1.mp4"), "v2": str(frames)}


def test_annotation_files_that_are_no_text_are_one_line(tmp_path):
    path = tmp_path / "a.json"
    for text in ("[" * 100_000 + "]" * 100_000, "1" * 5000, '{"a": "\\ud800"}', '{"a": ['):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.json: (no JSON that can be read|broken JSON)"):
            common.read_json(path, "the list")
    path.write_text(json.dumps({"a": "\U0001f600"}))
    assert common.read_json(path, "the list") == {"a": "\U0001f600"}


def test_labels_that_are_no_class_numbers_are_named_and_cost_no_memory(tmp_path):
    path = tmp_path / "a.txt"
    for label in ("99999999", "1" * 5000, "²", "--1", "1.0"):
        path.write_text(f"a/b.jpg 0\na/c.jpg {label}\n")
        tracemalloc.start()
        with pytest.raises(InputError, match=r"a\.txt: line 2: "):
            parse_list(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


def test_a_small_pickle_takes_little_memory(tmp_path):
    path = tmp_path / "a.pkl"
    for data in (b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b".", b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0a."):
        path.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(InputError, match="not a readable pickle"):
            load_plain_pickle(path, "the captions")
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
    path.write_bytes(pickle.dumps({"a": [["b", "c"]]}))
    assert load_plain_pickle(path, "the captions") == {"a": [["b", "c"]]}


def test_pipes_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BadMedia, match="a pipe or a device"):
        images.read_image(tmp_path / "a.jpg")


def test_readers_are_found_under_their_former_names():
    from jaxvl.data.readers.msrvtt import read_msrvtt

    from jaxvl.data.readers.retrieval import msrvtt

    assert read_msrvtt is msrvtt.read_msrvtt


def test_two_ids_of_one_file_are_said(tmp_path):
    (tmp_path / "X.mp4").write_bytes(b"x")
    (tmp_path / "Y.mp4").write_bytes(b"x")
    captions = {"X": ["a"], "X.mp4": ["b"], "Y": ["c"]}
    media = common.media_from_paths(tmp_path, {name: name for name in captions})
    reading = common.make_reading("clips", "test", captions, tmp_path, media=media)
    assert len(reading.pairs) == 3
    assert "1 are the file of another id (X.mp4)" in reading.report.line()
    parts = {"X": (0.0, 1.0), "X.mp4": (1.0, 2.0), "Y": (0.0, 1.0)}  # two parts of a file are two videos
    reading = common.make_reading("clips", "test", captions, tmp_path, media=media, spans=parts)
    assert "another id" not in reading.report.line()

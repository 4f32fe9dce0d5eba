from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.readers.retrieval.msvd import load_plain_pickle, read_msvd
from tests.data import media_files as mf

CAPTIONS = {
    "-4wsuPCjDBc_5_15": [["a", "squirrel", "is", "eating"], ["the", "squirrel", "eats"], []],
    "abc.d_1_2": [["un", "garçon", "court"]],
    "gone_0_1": [["no", "file"]],
    "test_1_9": ["a plain text", ["and", "words"]],
    "unlisted_1_1": [["not", "in", "any", "list"]],
}


@pytest.fixture
def published(tmp_path):
    (tmp_path / "train_list.txt").write_text("-4wsuPCjDBc_5_15\r\nabc.d_1_2\r\n\r\ngone_0_1\r\nsilent_0_1\r\n")
    (tmp_path / "test_list.txt").write_text("test_1_9\n")
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(CAPTIONS))
    (tmp_path / "videos" / "sub").mkdir(parents=True)
    mf.write_video(tmp_path / "videos" / "-4wsuPCjDBc_5_15.avi", 4, codec="mpeg4", bframes=0)
    mf.write_video(tmp_path / "videos" / "sub" / "abc.d_1_2.mp4", 4)
    mf.write_video(tmp_path / "videos" / "test_1_9.mkv", 4)
    mf.write_video(tmp_path / "videos" / "silent_0_1.mkv", 4)
    return tmp_path


def test_train(published):
    got = read_msvd(published, "train")
    assert [(p.video_id, p.caption_index, p.caption) for p in got.pairs] == [
        ("-4wsuPCjDBc_5_15", 0, "a squirrel is eating"),
        ("-4wsuPCjDBc_5_15", 1, "the squirrel eats"),
        ("abc.d_1_2", 0, "un garçon court"),
    ]
    assert os.path.basename(got.pairs[0].path) == "-4wsuPCjDBc_5_15.avi"
    assert got.report.missing == ("gone_0_1",)
    assert got.report.skipped == (("-4wsuPCjDBc_5_15", "empty caption"), ("silent_0_1", "no caption"))


def test_test_split_keeps_every_caption(published):
    got = read_msvd(published, "test")
    assert [(p.caption, p.caption_index) for p in got.pairs] == [("a plain text", 0), ("and words", 1)]


def test_pickle_written_by_python_2(published):
    # protocol 2 with byte strings, as Python 2 wrote `{"test_1_9": [["caf\xc3\xa9"]]}`
    old = b"\x80\x02}q\x00U\x08test_1_9q\x01]q\x02]q\x03(U\x05caf\xc3\xa9q\x04U\x02okq\x05eas."
    (published / "raw-captions.pkl").write_bytes(old)
    assert [p.caption for p in read_msvd(published, "test").pairs] == ["café ok"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("thing", [Evil(), np.zeros(2), collections.Counter("ab")])
def test_pickle_with_code_is_refused_by_name(tmp_path, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"a": thing}))
    with pytest.raises(InputError, match=r"c\.pkl: refused to load \w+\S*\.\w+: ") as error:
        load_plain_pickle(tmp_path / "c.pkl", "x")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["c.pkl"]


def test_plain_containers_pass(tmp_path):
    plain = {"a": [1, 2.5, None, True, b"x", (1,)], "b": {1, 2}, "c": collections.OrderedDict(z=1), "d": frozenset("q")}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):  # older ones write bytes as a function call
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(plain, protocol))
        assert load_plain_pickle(tmp_path / "p.pkl", "x") == plain


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04", pickle.dumps(CAPTIONS)[:60], b"\x80\x05\x95\xff"])
def test_broken_pickles(published, data):
    (published / "raw-captions.pkl").write_bytes(data)
    with pytest.raises(InputError, match=r"raw-captions\.pkl: not a readable pickle") as error:
        read_msvd(published, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "needs a dict"),
        ({"test_1_9": "a text"}, "must be a list"),
        ({"test_1_9": [[1, 2]]}, "neither a text nor a list of words"),
        ({"other": [["x"]]}, "no caption for any id"),
    ],
)
def test_pickles_of_another_shape(published, data, message):
    (published / "raw-captions.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(InputError, match=message):
        read_msvd(published, "test")


def test_missing_and_empty_lists(published):
    with pytest.raises(InputError, match=r"val_list\.txt: no such file"):
        read_msvd(published, "val")
    (published / "val_list.txt").write_text("\n\n")
    with pytest.raises(InputError, match="is empty"):
        read_msvd(published, "val")
    with pytest.raises(InputError, match="train, val, test"):
        read_msvd(published, "dev")

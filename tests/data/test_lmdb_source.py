from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import lmdb_source
from jaxvl.data.readers.common import find_media, make_reading
from jaxvl.data.shrink import shrink_videos
from jaxvl.data.video import VideoFile, index_video, load_clip, read_frames
from tests.data import media_files as mf


def write_lmdb(path, files, subdir=True):
    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as env, env.begin(write=True) as write:
        for key, source in files.items():
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            write.put(key.encode(), data)
    return str(path)


@pytest.fixture(params=[True, False], ids=["folder", "file"])
def store(request, tmp_path, media):
    files = {"video0.mp4": media.good, "video1.v2.mp4": media.vfr, "bare.id": media.mkv, "ts.ts": media.ts}
    files |= {"avi.avi": media.avi, "cut.mp4": media.truncated, "text.mp4": media.text, "empty.mp4": b""}
    return write_lmdb(tmp_path / "videos.lmdb", files, request.param)


def clip(path):
    return load_clip(path, num_frames=6, image_size=32, sampling="uniform", fps=4.0)


def test_clips_equal_those_of_the_files(store, media):
    pairs = (("video0.mp4", media.good), ("video1.v2.mp4", media.vfr), ("bare.id", media.mkv), ("ts.ts", media.ts))
    for key, source in (*pairs, ("avi.avi", media.avi)):
        one, other = clip(f"{store}/{key}"), clip(source)
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.times, other.times)


def test_bytes_in_memory_are_a_video(media):
    video = lmdb_source.EncodedVideo("some name", Path(media.good).read_bytes())
    index = index_video(video)
    assert mf.counters(read_frames(video, index.pts[[5, 20, 5]], index)) == [5, 20, 5]
    assert mf.counters(VideoFile(video).read([7], 64)) == [7]
    with pytest.raises(BadMedia, match="some name: truncated"):
        index_video(lmdb_source.EncodedVideo("some name", Path(media.truncated).read_bytes()))


def test_bad_values_are_named(store):
    for key, reason in (("cut.mp4", "truncated"), ("text.mp4", "not a video"), ("empty.mp4", "empty value"),
                        ("nobody.mp4", "no such key")):  # fmt: skip
        with pytest.raises(BadMedia, match=reason) as error:
            clip(f"{store}/{key}")
        assert error.value.path == f"{store}/{key}"


def test_readers_find_keys_by_id(store):
    found = find_media(store, {"video0", "video1.v2", "bare.id", "gone"})
    assert {k: os.path.basename(v) for k, v in found.items()} == {
        "video0": "video0.mp4", "video1.v2": "video1.v2.mp4", "bare.id": "bare.id",
    }  # fmt: skip
    got = make_reading("X", "train", {"video0": ["a"], "gone": ["b"]}, store)
    assert got.report.missing == ("gone",)
    assert clip(got.pairs[0].path).mask.all()


def test_shrink_reads_from_it(store, tmp_path):
    done = shrink_videos(store, [f"{store}/video0.mp4"], tmp_path / "small", short_side=32, processes=1)
    assert (tmp_path / "small" / "video0.mp4").is_file()
    assert done.before == len(lmdb_source.read_video(f"{store}/video0.mp4").data)


def decode_in_child(path, queue):
    queue.put(mf.counters(clip(path).frames))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_open_their_own(store, start):
    path = f"{store}/video0.mp4"
    wanted = mf.counters(clip(path).frames)  # this process holds it open
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    child = context.Process(target=decode_in_child, args=(path, queue))
    child.start()
    assert queue.get(timeout=20) == wanted
    child.join()


def test_paths_that_are_no_lmdb_stay_what_they_are(tmp_path, media):
    assert lmdb_source.split_path(media.good) is None
    assert lmdb_source.split_path("video.mp4") is None
    (tmp_path / "x.lmdb").mkdir()  # a folder that only bears the name
    assert lmdb_source.split_path(tmp_path / "x.lmdb" / "k.mp4") is None
    with pytest.raises(BadMedia, match="missing"):
        clip(tmp_path / "x.lmdb" / "k.mp4")


def test_damage_and_a_missing_package_are_one_line(tmp_path, media, monkeypatch):
    (tmp_path / "bad.lmdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(InputError, match=r"bad\.lmdb: not a readable LMDB"):
        list(lmdb_source.lmdb_keys(tmp_path / "bad.lmdb"))
    good = write_lmdb(tmp_path / "good.lmdb", {"a.mp4": media.good})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(InputError, match=r"needs the package lmdb: pip install 'jaxvl\[lmdb\]'"):
        clip(f"{good}/a.mp4")

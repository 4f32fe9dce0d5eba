from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.pipeline import train_batches
from jaxvl.data.records import INDEX_FILE, ClipItem, ClipRecords, pack_clip, unpack_clip, write_clips
from jaxvl.data.video import load_clip
from tests.data import media_files as mf


@pytest.fixture(scope="module")
def folder(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("records") / "set"
    items = [
        ClipItem("good.1", media.good, {"captions": ["ein Mädchen", "日本"], "span": [0.5, 2.0]}),
        ClipItem("vfr", media.vfr),
        ClipItem("broken", media.truncated),
        ClipItem("turned", media.rotated),
    ]
    written = write_clips(
        out, items, short_side=32, num_shards=2, num_threads=2, on_error="skip", provenance={"by": "t"}
    )
    assert written.count == 3
    assert [name for name, _ in written.skipped] == ["broken"]
    return out


def test_index_file(folder):
    index = json.loads((folder / INDEX_FILE).read_text())
    assert index["count"] == 3
    assert index["ids"] == ["good.1", "vfr", "turned"]
    assert [s["count"] for s in index["shards"]] == [2, 1]
    assert index["provenance"]["short_side"] == 32
    assert index["provenance"]["by"] == "t"
    assert index["provenance"]["skipped"][0][0] == "broken"
    assert sorted(os.listdir(folder)) == [*(s["file"] for s in index["shards"]), INDEX_FILE]


def test_records_give_what_the_videos_give(folder, media):
    records = pickle.loads(pickle.dumps(ClipRecords(folder)))
    assert len(records) == 3
    assert records[0].annotations == {"captions": ["ein Mädchen", "日本"], "span": [0.5, 2.0]}
    calls = [
        {"sampling": "uniform"},
        {"sampling": "uniform", "fps": 3.0},
        {"sampling": "stratified", "fps": 4.0, "rng": 1},
        {"sampling": "uniform", "start_s": 1.0, "end_s": 2.0},
    ]
    for video_id, path in {"good.1": media.good, "vfr": media.vfr, "turned": media.rotated}.items():
        for call in calls:
            if video_id == "turned" and "start_s" in call:
                continue
            made = [
                load_clip(
                    source,
                    num_frames=6,
                    image_size=32,
                    **{k: np.random.default_rng(v) if k == "rng" else v for k, v in call.items()},
                )
                for source in (records.by_id(video_id), path)
            ]
            np.testing.assert_allclose(made[0].times, made[1].times)
            np.testing.assert_array_equal(made[0].mask, made[1].mask)
            if video_id != "turned":
                assert mf.counters(made[0].frames) == mf.counters(made[1].frames)
            assert np.abs(made[0].frames.astype(int) - made[1].frames).mean() < 6


def test_thinning(media, tmp_path):
    write_clips(tmp_path / "a", [ClipItem("v", media.good)], short_side=32, fps=3.0)
    record = ClipRecords(tmp_path / "a")[0]
    assert mf.counters(record.read(range(len(record.times)), 32)) == [0, 2, 5, 8, 10, 13, 16, 18, 21]
    assert record.duration == pytest.approx(3.0)
    assert record.read([0], 32, crop=False).shape == (1, 32, 48, 3)
    write_clips(tmp_path / "b", [ClipItem("v", media.good)], short_side=32, max_frames=6, quality=50)
    small = ClipRecords(tmp_path / "b")[0]
    assert mf.counters(small.read(range(6), 32)) == [2, 6, 10, 14, 18, 22]
    assert max(map(len, small.jpegs)) < max(map(len, record.jpegs))


def test_folders_of_frames_can_be_written(tmp_path):
    (tmp_path / "frames").mkdir()
    for i in range(4):
        Image.fromarray(mf.counter_frame(i, 96, 64)).save(tmp_path / "frames" / f"{i}.png")
    write_clips(tmp_path / "out", [ClipItem("f", str(tmp_path / "frames"))], short_side=32, fps=2.0)
    record = ClipRecords(tmp_path / "out")[0]
    assert mf.counters(record.read(range(4), 32)) == [0, 1, 2, 3]
    np.testing.assert_allclose(record.times, [0, 0.5, 1, 1.5])
    Image.fromarray(mf.counter_frame(9, 64, 64)).save(tmp_path / "frames" / "9.png")
    with pytest.raises(InputError, match=r"video f: .*different sizes"):
        write_clips(tmp_path / "out2", [ClipItem("f", str(tmp_path / "frames"))], short_side=32)


def test_frames_of_unknown_rate_stay_so(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((6, 8, 8, 3), np.uint8))
    item = ClipItem("f", str(tmp_path / "f.npy"))
    how = {"num_frames": 2, "image_size": 8, "sampling": "uniform"}
    write_clips(tmp_path / "unknown", [item], short_side=8)
    with pytest.raises(InputError, match="needs the rate of these frames"):
        load_clip(ClipRecords(tmp_path / "unknown")[0], **how, end_s=1.0)
    write_clips(tmp_path / "known", [item], short_side=8, frames_fps=3.0)
    record = ClipRecords(tmp_path / "known")[0]
    assert (record.timed, record.duration) == (True, 2.0)
    np.testing.assert_allclose(load_clip(record, **how, end_s=0.5).times, [0, 1 / 3])


def test_refusals(folder, media, tmp_path):
    with pytest.raises(InputError, match="holds a data set already"):
        write_clips(folder, [ClipItem("a", media.good)])
    with pytest.raises(InputError, match="'a' comes more than once"):
        write_clips(tmp_path / "x", [ClipItem("a", media.good), ClipItem("a", media.vfr)])
    with pytest.raises(InputError, match="no clips"):
        write_clips(tmp_path / "x", [])
    with pytest.raises(InputError, match=r"video a: .*truncated"):
        write_clips(tmp_path / "x", [ClipItem("a", media.truncated)])
    assert not (tmp_path / "x" / INDEX_FILE).exists()
    with pytest.raises(InputError, match=r"dataset\.json: no such file"):
        ClipRecords(tmp_path / "x")
    with pytest.raises(InputError, match="annotations of 'a' cannot be written"):
        write_clips(tmp_path / "y", [ClipItem("a", media.good, {"x": {1, 2}})])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, shard: shard.write_bytes(shard.read_bytes()[:-2000]), "truncated or damaged shard"),
        (lambda d, shard: shard.write_bytes(shard.read_bytes()[:100]), "truncated or damaged shard"),
        (lambda d, shard: shard.unlink(), "this shard is missing"),
        (
            lambda d, shard: shutil.copy(sorted(d.glob("*.array_record"))[1], shard),
            "holds 1 records, dataset.json says 2",
        ),
        (lambda d, shard: (d / INDEX_FILE).write_text('{"version": 9}'), "version 9 of clip records"),
        (lambda d, shard: (d / INDEX_FILE).write_text('{"version": 1, "ids": []}'), "damaged index"),
        (lambda d, shard: (d / INDEX_FILE).write_text("[1"), "broken JSON"),
    ],
)
def test_damaged_data_sets_are_refused_at_opening(folder, tmp_path, damage, message):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copy, sorted(copy.glob("*.array_record"))[0])
    with pytest.raises(InputError, match=message) as error:
        ClipRecords(copy)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_is_one_bad_record(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shard = sorted(copy.glob("*.array_record"))[0]
    data = bytearray(shard.read_bytes())
    data[data.index(b"JVC1") + 3000] ^= 255
    shard.write_bytes(data)
    records = ClipRecords(copy)
    with pytest.raises(BadMedia, match=r"damaged record of good\.1"):
        records[0]
    assert records[1].video_id == "vfr"


def test_framing():
    data = pack_clip("a", [0.0, 0.5], 1.0, [b"xx", b"yyy"], {"k": 1})
    record = unpack_clip(data, "p")
    assert (record.video_id, record.jpegs, record.annotations) == ("a", (b"xx", b"yyy"), {"k": 1})
    for broken in (b"", b"JVC1", b"ABCD" + data[4:], data[:-1], data + b"z", data[:20]):
        with pytest.raises(BadMedia, match="record"):
            unpack_clip(broken, "p")
    with pytest.raises(BadMedia, match="frame 0 is a broken JPEG"):
        record.read([0], 8)


def test_ids(folder):
    records = ClipRecords(folder)
    assert "vfr" in records
    assert "other" not in records
    with pytest.raises(BadMedia, match="no record of the video 'other'"):
        records.by_id("other")
    with pytest.raises(IndexError):
        records[3]


def make_from_record(record, rng):
    clip = load_clip(record, num_frames=2, image_size=32, sampling="stratified", rng=rng)
    return {"video": clip.frames}


def test_records_feed_the_pipeline(folder):
    examples = types.SimpleNamespace(
        source=ClipRecords(folder), make=make_from_record, id_of=lambda record: record.video_id, batch_size=3
    )
    stream = train_batches(examples, seed=0, num_threads=2)
    for batch in itertools.islice(stream, 3):
        assert batch["video"].shape == (3, 2, 32, 32, 3)
        assert sorted(batch["_id"]) == ["good.1", "turned", "vfr"]
    stream.close()


def test_videos_that_begin_without_a_key_frame_are_counted(tmp_path):
    whole = mf.write_video(tmp_path / "whole.ts", 16, gop=8, bframes=0)
    late = mf.copy_packets(whole, tmp_path / "late.ts", lambda k, packet: k >= 3)
    written = write_clips(tmp_path / "r", [ClipItem("a", whole), ClipItem("b", late)], short_side=32)
    assert (written.count, written.late) == (2, ("b",))
    said = []
    written.report("train", "videos", tmp_path, 0.0, said.append)
    assert said[0] == "train: 1 begin without a key frame, what lies before it is left out: b"
    assert mf.counters(ClipRecords(tmp_path / "r").by_id("b").read(range(8), 32)) == list(range(8, 16))

from __future__ import annotations

import csv
import dataclasses
import json
import pickle
import subprocess
import sys

import av
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.synthetic import layouts
from jaxvl.data.synthetic.encode import write_video
from jaxvl.data.synthetic.layouts import LAYOUTS, ensure_world
from jaxvl.data.synthetic.sprites.render import render_clip
from jaxvl.data.synthetic.sprites.world import WorldConfig, plan_clip
from tests import tiny

CONFIG = WorldConfig(num_train=9, num_val=2, num_test=3, seconds=(1, 1.5), captions_per_video=4)


def decode(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory):
    return ensure_world(CONFIG, tmp_path_factory.mktemp("w") / "a" / "world", "msrvtt")


def test_msrvtt_files_parse_as_published(msrvtt):
    data = json.loads((msrvtt / "MSRVTT_data.json").read_text())
    assert set(data) == {"info", "videos", "sentences"}
    assert [v["split"] for v in data["videos"]] == ["train"] * 9 + ["validate"] * 2 + ["test"] * 3
    assert set(data["videos"][0]) == {"video_id", "category", "url", "start time", "end time", "split", "id"}
    assert [v["video_id"] for v in data["videos"]] == [f"video{i}" for i in range(14)]
    assert [s["sen_id"] for s in data["sentences"]] == list(range(11 * 4 + 3))
    assert set(data["sentences"][0]) == {"sen_id", "video_id", "caption"}

    def rows(name):
        with (msrvtt / name).open(newline="") as file:
            return list(csv.DictReader(file))

    assert [r["video_id"] for r in rows("MSRVTT_train.9k.csv")] == [f"video{i}" for i in range(9)]
    assert [r["video_id"] for r in rows("MSRVTT_train.7k.csv")] == [f"video{i}" for i in range(7)]
    test = rows("MSRVTT_JSFUSION_test.csv")
    assert list(test[0]) == ["key", "vid_key", "video_id", "sentence"]
    keys = [(r["key"], r["vid_key"], r["video_id"]) for r in test]
    assert keys == [(f"ret{i}", f"msr{11 + i}", f"video{11 + i}") for i in range(3)]
    said = {s["video_id"]: s["caption"] for s in data["sentences"]}
    assert all(said[r["video_id"]] == r["sentence"] for r in test)


def test_videos_hold_the_planned_frames_and_nothing_else_is_left(msrvtt):
    names = {str(p.relative_to(msrvtt)) for p in msrvtt.rglob("*") if p.is_file()}
    assert names == {f"videos/video{i}.mp4" for i in range(14)} | {
        "MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv", "MSRVTT_JSFUSION_test.csv",
        "world.jsonl", "world_stamp.json",
    }  # fmt: skip
    for record in tiny.read_world(msrvtt)[::4]:
        clip = plan_clip(CONFIG, record["split"], record["index"])
        frames = render_clip(clip).frames
        decoded = decode(msrvtt / record["video"])
        assert decoded.shape == frames.shape == (record["num_frames"], 64, 64, 3)
        assert np.abs(decoded.astype(int) - frames).mean() < 6
        assert record["seconds"] == len(decoded) / 8
        assert record["captions"] == list(clip.captions)
        assert [len(t["box_full"]) for t in record["tracks"]] == [len(decoded)] * len(record["sprites"])
    with av.open(str(msrvtt / "videos/video0.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)


def test_msvd_files_parse_as_published(tmp_path):
    config = dataclasses.replace(CONFIG, num_train=2, num_val=1, num_test=2)
    root = ensure_world(config, tmp_path, "msvd")
    captions = pickle.loads((root / "raw-captions.pkl").read_bytes())
    ids = {s: (root / f"{s}_list.txt").read_text().split() for s in ("train", "val", "test")}
    assert {s: len(v) for s, v in ids.items()} == {"train": 2, "val": 1, "test": 2}
    assert set(captions) == {i for v in ids.values() for i in v}
    assert set(captions) == {p.stem for p in (root / "YouTubeClips").glob("*.avi")}
    assert all(len(texts) == 4 and all(isinstance(w, str) for w in texts[0]) for texts in captions.values())
    records = tiny.read_world(root)
    assert " ".join(captions[ids["test"][1]][0]) == records[-1]["captions"][0]
    assert decode(root / records[0]["video"]).shape == (records[0]["num_frames"], 64, 64, 3)
    with av.open(str(root / records[0]["video"])) as container:
        assert (container.format.name, container.streams.video[0].codec_context.name) == ("avi", "mpeg4")


def test_a_finished_world_is_left_alone_and_mended(msrvtt, monkeypatch):
    rendered = []
    real = layouts.render_clip
    monkeypatch.setattr(layouts, "render_clip", lambda clip: rendered.append(clip.index) or real(clip))
    ensure_world(CONFIG, msrvtt, "msrvtt")
    assert rendered == []
    before = decode(msrvtt / "videos/video4.mp4")
    (msrvtt / "videos/video4.mp4").unlink()
    calls = []
    ensure_world(CONFIG, msrvtt, "msrvtt", progress=lambda done, total: calls.append((done, total)))
    assert rendered == [4]
    assert calls == [(13, 14), (14, 14)]
    np.testing.assert_array_equal(decode(msrvtt / "videos/video4.mp4"), before)


def test_a_world_of_another_config_or_layout_is_refused(msrvtt, tmp_path):
    with pytest.raises(InputError, match=r"fps = 8 instead of 10.*delete .* or choose another root"):
        ensure_world(dataclasses.replace(CONFIG, fps=10), msrvtt, "msrvtt")
    with pytest.raises(InputError, match="layout 'msrvtt' instead of 'msvd'"):
        ensure_world(CONFIG, msrvtt, "msvd")
    with pytest.raises(InputError, match="none of msrvtt, msvd"):
        ensure_world(CONFIG, tmp_path / "new", "lsmdc")
    assert not (tmp_path / "new").exists()
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="not empty"):
        ensure_world(CONFIG, tmp_path, "msrvtt")
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(InputError, match="is a file"):
        ensure_world(CONFIG, tmp_path / "holiday.jpg", "msrvtt")


def test_a_killed_rendering_goes_on_with_what_is_missing(msrvtt, tmp_path):
    root = tmp_path / "world"
    code = (
        "import os\n"
        "from jaxvl.data.synthetic import layouts\n"
        "from jaxvl.data.synthetic.sprites.world import WorldConfig\n"
        "c = WorldConfig(num_train=9, num_val=2, num_test=3, seconds=(1, 1.5), captions_per_video=4)\n"
        "real, seen = layouts.write_video, []\n"
        "def dies(path, *rest):\n"
        "    seen.append(path)\n"
        "    if len(seen) == 6: os._exit(9)\n"
        "    real(path, *rest)\n"
        "layouts.write_video = dies\n"
        f"layouts.ensure_world(c, {str(root)!r}, 'msrvtt', processes=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list((root / "videos").glob("*.mp4"))) == 5
    assert not (root / "world_stamp.json").exists()
    assert not (root / "world.jsonl").exists()
    with pytest.raises(InputError, match="seed = 0 instead of 3"):
        ensure_world(dataclasses.replace(CONFIG, seed=3), root, "msrvtt")
    kept = (root / "videos/video0.mp4").stat().st_mtime_ns
    (root / "videos/.video5.123.mp4").write_bytes(b"half a file")
    calls = []
    ensure_world(CONFIG, root, "msrvtt", progress=lambda *a: calls.append(a))
    assert calls[0] == (5, 14)
    assert (root / "videos/video0.mp4").stat().st_mtime_ns == kept
    for name in ("world.jsonl", "world_stamp.json", "MSRVTT_data.json", "videos/video7.mp4"):
        assert (root / name).read_bytes() == (msrvtt / name).read_bytes(), name
    there, here = ({str(p.relative_to(r)) for p in r.rglob("*")} for r in (msrvtt, root))
    assert here == there


def test_spawned_processes_write_the_same_world(msrvtt, tmp_path):
    ensure_world(CONFIG, tmp_path, "msrvtt", processes=2)
    for name in ("world.jsonl", "world_stamp.json", "videos/video0.mp4", "videos/video13.mp4"):
        assert (tmp_path / name).read_bytes() == (msrvtt / name).read_bytes(), name


def test_every_layout_names_media_after_the_running_number():
    for layout in LAYOUTS.values():
        names = [layout.media(s, i, CONFIG) for s in ("train", "val", "test") for i in range(CONFIG.count(s))]
        assert len(set(names)) == 14


def test_an_unknown_video_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"only \.mp4 and \.avi"):
        write_video(tmp_path / "a.webm", np.zeros((2, 32, 32, 3), np.uint8), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_the_same_frames_give_the_same_pictures_every_time(tmp_path, suffix):
    frames = render_clip(plan_clip(CONFIG, "test", 1)).frames
    for k in range(12):
        write_video(tmp_path / f"{k}{suffix}", frames, 8)
    first = decode(tmp_path / f"0{suffix}")
    assert all((decode(tmp_path / f"{k}{suffix}") == first).all() for k in range(1, 12))

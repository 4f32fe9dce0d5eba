"""The published layouts, through the published configs, to the first example of each stream."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.data.video import load_clip
from jaxvl.methods.centerclip import data as data_module
from jaxvl.methods.centerclip.method import batch_spec, model_config
from tests import tiny
from tests.data import media_files

TEXTS = {"a": "Someone waves.", "b": "A dog runs, then sleeps."}
NEEDED = "a", "b"  # ids; train has both, the others the second


def lay_out(name, root):
    """A data set of two videos in the layout of `name`."""
    (root / "videos").mkdir(parents=True)
    ending = {"msvd": ".avi.mp4", "didemo": ".mov.mp4", "activitynet": ".mp4"}.get(name, ".mp4")
    prefix = {"activitynet": "v_"}.get(name, "")
    for i, v in enumerate(NEEDED):
        media_files.write_video(root / "videos" / f"{prefix}{v}{ending}", 40, fps=8, width=48, height=40, start=40 * i)
    put = lambda file, text: (root / file).write_text(text, encoding="utf-8")  # noqa: E731
    splits = {"train": NEEDED, "val": NEEDED[1:], "test": NEEDED[1:]}
    if name == "msrvtt":
        videos = [{"video_id": v, "split": s} for v, s in (("a", "train"), ("b", "validate"))]
        sentences = [{"video_id": v, "caption": t, "sen_id": i} for i, (v, t) in enumerate(TEXTS.items())]
        put("MSRVTT_data.json", json.dumps({"videos": videos, "sentences": sentences, "info": {}}))
        put("MSRVTT_train.9k.csv", "video_id\na\nb\n")
        put("MSRVTT_JSFUSION_test.csv", f'key,vid_key,video_id,sentence\nret0,msr0,b,"{TEXTS["b"]}"\n')
    elif name == "msvd":
        (root / "raw-captions.pkl").write_bytes(pickle.dumps({f"{v}.avi": [t.split()] for v, t in TEXTS.items()}))
        for split, ids in splits.items():
            put(f"{split}_list.txt", "".join(f"{v}.avi\n" for v in ids))
    elif name == "lsmdc":
        files = "LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv"
        for file, ids in zip(files, splits.values()):
            put(file, "".join(f"{v}\t0\t1\t0\t1\t{TEXTS[v]}\n" for v in ids))
    elif name == "activitynet":
        for ids_file, file, ids in (("train_ids", "train", NEEDED), ("val_ids", "val_1", NEEDED[1:])):
            put(f"{ids_file}.json", json.dumps([f"v_{v}" for v in ids]))
            entry = {v: {"duration": 4.9, "timestamps": [[0, 1]], "sentences": [TEXTS[v]]} for v in ids}
            put(f"{file}.json", json.dumps({f"v_{v}": e for v, e in entry.items()}))
    else:
        for split, ids in splits.items():
            put(f"{split}_list.txt", "".join(f"{v}.mov\n" for v in ids))
            put(f"{split}_data.json", json.dumps([{"video": f"{v}.mov", "description": TEXTS[v]} for v in ids]))
    return root


@pytest.mark.parametrize("name", ["msrvtt", "msvd", "lsmdc", "activitynet", "didemo"])
def test_a_published_config_reads_its_published_layout(name, tmp_path):
    config = tiny.load(f"centerclip/{name}.py", f"data.root={lay_out(name, tmp_path / 'root')}")
    data = session.build_data(config, tmp_path / "run", tiny.quiet)
    train = data.train["train"]
    assert [pair.caption for pair in train.source] == list(TEXTS.values())
    got = train.make(train.source[1], np.random.default_rng(3))
    spec = batch_spec(config, model_config(config))
    for field, one in spec.items():
        assert (got[field].shape, got[field].dtype) == (one.shape[1:], one.dtype), field
    pair = train.source[1]
    published = load_clip(
        pair.path, num_frames=config.data.frames, image_size=224, sampling="official", fps=3.0,
        rng=np.random.default_rng(3), start_s=pair.start_s, end_s=pair.end_s,
    )  # fmt: skip
    np.testing.assert_array_equal(got["frames"], published.frames)
    for split in ("val", "test"):
        (video,), (text,) = (data.splits[split][stream].source for stream in ("video", "text"))
        seen = data.splits[split]["video"].make(video, np.random.default_rng(0))
        assert seen["frames"].shape == (config.data.frames, 224, 224, 3)
        assert int(seen["mask"].sum()) == min(config.data.frames, 15)  # 5 s at 3 frames a second
        np.testing.assert_array_equal(
            data.splits[split]["text"].make(text, np.random.default_rng(0))["ids"], got["ids"]
        )
        assert (tmp_path / "run" / "ids" / f"{split}.txt").read_text().split() == [video.video_id]


def test_frames_extracted_faster_than_the_model_reads_cover_the_whole_video(tmp_path):
    """40 frames of 8 a second stand for 5 s; taken for 3 a second they would be 13 s, cut after 5 (ActivityNet)."""
    root = lay_out("activitynet", tmp_path / "root")
    for v in NEEDED:
        (root / "videos" / f"v_{v}.mp4").unlink()
        (root / "videos" / f"v_{v}").mkdir()
        for i in range(40):
            Image.fromarray(media_files.counter_frame(i)).save(root / "videos" / f"v_{v}" / f"{i:03d}.png")
    small = ("model.preset=tiny", "model.schedule=none", "model.reduce.algorithm=none", "data.max_words=8")
    config = tiny.load("centerclip/activitynet.py", f"data.root={root}", "data.frames=5", "data.frames_fps=8", *small)

    def seen(config):
        data = session.build_data(config, tmp_path / "run", tiny.quiet)
        video = data.splits["val"]["video"]
        return data, media_files.counters(video.make(video.source[0], np.random.default_rng(0))["frames"])

    data, numbers = seen(config)
    assert numbers == [2, 10, 18, 26, 34]  # middles of five parts of the 15 frames at 3 a second
    data_module.write_records(config, data, tmp_path / "out", ["train", "val"], tiny.quiet)
    config.data.update({"reader": "records", "root": str(tmp_path / "out")})
    assert seen(config)[1] == numbers


@pytest.mark.parametrize("name", ["msrvtt", "msvd", "lsmdc", "didemo"])
def test_a_split_that_nothing_reads_may_be_missing(name, tmp_path):
    root = lay_out(name, tmp_path / "root")
    if name == "msrvtt":
        everything = json.loads((root / "MSRVTT_data.json").read_text())
        for video in everything["videos"]:
            video["split"] = "train"
        (root / "MSRVTT_data.json").write_text(json.dumps(everything))
    else:
        for file in root.glob("*val*"):
            file.unlink()
    config = tiny.load(f"centerclip/{name}.py", f"data.root={root}")
    data = session.build_data(config, tmp_path / "run", tiny.quiet)
    assert sorted(data.splits) == ["test", "train"]
    assert data.reports[-1].startswith("split val is left out: ")
    config.train.eval_split = "val"
    with pytest.raises(InputError, match="val"):
        session.build_data(config, tmp_path / "run", tiny.quiet)
    config.train.eval_every = 0  # only the last evaluation, on test
    session.build_data(config, tmp_path / "run", tiny.quiet)
    for file in root.glob("*train*"):
        file.unlink()
    with pytest.raises(InputError, match="no such file"):
        session.build_data(config, tmp_path / "run", tiny.quiet)


def test_captions_that_lose_their_end_are_counted_once(tmp_path):
    root = lay_out("msrvtt", tmp_path / "root")

    def lines(words):
        config = tiny.load("centerclip/msrvtt.py", f"data.root={root}", f"data.max_words={words}")
        found = session.build_data(config, tmp_path / "run", tiny.quiet).reports
        return [line for line in found if line.startswith("captions: ")]

    # "a dog runs, then sleeps." is 7 pieces, "someone waves." 3; each with a start and an end
    (line,) = lines(8)
    assert line.startswith("captions: 3 of 4 are longer than 8 tokens and are cut (train 1, val 1, test 1); ")
    assert lines(9) == []

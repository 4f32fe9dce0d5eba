"""From folders in published layouts to batches, and `jaxvl prepare --shrink` on the way."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from jaxvl import cli
from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.methods.centerclip.data import media_files
from jaxvl.verbs.prepare import shrink
from tests import tiny
from tests.data import media_files as mf

SPLITS = ("train", "val", "test")
NUMBER = {"train": 1, "val": 2, "test": 3}


def write_lsmdc(root):
    names = ("LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv")
    for split, name in zip(SPLITS, names):
        (root / name).write_text(f"000{NUMBER[split]}_Film_00.01.02.003-00.01.04.000\t0\t1\t0\t1\tShe moves.\n")
    return {s: f"000{NUMBER[s]}_Film/000{NUMBER[s]}_Film_00.01.02.003-00.01.04.000.avi" for s in SPLITS}


def write_activitynet(root):
    for split, names in (("train", ("train_ids", "train")), ("val", ("val_ids", "val_1"))):
        name = f"v_{split:x<11}"
        entry = {"duration": 2.2, "timestamps": [[0, 1], [1, 2]], "sentences": ["She moves.", " He stops."]}
        (root / f"{names[0]}.json").write_text(json.dumps([name]))
        (root / f"{names[1]}.json").write_text(json.dumps({name: entry}))
    return {s: f"{'val' if s == 'test' else s:x<11}.avi" for s in SPLITS}


def write_didemo(root):
    for split in SPLITS:
        name = f"{NUMBER[split]}@N01_{split}.avi"
        rows = [{"video": name, "description": text, "times": [[0, 0]]} for text in ("she moves", "he stops")]
        (root / f"{split}_list.txt").write_text(name + "\n")
        (root / f"{split}_data.json").write_text(json.dumps(rows))
    return {s: f"{NUMBER[s]}@N01_{s}.avi" for s in SPLITS}


WRITERS = {"lsmdc": write_lsmdc, "activitynet": write_activitynet, "didemo": write_didemo}
ENDS = {"lsmdc": None, "activitynet": 3.0, "didemo": 31.0}


def config_of(reader, root, *overrides):
    config = tiny.quickstart(f"data.reader={reader}", f"data.root={root}", "data.fps=4.0", *overrides)
    with config.unlocked():
        config.data.world = {}
    return config


def write_set(reader, folder):
    """One video of two seconds a split, in the layout of the reader."""
    root = folder / "set"
    root.mkdir()
    source = mf.write_video(folder / "a.avi", 20, fps=10, width=96, height=64, codec="mpeg4", bframes=0)
    for name in WRITERS[reader](root).values():
        (root / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / "videos" / name)
    return root


def test_frames_in_another_order(tmp_path):
    fields = f"data.root={write_set('lsmdc', tmp_path)}", "data.frames=8"
    rows = {}
    for order in ("forward", "reversed"):
        config = tiny.load("centerclip/lsmdc.py", *fields, f"data.frame_order={order}")
        data = session.build_data(config, tmp_path / order, tiny.quiet)
        video = data.splits["test"]["video"]
        rows[order] = video.make(video.source[0], np.random.default_rng(0))
    valid = int(rows["forward"]["mask"].sum())
    assert 2 < valid < 8
    for field in ("frames", "_times"):
        np.testing.assert_array_equal(rows["reversed"][field][:valid], rows["forward"][field][:valid][::-1])


def test_clip4clip_reads_one_frame_a_second(tmp_path):
    config = tiny.load("centerclip/lsmdc.py:b32_clip4clip_meanp", f"data.root={write_set('lsmdc', tmp_path)}")
    data = session.build_data(config, tmp_path / "work", tiny.quiet)
    for examples in (data.train["train"], data.splits["test"]["video"]):
        row = examples.make(examples.source[0], np.random.default_rng(0))
        assert row["mask"].sum() == 2
    assert row["_times"][1] == pytest.approx(1.0, abs=0.1)  # the frame on screen, of ten a second


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("sampling=uniformly", r"config\.data\.sampling: 'uniformly' is none of uniform, official, stratified"),
        ("eval_sampling=official", r"config\.data\.eval_sampling: 'official' is none of uniform, linspace, head, tail"),
    ],
)
def test_wrong_sampling_is_named_before_anything_is_read(field, line, tmp_path):
    with pytest.raises(InputError, match=line):
        session.build_data(tiny.quickstart(f"data.{field}"), tmp_path, tiny.quiet)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("reader", WRITERS)
def test_reader_to_batches_from_the_originals_and_from_the_small_videos(reader, tmp_path, capsys):
    root = write_set(reader, tmp_path)
    config = config_of(reader, root)
    data = session.build_data(config, tmp_path / "work", tiny.quiet)
    assert list(data.splits) == list(SPLITS)
    assert len(data.reports) == (2 if reader == "activitynet" else 3)  # val_1 is val and test
    frames = {}
    for split in SPLITS:
        (pair,) = data.splits[split]["text"].source
        assert pair.end_s == ENDS[reader]
        assert (tmp_path / "work" / "ids" / f"{split}.txt").read_text() == f"{pair.video_id}\n"
        video = data.splits[split]["video"]
        frames[split] = video.make(video.source[0], np.random.default_rng(0))["frames"]
        assert mf.counters(frames[split]) == [2, 7, 12, 17]  # at 0.25, 0.75, 1.25 and 1.75 s

    shrink(config, tmp_path / "small", short_side=32, fps=4.0, processes=1)
    assert "train from them with --config.data.videos=" in capsys.readouterr().out
    small = session.build_data(config_of(reader, root, f"data.videos={tmp_path / 'small'}"), tmp_path, tiny.quiet)
    for split in SPLITS:
        video = small.splits[split]["video"]
        assert video.source[0].path.endswith(".mp4")
        assert video.source[0].video_id == data.splits[split]["video"].source[0].video_id
        again = video.make(video.source[0], np.random.default_rng(0))["frames"]
        assert mf.counters(again) == [2, 7, 12, 17]
        assert np.abs(again.astype(int) - frames[split]).mean() < 8


def test_shrink_on_the_command_line(tmp_path, capsys):
    config = tiny.quickstart(f"data.root={tmp_path / 'set'}")
    session.build_data(config, tmp_path / "work", tiny.quiet)
    broken = tmp_path / "set" / "videos" / "video1.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    words = ["prepare", "--config", str(tiny.QUICKSTART), *tiny.flags(f"data.root={tmp_path / 'set'}")]
    words += ["--short-side", "16", "--fps", "2", "--processes", "2"]
    assert cli.main([*words, "--shrink", str(tmp_path / "small"), "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert f"left out {broken}: " in out
    assert "23 encoded now, 0 finished before, 1 could not be decoded" in out
    assert len(list((tmp_path / "small").glob("*.mp4"))) == 23
    assert cli.main([*words, "--shrink", str(tmp_path / "small"), "--split", "train"]) == 0
    assert "0 encoded now, 23 finished before, 1 could not be decoded" in capsys.readouterr().out
    for extra, message in (
        (["--shrink", str(tmp_path / "x"), "--out", str(tmp_path / "y")], "--shrink and --out: give one"),
        (["--shrink", str(tmp_path / "small"), "--fps", "3"], "shrunk with other settings"),
        (["--shrink", str(tmp_path / "x"), "--split", "nope"], "--split nope: the data has train, val, test"),
    ):
        assert cli.main([*words, *extra]) == 2
        assert message in capsys.readouterr().err


def test_flags_of_shrink_alone_are_not_overlooked(tmp_path, capsys):
    words = ["prepare", "--config", str(tiny.QUICKSTART), "--out", str(tmp_path / "out"), "--fps", "5"]
    assert cli.main([*words, "--short-side", "64"]) == 2
    assert "--short-side, --fps: of --shrink, which is not given" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_reader_and_records_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'vatex' is none of msrvtt, msvd, lsmdc, activitynet, didemo, records"):
        session.build_data(config_of("vatex", tmp_path), tmp_path, tiny.quiet)
    with pytest.raises(InputError, match="'records' are no videos"):
        media_files(config_of("records", tmp_path), (), tiny.quiet)

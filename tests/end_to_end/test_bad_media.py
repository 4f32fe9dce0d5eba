"""A run meets every kind of broken input: it ends with one clear line, or goes on with a counted, logged skip."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.core.writers import read_metrics
from jaxvl.data import pipeline
from jaxvl.metrics import retrieval
from jaxvl.verbs import train
from jaxvl.verbs.evaluate import evaluate
from tests import tiny
from tests.data import media_files as mf

STEPS = 3


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A workdir with a world of its own, trained for three steps."""
    workdir = tmp_path_factory.mktemp("clean")
    train.train(tiny.quickstart(f"train.steps={STEPS}"), workdir, say=tiny.quiet, pictures=False)
    return workdir


@pytest.fixture
def copy(clean, tmp_path):
    """A copy of the world alone, as a user's data set: nothing renders missing files again."""
    return Path(shutil.copytree(clean / "data", tmp_path / "data"))


def config_of(root, *overrides):
    config = tiny.quickstart(f"train.steps={STEPS}", "train.checkpoint_every=99", f"data.root={root}", *overrides)
    with config.unlocked():
        config.data.world = ConfigDict()
    return config


def attempt(root, workdir, *overrides):
    """Trains three steps: (printed lines, rows of bad_inputs.jsonl, losses)."""
    lines, config = [], config_of(root, *overrides)
    data = dataclasses.replace(session.build_data(config, workdir, lines.append), splits={})  # no evaluation
    train.train(config, workdir, data=data, say=lines.append)
    log = workdir / "bad_inputs.jsonl"
    rows = [json.loads(x) for x in log.read_text().splitlines()] if log.is_file() else []
    return lines, rows, [r["loss"] for r in read_metrics(workdir, "train")]


def first_video(root, workdir):
    """The media file of the first training example, so that a run of three steps is sure to meet it."""
    config = config_of(root)
    stream = session.build_data(config, workdir, tiny.quiet).train["train"]
    seed = train.stream_seed(config.seed, "train")
    name = next(pipeline.train_batches(stream, seed=seed, num_threads=0))["_id"][0].split("#")[0]
    return root / "videos" / f"{name}.mp4"


def truncate(path):
    whole = mf.write_video(path.with_name("whole.mp4"), 60, fps=10, options={"movflags": "faststart"})
    mf.cut(whole, path, 0.6)
    Path(whole).unlink()


def cut_before_its_header_ends(path):
    path.write_bytes(path.read_bytes()[:200])


def write_text(path):
    path.write_text("<html>404 not found</html>\n" * 50)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "truncated: "),
        (cut_before_its_header_ends, "not a video file, or cut off before its header"),
        (write_text, "not a video file, or cut off before its header"),
        (mf.write_audio_only, "no video stream"),
    ],
)
def test_undecodable_training_video_is_skipped_logged_and_counted(copy, tmp_path, damage, reason):
    video = first_video(copy, tmp_path / "w")
    damage(video)
    lines, rows, losses = attempt(copy, tmp_path / "run")
    assert [(r["path"], r["id"].split("#")[0]) for r in rows] == [(str(video), video.stem)]
    assert reason in rows[0]["reason"]
    counted = [line for line in lines if "training examples could not be read" in line]
    assert len(counted) == 1
    assert counted[0].split(" of ")[0] in {"1", "2"}  # one example for each of its captions
    assert str(tmp_path / "run" / "bad_inputs.jsonl") in counted[0]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()


def test_policy_raise_ends_with_one_line(copy, tmp_path):
    video = first_video(copy, tmp_path / "w")
    write_text(video)
    with pytest.raises(InputError, match=rf"example {video.stem}#\d: {video}: not a video file.*on_error") as error:
        attempt(copy, tmp_path / "run", "pipeline.on_error=raise")
    assert "\n" not in str(error.value)


def test_variable_frame_rate_just_works(copy, tmp_path):
    video = first_video(copy, tmp_path / "w")
    mf.write_video(video, 9, times_ms=[0, 40, 80, 1000, 1040, 2500, 2540, 2580, 4000], gop=3)
    lines, rows, losses = attempt(copy, tmp_path / "run")
    assert rows == []
    assert not any("could not be read" in line for line in lines)
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()


def empty_file(root):
    (root / "videos" / "video3.mp4").write_bytes(b"")


def delete_file(root):
    (root / "videos" / "video3.mp4").unlink()


def edit(change):
    """Damage done to the parsed json of annotations."""

    def damage(root):
        path = root / "MSRVTT_data.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return damage


def caption_of_nobody(data):
    data["sentences"].append({"caption": "who is this", "video_id": "video9999", "sen_id": 9999})


def blank_caption(data):
    next(s for s in data["sentences"] if s["video_id"] == "video3")["caption"] = "   "


def no_captions(data):
    data["sentences"] = [s for s in data["sentences"] if s["video_id"] != "video3"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (empty_file, "23 videos, 46 pairs; 1 skipped, media file of 0 bytes (video3)"),
        (delete_file, "23 videos, 46 pairs; 1 without a media file (video3)"),
        (edit(blank_caption), "24 videos, 47 pairs; 1 skipped, empty caption (video3)"),
        (edit(no_captions), "23 videos, 46 pairs; 1 skipped, no caption (video3)"),
        # the list of training ids decides; the published json too holds captions of videos that are not in it
        (edit(caption_of_nobody), "24 videos, 48 pairs"),
    ],
)
def test_what_the_reader_leaves_out_stands_in_its_report(copy, tmp_path, damage, said):
    damage(copy)
    data = session.build_data(config_of(copy), tmp_path / "w", tiny.quiet)
    line = next(x for x in data.reports if " train: " in x)
    assert line.endswith(said)
    assert not any("who is this" in pair.caption for pair in data.train["train"].source)


def test_run_prints_the_report_and_trains_on_the_rest(copy, tmp_path):
    delete_file(copy)
    lines, rows, losses = attempt(copy, tmp_path / "run")
    assert any("1 without a media file (video3)" in line for line in lines)
    assert rows == []
    assert np.isfinite(losses).all()


def not_json(root):
    (root / "MSRVTT_data.json").write_text('{"videos": [\n{"video_id": }]}')


def caption_is_a_number(data):
    data["sentences"][5]["caption"] = 7


def no_sentences(data):
    del data["sentences"]


@pytest.mark.parametrize(
    ("damage", "overrides", "line"),
    [
        (not_json, (), r"MSRVTT_data\.json: broken JSON at line 2 column 14"),
        (edit(caption_is_a_number), (), r"MSRVTT_data\.json: entry 5 of 'sentences' needs the texts"),
        (edit(no_sentences), (), r"MSRVTT_data\.json: .*needs the lists 'videos' and 'sentences'"),
        (empty_file, ("data.strict=True",), r"video3\.mp4: empty media file \(0 bytes\)"),
        (delete_file, ("data.strict=True",), r"1 of 24 videos have no file under .*\(video3\)"),
        (lambda root: shutil.rmtree(root / "videos"), (), r"videos: no such folder of videos"),
        (lambda root: (root / "MSRVTT_train.9k.csv").unlink(), (), r"MSRVTT_train\.9k\.csv: no such file"),
        (lambda root: shutil.rmtree(root), (), r"no such file"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(copy, tmp_path, damage, overrides, line):
    damage(copy)
    with pytest.raises(InputError, match=line) as error:
        attempt(copy, tmp_path / "run", *overrides)
    assert "\n" not in str(error.value)


def test_bad_test_video_is_counted_and_changes_nothing_else(clean):
    before = evaluate(clean, say=tiny.quiet)
    assert "skipped" not in before
    arrays = dict(np.load(clean / "eval" / "test.npz"))
    victim = str(arrays["video_id"][4])
    video = clean / "data" / "videos" / f"{victim}.mp4"
    kept = video.read_bytes()
    try:
        write_text(video)
        metrics = evaluate(clean, say=tiny.quiet)
    finally:
        video.write_bytes(kept)
    assert metrics["skipped"] == 1
    assert metrics["gallery"] == before["gallery"] - 1 == 11
    rest = np.load(clean / "eval" / "test.npz")
    others = arrays["video_id"] != victim
    np.testing.assert_array_equal(rest["video_id"], arrays["video_id"][others])
    np.testing.assert_array_equal(rest["video"], arrays["video"][others])
    texts = arrays["text_id"] != victim
    wanted = retrieval.embedding_metrics(arrays["text"][texts], arrays["video"][others])
    assert {k: metrics[k] for k in wanted} == wanted
    bad = [json.loads(x) for x in (clean / "bad_inputs.jsonl").read_text().splitlines()]
    assert [(r["id"], r["path"]) for r in bad] == [(victim, str(video))]

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxvl import cli
from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.core.writers import read_metrics
from jaxvl.data import pipeline
from jaxvl.data.readers.common import VideoText
from jaxvl.data.readers.retrieval.clip_records import read_pairs, write_pairs
from jaxvl.data.records import ClipRecords
from jaxvl.verbs import train
from jaxvl.verbs.prepare import prepare
from tests import tiny
from tests.data import media_files as mf


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A rendered world and its data as the MSR-VTT reader gives it."""
    root = tmp_path_factory.mktemp("world") / "msrvtt"
    config = tiny.quickstart(f"data.root={root}", "data.records.quality=95", "data.records.shards=2")
    return config, session.build_data(config, root.parent / "work", tiny.quiet)


@pytest.fixture(scope="module")
def prepared(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(world[0], out)
    return out


def from_records(folder, *overrides):
    return tiny.quickstart("data.reader=records", f"data.root={folder}", *overrides)


def test_records_hold_the_same_pairs_and_pictures(world, prepared, tmp_path):
    config, files = world
    records = session.build_data(from_records(prepared), tmp_path, tiny.quiet)
    assert list(records.splits) == list(files.splits)
    vocabularies = (tmp_path / "vocabulary.json", Path(config.data.root).parent / "work" / "vocabulary.json")
    assert vocabularies[0].read_bytes() == vocabularies[1].read_bytes()
    for one, other in ((files.train["train"], records.train["train"]), *(
        (files.splits[s][stream], records.splits[s][stream]) for s in files.splits for stream in ("video", "text")
    )):  # fmt: skip
        assert [one.id_of(r) for r in one.source] == [other.id_of(r) for r in other.source]
        assert [r.caption for r in one.source] == [r.caption for r in other.source]
        first, second = (next(pipeline.train_batches(e, seed=3, num_threads=0)) for e in (one, other))
        assert first["_id"] == second["_id"]
        for field in set(first) & {"ids", "video_index", "mask"}:
            np.testing.assert_array_equal(first[field], second[field])
        if "frames" in first:
            difference = np.abs(first["frames"].astype(int) - second["frames"])
            assert difference.mean() < 4  # JPEG
            apart = np.abs(first["frames"].astype(int) - np.roll(second["frames"], 1, 0))
            assert apart.mean() > 3 * difference.mean()


def test_training_straight_from_shards(prepared, tmp_path):
    config = from_records(prepared, "pipeline.workers=0")
    result = train.train(config, tmp_path, say=tiny.quiet)
    assert result.step == 2
    assert result.metrics["gallery"] == 12
    assert np.isfinite([row["loss"] for row in read_metrics(tmp_path, "train")]).all()
    assert (tmp_path / "report.html").is_file()


def test_captions_stand_in_every_record_too(world, prepared):
    records = ClipRecords(prepared / "train")
    reading, _ = read_pairs(prepared, "train", image_size=32)
    for i in (0, len(records) - 1):
        own = [row[0] for row in records[i].annotations["captions"]]
        assert own == [p.caption for p in reading.pairs if p.video_id == records.ids[i]]
        assert len(own) == 2


def test_provenance_is_checked(prepared, tmp_path):
    build = lambda config: session.build_data(config, tmp_path / "w", tiny.quiet)  # noqa: E731
    with pytest.raises(InputError, match=r"short side 32, the model takes 64; prepare again.*records\.short_side"):
        build(from_records(prepared, "model.image_size=64"))
    with pytest.raises(InputError, match="name the folder that jaxvl prepare"):
        build(tiny.quickstart("data.reader=records"))
    with pytest.raises(InputError, match=r"train/dataset\.json: no such file.*jaxvl prepare"):
        build(from_records(tmp_path))
    wrong = shutil.copytree(prepared, tmp_path / "wrong")
    shutil.rmtree(wrong / "test")
    shutil.copytree(prepared / "val", wrong / "test")
    with pytest.raises(InputError, match=r"test/dataset\.json: is not the split 'test'.*split 'val'"):
        build(from_records(wrong))
    shutil.rmtree(wrong / "test")
    assert list(build(from_records(wrong)).splits) == ["train", "val"]


def test_slower_and_shorter_sets_are_refused(tmp_path):
    video = mf.write_video(tmp_path / "v.mp4", 16, fps=8)
    pairs = [VideoText("v", video, "a caption", 3), VideoText("v", video, "another", 5)]
    write_pairs(tmp_path / "set" / "train", pairs, "train", short_side=32, fps=4.0, max_frames=6)
    reading, records = read_pairs(tmp_path / "set", "train", image_size=32, fps=4.0, num_frames=6)
    assert [(p.caption, p.caption_index) for p in reading.pairs] == [("a caption", 3), ("another", 5)]
    assert len(records.by_id("v").times) == 6
    with pytest.raises(InputError, match=r"written at 4 a second, config\.data\.fps asks for 8"):
        read_pairs(tmp_path / "set", "train", image_size=32, fps=8.0)
    with pytest.raises(InputError, match=r"at most 6 frames a video were written, config\.data\.frames asks for 8"):
        read_pairs(tmp_path / "set", "train", image_size=32, num_frames=8)
    with pytest.raises(InputError, match="video v: its captions name two files"):
        write_pairs(tmp_path / "other", [*pairs, VideoText("v", "w.mp4", "x", 0)], "train")


def test_truncated_shard_is_one_line(prepared, tmp_path, capsys):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    shard = sorted((copy / "train").glob("*.array_record"))[0]
    shard.write_bytes(shard.read_bytes()[:-3000])
    words = ["train", "--config", str(tiny.QUICKSTART), "--workdir", str(tmp_path / "run")]
    code = cli.main([*words, *tiny.flags("data.reader=records", f"data.root={copy}")])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.count("\n") == 0
    assert str(shard) in error
    assert "truncated or damaged shard" in error


def test_prepare_skips_reports_and_refuses(world, tmp_path, capsys):
    config, _ = world
    root = shutil.copytree(config.data.root, tmp_path / "world")
    victim = root / "videos" / "video2.mp4"
    victim.write_bytes(victim.read_bytes()[:500])
    config = tiny.quickstart(f"data.root={root}", "pipeline.max_bad_fraction=0.1")
    prepare(config, tmp_path / "out", ["train"])
    out = capsys.readouterr().out
    assert "train: left out video2: " in out
    assert "train: 23 videos with their captions" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train"]
    reading, _ = read_pairs(tmp_path / "out", "train", image_size=32)
    assert "video2" not in reading.ids
    assert "1 skipped, not decoded when the set was written (video2)" in reading.report.line()
    with pytest.raises(InputError, match="holds a data set already"):
        prepare(config, tmp_path / "out", ["train"])
    for out in (None, tmp_path / "nope"):
        with pytest.raises(InputError, match="--split nope: the data has train, val, test"):
            prepare(config, out, ["nope"])
    config.pipeline.on_error = "raise"
    with pytest.raises(InputError, match=r"video video2: .*video2\.mp4"):
        prepare(config, tmp_path / "strict", ["train"])
    config.pipeline.update({"on_error": "skip", "max_bad_fraction": 0.01})
    with pytest.raises(InputError, match=r"1 of 24 examples .*max_bad_fraction"):
        prepare(config, tmp_path / "many", ["train"])
    index = json.loads((tmp_path / "out" / "train" / "dataset.json").read_text())
    assert index["provenance"]["dataset"] == "msrvtt"

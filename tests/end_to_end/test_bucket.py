"""A workdir in a bucket, by the code that works with Google's: gcsfs, Orbax and TensorStore over HTTP."""

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from orbax.checkpoint._src.path import step as step_lib

import jaxvl
from jaxvl import cli
from jaxvl.core import lease, storage
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError, Unavailable
from jaxvl.core.files import cannot_write
from jaxvl.core.storage import bucket as buckets
from jaxvl.core.storage import errors as storage_errors
from jaxvl.verbs import folds, train
from tests import bucket, tiny, toys
from tests.data import media_files as mf
from tests.multiprocess import shared
from tests.multiprocess.launch import Group

ROOT = Path(__file__).parent.parent.parent
AT = f"gs://{bucket.NAME}"


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The bucket. What a killed process leaves in its spool stays in a folder of the tests."""
    os.environ["JAXVL_SPOOL"] = str(tmp_path_factory.mktemp("spool"))
    yield bucket.served()
    del os.environ["JAXVL_SPOOL"]


def content(objects, name):
    return objects.objects[name][0]


def losses(text):
    rows = [json.loads(line) for line in text.splitlines()]
    return {r["step"]: r["loss"] for r in rows if r["kind"] == "train"}


def run_toy(place, say=tiny.quiet, steps=6, **options):
    config = toys.toy_config(steps=steps, checkpoint_every=2)
    return train.train(config, place, method=toys.contrastive(), data=toys.toy_data(), say=say, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run on a disk, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_toy(folder)
    return folder


@pytest.fixture(scope="module")
def killed(objects):
    """A run that was killed behind step 4, and what it had published by then."""
    call = [sys.executable, "-m", "tests.end_to_end.kill_child", f"{AT}/killed", "6", "0.5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(call, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 240
    while "killed/checkpoints/4/commit_success.txt" not in objects.names() and time.monotonic() < end:
        assert child.poll() is None, child.stdout.read().decode()
        time.sleep(0.02)
    child.kill()
    child.wait()
    return content(objects, "killed/metrics.jsonl").decode()


def test_a_killed_run_goes_on_to_the_last_bit(objects, whole, killed, monkeypatch):
    assert sorted(losses(killed))[:4] == [1, 2, 3, 4]  # what a checkpoint has behind it was there before it
    assert "killed/run.lock" in objects.names()
    monkeypatch.setattr(lease, "PATIENCE_S", 0.3)
    said = []
    assert run_toy(f"{AT}/killed", said.append).workdir == f"{AT}/killed"
    assert said[0].startswith(f"{AT}/killed/run.lock: of host")
    assert any(line.startswith("resuming at step ") for line in said)
    assert losses(content(objects, "killed/metrics.jsonl").decode()) == losses((whole / "metrics.jsonl").read_text())
    assert content(objects, "killed/eval/test.json") == (whole / "eval" / "test.json").read_bytes()
    left = {name.split("/")[1] for name in objects.names("killed/")}
    assert left == {p.name for p in whole.iterdir()} - {"cache"}
    steps = {name.split("/")[2] for name in objects.names("killed/checkpoints/")}
    assert steps == {p.name for p in (whole / "checkpoints").iterdir()}
    spools = Path(os.environ["JAXVL_SPOOL"])
    assert {p.name for folder in spools.glob("*/0") for p in folder.iterdir()} <= {
        "cache"
    }  # nothing of it is left here


def test_another_config_is_refused_or_the_run_is_set_aside(objects):
    place = f"{AT}/again"
    run_toy(place, steps=2)
    with pytest.raises(InputError, match=rf"--workdir {place}: holds a run of another config \(train.steps.*--fresh"):
        run_toy(place, steps=3)
    said = []
    assert run_toy(place, said.append, steps=3, fresh=True).step == 3
    assert f"--fresh: the run that was in {place} is now in {place}/previous/0" in said
    kept = losses(content(objects, "again/previous/0/metrics.jsonl").decode())
    assert (sorted(kept), sorted(losses(content(objects, "again/metrics.jsonl").decode()))) == ([1, 2], [1, 2, 3])
    assert {name.split("/")[4] for name in objects.names("again/previous/0/checkpoints/")} == {"2"}


def test_a_damaged_checkpoint_is_seen_by_the_sums_of_the_service_and_set_aside(objects):
    place = f"{AT}/damaged"
    run_toy(place, steps=4)
    arrays = [name for name in objects.names("damaged/checkpoints/4/") if "/d/" in name]
    before = content(objects, arrays[0])
    objects.put(arrays[0], before[:-1] + bytes([before[-1] ^ 1]))
    said = []
    run_toy(place, said.append, steps=4)
    assert any(line.startswith("checkpoint 4: damaged (") and "has changed bytes" in line for line in said)
    assert any(line == f"checkpoint 4: moved to {place}/damaged/4" for line in said)
    assert "resuming at step 2 of 4" in said
    assert arrays[0].replace("checkpoints", "damaged") in objects.names()


def test_one_training_a_workdir(objects, monkeypatch):
    place = storage.Bucket(f"{AT}/held")
    held = lease.Lease(place, tiny.quiet, beat_s=0.02)
    monkeypatch.setattr(lease, "PATIENCE_S", 5.0)
    with pytest.raises(InputError, match=rf"--workdir {AT}/held: another training is at work there \(host .*, process"):
        run_toy(f"{AT}/held")
    assert objects.names("held/") == ["held/run.lock"]
    held.release()
    assert objects.names("held/") == []
    place.close()


def test_a_bucket_that_takes_nothing_ends_the_run_in_one_line_and_loses_nothing(objects, whole, monkeypatch, capsys):
    place, said = f"{AT}/full", []
    run_toy(place, steps=2)
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda error: False)
    monkeypatch.setattr(storage_errors, "PATIENCE_S", 0.1)
    monkeypatch.setattr(cli, "_train", lambda args: run_toy(place, said.append, resume=True))
    objects.refuse = lambda name: name.startswith("full/metrics.jsonl")
    capsys.readouterr()
    try:
        assert cli.main(["train", "--config", "toy"]) == 1  # so that a supervisor starts it again
    finally:
        objects.refuse = lambda name: False
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line = error.splitlines()[-1]
    assert line.startswith(f"jaxvl: {place}: cannot be written (refused")
    assert line.endswith("the service does not answer, and the same command goes on when it does")
    assert {name.split("/")[2] for name in objects.names("full/checkpoints/")} == {"2"}  # no step without its rows
    run_toy(place, resume=True)
    assert losses(content(objects, "full/metrics.jsonl").decode()) == losses((whole / "metrics.jsonl").read_text())


def test_a_bucket_that_is_away_at_a_checkpoint_costs_a_line(objects, whole, monkeypatch):
    """Refused at the rows of the first checkpoint and at its list, each for some tries."""
    place, said, refused = f"{AT}/away", [], []
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda error: False)
    monkeypatch.setattr(storage_errors, "PAUSE_S", 0.01)

    def refuse(name):
        away = name in ("away/metrics.jsonl", "away/integrity/2.crc32c.json") and refused.count(name) < 3
        refused.extend([name] if away else [])
        return away

    monkeypatch.setattr(objects, "refuse", refuse)
    assert run_toy(place, said.append).step == 6
    assert sorted(refused) == 3 * ["away/integrity/2.crc32c.json"] + 3 * ["away/metrics.jsonl"]
    told = [line for line in said if "tried again for 300 s" in line]
    assert len(told) == 2, said
    assert losses(content(objects, "away/metrics.jsonl").decode()) == losses((whole / "metrics.jsonl").read_text())
    assert "away/integrity/6.crc32c.json" in objects.names()


def test_a_bucket_that_is_away_while_orbax_writes_ends_the_run_for_a_supervisor(objects, monkeypatch):
    place = f"{AT}/orbax"
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda error: False)
    monkeypatch.setattr(objects, "refuse", lambda name: name.startswith("orbax/") and name.endswith("success.txt"))
    with pytest.raises(Unavailable, match=rf"^checkpoint 2: cannot be written to {place}/checkpoints .*refused"):
        run_toy(place)
    monkeypatch.setattr(objects, "refuse", lambda name: False)
    assert run_toy(place).step == 6


def test_remains_that_vanish_while_they_are_listed_are_no_checkpoint(objects, monkeypatch):
    """Orbax clears them away in the background, and the folder with the last of them."""
    folder, listed = "vanishing/checkpoints/", step_lib._StandardNameFormat._glob_step_paths
    looks = []

    def late(self, base_path):
        looks.append(objects.names(folder))
        for name in looks[-1]:
            del objects.objects[name]
        return listed(self, base_path)

    monkeypatch.setattr(step_lib._StandardNameFormat, "_glob_step_paths", late)
    remains = f"{folder}remains/params/d/0"
    objects.put(remains, b"half")
    checkpoints = Checkpoints(f"{AT}/vanishing")
    objects.put(remains, b"half")
    assert checkpoints.steps() == []
    checkpoints.close()
    assert looks == [[remains], [remains]]


def test_a_bucket_that_is_away_at_a_start_is_no_damage(objects, monkeypatch):
    """What cannot be read for now stays where it is, and is not replaced by the checkpoint before."""
    place, said = f"{AT}/start", []
    run_toy(place, steps=4)
    kept = objects.names("start/checkpoints/")
    read = buckets.Bucket.read

    def away(self, name):
        with storage.reached(name):
            if name.startswith("integrity/4"):
                raise TimeoutError("no answer")
            return read(self, name)

    monkeypatch.setattr(buckets.Bucket, "read", away)
    with pytest.raises(Unavailable, match="no answer"):
        run_toy(place, said.append, steps=4)
    assert not [line for line in said if "damaged" in line]
    assert objects.names("start/checkpoints/") == kept


def test_what_is_away_and_what_is_wrong():
    """As gcsfs and TensorStore say it."""
    retry = importlib.import_module("gcsfs.retry")
    aiohttp, requests = importlib.import_module("aiohttp"), importlib.import_module("requests")
    google = importlib.import_module("google.auth.exceptions")
    tokens = google.RefreshError("Failed to retrieve the token")
    tokens.__cause__ = google.TransportError("no answer")
    away = [
        *(retry.HttpError({"code": code, "message": "x"}) for code in (408, 429, 500, 503)),
        *(aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(111, "refused"), requests.ConnectionError("x")),
        *(requests.exceptions.ProxyError(), tokens, TimeoutError(), ConnectionResetError()),
        ValueError("ABORTED: All 32 retry attempts failed: CURL error Could not connect to server"),
    ]
    wrong = [
        *(retry.HttpError({"code": code, "message": "x"}) for code in (400, 401)),
        *(FileNotFoundError("b/o"), OSError("Forbidden: b/o"), google.RefreshError("invalid_grant: revoked")),
        ValueError("NOT_FOUND: The specified bucket does not exist. [http_response_code='404']"),
    ]
    for error in away:
        with pytest.raises(Unavailable, match=r"^gs://b/r: cannot be read"), storage.reached("gs://b/r"):
            raise error
    for error in wrong:
        with pytest.raises((OSError, ValueError)), storage.reached("gs://b/r"):
            raise error
    assert (InputError("x").code, Unavailable("x").code) == (2, 1)


def test_a_run_that_lost_its_workdir_publishes_nothing_more(objects):
    place = storage.Bucket(f"{AT}/lost")
    held = lease.Lease(place, tiny.quiet, beat_s=0.02)
    place.guard = held.check
    row = {"host": "elsewhere", "pid": 7, "since": "2020", "token": "x", "beat": 0}
    (place.folder / "metrics.jsonl").write_text("row\n")
    while held.lost is None:  # a beat may write over it once
        objects.put("lost/run.lock", json.dumps(row).encode())
        time.sleep(0.01)
    with pytest.raises(InputError, match=r"was taken over by another training \(host elsewhere, process 7, since 2020"):
        place.publish()
    held.release()
    place.close()
    assert objects.names("lost/") == ["lost/run.lock"]  # which is the other's


def test_what_is_written_shows_before_the_next_checkpoint(objects, monkeypatch):
    monkeypatch.setattr(buckets, "PUBLISH_S", 0.02)
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda error: False)
    place, said = storage.Bucket(f"{AT}/live"), []
    objects.refuse = lambda name: name.startswith("live/")
    with place.kept_up(said.append):
        (place.folder / "metrics.jsonl").write_text("row\n")
        while not said:
            time.sleep(0.01)
        objects.refuse = lambda name: False  # it can be reached again
        while not objects.names("live/"):
            time.sleep(0.01)
        (place.folder / "metrics.jsonl").write_text("row\nlast\n")
    assert content(objects, "live/metrics.jsonl") == b"row\nlast\n"
    assert len(said) == 1
    assert said[0].startswith(f"{AT}/live: cannot be written (refused")
    place.close()


def test_results_that_a_bucket_does_not_take_cost_a_line(objects, monkeypatch):
    monkeypatch.setattr("gcsfs.retry.is_retriable", lambda error: False)
    objects.put("readonly/config.json", b"{}")
    monkeypatch.setattr(objects, "refuse", lambda name: name.startswith("readonly/"))
    said = []
    with storage.opened(f"{AT}/readonly", said.append, asked=False) as place:
        (place.folder / "result.json").write_text("{}")
    assert said[0].startswith(f"not kept: {AT}/readonly: cannot be written (refused")
    with (
        pytest.raises(InputError, match=rf"^{AT}/readonly: cannot be written"),
        storage.opened(f"{AT}/readonly", said.append) as place,
    ):
        (place.folder / "result.json").write_text("{}")
    with (
        pytest.raises(InputError, match=rf"^{AT}/readonly/a: is bad"),
        storage.opened(f"{AT}/readonly", said.append) as place,
    ):
        raise InputError(f"{place.folder / 'a'}: is bad")


def test_files_are_fetched_once_and_published_when_they_change(objects):
    objects.put("files/config.json", b"{}")
    objects.put("files/a/b.txt", b"old")
    objects.put("files/checkpoints/1/x", b"never")
    first, second = storage.Bucket(f"{AT}/files"), storage.Bucket(f"{AT}/files")
    first.fetch()
    assert sorted(p.name for p in first.folder.rglob("*") if p.is_file()) == ["b.txt", "config.json"]
    second.fetch()
    asked = len(objects.asked)
    first.publish()
    (first.folder / "a" / "b.txt").write_text("old")  # the same once more
    (first.folder / "cache").mkdir()
    (first.folder / "cache" / "program").write_text("stays")
    (first.folder / "data" / ".parts").mkdir(parents=True)
    for unfinished in (".c.txt.7.tmp", "data/.parts/0.json", "data/.0.mp4"):
        (first.folder / unfinished).write_text("half")
    first.publish()
    assert not [method for method, _ in objects.asked[asked:] if method != "GET"]
    (first.folder / "a" / "b.txt").write_text("new")
    (first.folder / "c.txt").write_text("c")
    first.publish()
    whole = ["files/a/b.txt", "files/c.txt", "files/checkpoints/1/x", "files/config.json"]
    assert objects.names("files/") == whole
    second.fetch()
    assert (second.folder / "a" / "b.txt").read_text() == "new"
    assert (second.folder / "c.txt").read_text() == "c"
    assert first.folder != second.folder
    first.close()
    third = storage.Bucket(f"{AT}/files")
    assert [p.name for p in third.folder.rglob("*")] == ["cache", "program"]
    second.close()
    third.close()


def test_who_clears_the_spool_loses_nothing_in_the_bucket(objects):
    objects.put("cleared/config.json", b"{}")
    place = storage.Bucket(f"{AT}/cleared")
    place.fetch()
    (place.folder / "metrics.jsonl").write_text("row\n")
    place.publish()
    shutil.rmtree(place.folder)
    with pytest.raises(
        InputError, match=rf"^{AT}/cleared: its \S+ in {place.folder.parent} was taken away .*JAXVL_SPOOL"
    ):
        place.publish()
    assert objects.names("cleared/") == ["cleared/config.json", "cleared/metrics.jsonl"]
    place.close()


def test_rows_of_a_run_that_lost_its_config_are_not_written_over(objects):
    objects.put("bare/metrics.jsonl", b"row\n")
    place = storage.Bucket(f"{AT}/bare")
    place.fetch()
    with (place.folder / "metrics.jsonl").open("a") as file:
        file.write("next\n")
    place.publish()
    assert content(objects, "bare/metrics.jsonl") == b"row\nnext\n"
    place.close()


def test_a_bucket_that_is_not_there_and_a_disk_that_is_full_are_named(objects, caplog):
    place = storage.Bucket("gs://nowhere/run")
    with pytest.raises(InputError, match=r"^gs://nowhere/run/a: cannot be written \(there is no such bucket\)") as no:
        place.write("a", b"")
    assert no.value.code == 2
    full = cannot_write(place.folder / "a", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(InputError, match=rf"^{place.folder}/a: cannot be written"), storage.named(place):
        raise full  # the bucket has space
    assert caplog.text == ""
    place.close()


def test_a_removal_whose_first_answer_was_lost_is_done(objects, monkeypatch):
    place = storage.Bucket(f"{AT}/gone")
    monkeypatch.setattr(place, "_listed", lambda name: {name: {}})  # gcsfs asks twice, and hears that it is not there
    place.remove("integrity/2.crc32c.json")
    place.close()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gs://", "--workdir gs://: name a folder in the bucket"),
        ("gs:///run", "--workdir gs:///run: name a folder in the bucket"),
        ("gs://bucket/a/../b", "--workdir gs://bucket/a/../b: name a folder in the bucket"),
        ("file:///runs/a", "--workdir file:///runs/a: name the folder as it is, without file://"),
        ("S3://bucket/run", "--workdir S3://bucket/run: Orbax"),
        ("s3://bucket/run", "--workdir s3://bucket/run: Orbax writes arrays to folders and to gs:// alone; mount the"),
        ("gs://bucket", r"--workdir gs://bucket: name a folder in the bucket, gs://BUCKET/FOLDER"),
        ("gs://bucket/a*b", r"without any of # \? \* \[ \]"),
    ],
)
def test_what_is_no_workdir_is_one_line(name, line):
    with pytest.raises(InputError, match=line):
        storage.address(name)
    assert storage.address(Path("gs://bucket/run")) == "gs://bucket/run"  # a Path takes one of the slashes away
    assert storage.address("GS://bucket/run/") == "gs://bucket/run"
    assert storage.address("runs/a") is None


def test_without_gcsfs_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for name in ("gs", "gcs"):
        monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, name, raising=False)
    with pytest.raises(InputError, match=r"needs gcsfs \(.*gcsfs.*\); pip install 'jaxvl\[gcs\]', or mount the bucket"):
        buckets._filesystem("gs://bucket/run")


def test_folds_lie_in_it_side_by_side(objects, monkeypatch):
    """Every fold is a workdir, and so is what they lie in; the training itself is left out."""
    asked = []

    def fold(config, place, **_):
        asked.append(place)
        return train.Result({"score": float(config.seed)}, None, 1, 0, place)

    monkeypatch.setattr(folds, "train", fold)
    monkeypatch.setattr(folds, "folds_of", lambda config: [{"seed": 3}, {"seed": 5}])
    monkeypatch.setattr(folds, "pool", lambda method, metrics: {"score": 4.0})
    found = folds.train_folds(toys.toy_config(), f"{AT}/folds", say=tiny.quiet)
    assert asked == [f"{AT}/folds/fold-00", f"{AT}/folds/fold-01"]
    kept = json.loads(content(objects, "folds/folds.json"))
    assert ([row["metrics"]["score"] for row in kept["folds"]], kept["pooled"]) == ([3.0, 5.0], found.pooled)


@pytest.fixture(scope="module")
def trained(objects):
    """A run of CenterCLIP by the command, with its rendered world."""
    words = ["train", "--config", str(tiny.QUICKSTART), "--workdir", f"{AT}/clip", *tiny.flags()]
    assert cli.main(words) == 0
    return f"{AT}/clip"


def test_every_verb_works_on_a_machine_that_never_saw_the_run(objects, trained, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("JAXVL_SPOOL", str(tmp_path / "spool"))
    kept = json.loads(content(objects, "clip/eval/test.json"))
    del objects.objects["clip/eval/test.npz"]
    capsys.readouterr()
    assert cli.main(["evaluate", "--workdir", trained, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == kept["metrics"]
    assert "clip/eval/test.npz" in objects.names()
    del objects.objects["clip/report.html"]
    assert cli.main(["report", "--workdir", trained]) == 0
    assert capsys.readouterr().out.strip() == f"{trained}/report.html"
    assert b"centerclip: clip" in content(objects, "clip/report.html")
    (tmp_path / "videos").mkdir()
    mf.write_video(tmp_path / "videos" / "a.mp4", 8)
    assert cli.main(["predict", "--workdir", trained, "--videos", str(tmp_path / "videos"), "--text", "red"]) == 0
    out = capsys.readouterr().out
    assert f"{trained}/search.png" in out
    assert str(tmp_path / "spool") not in out
    assert "clip/search.png" in objects.names()
    assert any(name.startswith("clip/index/") for name in objects.names())
    model = jaxvl.load(trained, say=tiny.quiet)
    assert model.source == f"{trained}, step 2"
    assert np.isfinite(np.asarray(model.encode_text(["a red circle"]))).all()
    objects.put("broken/config.json", b"{")
    with pytest.raises(InputError, match=rf"^{AT}/broken/config.json: not valid JSON"):
        jaxvl.load(f"{AT}/broken")
    assert cli.main(["doctor", "--workdir", trained]) in (0, 2)
    assert f"ok    {trained} can be written" in capsys.readouterr().out
    assert not [name for name in objects.names("clip/") if "/cache/" in name or name.endswith(".tmp")]


def test_two_processes_share_a_workdir(objects, tmp_path):
    """Each works in a spool of its own; the first writes what is written once, each its list of bad inputs."""
    texts = Group(tmp_path, "in_a_bucket", workdir=f"{AT}/two").finish()
    assert all("RESULT 4 None 0" in text for text in texts)
    assert sorted(losses(content(objects, "two/metrics.jsonl").decode())) == [1, 2, 3, 4]
    assert json.loads(content(objects, "two/eval/test.json"))["step"] == 4
    bad = [content(objects, f"two/bad_inputs{which}.jsonl").decode().splitlines() for which in ("", ".1")]
    ids = [json.loads(line)["id"] for lines in bad for line in lines]
    assert all(bad)
    assert set(ids) == {f"row{record}" for record in shared.TORN}
    assert not [name for name in objects.names("two/") if "seen-by-all" in name or name.endswith("run.lock")]

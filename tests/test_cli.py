import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxvl import cli
from jaxvl.core import registry
from jaxvl.data import video
from jaxvl.verbs import doctor
from tests import tiny
from tests.data import media_files as mf

VERBS = ("methods", "configs", "train", "evaluate", "predict", "prepare", "convert", "aot", "report", "doctor")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(tiny.ROOT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A world of its own and a workdir trained on it by the command, 2 steps."""
    folder = tmp_path_factory.mktemp("cli")
    assert cli.main(words(folder / "run", f"data.root={folder / 'world'}")) == 0
    return folder


def words(workdir, *overrides):
    return ["train", "--config", str(tiny.QUICKSTART), "--workdir", str(workdir), *tiny.flags(*overrides)]


@pytest.fixture
def run(capsys):
    """`run(*words) -> (exit code, stdout, stderr)`."""

    def call(*args):
        capsys.readouterr()
        try:
            code = cli.main([str(a) for a in args])
        except SystemExit as end:  # argparse, after --help
            code = end.code
        return code, *capsys.readouterr()

    return call


def refused(result):
    """The one line of a refusal."""
    code, _, error = result
    assert code == 2
    assert error.startswith("jaxvl: ")
    assert error.strip().count("\n") == 0
    return error.strip()


def child(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
    )  # fmt: skip


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from jaxvl import cli; sys.exit(cli.main(['methods']))"
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=env, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_imports_nothing_heavy():
    """Every --help, a listing and a mistake answer at once: no array library is loaded for them."""
    script = f"""
import sys
import time
from jaxvl import cli
listings = [["methods"], ["--version"], ["tarin"], ["train", "--nope"]]
calls = [["--help"], *([verb, "--help"] for verb in {VERBS!r}), *listings]
for words in calls:
    try:
        cli.main(words)
    except SystemExit as end:
        assert end.code == 0, words
heavy = {{"jax", "jaxlib", "flax", "numpy", "optax", "orbax", "av", "grain", "PIL", "ml_collections"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    done = child(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(run, verb):
    code, out, error = run(verb, "--help")
    assert (code, error) == (0, "")
    assert f"jaxvl {verb}" in out


def test_help_lists_the_verbs(run):
    for args in (["--help"], []):
        code, out, _ = run(*args)
        assert code == 0
        assert all(f"    {verb} " in out for verb in VERBS)
        assert "Exit codes" in out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["tarin"], r"'tarin' is unknown, did you mean train\?; see jaxvl --help"),
        (["--nope"], "--nope: no such flag of `jaxvl`"),
        (["train"], "arguments are required: --config; see jaxvl train --help"),
        (["train", "--config", "centerclip/quickstart"], "--workdir is required; see jaxvl train --help"),
        (["train", "--config", "a", "--workdir", "b", "--resum"], "--resum: no such flag of `jaxvl train`"),
        (["report", "--workdir", "a", "b"], "b: no such flag of `jaxvl report`"),
        (["evaluate", "--workdir", "a", "--checkpoint", "new"], "--checkpoint: needs a whole number of at least 0"),
        (["evaluate", "--workdir", "a", "--checkpoint", "1", "--best"], "--best and --checkpoint: give one of them"),
        (["report", "--workdir", "a", "--config.seed=1"], "takes no fields of a config"),
        (["train", "--config", "a", "--workdir", ""], "--workdir: is empty; name a file or folder"),
        (["evaluate", "--workdir", "a", "--out", "gs://b/c"], "--out: gs://b/c: name a file or folder of this machine"),
        (["prepare", "--config", "a", "--out", "gs://b/c"], "--out: gs://b/c: name a file or folder of this machine"),
        (["train", "--config", "a.py", "--workdir", "b", "--resume", "--fresh"], "give one of them"),
        (["prepare", "--config", "a.py", "--shrink", "d", "--fps", "nan"], "--fps: needs a number above 0, got 'nan'"),
        (["convert", "a", "--from", "hf_clip", "--to", "b", "--drop", "("], "'\\(' is no regular expression"),
        (["predict", "--videos", "a"], "--workdir is required"),
    ],
)
def test_wrong_words_are_one_line(run, args, line):
    assert re.search(line, refused(run(*args)))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.step=3", r"--config\.train\.step: no such field; did you mean train\.steps"),
        ("optim.lr=3", r"no such field; did you mean .*optim\.main\.lr"),
        ("train.steps=many", r"--config\.train\.steps: needs a whole number, got 'many'"),
        ("train.steps=1.5", r"--config\.train\.steps: needs a whole number, got '1\.5'"),
        ("data.shuffle_pairs=perhaps", "needs true or false"),
        ("data.root=gs://a/b", r"config\.data\.root: needs a path of this machine, got 'gs://a/b'"),
        ("model=3", "is a group of fields"),
        ("train.steps", "give a value"),
        ("method=centerclop", r"config\.method: 'centerclop' .* did you mean centerclip\?"),
        ("data.reader=msrvtr", r"config\.data\.reader: 'msrvtr' is none of msrvtt"),
        ("data.reader=lsmdc", r"config\.data\.reader: the sprite world .* no 'lsmdc' layout, only msrvtt, msvd"),
        ("data.tokenizer=letters", r"config\.data\.tokenizer: 'letters'"),
        ("model.schedule=B9-2,4", r"schedule 'B9-2,4'"),
        ("precision.compute=float8", r"config\.precision\.compute: 'float8' is none of"),
        ("mesh.data=100", r"config\.mesh: .*needs 100 devices"),
        ("data.world.num_clips=3", r"--config\.data\.world\.num_clips: no such field"),
    ],
)
def test_wrong_config_fields_are_one_line(run, trained, tmp_path, override, line):
    assert re.search(line, refused(run(*words(tmp_path, f"data.root={trained / 'world'}", override))))


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_config_files_that_are_none(run, tmp_path, verb):
    rest = ["--workdir", tmp_path / "w"] if verb == "train" else []
    line = refused(run(verb, "--config", "configs/centerclip/quickstrat.py", *rest))
    assert "no such file; did you mean configs/centerclip/quickstart.py" in line
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "has no get_config()" in refused(run(verb, "--config", tmp_path / "empty.py", *rest))
    (tmp_path / "config.json").write_text("{}")
    assert "a config is a .py file" in refused(run(verb, "--config", tmp_path / "config.json", *rest))


def test_workdirs_that_do_not_fit(run, trained, tmp_path):
    world = f"data.root={trained / 'world'}"
    line = refused(run(*words(trained / "run", world, "optim.main.lr=0.5")))
    assert "holds a run of another config (optim.main.lr: 0.002 -> 0.5)" in line
    assert "--resume" in line
    assert "--fresh" in line
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in refused(run(*words(tmp_path / "file", world)))
    # A start that failed while it read its data is no run: the corrected command needs no flag.
    line = refused(run(*words(tmp_path / "run", f"data.root={tmp_path / 'nothing'}", "data.reader=records")))
    assert f"{tmp_path / 'nothing'}" in line
    code, out, _ = run(*words(tmp_path / "run", world, "train.steps=0"))
    assert code == 0
    assert re.search(
        r"^the failed start with another config \(.*\) that was in \S+ is now in \S+/previous/0$", out, re.M
    )
    assert (tmp_path / "run" / "previous" / "0" / "config.json").is_file()
    assert "holds a run of another config" in refused(run(*words(tmp_path / "run", world, "seed=7")))
    for verb in (["evaluate"], ["predict", "--videos", ".", "--text", "a"], ["report"]):
        assert "no run was made there" in refused(run(*verb, "--workdir", tmp_path))


def test_checkpoints_that_are_not_there(run, trained, tmp_path):
    line = refused(run("evaluate", "--workdir", trained / "run", "--checkpoint", 99))
    assert "--checkpoint 99: not in" in line
    assert "there are [1, 2]" in line
    (tmp_path / "config.json").write_bytes((trained / "run" / "config.json").read_bytes())
    for verb in (["evaluate"], ["predict", "--videos", trained / "world", "--text", "a"]):
        assert "holds no checkpoint; train first" in refused(run(*verb, "--workdir", tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert "not valid JSON" in refused(run("evaluate", "--workdir", tmp_path))


def test_splits_that_are_not_there(run, trained):
    line = refused(run("evaluate", "--workdir", trained / "run", "--split", "nope"))
    assert "split 'nope': the data has test, train, val" in line


def test_evaluate_prints_a_table_or_json(run, trained):
    code, out, _ = run("evaluate", "--workdir", trained / "run")
    assert code == 0
    assert "text to video" in out
    assert "report.html" in out
    code, out, _ = run("evaluate", "--workdir", trained / "run", "--split", "val", "--json")
    assert code == 0
    metrics = json.loads(out)
    assert metrics["gallery"] == 8
    assert 0 <= metrics["t2v/R@1"] <= 100
    kept = json.loads((trained / "run" / "eval" / "val.json").read_text())
    assert kept["metrics"] == metrics
    code, out, _ = run("evaluate", "--workdir", trained / "run", "--split", "val", "--checkpoint", 1, "--json")
    assert json.loads((trained / "run" / "eval" / "val.json").read_text())["step"] == 1


def test_videos_that_begin_without_a_key_frame_are_said_once(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "world", tmp_path / "world")
    shutil.copytree(trained / "run", tmp_path / "run")
    videos = tmp_path / "world" / "videos"
    whole = mf.write_video(tmp_path / "whole.ts", 16, gop=8, bframes=0)
    last = f"video{len(list(videos.iterdir())) - 1}.mp4"  # the last one is of the test split
    for name in ("video0.mp4", last):
        (videos / name).unlink()
        mf.copy_packets(whole, videos / name, lambda k, packet: k >= 3)
    said = "of the videos that were read begin without a key frame"
    root = f"data.root={tmp_path / 'world'}"
    code, out, _ = run("evaluate", "--workdir", tmp_path / "run", f"--config.{root}")
    assert code == 0
    assert out.count(f"1 {said}") == 1
    assert last in out
    assert "config.json" not in out
    config = tmp_path / "run" / "config.json"  # one digit is another: it is read, and said
    config.write_text(config.read_text().replace('"eval_batch_size": 8', '"eval_batch_size": 9'))
    code, _, error = run("predict", "--workdir", tmp_path / "run", "--videos", videos, "--text", "red", "--no-sheet")
    assert code == 0
    assert error.count(f"{config}: is not as it was when checkpoint 2 was saved") == 1
    assert error.count(f"2 {said}") == 1
    # A run renders its world anew where files of it are changed, so training is told that all of them begin late.
    known = video.index_video
    monkeypatch.setattr(video, "index_video", lambda path: dataclasses.replace(known(path), left_out=3))
    code, out, _ = run(*words(tmp_path / "run", f"data.root={trained / 'world'}", "train.steps=3"), "--resume")
    assert code == 0
    assert re.search(rf"^\d+ {said}", out, re.MULTILINE)
    assert out.count(said) == 1


def test_predict_on_folders_that_do_not_fit(run, trained, tmp_path):
    predict = ["predict", "--workdir", trained / "run", "--text", "a red circle", "--videos"]
    assert f"--videos {tmp_path / 'nope'}: no such folder" in refused(run(*predict, tmp_path / "nope"))
    (tmp_path / "notes.txt").write_text("no video")
    assert "holds no video file" in refused(run(*predict, tmp_path))
    (tmp_path / "broken.mp4").write_text("no video either")
    code, _, error = run(*predict, tmp_path)
    assert code == 2
    assert error.splitlines()[-1].startswith(f"jaxvl: --videos {tmp_path}: none of the 1 files could be decoded")
    assert "--top: needs a whole number of at least 1" in refused(run(*predict, trained / "world", "--top", 0))
    assert "--videos: " in refused(run(*predict[:-1]))


def test_predict_names_words_it_never_saw_and_skips_broken_files(run, trained, tmp_path):
    mf.write_video(tmp_path / "b.mp4", 8)
    mf.write_video(tmp_path / "a.mkv", 8, start=9)
    (tmp_path / "broken.mp4").write_bytes(b"")
    args = ["predict", "--workdir", trained / "run", "--videos", tmp_path, "--text", "a red zeppelin", "--text", "red"]
    args += ["--text", "red " * 200]
    code, out, error = run(*args, "--json", "--out", tmp_path / "sheet.png")
    assert code == 0
    assert "never seen, read as unknown: zeppelin" in error
    assert error.count("texts: 1 of 3 are longer than ") == 1
    answer = json.loads(out)
    assert answer["videos"] == 2
    assert [q["query"] for q in answer["queries"]] == ["a red zeppelin", "red", "red " * 200]
    assert {r["path"] for r in answer["queries"][0]["results"]} == {str(tmp_path / "b.mp4"), str(tmp_path / "a.mkv")}
    scores = [r["score"] for r in answer["queries"][0]["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(answer["skipped"]) == 1
    assert "broken.mp4: empty file (0 bytes)" in error
    assert (tmp_path / "sheet.png").is_file()
    code, out, error = run(*args, "--top", 1)
    assert code == 0
    assert out.splitlines()[0] == "a red zeppelin"
    assert out.splitlines()[1].startswith("  1. ")
    assert (trained / "run" / "search.png").is_file()


def test_predict_help_is_that_of_the_method(run, trained):
    code, out, _ = run("predict", "--workdir", trained / "run", "--help")
    assert code == 0
    assert "--videos DIR" in out
    assert "--text QUERY" in out


def test_methods_lists_every_method_with_its_configs(run):
    code, out, _ = run("methods")
    assert code == 0
    for name in registry.names():
        assert f"{name}  {registry.info(name).title}" in out
    assert "2205.00823" in out
    line = next(x for x in out.splitlines() if x.strip().startswith("configs"))
    assert "quickstart" in line


def test_prepare_checks_and_writes(run, trained, tmp_path):
    flags = tiny.flags(f"data.root={trained / 'world'}")
    code, out, _ = run("prepare", "--config", tiny.QUICKSTART, *flags)
    assert code == 0
    assert "24 videos, 48 pairs" in out
    line = refused(run("prepare", "--config", tiny.QUICKSTART, "--split", "nope", *flags))
    assert "--split nope: the data has train, val, test" in line


def test_report_is_written_again(run, trained):
    page = trained / "run" / "report.html"
    page.unlink()
    code, out, _ = run("report", "--workdir", trained / "run")
    assert (code, out.strip()) == (0, str(page))
    assert page.is_file()


def test_doctor_says_what_is_wrong(run, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1", "pytest; extra == 'test'"])
    code, out, _ = run("doctor", "--workdir", tmp_path / "new")
    lines = out.splitlines()
    assert all(line.startswith("ok    ") for line in lines if "GiB free" not in line and "NVIDIA" not in line)
    assert any("PyAV" in line and "h264" in line for line in lines)
    assert any("8 cpu device(s)" in line for line in lines)
    assert code == (2 if any(line.startswith("MEND") for line in lines) else 0)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1000", "no-such-package-at-all>=2"])
    monkeypatch.setattr(doctor, "LOW_DISK", 2**80)
    code, out, _ = run("doctor", "--workdir", tmp_path)
    assert code == 2
    mend = [line for line in out.splitlines() if line.startswith("MEND  ")]
    assert any("numpy" in line and "pip install 'numpy>=1000'" in line for line in mend)
    assert any("no-such-package-at-all: absent; pip install" in line for line in mend)
    assert any("free some space" in line for line in mend)


def test_data_and_workdirs_can_be_moved(run, tmp_path, monkeypatch):
    """A relative root is kept as it was seen from where training ran, and may be set anew; nothing else may be."""
    monkeypatch.chdir(tmp_path)
    flags = [*tiny.flags("data.root=world", "train.steps=1"), "--workdir", "run"]
    assert run("train", "--config", tiny.QUICKSTART, *flags)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["root"] == str(tmp_path / "world")
    assert run("train", "--config", tiny.QUICKSTART, *flags)[0] == 0  # the same words are the same run
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, _ = run("evaluate", "--workdir", "../run", "--json")
    assert code == 0
    (tmp_path / "world").rename(tmp_path / "moved")
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    assert run("evaluate", "--workdir", "run", "--json", "--config.data.root=../moved")[:2] == (0, out)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("evaluate", "--workdir", "~/elsewhere/run", "--json", "--config.data.root=~/moved")[:2] == (0, out)
    line = refused(run("evaluate", "--workdir", "run", "--config.seed=3"))
    assert "only its paths may be set anew" in line
    assert "data.root" in line


@pytest.mark.parametrize("verb", ["train", "evaluate", "report", "predict"])
@pytest.mark.parametrize("place", ["s3://bucket/run"])
def test_buckets_that_orbax_does_not_know_are_refused_before_anything_runs(run, tmp_path, monkeypatch, verb, place):
    monkeypatch.chdir(tmp_path)
    rest = {"train": ["--config", tiny.QUICKSTART], "predict": ["--videos", "."]}.get(verb, [])
    assert "mount the bucket" in refused(run(verb, "--workdir", place, *rest))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def get_config(:\n", "line 1: not Python"),
        ("def get_config():\n    return None\n", "returns NoneType; it must return the ConfigDict"),
        ("x = 1\n\ny = z\n", r"line 3: NameError: name 'z' is not defined"),
        ("def get_config():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("from ml_collections import ConfigDict\nget_config = ConfigDict\n", "config.method: is missing"),
    ],
)
def test_config_files_that_do_not_run_are_one_line(run, tmp_path, text, line):
    (tmp_path / "a.py").write_text(text)
    assert re.search(line, refused(run("prepare", "--config", tmp_path / "a.py")))


def test_rows_that_a_config_file_does_not_have(run, tmp_path):
    assert "has one config only; leave out :row" in refused(run("prepare", "--config", f"{tiny.QUICKSTART}:row"))


def test_damaged_files_of_a_run_are_one_line(run, trained, tmp_path):
    """Each names the file and the mend, whatever is wrong with it."""
    place = tmp_path / "run"
    shutil.copytree(trained / "run", place)
    for file, verb in (
        ("config.json", "report"), ("env.json", "report"), ("eval/test.json", "report"),
        ("pictures/index.json", "report"), ("pictures/00.png", "report"), ("config.json", "evaluate"),
    ):  # fmt: skip
        whole = (place / file).read_bytes()
        odd = b"3" if file == "env.json" else b'{"a": 1}'
        for content in (b"", b"\xff\xfe", b"[1]", odd, b"[" * 100_000):
            (place / file).write_bytes(content)
            assert str(place / file) in refused(run(verb, "--workdir", place)), (file, content[:10])
        (place / file).write_bytes(whole)
    (place / "vocabulary.json").write_text('{"words": ["a", 3], "vocab_size": 256}')
    predict = ["predict", "--workdir", place, "--videos", trained / "world" / "videos", "--text", "a"]
    assert "vocabulary.json: holds no words" in refused((lambda r: (r[0], r[1], r[2].splitlines()[-1]))(run(*predict)))


def test_a_workdir_that_cannot_be_written_costs_only_the_files(run, trained, tmp_path, monkeypatch):
    """As on a read-only disk: results go to the output, or where --out says."""
    from jaxvl.core import files

    locked, replace = str(trained / "run"), files.Path.replace

    def guarded(self, target):
        if str(target).startswith(locked):
            raise OSError(30, "Read-only file system", str(target))
        return replace(self, target)

    monkeypatch.setattr(files.Path, "replace", guarded)
    code, out, error = run("evaluate", "--workdir", trained / "run", "--json")
    assert code == 0
    assert json.loads(out)["gallery"] == 12
    assert "not kept: " in error
    assert "Read-only file system" in error
    assert run("evaluate", "--workdir", trained / "run", "--json", "--out", tmp_path / "kept")[0] == 0
    assert json.loads((tmp_path / "kept" / "test.json").read_text())["metrics"] == json.loads(out)
    assert "--out HTML writes the page elsewhere" in refused(run("report", "--workdir", trained / "run"))
    assert run("report", "--workdir", trained / "run", "--out", tmp_path / "page.html")[0] == 0
    assert "CenterCLIP" in (tmp_path / "page.html").read_text() or "centerclip" in (tmp_path / "page.html").read_text()


def test_errors_of_the_machine_are_one_line_with_the_file(run, tmp_path, monkeypatch):
    from jaxvl.verbs import report

    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "x\x1b"))

    monkeypatch.setattr(report, "write", full)
    line = refused(run("report", "--workdir", tmp_path))
    assert (
        line == f"jaxvl: {tmp_path}/x\\x1b: No space left on device; free space there and give the same command again"
    )


@pytest.mark.parametrize(
    ("stopped", "asked", "code"), [("SIGTERM", None, 0), ("SIGTERM", "143", 143), ("SIGINT", "143", 130)]
)
def test_codes_of_a_training_that_a_signal_ended(run, tmp_path, monkeypatch, stopped, asked, code):
    """`detached.sh` asks for another code than that of the end, so that it starts again what ended on another host."""
    from jaxvl.verbs.train import Result

    monkeypatch.setattr("jaxvl.api.train", lambda config, workdir, **_: Result(None, stopped, 1, 0, tmp_path))
    if asked:
        monkeypatch.setenv("JAXVL_SIGTERM_CODE", asked)
    assert run(*words(tmp_path / "run"))[0] == code
    monkeypatch.setenv("JAXVL_SIGTERM_CODE", "-1")
    assert "JAXVL_SIGTERM_CODE: '-1' is no exit code; set it to 0 to 255" in refused(run(*words(tmp_path / "run")))


@pytest.mark.parametrize("sign", ["run.lock", "data"])
def test_ctrl_c_before_the_loop_ends_with_130(tmp_path, sign):
    """As soon as there is the workdir's lock, and in the middle of rendering a world."""
    words = ["train", "--config", tiny.QUICKSTART, "--workdir", tmp_path, *tiny.flags("data.world.num_train=100000")]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxvl.cli", *map(str, words)], cwd=tiny.ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / sign).exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_text_is_utf8_whatever_the_locale(tmp_path, locale):
    code = f"""
from pathlib import Path
from jaxvl.data.text import WordTokenizer
path = Path({str(tmp_path)!r}, "v.json")
WordTokenizer.build(["caf\\u00e9 bar"], 16).save(path)
assert WordTokenizer.load(path).words == ("bar", "caf\\u00e9")
assert path.read_bytes().decode("utf-8").count("caf\\u00e9") == 1
"""
    place = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **place}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr

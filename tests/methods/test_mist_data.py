"""MIST on a tiny rendered world: extraction, a kill, batches, training, evaluation, answers about a video."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import jaxvl
from jaxvl import cli
from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.core.session import build_data
from jaxvl.data.features import open_features
from jaxvl.data.synthetic.on_disk import read_truth
from jaxvl.methods.mist import data as sources
from jaxvl.methods.mist import recipe
from jaxvl.nn.frozen_clip import load_clip
from tests.data import media_files as mf

QUIET = lambda line: None  # noqa: E731

CONFIG = """
from jaxvl.core import config as configs
from jaxvl.methods.mist import recipe


def get_config():
    c = recipe.base()
    c.mesh.data = 1
    c.train.update({"steps": 2, "log_every": 1, "checkpoint_every": 2})
    c.optim.main = configs.optimizer(name="adam", lr=1e-3)
    c.model.update({"feature_dim": 64, "query_dim": 64, "d_model": 16, "heads": 2, "ff_dim": 16, "blocks": 1})
    c.model.update({"num_layers": 1, "num_segments": 4, "topj": 3, "num_answers": 13, "clip": "tiny", "patches": 4})
    c.model.update({"answer_encoder": "table"})
    c.model.text.update({"preset": "embeddings", "width": 16, "vocab_size": 64, "max_positions": 16})
    c.data.update({"root": "ROOT", "clip_weights": "random", "tokenizer": "words", "answers": "vocab.json"})
    c.data.update({"frames": 8, "question_words": 14, "batch_size": 8, "eval_batch_size": 8, "val_share": 0.25})
    c.data.standardize = True
    c.data.extract.update({"grid": 2, "per_file": 3})
    c.data.world = {"num_train": 8, "num_test": 6, "image_size": 64, "fps": 1, "seconds": 16.0, "events": (4, 4)}
    c.data.world.update({"named_by": "colour", "templates": ("where", "first"), "sizes": ("large",)})
    return c
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with the config and the world with its features."""
    folder = tmp_path_factory.mktemp("mist")
    (folder / "tiny.py").write_text(CONFIG.replace("ROOT", str(folder / "world")))
    assert cli.main(["prepare", "--config", str(folder / "tiny.py"), "--extract", str(folder / "world/features")]) == 0
    return folder


@pytest.fixture(scope="module")
def run(here):
    """A trained workdir."""
    assert cli.main(["train", "--config", str(here / "tiny.py"), "--workdir", str(here / "run")]) == 0
    return here / "run"


def load(here, *overrides):
    return configs.load(here / "tiny.py", overrides)


def test_features_are_those_of_the_frames(here):
    store = open_features(here / "world/features")
    assert len(store.ids) == 14
    assert store.shapes == {"frames": (8, 64), "patches": (8, 4, 64)}
    assert store.provenance["weights"] == "untrained tiny"
    clip = load_clip("random", "tiny", "x")
    view = sources.load_view(here / "world/videos/TE00003.mp4", num_frames=8, size=32, grid=2)
    got = store.by_id("TE00003")
    frames, patches = clip.views(view.whole, view.tiled)
    np.testing.assert_array_equal(got.arrays["frames"], frames.astype(np.float16))
    np.testing.assert_array_equal(got.arrays["patches"], patches.astype(np.float16))
    np.testing.assert_allclose(got.times, view.times)


def test_a_killed_extraction_goes_on_to_the_same_bytes(here, tmp_path):
    """A real process, killed while it computes, at whatever moment that is."""
    flags = ["prepare", "--config", str(here / "tiny.py"), "--extract", str(tmp_path / "f")]
    child = subprocess.Popen([sys.executable, "-m", "jaxvl.cli", *flags], stdout=subprocess.DEVNULL)
    while child.poll() is None and not sum(p.stat().st_size for p in (tmp_path / "f").glob("*.spool")):
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "f" / "features.json").exists()
    assert cli.main(flags) == 0
    whole = here / "world/features"
    assert sorted(p.name for p in whole.iterdir()) == sorted(p.name for p in (tmp_path / "f").iterdir())
    for path in whole.iterdir():
        assert (tmp_path / "f" / path.name).read_bytes() == path.read_bytes(), path.name


def test_rows_hold_what_recipe_promises(here, tmp_path):
    data = build_data(load(here), tmp_path, QUIET)
    assert {split: len(streams["qa"].source) for split, streams in data.splits.items()} == {
        "train": 12,
        "val": 4,
        "test": 12,
    }
    examples = data.splits["test"]["qa"]
    truth = {q["id"]: (r, q) for r in read_truth(here / "world") for q in r["questions"]}
    answers = json.loads((tmp_path / "answers.json").read_text())
    store, clip = open_features(here / "world/features"), load_clip("random", "tiny", "x")
    for i in (0, 5):
        record = examples.source[i]
        row = examples.make(record, np.random.default_rng(0))
        r, q = truth[record.question_id]
        assert row["label"] == answers[q["answer"]] == row["_label"]
        scale = sources.Scale.load(tmp_path / "feature_scale.npz")
        patches = store.by_id(r["id"]).arrays["patches"].astype(np.float32)
        expected = (patches - scale.mean["patches"]) / scale.std["patches"]
        np.testing.assert_array_equal(row["patches"], expected.astype(np.float16))
        assert row["frames"].dtype == np.float16
        assert row["_segment"] == int(q["spans"][0][0] / 16 * 4 + 1e-6)
        ids = sources.text.pack(clip.tokenizer, q["question"], 32)
        expected = (clip.texts(ids[None])[0] - scale.mean["question_vec"]) / scale.std["question_vec"]
        np.testing.assert_allclose(row["question_vec"], expected, rtol=1e-4, atol=1e-4)
        assert row["question"].shape == (14,)
        assert row["_groups"]["global"] == (q["template"],)
    train = data.train["qa"]
    seen = np.concatenate([train.make(q, None)["patches"].astype(np.float64) for q in train.source]).reshape(-1, 64)
    np.testing.assert_allclose(seen.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(seen.std(0), 1, atol=2e-3)
    assert len({int(examples.make(q, None)["example"]) for q in examples.source}) == len(examples.source)
    assert data.constants == {}  # one learned vector an answer
    ids = build_data(load(here, "model.answer_encoder=text"), tmp_path, QUIET).constants["answers/ids"]
    assert ids.shape == (13, 8)
    np.testing.assert_array_equal(ids[3, :3], examples.make.words.answer(list(answers)[3])[:3])
    ids = (tmp_path / "ids" / "val.txt").read_text().split()
    assert not set(ids) & set((tmp_path / "ids" / "train.txt").read_text().split())


def test_question_vectors_are_computed_once(here, tmp_path, monkeypatch):
    build_data(load(here), tmp_path, QUIET)
    from jaxvl.nn import frozen_clip

    monkeypatch.setattr(frozen_clip, "load_clip", lambda *a: pytest.fail("computed again"))
    data = build_data(load(here), tmp_path, QUIET)
    assert data.train["qa"].make(data.train["qa"].source[0], None)["question_vec"].shape == (64,)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.frames=16", "frames [8, 64] instead of [16, 64]"),
        ("model.feature_dim=32", "instead of [8, 32]"),
        ("model.num_answers=171", "config.model.num_answers: 171, but"),
        ("model.num_options=5", "have 0 options"),
        ("data.features=nothing", "no such file or folder of features"),
        ("data.clip_weights=", "config.data.clip_weights: is empty"),
        ("data.reader=msvd", "is none of agqa, nextqa, star"),
        ("data.world.fps=2", "belongs to another world"),
        ("data.answer_words=2", "answers have more than 2 tokens"),
    ],
)
def test_what_does_not_fit_is_one_line(here, tmp_path, override, line):
    with pytest.raises(InputError) as caught:
        build_data(load(here, override), tmp_path, QUIET)
    assert line in str(caught.value)


def test_features_of_another_sampling_are_refused(here, tmp_path):
    index = here / "world/features/features.json"
    text = index.read_text()
    index.write_text(text.replace("middles of 8 equal", "middles of 9 equal"))
    try:
        with pytest.raises(InputError, match="sampling 'middles of 9 equal intervals' instead of"):
            build_data(load(here), tmp_path, QUIET)
    finally:
        index.write_text(text)


def test_questions_without_features_are_counted_or_refused(here, tmp_path):
    part = tmp_path / "part"
    assert cli.main(["prepare", "--config", str(here / "tiny.py"), "--extract", str(part), "--split", "train"]) == 0
    with pytest.raises(InputError, match="12 of 12 test questions have no features here"):
        build_data(load(here, f"data.features={part}", "data.strict=true"), tmp_path / "a", QUIET)
    data = build_data(load(here, f"data.features={part}"), tmp_path / "b", QUIET)
    assert "test" not in data.splits
    assert any(
        "test: 12 of 12 questions left out, without features (6 videos: TE00000" in line for line in data.reports
    )


def test_training_and_evaluation(run):
    metrics = json.loads((run / "eval" / "test.json").read_text())["metrics"]
    assert metrics["questions"] == 12
    assert {"global/where", "global/first", "segment_recall_0"} <= set(metrics)
    made = json.loads((run / "features.json").read_text())
    assert made["weights"] == "untrained tiny"
    index = json.loads((run / "pictures" / "index.json").read_text())
    assert len(index) == 4
    assert all(item["title"].startswith("Evidence: ") for item in index)
    assert Image.open(run / "pictures" / index[0]["file"]).width > 500
    assert "Accuracy by global" in (run / "report.html").read_text()


def ask(run, capsys, *flags):
    capsys.readouterr()
    code = cli.main(["predict", "--workdir", str(run), "--json", *map(str, flags)])
    return code, capsys.readouterr()


@pytest.mark.skipif(not os.environ.get("JAXVL_TEST_ALL"), reason="a minute of compiling; JAXVL_TEST_ALL=1 runs it")
def test_towers_inside_the_step_and_a_vocabulary_of_texts_train_alike_on_one_device_and_on_two(here, tmp_path):
    """The vocabulary's ids are a constant of the state; it and the frozen tower are on both devices."""
    words = ["model.input=frames", "data.standardize=false", "model.answer_encoder=text", "eval.split=val"]
    losses, weight = {}, {}
    for devices in (1, 2):
        done = jaxvl.train(load(here, *words, f"mesh.data={devices}"), tmp_path / str(devices))
        rows = [json.loads(line) for line in (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()]
        losses[devices] = [row["loss"] for row in rows if row["kind"] == "train"]
        weight[devices] = done.metrics["segment_weight_0"]
    assert len(losses[1]) == 2
    assert losses[1][0] != losses[1][1]
    np.testing.assert_allclose(losses[2], losses[1], rtol=2e-5)
    assert weight[2] == pytest.approx(weight[1], rel=1e-4)
    (found,) = jaxvl.load(tmp_path / "2").answer(here / "world/videos/TE00001.mp4", ["where is the red shape?"])
    assert set(found["answers"][0]) >= {"answer", "probability"}


def test_a_dry_run_says_that_features_are_missing(here, tmp_path, capsys):
    words = ["train", "--config", str(here / "tiny.py"), "--workdir", str(tmp_path / "w"), "--dry-run"]
    assert cli.main(words) == 0
    assert "missing: nothing" in capsys.readouterr().out
    assert cli.main([*words, "--config.data.features=elsewhere"]) == 0
    assert f"--config.data.features: {here / 'world/elsewhere'} is not there" in capsys.readouterr().out


def test_long_videos_are_made_small_and_read_as_before(here, tmp_path, capsys):
    words = ["prepare", "--config", str(here / "tiny.py")]
    small = tmp_path / "small"
    assert cli.main([*words, "--shrink", str(small), "--short-side", "32", "--fps", "1", "--split", "test"]) == 0
    assert "6 encoded now" in capsys.readouterr().out
    assert sorted(p.stem for p in small.glob("*.mp4")) == [f"TE0000{i}" for i in range(6)]
    assert cli.main([*words, "--out", str(tmp_path / "records")]) == 2
    assert "--extract computes what it trains on" in capsys.readouterr().err


def test_several_questions_on_one_video_pay_for_its_features_once(here, run, capsys, monkeypatch):
    from jaxvl.nn.frozen_clip import FrozenCLIP

    calls, real = [], FrozenCLIP.views
    monkeypatch.setattr(FrozenCLIP, "views", lambda self, *a: calls.append(1) or real(self, *a))
    video = here / "world/videos/TE00001.mp4"
    questions = ["where is the red shape?", "where is the blue shape?"]
    code, out = ask(run, capsys, "--video", video, "--question", questions[0], "--question", questions[1])
    assert (code, len(calls)) == (0, 1)
    found = json.loads(out.out)
    assert [row["question"] for row in found["questions"]] == questions
    assert found["duration"] == pytest.approx(16)
    for row in found["questions"]:
        assert len(row["answers"]) == 5
        assert [layer["layer"] for layer in row["evidence"]] == [1]
        for segment in row["evidence"][0]["segments"]:
            assert 0 <= segment["start"] < segment["end"] <= 16
        assert all(0 <= v <= 1 for region in row["evidence"][0]["regions"] for v in region["box"])
        assert all(0 <= region["time"] <= 16 for region in row["evidence"][0]["regions"])
    assert Image.open(found["picture"]).height > 300
    # the same as evaluation gave for the stored features
    data = build_data(load(here), run, QUIET)
    examples = data.splits["test"]["qa"]
    record = next(q for q in examples.source if q.video_id == "TE00001" and q.question.startswith("where"))
    stored = np.load(run / "eval" / "test.npz")
    number = json.loads((run / "answers.json").read_text())
    code, out = ask(run, capsys, "--video", video, "--question", record.question, "--no-picture")
    answer = json.loads(out.out)["questions"][0]["answers"][0]["answer"]
    assert number[answer] == stored["predicted"][list(stored["question_id"]).index(record.question_id)]


def test_the_python_verb_answers_as_the_command_line(here, run, capsys):
    video, question = here / "world/videos/TE00001.mp4", "where is the red shape?"
    _, out = ask(run, capsys, "--video", video, "--question", question, "--no-picture")
    model = jaxvl.load(run, say=QUIET)
    assert model.verbs == ("answer",)
    assert model.answer(video, [question]) == json.loads(out.out)["questions"]
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)
    (row,) = model.answer(frames, [question], ["centre", "top left"], top=2, fps=2.0)
    assert {hit["answer"] for hit in row["answers"]} == {"centre", "top left"}
    assert all(s["end"] <= 3 for s in row["evidence"][0]["segments"])
    with pytest.raises(jaxvl.InputError, match="questions: needs a list, got str"):
        model.answer(video, question)
    with pytest.raises(jaxvl.InputError, match="'nowhere' is not among the"):
        model.answer(video, [question], ["nowhere"])


def test_choices_part_of_a_video_and_text_output(here, run, capsys):
    video = here / "world/videos/TE00002.mp4"
    part = ("--start", 4, "--end", 12, "--choices", "top left, centre,bottom right")
    code, out = ask(run, capsys, "--video", video, "--question", "where is it?", *part, "--no-picture")
    row = json.loads(out.out)["questions"][0]
    assert code == 0
    assert {hit["answer"] for hit in row["answers"]} == {"top left", "centre", "bottom right"}
    assert sum(hit["probability"] for hit in row["answers"]) == pytest.approx(1, abs=1e-5)
    assert all(4 <= s["start"] <= s["end"] <= 12 for layer in row["evidence"] for s in layer["segments"])
    assert "read as unknown: it" in out.err
    assert (
        cli.main(["predict", "--workdir", str(run), "--video", str(video), "--question", "where is the red shape?"])
        == 0
    )
    text = capsys.readouterr().out
    assert "layer 1 looked at" in text
    assert "sheet: " in text


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--video", "VIDEO"], "--question: say what to ask"),
        (["--video", "nowhere.mp4", "--question", "q"], "file is missing"),
        (
            ["--video", "VIDEO", "--question", "q", "--choices", "centre,up there"],
            "'up there' is not among the 13 answers",
        ),
        (["--video", "VIDEO", "--question", "q", "--choices", "centre,,up"], "an answer is empty"),
        (["--video", "VIDEO", "--question", "q", "--clip-weights", "nowhere"], "is no weights folder"),
        (["--video", "VIDEO", "--question", "q", "--out", "a.txt"], "name a picture file"),
        (["--video", "VIDEO", "--question", "q", "--start", "99"], "the video ends at 16.00 s"),
    ],
)
def test_predict_says_what_is_wrong_in_one_line(here, run, capsys, flags, line):
    video = str(here / "world/videos/TE00001.mp4")
    code, out = ask(run, capsys, *(video if flag == "VIDEO" else flag for flag in flags))
    assert code == 2
    assert line in out.err
    assert out.err.strip().count("\n") <= 1


def test_another_clip_than_that_of_the_features_is_refused(run, here, tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    (workdir / "features.json").write_text(json.dumps({"weights": "sha256 0123"}))
    with pytest.raises(
        InputError, match=r"another CLIP \(untrained tiny\) than the features were made with \(sha256 0123\)"
    ):
        sources.check_clip(workdir, load_clip("random", "tiny", "x"), "random")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_damaged_notes_of_features_are_one_line_and_of_vectors_a_reason_to_compute(tmp_path, content):
    (tmp_path / sources.MADE).write_bytes(content)
    with pytest.raises(InputError, match=r"features\.json: .* train in this workdir again"):
        sources.check_clip(tmp_path, None, "random")
    path, about = tmp_path / "a.npy", tmp_path / "a.json"
    np.save(path, np.zeros((3, 2), np.float32))
    about.write_text('{"texts": "x"}')
    assert sources._kept(path, about, {"texts": "x"}, 3)
    assert not sources._kept(path, about, {"texts": "y"}, 3)
    path.write_bytes(content)
    assert not sources._kept(path, about, {"texts": "x"}, 3)
    about.write_bytes(content)
    assert not sources._kept(path, about, {"texts": "x"}, 3)


def test_the_released_layout_and_choices(tmp_path):
    """NExT-QA with the HDF5 file that is distributed: options with the question before them, keys by video."""
    h5py = pytest.importorskip("h5py")
    from tests.data.readers import qa_files as qa

    for split in ("train", "val", "test"):
        qa.write_nextqa(tmp_path, split)
    with h5py.File(tmp_path / "clip_patch_feat_all.h5", "w") as file:
        values = np.random.default_rng(0).normal(size=(3, 8, 5, 6)).astype(np.float32)
        values[2] = 0
        file["features"] = values
        file["ids"] = np.array(["4010014", "4010004", "4010024"], "S20")
    c = recipe.base()
    c.model.update({"feature_dim": 6, "patches": 4, "num_options": 5, "num_answers": 0, "query": "clip"})
    c.model.text.update({"preset": "tiny", "vocab_size": 64})
    c.data.update({"reader": "nextqa", "root": str(tmp_path), "features": "clip_patch_feat_all.h5", "frames": 8})
    c.data.update(
        {"tokenizer": "words", "question_words": 8, "answer_words": 12, "batch_size": 2, "eval_batch_size": 2}
    )
    data = build_data(c, tmp_path / "w", QUIET)
    said = " | ".join(data.reports)
    assert "1 all-zero videos refused (4010024)" in said
    assert "train: 1 of 3 questions left out" in said
    assert "of 5 option texts looked at are cut to 12 tokens" in said
    examples = data.train["qa"]
    row = examples.make(examples.source[1], None)
    np.testing.assert_allclose(row["patches"], values[0, :, 1:].astype(np.float16))
    assert row["label"] == 4
    tokenizer = sources.text.WordTokenizer.load(tmp_path / "w" / "vocabulary.json")
    expected = sources.text.pack(tokenizer, f'why, "so" 1? [SEP] {qa.choices(1)[3]}', 12)
    np.testing.assert_array_equal(row["options"][3], expected)
    assert row["question_clip"].shape == (77,)
    assert data.constants == {}


def test_star_by_question_and_env_qa_by_frames(tmp_path):
    """What extraction is asked for: parts of videos by question id, and listed frames."""
    from tests.data.readers import qa_files as qa

    for split in ("train", "val"):
        qa.write_list(tmp_path / f"STAR_{split}.json", [qa.star_item(i, start=1.0 + i, end=3.0 + i) for i in range(2)])
    (tmp_path / "videos").mkdir()
    mf.write_video(tmp_path / "videos" / "6H78U.mp4", 50, fps=10)
    c = recipe.base()
    c.model.update({"feature_dim": 64, "patches": 4, "clip": "tiny"})
    c.data.update({"reader": "star", "root": str(tmp_path), "clip_weights": "random", "frames": 4})
    c.data.extract.grid = 2
    what = sources.extraction(c, ("train",), QUIET)
    assert [(i.key, i.start_s, i.end_s) for i in what.items] == [
        ("Interaction_T1_0", 1.0, 3.0),
        ("Sequence_T1_1", 2.0, 4.0),
    ]
    view = what.decode(what.items[1])
    assert mf.counters(view.whole) == [22, 27, 32, 37]
    features = what.encode(view)
    assert features.arrays["patches"].dtype == np.float16
    assert what.provenance["weights"] == "untrained tiny"

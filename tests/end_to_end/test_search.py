"""`jaxvl predict` with a trained CenterCLIP: the index, text and video queries, captions, segments."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from jaxvl import cli
from jaxvl.arguments import Parser
from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.data.video import index_video, load_clip
from jaxvl.methods.centerclip import files, verbs
from jaxvl.methods.centerclip.method import model_config
from jaxvl.search import command
from jaxvl.verbs import train
from tests import tiny

TEXTS = ["a red circle moves", "a big blue square"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of two updates, and its rendered videos."""
    work = tmp_path_factory.mktemp("search") / "run"
    train.train(tiny.quickstart("data.fps=4.0"), work, say=tiny.quiet)
    return work


@pytest.fixture
def gallery(run, tmp_path):
    """Five videos in a folder and a subfolder, one that is none."""
    top = tmp_path / "mine"
    (top / "sub").mkdir(parents=True)
    for i, source in enumerate(sorted((run / "data" / "videos").glob("*.mp4"))[:5]):
        shutil.copy(source, top / ("sub" if i % 2 else ".") / f"clip {i}.mp4")
    (top / "broken.mp4").write_text("<html>")
    return top


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded, for embeddings and for the sheet."""
    names = {"embed": [], "sheet": []}
    one, other = verbs._clip, command.load_clip

    def clip(loaded, path):
        names["embed"].append(path.name)
        return one(loaded, path)

    def load(path, **how):
        if how["num_frames"] == command.SHEET_FRAMES:
            names["sheet"].append(path.name)
        return other(path, **how)

    monkeypatch.setattr(verbs, "_clip", clip)
    monkeypatch.setattr(command, "load_clip", load)
    return names


def predict(run, capsys, *words, code=0):
    capsys.readouterr()
    assert cli.main(["predict", "--workdir", str(run), "--json", *map(str, words)]) == code
    out = capsys.readouterr()
    return json.loads(out.out) if code == 0 else out.err.strip()


def ask(texts=TEXTS):
    return [w for t in texts for w in ("--text", t)]


def test_search_embeds_once_and_only_what_changed(run, gallery, tmp_path, capsys, decoded):
    words = ["--videos", gallery, "--index", tmp_path / "index", "--no-sheet", "--top", 3]
    first = predict(run, capsys, *words, *ask())
    assert first["index"] == {"path": str(tmp_path / "index"), "embedded": 5, "kept": 0, "dropped": 0}
    assert first["videos"] == 5
    assert first["sheet"] is None
    assert [s.split(": ")[0] for s in first["skipped"]] == [str(gallery / "broken.mp4")]
    assert len(decoded["embed"]) == 6
    decoded["embed"].clear()
    second = predict(run, capsys, *words, *ask())
    assert second["queries"] == first["queries"]
    assert second["index"]["embedded"] == 0
    assert decoded == {"embed": [], "sheet": []}

    shutil.copy(gallery / "clip 0.mp4", gallery / "clip 9.mp4")
    shutil.copy(gallery / "clip 2.mp4", gallery / "clip 4.mp4")
    (gallery / "sub" / "clip 1.mp4").unlink()
    third = predict(run, capsys, *words, *ask())
    assert sorted(decoded["embed"]) == ["clip 4.mp4", "clip 9.mp4"]
    assert (third["index"]["embedded"], third["index"]["kept"], third["index"]["dropped"]) == (2, 3, 1)


def test_scores_and_segments_are_those_of_the_model(run, gallery, capsys):
    """Against one video at a time through `predict`, without the index."""
    found = predict(run, capsys, "--videos", gallery, *ask(), "--no-sheet")
    loaded = session.load(run, say=tiny.quiet)
    config, size = loaded.config, loaded.config.data.eval_batch_size
    queries = verbs.embed_texts(loaded, verbs.build_tokenizer(config, run, []), TEXTS)
    segments = model_config(config).segments
    assert segments == 2
    for row, query in zip(found["queries"], queries):
        assert len(row["results"]) == 5
        scores = [hit["score"] for hit in row["results"]]
        assert scores == sorted(scores, reverse=True)
        for hit in row["results"]:
            clip = load_clip(hit["path"], num_frames=4, image_size=32, sampling="uniform", fps=4.0)
            batch = {"frames": np.stack([clip.frames] * size), "mask": np.stack([clip.mask] * size)}
            out = loaded.predict(loaded.variables, {"video": batch})
            assert hit["score"] == pytest.approx(float(query @ np.asarray(out["video"])[0]), abs=2e-5)
            assert clip.mask.all()
            border = (clip.times[1] + clip.times[2]) / 2
            best = int(np.argmax(np.asarray(out["segments"])[0] @ query))
            spans = [[0.0, border], [border, index_video(hit["path"]).duration]]
            assert hit["best_segment"] == pytest.approx(spans[best], abs=1e-3)


def test_sheet_decodes_the_hits_only(run, gallery, tmp_path, capsys, decoded):
    words = ["--videos", gallery, "--index", tmp_path / "index", *ask(TEXTS[:1]), "--top", 2]
    predict(run, capsys, *words, "--no-sheet")
    decoded["embed"].clear()
    found = predict(run, capsys, *words, "--out", tmp_path / "out" / "sheet.png")
    assert decoded["embed"] == []
    assert len(decoded["sheet"]) == 2
    assert found["sheet"] == str(tmp_path / "out" / "sheet.png")
    with Image.open(found["sheet"]) as picture:
        assert picture.width > 300


def test_like_a_video(run, gallery, tmp_path, capsys, decoded):
    words = ["--videos", gallery, "--index", tmp_path / "index", "--no-sheet"]
    own = gallery / "clip 0.mp4"
    shutil.copy(own, tmp_path / "outside.mp4")
    found = predict(run, capsys, *words, "--like", own, "--like", tmp_path / "outside.mp4")
    inside, outside = found["queries"]
    assert str(own) not in [hit["path"] for hit in inside["results"]]
    assert len(inside["results"]) == 4
    assert outside["results"][0]["path"] == str(own)
    assert outside["results"][0]["score"] == pytest.approx(1.0, abs=1e-4)
    assert decoded["embed"].count("clip 0.mp4") == 1  # of the folder; the query came from the index
    assert [h["path"] for h in outside["results"][1:]] == [h["path"] for h in inside["results"]]


def test_like_a_link_is_like_the_file_that_the_index_holds(run, gallery, tmp_path, capsys, decoded):
    (gallery / "clip 0.mp4").rename(tmp_path / "elsewhere.mp4")
    (gallery / "clip 0.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    words = ["--videos", gallery, "--index", tmp_path / "index", "--no-sheet"]
    (row,) = predict(run, capsys, *words, "--like", gallery / "clip 0.mp4")["queries"]
    assert decoded["embed"].count("clip 0.mp4") == 1
    assert "clip 0.mp4" not in {hit["path"].rpartition("/")[2] for hit in row["results"]}


def test_captions_for_a_video(run, gallery, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("\n".join([*TEXTS, "", "a green thing"]) + "\n")
    words = ["--like", gallery / "clip 2.mp4", "--captions", tmp_path / "captions.txt", "--top", 2]
    (row,) = predict(run, capsys, *words)["captions"]
    loaded = session.load(run, say=tiny.quiet)
    vectors = verbs.embed_texts(loaded, verbs.build_tokenizer(loaded.config, run, []), [*TEXTS, "a green thing"])
    ((_, video),) = verbs.embed_videos(loaded, [gallery / "clip 2.mp4"])
    scores = vectors @ video.video
    best = np.argsort(-scores)[:2]
    assert [hit["caption"] for hit in row["results"]] == [[*TEXTS, "a green thing"][i] for i in best]
    np.testing.assert_allclose([hit["score"] for hit in row["results"]], scores[best], atol=1e-5)


def test_ask_answers_line_by_line(run, gallery, tmp_path, capsys, monkeypatch, decoded):
    words = ["--videos", gallery, "--index", tmp_path / "index", "--no-sheet", "--top", 2]
    own = gallery / "clip 0.mp4"
    once = predict(run, capsys, *words, *ask(), "--like", own)["queries"]
    decoded["embed"].clear()
    lines = [TEXTS[0], "", f"video:{own}", "video:nowhere.mp4", TEXTS[1]]

    def answers(*more, as_json=True):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        flags = ["--json"] if as_json else []
        assert cli.main(["predict", "--workdir", str(run), *flags, *map(str, words), "--ask", *map(str, more)]) == 0
        return capsys.readouterr().out.splitlines()

    first, like, wrong, second = map(json.loads, answers())
    for got, want in zip((first, second, like), once, strict=True):
        assert got["query"] == want["query"]
        for a, b in zip(got["results"], want["results"], strict=True):
            assert (a["path"], a["best_segment"]) == (b["path"], b["best_segment"])
            assert a["score"] == pytest.approx(b["score"], abs=1e-5)  # another batch, other round-off
    assert wrong["error"] == "nowhere.mp4: file is missing"
    assert all(row["ms"] > 0 for row in (first, like, wrong, second))
    assert decoded["embed"] == ["nowhere.mp4"]
    (tmp_path / "captions.txt").write_text("\n".join(TEXTS))
    ranked = json.loads(answers("--captions", tmp_path / "captions.txt")[1])
    assert sorted(hit["caption"] for hit in ranked["results"]) == sorted(TEXTS)
    printed = answers(as_json=False)
    assert printed[0].startswith(f"{TEXTS[0]}  (")
    assert printed[1].startswith("  1. ")


def test_a_head_without_embeddings_is_refused_before_anything_is_decoded(run, gallery, capsys, monkeypatch):
    loaded = session.load(run, say=tiny.quiet)
    loaded.config.model.head = "tightTransf"
    parser = argparse.ArgumentParser()
    files.add_arguments(parser)
    args = parser.parse_args(["--videos", str(gallery), "--text", "x"])
    with pytest.raises(InputError, match=r"head tightTransf compares each text with each video"):
        files.run(loaded, args, as_json=False)


def test_text_output_and_default_place(run, gallery, capsys):
    assert cli.main(["predict", "--workdir", str(run), "--videos", str(gallery), "--text", TEXTS[0]]) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert lines[0] == TEXTS[0]
    assert lines[1].startswith("  1. ")
    assert lines[1].endswith(" s]")
    assert lines[-1] == f"sheet: {run / 'search.png'}"
    assert "5 videos embedded, 0 unchanged, 0 dropped, 1 cannot be decoded" in out.err
    assert len(list((run / "index").glob("*/index.npz"))) >= 1


def test_other_weights_are_refused_until_rebuilt(run, gallery, tmp_path, capsys):
    words = ["--videos", gallery, "--index", tmp_path / "index", "--no-sheet", *ask(TEXTS[:1])]
    predict(run, capsys, *words)
    line = predict(run, capsys, *words, "--checkpoint", 1, code=2)
    assert "made by another model or sampling (weights)" in line
    assert line.count("\n") <= 1
    again = predict(run, capsys, *words, "--checkpoint", 1, "--rebuild")
    assert again["index"]["embedded"] == 5
    (tmp_path / "index" / "index.npz").write_text("{")
    assert "damaged search index" in predict(run, capsys, *words, code=2)


def test_wrong_words_are_named(gallery, tmp_path):
    parser = Parser()
    files.add_arguments(parser)
    for words, message in (
        (["--videos", gallery], "--text, --like or --ask"),
        (["--ask"], "--videos: name the folder"),
        (["--text", "x"], "--videos: name the folder"),
        (["--like", gallery / "clip 0.mp4"], "--videos: name the folder"),
        (["--text", "x", "--videos", gallery, "--captions", "f"], "name it with --like"),
        (["--text", "x", "--videos", tmp_path / "no"], "no such folder"),
        (["--text", "x", "--videos", gallery, "--top", 0], "--top: needs a whole number of at least 1"),
        (["--text", " ", "--videos", gallery], "--text: is empty"),
        (["--text", "x", "--videos", gallery, "--out", tmp_path], "name a picture file"),
        (["--text", "x", "--videos", gallery, "--out", "sheet.xyz"], "name a picture file"),
    ):
        with pytest.raises(InputError, match=message):
            command._check(parser.parse_args([*map(str, words)]))


def test_files_of_the_query_are_named_in_one_line(run, gallery, tmp_path, capsys):
    for words, message in (
        (["--like", gallery / "broken.mp4", "--captions", tiny.ROOT / "setup.py"], "broken.mp4: not a video file"),
        (["--like", gallery / "clip 0.mp4", "--captions", tmp_path / "no.txt"], "no.txt: no such file"),
    ):
        line = predict(run, capsys, *words, code=2).splitlines()[-1]
        assert line.startswith("jaxvl: ")
        assert message in line


def test_run_leaves_the_ids_it_used(run):
    ids = {p.name: p.read_text().splitlines() for p in (run / "ids").iterdir()}
    assert {name: len(rows) for name, rows in ids.items()} == {"train.txt": 24, "val.txt": 8, "test.txt": 12}
    assert not set(ids["train.txt"]) & set(ids["test.txt"])


def test_the_report_ranks_by_the_scores_that_were_evaluated(tmp_path, monkeypatch):
    """A cross-encoder's scores, where there are any, and not the dot products of its embeddings."""
    names, scores = ["a", "b"], np.array([[0.0, 1.0], [1.0, 0.0]])
    arrays = {"text": np.eye(2), "video": np.eye(2), "text_id": names, "video_id": names, "caption": names}
    (tmp_path / "eval").mkdir()
    np.savez(tmp_path / "eval" / "test.npz", **arrays, scores=scores)
    config = tiny.quickstart("model.schedule=none", "model.reduce.algorithm=none", "eval.split=test")
    videos = types.SimpleNamespace(
        id_of=str, source=names, make=lambda record, rng: {"frames": np.zeros((3, 8, 8, 3), np.uint8)}
    )
    seen = {}
    monkeypatch.setattr(files, "retrieval_sheet", lambda texts, rows, ranks: seen.update(rows=rows, ranks=ranks))
    loaded = types.SimpleNamespace(config=config, workdir=tmp_path)
    list(files.pictures(loaded, types.SimpleNamespace(splits={"test": {"video": videos}})))
    assert [[hit.name for hit in row] for row in seen["rows"]] == [["b", "a"], ["a", "b"]]
    assert seen["ranks"] == [1, 1]

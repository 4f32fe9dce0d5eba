"""The quickstart from rendering to the report, with every size cut down; the tests that train share the run."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from jaxvl import cli
from jaxvl.core import session
from jaxvl.core.writers import read_metrics
from jaxvl.data.readers.retrieval.msrvtt import read_msrvtt
from jaxvl.verbs import train
from jaxvl.verbs.evaluate import evaluate
from tests import tiny

STEPS = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir, the printed lines and the result of a run that overfits its world."""
    workdir = tmp_path_factory.mktemp("quickstart")
    config = tiny.quickstart(
        f"train.steps={STEPS}", "train.log_every=5", "train.checkpoint_every=20", "train.eval_every=20",
        "checkpoint.best_metric=t2v/R@1",
    )  # fmt: skip
    lines = []
    result = train.train(config, workdir, say=lines.append)
    return workdir, lines, result


def test_the_world_is_rendered_and_read_by_the_public_reader(run):
    workdir, lines, _ = run
    world = tiny.read_world(workdir / "data")
    reading = read_msrvtt(workdir / "data", "train")
    assert len(reading.ids) == 24
    of_video = {r["video"]: r["captions"] for r in world}
    for pair in reading.pairs:
        assert pair.caption in of_video[f"videos/{pair.video_id}.mp4"]
    assert any("24 videos, 48 pairs" in line for line in lines)


def test_it_learns_and_leaves_what_the_design_promises(run):
    workdir, _, result = run
    rows = read_metrics(workdir, "train")
    assert [r["step"] for r in rows] == [1, *range(5, STEPS + 1, 5)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert result.recompilations == 0
    assert result.stopped is None
    assert {p.name for p in workdir.iterdir()} >= {
        "config.json", "env.json", "metrics.jsonl", "tensorboard", "checkpoints", "integrity", "report.html", "eval",
        "pictures", "vocabulary.json", "data",
    }  # fmt: skip
    assert [r["step"] for r in read_metrics(workdir, "eval")] == [20, 40]


def test_evaluating_again_gives_the_same_metrics(run):
    workdir, _, result = run
    before = dict(np.load(workdir / "eval" / "test.npz"))
    again = evaluate(workdir, say=tiny.quiet)
    assert again == result.metrics
    assert again["gallery"] == again["captions"] == 12
    after = np.load(workdir / "eval" / "test.npz")
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    best = max(read_metrics(workdir, "eval"), key=lambda r: r["t2v/R@1"])
    assert evaluate(workdir, best=True, say=tiny.quiet)["t2v/R@1"] == best["t2v/R@1"]


def test_search_finds_what_evaluation_found(run, capsys):
    """`predict` on the rendered files with a test caption ranks them as the evaluation's embeddings do."""
    workdir, _, _ = run
    arrays = np.load(workdir / "eval" / "test.npz")
    caption = str(arrays["caption"][3])
    videos = workdir / "data" / "videos"
    words = ["predict", "--workdir", str(workdir), "--videos", str(videos), "--text", caption, "--json", "--top", "99"]
    assert cli.main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["videos"] == 44
    scores = {r["path"]: r["score"] for r in answer["queries"][0]["results"]}
    wanted = arrays["text"][3] @ arrays["video"].T
    got = [scores[str(videos / f"{name}.mp4")] for name in arrays["video_id"]]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


class Links(html.parser.HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found, self.tags, self.pictures = [], set(), 0

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster") and value:
                if value.startswith("data:image/"):
                    self.pictures += 1
                elif not value.startswith("#"):
                    self.found.append(value)


def test_report_is_one_self_contained_page(run):
    workdir, _, result = run
    page = (workdir / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found == []
    assert not {"link", "iframe", "object", "embed"} & links.tags
    assert not re.search(r"url\(\s*['\"]?(?!data:|#)", page)
    assert "@import" not in page
    pictures = json.loads((workdir / "pictures" / "index.json").read_text())
    assert links.pictures >= len(pictures) >= 2
    for item in pictures:
        assert item["title"].split(":")[0] in page
    assert f"{result.metrics['t2v/R@1']:.2f}".rstrip("0").rstrip(".") in page
    assert "train.steps" in page
    assert "optim.main.lr" in page


def test_trained_model_loads_with_its_weights(run):
    """What `load` gives is the state of the last step, not a fresh one."""
    workdir, _, _ = run
    loaded = session.load(workdir, say=tiny.quiet)
    assert loaded.step == STEPS
    fresh = session.compile_method(loaded.config).fresh_state()
    kernel = loaded.variables["params"]["visual"]["proj"]
    assert np.abs(np.asarray(kernel) - np.asarray(fresh.params["visual"]["proj"])).max() > 1e-3


def test_a_mesh_that_is_not_here_gives_way(run, tmp_path):
    """As of a run on 64 devices; this machine has eight."""
    workdir, _, _ = run
    there, lines = tmp_path / "run", []
    shutil.copytree(workdir, there, ignore=shutil.ignore_patterns("data"))
    config = json.loads((there / "config.json").read_text())
    config["mesh"] = {"data": 32, "fsdp": 2, "tensor": 1}
    (there / "config.json").write_text(json.dumps(config))
    loaded = session.load(there, say=lines.append)
    assert dict(loaded.mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert any("needs 64 devices, this run has 8; used on all 8 devices of this machine" in line for line in lines)
    kernel = lambda model: np.asarray(model.variables["params"]["visual"]["proj"])  # noqa: E731
    np.testing.assert_array_equal(kernel(loaded), kernel(session.load(workdir, say=tiny.quiet)))

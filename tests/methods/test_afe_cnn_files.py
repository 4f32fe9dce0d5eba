"""A tiny AFE-CNN is trained once; `jaxvl predict`, `recognise`, records, report pictures and folds stand on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

from jaxvl import api, cli
from jaxvl.core import config as configs
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import mocap
from jaxvl.data.readers.skeletons import utkinect
from jaxvl.data.skeletons import HUMANOID16
from jaxvl.methods.afe_cnn import data as sources
from jaxvl.methods.afe_cnn import files as afe
from jaxvl.verbs import prepare
from jaxvl.verbs.train import Result, save_evaluation
from tests.data.readers import skeleton_files as files
from tests.methods.verbs import predicted

WALK = mocap.clips()["walk"].joints.astype(np.float32)
SMALL = (
    "model.width=4", "model.kje_hidden=4", "model.kfe_hidden=4", "model.kfe_size=3", "data.frames=8",
    "data.least_frames=8", "train.steps=2", "train.checkpoint_every=2", "train.log_every=1", "data.batch_size=8",
    "data.eval_batch_size=8", "mesh.data=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Workdir of a run on twenty clips of the motion world."""
    workdir = tmp_path_factory.mktemp("afe")
    world = ("data.world.num_train=20", "data.world.num_test=20")
    config = configs.load("configs/afe_cnn/quickstart.py", [*SMALL, *world])
    api.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def model(run):
    """That run, loaded once."""
    return api.load(run)


def predict(model, capsys, *words, as_json=False):
    """What `jaxvl predict` prints, as `(output, errors)`."""
    return predicted(afe, model.loaded, capsys, words, as_json)


def test_predict_names_actions_joints_and_times(model, run, tmp_path, capsys):
    files.write_csv(tmp_path / "walk.csv", WALK[None], HUMANOID16)
    (tmp_path / "broken.json").write_text("{")
    gif, sheet = tmp_path / "out.gif", tmp_path / "out.png"
    out, err = predict(model, capsys, "--sequences", tmp_path, "--out", gif, as_json=True)
    found = json.loads(out)
    assert "broken.json: no JSON that can be read" in err
    (row,) = found["sequences"]
    assert len(row["actions"]) == 5
    assert sum(hit["probability"] for hit in row["actions"]) < 1
    assert [len(b["joints"]) for b in row["bodies"]] == [4]
    assert found["skipped"][0]["path"].endswith("broken.json")
    with Image.open(gif) as image:
        assert sum(1 for _ in ImageSequence.Iterator(image)) == 8
    text = predict(model, capsys, "--sequences", tmp_path / "walk.csv", "--top", "2", "--out", sheet).out
    assert text.count(" %\n") == 2
    assert "body 1: joints" in text
    with Image.open(sheet) as image:
        assert np.asarray(image).std() > 10
    for words, line in (
        (["--sequences", tmp_path / "walk.csv", "--top", "21"], "--top 21: needs 1 to 20, the number of classes"),
        (["--sequences", tmp_path / "broken.json"], "none of its 1 files can be read"),
        (["--sequences", tmp_path / "none"], "no such file or folder"),
        (["--sequences", tmp_path / "walk.csv", "--out", "a.bmp"], "name a picture file (.gif, .png"),
    ):
        with pytest.raises(InputError) as error:
            predict(model, capsys, *words)
        assert line in str(error.value)


def test_recognise_takes_paths_and_arrays(model, tmp_path):
    assert model.verbs == ("recognise",)
    files.write_csv(tmp_path / "walk.csv", WALK[None], HUMANOID16)
    with_holes = np.stack([WALK, np.full_like(WALK, np.nan)])
    found = model.recognise([str(tmp_path / "walk.csv"), WALK, WALK[None], with_holes, 2 * WALK[::-1]])
    assert found.probability.shape == (5, 20)
    np.testing.assert_allclose(found.probability.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.probability[1:4], found.probability[[0]].repeat(3, 0), atol=1e-6)
    assert np.abs(found.probability[4] - found.probability[0]).max() > 1e-6
    assert set(found.best) <= set(model.recogniser.classes)
    turned = WALK @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32) * 3 + 1
    np.testing.assert_allclose(model.recognise([turned]).probability[0], found.probability[0], atol=1e-4)
    with pytest.raises(InputError, match="sequences: needs a list, got str"):
        model.recognise("walk.csv")
    with pytest.raises(BadMedia, match=r"sequence 0: joints of shape \[1, 4, 25, 3\]"):
        model.recognise([np.ones((4, 25, 3))])
    files.write_ntu(tmp_path, ["S001C001P001R001A001"])
    with pytest.raises(BadMedia, match=r"not .* of the skeleton humanoid16"):
        model.recognise([tmp_path / "nturgb+d_skeletons" / "S001C001P001R001A001.skeleton"])


def test_the_report_shows_sequences_gates_and_confusions(run):
    index = json.loads((run / "pictures" / "index.json").read_text())
    titles = [item["title"] for item in index]
    assert sum(title.startswith("Sequence ") for title in titles) == 4
    assert sum(title.startswith("Action picture of ") for title in titles) == 4
    assert titles[-2:] == ["Gates over time", "Confusion matrix"]
    for item in index:
        with Image.open(run / "pictures" / item["file"]) as image:
            assert np.asarray(image).std() > 3, item["title"]
    page = (run / "report.html").read_text()
    assert "Actions of 20 sequences" in page


def test_records_give_the_same_examples(run, tmp_path, capsys):
    small = [*SMALL, "data.world.num_train=20", "data.world.num_test=20", f"data.root={run / 'data'}"]
    config = configs.load("configs/afe_cnn/quickstart.py", small)
    prepare.prepare(config, tmp_path / "out")
    assert "test: 20 sequences in" in capsys.readouterr().out
    records = configs.load(
        "configs/afe_cnn/quickstart.py", [*small, "data.reader=records", f"data.root={tmp_path / 'out'}"]
    )
    one, other = (sources.build_data(c, tmp_path / "w", print) for c in (config, records))
    for a, b in ((one.train, other.train), (one.splits["test"], other.splits["test"])):
        a, b = a["clips"], b["clips"]
        assert [a.id_of(r) for r in a.source] == [b.id_of(r) for r in b.source]
        rows = [e.make(e.source[7], np.random.default_rng(0)) for e in (a, b)]
        np.testing.assert_array_equal(rows[0]["x"], rows[1]["x"])
        assert rows[0]["label"] == rows[1]["label"]
    with pytest.raises(InputError, match="is there already; choose another folder"):
        prepare.prepare(config, tmp_path / "out")


def test_folds_are_trained_pooled_and_go_on(tmp_path, capsys, monkeypatch):
    """Training and evaluation themselves are replaced: each fold gets as many right as its number says."""
    files.write_utkinect(tmp_path / "ut", ["s01_e01", "s02_e01"], nan=("s02_e01", "carry"))
    seen, stop = [], [1]

    def train(config, workdir, *, resume, fresh, say):
        fold = config.data.fold
        seen.append(fold)
        if fold in stop:
            return Result(None, "SIGTERM", 1, 0, workdir)
        clips = len(utkinect.read_utkinect(config.data.root, "loso", fold)["test"].clips)
        metrics = {"top1": 100.0 * (fold + 1) / clips, "clips": clips}
        if (workdir / "eval" / "test.json").is_file():
            metrics = None  # nothing was left to do
        else:
            save_evaluation(workdir / "eval", "test", 7, metrics, {})
        return Result(metrics, None, 7, 0, workdir)

    monkeypatch.setattr("jaxvl.verbs.folds.train", train)
    monkeypatch.setattr("jaxvl.verbs.folds.evaluate", lambda workdir, split, say: {"top1": 10.0, "clips": 10})
    work = tmp_path / "work"
    command = ["train", "--config", "configs/afe_cnn/utkinect.py:loso", "--workdir", str(work), "--folds"]
    command += [f"--config.data.root={tmp_path / 'ut'}"]
    assert cli.main(command) == 0
    assert not (work / "folds.json").exists()
    stop.clear()
    assert cli.main(command) == 0
    assert seen == [0, 1, 0, 1]
    first = json.loads((work / "folds.json").read_text())
    assert [fold["metrics"]["clips"] for fold in first["folds"]] == [10, 9]
    assert first["pooled"] == {"clips": 19, "top1": pytest.approx(100 * 3 / 19)}
    assert [fold["fields"] for fold in first["folds"]] == [{"data.fold": n} for n in range(2)]
    out = capsys.readouterr().out
    assert "2 folds" in out
    assert "fold-01 of 2: data.fold=1" in out
    (work / "fold-00" / "eval" / "test.json").write_text(
        '{"split": "test", "step": 3, "metrics": {}}'
    )  # of another step
    assert cli.main(command) == 0
    assert json.loads((work / "folds.json").read_text()) == first
    assert cli.main([*command[:2], "configs/afe_cnn/quickstart.py", "--workdir", str(work / "q"), "--folds"]) == 2
    assert "--folds: this config has no folds" in capsys.readouterr().err
    (work / "config.json").write_text("{}")
    assert cli.main(command) == 2
    assert "holds a run of its own" in capsys.readouterr().err

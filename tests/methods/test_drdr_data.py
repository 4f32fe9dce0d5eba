"""DRDR's task strings, batches of several domains, transforms, and the tiny run from training to prediction."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxvl import cli
from jaxvl.core import config as configs
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.core.writers import read_metrics
from jaxvl.data import pipeline
from jaxvl.data.readers.adaptation.domain_sets import PARTS, SETS
from jaxvl.data.readers.classification.image_folder import LabelledImage
from jaxvl.methods.drdr import data, recipe
from jaxvl.methods.drdr import task as tasks
from jaxvl.methods.drdr.evaluator import DomainAccuracy
from jaxvl.methods.drdr.method import batch_spec
from jaxvl.verbs import train
from tests import tiny
from tests.tiny import ROOT, quiet

QUICKSTART = ROOT / "configs" / "drdr" / "quickstart.py"


@pytest.mark.parametrize(
    ("text", "external", "setting"),
    [
        ("a->b", "", "uda"),
        ("a/b->c", "", "msda"),
        ("a->b/c/d", "", "dal"),
        ("Art->Clipart", "Product", "dg"),
        ("a/b/c->", "d", "loo"),
    ],
)
def test_settings_of_task_strings(text, external, setting):
    task = tasks.parse(text, external)
    assert task.setting == setting
    assert "/".join(task.sources) + "->" + "/".join(task.targets) == text
    assert task.tested == task.targets + task.external


@pytest.mark.parametrize(
    ("text", "external", "line"),
    [
        ("a", "", "not like SOURCE->TARGET"),
        ("->b", "", "names no source"),
        ("a->a", "", "a occurs twice"),
        ("a->b", "b", "b occurs twice"),
        ("a->", "d", "has no target"),
        ("a/b->", "", "has no target"),
    ],
)
def test_wrong_task_strings_are_named(text, external, line):
    with pytest.raises(InputError, match=line):
        tasks.parse(text, external)


def test_rows_of_a_batch():
    assert tasks.rows_of(3, 64) == (22, 21, 21)
    assert tasks.rows_of(1, 64) == (64,)
    with pytest.raises(InputError, match="no row for each of 3"):
        tasks.rows_of(3, 2)


@pytest.fixture
def domains(tmp_path):
    """Three domains of two classes in folders; the grey level of a picture is its domain's and class's own."""
    rng = np.random.default_rng(0)
    for i, domain in enumerate(("red", "green", "blue")):
        for k, name in enumerate(("left", "right")):
            folder = tmp_path / domain / name
            folder.mkdir(parents=True)
            for n in range(5 + 2 * i):
                pixels = np.full((20, 24, 3), 60 * i + 20 * k, np.uint8)
                pixels[:, : 12 if k == 0 else 24, i] = 200 + rng.integers(0, 50)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    return tmp_path


def config_for(root, task, *overrides):
    return configs.load(
        QUICKSTART,
        ("data.reader=folders", f"data.root={root}", f"data.task={task}", "model.classes=2", "data.image_size=16",
         "model.mean=(0.5,0.5,0.5)", "model.std=(0.5,0.5,0.5)", "data.batch_size=8", "data.eval_batch_size=8",
         "model.channels=(4,8)", "model.bottleneck_dim=8", "mesh.data=1", "train.steps=4", "train.log_every=1",
         "train.eval_every=0", "train.checkpoint_every=4", "pipeline.threads=1", "pipeline.prefetch=1", *overrides),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(SETS.keys() - {"folders"}))
def test_a_published_config_reads_its_published_layout(name, tmp_path):
    config = tiny.load(f"drdr/{name}.py", f"data.root={tmp_path}")
    known, task = SETS[name], tasks.parse(config.data.task, config.data.external)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((9, 12, 3), 77, np.uint8)).save(picture)
    (tmp_path / "list").mkdir()
    for domain in {*task.sources, *task.tested}:
        files = [f"{domain}/class{k:03d}/1.png" for k in range(known.classes)]
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).hardlink_to(picture)
        lists = {"image_clef": [f"list/{domain}List.txt"], "domainnet": [f"{domain}_{p}.txt" for p in PARTS]}
        for path in lists.get(name, ()):
            (tmp_path / path).write_text("".join(f"{file} {k}\n" for k, file in enumerate(files)))
    made = data.build_data(config, tmp_path / "run", quiet)
    assert set(made.splits["test"]) == set(task.tested)
    spec = batch_spec(config, tuple(made.train))
    for stream, examples in made.train.items():
        row = examples.make(examples.source[0], np.random.default_rng(0))
        for field, one in spec[stream].items():
            assert (np.shape(row[field]), row[field].dtype) == (one.shape[1:], one.dtype), field
        assert (row["images"] == 77).all()


def test_batches_hold_fixed_rows_of_every_source_and_no_target_label(domains, tmp_path):
    made = data.build_data(config_for(domains, "red/green->blue"), tmp_path, quiet)
    assert made.reports[-1].startswith("setting msda; transductive: the images of blue train without labels")
    stream = pipeline.train_batches(made.train["source"], seed=3)
    batches = [next(stream) for _ in range(12)]
    for batch in batches:
        assert ["red" if i < 4 else "green" for i in range(8)] == [
            "red" if name in {r.image_id for r in made.train["source"].source[:10]} and row < 4 else "green"
            for row, name in enumerate(batch["_id"])
        ]
        assert set(batch) == {"images", "label", "_label", "_id", "_replaced"}
    reds = [batch["images"][row, 8, 2, 0] for batch in batches for row in range(4)]
    assert min(reds) >= 200  # the first four rows are of the first domain
    greens = [batch["images"][row, 8, 2, 1] for batch in batches for row in range(4, 8)]
    assert min(greens) >= 200
    assert "label" not in next(pipeline.train_batches(made.train["target"], seed=3))
    assert set(made.splits["test"]) == {"blue"}
    assert set(made.splits["source"]) == {"red", "green"}


def test_domains_with_other_classes_and_wrong_counts_are_refused(domains, tmp_path):
    with pytest.raises(InputError, match=r"config.model.classes: 3, but the data has 2 classes"):
        data.build_data(config_for(domains, "red->blue", "model.classes=3"), tmp_path, quiet)
    (domains / "blue" / "left").rename(domains / "blue" / "links")
    with pytest.raises(InputError, match=r"only red has left; only blue has links"):
        data.build_data(config_for(domains, "red->blue"), tmp_path, quiet)
    with pytest.raises(InputError, match=r"config.data.root: is empty"):
        data.build_data(config_for("", "red->blue"), tmp_path, quiet)
    with pytest.raises(InputError, match=r"config.data.reader: 'office' is none of office31, "):
        data.build_data(config_for(domains, "red->blue", "data.reader=office"), tmp_path, quiet)


def test_a_target_without_labels_trains_and_is_not_tested(domains, tmp_path):
    for name in ("left", "right"):
        for file in (domains / "blue" / name).iterdir():
            file.rename(domains / "blue" / f"{name}{file.name}")
        (domains / "blue" / name).rmdir()
    fields = ("data.unlabelled=('blue',)", "eval.split=source", "train.eval_split=source")
    made = data.build_data(config_for(domains, "red->blue", *fields), tmp_path, quiet)
    assert len(made.train["target"].source) == 18
    assert "label" not in next(pipeline.train_batches(made.train["target"], seed=0))
    assert set(made.splits) == {"source"}
    assert made.reports[1] == "blue (without labels): 18 images of 2 classes"
    assert made.reports[-1] == "setting uda"
    with pytest.raises(InputError, match=r"config.eval.split: no tested domain has labels"):
        data.build_data(config_for(domains, "red->blue", fields[0]), tmp_path, quiet)
    with pytest.raises(InputError, match=r"config.data.unlabelled: 'green' is no target"):
        data.build_data(config_for(domains, "red->blue", "data.unlabelled=('green',)"), tmp_path, quiet)


def test_transforms_by_their_fields(tmp_path):
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:15, :30] = (250, 0, 0)  # the upper left quarter
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = LabelledImage(str(tmp_path / "a.png"), 1, "a.png")
    rng = np.random.default_rng(0)
    direct = data.MakeImage(16, 3)(record, rng)
    assert direct["images"].shape == (16, 16, 3)
    assert "label" not in direct
    assert direct["images"][2, 2, 0] == 250  # aspect not kept: the quarter is a quarter of the square
    assert direct["images"][12, 12, 0] == 0
    cropped = data.MakeImage(16, 3, test_resize=32)(record, rng)["images"]
    assert cropped[6, 6, 0] > 240  # the middle half of the picture
    assert cropped[6, 9, 0] < 10
    grey = data.MakeImage(16, 1, labelled=True)(record, rng)
    assert grey["images"].shape == (16, 16, 1)
    assert grey["label"] == 1
    both = [data.MakeImage(16, 3, True, hflip=True, vflip=v) for v in (False, True)]
    seen = [
        {tuple(q[y, x, 0] > 100 for y in (2, 13) for x in (2, 13)) for q in
         (m(record, np.random.default_rng(i))["images"] for i in range(40))} for m in both
    ]  # fmt: skip
    assert any(corners[1] for corners in seen[0])  # flipped left to right
    assert not any(corners[2] or corners[3] for corners in seen[0])  # never upside down
    assert any(corners[3] for corners in seen[1])
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadMedia):
        data.MakeImage(16, 3)(LabelledImage(str(tmp_path / "b.png"), 0, "b.png"), rng)


def test_accuracy_takes_the_path_of_the_domain():
    evaluator = DomainAccuracy(tasks.parse("s->t", "e"), 2)
    right, wrong = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    outputs = {"source_logits": right, "target_logits": wrong, "features": right, "turned": right}
    acc = evaluator.init()
    for domain in ("s", "t", "e"):
        acc = evaluator.update(acc, domain, outputs, {"_label": [0, 1], "_id": ["a", "b"]})
    got = evaluator.compute(acc)
    assert (got["accuracy/s"], got["accuracy/t"], got["accuracy/e"], got["source_path/e"]) == (100, 50, 50, 100)
    assert got["accuracy"] == 50  # of the unseen domain
    assert got["images/t"] == 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run on three domains of folders: two sources, one target that is tested, one that is not seen."""
    root = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for domain in ("red", "green", "blue"):
        for k, name in enumerate(("left", "right")):
            (root / domain / name).mkdir(parents=True)
            for n in range(6):
                pixels = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
                pixels[:, 8 * k : 8 * k + 8] += 180
                Image.fromarray(pixels).save(root / domain / name / f"{n}.png")
    workdir = tmp_path_factory.mktemp("run")
    config = config_for(root, "red/green->blue", "train.steps=60", "train.log_every=20", "train.checkpoint_every=60")
    result = train.train(config, workdir, say=quiet)
    return root, workdir, result


def test_tiny_run_learns_and_leaves_its_files(run):
    _, workdir, result = run
    assert result.metrics["accuracy"] == result.metrics["accuracy/blue"] >= 90
    assert result.recompilations == 0
    assert json.loads((workdir / "classes.json").read_text()) == ["left", "right"]
    assert (workdir / "pictures" / "00.png").is_file()
    rows = read_metrics(workdir, "train")
    assert {"matched_cosine", "between_cosine", "spoke_length", "translation", "ramp"} <= set(rows[-1])
    arrays = np.load(workdir / "eval" / "test.npz")
    assert arrays["blue/features"].shape == (12, 8)


def test_predict_classifies_a_folder_and_names_the_nearest_anchors(run, tmp_path, capsys):
    root, workdir, _ = run
    (tmp_path / "broken.png").write_bytes(b"x")
    for name in ("left", "right"):
        Image.open(root / "blue" / name / "0.png").save(tmp_path / f"{name}.png")
    words = ["predict", "--workdir", str(workdir), "--images", str(tmp_path), "--top", "2"]
    assert cli.main([*words, "--json", "--out", str(tmp_path / "sheet.jpg")]) == 0
    got = json.loads(capsys.readouterr().out)
    rows = {r["path"].rsplit("/", 1)[-1]: r for r in got["images"]}
    assert set(rows) == {"left.png", "right.png"}
    for name in ("left", "right"):
        classes, anchors = rows[f"{name}.png"]["classes"], rows[f"{name}.png"]["anchors"]
        assert classes[0]["class"] == anchors[0]["class"] == name
        assert sum(c["confidence"] for c in classes) == pytest.approx(1, abs=1e-3)
        assert anchors[0]["distance"] < anchors[1]["distance"]
    assert [p.rsplit("/", 1)[-1] for p in got["skipped"]] == ["broken.png"]
    assert (tmp_path / "sheet.jpg").is_file()
    assert cli.main([*words[:-1], "3"]) == 2
    assert "--top 3: needs 1 to 2" in capsys.readouterr().err


def test_evaluate_reads_whatever_domains_a_split_has(run, capsys):
    _, workdir, _ = run
    assert cli.main(["evaluate", "--workdir", str(workdir), "--split", "source", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    got = got.get("metrics", got)
    assert {"accuracy/red", "accuracy/green"} <= set(got)
    assert "accuracy/blue" not in got


def test_rows_of_the_tables():
    assert recipe.pairs(("amazon", "dslr", "webcam"))["uda_a_w"] == "amazon->webcam"
    assert len(recipe.pairs(("Art", "Clipart", "Product", "Real_World"))) == 12
    assert recipe.many_to_one(("amazon", "dslr", "webcam"), 2)["msda_ad_w"] == "amazon/dslr->webcam"
    assert recipe.one_to_many(("amazon", "caltech", "dslr", "webcam"))["dal_a_cdw"] == "amazon->caltech/dslr/webcam"

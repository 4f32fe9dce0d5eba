"""Views, splits, records and prediction of SlimCLR, on a world of a few rendered files."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxvl import cli
from jaxvl.core import config as configs
from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.data import color, transforms
from jaxvl.data.readers.classification.image_records import label_of
from jaxvl.data.synthetic.patterns import PatternWorld, ensure_world, render
from jaxvl.methods.slimclr.augment import VIEWS, views_of
from jaxvl.methods.slimclr.data import build_data, central
from jaxvl.verbs import prepare, train
from tests import tiny
from tests.data.readers.test_classification_arrays import cifar10, idx_bytes
from tests.methods.slimclr_small import SMALL

WORLD = ("data.world.classes=4", "data.world.num_train=64", "data.world.num_test=24", "data.world.size=12")


def config(*overrides):
    base = tiny.load("slimclr/patterns.py")
    with base.unlocked():
        base.data.world = {"classes": 4, "num_train": 64, "num_test": 24, "size": 12}
    base.lock()
    return configs.apply(base, [*SMALL, "data.classes=4", "train.log_every=1", "pipeline.threads=1", *overrides])


def picture(seed=0, size=(40, 30)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_page_explains_every_field_of_the_method():
    house = {name for name, _ in configs.dotted(configs.base())}
    fields = {name for name, _ in configs.dotted(tiny.load("slimclr/quickstart.py"))} - house
    page = (tiny.ROOT / "docs" / "methods" / "slimclr.md").read_text()
    fields = {"data.world" if f.startswith("data.world") else f for f in fields}
    assert fields - set(re.findall(r"`((?:[a-z_]\w*\.)+[a-z_]\w*)`", page)) == set()


def test_published_views_have_their_values():
    v2, _ = VIEWS["mocov2"]
    assert (v2.scale, v2.jitter, v2.jitter_p, v2.gray_p, v2.blur_p, v2.flip_p) == (
        (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.5,
    )  # fmt: skip
    a, b = VIEWS["mocov3"]
    assert (a.jitter, a.blur_p, a.solarize_p) == ((0.4, 0.4, 0.2, 0.1), 1.0, 0.0)
    assert (b.blur_p, b.solarize_p) == (0.1, 0.2)
    assert VIEWS["simclr"][0].jitter == (0.8, 0.8, 0.8, 0.2)
    assert VIEWS["slim"][0].jitter == (0.4, 0.4, 0.4, 0.0)


def test_a_view_is_its_operations_in_the_published_order():
    view = dataclasses.replace(VIEWS["mocov3"][1], jitter_p=1.0, gray_p=0.0, blur_p=1.0, solarize_p=1.0, flip_p=1.0)
    rng = np.random.default_rng(5)
    wanted = transforms.random_resized_crop(picture(), 24, rng, (0.2, 1.0))
    rng.random()
    wanted = color.ColorJitter(0.4, 0.4, 0.2, 0.1)(wanted, rng)
    rng.random()
    wanted = color.gaussian_blur(wanted, rng.uniform(0.1, 2.0))
    rng.random()
    wanted = transforms.random_flip(color.solarize(wanted), rng, 1.0)
    np.testing.assert_array_equal(view(picture(), 24, np.random.default_rng(5)), np.asarray(wanted))


def test_views_of_a_name_with_changes():
    a, b = views_of("mocov3", {"scale": (0.5, 1.0), "flip_p": 0.0})
    assert (a.scale, b.scale, a.blur_p, b.flip_p) == ((0.5, 1.0), (0.5, 1.0), 1.0, 0.0)
    with pytest.raises(InputError, match=r"config.data.augment: 'moco' is none of mocov2"):
        views_of("moco", {})
    with pytest.raises(InputError, match=r"config.data.view: 'blur' is no field of a view"):
        views_of("mocov2", {"blur": 1})


def test_evaluation_takes_the_published_central_crop():
    image = picture(size=(60, 40))
    resized = image.resize((48, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(central(image, 28, 32), np.asarray(resized)[2:30, 10:38])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    return root, build_data(config(f"data.root={root}", "data.holdout=14", "data.bank=30"), root, lambda line: None)


def test_splits_share_nothing_and_labels_stay_on_the_host(world):
    _, data = world
    train_set, val, test = data.train["train"].source, data.splits["val"]["query"].source, data.splits["test"]
    ids = lambda s: {s[i].image_id for i in range(len(s))}  # noqa: E731
    assert (len(train_set), len(val), len(test["query"].source), len(test["bank"].source)) == (50, 14, 24, 30)
    assert not ids(train_set) & ids(val)
    assert ids(test["bank"].source) <= ids(train_set)
    row = data.train["train"].make(train_set[0], np.random.default_rng(0))
    assert sorted(row) == ["view_a", "view_b"]
    assert (row["view_a"] != row["view_b"]).any()
    again = data.train["train"].make(train_set[0], np.random.default_rng(0))
    other = data.train["train"].make(train_set[0], np.random.default_rng(1))
    np.testing.assert_array_equal(row["view_b"], again["view_b"])
    assert (row["view_a"] != other["view_a"]).any()
    seen = test["query"].make(test["query"].source[5], np.random.default_rng(0))
    assert seen["image"].shape == (8, 8, 3)
    assert seen["_label"] == label_of(test["query"].source[5])


def test_global_statistics_of_moco_v2_are_named(world):
    root, data = world
    assert any("config.model.bn_groups is 1" in line for line in data.reports)
    grouped = build_data(config(f"data.root={root}", "model.bn_groups=4"), root, lambda line: None)
    assert not any("bn_groups" in line for line in grouped.reports)


def test_world_is_the_same_every_time_and_refuses_another(world):
    root, _ = world
    one, other = (render(PatternWorld(classes=4, size=12), "test", 5) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    with pytest.raises(InputError, match="holds another pattern world"):
        ensure_world(PatternWorld(classes=5), root, lambda line: None)


@pytest.mark.parametrize(
    ("items", "line"),
    [
        (("data.holdout=64",), r"config.data.holdout: 64 of 64 training pictures"),
        (("data.batch_size=80", "model.queue=80"), r"config.data.batch_size: 80 is more than the 64 pictures"),
        (("data.classes=3",), r"config.data.classes: 3, but the data has 4"),
        (("data.reader=lmdb",), r"config.data.reader: 'lmdb' is none of imagenet, folder"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(world, items, line):
    root, _ = world
    with pytest.raises(InputError, match=line):
        build_data(config(f"data.root={root}", *items), root, lambda line: None)
    plain = tiny.load("slimclr/fashion_mnist.py")
    with pytest.raises(InputError, match=r"config.data.root: is empty"):
        build_data(plain, root, lambda line: None)


def lay_out(name, root):
    """Eight training pictures or more in the layout that the config of a name reads."""
    if name == "cifar10":
        cifar10(root / "cifar-10-batches-py")
    elif name == "fashion_mnist":
        for part in ("train", "t10k"):
            (root / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((16, 28, 28), np.uint8)))
            (root / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(16, dtype=np.uint8) % 10))
    else:
        for split in ("train", "val"):
            for i in range(8):
                file = root / split / f"n0000000{i}" / f"n0000000{i}_1.JPEG"
                file.parent.mkdir(parents=True)
                picture(i).save(file)


@pytest.mark.parametrize("name", ["imagenet", "imagenet_probe", "cifar10", "fashion_mnist"])
def test_a_published_config_reads_its_published_layout(name, tmp_path):
    lay_out(name, tmp_path)
    few = ("data.holdout=8",) if name == "fashion_mnist" else ()
    c = tiny.load(f"slimclr/{name}.py", f"data.root={tmp_path}", "data.batch_size=8", "model.queue=64", *few)
    data = build_data(c, tmp_path / "run", lambda line: None)
    spec = session.build_method(c).batch_spec["train"]
    row = data.train["train"].make(data.train["train"].source[1], np.random.default_rng(0))
    for field, one in spec.items():
        assert (np.shape(row[field]), row[field].dtype) == (one.shape[1:], one.dtype), field
    query = data.splits[c.eval.split]["query"]
    assert query.make(query.source[0], np.random.default_rng(0))["image"].shape == (c.data.image_size,) * 2 + (3,)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    root, _ = world
    workdir = tmp_path_factory.mktemp("runs") / "slim"
    short = ("train.steps=4", "train.checkpoint_every=4", "model.analyse_every=2", "model.slow_start=0.0")
    cfg = config(f"data.root={root}", *short, "eval.knn_k=5")
    return workdir, train.train(cfg, workdir, say=lambda line: None)


def test_a_run_ends_with_every_width_measured_and_a_report(trained):
    workdir, result = trained
    assert result.recompilations == 0
    assert {f"{m}/{w}" for m in ("knn", "linear", "shared") for w in ("w100", "w050")} <= result.metrics.keys()
    assert (result.metrics["bank"], result.metrics["query"]) == (64, 24)
    titles = [p["title"] for p in json.loads((workdir / "pictures" / "index.json").read_text())]
    assert titles == ["Nearest neighbours at w100", "Nearest neighbours at w050", "Throughput against accuracy",
                      "Gradient imbalance"]  # fmt: skip


def test_prediction_embeds_a_folder_at_a_width_and_finds_the_picture_itself_elsewhere(trained, world, capsys, tmp_path):
    (workdir, _), (root, _) = trained, world
    folder = root / "test"
    query = sorted(folder.rglob("*.png"))[3]
    copy = tmp_path / "copy.png"
    copy.write_bytes(query.read_bytes())
    words = ["--images", str(folder), "--width", "0.5", "--like", str(copy), "--out", str(tmp_path / "f.npz")]
    assert cli.main(["predict", "--workdir", str(workdir), "--json", *words, "--throughput"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["dim"]) == (24, 8)
    best = found["neighbours"][0]["results"][0]
    assert best["path"] == str(query)
    assert best["cosine"] == pytest.approx(1.0, abs=1e-5)
    stored = np.load(tmp_path / "f.npz")
    assert stored["features"].shape == (24, 8)
    assert set(found["images_per_s"]) == {"w100", "w050"}
    assert cli.main(["predict", "--workdir", str(workdir), "--images", str(folder), "--width", "0.3"]) == 2
    assert "--width 0.3: this model has the widths 1, 0.5" in capsys.readouterr().err


def test_records_hold_the_same_pictures(world, tmp_path):
    root, _ = world
    cfg = config(f"data.root={root}", "data.records.short_side=12", "data.records.shards=2")
    prepare.prepare(cfg, tmp_path / "out")
    again = build_data(
        config("data.reader=records", f"data.root={tmp_path / 'out'}", "data.eval_resize=12"),
        tmp_path,
        lambda line: None,
    )
    plain = build_data(config(f"data.root={root}", "data.eval_resize=12"), tmp_path, lambda line: None)
    one, other = (d.splits["test"]["query"] for d in (plain, again))
    assert len(one.source) == len(other.source) == 24
    look = lambda e, i: e.make(e.source[i], np.random.default_rng(0))  # noqa: E731
    apart = lambda a, b: np.abs(a["image"].astype(int) - b["image"]).mean()  # noqa: E731
    for i in (0, 17):
        a, b = look(one, i), look(other, i)
        assert (a["_label"], a["_image_id"]) == (b["_label"], b["_image_id"])
        assert apart(a, b) < 0.6 * min(apart(look(one, j), b) for j in range(24) if j != i)  # JPEG of 12x12 is rough

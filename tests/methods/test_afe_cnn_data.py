"""Sequences to AFE-CNN's batches: windows, rotation, bodies, crops, and every data set from its published layout."""

from __future__ import annotations

import numpy as np
import pytest

from jaxvl.core import class_names
from jaxvl.core import config as configs
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import pipeline, skeletons
from jaxvl.data.readers.skeletons.clips import SkeletonClip
from jaxvl.data.readers.skeletons.plain import as_bodies
from jaxvl.methods.afe_cnn import data as sources
from jaxvl.verbs import prepare
from tests.data.readers import skeleton_files as files


def clip(frames=90, bodies=1, seed=0, label=3):
    rng = np.random.default_rng(seed)
    made = np.stack([files.person(rng, frames, at=(k, 0, 3)) for k in range(bodies)])
    return SkeletonClip(f"c{seed}", label, made)


def test_an_example_is_normalised_then_cut_then_resampled_then_turned():
    record, frames = clip(bodies=2), 16
    make = sources.MakeClip(skeletons.NTU25, frames, rotation=0.3)
    row = make(record, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    x = skeletons.normalise(record.bodies, skeletons.NTU25)
    size = min(max(int(90 * rng.uniform(0.5, 1)), 64), 90)
    start = rng.integers(0, 90 - size + 1)
    x = skeletons.resample(x[:, start : start + size], frames)
    angles = rng.uniform(-0.3, 0.3, 3)
    np.testing.assert_array_equal(row["x"], skeletons.rotate(x, skeletons.rotation(angles)))
    assert (row["x"].shape, row["x"].dtype) == ((2, 16, 25, 3), np.float32)
    assert row["present"].tolist() == [True, True]
    assert (row["label"], row["_label"]) == (3, 3)
    centre = sources.MakeClip(skeletons.NTU25, frames, centre=0.95)
    a, b = (centre(record, np.random.default_rng(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(a["x"], b["x"])
    whole = skeletons.normalise(record.bodies, skeletons.NTU25)[:, 2:88]
    np.testing.assert_array_equal(a["x"], skeletons.resample(whole, frames))


def test_absent_bodies_and_holes():
    make = sources.MakeClip(skeletons.NTU25, 8, rotation=0.3)
    one = make(clip(), np.random.default_rng(0))
    assert one["present"].tolist() == [True, False]
    assert not one["x"][1].any()
    both = clip(frames=200, bodies=2).bodies
    both[1, 20:] = 0  # only seen at the beginning
    ends = {make(SkeletonClip("c", 0, both), np.random.default_rng(s))["present"][1].item() for s in range(40)}
    assert ends == {True, False}
    hole = clip(frames=300).bodies
    hole[:, 5:-1] = 0
    rows = [make(SkeletonClip("c", 0, hole), np.random.default_rng(s)) for s in range(20)]
    assert all(row["present"][0] for row in rows)
    padded = np.concatenate([clip().bodies, np.zeros((1, 60, 25, 3), np.float32)], axis=1)
    centre = sources.MakeClip(skeletons.NTU25, 8, centre=0.95)
    want = centre(clip(), np.random.default_rng(0))["x"]
    np.testing.assert_array_equal(centre(SkeletonClip("c", 0, padded), np.random.default_rng(0))["x"], want)


def test_a_body_without_extent_and_one_that_is_miles_away_are_bad_media():
    still = SkeletonClip("stuck", 0, np.ones((1, 9, 25, 3), np.float32))
    for make in (sources.MakeClip(skeletons.NTU25, 8), sources.MakeClip(skeletons.NTU25, 8, centre=0.95)):
        with pytest.raises(BadMedia, match="stuck: no frame has a body with an extent"):
            make(still, np.random.default_rng(0))
    for far in (np.inf, -1e38, 2e4):
        joints = files.person(np.random.default_rng(0), 4)
        joints[2, 3, 1] = far
        with pytest.raises(BadMedia, match=r"a joint is at .* m; joints are in metres"):
            as_bodies(joints, skeletons.NTU25, "far")


def published(kind, root):
    """A few sequences of each data set as it is published."""
    if kind == "utkinect":
        files.write_utkinect(root, [f"s{s:02d}_e{e:02d}" for s in range(1, 5) for e in (1, 2)])
        return
    names = files.ntu_names(actions=(1, 7, 60, 120) if kind == "ntu120" else (1, 7, 60))
    files.write_ntu(root, names, two=lambda name: name.endswith("60"))


TRAINED = {"ntu60.xsub": 12, "ntu60.xview": 12, "ntu120.xsub": 16, "ntu120.xset": 16, "utkinect.loso": 70 * 20}
TRAINED["utkinect.xsub_odd"] = 40 * 20
SMALL = ["data.batch_size=6", "data.eval_batch_size=4", "mesh.data=1"]


@pytest.mark.parametrize("name", TRAINED)
def test_published_layouts_give_what_the_model_reads(name, tmp_path):
    from jaxvl.methods.afe_cnn.method import batch_spec

    kind, protocol = name.split(".")
    published(kind, tmp_path)
    config = configs.load(f"configs/afe_cnn/{kind}.py:{protocol}", [*SMALL, f"data.root={tmp_path}"])
    data = sources.build_data(config, tmp_path / "work", print)
    assert len(data.train["clips"].source) == TRAINED[name]
    batch = next(pipeline.train_batches(data.train["clips"], seed=0))
    for field, spec in batch_spec(config).items():
        assert (batch[field].shape, batch[field].dtype) == (spec.shape, spec.dtype), field
    assert batch["present"][:, 0].all()
    tested = list(pipeline.eval_batches(data.splits["test"]["clips"], seed=0))
    assert tested[0]["x"].shape[1:] == batch["x"].shape[1:]
    assert sum(b["_valid"].sum() for b in tested) == len(data.splits["test"]["clips"].source)
    assert len(class_names.read(tmp_path / "work", config.model.classes)) == config.model.classes


def test_all_that_was_left_out_is_listed(tmp_path, capsys):
    published("ntu60", tmp_path)
    folder = tmp_path / "nturgb+d_skeletons"
    for action in range(2, 7):
        (folder / f"S001C001P001R001A{action:03d}.skeleton").write_text("nothing\n")
    config = configs.load("configs/afe_cnn/ntu60.py:xsub", [*SMALL, f"data.root={tmp_path}"])
    data = sources.build_data(config, tmp_path / "work", print)
    assert data.reports[-1] == "all that was left out, each with its reason: left_out.txt"
    lines = (tmp_path / "work" / "left_out.txt").read_text().splitlines()
    assert lines == [
        f"train\tS001C001P001R001A{action:03d}\tline 1: the number of frames is missing" for action in range(2, 7)
    ]
    prepare.prepare(config, None)
    assert lines[4] in capsys.readouterr().out


def test_a_world_is_never_written_among_other_files(tmp_path):
    world = ("data.batch_size=8", "data.world.num_train=20", "data.world.num_test=20", f"data.root={tmp_path / 'data'}")
    config = configs.load("configs/afe_cnn/quickstart.py", world)
    (tmp_path / "data" / "train" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="holds other files, among which no world of actions is written"):
        sources.build_data(config, tmp_path, print)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["train"]
    config.data.root = str(tmp_path / "new")
    said = []
    sources.build_data(config, tmp_path, said.append)
    assert len(said) == 2
    (tmp_path / "new" / "actions.json").rename(tmp_path / "new" / ".actions.json")  # killed before the end
    sources.build_data(config, tmp_path, said.append)
    sources.build_data(config, tmp_path, said.append)
    assert len(said) == 4
    config.data.world.num_test = 40
    with pytest.raises(InputError, match="holds another world of actions"):
        sources.build_data(config, tmp_path, said.append)


def test_every_data_config_names_what_is_needed():
    for spec, what in (
        ("ntu60.py:xsub", "data.root: the folder of the .skeleton files of NTU RGB+D"),
        ("utkinect.py:loso", "data.root: the folder of UTKinect-Action3D, with actionLabel.txt and joints/"),
    ):
        assert sources.needs(configs.load(f"configs/afe_cnn/{spec}")) == [what]
    assert sources.needs(configs.load("configs/afe_cnn/quickstart.py")) == []
    assert set(sources.LAYOUTS) == set(sources.READERS)


def test_crops_of_the_evaluation_share_an_id(tmp_path):
    published("utkinect", tmp_path)
    config = configs.load("configs/afe_cnn/utkinect.py:loso", [*SMALL, f"data.root={tmp_path}", "data.test_crops=3"])
    config.data.least_frames = 2
    test = sources.build_data(config, tmp_path / "work", print).splits["test"]["clips"]
    batches = list(pipeline.eval_batches(test, seed=0))
    ids = [name for b in batches for name, valid in zip(b["_id"], b["_valid"]) if valid]
    assert len(ids) == 30
    assert ids[:4] == ["s01_e01/walk"] * 3 + ["s01_e01/sitDown"]
    x = np.concatenate([b["x"] for b in batches])
    assert len({row.tobytes() for row in x[:3]}) > 1


def test_folds_are_those_of_the_recordings(tmp_path):
    published("utkinect", tmp_path)
    config = configs.load("configs/afe_cnn/utkinect.py:loso", [f"data.root={tmp_path}"])
    assert sources.folds(config) == [{"data.fold": n} for n in range(8)]
    assert sources.folds(configs.load("configs/afe_cnn/utkinect.py:xsub_odd", [f"data.root={tmp_path}"])) == []
    with pytest.raises(InputError, match=r"config.data.root: is empty; name the folder of UTKinect"):
        sources.folds(configs.load("configs/afe_cnn/utkinect.py:loso"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["model.classes=61"], "config.model.classes: 61, but NTU RGB+D has 60"),
        (["data.batch_size=64"], "config.data.batch_size: 64 is more than the 12 training sequences"),
        (["model.skeleton=utkinect20"], "config.model.skeleton: 'utkinect20', but this is 'ntu25'"),
        (["data.protocol=loso"], "config.data.protocol: 'loso' is none of xsub, xview, xset"),
        (["data.reader=npz"], "NTU60_CS.npz: no such file"),
        (["data.reader=pkl"], "ntu60_3danno.pkl: no such file"),
        (["data.reader=records"], "holds no train/ and test/"),
        (["data.reader=files"], "train: no such folder; the layout is ROOT/SPLIT/CLASS/NAME.csv"),
        (["data.reader=utkinect"], "actionLabel.txt: no such file"),
        (["data.root="], "config.data.root: is empty; name the folder of the .skeleton files"),
        (["data.missing=('none.txt',)"], "none.txt: no such file (the list of missing skeletons)"),
    ],
)
def test_data_that_does_not_fit_is_one_line(changes, line, tmp_path):
    published("ntu60", tmp_path)
    config = configs.load("configs/afe_cnn/ntu60.py:xsub", [*SMALL, f"data.root={tmp_path}", *changes])
    with pytest.raises(InputError) as error:
        sources.build_data(config, tmp_path / "work", print)
    assert line in str(error.value)
    assert "\n" not in str(error.value)

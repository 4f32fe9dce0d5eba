"""PoseGU's batches and its evaluator, on small data sets in their published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.data.readers.poses import h36m_cameras
from jaxvl.methods.posegu import data as sources
from jaxvl.methods.posegu import recipe
from jaxvl.methods.posegu.evaluator import PoseErrors
from jaxvl.metrics import poses
from jaxvl.ops import cameras, kinematics
from tests.data.readers import pose_files as files


def config_of(*overrides: str):
    """A config of the recipe with fields replaced."""
    return configs.apply(recipe.base(), overrides)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Overrides that name all three data sets."""
    top = tmp_path_factory.mktemp("poses")
    files.write_h36m(top / "h36m")
    files.write_3dhp_common(top / "test_3dhp.npz")
    files.write_3dpw(top / "3dpw")
    return (
        f"data.root={top / 'h36m'}",
        f"data.root_3dhp={top / 'test_3dhp.npz'}",
        f"data.root_3dpw={top / '3dpw'}",
        "data.seed_capacity=512",
        "data.batch_size=64",
    )


def test_all_data_sets_beside_each_other(roots, tmp_path):
    config = config_of(*roots, "data.test=('h36m','3dhp','3dpw','mocap')", "data.seeds=S15")
    data = sources.build_data(config, tmp_path, print)
    assert list(data.splits["test"]) == ["h36m", "3dhp", "3dpw", "mocap"]
    train = data.train["poses"]
    assert train.batch_size == recipe.real_rows(config) == 32
    frames = len(files.TAKES) * (files.SUBJECTS["S1"] + files.SUBJECTS["S5"])
    assert len(train.source) == 4 * frames
    row = train.make(train.source[0], np.random.default_rng(0))
    assert {k: (v.shape, v.dtype) for k, v in row.items()} == {
        "x2d": ((16, 2), np.float32),
        "x3d": ((16, 3), np.float32),
    }
    for examples in data.splits["test"].values():
        row = examples.make(examples.source[0], np.random.default_rng(0))
        assert set(row) == {"x2d", "_x3d", "_action", "_clip", "_frame"}
        assert np.abs(row["x2d"]).max() < 2
        assert row["_x3d"].shape == (16, 3)
    assert len(data.reports) == 6
    assert all("\n" not in line for line in data.reports)


def test_seeds_are_laid_with_the_cameras_that_see_them(roots, tmp_path):
    config = config_of(*roots, "data.seeds=S15")
    data = sources.build_data(config, tmp_path, print)
    laid = {name.removeprefix("seeds/"): value for name, value in data.constants.items()}
    assert set(laid) == set(recipe.Seeds._fields)
    count = int(laid["count"])
    assert count == len(files.TAKES) * (files.SUBJECTS["S1"] + files.SUBJECTS["S5"])
    assert laid["world"].shape == (512, 16, 3)
    assert not laid["world"][count:].any()
    assert set(laid["subject"][:count]) == {0, 1}
    assert h36m_cameras.SUBJECTS == recipe.SUBJECTS
    # a seed, seen by the cameras that its subject names, is one of the real pairs
    row, c = count - 1, 3
    seen = kinematics.world_to_camera(
        laid["world"][row], laid["cameras_q"][laid["subject"][row], c], laid["cameras_t"][laid["subject"][row], c]
    )
    screen = cameras.project(seen, laid["cameras_k"][laid["subject"][row], c])
    source = data.train["poses"].source
    near = np.abs(source.x2d - screen).max((1, 2))
    assert near.min() < 1e-4
    np.testing.assert_allclose(source.x3d[near.argmin()], seen, atol=1e-4)
    alone = sources.seed_set(config)
    np.testing.assert_array_equal(alone["world"], laid["world"])
    with pytest.raises(InputError, match=r"^config.data.seed_capacity: 5, but there are 102 seeds; raise it$"):
        sources.build_data(config_of(*roots, "data.seeds=S15", "data.seed_capacity=5"), tmp_path, print)
    without = sources.build_data(config_of(*roots, "model.generated=0.0"), tmp_path, print)
    assert without.constants == {}


@pytest.mark.parametrize("name", ["h36m", "scarce", "cross"])
def test_every_row_reads_its_published_layout(roots, tmp_path, name):
    path = f"configs/posegu/{name}.py"
    rows = configs.module_of(Path(path)).EXPERIMENTS
    for row in rows:
        config = configs.load(f"{path}:{row}", [*roots[:3], "data.seed_capacity=1024"])
        if "spread1000" in row:  # more than the small data set has
            with pytest.raises(InputError, match="'seeds:1000', but there are 192 poses"):
                sources.build_data(config, tmp_path, print)
            continue
        data = sources.build_data(config, tmp_path, print)
        train = data.train["poses"]
        assert len(train.source) >= train.batch_size == recipe.real_rows(config), row
        assert list(data.splits["test"]) == list(config.data.test), row
        assert bool(data.constants) == (not row.endswith("baseline")), row


def test_motion_capture_needs_nothing_and_sees_few_seeds_again_and_again(tmp_path):
    config = recipe.mocap()
    assert sources.needs(config) == []
    data = sources.build_data(config, tmp_path, print)
    train = data.train["poses"]
    assert len(train.source) >= train.batch_size == 32
    record = train.source[5]
    first, second = (train.make(record, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.abs(first["x2d"] - second["x2d"]).max() > 0.01  # another camera each time
    assert {train.id_of(train.source[i]) for i in range(32)} == {f"walk/{5 * i:06d}" for i in range(8)}
    assert set(data.constants) == {"seeds/world", "seeds/count", "seeds/subject"}
    assert list(data.splits["test"]) == ["mocap"]


def test_what_has_to_be_given_is_said():
    config = config_of("data.test=('3dhp','3dpw','h36m')")
    assert [line.split(":")[0] for line in sources.needs(config)] == ["data.root", "data.root_3dhp", "data.root_3dpw"]
    with pytest.raises(InputError, match=r"^config.data.root: is empty; name the folder of data_3d_h36m.npz"):
        sources.build_data(config, ".", print)


def batch_of(x3d, actions, clips, frames):
    """What the loop hands to an evaluator, beside predictions of zeros."""
    ids = [f"{c}/{f}" for c, f in zip(clips, frames, strict=True)]
    return {
        "_x3d": list(x3d),
        "_action": [f"act{a}" for a in actions],
        "_clip": list(clips),
        "_frame": list(frames),
        "_id": ids,
    }


def filled(evaluator, stream, predicted, x3d, actions, clips, frames, size=3):
    acc = evaluator.init()
    for i in range(0, len(x3d), size):
        part = slice(i, i + size)
        examples = batch_of(x3d[part], actions[part], clips[part], frames[part])
        acc = evaluator.update(acc, stream, {"x3d": predicted[part]}, examples)
    return acc


def test_errors_are_of_rooted_poses_in_millimetres():
    rng = np.random.default_rng(0)
    x3d = files.camera_poses(10)
    predicted = x3d - x3d[:, :1] + rng.normal(0, 0.05, x3d.shape).astype(np.float32) * (np.arange(16) > 0)[:, None]
    actions, clips, frames = np.repeat([0, 4], [7, 3]), np.repeat([0, 1], [7, 3]), [*range(7), 0, 1, 5]
    acc = filled(PoseErrors(), "h36m", predicted, x3d, actions, clips, frames)
    found = PoseErrors().compute(acc)
    error = 1000 * np.linalg.norm(predicted - (x3d - x3d[:, :1]), axis=-1)
    each = error.mean(1)
    assert found["mpjpe"] == pytest.approx((each[:7].mean() + each[7:].mean()) / 2, rel=1e-5)
    assert found["mpjpe/h36m"] == found["mpjpe"]
    assert found["action/h36m/act4"] == pytest.approx(each[7:].mean(), rel=1e-5)
    assert found["pa_mpjpe"] < found["n_mpjpe"] <= found["mpjpe"]
    assert found["poses"] == 10
    assert found["pck"] == pytest.approx(100 * ((error[:7] < 150).mean() + (error[7:] < 150).mean()) / 2)
    assert found["p90"] == pytest.approx((np.percentile(each[:7], 90) + np.percentile(each[7:], 90)) / 2, rel=1e-5)
    steps = 1000 * np.linalg.norm(np.diff(predicted - (x3d - x3d[:, :1]), axis=0), axis=-1).mean(-1)
    assert found["mpjve"] == pytest.approx((steps[:6].mean() + steps[7]) / 2, rel=1e-4)  # none over a gap
    over_frames = PoseErrors(averaging="per_frame").compute(acc)
    assert over_frames["mpjpe"] == pytest.approx(each.mean(), rel=1e-5)
    joints = list(poses.JOINT_SETS["official14"])
    fourteen = PoseErrors(averaging="per_frame", joints="official14").compute(acc)
    assert fourteen["pck"] == pytest.approx(100 * (error[:, joints] < 150).mean())
    assert fourteen["mpjpe"] == over_frames["mpjpe"]  # the set of joints is PCK's
    kept = PoseErrors().artifacts(acc)
    np.testing.assert_allclose(kept["h36m/mpjpe"], each, rtol=1e-4)
    assert kept["h36m/predicted"].shape == (10, 16, 3)


def test_data_sets_are_kept_apart_and_what_is_missing_is_nan():
    x3d = files.camera_poses(4)
    evaluator = PoseErrors()
    acc = filled(evaluator, "3dhp", x3d - x3d[:, :1], x3d, [0, 0, 1, 1], [0] * 4, [0, 2, 4, 6])
    acc = evaluator.update(acc, "3dpw", {"x3d": np.zeros((0, 16, 3))}, batch_of([], [], [], []))
    found = evaluator.compute(acc)
    assert found["mpjpe"] == found["mpjpe/3dhp"] == pytest.approx(0, abs=1e-4)
    assert found["pck/3dhp"] == 100
    assert np.isnan(found["mpjve/3dhp"])  # no two frames follow each other
    assert {"action/3dhp/act0", "action/3dhp/act1"} <= set(found)
    assert found["poses/3dpw"] == 0
    for name in ("mpjpe", "pa_mpjpe", "n_mpjpe", "mpjve", "pck", "auc", "p90"):
        assert np.isnan(found[f"{name}/3dpw"]), name


def test_data_sets_without_actions_are_averaged_over_frames():
    x3d = files.camera_poses(4)
    predicted = x3d - x3d[:, :1]
    predicted[3, 5] += 1
    rows = (predicted, x3d, [0, 0, 0, 1], [0] * 4, range(4))
    assert PoseErrors().compute(filled(PoseErrors(), "3dhp", *rows))["mpjpe"] == pytest.approx(
        1000 * np.sqrt(3) / 16 / 4, rel=1e-4
    )
    assert PoseErrors().compute(filled(PoseErrors(), "h36m", *rows))["mpjpe"] == pytest.approx(
        1000 * np.sqrt(3) / 16 / 2, rel=1e-4
    )

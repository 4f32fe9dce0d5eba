"""A tiny PoseGU is trained once; `jaxvl predict`, `lift`, `generate` and the report stand on it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from jaxvl import api
from jaxvl.core import config as configs
from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data import mocap
from jaxvl.data.readers.poses import joints as own
from jaxvl.data.readers.poses.motions import SCREEN, see, upright
from jaxvl.data.skeletons import H36M16
from jaxvl.methods.posegu import files as posegu
from jaxvl.methods.posegu import generator, results
from jaxvl.ops import cameras, kinematics
from tests.data.readers import pose_files
from tests.methods.verbs import predicted

SMALL = (
    "model.width=8", "model.stages=1", "model.gen.pool_size=128", "train.steps=2",
    "train.checkpoint_every=2", "train.log_every=1", "data.batch_size=32", "data.eval_batch_size=64", "mesh.data=1",
)  # fmt: skip
SEEN = np.stack([see(pose, np.random.default_rng(i))[0] for i, pose in enumerate(pose_files.motion("walk", 3))])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Workdir of a run on the eight seeds."""
    workdir = tmp_path_factory.mktemp("posegu")
    api.train(configs.load("configs/posegu/quickstart.py", SMALL), workdir)
    return workdir


@pytest.fixture(scope="module")
def model(run):
    """That run, loaded once."""
    return api.load(run)


def predict(model, capsys, *words, as_json=False):
    """What `jaxvl predict` prints, as `(output, errors)`."""
    return predicted(posegu, model.loaded, capsys, words, as_json)


def coco_of(x):
    """COCO's joints of the sixteen `[n, 16, C]`, ears 4/5 of the way to the head."""
    out = np.zeros((len(x), 17, x.shape[2]))
    out[:, list(own.TAKEN.values())] = x[:, list(own.TAKEN)]
    middle = (x[:, 10] + x[:, 13]) / 2
    out[:, :5] = (middle + (x[:, 9] - middle) / own.HEAD)[:, None]
    return out


# -- files of joints


def test_the_same_joints_from_every_form(tmp_path):
    pixels = cameras.restore_screen(SEEN.astype(np.float64), 640, 480)
    (tmp_path / "a.json").write_text(json.dumps({"joints": pixels.tolist(), "width": 640, "height": 480}))
    (tmp_path / "b.json").write_text(json.dumps(SEEN.tolist()))
    np.savez(tmp_path / "c.npz", joints=pixels, width=640, height=480)
    np.save(tmp_path / "d.npy", SEEN)
    with (tmp_path / "e.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", *(f"{a}{j}" for j in range(16) for a in "xy")])
        rows.writerows([f"pose{i}", *pose.ravel().tolist()] for i, pose in enumerate(pixels))
    for path in own.find_joints(tmp_path):
        found = own.read_joints(path, (640, 480) if path.endswith("csv") else None)
        np.testing.assert_allclose(found.x2d, SEEN, atol=1e-6, err_msg=path)
        assert len(set(found.names)) == 3
    assert found.names[1].endswith("e.csv#pose1")
    seventeen = pose_files.scatter(SEEN, [j for j in range(17) if j != 9], 17)
    np.testing.assert_allclose(own.as_joints(seventeen, "x", layout="h36m17").x2d, SEEN, atol=1e-6)


def test_coco_s_joints_become_the_sixteen(tmp_path):
    content = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(3)],
        "annotations": [
            {"image_id": i, "keypoints": [v for x, y in pose for v in (x, y, 2)]}
            for i, pose in enumerate(cameras.restore_screen(coco_of(SEEN.astype(np.float64)), 640, 480).tolist())
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = own.read_joints(tmp_path / "a.json")
    exact = sorted(own.TAKEN)
    np.testing.assert_allclose(found.x2d[:, exact], SEEN[:, exact], atol=1e-5)
    np.testing.assert_allclose(found.x2d[:, 0], (SEEN[:, 1] + SEEN[:, 4]) / 2, atol=1e-5)
    np.testing.assert_allclose(found.x2d[:, 9], SEEN[:, 9], atol=1e-5)
    assert found.layout == "coco17"
    hidden = coco_of(SEEN)
    hidden = np.concatenate([hidden, np.ones((3, 17, 1))], -1)
    hidden[:, 3:5, 2] = 0  # no ears: the eyes stand for them
    np.testing.assert_allclose(own.as_joints(hidden, "x").x2d, found.x2d, atol=1e-5)
    hidden[1, 9, 2] = 0
    with pytest.raises(BadMedia, match="pose 1 lacks the left wrist"):
        own.as_joints(hidden, "x")
    hidden[:, :, 2] = 1
    hidden[2, :5, 2] = 0
    with pytest.raises(BadMedia, match="pose 2 lacks nose, eyes and ears"):
        own.as_joints(hidden, "x")
    del content["images"][1]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(BadMedia, match="entry 1 is of an image that 'images' does not list"):
        own.read_joints(tmp_path / "a.json")


def test_the_stated_errors_of_the_mapping_are_those_of_motion_capture():
    x = np.concatenate([clip.joints for clip in mocap.clips().values()])
    shoulders, hips = (x[:, 10] + x[:, 13]) / 2, (x[:, 1] + x[:, 4]) / 2
    guesses = {"hip": (hips, 0), "spine": ((shoulders + hips) / 2, 7), "thorax": (shoulders, 8)}
    off = {name: 1000 * np.linalg.norm(guess - x[:, j], axis=-1).mean() for name, (guess, j) in guesses.items()}
    assert {name: round(mm) for name, mm in off.items()} == own.ESTIMATED_MM


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.json", "{", "broken JSON"),
        ("a.json", "[]", "joints of shape [0], not [poses][16 or 17][2 or 3]"),
        ("a.json", '{"joints": [[1, 2], [3]]}', "no array of numbers"),
        ("a.json", '{"joints": "text"}', "no array of numbers"),
        ("a.json", json.dumps([[[None, 0.0]] * 16]), "pose 0 lacks the hip"),
        ("a.json", json.dumps([[[300.0, 200.0]] * 16]), "holds pixels (up to 300); say the size"),
        ("a.json", json.dumps({"joints": [[[1, 2]] * 16], "width": 0, "height": 5}), "no number of pixels"),
        ("a.json", json.dumps({"joints": [[[1, 2]] * 16], "width": "a", "height": 5}), "no width and height"),
        ("a.json", json.dumps([{"keypoints": [1, 2, 3]}]), "entry 0 has no 'keypoints' of 51 numbers"),
        ("a.json", json.dumps([[[0.1, 0.2]] * 14]), "joints of shape [1, 14, 2]"),
        ("a.csv", "x0,y0\n1,2\n", "needs a header line with x1"),
        ("a.npy", "text", "cannot be read"),
        ("a.npz", "", "cannot be read"),
        ("a.txt", "", "its ending is none of"),
    ],
)
def test_what_is_no_file_of_joints_is_one_line(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadMedia) as error:
        own.read_joints(tmp_path / name)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pose_that_lacks_a_joint_is_left_out_and_the_others_are_not(tmp_path):
    hidden = np.concatenate([SEEN, np.ones((3, 16, 1))], -1)
    hidden[1, 3, 2] = 0  # Human3.6M's with confidences
    np.save(tmp_path / "a.npy", hidden)
    with pytest.raises(BadMedia, match=r"pose 1 lacks the right foot$"):
        own.read_joints(tmp_path / "a.npy")
    skipped = []
    found = own.read_joints(tmp_path / "a.npy", skipped=skipped)
    np.testing.assert_allclose(found.x2d, SEEN[[0, 2]], atol=1e-6)
    assert [name[-2:] for name in found.names] == ["#0", "#2"]
    assert [bad.reason for bad in skipped] == ["pose 1 lacks the right foot"]
    hidden[:, 5] = np.nan
    np.save(tmp_path / "a.npy", hidden)
    with pytest.raises(BadMedia, match=r"pose 0 lacks the left knee$"):  # none is left
        own.read_joints(tmp_path / "a.npy", skipped=skipped)
    people = coco_of(cameras.restore_screen(SEEN.astype(np.float64), 640, 480))
    rows = [np.insert(pose, 2, 2, -1) for pose in people]
    rows[0][15, 2] = 0
    images = [{"id": i, "width": 640 * k, "height": 480 * k} for i, k in enumerate((9, 1, 1))]
    notes = [{"image_id": i, "keypoints": row.ravel().tolist()} for i, row in enumerate(rows)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": notes}))
    found, skipped = own.read_joints(tmp_path / "a.json", skipped=skipped), skipped[1:]
    np.testing.assert_allclose(found.x2d[:, 1:7], SEEN[1:, 1:7], atol=1e-5)  # each by the size of its own picture
    assert [bad.reason for bad in skipped] == ["pose 0 lacks the left ankle"]


def test_sizes_that_do_not_belong_to_the_joints():
    with pytest.raises(BadMedia, match="normalised already, it holds no pixels"):
        own.as_joints(SEEN, "x", size=(640, 480))
    with pytest.raises(BadMedia, match="far outside of the picture"):
        own.as_joints(100 * SEEN + 5000, "x", size=(64, 48))
    with pytest.raises(InputError, match="layout 'body25' is none of"):
        own.as_joints(SEEN, "x", layout="body25")
    with pytest.raises(BadMedia, match="16 joints; coco17 has 17"):
        own.as_joints(SEEN, "x", layout="coco17")


# -- lifting


def test_lift_takes_paths_and_arrays(model, tmp_path):
    assert set(model.verbs) == {"lift", "generate"}
    np.save(tmp_path / "walk.npy", SEEN)
    found = model.lift([tmp_path / "walk.npy", SEEN, SEEN[1]])
    assert found.shape == (7, 16, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[3:6], found[:3], atol=1e-6)
    np.testing.assert_allclose(found[6], found[1], atol=1e-6)
    assert not found[:, 0].any()
    pixels = cameras.restore_screen(SEEN.astype(np.float64), 1000, 800)
    np.testing.assert_allclose(model.lift([pixels], size=(1000, 800)), found[:3], atol=1e-4)
    with pytest.raises(InputError, match="poses: needs a list, got str"):
        model.lift("walk.npy")
    with pytest.raises(BadMedia, match="pose 0: holds pixels"):
        model.lift([pixels])


def test_predict_lifts_and_draws(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    people = np.insert(coco_of(SEEN), 2, 1, -1)[[0, 1, 1, 2]]
    people[1, 9, 2] = 0
    (tmp_path / "in" / "walk.json").write_text(json.dumps(people.tolist()))
    (tmp_path / "in" / "bad.json").write_text("{")
    sheet, poses = tmp_path / "sheet.png", tmp_path / "poses.npz"
    out, err = predict(model, capsys, "--joints", tmp_path / "in", "--out", sheet, "--write", poses, as_json=True)
    found = json.loads(out)
    assert "skipped" in err
    assert "estimated" in err
    assert "spine 35" in err
    assert len(found["poses"]) == 3
    assert found["joint_names"] == list(H36M16.joints)
    assert found["skipped"][0]["path"].endswith("bad.json")
    assert found["skipped"][1]["reason"] == "pose 1 lacks the left wrist"
    joints = np.array([row["joints"] for row in found["poses"]])
    with np.load(poses) as file:
        np.testing.assert_allclose(file["joints"], joints, atol=1e-5)
        assert file["names"][0].endswith("walk.json#0")
    with Image.open(sheet) as image:
        assert np.asarray(image).std() > 5
    text = predict(
        model, capsys, "--joints", tmp_path / "in" / "walk.json", "--no-picture", "--write", tmp_path / "p.json"
    ).out
    assert text.count("torso") == 3
    np.testing.assert_allclose(
        [row["joints"] for row in json.loads((tmp_path / "p.json").read_text())["poses"]], joints, atol=1e-5
    )


def test_a_body_faces_where_it_faces():
    pose = upright(mocap.clips()["walk"].joints)[0]
    frame = kinematics.torso_frame(*(pose[j].astype(np.float64) for j in (0, 8, 10, 13)))
    yaw0 = np.arctan2(frame[2, 1], frame[2, 0])  # of its forward axis on the ground
    words = {}
    for degrees in (0, 90, 180, 270):
        turn = kinematics.about(2, np.array(np.radians(degrees) - yaw0))
        seen = (pose @ turn.T) @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]).T  # x right, y down, z forward
        found = posegu.facing(seen)
        words[degrees] = (found["seen"], found["facing_degrees"])
    assert [words[d][0] for d in (0, 90, 180, 270)] == [
        "looks to the right", "looks away", "looks to the left", "looks into the camera",
    ]  # fmt: skip
    assert abs(words[270][1]) < 30


# -- drawing


def test_generate_gives_valid_poses_of_the_seeds_with_their_densities(model):
    found = model.generate(50, seed=3)
    assert found.pose.shape == (50, 16, 3)
    assert found.valid.all()
    assert set(found.seed) <= set(range(8))
    settings = generator.settings_of(model.loaded.config)
    np.testing.assert_allclose(found.log_p, generator.log_propensity(found.omega, settings), rtol=1e-5)
    np.testing.assert_array_equal(model.generate(50, seed=3).pose, found.pose)
    assert np.abs(model.generate(50, seed=4).pose - found.pose).max() > 0.1
    # bones of the seeds, longer or shorter by their ratios
    seeds = np.asarray(model.loaded.variables["seeds"]["world"])[found.seed]
    lengths = [np.linalg.norm(kinematics.bones(x, H36M16.parents)[:, 1:], axis=-1) for x in (found.pose, seeds)]
    np.testing.assert_allclose(lengths[0] / lengths[1], found.ratio[:, list(generator.LENGTHS)], rtol=1e-4)
    with pytest.raises(InputError, match="count: needs a whole number of at least 1"):
        model.generate(0)


def test_predict_draws_from_seeds_of_one_s_own(model, tmp_path, capsys):
    kick = upright(mocap.clips()["kick"].joints)[:1]
    np.savez(tmp_path / "kick.npz", joints=kick)
    npz, sheet = tmp_path / "drawn.npz", tmp_path / "drawn.png"
    out = predict(
        model, capsys, "--generate", 40, "--seeds", tmp_path / "kick.npz", "--write", npz, "--out", sheet, as_json=True
    ).out
    assert json.loads(out)["poses"] == 40
    with np.load(npz) as file:
        assert {"joints", "x2d", "x3d", "omega", "ratio", "seed", "log_p", "log_q"} <= set(file)
        assert file["joints"].shape == (40, 16, 3)
        assert (file["seed"] == 0).all()
        np.testing.assert_allclose(cameras.project(file["x3d"], SCREEN), file["x2d"], atol=1e-4)
        rooted = file["x3d"] - file["x3d"][:, :1]
        np.testing.assert_allclose(np.linalg.norm(rooted, axis=-1), np.linalg.norm(file["joints"], axis=-1), atol=1e-4)
    assert own.read_world(npz).shape == (40, 16, 3)  # what was drawn can be drawn from
    with Image.open(sheet) as image:
        assert np.asarray(image).std() > 5
    text = predict(model, capsys, "--generate", 4, "--no-picture", "--write", tmp_path / "d.json").out
    assert text.startswith("4 poses; log p from")
    assert len(json.loads((tmp_path / "d.json").read_text())["poses"]) == 4


def test_seeds_that_are_not_as_they_should_be(model, tmp_path):
    kick = upright(mocap.clips()["kick"].joints)[::9]
    for seeds, line in (
        (1000 * kick, "seeds: holds millimetres"),
        (kick * np.nan, "seeds: holds NaN"),
        (kick * [-1, 1, 1], "seeds: bodies are mirrored"),
    ):
        with pytest.raises(InputError, match=line):
            model.generate(3, seeds=seeds)
        np.save(tmp_path / "a.npy", seeds)
        with pytest.raises(InputError, match=line.removeprefix("seeds")):
            own.read_world(tmp_path / "a.npy")
    said = []
    asked = type(model)(model.loaded, said.append)
    assert len(asked.generate(3, seeds=kick).pose) == 3
    assert said == []
    asked.generate(3, seeds=kick @ cameras.Y_UP.T)
    assert "torsos point along y" in said[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--joints: name joints to lift, or --generate N"),
        (["--joints", "a", "--generate", "3"], "one of the two"),
        (["--joints", "a", "--seeds", "b"], "--seeds: belongs to --generate"),
        (["--generate", "3", "--size", "4", "5"], "belong to --joints"),
        (["--joints", "nowhere"], "no such file or folder"),
        (["--generate", "0"], "whole number of at least 1"),
        (["--generate", "3", "--write", "a.txt"], "name a .json or .npz file"),
        (["--generate", "3", "--seeds", "nowhere.npz"], "nowhere.npz"),
        (["--joints", "a", "--out", "a.bmp"], "name a picture file"),
    ],
)
def test_wrong_words_are_one_line(model, capsys, words, line):
    with pytest.raises(InputError) as error:
        predict(model, capsys, *words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


# -- the report


def test_the_report_shows_poses_seeds_weights_and_distance(run):
    index = json.loads((run / "pictures" / "index.json").read_text())
    assert [item["title"] for item in index] == [
        "Lifted poses of mocap",
        "Seeds and generated poses",
        "Where limbs point",
        "Weights of the pool",
        "Error by distance from the training poses",
    ]
    for item in index:
        with Image.open(run / "pictures" / item["file"]) as image:
            assert np.asarray(image).std() > 3, item["title"]
    assert "seeds 2.64" in index[2]["caption"]
    page = (run / "report.html").read_text()
    assert "Errors of lifted poses" in page
    assert "cartwheel" in page


def test_tables_say_what_is_missing():
    found = {"mpjpe": 1.0, "mpjpe/3dhp": 80.04, "mpjve/3dhp": "nan", "poses/3dhp": 2929.0}
    found |= {"action/3dhp/sit": 90.0, "action/3dhp/exercise": 120.0}
    (title, heads, rows, _), worst = results.results_tables(found)
    assert title == "Errors of lifted poses"
    row = dict(zip(heads, rows[0], strict=True))
    assert row["MPJPE"] == 80.0
    assert row["MPJVE"] == row["AUC %"] == "missing"
    assert row["poses"] == 2929
    assert [name for name, _ in worst[2]] == ["exercise", "sit"]

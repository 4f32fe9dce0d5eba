"""Readers of poses on small data sets in their published layouts, and what is usually broken in these files."""

from __future__ import annotations

import copy
import pickle
import shutil

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.readers.poses import checks, h36m, h36m_cameras, motions, mpi_inf_3dhp, pickled, seeds, threedpw
from jaxvl.data.skeletons import H36M16
from jaxvl.ops import cameras, kinematics
from tests.data.readers import pose_files as files

LEFT, RIGHT = (list(side) for side in H36M16.sides)
OTHER = np.arange(16)
OTHER[[*LEFT, *RIGHT]] = [*RIGHT, *LEFT]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Human3.6M with 32 joints in 3-D and 17 in 2-D."""
    return files.write_h36m(tmp_path_factory.mktemp("h36m"))


def one_line(call, *parts):
    """The InputError of a call, one line that holds these parts."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
    return text


# -- Human3.6M


def test_the_test_split_of_human36m(published):
    pairs = h36m.Human36M(published, "gt").test()
    frames = files.SUBJECTS["S9"] + files.SUBJECTS["S11"]
    assert len(pairs) == frames * len(files.TAKES) * 4
    assert pairs.actions == ("Photo", "Walking")
    assert len(pairs.clips) == 2 * len(files.TAKES) * 4
    first = pairs[0]
    assert first.name == f"S9/Photo/{h36m_cameras.NAMES[0]}/000000"
    # both takes of Walking are one action
    walking = {pairs.clips[c] for c in np.unique(pairs.clip[pairs.action == 1])}
    assert {name.split("/")[1] for name in walking} == {"Walking", "Walking 1"}
    # absolute, before the camera; what the picture shows is its projection
    lens = h36m_cameras.intrinsics()
    row = int(np.flatnonzero((pairs.clip == 6) & (pairs.frame == 5))[0])
    assert pairs.clips[6].endswith(h36m_cameras.NAMES[2])
    np.testing.assert_allclose(cameras.project(pairs.x3d[row], lens[2]), pairs.x2d[row], atol=1e-4)
    q, t = h36m_cameras.extrinsics("S9")
    world = files.h36m_3d()["S9"]["Walking"][5][h36m.sixteen_of(32)]
    np.testing.assert_allclose(pairs.x3d[row], kinematics.world_to_camera(world, q[2], t[2]), atol=1e-5)
    assert "without 26 actions (S9/Directions, S9/Discussion" in pairs.report.line()
    assert "543,344" in pairs.report.line()


@pytest.mark.parametrize(("joints", "joints_2d"), [(32, 16), (17, 17), (16, 16)])
def test_files_of_17_and_16_joints_give_the_same(published, tmp_path, joints, joints_2d):
    poses = files.h36m_3d(joints)
    symmetry = None if joints_2d == 16 else files.METADATA
    files.write_h36m(tmp_path, poses, files.h36m_2d(poses, joints_2d), symmetry)
    ours, theirs = h36m.Human36M(tmp_path, "gt").test(), h36m.Human36M(published, "gt").test()
    np.testing.assert_allclose(ours.x3d, theirs.x3d, atol=1e-6)
    np.testing.assert_allclose(ours.x2d, theirs.x2d, atol=1e-6)
    assert ("no metadata" in ours.report.line()) == (joints_2d == 16)


def test_which_joints_are_dropped():
    kept = h36m.sixteen_of(32)
    assert kept == [0, 1, 2, 3, 6, 7, 8, 12, 13, 15, 17, 18, 19, 25, 26, 27]
    assert h36m.sixteen_of(17) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16]
    assert h36m.sixteen_of(16) == list(range(16))


def test_seeds_and_their_pairs(published):
    data = h36m.Human36M(published, "gt")
    chosen, pairs = data.training(seeds.parse_seeds("0.1S1"), 0)
    takes = len(files.TAKES)
    assert len(chosen) == round(0.1 * takes * files.SUBJECTS["S1"])
    assert len(pairs) == 4 * len(chosen)
    assert (chosen.subject == h36m_cameras.SUBJECTS.index("S1")).all()
    assert {name for name, _ in chosen} <= {f"S1/{take}/{f:06d}" for take in files.TAKES for f in range(24)}
    again, _ = data.training(seeds.parse_seeds("0.1S1"), 0)
    other, _ = data.training(seeds.parse_seeds("0.1S1"), 1)
    np.testing.assert_array_equal(chosen.world, again.world)
    assert not np.array_equal(chosen.frame, other.frame)
    # the pairs are of these very poses
    names = {name for name, _ in chosen}
    assert {f"{pairs[i].name.rsplit('/', 2)[0]}/{pairs[i].frame:06d}" for i in range(len(pairs))} == names
    everything, pairs = data.training(seeds.parse_seeds("S15678"), 0)
    assert len(everything) == takes * sum(files.SUBJECTS[s] for s in seeds.TRAINING)
    assert len(pairs) == 4 * len(everything)
    assert sorted(np.unique(everything.subject)) == [0, 1, 2, 3, 4]
    assert "1,559,752" in pairs.report.line()
    far, pairs = data.training(seeds.parse_seeds("seeds:5"), 0)
    assert (len(far), len(pairs)) == (5, 20)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0.001S1", (("S1",), 0.001, 0)),
        ("0.5S1", (("S1",), 0.5, 0)),
        ("S1", (("S1",), 1.0, 0)),
        ("S156", (("S1", "S5", "S6"), 1.0, 0)),
        ("S15678", (seeds.TRAINING, 1.0, 0)),
        ("0.1S15", (("S1", "S5"), 0.1, 0)),
        ("seeds:8", (seeds.TRAINING, 1.0, 8)),
    ],
)
def test_seed_strings(text, rule):
    assert seeds.parse_seeds(text) == seeds.SeedRule(*rule)


@pytest.mark.parametrize("text", ["", "S", "S9", "S11", "1.5S1", "0S1", "S1S5", "seeds:", "seeds:0", "s1", "0.1", "S2"])
def test_wrong_seed_strings(text):
    one_line(lambda: seeds.parse_seeds(text), "config.data.seeds", "S15678")


def test_farthest_points_by_hand_and_by_brute_force():
    x = np.concatenate([files.motion("walk", 20), files.motion("kick", 20), files.motion("cartwheel", 20)])
    found = seeds.farthest(x, 6)
    length = np.linalg.norm(kinematics.bones(x, H36M16.parents)[:, 1:], axis=-1).mean(-1)
    flat = ((x - x[:, :1]) / length[:, None, None]).reshape(len(x), -1)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    assert found[0] == np.linalg.norm(flat - flat.mean(0), axis=-1).argmin()
    for count in range(1, 6):
        assert distance[found[count], found[:count]].min() == pytest.approx(
            distance[:, found[:count]].min(1).max(), rel=1e-4
        )
    assert len(set(found)) == 6
    np.testing.assert_array_equal(seeds.farthest(3 * x + 7, 6), found)  # neither size nor place counts
    with pytest.raises(InputError, match="there are 60 poses"):
        seeds.choose(seeds.parse_seeds("seeds:61"), x, 0)


def changed(poses, subject, take, change):
    """A copy with one take replaced (or dropped: None)."""
    out = {s: dict(takes) for s, takes in poses.items()}
    value = change(copy.deepcopy(out[subject].pop(take)))
    if value is not None:
        out[subject][take] = value
    return out


def with_nan(x):
    x[3, 2] = np.nan
    return x


BROKEN = {
    "an action is missing in 2-D": (None, lambda d: changed(d, "S9", "Photo", lambda v: None), ("S9/Photo", "missing")),
    "2-D is shorter than 3-D": (
        None,
        lambda d: changed(d, "S9", "Photo", lambda v: [x[:5] for x in v]),
        ("S9/Photo", "5 frames in 2-D", "12 in 3-D"),
    ),
    "a camera is missing": (None, lambda d: changed(d, "S9", "Photo", lambda v: v[:3]), ("4 cameras, has 3",)),
    "NaN in 2-D": (None, lambda d: changed(d, "S9", "Photo", lambda v: [with_nan(x) for x in v]), ("NaN", "frame 3")),
    "wrong joints in 2-D": (
        None,
        lambda d: changed(d, "S9", "Photo", lambda v: [x[:, :14] for x in v]),
        ("[15, 14, 2]", "17 or 16"),
    ),
    "normalised 2-D": (
        None,
        lambda d: {s: {a: [v / 500 - 1 for v in views] for a, views in takes.items()} for s, takes in d.items()},
        ("normalised", "needs pixels"),
    ),
    "swapped 2-D": (
        None,
        lambda d: {
            s: {a: [files.scatter(v[:, h36m.sixteen_of(17)][:, OTHER], h36m.sixteen_of(17), 17) for v in views]
                for a, views in takes.items()}
            for s, takes in d.items()
        },
        ("left and right are swapped in 2-D", "S9"),
    ),
    "cameras of another order": (
        None,
        lambda d: {s: {a: views[::-1] for a, views in takes.items()} for s, takes in d.items()},
        ("do the two files belong together", h36m_cameras.NAMES[0]),
    ),
    "a subject lacks 2-D": (None, lambda d: {s: v for s, v in d.items() if s != "S11"}, ("S11/Photo is missing",)),
    "a subject is missing": (lambda d: {s: v for s, v in d.items() if s != "S9"}, None, ("no poses of subject S9",)),
    "NaN": (lambda d: changed(d, "S9", "Photo", with_nan), None, ("S9/Photo", "1 of 12 frames hold NaN", "frame 3")),
    "a joint less in one view": (
        None, lambda d: changed(d, "S9", "Walking", lambda views: [*views[:3], views[3][:, :16]]),
        ("S9/Walking, camera 60457274", "has 16 joints, but S9/Photo, camera 54138969 has 17"),
    ),
    "wrong joints": (lambda d: changed(d, "S9", "Photo", lambda x: x[:, :25]), None, ("S9/Photo", "[12, 25, 3]")),
    "millimetres": (
        lambda d: {s: {a: 1000 * x for a, x in takes.items()} for s, takes in d.items()},
        None,
        ("millimetres", "divide by 1000"),
    ),
    "a joint less in one take": (
        lambda d: changed(files.h36m_3d(17), "S11", "Walking 1", lambda x: x[:, :16]), None,
        ("S11/Walking 1", "has 16 joints, but S9/Photo has 17"),
    ),
    "millimetres in one take": (
        lambda d: changed(d, "S11", "Walking 1", lambda x: 1000 * x), None, ("S11/Walking 1", "divide by 1000"),
    ),
    "y up": (
        lambda d: {s: {a: x @ cameras.Y_UP.T for a, x in takes.items()} for s, takes in d.items()},
        None,
        ("along y", "world coordinates"),
    ),
    "mirrored": (
        lambda d: {s: {a: x * [-1, 1, 1] for a, x in takes.items()} for s, takes in d.items()},
        None,
        ("mirrored", "S9"),
    ),
    "huge numbers": (lambda d: changed(d, "S9", "Photo", lambda x: x * 1e30), None, ("S9/Photo", "no joint has")),
    "a list": (lambda d: [1, 2], None, ("needs a dict",)),
    "texts": (lambda d: changed(d, "S9", "Photo", lambda x: "text"), None, ("S9/Photo", "holds str")),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_in_human36m_is_one_line(tmp_path, what):
    in_3d, in_2d, parts = BROKEN[what]
    poses = files.h36m_3d()
    keypoints = files.h36m_2d(poses)
    files.write_h36m(
        tmp_path, poses if in_3d is None else in_3d(poses), keypoints if in_2d is None else in_2d(keypoints)
    )
    text = one_line(lambda: h36m.Human36M(tmp_path, "gt").test(), *parts)
    assert "data_2d_h36m_gt.npz" in text or "data_3d_h36m.npz" in text


def test_metadata_of_another_order(tmp_path):
    poses = files.h36m_3d()
    coco = {"layout_name": "coco", "keypoints_symmetry": [[1, 3, 5], [2, 4, 6]]}
    files.write_h36m(tmp_path, poses, metadata=coco)
    one_line(lambda: h36m.Human36M(tmp_path, "gt"), "'coco'", "not Human3.6M")
    turned = files.METADATA | {"keypoints_symmetry": files.METADATA["keypoints_symmetry"][::-1]}
    files.write_h36m(tmp_path, poses, metadata=turned)
    one_line(lambda: h36m.Human36M(tmp_path, "gt"), "right before left")


def test_the_corrupt_take_is_left_out(tmp_path, published):
    poses = files.h36m_3d()
    poses["S11"]["Directions"] = poses["S11"]["Photo"]
    poses["S11"]["Directions 1"] = poses["S11"]["Photo"]  # counted: the published files hold it
    files.write_h36m(tmp_path, poses)
    clips = h36m.Human36M(tmp_path, "gt").test().clips
    more = {f"S11/Directions 1/{camera}" for camera in h36m_cameras.NAMES}
    assert set(clips) - set(h36m.Human36M(published, "gt").test().clips) == more


def test_frames_of_2d_beyond_the_3d_may_hold_anything(tmp_path, published):
    keypoints = files.h36m_2d(files.h36m_3d())
    keypoints["S9"]["Photo"][2][-files.LONGER :] = np.nan
    files.write_h36m(tmp_path, None, keypoints)
    x2d = h36m.Human36M(tmp_path, "gt").test().x2d
    np.testing.assert_array_equal(x2d, h36m.Human36M(published, "gt").test().x2d)


def test_missing_files_name_what_is_there(published, tmp_path):
    one_line(lambda: h36m.Human36M(published, "cpn_ft_h36m_dbb"), "data_2d_h36m_cpn_ft_h36m_dbb.npz", "there are gt")
    one_line(lambda: h36m.Human36M(tmp_path / "nowhere", "gt"), "data_3d_h36m.npz", "no such file")
    np.savez(tmp_path / "data_3d_h36m.npz", other=np.zeros(3))
    one_line(lambda: h36m.Human36M(tmp_path, "gt"), "no 'positions_3d'", "it has other")


class _Evil:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(
    "content", [_Evil(), {"S1": _Evil()}, {"S1": {"Walking": np.array([_Evil()], dtype=object)}}, {"S1": h36m.Take}]
)
def test_nothing_that_a_pickle_names_is_called(tmp_path, capsys, content):
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=np.array(content, dtype=object))
    one_line(lambda: h36m.Human36M(tmp_path, "gt"), "only arrays of numbers are read")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    one_line(lambda: pickled.read_pickle(tmp_path / "x.pkl", "it"), "only arrays of numbers are read")
    assert "called" not in capsys.readouterr().out


def test_pickles_that_hold_themselves_or_explode(tmp_path):
    loop: list = []
    loop.append(loop)
    bombs = [loop, [0]]
    for _ in range(12):
        bombs[1] = [bombs[1]] * 100
    (tmp_path / "loop.pkl").write_bytes(pickle.dumps(loop))
    one_line(lambda: pickled.read_pickle(tmp_path / "loop.pkl", "it"), "nests too deep")
    (tmp_path / "laughs.pkl").write_bytes(pickle.dumps(bombs[1]))
    assert len(pickled.read_pickle(tmp_path / "laughs.pkl", "it")) == 100  # at once
    for content in (b"", b"\x80", b"not a pickle", pickle.dumps({"a": 1})[:-3]):
        (tmp_path / "bad.pkl").write_bytes(content)
        one_line(lambda: pickled.read_pickle(tmp_path / "bad.pkl", "it"), "bad.pkl")


@pytest.mark.parametrize("end", [0, 10, 200, 2000])
def test_cut_files(published, tmp_path, end):
    content = (published / "data_3d_h36m.npz").read_bytes()
    (tmp_path / "data_3d_h36m.npz").write_bytes(content[:end])
    one_line(lambda: h36m.Human36M(tmp_path, "gt"), "data_3d_h36m.npz", "cannot be read")


# -- left and right


def test_real_motion_is_not_mirrored_whatever_it_does():
    for name in motions.mocap.CLIPS:
        x = motions.upright(motions.mocap.clips()[name].joints)
        legs, arms = checks.handedness(x)
        assert legs > 0, name
        assert arms > -checks.EVIDENCE, name
        checks.check_sides(x, name)


@pytest.mark.parametrize(
    ("joints", "named"), [([1, 2, 3, 4, 5, 6], "legs"), ([10, 11, 12, 13, 14, 15], "arms"), (range(1, 16), "mirrored")]
)
def test_swapped_sides_are_named(joints, named):
    x = files.motion("walk", 30)
    y = x.copy()
    y[:, [j for j in joints]] = x[:, OTHER[[j for j in joints]]]
    one_line(lambda: checks.check_sides(y, "file"), "file", named)
    one_line(lambda: checks.check_sides(y @ np.array(cameras.upright_view(np.array(1.0), np.array(0.2))).T, "f"), named)
    one_line(lambda: checks.check_sides(x * [1, -1, 1], "file"), "mirrored")


def test_straight_legs_say_nothing():
    checks.check_sides(np.zeros((5, 16, 3)), "file")


# -- MPI-INF-3DHP

OTHER_OF_17 = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16]
"""The joints of the official files with left and right swapped."""


def test_the_common_file_of_3dhp(tmp_path):
    path = files.write_3dhp_common(tmp_path / "test_3dhp.npz")
    for root in (path, tmp_path):
        pairs = mpi_inf_3dhp.read_test(root)
        np.testing.assert_allclose(pairs.x3d, files.camera_poses(), atol=1e-6)
        np.testing.assert_allclose(pairs.x2d, cameras.project(files.camera_poses(), files.LENS), atol=1e-6)
        assert (np.diff(pairs.frame) > 1).all()  # nobody knows which follow each other
        assert "2,929" in pairs.report.line()
    x3d = files.camera_poses()
    for changes, parts in (
        ({"pose2d": 1000 * np.ones((12, 16, 2))}, ("pose2d", "pixels")),
        ({"pose3d": 1000 * x3d}, ("pose3d", "millimetres")),
        ({"pose3d": x3d[:, OTHER]}, ("pose3d", "mirrored")),
        ({"pose2d": cameras.project(x3d, files.LENS)[:, OTHER]}, ("pose2d", "swapped in 2-D")),
        ({"pose3d": x3d[:7]}, ("7 pose3d", "12 pose2d")),
        ({"pose3d": x3d[:, :15]}, ("pose3d", "[12, 15, 3]")),
    ):
        files.write_3dhp_common(path, **changes)
        one_line(lambda: mpi_inf_3dhp.read_test(path), *parts)


def test_the_layout_with_24_joints(tmp_path):
    pairs = mpi_inf_3dhp.read_test(files.write_3dhp_valid(tmp_path / "mpi_inf_3dhp_valid.npz"))
    x3d = files.camera_poses()
    np.testing.assert_allclose(pairs.x3d, x3d, atol=1e-5)
    np.testing.assert_allclose(pairs.x2d, cameras.project(x3d, files.LENS), atol=1e-4)
    assert pairs.frame.tolist() == list(range(12))
    assert [pairs.clips[c] for c in pairs.clip] == ["TS1"] * 6 + ["TS6"] * 6


def test_the_official_test_set(tmp_path):
    pytest.importorskip("h5py")
    root = files.write_official(tmp_path / "mpi")
    pairs = mpi_inf_3dhp.read_test(root)
    x3d = np.delete(files.camera_poses(), [0, 5], 0)
    np.testing.assert_allclose(pairs.x3d, np.concatenate([0.9 * x3d] * 2), atol=1e-5)
    np.testing.assert_allclose(pairs.x2d[:10], cameras.project(x3d, files.LENS), atol=1e-5)
    np.testing.assert_allclose(pairs.x2d[10:], cameras.project(x3d, files.LENS), atol=1e-5)
    assert pairs.clips == ("TS1", "TS5")
    assert pairs.frame[:5].tolist() == [1, 2, 3, 4, 6]
    assert pairs.actions[pairs.action[0]] == "exercise"
    assert "without TS2, TS3, TS4" in pairs.report.line()
    assert "published" not in pairs.report.line()
    np.testing.assert_allclose(mpi_inf_3dhp.read_test(root, "annot3").x3d[:10], x3d, atol=1e-5)
    files.write_official(root, ("TS2", "TS3", "TS4", "TS6"))
    assert "60 poses; target univ_annot3; the published files have 2,929" in mpi_inf_3dhp.read_test(root).report.line()
    turned = lambda m: m | {"univ_annot3": m["univ_annot3"][:, :, OTHER_OF_17]}  # noqa: E731
    shutil.rmtree(root / "TS3")
    files.write_official(root, ("TS3",), turned)
    one_line(lambda: mpi_inf_3dhp.read_test(root), "TS3", "mirrored")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda m: {k: v for k, v in m.items() if k != "annot2"}, ("no 'annot2'",)),
        (lambda m: m | {"univ_annot3": m["annot3"] / 1000}, ("univ_annot3", "metres", "millimetres")),
        (lambda m: m | {"annot2": m["annot2"][:, :, :16]}, ("annot2", "[12, 1, 17, 2]")),
        (lambda m: m | {"valid_frame": 0 * m["valid_frame"]}, ("no frame has valid_frame 1",)),
        (lambda m: m | {"annot2": m["annot2"] / 1024 - 1}, ("annot2", "normalised")),
        (lambda m: m | {"univ_annot3": m["annot3"] * [-1, 1, 1]}, ("univ_annot3", "mirrored")),
        (lambda m: m | {"annot2": m["annot2"][:, :, OTHER_OF_17]}, ("TS2", "annot2", "swapped in 2-D")),
        (lambda m: m | {"activity_annotation": 9 * m["valid_frame"]}, ("activity_annotation", "1 to 7")),
    ],
)
def test_what_is_broken_in_the_official_test_set_is_one_line(tmp_path, change, parts):
    pytest.importorskip("h5py")
    files.write_official(tmp_path, ("TS2",), change)
    one_line(lambda: mpi_inf_3dhp.read_test(tmp_path), *parts)


def test_what_is_no_test_set_of_3dhp(tmp_path):
    one_line(lambda: mpi_inf_3dhp.read_test(tmp_path), "holds none of test_3dhp.npz")
    one_line(lambda: mpi_inf_3dhp.read_test(tmp_path / "none.npz"), "root_3dhp", "no such file")
    (tmp_path / "TS1").mkdir()
    (tmp_path / "TS1" / "annot_data.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    one_line(lambda: mpi_inf_3dhp.read_test(tmp_path), "annot_data.mat", "older format", "-v7.3")
    (tmp_path / "TS1" / "annot_data.mat").write_bytes(b"MATLAB 7.3 MAT-file")
    pytest.importorskip("h5py")
    one_line(lambda: mpi_inf_3dhp.read_test(tmp_path), "annot_data.mat", "not a readable HDF5 file")


# -- 3DPW


def test_3dpw(tmp_path):
    files.write_3dpw(tmp_path)
    pairs = threedpw.read_split(tmp_path)
    x = files.motion("walk", 10)
    q, t = h36m_cameras.extrinsics("S1")
    x3d = kinematics.world_to_camera(x, q[0], t[0])
    assert pairs.clips == ("walk_00/0", "walk_00/1")
    assert pairs.frame.tolist() == [*range(9), *range(4, 9)]  # the last has no camera, some nobody found
    np.testing.assert_allclose(pairs.x3d[:9], x3d[:9], atol=1e-4)
    pixels = x3d[..., :2] / x3d[..., 2:] * [1962, 1969] + [540, 960]
    np.testing.assert_allclose(pairs.x2d[:9], pixels[:9] / 540 - [1, 960 / 540], atol=1e-4)
    assert len(threedpw.read_split(tmp_path / "sequenceFiles")) == len(pairs)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "cam_poses"}, ("lacks cam_poses",)),
        (lambda c: c | {"jointPositions": [x[:, :66] for x in c["jointPositions"]]}, ("actor 0", "[10, 66]")),
        (lambda c: c | {"campose_valid": [np.zeros(10)] * 2}, ("no frame", "valid")),
        (lambda c: c | {"cam_intrinsics": -c["cam_intrinsics"]}, ("cam_intrinsics",)),
        (lambda c: c | {"poses2d": c["poses2d"][:1]}, ("poses2d", "each actor")),
        (lambda c: [1], ("holds list",)),
        (lambda c: c | {"jointPositions": [1000 * x for x in c["jointPositions"]]}, ("walk_00.pkl", "millimetres")),
        (lambda c: c | {"jointPositions": [filled(x, 6, np.nan) for x in c["jointPositions"]]}, ("NaN", "frame 6")),
        (lambda c: c | {"cam_intrinsics": c["cam_intrinsics"] * np.nan}, ("cam_intrinsics",)),
        (lambda c: c | {"genders": [_Evil()]}, ("only arrays of numbers",)),
    ],
)
def test_what_is_broken_in_3dpw_is_one_line(tmp_path, change, parts):
    files.write_3dpw(tmp_path, change(files.threedpw_sequence()))
    one_line(lambda: threedpw.read_split(tmp_path), *parts)


def filled(x, frame, value):
    """A copy with one frame of a single value."""
    x = x.copy()
    x[frame] = value
    return x


def test_frames_that_are_not_valid_may_hold_anything(tmp_path):
    content = files.threedpw_sequence()
    content["cam_poses"] = filled(content["cam_poses"], 9, np.nan)
    content["jointPositions"] = [filled(x, 9, 1e30) for x in content["jointPositions"]]
    files.write_3dpw(tmp_path, content)
    assert len(threedpw.read_split(tmp_path)) == 14


def test_what_is_no_3dpw(tmp_path):
    one_line(lambda: threedpw.read_split(tmp_path), "root_3dpw")
    (tmp_path / "test").mkdir()
    one_line(lambda: threedpw.read_split(tmp_path), "holds no .pkl")


# -- motion capture


def test_seeds_of_motion_capture():
    found = motions.read_seeds("walk", 5)
    assert len(found) == 8
    assert found[3][0] == "walk/000015"
    assert found.world[:, 9, 2].min() > 1  # heads are above the ground
    spread = motions.read_seeds("seeds:12")
    assert len(spread) == 12
    assert len(motions.read_seeds("walk+run")) == sum(len(motions.mocap.clips()[n]) for n in ("walk", "run"))
    for text, part in (("walk+walk", "twice"), ("stroll", "no clip"), ("seeds:100000", "there are")):
        one_line(lambda text=text: motions.read_seeds(text), "config.data.seeds", part)


def test_cameras_are_drawn_around_a_pose():
    pose = motions.read_seeds("walk").world[0]
    rng = np.random.default_rng(0)
    views = [motions.see(pose, rng) for _ in range(300)]
    x2d, x3d = (np.stack(x) for x in zip(*views, strict=True))
    root = x3d[:, 0]
    assert (np.abs(root) <= [0.5, 0.3, 6]).all()
    assert (root[:, 2] >= 4).all()
    np.testing.assert_allclose(
        np.linalg.norm(kinematics.bones(x3d, H36M16.parents), axis=-1)[:, 1:],
        np.broadcast_to(np.linalg.norm(kinematics.bones(pose, H36M16.parents), axis=-1)[1:], (300, 15)),
        atol=1e-5,
    )
    assert (x3d[:, 9, 1] < x3d[:, 3, 1]).all()  # y points down: the head is above the foot
    np.testing.assert_allclose(x2d, 2.29 * x3d[..., :2] / x3d[..., 2:], atol=1e-5)
    left = x3d[:, 4] - x3d[:, 1]
    assert len(np.unique(np.sign(left[:, 0]))) == 2  # from the front and from behind
    # cameras look down by 10 degrees: somebody who stands upright leans towards them
    lean = np.degrees(np.arctan2(x3d[:, 8, 2] - root[:, 2], root[:, 1] - x3d[:, 8, 1]))
    assert -20 < np.median(lean) < 20


def test_the_test_of_motion_capture_is_always_the_same():
    held = motions.clips_of("walk")
    pairs = motions.read_test(held)
    assert "walk" not in pairs.clips
    assert len(pairs.clips) == 14
    np.testing.assert_array_equal(pairs.x2d[::50], motions.read_test(held).x2d[::50])
    assert len({pairs[i].name for i in range(len(pairs))}) == len(pairs)

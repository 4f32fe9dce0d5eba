"""Prepared arrays, annotations in a pickle, UTKinect-Action3D, sequences of anybody's own."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.skeletons import plain, prepared, protocols, utkinect
from jaxvl.data.skeletons import HUMANOID16, NTU25, UTKINECT20
from tests.data.readers import skeleton_files as files


def clips(count, seed=0, two=(1,)):
    """`[(label, bodies)]`, those at `two` of two bodies."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        frames = int(rng.integers(5, 30))
        made.append((i % 3, np.stack([files.person(rng, frames) for _ in range(1 + (i in two))])))
    return made


@pytest.mark.parametrize("kind", ["ntu60", "ntu120", "compressed", "numbers"])
def test_prepared_arrays(tmp_path, kind):
    classes = 120 if kind == "ntu120" else 60
    name = prepared.FILES[classes, "xsub"]
    made = {"train": clips(5), "test": clips(3, 1)}
    made["train"].append((7, np.zeros((1, 4, 25, 3), np.float32)))
    save = np.savez_compressed if kind == "compressed" else np.savez
    files.write_arrays(tmp_path / name, made, classes, kind == "ntu120", save=save, onehot=kind != "numbers")
    seen = []
    got = prepared.read_arrays(tmp_path, "xsub", classes, tmp_path / "cache", lambda n, total: seen.append(n))
    assert {s: len(r.clips) for s, r in got.items()} == {"train": 5, "test": 3}
    for split, reading in got.items():
        for clip, (label, bodies) in zip(reading.clips, made[split]):
            assert clip.label == label
            np.testing.assert_array_equal(clip.bodies, bodies)
    assert got["train"].report.line() == (
        f"NTU RGB+D {name} train: 5 sequences; 1 skipped, no frame has a body ({name[:-4]}/train/000005)"
    )
    again = prepared.read_arrays(tmp_path / name, "xsub", classes, tmp_path / "cache", lambda n, total: seen.append(n))
    assert len(seen) == 9
    np.testing.assert_array_equal(again["test"].clips[1].bodies, got["test"].clips[1].bodies)


def test_prepared_arrays_that_are_none(tmp_path):
    read = lambda protocol="xsub", classes=60: prepared.read_arrays(tmp_path, protocol, classes, tmp_path / "c")  # noqa: E731
    path = tmp_path / "NTU60_CS.npz"
    with pytest.raises(InputError, match=r"NTU60_CS.npz: no such file \(prepared arrays\)"):
        read()
    with pytest.raises(InputError, match="'xset' of 60 classes has no prepared arrays; xsub of 60"):
        read("xset")
    files.write_arrays(path, {"train": clips(2), "test": clips(1)}, 120)
    with pytest.raises(InputError, match=r"y_train is float64 \[2, 120\]; config.model.classes = 60"):
        read()
    x, y = np.zeros((2, 9, 75), np.float32), np.eye(60)[:2]
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(
        InputError, match=r"x_train is float32 \[2, 9, 75\] for 2 labels; needs float \[2, frames, 150\]"
    ):
        read()
    np.savez(path, x_train=np.zeros((2, 9, 150), np.float32), y_train=2 * y, x_test=x, y_test=y)
    with pytest.raises(InputError, match=r"no sequence of train can be used \(no frame has a body\)"):
        read()
    np.savez(path, x_train=np.ones((2, 9, 150), np.float32), y_train=2 * y, x_test=x, y_test=y)
    with pytest.raises(InputError, match=r"no sequence of train can be used \(no one-hot label\)"):
        read()
    np.savez(path, x=x)
    with pytest.raises(InputError, match="x_train and y_train cannot be read"):
        read()
    for content in (b"", b"PK\x03\x04 no zip", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read()
    files.write_arrays(path, {"train": clips(2), "test": clips(1)}, 60)
    whole = bytearray(path.read_bytes())
    whole[4000] ^= 255  # a checksum fails
    path.write_bytes(whole)
    with pytest.raises(InputError, match="cannot be read"):
        read()


@pytest.mark.parametrize("version", [2, 4, 5])
def test_annotations_in_a_pickle(tmp_path, version):
    names = files.ntu_names()
    made = [(n, int(n[-3:]) - 1, b.astype(np.float16)) for n, (_, b) in zip(names, clips(len(names)))]
    parts = {"train": made[:15], "val": made[15:]}
    path = tmp_path / "ntu60_3danno.pkl"
    files.write_annotations(path, parts, protocol_version=version)
    got = prepared.read_pickle(tmp_path, "xsub", 60, tmp_path / "cache")
    for part, split in (("train", "train"), ("val", "test")):
        assert len(got[split].clips) == len(parts[part])
        for clip, (name, label, bodies) in zip(got[split].clips, parts[part]):
            assert (clip.name, clip.label, clip.subject) == (name, label, int(name[9:12]))
            np.testing.assert_array_equal(clip.bodies, bodies.astype(np.float32))
    with pytest.raises(InputError, match="has no split 'xview_train'; it has xsub_train, xsub_val"):
        prepared.read_pickle(path, "xview", 60, tmp_path / "cache")


class Evil:
    def __reduce__(self):
        return print, ("run",)


class Sized:
    def __reduce__(self):
        return bytearray, (10**12,)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Evil(), r"holds an object of class (__builtin__|builtins)\.print; only arrays of numbers are read"),
        ({"split": {}, "annotations": [np.array([Evil()])]}, "print"),
        (np.array(["text"]), "numpy values of type <U4"),
        (Sized(), "bytes made of int"),
        ([1, 2], "needs a dict with 'split' and 'annotations'"),
        ({"split": [], "annotations": []}, "'split' must be a dict"),
    ],
)
def test_a_pickle_runs_nothing(tmp_path, content, reason, capsys):
    path = tmp_path / "ntu60_3danno.pkl"
    for version in (2, 4):
        path.write_bytes(pickle.dumps(content, version))
        with pytest.raises(InputError, match=reason) as error:
            prepared.load_annotations(str(path))
        assert str(path) in str(error.value)
    assert "run" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps({"split": {}, "annotations": [np.zeros(4)]})[:-9])
    with pytest.raises(InputError, match="no pickle of annotations"):
        prepared.load_annotations(str(path))


def test_annotations_that_are_odd_are_counted(tmp_path):
    good = np.ones((1, 4, 25, 3), np.float32)
    items = [
        {"frame_dir": "a", "label": 1, "keypoint": good},
        {"frame_dir": "b", "label": 77, "keypoint": good},
        {"frame_dir": "c", "keypoint": good},
        {"frame_dir": "d", "label": 0, "keypoint": good[..., :2]},
        {"frame_dir": "e", "label": 0, "keypoint": np.ones((3, 4, 25, 3))},
        {"frame_dir": "f", "label": 0, "keypoint": 0 * good},
        {"label": 0},
        {"frame_dir": "g", "label": np.int64(2), "keypoint": good.astype(">f8")},
    ]
    split = {"xsub_train": [*"abcdefgh"], "xsub_val": ["a"]}
    path = tmp_path / "ntu60_3danno.pkl"
    path.write_bytes(pickle.dumps({"split": split, "annotations": items}))
    got = prepared.read_pickle(path, "xsub", 60, tmp_path / "cache")["train"]
    assert [(c.name, c.label) for c in got.clips] == [("a", 1), ("g", 2)]
    np.testing.assert_array_equal(got.clips[1].bodies, good)
    assert len(got.report.skipped) == 6
    assert got.report.missing == ("h",)
    assert "1 without a media file (h)" in got.report.line()


def test_utkinect(tmp_path):
    recordings = [f"s{s:02d}_e{e:02d}" for s in range(1, 11) for e in (1, 2)]
    truth = files.write_utkinect(tmp_path, recordings, frames=3)
    found, missing, skipped = utkinect.read_all(tmp_path)
    assert (len(found), missing, skipped) == (199, (), (("s10_e02/carry", "its frames are NaN"),))
    for clip in found:
        np.testing.assert_allclose(clip.bodies[0], truth[clip.name], rtol=1e-6)
    assert (found[13].subject, found[13].take, found[13].label) == (1, 2, 3)
    tested = []
    for fold in range(20):
        both = utkinect.read_utkinect(tmp_path, "loso", fold)
        assert len(both["train"].clips) + len(both["test"].clips) == 199
        tested += [c.name for c in both["test"].clips]
        assert {(c.subject, c.take) for c in both["test"].clips} == {(fold // 2 + 1, fold % 2 + 1)}
    assert sorted(tested) == sorted(c.name for c in found)
    odd = utkinect.read_utkinect(tmp_path, "xsub_odd")
    assert ({c.subject % 2 for c in odd["train"].clips}, {c.subject % 2 for c in odd["test"].clips}) == ({1}, {0})
    with pytest.raises(InputError, match=r"config.data.fold: 20, but there are 20 recordings"):
        utkinect.read_utkinect(tmp_path, "loso", 20)
    with pytest.raises(InputError, match="'xsub' is none of loso, xsub_odd"):
        protocols.utkinect_training("xsub", 0, np.ones(1), np.ones(1))


def test_utkinect_that_is_odd(tmp_path):
    files.write_utkinect(tmp_path, ["s01_e01", "s01_e02", "s02_e01"], nan=())
    labels = tmp_path / "actionLabel.txt"
    text = labels.read_text()
    labels.write_text(text.replace("walk: 200 210", "walk: 201 201", 1).replace("\n", "  \r\n"))
    joints = tmp_path / "joints" / "joints_s01_e02.txt"
    joints.write_text(joints.read_text().replace("  ", " x ", 1))
    (tmp_path / "joints" / "joints_s02_e01.txt").unlink()
    found, missing, skipped = utkinect.read_all(tmp_path)
    assert (len(found), missing) == (9, ("s02_e01",))
    assert skipped == (("s01_e01/walk", "no frame in its range"), ("s01_e02", "line 1: 62 values, not 61"))
    for change, reason in [
        (("walk: 200 210", "walk: 200"), "line 2: 'walk: 200' is neither a recording"),
        (("walk: 200 210", "walk: 2x 210"), "line 2: 2x and 210 are no frame numbers"),
        (("walk", "stroll"), "line 2: 'stroll' is none of the actions"),
        (("s01_e02", "s01_e01"), "line 12: the recording s01_e01 comes a second time"),
    ]:
        labels.write_text(text.replace(*change, 1))
        with pytest.raises(InputError, match=re.escape(reason)):
            utkinect.read_labels(labels)
    path = tmp_path / "joints" / "joints_s01_e01.txt"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0].replace(lines[0].split()[7], "nan"), *lines[1:]]))
    assert utkinect.read_joints(path)[0][0] == 202


def test_files_of_anybodys_own(tmp_path):
    rng = np.random.default_rng(0)
    two = np.stack([files.person(rng, 9, 16), files.person(rng, 9, 16)])
    two[1, 3:5] = 0
    files.write_csv(tmp_path / "a.csv", two, HUMANOID16)
    listed = [[None if not f.any() else f.tolist() for f in body] for body in two]
    (tmp_path / "a.json").write_text(json.dumps({"joints": listed}))
    (tmp_path / "b.json").write_text(json.dumps(listed[0]))
    np.save(tmp_path / "a.npy", two)
    for name, want in (("a.csv", two), ("a.json", two), ("b.json", two[:1]), ("a.npy", two)):
        np.testing.assert_array_equal(plain.read_sequence(tmp_path / name, HUMANOID16), want, err_msg=name)
    lone = "\n".join(line.replace(",0,", ",", 1) for line in (tmp_path / "a.csv").read_text().split("\n")[1:10])
    header = "frame," + ",".join(f"{c}{j}" for j in range(16) for c in "xyz")
    (tmp_path / "c.csv").write_text(header + "\n" + lone.split("\n")[0] + "\n")
    assert plain.read_sequence(tmp_path / "c.csv", HUMANOID16).shape == (1, 1, 16, 3)
    files.write_ntu(tmp_path, ["S001C001P001R001A001"])
    files.write_utkinect(tmp_path / "ut", ["s01_e01"], frames=2)
    found = plain.find_sequences(tmp_path)
    assert [p.rsplit("/", 1)[1] for p in found if p.endswith((".skeleton", "s01_e01.txt"))] == [
        "S001C001P001R001A001.skeleton", "joints_s01_e01.txt",
    ]  # fmt: skip
    skeleton = next(p for p in found if p.endswith(".skeleton"))
    assert plain.read_sequence(skeleton, NTU25).shape == (1, 14, 25, 3)
    assert plain.read_sequence(tmp_path / "ut/joints/joints_s01_e01.txt", UTKINECT20).shape == (1, 20, 20, 3)
    with pytest.raises(BadMedia, match=r"joints of shape \[1, 14, 25, 3\], not .* 16, 3\] of the skeleton humanoid16"):
        plain.read_sequence(skeleton, HUMANOID16)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "", "line 1: needs the header frame,body,x0"),
        ("a.csv", "frame,x0,y0\n", "line 1: needs the header"),
        ("a.csv", "frame,x0,y0,z0\n0,1,2\n", "line 2: 3 fields, the header has 4"),
        ("a.csv", "frame,x0,y0,z0\n0,1,2,q\n", "line 2: a field that is no number"),
        ("a.csv", "frame,x0,y0,z0\n0,1,2,3\n0,1,2,3\n", "line 3: frame 0 of body 0 a second time"),
        ("a.csv", "frame,x0,y0,z0\n0,1,2,\n", "joints of shape"),
        ("a.csv", "frame,x0,y0,z0\n0,1,2,3\xe4\n", "not UTF-8"),
        ("a.json", "{", "no JSON that can be read"),
        ("a.json", "[" * 100_000, "no JSON that can be read"),
        ("a.json", '{"joint": []}', 'needs {"joints"'),
        ("a.json", "[[1, 2, 3]]", "its joints are no"),
        ("a.json", "[null]", "its joints are no"),
        ("a.json", "[[[1, 2, 3], [1, 2]]]", "no array of numbers"),
        ("a.json", '[[["1", "b", 3]]]', "no array of numbers"),
        ("a.npy", "no array", "no .npy array"),
        ("a.mat", "", "its ending is none of .csv"),
    ],
)
def test_broken_files_of_anybodys_own(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadMedia, match=re.escape(reason)):
        plain.read_sequence(path, HUMANOID16)


def test_class_folders(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for name in ("kick", "wave"):
            for i in range(count):
                files.write_csv(tmp_path / split / name / f"{i}.csv", files.person(rng, 6, 16)[None], HUMANOID16)
    (tmp_path / "train" / "kick" / "9.csv").write_text("frame\n")
    got = plain.read_files(tmp_path, HUMANOID16)
    assert {s: [c.label for c in r.clips] for s, r in got.items()} == {"train": [0] * 3 + [1] * 3, "test": [0, 0, 1, 1]}
    assert got["test"].classes == ("kick", "wave")
    assert "1 skipped, line 1: needs the header frame,body,x0,y0,z0,x1,y1,z1 and so on (train/kick/9.csv)" in (
        got["train"].report.line()
    )
    (tmp_path / "test" / "jump").mkdir()
    with pytest.raises(InputError, match=r"jump: a class that .*train does not have"):
        plain.read_files(tmp_path, HUMANOID16)
    with pytest.raises(InputError, match="train: no such folder"):
        plain.read_files(tmp_path / "none", HUMANOID16)
    with pytest.raises(InputError, match="no such file or folder"):
        plain.find_sequences(tmp_path / "none")

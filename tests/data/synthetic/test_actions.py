"""Worlds of real motion: what a gesture moves, how samples are seen, and the files that they are written to."""

from __future__ import annotations

import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data import mocap
from jaxvl.data.readers.skeletons.plain import read_files
from jaxvl.data.skeletons import HUMANOID16, normalise
from jaxvl.data.synthetic import actions, on_disk, patterns
from jaxvl.ops import kinematics
from tests.tiny import quiet


def lengths(x):
    return np.linalg.norm(kinematics.bones(x, HUMANOID16.parents), axis=-1)


@pytest.mark.parametrize(("label", "moved"), [(0, [11, 12]), (1, [14, 15]), (2, [12]), (3, [15]), (4, [11, 12])])
def test_a_gesture_moves_one_arm_below_its_joint_in_its_time(label, moved):
    walk = mocap.clips()["walk"].joints
    base = np.concatenate([walk, walk[::-1]])[:48]
    turned = actions.gesture(base, label, np.pi / 3, 20.0)
    shift = np.abs(turned - base).max(-1)
    assert np.flatnonzero(shift.max(0) > 1e-6).tolist() == moved
    assert shift.max(1).argmax() in (19, 20, 21)
    assert shift[:8].max() < 1e-3
    np.testing.assert_allclose(lengths(turned), lengths(base), atol=1e-9)


def test_gestures_go_where_their_names_say():
    """On a body at rest, arms down: a forward raise moves the wrist forward, a sideways one outwards."""
    rest = np.repeat(mocap.clips()["walk"].joints[:1], 3, axis=0)
    frame = kinematics.torso_frame(rest[:, 0], rest[:, 8], rest[:, 10], rest[:, 13])[0]
    for label, name in enumerate(actions.GESTURES):
        side, joint, way = name.split("_")
        shoulder, elbow = actions.ARMS[side == "right"]
        hanging = rest.copy()
        hanging[:, elbow] = hanging[:, shoulder] - 0.27 * frame[1]
        hanging[:, elbow + 1] = hanging[:, elbow] - 0.26 * frame[1]
        moved = actions.gesture(hanging, label, np.pi / 4, 1.0)[1] - hanging[1]
        lateral, _, forward = frame @ moved[elbow + 1]
        if way == "forward":
            assert forward > 0.1
            assert abs(lateral) < 1e-6
        else:
            assert lateral * (1 if side == "left" else -1) > 0.1
            assert abs(forward) < 1e-6
        assert (np.abs(moved[elbow]).max() < 1e-9) == (joint == "elbow")


def test_samples_are_bodies_of_other_sizes_from_other_sides():
    clean = actions.Seen((90, 90), (0, 0), (0.7, 0.7), 0.0)
    walk = mocap.clips()["walk"].joints
    shown = actions.show(walk, clean, np.random.default_rng(0))
    ratio = lengths(shown)[:, 1:] / lengths(walk)[:, 1:] / 0.7
    np.testing.assert_allclose(ratio.std(0), 0, atol=1e-5)  # one body for the whole clip
    assert 0.92 <= ratio.min() < ratio.max() <= 1.08
    np.testing.assert_allclose(ratio[0, [0, 1, 2]], ratio[0, [3, 4, 5]], rtol=1e-5)  # the same on both sides
    travel, seen = walk[-1, 0] - walk[0, 0], shown[-1, 0] - shown[0, 0]
    np.testing.assert_allclose(seen, 0.7 * np.array([travel[2], travel[1], -travel[0]]), atol=1e-5)
    a = normalise(shown[None], HUMANOID16)
    b = normalise(
        actions.show(walk, actions.Seen((-20, -20), (5, 5), (1, 1), 0), np.random.default_rng(0))[None], HUMANOID16
    )
    np.testing.assert_allclose(a, b, atol=1e-4)  # what the normalisation takes away


def test_what_a_gesture_hides_in_is_a_window_of_a_clip_and_its_reverse():
    """Known from its places: each lies on the line between two frames of a clip that follow one another, 30 to 44 of
    them in 48 frames, and the end of the clip is passed in some."""
    rng, turned = np.random.default_rng(0), 0
    clips = {name: mocap.clips()[name].joints for name in actions.NUISANCES}
    for _ in range(40):
        base = actions.nuisance(rng)
        assert base.shape == (48, 16, 3)
        name = min(clips, key=lambda n: np.abs(clips[n][:, None] - base[24]).max((-1, -2)).min())
        nearest = np.abs(clips[name][:, None] - base).max((-1, -2)).argmin(0)
        steps = np.diff(nearest)
        assert np.abs(steps).max() <= 1  # never faster than it was recorded
        turned += (steps > 0).any() and (steps < 0).any()
    assert 5 < turned < 40


@pytest.mark.parametrize("kind", actions.KINDS)
def test_a_sample_depends_on_seed_and_number_alone(kind):
    draw = lambda count, seed: list(actions.samples(kind, count, actions.FRONT, seed))  # noqa: E731
    three, two, other = draw(3, 5), draw(2, 5), draw(2, 6)
    for (label, x), (same, y) in zip(three, two):
        assert label == same
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(two[0][1][:5], other[0][1][:5])
    assert three[0][1].dtype == np.float32
    assert len(actions.KINDS[kind][0]) == {"clips": 20, "gestures": 8}[kind]


def test_a_world_is_written_once_and_read_back(tmp_path):
    world = actions.ActionWorld("gestures", 16, 8, "gestures", seed=3)
    actions.ensure_world(world, tmp_path, quiet)
    read = read_files(tmp_path, HUMANOID16)
    assert {split: len(r.clips) for split, r in read.items()} == {"train": 16, "test": 8}
    assert read["train"].classes == tuple(sorted(actions.GESTURES))
    first = next(c for c in read["train"].clips if c.name.endswith("00000.csv"))
    label, joints = next(iter(actions.samples("gestures", 1, actions.FRONT, 6)))
    assert read["train"].classes[first.label] == actions.GESTURES[label]
    np.testing.assert_allclose(first.bodies[0], joints, atol=6e-6)
    before = (tmp_path / "train" / "left_elbow_forward" / "00002.csv").stat().st_mtime_ns
    actions.ensure_world(world, tmp_path, quiet)
    assert (tmp_path / "train" / "left_elbow_forward" / "00002.csv").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another world"):
        actions.ensure_world(actions.ActionWorld("gestures", 16, 8), tmp_path, quiet)


@pytest.mark.parametrize("fields", [{"kind": "dance"}, {"seen": "above"}, {"num_test": 3}])
def test_worlds_that_there_are_not(fields):
    with pytest.raises(InputError, match="action world: "):
        actions.ActionWorld(**fields)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_damaged_description_of_a_world_is_one_line(tmp_path, content):
    worlds = {
        "actions": lambda root: actions.ensure_world(actions.ActionWorld(), root),
        "patterns": lambda root: patterns.ensure_world(patterns.PatternWorld(), root),
        "sprites": lambda root: on_disk._claim(root, {"hash": "x"}),
    }
    for (name, ensure), file in zip(worlds.items(), (actions.WORLD_FILE, patterns.WORLD_FILE, on_disk.STAMP)):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}/{file}: .*folder") as line:
            ensure(tmp_path / name)
        assert "\n" not in str(line.value)
    (tmp_path / on_disk.TRUTH).write_bytes(content or b"\n")
    with pytest.raises(InputError, match="damaged; delete"):
        on_disk.read_truth(tmp_path)

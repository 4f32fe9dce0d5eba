"""Normalisation, windows, resampling and rotation of skeletons against known answers and invariants."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxvl.data import skeletons as sk


def clip(skeleton, frames=7, bodies=2, seed=0):
    """Bodies near a standing pose, so that torso and shoulders have directions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.3, (bodies, frames, len(skeleton), 3))
    x[:, :, skeleton.top] = x[:, :, skeleton.base] + [0.1, 0.6, 0.05]
    x[:, :, skeleton.mid] = x[:, :, skeleton.base] + [0.0, 0.3, 0.0]
    return x + np.array([0.4, 0.1, 3.0])


@pytest.mark.parametrize("s", sk.SKELETONS.values(), ids=lambda s: s.name)
def test_each_skeleton_is_a_tree_whose_columns_are_its_joints(s):
    assert sorted(s.columns) == list(range(len(s)))
    assert len(s.parents) == len(s) == len(set(s.joints))
    for joint in range(len(s)):
        steps = 0
        while joint >= 0:
            joint, steps = s.parents[joint], steps + 1
            assert steps <= len(s)
    assert s.parents.count(-1) == 1
    assert len(s.bones) == len(s) - 1
    assert s.joints[s.left_shoulder] == "left shoulder"
    assert s.joints[s.right_shoulder] == "right shoulder"


def test_limbs_hang_on_their_own_side():
    for s in sk.SKELETONS.values():
        for joint, parent in s.bones:
            sides = {side for j in (joint, parent) for side in ("left", "right") if side in s.joints[j]}
            assert len(sides) <= 1, (s.name, s.joints[joint], s.joints[parent])
    assert [sk.NTU25.joints[j] for j in (7, 11, 15, 19, 21, 24)] == [
        "left hand", "right hand", "left foot", "right foot", "left hand tip", "right thumb",
    ]  # fmt: skip


@pytest.mark.parametrize("s", sk.SKELETONS.values(), ids=lambda s: s.name)
def test_normalised_clips_do_not_know_camera_place_or_size(s):
    x = clip(s)
    x[0, :2] = x[1, 4] = 0  # absent frames
    there = sk.present_frames(x)[:, :, None, None]
    want = sk.normalise(x, s)
    assert want.dtype == np.float32
    assert not want[~sk.present_frames(x)].any()
    for turn, shift, scale in [(0, [0, 0, 0], 2.5), (1, [3, -1, 0.5], 0.4), (2, [-9, 2, 4], 1.0)]:
        matrix = Rotation.random(random_state=turn).as_matrix()
        moved = np.where(there, scale * x @ matrix.T + shift, 0)
        np.testing.assert_allclose(sk.normalise(moved, s), want, atol=1e-5)
    frame = want[0, 2]  # the first in which body 0 is present
    torso, line = frame[s.top] - frame[s.base], frame[s.left_shoulder] - frame[s.right_shoulder]
    np.testing.assert_allclose(torso[[0, 2]], 0, atol=1e-6)
    assert torso[1] > 0
    assert line[0] > 0
    assert abs(line[2]) < 1e-6
    np.testing.assert_array_equal(frame[s.mid], 0)
    length = lambda f: np.linalg.norm(f[s.top] - f[s.mid]) + np.linalg.norm(f[s.mid] - f[s.base])  # noqa: E731
    assert np.median([length(f) for f in want[0, 2:]]) == pytest.approx(1, abs=1e-6)


def test_each_part_of_the_normalisation_is_a_switch():
    s = sk.NTU25
    x = clip(s)
    plain = x - x[0, 0, s.mid]
    np.testing.assert_allclose(sk.normalise(x, s, view=False, size=False), plain, atol=1e-6)
    scaled, turned = sk.normalise(x, s, view=False), sk.normalise(x, s, size=False)
    ratio = np.linalg.norm(plain, axis=-1) / np.maximum(np.linalg.norm(scaled, axis=-1), 1e-9)
    np.testing.assert_allclose(ratio[ratio > 0], np.median(ratio), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(plain, axis=-1), atol=1e-5)


def test_the_view_is_that_of_the_first_frame_that_has_one():
    s = sk.UTKINECT20
    x = clip(s, bodies=1)
    y = x.copy()
    y[0, 0, s.left_shoulder] = y[0, 0, s.right_shoulder] + 2 * (y[0, 0, s.top] - y[0, 0, s.base])  # along the torso
    y[0, 1, s.top] = y[0, 1, s.base]  # no torso
    got, want = sk.normalise(y, s, size=False), sk.normalise(x[:, 2:], s, size=False)
    shift = got[0, 2] - want[0, 0]  # another origin, the same axes
    np.testing.assert_allclose(got[0, 2:], want[0] + shift[:1], atol=1e-5)
    flat = np.zeros((1, 3, 20, 3))
    flat[..., 0] = np.arange(20) * 1e-5 + 1  # neither torso nor size
    np.testing.assert_allclose(sk.normalise(flat, s), flat - flat[0, 0, s.mid], atol=1e-9)
    assert not sk.normalise(np.zeros((2, 4, 20, 3)), s).any()


def test_resampled_ramps():
    ramp = np.arange(5.0)
    assert sk.resample(ramp, 10, 0).tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]
    np.testing.assert_array_equal(sk.resample(ramp, 5, 0), ramp)
    np.testing.assert_array_equal(sk.resample([3.0], 4, 0), [3, 3, 3, 3])
    x = clip(sk.NTU25, frames=9)
    np.testing.assert_array_equal(sk.resample(x, 9), x.astype(np.float32))
    got = sk.resample(x, 4)
    places = (np.arange(4) + 0.5) * 9 / 4 - 0.5
    want = [np.interp(places, np.arange(9), x[1, :, 3, k]) for k in range(3)]
    np.testing.assert_allclose(got[1, :, 3], np.stack(want, -1), atol=1e-6)


def test_windows():
    assert [(w.start, w.stop) for w in map(sk.centre_window, (1, 39, 40, 100, 300))] == [
        (0, 1), (0, 39), (1, 39), (2, 98), (7, 293),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for length in (1, 20, 64, 65, 127, 128, 300):
        windows = [sk.random_window(length, rng) for _ in range(200)]
        sizes = {w.stop - w.start for w in windows}
        assert min(w.start for w in windows) >= 0
        assert max(w.stop for w in windows) <= length
        assert min(sizes) >= min(length, max(64, length // 2))
        assert max(sizes) <= length
    assert len({w.start for w in windows}) > 50
    again = [sk.random_window(200, np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]


def test_valid_length_is_that_up_to_the_last_present_frame():
    x = np.zeros((2, 6, 3, 3))
    assert sk.valid_length(x) == 0
    x[1, 3, 0] = [1, -1, 0]  # its sum is 0
    assert sk.valid_length(x) == 4


def test_rotations_turn_as_published():
    quarter = np.pi / 2
    np.testing.assert_allclose(sk.rotation([quarter, 0, 0]) @ [0, 1, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(sk.rotation([0, quarter, 0]) @ [0, 0, 1], [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(sk.rotation([0, 0, quarter]) @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    angles = [0.2, -0.1, 0.3]  # turned about x first, then y, then z, each against the common sense
    want = Rotation.from_euler("xyz", -np.array(angles)).as_matrix()
    np.testing.assert_allclose(sk.rotation(angles), want, atol=1e-12)
    x = clip(sk.HUMANOID16)
    np.testing.assert_allclose(sk.rotate(x, want), np.einsum("ij,mfkj->mfki", want, x), atol=1e-5)
    drawn = sk.random_rotation(np.random.default_rng(3), 0.3)
    np.testing.assert_allclose(drawn, sk.rotation(np.random.default_rng(3).uniform(-0.3, 0.3, 3)))

"""Errors of poses against SciPy and against answers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
from scipy.spatial.transform import Rotation

from jaxvl.data import mocap
from jaxvl.data.readers.poses.motions import upright
from jaxvl.metrics import poses


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def turns(seed, n=1):
    """Uniform rotations; SciPy's own draw takes its generator under another name in each generation."""
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(n, 4)))


def procrustes(predicted, target):
    """SciPy's, one pose: reflections are allowed, so it is used where none is best."""
    mean_x, mean_y = target.mean(0), predicted.mean(0)
    turn, scale = scipy.linalg.orthogonal_procrustes(predicted - mean_y, target - mean_x)
    return scale / ((predicted - mean_y) ** 2).sum() * (predicted - mean_y) @ turn + mean_x, np.linalg.det(turn)


def test_alignment_is_scipy_s_where_no_mirror_is_better(rng):
    x = rng.normal(size=(40, 16, 3))
    y = 0.3 * rng.normal(size=(40, 16, 3)) + x @ turns(1)[0].as_matrix() * 1.7 + 3
    ours = poses.aligned(y, x)
    proper = 0
    for a, b, c in zip(y, x, ours, strict=True):
        theirs, sign = procrustes(a, b)
        if sign > 0:
            proper += 1
            np.testing.assert_allclose(c, theirs, atol=1e-9)
            standard_x, standard_y, _ = scipy.spatial.procrustes(b, a)
            left = ((c - b) ** 2).sum() / ((b - b.mean(0)) ** 2).sum()
            np.testing.assert_allclose(left, ((standard_x - standard_y) ** 2).sum(), atol=1e-9)
    assert proper > 35


def test_alignment_undoes_rotation_scale_and_shift_and_no_mirror(rng):
    x = rng.normal(size=(10, 16, 3))
    moved = 1.7 * x @ turns(2, 10).as_matrix() + rng.normal(size=(10, 1, 3))
    np.testing.assert_allclose(poses.pa_mpjpe(moved, x), 0, atol=1e-12)
    mirrored = poses.aligned(x * [-1, 1, 1], x)
    assert (poses.pa_mpjpe(x * [-1, 1, 1], x) > 0.1).all()
    for a, b, c in zip(x * [-1, 1, 1], x, mirrored, strict=True):  # the best proper rotation is SciPy's (Kabsch)
        a, b0 = a - a.mean(0), b - b.mean(0)
        turn, _ = Rotation.align_vectors(b0, a)
        turned = turn.apply(a)
        scale = (turned * b0).sum() / (a * a).sum()
        np.testing.assert_allclose(c, scale * turned + b.mean(0), atol=1e-9)


def test_predictions_without_extent_become_the_mean_of_the_target(rng):
    x = rng.normal(size=(3, 16, 3))
    point = np.broadcast_to([[0.1, 0.2, 5.0]], x.shape)
    np.testing.assert_allclose(poses.aligned(point, x), np.broadcast_to(x.mean(1, keepdims=True), x.shape), atol=1e-12)
    np.testing.assert_allclose(poses.aligned(x, point), point, atol=1e-9)
    np.testing.assert_allclose(poses.n_mpjpe(0 * x, x), np.linalg.norm(x, axis=-1).mean(-1))


def test_scale_alone_is_forgiven_by_n_mpjpe(rng):
    x = poses.rooted(rng.normal(size=(5, 16, 3)))
    np.testing.assert_allclose(poses.n_mpjpe(1.7 * x, x), 0, atol=1e-12)
    y = x + 0.1 * rng.normal(size=x.shape)
    best = [min(poses.mpjpe(s * y[i : i + 1], x[i : i + 1])[0] for s in np.linspace(0.8, 1.2, 401)) for i in range(5)]
    assert (poses.n_mpjpe(y, x) >= np.array(best) - 1e-12).all()  # least squares, not least distance
    scale = np.array([scipy.stats.linregress(b.ravel(), a.ravel()).slope for a, b in zip(x, y, strict=True)])
    assert (np.abs(poses.n_mpjpe(y, x) - poses.mpjpe(scale[:, None, None] * y, x)) < 0.01).all()


def test_mpjpe_counts_the_root_and_refuses_other_shapes():
    x = np.zeros((1, 16, 3))
    y = x + np.array([3.0, 4, 0])
    y[:, 0] = 0
    np.testing.assert_allclose(poses.mpjpe(y, x), 5 * 15 / 16)
    with pytest.raises(ValueError, match="against"):
        poses.mpjpe(y, np.zeros((1, 17, 3)))


def test_steps_stay_within_a_clip_and_between_neighbours():
    x = np.zeros((6, 1, 3))
    y = x.copy()
    y[:, 0, 0] = [0, 1, 3, 10, 0, 2]
    clips, frames = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 2, 5, 3, 4])
    shuffled = np.array([4, 0, 3, 1, 5, 2])
    errors, rows = poses.mpjve(y[shuffled], x[shuffled], clips[shuffled], frames[shuffled])
    assert errors.tolist() == [1, 2, 2]  # none from frame 2 to 5, none from clip to clip
    assert shuffled[rows].tolist() == [1, 2, 5]
    with pytest.raises(ValueError, match="frame 1 of clip 0 comes twice"):
        poses.mpjve(x[:3], x[:3], np.zeros(3, int), np.array([0, 1, 1]))


def test_pck_is_strict_and_auc_takes_31_thresholds():
    errors = np.array([149.999, 150, 150.001])
    np.testing.assert_allclose(poses.pck(errors), 100 / 3)
    assert len(poses.AUC_MM) == 31
    assert poses.auc(np.zeros(5)) == pytest.approx(100 * 30 / 31)  # nothing is strictly below 0
    assert poses.auc(np.array([72.0])) == pytest.approx(100 * 16 / 31)  # 75, 80, ..., 150
    assert np.isnan(poses.pck(np.zeros(0)))
    assert np.isnan(poses.auc(np.zeros(0)))
    assert len(poses.JOINT_SETS["official14"]) == 14
    assert not {0, 7} & set(poses.JOINT_SETS["official14"])


def test_averages_over_actions_and_over_frames_differ():
    values, actions = np.array([1.0, 1, 1, 5]), np.array([0, 0, 0, 3])
    assert poses.average(values, actions) == 3
    assert poses.average(values, actions, "per_frame") == 2
    assert np.isnan(poses.average(np.zeros(0), np.zeros(0)))
    with pytest.raises(ValueError, match="none of"):
        poses.average(values, actions, "per_clip")


def test_entropy_of_directions(rng):
    walk = upright(mocap.clips()["walk"].joints)
    assert poses.diversity(np.repeat(walk[:1], 9, 0)) == 0
    assert poses.diversity(walk) == pytest.approx(poses.diversity(walk @ turns(3)[0].as_matrix().T))
    counts = poses.direction_histograms(walk)
    assert counts.shape == (8, 24, 12)
    assert (counts.sum((1, 2)) == len(walk)).all()
    flat = counts[0][counts[0] > 0]
    np.testing.assert_allclose(poses.entropy(counts)[0], scipy.stats.entropy(flat, base=2))
    np.testing.assert_allclose(poses.entropy(np.ones((24, 12))), np.log2(288))
    # a left arm that points to the body's left: the middle of the azimuths, middle height
    pose = walk[:1].copy()
    pose[0, 11] = pose[0, 10] + 0.3 * np.array([0.0, 0, 0]) + 0.3 * _left(pose[0])
    column, row = np.argwhere(poses.direction_histograms(pose)[4])[0]
    assert column in (11, 12)
    assert row in (5, 6)


def _left(pose):
    up, across = pose[8] - pose[0], pose[4] - pose[1]
    across = across - up * (across @ up) / (up @ up)
    return across / np.linalg.norm(across)


def test_seeds_and_tests_of_real_motion_are_as_varied_as_measured():
    seeds = upright(mocap.clips()["walk"].joints)[::5]
    assert len(seeds) == 8
    assert poses.diversity(seeds) == pytest.approx(2.64, abs=0.005)
    tests = np.concatenate([upright(mocap.clips()[n].joints) for n in mocap.ACTIONS if n != "walk"])
    assert poses.diversity(tests) == pytest.approx(6.11, abs=0.005)


def test_poses_without_a_direction_are_not_counted():
    nothing = np.zeros((3, 16, 3))
    assert poses.direction_histograms(nothing).sum() == 0
    assert np.isnan(poses.diversity(nothing))


def test_the_nearest_pose_whichever_way_it_faces():
    walk = upright(mocap.clips()["walk"].joints)
    turned = (walk[::3] + 5) @ Rotation.from_euler("z", 1.0).as_matrix().T
    np.testing.assert_allclose(poses.nearest(turned, walk), 0, atol=1e-5)
    kick = upright(mocap.clips()["kick"].joints)
    ours = poses.nearest(kick, walk, at_once=7)
    a, b = poses.in_torso(kick), poses.in_torso(walk)
    brute = [min(poses.mpjpe(x[None], y[None])[0] for y in b) for x in a[:20]]
    np.testing.assert_allclose(ours[:20], brute, atol=1e-5)
    frame = poses.in_torso(walk)
    np.testing.assert_allclose(frame[:, 8, [0, 2]], 0, atol=1e-6)
    assert (frame[:, 4, 0] > frame[:, 1, 0]).all()
    assert np.isnan(poses.nearest(np.zeros((2, 16, 3)), walk)).all()
    assert np.isnan(poses.nearest(walk, np.zeros((2, 16, 3)))).all()

"""Rotations against SciPy, trees of joints, forward kinematics of the real clips, and cameras."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxvl.core.errors import InputError
from jaxvl.data import mocap
from jaxvl.data.skeletons import HUMANOID16
from jaxvl.ops import kinematics

PARENTS = HUMANOID16.parents


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quaternions(rng, count=20):
    q = rng.normal(size=(count, 4))
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def test_quaternions_turn_as_scipy_s(rng):
    q, v = quaternions(rng), rng.normal(size=(20, 3))
    theirs = Rotation.from_quat(q, scalar_first=True)
    np.testing.assert_allclose(kinematics.rotate(q, v), theirs.apply(v), atol=1e-12)
    np.testing.assert_allclose(kinematics.quaternion_matrix(3 * q), theirs.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(kinematics.rotate(kinematics.conjugate(q), kinematics.rotate(q, v)), v, atol=1e-12)
    every = kinematics.rotate(q[:, None], v[None])
    np.testing.assert_allclose(every, np.einsum("qij,vj->qvi", theirs.as_matrix(), v), atol=1e-12)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3, 1.0, 3.0, 7.0])
def test_rotation_vectors_turn_as_scipy_s(rng, length):
    omega = rng.normal(size=(10, 3))
    omega *= length / np.linalg.norm(omega, axis=-1, keepdims=True)
    theirs = Rotation.from_rotvec(omega).as_matrix()
    np.testing.assert_allclose(kinematics.axis_angle_matrix(omega), theirs, atol=1e-12)
    q = kinematics.axis_angle_quaternion(omega)
    np.testing.assert_allclose(kinematics.quaternion_matrix(q), theirs, atol=1e-12)
    gradient = jax.grad(lambda w: kinematics.axis_angle_matrix(w)[0, 2, 1])(jnp.asarray(omega, jnp.float32))
    assert np.isfinite(gradient).all()
    if length < 1e-6:
        np.testing.assert_allclose(gradient[0], [1, 0, 0], atol=1e-5)


def test_views_turn_first_about_the_upward_axis():
    seen = kinematics.view(np.array(np.pi / 2), np.array(0.0)) @ np.array([0.0, 0, 1])
    np.testing.assert_allclose(seen, [1, 0, 0], atol=1e-12)
    both = kinematics.view(np.array(0.4), np.array(0.2))
    np.testing.assert_allclose(both, Rotation.from_euler("yx", [0.4, 0.2]).as_matrix(), atol=1e-12)


def test_joints_are_the_sums_of_their_bones(rng):
    x = rng.normal(size=(4, 16, 3))
    b = kinematics.bones(x, PARENTS)
    np.testing.assert_array_equal(b[:, 0], 0)
    np.testing.assert_allclose(b[:, 11], x[:, 11] - x[:, 10], atol=1e-15)
    np.testing.assert_allclose(kinematics.joints(b, PARENTS), x - x[:, :1], atol=1e-12)
    ours = jax.jit(lambda b: kinematics.joints(b, PARENTS))(jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(ours, x - x[:, :1], atol=1e-5)


def test_a_turned_limb_moves_with_all_that_hangs_on_it(rng):
    x = mocap.clips()["walk"].joints
    turned = kinematics.turn_limb(x, 10, kinematics.about(0, np.full(len(x), 0.7)), PARENTS)
    assert kinematics.descendants(10, PARENTS) == (11, 12)
    assert kinematics.descendants(0, PARENTS) == tuple(range(1, 16))
    moved = np.abs(turned - x).max((0, 2)) > 1e-9
    assert np.flatnonzero(moved).tolist() == [11, 12]
    lengths = lambda y: np.linalg.norm(kinematics.bones(y, PARENTS), axis=-1)  # noqa: E731
    np.testing.assert_allclose(lengths(turned), lengths(x), atol=1e-12)


def test_clips_are_people_with_bones_of_one_length():
    clips = mocap.clips()
    assert len(clips) == 20
    assert len(mocap.ACTIONS) == 15
    for motion in clips.values():
        lengths = np.linalg.norm(kinematics.bones(motion.joints, PARENTS), axis=-1)
        assert lengths.std(0).max() < 1e-9
        np.testing.assert_allclose(lengths[0, [2, 5]], 0.4215, atol=1e-4)
        np.testing.assert_allclose(lengths[0, [3, 6]], 0.4099, atol=1e-4)
    ankles = clips["walk"].joints[:, [3, 6], 1]
    assert ankles.min() == pytest.approx(0.05, abs=0.01)
    x = clips["walk"].joints  # walks in +x: the torso's forward axis shows there, and the left is at -z
    frame = kinematics.torso_frame(x[:, 0], x[:, 8], x[:, 10], x[:, 13])
    travel = x[-1, 0] - x[0, 0]
    assert travel[0] > 1
    assert (frame[:, 2, 0] > 0.9).all()
    assert (x[:, 10, 2] < x[:, 13, 2]).all()
    np.testing.assert_allclose(frame @ frame.swapaxes(-1, -2), np.broadcast_to(np.eye(3), frame.shape), atol=1e-12)


def test_kinematics_in_jax_are_those_in_numpy():
    motion = mocap.clips()["kick"]
    frames = np.random.default_rng(0).normal(size=(5, 44))
    ours = jax.jit(kinematics.humanoid_joints)(jnp.asarray(frames, jnp.float32))
    np.testing.assert_allclose(ours, kinematics.humanoid_joints(frames), atol=1e-5)
    assert motion.joints.dtype == np.float64


def test_cameras_go_there_and_back(rng):
    q, t = quaternions(rng, 1)[0], rng.normal(size=3) * 5
    x = rng.normal(size=(7, 3)) * 5
    np.testing.assert_allclose(kinematics.camera_to_world(kinematics.world_to_camera(x, q, t), q, t), x, atol=1e-12)
    np.testing.assert_allclose(kinematics.world_to_camera(t[None], q, t), 0, atol=1e-12)


@pytest.mark.parametrize("content", ["", "{}", '{"Frames": [[1, 2]]}', '{"Frames": 3}', "[1]", '{"Frames": []}'])
def test_what_is_no_motion_is_one_line(content):
    with pytest.raises(InputError, match=r"^clip.txt: ") as error:
        mocap.parse(content, "clip.txt")
    assert "\n" not in str(error.value)

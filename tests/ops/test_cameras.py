"""Screens, projection, Human3.6M's cameras, and views of an upright world."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.data.readers.poses import h36m_cameras
from jaxvl.ops import cameras, kinematics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_point_on_the_axis_is_the_middle():
    lens = np.array([2.0, 2, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(cameras.project(np.array([0.0, 0, 4]), lens), [0, 0])


def test_distortion_by_hand():
    point = np.array([1.0, 0, 2])
    radial = np.array([2.0, 2, 0, 0, 0.1, 0, 0, 0, 0])  # a = (.5, 0), r = .25: 2 * .5 * 1.025
    np.testing.assert_allclose(cameras.project(point, radial), [1.025, 0], atol=1e-12)
    # p = (.1, .2), the term that is not OpenCV's: bend 1 + .05, then p r
    tangential = np.array([2.0, 2, 0.3, 0.4, 0, 0, 0, 0.1, 0.2])
    np.testing.assert_allclose(
        cameras.project(point, tangential), [2 * (0.5 * 1.05 + 0.025) + 0.3, 2 * 0.05 + 0.4], atol=1e-12
    )
    np.testing.assert_allclose(cameras.project(point, tangential, distort=False), [1.3, 0.4], atol=1e-12)
    np.testing.assert_allclose(cameras.project(np.array([9.0, -9, 1]), radial, distort=False), [2, -2])  # clipped


def test_all_powers_of_the_radius_count(rng):
    x, lens = rng.normal(size=(5, 3)) + np.array([0, 0, 4]), rng.normal(size=9)
    a = np.clip(x[:, :2] / x[:, 2:], -1, 1)
    r = (a**2).sum(1, keepdims=True)
    k, p = lens[4:7], lens[7:]
    bend = 1 + k[0] * r + k[1] * r**2 + k[2] * r**3 + (a @ p)[:, None]
    np.testing.assert_allclose(cameras.project(x, lens), lens[:2] * (a * bend + p * r) + lens[2:4], atol=1e-12)


def test_screens_keep_the_aspect_and_come_back(rng):
    corners = np.array([[0.0, 0], [1000, 1002], [500, 501]])
    there = cameras.normalise_screen(corners, 1000, 1002)
    np.testing.assert_allclose(there, [[-1, -1.002], [1, 1.002], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(cameras.restore_screen(there, 1000, 1002), corners, atol=1e-9)
    x, width, height = rng.normal(size=(3, 4, 2)), np.array([[10.0], [20], [40]]), np.array([[10.0], [10], [10]])
    each = [cameras.normalise_screen(x[i], width[i, 0], height[i, 0]) for i in range(3)]
    np.testing.assert_allclose(cameras.normalise_screen(x, width, height), each)


def test_human36m_s_cameras_are_unit_rotations_and_look_at_the_middle_of_the_room():
    lens = h36m_cameras.intrinsics()
    assert lens.shape == (4, 9)
    np.testing.assert_allclose(lens[0, 0], 2 * 1145.0494384765625 / 1000, rtol=1e-6)
    np.testing.assert_allclose(lens[0, 3], 2 * 515.4514770507812 / 1000 - 1.002, rtol=1e-4)
    np.testing.assert_allclose(h36m_cameras.aspects(), [1.002, 1, 1, 1.002], rtol=1e-6)
    for subject in h36m_cameras.SUBJECTS:
        q, t = h36m_cameras.extrinsics(subject)
        np.testing.assert_allclose(np.linalg.norm(q, axis=-1), 1, atol=1e-6)
        standing = np.array([0.0, 0, 1], np.float32)  # a metre above the ground, in the middle
        seen = kinematics.world_to_camera(np.broadcast_to(standing, (4, 3)), q, t)
        assert ((seen[:, 2] > 3) & (seen[:, 2] < 7)).all()
        assert (np.abs(cameras.project(seen, lens)) < 0.5).all()
        up = kinematics.rotate(kinematics.conjugate(q), np.broadcast_to(np.float32([0, 0, 1]), (4, 3)))
        assert (up[:, 1] < -0.9).all()  # y of a camera points down
        x = np.random.default_rng(0).uniform(-5, 5, (4, 3)).astype(np.float32)
        back = kinematics.camera_to_world(kinematics.world_to_camera(x, q, t), q, t)
        np.testing.assert_allclose(back, x, atol=1e-4)


def test_views_of_an_upright_world():
    turn = cameras.upright_view(np.array(0.0), np.array(0.0))
    np.testing.assert_allclose(turn @ [0, 0, 1], [0, -1, 0], atol=1e-12)  # up is -y
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-12)
    tilted = cameras.upright_view(np.array([1.0, 2]), np.array([0.2, -0.1]))
    np.testing.assert_allclose(tilted @ tilted.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-12)
    np.testing.assert_allclose((tilted @ [0, 0, 1.0])[:, 1], -np.cos([0.2, -0.1]), atol=1e-12)  # yaw leaves the height
    np.testing.assert_array_equal(np.array([0.0, 0, 1]) @ cameras.Y_UP.T, [0, 1, 0])
    seen = kinematics.view(np.array([1.0, 2]), np.array([0.2, -0.1]))  # of a world whose y points up
    np.testing.assert_allclose(tilted, np.diag([1, -1, -1]) @ seen @ cameras.Y_UP, atol=1e-12)


def test_jax_gives_what_numpy_gives(rng):
    x, lens = (
        (rng.normal(size=(6, 16, 3)) + np.array([0, 0, 5])).astype(np.float32),
        rng.normal(size=(6, 1, 9)).astype(np.float32),
    )
    ours = jax.jit(cameras.project)(jnp.asarray(x), jnp.asarray(lens))
    np.testing.assert_allclose(ours, cameras.project(x, lens), rtol=1e-5, atol=1e-5)
    flat = x[..., :2]
    ours = jax.jit(lambda x: cameras.restore_screen(cameras.normalise_screen(x, 100, 50), 100, 50))(jnp.asarray(flat))
    np.testing.assert_allclose(ours, flat, atol=1e-4)
    yaw, pitch = rng.normal(size=(2, 3)).astype(np.float32)
    ours = jax.jit(cameras.upright_view)(jnp.asarray(yaw), jnp.asarray(pitch))
    np.testing.assert_allclose(ours, cameras.upright_view(yaw, pitch), atol=1e-6)

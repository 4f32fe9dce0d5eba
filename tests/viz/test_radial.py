"""The picture of radial structures, and the numbers written on it."""

import numpy as np
import pytest

from jaxvl.viz.radial import Spokes, class_means, matched_cosine, plane, radial_picture


def domain(turn=0.0, shift=(0.0, 0.0, 0.0), dashed=False):
    """Three classes on spokes of length 4 in the plane of the first two of three coordinates."""
    rng = np.random.default_rng(0)
    angles = np.array([0.1, 2.2, 4.3]) + turn
    ends = 4 * np.stack([np.cos(angles), np.sin(angles), np.zeros(3)], 1)
    labels = np.repeat([0, 1, 2], 20)
    return Spokes("d", ends[labels] + 0.01 * rng.normal(size=(60, 3)) + np.array(shift), labels, dashed)


def test_cosines_do_not_see_translations_and_see_rotations():
    assert matched_cosine(domain(), domain(shift=(9.0, -3.0, 1.0)), 3) == pytest.approx(1, abs=1e-3)
    assert matched_cosine(domain(), domain(turn=np.pi / 3), 3) == pytest.approx(0.5, abs=0.01)


def test_means_of_absent_and_unlabelled_rows():
    means = class_means(np.ones((3, 2)), np.array([0, -1, 2]), 3)
    assert np.isnan(means[1]).all()
    np.testing.assert_array_equal(means[[0, 2]], 1)


def test_plane_is_that_of_the_spokes():
    axes = plane([[domain()]], 3)
    assert axes.shape == (3, 2)
    np.testing.assert_allclose(np.abs(axes[2]), 0, atol=0.01)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-6)


def test_picture_has_a_panel_a_stage_and_draws_every_class():
    turned = domain(turn=1.0, dashed=True)
    sheet = np.asarray(
        radial_picture([[domain(), turned], [domain(), domain(dashed=True)]], ["a", "b"], ["x", "y", "z"])
    )
    one = np.asarray(radial_picture([[domain(), turned]], ["a"], ["x", "y", "z"]))
    assert sheet.shape[0] == one.shape[0]
    assert sheet.shape[1] > 1.9 * one.shape[1]
    half = sheet.shape[1] // 2
    assert (sheet[:, :half] != sheet[:, -half:]).any()  # the second panel is another picture
    for colour in ((47, 126, 216), (224, 103, 45), (42, 157, 92)):
        assert (np.abs(one.astype(int) - colour).sum(-1) < 30).sum() > 50
    gone = domain()
    gone.labels[gone.labels == 2] = -1
    assert radial_picture([[domain(), gone]], ["a"], ["x", "y", "z"]).size == (one.shape[1], one.shape[0])
    with pytest.raises(ValueError, match="a title for each panel"):
        radial_picture([[domain()]], [], ["x"])

"""Pictures of skeletons: where points go, sides, gates, and shapes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jaxvl.data.skeletons import HUMANOID16, NTU25
from jaxvl.viz import skeleton as drawing


def standing(frames=5):
    """`[1, F, 16, 3]`: a body whose left is at positive x."""
    x = np.zeros((1, frames, 16, 3), np.float32)
    for joint, name in enumerate(HUMANOID16.joints):
        x[..., joint, 0] = 0.3 if "left" in name else -0.3 if "right" in name else 0
        x[..., joint, 1] = joint * 0.05 + 0.1
    return x


def near(image, colour):
    return (np.abs(np.asarray(image).astype(int) - colour).sum(-1) < 60).nonzero()


def test_a_pose_faces_the_viewer():
    x = standing()
    sheet = drawing.pose(x[:, 0], HUMANOID16, drawing.Stage(x, 200))
    blue, orange = (near(sheet, colour)[1].mean() for colour in (drawing.LEFT, drawing.RIGHT))
    assert blue > 120
    assert orange < 80
    heights = drawing.Stage(x, 200)(x[0, 0])[:, 1]
    assert (np.diff(heights) < 0).all()
    with pytest.raises(ValueError, match="without a body"):
        drawing.Stage(np.zeros((1, 3, 16, 3)), 100)


def test_gates_above_one_are_seen_on_joints_and_in_time():
    x = standing()
    gates = np.ones((1, 16))
    gates[0, 9] = 1.5
    plain, shown = (drawing.pose(x[:, 0], HUMANOID16, drawing.Stage(x, 200), g) for g in (np.ones((1, 16)), gates))
    rows, columns = np.any(np.asarray(plain) != np.asarray(shown), axis=-1).nonzero()
    place = drawing.Stage(x, 200)(x[0, 0, 9])
    assert np.abs([columns.mean(), rows.mean()] - place).max() < 3
    strip = Image.new("RGB", (100, 12), "white")
    drawing.gate_bar(strip, np.array([0.5, 1.0, 1.5, 1.0]), (0, 0, 99, 11), now=3)
    pixels = np.asarray(strip)[5]
    assert pixels[12, 2] > pixels[12, 0]
    assert tuple(pixels[37]) == (255, 255, 255)
    assert pixels[62, 0] > pixels[62, 2]
    assert drawing.gate_colour(7.0) == drawing.HOT


def test_sheets_and_animations_have_their_frames():
    x = np.concatenate([standing(), np.zeros((1, 5, 16, 3), np.float32)])
    frames = drawing.frames_of(x, HUMANOID16, np.ones((2, 16)), np.ones((2, 5)), 100)
    assert [f.size for f in frames] == [(100, 114)] * 5
    with Image.open(io.BytesIO(drawing.animation(frames, fps=10))) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (5, 100)
    sheet = drawing.contact_sheet(x, HUMANOID16, count=3, size=80, title="walk 93 %")
    assert sheet.width == 3 * 86 + 6


def test_action_pictures_and_confusions():
    picture = np.random.default_rng(0).normal(size=(32, 25, 12))
    shown = drawing.action_picture(picture, ["a", "b", "c", "d"])
    assert shown.width == 4 * (25 * 6 + 6) + 6
    with pytest.raises(ValueError, match="zip"):
        drawing.action_picture(picture, ["a"])
    one = np.asarray(drawing.channels_picture(picture[..., :3], 32))
    assert one.shape == (32, 25, 3)
    assert (one.min(), one.max()) == (0, 255)
    assert np.asarray(drawing.channels_picture(np.ones((4, 3, 3)))).max() == 0
    counts = np.eye(60) * 9
    sheet = np.asarray(drawing.confusion_picture(counts, NTU25.joints * 3))
    assert len(near(sheet, drawing.images.GREEN)[0]) > 60 * 9
    assert drawing.confusion_picture(
        np.array([[3, 1], [0, 0]]), ["walk", "a name that is far too long to be shown"]
    ).width

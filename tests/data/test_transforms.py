"""Crops, resizes and flips: known boxes, the fallback, Pillow's pixels, determinism."""

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data import transforms as T


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


class Drawn:
    """A generator that gives what it was told to, and records what it was asked for."""

    def __init__(self, uniforms, integers=()):
        self.uniforms, self.ints, self.asked = list(uniforms), list(integers), []

    def uniform(self, low, high):
        return self.uniforms.pop(0)

    def integers(self, low, high):
        self.asked.append((low, high))
        return self.ints.pop(0)


def test_crop_box_by_hand():
    rng = Drawn([0.25, 0.0], [3, 7])  # a quarter of 40x20 = 200, square: 14.14 -> 14
    assert T.random_crop_box(40, 20, rng) == (7, 3, 14, 14)
    assert rng.asked == [(0, 7), (0, 27)]  # top first; every valid corner


def test_crop_that_does_not_fit_is_drawn_again_and_falls_back_to_the_centre():
    rng = Drawn([1.25, 0.0, 1.0, 0.0], [0, 0])
    assert T.random_crop_box(20, 20, rng) == (0, 0, 20, 20)  # 22.4 does not fit, 20 does
    assert T.random_crop_box(40, 20, Drawn([1.25, 0.0] * T.TRIES)) == (6, 0, 27, 20)  # aspect clipped to 4/3
    assert T.random_crop_box(20, 40, Drawn([1.25, 0.0] * T.TRIES)) == (0, 6, 20, 27)
    assert T.random_crop_box(22, 20, Drawn([1.25, 0.0] * T.TRIES)) == (0, 0, 22, 20)


def test_crop_boxes_stay_inside_and_have_the_asked_shares():
    rng = np.random.default_rng(0)
    boxes = np.array([T.random_crop_box(61, 37, rng, (0.2, 1.0)) for _ in range(500)])
    left, top, w, h = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + w <= 61).all()
    assert (top + h <= 37).all()
    share = w * h / (61 * 37)
    assert share.min() > 0.18
    assert 0.75 < share.max() <= 0.83  # an aspect of 4/3 fills 0.81 of this picture
    assert (w / h).min() > 0.7
    assert len(set(left)) > 20


def test_random_resized_crop_is_pillow_s_resize_of_the_crop():
    image = noise(30, 20)
    left, top, w, h = T.random_crop_box(30, 20, np.random.default_rng(5))
    want = image.crop((left, top, left + w, top + h)).resize((8, 8), Image.Resampling.BILINEAR)
    got = T.random_resized_crop(image, 8, np.random.default_rng(5))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


def test_resizes():
    image = noise(50, 33)
    assert T.resize_short_side(image, 16).size == (24, 16)  # 24.24 is cut
    assert T.resize_short_side(image, 33) is image
    assert T.resize(image, 16, 16).size == (16, 16)
    nearest = image.resize((24, 16), Image.Resampling.NEAREST)
    assert (np.asarray(T.resize_short_side(image, 16)) != np.asarray(nearest)).any()


@pytest.mark.parametrize(("n", "offset"), [(9, 0), (11, 2), (13, 2), (10, 1)])  # 0.5, 1.5, 2.5 round to even
def test_centre_crop_offsets_round_to_even(n, offset):
    image = noise(n, 8)
    got = np.asarray(T.center_crop(image, 8))
    np.testing.assert_array_equal(got, np.asarray(image)[:, offset : offset + 8])


def test_centre_crop_pads_small_pictures():
    image = Image.fromarray(np.full((3, 10, 3), 9, np.uint8))
    got = np.asarray(T.center_crop(image, 6))
    assert got.shape == (6, 6, 3)
    assert (got[1:4] == 9).all()  # 1 row above, 2 below
    assert not got[0].any()
    assert not got[4:].any()


def test_flips():
    image = noise(5, 4)
    pixels = np.asarray(image)
    always, never = np.random.default_rng(0), np.random.default_rng(0)
    np.testing.assert_array_equal(np.asarray(T.random_flip(image, always, 1.0)), pixels[:, ::-1])
    np.testing.assert_array_equal(np.asarray(T.random_flip(image, always, 1.0, vertical=True)), pixels[::-1])
    assert T.random_flip(image, never, 0.0) is image
    rng = np.random.default_rng(1)
    share = np.mean([T.random_flip(image, rng) is not image for _ in range(2000)])
    assert abs(share - 0.5) < 0.05


def test_affine_jitter_keeps_the_centre_and_can_be_undone_by_nothing():
    image = Image.fromarray(np.zeros((21, 21, 3), np.uint8))
    image.putpixel((10, 10), (255, 255, 255))
    got = np.asarray(T.affine_jitter(image, np.random.default_rng(3), 0.2)).astype(float)[..., 0]
    y, x = (np.indices(got.shape) * got).sum((1, 2)) / got.sum()
    assert abs(y - 10) < 0.5
    assert abs(x - 10) < 0.5
    picture = noise(16, 16)
    assert T.affine_jitter(picture, np.random.default_rng(0), 0) is picture
    moved = [np.asarray(T.affine_jitter(picture, np.random.default_rng(s), 0.2)) for s in (1, 1, 2)]
    np.testing.assert_array_equal(moved[0], moved[1])
    assert (moved[0] != moved[2]).any()
    with pytest.raises(InputError, match=r"affine_jitter: 0.7"):
        T.affine_jitter(picture, np.random.default_rng(0), 0.7)

"""Colour transforms: values by hand, PIL's rounding, and what is drawn in which order."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data import color


def picture(*rgb, size=(2, 2)):
    return Image.new("RGB", size, rgb)


def noise(seed=0, size=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def first(image):
    return tuple(int(v) for v in np.asarray(image)[0, 0])


def test_brightness_blends_with_black_and_clips():
    assert first(color.adjust_brightness(picture(100, 200, 50), 0.5)) == (50, 100, 25)
    assert first(color.adjust_brightness(picture(100, 200, 50), 2)) == (200, 255, 100)
    assert first(color.adjust_brightness(picture(100, 200, 50), 0)) == (0, 0, 0)


def test_contrast_blends_with_the_rounded_mean_of_the_grey_picture():
    image = Image.fromarray(np.array([[[10] * 3, [21] * 3]], np.uint8))  # mean 15.5, rounded to 16
    assert np.asarray(color.adjust_contrast(image, 0))[..., 0].tolist() == [[16, 16]]
    assert np.asarray(color.adjust_contrast(image, 2))[..., 0].tolist() == [[4, 26]]


def test_saturation_blends_with_grey_of_299_587_114():
    grey = round((299 * 200 + 587 * 100 + 114 * 50) / 1000)
    assert first(color.adjust_saturation(picture(200, 100, 50), 0)) == (grey, grey, grey)
    assert first(color.to_gray(picture(200, 100, 50))) == (grey, grey, grey)
    assert first(color.adjust_saturation(picture(200, 100, 50), 1)) == (200, 100, 50)


@pytest.mark.parametrize(("shift", "steps"), [(0.25, 63), (-0.25, -63), (0.5, 127), (0.003, 0)])
def test_hue_turns_by_truncated_steps_of_256(shift, steps):
    image = noise()
    before = np.asarray(image.convert("HSV"), np.int32)
    hsv = before.copy()
    hsv[..., 0] = (hsv[..., 0] + steps) % 256
    wanted = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(color.adjust_hue(image, shift)), wanted)


def test_hue_by_a_third_turns_red_to_green():
    r, g, b = (v / 255 for v in first(color.adjust_hue(picture(200, 20, 20), 1 / 3)))
    assert colorsys.rgb_to_hsv(r, g, b)[0] == pytest.approx(1 / 3, abs=0.01)
    with pytest.raises(InputError, match=r"hue 0\.6"):
        color.adjust_hue(picture(1, 2, 3), 0.6)


def test_solarize_inverts_from_128_on():
    assert first(color.solarize(picture(127, 128, 255))) == (127, 127, 0)


def test_blur_has_the_asked_standard_deviation_and_keeps_the_sum():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    image[20, 19] = image[20, 21] = image[19, 20] = image[21, 20] = 255
    spread = np.asarray(color.gaussian_blur(Image.fromarray(image), 2.0), float)[..., 0]
    at = np.arange(41) - 20.0
    variance = (spread.sum(0) * at**2).sum() / spread.sum()
    assert variance == pytest.approx(4.0 + 2 / 5, rel=0.25)  # of the blur and of the cross of five pixels
    assert spread.argmax() == 20 * 41 + 20
    flat = picture(90, 10, 30, size=(9, 9))
    np.testing.assert_array_equal(np.asarray(color.gaussian_blur(flat, 1.3)), np.asarray(flat))


def test_jitter_is_the_four_operations_in_the_drawn_order():
    jitter = color.ColorJitter(0.4, 0.4, 0.2, 0.1)
    orders = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        order = rng.permutation(4)
        f = [rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)]
        wanted = noise()
        for k in order:
            operation = (
                color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue,
            )[k]  # fmt: skip
            wanted = operation(wanted, f[k])
        got = jitter(noise(), np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
        orders.add(tuple(order))
    assert len(orders) > 3


def test_jitter_of_nothing_is_the_picture_and_bad_amounts_are_refused():
    np.testing.assert_array_equal(
        np.asarray(color.ColorJitter()(noise(), np.random.default_rng(0))), np.asarray(noise())
    )
    with pytest.raises(InputError, match=r"hue 0\.7 is out of range"):
        color.ColorJitter(hue=0.7)
    low = color.ColorJitter(brightness=3.0)  # the factor never falls below 0
    assert min(np.asarray(low(noise(), np.random.default_rng(s))).min() for s in range(20)) >= 0


def test_lighting_noise_moves_pixels_by_at_most_one():
    moved = np.asarray(color.lighting_noise(noise(), np.random.default_rng(0)), int) - np.asarray(noise(), int)
    assert np.abs(moved).max() == 1

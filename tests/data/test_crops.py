"""Crops around boxes: the published geometry, padding by loops, plain bilinear resizing."""

import numpy as np
import pytest

from jaxvl.data.crops import crop, fitted_size, resize


def bilinear(image, height, width):
    """By loops over pixels, half-pixel centres, edges repeated."""
    out = np.zeros((height, width, *image.shape[2:]))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            x = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, image.shape[0] - 1), min(b + 1, image.shape[1] - 1)
            v, u = y - a, x - b
            above = (1 - u) * image[a, b] + u * image[a, d]
            out[i, j] = (1 - v) * above + v * ((1 - u) * image[c, b] + u * image[c, d])
    return out


PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(30, 40), (90, 100), (17, 83), (60, 80)])
def test_resize_is_bilinear_without_antialias(height, width):
    got = resize(PICTURE, height, width)
    assert np.abs(got - bilinear(PICTURE.astype(float), height, width)).max() <= 0.51


@pytest.mark.parametrize(
    ("size", "want"), [((1080, 1920), (800, 1422)), ((480, 640), (800, 1066)), ((540, 1920), (405, 1440))]
)
def test_sizes_of_whole_frames(size, want):
    assert fitted_size(*size, 800, 1440) == want
    assert fitted_size(*size[::-1], 800, 1440) == want[::-1]


def test_published_geometry_of_a_crop():
    image = np.full((480, 640, 3), 200, np.uint8)
    got = crop(image, np.array([100, 80, 50, 32.0]), 6, 352)
    assert (got.left, got.top) == (5, -24)
    assert got.scale == pytest.approx(352 / 240)
    assert got.pad[:36].all()
    assert not got.pad[36:].any()
    assert (got.image[~got.pad] == 200).all()
    assert got.image[0, 100].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "box", [(10, 20, 12, 9), (-5, 50, 20, 20), (70, 40, 30, 30), (300, 300, 10, 10), (40, 30, 0, 5)]
)
def test_crop_is_the_padded_window_resized(box):
    got = crop(PICTURE, np.array(box, float), 2.5, 24)
    n = max(1, int(np.ceil(np.sqrt(box[2] * box[3]) * 2.5)))
    window, outside = np.zeros((n, n, 3)), np.ones((n, n))
    for i in range(n):
        for j in range(n):
            y, x = got.top + i, got.left + j
            # the slip: the last row and column are padding where the window reaches them
            height, width = 60 - (got.top + n >= 60), 80 - (got.left + n >= 80)
            if 0 <= y < height and 0 <= x < width:
                window[i, j], outside[i, j] = PICTURE[y, x], 0
    assert np.abs(got.image - bilinear(window, 24, 24)).max() <= 0.51
    np.testing.assert_array_equal(got.pad, bilinear(outside, 24, 24) > 1e-9)

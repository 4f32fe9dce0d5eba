"""RoIAlign against loops over samples, and its known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.ops.roi_align import level_of, roi_align, roi_align_pyramid


def by_loops(features, box, scale, size):
    """One map `[H, W, C]`, one box: sample by sample, as torchvision's source describes it."""
    height, width, channels = features.shape
    x1, y1, x2, y2 = (v * scale - 0.5 for v in box)
    out = np.zeros((size, size, channels))
    for p in range(size):
        for q in range(size):
            for i in range(2):
                for j in range(2):
                    y = y1 + (p + (i + 0.5) / 2) * (y2 - y1) / size
                    x = x1 + (q + (j + 0.5) / 2) * (x2 - x1) / size
                    if y < -1 or y > height or x < -1 or x > width:
                        continue
                    y, x = max(y, 0), max(x, 0)
                    top, left = int(y), int(x)
                    if top >= height - 1:
                        top = bottom = height - 1
                        y = float(top)
                    else:
                        bottom = top + 1
                    if left >= width - 1:
                        left = right = width - 1
                        x = float(left)
                    else:
                        right = left + 1
                    v, u = y - top, x - left
                    out[p, q] += (
                        (1 - v) * (1 - u) * features[top, left]
                        + (1 - v) * u * features[top, right]
                        + v * (1 - u) * features[bottom, left]
                        + v * u * features[bottom, right]
                    ) / 4
    return out


BOXES = np.array(
    [
        [[10, 12, 90, 70], [40, 40, 40, 40], [-30, -20, 30, 25], [90, 60, 30, 20]],
        [[70, 10, 140, 110], [0, 0, 120, 96], [60, 20, 20, 70], [500, 500, 600, 620]],
    ],
    np.float32,
)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_both_forms_agree_with_loops(size):
    features = np.random.default_rng(0).normal(size=(2, 12, 15, 3)).astype(np.float32)
    want = np.array([[by_loops(f, b, 1 / 8, size) for b in bs] for f, bs in zip(features, BOXES)])
    for form in ("separable", "gather", "auto"):
        got = jax.jit(lambda f, b, form=form: roi_align(f, b, 1 / 8, size, form))(features, BOXES)
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=form)


def test_known_answers():
    ramp = jnp.broadcast_to(jnp.arange(20.0)[:, None], (1, 16, 20, 1))
    at = lambda *box, f=ramp, **kw: float(roi_align(f, jnp.array([[box]], jnp.float32), 1 / 8, 1, **kw)[0, 0, 0, 0, 0])  # noqa: E731
    assert at(40, 20, 88, 60) == pytest.approx((40 + 88) / 2 / 8 - 0.5)
    assert at(8 * 5 + 4, 20, 8 * 5 + 4, 20) == pytest.approx(5)
    assert at(40, 20, 88, 60, f=jnp.full((1, 16, 20, 1), 3.5)) == pytest.approx(3.5)
    assert at(-60, 20, -20, 60, f=jnp.ones((1, 16, 20, 1))) == 0
    assert at(180, 20, 220, 60, f=jnp.ones((1, 16, 20, 1))) == 0


def test_gradient_goes_to_the_map_alone():
    features, boxes = jnp.ones((2, 12, 15, 3)), jnp.asarray(BOXES)
    for form in ("separable", "gather"):
        total = lambda f, b, form=form: roi_align(f, b, 1 / 8, 2, form).sum()  # noqa: E731
        to_map, to_boxes = jax.grad(total, argnums=(0, 1))(features, boxes)
        np.testing.assert_array_equal(to_boxes, 0)
        # of a map of ones the output is the share of samples that count, and so is the sum of the map's gradient
        np.testing.assert_allclose(to_map.sum(), total(features, boxes), rtol=1e-5)


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((0, 0, 111, 111), 0), ((0, 0, 112.5, 112.5), 0), ((0, 0, 223, 223), 0), ((0, 0, 224, 224), 1),
        ((0, 0, 447, 447), 1), ((0, 0, 448.5, 448.5), 2), ((0, 0, 9, 9), 0),
        ((0, 0, 400, 200), 1), ((10, 10, 0, 20), -1), ((300, 300, 0, 0), 1), ((0, 0, 5000, 5000), 3), ((5, 5, 5, 5), 0),
    ],
)  # fmt: skip
def test_level_by_area(box, level):
    assert int(level_of(jnp.array(box, jnp.float32))) == level


def test_pyramid_takes_each_box_from_its_level():
    maps = [jnp.full((1, 64 // 2**i, 64 // 2**i, 2), float(i + 1)) for i in range(4)]
    boxes = jnp.array([[[20, 20, 60, 60], [50, 50, 350, 350], [0, 0, 480, 480], [100, 10, 40, 60]]], jnp.float32)
    got = roi_align_pyramid(maps, boxes, [1 / 8, 1 / 16, 1 / 32, 1 / 64], 1)
    np.testing.assert_allclose(got[0, :, 0, 0, 0], [1, 2, 3, 0], atol=1e-5)


def test_unknown_form_is_refused():
    with pytest.raises(InputError, match="form 'fast'"):
        roi_align(jnp.ones((1, 4, 4, 1)), jnp.ones((1, 1, 4)), 1.0, 1, "fast")

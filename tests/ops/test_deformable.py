"""Sampling of deformable attention against loops, and the released slip of its norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.ops.deformable import deformable_sample, sampling_locations

SHAPES = ((6, 9), (3, 5))


def inputs(queries=4, heads=2, depth=3, points=2):
    rng = np.random.default_rng(0)
    cells = sum(h * w for h, w in SHAPES)
    values = rng.normal(size=(2, cells, heads, depth)).astype(np.float32)
    locations = rng.uniform(-0.2, 1.2, (2, queries, heads, 2, points, 2)).astype(np.float32)
    weights = rng.random((2, queries, heads, 2, points)).astype(np.float32)
    return values, locations, weights


def by_loops(values, locations, weights):
    batch, queries, heads, levels, points, _ = locations.shape
    out = np.zeros((batch, queries, heads, values.shape[-1]))
    for b, q, h, level, p in np.ndindex(batch, queries, heads, levels, points):
        height, width = SHAPES[level]
        start = sum(a * c for a, c in SHAPES[:level])
        grid = values[b, start : start + height * width, h].reshape(height, width, -1)
        x = locations[b, q, h, level, p, 0] * width - 0.5
        y = locations[b, q, h, level, p, 1] * height - 0.5
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    out[b, q, h] += weights[b, q, h, level, p] * share * grid[row, column]
    return out.reshape(batch, queries, -1)


def test_agrees_with_loops():
    given = inputs()
    got = jax.jit(lambda v, x, w: deformable_sample(v, SHAPES, x, w))(*given)
    np.testing.assert_allclose(got, by_loops(*given), atol=1e-5)


def test_locations_move_with_gradient():
    values, locations, weights = map(jnp.asarray, inputs())
    grads = jax.grad(lambda x: deformable_sample(values, SHAPES, x, weights).sum())(locations)
    step = 1e-3 * np.eye(2)[0]
    moved = deformable_sample(values, SHAPES, locations + step, weights).sum()
    moved -= deformable_sample(values, SHAPES, locations - step, weights).sum()
    assert float(grads[..., 0].sum()) == pytest.approx(float(moved) / 2e-3, rel=0.05)


def test_norm_of_points_and_of_boxes():
    offsets = jnp.ones((1, 1, 1, 2, 4, 2))
    points = jnp.full((1, 1, 2, 2), 0.5)
    right = sampling_locations(points, offsets, SHAPES, "wh")[0, 0, 0, :, 0] - 0.5
    released = sampling_locations(points, offsets, SHAPES, "hw")[0, 0, 0, :, 0] - 0.5
    np.testing.assert_allclose(right, [[1 / 9, 1 / 6], [1 / 5, 1 / 3]], atol=1e-6)
    np.testing.assert_allclose(released, [[1 / 6, 1 / 9], [1 / 3, 1 / 5]], atol=1e-6)
    boxes = jnp.broadcast_to(jnp.array([0.5, 0.5, 0.4, 0.2]), (1, 1, 2, 4))
    moved = sampling_locations(boxes, offsets, SHAPES, "hw")[0, 0, 0, 0, 0] - 0.5
    np.testing.assert_allclose(moved, [0.4 / 8, 0.2 / 8], atol=1e-6)
    with pytest.raises(InputError, match="norm 'xy'"):
        sampling_locations(points, offsets, SHAPES, "xy")

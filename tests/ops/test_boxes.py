"""Boxes: overlaps by loops, known answers, gradients that stay finite, assignments of scipy's total cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxvl.ops import boxes


def corners(n, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1, (n, 2))
    return np.concatenate([low, low + rng.uniform(0.01, 0.6, (n, 2))], 1).astype(np.float32)


def by_loops(a, b):
    """(IoU, GIoU) of two boxes of plain numbers."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = width * height if width > 0 and height > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union, common / union - (hull - union) / hull


def test_overlaps_of_every_pair_agree_with_loops():
    a, b = corners(9), corners(7, 1)
    want = np.array([[by_loops(x, y) for y in b.tolist()] for x in a.tolist()])
    every = jax.jit(lambda a, b: [boxes.pairwise(function, a, b) for function in (boxes.iou, boxes.giou)])
    overlap, generalised = every(a, b)
    np.testing.assert_allclose(overlap, want[..., 0], atol=1e-6)
    np.testing.assert_allclose(generalised, want[..., 1], atol=1e-6)


@pytest.mark.parametrize(
    ("other", "overlap", "generalised"),
    [((0, 0, 1, 1), 1, 1), ((1, 0, 2, 1), 0, 0), ((2, 0, 3, 1), 0, -1 / 3), ((0, 0, 2, 1), 0.5, 0.5)],
)
def test_overlaps_with_the_unit_box(other, overlap, generalised):
    unit, other = np.array([0, 0, 1, 1], np.float32), np.array(other, np.float32)
    assert float(jax.jit(boxes.iou)(unit, other)) == pytest.approx(overlap, abs=1e-6)
    assert float(jax.jit(boxes.giou)(unit, other)) == pytest.approx(generalised, abs=1e-6)


def test_gradients_of_empty_boxes_are_finite():
    empty = np.array([[0.5, 0.5, 0.5, 0.5], [0.7, 0.2, 0.1, 0.9]], np.float32)
    for function in (boxes.iou, boxes.giou):
        grads = jax.jit(jax.grad(lambda x, y: function(x, y).sum()))(empty, empty[:1])  # noqa: B023
        assert np.isfinite(np.asarray(grads)).all()


def test_formats_are_inverse():
    x, some = corners(5), np.array([[1, 2, 5, 4], [1, 0, 0, 1], [0, 1, 1, 0]], np.float32)

    @jax.jit
    def every(x, some):
        centred = boxes.cxcywh_from_xyxy(x)
        there_and_back = boxes.xyxy_from_cxcywh(centred), boxes.xyxy_from_xywh(boxes.xywh_from_xyxy(x))
        return there_and_back, boxes.cxcywh_from_xyxy(some), boxes.valid(some)

    there_and_back, centred, valid = jax.device_get(every(x, some))
    for again in there_and_back:
        np.testing.assert_allclose(again, x, atol=1e-6)
    np.testing.assert_allclose(centred[0], [3, 3, 4, 2])
    assert valid.tolist() == [True, False, False]


@pytest.mark.parametrize(("n", "m"), [(20, 6), (6, 6), (4, 7)])
def test_assignment_has_scipys_total_cost(n, m):
    rng = np.random.default_rng(n)
    cost = rng.normal(size=(12, n, m)).astype(np.float32) * 3
    present = rng.random((12, m)) < 0.7
    present[0], present[1] = False, True
    found = np.asarray(jax.jit(boxes.assign)(cost, present))
    assert (found[~present] == -1).all()
    for c, p, f in zip(cost, present, found):
        columns = np.flatnonzero(p)
        rows, chosen = linear_sum_assignment(c[:, columns])
        taken = f[columns]
        taken, places = taken[taken >= 0], columns[taken >= 0]
        assert len(set(taken.tolist())) == len(taken) == min(n, len(columns))
        assert c[taken, places].sum() == pytest.approx(c[:, columns][rows, chosen].sum(), abs=1e-4)


def test_assignment_passes_no_gradient():
    value = lambda c, p: jnp.take_along_axis(c, boxes.assign(c, p)[..., None], 1).sum() * 0.0  # noqa: E731
    grads = jax.jit(jax.grad(value))(np.ones((1, 4, 3), np.float32), np.ones((1, 3), bool))
    np.testing.assert_array_equal(grads, 0)

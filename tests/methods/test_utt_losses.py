"""UTT's losses, proposals and what each task trains: known answers, an implementation in numpy and scipy,
invariants."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.methods.utt import losses, method, proposals, recipe
from jaxvl.methods.utt.model import UTTConfig

UNIT = [0.0, 0, 1, 1]
ALL = jnp.ones(1, bool)


PLACES = 3
box_terms = functools.partial(jax.jit, static_argnames="fallback")(losses.box_terms)
track_loss = jax.jit(losses.track_loss)
score_loss = jax.jit(losses.score_loss)
detection_loss = jax.jit(losses.detection_loss)


def terms(predicted, truth, counts=None, fallback="sample"):
    """Of up to three boxes; places beyond do not count."""
    n = len(predicted)
    given = np.zeros((2, PLACES, 4), np.float32)
    given[:, :n] = predicted, truth
    there = np.zeros(PLACES, bool)
    there[:n] = True if counts is None else counts
    l1, off = box_terms(*given, there, fallback=fallback)
    return float(l1), float(off)


@pytest.mark.parametrize(
    ("truth", "l1", "off"),
    [(UNIT, 0, 0), ([1.0, 0, 2, 1], 1, 1), ([2.0, 0, 3, 1], 2, 4 / 3), ([0.0, 0, 2, 1], 1.5, 0.5)],
)
def test_box_terms_of_the_unit_box(truth, l1, off):
    assert terms([UNIT], [truth]) == pytest.approx((l1, off), abs=1e-6)


def test_box_terms_are_means_over_the_boxes_that_count():
    predicted, truth = [UNIT, UNIT, UNIT], [UNIT, [1.0, 0, 2, 1], [5.0, 0, 6, 1]]
    assert terms(predicted, truth, [True, True, False]) == pytest.approx((0.5, 0.5), abs=1e-6)
    assert terms(predicted, truth, [False] * 3) == (0, 0)


def test_swapped_corners_cost_one_box_or_as_released_all():
    swapped = [1.0, 0, 0, 1]
    assert terms([UNIT, swapped], [UNIT, UNIT])[1] == pytest.approx(0.5)
    assert terms([UNIT, swapped], [UNIT, UNIT], fallback="batch")[1] == pytest.approx(1.0)
    assert terms([UNIT, swapped], [UNIT, UNIT], [True, False], "batch")[1] == pytest.approx(0.0, abs=1e-6)
    grad = jax.jit(jax.grad(lambda p, t, weight: weight @ jnp.stack(losses.box_terms(p, t, ALL))))
    np.testing.assert_array_equal(grad(np.array([swapped]), np.array([UNIT]), np.array([0.0, 1])), 0)
    empty = np.array([[0.5, 0.5, 0.5, 0.5]])
    assert np.isfinite(grad(empty, empty, np.ones(2))).all()
    with pytest.raises(InputError, match="giou_fallback: 'none'"):
        terms([UNIT], [UNIT], fallback="none")


def test_track_loss_is_the_mean_over_predictions():
    predicted = jnp.array([[UNIT], [[1.0, 0, 2, 1]]])
    loss, last = track_loss(predicted, jnp.array([UNIT]), ALL)
    assert float(loss) == pytest.approx((0 + 5 * 1 + 2 * 1) / 2)
    assert float(last["giou"]) == pytest.approx(1)


def test_focal_at_even_odds():
    np.testing.assert_allclose(losses.focal(jnp.zeros(2), jnp.array([1.0, 0])), [0.04332, 0.12996], atol=1e-5)


def test_score_target_is_one_in_the_middle_and_zero_outside():
    truth = jnp.array([0.0, 0, 10, 10])
    target = jax.jit(losses.score_target)
    at = lambda x, y: float(target(np.array([x - 1.0, y - 1, x + 1, y + 1]), truth))  # noqa: E731
    assert at(5, 5) == pytest.approx(1)
    assert at(2.5, 5) == pytest.approx((2.5 / 7.5) ** 0.5)
    assert at(12, 5) == 0
    far = jnp.array([[[20.0, 20, 21, 21]]])
    assert float(score_loss(jnp.zeros((1, 1)), far, truth[None], ALL)) == 0  # skipped while boxes are lost
    near = jnp.array([[[1.0, 1, 9, 9]]])
    assert float(score_loss(jnp.zeros((1, 1)), near, truth[None], ALL)) == pytest.approx(np.log(2))


def numpy_detection(logits, boxes, truth, label, present):
    """Layer by layer, picture by picture."""
    corners = lambda b: np.concatenate([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1)  # noqa: E731

    def giou(a, b):
        low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
        common = np.maximum(high - low, 0).prod()
        union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
        hull = (np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])).prod()
        return common / union - (hull - union) / hull

    total, number = 0.0, max(present.sum(), 1)
    for layer in range(len(logits)):
        for i in range(len(truth)):
            p = 1 / (1 + np.exp(-logits[layer, i]))
            places = np.flatnonzero(present[i])
            cost = np.zeros((len(p), len(places)))
            for q in range(len(p)):
                for k, m in enumerate(places):
                    x = p[q, label[i, m]]
                    kind = 0.25 * (1 - x) ** 2 * -np.log(x + 1e-8) - 0.75 * x**2 * -np.log(1 - x + 1e-8)
                    apart = np.abs(boxes[layer, i, q] - truth[i, m]).sum()
                    cost[q, k] = 2 * kind + 5 * apart - 2 * giou(corners(boxes[layer, i, q]), corners(truth[i, m]))
            wanted = np.zeros_like(p)
            for q, k in zip(*linear_sum_assignment(cost)):
                m = places[k]
                wanted[q, label[i, m]] = 1
                total += 5 * np.abs(boxes[layer, i, q] - truth[i, m]).sum() / number
                total += 2 * (1 - giou(corners(boxes[layer, i, q]), corners(truth[i, m]))) / number
            hit = 0.25 * (1 - p) ** 2 * -np.log(p) * wanted
            total += 2 * (hit + 0.75 * p**2 * -np.log(1 - p) * (1 - wanted)).sum() / number
    return total


def test_detection_loss_agrees_with_numpy_and_scipy():
    rng = np.random.default_rng(0)
    logits, boxes = rng.normal(size=(2, 3, 7, 2)), rng.uniform(0.2, 0.6, (2, 3, 7, 4))
    truth, label = rng.uniform(0.2, 0.6, (3, 4, 4)), rng.integers(0, 2, (3, 4))
    present = np.array([[True, True, False, True], [False] * 4, [True] * 4])
    given = [jnp.asarray(x, jnp.float32) for x in (logits, boxes, truth)]
    loss, _ = detection_loss(*given, jnp.asarray(label, jnp.int32), jnp.asarray(present))
    assert float(loss) == pytest.approx(numpy_detection(logits, boxes, truth, label, present), rel=1e-4)
    none, _ = detection_loss(*given, jnp.asarray(label, jnp.int32), jnp.zeros((3, 4), bool))
    want = numpy_detection(logits, boxes, truth, label, np.zeros((3, 4), bool))
    assert float(none) == pytest.approx(want, rel=1e-4)


def test_objects_are_found_again_by_their_identity():
    first, second = jnp.array([[7, 3, 9, 0]]), jnp.array([[3, 7, 0, 0]])
    index, there = jax.jit(proposals.common)(
        first, jnp.array([[True, True, True, False]]), second, jnp.array([[True] * 2 + [False] * 2])
    )
    assert there.tolist() == [[True, True, False, False]]
    assert index[0, :2].tolist() == [1, 0]
    detections = jnp.arange(20.0).reshape(1, 5, 4)
    near, truth = 100 + jnp.arange(16.0).reshape(1, 4, 4), 200 + jnp.arange(16.0).reshape(1, 4, 4)
    match = jnp.array([[4, 0, 2, -1]])
    p = jax.jit(proposals.place)(detections, match, near, truth, index, there)
    assert p.marked.tolist() == [[True, False, False, False, True]]
    np.testing.assert_array_equal(p.boxes[0], [near[0, 0], *detections[0, 1:4], near[0, 1]])
    np.testing.assert_array_equal(p.truth[0, 4], truth[0, 1])
    np.testing.assert_array_equal(p.truth[0, 1:4], 0)


def test_noisy_boxes_are_whole_pixels_near_the_truth():
    truth = jnp.tile(jnp.array([[10.0, 20, 50, 90], [100, 100, 104, 103]]), (200, 1))
    near = np.asarray(jax.jit(proposals.noisy)(jax.random.key(0), truth, 0.1))
    np.testing.assert_array_equal(near, np.round(near))
    a, b = near, np.asarray(truth)
    common = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).prod(1)
    overlap = common / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common)
    assert overlap.min() > 0.1
    assert 0.3 < overlap[::2].mean() < 0.8
    assert len(np.unique(near[::2], axis=0)) > 150


def test_published_learning_rate():
    rate = optim.schedule(recipe.released().optim.main, 400_000)
    for step, want in ((0, 1e-6), (1000, 5.05e-5), (2000, 9.9994e-5), (200_000, 5.05e-5), (400_000, 1e-6)):
        assert float(rate(step)) == pytest.approx(want, rel=1e-4)


def trained(task, **fields):
    return method.trained_by(UTTConfig(**fields), fields.pop("grad", "proj"), task)


def test_what_each_task_trains():
    sot, mot = trained("sot"), trained("mot")
    paths = {
        "backbone/stem/conv/kernel": (True, True), "backbone/layer3_5/bn1/scale": (True, True),
        "backbone/layer4_0/conv1/kernel": (False, True), "proj_track/level1/conv/kernel": (True, True),
        "proj_track/level0/conv/kernel": (False, False), "proj_det/level0/conv/kernel": (False, True),
        "target/proj/kernel": (True, True), "sot_decoder/norm/scale": (True, False), "corner/conv5/kernel": (True,
        False), "track/box5/out/kernel": (True, True), "detector/query_pos": (False, True),
    }  # fmt: skip
    assert {p: (sot(p), mot(p)) for p in paths} == paths
    pyramid = trained("mot", mot_levels="pyramid", mot_target_levels="pyramid")
    assert pyramid("proj_track/level3/conv/kernel")
    assert not method.trained_by(UTTConfig(), "none", "mot")("target/proj/kernel")


def test_turns_and_modes():
    c = recipe.base()
    built = method.build(c)
    assert [built.objective_at(step) for step in range(4)] == ["sot", "mot", "sot", "mot"]
    c.model.zero_grad_updates = True
    assert all(o.trains_path("detector/query_pos") for o in method.build(c).objectives.values())
    c.model.mode = "sot"
    assert method.build(c).objectives.keys() == method.build(c).batch_spec.keys() == {"sot"}
    c.model.proposal_decoder = False
    assert method.batch_spec(c)["sot"]["start"].shape == (64, 3, 4)
    c.model.update({"mode": "mix", "proposal_decoder": True, "zero_grad_updates": False})
    c.data.mot_buckets = ((544, 928), (640, 1088))
    built = method.build(c)
    assert list(built.objectives) == ["sot", "mot_544x928", "mot_640x1088", "mot_800x1344"]
    assert built.batch_spec["mot_544x928"]["search_image"].shape == (16, 544, 928, 3)
    odd = [built.objective_at(step) for step in range(1, 2 * 11 * 4, 2)]
    counts = {name: odd.count(name) / 4 for name in built.objectives}
    assert counts == {"sot": 0, "mot_544x928": 3, "mot_640x1088": 3, "mot_800x1344": 5}  # of eleven short sides
    assert len(set(odd[:3])) == 3  # spread
    assert {built.objective_at(step) for step in range(0, 40, 2)} == {"sot"}
    paths = ("detector/query_pos", "corner/conv5/bias", "track/box5/out/kernel")
    assert [built.objectives["mot_544x928"].trains_path(p) for p in paths] == [True, False, True]
    c.data.mot_buckets = ((900, 1600),)
    with pytest.raises(InputError, match=r"mot_buckets: no short side .* belongs to \(900, 1600\)"):
        method.build(c)
    c.data.mot_buckets = ()
    c.model.mode = "both"
    with pytest.raises(InputError, match="mode: 'both'"):
        method.build(c)

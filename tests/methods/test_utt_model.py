"""UTT's network against its equations in numpy, its published counts, known answers and invariants."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.methods.utt import published
from jaxvl.methods.utt.detector import offset_bias
from jaxvl.methods.utt.layers import correlate, expected_corners, refine
from jaxvl.methods.utt.model import UTT, TargetTransformer, UTTConfig, widened, with_least_side
from jaxvl.methods.utt.positions import level_mask, sine_position
from tests.methods import numpy_utt
from tests.methods.test_utt_weights import SIZES, SMALL, random_of
from tests.nn import macs

C = 16


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@functools.cache
def shapes(**fields):
    model = UTT(UTTConfig(**fields))
    shape = jax.ShapeDtypeStruct
    given = shape((1, 64, 64, 3), jnp.float32), shape((1, 64, 64), bool), shape((1, 1, 4), jnp.float32)
    return jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *given)


def test_published_counts():
    parts = shapes()["params"]
    assert {name: count(part) for name, part in parts.items()} == {
        "backbone": 23_508_032, "proj_track": 11_278_336, "proj_det": 11_278_336, "track": 174_686_232,
        "sot_decoder": 18_927_616, "corner": 3_910_594, "target": 263_680,
        "detector": 10_646_784 + 16_956_672 + 512_000 + 2_048 + 1_026 + 3_164_184 + 61_560,
    }  # fmt: skip
    assert count(parts["track"]["layer0"]) == 28_322_816
    assert count(parts["track"]["box0"]) == 791_556
    assert count(parts) == 275_197_100


@pytest.mark.parametrize(("fields", "total"), [({"depth": 18}, 245_957_292), ({"dim": 256}, 99_172_812)])
def test_counts_of_other_sizes(fields, total):
    assert count(shapes(**fields)["params"]) == total


@functools.cache
def arrays():
    """Small weights, so that sixteen channels do not saturate every sigmoid."""
    return {k: (np.abs(v) + 0.5 if k.endswith("running_var") else 0.4 * v) for k, v in random_of(SMALL).items()}


@functools.cache
def bench():
    """The model of the same tensors, with its variables and some maps: `(model, variables, maps, masks, boxes)`."""
    variables, report = published.from_published(arrays(), SMALL)
    report.check()
    rng = np.random.default_rng(5)
    maps = [rng.normal(size=(2, *s, C)).astype(np.float32) for s in ((5, 7), (4, 6), (2, 3), (1, 2))]
    pad = np.zeros((2, 64, 96), bool)
    pad[1, 40:], pad[1, :, 80:] = True, True
    boxes = np.array([[[10, 8, 50, 40], [60, 20, 90, 60]], [[-5, 4, 30, 30], [20, 30, 70, 35]]], np.float32)
    return UTT(UTTConfig(**SIZES)), variables, maps, pad, boxes


def test_one_object_agrees_with_numpy():
    model, variables, maps, pad, boxes = bench()

    def one(module, cells, pad, boxes):
        vectors = module.vectors([cells], boxes)
        return vectors, module.sot(cells, pad, vectors)

    vectors, out = jax.device_get(jax.jit(nn.apply(one, model))(variables, maps[1], pad, boxes))
    w = arrays()
    for b in range(2):
        t = np.array([numpy_utt.target_vector(w, maps[1][b].astype(np.float64), x, 1 / 16, 2) for x in boxes[b]])
        np.testing.assert_allclose(vectors[b], t, atol=1e-5)
        hidden = pad[b][::16, ::16]
        t = numpy_utt.target_decoder(w, t, maps[1][b].astype(np.float64), hidden, 1)
        first = np.array([numpy_utt.corner(w, x, maps[1][b].astype(np.float64)) for x in t]) * [96, 64, 96, 64]
        np.testing.assert_allclose(out["boxes"][0, b], first, atol=1e-3)
        found, scores = numpy_utt.target_transformer(w, t, maps[1][b].astype(np.float64), first, 1 / 16, 2, 3)
        np.testing.assert_allclose(out["boxes"][1:, b], found, atol=2e-3)
        np.testing.assert_allclose(out["scores"][:, b], scores, atol=2e-4)


@pytest.mark.parametrize("norm", ["hw", "wh"])
def test_detection_agrees_with_numpy(norm):
    _, variables, maps, pad, _ = bench()
    masks = jax.device_get(jax.jit(lambda pad: [level_mask(pad, *m.shape[1:3]) for m in maps])(pad))
    model = UTT(UTTConfig(**SIZES, offset_norm=norm))
    call = jax.jit(nn.apply(lambda module, maps, masks: module.detector(maps, masks), model))
    out = jax.device_get(call(variables, maps, masks))
    for b in range(2):
        grids = [m[b].astype(np.float64) for m in maps]
        logits, boxes = numpy_utt.detect(arrays(), grids, [m[b] for m in masks], 1, 2, slip=norm == "hw")
        np.testing.assert_allclose(out["logits"][:, b], logits, atol=1e-4)
        np.testing.assert_allclose(out["boxes"][:, b], boxes, atol=1e-5)


def test_positions_with_padding_on_any_side():
    hidden = np.zeros((3, 5, 7), bool)
    hidden[1, :2], hidden[1, :, 5:] = True, True
    hidden[2] = True
    got = np.asarray(jax.jit(sine_position, static_argnums=1)(hidden, 16))
    for b in range(3):
        np.testing.assert_allclose(got[b], numpy_utt.position(hidden[b], 16), atol=1e-5)
    np.testing.assert_allclose(got[2, ..., 0::2], 0, atol=1e-6)  # everything padded: angle 0
    pad = np.zeros((1, 10, 10), bool)
    pad[0, 7:] = True
    mask = jax.jit(lambda pad: level_mask(pad, 4, 5))(pad)
    assert np.asarray(mask)[0, :, 0].tolist() == [False, False, False, True]


def test_box_deltas():
    moved = jax.jit(refine)
    of = lambda *numbers: np.asarray(moved(*(np.array(x, np.float32) for x in numbers)))  # noqa: E731
    box = [10, 20, 30, 60]
    np.testing.assert_allclose(of(box, [0, 0, 0, 0]), box, atol=1e-5)
    np.testing.assert_allclose(of(box, [2, 0, 0, 0]), [30, 20, 50, 60], atol=1e-5)
    wide = of(box, [0, 0, 100, 0])
    assert float(wide[2] - wide[0]) == pytest.approx(20 * 62.5, rel=1e-5)
    swapped = of([30, 20, 10, 60], [0, 0, 1, 0])
    assert float(swapped[2] - swapped[0]) == pytest.approx(-20 * np.e, rel=1e-5)


def test_corners():
    peak, flat = np.zeros((1, 4, 6, 2), np.float32), np.ones((1, 4, 6, 2), np.float32)
    peak[0, 2, 3, 0] = peak[0, 1, 5, 1] = 50
    both = jax.jit(lambda x: (expected_corners(x)[0], expected_corners(x, centres=True)[0]))
    np.testing.assert_allclose(both(peak)[0], [3 / 6, 2 / 4, 5 / 6, 1 / 4], atol=1e-6)
    of_flat, from_centres = both(flat)
    np.testing.assert_allclose(of_flat, [5 / 12, 3 / 8] * 2, atol=1e-6)
    np.testing.assert_allclose(from_centres, 0.5, atol=1e-6)


def test_correlation():
    rng = np.random.default_rng(0)
    t, patch = rng.normal(size=(2, 3, C)).astype(np.float32), rng.normal(size=(2, 3, 9, C)).astype(np.float32)
    of = jax.jit(correlate)
    np.testing.assert_array_equal(of(np.zeros_like(t), patch), 0)
    found = np.asarray(of(t, patch))
    np.testing.assert_allclose(of(t, 2 * patch), 4 * found, rtol=1e-6)
    want = np.einsum("bnc,bnkc->bnk", t, patch)[..., None] * patch
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_widened_and_opened_boxes():
    box, point = np.array([10, 10, 20, 50], np.float32), np.full(4, 10, np.float32)
    square, least = jax.jit(lambda box, point: (widened(box, 4.0), widened(point, 9.0)))(box, point)
    np.testing.assert_allclose(square, [-5, 10, 35, 50])
    np.testing.assert_allclose(least, [9, 9, 11, 11], atol=1e-6)
    box = np.array([10, 10, 8, 40], np.float32)
    np.testing.assert_allclose(jax.jit(lambda box: with_least_side(box, 4.0))(box), [7, 10, 11, 40])
    assert with_least_side(box, 0.0) is box


@functools.cache
def transformer():
    """A jitted `(vectors, boxes, mask) -> boxes [L, B, N, 4]` of a target transformer with its own draw of weights."""
    config = UTTConfig(dim=C, ff_dim=24, iterations=2, pool=3, box_layers=1)
    model, cells = TargetTransformer(config), np.random.default_rng(3).normal(size=(2, 6, 6, C)).astype(np.float32)
    variables = published_track()
    return jax.jit(lambda v, b, m: model.apply(variables, [cells], [1 / 16], v, b, m)["boxes"])


def published_track():
    variables, _ = published.from_published(arrays(), SMALL)
    return {"params": {k: v for k, v in variables["params"]["track"].items() if not k.startswith("score")}}


def four_targets():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(2, 4, C)).astype(np.float32)
    low = rng.uniform(0, 50, (2, 4, 2))
    return vectors, np.concatenate([low, low + rng.uniform(10, 40, (2, 4, 2))], -1).astype(np.float32)


def test_targets_are_a_set_and_pictures_are_apart():
    vectors, boxes = four_targets()
    mask, order = np.ones((2, 4), bool), [2, 0, 3, 1]
    plain = np.asarray(transformer()(vectors, boxes, mask))
    mixed = transformer()(vectors[:, order], boxes[:, order], mask)
    np.testing.assert_allclose(mixed, plain[:, :, order], atol=1e-3)
    other = vectors.copy()
    other[1] += 1
    np.testing.assert_allclose(np.asarray(transformer()(other, boxes, mask))[:, 0], plain[:, 0], atol=1e-5)


def test_places_without_a_target_change_nothing():
    vectors, boxes = four_targets()
    mask = np.array([[True, True, False, False], [True, False, False, False]])
    plain = transformer()(vectors, boxes, mask)
    vectors, boxes = np.where(mask[..., None], vectors, 9.0), np.where(mask[..., None], boxes, 3.0)
    again = transformer()(vectors.astype(np.float32), boxes.astype(np.float32), mask)
    np.testing.assert_allclose(np.asarray(again)[:, mask], np.asarray(plain)[:, mask], atol=1e-4)
    none = transformer()(vectors.astype(np.float32), boxes.astype(np.float32), np.zeros((2, 4), bool))
    assert np.isfinite(none).all()


def test_a_later_box_hangs_on_the_first_one():
    vectors, boxes = four_targets()
    run = transformer()
    last = lambda b: run(vectors, b, np.ones((2, 4), bool))[-1].sum()  # noqa: E731
    assert np.abs(np.asarray(jax.jit(jax.grad(last))(boxes))).min() > 0


def test_start_of_the_sampling_offsets():
    bias = offset_bias(8, 4, 4).reshape(8, 4, 4, 2)
    assert bias[:, 0, 0].tolist() == [[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]]
    np.testing.assert_array_equal(bias[3, 2], [[0, -1], [0, -2], [0, -3], [0, -4]])
    assert np.abs(offset_bias(4, 2, 3)).max() == 3


def test_names_that_are_none_are_refused():
    with pytest.raises(InputError, match="detector: 'yolo'"):
        UTTConfig(detector="yolo")
    with pytest.raises(InputError, match="dim: 20"):
        UTTConfig(dim=20)


def test_cost_of_a_frame():
    """Multiply-adds at full size, in 10^9, traced only; sampling and pooling, which gather on CPUs, are not counted."""
    model, shape = UTT(UTTConfig()), jax.ShapeDtypeStruct
    cost = lambda f, *x: macs.count(nn.apply(f, model), shapes(), *x, platform="cpu") / 1e9  # noqa: E731
    image, crop = shape((1, 352, 352, 3), jnp.float32), shape((1, 22, 22, 512), jnp.float32)
    frame = shape((1, 50, 90, 512), jnp.float32)
    pad = shape((1, 352, 352), bool)
    targets = lambda n: (shape((1, n, 512), jnp.float32), shape((1, n, 4), jnp.float32))  # noqa: E731
    assert cost(lambda m, x: m.features(x, False), image) == pytest.approx(10.09, rel=0.01)
    one = cost(lambda m, c, p, v: m.sot(c, p, v), crop, pad, targets(1)[0])
    assert one == pytest.approx(1.54 + 1.89 + 0.175, rel=0.01)
    fifty, hundred = (cost(lambda m, c, v, b: m.track([c], v, b), frame, *targets(n)) for n in (50, 100))
    assert fifty == pytest.approx(8.75, rel=0.01)
    assert 1.9 < hundred / fifty < 2.05
    sizes = ((100, 180, 512), (50, 90, 1024), (25, 45, 2048))
    taps = [shape((1, *s), jnp.float32) for s in sizes]
    found = cost(lambda m, t, p: m.detect(t, p), taps, shape((1, 800, 1440), bool))
    assert found == pytest.approx(315.1, rel=0.05)

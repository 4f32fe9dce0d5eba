"""AFE-CNN (reconstruction) against its equations in NumPy, its published sizes, known answers and invariants."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.core.session import build_method
from jaxvl.data.skeletons import HUMANOID16, NTU25, UTKINECT20
from jaxvl.interop import keys
from jaxvl.methods.afe_cnn import enhance, losses, recipe
from jaxvl.methods.afe_cnn.evaluator import ActionAccuracy
from jaxvl.methods.afe_cnn.method import model_config
from jaxvl.methods.afe_cnn.model import AFECNN, AFEConfig, cost
from tests import tiny
from tests.methods.numpy_afe_cnn import Numpy
from tests.nn import macs

SMALL = AFEConfig(HUMANOID16.parents, HUMANOID16.columns, frames=8, classes=5, width=4, kje_hidden=6, kfe_hidden=4)
OFF = {"kje": False, "bve": False, "kfe": False, "te": False}


@functools.cache
def variables(config=SMALL):
    net = AFECNN(config)
    x = jnp.zeros((1, 2, config.frames, config.joints, 3))
    return tiny.drawn(lambda: net.init(jax.random.key(0), x, jnp.ones((1, 2), bool)))


@functools.cache
def applied(config=SMALL, train=False):
    """Jitted `(variables, x, present) -> outputs`, in training without dropout."""
    net = AFECNN(dataclasses.replace(config, dropout=0.0))

    def run(v, x, present):
        if train:
            return net.apply(v, x, present, train=True, mutable=["batch_stats"])
        return net.apply(v, x, present)

    return jax.jit(run)


def clips(seed=0, count=3, present=((1, 1), (1, 0), (1, 0))):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2, 8, 16, 3)).cumsum(2).astype(np.float32)
    there = np.array(present, bool)
    return np.where(there[:, :, None, None, None], x, 0), there


def reference(config=SMALL):
    v = variables(config)
    on = {name: getattr(config, name) for name in OFF}
    flat = lambda name: keys.to_flat({"params": v[name]})  # noqa: E731
    return Numpy(flat("params"), flat("batch_stats"), config.parents, config.columns, on)


@pytest.mark.parametrize("train", [False, True])
def test_logits_are_those_of_the_equations(train):
    x, present = clips()
    out = applied(train=train)(variables(), x, present)
    out = jax.device_get(out[0] if train else out)
    np.testing.assert_allclose(out["logits"], reference().logits(x, present, train), rtol=2e-4, atol=2e-4)
    joint, frame = reference().gates(x[0].astype(np.float64))
    np.testing.assert_allclose(out["joint_gates"][0], joint, atol=1e-5)
    np.testing.assert_allclose(out["frame_gates"][0], frame, atol=1e-5)


def test_without_enhancers_it_is_the_same_network_on_coordinates():
    config = dataclasses.replace(SMALL, **OFF)
    x, present = clips()
    out = applied(config)(variables(config), x, present)
    np.testing.assert_allclose(out["logits"], reference(config).logits(x, present), rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(out["joint_gates"], 1)


NTU = AFEConfig(NTU25.parents, NTU25.columns)
SIZES = [
    (NTU, 576_478, 75.73),
    (dataclasses.replace(NTU, classes=120), 607_258, 75.76),
    (dataclasses.replace(NTU, width=32), 161_342, 22.34),
    (AFEConfig(UTKINECT20.parents, UTKINECT20.columns, 32, 10, 32), 147_727, 8.61),
    (AFEConfig(HUMANOID16.parents, HUMANOID16.columns, 32, 15, 32), 148_400, 6.89),
    (dataclasses.replace(NTU, kje=False), 573_221, None),
    (dataclasses.replace(NTU, bve=False), 574_600, None),
    (dataclasses.replace(NTU, kfe=False), 576_141, None),
    (dataclasses.replace(NTU, te=False), 572_722, None),
    (dataclasses.replace(NTU, **OFF), 567_250, None),
]


@pytest.mark.parametrize(("config", "parameters", "mmacs"), SIZES)
def test_sizes_are_those_of_section_7(config, parameters, mmacs):
    """Counted by hand, from the tree, and from the traced program (with the convolutions in their native form)."""
    x, present = jnp.zeros((1, 1, config.frames, config.joints, 3)), jnp.ones((1, 1), bool)
    shapes = jax.eval_shape(lambda: AFECNN(config).init(jax.random.key(0), x, present))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters
    assert cost(config).parameters == parameters
    if mmacs is not None:
        assert round(cost(config).macs / 1e6, 2) == mmacs


def test_multiply_adds_are_those_of_the_traced_program():
    x, present = jnp.zeros((1, 1, 64, 25, 3)), jnp.ones((1, 1), bool)
    net = AFECNN(NTU)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, present))
    assert macs.count(lambda v: net.apply(v, x, present), shapes) == cost(NTU).macs == 75_730_048


def test_configs_have_the_published_sizes():
    for name, parameters in (("ntu60", 576_478), ("ntu120", 607_258), ("utkinect", 147_727)):
        config = tiny.load(f"afe_cnn/{name}.py")
        assert cost(model_config(config)).parameters == parameters
    assert cost(model_config(tiny.load("afe_cnn/ntu60.py:xsub_no_modules"))).parameters == 567_250


def test_gates_are_one_at_the_start():
    net = AFECNN(SMALL)
    x, present = clips()
    fresh = jax.jit(net.init)(jax.random.key(0), x, present)
    out = jax.jit(net.apply)(fresh, x, present)
    np.testing.assert_array_equal(out["joint_gates"], 1.0)
    np.testing.assert_array_equal(out["frame_gates"], 1.0)


@pytest.mark.parametrize("train", [False, True])
def test_the_order_of_bodies_and_bodies_that_are_absent_change_nothing(train):
    run = applied(train=train)
    logits = lambda x, there: (run(variables(), x, there)[0] if train else run(variables(), x, there))["logits"]  # noqa: E731
    x, present = clips()
    plain = logits(x, present)
    np.testing.assert_allclose(logits(x[:, ::-1], present[:, ::-1]), plain, atol=2e-5)
    junk = np.where(present[:, :, None, None, None], x, 7.0)  # what stands where nobody is does not matter, either
    np.testing.assert_allclose(logits(junk, present), plain, atol=2e-5)
    single, alone = clips(present=((1, 0),) * 3)
    np.testing.assert_allclose(logits(single[:, :1], alone[:, :1]), logits(single, alone), atol=2e-5)


def test_running_statistics_are_of_bodies_that_are_there():
    x, present = clips()
    _, changed = applied(train=True)(variables(), x, present)
    z = reference().streams(x.reshape(6, 8, 16, 3).astype(np.float64))[present.reshape(-1)].reshape(4 * 8, -1)
    before = variables()["batch_stats"]["data_bn"]
    for name, value in (("mean", z.mean(0)), ("var", z.var(0))):  # the biased one, as Flax keeps it
        want = 0.9 * before[name] + 0.1 * value
        np.testing.assert_allclose(changed["batch_stats"]["data_bn"][name], want, rtol=1e-4, atol=1e-5)


def test_directions_of_bones_do_not_know_the_size_and_rest_has_no_differences():
    x = np.random.default_rng(0).normal(size=(2, 8, 16, 3)).astype(np.float32)
    directions = jax.jit(lambda x: enhance.directions(x, HUMANOID16.parents))
    u = np.asarray(directions(x))
    np.testing.assert_allclose(directions(2.5 * x), u, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(u, axis=-1)[:, :, 1:], 1, atol=1e-4)
    np.testing.assert_array_equal(u[:, :, 0], 0)
    still = np.broadcast_to(x[:, :1], x.shape)
    differences = jax.jit(enhance.differences, static_argnums=1)
    for d in differences(still):
        np.testing.assert_array_equal(d, 0)
    step, far = map(np.asarray, differences(np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1) ** 2, 4))
    np.testing.assert_array_equal(step[0, :, 0, 0], [1, 3, 5, 7, 9, 0])
    np.testing.assert_array_equal(far[0, :, 0, 0], [16, 24, 21, 16, 9, 0])


def test_what_the_gates_read_knows_neither_size_nor_speed():
    x = np.random.default_rng(0).normal(size=(2, 8, 16, 3)).astype(np.float32)
    both = jax.jit(lambda x: (enhance.descriptors(x), enhance.descriptors(x, "absolute")))
    (relative, absolute), (larger, larger_absolute) = jax.device_get((both(x), both(3 * x)))
    for a, b in zip(relative, larger):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert all(np.abs(a.mean(1)).max() < 1e-5 for a in relative)
    joints, frames = (b - a for a, b in zip(absolute, larger_absolute))
    np.testing.assert_allclose(joints, np.log(3), atol=1e-2)
    np.testing.assert_allclose(frames[:, :-1], np.log(3), atol=1e-2)  # the last step is 0
    slope = jax.jit(jax.grad(lambda x: enhance.directions(x, HUMANOID16.parents).sum()))
    assert np.isfinite(np.asarray(slope(np.zeros((1, 2, 16, 3), np.float32)))).all()
    gates = jax.jit(lambda x: (enhance.gate(x, "absolute"), enhance.gate(x)))
    assert [float(x) for x in gates(np.float32(0))] == [1, 1]


def test_smoothed_cross_entropy_is_pytorch_s():
    of = jax.jit(losses.classification_loss)
    loss, right = of(np.zeros((3, 4), np.float32), np.array([0, 1, 2]))
    assert float(loss) == pytest.approx(1.386294, abs=1e-6)
    assert float(right) == pytest.approx(1 / 3)
    loss, _ = of(np.array([[2, 0]], np.float32), np.array([0]))
    assert float(loss) == pytest.approx(0.95 * 0.126928 + 0.05 * 2.126928, abs=1e-6)


def test_pictures_in_bytes():
    got = enhance.encode_uint8(np.array([-1.0, 0.0, 1.0, 2.0, -9.0]), -1.0, 1.0)
    assert got.tolist() == [0, 128, 255, 255, 0]  # 127.5 is rounded to the even one
    assert enhance.encode_uint8(np.array([0.5, 1.5, 2.5]), 0, 255).tolist() == [0, 2, 2]
    assert enhance.encode_uint8(np.array([3.0, 5.0])).tolist() == [0, 255]
    assert enhance.encode_uint8(np.full(3, 4.0)).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="does not ascend"):
        enhance.encode_uint8(np.zeros(3), 1.0, 0.0)


def test_metrics_by_hand():
    judge = ActionAccuracy(6, ((1, 2), (5, 6), (7, 9)))
    logits = np.full((5, 6), -9.0, np.float32)
    for row, predicted in enumerate((0, 1, 1, 0, 4)):
        logits[row, predicted] = 9.0
    labels = [0, 0, 1, 1, 4]
    acc = judge.update(judge.init(), "clips", {"logits": logits}, {"_label": labels, "_id": list("abcde")})
    got = judge.compute(acc)
    assert (got["top1"], got["clips"]) == (60.0, 5)
    assert got["mean_per_class"] == pytest.approx((50 + 50 + 100) / 3)
    assert (got["class/1"], got["class/2"], got["class/5"]) == (50.0, 50.0, 100.0)
    assert (got["pair/1-2"], got["confused/1-2"]) == (50.0, 50.0)
    assert "pair/5-6" not in got
    assert "class/3" not in got
    kept = judge.artifacts(acc)
    assert kept["confusion"][:2, :2].tolist() == [[1, 1], [1, 1]]
    assert kept["predicted"].tolist() == [0, 1, 1, 0, 4]


def test_crops_of_a_clip_are_averaged_and_ties_go_to_the_lowest_class():
    judge = ActionAccuracy(2)
    logits = np.log(np.array([[0.9, 0.1], [0.3, 0.7], [0.3, 0.7], [0.5, 0.5]], np.float32))
    acc = judge.update(judge.init(), "clips", {"logits": logits}, {"_label": [0, 0, 0, 1], "_id": [*"aaa", "b"]})
    kept = judge.artifacts(acc)
    np.testing.assert_allclose(kept["probability"][0], [0.5, 0.5], atol=1e-6)
    assert kept["predicted"][1] == 0
    assert judge.compute(acc)["clips"] == 2
    assert kept["label"].tolist() == [0, 1]


def test_recipes_step_and_cycle_as_published():
    ntu = configs.with_length(tiny.load("afe_cnn/ntu60.py"), 100)
    rate = optim.schedule(ntu.optim.main, ntu.train.steps)
    got = jax.jit(rate)(np.array([0, 5999, 6000, 8999, 9000, 10999, 11000, 11999]))
    np.testing.assert_allclose(got, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6], rtol=1e-5)
    cycle = jax.jit(optim.schedule(recipe.one_cycle(6e-3, 0.2), 800))
    assert float(cycle(160)) == pytest.approx(6e-3)
    assert float(cycle(0)) == pytest.approx(6e-3 / 25)
    assert float(cycle(799)) < 1e-6
    utkinect = tiny.load("afe_cnn/utkinect.py")
    assert (utkinect.data.repeats, utkinect.optim.main.schedule, utkinect.train.epochs) == (20, "cosine", 60)
    assert (utkinect.data.frames, utkinect.data.least_frames) == (32, 64)  # the least window is that of CTR-GCN for all
    assert [tiny.load(f"afe_cnn/{n}").data.rotation for n in ("ntu60.py:xview", "ntu60.py:xsub", "ntu120.py:xset")] == [
        0.5,
        0.3,
        0.3,
    ]


def test_decay_stands_in_front_of_the_moments_and_reaches_everything():
    built = optim.build(recipe.adam(1e-2), 10)
    starts = {"head/bias": 3, "stem/bn/scale": 1, "head/kernel": -2}
    params = {name: np.array([value], np.float32) for name, value in starts.items()}
    grads = {name: np.array([0.5], np.float32) for name in params}
    state, ours = jax.jit(built.direction.init)(params), dict(params)
    updates = jax.jit(built.updates)
    theirs, moments = dict(params), {name: (0.0, 0.0) for name in params}
    for t in range(1, 4):
        moves, state, rate = updates(grads, state, ours, np.int32(t - 1))
        ours = {name: ours[name] + np.asarray(moves[name]) for name in ours}
        for name, value in theirs.items():
            g = 0.5 + 1e-4 * float(value[0])
            m, v = 0.9 * moments[name][0] + 0.1 * g, 0.999 * moments[name][1] + 0.001 * g * g
            moments[name] = (m, v)
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            theirs[name] = value - float(rate) * step
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (("model.kfe_size=4",), "config.model.kfe_size: 4"),
        (("model.skeleton=kinect",), "config.model.skeleton: 'kinect' is none of"),
        (("model.gates=soft",), "config.model.gates: 'soft' is none of"),
    ],
)
def test_values_that_no_network_has(changes, line):
    config = recipe.base().lock()
    configs.apply(config, changes)
    with pytest.raises(InputError) as error:
        build_method(config)
    assert str(error.value).startswith(line)

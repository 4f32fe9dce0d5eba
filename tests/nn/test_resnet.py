from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.nn.resnet import TAPS, ResNet, frozen_pattern
from tests.nn import macs
from tests.nn.resnet_weights import CASES, flax_variables, make_case

# depth: convolutions, batch norms, total with 1000 classes, multiply-adds at 224 x 224
COUNTS = {
    18: (11_166_912, 9_600, 11_689_512, 1_814_073_344),
    34: (21_267_648, 17_024, 21_797_672, 3_663_761_408),
    50: (23_454_912, 53_120, 25_557_032, 4_089_184_256),
    101: (42_394_816, 105_344, 44_549_160, 7_801_405_440),
    152: (57_992_384, 151_424, 60_192_808, 11_513_626_624),
}
SLIM = {  # width: convolutions, batch norms, total with its slice of the classifier, multiply-adds
    1.0: (23_454_912, 53_120, 25_557_032, 4.089e9),
    0.75: (13_195_152, 39_840, 14_771_992, 2.323e9),
    0.5: (5_866_080, 26_560, 6_917_640, 1.052e9),
    0.25: (1_467_696, 13_280, 1_993_976, 0.278e9),
}
WIDTHS = tuple(SLIM)


@functools.cache
def variables_of(net):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


def sizes(tree, *names):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    paths = [("/".join(k.key for k in path), leaf.size) for path, leaf in flat]
    return sum(n for p, n in paths if p.endswith(names))


def cost(net, hw=(224, 224), index=0):
    image = jax.ShapeDtypeStruct((1, *hw, 3), jnp.float32)
    return macs.count(lambda v, x: net.apply(v, x, False, index), variables_of(net), image)


@pytest.mark.parametrize("depth", COUNTS)
def test_parameters_and_multiply_adds(depth):
    net = ResNet(depth, 1000, taps=("logits",))
    params = variables_of(net)["params"]
    conv, norm, total, mac = COUNTS[depth]
    fc = sizes(params["fc"], "kernel", "bias")
    assert sizes({k: v for k, v in params.items() if k != "fc"}, "kernel") == conv
    assert sizes({k: v for k, v in params.items() if k != "fc"}, "scale", "bias") == norm
    assert conv + norm + fc == total == sum(x.size for x in jax.tree.leaves(params))
    assert cost(net) == mac


def test_parameters_by_part():
    params = variables_of(ResNet(50, 1000))["params"]
    part = lambda name: sum(x.size for k, v in params.items() if k.startswith(name) for x in jax.tree.leaves(v))  # noqa: E731
    assert part("stem") == 9_408 + 128
    assert [part(f"layer{s}") for s in range(1, 5)] == [215_808, 1_219_584, 7_098_368, 14_964_736]


def test_multiply_adds_of_other_forms():
    assert cost(ResNet(50, 1000, output_stride=16, taps=("logits",))) == 6_208_618_496
    assert cost(ResNet(50, 1000, output_stride=8, taps=("logits",))) == 19_079_364_608
    assert cost(ResNet(50, 1000, taps=("logits",)), (256, 192)) - 2_048_000 == 4_005_773_312 - 2_048_000


def test_compiled_flops_are_those_of_the_network():
    net = ResNet(18, 1000, taps=("logits",))
    args = variables_of(net), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    compiled = jax.jit(net.apply).lower(*args).compile()
    wanted = 2 * macs.count(net.apply, *args, padding=False)
    assert compiled.cost_analysis()["flops"] == pytest.approx(wanted, rel=0.03)
    assert 0.9 * 2 * COUNTS[18][3] < wanted < 2 * COUNTS[18][3]


@pytest.mark.parametrize("index", range(4))
def test_each_width_has_the_published_size(index):
    net = ResNet(50, 1000, taps=("pool", "logits"), widths=WIDTHS)
    conv, norm, total, mac = SLIM[WIDTHS[index]]
    alone = variables_of(ResNet(50, 1000, width=int(64 * WIDTHS[index])))["params"]
    trunk = {k: v for k, v in alone.items() if k != "fc"}
    assert (sizes(trunk, "kernel"), sizes(trunk, "scale", "bias")) == (conv, norm)
    assert sum(x.size for x in jax.tree.leaves(alone)) == total
    own = variables_of(net)["params"]
    suffix = f"_w{round(100 * WIDTHS[index]):03d}"
    norms = [
        leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(own) if suffix in jax.tree_util.keystr(path)
    ]
    assert sum(norms) == norm
    assert cost(net, index=index) == pytest.approx(mac, abs=5e5)


def test_shared_trunk_of_four_widths():
    params = variables_of(ResNet(50, widths=WIDTHS))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == 23_587_712


@pytest.mark.parametrize(
    ("hw", "wanted"),
    [
        ((224, 224), [(112, 112), (56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]),
        ((64, 64), [(32, 32), (16, 16), (16, 16), (8, 8), (4, 4), (2, 2)]),
        ((75, 97), [(38, 49), (19, 25), (19, 25), (10, 13), (5, 7), (3, 4)]),
    ],
)
def test_sizes_of_the_taps(hw, wanted):
    net = ResNet(50, taps=TAPS[:6])
    taps = jax.eval_shape(net.apply, variables_of(net), jax.ShapeDtypeStruct((1, *hw, 3), jnp.float32))
    assert [taps[t].shape[1:3] for t in TAPS[:6]] == wanted


@pytest.mark.parametrize("stride", [16, 8])
def test_dilated_trunks_keep_their_maps_and_parameters(stride):
    net, plain = ResNet(50, output_stride=stride, taps=("layer4",)), ResNet(50, taps=("layer4",))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert jax.eval_shape(net.apply, variables_of(net), image)["layer4"].shape[1] == 224 // stride
    assert jax.tree.map(jnp.shape, variables_of(net)) == jax.tree.map(jnp.shape, variables_of(plain))


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).parent / "resnet_torch.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pytorch_in_evaluation_training_and_after_a_step(case, stored):
    """The stored outputs are PyTorch's: `python -m benchmarks.speed.torch_resnet`."""
    made = make_case(case)
    net = ResNet(made.depth, made.classes, TAPS, output_stride=made.output_stride, width=made.width)
    variables = flax_variables(made.state)

    def close(name, value, scale=1e-4):
        wanted = stored[f"{case}/{name}"]
        np.testing.assert_allclose(value, wanted, rtol=0, atol=scale * np.abs(wanted).max(), err_msg=name)

    @jax.jit
    def step(variables):
        def loss(params):
            out, mutated = net.apply({**variables, "params": params}, made.images, True, mutable=["batch_stats"])
            picked = jax.nn.log_softmax(out["logits"])[jnp.arange(len(made.labels)), made.labels]
            return -picked.mean(), (out["logits"], mutated["batch_stats"])

        grads, (logits, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return logits, {"params": params, "batch_stats": stats}

    evaluate = jax.jit(net.apply)
    taps = jax.device_get(evaluate(variables, made.images))
    for name in ("layer1", "layer2", "layer4"):
        close(name, taps[name][:1, ::3, ::3, :16])
    close("logits", taps["logits"])
    if made.output_stride != 32:  # the same blocks as in training at 32: their gradients are compared there
        return
    logits, after = step(variables)
    close("train_logits", logits)
    close("running_var", after["batch_stats"]["layer4_0"]["bn2"]["var"])
    close("after_step", evaluate(after, made.images)["logits"], 1e-3)


def tiny(**fields):
    fields = {"taps": ("layer2", "pool"), "blocks": (1, 1)} | fields
    return ResNet(18, width=8, **fields)


def initial(net):
    return jax.device_get(jax.jit(net.init)(jax.random.key(0), images()))


def images(n=4, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("remat", [False, True])
def test_runs_of_rows_pass_as_one_after_another(remat):
    """Features, running statistics and gradients of one pass over three domains are those of three passes."""
    runs, x = (3, 1, 2), images(6)
    whole, plain = tiny(bn_runs=runs, remat=remat), tiny()
    variables = initial(plain)

    def at_once(params, stats):
        return whole.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])

    def in_turn(params, stats):
        found = []
        for part in jnp.split(x, np.cumsum(runs)[:-1]):
            taps, changed = plain.apply({"params": params, "batch_stats": stats}, part, True, mutable=["batch_stats"])
            stats = changed["batch_stats"]
            found.append(taps)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found), {"batch_stats": stats}

    def gradient(passes):
        def loss(params):
            taps, changed = passes(params, variables["batch_stats"])
            return jnp.sin(taps["layer2"]).sum() + jnp.square(taps["pool"]).sum(), (taps, changed)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    for a, b in zip(*map(jax.tree.leaves, (gradient(at_once), gradient(in_turn))), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


SLIM_TAPS = ("conv1", "stem", "layer1", "layer2", "pool", "logits")


@pytest.fixture(scope="module")
def slim():
    """A trunk of four widths whose statistics and scales are not at their initial values."""
    net = ResNet(50, 10, SLIM_TAPS, width=16, blocks=(1, 1), widths=WIDTHS)
    variables, rng = initial(net), np.random.default_rng(1)
    vary = lambda x: x * rng.uniform(0.5, 1.5, x.shape).astype(np.float32)  # noqa: E731
    return net, {**variables, "batch_stats": jax.tree.map(vary, variables["batch_stats"])}


@pytest.mark.parametrize("index", [1, 3])
def test_a_width_alone_is_an_ordinary_resnet_bit_for_bit(slim, index):
    net, variables = slim
    suffix = f"_w{round(100 * WIDTHS[index]):03d}"
    plain = ResNet(50, 10, SLIM_TAPS, width=int(16 * WIDTHS[index]), blocks=(1, 1))
    shapes = variables_of(plain)

    def sliced(tree, shape):
        found = {}
        for name, wanted in shape.items():
            source = tree[name + suffix] if name + suffix in tree else tree[name]
            if isinstance(source, dict):
                found[name] = sliced(source, wanted)
            else:
                found[name] = source[tuple(slice(0, n) for n in wanted.shape)]
        return found

    alone = sliced(variables, shapes)
    x = images()
    one_of_four = jax.jit(lambda v, train: net.apply(v, x, train, index, mutable=["batch_stats"]), static_argnums=1)
    ordinary = jax.jit(lambda v, train: plain.apply(v, x, train, mutable=["batch_stats"]), static_argnums=1)
    for train in (False, True):
        ours, stats = jax.device_get(one_of_four(variables, train))
        theirs, plain_stats = ordinary(alone, train)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        jax.tree.map(np.testing.assert_array_equal, sliced(stats, {"batch_stats": shapes["batch_stats"]}), plain_stats)


def test_training_a_width_moves_its_own_statistics_only(slim):
    net, variables = slim
    apply = jax.jit(lambda v, x: net.apply(v, x, True, 2, mutable=["batch_stats"]))
    _, mutated = apply(variables, images())
    before = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    after = jax.tree.leaves(mutated["batch_stats"])
    moved = {jax.tree_util.keystr(p) for (p, a), b in zip(before, after, strict=True) if not np.array_equal(a, b)}
    assert moved == {jax.tree_util.keystr(p) for p, _ in before if "_w050" in jax.tree_util.keystr(p)}


def test_blocks_start_as_the_identity_with_zero_init():
    net = tiny(zero_init=True, taps=("stem", "layer1"), blocks=(1,))
    out = jax.jit(net.apply)(initial(net), images())
    np.testing.assert_array_equal(out["layer1"], out["stem"])
    plain = tiny(taps=("stem", "layer1"), blocks=(1,))
    out = jax.jit(plain.apply)(initial(plain), images())
    assert np.var(out["layer1"]) > 1.2 * np.var(out["stem"])


def test_a_shift_of_one_cell_shifts_the_map():
    net = tiny(blocks=(1, 1, 1, 1), taps=("layer4",))
    x = images(1, 320)  # a cell of layer4 sees 98 pixels to each side
    apply, variables = jax.jit(net.apply), initial(net)
    a, b = (np.asarray(apply(variables, image)["layer4"]) for image in (x, np.roll(x, 32, axis=2)))
    np.testing.assert_allclose(b[:, 4:6, 5], a[:, 4:6, 4], atol=1e-4)
    assert np.abs(b[:, 4:6, 5] - a[:, 4:6, 5]).max() > 1e-2


def test_frozen_stages_keep_their_statistics_in_training():
    net = tiny(frozen_stages=1, blocks=(1, 1, 1))
    variables = initial(net)
    _, mutated = jax.jit(lambda v, x: net.apply(v, x, True, mutable=["batch_stats"]))(variables, images())
    same = jax.tree.map(np.array_equal, variables["batch_stats"], mutated["batch_stats"])
    still = {name: all(jax.tree.leaves(tree)) for name, tree in same.items()}
    assert still == {"stem": True, "layer1_0": True, "layer2_0": False, "layer3_0": False}


@pytest.mark.parametrize(("stages", "frozen"), [(-1, []), (0, ["stem"]), (2, ["stem", "layer1_0", "layer2_0"])])
def test_pattern_of_the_frozen_parameters(stages, frozen):
    import re

    names = ["stem", "layer1_0", "layer2_0", "layer3_0", "layer4_0"]
    assert [n for n in names if re.search(frozen_pattern(stages), f"trunk/{n}/conv1/kernel")] == frozen


def test_frozen_norm_has_no_norm_parameters_and_learns_through_them():
    net = tiny(norm="frozen")
    variables = initial(net)
    names = {k[-1].key for k, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert names == {"kernel"}
    loss = lambda p: net.apply({**variables, "params": p}, images(), True)["pool"].sum()  # noqa: E731
    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("option", [{"remat": True}, {"space_to_depth": True}])
def test_ways_of_computing_do_not_change_the_result(option):
    net, other = tiny(), tiny(**option)
    variables = initial(net)

    def grads(net):
        def loss(params):
            taps, mutated = net.apply({**variables, "params": params}, images(), True, mutable=["batch_stats"])
            return (taps["pool"] ** 2).sum(), mutated

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    for a, b in zip(jax.tree.leaves(grads(net)), jax.tree.leaves(grads(other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_bfloat16_keeps_parameters_and_pool_in_float32():
    net = tiny(dtype=jnp.bfloat16, num_classes=10, taps=("layer2", "pool", "logits"))
    variables = initial(net)
    out = jax.jit(net.apply)(variables, images())
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {k: v.dtype for k, v in out.items()} == {"layer2": jnp.bfloat16, "pool": jnp.float32, "logits": jnp.float32}
    exact = tiny(num_classes=10, taps=("pool",))
    exact = jax.jit(exact.apply)(variables, images())["pool"]
    assert np.abs(np.asarray(out["pool"]) - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"depth": 20}, "depth: 20 is none of 18, 34, 50, 101, 152"),
        ({"norm": "layer"}, "norm: 'layer' is neither"),
        ({"output_stride": 4}, "output_stride: 4 is none of"),
        ({"depth": 18, "output_stride": 16}, "only bottleneck trunks"),
        ({"taps": ("layer5",)}, "taps: layer5 is none of"),
        ({"taps": ("layer3",), "blocks": (1, 1)}, "taps: layer3 lies beyond the 2 stages of blocks"),
        ({"blocks": (1,) * 5}, "has 5 stages, not one to four"),
        ({"taps": ("logits",)}, "needs num_classes"),
        ({"widths": (0.5, 1.0)}, r"must begin with 1\.0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, line):
    with pytest.raises(InputError, match=line):
        variables_of(ResNet(**fields))

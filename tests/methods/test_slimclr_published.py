"""Official checkpoints of SlimCLR and MoCo: every key, both ways, and single widths as ordinary ResNets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import session
from jaxvl.core.errors import InputError
from jaxvl.core.state import abstract_state
from jaxvl.interop import keys, weights
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.methods.slimclr import published
from jaxvl.methods.slimclr.method import build, model_config
from jaxvl.methods.slimclr.model import Encoder
from jaxvl.methods.slimclr.published import SlimConfig
from jaxvl.methods.slimclr.weights import adopt
from jaxvl.nn.resnet import ResNet
from jaxvl.verbs import convert
from tests.interop.torch_writer import save as write_torch
from tests.methods import slimclr_small as small

SMALL = (
    "model.trunk=resnet", "model.width=8", "model.hidden=64", "model.dim=6", "model.queue=32",
    "model.widths=(1.0,0.75,0.5,0.25)", "model.zero_init=false",
)  # fmt: skip
BASIC = (*SMALL, "model.depth=18")
CIFAR = (*SMALL, "model.trunk=cifar", "model.depth=8")
KINDS = {
    "mocov2": SMALL,
    "mocov3": (*SMALL, *small.V3),
    "probe": (*SMALL, "model.framework=probe", "model.head=supervised_switch", "data.classes=6"),
    "shared probe": (*SMALL, "model.framework=probe", "model.head=supervised", "data.classes=6"),
    "switch": (*BASIC, "model.head=mocov2_switch"),
    "simclr": (*BASIC, *small.SIMCLR),
    "simclr's head in v2": (*BASIC, "model.head=simclr_slim"),
    "simclr with switch": (*BASIC, *small.SIMCLR, "model.head=mocov2_switch"),
    "one width": (*BASIC, "model.widths=(1.0,)"),
    "cifar": CIFAR,
    "cifar as published": (*CIFAR, "model.head=supervised"),
    "cifar simclr": (*CIFAR, *small.SIMCLR),
    "cifar v3": (*CIFAR, *small.V3),
    "cifar probe": (*CIFAR, "model.framework=probe", "model.head=supervised_switch", "data.classes=6"),
    "cifar supervised": (*CIFAR, "model.framework=supervised", "model.head=supervised", "data.classes=6"),
}


@functools.cache
def tree(kind):
    """Random variables of ours, flat; traced once, so nobody writes to them."""
    cfg = small.config(*KINDS[kind])
    state = abstract_state(build(cfg), cfg)
    rng = np.random.default_rng(0)
    flat = keys.to_flat({"params": state.params, **state.mutables})
    out = {p: rng.uniform(0.5, 1.5, x.shape).astype(np.float32) for p, x in flat.items()}
    if "queue/pointer" in out:
        out["queue/pointer"] = np.int32(16)
    return out


def variables(flat):
    return keys.to_variables(flat, ("batch_stats", "key", "key_stats", "queue"))


@pytest.mark.parametrize(
    ("config", "entries"),
    [
        (SlimConfig(), 2 * 1117 + 2),
        (SlimConfig("mocov3", hidden=4096, dim=256), 2 * 1147 + 22),
        (SlimConfig("probe", dim=1000), 1121),
    ],
    ids=["v2", "v3", "probe"],
)
def test_official_files_have_the_published_numbers_of_entries(config, entries):
    found = published.rules(config, 65536)
    counters = sum(r.key.endswith("running_var") for r in found)
    assert len(found) + counters == entries


def test_names_of_the_specification_are_among_them():
    shapes = {r.key: r.shape for r in published.rules(SlimConfig(), 65536)}
    assert shapes["module.encoder_q.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["module.encoder_k.bn1.bn.3.running_var"] == (16,)
    assert shapes["module.encoder_q.features.13.shortcut.1.bn.1.weight"] == (1536,)
    assert shapes["module.encoder_q.features.7.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["module.encoder_q.fc.2.weight"] == (128, 2048)
    assert shapes["module.queue"] == (128, 65536)
    v3 = {r.key: r.shape for r in published.rules(SlimConfig("mocov3", hidden=4096, dim=256), 0)}
    assert v3["module.base_encoder.fc.4.bn.2.running_mean"] == (256,)
    assert "module.base_encoder.fc.4.bn.2.weight" not in v3
    assert v3["module.predictor.0.weight"] == (4096, 256)
    probe = {r.key: r.shape for r in published.rules(SlimConfig("probe", dim=1000), 0)}
    assert probe["module.fc.linears.2.weight"] == (1000, 1024)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_identity_and_no_leaf_is_left(kind):
    flat = tree(kind)
    config = published.config_of_params(flat)
    arrays, report = published.to_official(variables(flat), config)
    assert report.missing == report.unused == report.wrong_shape == ()
    again, report = published.from_official(arrays, published.infer_config(arrays, {}))
    assert report.missing == report.unused == ()
    assert all(k.endswith("num_batches_tracked") for k, _ in report.dropped)
    got = keys.to_flat(again)
    assert got.keys() == flat.keys()
    for path, value in flat.items():
        np.testing.assert_array_equal(got[path], value, err_msg=path)


@pytest.mark.parametrize(
    ("kind", "head", "framework"),
    [
        ("switch", "mocov2_switch", "mocov2"),
        ("simclr", "simclr_slim", "simclr"),
        ("simclr's head in v2", "simclr_slim", "mocov2"),
        ("simclr with switch", "mocov2_switch", "simclr"),
        ("mocov3", "mocov3_slim", "mocov3"),
        ("cifar as published", "supervised", "mocov2"),
        ("cifar supervised", "supervised", "probe"),
    ],
)
def test_head_and_framework_are_told_by_the_leaves_and_by_the_file(kind, head, framework):
    flat = tree(kind)
    config = published.config_of_params(flat)
    assert (config.head, config.framework) == (head, framework)
    arrays, _ = published.to_official(variables(flat), config)
    assert published.infer_config(arrays, {}) == config


def test_names_of_other_heads_and_of_the_cifar_trunk_are_the_official_ones():
    shapes = {r.key: r.shape for r in published.rules(SlimConfig(head="mocov2_switch"), 64)}
    assert shapes["module.encoder_q.fc.0.linears.1.weight"] == (1536, 1536)
    assert shapes["module.encoder_q.fc.2.linears.3.weight"] == (128, 512)
    assert "module.encoder_q.fc.0.weight" not in shapes
    shapes = {r.key: r.shape for r in published.rules(SlimConfig("simclr"), 0)}
    assert shapes["module.encoder_q.fc.0.bias"] == (2048,)
    assert shapes["module.encoder_q.fc.1.bn.2.weight"] == (1024,)
    assert shapes["module.encoder_q.fc.4.bn.3.bias"] == (128,)
    assert not any("encoder_k" in k or "fc.3.bias" in k for k in shapes)
    cifar = SlimConfig("probe", (3, 3, 3), 64, (1.0, 0.5), 0, 10, head="supervised", kind="cifar", bottleneck=False)
    shapes = {r.key: r.shape for r in published.rules(cifar, 0)}
    assert shapes["conv1.weight"] == (64, 3, 3, 3)
    assert shapes["features.3.shortcut.0.weight"] == (128, 64, 1, 1)
    assert shapes["features.6.shortcut.1.bn.1.running_mean"] == (128,)
    assert shapes["features.8.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["fc.weight"] == (10, 256)
    assert "features.0.shortcut.0.weight" not in shapes
    kernels = sum(int(np.prod(s)) for k, s in shapes.items() if "conv" in k or "shortcut.0" in k)
    # 3x3: the stem, 6 of 64 to 64, then a step up and 5 of the doubled size, twice; 1x1: two shortcuts
    assert kernels == 9 * 64 * (3 + 64 * (6 + 2 + 5 * 4 + 8 + 5 * 16)) + 64 * 128 + 128 * 256


def test_a_key_too_many_or_too_few_is_refused_by_name():
    for kind, key in (
        ("switch", "module.encoder_k.fc.2.linears.1.bias"),
        ("cifar", "encoder_q.features.1.conv2.weight"),
    ):
        arrays, _ = published.to_official(variables(tree(kind)), published.config_of_params(tree(kind)))
        config = published.infer_config(arrays, {})
        _, report = published.from_official(arrays | {"spare.weight": np.zeros(2, np.float32)}, config)
        with pytest.raises(InputError, match=r"1 unused: spare\.weight"):
            report.check()
        _, report = published.from_official({k: x for k, x in arrays.items() if k != key}, config)
        with pytest.raises(InputError, match=f"1 missing: {key}"):
            report.check()
    flat = tree("cifar")
    _, report = published.to_official(variables(flat | {"spare": np.zeros(2)}), published.config_of_params(flat))
    with pytest.raises(InputError, match="1 unused: spare"):
        report.check()
    with pytest.raises(InputError, match="trunk 'conv', which has no published layout"):
        published.config_of_params(keys.to_flat({"params": {"encoder": {"trunk": {"conv1": {"kernel": np.zeros(1)}}}}}))


def test_files_of_several_devices_and_of_one_give_the_same_leaves():
    flat = tree("cifar as published")
    arrays, _ = published.to_official(variables(flat), published.config_of_params(flat))
    assert "encoder_q.conv1.weight" in arrays
    wrapped = {f"module.{k}": x for k, x in arrays.items()}
    wrapped |= {"module.old_queue_ptr": np.zeros(1, np.int64), "module.old_k": np.zeros((4, 6), np.float32)}
    got, report = published.from_official(wrapped, published.infer_config(wrapped, {}))
    report.check()
    assert ("module.old_k", "of the last step, the next one overwrites it") in report.dropped
    for path, value in keys.to_flat(got).items():
        np.testing.assert_array_equal(value, flat[path], err_msg=path)


@pytest.mark.parametrize(("index", "overlap"), [(0, True), (1, True), (3, True), (1, False), (2, False)])
def test_an_exported_width_of_the_cifar_trunk_stands_alone(index, overlap):
    widths = (1.0, 0.75, 0.5, 0.25) if overlap else (1.0, 0.5, 0.25)
    kind = (*KINDS["cifar probe"], f"model.widths={widths}", f"model.overlap={overlap}")
    run = small.config(*kind)
    cfg = model_config(run)
    rng, images = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    made = jax.eval_shape(lambda: Encoder(cfg).init(jax.random.key(0), images))
    own = jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), dict(made))
    wanted = jax.jit(lambda x: Encoder(cfg).apply(own, x, False, index))(images)[1]
    tree_ = {"params": {"encoder": own["params"]}, "batch_stats": {"encoder": own["batch_stats"]}}
    config = published.config_of_params(keys.to_flat(tree_), published.of_run(run))
    arrays, report = published.to_torchvision(widths[index])(tree_, config)
    assert report.missing == report.unused == ()
    read = published.infer_config(arrays, {})
    assert read.widths == (1.0,)
    assert read.width == int(8 * widths[index])
    alone, report = published.from_official(arrays, read)
    report.check()
    alone = {name: alone[name]["encoder"] for name in ("params", "batch_stats")}
    narrow = model_config(small.config(*kind, "model.head=supervised", f"model.alone={widths[index]}"))
    got = jax.jit(lambda v, x: Encoder(narrow).apply(v, x, False, 0))(alone, images)[1]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_official_file_converts_starts_a_probe_and_goes_back(tmp_path):
    flat = tree("mocov2")
    arrays, _ = published.to_official(variables(flat), published.config_of_params(flat))
    write_torch(tmp_path / "slim.pth.tar", {"epoch": 200, "state_dict": arrays})
    lines = []
    convert.convert("slimclr", tmp_path / "slim.pth.tar", tmp_path / "w", say=lines.append)
    assert "slimmable ResNet-50" in "\n".join(lines)
    convert.reverse("slimclr", tmp_path / "w", tmp_path / "back", say=lines.append)
    got, _ = read_safetensors(tmp_path / "back" / "model.safetensors")
    assert got.keys() == arrays.keys()
    np.testing.assert_array_equal(got["module.queue"], arrays["module.queue"])

    cfg = small.config(*KINDS["probe"], f"init.weights={tmp_path / 'w'}")
    read, info = weights.load_weights(tmp_path / "w")
    for name in info["collections"]:
        read |= {f"{name}/{p}": x for p, x in weights.load_weights(tmp_path / "w", name)[0].items()}
    fresh = {p: np.zeros(x.shape, x.dtype) for p, x in tree("probe").items()}
    merged = keys.to_flat(adopt(cfg, keys.to_variables(fresh), read, info))
    np.testing.assert_array_equal(
        merged["encoder/trunk/layer2_1/conv2/kernel"], flat["encoder/trunk/layer2_1/conv2/kernel"]
    )
    assert not merged["encoder/head/fc_w050/kernel"].any()
    other = small.config(*KINDS["probe"], "model.widths=(1.0,0.5)")
    state = abstract_state(build(other), other)
    wrong = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), {"params": state.params, **state.mutables})
    with pytest.raises(InputError, match=r"in the weights only .*w075"):
        adopt(other, wrong, read, info)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_an_exported_width_computes_what_the_slimmable_network_does(index):
    flat = tree("probe")
    config = published.config_of_params(flat)
    cfg = model_config(small.config(*KINDS["probe"]))
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    own = variables(flat)
    own = {"params": own["params"]["encoder"], "batch_stats": own["batch_stats"]["encoder"]}
    wanted = jax.jit(lambda x: Encoder(cfg).apply(own, x, False, index))(images)[1]
    arrays, report = published.to_torchvision(config.widths[index])(variables(flat), config)
    assert report.missing == report.unused == ()
    assert arrays["conv1.weight"].shape == ((8, 6, 4, 2)[index], 3, 7, 7)
    assert arrays["layer4.0.downsample.1.running_var"].shape == ((256, 192, 128, 64)[index],)
    assert len(arrays) == 320  # of torchvision's ResNet-50
    plain = keys.to_variables(published.one_width(flat, config, index))
    net = ResNet(50, 6, ("logits",), width=(8, 6, 4, 2)[index])
    x = (images.astype(np.float32) / 255 - np.array(cfg.mean, np.float32)) / np.array(cfg.std, np.float32)
    got = jax.jit(lambda v, x: net.apply(v, x)["logits"])(plain, jnp.asarray(x))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def test_every_width_is_written_with_torchvision_s_keys(tmp_path):
    flat = tree("mocov2")
    weights.save_weights(
        tmp_path / "w", flat, {"config": {}, "collections": ["batch_stats", "key", "key_stats", "queue"]}
    )
    lines = []
    for name, width in (("w100", 8), ("w075", 6), ("w050", 4), ("w025", 2)):
        convert.reverse(f"slimclr_{name}", tmp_path / "w", tmp_path / name, say=lines.append)
        got, _ = read_safetensors(tmp_path / name / "model.safetensors")
        assert got["conv1.weight"].shape == (width, 3, 7, 7)
        assert len(got) == 318
    with pytest.raises(InputError, match="written with --reverse only"):
        published.LAYOUTS["slimclr_w050"].load({}, SlimConfig())


def test_plain_moco_fills_the_full_width_and_says_what_stays(tmp_path):
    flat = tree("mocov2")
    config = published.config_of_params(flat)
    plain, _ = published.to_torchvision(1.0)(variables(flat), config)
    file = {f"module.encoder_q.{k}": v for k, v in plain.items()}
    for k, path, bias in (("fc.0", "fc0", "bias"), ("fc.2", "fc2", "bias")):
        file[f"module.encoder_q.{k}.weight"] = flat[f"encoder/head/{path}/kernel"].T.copy()
        file[f"module.encoder_q.{k}.bias"] = flat[f"encoder/head/{path}/{bias}"]
    file |= {k.replace("encoder_q", "encoder_k"): v for k, v in file.items()}
    file |= {"module.queue": np.zeros((6, 8), np.float32), "module.queue_ptr": np.zeros(1, np.int64)}
    write_torch(tmp_path / "moco.pth.tar", {"state_dict": file})
    lines = []
    convert.convert("moco", tmp_path / "moco.pth.tar", tmp_path / "w", say=lines.append)
    text = "\n".join(lines)
    assert "encoder/trunk/layer1_0/bn1_w025  (not in the file: stays as initialised)" in text
    assert "module.queue  (the queue starts anew)" in text
    read, info = weights.load_weights(tmp_path / "w")
    for name in info["collections"]:
        read |= {f"{name}/{p}": x for p, x in weights.load_weights(tmp_path / "w", name)[0].items()}
    cfg = small.config(*KINDS["mocov2"], f"init.weights={tmp_path / 'w'}")
    fresh = variables({p: np.zeros(np.shape(x), np.asarray(x).dtype) for p, x in flat.items()})
    got = keys.to_flat(adopt(cfg, fresh, read, info))
    np.testing.assert_array_equal(got["encoder/trunk/stem/bn_w100/scale"], flat["encoder/trunk/stem/bn_w100/scale"])
    np.testing.assert_array_equal(got["key/head/fc2/kernel"], flat["encoder/head/fc2/kernel"])
    assert not got["encoder/trunk/stem/bn_w050/scale"].any()
    assert session.build_method(cfg).name == "slimclr"
    with pytest.raises(InputError, match="is read only"):
        published.LAYOUTS["moco"].store({}, config)


def test_foreign_files_are_refused():
    with pytest.raises(InputError, match="looks like plain MoCo, --from moco"):
        published.infer_config({"module.encoder_q.layer1.0.conv1.weight": np.zeros(1)}, {})
    with pytest.raises(InputError, match="holds no slimmable encoder"):
        published.infer_config({"conv1.weight": np.zeros((64, 3, 7, 7))}, {})

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxvl.cli import main
from jaxvl.core.errors import InputError
from jaxvl.interop import keys, layouts, resnet
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.interop.weights import load_weights, merge_weights
from jaxvl.nn.resnet import BLOCKS, ResNet
from jaxvl.verbs import convert
from tests.interop import torch_writer
from tests.nn.resnet_weights import flax_variables, numpy_state


def quiet(line):
    pass


def with_counters(state):
    return keys.with_step_counters(state)


@pytest.mark.parametrize(
    ("depth", "entries", "total"),
    [
        (18, 122, 11_689_512),
        (34, 218, 21_797_672),
        (50, 320, 25_557_032),
        (101, 626, 44_549_160),
        (152, 932, 60_192_808),
    ],
)
def test_entries_and_numbers_of_each_depth(depth, entries, total):
    """Integers of torchvision's state dicts, and every path is one of the module's."""
    config = ResNetConfig(BLOCKS[depth], depth >= 50, 64, 1000)
    assert config.depth == depth
    rules = resnet.rules(config)
    norms = sum(r.key.endswith("running_var") for r in rules)
    assert len(rules) + norms == entries  # with one step counter a norm
    assert sum(np.prod(r.shape) for r in rules if "running" not in r.key) == total
    model = ResNet(depth, num_classes=1000, taps=("logits",))
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert set(keys.to_flat(shapes)) == {p for r in rules for p in r.paths}


@pytest.mark.parametrize("depth", [18, 50])
def test_arrays_land_where_the_module_reads_them(depth):
    """Against the independent table of names that the comparison with PyTorch uses."""
    state = numpy_state(depth, 8, 10)
    config = resnet.infer_config(with_counters(state), {})
    assert config == ResNetConfig(BLOCKS[depth], depth == 50, 8, 10)
    variables, report = resnet.load(with_counters(state), config)
    assert report.unused == report.missing == report.wrong_shape == ()
    assert len(report.dropped) == sum(k.endswith("running_var") for k in state)
    expected, got = keys.to_flat(flax_variables(state)), keys.to_flat(variables)
    assert got.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(got[path], value)


@pytest.mark.parametrize(
    "odd",
    [
        {"blocks": 3},
        {"blocks": (3, 4, 10**9, 3)},
        {"blocks": ()},
        {"width": 0},
        {"bottleneck": 1},
        {"num_classes": "a"},
    ],
)
def test_sizes_that_no_network_has_are_refused(odd):
    with pytest.raises(InputError, match=next(iter(odd))):
        ResNetConfig(**odd)


@pytest.mark.parametrize("family", ["torchvision_resnet", "timm_resnet", "hf_resnet"])
@pytest.mark.parametrize("depth", [18, 50])
def test_there_and_back_bit_for_bit(tmp_path, family, depth):
    state = with_counters(numpy_state(depth, 8, 10))
    file = torch_writer.save(tmp_path / "resnet.pth", torch_writer.Ordered(state))
    convert.convert("torchvision_resnet", file, tmp_path / "w", say=quiet)
    out = convert.reverse(family, tmp_path / "w", tmp_path / "out", say=quiet)
    convert.convert(family, out, tmp_path / "again", say=quiet)
    back = convert.reverse("torchvision_resnet", tmp_path / "again", tmp_path / "back", say=quiet)
    arrays, _ = read_safetensors(back)
    assert arrays.keys() == state.keys()
    for name, value in state.items():
        assert arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)


def test_hugging_face_names():
    config = ResNetConfig(BLOCKS[50], True, 64, 1000)
    published = {r.key for r in resnet.rules(config, resnet.hf_name)}
    assert {
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_mean",
        "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight",
        "resnet.encoder.stages.3.layers.2.layer.2.normalization.bias",
        "classifier.1.weight",
    } <= published
    bare = {k.removeprefix("resnet."): 0 for k in published if not k.startswith("classifier")}
    assert set(resnet.hf_keys(bare)) == {k for k in published if not k.startswith("classifier")}


def test_hugging_face_config_with_the_stride_elsewhere_is_refused(tmp_path):
    state, _ = resnet.store(
        flax_variables(numpy_state(50, 8, 10)), ResNetConfig(width=8, num_classes=10), resnet.hf_name
    )
    write_safetensors(tmp_path / "model.safetensors", state)
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        convert.convert("hf_resnet", tmp_path / "model.safetensors", tmp_path / "w", say=quiet)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "downsample_in_bottleneck": True}))
    with pytest.raises(InputError, match=r"downsample_in_bottleneck True \(only False is known\)"):
        convert.convert("hf_resnet", tmp_path / "model.safetensors", tmp_path / "w", say=quiet)


@pytest.mark.parametrize(
    ("key", "shape", "reason"),
    [
        ("res2.0.conv1.weight", (64, 64, 1, 1), "the stride on the 1x1"),
        ("conv1.0.weight", (32, 3, 3, 3), "a deep stem"),
        ("layer2.0.downsample.2.weight", (512,), "an average-pooled shortcut"),
        ("layer1.0.se.fc1.weight", (16, 256, 1, 1), "squeeze-and-excitation"),
        ("stages.0.blocks.0.conv1.weight", (64, 64, 1, 1), "a pre-activation trunk"),
    ],
)
def test_relatives_are_refused_by_name(tmp_path, key, shape, reason):
    write_safetensors(tmp_path / "a.safetensors", with_counters(numpy_state(18, 8, 10)) | {key: np.ones(shape)})
    with pytest.raises(InputError, match=f"tensor {key}.*{reason}"):
        convert.convert("timm_resnet", tmp_path / "a.safetensors", tmp_path / "w", say=quiet)


def test_group_norm_is_refused():
    state = {k: v for k, v in numpy_state(18, 8, 10).items() if "running" not in k}
    with pytest.raises(InputError, match=r"layer1\.0\.bn1\.weight: has no running statistics"):
        resnet.infer_config(state, {})


def test_prefix_and_drop(tmp_path):
    """A detector's checkpoint: the trunk under a prefix, other parts beside it."""
    state = {f"backbone.{k}": v for k, v in with_counters(numpy_state(18, 8, 10)).items()}
    write_safetensors(tmp_path / "a.safetensors", state | {"neck.weight": np.ones((2, 2), np.float32)})

    def run(to, **kw):
        return convert.convert("torchvision_resnet", tmp_path / "a.safetensors", tmp_path / to, say=quiet, **kw)

    with pytest.raises(InputError, match=r"no tensor conv1\.weight; its trunk is under 'backbone\.': add --prefix"):
        run("w")
    with pytest.raises(InputError, match=r"1 unused: neck\.weight"):
        run("w", prefix="backbone.")
    with pytest.raises(InputError, match=r"--prefix encoder\.: no key .* begins with it"):
        run("w", prefix="encoder.")
    with pytest.raises(InputError, match=r"--drop head.*: matches no key"):
        run("w", prefix="backbone.", drop=["head.*"])
    run("w", prefix="backbone.", drop=[r"neck\..*", r"fc\..*"])
    flat, info = load_weights(tmp_path / "w")
    assert not any(p.startswith("fc") for p in flat)
    assert info["config"]["num_classes"] is None
    assert {"neck.weight", "fc.weight", "fc.bias"} <= set(info["report"]["dropped"])
    trunk = jax.eval_shape(ResNet(18, width=8).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    merge_weights(trunk["params"], flat)


def test_frozen_norms_are_constants():
    """`freeze` gives the variables of `norm='frozen'`, which computes what evaluation mode does."""
    variables = flax_variables(numpy_state(18, 8, 10))
    frozen = resnet.freeze(variables)
    assert set(frozen["batch_stats"]["stem"]["bn"]) == {"scale", "bias", "mean", "var"}
    assert "bn" not in frozen["params"]["stem"]
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    plain = ResNet(18, num_classes=10, width=8, taps=("logits",))
    wanted = jax.jit(plain.apply)(variables, images)["logits"]
    model = ResNet(18, num_classes=10, width=8, taps=("logits",), norm="frozen")
    got = jax.jit(lambda v: model.apply(v, images, train=True))(frozen)["logits"]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_command_line(tmp_path, capsys):
    file = torch_writer.save(
        tmp_path / "r.pth", {"state_dict": torch_writer.Ordered(with_counters(numpy_state(18, 8, 10)))}
    )
    words = ["convert", "--from", "torchvision_resnet", str(file), "--to", str(tmp_path / "w"), "--drop", r"fc\..*"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "dropped  fc.weight  (--drop)" in out
    assert "ResNet-18: basic blocks (2, 2, 2, 2), width 8, no classifier" in out
    words = [*words[:4], "--to", str(tmp_path / "other"), "--image-size", "64"]
    assert main(words) == 2
    assert "--image-size: a ResNet takes images of any size" in capsys.readouterr().err
    assert layouts.RESNET.name == "a ResNet"

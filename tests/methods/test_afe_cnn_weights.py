"""AFE-CNN (reconstruction) under PyTorch's names, there and back, and runs that start from such weights."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.interop.weights import load_weights
from jaxvl.methods.afe_cnn import method, published, recipe, weights
from jaxvl.methods.afe_cnn.model import AFECNN
from jaxvl.methods.afe_cnn.published import Weights
from jaxvl.verbs import convert
from tests import tiny
from tests.interop import torch_writer

FULL = Weights(joints=16, classes=5, width=4, bve=True, te=True, kje_hidden=6, kfe_hidden=4)
BARE = Weights(joints=16, classes=5, width=4, bve=False, te=False, kje_hidden=0, kfe_hidden=0)


def arrays_of(c):
    rng = np.random.default_rng(0)
    return {r.key: rng.uniform(0.5, 1.5, r.shape).astype(np.float32) for r in published.rules(c)}


def config(*overrides):
    c = recipe.base()
    c.init.weights = "FOLDER"
    c.model.update({"skeleton": "humanoid16", "classes": 5, "width": 4, "kje_hidden": 6, "kfe_hidden": 4})
    c.data.frames = 8
    return configs.apply(c.lock(), overrides)


@functools.cache
def fresh(*overrides):
    net = AFECNN(method.model_config(config(*overrides)))
    x = jnp.zeros((1, 1, 8, 16, 3))
    return tiny.drawn(lambda: net.init(jax.random.key(0), x, jnp.ones((1, 1), bool)), seed=3)


@pytest.mark.parametrize("c", [FULL, BARE], ids=["full", "bare"])
def test_there_and_back_bit_for_bit(c, tmp_path):
    arrays = arrays_of(c)
    counters = {k.replace("running_var", "num_batches_tracked"): np.array(7) for k in arrays if "running_var" in k}
    content = torch_writer.Ordered({f"module.{k}": v for k, v in {**arrays, **counters}.items()})
    file = torch_writer.save(tmp_path / "best.pth", content)
    convert.convert("afe_cnn", file, tmp_path / "w", say=tiny.quiet)
    flat, info = load_weights(tmp_path / "w")
    assert info["report"]["missing"] == info["report"]["unused"] == []
    assert published.config_of_params(flat) == c
    out = convert.reverse("afe_cnn", tmp_path / "w", tmp_path / "out", say=tiny.quiet)
    back, _ = read_safetensors(out)
    assert back.keys() == {*arrays, *counters}
    for key, value in arrays.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_names_and_shapes_are_pytorch_s_and_reach_every_leaf():
    shapes = {r.key: r.shape for r in published.rules(FULL)}
    assert shapes["data_bn.weight"] == (16 * 12,)
    assert shapes["kje_fc1.weight"] == (6, 48)
    assert shapes["kfe_c1.weight"] == (4, 3, 5)
    assert shapes["stem.weight"] == (4, 12, 3, 3)
    assert shapes["blocks.2.dw.weight"] == (8, 1, 3, 3)
    assert shapes["blocks.2.pw.weight"] == (16, 8, 1, 1)
    assert shapes["blocks.5.bn2.running_var"] == (32,)
    assert shapes["fc.weight"] == (5, 32)
    arrays = arrays_of(FULL)
    variables, report = published.from_published(arrays, FULL)
    report.check()
    ours = {k: v.shape for k, v in keys.to_flat(fresh()).items()}
    assert {k: v.shape for k, v in keys.to_flat(variables).items()} == ours
    flat = keys.to_flat(variables)
    np.testing.assert_array_equal(flat["block1/dw/kernel"][2, 0, 0], arrays["blocks.1.dw.weight"][:, 0, 2, 0])
    np.testing.assert_array_equal(flat["kfe/conv1/kernel"][1, 2], arrays["kfe_c1.weight"][:, 2, 1])
    np.testing.assert_array_equal(flat["stem/conv/kernel"][1, 2, 3], arrays["stem.weight"][:, 3, 1, 2])


def test_a_run_starts_from_weights_and_another_number_of_classes_from_a_fresh_last_layer():
    flat = keys.to_flat(fresh())
    start = {k: jax.tree.map(np.zeros_like, v) for k, v in fresh().items()}
    whole = keys.to_flat(weights.adopt(config(), start, flat, {}))
    for path, value in flat.items():
        np.testing.assert_array_equal(whole[path], value, err_msg=path)
    other = {k: jax.tree.map(np.zeros_like, v) for k, v in fresh("model.classes=7").items()}
    moved = keys.to_flat(weights.adopt(config("model.classes=7"), other, flat, {}))
    assert not moved["head/kernel"].any()
    assert moved["head/kernel"].shape == (32, 7)
    np.testing.assert_array_equal(moved["stem/conv/kernel"], flat["stem/conv/kernel"])


def test_weights_of_another_design_are_refused():
    flat = keys.to_flat(fresh())
    with pytest.raises(InputError, match=r"FOLDER: was made with te_span 2, config.model.te_span is 4"):
        weights.adopt(config(), fresh(), flat, {"config": {"te_span": 2}})
    with pytest.raises(InputError, match="FOLDER"):
        weights.adopt(config("model.te=false"), fresh("model.te=false"), flat, {})
    with pytest.raises(InputError, match="is no AFE-CNN"):
        published.infer({"conv1.weight": np.zeros((64, 3, 7, 7))}, {})
    with pytest.raises(InputError, match="12 channels for each joint"):
        published.infer({**arrays_of(FULL), "stem.weight": np.zeros((4, 7, 3, 3))}, {})

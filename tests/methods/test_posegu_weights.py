"""PoseGU's (reconstruction) lifters under the names of PoseAug, VideoPose3D and SemGCN, and runs that start there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.interop.weights import load_weights
from jaxvl.methods.posegu import method, published, recipe, weights
from jaxvl.methods.posegu.model import LifterConfig, lifter
from jaxvl.methods.posegu.published import NAMES, Weights
from jaxvl.verbs import convert
from tests import tiny
from tests.interop import torch_writer

SMALL = {name: Weights(name, 8, 2) for name in NAMES}


def arrays_of(c):
    rng = np.random.default_rng(0)
    return {r.key: rng.uniform(0.5, 1.5, r.shape).astype(np.float32) for r in published.rules(c)}


def fresh(name, stages=2):
    net = lifter(LifterConfig(name, 8, stages))
    return tiny.drawn(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 2)), train=False), seed=3)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_bit_for_bit(name, tmp_path):
    arrays = arrays_of(SMALL[name])
    counters = {k.replace("running_var", "num_batches_tracked"): np.array(7) for k in arrays if "running_var" in k}
    content = torch_writer.Ordered({f"module.{k}": v for k, v in {**arrays, **counters}.items()})
    place = "model_pos" if name == "vpose" else "state_dict"
    file = torch_writer.save(tmp_path / "ckpt_best.pth.tar", {"epoch": 3, place: content})
    convert.convert(NAMES[name], file, tmp_path / "w", say=tiny.quiet)
    flat, info = load_weights(tmp_path / "w")
    assert info["report"]["missing"] == info["report"]["unused"] == []
    assert published.config_of_params(flat) == SMALL[name]
    out = convert.reverse(NAMES[name], tmp_path / "w", tmp_path / "out", say=tiny.quiet)
    back, _ = read_safetensors(out)
    assert back.keys() == {*arrays, *counters}
    for key, value in arrays.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_reach_every_leaf(name):
    variables, report = published.from_published(arrays_of(SMALL[name]), SMALL[name])
    report.check()
    ours = {k: v.shape for k, v in keys.to_flat(fresh(name)).items()}
    assert {k: v.shape for k, v in keys.to_flat(variables).items()} == ours


def test_shapes_are_pytorch_s():
    mlp, vpose, semgcn = ({r.key: r.shape for r in published.rules(Weights(n, w, s))} for n, w, s in (
        *(("mlp", 1024, 2), ("vpose", 1024, 4), ("semgcn", 128, 4)),))  # fmt: skip
    assert mlp["w1.weight"] == (1024, 32)
    assert mlp["linear_stages.1.w2.weight"] == (1024, 1024)
    assert mlp["linear_stages.0.batch_norm2.running_mean"] == (1024,)
    assert mlp["w2.weight"] == (45, 1024)
    assert vpose["expand_conv.weight"] == (1024, 32, 1)
    assert vpose["layers_conv.7.weight"] == (1024, 1024, 1)
    assert vpose["layers_bn.7.bias"] == (1024,)
    assert vpose["shrink.bias"] == (45,)
    assert semgcn["gconv_input.0.gconv.W"] == (2, 2, 128)
    assert semgcn["gconv_layers.3.gconv2.gconv.e"] == (1, 46)
    assert semgcn["gconv_output.W"] == (2, 128, 3)


def test_a_run_starts_from_a_lifter_and_keeps_its_own_seeds_and_pool():
    c = recipe.base()
    c.init.weights = "FOLDER"
    c.model.update({"width": 8, "stages": 2})
    flat = keys.to_flat(fresh("mlp"))
    own = {"seeds": method.somebody(2)._asdict(), "pool": {"pose": np.ones((2, 2, 16, 3))}}
    start = {k: jax.tree.map(np.zeros_like, v) for k, v in fresh("mlp").items()} | own
    other = {"seeds/world": np.zeros((9, 16, 3)), "pool/pose": np.zeros((4, 4, 16, 3))}
    got = weights.adopt(c, start, flat | other, {})
    for path, value in flat.items():
        np.testing.assert_array_equal(keys.to_flat(got)[path], value, err_msg=path)
    assert got["pool"]["pose"].all()
    assert got["seeds"]["world"].shape == (2, 16, 3)
    with pytest.raises(InputError, match=r"FOLDER: holds the lifter 'vpose', config.model.lifter is 'mlp'"):
        weights.adopt(c, start, keys.to_flat(fresh("vpose")), {})
    with pytest.raises(InputError, match=r"FOLDER: do not fit the model"):
        weights.adopt(c, start, keys.to_flat(fresh("mlp", 1)), {})


def test_weights_of_another_model_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no w1.weight of 2 axes, so it is no mlp; it looks like vpose"):
        published.infer(arrays_of(SMALL["vpose"]), "mlp")
    with pytest.raises(InputError, match="its first layer reads 34 numbers"):
        published.infer({"w1.weight": np.zeros((1024, 34))}, "mlp")
    with pytest.raises(InputError, match="so it is no lifter"):
        published.config_of_params({"stem/conv/kernel": np.zeros((3, 3, 3, 4))})
    file = torch_writer.save(tmp_path / "w.pth", torch_writer.Ordered(arrays_of(SMALL["mlp"])))
    convert.convert("poseaug_mlp", file, tmp_path / "w", say=tiny.quiet)
    with pytest.raises(InputError, match="these weights are of mlp, whose layout is poseaug_mlp"):
        convert.reverse("semgcn", tmp_path / "w", tmp_path / "out", say=tiny.quiet)

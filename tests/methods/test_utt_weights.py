"""Published UTT checkpoints and converted ResNets find their place, every key accounted for."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.methods.utt import published, recipe, weights
from jaxvl.methods.utt.model import UTT, UTTConfig

FULL = published.Weights((3, 4, 6, 3), True, 64, 512, 1024, 7, 1, 6, 3, 6, 6, 6, 500, 20, False)
SMALL = published.Weights((2, 2, 2, 2), False, 8, 16, 24, 3, 2, 2, 1, 1, 1, 2, 6, 3, True, 8)
SIZES = {
    "depth": 18, "width": 8, "dim": 16, "ff_dim": 24, "pool": 3, "object_size": 2, "iterations": 2, "box_layers": 1,
    "decoder_layers": 1, "encoder_layers": 1, "detector_layers": 2, "queries": 6, "classes": 3, "output_score": True,
}  # fmt: skip


def random_of(config, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {r.key: rng.normal(size=r.shape).astype(np.float32) for r in published.rules(config)}
    arrays = keys.with_step_counters(arrays)
    return arrays | {copy: arrays[key] for key, copy in published.copies(arrays).items()}


@functools.cache
def fresh(**changes):
    model = UTT(UTTConfig(**{**SIZES, **changes}))
    shape = jax.ShapeDtypeStruct
    given = shape((1, 64, 64, 3), jnp.float32), shape((1, 64, 64), bool), shape((1, 1, 4), jnp.float32)
    shapes = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *given)
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), dict(shapes))


def config(**changes):
    c = recipe.base()
    c.init.weights = "FOLDER"
    c.model.update({**SIZES, **changes})
    c.model.class_offset = 0
    return c


def test_a_published_file_has_1032_keys():
    listed = {r.key: np.broadcast_to(np.float32(0), r.shape) for r in published.rules(FULL)}
    assert sum(r.key.endswith(("running_mean", "running_var")) for r in published.rules(FULL)) == 2 * (53 + 8 + 4)
    norms = [k for k in listed if k.endswith("running_mean")]
    assert len(listed) + len(norms) + len(published.copies(listed)) == 1032
    learned = [v.size for k, v in listed.items() if "running_" not in k]
    assert sum(learned) == 275_197_100
    assert published.infer(listed, {}) == FULL


@pytest.mark.parametrize("points", [4, 3])
def test_round_trip_with_both_copies_of_the_box_heads(points):
    small = dataclasses.replace(SMALL, points=points)
    arrays = random_of(small)
    assert published.infer({f"module.{k}": v for k, v in arrays.items()}, {}) == small
    variables, report = published.from_published(arrays, small)
    report.check()
    ours = keys.to_flat(fresh(points=points))
    assert {k: v.shape for k, v in keys.to_flat(variables).items()} == {k: v.shape for k, v in ours.items()}
    back, report = published.to_published(variables, small)
    report.check()
    assert back.keys() == arrays.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, arrays[name], err_msg=name)
    assert published.config_of_params(keys.to_flat(variables)) == small
    listed = published.config_of_params(keys.to_flat(variables), {"blocks": [2, 2, 2, 2]})
    assert published.UTT.describe(listed) == published.UTT.describe(small)


def test_position_comes_first_in_the_query_embedding_and_the_person_stays_class_one():
    arrays = random_of(SMALL)
    variables, _ = published.from_published(arrays, SMALL)
    detector = variables["params"]["detector"]
    np.testing.assert_array_equal(detector["query_pos"], arrays["query_embed.weight"][:, :16])
    np.testing.assert_array_equal(detector["query_content"], arrays["query_embed.weight"][:, 16:])
    np.testing.assert_array_equal(detector["class1"]["kernel"][:, 1], arrays["class_head.1.weight"][1])
    assert recipe.base().model.class_offset == 1


def test_a_copy_that_differs_is_refused():
    arrays = random_of(SMALL)
    arrays["det_decoder.bbox_embed.1.layers.2.bias"] = arrays["box_head.1.layers.2.bias"] + 1
    with pytest.raises(InputError, match="differs from box_head"):
        published.from_published(arrays, SMALL)


@pytest.mark.parametrize(
    ("lost", "said"), [("level_embed", "no UTT of Trackron"), ("detection_proj.0.1.running_mean", "GroupNorm")]
)
def test_other_models_are_refused(lost, said):
    arrays = random_of(SMALL)
    del arrays[lost]
    with pytest.raises(InputError, match=said):
        published.infer(arrays, {})


def test_a_converted_utt_fills_the_model_and_spare_parts_are_left_behind():
    variables, _ = published.from_published(random_of(SMALL), SMALL)
    flat = keys.to_flat(variables)
    laid = keys.to_flat(weights.adopt(config(), fresh(), flat, {"semantics": {"offset_norm": "hw"}}))
    assert all(np.array_equal(laid[k], flat[k]) for k in flat)
    without = keys.to_flat(weights.adopt(config(proposal_decoder=False), fresh(proposal_decoder=False), flat, {}))
    assert without.keys() == {k for k in flat if "corner/" not in k}
    with pytest.raises(InputError, match="offset_norm"):
        weights.adopt(config(offset_norm="wh"), fresh(), flat, {"semantics": {"offset_norm": "hw"}})
    del flat["track/layer0/ffn/linear1/bias"]
    with pytest.raises(InputError, match="track/layer0/ffn/linear1/bias"):
        weights.adopt(config(), fresh(), flat, {})


@pytest.mark.parametrize("detector", ["deformable", "dense"])
def test_a_plain_resnet_becomes_the_trunk(detector):
    trunk = ResNetConfig((2, 2, 2, 2), False, 8, 10)
    rng = np.random.default_rng(0)
    arrays = {r.key: rng.normal(size=r.shape).astype(np.float32) for r in resnet.rules(trunk)}
    flat = keys.to_flat(resnet.load(arrays, trunk)[0])
    changes = {"detector": detector, **({"track_level": 0, "detector_level": 0} if detector == "dense" else {})}
    laid = keys.to_flat(weights.adopt(config(**changes), fresh(**changes), flat, {}))
    assert any(laid["proj_track/level0/conv/kernel"].ravel() == 0)
    np.testing.assert_array_equal(laid["backbone/layer2_0/proj/conv/kernel"], flat["layer2_0/proj/conv/kernel"])
    np.testing.assert_array_equal(laid["batch_stats/backbone/stem/bn/var"], flat["batch_stats/stem/bn/var"])
    with pytest.raises(InputError, match="backbone/stem/conv/kernel"):
        weights.adopt(
            config(**changes), fresh(**changes), {k: v for k, v in flat.items() if k != "stem/conv/kernel"}, {}
        )

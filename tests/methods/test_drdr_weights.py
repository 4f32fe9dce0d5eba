"""Published DRDA checkpoints and converted ResNets find their place in DRDR, every key accounted for."""

import jax
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.methods.drdr import published, recipe, weights
from jaxvl.methods.drdr.model import DRDR, DRDRConfig

TRUNK = ResNetConfig((2, 2, 2, 2), False, 8)
D, K = 6, 3


def random_of(rules, seed=0):
    rng = np.random.default_rng(seed)
    return {r.key: rng.normal(size=r.shape).astype(np.float32) for r in rules}


def published_arrays():
    config = published.Weights(TRUNK.blocks, TRUNK.bottleneck, TRUNK.width, D, K)
    arrays = keys.with_step_counters(random_of(published.rules(config)))
    arrays |= {copy: arrays[name] for name, copy in published.copies(arrays).items()}
    return config, {f"module.{k}": v for k, v in arrays.items()}


def fresh():
    model = DRDR(DRDRConfig(classes=K, depth=18, width=8, features=D))
    image = np.zeros((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=True))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), dict(shapes))
    return {**variables, "radial": {"centre": np.zeros((2, D)), "local": np.zeros((2, K, D))}}


def config():
    c = recipe.base()
    c.init.weights = "FOLDER"
    c.model.update({"classes": K, "depth": 18, "width": 8, "bottleneck_dim": D})
    return c


def test_round_trip_with_both_copies_of_the_trunk():
    want, arrays = published_arrays()
    assert published.infer(arrays, {}) == want
    variables, report = published.from_published(arrays, want)
    report.check()
    assert {reason for _, reason in report.dropped} == {
        "the trunk once more; it was compared with the first", "step counter of a BatchNorm, of no use",
    }  # fmt: skip
    back, report = published.to_published({**variables, "radial": {"centre": np.ones((2, D))}}, want)
    report.check()
    assert report.dropped == (("radial/centre", "published files hold no anchors"),)
    assert back.keys() == keys.plain_keys(arrays).keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, arrays[f"module.{name}"], err_msg=name)
    assert published.config_of_params(keys.to_flat(variables)) == want


def test_the_stiefel_weight_is_transposed():
    want, arrays = published_arrays()
    variables, _ = published.from_published(arrays, want)
    z = np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)
    model = DRDR(DRDRConfig(classes=K, depth=18, width=8, features=D))
    turned = model.apply({"params": variables["params"]}, z, method=DRDR.turn)
    np.testing.assert_allclose(turned, z @ arrays["module.stiefel_linear.weight"].T, rtol=1e-5)


def test_a_second_copy_that_differs_is_refused():
    want, arrays = published_arrays()
    arrays["module.feature_layers.0.weight"] = arrays["module.conv1.weight"] + 1
    with pytest.raises(InputError, match=r"feature_layers.0.weight: differs from conv1.weight"):
        published.from_published(arrays, want)
    del arrays["module.stiefel_linear.weight"]
    with pytest.raises(InputError, match=r"no tensor stiefel_linear.weight, so it is no DRDA"):
        published.infer(arrays, {})


def test_a_published_model_is_taken_whole_and_anchors_stay_at_zero():
    want, arrays = published_arrays()
    flat = keys.to_flat(published.from_published(arrays, want)[0])
    got = weights.adopt(config(), fresh(), flat, {})
    np.testing.assert_array_equal(got["params"]["fc"]["bias"], arrays["module.fc.bias"])
    np.testing.assert_array_equal(got["batch_stats"]["trunk"]["stem"]["bn"]["var"], arrays["module.bn1.running_var"])
    assert not got["radial"]["local"].any()
    del flat["fc/bias"]
    with pytest.raises(InputError, match=r"FOLDER: do not fit the model; in the model only \(1\): fc/bias"):
        weights.adopt(config(), fresh(), flat, {})


def test_a_converted_resnet_becomes_the_trunk():
    classified = ResNetConfig(TRUNK.blocks, TRUNK.bottleneck, TRUNK.width, 1000)
    arrays = random_of(resnet.rules(classified))
    flat = keys.to_flat(resnet.load(arrays, classified)[0])
    got = weights.adopt(config(), fresh(), flat, {})
    kernel = got["params"]["trunk"]["layer4_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer4.1.conv2.weight"].transpose(2, 3, 1, 0))
    mean = got["batch_stats"]["trunk"]["layer1_0"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, arrays["layer1.0.bn1.running_mean"])
    assert not got["params"]["fc"]["kernel"].any()  # as it was
    with pytest.raises(InputError, match=r"in the model only \(1\): trunk/stem/conv/kernel"):
        weights.adopt(config(), fresh(), {k: v for k, v in flat.items() if k != "stem/conv/kernel"}, {})

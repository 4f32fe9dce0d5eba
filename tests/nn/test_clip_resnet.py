from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import clip
from jaxvl.nn.clip import CLIP, CLIP_PRESETS, VisionTower, normalize_pixels
from jaxvl.nn.clip_resnet import ModifiedResNet
from tests.interop.numpy_clip import TINY_RESNET as TINY
from tests.interop.numpy_clip import random_arrays

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def variables():
    return clip.from_openai(random_arrays(TINY), TINY)[0]


@functools.partial(jax.jit, static_argnums=2)
def encode(variables, x, config=TINY):
    return CLIP(config).apply(variables, x, method=CLIP.encode_image).features


def test_published_counts():
    config = CLIP_PRESETS["RN50"]
    shapes = jax.eval_shape(
        CLIP(config).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1, 77), jnp.int32),
    )
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(shapes["params"]["visual"]) == 38_316_896
    assert count(shapes["params"]["text"]) == 63_690_240
    assert count(shapes["params"]) == 102_007_137
    norms = sum(1 for p, _ in jax.tree.leaves_with_path(shapes["batch_stats"]) if p[-1].key == "var")
    assert (norms, count(shapes["batch_stats"]) + norms) == (55, 53_303)


def test_evaluation_does_not_mix_images(variables):
    """Running statistics: an image's features are the same in any batch."""
    whole = encode(variables, PIXELS)
    other = PIXELS.copy()
    other[[0, 1, 3]] = 0
    np.testing.assert_allclose(encode(variables, other)[2], whole[2], atol=1e-5 * np.abs(whole).max())
    assert whole.shape == (4, 16)
    assert np.abs(np.asarray(whole[0] - whole[1])).max() > 0.1


def test_training_uses_and_updates_statistics(variables):
    def run(v, x):
        return CLIP(TINY).apply(v, x, train=True, mutable=["batch_stats"], method=CLIP.encode_image)

    out, changed = jax.jit(run)(variables, PIXELS)
    assert np.abs(np.asarray(out.features - encode(variables, PIXELS))).max() > 0.1
    # PyTorch: nine tenths of what was and one tenth of the batch, whose variance is the unbiased one
    x = normalize_pixels(PIXELS)
    kernel = variables["params"]["visual"]["stem_conv1"]["kernel"]
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    before, stats = (v["batch_stats"]["visual"]["stem_bn1"] for v in (variables, changed))
    np.testing.assert_allclose(stats["mean"], 0.9 * before["mean"] + 0.1 * y.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2), ddof=1), rtol=2e-6, atol=2e-6)


def test_bfloat16_agrees(variables):
    low = encode(variables, PIXELS, dataclasses.replace(TINY, dtype="bfloat16"))
    full = encode(variables, PIXELS)
    cosine = (low * full).sum(-1) / jnp.linalg.norm(low, axis=-1) / jnp.linalg.norm(full, axis=-1)
    assert low.dtype == jnp.float32
    assert float(cosine.min()) > 0.999


def test_errors(variables):
    with pytest.raises(InputError, match="use a ViT"):
        jax.eval_shape(VisionTower(TINY).init, jax.random.key(0), PIXELS)
    with pytest.raises(InputError, match="4 stages and patch_size 32"):
        dataclasses.replace(TINY, vision_blocks=(1, 1))
    with pytest.raises(InputError, match=r"is not \[N, 64, 64, 3\]"):
        encode(variables, np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="is not a multiple of patch_size"):
        dataclasses.replace(TINY, image_size=48)


def test_heads_may_be_more_than_the_stem_is_wide():
    config = dataclasses.replace(TINY, vision_heads=8)
    tower = ModifiedResNet(config.vision_blocks, 4, 8, 16, 64)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert shapes["params"]["attnpool"]["query"]["kernel"].shape == (128, 8, 16)

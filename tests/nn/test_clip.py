from __future__ import annotations

import dataclasses
import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from jaxvl.core.errors import InputError
from jaxvl.nn import clip as K
from jaxvl.nn.attention import dot_product_attention
from jaxvl.nn.transformer import gelu, layer_norm, quick_gelu
from tests.tiny import drawn

TINY = dataclasses.replace(K.CLIP_PRESETS["tiny"], vocab_size=100)
COUNTS = {
    "ViT-B/32": (151_277_313, 87_849_216, 63_428_096),
    "ViT-B/16": (149_620_737, 86_192_640, 63_428_096),
    "ViT-L/14": (427_616_513, 303_966_208, 123_650_304),
    "ViT-L/14@336px": (427_944_193, 304_293_888, 123_650_304),
}


def pixels(n=2, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def ids(length=12, seed=0):
    """Two texts that end with id 99 at positions 5 and 8, zeros behind."""
    x = np.random.default_rng(seed).integers(1, 98, (2, length))
    for row, end in ((0, 5), (1, 8)):
        x[row, end] = 99
        x[row, end + 1 :] = 0
    return x


@pytest.fixture(scope="module")
def params():
    return drawn(K.CLIP(TINY).init, jax.random.key(0), pixels(1), ids())["params"]


OPTIONS = ("return_tokens", "return_layers", "block_hook", "between_hook")


@functools.partial(jax.jit, static_argnames=("config", *OPTIONS))
def image(params, x, config=TINY, **options):
    return K.CLIP(config).apply({"params": params}, x, method=K.CLIP.encode_image, **options)


@functools.partial(jax.jit, static_argnames=("config", *OPTIONS))
def text(params, x, config=TINY, **options):
    return K.CLIP(config).apply({"params": params}, x, method=K.CLIP.encode_text, **options)


def shapes(config):
    x = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.uint8)
    return jax.eval_shape(K.CLIP(config).init, jax.random.key(0), x, jax.ShapeDtypeStruct((1, 77), jnp.int32))["params"]


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_counts(name):
    tree = shapes(K.CLIP_PRESETS[name])
    assert (count(tree), count(tree["visual"]), count(tree["text"])) == COUNTS[name]


def test_canonical_tree():
    tree = shapes(dataclasses.replace(K.CLIP_PRESETS["ViT-B/32"], vision_layers=1, text_layers=1))
    flat = {k: v.shape for k, v in flax.traverse_util.flatten_dict(tree, sep="/").items()}

    def block(prefix, w, heads):
        attention = {
            f"{n}/{p}": s
            for n in ("query", "key", "value")
            for p, s in (("kernel", (w, heads, 64)), ("bias", (heads, 64)))
        }
        attention |= {"out/kernel": (heads, 64, w), "out/bias": (w,)}
        out = {f"{prefix}/attn/{k}": v for k, v in attention.items()}
        out |= {f"{prefix}/ln_{i}/{p}": (w,) for i in (1, 2) for p in ("scale", "bias")}
        out |= {f"{prefix}/mlp/c_fc/kernel": (w, 4 * w), f"{prefix}/mlp/c_fc/bias": (4 * w,)}
        return out | {f"{prefix}/mlp/c_proj/kernel": (4 * w, w), f"{prefix}/mlp/c_proj/bias": (w,)}

    expected = {
        "visual/patch_embed/kernel": (32, 32, 3, 768),
        "visual/class_embedding": (768,),
        "visual/positional_embedding": (50, 768),
        "visual/proj": (768, 512),
        "text/token_embedding/embedding": (49408, 512),
        "text/positional_embedding": (77, 512),
        "text/text_projection": (512, 512),
        "logit_scale": (),
        **{f"visual/{n}/{p}": (768,) for n in ("ln_pre", "ln_post") for p in ("scale", "bias")},
        **{f"text/ln_final/{p}": (512,) for p in ("scale", "bias")},
        **block("visual/resblocks_0", 768, 12),
        **block("text/resblocks_0", 512, 8),
    }
    assert flat == expected


@pytest.mark.parametrize(
    ("name", "image_gmac", "text_gmac"),
    [("ViT-B/32", 4.409, 2.980), ("ViT-B/16", 17.563, 2.980), ("ViT-L/14", 81.01, 6.650)],
)
def test_published_flops(name, image_gmac, text_gmac):
    config = K.CLIP_PRESETS[name]
    pixels = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    for tower, x, gmac in (
        (K.VisionTower(config), pixels, image_gmac),
        (K.TextTower(config), jax.ShapeDtypeStruct((1, 77), jnp.int32), text_gmac),
    ):
        v = jax.eval_shape(tower.init, jax.random.key(0), x)
        flops = jax.jit(lambda v, x, t=tower: t.apply(v, x).features).lower(v, x).cost_analysis()["flops"]
        assert flops == pytest.approx(2e9 * gmac, rel=0.03)


def test_activations():
    assert np.asarray(jax.jit(quick_gelu)(np.float32([1, -1]))).tolist() == pytest.approx([0.84580, -0.15420], abs=1e-5)
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(jax.jit(gelu)(np.float32(x)), x * (1 + erf(x / 2**0.5)) / 2, atol=1e-6)


def test_layer_norm_is_two_pass_with_clip_epsilon():
    norm = layer_norm(1e-5, "n")

    run = jax.jit(lambda x: norm.apply(norm.init(jax.random.key(0), x), x))
    apply = lambda x: np.asarray(run(np.float32(x)))  # noqa: E731
    np.testing.assert_allclose(apply([1, 2, 3, 4]), [-1.341635, -0.447212, 0.447212, 1.341635], atol=2e-6)
    np.testing.assert_allclose(
        apply(np.array([1, 2, 3, 4]) + 1e5), [-1.341635, -0.447212, 0.447212, 1.341635], atol=2e-6
    )
    x = np.array([1.0, 1.01, 0.99, 1.0])  # variance 5e-5: an epsilon of 1e-6 would give 1.40
    assert float(apply(x)[1]) == pytest.approx(0.01 / math.sqrt(5e-5 + 1e-5), rel=1e-3)


def test_patch_embedding_is_the_convolution():
    module = K.PatchEmbed(4, 6)
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    v = jax.device_get(jax.jit(module.init)(jax.random.key(0), x))
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    convolved = np.asarray(jax.jit(lambda x, kernel: convolve(x, kernel, (4, 4), "VALID"))(x, v["params"]["kernel"]))
    np.testing.assert_allclose(jax.jit(module.apply)(v, x), convolved.reshape(2, 9, 6), atol=1e-5)
    limit = 48**-0.5
    assert limit * 0.9 < np.abs(v["params"]["kernel"]).max() <= limit


def test_patches_of_three_frames_are_the_padded_3d_convolution():
    module = K.PatchEmbed(4, 6, around=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 8, 8, 3)).astype(np.float32)
    flat, mask = x.reshape(-1, 8, 8, 3), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    p = dict(jax.device_get(jax.jit(module.init)(jax.random.key(0), flat, mask)["params"]))
    plain = jax.jit(K.PatchEmbed(4, 6).apply)({"params": {"kernel": p["kernel"]}}, flat)
    apply = jax.jit(module.apply)
    np.testing.assert_array_equal(p["kernel_around"], np.zeros((2, 4, 4, 3, 6)))
    np.testing.assert_allclose(apply({"params": p}, flat, mask), plain, atol=1e-6)
    p["kernel_around"] = rng.normal(size=(2, 4, 4, 3, 6)).astype(np.float32)
    got = np.asarray(apply({"params": p}, flat, mask)).reshape(2, 4, 4, 6)
    kernel = np.stack([p["kernel_around"][0], p["kernel"], p["kernel_around"][1]])
    convolve = jax.jit(lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 4, 4), ((1, 1), (0, 0), (0, 0)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision="highest",
    ))  # fmt: skip
    expected = np.asarray(convolve(np.float32(x * mask[..., None, None, None]), kernel)).reshape(2, 4, 4, 6)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(got[1, :2], expected[1, :2], atol=1e-4)
    other = np.where(mask[..., None, None, None] > 0, x, 9.0).reshape(-1, 8, 8, 3)  # behind the mask: no influence
    again = np.asarray(apply({"params": p}, other, mask)).reshape(2, 4, 4, 6)
    np.testing.assert_array_equal(again[mask > 0], got[mask > 0])
    with pytest.raises(InputError, match=r"8 images need their frame_mask \[B, T\], got None"):
        module.apply({"params": p}, flat)
    with pytest.raises(InputError, match=r"a ResNet has no patches"):
        dataclasses.replace(K.CLIP_PRESETS["RN50"], linear_patch="3d")


def test_bytes_are_normalised_inside(params):
    x = pixels()
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    floats = ((x / 255.0 - mean) / std).astype(np.float32)
    np.testing.assert_allclose(jax.jit(K.normalize_pixels)(x), floats, atol=1e-6)
    np.testing.assert_allclose(image(params, x).features, image(params, floats).features, atol=1e-5)


def test_attention_by_hand():
    rng = np.random.default_rng(1)
    q, k, v = rng.normal(size=(3, 1, 4, 2, 8)).astype(np.float32)
    attend = lambda **options: jax.jit(functools.partial(dot_product_attention, **options))(q, k, v)  # noqa: E731
    weights = np.einsum("bqhd,bkhd->bhqk", q, k) * 8**-0.5
    plain = np.einsum("bhqk,bkhd->bqhd", softmax(weights, -1), v)
    causal = np.where(np.tril(np.ones((4, 4))) > 0, weights, -np.inf)
    causal = np.einsum("bhqk,bkhd->bqhd", softmax(causal, -1), v)
    mask = np.array([[True, True, False, True]])
    masked = np.einsum("bhqk,bkhd->bqhd", softmax(np.where(mask, weights, -np.inf), -1), v)
    assert np.isfinite(attend(key_mask=np.zeros((1, 4), bool))).all()
    for options, expected in (({}, plain), ({"causal": True}, causal), ({"key_mask": mask}, masked)):
        own = attend(**options)
        np.testing.assert_allclose(own, expected, atol=1e-5)
        np.testing.assert_allclose(attend(implementation="xla", **options), own, atol=1e-5)
    with pytest.raises(InputError, match=r"config\.model\.attention: 'flash' is none of auto, "):
        dot_product_attention(q, k, v, implementation="flash")


def numpy_tower(params, x, heads, layers):
    """The image tower in float64 numpy, from the paper's formulas."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["visual"])

    def norm(x, ln):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * ln["scale"] + ln["bias"]

    n, size, patch = x.shape[0], x.shape[1], p["patch_embed"]["kernel"].shape[0]
    rows = [x[:, i : i + patch, j : j + patch] for i in range(0, size, patch) for j in range(0, size, patch)]
    x = np.stack([np.einsum("nabc,abcw->nw", r, p["patch_embed"]["kernel"]) for r in rows], 1)
    x = np.concatenate([np.broadcast_to(p["class_embedding"], (n, 1, x.shape[-1])), x], 1) + p["positional_embedding"]
    x = norm(x, p["ln_pre"])
    for i in range(layers):
        b = p[f"resblocks_{i}"]
        y = norm(x, b["ln_1"])
        q, k, v = (
            np.einsum("nlw,whd->nlhd", y, b["attn"][m]["kernel"]) + b["attn"][m]["bias"]
            for m in ("query", "key", "value")
        )
        a = softmax(np.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5, -1)
        y = np.einsum("nhqk,nkhd->nqhd", a, v)
        x = x + np.einsum("nqhd,hdw->nqw", y, b["attn"]["out"]["kernel"]) + b["attn"]["out"]["bias"]
        y = norm(x, b["ln_2"]) @ b["mlp"]["c_fc"]["kernel"] + b["mlp"]["c_fc"]["bias"]
        y = y / (1 + np.exp(-1.702 * y))
        x = x + y @ b["mlp"]["c_proj"]["kernel"] + b["mlp"]["c_proj"]["bias"]
    return norm(x[:, 0], p["ln_post"]) @ p["proj"]


def test_image_tower_agrees_with_numpy(params):
    x = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(image(params, x).features, numpy_tower(params, x, 4, 3), atol=1e-4)


@pytest.mark.parametrize("change", [{"attention": "xla"}, {"remat": "dots"}, {"remat": "full"}])
def test_variants_compute_the_same(params, change):
    config = dataclasses.replace(TINY, **change)
    x, t = pixels(), ids()
    np.testing.assert_allclose(image(params, x).features, image(params, x, config).features, atol=1e-5)
    np.testing.assert_allclose(text(params, t).features, text(params, t, config).features, atol=1e-5)
    if "remat" in change:
        one = dict(vision_layers=1)  # a block is enough for what a policy does in the backward pass
        both = (dataclasses.replace(c, **one) for c in (TINY, config))
        grads = [jax.jit(jax.grad(lambda p, c=c: image(p, x, c).features.var()))(params) for c in both]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)
        assert "remat" in str(jax.make_jaxpr(lambda p: image(p, x, config).features)(params))


def test_bfloat16_is_close_and_the_stream_stays_float32(params):
    config = dataclasses.replace(TINY, dtype=jnp.bfloat16)
    assert config.dtype == "bfloat16"
    for function, x in ((image, pixels()), (text, ids())):
        a, b = (np.asarray(function(params, x, c).features) for c in (TINY, config))
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert (cosine > 0.999).all()
        assert b.dtype == np.float32
        assert not np.array_equal(a, b)
    assert image(params, pixels(), config, return_layers=(3,)).layers[3].dtype == jnp.float32


def check_normalised(x, ln):
    """x is what this LayerNorm gives."""
    before = (np.asarray(x) - ln["bias"]) / ln["scale"]
    np.testing.assert_allclose(before.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(before.var(-1), 1, atol=1e-2)


def test_tokens_and_layers(params):
    x = pixels()
    out = image(params, x, return_tokens=True, return_layers=(0, 2, 3))
    np.testing.assert_allclose(out.features, image(params, x).features, atol=1e-6)
    assert out.tokens.shape == (2, 17, 64)
    assert out.projected.shape == (2, 17, 64)
    np.testing.assert_array_equal(out.layers[3], out.tokens)
    assert sorted(out.layers) == [0, 2, 3]
    check_normalised(out.layers[0], params["visual"]["ln_pre"])


def test_block_hook_is_called_before_each_block_and_may_reshape(params):
    seen = []

    def hook(i, x):
        seen.append((i, x.shape))
        if i == 2:
            return x[:, :5].reshape(1, 10, 64)
        return x

    between = []
    out = image(
        params,
        pixels(),
        block_hook=hook,
        between_hook=lambda i, x: (between.append((i, x.shape[1])), x)[1],
        return_layers=(1, 2),
    )
    assert seen == [(1, (2, 17, 64)), (2, (2, 17, 64)), (3, (1, 10, 64))]
    assert between == [(1, 17), (2, 10), (3, 10)]
    assert out.features.shape == (1, 64)
    plain = image(params, pixels(), return_layers=(1,))
    np.testing.assert_array_equal(plain.layers[1], out.layers[1])


def test_other_resolution_needs_positions(params):
    x = pixels(size=40)
    with pytest.raises(InputError, match="25 patches but 16 positions"):
        image(params, x)
    assert image(params, x, pos_embed=np.zeros((26, 64), np.float32)).features.shape == (2, 64)
    with pytest.raises(InputError, match="multiple of 8"):
        image(params, pixels(size=36))


def test_text_ignores_what_follows_the_end(params):
    a, b = ids(), ids()
    b[0, 6:], b[1, 9:] = 7, 42
    np.testing.assert_allclose(text(params, a).features, text(params, b).features, atol=1e-6)
    c = ids()
    c[0, 3] += 1
    assert np.abs(np.subtract(text(params, a).features, text(params, c).features))[0].max() > 1e-3


def test_text_length_does_not_matter(params):
    short, long = ids(12), np.zeros((2, 32), int)
    long[:, :12] = short
    np.testing.assert_allclose(text(params, short).features, text(params, long).features, atol=1e-5)
    with pytest.raises(InputError, match="context_length is 32"):
        text(params, np.zeros((1, 33), int))


def test_text_pools_at_the_end_token(params):
    out = text(params, ids(), return_tokens=True)
    np.testing.assert_allclose(out.features, np.asarray(out.projected)[[0, 1], [5, 8]], atol=1e-6)
    np.testing.assert_allclose(out.features, text(params, ids()).features, atol=1e-6)
    check_normalised(out.tokens, params["text"]["ln_final"])
    end = jax.jit(K.end_of_text, static_argnums=1)
    np.testing.assert_array_equal(end(np.array([[1, 9, 3, 9], [9, 0, 0, 2]])), [1, 0])
    np.testing.assert_array_equal(end(np.array([[1, 9, 2, 2], [9, 0, 0, 2]]), 2), [2, 3])


def test_initial_scales():
    config = dataclasses.replace(TINY, vision_width=128, text_width=128, vision_heads=2, text_heads=2, vocab_size=1000)
    p = jax.device_get(jax.jit(K.CLIP(config).init)(jax.random.key(0), pixels(1), ids())["params"])
    for tower, layers in (("visual", 3), ("text", 2)):
        block, w = p[tower]["resblocks_1"], 128
        expected = {
            ("attn", "query"): w**-0.5,
            ("attn", "value"): w**-0.5,
            ("attn", "out"): (w * 2 * layers) ** -0.5,
            ("mlp", "c_fc"): (2 * w) ** -0.5,
            ("mlp", "c_proj"): (w * 2 * layers) ** -0.5,
        }
        for (a, b), std in expected.items():
            assert float(block[a][b]["kernel"].std()) == pytest.approx(std, rel=0.05)
            assert not block[a][b]["bias"].any()
    assert float(p["visual"]["proj"].std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(p["visual"]["positional_embedding"].std()) == pytest.approx(128**-0.5, rel=0.1)
    assert float(p["text"]["text_projection"].std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(p["text"]["token_embedding"]["embedding"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(p["text"]["positional_embedding"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(p["logit_scale"]) == pytest.approx(2.6593, abs=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        {"patch_size": 30},
        {"patch_size": 0},
        {"text_layers": -1},
        {"vision_heads": "12"},
        {"image_size": 224.0},
        {"ln_eps": "small"},
        {"eos_token_id": "end"},
        {"vision_blocks": 3},
        {"activation": ["gelu"]},
        {"vision_heads": 7},
        {"text_heads": 7},
        {"activation": "relu"},
        {"attention": "flash"},
        {"remat": "some"},
        {"text_layers": 10**9},
        {"image_size": 32 * 10**6},
        {"vision_blocks": (3, 4, 0, 3)},
        {"ln_eps": 0.0},
        {"ln_eps": float("nan")},
        {"eos_token_id": 49408},
    ],
)
def test_config_errors_name_the_field(bad):
    with pytest.raises(InputError, match=next(iter(bad)).split("_")[-1]):
        K.CLIPConfig(**bad)

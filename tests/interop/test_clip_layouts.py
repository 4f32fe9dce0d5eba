from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.interop import clip, clip4clip, clip_hf, keys, layouts
from jaxvl.interop.keys import flatten
from jaxvl.interop.safetensors_file import write_safetensors
from jaxvl.nn.clip import CLIP, CLIP_PRESETS
from jaxvl.nn.video_heads import SequenceLSTM, SequenceTransformer, TightTransformer, init_from_text_tower
from tests.interop import numpy_clip
from tests.interop.numpy_clip import TINY, TINY_RESNET, random_arrays

CONFIGS = {"vit": TINY, "resnet": TINY_RESNET}


class Shape:
    """Stands for an array whose values do not matter."""

    def __init__(self, *shape):
        self.shape, self.ndim, self.size = shape, len(shape), int(np.prod(shape))


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def params_and_buffers(arrays):
    buffers = {k for k in arrays if k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    return {k: v for k, v in arrays.items() if k not in buffers}, {k: arrays[k] for k in buffers}


@pytest.mark.parametrize(
    ("name", "tensors", "numbers"),
    [
        ("ViT-B/32", 302, 151_277_313),
        ("ViT-B/16", 302, 149_620_737),
        ("ViT-L/14", 446, 427_616_513),
        ("ViT-L/14@336px", 446, 427_944_193),
        ("RN50", 489, 102_007_137),
    ],
)
def test_published_counts_and_the_towers_own_shapes(name, tensors, numbers):
    config = CLIP_PRESETS[name]
    rules = clip.openai_rules(config)
    counters = sum(r.key.endswith("running_var") for r in rules)
    assert len({r.key for r in rules}) + counters == tensors
    statistics = sum(int(np.prod(r.shape)) for r in rules if ".running_" in r.key)
    assert sum(int(np.prod(r.shape)) for r in rules) - statistics == numbers
    assert statistics + counters == (53_303 if name == "RN50" else 0)
    # every leaf of the model is the target of exactly one rule
    size = config.image_size
    model = jax.eval_shape(
        CLIP(config).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 77), jnp.int32),
    )
    paths = [p for r in rules for p in r.paths]
    assert len(paths) == len(set(paths))
    assert set(paths) == set(keys.to_flat(model))


@pytest.mark.parametrize("name", CONFIGS)
def test_openai_round_trip_bit_for_bit(name):
    config = CONFIGS[name]
    arrays = random_arrays(config)
    variables, report = clip.from_openai(arrays, config)
    assert not report.unused
    assert not report.missing
    assert {k for k, _ in report.dropped if "num_batches" not in k} == {
        "input_resolution",
        "context_length",
        "vocab_size",
    }
    back, report = clip.to_openai(variables, config)
    assert not report.unused
    assert not report.missing
    counters = {k: v for k, v in back.items() if k.endswith("num_batches_tracked")}
    assert all(v.dtype == np.int64 for v in counters.values())
    expected = random_arrays(config, extras=False)
    assert back.keys() == expected.keys()
    same({k: v for k, v in back.items() if k not in counters}, {k: v for k, v in expected.items() if k not in counters})


def test_openai_and_hugging_face_round_trip_bit_for_bit():
    variables, _ = clip.from_openai(random_arrays(TINY), TINY)
    hf, report = clip_hf.to_hf(variables, TINY)
    assert not report.unused
    assert len(hf) == 2 * 16 * 2 + 14
    hf["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    again, report = clip_hf.from_hf(hf, TINY)
    assert not report.unused
    assert not report.missing
    assert [k for k, _ in report.dropped] == ["vision_model.embeddings.position_ids"]
    same(keys.to_flat(again), keys.to_flat(variables))
    same(clip.to_openai(again, TINY)[0], random_arrays(TINY, extras=False))
    assert len(clip_hf.rules(CLIP_PRESETS["ViT-B/32"])) == 398


def test_hugging_face_tensors_mean_what_their_names_say():
    """The layout's own convention, spelled out for one block: q is the first third of the fused rows."""
    arrays = random_arrays(TINY)
    hf, _ = clip_hf.to_hf(clip.from_openai(arrays, TINY)[0], TINY)
    w, block = TINY.vision_width, "visual.transformer.resblocks.1"
    for i, letter in enumerate("qkv"):
        rows = slice(i * w, (i + 1) * w)
        key = f"vision_model.encoder.layers.1.self_attn.{letter}_proj"
        np.testing.assert_array_equal(hf[f"{key}.weight"], arrays[f"{block}.attn.in_proj_weight"][rows])
        np.testing.assert_array_equal(hf[f"{key}.bias"], arrays[f"{block}.attn.in_proj_bias"][rows])
    for theirs, ours in (
        ("vision_model.encoder.layers.1.self_attn.out_proj.weight", f"{block}.attn.out_proj.weight"),
        ("vision_model.encoder.layers.1.mlp.fc1.weight", f"{block}.mlp.c_fc.weight"),
        ("vision_model.encoder.layers.1.mlp.fc2.bias", f"{block}.mlp.c_proj.bias"),
        ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
        ("text_model.final_layer_norm.bias", "ln_final.bias"),
        ("text_model.encoder.layers.0.layer_norm2.weight", "transformer.resblocks.0.ln_2.weight"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ):
        np.testing.assert_array_equal(hf[theirs], arrays[ours], err_msg=theirs)
    np.testing.assert_array_equal(hf["visual_projection.weight"], arrays["visual.proj"].T)
    np.testing.assert_array_equal(hf["text_projection.weight"], arrays["text_projection"].T)


def inputs(config):
    rng = np.random.default_rng(3)
    pixels = rng.standard_normal((2, config.image_size, config.image_size, 3)).astype(np.float32)
    ids = rng.integers(1, 48, (2, 10))
    ids[0, 4], ids[0, 5:], ids[1, 9] = 49, 0, 49
    return pixels, ids


@pytest.mark.parametrize("name", CONFIGS)
def test_converted_weights_give_the_features_of_an_independent_forward_pass(name):
    config = CONFIGS[name]
    arrays = random_arrays(config)
    variables, _ = clip.from_openai(arrays, config)
    pixels, ids = inputs(config)
    image, text, scale = jax.jit(CLIP(config).apply)(variables, pixels, ids)
    for got, expected in (
        (image, numpy_clip.encode_image(arrays, config, pixels)),
        (text, numpy_clip.encode_text(arrays, config, ids)),
    ):
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert float(scale) == 3.5


def test_text_layout_of_half_precision_is_kept_exactly():
    arrays = {k: v.astype(np.float16) if v.ndim == 2 else v for k, v in random_arrays(TINY).items()}
    variables, _ = clip.from_openai(arrays, TINY)
    back, _ = clip.to_openai(variables, TINY)
    for name, value in arrays.items():
        if name in back:
            np.testing.assert_array_equal(back[name], value.astype(np.float32))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_from_shapes(name):
    config = CONFIGS[name]
    given = {"vision_heads": config.vision_heads, "text_heads": config.text_heads}
    expected = config
    if name == "resnet":  # vision_layers has no meaning there
        expected = dataclasses.replace(config, vision_layers=12)
    assert clip.infer_config(random_arrays(config), given) == expected
    flat = keys.to_flat(clip.from_openai(random_arrays(config), config)[0])
    assert clip.config_of_params(flat) == expected  # heads stand in the tree


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-L/14@336px", "RN50"])
def test_config_of_published_sizes_needs_no_help(name):
    config = CLIP_PRESETS[name]
    arrays = {r.key: Shape(*r.shape) for r in clip.openai_rules(config)}
    assert clip.infer_config(arrays) == config
    assert clip4clip.infer_config({f"clip.{k}": v for k, v in arrays.items()}) == config


def test_config_errors_name_what_is_wrong():
    with pytest.raises(InputError, match="vision_heads: the width is not a multiple of 64"):
        clip.infer_config(random_arrays(TINY))
    arrays = random_arrays(TINY)
    with pytest.raises(InputError, match=r"no tensor token_embedding.*Hugging Face's layout"):
        clip.infer_config(clip_hf.to_hf(clip.from_openai(arrays, TINY)[0], TINY)[0])
    with pytest.raises(InputError, match="CLIP4Clip's layout"):
        clip.infer_config({f"clip.{k}": v for k, v in arrays.items()})
    with pytest.raises(InputError, match=r"fc\.weight, \.\.\., which is no known layout"):
        clip.infer_config({"fc.weight": np.ones(2)})
    with pytest.raises(InputError, match=r"text_projection has shape \[16\], where 2 axes or more"):
        clip.infer_config(arrays | {"text_projection": np.ones(16)})
    arrays["visual.positional_embedding"] = np.ones((4, 24))
    with pytest.raises(InputError, match=r"3 \+ 1 rows, which is no square grid"):
        clip.infer_config(arrays, {"vision_heads": 3, "text_heads": 2})


def test_hugging_face_config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    assert clip_hf.read_hf_config(path) == CLIP_PRESETS["ViT-B/32"]
    config = dataclasses.replace(TINY, activation="gelu", eos_token_id=7)
    path.write_text(json.dumps(clip_hf.hf_config(config)))
    assert clip_hf.read_hf_config(path) == config
    for end in (2, 49407):  # pooled at argmax: the same position, and the config that every other layout gives
        path.write_text(json.dumps({"text_config": {"eos_token_id": end}, "vision_config": None}))
        assert clip_hf.read_hf_config(path).eos_token_id is None
    path.write_text(json.dumps({"vision_config": {"hidden_act": "gelu"}}))
    with pytest.raises(InputError, match="hidden_act differs between the towers"):
        clip_hf.read_hf_config(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json: not a config"):
        clip_hf.read_hf_config(path)
    with pytest.raises(InputError, match="no such file"):
        clip_hf.read_hf_config(tmp_path / "gone.json")


def test_the_older_dicts_of_a_hugging_face_config_win_with_their_defaults(tmp_path):
    path, config = tmp_path / "config.json", dataclasses.replace(TINY, activation="gelu")
    content = clip_hf.hf_config(config)
    old = {"vision_config_dict": content["vision_config"], "text_config_dict": content["text_config"]}
    other = clip_hf.hf_config(dataclasses.replace(TINY, activation="quick_gelu", text_layers=1))
    for newer in ({"vision_config": None, "text_config": None}, other):
        path.write_text(json.dumps({**content, **newer, **old}))
        assert clip_hf.read_hf_config(path) == config
    # None counts as absent; what an older dict leaves out has its default, not the newer dict's value
    path.write_text(json.dumps({**content, "vision_config_dict": None, "text_config_dict": None}))
    assert clip_hf.read_hf_config(path) == config
    del old["text_config_dict"]["vocab_size"]
    path.write_text(json.dumps({**content, **old}))
    assert clip_hf.read_hf_config(path).vocab_size == 49408


@pytest.mark.parametrize("kind", [*clip_hf.SIBLINGS, "bert"])
def test_relatives_of_clip_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**clip_hf.hf_config(TINY), "model_type": kind}))
    with pytest.raises(InputError, match=f"model_type is '{kind}', another model than CLIP.*; give the whole model"):
        clip_hf.read_hf_config(path)
    content = clip_hf.hf_config(TINY) | {"architectures": ["SiglipModel"]}
    del content["model_type"]
    path.write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=r"architectures is \['SiglipModel'\], another model than CLIP; give the whole"
    ):
        clip_hf.read_hf_config(path)
    path.write_text(json.dumps({**clip_hf.hf_config(TINY), "text_config": {"model_type": "xlm-roberta"}}))
    with pytest.raises(InputError, match="its text tower is a 'xlm-roberta'"):
        clip_hf.read_hf_config(path)


H14 = {"vision_width": 1280, "vision_layers": 32, "vision_heads": 16, "patch_size": 14, "embed_dim": 1024}
H14 |= {"text_width": 1024, "text_layers": 24, "text_heads": 16}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (  # MetaCLIP 1, B/32: OpenAI's sizes, the end token's own id
            {"projection_dim": 512, "text_config": {"eos_token_id": 49407}, "vision_config": {"patch_size": 32}},
            {},
        ),
        (  # MetaCLIP 1 and DFN, H/14
            {
                "projection_dim": 1024,
                "text_config": {
                    **{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
                    **{"num_hidden_layers": 24, "eos_token_id": 2},
                },
                "vision_config": {
                    **{"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16},
                    **{"num_hidden_layers": 32, "patch_size": 14},
                },
            },
            H14,
        ),
        (  # LAION's B/32: the exact GELU
            {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu", "patch_size": 32}},
            {"activation": "gelu"},
        ),
    ],
)
def test_models_of_others_that_are_clips_are_mapped(tmp_path, published, expected):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"], **published}))
    assert clip_hf.read_hf_config(path) == dataclasses.replace(CLIP_PRESETS["ViT-B/32"], **expected)
    published["vision_config"] = {**published["vision_config"], "intermediate_size": 8192}  # as bigG's 8192 of 1664
    path.write_text(json.dumps({"model_type": "clip", **published}))
    with pytest.raises(InputError, match="intermediate_size 8192, where blocks are 4"):
        clip_hf.read_hf_config(path)


def test_heads_of_the_large_towers_need_no_help():
    """1,280 channels are 16 heads of 80 in H/14 (20 of 64 in no released model)."""
    config = dataclasses.replace(CLIP_PRESETS["ViT-B/32"], **H14)
    assert clip.infer_config({r.key: Shape(*r.shape) for r in clip.openai_rules(config)}) == config


def test_the_config_beside_weights_of_open_clip_is_read(tmp_path):
    config = dataclasses.replace(TINY, activation="gelu")
    model = {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            **{"image_size": config.image_size, "layers": config.vision_layers, "width": config.vision_width},
            **{"head_width": config.vision_width // config.vision_heads, "patch_size": config.patch_size},
        },
        "text_cfg": {
            **{"context_length": config.context_length, "vocab_size": config.vocab_size},
            **{"width": config.text_width, "heads": config.text_heads, "layers": config.text_layers},
        },
    }
    write_safetensors(tmp_path / "open_clip_model.safetensors", random_arrays(config, extras=False))
    layout = layouts.LAYOUTS["openai_clip"]

    def read(pictures=None, **changed):
        content = {"model_cfg": {**model, **changed}, "preprocess_cfg": pictures or {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
        return layout.configure(layouts.read_source(tmp_path / "open_clip_model.safetensors", layout.family), {})

    assert read() == config
    assert read(quick_gelu=True) == dataclasses.replace(config, activation="quick_gelu")
    assert read({"mean": [0.48145466, 0.4578275, 0.40821073], "interpolation": "bicubic"}, custom_text=False) == config
    vision, text = model["vision_cfg"], model["text_cfg"]
    for changed, name in (
        ({"init_logit_bias": -10}, "init_logit_bias is '-10', another model than CLIP: it is a SigLIP"),
        ({"multimodal_cfg": {"layers": 12}}, "another model than CLIP: it is a CoCa"),
        ({"text_cfg": {**text, "hf_model_name": "roberta-base"}}, "its text tower is Hugging Face's"),
        ({"text_cfg": {**text, "pool_type": "last"}}, "pool_type is 'last'"),
        ({"vision_cfg": {**vision, "timm_model_name": "vit_so400m"}}, "its image tower is timm's"),
        ({"vision_cfg": {**vision, "mlp_ratio": 4.9231}}, "mlp_ratio is '4.9231'"),
        ({"vision_cfg": {**vision, "head_width": 0}}, "not a config of open_clip"),
        ({"vision_cfg": None}, "not a config of open_clip"),
        ({"pictures": {"mean": [0.5, 0.5, 0.5]}}, "the mean of its pictures is"),
    ):
        with pytest.raises(InputError, match=name):
            read(**changed)


def test_weights_in_several_files(tmp_path):
    arrays, _ = clip_hf.to_hf(clip.from_openai(random_arrays(TINY), TINY)[0], TINY)
    (tmp_path / "config.json").write_text(json.dumps(clip_hf.hf_config(TINY)))
    names, where = list(arrays), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(tmp_path / name, {k: arrays[k] for k in part})
        where |= dict.fromkeys(part, name)
    index = tmp_path / "model.safetensors.index.json"

    def write(**changed):
        index.write_text(json.dumps({"metadata": {}, "weight_map": where | changed}))

    write()
    for place in (index, tmp_path):
        source = layouts.read_source(place, layouts.CLIP)
        same(source.arrays, arrays)
        assert layouts.LAYOUTS["hf_clip"].configure(source, {}) == TINY
    for changed, words in (
        ({names[0]: where[names[1]]}, "does not hold the tensors that model.safetensors.index.json says"),
        ({"more": where[names[0]]}, "such as more"),
        ({names[0]: "../other.safetensors"}, "the parts must lie beside it"),
    ):
        write(**changed)
        with pytest.raises(InputError, match=words):
            layouts.read_source(index, layouts.CLIP)
    index.write_text("{}")
    with pytest.raises(InputError, match="not an index of weights"):
        layouts.read_source(index, layouts.CLIP)


def head_arrays(kind, config=TINY, layers=2):
    """CLIP4Clip's published head keys."""
    rng, e = np.random.default_rng(5), config.embed_dim
    blocks = {
        k.removeprefix("transformer."): v
        for k, v in random_arrays(dataclasses.replace(config, text_layers=layers), 9).items()
        if k.startswith("transformer.")
    }

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    out = {}
    if kind in ("seqTransf", "seqLSTM"):
        out["frame_position_embeddings.weight"] = normal(config.context_length, e)
    if kind == "seqTransf":
        out |= {f"transformerClip.{k}": v for k, v in blocks.items()}
    if kind == "seqLSTM":
        out |= {f"lstm_visual.weight_{n}_l0": normal(4 * e, e) for n in ("ih", "hh")}
        out |= {f"lstm_visual.bias_{n}_l0": normal(4 * e) for n in ("ih", "hh")}
    if kind == "tightTransf":
        out["cross.embeddings.position_embeddings.weight"] = normal(config.context_length, e)
        out |= {f"cross.transformer.{k}": v for k, v in blocks.items()}
        out |= {"cross.pooler.ln_pool.gamma": normal(e), "cross.pooler.ln_pool.beta": normal(e)}  # old names
        out |= {"cross.pooler.dense.weight": normal(e, e), "cross.pooler.dense.bias": normal(e)}
        out |= {"similarity_dense.weight": normal(1, e), "similarity_dense.bias": normal(1)}
    return out


@pytest.mark.parametrize("kind", ["meanP", "seqTransf", "seqLSTM", "tightTransf"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_clip4clip_with_every_head(kind, wrapped):
    arrays = {f"clip.{k}": v for k, v in random_arrays(TINY, extras=False).items()} | head_arrays(kind)
    source = {f"module.{k}": v for k, v in arrays.items()} if wrapped else arrays
    variables, report = clip4clip.from_clip4clip(source, TINY)
    assert not report.unused
    assert not report.missing
    back, report = clip4clip.to_clip4clip(variables, TINY)
    assert not report.unused
    same(back, keys.plain_keys(arrays))


@pytest.mark.parametrize("kind", ["seqTransf", "seqLSTM", "tightTransf"])
def test_clip4clip_heads_are_the_trees_of_the_head_modules(kind):
    config = dataclasses.replace(TINY, context_length=77)
    arrays = {f"clip.{k}": v for k, v in random_arrays(config).items()} | head_arrays(kind, config)
    head = clip4clip.from_clip4clip(arrays, config)[0]["params"]["head"]
    video, mask = np.zeros((1, 3, 16), np.float32), np.ones((1, 3), bool)
    if kind == "seqTransf":
        own = jax.eval_shape(SequenceTransformer(2, 2).init, jax.random.key(0), video, mask)
    elif kind == "seqLSTM":
        own = jax.eval_shape(SequenceLSTM().init, jax.random.key(0), video, mask)
        head.pop("frame_position_embeddings")  # published with this head, and never used by it
    else:
        own = jax.eval_shape(TightTransformer(2, 2).init, jax.random.key(0), video[:, 0], video, mask)
    shapes = {k: v.shape for k, v in flatten(own["params"]).items()}
    assert {k: v.shape for k, v in flatten(head).items()} == shapes


@pytest.mark.parametrize("kind", ["seqTransf", "tightTransf"])
def test_converted_heads_compute_what_their_published_arrays_say(kind):
    """Heads written down in numpy on the published keys, LayerNorm eps 1e-12, every frame valid."""
    config = dataclasses.replace(TINY, context_length=77)
    arrays = keys.plain_keys({f"clip.{k}": v for k, v in random_arrays(config).items()} | head_arrays(kind, config))
    head = {"params": clip4clip.from_clip4clip(arrays, config)[0]["params"]["head"]}
    a = {k: v.astype(np.float64) for k, v in arrays.items()}
    rng = np.random.default_rng(4)
    video, text, mask = rng.standard_normal((2, 3, 16)), rng.standard_normal((2, 16)), np.ones((2, 3), bool)

    def blocks(x, key):
        for i in range(2):
            x = numpy_clip.residual_block(x, a, f"{key}.resblocks.{i}", 2, 1e-12, "quick_gelu")
        return x

    if kind == "seqTransf":
        want = video + blocks(video + a["frame_position_embeddings.weight"][:3], "transformerClip")
        got = jax.jit(SequenceTransformer(2, 2).apply)(head, np.float32(video), mask)
    else:
        pairs = np.stack([np.concatenate([t[None], v]) for t in text for v in video])
        x = blocks(pairs + a["cross.embeddings.position_embeddings.weight"][:4], "cross.transformer")
        row = numpy_clip.layer_norm(x, a, "cross.pooler.ln_pool", 1e-12)[:, 0]
        y = row @ a["cross.pooler.dense.weight"].T + a["cross.pooler.dense.bias"]
        y = y / (1 + np.exp(-1.702 * y))
        want = (y @ a["similarity_dense.weight"].T + a["similarity_dense.bias"]).reshape(2, 2)
        got = jax.jit(TightTransformer(2, 2).apply)(head, np.float32(text), np.float32(video), mask)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("length", [16, 248])
def test_heads_have_the_length_of_the_text_tower(length):
    config = dataclasses.replace(TINY, context_length=length)
    video, mask = np.zeros((1, 3, config.embed_dim), np.float32), np.ones((1, 3), bool)
    for head, inputs in (
        (SequenceTransformer(2, 2, positions=length), (video, mask)),
        (TightTransformer(2, 2, positions=length), (video[:, 0], video, mask)),
    ):
        own = jax.device_get(jax.jit(head.init)(jax.random.key(0), *inputs)["params"])
        arrays = random_arrays(config)
        variables, _ = clip.from_openai(arrays, config)
        text = {**variables["params"]["text"]}
        if config.text_width == config.embed_dim:
            started = flatten(init_from_text_tower(own, text))
            table = next(v for k, v in started.items() if k.endswith("position_embeddings"))
            np.testing.assert_array_equal(table, text["positional_embedding"])
        variables["params"]["head"] = own
        out, report = clip4clip.to_clip4clip(variables, config)
        report.check()
        back, report = clip4clip.from_clip4clip(out, config)
        report.check()
        same(flatten(back["params"]), flatten(variables["params"]))


def test_clip4clip_keys_that_become_the_same_are_refused():
    with pytest.raises(
        InputError, match=r"holds clip\.ln_final\.weight twice, the second time as module\.clip\.ln_final"
    ):
        keys.plain_keys(dict.fromkeys(("clip.ln_final.weight", "module.clip.ln_final.gamma"), np.ones(2)))


def test_clip4clip_parts_are_whole_or_missing_by_name():
    arrays = {f"clip.{k}": v for k, v in random_arrays(TINY).items()} | head_arrays("tightTransf")
    del arrays["cross.pooler.dense.bias"], arrays["cross.transformer.resblocks.0.ln_1.weight"]
    arrays["clip.visual.conv2.weight"] = np.ones((24, 3, 3, 8, 8), np.float32)  # the 3-d patch convolution
    report = clip4clip.from_clip4clip(arrays, TINY)[1]
    assert set(report.missing) == {"cross.pooler.dense.bias", "cross.transformer.resblocks.0.ln_1.weight"}
    assert report.unused == ("clip.visual.conv2.weight",)


def test_patches_of_three_frames():
    config = dataclasses.replace(TINY, linear_patch="3d")
    arrays = {f"clip.{k}": v for k, v in random_arrays(TINY, extras=False).items()}
    conv = np.random.default_rng(3).standard_normal((24, 3, 3, 8, 8)).astype(np.float32)
    source = arrays | {"clip.visual.conv2.weight": conv}
    heads = {"vision_heads": TINY.vision_heads, "text_heads": TINY.text_heads}
    assert clip4clip.infer_config(source, heads) == config
    variables, report = clip4clip.from_clip4clip(source, config)
    assert report.dropped == (("clip.visual.conv1.weight", "not read with linear_patch 3d"),)
    assert not report.unused
    assert not report.missing
    patch = variables["params"]["visual"]["patch_embed"]
    np.testing.assert_array_equal(patch["kernel"][2, 5, 1], conv[:, 1, 1, 2, 5])
    np.testing.assert_array_equal(patch["kernel_around"][1, 2, 5, 1], conv[:, 1, 2, 2, 5])
    assert clip.config_of_params(keys.to_flat(variables), {"activation": TINY.activation}) == config
    back, report = clip4clip.to_clip4clip(variables, config)
    assert not report.unused
    same(back, source | {"clip.visual.conv1.weight": conv[:, :, 1]})  # what is not read comes back as the middle slice
    # without the 3d kernel, a file is one of 2d patches; a plain layout has no place for them
    assert clip4clip.infer_config(arrays, heads) == TINY
    for store in (clip.to_openai, clip_hf.to_hf):
        with pytest.raises(InputError, match="linear_patch '3d': "):
            store(variables, config)

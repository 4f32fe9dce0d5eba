"""From a released file to the first step: convert, `config.init.weights`, and the model is that CLIP."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxvl.core import session, sharding
from jaxvl.core.checkpoint import Checkpoints
from jaxvl.core.errors import InputError
from jaxvl.core.state import flatten
from jaxvl.interop.weights import load_weights, save_weights
from jaxvl.methods.centerclip import weights
from jaxvl.verbs import convert
from jaxvl.verbs.train import _first_state
from tests import tiny
from tests.interop import numpy_clip, torch_writer
from tests.interop.numpy_clip import random_arrays
from tests.ops import test_clustering

CLIP = dataclasses.replace(numpy_clip.TINY, context_length=77)  # heads have 77 positions, taken from the text tower
FIELDS = [
    f"model.{k}={getattr(CLIP, k)}" for k in (
        "image_size", "patch_size", "vision_width", "vision_layers", "vision_heads", "text_width", "text_layers",
        "text_heads", "embed_dim", "vocab_size", "context_length",
    )
]  # fmt: skip
ARRAYS = random_arrays(CLIP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released archive, converted."""
    path = tmp_path_factory.mktemp("weights")
    file = torch_writer.save(path / "ViT.pt", torch_writer.Ordered(ARRAYS))
    convert.convert("openai_clip", file, path / "w", given={"vision_heads": 3, "text_heads": 2}, say=tiny.quiet)
    return path / "w"


def config_of(folder, *overrides):
    return tiny.quickstart(
        *FIELDS, "model.schedule=none", "model.reduce.algorithm=none", "model.head_layers=2", "init.required=true",
        "data.max_words=12", "precision.matmul=highest", f"init.weights={folder}", *overrides,
    )  # fmt: skip


def inputs():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 4, 16, 16, 3)).astype(np.uint8)
    ids = np.zeros((8, 12), np.int32)
    ids[:, :4] = rng.integers(1, 40, (8, 4))
    ids[:, 4] = 49  # the highest id ends a text
    return frames, ids


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_first_predictions_are_those_of_the_released_weights(folder):
    compiled = session.compile_method(config_of(folder))
    lines = []
    state = _first_state(compiled.config, compiled, lines.append)
    assert "starting from" in lines[0]
    for path, value in load_weights(folder)[0].items():
        np.testing.assert_array_equal(flatten(state.params)[path], value)
    frames, ids = inputs()
    mask = np.ones((8, 4), bool)
    run = lambda b: jax.device_get(compiled.predict(state.variables(), sharding.put_batch(b, compiled.mesh)))  # noqa: E731
    text, video = run({"text": {"ids": ids}})["text"], run({"video": {"frames": frames, "mask": mask}})["video"]
    pixels = (frames.reshape(-1, 16, 16, 3) / 255 - MEAN) / STD
    images = unit(numpy_clip.encode_image(ARRAYS, CLIP, pixels.astype(np.float32))).reshape(8, 4, -1)
    padded = np.pad(ids, ((0, 0), (0, 65)))
    np.testing.assert_allclose(text, unit(numpy_clip.encode_text(ARRAYS, CLIP, padded)), atol=2e-5)
    np.testing.assert_allclose(video, unit(images.mean(1)), atol=2e-5)


def numpy_segments(arrays, config, pixels, segments, k, metric, after=1):
    """Features `[S, E]` of one video in float64, the reduction by plain loops: `pixels [T, R, R, 3]`, normalised."""
    a = {key: v.astype(np.float64) for key, v in arrays.items()}
    w, p, g = config.vision_width, config.patch_size, config.image_size // config.patch_size
    patches = pixels.reshape(-1, g, p, g, p, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, g * g, 3 * p * p)
    x = patches @ a["visual.conv1.weight"].reshape(w, -1).T
    x = np.concatenate([np.broadcast_to(a["visual.class_embedding"], (len(x), 1, w)), x], 1)
    x = numpy_clip.layer_norm(x + a["visual.positional_embedding"], a, "visual.ln_pre", config.ln_eps)
    for block in range(config.vision_layers):
        if block == after:
            reduced = []
            for part in np.split(x, segments):
                tokens = part[:, 1:].reshape(-1, w)
                distances = test_clustering.numpy_distances(tokens, metric)
                medoids = test_clustering.numpy_kmedoids(distances, np.linalg.norm(tokens, axis=-1), k)[0]
                reduced.append(np.concatenate([part[:, :1].mean(0), tokens[medoids]]))
            x = np.stack(reduced)
        key = f"visual.transformer.resblocks.{block}"
        x = numpy_clip.residual_block(x, a, key, config.vision_heads, config.ln_eps, config.activation)
    return numpy_clip.layer_norm(x[:, 0], a, "visual.ln_post", config.ln_eps) @ a["visual.proj"]


def test_published_weights_with_a_reduction_are_the_published_model(tmp_path):
    """From the authors' file to features, against an implementation that shares no code: two segments of 5 centres."""
    clip = dataclasses.replace(CLIP, image_size=32, vision_layers=3)
    arrays = random_arrays(clip, extras=False)
    published = {f"module.clip.{k}": v for k, v in arrays.items()}
    file = torch_writer.save(tmp_path / "ckpt.best.pth.tar", {"state_dict": torch_writer.Ordered(published)})
    hparams = {"max_frames": 4, "max_words": 12, "pretrained_clip_name": "ViT-B/32", "minkowski_norm_p": 1.0}
    hparams |= {"target_frames_blocks": [4, 2, 2], "cluster_num_blocks": [16, 5, 5], "cluster_iter_limit": 100}
    (tmp_path / "hparams_train.json").write_text(json.dumps(hparams))
    lines = []
    given = {"vision_heads": 3, "text_heads": 2}
    convert.convert("centerclip", file, tmp_path / "w", given=given, say=lines.append)
    (flags,) = (line for line in lines if line.startswith("the run it is of had "))
    flags = [w.removeprefix("--config.") for w in flags.split() if w.startswith("--config.")]
    own = [w for w in flags if not w.startswith("model.preset=")]
    config = config_of(tmp_path / "w", "model.image_size=32", "model.vision_layers=3", *own)
    compiled = session.compile_method(config)
    state = _first_state(config, compiled, tiny.quiet)
    frames = np.random.default_rng(1).integers(0, 256, (8, 4, 32, 32, 3)).astype(np.uint8)
    batch = sharding.put_batch({"video": {"frames": frames, "mask": np.ones((8, 4), bool)}}, compiled.mesh)
    got = jax.device_get(compiled.predict(state.variables(), batch))
    for video, mine, pooled in zip(frames[:2], got["segments"], got["video"]):
        want = unit(numpy_segments(arrays, clip, (video / 255 - MEAN) / STD, 2, 5, "l1"))
        np.testing.assert_allclose(mine, want, atol=5e-5)
        np.testing.assert_allclose(pooled, unit(want.mean(0)), atol=5e-5)


MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def test_required_weights_cannot_be_left_out(folder):
    compiled = session.compile_method(config_of(""))
    with pytest.raises(InputError, match=r"^config\.init\.weights: this recipe starts from pretrained weights[^\n]*$"):
        _first_state(compiled.config, compiled, tiny.quiet)
    compiled.config.init.required = False
    assert int(_first_state(compiled.config, compiled, tiny.quiet).step) == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.activation=gelu"], r"were made with activation = 'quick_gelu', config\.model has 'gelu'"),
        (["model.ln_eps=1e-6"], r"were made with ln_eps = 1e-05"),
        (["model.image_size=32"], r"were made with image_size = 16, .*--image-size"),
        (["model.text_layers=3"], r"do not fit the model; in the model only \(16\): text/resblocks_2/"),
        (["model.text_layers=1"], r"do not fit the model; in the weights only \(16\): text/resblocks_1/"),
        (["model.embed_dim=8"], r"of another shape \(2\): text/text_projection \[16, 16\] for \[16, 8\]"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(folder, overrides, words):
    config = config_of(folder, *overrides)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), session.compile_method(config).target.params)
    with pytest.raises(InputError, match=words) as error:
        weights.adopt(config, {"params": params}, *load_weights(folder))
    assert "\n" not in str(error.value)


def test_weights_that_end_texts_otherwise_are_one_line(folder):
    flat, info = load_weights(folder)
    info = info | {"config": info["config"] | {"eos_token_id": 7}}
    with pytest.raises(InputError, match=r"end texts with the id 7, .*--set eos_token_id=None"):
        weights.adopt(config_of(folder), {"params": {}}, flat, info)


def test_another_runs_workdir_is_a_start(folder, tmp_path):
    first = session.compile_method(config_of(folder))
    state = _first_state(first.config, first, tiny.quiet)
    session.claim_workdir(tmp_path / "run", first.config, False, False, tiny.quiet)
    checkpoints = Checkpoints(tmp_path / "run", first.config, tiny.quiet)
    checkpoints.save(state, {}, {"step": 0})
    checkpoints.close()
    second = session.compile_method(config_of(tmp_path / "run", "seed=9"))
    lines = []
    got = _first_state(second.config, second, lines.append)
    assert "(step 0 of centerclip)" in lines[-1]
    jax.tree.map(np.testing.assert_array_equal, got.params, state.params)
    other = session.compile_method(config_of(tmp_path / "run", "model.text_layers=3"))
    with pytest.raises(InputError, match=r"do not fit the model; in the model only"):
        _first_state(other.config, other, tiny.quiet)


def test_no_folder_is_one_line(tmp_path):
    compiled = session.compile_method(config_of(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"^[^\n]*nowhere: is no weights folder[^\n]*$"):
        _first_state(compiled.config, compiled, tiny.quiet)


def test_weights_of_another_reduction_are_said(folder, tmp_path):
    flat, info = load_weights(folder)
    theirs = {"model.schedule": "B1-2,3", "data.frames": 4, "model.reduce.metric": "l1"}
    save_weights(tmp_path / "w", flat, info | {"overrides": theirs})
    compiled = session.compile_method(config_of(tmp_path / "w"))
    lines = []
    _first_state(compiled.config, compiled, lines.append)
    assert [line for line in lines if line.startswith("config.")] == [
        "config.model.schedule: 'none', but 'B1-2,3' in the run that these weights are of",
        "config.model.reduce.metric: 'l2', but 'l1' in the run that these weights are of",
    ]


def adopted(folder, *overrides):
    config = config_of(folder, *overrides)
    params = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), session.compile_method(config).target.params)
    return flatten(weights.adopt(config, {"params": params}, *load_weights(folder))["params"])


def test_heads_start_from_the_text_tower(folder):
    for head, blocks, positions in (
        ("seqTransf", "head/transformerClip/resblocks_", "head/frame_position_embeddings"),
        ("tightTransf", "head/cross/transformer/resblocks_", "head/cross/embeddings/position_embeddings"),
    ):
        got = adopted(folder, f"model.head={head}")
        copied = [k for k in got if k.startswith(blocks)]
        assert len(copied) == 2 * 16
        for k in copied:
            np.testing.assert_array_equal(got[k], got["text/resblocks_" + k.removeprefix(blocks)])
        np.testing.assert_array_equal(got[positions], ARRAYS["positional_embedding"])
        rest = [k for k in got if k.startswith("head/") and k not in (*copied, positions)]
        assert all((got[k] == 7).all() for k in rest)  # pooler and score: as they were initialised
        assert bool(rest) == (head == "tightTransf")
    lstm = adopted(folder, "model.head=seqLSTM")
    assert all((v == 7).all() for k, v in lstm.items() if k.startswith("head/"))
    with pytest.raises(InputError, match="head: the text tower has no resblocks_2"):
        adopted(folder, "model.head=seqTransf", "model.head_layers=3")


def test_cluster_embeddings_start_from_the_image_positions(folder):
    own = ("model.schedule=B1-2,4", "model.reduce.algorithm=kmedoids++", "model.reduce.cluster_embedding=true")
    got = adopted(folder, *own)
    np.testing.assert_array_equal(got["visual/reduce_1/cluster_embed"], ARRAYS["visual.positional_embedding"][1:5])


def test_patches_of_three_frames_start_from_those_of_one(folder, tmp_path):
    got = adopted(folder, "model.linear_patch=3d")
    around = got["visual/patch_embed/kernel_around"]
    assert around.shape == (2, 8, 8, 3, 24)
    assert (around == 7).all()  # as it was initialised, which is with zeros
    flat, info = load_weights(folder)
    info["config"]["linear_patch"] = "3d"
    save_weights(tmp_path / "w", {**flat, "visual/patch_embed/kernel_around": np.full_like(around, 3)}, info)
    assert (adopted(tmp_path / "w", "model.linear_patch=3d")["visual/patch_embed/kernel_around"] == 3).all()
    with pytest.raises(InputError, match=r"hold patches of three frames; set config\.model\.linear_patch to '3d'"):
        adopted(tmp_path / "w")


def test_heads_and_embeddings_in_the_weights_are_kept(folder, tmp_path):
    flat, info = load_weights(folder)
    head = {k: np.full_like(v, 3) for k, v in adopted(folder, "model.head=seqLSTM").items() if k.startswith("head/")}
    save_weights(tmp_path / "w", {**flat, **head}, info)
    got = adopted(tmp_path / "w", "model.head=seqLSTM")
    assert all((v == 3).all() for k, v in got.items() if k.startswith("head/"))
    assert not any(k.startswith("head/") for k in adopted(tmp_path / "w"))  # meanP leaves them behind
    with pytest.raises(InputError, match="in the weights only"):
        adopted(tmp_path / "w", "model.head=seqTransf")

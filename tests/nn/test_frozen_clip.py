"""The frozen CLIP gives what its towers give, picture by picture."""

import jax
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.data.text import WordTokenizer
from jaxvl.interop.keys import flatten
from jaxvl.interop.weights import save_weights
from jaxvl.nn import frozen_clip
from jaxvl.nn.clip import CLIP_PRESETS, TextTower, VisionTower

TINY = CLIP_PRESETS["tiny"]


@pytest.fixture(scope="module")
def clip():
    return frozen_clip.load_clip("random", "tiny", "config.data.clip_weights")


def test_views_equal_the_tower_on_each_picture(clip):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)  # five frames on eight devices
    tiled = rng.integers(0, 256, (5, 64, 64, 3), np.uint8)
    frames, tiles = clip.views(whole, tiled)
    params = jax.device_get(clip._params)["visual"]
    one = jax.jit(lambda p, x: VisionTower(TINY).apply({"params": p}, x).features)
    np.testing.assert_allclose(frames, one(params, whole), rtol=2e-4, atol=2e-5)
    cut = np.stack([tiled[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)], 1)  # row by row
    np.testing.assert_allclose(tiles[3], one(params, cut[3]), rtol=2e-4, atol=2e-5)
    assert tiles.shape == (5, 4, TINY.embed_dim)


def test_texts_equal_the_tower(clip):
    ids = np.random.default_rng(0).integers(1, 400, (70, 8)).astype(np.int32)
    ids[:, -1] = TINY.vocab_size - 1
    got = clip.texts(ids)
    params = jax.device_get(clip._params)["text"]
    expected = TextTower(TINY).apply({"params": params}, ids[60:]).features
    assert got.shape == (70, TINY.embed_dim)
    np.testing.assert_allclose(got[60:], expected, rtol=2e-4, atol=2e-5)


def test_a_weights_folder_comes_back_with_its_hash(clip, tmp_path):
    flat = {k: np.asarray(v) for k, v in flatten(jax.device_get(clip._params)).items()}
    flat["logit_scale"] = np.float32(1.0)
    from jaxvl.interop.clip import FIELDS

    save_weights(tmp_path, flat, {"config": {name: getattr(TINY, name) for name in FIELDS}, "collections": []})
    there = frozen_clip.load_clip(tmp_path, "ViT-B/32", "config.data.clip_weights")
    assert there.config == TINY
    assert there.weights.startswith("sha256 ")
    ids = np.full((2, 4), TINY.vocab_size - 1, np.int32)
    np.testing.assert_allclose(there.texts(ids), clip.texts(ids), rtol=1e-6)
    assert clip.weights == "untrained tiny"
    WordTokenizer(("a", "b"), TINY.vocab_size).save(tmp_path / frozen_clip.VOCABULARY)
    assert frozen_clip.load_clip(tmp_path, "", "f").tokenizer.words == ("a", "b")
    WordTokenizer(("a", "b"), 6).save(tmp_path / frozen_clip.VOCABULARY)
    with pytest.raises(InputError, match="does not fit a tokenizer of 6"):
        frozen_clip.load_clip(tmp_path, "", "f")


@pytest.mark.parametrize(
    ("weights", "line"), [("", "is empty; name CLIP's weights"), ("nowhere", "is no weights folder")]
)
def test_missing_weights_are_one_line(weights, line):
    with pytest.raises(InputError) as caught:
        frozen_clip.load_clip(weights, "tiny", "config.data.clip_weights")
    assert line in str(caught.value)


def test_long_texts_are_cut_before_their_end_token_and_counted():
    rows, cut = frozen_clip.pack_texts(["a cat", "word " * 40], 12, frozen_clip.clip_tokenizer())
    assert cut == 1
    assert rows.shape == (2, 12)
    assert rows[1, -1] == 49407
    assert (rows[0] == 49407).sum() == 1

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.methods.centerclip.losses import pool_segments
from jaxvl.nn.clip import CLIPConfig, TextTower
from jaxvl.nn.video_heads import (
    SequenceLSTM,
    SequenceTransformer,
    TightTransformer,
    init_from_text_tower,
)
from tests.tiny import drawn

B, S, E = 3, 5, 16
LENGTHS = np.array([5, 3, 1])
MASK = jnp.asarray(np.arange(S)[None] < LENGTHS[:, None])


@pytest.fixture(scope="module")
def video():
    return jax.random.normal(jax.random.key(0), (B, S, E))


@pytest.fixture(scope="module")
def text():
    return jax.random.normal(jax.random.key(1), (4, E))


def heads():
    return [SequenceTransformer(2, 2), SequenceLSTM()]


@pytest.mark.parametrize("head", heads(), ids=["seqTransf", "seqLSTM"])
def test_masked_frames_do_not_count(head, video):
    params = drawn(head.init, jax.random.key(2), video, MASK)
    noisy = jnp.where(MASK[..., None], video, 100.0)
    apply = jax.jit(head.apply)
    a = pool_segments(apply(params, video, MASK), MASK)
    b = pool_segments(apply(params, noisy, MASK), MASK)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("head", heads(), ids=["seqTransf", "seqLSTM"])
def test_order_of_frames_counts_unlike_for_mean_pooling(head, video):
    params = drawn(head.init, jax.random.key(2), video, MASK)
    # positions start small; make the dependence plain
    params = jax.tree.map(lambda x: x * 5, params)
    reverse = video[:, ::-1]
    full = jnp.ones((B, S), bool)
    apply = jax.jit(head.apply)
    a, b = (pool_segments(apply(params, v, full), full) for v in (video, reverse))
    assert float(jnp.abs(a - b).max()) > 1e-2
    np.testing.assert_allclose(pool_segments(video, full), pool_segments(reverse, full), atol=1e-6)


def test_lstm_follows_torch_gate_order(video):
    head = SequenceLSTM()
    params = drawn(head.init, jax.random.key(3), video, MASK)
    w = {k: np.asarray(v, np.float64) for k, v in params["params"]["lstm_visual"].items()}
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    want = np.array(video, np.float64)
    for b in range(B):
        h = c = np.zeros(E)
        for t in range(LENGTHS[b]):
            gates = video[b, t] @ w["weight_ih_l0"] + h @ w["weight_hh_l0"] + w["bias_ih_l0"] + w["bias_hh_l0"]
            i, f, g, o = np.split(np.asarray(gates), 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            want[b, t] += h
    np.testing.assert_allclose(head.apply(params, video, MASK), want, atol=1e-5)


def test_tight_scores_pairs_one_by_one_and_ignores_masked_frames(text, video):
    head = TightTransformer(2, 2, chunk=2)
    params = drawn(head.init, jax.random.key(4), text, video, MASK)
    apply = jax.jit(head.apply, static_argnums=4)
    scores = apply(params, text, video, MASK)
    assert scores.shape == (4, B)
    alone = apply(params, text[2:3], video[1:2], MASK[1:2])
    np.testing.assert_allclose(scores[2, 1], alone[0, 0], atol=1e-5)
    noisy = jnp.where(MASK[..., None], video, 9.0)
    np.testing.assert_allclose(scores, apply(params, text, noisy, MASK), atol=1e-5)
    # chunks of texts change nothing
    other = jax.jit(TightTransformer(2, 2, chunk=4).apply)(params, text, video, MASK)
    np.testing.assert_allclose(scores, other, atol=1e-5)
    dropped = apply(params, text, video, MASK, True, rngs={"dropout": jax.random.key(0)})
    assert float(jnp.abs(dropped - scores).max()) > 1e-4


@pytest.mark.parametrize("kind", ["seqTransf", "seqLSTM", "tightTransf"])
def test_products_are_true_float32_in_both_directions(kind, video, text):
    head = {"seqTransf": SequenceTransformer(2, 1), "seqLSTM": SequenceLSTM(), "tightTransf": TightTransformer(2, 1)}[
        kind
    ]
    inputs = (text, video, MASK) if kind == "tightTransf" else (video, MASK)
    params = jax.eval_shape(head.init, jax.random.key(0), *inputs)
    program = jax.jit(jax.grad(lambda p: head.apply(p, *inputs).sum())).lower(params).as_text()
    products = re.findall(r"dot_general.*", program)
    assert len(products) >= 5
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_heads_start_from_the_text_tower(text, video):
    config = CLIPConfig(
        text_width=E, text_heads=2, text_layers=3, embed_dim=E, vocab_size=32, vision_width=64, vision_heads=1
    )
    tower = drawn(TextTower(config).init, jax.random.key(5), jnp.ones((1, 4), jnp.int32))["params"]
    head = SequenceTransformer(2, 2)
    params = init_from_text_tower(drawn(head.init, jax.random.key(6), video, MASK)["params"], tower)
    np.testing.assert_array_equal(params["frame_position_embeddings"], tower["positional_embedding"])
    np.testing.assert_array_equal(
        params["transformerClip"]["resblocks_1"]["mlp"]["c_fc"]["kernel"], tower["resblocks_1"]["mlp"]["c_fc"]["kernel"]
    )
    tight = TightTransformer(2, 3)
    params = init_from_text_tower(drawn(tight.init, jax.random.key(6), text, video, MASK)["params"], tower)
    np.testing.assert_array_equal(params["cross"]["embeddings"]["position_embeddings"], tower["positional_embedding"])
    with pytest.raises(InputError, match="too few blocks"):
        init_from_text_tower(drawn(SequenceTransformer(2, 4).init, jax.random.key(6), video, MASK)["params"], tower)


def test_too_many_frames_is_one_line():
    long = jnp.zeros((1, 78, E))
    with pytest.raises(InputError, match="78 frames, but there are 77 positions"):
        SequenceTransformer(2, 1).init(jax.random.key(0), long, jnp.ones((1, 78), bool))

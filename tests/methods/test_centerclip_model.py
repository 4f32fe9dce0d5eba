from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core.errors import InputError
from jaxvl.methods.centerclip import losses
from jaxvl.methods.centerclip.files import kept_in_segments
from jaxvl.methods.centerclip.model import CenterCLIP, CenterCLIPConfig, init_cluster_embed, segment_mask
from jaxvl.methods.centerclip.reduce import (
    ReduceConfig,
    Reduction,
    TokenReducer,
    reduction_plan,
    schedule,
    token_positions,
)
from jaxvl.nn.clip import CLIP, CLIP_PRESETS, CLIPConfig
from jaxvl.nn.transformer import SAVED_INDICES
from jaxvl.ops.clustering import kmedoids
from jaxvl.ops.token_reduction import patch_shift, token_shift
from tests.tiny import drawn

CLIP_TINY = CLIPConfig(
    image_size=12,
    patch_size=4,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    vocab_size=30,
    context_length=8,
    text_width=16,
    text_layers=1,
    text_heads=2,
    embed_dim=8,
)
CLIP_DEEP = dataclasses.replace(CLIP_TINY, vision_layers=3)
FRAMES = 6


def make(notation="B1-3,5", clip=CLIP_TINY, frames=FRAMES, **reduce):
    lists = schedule(notation, layers=clip.vision_layers, frames=frames, patches=clip.patches)
    return CenterCLIP(CenterCLIPConfig(clip, frames, *lists, ReduceConfig(**reduce)))


def videos(b=2, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (b, FRAMES, 12, 12, 3), dtype=np.uint8)
    return frames, np.ones((b, FRAMES), bool)


@pytest.fixture(scope="module")
def params():
    """Of three blocks: models of two read the first two."""
    return drawn(make(clip=CLIP_DEEP).init, jax.random.key(0), *videos(1), np.array([[1, 5, 29, 0]]))["params"]


@functools.partial(jax.jit, static_argnums=0)
def encode_jitted(model, params, frames, mask):
    return model.apply({"params": params}, frames, mask, method=CenterCLIP.encode_video)


def encode(*inputs):
    return jax.device_get(encode_jitted(*inputs))


@functools.partial(jax.jit, static_argnames=("clip", "algorithm"))
def plain_clip_jitted(params, frames, clip=CLIP_TINY, algorithm=None):
    """Features of CLIP's own tower for `[B, T, ...]` frames, with the stream shifted as `algorithm` says."""
    shift = {None: None, "temporal_shift": patch_shift, "token_shift": token_shift}[algorithm]

    def hook(_, x):
        return shift(x.reshape(-1, FRAMES, *x.shape[1:])).reshape(x.shape)

    hooks = {"block_hook": hook if shift else None, "between_hook": hook if algorithm == "token_shift" else None}
    flat = frames.reshape(-1, *frames.shape[2:])
    return CLIP(clip).apply({"params": params}, flat, **hooks, method=CLIP.encode_image).features


def plain_clip(params, frames, **options):
    return jax.device_get(plain_clip_jitted(params, frames, **options))


# where tokens are reduced


def test_schedule_of_the_paper():
    frames, tokens = schedule("B6-4,49", layers=12, frames=12, patches=49)
    assert frames == (12,) * 6 + (4,) * 6
    assert tokens == (49,) * 12
    assert schedule("B_6 − 4, 160", layers=12, frames=12, patches=196) == (
        (12,) * 6 + (4,) * 6,
        (196,) * 6 + (160,) * 6,
    )
    assert schedule("none", layers=2, frames=3, patches=9) == ((3, 3), (9, 9))
    assert schedule("B1-6,9; B2-3,4", layers=3, frames=6, patches=9) == ((6, 6, 3), (9, 9, 4))
    for bad in ("B6-4", "6-4,49", "B12-4,49"):
        with pytest.raises(InputError, match="schedule"):
            schedule(bad, layers=12, frames=12, patches=49)


def plan(frames, tokens, t=12, patches=49):
    return reduction_plan(frames, tokens, frames=t, patches=patches, layers=len(frames))


def test_plan():
    assert plan((12,) * 6 + (4,) * 6, (49,) * 12) == (Reduction(6, 12, 4, 49, 49),)
    assert plan((12, 6, 6, 2), (49, 49, 30, 30)) == (
        Reduction(1, 12, 6, 49, 49),
        Reduction(2, 6, 6, 49, 30),
        Reduction(3, 6, 2, 30, 30),
    )
    assert plan((4, 4), (30, 30)) == (Reduction(0, 12, 4, 49, 30),)
    assert plan((12, 12), (49, 49)) == ()


@pytest.mark.parametrize(
    ("frames", "tokens", "message"),
    [
        ((12, 12), (40, 40), r"cluster_num\[0\]"),
        ((12, 5), (49, 49), "equal segments"),
        ((4, 12), (49, 49), "only fall"),
        ((12, 12), (49, 50), "only fall"),
        ((12, 4), (49, 1), "at least 2"),
        ((12, 4), (49, 148), "only 147"),
    ],
)
def test_plans_that_cannot_be_carried_out(frames, tokens, message):
    with pytest.raises(InputError, match=message):
        plan(frames, tokens)
    with pytest.raises(InputError, match="one a block"):
        reduction_plan(frames, tokens, frames=12, patches=49, layers=3)


@pytest.mark.parametrize(
    ("notation", "reduce", "message"),
    [
        ("B1-3,5", {"algorithm": "pooling"}, "pooling"),
        ("B1-3,5", {"algorithm": "token_shift"}, "keeps all tokens"),
        ("B1-3,5", {"algorithm": "none"}, "keeps all tokens"),
        ("B1-3,5", {"algorithm": "magic"}, "algorithm"),
        ("B1-3,5", {"metric": "l3"}, "metric"),
        ("B1-3,5", {"algorithm": "random", "aggregation": "mean"}, "needs clusters"),
        ("B1-6,5;B2-3,5", {"algorithm": "spectral", "spg": True}, "grid"),
    ],
)
def test_algorithms_that_do_not_fit(notation, reduce, message):
    with pytest.raises(InputError, match=message):
        make(notation, CLIP_DEEP, **reduce)


def test_lists_go_together():
    with pytest.raises(InputError, match="both"):
        CenterCLIPConfig(target_frames=(12,) * 12)


# the reduction itself


def reduce_once(x, point, train=False, rng=0, **config):
    return jax.device_get(reduce_jitted(TokenReducer(ReduceConfig(**config), point), x, train, rng))


@functools.partial(jax.jit, static_argnums=(0, 2))
def reduce_jitted(module, x, train, rng):
    return module.init_with_output({"params": jax.random.key(0), "reduce": jax.random.key(rng)}, x, train)


POINT = Reduction(1, 6, 3, 9, 5)


def stream(b=2, seed=0, width=16):
    return np.random.default_rng(seed).normal(size=(b * 6, 10, width)).astype(np.float32)


def segments_of(x, b=2):
    """`[B, S, f·L, W]` patch tokens and `[B, S, f, W]` class tokens."""
    x = x.reshape(b, 3, 2, 10, -1)
    return x[:, :, :, 1:].reshape(b, 3, 18, -1), x[:, :, :, 0]


def test_medoid_tokens_behind_the_mean_class_token():
    x = stream()
    (out, facts), variables = reduce_once(x, POINT)
    tokens, cls = segments_of(x)
    out = np.asarray(out).reshape(2, 3, 6, 16)
    np.testing.assert_allclose(out[:, :, 0], cls.mean(2), atol=1e-6)
    each = jax.jit(lambda x: kmedoids(x, 5))
    for b in range(2):
        for s in range(3):
            expected = each(tokens[b, s])
            np.testing.assert_array_equal(facts["medoids"][b, s], expected.medoids)
            np.testing.assert_array_equal(facts["assign"][b, s], expected.assign)
            np.testing.assert_array_equal(out[b, s, 1:], tokens[b, s][np.asarray(expected.medoids)])
    assert not variables


def test_mean_of_the_members():
    x = stream()
    (out, facts), _ = reduce_once(x, POINT, aggregation="mean")
    tokens, _ = segments_of(x)
    assign = np.asarray(facts["assign"])
    for k in range(5):
        expected = tokens[1, 2][assign[1, 2] == k].mean(0)
        np.testing.assert_allclose(out.reshape(2, 3, 6, 16)[1, 2, 1 + k], expected, atol=1e-6)


def test_gradient_reaches_the_chosen_tokens_and_all_class_tokens():
    x = stream()
    weight = np.random.default_rng(1).normal(size=(6, 6, 16)).astype(np.float32)
    module = TokenReducer(ReduceConfig(), POINT)

    def value(x):
        (out, facts), _ = reduce_jitted(module, x, False, 0)
        return (out * weight).sum(), facts

    gradient, facts = jax.device_get(jax.jit(jax.grad(value, has_aux=True))(x))
    tokens, cls = segments_of(np.asarray(gradient))
    weight = weight.reshape(2, 3, 6, 16)
    np.testing.assert_allclose(cls, np.repeat(weight[:, :, None, 0] / 2, 2, axis=2), rtol=1e-6)
    for b in range(2):
        for s in range(3):
            expected = np.zeros((18, 16), np.float32)
            expected[np.asarray(facts["medoids"])[b, s]] = weight[b, s, 1:]
            np.testing.assert_array_equal(tokens[b, s], expected)


@pytest.mark.parametrize(
    ("algorithm", "aggregation"),
    [
        ("kmedoids++", "medoid"),
        ("kmedoids++", "mean"),
        ("spectral", "medoid"),
        ("spectral", "mean"),
        ("sparse_sampling", "medoid"),
        ("random", "medoid"),
    ],
)
def test_identity_when_nothing_is_cut(algorithm, aggregation):
    x = stream()
    (out, _), _ = reduce_once(x, Reduction(1, 6, 6, 9, 9), algorithm=algorithm, aggregation=aggregation, sigma="median")
    np.testing.assert_allclose(out, x, atol=1e-6)


def test_pooling_averages_positions():
    x = stream()
    (out, facts), _ = reduce_once(x, Reduction(1, 6, 3, 9, 9), algorithm="pooling")
    np.testing.assert_allclose(out, x.reshape(6, 2, 10, 16).mean(1), atol=1e-6)
    assert not facts


def test_sparse_sampling_and_random_choice():
    x = stream()
    (_, fixed), _ = reduce_once(x, POINT, algorithm="sparse_sampling")
    np.testing.assert_array_equal(fixed["medoids"], np.broadcast_to([1, 5, 9, 12, 16], (2, 3, 5)))
    (_, drawn), _ = reduce_once(x, POINT, train=True, algorithm="sparse_sampling")
    np.testing.assert_array_equal(np.asarray(drawn["medoids"]) // 3, np.broadcast_to(np.arange(5), (2, 3, 5)))
    (_, again), _ = reduce_once(x, POINT, train=True, rng=1, algorithm="sparse_sampling")
    assert not np.array_equal(drawn["medoids"], again["medoids"])
    for train in (False, True):
        (_, first), _ = reduce_once(x, POINT, train=train, algorithm="random")
        (_, second), _ = reduce_once(x, POINT, train=train, rng=1, algorithm="random")
        assert np.array_equal(first["medoids"], second["medoids"]) == (not train)


@pytest.mark.parametrize("options", [{"metric": "l1"}, {"metric": "cosine"}, {"pre_norm": True}])
def test_distance_options_reach_the_clustering(options):
    x = stream(seed=3)
    (_, facts), _ = reduce_once(x, POINT, **options)
    tokens, _ = segments_of(x)
    expected = jax.jit(lambda x: kmedoids(x, 5, **options).medoids)(tokens)
    np.testing.assert_array_equal(facts["medoids"], expected)
    (_, plain), _ = reduce_once(x, POINT)
    assert not np.array_equal(plain["medoids"], facts["medoids"])


def test_spectral_options():
    x = stream(seed=4) * 0.3
    seen = [
        np.asarray(reduce_once(x, POINT, algorithm="spectral", **options)[0][1]["medoids"])
        for options in ({}, {"graph": "knn", "knn_k": 5}, {"spg": True, "s_kernel": 3}, {"sigma": 0.3})
    ]
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(seen[i], seen[j])


def test_fixed_passes_equal_the_loop():
    x = stream(seed=5)
    (a, _), _ = reduce_once(x, POINT)
    (b, _), _ = reduce_once(x, POINT, cluster_iters=10)
    np.testing.assert_array_equal(a, b)


def test_selection_is_saved_under_remat():
    module, keys = TokenReducer(ReduceConfig(), POINT), {"params": jax.random.key(0)}

    def f(x):
        return module.init_with_output(keys, x)[0][0].sum()

    names = [e.params["name"] for e in jax.make_jaxpr(f)(stream()).eqns if e.primitive.name == "name"]
    assert SAVED_INDICES in names
    kept = jax.checkpoint(f, policy=jax.checkpoint_policies.save_only_these_names(SAVED_INDICES))
    lost = jax.checkpoint(f)
    # the clustering loop runs once where the medoids are kept, and again in the backward pass where they are not
    loops = [str(jax.make_jaxpr(jax.grad(g))(jnp.asarray(stream()))).count("= while[") for g in (kept, lost)]
    assert loops[0] < loops[1]


# the whole model


def test_no_new_parameters(params):
    plain = jax.eval_shape(CLIP(CLIP_DEEP).init, jax.random.key(0), videos()[0][0], np.zeros((1, 4), int))["params"]
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, params)


def test_cluster_embedding_starts_from_the_positions(params):
    model = make(cluster_embedding=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *videos(1), np.zeros((1, 4), int))["params"]
    assert shapes["visual"]["reduce_1"]["cluster_embed"].shape == (5, 16)
    visual = {**params["visual"], "reduce_1": {"cluster_embed": np.ones((5, 16), np.float32)}}
    with_embed = init_cluster_embed({**params, "visual": visual})
    np.testing.assert_array_equal(
        with_embed["visual"]["reduce_1"]["cluster_embed"], with_embed["visual"]["positional_embedding"][1:6]
    )
    nothing = {"cluster_embed": np.zeros((5, 16), np.float32)}
    zero = {**with_embed, "visual": {**with_embed["visual"], "reduce_1": nothing}}
    a, b = (encode(model, p, *videos())[0] for p in (with_embed, zero))
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_allclose(b, encode(make(), params, *videos())[0], atol=1e-6)


def test_without_reduction_it_is_clip_frame_by_frame(params):
    frames, mask = videos()
    segments, valid, aux = encode(make("none"), params, frames, mask)
    np.testing.assert_allclose(segments.reshape(12, 8), plain_clip(params, frames), atol=1e-5)
    np.testing.assert_array_equal(valid, mask)
    assert not aux


ALGORITHMS = [
    {"algorithm": "kmedoids++"},
    {"algorithm": "kmedoids++", "aggregation": "mean"},
    {"algorithm": "spectral", "sigma": "median"},
    {"algorithm": "sparse_sampling"},
    {"algorithm": "random"},
]


@pytest.mark.parametrize("options", ALGORITHMS)
def test_videos_and_segments_are_independent(params, options):
    model, (frames, mask) = make(**options), videos()
    whole = encode(model, params, frames, mask)
    assert whole[0].shape == (2, 3, 8)
    beside = frames.copy()
    beside[0] = 255 - beside[0]
    np.testing.assert_allclose(whole[0][1], encode(model, params, beside, mask)[0][1], atol=1e-5)
    changed = frames.copy()
    changed[:, 2:4] = 255 - changed[:, 2:4]
    other = encode(model, params, changed, mask)[0]
    np.testing.assert_array_equal(whole[0][:, [0, 2]], other[:, [0, 2]])
    assert np.abs(whole[0][:, 1] - other[:, 1]).max() > 1e-3


def test_two_reductions_and_where_tokens_come_from(params):
    model, (frames, mask) = make("B1-3,7;B2-1,4", CLIP_DEEP), videos()
    segments, valid, aux = encode(model, params, frames, mask)
    assert segments.shape == (2, 1, 8)
    assert valid.shape == (2, 1)
    first, second = np.asarray(aux["medoids_block1"]), np.asarray(aux["medoids_block2"])
    assert first.shape == (2, 3, 7)
    assert second.shape == (2, 1, 4)
    frame, y, x = (np.asarray(a) for a in token_positions(aux, model.config.plan, 3))
    for b in range(2):
        for k in range(4):
            segment, slot = divmod(second[b, 0, k], 7)
            in_segment, cell = divmod(first[b, segment, slot], 9)
            assert (frame[b, 0, k], y[b, 0, k], x[b, 0, k]) == (segment * 2 + in_segment, cell // 3, cell % 3)
    # the report draws the whole plan: one segment of six frames, so its index is that of the video
    left = kept_in_segments(aux, model.config.plan, 3)
    np.testing.assert_array_equal(left, (frame * 3 + y) * 3 + x)
    with pytest.raises(InputError, match="selects no tokens"):
        token_positions({}, (), 3)


def test_positions_name_the_pixels(params):
    """One bright patch in a dark video is kept, and is found where it was painted."""
    frames, mask = videos(1)
    frames[:] = 10
    frames[0, 3, 8:12, 4:8] = 250
    model = make("B0-3,2")
    _, _, aux = encode(model, params, frames, mask)
    frame, y, x = (np.asarray(a)[0] for a in token_positions(aux, model.config.plan, 3))
    assert (3, 2, 1) in set(zip(frame[1].tolist(), y[1].tolist(), x[1].tolist()))
    np.testing.assert_array_equal(kept_in_segments(aux, model.config.plan, 3)[0], aux["medoids_block0"][0])


@pytest.mark.parametrize("algorithm", ["temporal_shift", "token_shift"])
def test_shifts_replace_the_stream_in_every_block(params, algorithm):
    frames, mask = videos()
    segments, _, _ = encode(make("none", algorithm=algorithm), params, frames, mask)
    shifted = plain_clip(params, frames, algorithm=algorithm)
    np.testing.assert_allclose(segments.reshape(12, 8), shifted, atol=1e-5)
    assert np.abs(shifted - plain_clip(params, frames)).max() > 1e-3


def test_segment_mask():
    jitted = jax.jit(segment_mask, static_argnums=1)

    def mask(valid, t, s):
        return np.asarray(jitted(np.arange(t)[None] < valid, s))[0].astype(int).tolist()

    assert mask(5, 12, 4) == [1, 0, 0, 0]
    assert mask(9, 12, 4) == [1, 1, 1, 0]
    assert mask(2, 12, 4) == [1, 0, 0, 0]
    assert mask(0, 12, 4) == [1, 0, 0, 0]

    def kept(t, s):  # frames whose loss costs a segment
        return [i for i in range(t) if not np.asarray(jitted(np.arange(t)[None] != i, s)).all()]

    assert kept(12, 4) == [2, 5, 8, 11]
    assert kept(12, 3) == [3, 7, 11]
    assert kept(60, 15) == list(range(3, 60, 4))


def test_masked_segments_change_nothing(params):
    model, (frames, mask) = make(), videos()
    mask[:, 4:] = False
    changed = frames.copy()
    changed[:, 4:] = 0
    text = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    sims = [similarity(text, *encode(model, params, f, mask)[:2], 0.0) for f in (frames, changed)]
    np.testing.assert_array_equal(*sims)


def test_bfloat16_is_close(params):
    frames, mask = videos()
    config = dataclasses.replace(CLIP_TINY, dtype="bfloat16")
    for notation in ("none", "B0-3,5"):  # clustered on the input, both choose the same tokens
        a, b = (np.asarray(encode(make(notation, c), params, frames, mask)[0]) for c in (CLIP_TINY, config))
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.min() > 0.999


@pytest.mark.parametrize(("cluster_iters", "collective"), [(5, False), (None, True)])
def test_videos_over_devices_need_no_communication_with_fixed_passes(params, cluster_iters, collective):
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("needs 4 devices")
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    data, whole = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ()))
    matrices = 4 * 3 * 18 * 18 * 4  # bytes: four of the eight videos at a time
    model, inputs = make(cluster_iters=cluster_iters, max_bytes=matrices), videos(8)

    def f(params, frames, mask):
        return model.apply({"params": params}, frames, mask, method=CenterCLIP.encode_video)[0]

    compiled = jax.jit(f, in_shardings=(whole, data, data), out_shardings=data).lower(params, *inputs).compile()
    text = compiled.as_text()
    assert any(name in text for name in ("all-reduce", "all-gather", "all-to-all", "permute")) == collective
    np.testing.assert_allclose(
        compiled(params, *jax.device_put(inputs, data)), encode(model, params, *inputs)[0], atol=1e-5
    )


def test_whole_model_and_input_errors(params):
    model, (frames, mask) = make(), videos()
    out = jax.jit(lambda p, *inputs: model.apply({"params": p}, *inputs))(
        {**params, "logit_scale": jnp.float32(2.5)}, frames, mask, np.array([[1, 29, 0]] * 2)
    )
    assert out["text"].shape == (2, 8)
    assert float(out["logit_scale"]) == 2.5
    assert out["medoids_block1"].shape == (2, 3, 5)
    with pytest.raises(InputError, match="takes 6 frames"):
        encode(model, params, frames[:, :5], mask[:, :5])


def vision_flops(notation, preset, frames, algorithm):
    clip = CLIP_PRESETS[preset]
    model = make(notation, clip, frames, algorithm=algorithm)
    spec = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.uint8)
    mask = jax.ShapeDtypeStruct((1, frames), bool)
    v = jax.eval_shape(model.init, jax.random.key(0), spec, mask, jax.ShapeDtypeStruct((1, 77), jnp.int32))
    f = jax.jit(lambda v, x, m: model.apply(v, x, m, method=CenterCLIP.encode_video)[0])
    return f.lower(v, spec, mask).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("notation", "preset", "gmac"), [("B6-4,49", "ViT-B/32", 35.73), ("B6-4,160", "ViT-B/16", 134.38)]
)
def test_published_cost(notation, preset, gmac):
    """The tower with the clustering replaced by a fixed choice of as many tokens."""
    assert vision_flops(notation, preset, 12, "sparse_sampling") == pytest.approx(2e9 * gmac, rel=0.03)


# similarity and objective

similarity = jax.jit(losses.mean_pool_similarity)


def test_mean_pool_by_hand():
    text = np.array([[2, 0]], np.float32)
    video = np.array([[[3, 0], [0, 4]]], np.float32)
    value = lambda mask, logit_scale: similarity(text, video, np.array([mask]), logit_scale).item()  # noqa: E731
    assert value([1, 1], 0.0) == pytest.approx(2**-0.5)
    assert value([1, 0], 0.0) == pytest.approx(1)
    assert value([1, 0], math.log(7)) == pytest.approx(7)
    assert value([0, 0], 0.0) == 0


def test_mean_pool_ignores_order_and_is_text_by_video():
    rng = np.random.default_rng(0)
    text, video = rng.normal(size=(3, 8)), rng.normal(size=(5, 4, 8))
    mask = np.array([[1, 1, 1, 0]] * 5)
    order = [2, 0, 1, 3]
    a = similarity(text, video, mask, 0.0)
    b = similarity(text, video[:, order], mask, 0.0)
    assert a.shape == (3, 5)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_retrieval_loss_of_separated_pairs():
    eye = np.eye(4, dtype=np.float32)
    loss = jax.jit(losses.retrieval_loss)(eye, eye[:, None], np.ones((4, 1), np.float32), math.log(3))
    assert float(loss) == pytest.approx(math.log(1 + 3 * math.exp(-3)), rel=1e-5)


def test_clamp_and_gradient_scale():
    for value, expected in ((9.0, 4.6052), (-1.0, 0.1), (2.0, 2.0)):
        clamped = losses.clamp_logit_scale({"logit_scale": jnp.float32(value), "visual": 1})
        assert float(clamped["logit_scale"]) == pytest.approx(expected)
        assert clamped["visual"] == 1
    x = np.array([0.1, 3.7e8], np.float32)

    def total(x):
        same = losses.scale_gradient(x, 0.125)
        return same.sum(), same

    gradient, same = jax.jit(jax.grad(total, has_aux=True))(x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(gradient, [0.125, 0.125])

"""MIST's model against the published equations in numpy, and its known answers and invariants."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import optim
from jaxvl.core.errors import InputError
from jaxvl.methods.mist import ista, losses, method, model, published, recipe
from jaxvl.methods.mist.ista import ISTAConfig
from jaxvl.methods.mist.model import MIST, MISTConfig, draw_noise
from tests.methods import numpy_mist
from tests.methods.numpy_mist import SIZES, Numpy, random_arrays

WHOLE = MISTConfig(
    ista=ISTAConfig(width=16, heads=4, ff_dim=24, blocks=2, topk=2, topj=3, dropout=0.2),
    text=SIZES.text, frames=8, feature_dim=16, query_dim=10, patches=4, num_layers=2, num_segments=4, num_answers=7,
)  # fmt: skip
CONFIG = dataclasses.replace(WHOLE, num_layers=1)  # the first layer of the same parameters shows what is said of any
B, Q = 3, 6


def with_ista(config=CONFIG, **fields):
    return dataclasses.replace(config, ista=dataclasses.replace(config.ista, **fields))


@functools.cache
def variables(config=SIZES):
    got, report = published.from_published(random_arrays(config), config)
    report.check()
    return got


@functools.cache
def batch(seed=1):
    rng = np.random.default_rng(seed)
    question = np.array([[3, 9, 27, 4, 0, 0], [3, 8, 12, 4, 0, 0], [3, 8, 5, 6, 7, 4]], np.int32)
    return {
        "frames": rng.normal(size=(B, 8, 16)).astype(np.float32),
        "patches": rng.normal(size=(B, 8, 4, 16)).astype(np.float32),
        "question": question,
        "question_vec": rng.normal(size=(B, 10)).astype(np.float32),
        "label": np.array([2, 0, 5], np.int32),
        "example": np.array([17, 4, 99], np.int32),
    }


def answers(seed=2, shape=(7, 5)):
    ids = np.random.default_rng(seed).integers(5, 30, shape).astype(np.int32)
    ids[..., 0], ids[..., 3] = 3, 4
    ids[..., ::2, 4] = 0
    return ids


def noise(config=CONFIG, seed=0):
    return draw_noise(config, jax.random.key(seed), train=True, batch=B)


@functools.cache
def applied(config, train_select=False):
    """Jitted `(variables, batch, ids, noise) -> outputs`."""
    net = MIST(config)
    return jax.jit(lambda v, b, ids, g: net.apply(v, b, ids, g, selecting=train_select))


def run(config=CONFIG, b=None, ids=None, g=None, v=None, train_select=False):
    """Outputs; ids: `()` for none."""
    ids = answers() if ids is None else None if isinstance(ids, tuple) else ids
    return applied(config, train_select)(v or variables(), b or batch(), ids, g)


@pytest.mark.parametrize("mode", ["official", "logp"])
def test_logits_are_those_of_the_published_equations(mode):
    config = with_ista(WHOLE, segment_selector=mode, region_selector=mode)
    g = noise(config)
    reference = Numpy(random_arrays())
    plain = [{k: np.asarray(v, np.float64) for k, v in layer.items()} for layer in g]
    expected = reference.logits(batch(), answers(), plain, getattr(numpy_mist, mode), 4)
    out = run(config, g=g)
    np.testing.assert_allclose(out["logits"], expected, rtol=2e-4, atol=2e-4)
    assert out["segment_weights_1"].shape == (B, 2, 4)
    assert out["region_weights_0"].shape == (B, 2, 2, 3, 4)
    options = answers(3, (B, 3, 5))
    choice = dataclasses.replace(config, num_answers=0, num_options=3)
    got = run(choice, {**batch(), "options": options}, g=g)["logits"]
    np.testing.assert_allclose(got, reference.logits(batch(), options, plain, getattr(numpy_mist, mode), 4), atol=3e-4)


def test_parameter_counts_are_the_published_ones():
    """The count in the log of the released configuration, the one of the older log, and NExT-QA's (section 3.7)."""
    config = recipe.base()
    cfg = method.model_config(config)
    shapes = jax.eval_shape(lambda: initialised(config))
    flat = model_sizes(shapes["params"])
    assert flat["ista_0"] + 68_608 == 6_253_056
    assert flat["ista_1"] + 68_608 == 6_121_984
    assert flat["encode_vid"] == 345_984
    assert flat["fusion"] == 262_656
    assert flat["answer_proj"] == 393_728
    assert cfg.sequence_length(30) == 134
    weights = published.config_of_params(jax_flat(shapes["params"]))
    assert published_numbers(weights) == (236_414_337, 236_680_577)
    assert 236_414_337 + 151_277_313 == 387_691_650
    assert published_numbers(dataclasses.replace(weights, regions=False))[0] + 151_277_313 == 386_636_930
    other = configs.apply(recipe.base(), ("model.region_selector=all",))
    count = sum(model_sizes(jax.eval_shape(lambda: initialised(other))["params"]).values())
    assert sum(flat.values()) - count == 2 * 527_360
    nextqa = dataclasses.replace(weights, words=False, num_layers=1, frame_blocks=2, positions=78)
    assert published_numbers(nextqa) == (230_751_616, 230_791_552)


def initialised(config):
    built = method.build(config)
    spec = built.batch_spec["qa"]
    return built.init(jax.random.key(0), {"qa": {k: jnp.zeros((1, *v.shape[1:]), v.dtype) for k, v in spec.items()}})


def jax_flat(tree):
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def model_sizes(params):
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}


def published_numbers(weights):
    """`(trainable, all)` numbers of the published model: what it reads and what it only builds."""
    shapes = {r.key: r.shape for r in published.rules(weights) if "running" not in r.key}
    shapes |= {k: v.shape for k, v in unused_shapes(weights).items()}
    sizes = {k: int(np.prod(s)) for k, s in shapes.items() if not k.endswith("position_ids")}
    fixed = sum(n for k, n in sizes.items() if "position_embeddings" in k and "bert" not in k)
    return sum(sizes.values()) - fixed, sum(sizes.values())


@functools.cache
def unused_shapes(weights):
    return published.unused(weights)


def test_boxes_and_positions_are_the_published_constants():
    boxes = model.tile_boxes(16)
    np.testing.assert_allclose(boxes[0], [0, 0, 0.25, 0.25, 225**2 / 896**2], atol=1e-7)
    np.testing.assert_allclose(boxes[5], [0.25, 0.25, 0.5, 0.5, 225**2 / 896**2], atol=1e-7)
    np.testing.assert_allclose(boxes[1, :2], [0.25, 0])
    table = ista.sinusoids(134, 512)
    np.testing.assert_array_equal(table[0], np.tile([0, 1], 256))
    np.testing.assert_allclose(table[1, :2], [0.841471, 0.540302], atol=1e-6)
    np.testing.assert_allclose(table[7, 511], np.cos(7 / 10000 ** (510 / 512)), atol=1e-6)


def test_taking_everything_by_hard_picks_is_the_dense_model():
    """k = K keeps the segments in time order, j = N the patches."""
    hard = with_ista(segment_selector="hard", region_selector="hard", topk=4, topj=4)
    dense = with_ista(segment_selector="all", region_selector="all")
    out = run(hard)
    np.testing.assert_array_equal(out["segment_weights_0"], np.broadcast_to(np.eye(4), (B, 4, 4)))
    np.testing.assert_allclose(out["logits"], run(dense)["logits"], atol=2e-5)
    half = with_ista(segment_selector="hard", region_selector="hard")
    picked = run(half)["segment_weights_0"].argmax(-1)
    assert (picked[:, 0] < picked[:, 1]).all()


def test_permuting_patches_with_their_boxes_changes_nothing(monkeypatch):
    order, plain = np.array([2, 0, 3, 1]), run()["logits"]
    boxes = model.tile_boxes(4)
    monkeypatch.setattr(model, "tile_boxes", lambda n: boxes[order])
    other = dataclasses.replace(CONFIG, num_answers=7, frame_blocks=0, query_dim=10)
    net = MIST(other)
    permuted = {**batch(), "patches": batch()["patches"][:, :, order]}
    got = jax.jit(lambda v, b: net.apply(v, b, answers()))(variables(), permuted)["logits"]
    np.testing.assert_allclose(got, plain, atol=2e-5)


def test_words_behind_the_mask_and_padding_of_the_question_change_nothing():
    plain = run()["logits"]
    v = jax.tree.map(np.copy, variables())
    v["params"]["question_bert"]["embeddings"]["word"]["embedding"][0] += 5  # the padding's own vector
    np.testing.assert_allclose(run(v=v)["logits"], plain, atol=2e-5)
    net = MIST(CONFIG)

    @jax.jit
    def short_then_padded(v, b):
        """The published way: BERT on the longest question of the batch, zero vectors behind it."""
        real = net.apply(v, {**b, "question": b["question"][:, :4]}, method=MIST.encode)
        padded = {**real, "words": jnp.pad(real["words"], ((0, 0), (0, 2), (0, 0)))}
        padded["word_mask"] = jnp.pad(real["word_mask"], ((0, 0), (0, 2)))
        return net.apply(v, padded, net.apply(v, answers(), method=MIST.answers), b, method=MIST.answer)["logits"]

    np.testing.assert_allclose(short_then_padded(variables(), batch())[:2], plain[:2], atol=2e-5)


def test_what_hard_selection_leaves_out_gets_no_gradient_but_every_key_does():
    config = with_ista(segment_selector="hard", region_selector="hard")
    config = dataclasses.replace(config, num_layers=1)
    net, g = MIST(config), noise(config)

    @jax.jit
    def gradients(patches, frames):
        def loss(patches, frames):
            out = net.apply(
                variables(), {**batch(), "patches": patches, "frames": frames}, answers(), g, selecting=True
            )
            return out["logits"].var(-1).sum(), out["segment_weights_0"]

        return jax.grad(loss, (0, 1), has_aux=True)(patches, frames)

    (to_patches, to_frames), weights = gradients(batch()["patches"], batch()["frames"])
    chosen = np.asarray(weights).argmax(-1)
    np.testing.assert_allclose(weights, jax.nn.one_hot(chosen, 4), atol=1e-6)
    for row in range(B):
        for segment in set(range(4)) - set(chosen[row].tolist()):
            assert not np.asarray(to_patches)[row, 2 * segment : 2 * segment + 2].any()  # exactly
    assert (np.abs(to_frames).sum(-1) > 0).all()  # frames are keys and rows of the sequence
    region_keys = np.asarray(to_patches)[np.arange(B), 2 * chosen[:, 0]]
    assert (np.abs(region_keys).sum(-1) > 0).all()  # through the scores, also where no slot took the patch


def test_evaluation_noise_hangs_on_the_example_not_on_its_place():
    config = configs.apply(tiny_config(), ("model.eval_noise=sample",))
    predict, v = predictor(config)
    b = tiny_batch(config)
    order = np.array([3, 0, 7, 5, 1, 2, 6, 4])
    out = predict(v, {"qa": b})["logits"]
    np.testing.assert_allclose(predict(v, {"qa": {k: x[order] for k, x in b.items()}})["logits"], out[order], atol=1e-5)
    assert np.abs(predict(v, {"qa": {**b, "example": b["example"] + 1}})["logits"] - out).max() > 1e-4
    other, _ = predictor(configs.apply(tiny_config(), ("model.eval_noise=sample", "model.eval_seed=1")))
    assert np.abs(other(v, {"qa": b})["logits"] - out).max() > 1e-4
    still, _ = predictor(tiny_config())
    again = still(v, {"qa": {**b, "example": b["example"] + 1}})["logits"]
    np.testing.assert_array_equal(again, still(v, {"qa": b})["logits"])


def test_mean_of_draws_is_the_mean_of_samples():
    config = configs.apply(tiny_config(), ("model.eval_noise=mean", "model.eval_draws=3"))
    predict, v = predictor(config)
    cfg, b = method.model_config(config), tiny_batch(config)
    net = MIST(cfg)

    @jax.jit
    def sample(key):
        g = draw_noise(cfg, key, train=False, examples=b["example"], eval_noise=True)
        return net.apply(v, b, None, g)["logits"]

    draws = [sample(key) for key in jax.random.split(jax.random.key(0), 3)]
    np.testing.assert_allclose(predict(v, {"qa": b})["logits"], np.mean(draws, 0), atol=1e-4)


def test_controls_see_what_they_should():
    """Blind: no pixel matters. Mean: the place of a patch does not. Segments: patches do not."""
    other = {**batch(), "patches": batch()["patches"][:, ::-1], "frames": batch()["frames"][:, ::-1]}
    louder = {**batch(), "patches": batch()["patches"] + 1}
    for visual, unmoved, moved in (
        ("none", ({**other, "patches": louder["patches"]},), ()),
        ("mean", (other,), (louder,)),
        ("segments", (louder,), (other,)),
    ):
        config = dataclasses.replace(with_ista(use_patches=visual != "segments"), visual=visual)
        plain = run(config)["logits"]
        for b in unmoved:
            np.testing.assert_allclose(run(config, b)["logits"], plain, atol=1e-4)
        for b in moved:
            assert np.abs(run(config, b)["logits"] - plain).max() > 1e-2


def test_official_nextqa_variant_has_its_own_sequence_and_pools():
    """32 x 1 segments in small: 8 x 1, the frame vector as one more region, means for read-out and answers."""
    sizes = dataclasses.replace(SIZES, words=False, num_layers=1, frame_blocks=2, positions=8 + 3)
    config = dataclasses.replace(
        with_ista(use_words=False, topk=1, topj=3, segment_selector="official", region_selector="official", tau=100.0),
        num_segments=8, num_layers=1, regions_include_frame=True, frame_blocks=2, segment_norm="segments",
        readout="mean", answer_pool="mean", num_answers=0, num_options=3,
    )  # fmt: skip
    assert config.sequence_length(6) == 11
    b = {**batch(), "options": answers(4, (B, 3, 5))}
    net, v = MIST(config), variables(sizes)
    out = run(config, b, (), v=v)
    assert out["region_weights_0"].shape == (B, 1, 1, 3, 5)
    np.testing.assert_allclose(out["segment_weights_0"], 1 / 8, atol=0.002)  # tau 100: the mean of all
    padded = {**b, "options": np.pad(b["options"], ((0, 0), (0, 0), (0, 3)))}
    np.testing.assert_allclose(run(config, padded, (), v=v)["logits"], out["logits"], atol=1e-4)
    official = MIST(dataclasses.replace(config, answer_pool="mean_padded"))
    short, longest, whole = jax.jit(lambda v: [official.apply(v, x, None, longest=n)["logits"] for x, n in (
        (b, 5), (padded, 5), (padded, None))])(v)  # fmt: skip
    np.testing.assert_allclose(short, longest, atol=1e-4)
    assert np.abs(longest - whole).max() > 1e-3
    encoded = jax.jit(lambda v: net.apply(v, b, method=MIST.encode))(v)
    np.testing.assert_allclose(np.linalg.norm(encoded["segments"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoded["patches"][:, :, 0, 4], b["frames"], atol=1e-6)


def test_batch_statistics_count_every_frame():
    """Against numpy: 16 rows stand for all of the batch, and the running variance is the unbiased one of these."""
    net = MIST(CONFIG)
    rngs = {"dropout": jax.random.key(0)}
    _, changed = jax.jit(lambda v: net.apply(v, batch(), answers(), train=True, rngs=rngs, mutable=["batch_stats"]))(
        variables()
    )
    p, old = variables()["params"]["encode_vid"], variables()["batch_stats"]["encode_vid"]
    every = np.tile(model.tile_boxes(4), (B * 8, 1)) @ p["pos1"]["kernel"] + p["pos1"]["bias"]
    got = changed["batch_stats"]["encode_vid"]["bn1"]
    np.testing.assert_allclose(got["mean"], 0.9 * old["bn1"]["mean"] + 0.1 * every.mean(0), atol=1e-5)
    np.testing.assert_allclose(got["var"], 0.9 * old["bn1"]["var"] + 0.1 * every.var(0, ddof=1), atol=1e-5)


def test_loss_leaves_out_what_has_no_answer():
    logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    value, accuracy = losses.answer_loss(logits, jnp.array([0, 2, -1]))
    expected = [np.log(np.exp(2) + 2) - 2, np.log(np.e + 2)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-6)
    assert float(accuracy) == 0.5
    assert float(losses.answer_loss(logits, jnp.full(3, -1))[0]) == 0.0


def test_learning_rate_of_the_published_schedule():
    built = optim.build(configs.optimizer(name="adam", lr=3e-5), 1000, "main")
    rates = [float(built.rate(jnp.asarray(t))) for t in (0, 250, 500, 999)]
    np.testing.assert_allclose(rates[:3], [3e-5, 2.56066e-5, 1.5e-5], rtol=1e-5)
    np.testing.assert_allclose(rates[3], 7.40e-11, rtol=0.05)  # float32 of 1 + cos near pi


def test_shares_of_an_epoch_without_dropout():
    config = configs.apply(tiny_config(), ("model.dropout_duty=0.1", "model.epoch_steps=50", "model.dropout=0.3"))
    built = method.build(config)
    assert [built.pick(s) for s in (0, 4, 5, 49, 50, 54, 55)] == [
        "answer", "answer", "answer_still", "answer_still", "answer", "answer", "answer_still",
    ]  # fmt: skip
    _, v = predictor(config)
    params, stats = v["params"], {"batch_stats": v["batch_stats"]}
    run = lambda name: jax.eval_shape(  # noqa: E731
        lambda p: built.objectives[name].loss(p, stats, {"qa": tiny_batch(config)}, jax.random.key(0), 0)[1].mutables,
        params,
    )
    assert run("answer_still") == {}
    assert "batch_stats" in run("answer")
    with pytest.raises(InputError, match="epoch_steps"):
        method.build(configs.apply(tiny_config(), ("model.dropout_duty=0.1",)))


def test_wrong_fields_are_one_line():
    for override, match in (
        ("model.selector=best", "model.selector"), ("model.region_selector=oracle", "region_selector"),
        ("model.topk=9", "topk"), ("model.topj=17", "topj"), ("model.num_segments=5", "num_segments"),
        ("model.patches=15", "square"), ("model.num_options=4", "num_options"), ("model.eval_noise=some", "eval_noise"),
        ("model.query=text", "model.query"), ("model.text.preset=gpt", "preset"), ("data.reader=vqa", "reader"),
        ("model.visual=half", "visual"), ("model.readout=max", "readout"), ("model.tau=0.0", "tau"),
    ):  # fmt: skip
        config = configs.apply(recipe.base(), (override,))
        with pytest.raises(InputError, match=match) as error:
            method.build(config)
        assert "\n" not in str(error.value)


def tiny_config():
    from tests.methods.tiny import TINY

    return configs.from_json(configs.to_json(TINY["mist"]().config))


def tiny_batch(config):
    from tests.methods.tiny import TINY

    return TINY["mist"]().batch(5)["qa"]


def predictor(config):
    built = method.build(config)
    return jax.jit(built.predict), initial()


@functools.cache
def initial():
    built = method.build(tiny_config())
    v = jax.jit(lambda: built.init(jax.random.key(0), {"qa": tiny_batch(None)}))()
    big = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, v["params"])  # so that the picks matter
    return {**v, "params": big}


def test_segments_of_nextqa_are_means_of_raw_frames_over_the_norm_of_the_segment_axis():
    """The published code of NExT-QA divides no frame by its length (model/mist_nextqa.py, `forward`)."""
    config = dataclasses.replace(with_ista(use_words=False, use_patches=False), num_segments=4)
    frames = batch()["frames"] * np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float32)[:, None]
    mean = frames.reshape(B, 4, 2, 16).mean(2)
    unit = (frames / np.linalg.norm(frames, axis=-1, keepdims=True)).reshape(B, 4, 2, 16).mean(2)
    for norm, expected in (("none", unit), ("segments", mean / np.linalg.norm(mean, axis=1, keepdims=True))):
        net = MIST(dataclasses.replace(config, segment_norm=norm))
        encoded = net.apply({}, {**batch(), "frames": frames}, method=MIST.encode)
        np.testing.assert_allclose(encoded["segments"], expected, atol=1e-6)

"""Every reduction, head and optimiser that the configs name builds, learns a step, predicts and is evaluated.

One program a variant for the step and one for the prediction, compiled without optimisation.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxvl.core import config as configs
from jaxvl.core import session, sharding
from jaxvl.core import state as states
from jaxvl.core.errors import InputError
from jaxvl.core.evaluation import evaluate
from jaxvl.methods.centerclip.method import model_config, trained_parameters
from jaxvl.methods.centerclip.model import CenterCLIP
from jaxvl.methods.centerclip.reduce import ALGORITHMS
from jaxvl.nn.video_heads import HEADS
from jaxvl.verbs import aot
from jaxvl.verbs.train import eval_streams
from tests import tiny
from tests.methods.tiny import TINY

NONE = "model.schedule=none"
VARIANTS = {
    "kmedoids++": ("model.reduce.aggregation=mean", "model.reduce.cluster_embedding=true"),
    "spectral": ("model.reduce.algorithm=spectral", "model.reduce.graph=knn", "model.reduce.cluster_iters=3"),
    "pooling": ("model.reduce.algorithm=pooling",),
    "sparse_sampling": ("model.reduce.algorithm=sparse_sampling",),
    "random": ("model.reduce.algorithm=random",),
    "temporal_shift": ("model.reduce.algorithm=temporal_shift", NONE),
    "token_shift": ("model.reduce.algorithm=token_shift", NONE),
    "none": ("model.reduce.algorithm=none", NONE, "optim.main.name=bert_adam", "optim.main.clip_leaf_norm=1.0"),
    "seqTransf": ("model.head=seqTransf", "model.head_layers=1"),
    "seqLSTM": ("model.head=seqLSTM", "model.linear_patch=3d"),
    "tightTransf": ("model.head=tightTransf", "model.head_layers=1"),
}
ROWS = 8
UNUSED = {"tightTransf": ("logit_scale",)}  # parameters that a variant has no use for


PLAIN = ("optim.main.name=sgd", "optim.main.momentum=0.0", "optim.main.weight_decay=0.0", "train.clip_norm=0.0")
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiled to run once


def build(*overrides):
    """The tiny method on one device; plain gradient descent, unless said otherwise, compiles fastest."""
    config = configs.from_json(configs.to_json(TINY["centerclip"]().config))
    return session.compile_method(configs.apply(config, ("mesh.data=1", *PLAIN, *overrides)))


def parameters(target):
    """Values for every leaf, drawn by its path: what two variants share has the same values in both."""

    def draw(path, leaf):
        rng = np.random.default_rng(list(path.encode()))
        return rng.normal(1.0 if path.endswith("scale") else 0.0, 0.1, leaf.shape).astype(leaf.dtype)

    return states.merge({k: draw(k, v) for k, v in states.flatten(target).items()})


def first_state(compiled):
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), compiled.target.opt_state)
    return states.TrainState(
        step=np.int32(0), params=parameters(compiled.target.params), ema={}, mutables={}, opt_state=zeros,
        rng=jax.random.key(0), bad_step=np.int32(-1),
    )  # fmt: skip


def put(batch, compiled):
    return {s: sharding.put_batch(fields, compiled.mesh) for s, fields in batch.items()}


def run(function, *inputs):
    return function.lower(*inputs).compile(compiler_options=FAST)(*inputs)


def retrieval(compiled, variables, videos, batch):
    """Metrics, artifacts and outputs of eight captions and the first `videos` clips, scored `batch` rows at a time."""
    clips, captions = TINY["centerclip"]().predict(0)
    outputs = jax.device_get(run(compiled.predict, variables, put(clips | captions, compiled)))
    ask = lambda batches: (jax.device_get(compiled.predict(variables, put(b, compiled))) for b in batches)  # noqa: E731
    evaluator = dataclasses.replace(compiled.method.evaluators["retrieval"], batch=batch)
    names = [f"video{i % videos}" for i in range(ROWS)]
    acc = evaluator.init()
    own = lambda part: {k: v for k, v in outputs.items() if k.startswith("text") == (part == "text")}  # noqa: E731
    clip_rows = {k: v[:videos] for k, v in own("video").items()}
    acc = evaluator.update(acc, "video", clip_rows, {"_video_id": names[:videos]})
    acc = evaluator.update(acc, "text", own("text"), {"_video_id": names, "_caption": [""] * ROWS})
    acc = evaluator.refine(acc, ask)
    return evaluator.compute(acc), evaluator.artifacts(acc), outputs


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_learns_a_step_and_is_evaluated(name):
    compiled = build(*VARIANTS[name])
    state = first_state(compiled)
    before = {k: np.asarray(v) for k, v in states.flatten(state.params).items()}
    state, scalars = run(compiled.updates["retrieve"], state, put(TINY["centerclip"]().batch(0), compiled))
    assert int(state.bad_step) == -1
    assert np.isfinite(scalars["loss"])
    assert 0 < float(scalars["grad_norm"]) < np.inf
    after = {k: np.asarray(v) for k, v in states.flatten(state.params).items()}
    assert all(np.isfinite(v).all() for v in after.values())
    new = [k for k in after if k.startswith("head/") or "/reduce_" in k]
    assert bool(new) == (name in HEADS or name == "kmedoids++")
    still = {k for k in after if np.array_equal(after[k], before[k])}
    # a constant added to every key leaves the softmax as it is; one added to every score leaves the loss
    assert {k for k in still if not k.endswith("key/bias")} <= {"head/similarity_dense/bias", *UNUSED.get(name, ())}
    metrics, arrays, _ = retrieval(compiled, state.variables(), 8, batch=8)
    assert (metrics["gallery"], metrics["captions"]) == (8, 8)
    assert all(np.isfinite(v) for v in metrics.values())
    np.testing.assert_allclose(np.linalg.norm(arrays["video"], axis=-1), 1, rtol=1e-5)
    assert ("scores" in arrays) == (name == "tightTransf")


def test_freezing_follows_the_published_rule():
    patches = ("visual/patch_embed/kernel", "visual/patch_embed/kernel_around")
    embeddings = ("visual/class_embedding", "visual/positional_embedding", "visual/ln_pre/scale", "visual/ln_pre/bias")
    embeddings += ("text/token_embedding/embedding", "text/positional_embedding")
    blocks = (
        "visual/resblocks_{}/mlp/c_fc/kernel",
        "text/resblocks_{}/ln_1/scale",
        "visual/resblocks_{}/attn/out/bias",
    )
    first, second, tenth = ([name.format(i) for name in blocks] for i in (0, 1, 10))
    rest = ("visual/ln_post/scale", "visual/proj", "text/ln_final/bias", "text/text_projection", "logit_scale")
    rest += ("head/lstm_visual/bias_ih_l0", "visual/reduce_6/cluster_embed")
    everything = {*patches, *embeddings, *first, *second, *tenth, *rest}
    for n, three_frames, frozen in (
        (-1, False, ()),
        (0, False, (*patches, *embeddings)),
        (0, True, embeddings),  # patches of three frames start as those of one, so they have to learn
        (1, False, (*patches, *embeddings, *first)),
        (2, True, (*embeddings, *first, *second)),
    ):
        trains = trained_parameters(n, three_frames)
        assert {path for path in everything if not trains(path)} == set(frozen)


def test_every_algorithm_and_head_is_a_variant():
    assert {*ALGORITHMS, *HEADS} - {"meanP"} == set(VARIANTS)


def test_cross_encoder_scores_are_those_of_every_pair_alone():
    """Blocks of 3 over 8 captions and 5 videos: both last blocks are ragged."""
    compiled = build(*VARIANTS["tightTransf"])
    variables = first_state(compiled).variables()
    metrics, arrays, out = retrieval(compiled, variables, 5, batch=3)
    assert arrays["scores"].shape == (8, 5)
    model = CenterCLIP(model_config(compiled.config))
    alone = jax.jit(lambda t, s, m: model.apply(variables, t, s, m, method=CenterCLIP.score_pairs))
    brute = np.zeros((8, 5))
    for i in range(8):
        for j in range(5):
            pair = out["text_features"][i, None], out["segment_features"][j, None], out["segment_mask"][j, None]
            brute[i, j] = alone(*pair)[0, 0]
    assert brute.std() > 1e-4
    np.testing.assert_allclose(arrays["scores"], brute, rtol=1e-4, atol=1e-6)
    rank = [(brute[i] > brute[i, i % 5]).sum() for i in range(8)]
    assert metrics["t2v/R@1"] == pytest.approx(100 * np.mean(np.array(rank) < 1))
    assert metrics["t2v/MnR"] == pytest.approx(np.mean(rank) + 1)


def test_pairs_of_the_cross_encoder_are_shared_by_the_devices():
    """Those of a video are scored where it lies. With texts in front each device scored all: 4.6 times the products."""
    config = configs.from_json(configs.to_json(TINY["centerclip"]().config))
    configs.apply(
        config, ("mesh.data=-1", *PLAIN, *VARIANTS["tightTransf"], "model.head_layers=3", "data.batch_size=32")
    )
    (update,) = aot.aot(config, "cpu:8", objectives=["retrieve"], also="none")["programs"]
    assert update["flops"]["ratio"] == pytest.approx(1, abs=0.1)


def test_variants_that_cannot_be_are_refused():
    for overrides, words in (
        (("model.reduce.algorithm=none",), "set the schedule to 'none'"),
        (("model.reduce.algorithm=pooling", "model.schedule=B1-2,3"), "pooling after block 1 keeps 4 tokens"),
        (("model.reduce.algorithm=random", "model.reduce.aggregation=mean"), "needs clusters"),
        (("eval.ties=strict",), "config.eval.ties: 'strict' is none of optimistic"),
        (("model.head=meanp",), "config.model.head: 'meanp' is none of meanP"),
    ):
        with pytest.raises(InputError, match=words):
            build(*overrides)


def test_a_video_with_many_captions_is_encoded_once(tmp_path):
    """MSVD: several captions a video, all of them queries."""
    config = tiny.quickstart(
        "data.reader=msvd", "data.videos=YouTubeClips", "data.eval_batch_size=4", "data.world.captions_per_video=3"
    )
    data = session.build_data(config, tmp_path, tiny.quiet)
    compiled = session.compile_method(config)
    encoded = {"video": 0, "text": 0}

    def predict(variables, batch):
        ((stream, fields),) = batch.items()
        rows = len(next(iter(fields.values())))
        encoded[stream] += rows
        unit = np.random.default_rng(encoded[stream]).normal(size=(rows, 4))
        return {stream: unit / np.linalg.norm(unit, axis=1, keepdims=True)}

    streams = eval_streams(config, data, "test", tmp_path)
    metrics, arrays = evaluate(compiled.method, predict, {}, streams, compiled.mesh, "test")
    assert encoded == {"video": 12, "text": 36}
    assert (metrics["gallery"], metrics["captions"]) == (12, 36)
    assert len(set(arrays["video_id"])) == 12
    assert sorted(np.unique(arrays["text_id"], return_counts=True)[1]) == [3] * 12

"""MIST wired to the contract: one objective, cross-entropy over answers, on one stream `qa`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxvl.core import precision
from jaxvl.core.errors import InputError
from jaxvl.core.method import Aux, Evaluator, Method, Objective
from jaxvl.methods.mist.evaluator import EVALUATORS
from jaxvl.methods.mist.ista import ISTAConfig
from jaxvl.methods.mist.losses import answer_loss
from jaxvl.methods.mist.model import MIST, MISTConfig, draw_noise, initial_variables
from jaxvl.nn.bert import BERT_PRESETS, BertConfig
from jaxvl.nn.clip import CLIP_PRESETS, CLIPConfig
from jaxvl.nn.transformer import TENSOR_RULES

STREAM = "qa"
EVAL_NOISE = ("zero", "sample", "mean")
PARTITION = (*TENSOR_RULES, (r"embeddings/word/embedding$", P("tensor", None)))
"""Heads and hidden units of the BERTs and of the ISTA blocks over the `tensor` axis, and the words of the BERTs."""


def text_config(config: ConfigDict) -> BertConfig:
    """The BERT of `config.model.text`: a preset with fields replaced."""
    fields = config.model.text.to_dict()
    preset, dropout = fields.pop("preset"), fields.pop("dropout")
    if preset not in BERT_PRESETS:
        raise InputError(f"config.model.text.preset: {preset!r} is none of {', '.join(BERT_PRESETS)}")
    return dataclasses.replace(
        BERT_PRESETS[preset],
        **{k: v for k, v in fields.items() if v},
        dropout=dropout,
        dtype=precision.compute_dtype(config.precision).name,
        remat=config.precision.remat,
        attention=config.model.attention,
        scan_layers=config.precision.scan_layers,
    )


def towers_config(config: ConfigDict) -> tuple[CLIPConfig | None, tuple[str, ...]]:
    """The CLIP inside the step, and which of its towers it is; (None, ()) for features and vectors in the batch."""
    m = config.model
    for field, known in (("input", ("features", "frames")), ("query", ("cached", "clip"))):
        if m[field] not in known:
            raise InputError(f"config.model.{field}: {m[field]!r} is none of {', '.join(known)}")
    which = (*(("visual",) if m.input == "frames" else ()), *(("text",) if m.query == "clip" else ()))
    if not which:
        return None, ()
    if m.clip not in CLIP_PRESETS:
        raise InputError(f"config.model.clip: {m.clip!r} is none of {', '.join(CLIP_PRESETS)}")
    clip = dataclasses.replace(
        CLIP_PRESETS[m.clip],
        dtype=precision.compute_dtype(config.precision).name,
        attention=m.attention,
        scan_layers=config.precision.scan_layers,
    )
    for name, field in (("visual", "feature_dim"), ("text", "query_dim")):
        if name in which and m[field] != clip.embed_dim:
            raise InputError(f"config.model.{field}: {m[field]}, but {m.clip} gives vectors of {clip.embed_dim}")
    return clip, which


def model_config(config: ConfigDict) -> MISTConfig:
    """The model of `config.model` and `config.data`."""
    m = config.model
    region = m.region_selector or ("logp" if m.selector == "oracle" else m.selector)
    if region == "oracle":
        raise InputError("config.model.region_selector: 'oracle' is for segments alone; no region is marked")
    ista = ISTAConfig(
        width=m.d_model,
        segment_selector=m.selector,
        region_selector=region,
        pick=m.eval_select,
        use_patches=m.visual != "segments",
        dtype=precision.compute_dtype(config.precision).name,
        remat=config.precision.remat,
        scan_layers=config.precision.scan_layers,
        std=m.init_std,
        **{name: m[name] for name in ("heads", "ff_dim", "blocks", "topk", "topj", "tau", "score_scale", "use_words",
                                      "dropout", "attention")},
    )  # fmt: skip
    clip, towers = towers_config(config)
    same = (
        "feature_dim", "query_dim", "patches", "num_layers", "num_segments", "visual", "patch_positions",
        "regions_include_frame",
        "frame_blocks", "segment_norm", "readout", "answer_pool", "answer_encoder", "num_answers", "num_options",
    )  # fmt: skip
    return MISTConfig(
        ista=ista, text=text_config(config), clip=clip, towers=towers, frames=config.data.frames,
        **{name: m[name] for name in same},
    )  # fmt: skip


def build(config: ConfigDict) -> Method:
    """`config -> Method`; the fields are described in `recipe.base`."""
    cfg = model_config(config)
    model, m = MIST(cfg), config.model
    if m.eval_noise not in EVAL_NOISE:
        raise InputError(f"config.model.eval_noise: {m.eval_noise!r} is none of {', '.join(EVAL_NOISE)}")
    spec = batch_spec(config, cfg)
    vocabulary = (cfg.num_answers, config.data.answer_words) if reads_vocabulary(cfg) else None

    def init(rng, batch):
        del batch
        variables = initial_variables(cfg, rng)
        return variables | ({"answers": {"ids": jnp.zeros(vocabulary, jnp.int32)}} if vocabulary else {})

    def objective(train: bool) -> Objective:
        def loss(params, mutables, batch, rng, step):
            del step
            b = batch[STREAM]
            noise = draw_noise(cfg, jax.random.fold_in(rng, 0), train=True, batch=b["label"].shape[0])
            state = {"params": params, **{k: v for k, v in mutables.items() if k != "answers"}}
            out = model.apply(
                state, b, mutables.get("answers", {}).get("ids"), noise, train=train, selecting=True,
                rngs={"dropout": jax.random.fold_in(rng, 1)}, mutable=["batch_stats"],
            )  # fmt: skip
            out, changed = out
            value, accuracy = answer_loss(out["logits"], b["label"])
            scalars = {"accuracy": accuracy, "answerable": (b["label"] >= 0).mean()}
            scalars |= {f"{k}_peak": v.max(-1).mean() for k, v in out.items() if "_weights_" in k}
            return value, Aux(changed if train else {}, scalars)

        return Objective(loss=loss, trains=lambda path: not path.startswith("clip/"), streams=(STREAM,))

    def predict(variables, batch):
        b = batch[STREAM]
        state = {k: v for k, v in variables.items() if k != "answers"}
        ids = b.get("options") if cfg.num_options else variables.get("answers", {}).get("ids")
        encoded = model.apply(state, b, method=MIST.encode)
        answers = model.apply(state, ids, method=MIST.answers)
        key = jax.random.key(m.eval_seed)

        def once(key):
            noise = draw_noise(cfg, key, train=False, examples=b["example"], eval_noise=m.eval_noise != "zero")
            return model.apply(state, encoded, answers, b, noise, method=MIST.answer)

        if m.eval_noise != "mean":
            return once(key)
        return jax.tree.map(lambda x: x.mean(0), jax.lax.map(once, jax.random.split(key, m.eval_draws)))

    objectives = {"answer": objective(True)}
    duty, epoch = m.dropout_duty, m.epoch_steps
    pick = None
    if duty < 1:
        if epoch < 1:
            raise InputError("config.model.epoch_steps: set the updates of an epoch, of which dropout_duty is a share")
        objectives["answer_still"] = objective(False)
        pick = lambda step: "answer" if step % epoch < duty * epoch else "answer_still"  # noqa: E731
    return Method(
        name="mist",
        batch_spec={STREAM: spec},
        init=init,
        objectives=objectives,
        pick=pick,
        predict=predict,
        predict_spec=[{STREAM: {name: of_size(x, config.data.eval_batch_size) for name, x in spec.items()}}],
        evaluators={"answers": evaluator(config)},
        partition_rules=PARTITION,
    )


def reads_vocabulary(cfg: MISTConfig) -> bool:
    """Whether the ids of an answer vocabulary are part of the model's state."""
    return cfg.num_options == 0 and cfg.answer_encoder == "text"


def evaluator(config: ConfigDict) -> Evaluator:
    """The metrics of the benchmark that `config.data.reader` names."""
    reader = config.data.reader
    if reader not in EVALUATORS:
        raise InputError(f"config.data.reader: {reader!r} is none of {', '.join(EVALUATORS)}")
    return EVALUATORS[reader](config)


def of_size(spec: jax.ShapeDtypeStruct, rows: int) -> jax.ShapeDtypeStruct:
    """A field of a batch of `rows` rows."""
    return jax.ShapeDtypeStruct((rows, *spec.shape[1:]), spec.dtype)


def batch_spec(config: ConfigDict, cfg: MISTConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Fields of the stream, as listed in `recipe`."""
    d = config.data
    b, t, n = d.batch_size, d.frames, cfg.patches
    spec: dict[str, Any] = {}
    if "visual" in cfg.towers:
        side = cfg.clip.image_size * int(n**0.5 + 0.5)
        spec["pixels"] = ((b, t, cfg.clip.image_size, cfg.clip.image_size, 3), jnp.uint8)
        spec["tiles"] = ((b, t, side, side, 3), jnp.uint8)
    else:
        if d.feature_dtype not in ("float16", "float32"):
            raise InputError(f"config.data.feature_dtype: {d.feature_dtype!r} is neither float16 nor float32")
        dtype = jnp.dtype(d.feature_dtype)
        spec["frames"] = ((b, t, cfg.feature_dim), dtype)
        spec["patches"] = ((b, t, n, cfg.feature_dim), dtype)
    spec["question"] = ((b, d.question_words), jnp.int32)
    if "text" in cfg.towers:
        spec["question_clip"] = ((b, cfg.clip.context_length), jnp.int32)
    else:
        spec["question_vec"] = ((b, cfg.query_dim), jnp.float32)
    if cfg.num_options:
        spec["options"] = ((b, cfg.num_options, d.answer_words), jnp.int32)
    spec |= {"label": ((b,), jnp.int32), "example": ((b,), jnp.int32)}
    if cfg.ista.segment_selector == "oracle":
        spec["segment"] = ((b,), jnp.int32)
    return {name: jax.ShapeDtypeStruct(*value) for name, value in spec.items()}

"""Checkpoints of MIST's published code (showlab/mist), `best_model.pth`: a state dict of the whole model, keys with
`module.` before them.

The frozen CLIP inside (`clip.*`) is left out: `jaxvl convert --from openai_clip --prefix module.clip.` reads it by
itself. So is what the published code builds and never uses; an export fills it in with initial values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import bert, clip, keys, resnet
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.interop.layouts import Family, Layout
from jaxvl.methods.mist.ista import LN_EPS, sinusoids
from jaxvl.methods.mist.model import POSITION_DIM
from jaxvl.nn.bert import STD, BertConfig

UNUSED = "built by the published code, never used"
DROPPED = (
    *resnet.DROPPED,
    bert.POSITION_IDS,
    Dropped(r"clip\..*", "the frozen CLIP, which is converted by itself"),
    Dropped(r"(amodel\.)?bert\.bert\.pooler\..*", UNUSED),
    Dropped(r"(amodel\.)?bert\.cls\..*", "heads of pre-training"),
    Dropped(
        r"(position|frame_position_embedding|question_position_embedding|token_type_embedding|crossmodal_matching)\..*",
        UNUSED,
    ),
    Dropped(r"ISTA\.\d+\.position\.position_embeddings\.weight", "fixed sinusoids; they were compared with ours"),
)
UNUSED_OF_WORDS = Dropped(r"ttrans\..*", UNUSED)
UNUSED_WITHOUT_WORDS = (
    Dropped(r"(linear_question|norm_question)\..*", UNUSED),
    Dropped(r"bert\.bert\..*", "the question's BERT, which this variant runs and does not read"),
    Dropped(r"ISTA\.\d+\.(linear_question|norm_question|position\.modality_embedding)\..*", UNUSED),
)
POSITIONS, POSITIONS_WITHOUT_WORDS = 134, 78
"""Rows of the published positions: 30 words, 8 segments, 2 segments of 4 frames of 12 patches; NExT-QA's code has rows
for 30 words too, which it does not use, 32 segments and 16 patches."""
OUTER_POSITIONS, FRAME_POSITIONS, QUESTION_POSITIONS, TOKEN_TYPES = 190, 32, 30, 3


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a checkpoint tells of a MIST. Fields text_*: of both BERTs. words: whether words are in the sequence.
    regions: whether there are region selectors. positions: rows of the fixed positions, which ours does not hold. The
    others as in `model.MISTConfig` and `ista.ISTAConfig`."""

    text_vocab_size: int
    text_positions: int
    text_width: int
    text_layers: int
    text_heads: int
    text_ff_dim: int
    text_token_types: int
    d_model: int
    heads: int
    ff_dim: int
    blocks: int
    num_layers: int
    feature_dim: int
    query_dim: int
    words: bool = True
    regions: bool = True
    frame_blocks: int = 0
    positions: int = POSITIONS

    @property
    def text(self) -> BertConfig:
        """Both BERTs."""
        t = {name.removeprefix("text_"): getattr(self, name) for name in TEXT_FIELDS}
        return BertConfig(max_positions=t.pop("positions"), **t)


TEXT_FIELDS = tuple(f.name for f in dataclasses.fields(Weights) if f.name.startswith("text_"))


def rules(config: Weights) -> list[Rule]:
    """Every tensor that the model reads."""
    d, text = config.d_model, config.text
    out = []
    if config.words:
        out += keys.prefixed(bert.rules(text), "bert.bert.", "question_bert/")
    out += keys.prefixed(bert.rules(text), "amodel.bert.bert.", "answer_bert/")
    out += clip.linear_rules("amodel.linear_text", "answer_proj", text.width, d)
    for i, inputs in ((1, 5), (2, POSITION_DIM)):
        conv, norm, path = (
            f"encode_vid.bbox_conv.{3 * i - 3}",
            f"encode_vid.bbox_conv.{3 * i - 2}",
            f"encode_vid/pos{i}",
        )
        out.append(Rule(f"{conv}.weight", (POSITION_DIM, inputs, 1, 1), (f"{path}/kernel",), pointwise()))
        out.append(Rule(f"{conv}.bias", (POSITION_DIM,), (f"{path}/bias",), keys.same()))
        out += resnet.batch_norm_rules(norm, f"encode_vid/bn{i}", POSITION_DIM)
    out += clip.linear_rules("encode_vid.tohid.0", "encode_vid/out", config.feature_dim + POSITION_DIM, d)
    for layer in range(config.num_layers):
        out += layer_rules(config, layer)
    for b in range(config.frame_blocks):
        out += bert.distil_block(f"ttrans.layer.{b}", f"frame_blocks/block_{b}", d, config.ff_dim, config.heads)
    return out + clip.linear_rules("vqproj.1", "fusion", d, d)


def layer_rules(config: Weights, layer: int) -> list[Rule]:
    """One ISTA layer; the first one reads words and segments in their own widths."""
    d, key, path = config.d_model, f"ISTA.{layer}", f"ista_{layer}"
    segment = d if layer else config.feature_dim
    selectors = [("seg_selector", "segment_select", segment)]
    selectors += [("reg_selector", "region_select", d)] if config.regions else []
    embeds = [("question", "words", d if layer else config.text_width)] if config.words else []
    embeds += [("video", "segments", segment), ("patch", "patches", d)]
    out = []
    for theirs, ours, width in selectors:
        for letter, name, inputs in (("Q", "query", config.query_dim), ("K", "key", width)):
            out += clip.linear_rules(f"{key}.{theirs}.linear_{letter}", f"{path}/{ours}/{name}", inputs, d)
            out += clip.norm_rules(f"{key}.{theirs}.norm_{letter}", f"{path}/{ours}/{name}_norm", d)
    for theirs, ours, width in embeds:
        out += clip.linear_rules(f"{key}.linear_{theirs}", f"{path}/embed_{ours}/dense", width, d)
        out += clip.norm_rules(f"{key}.norm_{theirs}", f"{path}/embed_{ours}/norm", d)
    if config.words:
        out.append(Rule(f"{key}.position.modality_embedding.weight", (2, d), (f"{path}/modality",), keys.same()))
    out += clip.norm_rules(f"{key}.position.LayerNorm", f"{path}/embed_norm", d)
    for b in range(config.blocks):
        out += bert.distil_block(f"{key}.mmt.layer.{b}", f"{path}/block_{b}", d, config.ff_dim, config.heads)
    return out


def pointwise() -> keys.Transform:
    """1x1 convolution `[out, in, 1, 1]` to `[in, out]`."""
    return keys.Transform("1x1, transpose", lambda x: (x[:, :, 0, 0].T,), lambda x: x.T[:, :, None, None])


def from_published(arrays: Mapping[str, np.ndarray], config: Weights) -> tuple[dict[str, Any], KeyReport]:
    """Published keys -> variables. Raises InputError where the positions are no fixed sinusoids."""
    arrays = keys.plain_keys(arrays)
    for key, value in arrays.items():
        if re.fullmatch(r"ISTA\.\d+\.position\.position_embeddings\.weight", key):
            expected = sinusoids(*value.shape) if np.ndim(value) == 2 else None
            if expected is None or not np.allclose(value, expected, atol=1e-5):
                raise InputError(f"tensor {key}: is not the fixed sinusoid of MIST's positions")
    dropped = (*DROPPED, UNUSED_OF_WORDS) if config.words else (*DROPPED, *UNUSED_WITHOUT_WORDS)
    flat, report = keys.forward(rules(config), arrays, dropped)
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse, with `module.` before every key; what only the published code holds has its initial values. A frozen
    CLIP and the answer vocabulary are left out."""
    flat = keys.to_flat(variables)
    outside = {p: x for p, x in flat.items() if p.startswith(("clip/", "answers/"))}
    arrays, report = keys.backward(rules(config), {p: x for p, x in flat.items() if p not in outside})
    arrays = unused(config) | keys.with_step_counters(arrays)
    lost = sum(int(np.size(x)) for x in outside.values())
    reasons = tuple((path, "not part of a published checkpoint's own weights") for path in outside)
    report = dataclasses.replace(report, dropped=reasons, dropped_numbers=lost)
    return {f"module.{k}": v for k, v in arrays.items()}, report


def unused(config: Weights) -> dict[str, np.ndarray]:
    """What the published code builds beside what the model reads, as it initialises it."""
    rng, d, w = np.random.default_rng(0), config.d_model, config.text_width
    out = {}

    def add(key: str, *shape: int) -> None:
        out[key] = rng.normal(0, STD, shape).astype(np.float32)

    def norm(key: str) -> None:
        out[f"{key}.weight"], out[f"{key}.bias"] = np.ones(d, np.float32), np.zeros(d, np.float32)

    def linear(key: str, outputs: int, inputs: int) -> None:
        add(f"{key}.weight", outputs, inputs)
        out[f"{key}.bias"] = np.zeros(outputs, np.float32)

    for prefix in ("bert.bert", "amodel.bert.bert"):
        linear(f"{prefix}.pooler.dense", w, w)
        out[f"{prefix}.embeddings.position_ids"] = np.arange(config.text_positions, dtype=np.int64)[None]
    if config.words:
        for b in range(config.blocks):
            for rule in bert.distil_block(f"ttrans.layer.{b}", "", d, config.ff_dim, config.heads):
                if "norm" in rule.key:
                    norm(rule.key.rsplit(".", 1)[0])
                elif rule.key.endswith("weight"):
                    linear(rule.key.removesuffix(".weight"), *rule.shape)
    else:
        for rule in bert.rules(config.text):
            key = f"bert.bert.{rule.key}"
            value = rng.normal(0, STD, rule.shape) if rule.key.endswith("weight") else np.zeros(rule.shape)
            out[key] = (np.ones(rule.shape) if "LayerNorm.weight" in key else value).astype(np.float32)
        linear("linear_question", d, w)
        norm("norm_question")
        for layer in range(config.num_layers):
            add(f"ISTA.{layer}.position.modality_embedding.weight", 2, d)
            linear(f"ISTA.{layer}.linear_question", d, d if layer else w)
            norm(f"ISTA.{layer}.norm_question")
    for layer in range(config.num_layers):
        out[f"ISTA.{layer}.position.position_embeddings.weight"] = sinusoids(config.positions, d)
    if config.words:
        out["position.position_embeddings.weight"] = sinusoids(OUTER_POSITIONS, d)
        add("position.modality_embedding.weight", 2, d)
        norm("position.LayerNorm")
        out["frame_position_embedding.position_embeddings.weight"] = sinusoids(FRAME_POSITIONS, d)
        add("token_type_embedding.modality_embedding.weight", TOKEN_TYPES, d)
        linear("crossmodal_matching", 1, d)
        out["question_position_embedding.position_embeddings.weight"] = sinusoids(QUESTION_POSITIONS, d)
    return out


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Weights:
    """The config that keys and shapes imply. `given` fields win; heads are 8, and 64 wide in the BERTs, unless given.
    Raises InputError for another model."""
    a = keys.plain_keys(arrays)
    needed = {
        "answers": "amodel.bert.bert.embeddings.word_embeddings.weight",
        "text_ff": "amodel.bert.bert.encoder.layer.0.intermediate.dense.weight",
        "text_positions": "amodel.bert.bert.embeddings.position_embeddings.weight",
        "types": "amodel.bert.bert.embeddings.token_type_embeddings.weight",
        "query": "ISTA.0.seg_selector.linear_Q.weight",
        "key": "ISTA.0.seg_selector.linear_K.weight",
        "ff": "ISTA.0.mmt.layer.0.ffn.lin1.weight",
    }
    for key in needed.values():
        if np.ndim(a.get(key)) != 2:
            raise InputError(f"the file has no matrix {key}, so it is no MIST")
    shape = {name: a[key].shape for name, key in needed.items()}
    words = any(re.fullmatch(r"ISTA\.\d+\.linear_question\.weight", key) for key in a) and not any(
        key.startswith("linear_question.") for key in a
    )
    table = a.get("ISTA.0.position.position_embeddings.weight")
    fields = {
        **{
            "text_vocab_size": shape["answers"][0],
            "text_width": shape["answers"][1],
            "text_ff_dim": shape["text_ff"][0],
        },
        **{"text_positions": shape["text_positions"][0], "text_token_types": shape["types"][0]},
        "text_layers": count(a, r"amodel\.bert\.bert\.encoder\.layer\.(\d+)\."),
        **{"d_model": shape["query"][0], "query_dim": shape["query"][1], "feature_dim": shape["key"][1]},
        **{"ff_dim": shape["ff"][0], "heads": 8, "blocks": count(a, r"ISTA\.0\.mmt\.layer\.(\d+)\.")},
        **{"num_layers": count(a, r"ISTA\.(\d+)\."), "words": words},
        "regions": "ISTA.0.reg_selector.linear_Q.weight" in a,
        "frame_blocks": 0 if words else count(a, r"ttrans\.layer\.(\d+)\."),
        "positions": default_positions(words) if table is None else table.shape[0],
    }
    fields["text_heads"] = max(fields["text_width"] // clip.HEAD_WIDTH, 1)
    return Weights(**(fields | dict(given)))


def default_positions(words: bool) -> int:
    """Rows of the positions of the published configuration, with words in the sequence or without."""
    return POSITIONS if words else POSITIONS_WITHOUT_WORDS


def count(names: Mapping[str, Any], pattern: str) -> int:
    """One more than the highest number that the group of `pattern` finds; 0 for none."""
    return 1 + max((int(m.group(1)) for m in (re.match(pattern, n) for n in names) if m), default=-1)


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> Weights:
    """The config of a tree of ours, by flat path. Raises InputError where the published layout has no place for it."""
    lost = [p for p in ("answer_bert/embeddings/token_type/embedding", "ista_0/segment_select/query/kernel",
                        "ista_0/embed_patches/dense/kernel") if p not in flat]  # fmt: skip
    if lost:
        raise InputError(
            f"the model has no {lost[0]}; the published layout is of MIST with BERTs and a segment selector"
        )
    text = bert.config_of_params(
        {p.removeprefix("answer_bert/"): x for p, x in flat.items() if p.startswith("answer_bert/")}, {}
    )
    query, key = (flat[f"ista_0/segment_select/{n}/kernel"] for n in ("query", "key"))
    fields = {
        **{"text_vocab_size": text.vocab_size, "text_positions": text.max_positions, "text_width": text.width},
        **{"text_layers": text.layers, "text_heads": text.heads, "text_ff_dim": text.ff_dim},
        **{"text_token_types": text.token_types, "d_model": query.shape[1], "query_dim": query.shape[0]},
        **{"feature_dim": key.shape[0], "heads": flat["ista_0/block_0/attn/query/kernel"].shape[1]},
        **{"ff_dim": flat["ista_0/block_0/ffn_in/kernel"].shape[1], "blocks": count(flat, r"ista_0/block_(\d+)/")},
        **{"num_layers": count(flat, r"ista_(\d+)/"), "words": "ista_0/embed_words/dense/kernel" in flat},
        **{
            "regions": "ista_0/region_select/query/kernel" in flat,
            "frame_blocks": count(flat, r"frame_blocks/block_(\d+)/"),
        },
    }
    fields["positions"] = default_positions(fields["words"])
    return Weights(**(fields | dict(given or {})))


def describe(c: Weights) -> str:
    """One line on a MIST."""
    variant = "words, segments and patches" if c.words else "segments and patches"
    regions = "" if c.regions else ", no region selection"
    return (
        f"MIST: {c.num_layers} ISTA layers of {c.blocks} blocks of width {c.d_model} over {variant}{regions}; "
        f"texts by {bert.describe(c.text)}"
    )


MIST_FAMILY = Family(
    name="a MIST",
    config=Weights,
    fields=tuple(f.name for f in dataclasses.fields(Weights)),
    untold=("positions",),
    marks=("fusion/kernel",),
    describe=describe,
    semantics=lambda c: {"ln_eps": LN_EPS, "bn_eps": resnet.EPSILON, "padding_id": 0},
    config_of_params=config_of_params,
)

LAYOUTS = {
    "mist": Layout(
        MIST_FAMILY,
        lambda source, given: infer(source.arrays, {**source.stated, **given}),
        from_published,
        to_published,
    )
}

"""Hugging Face's layouts of BERT and DistilBERT, to and from the tree of `jaxvl.nn.bert`.

Converters are pure: `from_X(arrays, config) -> (variables, KeyReport)` and `to_X(variables, config) -> (arrays,
KeyReport)`, float32. Keys may begin with `bert.` (`distilbert.`) or not; old files call a LayerNorm's weight and bias
gamma and beta. Heads of pre-training and of fine-tuned models are left out by name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import clip, keys
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.nn.bert import BertConfig

Arrays = Mapping[str, np.ndarray]
FIELDS = tuple(
    f.name
    for f in dataclasses.fields(BertConfig)
    if f.name not in ("dropout", "dtype", "remat", "attention", "scan_layers")
)
"""The fields of `BertConfig` that belong to weights; the others belong to a run."""
BERT, DISTILBERT = "bert.", "distilbert."
POSITION_IDS = Dropped(r".*embeddings\.position_ids", "a range of integers")
DROPPED = {
    BERT: (
        POSITION_IDS,
        Dropped(r"cls\..*", "heads of pre-training"),
        Dropped(r"(classifier|qa_outputs)\..*", "head of a fine-tuned model"),
    ),
    DISTILBERT: (
        POSITION_IDS,
        Dropped(r"vocab_(transform|layer_norm|projector)\..*", "head of pre-training"),
        Dropped(r"(pre_classifier|classifier|qa_outputs)\..*", "head of a fine-tuned model"),
    ),
}
POOLER = Dropped(r"pooler\..*", "the model has no pooler")
HF = {
    BERT: {
        **{"vocab_size": "vocab_size", "max_positions": "max_position_embeddings", "width": "hidden_size"},
        **{"layers": "num_hidden_layers", "heads": "num_attention_heads", "ff_dim": "intermediate_size"},
        **{"token_types": "type_vocab_size", "ln_eps": "layer_norm_eps"},
    },
    DISTILBERT: {
        **{"vocab_size": "vocab_size", "max_positions": "max_position_embeddings", "width": "dim"},
        **{"layers": "n_layers", "heads": "n_heads", "ff_dim": "hidden_dim"},
    },
}
"""Our fields and their names in `config.json`."""
ONLY = {
    BERT: {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False},
    DISTILBERT: {"model_type": "distilbert", "activation": "gelu"},
}
"""What else `config.json` must say, if anything: other values are another network."""


def rules(config: BertConfig) -> list[Rule]:
    """Every tensor, keys without `bert.` or `distilbert.`: 197 of bert-base and 2 of its pooler, 100 of
    distilbert-base."""
    distil, w = not config.token_types, config.width
    tables = [("word", config.vocab_size), ("position", config.max_positions)]
    tables += [] if distil else [("token_type", config.token_types)]
    out = [
        Rule(f"embeddings.{name}_embeddings.weight", (rows, w), (f"embeddings/{name}/embedding",), keys.same())
        for name, rows in tables
    ]
    out += clip.norm_rules("embeddings.LayerNorm", "embeddings/norm", w)
    for i in range(config.layers):
        block = distil_block if distil else bert_block
        out += block(
            f"{'transformer' if distil else 'encoder'}.layer.{i}", f"layer_{i}", w, config.ff_dim, config.heads
        )
    return out + (clip.linear_rules("pooler.dense", "pooler", w, w) if config.pooler else [])


def bert_block(key: str, path: str, width: int, ff_dim: int, heads: int) -> list[Rule]:
    """The 16 tensors of one block, in BERT's names."""
    names = {n: f"{key}.attention.self.{n}" for n in ("query", "key", "value")} | {
        "out": f"{key}.attention.output.dense"
    }
    return [
        *attention_rules(names, path, width, heads),
        *clip.norm_rules(f"{key}.attention.output.LayerNorm", f"{path}/attn_norm", width),
        *clip.linear_rules(f"{key}.intermediate.dense", f"{path}/ffn_in", width, ff_dim),
        *clip.linear_rules(f"{key}.output.dense", f"{path}/ffn_out", ff_dim, width),
        *clip.norm_rules(f"{key}.output.LayerNorm", f"{path}/ffn_norm", width),
    ]


def distil_block(key: str, path: str, width: int, ff_dim: int, heads: int) -> list[Rule]:
    """The 16 tensors of one block, in DistilBERT's names."""
    names = {n: f"{key}.attention.{n[0] if n != 'out' else n}_lin" for n in ("query", "key", "value", "out")}
    return [
        *attention_rules(names, path, width, heads),
        *clip.norm_rules(f"{key}.sa_layer_norm", f"{path}/attn_norm", width),
        *clip.linear_rules(f"{key}.ffn.lin1", f"{path}/ffn_in", width, ff_dim),
        *clip.linear_rules(f"{key}.ffn.lin2", f"{path}/ffn_out", ff_dim, width),
        *clip.norm_rules(f"{key}.output_layer_norm", f"{path}/ffn_norm", width),
    ]


def attention_rules(names: Mapping[str, str], path: str, width: int, heads: int) -> list[Rule]:
    """Query, key, value and output projections: `names` of ours -> published key."""
    out = []
    for name, key in names.items():
        kernel, bias = (keys.merge_heads(heads), keys.same()) if name == "out" else (
            keys.split_heads(heads), keys.split_heads_bias(heads),
        )  # fmt: skip
        out.append(Rule(f"{key}.weight", (width, width), (f"{path}/attn/{name}/kernel",), kernel))
        out.append(Rule(f"{key}.bias", (width,), (f"{path}/attn/{name}/bias",), bias))
    return out


def bare_keys(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """Keys as `keys.plain_keys` gives them, without `prefix`. Raises InputError for two that then are the same."""
    out = {}
    for key, value in keys.plain_keys(arrays).items():
        bare = key.removeprefix(prefix)
        if bare in out:
            raise InputError(f"the file holds {bare} with and without {prefix}; leave one out with --drop REGEX")
        out[bare] = value
    return out


def infer_config(arrays: Arrays, given: Mapping[str, Any], prefix: str) -> BertConfig:
    """Config from the shapes of bare keys; `given` fields (heads must be among them) win. Raises InputError."""
    distil = prefix == DISTILBERT
    stack = "transformer" if distil else "encoder"
    hidden = "ffn.lin1" if distil else "intermediate.dense"
    word, first = "embeddings.word_embeddings.weight", f"{stack}.layer.0.{hidden}.weight"
    position = "embeddings.position_embeddings.weight"
    for key in (word, position, first):
        if np.ndim(arrays.get(key)) != 2:
            raise InputError(f"no matrix {key}, with {prefix} before it or without; is it a {NAMES[prefix]}?")
    numbers = [re.match(rf"{stack}\.layer\.(\d+)\.", key) for key in arrays]
    types = arrays.get("embeddings.token_type_embeddings.weight")
    if (types is None) != distil:
        raise InputError(f"{'no' if types is None else 'it has a'} table of token types, so it is no {NAMES[prefix]}")
    fields = {
        **{"vocab_size": arrays[word].shape[0], "width": arrays[word].shape[1]},
        **{"max_positions": arrays[position].shape[0], "ff_dim": arrays[first].shape[0]},
        **{"layers": 1 + max(int(m.group(1)) for m in numbers if m), "token_types": 0 if distil else types.shape[0]},
        "pooler": "pooler.dense.weight" in arrays,
    }
    fields |= given
    if "heads" not in fields:
        raise InputError("the tensors do not tell the number of heads; put its config.json beside it, or --set heads=N")
    return BertConfig(**fields)


NAMES = {BERT: "BertModel", DISTILBERT: "DistilBertModel"}


def from_hf(arrays: Arrays, config: BertConfig) -> tuple[dict[str, Any], KeyReport]:
    """Hugging Face's layout -> variables; whose it is follows from `config.token_types`."""
    prefix = prefix_of(config)
    dropped = DROPPED[prefix] if config.pooler else (*DROPPED[prefix], POOLER)
    flat, report = keys.forward(rules(config), bare_keys(arrays, prefix), dropped)
    return keys.to_variables(flat), report


def to_hf(variables: Mapping[str, Any], config: BertConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse of `from_hf`, keys without a prefix, as `BertModel` and `DistilBertModel` save theirs."""
    return keys.backward(rules(config), keys.to_flat(variables))


def prefix_of(config: BertConfig) -> str:
    """`bert.` or `distilbert.`."""
    return BERT if config.token_types else DISTILBERT


def config_of_params(flat: Arrays, stated: Mapping[str, Any]) -> BertConfig:
    """The config of leaves of ours; `stated` fields (LayerNorm's eps) win."""
    word, first = flat["embeddings/word/embedding"], flat["layer_0/attn/query/kernel"]
    types = flat.get("embeddings/token_type/embedding")
    fields = {
        **{"vocab_size": word.shape[0], "width": word.shape[1], "heads": first.shape[1]},
        **{"max_positions": flat["embeddings/position/embedding"].shape[0]},
        **{"ff_dim": flat["layer_0/ffn_in/kernel"].shape[1], "token_types": 0 if types is None else types.shape[0]},
        "layers": sum(re.fullmatch(r"layer_\d+/ffn_in/bias", path) is not None for path in flat),
        "pooler": "pooler/kernel" in flat,
    }
    return BertConfig(**{**fields, **stated})


def describe(config: BertConfig) -> str:
    """One line on a BERT."""
    kind = "BERT" if config.token_types else "DistilBERT"
    pooler = ", with pooler" if config.pooler else ""
    return (
        f"{kind}: {config.layers} blocks of width {config.width}, {config.heads} heads, hidden {config.ff_dim}, "
        f"{config.vocab_size} words, {config.max_positions} positions{pooler}"
    )


def semantics(config: BertConfig) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    return {"activation": "gelu (erf)", "ln_eps": config.ln_eps, "padding_id": 0}


def read_hf_config(path: Path, prefix: str) -> dict[str, Any]:
    """The fields of `BertConfig` that a `config.json` states; empty without the file. Raises InputError where it is of
    another network."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        wrong = [
            f"{name} {content[name]!r} (only {value!r} is known)"
            for name, value in ONLY[prefix].items()
            if content.get(name) not in (None, value)
        ]
        fields = {ours: content[theirs] for ours, theirs in HF[prefix].items() if content.get(theirs) is not None}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a config of a {NAMES[prefix]} ({error})") from None
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)}; that is another network")
    return fields


def hf_config(config: BertConfig) -> dict[str, Any]:
    """The `config.json` that `read_hf_config` reads back."""
    prefix = prefix_of(config)
    fields = {theirs: getattr(config, ours) for ours, theirs in HF[prefix].items()}
    return {"architectures": [NAMES[prefix]], **ONLY[prefix], **fields, "pad_token_id": 0}

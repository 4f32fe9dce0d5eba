"""BERT and DistilBERT in plain numpy, straight on Hugging Face's tensors, and random tensors in their layouts."""

from __future__ import annotations

import math

import numpy as np

from jaxvl.nn.bert import BertConfig

TINY = BertConfig(vocab_size=50, max_positions=12, width=16, layers=2, heads=4, ff_dim=24)
TINY_DISTIL = BertConfig(vocab_size=50, max_positions=12, width=16, layers=2, heads=4, ff_dim=24, token_types=0)

BERT_BLOCK = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "o": "attention.output.dense", "norm1": "attention.output.LayerNorm", "w1": "intermediate.dense",
    "w2": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip
DISTIL_BLOCK = {
    "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin", "o": "attention.out_lin",
    "norm1": "sa_layer_norm", "w1": "ffn.lin1", "w2": "ffn.lin2", "norm2": "output_layer_norm",
}  # fmt: skip


def names_of(config):
    """`(prefix of block i, names inside a block)`."""
    return ("encoder.layer", BERT_BLOCK) if config.token_types else ("transformer.layer", DISTIL_BLOCK)


def random_arrays(config, seed=0, pooler=False):
    """Every tensor of the layout, keys without prefix."""
    rng, out = np.random.default_rng(seed), {}

    def add(name, *shape):
        out[name] = (rng.normal(size=shape) * 0.3 + ("norm" in name.lower())).astype(np.float32)

    w = config.width
    for name, rows in (
        ("word", config.vocab_size),
        ("position", config.max_positions),
        ("token_type", config.token_types),
    ):
        if rows:
            add(f"embeddings.{name}_embeddings.weight", rows, w)
    norms = ["embeddings.LayerNorm"]
    stack, block = names_of(config)
    for i in range(config.layers):
        for short, name in block.items():
            key = f"{stack}.{i}.{name}"
            if short.startswith("norm"):
                norms.append(key)
                continue
            shape = {"w1": (config.ff_dim, w), "w2": (w, config.ff_dim)}.get(short, (w, w))
            add(f"{key}.weight", *shape)
            add(f"{key}.bias", shape[0])
    for name in norms:
        add(f"{name}.weight", w)
        add(f"{name}.bias", w)
    if pooler:
        add("pooler.dense.weight", w, w)
        add("pooler.dense.bias", w)
    return out


def forward(arrays, config, ids, mask, token_types=None):
    """`(last hidden state [B, L, W], pooled [B, W] or None)` in float64."""
    a = {k: np.asarray(v, np.float64) for k, v in arrays.items()}

    def linear(key, x):
        return x @ a[f"{key}.weight"].T + a[f"{key}.bias"]

    def norm(key, x):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.ln_eps)
        return unit * a[f"{key}.weight"] + a[f"{key}.bias"]

    x = a["embeddings.word_embeddings.weight"][ids] + a["embeddings.position_embeddings.weight"][: ids.shape[1]]
    if config.token_types:
        x = x + a["embeddings.token_type_embeddings.weight"][np.zeros_like(ids) if token_types is None else token_types]
    x = norm("embeddings.LayerNorm", x)
    stack, block = names_of(config)
    b, n, w = x.shape
    d = w // config.heads
    for i in range(config.layers):
        name = {short: f"{stack}.{i}.{long}" for short, long in block.items()}
        q, k, v = (linear(name[s], x).reshape(b, n, config.heads, d).transpose(0, 2, 1, 3) for s in "qkv")
        scores = np.where(mask[:, None, None, :], q @ k.transpose(0, 1, 3, 2) / math.sqrt(d), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = norm(name["norm1"], x + linear(name["o"], (weights @ v).transpose(0, 2, 1, 3).reshape(b, n, w)))
        h = linear(name["w1"], x)
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = norm(name["norm2"], x + linear(name["w2"], h))
    pooled = np.tanh(linear("pooler.dense", x[:, 0])) if "pooler.dense.weight" in a else None
    return x, pooled

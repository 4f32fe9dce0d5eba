"""MIST in plain numpy, float64, straight on the tensors of the published code; and random tensors in its layout."""

from __future__ import annotations

import math

import numpy as np

from jaxvl.interop.keys import Rule
from jaxvl.methods.mist import published
from tests.interop import numpy_bert

SIZES = published.Weights(
    text_vocab_size=30, text_positions=12, text_width=16, text_layers=1, text_heads=2, text_ff_dim=20,
    text_token_types=2, d_model=16, heads=4, ff_dim=24, blocks=2, num_layers=2, feature_dim=16, query_dim=10,
    positions=6 + 4 + 2 * 2 * 3,
)  # fmt: skip
"""4 segments of 2 frames of 4 patches, questions of 6 words; 2 segments and 3 regions are picked."""


def random_arrays(config=SIZES, seed=0):
    """Every tensor of a checkpoint, the unused ones included, keys without `module.`."""
    rng = np.random.default_rng(seed)
    out = published.unused(config)
    for rule in published.rules(config):
        out[rule.key] = draw(rng, rule)
    return out


def draw(rng, rule: Rule):
    """Norm scales and variances near 1, matrices large enough that every part matters."""
    key = rule.key
    value = rng.normal(size=rule.shape)
    if key.endswith("running_var"):
        return (1 + 0.5 * np.abs(value)).astype(np.float32)
    scale = key.endswith("weight") and ("norm" in key.lower() or "bbox_conv.1" in key or "bbox_conv.4" in key)
    if scale:
        return (1 + 0.2 * value).astype(np.float32)
    return (value * (rule.shape[-1] ** -0.5 if value.ndim == 2 else 0.3)).astype(np.float32)


class Numpy:
    """The forward pass in evaluation. `noise`: a list of a layer's `{segments [B, k, K], regions [B, F, j, N]}`."""

    def __init__(self, arrays, config=SIZES):
        self.a = {k: np.asarray(v, np.float64) for k, v in arrays.items()}
        self.config = config

    def linear(self, key, x):
        return x @ self.a[f"{key}.weight"].T + self.a[f"{key}.bias"]

    def norm(self, key, x, eps=1e-12):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return unit * self.a[f"{key}.weight"] + self.a[f"{key}.bias"]

    def bert(self, prefix, ids):
        inside = {k.removeprefix(prefix): v for k, v in self.a.items() if k.startswith(prefix)}
        return numpy_bert.forward(inside, self.config.text, ids, ids > 0)[0]

    def block(self, key, x, mask):
        b, n, d = x.shape
        h = self.config.heads
        q, k, v = (
            self.linear(f"{key}.attention.{s}_lin", x).reshape(b, n, h, d // h).transpose(0, 2, 1, 3) for s in "qkv"
        )
        scores = np.where(mask[:, None, None], q @ k.transpose(0, 1, 3, 2) / math.sqrt(d // h), -np.inf)
        y = (softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(b, n, d)
        x = self.norm(f"{key}.sa_layer_norm", x + self.linear(f"{key}.attention.out_lin", y))
        y = self.linear(f"{key}.ffn.lin2", gelu(self.linear(f"{key}.ffn.lin1", x)))
        return self.norm(f"{key}.output_layer_norm", x + y)

    def encode_patches(self, patches):
        side = math.isqrt(patches.shape[2])
        boxes = []
        for y in range(side):
            for x in range(side):
                area = 225.0**2 / (224.0 * side) ** 2
                boxes.append([x / side, y / side, (x + 1) / side, (y + 1) / side, area])
        pos = np.array(boxes)
        for conv, bn in ((0, 1), (3, 4)):
            w, name = self.a[f"encode_vid.bbox_conv.{conv}.weight"][:, :, 0, 0], f"encode_vid.bbox_conv.{bn}"
            pos = pos @ w.T + self.a[f"encode_vid.bbox_conv.{conv}.bias"]
            pos = (pos - self.a[f"{name}.running_mean"]) / np.sqrt(self.a[f"{name}.running_var"] + 1e-5)
            pos = np.maximum(pos * self.a[f"{name}.weight"] + self.a[f"{name}.bias"], 0)
        joined = np.concatenate([patches, np.broadcast_to(pos, (*patches.shape[:3], pos.shape[-1]))], -1)
        y = self.linear("encode_vid.tohid.0", joined)
        return np.where(y > 0, y, np.expm1(y))

    def pick(self, key, query, keys, noise, select):
        """`[B, s, n]` weights of keys `[B, n, W]`."""
        q = self.norm(f"{key}.norm_Q", self.linear(f"{key}.linear_Q", query))
        k = self.norm(f"{key}.norm_K", self.linear(f"{key}.linear_K", keys))
        return select(np.einsum("bd,bnd->bn", q, k), noise)

    def layer(self, i, words, mask, segments, patches, query, noise, select):
        key = f"ISTA.{i}"
        b, k = patches.shape[:2]
        w = self.pick(f"{key}.seg_selector", query, segments, noise["segments"], select)
        slots = []
        for s in range(w.shape[1]):  # slot by slot, as the published loop appends them
            slots.append(sum(w[:, s, c, None, None, None] * patches[:, c] for c in range(k)))
        frames = np.concatenate(slots, axis=1)  # [B, k·T, N, D]
        rows = []
        for f in range(frames.shape[1]):
            r = self.pick(f"{key}.reg_selector", query, frames[:, f], noise["regions"][:, f], select)
            rows.append(np.einsum("bjn,bnd->bjd", r, frames[:, f]))
        parts = [("question", words), ("video", segments), ("patch", np.concatenate(rows, axis=1))]
        x = np.concatenate(
            [self.norm(f"{key}.norm_{p}", gelu(self.linear(f"{key}.linear_{p}", v))) for p, v in parts], 1
        )
        x = x + self.a[f"{key}.position.position_embeddings.weight"]
        modality = self.a[f"{key}.position.modality_embedding.weight"]
        x = x + modality[(np.arange(x.shape[1]) >= words.shape[1]).astype(int)]
        x = self.norm(f"{key}.position.LayerNorm", x)
        full = np.concatenate([mask, np.ones((b, x.shape[1] - words.shape[1]), bool)], 1)
        for j in range(self.config.blocks):
            x = self.block(f"{key}.mmt.layer.{j}", x, full)
        return x

    def logits(self, batch, answers, noise, select, segments):
        """answers: ids `[V, A]`, or options `[B, O, A]`."""
        frames, question = batch["frames"].astype(np.float64), batch["question"]
        unit = frames / np.linalg.norm(frames, axis=-1, keepdims=True)
        b, t = frames.shape[:2]
        seg = unit.reshape(b, segments, t // segments, -1).mean(2)
        query = batch["question_vec"] / np.linalg.norm(batch["question_vec"], axis=-1, keepdims=True)
        patches = self.encode_patches(batch["patches"].astype(np.float64))
        patches = patches.reshape(b, segments, t // segments, *patches.shape[2:])
        words, mask, total = self.bert("bert.bert.", question), question > 0, 0.0
        q = question.shape[1]
        for i in range(self.config.num_layers):
            x = self.layer(i, words, mask, seg, patches, query, noise[i], select)
            words, seg, total = x[:, :q], x[:, q : q + segments], total + x[:, 0]
        fused = self.linear("vqproj.1", total)
        flat = answers.reshape(-1, answers.shape[-1])
        vectors = self.linear("amodel.linear_text", self.bert("amodel.bert.bert.", flat)[:, 0])
        if answers.ndim == 3:
            return np.einsum("bd,bod->bo", fused, vectors.reshape(*answers.shape[:2], -1))
        return fused @ vectors.T


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def official(scores, noise):
    """Noise on probabilities, tau 1."""
    return softmax(softmax(scores)[:, None] + noise)


def logp(scores, noise):
    """Noise on log-probabilities of scores over sqrt(D)."""
    return softmax(np.log(softmax(scores / math.sqrt(SIZES.d_model)))[:, None] + noise)

"""MIST in plain PyTorch, from the paper's equations and under the published names: the other side of
`benchmarks.speed.mist`. Attention is PyTorch's own fused one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from jaxvl.methods.mist.ista import sinusoids
from jaxvl.methods.mist.model import tile_boxes

EPS = 1e-12


class Attention(nn.Module):
    """Self-attention over the rows of `mask`."""

    def __init__(self, width: int, heads: int, names: dict[str, str], dropout: float):
        super().__init__()
        self.heads, self.names, self.dropout = heads, names, dropout
        for name in names.values():
            parent, last = self, name.split(".")
            for part in last[:-1]:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(last[-1], nn.Linear(width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = (
            self.get_submodule(self.names[s])(x).view(b, n, self.heads, d // self.heads).transpose(1, 2) for s in "qkv"
        )
        bias = None if mask is None else mask[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, bias, self.dropout if self.training else 0.0)
        return self.get_submodule(self.names["o"])(y.transpose(1, 2).reshape(b, n, d))


class BertBlock(nn.Module):
    """BERT's block."""

    def __init__(self, width: int, heads: int, ff_dim: int, dropout: float):
        super().__init__()
        names = {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"}
        self.attention = Attention(width, heads, names, dropout)
        self.attention.output.LayerNorm = nn.LayerNorm(width, EPS)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, ff_dim)})
        self.output = nn.ModuleDict({"dense": nn.Linear(ff_dim, width), "LayerNorm": nn.LayerNorm(width, EPS)})
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention.output.LayerNorm(x + self.drop(self.attention(x, mask)))
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + self.drop(y))


class Bert(nn.Module):
    """BertModel."""

    def __init__(self, cfg):
        super().__init__()
        w = cfg.width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(cfg.vocab_size, w),
                "position_embeddings": nn.Embedding(cfg.max_positions, w),
                "token_type_embeddings": nn.Embedding(cfg.token_types, w),
                "LayerNorm": nn.LayerNorm(w, EPS),
            }
        )
        blocks = [BertBlock(w, cfg.heads, cfg.ff_dim, cfg.dropout) for _ in range(cfg.layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(blocks)})
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        e = self.embeddings
        x = (
            e["word_embeddings"](ids)
            + e["position_embeddings"].weight[: ids.shape[1]]
            + e["token_type_embeddings"].weight[0]
        )
        x = self.drop(e["LayerNorm"](x))
        for block in self.encoder["layer"]:
            x = block(x, ids > 0)
        return x


class Block(nn.Module):
    """DistilBERT's block."""

    def __init__(self, width: int, heads: int, ff_dim: int, dropout: float):
        super().__init__()
        self.attention = Attention(width, heads, {s: f"{s}_lin" for s in "qkv"} | {"o": "out_lin"}, dropout)
        self.sa_layer_norm, self.output_layer_norm = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.ffn = nn.ModuleDict({"lin1": nn.Linear(width, ff_dim), "lin2": nn.Linear(ff_dim, width)})
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.sa_layer_norm(x + self.attention(x, mask))
        return self.output_layer_norm(x + self.drop(self.ffn["lin2"](F.gelu(self.ffn["lin1"](x)))))


class Selector(nn.Module):
    """Weights of the picks: noise on log-probabilities."""

    def __init__(self, query: int, key: int, width: int):
        super().__init__()
        self.linear_Q, self.linear_K = nn.Linear(query, width), nn.Linear(key, width)
        self.norm_Q, self.norm_K = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)

    def forward(self, query: torch.Tensor, keys: torch.Tensor, slots: int) -> torch.Tensor:
        q, k = self.norm_Q(self.linear_Q(query)), self.norm_K(self.linear_K(keys))
        score = torch.einsum("bd,b...d->b...", q, k) / math.sqrt(q.shape[-1])
        logits = F.log_softmax(score, -1)[..., None, :].expand(*score.shape[:-1], slots, score.shape[-1])
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.softmax(-1)


class ISTA(nn.Module):
    """One layer."""

    def __init__(self, cfg, layer: int, words: int):
        super().__init__()
        i, d = cfg.ista, cfg.ista.width
        self.topk, self.topj = i.topk, i.topj
        segment = d if layer else cfg.feature_dim
        self.seg_selector, self.reg_selector = Selector(cfg.query_dim, segment, d), Selector(cfg.query_dim, d, d)
        for name, width in (("question", d if layer else cfg.text.width), ("video", segment), ("patch", d)):
            setattr(self, f"linear_{name}", nn.Linear(width, d))
            setattr(self, f"norm_{name}", nn.LayerNorm(d, EPS))
        self.position = nn.Module()
        self.position.modality_embedding, self.position.LayerNorm = nn.Embedding(2, d), nn.LayerNorm(d, EPS)
        length = cfg.sequence_length(words)
        self.register_buffer("table", torch.from_numpy(sinusoids(length, d)), persistent=False)
        kind = (torch.arange(length) >= words).long()
        self.register_buffer("kind", kind, persistent=False)
        blocks = [Block(d, i.heads, i.ff_dim, i.dropout) for _ in range(i.blocks)]
        self.mmt = nn.ModuleDict({"layer": nn.ModuleList(blocks)})
        self.drop = nn.Dropout(i.dropout)

    def forward(self, words, mask, segments, patches, query):
        b, _, t, n, d = patches.shape
        w = self.seg_selector(query, segments, self.topk)
        frames = torch.einsum("bsk,bktnd->bstnd", w, patches).reshape(b, self.topk * t, n, d)
        w = self.reg_selector(query, frames, self.topj)
        picked = torch.einsum("bfjn,bfnd->bfjd", w, frames).reshape(b, -1, d)
        parts = (("question", words), ("video", segments), ("patch", picked))
        x = torch.cat([getattr(self, f"norm_{p}")(F.gelu(getattr(self, f"linear_{p}")(v))) for p, v in parts], 1)
        x = self.drop(self.position.LayerNorm(x + self.table + self.position.modality_embedding.weight[self.kind]))
        mask = F.pad(mask, (0, x.shape[1] - words.shape[1]), value=True)
        for block in self.mmt["layer"]:
            x = block(x, mask)
        return x


class MIST(nn.Module):
    """The whole model, for an open vocabulary."""

    def __init__(self, cfg, words: int):
        super().__init__()
        d = cfg.ista.width
        self.segments = cfg.num_segments
        self.bert = nn.ModuleDict({"bert": Bert(cfg.text)})
        self.amodel = nn.ModuleDict(
            {"bert": nn.ModuleDict({"bert": Bert(cfg.text)}), "linear_text": nn.Linear(cfg.text.width, d)}
        )
        self.encode_vid = nn.Module()
        convs = [
            nn.Conv2d(5, 128, 1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 128, 1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
        ]
        self.encode_vid.bbox_conv = nn.Sequential(*convs)
        self.encode_vid.tohid = nn.Sequential(nn.Linear(cfg.feature_dim + 128, d), nn.ELU())
        self.ISTA = nn.ModuleList([ISTA(cfg, i, words) for i in range(cfg.num_layers)])
        self.vqproj = nn.Sequential(nn.Dropout(cfg.ista.dropout), nn.Linear(d, d))
        self.register_buffer("boxes", torch.from_numpy(tile_boxes(cfg.patches)), persistent=False)

    def forward(self, frames, patches, question, question_vec, answers):
        b, t, n, f = patches.shape
        boxes = self.boxes.T[None, :, None].expand(b, 5, t, n)
        place = self.encode_vid.bbox_conv(boxes).permute(0, 2, 3, 1)
        encoded = self.encode_vid.tohid(torch.cat([patches, place], -1))
        encoded = encoded.view(b, self.segments, t // self.segments, n, -1)
        segments = F.normalize(frames, dim=-1).view(b, self.segments, t // self.segments, f).mean(2)
        query, mask, total = F.normalize(question_vec, dim=-1), question > 0, 0.0
        words = self.bert["bert"](question)
        for layer in self.ISTA:
            x = layer(words, mask, segments, encoded, query)
            words, segments = x[:, : question.shape[1]], x[:, question.shape[1] :][:, : self.segments]
            total = total + x[:, 0]
        vectors = self.amodel["linear_text"](self.amodel["bert"]["bert"](answers)[:, 0])
        return self.vqproj(total) @ vectors.T

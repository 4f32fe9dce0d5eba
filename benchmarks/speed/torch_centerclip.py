"""CenterCLIP's video tower in plain PyTorch, for speed comparisons: the same function of the same weights.

Written from the paper (arXiv 2205.00823, section 3) and from CLIP's architecture, in the idioms a PyTorch user would
choose: fused in-projection (as CLIP's checkpoints store it), `scaled_dot_product_attention`, `linear` on patches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def from_flax(visual: dict) -> Weights:
    """Weights of PyTorch layout from the `visual` tree of `jaxvl.nn.clip`: linear layers `[out, in]`, query, key and
    value in one `[3W, W]`."""

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(a), requires_grad=True)

    visual = _numpy(visual)
    width = visual["class_embedding"].shape[0]
    out = {name: tensor(visual[name]) for name in ("class_embedding", "positional_embedding")}
    out["patch"] = tensor(visual["patch_embed"]["kernel"].reshape(-1, width).T)
    out["proj"] = tensor(visual["proj"].T)
    for norm in ("ln_pre", "ln_post"):
        out |= {f"{norm}.weight": tensor(visual[norm]["scale"]), f"{norm}.bias": tensor(visual[norm]["bias"])}
    for i in range(sum(name.startswith("resblocks_") for name in visual)):
        block = visual[f"resblocks_{i}"]
        attention = block["attn"]
        parts = [attention[name] for name in ("query", "key", "value")]
        out[f"{i}.in.weight"] = tensor(np.concatenate([p["kernel"].reshape(width, width).T for p in parts]))
        out[f"{i}.in.bias"] = tensor(np.concatenate([p["bias"].reshape(-1) for p in parts]))
        out[f"{i}.out.weight"] = tensor(attention["out"]["kernel"].reshape(width, width).T)
        out[f"{i}.out.bias"] = tensor(attention["out"]["bias"])
        for name in ("c_fc", "c_proj"):
            out[f"{i}.{name}.weight"] = tensor(block["mlp"][name]["kernel"].T)
            out[f"{i}.{name}.bias"] = tensor(block["mlp"][name]["bias"])
        for name in ("ln_1", "ln_2"):
            out[f"{i}.{name}.weight"] = tensor(block[name]["scale"])
            out[f"{i}.{name}.bias"] = tensor(block[name]["bias"])
    return out


def encode_video(
    w: Weights,
    frames: torch.Tensor,
    *,
    heads: int,
    patch: int,
    reduce_after: int | None = None,
    segments: int = 0,
    centers: int = 0,
    cluster: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """uint8 frames `[B, T, R, R, 3]` -> features `[B, S, E]`; `cluster` reduces the tokens after block `reduce_after`
    to `segments` sequences of `centers` tokens (None: never, S = T)."""
    batch, t, size = frames.shape[:3]
    width, grid = w["class_embedding"].shape[0], size // patch
    x = (frames.float() / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    x = x.reshape(batch * t, grid, patch, grid, patch, 3).transpose(2, 3).reshape(batch * t, grid * grid, -1)
    x = F.linear(x, w["patch"])
    x = torch.cat([w["class_embedding"].expand(batch * t, 1, width), x], 1) + w["positional_embedding"]
    x = _norm(w, "ln_pre", x)
    for i in range(sum(name.endswith(".in.weight") for name in w)):
        if i == reduce_after:
            x = reduce_tokens(x, t, segments, centers, cluster)
        x = x + _attention(w, i, _norm(w, f"{i}.ln_1", x), heads)
        y = F.linear(_norm(w, f"{i}.ln_2", x), w[f"{i}.c_fc.weight"], w[f"{i}.c_fc.bias"])
        x = x + F.linear(y * torch.sigmoid(1.702 * y), w[f"{i}.c_proj.weight"], w[f"{i}.c_proj.bias"])
    return F.linear(_norm(w, "ln_post", x[:, 0]), w["proj"]).reshape(batch, -1, w["proj"].shape[0])


def reduce_tokens(x: torch.Tensor, t: int, segments: int, centers: int, cluster: Callable) -> torch.Tensor:
    """`[B·T, 1+L, W]` -> `[B·S, 1+K, W]`: mean class token, medoids of the patch tokens of each segment."""
    rows, length, width = x.shape
    x = x.reshape(rows // t * segments, t // segments, length, width)
    tokens = x[:, :, 1:].reshape(x.shape[0], -1, width)
    medoids = cluster(tokens.detach(), centers)
    kept = tokens.gather(1, medoids[..., None].expand(-1, -1, width))
    return torch.cat([x[:, :, 0].mean(1, keepdim=True), kept], 1)


def distances(x: torch.Tensor) -> torch.Tensor:
    """Euclidean distances `[M, N, N]` of `[M, N, W]`: centred, symmetric, diagonal 0."""
    x = x - x.mean(1, keepdim=True)
    norms = (x * x).sum(-1)
    d = torch.baddbmm(norms[:, :, None] + norms[:, None, :], x, x.mT, alpha=-2).clamp_(min=0).sqrt_()
    d = 0.5 * (d + d.mT)
    d.diagonal(dim1=1, dim2=2).zero_()
    return d


@torch.no_grad()
def kmedoids_masked(x: torch.Tensor, k: int, chunk: int = 16, max_iters: int = 100) -> torch.Tensor:
    """Medoids `[M, K]` of `[M, N, W]` by the direct formulation: distances masked by cluster in a `[M, K, N, N]`
    tensor, so in chunks of `chunk` sets to bound memory, and the loop ends when the centers' coordinates rest."""
    return torch.cat([_masked_chunk(part, k, max_iters) for part in x.split(chunk)])


@torch.no_grad()
def kmedoids_matmul(x: torch.Tensor, k: int, max_iters: int = 100) -> torch.Tensor:
    """The same with the sums as one batched product of distances and memberships `[M, N, K]`, all sets at once."""
    d, medoids = _start(x, k)
    lowered = d - torch.eye(x.shape[1])
    each = torch.arange(x.shape[0])[:, None]
    for _ in range(max_iters):
        member = F.one_hot(lowered[each, medoids].argmin(1), k)
        cost = torch.bmm(d, member.float()).masked_fill_(member == 0, torch.inf)
        new = cost.argmin(1)
        if torch.equal(new, medoids):
            break
        medoids = new
    return medoids.sort(-1).values


@torch.no_grad()
def kmedoids_pairs(x: torch.Tensor, k: int, max_iters: int = 100) -> torch.Tensor:
    """The same with one masked `[M, N, N]` sum over pairs of the same cluster."""
    d, medoids = _start(x, k)
    lowered = d - torch.eye(x.shape[1])
    each, names = torch.arange(x.shape[0])[:, None], torch.arange(k)[:, None]
    for _ in range(max_iters):
        assign = lowered[each, medoids].argmin(1)
        cost = (d * (assign[:, :, None] == assign[:, None, :])).sum(-1)
        new = cost[:, None].expand(-1, k, -1).masked_fill(assign[:, None] != names, torch.inf).argmin(-1)
        if torch.equal(new, medoids):
            break
        medoids = new
    return medoids.sort(-1).values


CLUSTERINGS: dict[str, Callable] = {
    "masked": kmedoids_masked,
    "matmul": kmedoids_matmul,
    "pairs": kmedoids_pairs,
}


def contrastive_loss(segments: torch.Tensor, text: torch.Tensor, scale: float) -> torch.Tensor:
    """Symmetric cross-entropy of pooled segments `[B, S, E]` against text `[B, E]`."""
    video = F.normalize(F.normalize(segments, dim=-1).mean(1), dim=-1)
    logits = scale * F.normalize(text, dim=-1) @ video.T
    target = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _start(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances `[M, N, N]` and KKZ seeds `[M, K]`."""
    d, each = distances(x), torch.arange(x.shape[0])
    chosen = [x.square().sum(-1).argmax(-1)]
    best = d[each, chosen[0]]
    best[each, chosen[0]] -= 1
    for _ in range(1, k):
        chosen.append(best.argmax(-1))
        best = torch.minimum(best, d[each, chosen[-1]])
        best[each, chosen[-1]] -= 1
    return d, torch.stack(chosen, 1)


def _masked_chunk(x: torch.Tensor, k: int, max_iters: int) -> torch.Tensor:
    d, medoids = _start(x, k)
    lowered = d - torch.eye(x.shape[1])
    each, names = torch.arange(x.shape[0])[:, None], torch.arange(k)[:, None]
    for _ in range(max_iters):
        member = lowered[each, medoids].argmin(1)[:, None] == names
        pairs = member[:, :, :, None] & member[:, :, None, :]
        cost = (d[:, None] * pairs).sum(-1).masked_fill_(~member, torch.inf)
        new = cost.argmin(-1)
        moved = (x[each, new] - x[each, medoids]).square().sum(-1).sqrt().sum(-1).mean()
        medoids = new
        if moved < 1e-6:
            break
    return medoids.sort(-1).values


def _attention(w: Weights, i: int, x: torch.Tensor, heads: int) -> torch.Tensor:
    rows, length, width = x.shape
    qkv = F.linear(x, w[f"{i}.in.weight"], w[f"{i}.in.bias"]).view(rows, length, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width)
    return F.linear(y, w[f"{i}.out.weight"], w[f"{i}.out.bias"])


def _norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _numpy(tree: dict) -> dict:
    return {k: _numpy(v) if isinstance(v, dict) else np.asarray(v) for k, v in tree.items()}

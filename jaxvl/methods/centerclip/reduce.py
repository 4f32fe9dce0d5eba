"""The token reduction of CenterCLIP (arXiv 2205.00823, section 3): from F frames to S segments, from L to K tokens.

`schedule` and `reduction_plan` say where in the tower it happens, `TokenReducer` does it, `video_hooks` plugs both
into `jaxvl.nn.clip.VisionTower`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxvl.core.errors import InputError
from jaxvl.nn.transformer import SAVED_INDICES
from jaxvl.ops import clustering
from jaxvl.ops.token_reduction import (
    cluster_mean,
    gather_tokens,
    patch_shift,
    random_indices,
    sparse_indices,
    token_shift,
)

REDUCERS = ("kmedoids++", "spectral", "pooling", "sparse_sampling", "random")
SHIFTS = ("temporal_shift", "token_shift")
ALGORITHMS = (*REDUCERS, *SHIFTS, "none")
AGGREGATIONS = ("medoid", "mean")


@dataclasses.dataclass(frozen=True)
class ReduceConfig:
    """How tokens are reduced; where is given by `target_frames` and `cluster_num`. Hashable.

    algorithm: 'kmedoids++' (the paper), 'spectral', and the ablations 'pooling', 'sparse_sampling', 'random',
        'temporal_shift', 'token_shift', 'none'.
    aggregation: 'medoid' keeps the center token, 'mean' averages the members of its cluster (clusterings only).
    metric: 'l2' | 'l1' | 'cosine'; pre_norm: cluster unit vectors (k-medoids++ only).
    max_iters, cluster_iters: the loop ends when no medoid moves, at most after `max_iters` passes; a number in
        `cluster_iters` runs exactly so many instead, which needs no collective when videos are sharded over devices.
    max_bytes: size limit of the distance matrices alive at once on a device.
    sigma, graph, knn_k, mutual: of the spectral graph; `knn_k` below 5 means the paper's rule (5 a frame of the
        segment, and 5 more when a frame has 100 tokens or more).
    spg, t_kernel, s_kernel: cut pairs of tokens farther apart than these windows (frames, cells).
    cluster_embedding: add a learned `[K, W]` to the tokens after the reduction.
    """

    algorithm: str = "kmedoids++"
    aggregation: str = "medoid"
    metric: str = "l2"
    pre_norm: bool = False
    max_iters: int = 100
    cluster_iters: int | None = None
    max_bytes: int = clustering.MAX_BYTES
    sigma: float | str = 2.0
    graph: str = "heat"
    knn_k: int = 0
    mutual: bool = False
    spg: bool = False
    t_kernel: int = 7
    s_kernel: int = 9
    cluster_embedding: bool = False

    def __post_init__(self):
        for field, allowed in (
            ("algorithm", ALGORITHMS),
            ("aggregation", AGGREGATIONS),
            ("metric", clustering.METRICS),
            ("graph", clustering.GRAPHS),
        ):
            if getattr(self, field) not in allowed:
                raise InputError(f"reduce.{field} {getattr(self, field)!r} is unknown; use one of {allowed}")
        if isinstance(self.sigma, str) and self.sigma != "median":
            raise InputError(f"reduce.sigma {self.sigma!r} is neither a number nor 'median'")
        if self.aggregation == "mean" and self.algorithm not in ("kmedoids++", "spectral"):
            raise InputError(f"reduce.aggregation 'mean' needs clusters; {self.algorithm!r} has none, use 'medoid'")


class Reduction(NamedTuple):
    """One reduction point: between block number `after` and the next (blocks from 1; 0 is before the first).

    `after` is the a of the paper's `B_a` and the 0-based index of the block that reads the reduced tokens.
    """

    after: int
    frames_before: int
    frames_after: int
    tokens_before: int
    tokens_after: int


def schedule(notation: str, *, layers: int, frames: int, patches: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(target_frames, cluster_num)`, one entry a block, from the paper's notation.

    'B6-4,49' (also 'B_6 − 4, 49'): right after block 6, 4 segments of 49 centers each; several points are joined
    by ';'; 'none' or '' never reduces. Raises InputError on anything else.
    """
    target, tokens = [frames] * layers, [patches] * layers
    text = re.sub(r"[\s_]", "", notation).replace("−", "-").replace("–", "-")
    for part in filter(None, text.split(";")):
        if part.lower() == "none":
            continue
        match = re.fullmatch(r"[Bb](\d+)-(\d+),(\d+)", part)
        if match is None:
            raise InputError(f"schedule {notation!r}: {part!r} is not like 'B6-4,49' (block - segments, centers)")
        after, segments, k = map(int, match.groups())
        if not 0 <= after < layers:
            raise InputError(f"schedule {notation!r}: block {after} is not between 0 and {layers - 1}")
        target[after:] = [segments] * (layers - after)
        tokens[after:] = [k] * (layers - after)
    return tuple(target), tuple(tokens)


def reduction_plan(
    target_frames: Sequence[int], cluster_num: Sequence[int], *, frames: int, patches: int, layers: int
) -> tuple[Reduction, ...]:
    """The reduction points of two lists with one entry a block; raises InputError when they cannot be carried out.

    Block b reduces before its attention iff `cluster_num[b] > 1` and the frames or the tokens fall against block
    b−1 (block 1: against the input; its own entry is taken for the tokens, as in the official code).
    """
    for name, values in (("target_frames", target_frames), ("cluster_num", cluster_num)):
        if len(values) != layers:
            raise InputError(f"{name}: {len(values)} entries for {layers} blocks; give one a block")
    if target_frames[0] == frames and cluster_num[0] != patches:
        raise InputError(
            f"cluster_num[0] = {cluster_num[0]}: without a cut of the frames block 1 sees all {patches} patch tokens; "
            f"write {patches} or reduce at a later block"
        )
    plan, f, k = [], frames, patches
    for index, (f_next, k_next) in enumerate(zip(target_frames, cluster_num)):
        if index == 0 and f_next == frames:
            continue
        if f_next == f and k_next == k:
            continue
        where = f"block {index + 1} ({f} frames of {k} tokens -> {f_next} of {k_next})"
        if k_next <= 1:
            raise InputError(f"cluster_num: {where}: 1 center or less means no reduction; keep at least 2")
        if f_next > f or f_next < 1:
            raise InputError(f"target_frames: {where}: frames can only fall, and to 1 at least")
        if f % f_next:
            raise InputError(f"target_frames: {where}: {f} frames cannot be cut into {f_next} equal segments")
        if f_next == f and k_next > k:
            raise InputError(f"cluster_num: {where}: tokens can only fall where frames stay")
        if k_next > f // f_next * k:
            raise InputError(f"cluster_num: {where}: a segment has only {f // f_next * k} tokens")
        plan.append(Reduction(index, f, f_next, k, k_next))
        f, k = f_next, k_next
    return tuple(plan)


def check_algorithm(config: ReduceConfig, plan: Sequence[Reduction], patches: int) -> None:
    """Raises InputError when the algorithm cannot carry out the plan."""
    if config.algorithm in ("none", *SHIFTS) and plan:
        raise InputError(f"reduce.algorithm {config.algorithm!r} keeps all tokens; set the schedule to 'none'")
    for point in plan:
        if config.algorithm == "pooling" and point.tokens_after != point.tokens_before:
            raise InputError(
                f"cluster_num: pooling after block {point.after} keeps {point.tokens_before} tokens a segment, "
                f"not {point.tokens_after}; write {point.tokens_before}"
            )
        if config.spg and config.algorithm == "spectral" and point.tokens_before != patches:
            raise InputError(f"reduce.spg: tokens after block {point.after} are no longer a grid; set it to False")


class TokenReducer(nn.Module):
    """Reduces a stream `[B·F, 1+L, W]` to `[B·S, 1+K, W]` (class token first) (arXiv 2205.00823, section 3.2).

    The class token of a segment is the mean of its frames' class tokens. Positions are not added again. Gradient
    reaches the selected tokens (all members with aggregation 'mean') and every class token, nothing else.
    """

    config: ReduceConfig
    point: Reduction

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Reduces one stream.

        Args:
            x: `[B·F, 1+L, W]`, frames of a video consecutive.
            train: random choices are drawn from the stream 'reduce' of the rngs; otherwise they are fixed.
        Returns: the stream, and facts by name: `medoids [B, S, K]` (index `frame·L + token` inside the segment,
            absent for pooling), `assign [B, S, N]` and `iterations [B, S]` of a clustering, `mean_degree [B, S]`.
        """
        cfg, (_, f_before, segments, length, k) = self.config, self.point
        if x.shape[0] % f_before or x.shape[1] != length + 1:
            raise InputError(f"tokens: shape {x.shape} is not [B·{f_before}, 1+{length}, W]")
        videos, frames, width = x.shape[0] // f_before, f_before // segments, x.shape[-1]
        x = x.reshape(videos, segments, frames, length + 1, width)
        if cfg.algorithm == "pooling":
            return x.mean(2).reshape(-1, length + 1, width), {}
        cls = x[:, :, :, 0].mean(2)[:, :, None]
        tokens = x[:, :, :, 1:].reshape(videos, segments, frames * length, width)
        facts = self._select(tokens, frames, train)
        facts = {name: checkpoint_name(value, SAVED_INDICES) for name, value in facts.items()}
        if cfg.aggregation == "mean":
            kept = cluster_mean(tokens, facts["assign"], k)
        else:
            kept = gather_tokens(tokens, facts["medoids"])
        if cfg.cluster_embedding:
            kept = kept + self.param("cluster_embed", nn.initializers.normal(width**-0.5), (k, width))
        return jnp.concatenate([cls, kept], axis=2).reshape(-1, k + 1, width), facts

    def _select(self, tokens: jax.Array, frames: int, train: bool) -> dict[str, jax.Array]:
        """`medoids [B, S, K]` and what else is known, of tokens `[B, S, N, W]`."""
        cfg, (_, _, segments, length, k) = self.config, self.point
        videos, n = tokens.shape[0], tokens.shape[2]
        loop = dict(max_iters=cfg.max_iters, fixed_iters=cfg.cluster_iters, max_bytes=cfg.max_bytes)
        if cfg.algorithm == "kmedoids++":
            return clustering.kmedoids(tokens, k, metric=cfg.metric, pre_norm=cfg.pre_norm, **loop)._asdict()
        if cfg.algorithm == "spectral":
            rule = 5 * frames if length < 100 else 5 * frames + 5
            grid = int(length**0.5)
            mask = clustering.neighbourhood_mask(frames, grid, cfg.t_kernel, cfg.s_kernel) if cfg.spg else None
            return clustering.spectral_kmedoids(
                tokens,
                k,
                sigma=cfg.sigma,
                graph=cfg.graph,
                knn_k=cfg.knn_k if cfg.knn_k >= 5 else min(rule, n),
                mutual=cfg.mutual,
                mask=mask,
                **loop,
            )._asdict()
        # draws are shared by the videos of a batch (a new one for each segment and step), except 'random' in
        # training; in evaluation they are the same for every batch, so that an output depends on its video alone
        if cfg.algorithm == "sparse_sampling":
            index = sparse_indices(n, k, self.make_rng("reduce") if train else None, (segments,))
        elif train:
            index = random_indices(self.make_rng("reduce"), n, k, (videos, segments))
        else:
            index = random_indices(jax.random.key(0), n, k, (segments,))
        return {"medoids": jnp.broadcast_to(index, (videos, segments, k))}


def video_hooks(
    config: ReduceConfig, plan: Sequence[Reduction], frames: int, train: bool, facts: dict[str, jax.Array]
) -> dict[str, Any]:
    """The hooks for `VisionTower`, as its arguments: reductions of the plan, or the shift of every block.

    `facts` is filled while the tower runs: `NAME_block{a}` for the facts of `TokenReducer` after block a.
    """
    if config.algorithm in SHIFTS:
        shift = patch_shift if config.algorithm == "temporal_shift" else token_shift

        def shifted(_, x):
            return shift(x.reshape(-1, frames, *x.shape[1:])).reshape(x.shape)

        return {"block_hook": shifted, "between_hook": shifted if config.algorithm == "token_shift" else None}
    points = {point.after: point for point in plan}

    def reduced(block, x):
        after = block - 1
        x, found = TokenReducer(config, points[after], name=f"reduce_{after}")(x, train)
        facts.update({f"{name}_block{after}": value for name, value in found.items()})
        return x

    return {"block_hook": reduced, "hooked": [after + 1 for after in points]}


def token_positions(
    facts: dict[str, jax.Array], plan: Sequence[Reduction], grid: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(frame, y, x)`, each `[B, S, K]` int32: where in the input video the tokens left after the plan come from.

    `facts` as filled by `video_hooks`; with several reductions the selections are composed. Raises InputError
    without a reduction that selects (none, pooling, shifts).
    """
    names = [f"medoids_block{point.after}" for point in plan]
    if not names or any(name not in facts for name in names):
        raise InputError("token positions: this model selects no tokens; use k-medoids++, spectral, sparse or random")
    batch, place = facts[names[0]].shape[0], None
    for name, point in zip(names, plan):
        index, frames = facts[name], point.frames_before // point.frames_after
        if place is None:
            start = jnp.arange(point.frames_after)[:, None] * frames * point.tokens_before
            place = start + index  # frame · L + token, over the whole video
            per_frame = point.tokens_before
        else:
            flat = place.reshape(batch, point.frames_after, frames * point.tokens_before)
            place = jnp.take_along_axis(flat, index, axis=-1)
    token = place % per_frame
    return place // per_frame, token // grid, token % grid

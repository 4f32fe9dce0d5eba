"""The iterative spatial-temporal attention layer of MIST (Gao et al., CVPR 2023, arXiv 2212.09522, section 3.3): pick
segments, pick regions of their frames, let words, segments and picked regions attend to each other.

Parameter tree of a layer: `{segment_select, region_select}/{query, query_norm, key, key_norm}`,
`embed_{words,segments,patches}/{dense,norm}`, `modality`, `embed_norm`, `block_i`. What a config does not use is
absent.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.nn.products import product
from jaxvl.nn.transformer import gelu, layer_norm, remat_policy, run_post_norm
from jaxvl.ops.selection import NOISY, PICKS, SELECTORS, default_scale, select

LN_EPS = 1e-12
ALL = "all"
"""In the place of a selector: nothing is selected, everything goes on."""


@dataclasses.dataclass(frozen=True)
class ISTAConfig:
    """Sizes and choices of one layer. Hashable.

    width: D. heads, ff_dim, blocks: of the transformer blocks. topk, topj: segments, and regions of a frame, to pick.
    segment_selector, region_selector: of `ops.selection.SELECTORS`, or 'all'. tau, score_scale (0: the mode's own),
    pick: as in `ops.selection.select`. use_words, use_patches: what is in the sequence beside the segments. std: of the
    normal distribution that all kernels start from. attention: as in `nn.attention`.
    scan_layers: the blocks become a loop (`transformer.run_blocks`).
    Raises InputError on values that fit nothing.
    """

    width: int = 512
    heads: int = 8
    ff_dim: int = 1024
    blocks: int = 2
    topk: int = 2
    topj: int = 12
    segment_selector: str = "logp"
    region_selector: str = "logp"
    tau: float = 1.0
    score_scale: float = 0.0
    pick: str = "topk"
    use_words: bool = True
    use_patches: bool = True
    dropout: float = 0.3
    std: float = 0.02
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_layers: bool = False

    def __post_init__(self):
        for field in ("segment_selector", "region_selector"):
            if getattr(self, field) not in (*SELECTORS, ALL):
                name = field.removeprefix("segment_")
                raise InputError(
                    f"config.model.{name}: {getattr(self, field)!r} is none of {', '.join(SELECTORS)}, {ALL}"
                )
        if self.pick not in PICKS:
            raise InputError(f"config.model.eval_select: {self.pick!r} is none of {', '.join(PICKS)}")
        if self.tau <= 0 or self.score_scale < 0:
            raise InputError(
                f"config.model.tau {self.tau} and score_scale {self.score_scale}: tau > 0, score_scale >= 0"
            )
        if self.width % self.heads:
            raise InputError(f"config.model.d_model: {self.width} is not a multiple of heads {self.heads}")
        remat_policy(self.remat)

    @property
    def block(self) -> dict[str, Any]:
        """Fields of a `PostNormBlock`: DistilBERT's, with dropout of attention weights and behind the hidden layer."""
        return {
            **{"heads": self.heads, "ff_dim": self.ff_dim, "dropout": self.dropout, "drop_attention_output": False},
            **{"ln_eps": LN_EPS, "dtype": jnp.dtype(self.dtype), "std": self.std, "implementation": self.attention},
        }

    def scale(self, mode: str) -> float:
        """What the scores of a selector are divided by."""
        return self.score_scale or default_scale(mode, self.width)


def needs_noise(mode: str, train: bool, eval_noise: bool) -> bool:
    """Whether a selector draws: soft ones in training and where evaluation asks for it, 'hard' in training, 'random'
    always."""
    return mode == "random" or (train and mode == "hard") or (mode in NOISY and (train or eval_noise))


def sinusoids(length: int, width: int) -> np.ndarray:
    """Fixed positions `[length, width]` float32: sin (even columns) and cos (odd ones) of `pos / 10000^(2⌊j/2⌋/width)`
    (Vaswani et al., 2017, section 3.5)."""
    column = np.arange(width)
    angle = np.arange(length)[:, None] / 10000.0 ** (2 * (column // 2) / width)
    return np.where(column % 2, np.cos(angle), np.sin(angle)).astype(np.float32)


class Scores(nn.Module):
    """`LN(W_K k + b) · LN(W_Q q + b)` for every key, in float32 and not scaled."""

    width: int
    std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, keys: jax.Array) -> jax.Array:
        """query `[B, E]`, keys `[B, ..., n, W]` -> `[B, ..., n]` float32."""

        def project(x: jax.Array, name: str) -> jax.Array:
            normal = nn.initializers.normal(self.std)
            dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=normal, dot_general=product, name=name)
            return layer_norm(LN_EPS, f"{name}_norm")(dense(x.astype(self.dtype)))

        q, k = project(query, "query"), project(keys, "key")
        return jnp.einsum("bd,b...d->b...", q, k, precision=jax.lax.Precision.HIGHEST)


class Embed(nn.Module):
    """Dense, GELU, LayerNorm: a modality's features to the width of the sequence."""

    width: int
    std: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, n, W] -> [B, n, D]` float32."""
        normal = nn.initializers.normal(self.std)
        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=normal, dot_general=product, name="dense")
        return layer_norm(LN_EPS, "norm")(gelu(dense(x.astype(self.dtype))))


class ISTALayer(nn.Module):
    """One layer. Rng stream 'dropout' in training; the selectors' noise is given, never drawn here."""

    config: ISTAConfig

    @nn.compact
    def __call__(
        self,
        words: jax.Array | None,
        word_mask: jax.Array | None,
        segments: jax.Array,
        patches: jax.Array,
        query: jax.Array,
        noise: dict[str, jax.Array],
        oracle: jax.Array | None = None,
        train: bool = False,
        selecting: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Selects and attends.

        Args:
            words: `[B, Q, W]` and word_mask `[B, Q]` bool; None without words.
            segments: `[B, K, W]`. patches: `[B, K, T, N, D]`, encoded. query: `[B, E]`.
            noise: Gumbel, `segments [B, k, K]` and `regions [B, F, j, N]` with F = k·T frames, slot by slot; a name
                that is absent stands for no noise.
            oracle: `[B]` int, the segment that an 'oracle' takes in every slot.
            train: with dropout. selecting: whether the selectors act as in training.
        Returns: rows of the sequence `[B, L, D]` float32, words before segments before patches; and the weights
            `segments [B, k, K]`, `regions [B, k, T, j, N]` of the selectors there are.
        """
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        weights: dict[str, jax.Array] = {}
        parts, masks = [], []
        embed = lambda name: Embed(cfg.width, cfg.std, dtype, name=f"embed_{name}")  # noqa: E731
        if cfg.use_words:
            parts, masks = [embed("words")(words)], [word_mask]
        parts.append(embed("segments")(segments))
        if cfg.use_patches:
            picked, weights = self.pick(segments, patches.astype(dtype), query, noise, oracle, selecting)
            parts.append(embed("patches")(picked))
        x = jnp.concatenate(parts, axis=1)
        b, length = x.shape[:2]
        x = x + sinusoids(length, cfg.width)
        if cfg.use_words:
            table = self.param("modality", nn.initializers.normal(cfg.std), (2, cfg.width))
            x = x + jnp.where(jnp.arange(length)[:, None] < words.shape[1], table[0], table[1])
        x = nn.Dropout(cfg.dropout, deterministic=not train)(layer_norm(LN_EPS, "embed_norm")(x))
        masks.append(jnp.ones((b, length - (words.shape[1] if cfg.use_words else 0)), bool))
        mask = jnp.concatenate(masks, axis=1) if cfg.use_words else None
        names = [f"block_{i}" for i in range(cfg.blocks)]
        x = run_post_norm(self, cfg.block, names, x, mask, train, remat=cfg.remat, scan=cfg.scan_layers)
        return x, weights

    def pick(self, segments, patches, query, noise, oracle, selecting):
        """The picked regions `[B, k·T·j, D]`, slot, frame and region in this order, and the selectors' weights."""
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        b, k, t, n, d = patches.shape
        weights: dict[str, jax.Array] = {}
        options = {"train": selecting, "tau": cfg.tau, "pick": cfg.pick}
        if cfg.segment_selector != ALL:
            mode, slots = cfg.segment_selector, cfg.topk
            scores = Scores(cfg.width, cfg.std, dtype, name="segment_select")(query, segments)
            given = None if oracle is None else jnp.broadcast_to(oracle[:, None], (b, slots))
            w = select(
                mode, scores, slots, noise=noise.get("segments"), indices=given, scale=cfg.scale(mode), **options
            )  # fmt: skip
            weights["segments"] = w
            patches = jnp.einsum("bsk,bktnd->bstnd", w.astype(dtype), patches)
            k = slots
        frames = patches.reshape(b, k * t, n, d)
        if cfg.region_selector != ALL:
            mode, slots = cfg.region_selector, cfg.topj
            scores = Scores(cfg.width, cfg.std, dtype, name="region_select")(query, frames)
            w = select(mode, scores, slots, noise=noise.get("regions"), scale=cfg.scale(mode), **options)
            weights["regions"] = w.reshape(b, k, t, slots, n)
            frames = jnp.einsum("bfjn,bfnd->bfjd", w.astype(dtype), frames)
        return frames.reshape(b, -1, d), weights

"""MIST (Gao et al., CVPR 2023, arXiv 2212.09522): questions about long videos, answered from the few segments and
regions that a question asks for.

Parameter tree: `question_bert`, `answer_bert` (two BERTs, not shared), `answer_proj` or `answer_table`,
`encode_vid/{pos1,pos2,bn1,bn2,out}`, `frame_blocks/block_i`, `ista_l` (see `ista`), `fusion`; with towers inside the
step also `clip/{visual,text}`, frozen. Collection `batch_stats`: the two batch norms of `encode_vid`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.sharding import spread_rows
from jaxvl.methods.mist.ista import ALL, ISTAConfig, ISTALayer, needs_noise
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.bert import Bert, BertConfig
from jaxvl.nn.clip import CLIPConfig, TextTower, VisionTower
from jaxvl.nn.initializers import torch_uniform
from jaxvl.nn.products import product
from jaxvl.nn.transformer import run_post_norm
from jaxvl.ops.masking import l2_normalize, masked_mean
from jaxvl.ops.selection import gumbel, gumbel_of

POSITION_DIM = 128
VISUALS = ("all", "segments", "mean", "none")
POOLS = ("cls", "mean", "mean_padded")
READOUTS = ("cls", "mean")
SEGMENT_NORMS = ("none", "segments")
ANSWER_ENCODERS = ("text", "table")
STAGES = ("segments", "regions")

Noise = tuple[dict[str, jax.Array], ...]
"""For each layer the Gumbel noise of its selectors, as `ISTALayer` takes it."""


@dataclasses.dataclass(frozen=True)
class MISTConfig:
    """The model; fields as in `recipe.base`. Hashable. Raises InputError on values that fit nothing.

    ista: of every layer. text: of both BERTs. clip: of the towers inside the step, None for features and vectors that
    come in the batch.
    """

    ista: ISTAConfig = ISTAConfig()  # noqa: RUF009 (frozen)
    text: BertConfig = BertConfig()  # noqa: RUF009 (frozen)
    clip: CLIPConfig | None = None
    towers: tuple[str, ...] = ()
    frames: int = 32
    feature_dim: int = 512
    query_dim: int = 512
    patches: int = 16
    num_layers: int = 2
    num_segments: int = 8
    visual: str = "all"
    patch_positions: bool = True
    regions_include_frame: bool = False
    frame_blocks: int = 0
    segment_norm: str = "none"
    readout: str = "cls"
    answer_pool: str = "cls"
    answer_encoder: str = "text"
    num_answers: int = 171
    num_options: int = 0

    def __post_init__(self):
        for field, known in (
            ("visual", VISUALS), ("answer_pool", POOLS), ("readout", READOUTS), ("segment_norm", SEGMENT_NORMS),
            ("answer_encoder", ANSWER_ENCODERS),
        ):  # fmt: skip
            if getattr(self, field) not in known:
                raise InputError(f"config.model.{field}: {getattr(self, field)!r} is none of {', '.join(known)}")
        if (self.num_answers > 0) == (self.num_options > 0):
            raise InputError("config.model: set one of num_answers (open answers) and num_options (multiple choice)")
        if self.answer_encoder == "table" and self.num_options:
            raise InputError("config.model.answer_encoder: a table knows no options; use 'text'")
        if self.num_segments < 1 or self.frames % self.num_segments:
            raise InputError(f"config.model.num_segments: {self.num_segments} does not divide {self.frames} frames")
        if math.isqrt(self.patches) ** 2 != self.patches:
            raise InputError(f"config.model.patches: {self.patches} is no square number")
        if self.num_layers < 1:
            raise InputError("config.model.num_layers: needs at least 1")
        if self.regions_include_frame and self.feature_dim != self.ista.width:
            raise InputError("config.model.regions_include_frame: needs feature_dim equal to d_model")
        regions = self.patches + self.regions_include_frame
        for field, most, mode in (
            ("topk", self.num_segments, self.ista.segment_selector),
            ("topj", regions, self.ista.region_selector),
        ):
            number = getattr(self.ista, field)
            if mode != ALL and not 1 <= number <= most:
                raise InputError(f"config.model.{field}: {number} is not between 1 and the {most} there are")

    @property
    def stages(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Of each selector there is: its mode, and the shape of its noise without the batch axis."""
        if not self.ista.use_patches:
            return {}
        slots = self.ista.topk if self.ista.segment_selector != ALL else self.num_segments
        frames = slots * self.frames // self.num_segments
        regions = self.patches + self.regions_include_frame
        both = {
            "segments": (self.ista.segment_selector, (self.ista.topk, self.num_segments)),
            "regions": (self.ista.region_selector, (frames, self.ista.topj, regions)),
        }
        return {name: stage for name, stage in both.items() if stage[0] != ALL}

    def sequence_length(self, words: int) -> int:
        """L, rows that attend to each other, for questions of `words` tokens."""
        frames = (self.ista.topk if self.ista.segment_selector != ALL else self.num_segments) * (
            self.frames // self.num_segments
        )
        regions = self.ista.topj if self.ista.region_selector != ALL else self.patches + self.regions_include_frame
        return (
            (words if self.ista.use_words else 0)
            + self.num_segments
            + (frames * regions if self.ista.use_patches else 0)
        )


def draw_noise(
    config: MISTConfig,
    key: jax.Array,
    *,
    train: bool,
    batch: int = 0,
    examples: jax.Array | None = None,
    eval_noise: bool = False,
) -> Noise:
    """Noise of every selector that draws, a key of its own for each layer and stage.

    In training one draw for the `batch`; in evaluation each example's own, by its number in `examples [B]`.
    """
    out = []
    for layer in range(config.num_layers):
        drawn = {}
        for number, name in enumerate(STAGES):
            mode, shape = config.stages.get(name, (ALL, ()))
            if needs_noise(mode, train, eval_noise):
                own = jax.random.fold_in(jax.random.fold_in(key, layer), number)
                drawn[name] = gumbel(own, (batch, *shape)) if train else gumbel_of(own, examples, shape)
        out.append(drawn)
    return tuple(out)


def smallest(config: MISTConfig) -> MISTConfig:
    """The config of the same parameters that costs least to trace: one frame of one patch, one word, nothing drawn."""
    soft = lambda mode: mode if mode == ALL else "logp"  # noqa: E731
    ista, plain = config.ista, ISTAConfig()
    kept = ("width", "heads", "ff_dim", "blocks", "use_words", "use_patches", "std")
    return dataclasses.replace(
        config,
        ista=dataclasses.replace(
            plain, **{name: getattr(ista, name) for name in kept}, topk=1, topj=1, attention="einsum",
            segment_selector=soft(ista.segment_selector), region_selector=soft(ista.region_selector),
        ),
        text=dataclasses.replace(config.text, dtype="float32", remat="none", dropout=0.0, attention="einsum"),
        frames=1, patches=1, num_segments=1, visual="all", regions_include_frame=False, segment_norm="none",
        readout="cls", answer_pool="cls", num_options=0,
        num_answers=config.num_answers if config.answer_encoder == "table" else 1,
    )  # fmt: skip


def initial_variables(config: MISTConfig, rng: jax.Array) -> dict[str, Any]:
    """Parameters and running statistics; no shape of a batch is among what they hang on."""
    cfg = smallest(config)
    word = jnp.zeros((1, 1), jnp.int32)
    batch = {"question": word, "question_vec": jnp.zeros((1, cfg.query_dim)), "question_clip": word}
    batch |= {"frames": jnp.zeros((1, 1, cfg.feature_dim)), "patches": jnp.zeros((1, 1, 1, cfg.feature_dim))}
    if "visual" in cfg.towers:
        picture = jnp.zeros((1, 1, cfg.clip.image_size, cfg.clip.image_size, 3), jnp.uint8)
        batch |= {"pixels": picture, "tiles": picture}
    return dict(MIST(cfg).init(rng, batch, word))


def tile_boxes(patches: int) -> np.ndarray:
    """`[N, 5]` float32: left, top, right, bottom and area of each tile in shares of the picture, row by row. The area
    counts one pixel too many on both sides, as published (225² / 896² for 4x4 tiles of 224)."""
    side, tile = math.isqrt(patches), 224
    y, x = (v.ravel() for v in np.mgrid[:side, :side])
    area = np.full(patches, (tile + 1.0) ** 2 / (tile * side) ** 2)
    return np.stack([x / side, y / side, (x + 1) / side, (y + 1) / side, area], 1).astype(np.float32)


class PatchEncoder(nn.Module):
    """Patch vectors with their places in the picture: `ELU(W [patch, pos] + b)`, pos from two 1x1 convolutions with
    batch norm over the tiles' boxes (section 3.2 of the specification).

    The boxes are the same for every frame, so pos is computed for the N tiles of one frame and its share of the output
    added to all of them; the statistics of the batch norms count every frame. positions: False leaves pos out.
    """

    width: int
    std: float
    positions: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, patches: jax.Array, train: bool = False) -> jax.Array:
        """`[B, T, N, F] -> [B, T, N, D]` in `dtype`."""
        b, t, n, features = patches.shape
        pos = self.places(n, b * t, train) if self.positions else jnp.zeros((n, 0))
        kernel, bias = _Joined((features + pos.shape[-1], self.width), self.std, name="out")()
        y = product(patches.astype(self.dtype), kernel[:features].astype(self.dtype))
        y = y.astype(jnp.float32) + (pos @ kernel[features:] + bias)
        return nn.elu(y).astype(self.dtype)

    def places(self, patches: int, frames: int, train: bool) -> jax.Array:
        """`[N, 128]` of the tiles' boxes, which stand in the batch once for each of its frames."""
        pos = jnp.asarray(tile_boxes(patches))
        for i in (1, 2):
            init = torch_uniform(pos.shape[-1])
            pos = nn.Dense(POSITION_DIM, kernel_init=init, bias_init=init, name=f"pos{i}")(pos)
            pos = nn.relu(BatchNorm(repeats=frames, name=f"bn{i}")(pos, train))
        return pos


class _Joined(nn.Module):
    shape: tuple[int, int]
    std: float

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias of a linear layer whose input comes in parts."""
        kernel = self.param("kernel", nn.initializers.normal(self.std), self.shape)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[1:])


class FrameBlocks(nn.Module):
    """Transformer blocks over the frames of a segment, for each patch position apart."""

    config: MISTConfig

    @nn.compact
    def __call__(self, patches: jax.Array, train: bool = False) -> jax.Array:
        """`[B, K, T, N, D] -> [B, K, T, N, D]`."""
        cfg = self.config.ista
        b, k, t, n, d = patches.shape
        x = patches.swapaxes(2, 3).reshape(b * k * n, t, d).astype(jnp.float32)
        names = [f"block_{i}" for i in range(self.config.frame_blocks)]
        x = run_post_norm(self, cfg.block, names, x, None, train, remat=cfg.remat, scan=cfg.scan_layers)
        return x.reshape(b, k, n, t, d).swapaxes(2, 3)


class Towers(nn.Module):
    """The frozen CLIP inside the step: no gradient reaches it."""

    config: CLIPConfig
    which: tuple[str, ...]

    def setup(self):
        """Declares the towers that are used."""
        if "visual" in self.which:
            self.visual = VisionTower(self.config)
        if "text" in self.which:
            self.text = TextTower(self.config)

    def sentence(self, ids: jax.Array) -> jax.Array:
        """`[B, 77] -> [B, E]`."""
        return jax.lax.stop_gradient(self.text(ids).features)

    def pictures(self, pixels: jax.Array, tiles: jax.Array, patches: int) -> tuple[jax.Array, jax.Array]:
        """1 + N pictures a frame: pixels `[B, T, R, R, 3]`, tiles `[B, T, gR, gR, 3]` -> frames `[B, T, E]`, patches
        `[B, T, N, E]`."""
        b, t, r = pixels.shape[:3]
        g = math.isqrt(patches)
        cut = tiles.reshape(b, t, g, r, g, r, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, patches, r, r, 3)
        every = jnp.concatenate([pixels[:, :, None], cut], axis=2).reshape(-1, r, r, 3)
        features = jax.lax.stop_gradient(self.visual(every).features).reshape(b, t, 1 + patches, -1)
        return features[:, :, 0], features[:, :, 1:]


class MIST(nn.Module):
    """The whole model. Rng stream 'dropout' in training."""

    config: MISTConfig

    def setup(self):
        """Declares the parts that the config uses."""
        cfg, ista = self.config, self.config.ista
        if ista.use_words:
            self.question_bert = Bert(cfg.text)
        if cfg.answer_encoder == "text":
            self.answer_bert = Bert(cfg.text)
            init = torch_uniform(cfg.text.width)
            self.answer_proj = nn.Dense(ista.width, dtype=jnp.dtype(ista.dtype), kernel_init=init, bias_init=init)
        else:
            self.answer_table = self.param(
                "answer_table", nn.initializers.normal(ista.std), (cfg.num_answers, ista.width)
            )
        if ista.use_patches:
            self.encode_vid = PatchEncoder(ista.width, ista.std, cfg.patch_positions, jnp.dtype(ista.dtype))
            if cfg.frame_blocks:
                self.frame_blocks = FrameBlocks(cfg)
        self.ista = [ISTALayer(ista) for _ in range(cfg.num_layers)]
        self.fusion = nn.Dense(ista.width, dtype=jnp.dtype(ista.dtype), kernel_init=nn.initializers.normal(ista.std))
        self.fusion_dropout = nn.Dropout(ista.dropout)
        if cfg.towers:
            self.clip = Towers(cfg.clip, cfg.towers)

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        answer_ids: jax.Array | None,
        noise: Noise | None = None,
        train: bool = False,
        selecting: bool | None = None,
        longest: int | None = None,
    ) -> dict[str, jax.Array]:
        """Scores the answers.

        Args:
            batch: device fields of the stream, as in `recipe`.
            answer_ids: `[V, A]` int, the open vocabulary; not read where there are options or a table.
            noise: of the selectors, see `draw_noise`; None: none.
            train: with dropout and the statistics of the batch.
            selecting: whether selectors act as in training; None: as `train`.
            longest: of 'mean_padded', the tokens of the longest text in the batch; None: A.
        Returns: `logits [B, V or O]` float32, `segment_weights_l`, `region_weights_l` (see `recipe`).
        """
        encoded = self.encode(batch, train)
        answers = self.answers(batch.get("options") if self.config.num_options else answer_ids, train, longest)
        return self.answer(encoded, answers, batch, noise, train, selecting)

    def encode(self, batch: Mapping[str, jax.Array], train: bool = False) -> dict[str, Any]:
        """All that no selection touches: `patches [B, K, T, N, D]`, `segments [B, K, F]`, `query [B, E]`, `words
        [B, Q, W]` with `word_mask`."""
        cfg = self.config
        if "visual" in cfg.towers:
            frames, patches = self.clip.pictures(batch["pixels"], batch["tiles"], cfg.patches)
        else:
            frames, patches = batch["frames"], batch["patches"]
        self._check(frames, patches)
        frames = frames.astype(jnp.float32)
        if cfg.visual in ("mean", "none"):
            share = 0.0 if cfg.visual == "none" else 1.0
            patches = jnp.broadcast_to(share * patches.astype(jnp.float32).mean((1, 2), keepdims=True), patches.shape)
            frames = jnp.broadcast_to(share * frames.mean(1, keepdims=True), frames.shape)
        b, k, t = frames.shape[0], cfg.num_segments, cfg.frames // cfg.num_segments
        slip = cfg.segment_norm == "segments"  # NExT-QA's code normalises no frame, and then along the wrong axis
        segments = (frames if slip else l2_normalize(frames)).reshape(b, k, t, -1).mean(2)
        if slip:
            segments = l2_normalize(segments, axis=1)
        query = self.clip.sentence(batch["question_clip"]) if "text" in cfg.towers else batch["question_vec"]
        out = {"segments": segments, "query": jax.lax.stop_gradient(l2_normalize(query)), "patches": None}
        if cfg.ista.use_patches:
            encoded = self.encode_vid(patches, train)
            encoded = encoded.reshape(b, k, t, *encoded.shape[2:])
            if cfg.frame_blocks:
                encoded = self.frame_blocks(encoded, train)
            if cfg.regions_include_frame:
                whole = frames.reshape(b, k, t, 1, -1).astype(encoded.dtype)
                encoded = jnp.concatenate([encoded, whole], axis=3)
            out["patches"] = encoded
        mask = batch["question"] > 0 if cfg.ista.use_words else None
        words = self.question_bert(batch["question"], mask, train=train).tokens if cfg.ista.use_words else None
        return {**out, "words": words, "word_mask": mask}

    def answers(self, ids: jax.Array | None, train: bool = False, longest: int | None = None) -> jax.Array:
        """Answer vectors: ids `[V, A]` -> `[V, D]`, rows spread over the mesh and gathered; options `[B, O, A]` ->
        `[B, O, D]`. float32."""
        cfg = self.config
        if cfg.answer_encoder == "table":
            return self.answer_table
        if cfg.num_options:
            return self._texts(ids.reshape(-1, ids.shape[-1]), train, longest).reshape(*ids.shape[:2], -1)
        return spread_rows(lambda rows: self._texts(rows, train, longest), ids)

    def _texts(self, ids: jax.Array, train: bool, longest: int | None) -> jax.Array:
        mask = ids > 0
        tokens = self.answer_bert(ids, mask, train=train).tokens
        if self.config.answer_pool == "cls":
            return self.answer_proj(tokens[:, 0]).astype(jnp.float32)
        if self.config.answer_pool == "mean_padded":
            mask = jnp.broadcast_to(jnp.arange(ids.shape[1]) < (longest or ids.shape[1]), ids.shape)
        return self.answer_proj(masked_mean(tokens, mask, axis=1)).astype(jnp.float32)

    def answer(
        self,
        encoded: Mapping[str, Any],
        answers: jax.Array,
        batch: Mapping[str, jax.Array],
        noise: Noise | None = None,
        train: bool = False,
        selecting: bool | None = None,
    ) -> dict[str, jax.Array]:
        """The layers over what `encode` gave, and the scores of what `answers` gave."""
        cfg = self.config
        words, segments = encoded["words"], encoded["segments"]
        out: dict[str, jax.Array] = {}
        total = 0.0
        for i, layer in enumerate(self.ista):
            rows, weights = layer(
                words, encoded["word_mask"], segments, encoded["patches"], encoded["query"],
                {} if noise is None else noise[i], batch.get("segment"), train,
                train if selecting is None else selecting,
            )  # fmt: skip
            q = words.shape[1] if cfg.ista.use_words else 0
            words, segments = rows[:, :q], rows[:, q : q + cfg.num_segments]
            total = total + (rows[:, 0] if cfg.readout == "cls" else rows.mean(1))
            out |= {f"{name.removesuffix('s')}_weights_{i}": w for name, w in weights.items()}
        fused = self.fusion(self.fusion_dropout(total, deterministic=not train)).astype(jnp.float32)
        pairs = "bd,bod->bo" if cfg.num_options else "bd,vd->bv"
        logits = jnp.einsum(pairs, fused, answers, precision=jax.lax.Precision.HIGHEST)
        return {"logits": logits, **out}

    def _check(self, frames: jax.Array, patches: jax.Array) -> None:
        cfg = self.config
        expected = (frames.shape[0], cfg.frames, cfg.patches, cfg.feature_dim)
        if frames.shape[1:] != (cfg.frames, cfg.feature_dim) or patches.shape != expected:
            raise InputError(
                f"features: frames {frames.shape} and patches {patches.shape}, but the config has {cfg.frames} frames "
                f"of {cfg.patches} patches, {cfg.feature_dim} wide"
            )

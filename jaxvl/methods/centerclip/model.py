"""CenterCLIP (Zhao et al., SIGIR 2022, arXiv 2205.00823): CLIP with token clustering inside the image tower."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.methods.centerclip.reduce import (
    ReduceConfig,
    Reduction,
    check_algorithm,
    reduction_plan,
    video_hooks,
)
from jaxvl.nn.clip import CLIPConfig, TextTower, VisionTower
from jaxvl.nn.video_heads import HEADS, SequenceLSTM, SequenceTransformer, TightTransformer


@dataclasses.dataclass(frozen=True)
class CenterCLIPConfig:
    """A CLIP, the number of frames T, and where and how tokens are reduced. Hashable.

    target_frames: sequences a video, from each block on; cluster_num: patch tokens a sequence, from each block on;
    one entry a block (`reduce.schedule` writes both from 'B6-4,49'). Both None: no reduction.
    head: what compares text with segments, one of `jaxvl.nn.video_heads.HEADS`; its blocks and norm epsilon.
    Raises InputError when the lists cannot be carried out.
    """

    clip: CLIPConfig = CLIPConfig()  # noqa: RUF009 (frozen)
    frames: int = 12
    target_frames: tuple[int, ...] | None = None
    cluster_num: tuple[int, ...] | None = None
    reduce: ReduceConfig = ReduceConfig()  # noqa: RUF009 (frozen)
    head: str = "meanP"
    head_layers: int = 4
    head_ln_eps: float = 1e-12

    def __post_init__(self):
        if (self.target_frames is None) != (self.cluster_num is None):
            raise InputError("target_frames and cluster_num go together: give both lists or neither")
        for name in ("target_frames", "cluster_num"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(int(v) for v in value))
        check_algorithm(self.reduce, self.plan, self.clip.patches)
        if self.head not in HEADS:
            raise InputError(f"config.model.head: {self.head!r} is none of {', '.join(HEADS)}")
        if self.head in ("seqTransf", "tightTransf") and self.clip.embed_dim % self.clip.text_heads:
            raise InputError(f"config.model.head: {self.head} needs an embed_dim that text_heads divides")

    @property
    def plan(self) -> tuple[Reduction, ...]:
        """The reduction points, in order."""
        if self.target_frames is None:
            return ()
        return reduction_plan(
            self.target_frames,
            self.cluster_num,
            frames=self.frames,
            patches=self.clip.patches,
            layers=self.clip.vision_layers,
        )

    @property
    def segments(self) -> int:
        """S, the number of features a video ends with."""
        return self.plan[-1].frames_after if self.plan else self.frames


def segment_mask(mask: jax.Array, segments: int) -> jax.Array:
    """Mask of the last frame of each segment: `[B, T]` -> `[B, S]` bool.

    A video with no valid segment under that rule (shorter than one segment) counts its first one as valid.
    """
    per_segment = mask.shape[1] // segments
    valid = mask.astype(bool)[:, per_segment - 1 :: per_segment][:, :segments]
    none = ~valid.any(axis=1, keepdims=True)
    return valid | (none & (jnp.arange(segments) == 0))


class CenterCLIP(nn.Module):
    """CLIP's towers at the top level of the parameter tree; the only additions are `visual/reduce_{a}/cluster_embed`
    with `reduce.cluster_embedding`, a being the 0-based block that reads the reduced tokens."""

    config: CenterCLIPConfig

    def setup(self):
        """Declares the towers and the temperature."""
        clip = self.config.clip
        self.visual = VisionTower(clip)
        self.text = TextTower(clip)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(clip.logit_scale_init), ())
        cfg = self.config
        if cfg.head == "seqTransf":
            self.head = SequenceTransformer(
                clip.text_heads,
                cfg.head_layers,
                cfg.head_ln_eps,
                positions=clip.context_length,
                scan_layers=clip.scan_layers,
            )
        elif cfg.head == "seqLSTM":
            self.head = SequenceLSTM()
        elif cfg.head == "tightTransf":
            self.head = TightTransformer(
                clip.text_heads,
                cfg.head_layers,
                cfg.head_ln_eps,
                positions=clip.context_length,
                scan_layers=clip.scan_layers,
            )

    def encode_video(
        self, frames: jax.Array, mask: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Encodes videos.

        Args:
            frames: `[B, T, R, R, 3]`, uint8 RGB (or float already normalised).
            mask: `[B, T]`, non-zero on real frames.
            train: draws of 'sparse_sampling' and 'random' come from the rng stream 'reduce'.
        Returns: segments `[B, S, E]` float32, not normalised; their mask `[B, S]` bool; aux: `medoids_block{a}`
            `[B, S, K]`, `assign_block{a}`, `iterations_block{a}` (see `reduce.TokenReducer`), which
            `reduce.token_positions` turns into frame, y and x.
        """
        cfg = self.config
        batch, t = frames.shape[:2]
        if t != cfg.frames or mask.shape != (batch, t):
            raise InputError(
                f"frames: shape {frames.shape} with mask {mask.shape}; the model takes {cfg.frames} frames"
            )
        aux: dict[str, jax.Array] = {}
        hooks = video_hooks(cfg.reduce, cfg.plan, t, train, aux)
        pixels = frames.reshape(batch * t, *frames.shape[2:])
        features = self.visual(pixels, **hooks, frame_mask=mask).features
        segments = features.reshape(batch, cfg.segments, -1)
        valid = segment_mask(mask, cfg.segments)
        if cfg.head in ("seqTransf", "seqLSTM"):
            segments = self.head(segments, valid)
        return segments, valid, aux

    def score_pairs(self, text: jax.Array, segments: jax.Array, valid: jax.Array, train: bool = False) -> jax.Array:
        """Scores `[Bt, Bv]` of tightTransf for text `[Bt, E]` and segments `[Bv, S, E]` with mask `[Bv, S]`."""
        return self.head(text, segments, valid, train)

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """ids `[B, L]` int -> text features `[B, E]` float32, not normalised."""
        return self.text(ids).features

    def __call__(self, frames: jax.Array, mask: jax.Array, ids: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Both towers on one batch: `segments`, `segment_mask`, `text`, `logit_scale` and the aux of `encode_video`."""
        segments, valid, aux = self.encode_video(frames, mask, train)
        text = self.encode_text(ids)
        if self.config.head == "tightTransf" and self.is_initializing():
            self.score_pairs(text, segments, valid)
        return {"segments": segments, "segment_mask": valid, "text": text, "logit_scale": self.logit_scale, **aux}


def init_cluster_embed(params: dict) -> dict:
    """Params with every `visual/reduce_{a}/cluster_embed [K, W]` set to CLIP's positional rows 1..K.

    To be called after pre-trained weights are in place. Raises InputError when K exceeds the positions.
    """
    visual = dict(params["visual"])
    positions = visual["positional_embedding"]
    for name, leaf in visual.items():
        if name.startswith("reduce_"):
            k = leaf["cluster_embed"].shape[0]
            if k + 1 > positions.shape[0]:
                raise InputError(f"reduce.cluster_embedding: {k} centers but only {positions.shape[0] - 1} positions")
            visual[name] = {**leaf, "cluster_embed": positions[1 : k + 1]}
    return {**params, "visual": visual}

"""CLIP's image and text towers (Radford et al., ICML 2021, arXiv 2103.00020).

Parameter tree (stored unstacked, so that methods may act between blocks):

    visual/{patch_embed/kernel, class_embedding, positional_embedding, ln_pre, resblocks_i/..., ln_post, proj}
    text/{token_embedding/embedding, positional_embedding, resblocks_i/..., ln_final, text_projection}
    logit_scale

`linear_patch='3d'` adds `visual/patch_embed/kernel_around`. With a modified ResNet as image tower (RN50) `visual/` is
as described in `jaxvl.nn.clip_resnet`, and the collection `batch_stats` holds its running statistics.

Parameters are float32; matmuls run in `CLIPConfig.dtype`; residual stream, LayerNorm and softmax in float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.nn.attention import ATTENTION_IMPLEMENTATIONS
from jaxvl.nn.clip_resnet import STRIDE, ModifiedResNet
from jaxvl.nn.transformer import (
    ACTIVATIONS,
    MOST_BLOCKS,
    ResidualBlock,
    largest,
    layer_norm,
    remat_policy,
    run_blocks,
    runs,
)

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

LINEAR_PATCHES = ("2d", "3d")
KINDS = {
    "int": Integral,
    "int | None": Integral | None,
    "float": Real,
    "str": str,
    "bool": bool,
    "tuple[int, ...]": tuple | list,
}
"""What fields of `CLIPConfig` may hold, by their annotation."""

BlockHook = Callable[[int, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes and numerics of a CLIP; the defaults are ViT-B/32. Hashable.

    image_size, patch_size: pixels, square. vision_*: width W, blocks and heads of the image tower.
    vocab_size, context_length, text_*: the same for the text tower. embed_dim: E, the joint space.
    activation: 'quick_gelu' (OpenAI) or 'gelu' (erf, open_clip without `-quickgelu`).
    eos_token_id: None pools the text at `argmax(ids)` (OpenAI: the end token has the highest id); a number
        pools at the first position that holds it.
    dtype: of the matmuls, 'float32' or 'bfloat16'. remat: 'none' | 'dots' | 'full', per block.
    attention: 'auto' | 'einsum' | 'xla' | 'cudnn' (see `jaxvl.nn.attention`).
    scan_layers: alike blocks in a row become a loop, which compiles in a fraction of the time (see
        `transformer.run_blocks`). frozen_layers: the blocks below are not trained, so they are a loop of their own.
    logit_scale_init: initial log-temperature, `ln(1/0.07)` in the paper.
    linear_patch: '2d', or '3d' for CLIP4Clip's patches of three frames (see `PatchEmbed`), which need videos.
    vision_blocks: empty for a vision transformer. Else the image tower is CLIP's modified ResNet with so many blocks
        in each of four stages; then vision_width is that of its stem, vision_heads those of its attention pool,
        patch_size its total stride 32 and vision_layers has no meaning.
    Raises InputError on values that fit nothing.
    """

    image_size: int = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vocab_size: int = 49408
    context_length: int = 77
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    embed_dim: int = 512
    activation: str = "quick_gelu"
    ln_eps: float = 1e-5
    eos_token_id: int | None = None
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    logit_scale_init: float = math.log(1 / 0.07)
    linear_patch: str = "2d"
    vision_blocks: tuple[int, ...] = ()
    scan_layers: bool = False
    frozen_layers: int = 0

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype).name)
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), KINDS[field.type]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise InputError(f"clip.{field.name} {value!r} is not of type {field.type}")
            least = int(field.name != "frozen_layers")
            if field.type == "int" and not least <= value <= largest(field.name):
                raise InputError(f"clip.{field.name} {value} is not from {least} to {largest(field.name)}")
        object.__setattr__(self, "vision_blocks", tuple(self.vision_blocks))
        if not all(type(n) is int and 1 <= n <= MOST_BLOCKS for n in self.vision_blocks):
            raise InputError(f"clip.vision_blocks {self.vision_blocks}: each is a number of blocks, 1 to {MOST_BLOCKS}")
        if not 0 < self.ln_eps < 1 or not math.isfinite(self.logit_scale_init):
            raise InputError(f"clip.ln_eps {self.ln_eps} is not in (0, 1), or clip.logit_scale_init is not finite")
        if self.eos_token_id is not None and not 0 <= self.eos_token_id < self.vocab_size:
            raise InputError(f"clip.eos_token_id {self.eos_token_id} is no id of a vocabulary of {self.vocab_size}")
        if self.vision_blocks and (len(self.vision_blocks) != 4 or self.patch_size != STRIDE):
            raise InputError(f"clip.vision_blocks {self.vision_blocks}: a ResNet has 4 stages and patch_size {STRIDE}")
        if self.linear_patch not in LINEAR_PATCHES:
            raise InputError(f"clip.linear_patch {self.linear_patch!r} is unknown; use one of {LINEAR_PATCHES}")
        if self.vision_blocks and self.linear_patch == "3d":
            raise InputError("clip.linear_patch '3d': a ResNet has no patches; use '2d' or a ViT")
        if self.image_size % self.patch_size:
            raise InputError(f"clip.image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            width *= 32 if tower == "vision" and self.vision_blocks else 1
            if width % heads:
                raise InputError(f"clip.{tower}_width {width} is not a multiple of {tower}_heads {heads}")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"clip.activation {self.activation!r} is unknown; use one of {tuple(ACTIVATIONS)}")
        if self.attention not in ATTENTION_IMPLEMENTATIONS:
            raise InputError(f"clip.attention {self.attention!r} is unknown; use one of {ATTENTION_IMPLEMENTATIONS}")
        remat_policy(self.remat)

    @property
    def grid(self) -> int:
        """Patches along one side, g."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patch tokens of an image, g²."""
        return self.grid**2


_LARGE = CLIPConfig(
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    text_width=768,
    text_heads=12,
    embed_dim=768,
)
CLIP_PRESETS: dict[str, CLIPConfig] = {
    "ViT-B/32": CLIPConfig(),
    "ViT-B/16": CLIPConfig(patch_size=16),
    "ViT-L/14": _LARGE,
    "ViT-L/14@336px": dataclasses.replace(_LARGE, image_size=336),
    "RN50": CLIPConfig(patch_size=STRIDE, vision_width=64, vision_heads=32, embed_dim=1024, vision_blocks=(3, 4, 6, 3)),
    "tiny": CLIPConfig(
        image_size=32,
        patch_size=8,
        vision_width=64,
        vision_layers=3,
        vision_heads=4,
        context_length=32,
        text_width=64,
        text_layers=2,
        text_heads=4,
        embed_dim=64,
    ),
}
"""Published sizes by name, and 'tiny' for tests and quickstarts. Adapt with `dataclasses.replace`."""


class VisionOutput(NamedTuple):
    """What the image tower gives for N images (a hook may have changed N and the number of tokens n).

    features: `[N, E]`, class token through `ln_post` and `proj`, not normalised.
    tokens: `[N, n, W]` stream after the last block, class token first; None unless asked for.
    projected: `[N, n, E]` the same through `ln_post` and `proj`; None unless asked for.
    layers: block number -> stream after that block; 0 is the stream before block 1.
    """

    features: jax.Array
    tokens: jax.Array | None = None
    projected: jax.Array | None = None
    layers: Mapping[int, jax.Array] = {}


class TextOutput(NamedTuple):
    """features `[B, E]`; tokens `[B, L, Wt]` after `ln_final` and projected `[B, L, E]`, None unless asked for; layers:
    block number -> stream `[B, L, Wt]` after that block, 0 the sum of embeddings and positions."""

    features: jax.Array
    tokens: jax.Array | None = None
    projected: jax.Array | None = None
    layers: Mapping[int, jax.Array] = {}


def normalize_pixels(pixels: jax.Array) -> jax.Array:
    """uint8 RGB `[..., 3]` -> float32: `/255`, minus CLIP's mean, over CLIP's std, per channel."""
    scaled = pixels.astype(jnp.float32) / 255.0
    return (scaled - np.asarray(PIXEL_MEAN, np.float32)) / np.asarray(PIXEL_STD, np.float32)


def patchify(pixels: jax.Array, patch: int) -> jax.Array:
    """`[N, R, R, C] -> [N, g², p·p·C]`, patches row-major, pixels of a patch row-major with channels last."""
    n, height, width, channels = pixels.shape
    x = pixels.reshape(n, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch * patch * channels)


class PatchEmbed(nn.Module):
    """p×p convolution of stride p without bias, as one matmul; kernel `[p, p, 3, W]`.

    around: CLIP4Clip's `linear_patch='3d'` (arXiv 2104.08860): 3×p×p, stride 1 over the frames of a
        video. The slices of the frame before and of the frame after are `kernel_around [2, p, p, 3, W]`, zero at the
        start, so that a 3d model starts as the 2d one. What lies outside the video or behind its mask counts as zero.
    """

    patch: int
    width: int
    dtype: jnp.dtype = jnp.float32
    around: bool = False

    @nn.compact
    def __call__(self, pixels: jax.Array, frame_mask: jax.Array | None = None) -> jax.Array:
        """uint8 RGB or normalised float `[N, R, R, 3]` -> `[N, g², W]` in `dtype`.

        frame_mask: `[B, T]` with `B·T = N`, frames of a video consecutive; read with `around` only.
        """
        bound = (self.patch * self.patch * 3) ** -0.5  # PyTorch's default for a convolution

        def init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", init, (self.patch, self.patch, 3, self.width))
        x = patchify(pixels, self.patch)  # before the conversion: moves one byte a value
        if x.dtype == jnp.uint8:
            x = normalize_pixels(x.reshape(*x.shape[:-1], -1, 3)).reshape(x.shape)
        x = x.astype(self.dtype)
        if not self.around:
            return x @ kernel.reshape(-1, self.width).astype(self.dtype)
        if frame_mask is None or frame_mask.size != x.shape[0]:
            shape = None if frame_mask is None else frame_mask.shape
            raise InputError(f"clip.linear_patch '3d': {x.shape[0]} images need their frame_mask [B, T], got {shape}")
        outer = self.param("kernel_around", nn.initializers.zeros, (2, *kernel.shape))
        slices = [k.reshape(-1, self.width) for k in (outer[0], kernel, outer[1])]
        y = jnp.dot(x, jnp.concatenate(slices, 1).astype(self.dtype), preferred_element_type=jnp.float32)
        y = y.reshape(*frame_mask.shape, x.shape[1], 3, self.width)
        valid = frame_mask.astype(bool)[:, :, None, None]
        to_next, to_previous = (jnp.where(valid, y[:, :, :, i], 0.0) for i in (0, 2))
        edge = ((0, 0), (1, 1), (0, 0), (0, 0))
        total = jnp.pad(to_next, edge)[:, :-2] + y[:, :, :, 1] + jnp.pad(to_previous, edge)[:, 2:]
        return total.reshape(*x.shape[:2], self.width).astype(self.dtype)


def _block(cfg: CLIPConfig, heads: int, layers: int, **more: Any) -> dict[str, Any]:
    """Fields of a tower's `ResidualBlock`."""
    same = dict(activation=cfg.activation, ln_eps=cfg.ln_eps, dtype=jnp.dtype(cfg.dtype), implementation=cfg.attention)
    return dict(heads=heads, layers=layers, **same, **more)


class VisionTower(nn.Module):
    """CLIP's vision transformer (see `VisionOutput`)."""

    config: CLIPConfig

    @nn.compact
    def __call__(
        self,
        pixels: jax.Array,
        *,
        return_tokens: bool = False,
        return_layers: Sequence[int] = (),
        block_hook: BlockHook | None = None,
        hooked: Collection[int] | None = None,
        between_hook: BlockHook | None = None,
        pos_embed: jax.Array | None = None,
        frame_mask: jax.Array | None = None,
    ) -> VisionOutput:
        """Encodes images.

        Args:
            pixels: `[N, R, R, 3]`, uint8 RGB, or float already normalised.
            return_tokens: also give all tokens, raw and projected.
            return_layers: block numbers whose output stream is wanted (0: the input of block 1).
            block_hook: `(i, x [N, n, W]) -> x`, called before block i (from 1); may change N and n. Modules
                that it creates become children of this one.
            hooked: blocks before which `block_hook` is called; None: all. With `scan_layers` those in between are a
                loop.
            between_hook: `(i, x) -> x` of the same shape, called in block i between attention and MLP.
            pos_embed: `[n, W]` in place of the parameter (other resolutions).
            frame_mask: `[B, T]`, non-zero on real frames, when the N = B·T images are frames of videos;
                `linear_patch='3d'` needs it, nothing else reads it.
        """
        cfg = self.config
        if cfg.vision_blocks:
            raise InputError("clip.vision_blocks: this model needs the tokens of a vision transformer; use a ViT")
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.shape[1] % cfg.patch_size:
            raise InputError(f"pixels: shape {pixels.shape} is not [N, R, R, 3] with R a multiple of {cfg.patch_size}")
        width, dtype, normal = cfg.vision_width, jnp.dtype(cfg.dtype), nn.initializers.normal
        embed = PatchEmbed(cfg.patch_size, width, dtype, cfg.linear_patch == "3d", name="patch_embed")
        x = embed(pixels, frame_mask).astype(jnp.float32)
        cls = self.param("class_embedding", normal(width**-0.5), (width,))
        positions = self.param("positional_embedding", normal(width**-0.5), (cfg.patches + 1, width))
        positions = positions if pos_embed is None else pos_embed
        if positions.shape[0] != x.shape[1] + 1:
            raise InputError(
                f"pixels: {x.shape[1]} patches but {positions.shape[0] - 1} positions; "
                f"resize the images to {cfg.image_size} or interpolate the positional embedding"
            )
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, width)), x], axis=1) + positions
        x = layer_norm(cfg.ln_eps, "ln_pre")(x)

        layers = {0: x} if 0 in return_layers else {}
        every = range(1, cfg.vision_layers + 1)
        hooked = () if block_hook is None else every if hooked is None else hooked
        alone = range(cfg.vision_layers) if between_hook is not None or not cfg.scan_layers else ()
        for run in runs(cfg.vision_layers, {*alone, *(i - 1 for i in hooked), *return_layers, cfg.frozen_layers}):
            if run.start + 1 in hooked:
                x = block_hook(run.start + 1, x)
            between = None if between_hook is None else _bind(between_hook, run.start + 1)
            fields = _block(cfg, cfg.vision_heads, cfg.vision_layers, between=between)
            names = [f"resblocks_{i}" for i in run]
            x = run_blocks(self, ResidualBlock, fields, names, x, remat=cfg.remat, scan=cfg.scan_layers)
            if run.stop in return_layers:
                layers[run.stop] = x

        post = layer_norm(cfg.ln_eps, "ln_post")
        proj = self.param("proj", normal(width**-0.5), (width, cfg.embed_dim))
        if not return_tokens:
            return VisionOutput(_project(post(x[:, 0]), proj, dtype), layers=layers)
        projected = _project(post(x), proj, dtype)
        return VisionOutput(projected[:, 0], x, projected, layers)


class TextTower(nn.Module):
    """CLIP's causal text transformer (see `TextOutput`). Needs no padding mask: padding follows the end token."""

    config: CLIPConfig

    @nn.compact
    def __call__(self, ids: jax.Array, *, return_tokens: bool = False, return_layers: Sequence[int] = ()) -> TextOutput:
        """ids `[B, L]` int, L <= context_length, padded behind the end token -> features `[B, E]`.

        return_layers: block numbers whose output stream is wanted (0: the input of block 1).
        """
        cfg = self.config
        length, width, dtype, normal = ids.shape[1], cfg.text_width, jnp.dtype(cfg.dtype), nn.initializers.normal
        if length > cfg.context_length:
            raise InputError(f"text: {length} tokens but context_length is {cfg.context_length}; shorten max_words")
        embed = nn.Embed(cfg.vocab_size, width, embedding_init=normal(0.02), name="token_embedding")
        positions = self.param("positional_embedding", normal(0.01), (cfg.context_length, width))
        x = embed(ids) + positions[:length]
        layers = {0: x} if 0 in return_layers else {}
        fields = _block(cfg, cfg.text_heads, cfg.text_layers, causal=True)
        for run in runs(cfg.text_layers, {*return_layers, cfg.frozen_layers}):
            names = [f"resblocks_{i}" for i in run]
            x = run_blocks(self, ResidualBlock, fields, names, x, remat=cfg.remat, scan=cfg.scan_layers)
            if run.stop in return_layers:
                layers[run.stop] = x
        norm = layer_norm(cfg.ln_eps, "ln_final")
        proj = self.param("text_projection", normal(width**-0.5), (width, cfg.embed_dim))
        end = end_of_text(ids, cfg.eos_token_id)
        if not return_tokens:  # LayerNorm acts per token: pooling first is the same and cheaper
            pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
            return TextOutput(_project(norm(pooled), proj, dtype), layers=layers)
        x = norm(x)
        projected = _project(x, proj, dtype)
        return TextOutput(jnp.take_along_axis(projected, end[:, None, None], axis=1)[:, 0], x, projected, layers)


class CLIP(nn.Module):
    """Both towers and the log-temperature, under the canonical names."""

    config: CLIPConfig

    def setup(self):
        """Declares the towers and the temperature."""
        self.visual = image_tower(self.config)
        self.text = TextTower(self.config)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(self.config.logit_scale_init), ())

    def encode_image(self, pixels: jax.Array, **options) -> VisionOutput:
        """`VisionTower.__call__`; with a ResNet the features only, and `train` as option."""
        if isinstance(self.visual, ModifiedResNet):
            if pixels.dtype == jnp.uint8:
                pixels = normalize_pixels(pixels)
            return VisionOutput(self.visual(pixels, **options))
        return self.visual(pixels, **options)

    def encode_text(self, ids: jax.Array, **options) -> TextOutput:
        """`TextTower.__call__`."""
        return self.text(ids, **options)

    def __call__(self, pixels: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """pixels `[N, R, R, 3]`, ids `[B, L]` -> (image `[N, E]`, text `[B, E]`, logit_scale `[]`), not normalised."""
        return self.encode_image(pixels).features, self.text(ids).features, self.logit_scale


def image_tower(cfg: CLIPConfig) -> VisionTower | ModifiedResNet:
    """The image tower of a config."""
    if not cfg.vision_blocks:
        return VisionTower(cfg)
    return ModifiedResNet(
        cfg.vision_blocks, cfg.vision_width, cfg.vision_heads, cfg.embed_dim, cfg.image_size, jnp.dtype(cfg.dtype)
    )


def end_of_text(ids: jax.Array, eos_token_id: int | None = None) -> jax.Array:
    """Position `[B]` of the end token in ids `[B, L]`: the first highest id, or the first `eos_token_id`."""
    return jnp.argmax(ids if eos_token_id is None else ids == eos_token_id, axis=-1)


def _project(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x @ kernel` in `dtype`, result float32."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _bind(hook: BlockHook, i: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: hook(i, x)

"""The network of UTT: one trunk, two projections of its maps, a target transformer that both tasks share.

`sot_*` follow one object in a crop, `detect` and `track` all objects of a picture. Boxes are corners in pixels of the
network's input unless said otherwise; vectors are float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.methods.utt.detector import DeformableDetector, DenseDetector
from jaxvl.methods.utt.layers import (
    EPS,
    ConvNorm,
    CornerHead,
    Readout,
    TargetDecoder,
    TargetLayer,
    dense,
    refine,
)
from jaxvl.methods.utt.positions import level_mask, sine_position
from jaxvl.nn.resnet import BLOCKS, MEAN, STD, ResNet
from jaxvl.nn.transformer import block_class, layer_norm
from jaxvl.ops.roi_align import roi_align, roi_align_pyramid

STRIDES = (8, 16, 32, 64)
"""Of the four levels; nominal, also where a map was rounded up."""
PYRAMID = (0, 1, 2, 3)
DETECTORS = ("deformable", "dense", "none")
LEVELS = ("single", "pyramid")


@dataclasses.dataclass(frozen=True)
class UTTConfig:
    """depth, width, blocks: of the trunk; blocks () are those of the depth. dim: C. heads, ff_dim: of every
    transformer. iterations: L of the target transformer. pool: side of the patches. object_size: side of the pooled
    target. interaction: of `layers.INTERACTIONS`. self_attention: of the targets. expand_scale: the patch is taken from
    a square of that many times the box's area; 1: from the box. output_score: with a score a target.

    target_decoder, proposal_decoder: the two parts of the single-object branch. decoder_layers: of the target decoder.
    corner_centres: see `CornerHead`. proposal_min_side: pixels that the sides of the first box have at least where the
    target transformer begins; 0: as they are.

    track_level: the level that targets are followed on, of `STRIDES`. mot_levels, mot_target_levels: 'single' (that
    level) or 'pyramid', for patches and for target vectors of many objects.

    detector: of `DETECTORS`. detector_level: of 'dense'. queries, classes, points, encoder_layers, detector_layers: of
    the detector. offset_norm: of `jaxvl.ops.deformable.NORMS`. dropout: everywhere. dtype: of products. remat: see
    `jaxvl.nn.transformer.remat_policy`.
    """

    depth: int = 50
    width: int = 64
    blocks: tuple[int, ...] = ()
    dim: int = 512
    heads: int = 8
    ff_dim: int = 1024
    iterations: int = 6
    pool: int = 7
    object_size: int = 1
    box_layers: int = 3
    interaction: str = "correlation"
    self_attention: bool = True
    expand_scale: float = 1.0
    output_score: bool = False
    target_decoder: bool = True
    proposal_decoder: bool = True
    decoder_layers: int = 6
    corner_centres: bool = False
    proposal_min_side: float = 0.0
    track_level: int = 1
    mot_levels: str = "single"
    mot_target_levels: str = "single"
    detector: str = "deformable"
    detector_level: int = 2
    queries: int = 500
    classes: int = 20
    points: int = 4
    encoder_layers: int = 6
    detector_layers: int = 6
    offset_norm: str = "hw"
    dropout: float = 0.1
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        for name, known in (("detector", DETECTORS), ("mot_levels", LEVELS), ("mot_target_levels", LEVELS)):
            if getattr(self, name) not in known:
                raise InputError(f"config.model.{name}: {getattr(self, name)!r} is none of {', '.join(known)}")
        if not 0 <= self.track_level <= 2 or not 0 <= self.detector_level <= 2:
            raise InputError("config.model.track_level, detector_level: need 0, 1 or 2 (strides 8, 16, 32)")
        if self.dim % 8 or self.dim % self.heads:
            raise InputError(f"config.model.dim: {self.dim} needs to be a multiple of 8 and of heads {self.heads}")

    @property
    def pyramid(self) -> bool:
        """Whether targets are looked up on all levels."""
        return "pyramid" in (self.mot_levels, self.mot_target_levels)

    @property
    def tracking_levels(self) -> tuple[int, ...]:
        """Levels that the tracking projection has: all of them beside the published detector."""
        return PYRAMID if self.pyramid or self.detector == "deformable" else (self.track_level,)

    @property
    def detection_levels(self) -> tuple[int, ...]:
        """Levels that the detection projection has."""
        return {"deformable": PYRAMID, "dense": (self.detector_level,), "none": ()}[self.detector]

    @property
    def stages(self) -> int:
        """Stages of the trunk: as many as the levels need."""
        return min(max((*self.tracking_levels, *self.detection_levels)), 2) + 2

    @property
    def taps(self) -> tuple[str, ...]:
        """Maps of the trunk behind levels 0, 1, 2, as far as they are needed."""
        return tuple(f"layer{s}" for s in range(2, self.stages + 1))


class Projection(nn.Module):
    """Maps of the trunk to C channels, level by level: parameters `level{l}/{conv,bn}`; level 3 is another stride
    behind the trunk's last map. No activation."""

    dim: int
    levels: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Builds the levels."""
        for level in self.levels:
            size, stride = (3, 2) if level == 3 else (1, 1)
            setattr(self, f"level{level}", ConvNorm(self.dim, size, stride, self.dtype))

    def __call__(self, taps: Sequence[jax.Array], levels: Sequence[int], train: bool) -> list[jax.Array]:
        """Maps of the trunk (levels 0, 1, 2) -> maps `[B, h, w, C]` of `levels`."""
        return [getattr(self, f"level{level}")(taps[min(level, 2)], train) for level in levels]


class Target(nn.Module):
    """A target's vector: its pooled map, a linear layer, a LayerNorm. Parameters `proj`, `norm`."""

    dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        """`[B, N, o, o, C] -> [B, N, C]` float32; the inputs of the linear layer are ordered channel by channel."""
        batch, count = pooled.shape[:2]
        flat = pooled.transpose(0, 1, 4, 2, 3).reshape(batch, count, -1)
        return layer_norm(EPS, "norm")(dense(flat.shape[-1], self.dim, "proj", self.dtype)(flat))


class TargetTransformer(nn.Module):
    """Vectors and boxes refined in turn (section 3.3). Parameters `layer{i}`, `box{i}`, `score{i}`."""

    config: UTTConfig

    @nn.compact
    def __call__(
        self,
        maps: Sequence[jax.Array],
        scales: Sequence[float],
        vectors: jax.Array,
        boxes: jax.Array,
        key_mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """maps `[B, h, w, C]` each with its scale, vectors `[B, N, C]`, boxes `[B, N, 4]`, key_mask `[B, N]` bool
        (False: no target) -> `boxes [L, B, N, 4]`, `vectors [B, N, C]`, and, if the model has them, `scores [L, B, N]`
        (logits).

        The patch is taken at the box without gradient; the box itself flows on, so that a later loss reaches earlier
        deltas.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        layer_class = block_class(c.remat, TargetLayer, static_argnums=(4,))
        boxes, found, scores = boxes.astype(jnp.float32), [], []
        for i in range(c.iterations):
            around = widened(boxes, c.expand_scale)
            if len(maps) == 1:
                patch = roi_align(maps[0], around, scales[0], c.pool)
            else:
                patch = roi_align_pyramid(maps, around, scales, c.pool)
            patch = patch.reshape(*patch.shape[:2], c.pool**2, patch.shape[-1])
            layer = layer_class(c.heads, c.ff_dim, c.dropout, c.interaction, c.self_attention, dtype, name=f"layer{i}")
            vectors = layer(vectors, patch, key_mask, train)
            boxes = refine(boxes, Readout(4, c.box_layers, dtype, name=f"box{i}")(vectors))
            found.append(boxes)
            if c.output_score:
                scores.append(Readout(1, c.box_layers, dtype, name=f"score{i}")(vectors)[..., 0])
        out = {"boxes": jnp.stack(found), "vectors": vectors}
        return out | ({"scores": jnp.stack(scores)} if scores else {})


def widened(boxes: jax.Array, scale: float) -> jax.Array:
    """The square of side `sqrt(scale w h)` around a box, whose sides count as at least one pixel; 1: the box."""
    if scale == 1.0:
        return boxes
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1.0)
    side = jax.lax.stop_gradient(jnp.sqrt(size[..., :1] * size[..., 1:] * scale))
    grow = (side - size) / 2
    return boxes + jnp.concatenate([-grow, grow], -1)


def with_least_side(boxes: jax.Array, side: float) -> jax.Array:
    """Corners moved apart around their centre where they are nearer than `side`, also where they are swapped."""
    if not side:
        return boxes
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    half = jnp.maximum(size, side) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


class UTT(nn.Module):
    """All of it. Parameters `backbone`, `proj_track`, `proj_det`, `target`, `sot_decoder`, `corner`, `track`,
    `detector`."""

    config: UTTConfig

    def setup(self):
        """Builds the parts that the config has."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        blocks = tuple(c.blocks or BLOCKS[c.depth])[: c.stages]
        self.backbone = ResNet(
            depth=c.depth, taps=c.taps, width=c.width, blocks=blocks, dtype=dtype, remat=c.remat != "none"
        )
        self.proj_track = Projection(c.dim, c.tracking_levels, dtype)
        self.target = Target(c.dim, dtype)
        self.track_head = TargetTransformer(c, name="track")
        if c.target_decoder:
            self.sot_decoder = TargetDecoder(c.decoder_layers, c.heads, c.ff_dim, c.dropout, dtype)
        if c.proposal_decoder:
            self.corner = CornerHead(c.corner_centres, dtype)
        if c.detector != "none":
            self.proj_det = Projection(c.dim, c.detection_levels, dtype)
        if c.detector == "deformable":
            self.detector = DeformableDetector(
                c.heads, c.points, c.ff_dim, c.encoder_layers, c.detector_layers, c.queries, c.classes, c.dropout,
                c.offset_norm, dtype, c.remat,
            )  # fmt: skip
        elif c.detector == "dense":
            self.detector = DenseDetector(c.heads, c.ff_dim, c.detector_layers, c.classes, c.dropout, dtype)

    def __call__(self, images: jax.Array, pad: jax.Array, boxes: jax.Array) -> dict[str, jax.Array]:
        """Every part once, for `init`: images `[B, H, W, 3]`, pad `[B, H, W]`, boxes `[B, N, 4]`."""
        taps = self.features(images, False)
        out = self.detect(taps, pad)
        self.maps(taps, self.config.tracking_levels)
        maps = self.maps(taps, [self.config.track_level])
        vectors = self.vectors(maps, boxes)
        return out | self.sot(maps[0], pad, vectors, boxes)

    def features(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Normalised images `[B, H, W, 3]` -> the trunk's maps behind levels 0, 1, 2."""
        return [*self.backbone(images.astype(jnp.dtype(self.config.dtype)), train).values()]

    def maps(self, taps: Sequence[jax.Array], levels: Sequence[int], train: bool = False) -> list[jax.Array]:
        """Tracking maps of `levels`."""
        return self.proj_track(taps, levels, train)

    def pooled(self, maps: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
        """What a target's vector is made of: one map (that of `track_level`) or all four, boxes `[B, N, 4]` ->
        `[B, N, o, o, C]`."""
        if len(maps) == 1:
            return roi_align(maps[0], boxes, 1 / STRIDES[self.config.track_level], self.config.object_size)
        return roi_align_pyramid(maps, boxes, [1 / s for s in STRIDES], self.config.object_size)

    def describe(self, pooled: jax.Array) -> jax.Array:
        """`pooled -> [B, N, C]`."""
        return self.target(pooled)

    def vectors(self, maps: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
        """Target vectors `[B, N, C]` of the boxes."""
        return self.target(self.pooled(maps, boxes))

    def track(
        self,
        maps: Sequence[jax.Array],
        vectors: jax.Array,
        boxes: jax.Array,
        key_mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """The target transformer from `boxes` on, see `TargetTransformer`; one map or all four."""
        strides = STRIDES if len(maps) > 1 else (STRIDES[self.config.track_level],)
        return self.track_head(maps, [1 / s for s in strides], vectors, boxes, key_mask, train)

    def sot(
        self,
        cells: jax.Array,
        pad: jax.Array,
        vectors: jax.Array,
        start: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Targets `[B, N, C]` in crops: `boxes [1 + L, B, N, 4]`, the first being the proposal, and what `track` gives.

        cells: `[B, h, w, C]`, the tracking map of the crops. pad: `[B, H, W]` bool, True where a crop holds no image.
        start: `[B, N, 4]` first boxes, read where the model has no proposal decoder.
        """
        c = self.config
        height, width = cells.shape[1:3]
        if c.target_decoder:
            mask = level_mask(pad, height, width)
            flat = lambda x: x.reshape(len(x), height * width, *x.shape[3:])  # noqa: E731
            position = flat(sine_position(mask, c.dim))
            vectors = self.sot_decoder(vectors, flat(cells), position, ~flat(mask), train)
        if c.proposal_decoder:
            size = jnp.array([pad.shape[2], pad.shape[1]] * 2, jnp.float32)
            start = self.corner(vectors, cells, train) * size
        elif start is None:
            raise InputError("config.model.proposal_decoder: is off, so the first boxes must be given")
        out = self.track([cells], vectors, with_least_side(start, c.proposal_min_side), None, train)
        return out | {"boxes": jnp.concatenate([start[None].astype(jnp.float32), out["boxes"]])}

    def detect(self, taps: Sequence[jax.Array], pad: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`logits [layers, B, Q, classes]` and `boxes [layers, B, Q, 4]` (cx, cy, w, h in shares of the picture without
        padding); nothing where there is no detector."""
        if self.config.detector == "none":
            return {}
        maps = self.proj_det(taps, self.config.detection_levels, train)
        return self.detector(maps, [level_mask(pad, *m.shape[1:3]) for m in maps], train)


def normalized(images: jax.Array, pad: jax.Array | None = None) -> jax.Array:
    """uint8 `[..., 3]` -> float32, ImageNet's mean 0 and standard deviation 1; 0 where `pad` `[...]` is True."""
    x = (images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
    return x if pad is None else jnp.where(pad[..., None], 0.0, x)

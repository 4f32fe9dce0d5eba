"""The detectors of UTT: Deformable DETR with box refinement (arXiv 2010.04159), and a plain one for small runs.

Both give, for each of their layers, class logits and boxes (cx, cy, w, h) as shares of the picture without padding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.methods.utt.layers import EPS, MLP, Attention, FeedForward, dense
from jaxvl.methods.utt.positions import cell_centres, inverse_sigmoid, sine_position, valid_ratio
from jaxvl.nn.initializers import torch_uniform, xavier_uniform
from jaxvl.nn.transformer import block_class, layer_norm
from jaxvl.ops.deformable import deformable_sample, sampling_locations

RARE = -4.6
"""Bias of the class logits: an untrained detector finds a hundredth."""
NOWHERE = -20.0
"""Logit of a query that stands in the padding."""
HEAD_DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def offset_bias(heads: int, levels: int, points: int) -> np.ndarray:
    """`[heads * levels * points * 2]`: each head looks in a direction of its own, point p at p + 1 cells. For eight
    heads the released table, for others Deformable DETR's circle."""
    if heads == len(HEAD_DIRECTIONS):
        directions = np.array(HEAD_DIRECTIONS, np.float32)
    else:
        angle = 2 * np.pi * np.arange(heads) / heads
        directions = np.stack([np.cos(angle), np.sin(angle)], -1)
        directions /= np.abs(directions).max(-1, keepdims=True)
    grid = np.tile(directions[:, None, None], (1, levels, points, 1)) * np.arange(1, points + 1)[:, None]
    return grid.astype(np.float32).reshape(-1)


class DeformableAttention(nn.Module):
    """Attention to a few learned places of every level. Parameters `sampling_offsets` (columns head, level, point, xy),
    `attention_weights`, `value_proj`, `output_proj`. norm: of `jaxvl.ops.deformable.NORMS`."""

    heads: int
    points: int
    norm: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        reference: jax.Array,
        cells: jax.Array,
        shapes: Sequence[tuple[int, int]],
        padding: jax.Array,
    ) -> jax.Array:
        """query `[B, Q, C]`, reference `[B, Q, L, 2 or 4]`, cells `[B, S, C]`, padding `[B, S]` bool -> `[B, Q, C]`
        float32."""
        (batch, count, width), levels = query.shape, len(shapes)
        if width % self.heads:
            raise InputError(f"config.model.heads: {self.heads} does not divide the width {width}")
        zeros = nn.initializers.zeros
        each = self.heads * levels * self.points
        bias = lambda key, shape, dtype: jnp.asarray(offset_bias(self.heads, levels, self.points), dtype)  # noqa: E731
        linear = functools.partial(nn.Dense, kernel_init=xavier_uniform(width, width), dtype=self.dtype)
        values = jnp.where(padding[..., None], 0, linear(width, name="value_proj")(cells))
        # places and weights are few and decide where is looked: float32
        offsets = nn.Dense(each * 2, kernel_init=zeros, bias_init=bias, name="sampling_offsets")(query)
        weights = nn.Dense(each, kernel_init=zeros, name="attention_weights")(query)
        weights = jax.nn.softmax(weights.reshape(batch, count, self.heads, levels * self.points), -1)
        offsets = offsets.reshape(batch, count, self.heads, levels, self.points, 2)
        found = deformable_sample(
            values.reshape(batch, -1, self.heads, width // self.heads),
            shapes,
            sampling_locations(reference, offsets, shapes, self.norm),
            weights.reshape(batch, count, self.heads, levels, self.points),
        )
        return linear(width, name="output_proj")(found).astype(jnp.float32)


class EncoderLayer(nn.Module):
    """Deformable self-attention of all cells, feed-forward; each with dropout, sum and LayerNorm."""

    heads: int
    points: int
    ff_dim: int
    dropout: float
    norm: str
    shapes: tuple[tuple[int, int], ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, position: jax.Array, reference: jax.Array, padding: jax.Array, train: bool
    ) -> jax.Array:
        """x, position `[B, S, C]`, reference `[B, S, L, 2]`, padding `[B, S]` -> `[B, S, C]` float32."""
        drop = lambda y: nn.Dropout(self.dropout)(y, deterministic=not train)  # noqa: E731
        attend = DeformableAttention(self.heads, self.points, self.norm, self.dtype, name="self_attn")
        x = layer_norm(EPS, "norm1")(x + drop(attend(x + position, reference, x, self.shapes, padding)))
        y = FeedForward(self.ff_dim, self.dropout, dtype=self.dtype, name="ffn")(x, train)
        return layer_norm(EPS, "norm2")(x + drop(y))


class DecoderLayer(nn.Module):
    """Self-attention of the queries (`norm2`), deformable attention to the cells (`norm1`), feed-forward (`norm3`)."""

    heads: int
    points: int
    ff_dim: int
    dropout: float
    norm: str
    shapes: tuple[tuple[int, int], ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: jax.Array,
        reference: jax.Array,
        cells: jax.Array,
        padding: jax.Array,
        train: bool,
    ) -> jax.Array:
        """x, position `[B, Q, C]`, reference `[B, Q, L, 2 or 4]`, cells `[B, S, C]` -> `[B, Q, C]` float32."""
        drop = lambda y: nn.Dropout(self.dropout)(y, deterministic=not train)  # noqa: E731
        own = Attention(self.heads, self.dtype, self.dropout, name="self_attn")
        x = layer_norm(EPS, "norm2")(x + drop(own(x + position, x + position, x, None, train)))
        cross = DeformableAttention(self.heads, self.points, self.norm, self.dtype, name="cross_attn")
        x = layer_norm(EPS, "norm1")(x + drop(cross(x + position, reference, cells, self.shapes, padding)))
        y = FeedForward(self.ff_dim, self.dropout, dtype=self.dtype, name="ffn")(x, train)
        return layer_norm(EPS, "norm3")(x + drop(y))


class DeformableDetector(nn.Module):
    """Encoder and decoder over the levels of a pyramid. Parameters `encoder{i}`, `decoder{i}`, `box{i}`, `class{i}`,
    `query_pos`, `query_content` `[Q, C]`, `level_embed` `[L, C]`, `reference_points`."""

    heads: int = 8
    points: int = 4
    ff_dim: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 500
    classes: int = 20
    dropout: float = 0.1
    norm: str = "hw"
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], masks: Sequence[jax.Array], train: bool = False
    ) -> dict[str, jax.Array]:
        """maps `[B, h, w, C]` each, masks `[B, h, w]` bool each (True: padding) -> `logits [layers, B, Q, classes]`,
        `boxes [layers, B, Q, 4]` float32."""
        batch, width = maps[0].shape[0], maps[0].shape[-1]
        shapes = tuple((m.shape[1], m.shape[2]) for m in maps)
        ratios = jnp.stack([valid_ratio(m) for m in masks], 1)
        flat = lambda xs: jnp.concatenate([x.reshape(batch, -1, *x.shape[3:]) for x in xs], 1)  # noqa: E731
        normal = nn.initializers.normal(1.0)
        level = self.param("level_embed", normal, (len(maps), width))
        position = flat([sine_position(m, width) + level[i] for i, m in enumerate(masks)])
        cells, padding = flat(maps).astype(jnp.float32), flat(masks)
        shared = (self.heads, self.points, self.ff_dim, self.dropout, self.norm, shapes, self.dtype)
        reference = cell_centres(shapes, ratios)[:, :, None] * ratios[:, None]
        encoder = block_class(self.remat, EncoderLayer, static_argnums=(5,))
        for i in range(self.encoder_layers):
            cells = encoder(*shared, name=f"encoder{i}")(cells, position, reference, padding, train)

        place = self.param("query_pos", normal, (self.queries, width))
        content = self.param("query_content", normal, (self.queries, width))
        place, x = (jnp.broadcast_to(p, (batch, *p.shape)) for p in (place, content))
        reference = jax.nn.sigmoid(dense(width, 2, "reference_points", jnp.float32)(place))
        logits, boxes = [], []
        for i in range(self.decoder_layers):
            scaled = reference[:, :, None] * jnp.tile(ratios, reference.shape[-1] // 2)[:, None]
            x = DecoderLayer(*shared, name=f"decoder{i}")(x, place, scaled, cells, padding, train)
            box = refined(MLP(4, self.dtype, name=f"box{i}")(x), reference)
            logits.append(class_logits(x, self.classes, f"class{i}", self.dtype))
            boxes.append(box)
            reference = jax.lax.stop_gradient(box)
        return {"logits": jnp.stack(logits), "boxes": jnp.stack(boxes)}


class DenseDetector(nn.Module):
    """A detector for small runs: the cells of one map are the queries. `layers` of ordinary attention over the cells,
    after each a class and a box that starts from the cell's centre. Parameters `layer{i}`, `box{i}`, `class{i}`."""

    heads: int = 8
    ff_dim: int = 1024
    layers: int = 2
    classes: int = 20
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], masks: Sequence[jax.Array], train: bool = False
    ) -> dict[str, jax.Array]:
        """As `DeformableDetector`, of one map; Q is its number of cells."""
        (cells,), (mask,) = maps, masks
        batch, height, width, channels = cells.shape
        position = sine_position(mask, channels).reshape(batch, -1, channels)
        padding = mask.reshape(batch, -1)
        reference = cell_centres(((height, width),), valid_ratio(mask)[:, None])
        x = cells.reshape(batch, -1, channels).astype(jnp.float32)
        logits, boxes = [], []
        for i in range(self.layers):
            x = CellLayer(self.heads, self.ff_dim, self.dropout, self.dtype, name=f"layer{i}")(
                x, position, ~padding, train
            )
            box = refined(MLP(4, self.dtype, name=f"box{i}")(x), reference)
            logit = class_logits(x, self.classes, f"class{i}", self.dtype)
            logits.append(jnp.where(padding[..., None], NOWHERE, logit))
            boxes.append(box)
            reference = jax.lax.stop_gradient(box)
        return {"logits": jnp.stack(logits), "boxes": jnp.stack(boxes)}


class CellLayer(nn.Module):
    """DETR's encoder layer: self-attention of the cells, feed-forward."""

    heads: int
    ff_dim: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, position: jax.Array, cell_mask: jax.Array, train: bool) -> jax.Array:
        """x, position `[B, k, C]`, cell_mask `[B, k]` (True: may be seen) -> `[B, k, C]` float32."""
        drop = lambda y: nn.Dropout(self.dropout)(y, deterministic=not train)  # noqa: E731
        own = Attention(self.heads, self.dtype, self.dropout, name="self_attn")
        x = layer_norm(EPS, "norm1")(x + drop(own(x + position, x + position, x, cell_mask, train)))
        y = FeedForward(self.ff_dim, self.dropout, dtype=self.dtype, name="ffn")(x, train)
        return layer_norm(EPS, "norm2")(x + drop(y))


def refined(delta: jax.Array, reference: jax.Array) -> jax.Array:
    """`sigmoid(delta + logit(reference))`, `[B, Q, 4]`; a 2-d reference leaves the size free."""
    known = inverse_sigmoid(reference)
    return jax.nn.sigmoid(delta.at[..., : known.shape[-1]].add(known))


def class_logits(x: jax.Array, classes: int, name: str, dtype: jnp.dtype) -> jax.Array:
    """`[B, Q, C] -> [B, Q, classes]` float32; call it inside a compact method."""
    init = {"kernel_init": torch_uniform(x.shape[-1]), "bias_init": nn.initializers.constant(RARE)}
    return nn.Dense(classes, dtype=dtype, name=name, **init)(x).astype(jnp.float32)

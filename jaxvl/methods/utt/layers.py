"""Building blocks of UTT: attention, dropped paths, the target decoder's layer, correlation, box modules, the corner
head (sections 3.2 to 3.4 of the paper; what the text leaves open as its released code has it).

Streams and norms are float32, products in `dtype`. All layers are post-norm, LayerNorm's epsilon is 1e-5.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.attention import dot_product_attention
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.convolution import convolve
from jaxvl.nn.initializers import torch_uniform, xavier_uniform
from jaxvl.nn.transformer import layer_norm

EPS = 1e-5
LARGEST_GROWTH = math.log(62.5)
"""Bound of the size deltas of one iteration, log(1000 / 16)."""
DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
INTERACTIONS = ("correlation", "cross_attention")


def dense(inputs: int, features: int, name: str, dtype: jnp.dtype, bias: bool = True, xavier: bool = False) -> nn.Dense:
    """PyTorch's linear layer: kernel and bias U(±inputs^-0.5), or the kernel Xavier-uniform."""
    kernel = xavier_uniform(inputs, features) if xavier else torch_uniform(inputs)
    return nn.Dense(
        features, use_bias=bias, dtype=dtype, kernel_init=kernel, bias_init=torch_uniform(inputs), name=name
    )


class Attention(nn.Module):
    """Multi-head attention of PyTorch's initialisation: the fused input projection Xavier-uniform, all biases 0, the
    output's kernel U(±C^-0.5), or Xavier-uniform with `xavier`. dropout: of the weights, in training."""

    heads: int
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0
    xavier: bool = False

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """`[B, n, C]`, `[B, k, C]`, `[B, k, C]`, key_mask `[B, k]` bool (True: may be seen) -> `[B, n, C]` float32."""
        width = query.shape[-1]
        if width % self.heads:
            raise InputError(f"config.model.heads: {self.heads} does not divide the width {width}")

        def project(name: str, x: jax.Array) -> jax.Array:
            init = xavier_uniform(width, 3 * width)
            shape = (self.heads, width // self.heads)
            return nn.DenseGeneral(shape, dtype=self.dtype, kernel_init=init, name=name)(x)

        y = dot_product_attention(
            project("query", query),
            project("key", key),
            project("value", value),
            key_mask=key_mask,
            dropout=self.dropout,
            rng=self.make_rng("dropout") if train and self.dropout else None,
        )
        init = xavier_uniform(width, width) if self.xavier else torch_uniform(width)
        out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=init, name="out")
        return out(y).astype(jnp.float32)


class DropPath(nn.Module):
    """Drops whole vectors, and divides what is left by `1 - rate` (stochastic depth, arXiv 1603.09382). Every target of
    every image is drawn by itself."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[..., C] -> [..., C]`; the same outside of training."""
        if not train or not self.rate:
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (*x.shape[:-1], 1))
        return jnp.where(kept, x / (1 - self.rate), 0)


class FeedForward(nn.Module):
    """`W2 drop(relu(W1 x))`: parameters `linear1`, `linear2`. path: the hidden layer is dropped as a whole vector."""

    features: int
    dropout: float = 0.0
    path: bool = False
    xavier: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[..., C] -> [..., C]` float32."""
        width = x.shape[-1]
        y = nn.relu(dense(width, self.features, "linear1", self.dtype, xavier=self.xavier)(x))
        y = DropPath(self.dropout)(y, train) if self.path else nn.Dropout(self.dropout)(y, deterministic=not train)
        return dense(self.features, width, "linear2", self.dtype, xavier=self.xavier)(y).astype(jnp.float32)


class DecoderLayer(nn.Module):
    """A layer of the target decoder: self-attention of the targets, attention to the frame's map, feed-forward; DETR's
    layer (arXiv 2005.12872) without query positions, but its hidden layer is dropped as whole vectors."""

    heads: int
    ff_dim: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        t: jax.Array,
        cells: jax.Array,
        position: jax.Array,
        cell_mask: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        """t `[B, N, C]` float32, cells `[B, k, C]`, position `[B, k, C]`, cell_mask `[B, k]` -> `[B, N, C]` float32."""
        attention = functools.partial(Attention, self.heads, self.dtype, self.dropout)
        drop = lambda y: nn.Dropout(self.dropout)(y, deterministic=not train)  # noqa: E731
        t = layer_norm(EPS, "norm1")(t + drop(attention(name="self_attn")(t, t, t, None, train)))
        keys = cells + position.astype(cells.dtype)
        t = layer_norm(EPS, "norm2")(t + drop(attention(name="cross_attn")(t, keys, cells, cell_mask, train)))
        y = FeedForward(self.ff_dim, self.dropout, path=True, dtype=self.dtype, name="ffn")(t, train)
        return layer_norm(EPS, "norm3")(t + drop(y))


class TargetDecoder(nn.Module):
    """Refines target vectors by what the frame shows: `layers` of `DecoderLayer`, then a LayerNorm."""

    layers: int
    heads: int
    ff_dim: int
    dropout: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        t: jax.Array,
        cells: jax.Array,
        position: jax.Array,
        cell_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """As `DecoderLayer`."""
        for i in range(self.layers):
            layer = DecoderLayer(self.heads, self.ff_dim, self.dropout, self.dtype, name=f"layer{i}")
            t = layer(t, cells, position, cell_mask, train)
        return layer_norm(EPS, "norm")(t)


def correlate(t: jax.Array, cells: jax.Array) -> jax.Array:
    """`a_k = (t · f_k) f_k` (equation 3): t `[..., C]`, cells `[..., k, C]` -> `[..., k, C]`. The product is summed in
    float32: it grows with `C |t| |f|²`."""
    strength = jnp.einsum("...c,...kc->...k", t.astype(cells.dtype), cells, preferred_element_type=jnp.float32)
    return (strength[..., None] * cells.astype(jnp.float32)).astype(cells.dtype)


class Correlation(nn.Module):
    """Two fully connected layers over the correlation of a target with its patch: parameters `fc1` (rows cell by cell,
    the channel fastest), `norm1`, `fc2`, `norm2`."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array, patch: jax.Array) -> jax.Array:
        """t `[B, N, C]`, patch `[B, N, k, C]` -> `[B, N, C]` float32."""
        width = t.shape[-1]
        x = correlate(t, patch).reshape(*t.shape[:-1], -1)
        x = dense(x.shape[-1], 2 * width, "fc1", self.dtype, xavier=True)(x)
        x = nn.relu(layer_norm(EPS, "norm1")(x))
        x = dense(2 * width, width, "fc2", self.dtype, xavier=True)(x)
        return nn.relu(layer_norm(EPS, "norm2")(x))


class PatchAttention(nn.Module):
    """The ablation of `Correlation`: the target attends to the cells of its patch."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array, patch: jax.Array) -> jax.Array:
        """As `Correlation`."""
        cells = patch.reshape(-1, *patch.shape[2:])
        found = Attention(self.heads, self.dtype, xavier=True, name="attn")(t.reshape(-1, 1, t.shape[-1]), cells, cells)
        return found.reshape(t.shape)


class TargetLayer(nn.Module):
    """One iteration of the target transformer on the vectors (section 3.3): self-attention over the targets of an
    image, interaction with the patch, feed-forward. Every branch and the hidden layer are dropped as whole vectors."""

    heads: int
    ff_dim: int
    dropout: float
    interaction: str = "correlation"
    self_attention: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array, patch: jax.Array, key_mask: jax.Array | None, train: bool) -> jax.Array:
        """t `[B, N, C]` float32, patch `[B, N, k, C]`, key_mask `[B, N]` bool -> `[B, N, C]` float32."""
        if self.interaction not in INTERACTIONS:
            known = ", ".join(INTERACTIONS)
            raise InputError(f"config.model.interaction: {self.interaction!r} is none of {known}")
        drop = DropPath(self.dropout)
        if self.self_attention:
            attend = Attention(self.heads, self.dtype, self.dropout, xavier=True, name="self_attn")
            t = layer_norm(EPS, "norm1")(t + drop(attend(t, t, t, key_mask, train), train))
        if self.interaction == "correlation":
            seen = Correlation(self.dtype, name="interact")(t, patch)
        else:
            seen = PatchAttention(self.heads, self.dtype, name="interact")(t, patch)
        t = layer_norm(EPS, "norm2")(t + drop(seen, train))
        y = FeedForward(self.ff_dim, self.dropout, path=True, xavier=True, dtype=self.dtype, name="ffn")(t, train)
        return layer_norm(EPS, "norm3")(t + drop(y, train))


class Readout(nn.Module):
    """`hidden` times (linear without bias, LayerNorm, ReLU), then a linear layer to `outputs` numbers."""

    outputs: int
    hidden: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """`[..., C] -> [..., outputs]` float32."""
        width = t.shape[-1]
        for i in range(self.hidden):
            t = dense(width, width, f"hidden{i}", self.dtype, bias=False, xavier=True)(t)
            t = nn.relu(layer_norm(EPS, f"norm{i}")(t))
        return dense(width, self.outputs, "out", self.dtype, xavier=True)(t).astype(jnp.float32)


class MLP(nn.Module):
    """Three linear layers with ReLU between: the box head of the detector."""

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C] -> [..., outputs]` float32."""
        width = x.shape[-1]
        for i in range(2):
            x = nn.relu(dense(width, width, f"layer{i}", self.dtype)(x))
        return dense(width, self.outputs, "layer2", self.dtype)(x).astype(jnp.float32)


def refine(boxes: jax.Array, deltas: jax.Array) -> jax.Array:
    """Boxes moved by deltas: `cx += d0/2 w`, `cy += d1/2 h`, `w *= exp(min(d2, ln 62.5))`, h alike.

    Corners `[..., 4]`, `[..., 4]` -> corners. A negative size keeps its sign.
    """
    boxes, deltas = boxes.astype(jnp.float32), deltas.astype(jnp.float32) / jnp.array(DELTA_WEIGHTS)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + deltas[..., :2] * size
    half = size * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_GROWTH)) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


class Conv(nn.Module):
    """A convolution with bias, padded on both sides alike. Parameters `kernel [k, k, in, out]`, `bias`."""

    features: int
    size: int = 1
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, in] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features]` in `dtype`."""
        init = torch_uniform(self.size**2 * x.shape[-1])
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return y + bias.astype(self.dtype)


class ConvNorm(nn.Module):
    """A convolution with bias and its batch norm: `conv`, `bn`."""

    features: int
    size: int = 1
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """As `Conv`. train: normalise by the batch."""
        y = Conv(self.features, self.size, self.stride, self.dtype, name="conv")(x)
        return BatchNorm(dtype=self.dtype, name="bn")(y, train)


class CornerHead(nn.Module):
    """The proposal decoder (section 3.2): from the correlation of a target with a whole frame to two maps of logits,
    and to the expected places of the two corners. Parameters `conv{1..4}/{conv,bn}`, `conv5`.

    centres: corners are counted from cell centres, (j + 1/2) / w, and not j / w as published.
    """

    centres: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array, cells: jax.Array, train: bool = False) -> jax.Array:
        """t `[B, N, C]`, cells `[B, h, w, C]` -> boxes `[B, N, 4]` float32, corners as shares of the frame; x2 < x1
        is possible. Padding is not masked."""
        (batch, count, width), (height, length) = t.shape, cells.shape[1:3]
        flat = cells.reshape(batch, 1, height * length, width)
        x = correlate(t, jnp.broadcast_to(flat, (batch, count, *flat.shape[2:])))
        x = x.reshape(batch * count, height, length, width)
        for i in range(4):
            x = nn.relu(ConvNorm(max(1, width // 2**i), 3, dtype=self.dtype, name=f"conv{i + 1}")(x, train))
        logits = Conv(2, dtype=self.dtype, name="conv5")(x).astype(jnp.float32)
        return expected_corners(logits, self.centres).reshape(batch, count, 4)


def expected_corners(logits: jax.Array, centres: bool = False) -> jax.Array:
    """Soft argmax of two maps: `[n, h, w, 2]` float32 (top left, bottom right) -> `[n, 4]` corners in shares, j / w and
    i / h of cell (i, j), or half a cell more with `centres`."""
    n, height, width, _ = logits.shape
    share = jax.nn.softmax(logits.reshape(n, height * width, 2), axis=1).reshape(logits.shape)
    shift = 0.5 if centres else 0.0
    x = jnp.einsum("nhwk,w->nk", share, (jnp.arange(width) + shift) / width, precision="highest")
    y = jnp.einsum("nhwk,h->nk", share, (jnp.arange(height) + shift) / height, precision="highest")
    return jnp.stack([x, y], -1).reshape(n, 4)

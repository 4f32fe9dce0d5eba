"""CLIP's modified ResNet, the image tower of RN50 (Radford et al., ICML 2021, arXiv 2103.00020, section 2.4).

Against the usual ResNet: a stem of three convolutions with average pooling, an average pool before every convolution
that would have a stride, and attention pooling at the end. Layout NHWC; kernels `[h, w, in, out]`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.attention import dot_product_attention
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.convolution import convolve

STRIDE = 32
"""Pixels a cell of the final map covers along one side."""


class Conv(nn.Module):
    """Convolution without bias, 1x1 or 3x3 with padding 1; parameters `kernel [k, k, in, out]`."""

    features: int
    size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[N, h, w, in] -> [N, h/stride, w/stride, out]` in `dtype`."""
        bound = (self.size**2 * x.shape[-1]) ** -0.5  # PyTorch's default for a convolution

        def init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


def average_pool(x: jax.Array, stride: int) -> jax.Array:
    """Mean over windows of stride x stride; the input itself for stride 1."""
    return x if stride == 1 else nn.avg_pool(x, (stride, stride), (stride, stride))


class Bottleneck(nn.Module):
    """1x1, 3x3, average pool, 1x1 convolutions with a shortcut; `[N, h, w, C] -> [N, h/stride, w/stride, 4·planes]`."""

    planes: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """One block."""
        out, dtype = 4 * self.planes, self.dtype
        y = nn.relu(BatchNorm(dtype=dtype, name="bn1")(Conv(self.planes, 1, dtype=dtype, name="conv1")(x), train))
        y = nn.relu(BatchNorm(dtype=dtype, name="bn2")(Conv(self.planes, 3, dtype=dtype, name="conv2")(y), train))
        y = Conv(out, 1, dtype=dtype, name="conv3")(average_pool(y, self.stride))
        y = BatchNorm(scale_init=nn.initializers.zeros, dtype=dtype, name="bn3")(y, train)
        if self.stride > 1 or x.shape[-1] != out:
            x = Conv(out, 1, dtype=dtype, name="downsample_conv")(average_pool(x, self.stride))
            x = BatchNorm(dtype=dtype, name="downsample_bn")(x, train)
        return nn.relu(x + y)


class AttentionPool(nn.Module):
    """Attention of the mean token over all cells; parameters `positional_embedding`, `query`, `key`, `value`, `out`."""

    heads: int
    embed_dim: int
    cells: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[N, cells, C] -> [N, E]` float32."""
        width = x.shape[-1]
        normal = nn.initializers.normal(width**-0.5)
        positions = self.param("positional_embedding", normal, (self.cells + 1, width))
        x = x.astype(jnp.float32)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + positions

        def project(name: str, y: jax.Array) -> jax.Array:
            shape = (self.heads, width // self.heads)
            return nn.DenseGeneral(shape, dtype=self.dtype, kernel_init=normal, name=name)(y)

        y = dot_product_attention(project("query", x[:, :1]), project("key", x), project("value", x))
        y = nn.DenseGeneral(self.embed_dim, axis=(-2, -1), dtype=self.dtype, kernel_init=normal, name="out")(y)
        return y[:, 0].astype(jnp.float32)


class ModifiedResNet(nn.Module):
    """The image tower. Parameters `stem_conv{n}`, `stem_bn{n}`, `layer{L}_{b}/...`, `attnpool`; running statistics
    in the collection `batch_stats`.

    Fields: blocks of the four stages; width of the stem (64; the final map has 32 times as many channels); heads of
    the attention pool; embed_dim E; image_size R, a multiple of 32; dtype of the matmuls.
    """

    blocks: tuple[int, ...]
    width: int
    heads: int
    embed_dim: int
    image_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array, train: bool = False) -> jax.Array:
        """Normalised float pixels `[N, R, R, 3]` -> features `[N, E]` float32, not L2-normalised.

        train: normalise by the batch and update the running statistics (make `batch_stats` mutable).
        """
        if pixels.shape[1:] != (self.image_size, self.image_size, 3):
            raise InputError(f"pixels: shape {pixels.shape} is not [N, {self.image_size}, {self.image_size}, 3]")
        x, dtype = pixels, self.dtype
        for n, (features, stride) in enumerate(((self.width // 2, 2), (self.width // 2, 1), (self.width, 1)), 1):
            x = Conv(features, 3, stride, dtype, name=f"stem_conv{n}")(x)
            x = nn.relu(BatchNorm(dtype=dtype, name=f"stem_bn{n}")(x, train))
        x = average_pool(x, 2)
        for stage, blocks in enumerate(self.blocks):
            for b in range(blocks):
                stride = 2 if stage and not b else 1
                x = Bottleneck(self.width * 2**stage, stride, dtype, name=f"layer{stage + 1}_{b}")(x, train)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return AttentionPool(self.heads, self.embed_dim, x.shape[1], dtype, name="attnpool")(x)

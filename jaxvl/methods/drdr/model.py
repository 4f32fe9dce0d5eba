"""The network of DRDR: trunk, bottleneck, an orthogonal layer on the target's path, one classifier for both."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.resnet import ResNet

XAVIER = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
"""PyTorch's `xavier_normal_`: not truncated."""


POOLS = ("flatten", "mean")
"""What becomes of the small trunk's last map: one vector of all its places, or their mean."""


@dataclasses.dataclass(frozen=True)
class DRDRConfig:
    """trunk: 'resnet' (of `depth`), 'conv' (a stack of strided convolutions with `channels`, for small pictures) or
    'none' (the input is a feature vector). pool: of 'conv', one of `POOLS`. mean, std: of pixel values in [0, 1], one a
    channel. stiefel: whether the target path has its orthogonal layer. dtype: of the trunk; all behind it is float32.
    runs: rows of each domain of a training batch, which have batch statistics of their own (see `BatchNorm`); empty:
    all have the same.
    """

    classes: int
    trunk: str = "resnet"
    depth: int = 50
    width: int = 64
    channels: tuple[int, ...] = (16, 32)
    pool: str = "flatten"
    features: int = 256
    stiefel: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    dtype: str = "float32"
    remat: bool = False
    runs: tuple[int, ...] = ()


class ConvTrunk(nn.Module):
    """3x3 convolutions of stride 2, each with batch norm and ReLU, then the map as one vector or its mean (`POOLS`)."""

    channels: tuple[int, ...]
    dtype: jnp.dtype
    pool: str = "flatten"
    runs: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C] -> [B, ⌈H/2ⁿ⌉ ⌈W/2ⁿ⌉ channels[-1]]` float32; pooled by the mean `[B, channels[-1]]`."""
        for i, features in enumerate(self.channels):
            conv = nn.Conv(features, (3, 3), 2, ((1, 1), (1, 1)), use_bias=False, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(BatchNorm(runs=self.runs, dtype=self.dtype, name=f"bn{i}")(conv(x), train))
        if self.pool == "mean":
            return x.mean((1, 2), dtype=jnp.float32)
        return x.reshape(len(x), -1).astype(jnp.float32)


class Stiefel(nn.Module):
    """`z W^T` with W orthogonal: `kernel [D, D]` is W^T, the identity at first, and stays orthogonal only under the
    optimiser's `stiefel` field."""

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """`[B, D] -> [B, D]`."""
        d = z.shape[-1]
        kernel = self.param("kernel", lambda key, shape: jnp.eye(*shape), (d, d))
        return jnp.matmul(z, kernel, precision=jax.lax.Precision.HIGHEST)


class DRDR(nn.Module):
    """Parameters `trunk/...`, `bottleneck/{kernel,bias}`, `stiefel/kernel`, `fc/{kernel,bias}`."""

    config: DRDRConfig

    def setup(self):
        """Builds the parts."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        if c.trunk == "resnet":
            self.trunk = ResNet(depth=c.depth, width=c.width, bn_runs=c.runs, dtype=dtype, remat=c.remat)
        elif c.trunk == "conv":
            self.trunk = ConvTrunk(c.channels, dtype, c.pool, c.runs)
        self.bottleneck = nn.Dense(c.features, kernel_init=XAVIER)
        if c.stiefel:
            self.stiefel = Stiefel()
        self.fc = nn.Dense(c.classes, kernel_init=XAVIER)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Target logits `[B, K]`; what `init` calls, so that every part is made."""
        return self.classify(self.turn(self.encode(images, train)))

    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features before the orthogonal layer, `[B, D]` float32, of uint8 `[B, H, W, C]` (or of vectors `[B, F]`).
        train: normalise by the batch (make `batch_stats` mutable)."""
        c = self.config
        if c.trunk == "none":
            return self.bottleneck(images.astype(jnp.float32))
        x = (images.astype(jnp.float32) / 255 - jnp.array(c.mean)) / jnp.array(c.std)
        pooled = self.trunk(x.astype(c.dtype), train)
        return self.bottleneck(pooled["pool"] if c.trunk == "resnet" else pooled)

    def turn(self, z: jax.Array) -> jax.Array:
        """The target's isometry, `[B, D] -> [B, D]`; source features do not pass through it."""
        return self.stiefel(z) if self.config.stiefel else z

    def classify(self, z: jax.Array) -> jax.Array:
        """Logits `[B, K]` of features `[B, D]` of either domain."""
        return self.fc(z)

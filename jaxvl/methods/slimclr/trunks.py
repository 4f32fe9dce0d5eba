"""Slimmable trunks for small pictures; the one for large pictures is `jaxvl.nn.resnet.ResNet`.

Each takes `[B, H, W, 3]` and gives pooled features `[B, features * w]` float32 of width `index`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.slimmable import FULL, SlimConv, switchable_batch_norm


class ConvNet(nn.Module):
    """3x3 convolution, batch norm, ReLU, so many times, then the mean: the smallest net that shows the effect.

    channels, strides: one of each a layer. Parameters `conv{k}/kernel`, `bn{k}/...`.
    """

    channels: tuple[int, ...] = (16, 32, 64, 64)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, index: int = 0) -> jax.Array:
        """Pooled features of width `index`."""
        if len(self.channels) != len(self.strides):
            raise InputError(f"config.model.strides: {len(self.strides)} for {len(self.channels)} channels")
        for k, (cout, stride) in enumerate(zip(self.channels, self.strides), 1):
            cin = 3 if k == 1 else self.channels[k - 2]
            conv = SlimConv(
                cin, cout, 3, stride, widths=self.widths, overlap=self.overlap, slice_in=k > 1, dtype=self.dtype,
                name=f"conv{k}",
            )  # fmt: skip
            norm = switchable_batch_norm(f"bn{k}", self.widths, index, groups=self.bn_groups, dtype=self.dtype)
            x = nn.relu(norm(conv(x, index), train))
        return x.mean((1, 2), dtype=jnp.float32)


class CifarBlock(nn.Module):
    """The published small variant's block: ReLU behind the second batch norm too, *before* the addition."""

    in_features: int
    features: int
    stride: int
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """`[B, H, W, in w] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features w]`."""
        shared = {"widths": self.widths, "overlap": self.overlap, "dtype": self.dtype}
        norm = lambda name: switchable_batch_norm(  # noqa: E731
            name, self.widths, index, groups=self.bn_groups, dtype=self.dtype
        )
        y = SlimConv(self.in_features, self.features, 3, self.stride, name="conv1", **shared)(x, index)
        y = nn.relu(norm("bn1")(y, train))
        y = SlimConv(self.features, self.features, 3, name="conv2", **shared)(y, index)
        y = nn.relu(norm("bn2")(y, train))
        if self.stride != 1 or self.in_features != self.features:
            x = SlimConv(self.in_features, self.features, 1, self.stride, name="proj", **shared)(x, index)
            x = norm("proj_bn")(x, train)
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """The ResNet of depth 6k + 2 for 32x32 pictures: a 3x3 stem, three stages of k basic blocks, the mean.

    width: channels of the stem and the first stage. Parameters `stem/kernel`, `stem_bn/...`, `stage{s}_{j}/...`.
    """

    depth: int = 20
    width: int = 16
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, index: int = 0) -> jax.Array:
        """Pooled features of width `index`."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise InputError(f"config.model.depth: {self.depth} is not 6k + 2, as the trunk 'cifar' needs")
        shared = {"widths": self.widths, "overlap": self.overlap, "dtype": self.dtype}
        x = SlimConv(3, self.width, 3, slice_in=False, name="stem", **shared)(x, index)
        norm = switchable_batch_norm("stem_bn", self.widths, index, groups=self.bn_groups, dtype=self.dtype)
        x = nn.relu(norm(x, train))
        cin = self.width
        for s in range(3):
            cout = self.width * 2**s
            for j in range((self.depth - 2) // 6):
                block = CifarBlock(
                    cin, cout, 2 if s and not j else 1, bn_groups=self.bn_groups, name=f"stage{s + 1}_{j}", **shared
                )
                x, cin = block(x, train, index), cout
        return x.mean((1, 2), dtype=jnp.float32)

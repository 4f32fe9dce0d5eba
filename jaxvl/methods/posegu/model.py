"""The networks that lift joints of a picture into space: SimpleBaseline, VideoPose3D for one frame, SemGCN.

All of them `[B, 16, 2] -> [B, 16, 3]`, metres; joints as in `jaxvl.data.skeletons.H36M16`. Products run in the compute
dtype; norms and the result are float32.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.data.skeletons import H36M16
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.dropout import Dropout
from jaxvl.nn.initializers import torch_uniform, xavier_uniform

JOINTS = len(H36M16)
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class LifterConfig:
    """lifter: mlp, vpose or semgcn. stages: of mlp and vpose residual blocks of two layers, of semgcn pairs of units.
    start: 'published', the weights of mlp normal as by Kaiming; or 'pytorch', as PyTorch leaves them, which gives poses
    of centimetres instead of metres before training. vpose and semgcn start as published alike. dtype: of products.
    Further fields: `recipe.base`."""

    lifter: str = "mlp"
    width: int = 1024
    stages: int = 2
    dropout: float = 0.25
    start: str = "published"
    dtype: str = "float32"
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9


def batch_norm(config: LifterConfig, name: str) -> BatchNorm:
    """PyTorch's norm over all axes but the last."""
    return BatchNorm(momentum=config.bn_momentum, epsilon=config.bn_epsilon, dtype=jnp.dtype(config.dtype), name=name)


class Dense(nn.Module):
    """A layer whose bias starts as PyTorch's, and its `kernel [in, out]` likewise, or by Kaiming."""

    features: int
    config: LifterConfig
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., in] -> [..., features]`."""
        size, dtype = x.shape[-1], jnp.dtype(self.config.dtype)
        kaiming = self.config.lifter == "mlp" and self.config.start == "published"
        start = kaiming_normal if kaiming else torch_uniform(size)
        kernel = self.param("kernel", start, (size, self.features), jnp.float32)
        y = x.astype(dtype) @ kernel.astype(dtype)
        if self.bias:
            y += self.param("bias", torch_uniform(size), (self.features,), jnp.float32).astype(dtype)
        return y


class Stage(nn.Module):
    """Two layers, each followed by norm, ReLU and dropout, and the input added."""

    config: LifterConfig
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, width] -> [B, width]`."""
        c, y = self.config, x
        for i in (1, 2):
            y = Dense(c.width, c, self.bias, name=f"dense{i}")(y)
            y = nn.relu(batch_norm(c, f"bn{i}")(y, train))
            y = Dropout(c.dropout)(y, deterministic=not train)
        return x + y


class Residual(nn.Module):
    """`mlp` (Martinez et al., ICCV 2017) and `vpose` (Pavllo et al., CVPR 2019, filter widths of 1): all joints as one
    vector, joint by joint; 45 numbers come out, a root of zeros in front of them. `vpose` has no biases but the last,
    since norms follow."""

    config: LifterConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, 16, 2] -> [B, 16, 3]`."""
        c, plain = self.config, self.config.lifter == "mlp"
        y = Dense(c.width, c, plain, name="in")(x.reshape(len(x), -1))
        y = Dropout(c.dropout)(nn.relu(batch_norm(c, "in_bn")(y, train)), deterministic=not train)
        for i in range(c.stages):
            y = Stage(c, plain, name=f"stage{i}")(y, train)
        y = Dense(3 * (JOINTS - 1), c, name="out")(y).astype(jnp.float32)
        return jnp.concatenate([jnp.zeros((len(x), 1, 3)), y.reshape(len(x), JOINTS - 1, 3)], 1)


@functools.cache
def edges() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the 46 pairs of joints that are the same or share a bone, row by row."""
    near = np.eye(JOINTS, dtype=bool)
    for joint, parent in H36M16.bones:
        near[joint, parent] = near[parent, joint] = True
    return np.nonzero(near)


class SemGraphConv(nn.Module):
    """A graph convolution with learned strengths of edges (Zhao et al., CVPR 2019).

    `M = softmax over each row of e on the edges`; `(M o I) x W0 + (M o (1 - I)) x W1 + b`. Parameters `W [2, in, out]`,
    `e [1, 46]`, `bias [out]`.
    """

    features: int
    config: LifterConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, 16, in] -> [B, 16, features]`."""
        size, dtype = x.shape[-1], jnp.dtype(self.config.dtype)
        rows, columns = edges()
        # PyTorch's Xavier counts the axes of [2, in, out] as [out, in, size]
        xavier = xavier_uniform(size * self.features, 2 * self.features)
        w = self.param("W", lambda *given: 1.414 * xavier(*given), (2, size, self.features), jnp.float32).astype(dtype)
        e = self.param("e", nn.initializers.ones, (1, len(rows)), jnp.float32)
        bias = self.param("bias", torch_uniform(self.features), (self.features,), jnp.float32)
        strength = jax.nn.softmax(jnp.full((JOINTS, JOINTS), -9e15).at[rows, columns].set(e[0]), -1).astype(dtype)
        x = x.astype(dtype)
        near = strength * (1 - jnp.eye(JOINTS, dtype=dtype))
        mixed = lambda h: jnp.einsum("jk,bkf->bjf", near, h)  # noqa: E731
        # of two axes, or XLA's gradient of the product is a third slower
        product = lambda h, w: (h.reshape(-1, size) @ w).reshape(-1, JOINTS, self.features)  # noqa: E731
        itself = product(jnp.diagonal(strength)[:, None] * x, w[0])
        others = product(mixed(x), w[1]) if size <= self.features else mixed(product(x, w[1]))
        return itself + others + bias.astype(dtype)


class Unit(nn.Module):
    """Graph convolution, norm over batch and joints, ReLU, dropout."""

    config: LifterConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, 16, in] -> [B, 16, width]`."""
        c = self.config
        y = nn.relu(batch_norm(c, "bn")(SemGraphConv(c.width, c, name="gconv")(x), train))
        return Dropout(c.dropout)(y, deterministic=not train)


class Pair(nn.Module):
    """Two units, and the input added."""

    config: LifterConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, 16, width] -> [B, 16, width]`."""
        return x + Unit(self.config, name="unit2")(Unit(self.config, name="unit1")(x, train), train)


class SemGCN(nn.Module):
    """`semgcn` (Zhao et al., CVPR 2019) without non-local blocks. Its root is not forced to the origin."""

    config: LifterConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, 16, 2] -> [B, 16, 3]`."""
        y = Unit(self.config, name="in")(x, train)
        for i in range(self.config.stages):
            y = Pair(self.config, name=f"res{i}")(y, train)
        return SemGraphConv(3, self.config, name="out")(y).astype(jnp.float32)


def lifter(config: LifterConfig) -> nn.Module:
    """The network of a config."""
    return SemGCN(config) if config.lifter == "semgcn" else Residual(config)


def mirrored(x: jax.Array) -> jax.Array:
    """Joints `[..., 16, 2 or 3]` of the pose that a mirror shows: x turned round, left and right exchanged."""
    order = np.arange(JOINTS)
    left, right = (list(side) for side in H36M16.sides)
    order[left], order[right] = right, left
    sign = np.ones(x.shape[-1], np.float32)
    sign[0] = -1
    return x[..., order, :] * sign

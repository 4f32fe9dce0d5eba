"""The network of AFE-CNN (reconstruction): four enhancers, the action picture, a light CNN, the maximum over bodies."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.methods.afe_cnn import enhance
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.convolution import convolve, depthwise

STAGES = ((2, (2, 1)), (2, (1, 1)), (4, (2, 2)), (4, (1, 1)), (8, (2, 2)), (8, (1, 1)))
"""Blocks: channels in widths of the stem, and strides in time and over joints."""
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class AFEConfig:
    """The network.

    parents: of each of J joints, -1 for the root. columns: the joints in the order of the picture's columns. frames: T.
    kje, bve, kfe, te: the four enhancers. dtype: of convolutions; norms, gates and head are float32.
    Further fields: `recipe.base`.
    """

    parents: tuple[int, ...]
    columns: tuple[int, ...]
    frames: int = 64
    classes: int = 60
    width: int = 64
    kje: bool = True
    bve: bool = True
    kfe: bool = True
    te: bool = True
    te_span: int = 4
    gates: str = "relative"
    gate_range: float = 0.5
    kje_hidden: int = 32
    kfe_hidden: int = 16
    kfe_size: int = 5
    dropout: float = 0.5
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: str = "float32"

    @property
    def joints(self) -> int:
        """J."""
        return len(self.parents)

    @property
    def channels(self) -> int:
        """C of the action picture: 3, and 3 for bone directions, and 6 for the two differences."""
        return 3 + 3 * self.bve + 6 * self.te


class Kernel(nn.Module):
    """The weights of a convolution without bias: `kernel [kh, kw, in, out]`."""

    shape: tuple[int, int, int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        """The kernel, float32."""
        return self.param("kernel", he_fan_out, self.shape, jnp.float32)


class Separable(nn.Module):
    """Depthwise 3x3, norm, ReLU, pointwise, norm, the input added where its shape is that of the output, ReLU."""

    features: int
    stride: tuple[int, int]
    config: AFEConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """`[N, T, J, in] -> [N, ⌈T/s⌉, ⌈J/s⌉, features]`; mask `[N]`, the bodies that are there."""
        size, dtype = x.shape[-1], jnp.dtype(self.config.dtype)
        y = depthwise(x, Kernel((3, 3, 1, size), name="dw")().astype(dtype), self.stride)
        y = nn.relu(batch_norm(self.config, "bn1")(y, train, mask))
        y = convolve(y, Kernel((1, 1, size, self.features), name="pw")().astype(dtype))
        y = batch_norm(self.config, "bn2")(y, train, mask)
        if size == self.features and self.stride == (1, 1):
            y += x
        return nn.relu(y)


class Stem(nn.Module):
    """Convolution 3x3, norm, ReLU."""

    config: AFEConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """`[N, T, J, C] -> [N, T, J, width]`."""
        kernel = Kernel((3, 3, x.shape[-1], self.config.width), name="conv")()
        return nn.relu(batch_norm(self.config, "bn")(convolve(x, kernel.astype(x.dtype)), train, mask))


class JointGates(nn.Module):
    """Key-joint enhancement: `1 + range · tanh(W2 relu(W1 q + b1) + b2)`, W2 = 0 at the start."""

    config: AFEConfig

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        """Descriptors `[N, J, 3]` -> gates `[N, J]`."""
        h = nn.relu(nn.Dense(self.config.kje_hidden, name="fc1")(q.reshape(q.shape[0], -1)))
        last = nn.Dense(self.config.joints, kernel_init=nn.initializers.zeros, name="fc2")
        return enhance.gate(last(h), self.config.gates, self.config.gate_range)


class FrameGates(nn.Module):
    """Key-frame enhancement: two convolutions over time; the kernel of the second is 0 at the start."""

    config: AFEConfig

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        """Descriptors `[N, T, 3]` -> gates `[N, T]`."""
        c, pad = self.config, [(self.config.kfe_size // 2,) * 2]
        h = nn.relu(nn.Conv(c.kfe_hidden, (c.kfe_size,), padding=pad, kernel_init=he_fan_out, name="conv1")(q))
        last = nn.Conv(1, (c.kfe_size,), padding=pad, kernel_init=nn.initializers.zeros, name="conv2")
        return enhance.gate(last(h)[..., 0], c.gates, c.gate_range)


class AFECNN(nn.Module):
    """The whole network. Both bodies of a clip go through the same weights; statistics are of bodies that are there."""

    config: AFEConfig

    def setup(self) -> None:
        """Modules under the names of the parameter tree."""
        c = self.config
        self.data_bn = BatchNorm(momentum=c.bn_momentum, epsilon=c.bn_epsilon, unbiased=False)
        if c.kje:
            self.kje = JointGates(c)
        if c.kfe:
            self.kfe = FrameGates(c)
        self.stem = Stem(c)
        self.block = [Separable(c.width * k, stride, c, name=f"block{i}") for i, (k, stride) in enumerate(STAGES)]
        self.drop = nn.Dropout(c.dropout)
        self.head = nn.Dense(c.classes)

    def picture(self, x: jax.Array, mask: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Joints `[N, T, J, 3]`, mask bool `[N]` -> `picture [N, T, J, C]` (rows are frames, columns joints in the
        order of body parts), `joint_gates [N, J]` and `frame_gates [N, T]`, all float32; gates are 1 where their
        module is off."""
        c = self.config
        x = x.astype(jnp.float32)
        z = enhance.streams(x, c.parents, c.bve, c.te, c.te_span)
        n, t, j, channels = z.shape
        z = self.data_bn(z.reshape(n, t, j * channels), train, mask).reshape(z.shape)
        joint, frame = jnp.ones((n, j)), jnp.ones((n, t))
        if c.kje or c.kfe:
            of_joints, of_frames = enhance.descriptors(x, c.gates)
            if c.kje:
                joint = self.kje(of_joints)
                z = z * joint[:, None, :, None]
            if c.kfe:
                frame = self.kfe(of_frames)
                z = z * frame[:, :, None, None]
        return {"picture": z[:, :, np.array(c.columns)], "joint_gates": joint, "frame_gates": frame}

    def __call__(self, x: jax.Array, present: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """`x [B, M, T, J, 3]`, `present [B, M]` bool, at least one body of each clip -> `logits [B, K]`,
        `joint_gates [B, M, J]`, `frame_gates [B, M, T]`, float32."""
        b, m = present.shape
        mask = present.reshape(b * m)
        seen = self.picture(x.reshape(b * m, *x.shape[2:]), mask, train)
        y = self.stem(seen["picture"].astype(self.config.dtype), mask, train)
        for block in self.block:
            y = block(y, mask, train)
        features = y.astype(jnp.float32).mean((1, 2)).reshape(b, m, -1)
        features = jnp.where(present[..., None], features, -jnp.inf).max(1)
        logits = self.head(self.drop(features, deterministic=not train))
        return {
            "logits": logits,
            "joint_gates": seen["joint_gates"].reshape(b, m, -1),
            "frame_gates": seen["frame_gates"].reshape(b, m, -1),
        }


def batch_norm(config: AFEConfig, name: str) -> BatchNorm:
    """A norm over the bodies that are there; running statistics keep the biased variance."""
    return BatchNorm(
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        unbiased=False,
        dtype=jnp.dtype(config.dtype),
        name=name,
    )


@dataclasses.dataclass(frozen=True)
class Cost:
    """parameters: without running statistics. macs: multiply-adds of one body, convolutions and dense layers."""

    parameters: int
    macs: int


def cost(config: AFEConfig) -> Cost:
    """What the network costs, counted layer by layer."""
    c, j, t = config, config.joints, config.frames
    size, w = c.channels, c.width
    numbers, macs = 2 * j * size, 0
    if c.kje:
        dense = [(3 * j, c.kje_hidden), (c.kje_hidden, j)]
        numbers += sum(a * b + b for a, b in dense)
        macs += sum(a * b for a, b in dense)
    if c.kfe:
        kernels = [(3, c.kfe_hidden), (c.kfe_hidden, 1)]
        numbers += sum(c.kfe_size * a * b + b for a, b in kernels)
        macs += sum(c.kfe_size * a * b * t for a, b in kernels)
    numbers += 9 * size * w + 2 * w
    macs += 9 * size * w * t * j
    before = w
    for times, (down, across) in STAGES:
        t, j, after = -(-t // down), -(-j // across), w * times
        numbers += 9 * before + 2 * before + before * after + 2 * after
        macs += (9 * before + before * after) * t * j
        before = after
    return Cost(numbers + before * c.classes + c.classes, macs + before * c.classes)

"""ResNet v1.5, exactly as torchvision computes it (He et al., CVPR 2016, arXiv 1512.03385), plain and slimmable.

NHWC, kernels HWIO, every stride and pool padded symmetrically. In a bottleneck the stride sits on the 3x3. One module
serves all users: `widths` makes it slimmable (see `nn/slimmable.py`), `output_stride` dilates it, `norm` and
`frozen_stages` freeze it.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.slimmable import FULL, SlimConv, SlimDense, check_widths, switchable_batch_norm

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
TAPS = ("conv1", "stem", "layer1", "layer2", "layer3", "layer4", "pool", "logits")
STRIDES = {"conv1": 2, "stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
"""Nominal stride of each tap at `output_stride=32`. Maps of odd images are rounded up: never divide sizes."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB values in [0, 1]; what torchvision's and timm's weights expect."""


def frozen_pattern(stages: int) -> str:
    """Regex of the parameter paths that `frozen_stages=stages` leaves untrained (for an objective's `trains`)."""
    if stages < 0:
        return r"$^"
    return r"(^|/)(stem/" + "".join(f"|layer{s}_" for s in range(1, stages + 1)) + ")"


@dataclasses.dataclass(frozen=True)
class Options:
    """What all blocks of a trunk share; the fields of `ResNet` of the same names."""

    widths: tuple[float, ...] = FULL
    overlap: bool = True
    bn_groups: int = 1
    bn_runs: tuple[int, ...] = ()
    frozen: bool = False
    dtype: jnp.dtype = jnp.float32

    def conv(self, name: str, in_features: int, features: int, size: int, **kw) -> SlimConv:
        """A convolution of the trunk, inside a compact call."""
        shared = {"widths": self.widths, "overlap": self.overlap, "dtype": self.dtype}
        return SlimConv(in_features, features, size, name=name, **shared, **kw)

    def norm(self, name: str, index: int, **kw):
        """The batch normalisation of one width, inside a compact call."""
        shared = {"groups": self.bn_groups, "runs": self.bn_runs, "frozen": self.frozen, "dtype": self.dtype}
        return switchable_batch_norm(name, self.widths, index, **shared, **kw)


class Stem(nn.Module):
    """7x7 convolution of stride 2, batch norm, ReLU. Parameters `conv/kernel [7, 7, 3, C]`, `bn/...`.

    space_to_depth: compute the convolution on 2x2 blocks of pixels (12 input channels instead of 3, which fill a
    matrix unit better): the same parameters and result, even image sizes only.
    """

    features: int
    options: Options
    space_to_depth: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """`[B, H, W, 3] -> [B, ⌈H/2⌉, ⌈W/2⌉, C·w]`."""
        conv = self.options.conv("conv", 3, self.features, 7, stride=2, slice_in=False, blocks=self.space_to_depth)
        return nn.relu(self.options.norm("bn", index)(conv(x, index), train))


class Block(nn.Module):
    """A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1 of four times the channels).

    in_features, features: channels of input and output at the full width. dilation: of the (first) 3x3.
    Parameters `conv{1,2,3}/kernel`, `bn{1,2,3}/...`, and `proj/{conv,bn}` where size or channels change.
    """

    in_features: int
    features: int
    stride: int
    dilation: int
    bottleneck: bool
    zero_init: bool
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """`[B, H, W, in·w] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features·w]`."""
        o, mid = self.options, self.features // 4 if self.bottleneck else self.features
        if self.bottleneck:
            sizes = ((self.in_features, mid, 1, 1, 1), (mid, mid, 3, self.stride, self.dilation))
            sizes += ((mid, self.features, 1, 1, 1),)
        else:
            sizes = ((self.in_features, mid, 3, self.stride, 1), (mid, mid, 3, 1, 1))
        y = x
        for n, (cin, cout, size, stride, dilation) in enumerate(sizes, 1):
            last = n == len(sizes)
            scale = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = o.conv(f"conv{n}", cin, cout, size, stride=stride, dilation=dilation)(y, index)
            y = o.norm(f"bn{n}", index, scale_init=scale)(y, train)
            y = y if last else nn.relu(y)
        if self.stride != 1 or self.in_features != self.features:
            x = Projection(self.in_features, self.features, self.stride, o, name="proj")(x, train, index)
        return nn.relu(x + y)


class Projection(nn.Module):
    """The shortcut where size or channels change: 1x1 convolution and batch norm. Parameters `conv`, `bn`."""

    in_features: int
    features: int
    stride: int
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """`[B, H, W, in·w] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features·w]`."""
        x = self.options.conv("conv", self.in_features, self.features, 1, stride=self.stride)(x, index)
        return self.options.norm("bn", index)(x, train)


class ResNet(nn.Module):
    """The trunk. Parameters `stem/...`, `layer{s}_{j}/...`, `fc/{kernel,bias}`; statistics in `batch_stats`.

    depth: 18, 34 (basic blocks), 50, 101, 152 (bottlenecks); blocks, bottleneck: another shape than the depth's (one to
        four stages).
    num_classes: adds the tap `logits`. taps: what the call returns, of `TAPS`; all after the last ReLU of their part.
    norm: 'bn' (over the global batch, in `bn_groups`, or in `bn_runs`: `groups` and `runs` of `BatchNorm`) or 'frozen'
        (constants, also in training).
    frozen_stages: n >= 0 normalises stem and layers 1..n by running statistics also in training; leave their
        parameters out of `trains` with `frozen_pattern(n)`. -1: none.
    output_stride: 32, or 16, 8 with dilated last stages (bottlenecks only); a dilated stage's first block keeps the
        dilation before it, as in torchvision.
    zero_init: the last batch norm of every block starts at 0. width: channels of the stem.
    widths: shares of the channels of the sub-networks; each has its own batch norms (`bn1_w050`). overlap: see
        `nn.slimmable.channels`. dtype: of convolutions and of the residual stream. remat: keep only the blocks' inputs
        for the backward pass. space_to_depth: see `Stem`.
    """

    depth: int = 50
    num_classes: int | None = None
    taps: tuple[str, ...] = ("pool",)
    norm: str = "bn"
    output_stride: int = 32
    zero_init: bool = False
    width: int = 64
    bn_groups: int = 1
    bn_runs: tuple[int, ...] = ()
    frozen_stages: int = -1
    blocks: tuple[int, ...] | None = None
    bottleneck: bool | None = None
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    space_to_depth: bool = False

    @property
    def is_bottleneck(self) -> bool:
        """Whether the blocks are bottlenecks."""
        return self.depth >= 50 if self.bottleneck is None else self.bottleneck

    @property
    def features(self) -> int:
        """Channels of the last stage and of the pooled features at the full width."""
        return self.width * 2 ** (self.stage_count - 1) * (4 if self.is_bottleneck else 1)

    @property
    def stage_count(self) -> int:
        """Number of stages; 4 unless `blocks` has fewer entries."""
        return len(self.blocks or BLOCKS[self.depth])

    def setup(self):
        """Builds all blocks; raises InputError for fields that do not fit."""
        self._check()
        base = Options(self.widths, self.overlap, self.bn_groups, self.bn_runs, self.norm == "frozen", self.dtype)
        self.stem = Stem(self.width, base, self.space_to_depth)
        block_type = nn.remat(Block, static_argnums=(2, 3)) if self.remat else Block
        stages, channels, dilation = [], self.width, 1
        for s, count in enumerate(self.blocks or BLOCKS[self.depth], 1):
            out = self.width * 2 ** (s - 1) * (4 if self.is_bottleneck else 1)
            stride, before = (2 if s > 1 else 1), dilation
            if {16: s == 4, 8: s >= 3}.get(self.output_stride, False):
                stride, dilation = 1, 2 * dilation
            stage = []
            for j in range(count):
                block = block_type(
                    in_features=channels if j == 0 else out,
                    features=out,
                    stride=stride if j == 0 else 1,
                    dilation=before if j == 0 else dilation,
                    bottleneck=self.is_bottleneck,
                    zero_init=self.zero_init,
                    options=base,
                )
                setattr(self, f"layer{s}_{j}", block)
                stage.append(f"layer{s}_{j}")
            stages.append(tuple(stage))
            channels = out
        self.stages = tuple(stages)
        if self.num_classes is not None:
            bound = self.features**-0.5
            uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
            self.fc = SlimDense(
                self.features,
                self.num_classes,
                slice_out=False,
                widths=self.widths,
                overlap=self.overlap,
                kernel_init=uniform,
                bias_init=uniform,
                dtype=self.dtype,
            )

    def _check(self) -> None:
        if self.depth not in BLOCKS:
            raise InputError(f"depth: {self.depth} is none of {', '.join(map(str, BLOCKS))}")
        if self.norm not in ("bn", "frozen"):
            raise InputError(f"norm: {self.norm!r} is neither 'bn' nor 'frozen'")
        if self.output_stride not in (8, 16, 32):
            raise InputError(f"output_stride: {self.output_stride} is none of 8, 16, 32")
        if self.output_stride != 32 and not self.is_bottleneck:
            raise InputError("output_stride: only bottleneck trunks (depth 50 and more) can be dilated")
        unknown = set(self.taps) - set(TAPS)
        if unknown:
            raise InputError(f"taps: {', '.join(sorted(unknown))} is none of {', '.join(TAPS)}")
        if not 1 <= self.stage_count <= 4:
            raise InputError(f"blocks: {self.blocks} has {self.stage_count} stages, not one to four")
        beyond = [t for t in self.taps if t.startswith("layer") and int(t[5:]) > self.stage_count]
        if beyond:
            raise InputError(f"taps: {', '.join(beyond)} lies beyond the {self.stage_count} stages of blocks")
        if "logits" in self.taps and self.num_classes is None:
            raise InputError("taps: 'logits' needs num_classes")
        check_widths(self.widths)

    def __call__(self, x: jax.Array, train: bool = False, index: int = 0) -> dict[str, jax.Array]:
        """Normalised RGB `[B, H, W, 3]` (H, W at least 32) -> the taps of width `index` of `widths`.

        Maps are `[B, ⌈H/stride⌉, ⌈W/stride⌉, C·w]` in `dtype`, `pool` `[B, features·w]` float32, `logits`
        `[B, num_classes]` float32. train: batch statistics (make `batch_stats` mutable).
        """
        if self.is_initializing():  # every width's batch norms are made, whichever width is asked for
            for other in range(len(self.widths)):
                taps = self._forward(x, train, other)
                if other == index:
                    wanted = taps
            return wanted
        return self._forward(x, train, index)

    def _forward(self, x: jax.Array, train: bool, index: int) -> dict[str, jax.Array]:
        taps = {}
        x = taps["conv1"] = self.stem(x, train and self.frozen_stages < 0, index)
        x = taps["stem"] = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for s, names in enumerate(self.stages, 1):
            for name in names:
                x = getattr(self, name)(x, train and self.frozen_stages < s, index)
            taps[f"layer{s}"] = x
        taps["pool"] = x.mean((1, 2), dtype=jnp.float32)
        if self.num_classes is not None:
            taps["logits"] = self.fc(taps["pool"], index).astype(jnp.float32)
        return {name: taps[name] for name in self.taps}

"""The networks of SlimCLR: a slimmable trunk with its head, and the predictor of MoCo v3 (specification, section 3).

`index` is a position in `widths` (descending, 0 is the full network) and a Python integer: every width is a static
program. Layers of the heads are called as in the published checkpoints: `fc0`, `bn1`, `fc3`, ...
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvl.core.errors import InputError
from jaxvl.methods.slimclr.trunks import CifarResNet, ConvNet
from jaxvl.nn.resnet import MEAN, STD, ResNet
from jaxvl.nn.slimmable import FULL, SlimDense, channels, check_widths, switchable_batch_norm, width_name

HEADS = ("mocov2_slim", "mocov2_switch", "mocov3_slim", "simclr_slim", "supervised", "supervised_switch")
TRUNKS = ("resnet", "cifar", "conv")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks.

    trunk: of `TRUNKS`. depth, width: of the ResNets; conv_channels, strides: of 'conv'. zero_init: last batch norm of
    each block starts at 0 ('resnet'). head: of `HEADS`. hidden, dim: sizes of the head, `dim` is the number of classes
    of the supervised ones. init_sd: of the dense layers; 0 is PyTorch's uniform initialisation by fan-in. bn_groups:
    runs of rows with batch statistics of their own. mean, std: of RGB in [0, 1].
    """

    trunk: str = "resnet"
    depth: int = 50
    width: int = 64
    conv_channels: tuple[int, ...] = (16, 32, 64, 64)
    strides: tuple[int, ...] = (1, 2, 2, 1)
    widths: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    overlap: bool = True
    zero_init: bool = True
    head: str = "mocov2_slim"
    hidden: int = 2048
    dim: int = 128
    init_sd: float = 0.01
    bn_groups: int = 1
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        check_widths(self.widths)
        for name, value, known in (("trunk", self.trunk, TRUNKS), ("head", self.head, HEADS)):
            if value not in known:
                raise InputError(f"config.model.{name}: {value!r} is none of {', '.join(known)}")

    @property
    def features(self) -> int:
        """Channels of the pooled features at the full width."""
        if self.trunk == "conv":
            return self.conv_channels[-1]
        if self.trunk == "cifar":
            return 4 * self.width
        return self.width * 8 * (4 if self.depth >= 50 else 1)

    def feature_sizes(self) -> tuple[int, ...]:
        """Channels of the pooled features by width."""
        return tuple(int(w * self.features) for w in self.widths)

    @property
    def names(self) -> tuple[str, ...]:
        """`w100`, `w075`, ..."""
        return tuple(f"w{round(100 * w):03d}" for w in self.widths)

    def alone(self, index: int) -> ModelConfig:
        """The ordinary network of the size of width `index`, which shares nothing."""
        w = self.widths[index]
        small = {"width": int(w * self.width), "hidden": int(w * self.hidden), "widths": FULL}
        return dataclasses.replace(self, conv_channels=tuple(int(w * c) for c in self.conv_channels), **small)


def make_trunk(c: ModelConfig) -> nn.Module:
    """The trunk of a config."""
    shared = {"widths": c.widths, "overlap": c.overlap, "bn_groups": c.bn_groups, "dtype": jnp.dtype(c.dtype)}
    if c.trunk == "conv":
        return ConvNet(c.conv_channels, c.strides, **shared)
    if c.trunk == "cifar":
        return CifarResNet(c.depth, c.width, **shared)
    return ResNet(c.depth, zero_init=c.zero_init, width=c.width, remat=c.remat, **shared)


class Head(nn.Module):
    """From features `[B, F w]` to outputs `[B, dim]` float32, of the kind `config.head`; hidden sizes are sliced."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """The outputs of width `index`."""
        c = self.config
        if c.head == "mocov2_slim":
            x = nn.relu(_dense(c, "fc0", c.features, c.hidden)(x, index))
            x = _dense(c, "fc2", c.hidden, c.dim, slice_out=False)(x, index)
        elif c.head == "mocov2_switch":
            x = nn.relu(_switch(c, "fc0", c.features, c.hidden, index)(x))
            x = _switch(c, "fc2", c.hidden, c.dim, index, slice_out=False)(x)
        elif c.head == "mocov3_slim":
            x = _dense(c, "fc0", c.features, c.hidden, use_bias=False)(x, index)
            x = nn.relu(_norm(c, "bn1", index)(x, train))
            x = _dense(c, "fc3", c.hidden, c.dim, slice_out=False, use_bias=False)(x, index)
            x = _norm(c, "bn4", index, affine=False)(x, train)
        elif c.head == "simclr_slim":
            x = _dense(c, "fc0", c.features, c.hidden)(x, index)
            x = nn.relu(_norm(c, "bn1", index)(x, train))
            x = _dense(c, "fc3", c.hidden, c.dim, slice_out=False, use_bias=False)(x, index)
            x = _norm(c, "bn4", index)(x, train)
        elif c.head == "supervised":
            x = _dense(c, "fc", c.features, c.dim, slice_out=False)(x, index)
        else:
            x = _switch(c, "fc", c.features, c.dim, index, slice_out=False)(x)
        return x.astype(jnp.float32)


def _dense(c: ModelConfig, name: str, cin: int, cout: int, **options) -> SlimDense:
    init = {} if c.init_sd == 0 else {"kernel_init": nn.initializers.normal(c.init_sd)}
    if c.init_sd == 0:  # PyTorch's: uniform in ±1/√in
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        init = {"kernel_init": uniform}
    shared = {"widths": c.widths, "overlap": c.overlap, "dtype": jnp.dtype(c.dtype)}
    return SlimDense(cin, cout, name=name, **shared, **init, **options)


def _switch(c: ModelConfig, name: str, cin: int, cout: int, index: int, slice_out: bool = True) -> SlimDense:
    """A dense layer that width `index` shares with no other."""
    w = c.widths[index]
    alone = dataclasses.replace(c, widths=FULL)
    return _dense(alone, width_name(name, c.widths, index), int(w * cin), int(w * cout) if slice_out else cout)


def _norm(c: ModelConfig, name: str, index: int, **options):
    return switchable_batch_norm(name, c.widths, index, groups=c.bn_groups, dtype=jnp.dtype(c.dtype), **options)


class Encoder(nn.Module):
    """Trunk and head. `images` are uint8 and normalised here."""

    config: ModelConfig

    def setup(self):
        """Parameters `trunk/...`, `head/...`."""
        self.trunk = make_trunk(self.config)
        self.head = Head(self.config)

    def __call__(self, images: jax.Array, train: bool = False, index: int = 0) -> tuple[jax.Array, jax.Array]:
        """`[B, H, W, 3]` uint8 -> `(features [B, F w], outputs [B, dim])` float32, of width `index`."""
        if self.is_initializing():
            return self._make_all(images, train)[index]
        features = self.features(images, train, index)
        return features, self.head(features, train, index)

    def features(self, images: jax.Array, train: bool = False, index: int = 0) -> jax.Array:
        """Pooled features of the trunk alone `[B, F w]`."""
        x = images.astype(jnp.float32) / 255
        x = (x - jnp.asarray(self.config.mean, jnp.float32)) / jnp.asarray(self.config.std, jnp.float32)
        out = self.trunk(x, train, index)
        return out["pool"] if isinstance(out, dict) else out

    def _make_all(self, images: jax.Array, train: bool) -> list[tuple[jax.Array, jax.Array]]:
        """Every width once, so that all of them have their norms."""
        found = []
        for i, size in enumerate(self.config.feature_sizes()):
            if i and self.config.trunk == "resnet":  # makes all widths at its first call
                features = jnp.zeros((len(images), size))
            else:
                features = self.features(images, train, i)
            found.append((features, self.head(features, train, i)))
        return found


class Predictor(nn.Module):
    """MoCo v3's prediction head, `[B, dim] -> [B, dim]`; parameters `fc0`, `bn1`, `fc3`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, index: int) -> jax.Array:
        """The prediction of width `index`, float32."""
        c = self.config
        x = _dense(c, "fc0", c.dim, c.hidden, slice_in=False, use_bias=False)(x, index)
        x = nn.relu(_norm(c, "bn1", index)(x, train))
        x = _dense(c, "fc3", c.hidden, c.dim, slice_out=False, use_bias=False)(x, index)
        return x.astype(jnp.float32)

    def init_all(self, rng: jax.Array, rows: int) -> dict:
        """Variables with the norms of every width."""
        dummy, merged = jnp.zeros((rows, self.config.dim)), {}
        for index in range(len(self.config.widths)):
            merged |= flatten_dict(self.init(rng, dummy, False, index))
        return unflatten_dict(merged)


def slices_of(c: ModelConfig, path: str, shape: tuple[int, ...], index: int) -> tuple[slice, slice]:
    """`(in, out)` channels of a kernel of the encoder at `path` (`trunk/...`, `head/fc0/kernel`) that width `index`
    uses: RGB comes whole, and so does the last layer's output."""
    last = path.startswith("head/") and not path.startswith("head/fc0")
    rgb = path in ("trunk/stem/conv/kernel", "trunk/stem/kernel", "trunk/conv1/kernel")
    cut = lambda n: channels(n, c.widths, index, c.overlap)  # noqa: E731
    return (slice(None) if rgb else cut(shape[-2])), (slice(None) if last else cut(shape[-1]))

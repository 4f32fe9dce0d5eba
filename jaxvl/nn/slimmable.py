"""Layers whose leading channels are themselves narrower layers (Yu et al., Slimmable Neural Networks, ICLR 2019).

A network has `widths`, shares of the full channel counts in descending order, the first being 1; `index` (a Python
integer, so every width is a static program of its own) picks one. Convolutions and dense layers share one kernel and
use a slice of it; batch normalisation is switchable, one module a width. With `widths=(1.0,)` all of it is the plain
layer with the plain names.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError
from jaxvl.nn.batch_norm import BatchNorm
from jaxvl.nn.convolution import convolve, convolve_blocks

FULL = (1.0,)
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's normal initialisation by the full kernel's fan-out, not truncated (torchvision's for ResNets)."""


def check_widths(widths: Sequence[float]) -> None:
    """Raises InputError unless the widths are descending shares that begin with 1."""
    ordered = all(a > b for a, b in itertools.pairwise(widths))
    if not widths or widths[0] != 1.0 or not ordered or widths[-1] <= 0:
        raise InputError(f"widths {tuple(widths)}: must begin with 1.0 and descend, as (1.0, 0.75, 0.5, 0.25)")


def channels(full: int, widths: Sequence[float], index: int, overlap: bool = True) -> slice:
    """The channels of a layer with `full` of them that width `index` uses: the leading `int(w * full)`.

    overlap=False lays the narrower widths out side by side from the narrowest up (128 channels at widths 1, 1/2, 1/4:
    0-128, 32-96, 0-32), while the full width uses all. Raises InputError where they do not fit.
    """
    counts = [int(w * full) for w in widths]
    if counts[index] < 1:
        raise InputError(f"widths {tuple(widths)}: {widths[index]:g} of {full} channels is none; leave this width out")
    start = 0 if overlap or index == 0 else sum(counts[index + 1 :])
    if start + counts[index] > full:
        raise InputError(f"widths {tuple(widths)}: without overlap they need more than the {full} channels there are")
    return slice(start, start + counts[index])


def width_name(name: str, widths: Sequence[float], index: int) -> str:
    """`bn1` of a plain network, `bn1_w100`, `bn1_w075`, ... of a slimmable one."""
    return name if len(widths) == 1 else f"{name}_w{round(100 * widths[index]):03d}"


def switchable_batch_norm(name: str, widths: Sequence[float], index: int, **options) -> BatchNorm:
    """The batch normalisation of width `index`, to be made inside a compact call of the module that holds it."""
    return BatchNorm(name=width_name(name, widths, index), **options)


class SlimConv(nn.Module):
    """Convolution without bias, padded symmetrically as PyTorch does; parameter `kernel [k, k, in, features]`.

    in_features, features: of the full width. slice_in: False where the input has all its channels at every width (RGB).
    blocks: compute a convolution of stride 2 on 2x2 blocks of pixels, see `convolve_blocks`.
    """

    in_features: int
    features: int
    size: int
    stride: int = 1
    dilation: int = 1
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    slice_in: bool = True
    blocks: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, index: int = 0) -> jax.Array:
        """`[B, H, W, in·w] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, features·w]` in `dtype`."""
        shape = (self.size, self.size, self.in_features, self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        rows = channels(self.in_features, self.widths, index, self.overlap) if self.slice_in else slice(None)
        kernel = kernel[:, :, rows, channels(self.features, self.widths, index, self.overlap)]
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return convolve_blocks(x, kernel) if self.blocks else convolve(x, kernel, self.stride, self.dilation)


class SlimDense(nn.Module):
    """Dense layer whose kernel `[in, features]` and `bias` are sliced by width.

    slice_in, slice_out: False where that side has the same size at every width (RGB values, the output of a head).
    """

    in_features: int
    features: int
    use_bias: bool = True
    slice_in: bool = True
    slice_out: bool = True
    widths: tuple[float, ...] = FULL
    overlap: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, index: int = 0) -> jax.Array:
        """`[..., in·w] -> [..., features·w]` in `dtype`."""
        kernel = self.param("kernel", self.kernel_init, (self.in_features, self.features), jnp.float32)
        pick = lambda full, sliced: channels(full, self.widths, index, self.overlap) if sliced else slice(None)  # noqa: E731
        out = pick(self.features, self.slice_out)
        y = x.astype(self.dtype) @ kernel[pick(self.in_features, self.slice_in), out].astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,), jnp.float32)[out].astype(self.dtype)
        return y

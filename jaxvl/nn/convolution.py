"""Convolutions as PyTorch pads them, computed in the form that is fast where they run."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxvl.core.errors import InputError

SMALL_MAP = 16
"""Output positions up to which XLA's CPU convolution falls out of its fast path: 2x2 maps of 512 channels take 30 times
as long as the same product of gathered windows, forward and backward. Above, the native form is as fast or faster."""


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """NHWC convolution of an odd kernel, centred: output i looks at inputs around `i·stride`.

    `[B, H, W, in]`, `[k, k, in, out] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, out]`. Never "SAME", which for even sizes and
    stride 2 pads (0, 1) where PyTorch pads (1, 1). A 1x1 kernel is a matrix product everywhere; on CPUs, so is a larger
    one on a map of a few cells.
    """
    if kernel.shape[:2] == (1, 1):
        return _product(x[:, ::stride, ::stride], kernel[0, 0])
    native = functools.partial(_convolve, stride=stride, dilation=dilation)
    if -(-x.shape[1] // stride) * -(-x.shape[2] // stride) > SMALL_MAP:
        return native(x, kernel)
    gathered = functools.partial(_convolve_gathered, stride=stride, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=gathered, default=native)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    pads = [(dilation * (k // 2), dilation * (k // 2)) for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_gathered(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """All windows side by side, then one matrix product."""
    (rows, columns), (height, width) = kernel.shape[:2], x.shape[1:3]
    high, wide = -(-height // stride), -(-width // stride)
    reach = [dilation * (k // 2) for k in (rows, columns)]
    x = jnp.pad(x, ((0, 0), (reach[0], reach[0]), (reach[1], reach[1]), (0, 0)))
    shifts = [(dilation * i, dilation * j) for i in range(rows) for j in range(columns)]
    windows = [
        x[:, i : i + stride * (high - 1) + 1 : stride, j : j + stride * (wide - 1) + 1 : stride] for i, j in shifts
    ]
    return _product(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[B, H, W, in] @ [in, out]` as a product of matrices: where three axes are summed over in its weight gradient,
    XLA's CPU backend does not use its fast library."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def convolve_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve(x, kernel, stride=2)` for 7x7 kernels on 2x2 blocks of pixels: four times the input channels, which
    fill a matrix unit better where there are three. Raises InputError for odd image sizes."""
    batch, height, width, features = x.shape
    if height % 2 or width % 2 or kernel.shape[:2] != (7, 7):
        raise InputError(f"space_to_depth: takes even images and 7x7 kernels, not {height}x{width}, {kernel.shape[:2]}")
    x = x.reshape(batch, height // 2, 2, width // 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, features, -1).transpose(0, 2, 1, 3, 4, 5)
    return jax.lax.conv_general_dilated(
        x.reshape(batch, height // 2, width // 2, 4 * features),
        kernel.reshape(4, 4, 4 * features, -1),
        (1, 1),
        [(2, 1), (2, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

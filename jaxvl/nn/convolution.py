"""Convolutions as PyTorch pads them, computed in the form that is fast where they run."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.core.errors import InputError

SMALL_MAP = 16
"""Output positions up to which XLA's CPU convolution falls out of its fast path: 2x2 maps of 512 channels take 30 times
as long as the same product of gathered windows, forward and backward. Above, the native form is as fast or faster."""

MANY_WINDOWS = 10_000_000
"""Entries of all windows of a map from which XLA's CPU backend is two to three times slower at the gradient of the
kernel than products of blocks of windows. Well below, its own form is as fast or faster."""
BLOCK, BLOCK_CELLS = 2**20, 4096
"""Entries of the windows of a block, and its output cells, at most (but a row of all images is the least)."""


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """NHWC convolution of an odd kernel, centred: output i looks at inputs around `i·stride`.

    `[B, H, W, in]`, `[k, k, in, out] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, out]`. Never "SAME", which for even sizes and
    stride 2 pads (0, 1) where PyTorch pads (1, 1). On CPUs a 1x1 kernel is a matrix product, and so is a larger one on
    a map of a few cells; on a large map the gradient of the kernel is a sum of products. Elsewhere all are the
    convolution: a TPU keeps a map of 7x7 cells in another layout than the rows of a matrix, and would copy it there
    and back.
    """
    native = functools.partial(_convolve, stride=stride, dilation=dilation)
    cells = -(-x.shape[1] // stride) * -(-x.shape[2] // stride)
    if kernel.shape[:2] == (1, 1):
        form = functools.partial(_convolve_one, stride=stride)
    elif cells <= SMALL_MAP:
        form = functools.partial(_convolve_gathered, stride=stride, dilation=dilation)
    elif _by_blocks(x, kernel, cells) and dilation == 1:
        form = functools.partial(_convolve_large, stride=stride)
    else:
        return native(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=form, default=native)


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


def _convolve_one(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Of a 1x1 kernel."""
    return _product(x[:, ::stride, ::stride], kernel[0, 0])


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


def _by_blocks(x: jax.Array, kernel: jax.Array, cells: int) -> bool:
    windows = x.shape[0] * cells * math.prod(kernel.shape[:3])
    return windows >= MANY_WINDOWS and x.dtype == kernel.dtype == jnp.float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_large(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _convolve(x, kernel, stride, 1)


def _large_forward(x, kernel, stride):
    return _convolve(x, kernel, stride, 1), (x, kernel)


def _large_backward(stride, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, 1), x)(dy)
    return dx, _kernel_gradient(x, dy, kernel.shape, stride)


_convolve_large.defvjp(_large_forward, _large_backward)


def _kernel_gradient(x: jax.Array, dy: jax.Array, shape: Sequence[int], stride: int) -> jax.Array:
    """Of a centred convolution: for blocks of rows, all windows `[k·k·in, cells] @ [cells, out]`, summed.

    Blocks are of rows and not of images, which may lie on several devices. The windows' long axis is the last: a
    product whose left side must be transposed takes twice as long.
    """
    (rows, columns, features, out), (batch, height, width) = shape, dy.shape[:3]
    most = min(BLOCK_CELLS, BLOCK // math.prod(shape[:3]))
    high = max(n for n in range(1, height + 1) if height % n == 0 and (n == 1 or batch * width * n <= most))
    reach = stride * (high - 1) + rows
    pads = [(k // 2, stride * (m - 1) + k - k // 2 - n) for k, m, n in zip(shape[:2], dy.shape[1:3], x.shape[1:3])]
    x = jax.lax.optimization_barrier(
        jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)])
    )

    def add(total, block):
        part = jax.lax.dynamic_slice_in_dim(x, block * high * stride, reach, 1).transpose(3, 0, 1, 2)
        windows = [
            part[:, :, i : i + stride * (high - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            for i, j in np.ndindex(rows, columns)
        ]
        windows = jax.lax.optimization_barrier(jnp.stack(windows)).reshape(-1, batch * high * width)
        outer = jax.lax.dynamic_slice_in_dim(dy, block * high, high, 1).reshape(-1, out)
        return total + windows @ outer, None

    zeros = jnp.zeros((rows * columns * features, out), jnp.float32)
    return jax.lax.scan(add, zeros, jnp.arange(height // high))[0].reshape(shape)


def depthwise(x: jax.Array, kernel: jax.Array, stride: tuple[int, int] = (1, 1)) -> jax.Array:
    """NHWC convolution of every channel by an odd kernel of its own, centred: output i looks at inputs around
    `i·stride`, with PyTorch's symmetric zero padding.

    `[B, H, W, C]`, `[kh, kw, 1, C] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, C]`. On CPUs XLA leaves its fast path for grouped
    convolutions; there it is a sum of shifted products, forward and backward.
    """
    shifted = functools.partial(_depthwise_shifted, stride=stride)
    native = functools.partial(_depthwise_native, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=native)


def _depthwise_native(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, stride, pads, dimension_numbers=numbers, feature_group_count=x.shape[-1]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_shifted(x: jax.Array, kernel: jax.Array, stride: tuple[int, int]) -> jax.Array:
    return _shifted_products(_padded(x, kernel), kernel, stride, [-(-n // s) for n, s in zip(x.shape[1:3], stride)])


def _padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """With its border of zeros, laid down in memory: fused into the shifted sums, x would be computed anew for each."""
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *((k // 2, k // 2) for k in kernel.shape[:2]), (0, 0))))


def _shifted_products(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], size: list[int]) -> jax.Array:
    """The sum over the kernel's cells of padded x, shifted, times the cell's weights."""
    out = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(*kernel.shape[:2]):
        out += _window(x, (i, j), stride, size) * kernel[i, j, 0]
    return out


def _window(x: jax.Array, start: tuple[int, int], stride: tuple[int, int], size: Sequence[int]) -> jax.Array:
    """`size` cells of the two middle axes of x, from `start` in steps of `stride`."""
    rows, columns = (slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(start, stride, size))
    return x[:, rows, columns]


def _depthwise_forward(x, kernel, stride):
    return _depthwise_shifted(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, saved, dy):
    x, kernel = saved
    dy = jax.lax.optimization_barrier(dy)
    size, reach = dy.shape[1:3], kernel.shape[:2]
    # outputs back on the grid of the inputs, zeros between them, under the kernel turned round
    rest = [n - s * (m - 1) - 1 for n, s, m in zip(x.shape[1:3], stride, size)]
    middle = [(k // 2, k // 2 + r, s - 1) for k, r, s in zip(reach, rest, stride)]
    spread = jax.lax.optimization_barrier(jax.lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *middle, (0, 0, 0))))
    dx = _shifted_products(spread, kernel[::-1, ::-1], (1, 1), x.shape[1:3])
    # A sum over all but the last axis is slow in XLA's CPU backend: blocks of rows are added element by element, and
    # the rest is a product with ones.
    padded, blocks = _padded(x, kernel), math.gcd(size[0], 4)
    high = size[0] // blocks
    cells = []
    for i, j in np.ndindex(*reach):
        total = jnp.zeros((), x.dtype)
        for b in range(0, size[0], high):
            total += _window(padded, (i + b * stride[0], j), stride, (high, size[1])) * dy[:, b : b + high]
        total = total.reshape(-1, x.shape[-1]).astype(jnp.float32)
        cells.append((jnp.ones((1, total.shape[0]), total.dtype) @ total)[0])
    return dx, jnp.stack(cells).reshape(kernel.shape).astype(kernel.dtype)


_depthwise_shifted.defvjp(_depthwise_forward, _depthwise_backward)


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

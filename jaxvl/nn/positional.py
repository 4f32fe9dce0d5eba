"""Learned positional tables at another resolution: the two published rules, as two small matrices (numpy).

'hf' is PyTorch's bicubic interpolation (Keys a = -0.75, no antialias, edges repeated), as in Hugging Face
`interpolate_pos_encoding`; 'openclip' has antialias and a = -0.5, as in open_clip, and equals
`jax.image.resize(..., 'cubic', antialias=True)`. The two differ, also when the grid grows.
"""

from __future__ import annotations

import numpy as np

from jaxvl.core.errors import InputError

RULES = ("hf", "openclip")


def cubic_kernel(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel of parameter `a`; zero beyond |x| = 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def cubic_matrix(old: int, new: int, rule: str = "hf") -> np.ndarray:
    """`[new, old]` float64: rows are the weights of the old samples in a new one (half-pixel centres)."""
    if rule not in RULES:
        raise InputError(f"interpolation: unknown rule {rule!r}; use one of {RULES}")
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    if rule == "openclip":
        widen = max(old / new, 1.0)
        weights = cubic_kernel((centre[:, None] - np.arange(old)) / widen, -0.5)
        return weights / weights.sum(1, keepdims=True)
    taps = np.floor(centre)[:, None] + np.arange(-1, 3)
    weights = cubic_kernel(centre[:, None] - taps, -0.75)
    out = np.zeros((new, old))
    np.add.at(out, (np.arange(new)[:, None], taps.astype(int).clip(0, old - 1)), weights)
    return out


def resize_positions(table: np.ndarray, grid: int | tuple[int, int], rule: str = "hf") -> np.ndarray:
    """`[1 + g², W] -> [1 + g_h·g_w, W]`: the first row (class token) stays, the square grid is interpolated.

    grid: new side, or (height, width). The same grid gives the same values. Raises InputError when the table is
    no square grid with one row before it.
    """
    height, width = (grid, grid) if isinstance(grid, int) else grid
    side = round((len(table) - 1) ** 0.5)
    if side * side + 1 != len(table):
        raise InputError(f"positional embedding: {len(table)} rows are not a class token and a square grid")
    if (height, width) == (side, side):
        return np.array(table)
    cells = table[1:].astype(np.float64).reshape(side, side, -1)
    cells = np.einsum("yh,xw,hwc->yxc", cubic_matrix(side, height, rule), cubic_matrix(side, width, rule), cells)
    return np.concatenate([table[:1], cells.reshape(height * width, -1).astype(table.dtype)])

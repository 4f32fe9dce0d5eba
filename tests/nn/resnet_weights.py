"""Random ResNets with torchvision's parameter names, from a seed: both sides of the comparison build the same one."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
CASES = {"18": (18, 32), "50": (50, 32), "50_os16": (50, 16), "50_os8": (50, 8)}
"""name -> depth, output stride; eight channels in the stem, images of 75 x 97."""


class Case(NamedTuple):
    """A network and a batch. state: torchvision's names; images `[4, 75, 97, 3]`."""

    depth: int
    output_stride: int
    width: int
    classes: int
    state: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray


def make_case(name: str) -> Case:
    depth, output_stride = CASES[name]
    rng = np.random.default_rng(5)
    images = rng.normal(size=(4, 75, 97, 3)).astype(np.float32)
    return Case(depth, output_stride, 8, 10, numpy_state(depth, 8, 10), images, np.array([0, 3, 3, 9]))


def shapes(depth: int, width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Every floating-point entry of torchvision's state dict."""
    bottleneck = depth >= 50
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7)}

    def norm(name: str, features: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (features,)

    norm("bn1", width)
    channels = width
    for s, count in enumerate(BLOCKS[depth], 1):
        out = width * 2 ** (s - 1) * (4 if bottleneck else 1)
        mid = width * 2 ** (s - 1)
        for j in range(count):
            cin, base = (channels if j == 0 else out), f"layer{s}.{j}"
            sizes = [(mid, cin, 1), (mid, mid, 3), (out, mid, 1)] if bottleneck else [(mid, cin, 3), (mid, mid, 3)]
            for n, (a, b, k) in enumerate(sizes, 1):
                found[f"{base}.conv{n}.weight"] = (a, b, k, k)
                norm(f"{base}.bn{n}", a)
            if j == 0 and (s > 1 or cin != out):
                found[f"{base}.downsample.0.weight"] = (out, cin, 1, 1)
                norm(f"{base}.downsample.1", out)
        channels = out
    return found | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def numpy_state(depth: int, width: int, classes: int) -> dict[str, np.ndarray]:
    """Each entry from a generator seeded by its name; scales of last norms are small, so that depth stays tame."""
    state = {}
    for name, shape in shapes(depth, width, classes).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) == 4:
            value = rng.normal(0, (2 / (shape[0] * shape[2] * shape[3])) ** 0.5, shape)
        elif name.endswith("running_var"):
            value = rng.uniform(0.5, 2, shape)
        elif name.endswith(("bn2.weight", "bn3.weight")):
            value = rng.uniform(0.2, 0.6, shape)
        elif name.endswith("weight") and len(shape) == 1:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        state[name] = value.astype(np.float32)
    return state


def flax_variables(state: dict[str, np.ndarray]) -> dict:
    """The trees of `jaxvl.nn.resnet`, by the table of names."""
    trees: dict = {"params": {}, "batch_stats": {}}
    leaves = {
        "weight": ("params", "scale"),
        "bias": ("params", "bias"),
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
    }
    for name, value in state.items():
        *module, leaf = name.split(".")
        match module:
            case ["conv1" | "bn1" as part]:
                path = ["stem", part.removesuffix("1")]
            case ["fc"]:
                path = ["fc"]
            case [layer, j, "downsample", n]:
                path = [f"{layer}_{j}", "proj", "conv" if n == "0" else "bn"]
            case [layer, j, part]:
                path = [f"{layer}_{j}", part]
        collection, new = leaves[leaf]
        if value.ndim == 4:
            new, value = "kernel", value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            new, value = "kernel", value.T
        node = trees[collection]
        for key in path:
            node = node.setdefault(key, {})
        node[new] = value
    return trees

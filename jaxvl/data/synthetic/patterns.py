"""A world of warped patterns for representation learning: 40 classes, each a random blob pattern under random affine
maps, smooth noise and coloured light. Rendered to PNG files in class folders, in seconds.

Raw pixels under a linear classifier reach about 80 %, so that a network has something to add.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.core.files import read_json

WORLD_FILE = "patterns.json"
PROTOTYPE = 24
"""Side of a class pattern in pixels."""


@dataclasses.dataclass(frozen=True)
class PatternWorld:
    """size: side of a picture in pixels. noise: amplitude of the smooth noise. seed: of patterns and pictures."""

    classes: int = 40
    num_train: int = 4096
    num_test: int = 2000
    size: int = 16
    angle: float = 0.4
    shift: float = 0.25
    noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.classes, self.num_train, self.num_test, self.size) < 1:
            raise InputError("pattern world: classes, num_train, num_test and size must be positive")


def prototypes(world: PatternWorld) -> np.ndarray:
    """`[classes, 24, 24]` float in [0, 1]: 5x5 normal noise, bicubic to 24x24, `sigmoid(6 (x - median))`."""
    rng = np.random.default_rng([world.seed, 0])
    coarse = rng.normal(size=(world.classes, 5, 5)).astype(np.float32)
    fine = np.stack([_resized(c, PROTOTYPE, Image.Resampling.BICUBIC) for c in coarse])
    return 1 / (1 + np.exp(-6 * (fine - np.median(fine, axis=(1, 2), keepdims=True))))


def render(world: PatternWorld, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`(images uint8 [count, size, size, 3], labels [count])` of 'train' or 'test'.

    A picture: its pattern under an affine map (angle U(±angle), scale U(0.8, 1.2), shift U(±shift) of the half side,
    borders continued), plus smooth noise, times a gain U(0.3, 1)^3 a channel, plus N(0, 0.05²), clipped to [0, 1].
    """
    rng = np.random.default_rng([world.seed, 1 + ("train", "test").index(split)])
    labels = np.arange(count) % world.classes
    patterns = prototypes(world)
    angle, scale = rng.uniform(-world.angle, world.angle, count), rng.uniform(0.8, 1.2, count)
    move = rng.uniform(-world.shift, world.shift, (count, 2))
    grid = (np.arange(world.size) + 0.5) / world.size * 2 - 1
    y, x = np.meshgrid(grid, grid, indexing="ij")
    cos, sin = (f(angle)[:, None, None] * scale[:, None, None] for f in (np.cos, np.sin))
    u = cos * x - sin * y + move[:, 0, None, None]
    v = sin * x + cos * y + move[:, 1, None, None]
    gray = _sample(patterns, labels, u, v)
    smooth = rng.normal(size=(count, 6, 6)).astype(np.float32)
    gray += world.noise * np.stack([_resized(s, world.size, Image.Resampling.BILINEAR) for s in smooth])
    gain = rng.uniform(0.3, 1.0, (count, 1, 1, 3))
    out = gray[..., None] * gain + rng.normal(0, 0.05, (count, world.size, world.size, 3))
    return (out.clip(0, 1) * 255).round().astype(np.uint8), labels


def ensure_world(world: PatternWorld, root: Path, say: Callable[[str], None] = print) -> None:
    """Renders `root/{train,test}/c00/00000.png` ... unless the very same world stands there. InputError for another."""
    file, wanted = root / WORLD_FILE, dataclasses.asdict(world)
    if file.is_file():
        if read_json(file, dict, "remove the folder, or name another") != wanted:
            raise InputError(f"{root}: holds another pattern world; name another config.data.root or remove it")
        return
    for split, count in (("train", world.num_train), ("test", world.num_test)):
        say(f"rendering the pattern world: {count} pictures of split {split!r}")
        images, labels = render(world, split, count)
        for k in range(world.classes):
            os.makedirs(root / split / f"c{k:02d}", exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(root / split / f"c{label:02d}" / f"{i:05d}.png", compress_level=1)
    file.write_text(json.dumps(wanted), encoding="utf-8")


def _resized(image: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), how))


def _sample(patterns: np.ndarray, labels: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear samples of `patterns[labels]` at `(u, v)` in [-1, 1], continued past the border."""
    side = patterns.shape[-1]
    px, py = (np.clip((w + 1) / 2 * side - 0.5, 0, side - 1) for w in (u, v))
    x0, y0 = (np.minimum(np.floor(p).astype(int), side - 2) for p in (px, py))
    fx, fy, k = px - x0, py - y0, labels[:, None, None]
    top = patterns[k, y0, x0] * (1 - fx) + patterns[k, y0, x0 + 1] * fx
    low = patterns[k, y0 + 1, x0] * (1 - fx) + patterns[k, y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + low * fy

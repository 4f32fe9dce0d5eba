"""Geometric transforms of pictures on the host, with the semantics of the usual PyTorch transforms on PIL pictures.

Every random transform draws from the `numpy.random.Generator` it is given (the pipeline's: one an example and
epoch), in the documented order, so an augmented example is a function of (seed, epoch, index). Colour transforms
have a file of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from jaxvl.core.errors import InputError
from jaxvl.data import images

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
TRIES = 10
"""Draws of a random crop before the central fallback."""
RATIO = (3 / 4, 4 / 3)


def random_crop_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = RATIO,
) -> tuple[int, int, int, int]:
    """`(left, top, width, height)` of a random crop (Szegedy et al., CVPR 2015; torchvision's RandomResizedCrop).

    Up to 10 times: area = W H U(scale), aspect = exp(U(ln ratio)), both sides rounded; the first pair that fits is put
    at a uniform place. A share above 1, as in a scale of (0.8, 1.25), often does not fit. Fallback: the largest central
    crop whose aspect lies within `ratio`.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            return int(rng.integers(0, width - w + 1)), top, w, h
    return central_box(width, height, ratio)


def central_box(width: int, height: int, ratio: Sequence[float] = RATIO) -> tuple[int, int, int, int]:
    """`(left, top, width, height)` of the largest central crop with an aspect (width by height) within `ratio`."""
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = RATIO,
    resample: Image.Resampling = BILINEAR,
) -> Image.Image:
    """`random_crop_box`, cut out and resized to `size` x `size` (antialiased)."""
    left, top, w, h = random_crop_box(*image.size, rng, scale, ratio)
    return resize(image.crop((left, top, left + w, top + h)), size, size, resample)


def resize(image: Image.Image, width: int, height: int, resample: Image.Resampling = BILINEAR) -> Image.Image:
    """To exactly `width` x `height`, aspect not kept, antialiased."""
    return image if image.size == (width, height) else image.resize((width, height), resample)


def resize_short_side(image: Image.Image, short_side: int, resample: Image.Resampling = BILINEAR) -> Image.Image:
    """`images.resize_short_side`, by default bilinear as in torchvision."""
    return images.resize_short_side(image, short_side, resample)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size`; what the picture lacks is black.

    Padding goes half to each side, the odd pixel right and below; offsets are `int(round((n - size) / 2))` with
    Python's rounding to even (torchvision's CenterCrop).
    """
    width, height = image.size
    if width < size or height < size:
        w, h = max(0, size - width), max(0, size - height)
        image = ImageOps.expand(image, (w // 2, h // 2, (w + 1) // 2, (h + 1) // 2), fill=0)
        width, height = image.size
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def random_flip(image: Image.Image, rng: np.random.Generator, p: float = 0.5, vertical: bool = False) -> Image.Image:
    """Mirrored left to right (`vertical`: top to bottom) with probability `p`; one draw."""
    if rng.random() >= p:
        return image
    how = Image.Transpose.FLIP_TOP_BOTTOM if vertical else Image.Transpose.FLIP_LEFT_RIGHT
    return image.transpose(how)


def affine_jitter(image: Image.Image, rng: np.random.Generator, amount: float) -> Image.Image:
    """Warped about its centre by the matrix `I + U(-amount, amount)` (2 x 2, output to input), bilinear, outside black.

    Raises InputError for an amount that may turn the picture inside out (0.5 and more).
    """
    if not 0 <= amount < 0.5:
        raise InputError(f"affine_jitter: {amount} is not from 0 to below 0.5")
    if amount == 0:
        return image
    m = np.eye(2) + rng.uniform(-amount, amount, (2, 2))
    centre = np.array(image.size) / 2
    shift = centre - m @ centre
    return image.transform(image.size, Image.Transform.AFFINE, (*m[0], shift[0], *m[1], shift[1]), BILINEAR)

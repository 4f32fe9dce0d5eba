"""Photometric transforms of RGB pictures on the host, with the semantics of the usual PyTorch transforms on PIL.

As in `data/transforms.py`, what is random draws from the `numpy.random.Generator` it is given, in the documented
order, so an augmented example is a function of (seed, epoch, index, view). All of it works on uint8 and rounds where
PIL rounds.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from jaxvl.core.errors import InputError

ALEXNET_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
ALEXNET_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Principal components of ImageNet's RGB values in [0, 1] (Krizhevsky et al., NeurIPS 2012); columns are vectors."""


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: 0 is black, 1 the picture, 2 twice as bright (clipped)."""
    return ImageEnhance.Brightness(image).enhance(factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the rounded mean of the grey picture."""
    return ImageEnhance.Contrast(image).enhance(factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey picture, `(299 R + 587 G + 114 B) / 1000`."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Hue turned by `int(255 shift)` of 256 steps, modulo 256. InputError outside -0.5 to 0.5."""
    if not -0.5 <= shift <= 0.5:
        raise InputError(f"hue {shift}: is not from -0.5 to 0.5")
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int32) + int(255 * shift)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation by factors U(max(0, 1 - v), 1 + v) and hue by U(-h, h), in a random order.

    Draws: the order of the four, then brightness, contrast, saturation, hue; an amount of 0 draws nothing and leaves
    its operation out. InputError for a negative amount or a hue above 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < 0 or (name == "hue" and value > 0.5):
                raise InputError(f"color jitter: {name} {value} is out of range")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The jittered picture."""
        order = rng.permutation(4)
        amounts = (self.brightness, self.contrast, self.saturation)
        factors = [rng.uniform(max(0.0, 1 - v), 1 + v) if v else None for v in amounts]
        factors.append(rng.uniform(-self.hue, self.hue) if self.hue else None)
        operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for k in order:
            if factors[k] is not None:
                image = operations[k](image, factors[k])
        return image


def to_gray(image: Image.Image) -> Image.Image:
    """Three equal channels of the grey picture."""
    return image.convert("L").convert("RGB")


def gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    """PIL's blur, three passes of a box filter of that standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius=sigma))


def solarize(image: Image.Image, threshold: int = 128) -> Image.Image:
    """Values of `threshold` and more are inverted (v -> 255 - v)."""
    return ImageOps.solarize(image, threshold)


def lighting_noise(image: Image.Image, rng: np.random.Generator, sd: float = 0.1) -> Image.Image:
    """AlexNet's noise along the principal colours as the published slimmable training has it: the eigenvalues are of
    values in [0, 1], the noise is added to values in [0, 255] and truncated, which makes it nearly nothing."""
    alpha = rng.normal(0.0, sd, 3)
    noise = ALEXNET_EIGENVECTORS @ (alpha * ALEXNET_EIGENVALUES)
    return Image.fromarray((np.asarray(image, np.float64) + noise).clip(0, 255).astype(np.uint8))

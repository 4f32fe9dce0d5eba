"""Two views of a picture on the host (specification, section 2): every draw from a generator of the view's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.core.errors import InputError
from jaxvl.data import color, transforms


@dataclasses.dataclass(frozen=True)
class View:
    """One augmentation, applied in the order of its fields.

    scale, ratio: of the random resized crop. gain: every channel times U(1 - gain, 1 + gain), clipped. jitter:
    brightness, contrast, saturation, hue, with probability jitter_p. gray_p. blur_p: of PIL's Gaussian blur with sigma
    U(blur_sigma). solarize_p. lighting: standard deviation of AlexNet's noise. flip_p.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = transforms.RATIO
    gain: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    gray_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    lighting: float = 0.0
    flip_p: float = 0.5

    def __call__(self, image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
        """RGB -> `[size, size, 3]` uint8. An operation of probability 0 draws nothing."""
        image = transforms.random_resized_crop(image, size, rng, self.scale, self.ratio)
        if self.gain:
            factors = rng.uniform(1 - self.gain, 1 + self.gain, 3)
            image = Image.fromarray((np.asarray(image) * factors).clip(0, 255).round().astype(np.uint8))
        if self.jitter_p and rng.random() < self.jitter_p:
            image = color.ColorJitter(*self.jitter)(image, rng)
        if self.gray_p and rng.random() < self.gray_p:
            image = color.to_gray(image)
        if self.blur_p and rng.random() < self.blur_p:
            image = color.gaussian_blur(image, rng.uniform(*self.blur_sigma))
        if self.solarize_p and rng.random() < self.solarize_p:
            image = color.solarize(image)
        if self.lighting:
            image = color.lighting_noise(image, rng, self.lighting)
        if self.flip_p:
            image = transforms.random_flip(image, rng, self.flip_p)
        return np.asarray(image)


_V3 = View(jitter=(0.4, 0.4, 0.2, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=1.0)
_SMALL = View(jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_p=0.2)
VIEWS: dict[str, tuple[View, View]] = {
    "mocov2": (View(jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_p=0.2, blur_p=0.5),) * 2,
    "mocov3": (_V3, dataclasses.replace(_V3, blur_p=0.1, solarize_p=0.2)),
    "simclr": (View((0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.8, gray_p=0.2, blur_p=0.5),) * 2,
    "normal": (View((0.08, 1.0)),) * 2,
    "slim": (View((0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, lighting=0.1),) * 2,
    "small": (_SMALL,) * 2,  # below 64x64: no blur
    "digits": (dataclasses.replace(_SMALL, scale=(0.4, 1.0), flip_p=0.0),) * 2,  # a mirrored digit is none
    "patterns": (View((0.49, 1.0), (1.0, 1.0), gain=0.5, gray_p=0.3, flip_p=0.0),) * 2,  # of the small world
}
"""Both views by the name in `config.data.augment`; labelled training takes the first."""


def views_of(name: str, changes: Mapping[str, Any]) -> tuple[View, View]:
    """The two views of a name with fields replaced. InputError for an unknown name or field."""
    if name not in VIEWS:
        raise InputError(f"config.data.augment: {name!r} is none of {', '.join(VIEWS)}")
    known = {f.name for f in dataclasses.fields(View)}
    unknown = [k for k in changes if k not in known]
    if unknown:
        raise InputError(
            f"config.data.view: {unknown[0]!r} is no field of a view; known are {', '.join(sorted(known))}"
        )
    changes = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in changes.items()}
    a, b = VIEWS[name]
    return dataclasses.replace(a, **changes), dataclasses.replace(b, **changes)

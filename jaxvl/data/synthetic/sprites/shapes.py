"""What a sprite looks like: outlines of the drawn nouns, the palette, the textures.

A shape is a list of *rings*, float64 `[V, 2]` arrays of (x, y) inside the unit disc, y pointing down as in
a picture. Rings are filled by the even-odd rule, so a second ring inside the first one is a hole. Every
outline stays inside the unit disc, hence a sprite of size `s` at any angle stays within `s / 2` of its
centre. Only numpy here: these functions run in rendering processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

Rings = tuple[np.ndarray, ...]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 42),
    "orange": (250, 140, 20),
    "yellow": (248, 222, 48),
    "green": (44, 168, 66),
    "cyan": (38, 206, 220),
    "blue": (44, 88, 228),
    "purple": (138, 52, 190),
    "pink": (250, 128, 190),
}
"""The eight sprite colours, name -> sRGB."""

TONES: dict[str, tuple[int, int, int]] = {
    "black": (30, 30, 34),
    "white": (236, 236, 232),
    "grey": (132, 134, 138),
    "brown": (112, 82, 58),
    "navy": (30, 42, 84),
}
"""The five background tones, name -> sRGB: dull on purpose, so that none is taken for a sprite."""

TEXTURES = ("plain", "striped", "dotted")
SIZES: dict[str, float] = {"small": 0.28, "medium": 0.38, "large": 0.5}
"""Sprite size, name -> longest extent as a share of the picture's side."""


def _regular(corners: int, turn: float = -np.pi / 2, radius: float = 1.0) -> np.ndarray:
    a = turn + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.cos(a), np.sin(a)], -1)


def _xy(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def _star() -> Rings:
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return (_regular(10) * radius[:, None],)


def _cross() -> Rings:
    a, b = 0.3, 0.92
    arm = _xy((-a, -b), (a, -b), (a, -a))  # a quarter, turned four times by 90 degrees
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    quarters = [arm @ np.linalg.matrix_power(turn, k) for k in range(4)]
    return (np.concatenate(quarters),)


def _heart() -> Rings:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (np.stack([x, y - 1.5], -1) / 17.7,)


def _moon() -> Rings:
    """A crescent: the unit disc less a disc of 0.8 that is moved to the right, as one outline."""
    shift, inner = 0.55, 0.8
    x = (1 + shift**2 - inner**2) / (2 * shift)  # where the two circles cross
    cut = np.arccos(x)
    outer = np.linspace(cut, 2 * np.pi - cut, 40)
    cut_in = np.arctan2(np.sin(cut), x - shift)
    back = np.linspace(2 * np.pi - cut_in, cut_in, 32)[1:-1]
    ring = np.concatenate([
        np.stack([np.cos(outer), np.sin(outer)], -1),
        np.stack([shift + inner * np.cos(back), inner * np.sin(back)], -1),
    ])  # fmt: skip
    return (ring,)


def _arrow() -> Rings:
    return (_xy((0.98, 0.0), (0.2, -0.85), (0.2, -0.32), (-0.93, -0.32), (-0.93, 0.32), (0.2, 0.32), (0.2, 0.85)),)


def _flower() -> Rings:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    r = 0.58 + 0.4 * np.sqrt(np.abs(np.cos(3 * t)))  # six round petals
    return np.stack([r * np.sin(t), -r * np.cos(t)], -1), _regular(20, radius=0.26)


def _house() -> Rings:
    body = _xy((0, -0.98), (0.86, -0.2), (0.62, -0.2), (0.62, 0.78), (-0.62, 0.78), (-0.62, -0.2), (-0.86, -0.2))
    return body, _xy((-0.18, 0.78), (-0.18, 0.2), (0.18, 0.2), (0.18, 0.78))


def _tree() -> Rings:
    right = _xy((0, -0.98), (0.5, -0.32), (0.27, -0.32), (0.72, 0.32), (0.18, 0.32), (0.18, 0.95))
    return (np.concatenate([right, right[:0:-1] * (-1, 1)]),)


def _fish() -> Rings:
    t = np.linspace(0.35, 2 * np.pi - 0.35, 40)  # an oval that is open on the right, where the tail begins
    body = np.stack([-0.25 + 0.72 * np.cos(t), 0.55 * np.sin(t)], -1)
    return (np.concatenate([body, _xy((0.88, -0.42), (0.7, 0.0), (0.88, 0.42))]),)


def _umbrella() -> Rings:
    top = np.linspace(np.pi, 2 * np.pi, 24)
    dome = np.stack([0.97 * np.cos(top), 0.97 * np.sin(top)], -1)
    scallops = [(x, -0.02 - 0.16 * (1 - ((x % 0.647) / 0.3235 - 1) ** 2)) for x in np.linspace(0.96, 0.12, 12)]
    handle = _xy(
        (0.08, -0.1),
        (0.08, 0.92),
        (-0.3, 0.92),
        (-0.3, 0.68),
        (-0.14, 0.68),
        (-0.14, 0.76),
        (-0.08, 0.76),
        (-0.08, -0.1),
    )
    mirrored = [(-x, y) for x, y in reversed(scallops)]
    return (np.concatenate([dome, np.array(scallops), handle, np.array(mirrored)]),)


_MAKERS: dict[str, Callable[[], Rings]] = {
    "circle": lambda: (_regular(48),),
    "square": lambda: (_regular(4, np.pi / 4),),
    "triangle": lambda: (_regular(3),),
    "star": _star,
    "ring": lambda: (_regular(48), _regular(40, radius=0.55)),
    "cross": _cross,
    "diamond": lambda: (_xy((0, -1), (0.62, 0), (0, 1), (-0.62, 0)),),
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "hexagon": lambda: (_regular(6, 0.0),),
    "flower": _flower,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "umbrella": _umbrella,
}

NOUNS: tuple[str, ...] = tuple(_MAKERS)
"""The sixteen drawn nouns."""

ROUND = frozenset({"circle", "ring"})
"""Nouns that look the same at every angle: for them `spin` cannot be seen."""


@cache
def rings(noun: str) -> Rings:
    """The outline of `noun`: rings `[V, 2]` in the unit disc. Raises KeyError for a noun not in `NOUNS`."""
    return tuple(r.astype(np.float64) for r in _MAKERS[noun]())


def accent(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of stripes and dots on `rgb`: nearly white on a dark colour, dark on a light one."""
    light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    goal, share = ((255, 255, 255), 0.85) if light < 165 else ((20, 16, 30), 0.62)
    return tuple(round(c + (g - c) * share) for c, g in zip(rgb, goal))


def outline(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of the thin edge drawn around a sprite of colour `rgb`: the same hue, darker."""
    return tuple(round(c * 0.45) for c in rgb)

"""Pictures of radial structures: class means as spokes around the mean of all, several domains in one plane."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.viz import images

PALETTE = (
    *((47, 126, 216), (224, 103, 45), (42, 157, 92), (177, 63, 181), (201, 162, 12), (25, 163, 179)),
    *((214, 51, 108), (122, 127, 138), (94, 75, 179), (120, 160, 40)),
)
SCALE = 2  # drawn larger, then reduced, for smooth lines


@dataclasses.dataclass(frozen=True)
class Spokes:
    """One domain. features: `[N, D]`; labels: `[N]`, of -1 without effect; dashed: how it is told from others."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    dashed: bool = False


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """`[K, D]` means of `features [N, D]` by label; NaN rows for absent classes."""
    means = np.full((classes, features.shape[1]), np.nan)
    for k in np.unique(labels[labels >= 0]):
        means[k] = features[labels == k].mean(0)
    return means


def plane(panels: Sequence[Sequence[Spokes]], classes: int) -> np.ndarray:
    """The first two principal directions `[D, 2]` of the class means of every panel's first domain, around their
    mean."""
    rows = []
    for domains in panels:
        first = domains[0]
        rows.append(class_means(first.features, first.labels, classes) - first.features.mean(0))
    stacked = np.concatenate(rows)
    stacked = stacked[np.isfinite(stacked).all(1)]
    return np.linalg.svd(stacked, full_matrices=False)[2][:2].T


def matched_cosine(a: Spokes, b: Spokes, classes: int) -> float:
    """Mean cosine of the spokes of the same class, in all dimensions."""
    one, two = (class_means(s.features, s.labels, classes) - s.features.mean(0) for s in (a, b))
    both = np.isfinite(one).all(1) & np.isfinite(two).all(1)
    one, two = one[both], two[both]
    return float(((one * two).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1) + 1e-12)).mean())


def radial_picture(
    panels: Sequence[Sequence[Spokes]],
    titles: Sequence[str],
    classes: Sequence[str],
    size: int = 420,
    points: int = 300,
) -> Image.Image:
    """One panel a stage (before, after), side by side, each with its domains overlaid in a plane of its own.

    A line is a spoke, from the domain's mean to a class mean; solid for the first domain, dashed for the others, a
    colour a class; up to `points` samples of each domain are dots. Below the title: the mean cosine of matched spokes,
    measured in all dimensions, of the first domain with each other.
    """
    if not panels or len(panels) != len(titles):
        raise ValueError("a radial picture needs a title for each panel, and at least one panel")
    made = [_panel(p, t, classes, size, points) for p, t in zip(panels, titles, strict=True)]
    sheet = images.grid(made, len(made), 8)
    legend = Image.new("RGB", (sheet.width, 24), images.WHITE)
    draw, left = ImageDraw.Draw(legend), 10
    for k, name in enumerate(list(classes)[:12]):
        draw.rectangle((left, 8, left + 10, 16), PALETTE[k % len(PALETTE)])
        text = images.fit(name, 12, 90)
        draw.text((left + 14, 4), text, images.INK, images.font(12))
        left += 24 + images.text_size(text, 12)[0]
    if len(classes) > 12:
        draw.text((left, 4), f"and {len(classes) - 12} more", images.FAINT, images.font(12))
    out = Image.new("RGB", (sheet.width, sheet.height + legend.height), images.WHITE)
    out.paste(sheet, (0, 0))
    out.paste(legend, (0, sheet.height))
    return out


def _panel(domains: Sequence[Spokes], title: str, classes: Sequence[str], size: int, points: int) -> Image.Image:
    axes, k = plane([domains], len(classes)), len(classes)
    origin = domains[0].features.mean(0)
    flat = [(d.features - origin) @ axes for d in domains]
    means = [(class_means(d.features, d.labels, k) - origin) @ axes for d in domains]
    reach = max(np.nanpercentile(np.abs(f), 99) for f in [*flat, *(m[np.isfinite(m).all(1)] for m in means)])
    large = size * SCALE
    sheet = Image.new("RGB", (large, large), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    place = lambda p: tuple(large / 2 + np.array([p[0], -p[1]]) / reach * large * 0.47)  # noqa: E731
    rng = np.random.default_rng(0)
    for d, xy in zip(domains, flat):
        shown = rng.permutation(len(xy))[:points]
        for i in shown:
            x, y = place(xy[i])
            pale = _pale(PALETTE[int(d.labels[i]) % len(PALETTE)]) if d.labels[i] >= 0 else images.RULE
            r = 3
            if d.dashed:
                draw.line((x - r, y, x + r, y), pale, 1)
                draw.line((x, y - r, x, y + r), pale, 1)
            else:
                draw.ellipse((x - r, y - r, x + r, y + r), pale)
    for d, xy, ends in zip(domains, flat, means):
        centre = place(xy.mean(0))
        for j in np.flatnonzero(np.isfinite(ends).all(1)):
            _spoke(draw, centre, place(ends[j]), PALETTE[j % len(PALETTE)], d.dashed)
    sheet = sheet.resize((size, size), Image.Resampling.LANCZOS)
    cosines = ", ".join(f"{d.name} {matched_cosine(domains[0], d, k):.2f}" for d in domains[1:])
    head = Image.new("RGB", (size, size + 44), images.WHITE)
    head.paste(sheet, (0, 44))
    text = ImageDraw.Draw(head)
    text.text((6, 4), images.fit(title, 15, size - 12), images.INK, images.font(15))
    names = f"{domains[0].name} solid; dashed, with mean cosine of matched spokes: {cosines}"
    text.text((6, 25), images.fit(names, 12, size - 12), images.FAINT, images.font(12))
    return images.frame(head, images.RULE, 1)


def _pale(colour: images.Colour) -> images.Colour:
    return tuple(int(0.45 * c + 0.55 * 255) for c in colour)


def _spoke(draw: ImageDraw.ImageDraw, start, end, colour: images.Colour, dashed: bool) -> None:
    a, b = np.array(start), np.array(end)
    parts = 24 if dashed else 1
    for i in range(0, parts, 2):
        p, q = a + (b - a) * i / parts, a + (b - a) * (i + 1) / parts
        draw.line((*p, *q), colour, 2 * SCALE)
    r = 3 * SCALE
    if dashed:
        draw.ellipse((b[0] - r, b[1] - r, b[0] + r, b[1] + r), images.WHITE, colour, SCALE)
    else:
        draw.ellipse((b[0] - r, b[1] - r, b[0] + r, b[1] + r), colour)

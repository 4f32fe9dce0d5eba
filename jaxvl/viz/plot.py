"""A plot of a few lines or points as a picture, for pages and notebooks where an SVG will not do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw

from jaxvl.viz import images
from jaxvl.viz.curves import PALETTE, Series, number, ticks


def plot(
    series: Sequence[Series],
    x_label: str = "",
    y_label: str = "",
    labels: Sequence[Sequence[str]] = (),
    size: tuple[int, int] = (640, 360),
) -> Image.Image:
    """Lines with a dot at every point, a legend on top where there are two or more.

    labels: a text beside each point, for each series (as in `throughput, accuracy` of networks). Values that are not
    finite are left out. Raises ValueError where no point is left.
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        raise ValueError("nothing to plot: no finite point")
    width, height = size
    left, top, right, bottom = 62, 34, width - 70, height - 46
    sheet = Image.new("RGB", size, images.WHITE)
    draw = ImageDraw.Draw(sheet)
    spans = [_span([p[k] for p in points]) for k in (0, 1)]
    at = lambda x, y: (  # noqa: E731
        left + (x - spans[0][0]) / (spans[0][1] - spans[0][0]) * (right - left),
        bottom - (y - spans[1][0]) / (spans[1][1] - spans[1][0]) * (bottom - top),
    )
    for value in ticks(*spans[1]):
        y = at(spans[0][0], value)[1]
        draw.line((left, y, right, y), images.RULE)
        text = number(value)
        draw.text((left - 8 - images.text_size(text, 11)[0], y - 7), text, images.INK, images.font(11))
    for value in ticks(*spans[0]):
        x = at(value, spans[1][0])[0]
        draw.line((x, bottom, x, bottom + 4), images.INK)
        text = number(value)
        draw.text((x - images.text_size(text, 11)[0] / 2, bottom + 7), text, images.INK, images.font(11))
    draw.line((left, bottom, right, bottom), images.INK)
    draw.text(
        ((left + right) / 2 - images.text_size(x_label, 12)[0] / 2, height - 22), x_label, images.INK, images.font(12)
    )
    draw.text((8, 8), y_label, images.INK, images.font(12))
    legend = right
    for k, s in reversed(list(enumerate(series))):
        colour = ImageColor.getrgb(PALETTE[k % len(PALETTE)])
        path = [at(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if len(path) > 1:
            draw.line(path, colour, 2)
        for i, (x, y) in enumerate(path):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
            if k < len(labels) and i < len(labels[k]):
                draw.text((x + 6, y - 15), labels[k][i], colour, images.font(12))
        if len(series) > 1:
            legend -= images.text_size(s.name, 12)[0] + 18
            draw.text((legend, 8), s.name, colour, images.font(12))
    return sheet


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - room, high + room

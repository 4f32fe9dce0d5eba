"""Line charts as inline SVG, from rows of metrics. No plotting library and no script.

Text and rules are drawn in `currentColor`, so a chart follows the page's light or dark scheme; the series
colours are readable on both. Every point carries a `<title>`, which browsers show when the mouse rests on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

PALETTE = ("#2f7ed8", "#e0672d", "#2a9d5c", "#b13fb5", "#c9a20c", "#19a3b3", "#d6336c", "#7a7f8a")


@dataclasses.dataclass(frozen=True)
class Series:
    """One line. x, y: the same number of values; a y that is not finite breaks the line there."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def series_from_rows(rows: Iterable[Mapping], names: Sequence[str], x: str = "step") -> list[Series]:
    """A series for each of `names` from rows such as `{"step": 10, "train/loss": 2.3}`, as in metrics.jsonl.
    Rows without `x` or without the name are skipped; names without any row are left out."""
    rows = list(rows)
    found = []
    for name in names:
        points = [(float(r[x]), float(r[name])) for r in rows if x in r and name in r]
        if points:
            found.append(Series(name, [p[0] for p in points], [p[1] for p in points]))
    return found


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        raise ValueError(f"no ticks between {low} and {high}")
    if high == low:
        return [low]
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def number(value: float) -> str:
    """A short text: 1200 -> 1.2k, 0.05 -> 0.05, 3e-05 -> 3e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= bound:
            return f"{value / bound:.4g}{letter}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.1e}"


def line_chart(
    series: Sequence[Series],
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    width: int = 560,
    height: int = 260,
    log_y: bool = False,
) -> str:
    """The SVG element of one chart: axes with ticks, a legend below, one line a series.

    log_y: logarithmic y axis; values that are not positive are left out. A chart without a finite point is
    drawn empty with the words "no data". Raises ValueError where x and y differ in length.
    """
    for s in series:
        if len(s.x) != len(s.y):
            raise ValueError(f"series {s.name!r} has {len(s.x)} x and {len(s.y)} y values")

    def usable(y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not log_y)

    points = [(x, y) for s in series for x, y in zip(s.x, s.y) if math.isfinite(x) and usable(y)]
    legend = _legend([s.name for s in series], width)
    head = 24 if title else 8
    left, right, top, bottom = 58, width - 14, head + 4, height - 40
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height + legend[1]}" width="{width}" height="{height + legend[1]}" '
        f'role="img" aria-label="{escape(title or y_label or "chart")}" font-size="11" fill="currentColor">'
    ]
    if title:
        parts.append(f'<text x="{left}" y="15" font-size="13" font-weight="600">{escape(title)}</text>')
    if not points:
        parts.append(f'<text x="{(left + right) / 2}" y="{(top + bottom) / 2}" text-anchor="middle">no data</text>')
        parts.append("</svg>")
        return "".join(parts)

    value = (lambda y: math.log10(y)) if log_y else (lambda y: y)
    x0, x1 = _spread(min(p[0] for p in points), max(p[0] for p in points), 0.0)
    y0, y1 = _spread(min(value(p[1]) for p in points), max(value(p[1]) for p in points), 0.06)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (x - x0) / (x1 - x0) * (right - left), 1),
            round(bottom - (value(y) - y0) / (y1 - y0) * (bottom - top), 1),
        )

    for tick in ticks(y0, y1, 7):
        y = round(bottom - (tick - y0) / (y1 - y0) * (bottom - top), 1)
        text = number(10**tick if log_y else tick)
        parts.append(line(left, y, right, y, 0.14))
        parts.append(f'<text class="tick-y" x="{left - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for tick in ticks(x0, x1, 7):
        x = at(tick, 1.0)[0]
        parts.append(line(x, bottom, x, bottom + 4, 0.5))
        parts.append(f'<text class="tick-x" x="{x}" y="{bottom + 16}" text-anchor="middle">{number(tick)}</text>')
    parts.append(line(left, bottom, right, bottom, 0.5))
    faint = 'text-anchor="middle" opacity=".7"'
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 8}" {faint}>{escape(x_label)}</text>')
    if y_label:
        y = (top + bottom) / 2
        parts.append(f'<text x="12" y="{y}" {faint} transform="rotate(-90 12 {y})">{escape(y_label)}</text>')
    for k, s in enumerate(series):
        parts.append(_line(s, PALETTE[k % len(PALETTE)], at, usable))
    parts.append(f'<g transform="translate(0 {height})">{legend[0]}</g></svg>')
    return "".join(parts)


def line(x0: float, y0: float, x1: float, y1: float, opacity: float) -> str:
    """An SVG rule in the colour of the page's text."""
    return f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="currentColor" stroke-opacity="{opacity}"/>'


def _spread(low: float, high: float, share: float) -> tuple[float, float]:
    """[low, high] widened by `share` on both sides; never empty."""
    if high == low:
        extra = abs(low) * 0.1 or 1.0
        return low - extra, high + extra
    return low - share * (high - low), high + share * (high - low)


def _line(series: Series, colour: str, at, usable) -> str:
    """The path (broken at missing values) and the points with their titles."""
    path, dots, pen_down = [], [], False
    few = len(series.x) <= 60
    every = max(1, len(series.x) // 150)  # a title for each of a long series' points would weigh too much
    for k, (x, y) in enumerate(zip(series.x, series.y)):
        if not (math.isfinite(x) and usable(y)):
            pen_down = False
            continue
        px, py = at(x, y)
        path.append(f"{'L' if pen_down else 'M'}{px} {py}")
        pen_down = True
        if k % every == 0 or k == len(series.x) - 1:
            title = f"{series.name}: {number(y)} at {number(x)}"
            look = f'r="2.6" fill="{colour}"' if few else 'r="5" fill="transparent"'
            dots.append(f'<circle cx="{px}" cy="{py}" {look}><title>{escape(title)}</title></circle>')
    line = f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
    return f"<g>{line}{''.join(dots)}</g>"


def _legend(names: Sequence[str], width: int) -> tuple[str, int]:
    """(SVG, height in pixels) of the names with their colours, broken into lines."""
    parts, x, y = [], 58, 8
    for k, name in enumerate(names):
        wide = 26 + 6.6 * len(name)
        if x > 58 and x + wide > width - 8:
            x, y = 58, y + 17
        parts.append(f'<rect x="{x}" y="{y - 6}" width="12" height="4" rx="2" fill="{PALETTE[k % len(PALETTE)]}"/>')
        parts.append(f'<text x="{x + 17}" y="{y}">{escape(name)}</text>')
        x += round(wide + 8)
    return "".join(parts), (y + 8 if names else 0)

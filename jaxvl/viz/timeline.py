"""Horizontal bars over time, as inline SVG: events, moments, predictions against the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from jaxvl.viz.curves import PALETTE, line, number, ticks


@dataclasses.dataclass(frozen=True)
class Bar:
    """start, end: seconds, start <= end. label: written in or beside the bar; group: bars of one group have
    one colour."""

    start: float
    end: float
    label: str = ""
    group: str = ""


def timeline(
    rows: Sequence[tuple[str, Sequence[Bar]]], duration: float, title: str = "", width: int = 640, row_height: int = 26
) -> str:
    """The SVG element: one row each for (name, bars), a time axis in seconds below.

    duration: of the whole clip, seconds; a bar outside [0, duration] is cut to it. Raises ValueError for a
    duration that is not positive or a bar that ends before it starts.
    """
    if not duration > 0:
        raise ValueError(f"duration {duration} is not positive")
    for name, bars in rows:
        for bar in bars:
            if bar.end < bar.start:
                raise ValueError(f"{name}: a bar ends at {bar.end} before it starts at {bar.start}")
    groups = list(dict.fromkeys(bar.group for _, bars in rows for bar in bars))
    left = 20 + round(6.4 * max((len(name) for name, _ in rows), default=0))
    right, top = width - 14, 26 if title else 6
    bottom = top + len(rows) * row_height
    parts = [
        f'<svg class="timeline" viewBox="0 0 {width} {bottom + 24}" width="{width}" height="{bottom + 24}" '
        f'role="img" aria-label="{escape(title or "timeline")}" font-size="11" fill="currentColor">'
    ]
    if title:
        parts.append(f'<text x="8" y="15" font-size="13" font-weight="600">{escape(title)}</text>')

    def at(seconds: float) -> float:
        return round(left + min(max(seconds, 0.0), duration) / duration * (right - left), 1)

    for tick in ticks(0.0, duration, 9):
        parts.append(line(at(tick), top, at(tick), bottom, 0.14))
        parts.append(f'<text x="{at(tick)}" y="{bottom + 15}" text-anchor="middle">{number(tick)} s</text>')
    for k, (name, bars) in enumerate(rows):
        y = top + k * row_height
        parts.append(f'<text x="{left - 8}" y="{y + row_height / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for bar in bars:
            x0, x1 = at(bar.start), at(bar.end)
            colour = PALETTE[groups.index(bar.group) % len(PALETTE)]
            words = f"{bar.label or bar.group or name}: {bar.start:.2f}-{bar.end:.2f} s"
            parts.append(
                f'<g><title>{escape(words)}</title><rect x="{x0}" y="{y + 4}" width="{max(1.5, round(x1 - x0, 1))}" '
                f'height="{row_height - 8}" rx="3" fill="{colour}" fill-opacity=".85"/>'
            )
            if bar.label and x1 - x0 > 6.4 * len(bar.label) + 8:
                parts.append(f'<text x="{x0 + 5}" y="{y + row_height / 2 + 4}" fill="#fff">{escape(bar.label)}</text>')
            parts.append("</g>")
    parts.append("</svg>")
    return "".join(parts)

"""Retrieval sheets: for every query its best clips, the right one framed in green."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.viz import images


@dataclasses.dataclass(frozen=True)
class Hit:
    """One clip found. frames: uint8 `[T, H, W, 3]`; score: similarity; correct: whether it is the clip the
    query belongs to; name: file or id, shown behind the score."""

    frames: np.ndarray
    score: float
    correct: bool
    name: str = ""


def retrieval_sheet(
    queries: Sequence[str],
    results: Sequence[Sequence[Hit]],
    ranks: Sequence[int] | None = None,
    frames_per_clip: int = 3,
    height: int = 64,
) -> Image.Image:
    """One row a query: its text, then its hits from the best on.

    queries: texts. results: hits of each query, best first (five are usual). ranks: 0-based rank of the
    right clip of each query in the whole gallery; written at the end of the query so that a row without a
    green frame says where the right clip is. frames_per_clip, height: how clips are shown, in pixels.
    Raises ValueError where the lengths differ or a query has no hit.
    """
    if len(queries) != len(results) or (ranks is not None and len(ranks) != len(queries)) or not queries:
        raise ValueError("queries, results and ranks must be of one length, and at least one")
    if not all(results):
        raise ValueError("a query without hits")
    border, gap, text, small = 3, 10, 15, 12
    cells = [[_cell(hit, frames_per_clip, height, border, small) for hit in hits] for hits in results]
    widest = max(sum(c.width for c in row) + gap * (len(row) - 1) for row in cells)
    margin = 12
    line = images.text_size("Ag", text)[1]
    row_height = line + 6 + max(c.height for row in cells for c in row)
    sheet = Image.new("RGB", (widest + 2 * margin, margin + len(cells) * (row_height + 2 * gap)), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    for k, (query, row) in enumerate(zip(queries, cells)):
        top = margin + k * (row_height + 2 * gap)
        if k:
            draw.line((margin, top - gap, margin + widest, top - gap), images.RULE)
        place = "" if ranks is None else f"rank {ranks[k] + 1}"
        room = images.text_size(place, small)[0]
        draw.text((margin, top), images.fit(query, text, widest - room - 12), images.INK, images.font(text))
        if place:
            colour = images.GREEN if ranks[k] == 0 else images.FAINT
            draw.text((margin + widest - room, top + text - small), place, colour, images.font(small))
        left = margin
        for cell in row:
            sheet.paste(cell, (left, top + line + 6))
            left += cell.width + gap
    return sheet


def _cell(hit: Hit, count: int, height: int, border: int, small: int) -> Image.Image:
    colour = images.GREEN if hit.correct else images.GREY
    strip = images.frame(images.film_strip(hit.frames, count, height), colour, border)
    text = f"{hit.score:.3f}" + (f"  {hit.name}" if hit.name else "")
    return images.label(strip, text, small, images.GREEN if hit.correct else images.FAINT)

"""Which patch tokens a clustering keeps: frames with the discarded patches darkened."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.viz import images

KEPT: images.Colour = (255, 196, 0)


def kept_mask(medoids: np.ndarray, frames: int, grid: int, segments: int) -> np.ndarray:
    """bool `[T, G, G]`, True where a patch is kept.

    medoids: int `[S, K]`, token indices within each segment, frame-major (`n = frame * G * G + y * G + x`,
    frame counted inside the segment); a negative index is padding. frames T, grid G, segments S; S divides T.
    Raises ValueError for other shapes or an index outside the segment.
    """
    medoids = np.asarray(medoids)
    if frames % segments or medoids.ndim != 2 or len(medoids) != segments:
        raise ValueError(f"{frames} frames, {segments} segments and medoids {list(medoids.shape)} do not fit")
    per_segment = frames // segments * grid * grid
    if medoids.size and medoids.max() >= per_segment:
        raise ValueError(f"token {medoids.max()} in a segment of {per_segment} tokens")
    kept = np.zeros((segments, per_segment), bool)
    for s, row in enumerate(medoids):
        kept[s, row[row >= 0]] = True
    return kept.reshape(frames, grid, grid)


def kept_tokens(frames: np.ndarray, medoids: np.ndarray, grid: int, segments: int, side: int = 112) -> Image.Image:
    """One row a segment: its frames, discarded patches darkened and kept ones outlined, and the count kept.

    frames: uint8 `[T, R, R, 3]` as the model saw them; medoids: int `[S, K]` (see `kept_mask`); grid: patches
    a side G; segments: S. side: of a drawn frame in pixels, rounded to a multiple of G.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[1] != frames.shape[2]:
        raise ValueError(f"frames are uint8 [T, R, R, 3], not {frames.dtype} {list(frames.shape)}")
    kept = kept_mask(medoids, len(frames), grid, segments)
    cell = max(4, round(side / grid))
    side, per_segment, small = cell * grid, len(frames) // segments, 12
    line = images.text_size("Ag", small)[1] + 4
    gap = 6
    width, height = per_segment * (side + gap) + gap, side + line + gap
    sheet = Image.new("RGB", (max(width, 150), segments * height + gap), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    for t, picture in enumerate(frames):
        s, k = divmod(t, per_segment)
        top, left = gap + s * height, gap + k * (side + gap)
        if k == 0:
            text = f"segment {s + 1}: {kept[t : t + per_segment].sum()} of {per_segment * grid * grid} tokens kept"
            draw.text((left, top - 2), images.fit(text, small, sheet.width - 2 * gap), images.FAINT, images.font(small))
        sheet.paste(_shade(images.scale(picture, side), kept[t], cell), (left, top + line))
        _outline(draw, kept[t], cell, left, top + line)
    return sheet


def _shade(picture: Image.Image, kept: np.ndarray, cell: int) -> Image.Image:
    light = np.where(kept, 1.0, 0.28).repeat(cell, 0).repeat(cell, 1)[..., None]
    return Image.fromarray(np.rint(np.asarray(picture) * light).astype(np.uint8))


def _outline(draw: ImageDraw.ImageDraw, kept: np.ndarray, cell: int, left: int, top: int) -> None:
    """Draws the border of the union of the kept patches: neighbours are not parted by a line."""
    padded = np.pad(kept, 1)
    for y, x in zip(*np.nonzero(kept)):
        x0, y0 = left + x * cell, top + y * cell
        x1, y1 = x0 + cell - 1, y0 + cell - 1
        if not padded[y, x + 1]:
            draw.line((x0, y0, x1, y0), KEPT)
        if not padded[y + 2, x + 1]:
            draw.line((x0, y1, x1, y1), KEPT)
        if not padded[y + 1, x]:
            draw.line((x0, y0, x0, y1), KEPT)
        if not padded[y + 1, x + 2]:
            draw.line((x1, y0, x1, y1), KEPT)

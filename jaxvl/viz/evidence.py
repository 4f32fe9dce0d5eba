"""Where a model looked in a long video: a timeline of the segments for each layer, and boxes on the frames it took."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxvl.viz import images

LOOK: images.Colour = (214, 120, 20)
PLAIN: images.Colour = (238, 240, 244)
TEXT, SMALL, ROW, GAP = 15, 12, 22, 6


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """One layer. segments `[K]`: share of its attention for each segment. taken: the segments whose frames are shown.
    regions `[taken, t, N]`: share of the attention for each tile of each of their frames, row by row; None where
    nothing is chosen among tiles."""

    segments: np.ndarray
    taken: tuple[int, ...]
    regions: np.ndarray | None = None


def attended(segment_weights: np.ndarray, region_weights: np.ndarray | None) -> Look:
    """What the slots of a layer mixed, put together.

    segment_weights: `[k, K]`, region_weights: `[k, t, j, N]`. A slot counts for the segment that it gave most to; its
    regions are those of that segment. Slots of one segment are averaged.
    """
    most = segment_weights.argmax(1)
    taken = tuple(int(s) for s in np.unique(most))
    if region_weights is None:
        return Look(segment_weights.mean(0), taken)
    regions = np.stack([region_weights[most == s].mean((0, 2)) for s in taken])
    return Look(segment_weights.mean(0), taken, regions)


def evidence_sheet(
    question: str,
    answer: str,
    layers: Sequence[Look],
    spans: np.ndarray,
    frames: np.ndarray | None = None,
    truth: Sequence[tuple[float, float]] = (),
    side: int = 112,
    boxes: int = 3,
) -> Image.Image:
    """The picture of one question.

    spans: `[K, 2]` seconds of the segments. frames: uint8 `[T, H, W, 3]`, T a multiple of K, as the tiles cut them;
    without them only the timeline is drawn. truth: `(start_s, end_s)` of the evidence where it is known, drawn above
    the layers. side: of a drawn frame. boxes: how many of the most attended tiles of a frame are framed.
    """
    count, duration = len(spans), max(float(spans[-1, 1]), 1e-9)  # of a moment: 0
    per = 0 if frames is None else len(frames) // count
    left = 64
    width = max(left + 520, left + per * (side + GAP) + GAP)
    rows = sum(len(look.taken) for look in layers) if per else 0
    height = 2 * (TEXT + 8) + (len(layers) + bool(truth) + 1) * ROW + rows * (side + SMALL + 2 * GAP) + 3 * GAP
    sheet = Image.new("RGB", (width, height), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), images.fit(question, TEXT, width - 2 * GAP), images.INK, images.font(TEXT))
    draw.text((GAP, GAP + TEXT + 6), images.fit(answer, TEXT, width - 2 * GAP), LOOK, images.font(TEXT))
    top = 2 * (TEXT + 8) + GAP
    at = lambda seconds: left + round((width - left - GAP) * min(max(seconds / duration, 0.0), 1.0))  # noqa: E731
    if truth:
        draw.text((GAP, top + 3), "truth", images.FAINT, images.font(SMALL))
        draw.rectangle((at(0), top, at(duration), top + ROW - 5), outline=images.RULE)
        for start, end in truth:
            draw.rectangle((at(start), top, max(at(end), at(start) + 2), top + ROW - 5), fill=images.GREEN)
        top += ROW
    for number, look in enumerate(layers, 1):
        draw.text((GAP, top + 3), f"layer {number}", images.FAINT, images.font(SMALL))
        for (start, end), share in zip(spans, look.segments):
            box = (at(start), top, max(at(end) - 2, at(start)), top + ROW - 5)
            draw.rectangle(box, fill=_blend(float(share)), outline=images.RULE)
            if box[2] - box[0] > 34:
                draw.text((box[0] + 4, top + 2), f"{100 * share:.0f} %", images.INK, images.font(SMALL))
        top += ROW
    for seconds in np.linspace(0, duration, 5):
        draw.text((min(at(seconds), width - 46), top), f"{seconds:.1f} s", images.FAINT, images.font(SMALL))
    top += ROW
    if per:
        for number, look in enumerate(layers, 1):
            for place, segment in enumerate(look.taken):
                label = f"layer {number}, {spans[segment, 0]:.1f} to {spans[segment, 1]:.1f} s"
                draw.text((GAP, top), label, images.FAINT, images.font(SMALL))
                for k in range(per):
                    shares = None if look.regions is None else look.regions[place, k]
                    picture = _framed(frames[segment * per + k], shares, side, boxes)
                    sheet.paste(picture, (left + k * (side + GAP), top + SMALL + GAP))
                top += side + SMALL + 2 * GAP
    return sheet


def top_tiles(shares: np.ndarray, count: int) -> list[tuple[int, tuple[float, float, float, float]]]:
    """The `count` most attended of N tiles with their boxes `(x0, y0, x1, y1)` as shares of the frame. One more than a
    square number: the last one is the whole frame."""
    grid = math.isqrt(len(shares))
    best = [int(n) for n in np.argsort(-shares, kind="stable")[:count]]
    box = lambda n: tuple(v / grid for v in (n % grid, n // grid, n % grid + 1, n // grid + 1))  # noqa: E731
    return [(n, box(n) if n < grid * grid else (0.0, 0.0, 1.0, 1.0)) for n in best]


def _framed(frame: np.ndarray, shares: np.ndarray | None, side: int, boxes: int) -> Image.Image:
    picture = images.as_image(frame).resize((side, side))
    if shares is not None:
        draw = ImageDraw.Draw(picture)
        for n, (x0, y0, x1, y1) in reversed(top_tiles(shares, boxes)):
            wide = 1 + round(3 * float(shares[n]) / max(float(shares.max()), 1e-9))
            draw.rectangle((x0 * side, y0 * side, x1 * side - 1, y1 * side - 1), outline=LOOK, width=wide)
    return picture


def _blend(share: float) -> images.Colour:
    share = min(max(share, 0.0), 1.0)
    return tuple(round(a + (b - a) * share) for a, b in zip(PLAIN, LOOK))

"""Tracks drawn: boxes with identities on a frame, an annotated video, and when each identity was there.

Boxes are left, top, width, height in pixels of their frame. Pillow and PyAV.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw

from jaxvl.viz import images

TICKS = 90_000
"""A second, in the time stamps of written videos."""
SHOWN_ROWS = 40
"""Identities in a timeline; the longest ones, where there are more."""
GOLDEN = 0.618034


def colour(identity: int) -> images.Colour:
    """The same colour for an identity everywhere; neighbours in number look different."""
    red, green, blue = colorsys.hsv_to_rgb((identity * GOLDEN) % 1.0, 0.75, 0.95 if identity % 2 else 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    picture: np.ndarray | Image.Image, boxes: np.ndarray, ids: Sequence[int], labels: Sequence[str] = ()
) -> Image.Image:
    """The frame with its boxes `[n, 4]`, each in the colour of its identity, its label (by default the number) above;
    what lies outside of the frame is cut."""
    image = images.as_image(picture)
    draw = ImageDraw.Draw(image)
    thick = max(1, round(min(image.size) / 120))
    size = max(9, min(18, image.height // 24))
    for k, (box, identity) in enumerate(zip(np.asarray(boxes, np.float64).reshape(-1, 4), ids)):
        left, top, right, bottom = box[0], box[1], box[0] + box[2] - 1, box[1] + box[3] - 1
        if not np.isfinite(box).all() or right < 0 or bottom < 0 or left >= image.width or top >= image.height:
            continue
        ink = colour(int(identity))
        edges = [max(left, 0), max(top, 0), min(right, image.width - 1), min(bottom, image.height - 1)]
        corner = round(edges[0]), round(edges[1])
        draw.rectangle((*corner, max(round(edges[2]), corner[0]), max(round(edges[3]), corner[1])), None, ink, thick)
        text = labels[k] if labels else str(identity)
        if text and min(image.size) >= 100:
            width, height = images.text_size(text, size)
            x = int(np.clip(corner[0], 0, max(image.width - width - 4, 0)))
            y = corner[1] - height if corner[1] >= height else corner[1]
            draw.rectangle((x, y, x + width + 4, y + height), ink)
            draw.text((x + 2, y), text, images.WHITE, images.font(size))
    return image


class Movie:
    """An H.264 file written frame by frame, each at its own time; to be used in a `with`.

    size: (width, height) of the video; frames of another size are fitted into it on black, odd sides grow by a pixel.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], rate: float = 25.0, crf: int = 20):
        self.size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self.container = av.open(str(path), "w", format="mp4")
        options = {"preset": "veryfast", "crf": str(crf)}
        self.stream = self.container.add_stream("libx264", rate=max(1, round(rate)), options=options)
        self.stream.width, self.stream.height = self.size
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, TICKS)
        self.stream.codec_context.thread_count = 1
        self.convert = VideoReformatter()
        self.last = -1

    def __enter__(self) -> Movie:
        return self

    def add(self, picture: np.ndarray | Image.Image, seconds: float) -> None:
        """Appends a frame; seconds: since the first one. Two frames of one time are a tick apart."""
        image = images.as_image(picture)
        if image.size != self.size:
            scale = min(self.size[0] / image.width, self.size[1] / image.height)
            if not (self.size[0] - image.width in (0, 1) and self.size[1] - image.height in (0, 1)):
                image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
            whole = Image.new("RGB", self.size)
            whole.paste(image, (0, 0))
            image = whole
        frame = self.convert.reformat(
            av.VideoFrame.from_ndarray(np.asarray(image), "rgb24"), format="yuv420p", threads=1
        )
        self.last = max(self.last + 1, round(seconds * TICKS))
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
        self.container.mux(self.stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()


def presence_sheet(
    rows: Iterable[tuple[int, Sequence[tuple[float, float]]]],
    duration: float,
    title: str,
    frames: Sequence[tuple[float, np.ndarray | Image.Image]] = (),
    width: int = 960,
) -> Image.Image:
    """When each identity was there: a bar a span, below a strip of frames at their times.

    rows: (identity, spans in seconds). duration: of the video, seconds. frames: (second, picture), drawn above. At most
    `SHOWN_ROWS` identities are shown, those that were there longest; the title says how many there are.
    """
    rows = [(identity, list(spans)) for identity, spans in rows]
    kept = sorted(rows, key=lambda row: -sum(end - start for start, end in row[1]))[:SHOWN_ROWS]
    kept = sorted(kept, key=lambda row: row[0])
    if len(kept) < len(rows):
        title = f"{title} (the {len(kept)} longest are shown)"
    left, gap, row_height = 64, 8, 18
    span = width - left - 16
    strip = []
    if frames:
        side = (span - gap * (len(frames) - 1)) // len(frames)
        for second, picture in frames:
            image = images.as_image(picture)
            height = max(1, round(image.height * side / image.width))
            strip.append(images.label(image.resize((side, height), Image.Resampling.LANCZOS), f"{second:.1f} s", 11))
    strip_height = max((s.height for s in strip), default=0)
    top = 34 + (strip_height + gap if strip else 0)
    sheet = Image.new("RGB", (width, top + max(len(kept), 1) * row_height + 34), images.WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 8), images.fit(title, 14, width - 16), images.INK, images.font(14))
    for k, part in enumerate(strip):
        sheet.paste(part, (left + k * (part.width + gap), 34))
    bottom = top + max(len(kept), 1) * row_height
    duration = max(duration, 1e-9)
    at = lambda second: left + round(min(max(second, 0.0), duration) / duration * span)  # noqa: E731
    for k in range(5):
        second = duration * k / 4
        draw.line((at(second), top, at(second), bottom + 4), images.RULE)
        text = f"{second:.1f} s"
        x = min(at(second) - images.text_size(text, 11)[0] // 2, width - images.text_size(text, 11)[0] - 2)
        draw.text((x, bottom + 8), text, images.INK, images.font(11))
    if not kept:
        draw.text((left + 6, top + 2), "nothing was found", images.FAINT, images.font(12))
    for k, (identity, spans) in enumerate(kept):
        y = top + k * row_height
        text = str(identity)
        draw.text((left - 10 - images.text_size(text, 12)[0], y + 1), text, images.INK, images.font(12))
        for start, end in spans:
            draw.rectangle((at(start), y + 3, max(at(end), at(start) + 1), y + row_height - 4), colour(identity))
    return sheet

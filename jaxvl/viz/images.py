"""Pictures as bytes, text on pictures, pictures in a grid. Pillow only.

Pictures come in and go out as `PIL.Image` (RGB); arrays are uint8 `[H, W, 3]`.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (32, 34, 40)
FAINT: Colour = (120, 124, 134)
RULE: Colour = (214, 217, 223)
GREEN: Colour = (22, 150, 72)
GREY: Colour = (150, 153, 160)


def as_image(picture: np.ndarray | Image.Image) -> Image.Image:
    """An RGB `PIL.Image` of a uint8 array `[H, W, 3]` or `[H, W]` (grey) or of an image of any mode.
    Raises ValueError for another shape or dtype."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"a picture is uint8 [H, W, 3] or [H, W], not {array.dtype} {list(array.shape)}")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def to_bytes(picture: np.ndarray | Image.Image, kind: str = "png", quality: int = 88) -> bytes:
    """The picture as a PNG (`kind='png'`) or JPEG (`kind='jpeg'`) file. Raises ValueError for another kind."""
    if kind not in ("png", "jpeg"):
        raise ValueError(f"kind {kind!r} is neither 'png' nor 'jpeg'")
    buffer = io.BytesIO()
    options = {"optimize": True} if kind == "png" else {"quality": quality, "subsampling": 0}
    as_image(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(picture: np.ndarray | Image.Image, kind: str = "png", quality: int = 88) -> str:
    """`data:image/png;base64,...`, to be put into an HTML `src`."""
    return f"data:image/{kind};base64," + base64.b64encode(to_bytes(picture, kind, quality)).decode("ascii")


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font at `size` pixels (a bitmap font of one size where Pillow lacks FreeType)."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """(width, height) in pixels of one line of text; the height is that of the font, not of the letters."""
    f = font(size)
    left, _, right, _ = f.getbbox(text)
    return round(right - left), round(sum(f.getmetrics())) if hasattr(f, "getmetrics") else size


def clean(text: str) -> str:
    """The text on one line: line breaks and other control characters become blanks."""
    return "".join(c if c.isprintable() else " " for c in text)


def fit(text: str, size: int, width: int) -> str:
    """The text, cut to `width` pixels with an ellipsis where it is longer."""
    text = clean(text)
    if text_size(text, size)[0] <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_size(text[:middle].rstrip() + "...", size)[0] <= width else (low, middle - 1)
    return text[:low].rstrip() + "..."


def wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """The text broken at blanks into at most `lines` lines of `width` pixels; the last one may be cut."""
    words, found = clean(text).split(), []
    while words and len(found) < lines:
        count = 1
        while count < len(words) and text_size(" ".join(words[: count + 1]), size)[0] <= width:
            count += 1
        last = len(found) == lines - 1
        found.append(fit(" ".join(words if last else words[:count]), size, width))
        words = words[count:]
    return found


def label(
    picture: np.ndarray | Image.Image, text: str, size: int = 13, colour: Colour = INK, background: Colour = WHITE
) -> Image.Image:
    """The picture with one line of text below it, cut to the picture's width."""
    picture = as_image(picture)
    height = text_size(text, size)[1] + 4
    sheet = Image.new("RGB", (picture.width, picture.height + height), background)
    sheet.paste(picture, (0, 0))
    ImageDraw.Draw(sheet).text((1, picture.height + 1), fit(text, size, picture.width - 2), colour, font(size))
    return sheet


def frame(picture: np.ndarray | Image.Image, colour: Colour, width: int = 3) -> Image.Image:
    """The picture with a border of `width` pixels around it."""
    picture = as_image(picture)
    sheet = Image.new("RGB", (picture.width + 2 * width, picture.height + 2 * width), colour)
    sheet.paste(picture, (width, width))
    return sheet


def scale(picture: np.ndarray | Image.Image, height: int) -> Image.Image:
    """The picture at `height` pixels, same shape: enlarged by whole pixels where that is exact, else Lanczos."""
    picture = as_image(picture)
    width = max(1, round(picture.width * height / picture.height))
    exact = height % picture.height == 0
    return picture.resize((width, height), Image.Resampling.NEAREST if exact else Image.Resampling.LANCZOS)


def grid(
    pictures: Sequence[np.ndarray | Image.Image], columns: int, gap: int = 6, background: Colour = WHITE
) -> Image.Image:
    """The pictures row by row in cells of the largest one's size. Raises ValueError without pictures."""
    if not pictures or columns < 1:
        raise ValueError("a grid needs at least one picture and one column")
    images = [as_image(p) for p in pictures]
    width, height = max(p.width for p in images), max(p.height for p in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), background)
    for k, image in enumerate(images):
        sheet.paste(image, (gap + k % columns * (width + gap), gap + k // columns * (height + gap)))
    return sheet


def film_strip(frames: np.ndarray, count: int, height: int, gap: int = 2) -> Image.Image:
    """`count` evenly spaced frames of a clip, side by side. frames: uint8 `[T, H, W, 3]`."""
    if frames.ndim != 4 or len(frames) == 0 or count < 1:
        raise ValueError(f"frames are uint8 [T, H, W, 3] with T >= 1, not {list(frames.shape)}")
    picks = (np.arange(count) + 0.5) * len(frames) / count
    shown = [scale(frames[int(k)], height) for k in picks]
    sheet = Image.new("RGB", (sum(s.width for s in shown) + gap * (count - 1), height), WHITE)
    left = 0
    for s in shown:
        sheet.paste(s, (left, 0))
        left += s.width + gap
    return sheet

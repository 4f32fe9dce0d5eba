"""Pictures of many modes and formats, whole or hurt; right is the ramp that was drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fuzz import RIGHT, SILENT, one_line
from jaxvl.core.errors import BadMedia
from jaxvl.data import images

KINDS = [
    *[("PNG", "RGB", 255), ("PNG", "L", 255), ("PNG", "I;16", 65535), ("PNG", "P", 255), ("PNG", "RGBA", 255)],
    *[("JPEG", "RGB", 255), ("JPEG", "L", 255), ("JPEG", "CMYK", 255), ("TIFF", "I;16", 65535), ("TIFF", "I", 65535)],
    *[("TIFF", "F", 1), ("TIFF", "F", 255), ("PPM", "L", 255), ("PPM", "RGB", 255), ("WEBP", "RGB", 255)],
    *[("BMP", "RGB", 255), ("GIF", "P", 255), ("TGA", "RGB", 255), ("PPM", "I", 65535), ("AVIF", "RGB", 255)],
]
ENDINGS = (".jpg", ".png", ".jfif", ".tiff", ".webp", ".PNG", ".bmp")


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One picture, under any ending."""
    kind, mode, white = KINDS[rng.integers(len(KINDS))]
    side = int(rng.integers(16, 80))
    ramp = np.linspace(0, 1, side)
    grey = np.broadcast_to(ramp, (side, side))
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((grey * white).astype(dtype))
    else:
        image = Image.fromarray(np.round(grey * 255).astype(np.uint8)).convert("RGB")
        image = image.quantize(256) if mode == "P" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    data, how = buffer.getvalue(), str(rng.choice(["whole", "whole", "tail", "head", "empty", "text", "tiny"]))
    if how == "tail":
        data = data[: int(len(data) * rng.uniform(0.1, 0.9))]
    elif how == "head":
        place = int(rng.integers(0, min(40, len(data))))
        data = data[:place] + rng.bytes(1) + data[place + 1 :]
    elif how == "empty":
        data = b""
    elif how == "text":
        data = b"<html>not found</html>"
    elif how == "tiny":
        data = data[: int(rng.integers(1, 12))]
    path = folder / f"a{rng.choice(ENDINGS)}"
    path.write_bytes(data)
    what = f"{kind} {mode} up to {white}, {side} pixels, {how}, as {path.suffix}"
    try:
        got = np.asarray(images.to_rgb(images.read_image(path))).astype(int)
        square = images.square(images.read_image(path), 16)
    except BadMedia as bad:
        return what, one_line(bad)
    if how == "head":  # a changed byte of a header may well be another picture: the reader need only survive
        return what, RIGHT
    near = got.shape == (side, side, 3) and np.abs(got - np.round(grey * 255)[..., None]).max() <= 12
    return what, RIGHT if near and square.shape == (16, 16, 3) else SILENT

"""Pictures on the host with Pillow: reading, the resize and the crop that pretrained encoders saw.

The rules are those of CLIP's preprocessing: the shorter side becomes R with the antialiased bicubic
filter, the longer `int(R * long / short)`; centre crop with Python's rounding (to even); RGB last. (Only pictures whose
values cannot be interpolated, those with a palette first of all, become RGB before: Pillow would resize them to the
nearest pixel, as the published code does.)
"""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxvl.core.errors import DAMAGE, BadMedia

IMAGE_ENDINGS = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jif", ".jp2"),
    *(".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi"),
    *(".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm"),
)
"""Endings of pictures that Pillow reads, in lower case. What a file is its content decides, whatever its ending."""
MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded: 300 MB each as RGB, more often a bomb than a photograph."""
INTERPOLATED = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16")
"""Pillow's modes that are resized as they are, as published; RGBA with its alpha taken into account."""


def short_side_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """`(width, height)` after the shorter side became `short_side`; the longer side is truncated, not rounded."""
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def crop_offsets(width: int, height: int, size: int) -> tuple[int, int]:
    """`(left, top)` of the centre crop. `round` is Python's: a half goes to the even neighbour."""
    if size > width or size > height:
        raise ValueError(f"cannot crop {size}x{size} out of {width}x{height}: resize first")
    return round((width - size) / 2.0), round((height - size) / 2.0)


def resize_short_side(
    image: Image.Image, short_side: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Antialiased. The very same picture comes back when the shorter side already fits.

    Raises BadMedia for a strip so long that it would come out larger than `MAX_PIXELS`.
    """
    if min(image.size) == short_side:
        return image
    width, height = short_side_size(*image.size, short_side)
    if width * height > MAX_PIXELS:
        was = f"{image.width}x{image.height} pixels"
        raise BadMedia(getattr(image, "filename", "") or "a picture", f"{was} would become {width}x{height}")
    return image.resize((width, height), resample)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size`. ValueError where the picture is smaller."""
    left, top = crop_offsets(*image.size, size)
    return image.crop((left, top, left + size, top + size))


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, 8 bits. Alpha is dropped, palettes and CMYK are converted; 16-bit grey keeps its high byte (Pillow's own
    conversion clips it to white), and so does 12-bit PGM, which Pillow spreads over 16 bits.

    Grey of 32 bits or floats says nowhere what white is. It is taken as the smallest of 1 (floats), 255, 65535 and
    2^31 - 1 that no value exceeds. Raises BadMedia for values below 0 and for floats that are not finite.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        high = np.asarray(image.convert("I"), np.int32) >> 8
        image = Image.fromarray(high.astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image), getattr(image, "filename", "") or "a picture"))
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite([lowest, highest]).all() or lowest < 0:
        raise BadMedia(name, f"grey values from {lowest:g} to {highest:g}, which no picture has")
    whites = [1.0] * (values.dtype.kind == "f") + [255.0, 65535.0, 2.0**31 - 1]
    white = next((w for w in whites if highest <= w), highest)
    if white == 65535 and values.dtype.kind != "f":
        return (values >> 8).astype(np.uint8)  # as of 16 bits
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Resize, centre crop, RGB, in the published order. Returns `[size, size, 3]` uint8."""
    return np.array(to_rgb(center_crop(resize_short_side(_interpolated(image), size), size)))


def resized(image: Image.Image, short_side: int) -> np.ndarray:
    """Resize without a crop, RGB. Returns `[H, W, 3]` uint8."""
    return np.array(to_rgb(resize_short_side(_interpolated(image), short_side)))


def whole(image: Image.Image, size: None = None) -> np.ndarray:
    """RGB at its own size. Returns `[H, W, 3]` uint8."""
    return np.array(to_rgb(image))


def _interpolated(image: Image.Image) -> Image.Image:
    return image if image.mode in INTERPOLATED else to_rgb(image)


def read_image(path: str | os.PathLike, *, exif_orientation: bool = False) -> Image.Image:
    """Reads and fully decodes one picture file, in its own mode.

    exif_orientation: turn the picture as its EXIF tag says. Off by default: the encoders were trained
        without it, and published annotations (boxes) refer to the stored pixels.
    Raises BadMedia: missing, empty, not a picture, cut off, or more than `MAX_PIXELS`.
    """
    name = os.fspath(path)
    if os.path.exists(name) and not os.path.isdir(name) and not os.path.isfile(name):
        raise BadMedia(name, "is a pipe or a device, not a picture file")
    try:
        with Image.open(name) as image:
            if image.format == "EPS":  # a program, which Pillow hands to Ghostscript
                raise BadMedia(name, "not a picture file but PostScript")
            if image.width * image.height > MAX_PIXELS:
                raise BadMedia(name, f"{image.width}x{image.height} pixels, more than the {MAX_PIXELS} allowed")
            image.load()
    except FileNotFoundError as error:
        raise BadMedia(name, "file is missing") from error
    except IsADirectoryError as error:
        raise BadMedia(name, "is a folder, not a picture file") from error
    except UnidentifiedImageError as error:
        reason = "empty file (0 bytes)" if os.path.getsize(name) == 0 else "not a picture file"
        raise BadMedia(name, reason) from error
    except Image.DecompressionBombError as error:
        raise BadMedia(name, f"more pixels than the {MAX_PIXELS} allowed") from error
    except DAMAGE as error:
        raise BadMedia(name, f"cannot decode the picture: {str(error) or type(error).__name__}") from error
    return ImageOps.exif_transpose(image) if exif_orientation else image

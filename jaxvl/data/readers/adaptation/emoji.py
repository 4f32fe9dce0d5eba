"""The same emoji in four styles: flat Noto, flat Twemoji, rendered 3-D, black line. Four real domains of drawings.

They lie inside npm packages, of which an installed or unpacked copy is read (nothing is downloaded here):

    emoji-datasource-google 16.0.0   MIT; Noto's pictures Apache-2.0 / OFL   names, categories, 64 px PNG
    emoji-datasource-twitter 16.0.0  MIT; Twemoji's pictures CC BY 4.0       64 px PNG
    @lobehub/fluent-emoji-3d 1.1.0   MIT                                     256 px WebP
    @expo-google-fonts/noto-emoji 0.4.7  MIT and OFL                         a TTF, one glyph an emoji

`write_emoji` composes them on white as `OUT/<style>/<class>/<name>.png`, a folder of domains that any reader of class
folders takes, with `OUT/emoji.json`: what it was made of, and for each name its half. Two styles show the same names,
so an honest source and target take different halves (`read_emoji`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxvl.core.errors import InputError
from jaxvl.data.images import read_image
from jaxvl.data.readers.classification.image_folder import ImageReading, read_image_folder
from jaxvl.data.readers.common import first_few, read_json, require_file

PACKAGES = {
    "noto": "emoji-datasource-google",
    "twemoji": "emoji-datasource-twitter",
    "fluent3d": "@lobehub/fluent-emoji-3d",
    "line": "@expo-google-fonts/noto-emoji",
}
"""Style -> npm package."""
STYLES = tuple(PACKAGES)
FOLDERS = {"noto": "img/google/64", "twemoji": "img/twitter/64", "fluent3d": "assets"}
FONT = "400Regular/NotoEmoji_400Regular.ttf"
CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
"""Of things; signs, faces and people are left out, and so are flags, skin tones and joined sequences."""
LEAST = 12
"""Names that a class (subcategory) needs."""
INDEX, FORMAT = "emoji.json", 1


@dataclasses.dataclass(frozen=True)
class Emoji:
    """name: short name. code: code points in hexadecimal, joined by `-`, as files are called. label: subcategory.
    half: 0 or 1, half of each class's names in an order that only the names decide."""

    name: str
    code: str
    label: str
    half: int


def find_packages(root: str | os.PathLike) -> dict[str, str]:
    """Style -> folder of its package below `root`, by the `name` in `package.json`: unpacked (`X/package/`), installed
    (`node_modules/`), or the folder itself. Raises InputError with the command that fetches what is missing."""
    top = os.fspath(root)
    if not os.path.isdir(top):
        raise InputError(f"{top}: no such folder of npm packages")
    found: dict[str, str] = {}
    for here, folders, files in os.walk(top):
        depth = os.path.relpath(here, top).count(os.sep)
        folders[:] = sorted(folders) if depth < 3 else []
        if "package.json" in files:
            folders.clear()
            name = read_json(os.path.join(here, "package.json"), "the description of an npm package")
            style = next((s for s, p in PACKAGES.items() if isinstance(name, dict) and p == name.get("name")), None)
            if style is not None:
                found.setdefault(style, here)
    if lost := [PACKAGES[s] for s in STYLES if s not in found]:
        raise InputError(
            f"{top}: lacks {', '.join(lost)}; in that folder: npm pack {' '.join(lost)}, and unpack each archive into "
            "a folder of its own"
        )
    return found


def list_emoji(packages: Mapping[str, str], categories: Sequence[str] = CATEGORIES, least: int = LEAST) -> list[Emoji]:
    """The emoji that all styles have, in classes of at least `least` names, by class and name. Raises InputError."""
    path = require_file(os.path.join(packages["noto"], "emoji.json"), "the list of emoji")
    rows = read_json(path, "the list of emoji")
    try:
        kept = [
            (r["short_name"], os.path.splitext(r["image"])[0], r["subcategory"])
            for r in rows
            if r["category"] in categories and "200D" not in r["unified"].split("-")
        ]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: not the list of emoji of {PACKAGES['noto']} (lacks {error})") from None
    there = [k for k in kept if all(os.path.isfile(p) for p in _files(packages, k[1]).values())]
    counts = Counter(label for _, _, label in there)
    there = sorted((k for k in there if counts[k[2]] >= least), key=lambda k: (k[2], zlib.crc32(k[0].encode()), k[0]))
    if not there:
        raise InputError(f"{path}: no class of {least} names in {', '.join(categories)} that all four styles show")
    out, before, place = [], "", 0
    for name, code, label in there:
        place = place + 1 if label == before else 0
        before = label
        out.append(Emoji(name, code, label, place % 2))
    return sorted(out, key=lambda e: (e.label, e.name))


def compose(packages: Mapping[str, str], style: str, emoji: Emoji, size: int = 64) -> np.ndarray:
    """The picture of one style on white, uint8 `[size, size, 3]`. Raises BadMedia for a damaged file."""
    if style == "line":
        return _glyph(os.path.join(packages["line"], FONT), emoji.code, size)
    picture = read_image(_files(packages, emoji.code)[style]).convert("RGBA")
    picture = picture.resize((size, size), Image.Resampling.LANCZOS) if picture.size != (size, size) else picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def write_emoji(root: str | os.PathLike, out: str | os.PathLike, size: int = 64) -> list[str]:
    """Writes all four styles of the packages below `root` to `out`, `emoji.json` last; returns a report.

    Raises InputError: a package is missing or another than it should be, `out` holds a set already.
    """
    packages, out = find_packages(root), os.fspath(out)
    if os.path.exists(os.path.join(out, INDEX)):
        raise InputError(f"{out}: holds a set of emoji already; choose another folder or remove it")
    chosen = list_emoji(packages)
    for style in STYLES:
        for emoji in chosen:
            folder = os.path.join(out, style, folder_name(emoji.label))
            os.makedirs(folder, exist_ok=True)
            Image.fromarray(compose(packages, style, emoji, size)).save(os.path.join(folder, f"{emoji.name}.png"))
    about = {PACKAGES[s]: _version(p) for s, p in packages.items()}
    with open(os.path.join(packages["noto"], "emoji.json"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    index = {"format": FORMAT, "packages": about, "emoji.json": digest, "halves": {e.name: e.half for e in chosen}}
    with open(os.path.join(out, INDEX), "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
    labels = {e.label for e in chosen}
    made = ", ".join(f"{name} {version}" for name, version in about.items())
    return [f"{len(chosen)} names of {len(labels)} classes in {len(STYLES)} styles, {size}x{size}, in {out}", made]


def read_emoji(root: str | os.PathLike, style: str, half: int | None = None) -> ImageReading:
    """One style of a folder that `write_emoji` wrote; half: 0 or 1, only these names. Raises InputError."""
    top = os.fspath(root)
    if style not in STYLES:
        raise InputError(f"domain {style!r} is no style of emoji; there are {', '.join(STYLES)}")
    index = read_json(os.path.join(top, INDEX), "the index of the emoji, which jaxvl prepare writes")
    halves = index.get("halves") if isinstance(index, dict) else None
    if not isinstance(halves, dict) or index.get("format") != FORMAT:
        raise InputError(f"{os.path.join(top, INDEX)}: not an index of emoji of format {FORMAT}; prepare them again")
    reading = read_image_folder(os.path.join(top, style), name=style)
    names = [os.path.splitext(os.path.basename(i.path))[0] for i in reading.images]
    if unknown := [n for n in names if n not in halves]:
        raise InputError(f"{os.path.join(top, style)}: has pictures that {INDEX} does not name ({first_few(unknown)})")
    kept = [i for i, n in zip(reading.images, names) if half is None or halves[n] == half]
    return dataclasses.replace(reading, images=kept)


def folder_name(label: str) -> str:
    """`sky & weather -> sky_and_weather`."""
    return label.replace(" & ", "_and_").replace(" ", "_").replace("/", "_")


def _files(packages: Mapping[str, str], code: str) -> dict[str, str]:
    ending = {"fluent3d": "webp"}
    # the 3-D set drops the zeros in front of a code (a9-fe0f), the others keep them
    stem = {"fluent3d": code if os.path.isfile(_path(packages, "fluent3d", f"{code}.webp")) else code.lstrip("0")}
    return {s: _path(packages, s, f"{stem.get(s, code)}.{ending.get(s, 'png')}") for s in FOLDERS if s in packages}


def _path(packages: Mapping[str, str], style: str, file: str) -> str:
    return os.path.join(packages[style], *FOLDERS[style].split("/"), file)


def _version(folder: str) -> str:
    return str(read_json(os.path.join(folder, "package.json"), "the description of an npm package").get("version"))


def _glyph(font_file: str, code: str, size: int) -> np.ndarray:
    """The glyph of a code, without the selector of coloured variants, centred and as large as fits."""
    text = "".join(chr(int(c, 16)) for c in code.split("-") if c.lower() != "fe0f")
    path = require_file(font_file, f"the font of {PACKAGES['line']}")
    try:
        font = ImageFont.truetype(path, 4 * size)
    except OSError as error:
        raise InputError(f"{path}: not a font ({error}); unpack {PACKAGES['line']} again") from None
    left, top, right, bottom = font.getbbox(text)
    side = max(right - left, bottom - top, 1)
    large = Image.new("L", (side + side // 8, side + side // 8), 255)
    place = ((large.width - (right - left)) / 2 - left, (large.height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(large).text(place, text, 0, font)
    grey = np.asarray(large.resize((size, size), Image.Resampling.LANCZOS))
    return np.repeat(grey[..., None], 3, axis=2)

"""Emoji packages, made small: what is kept, how it is composed, the halves, and what a wrong folder is told."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from jaxvl import cli
from jaxvl.core.errors import InputError
from jaxvl.data.readers.adaptation import emoji
from tests.tiny import ROOT

NAMES = [chr(ord("A") + i) for i in range(26)]  # letters, which Pillow's own font has


def write_packages(root, three=True):
    folders = {s: root / p.replace("/", "-").replace("@", "") / "package" for s, p in emoji.PACKAGES.items()}
    rows = []
    for i, name in enumerate(NAMES):
        code = f"{ord(name):04x}"
        category, label = [("Food & Drink", "food-fruit"), ("Objects", "light & video")][i % 2]
        rows.append(row(f"letter_{name}", code, category, label))
        for style, ending, size in (("noto", "png", 64), ("twemoji", "png", 64), ("fluent3d", "webp", 128)):
            stem = code.lstrip("0") if style == "fluent3d" else code
            path = folders[style] / emoji.FOLDERS[style] / f"{stem}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((size, size, 4), np.uint8)
            pixels[size // 4 : size // 2] = (200, 10 * i, 0, 255)  # the rest is transparent black
            Image.fromarray(pixels).save(path, lossless=True) if ending == "webp" else Image.fromarray(pixels).save(
                path
            )
    rows.append(row("flag-x", "1f1e6", "Flags", "country-flag"))
    rows.append(row("joined", "0041-200D-0042", "Objects", "light & video"))
    rows.append(row("lonely", "0043", "Objects", "rare"))
    for style, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        version = {"name": emoji.PACKAGES[style], "version": "1.2.3"}
        (folder / "package.json").write_text(json.dumps(version))
    (folders["noto"] / "emoji.json").write_text(json.dumps(rows))
    font = folders["line"] / emoji.FONT
    font.parent.mkdir(parents=True)
    font.write_bytes(ImageFont.load_default(20).path.getvalue())
    return root


def row(name, code, category, label):
    return {
        "short_name": name, "image": f"{code.lower()}.png", "unified": code.upper(), "category": category,
        "subcategory": label,
    }  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def written(packages, tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji")
    return out, emoji.write_emoji(packages, out)


def test_flags_sequences_and_small_classes_are_left_out(packages):
    got = emoji.list_emoji(emoji.find_packages(packages))
    assert len(got) == 26
    assert {e.label for e in got} == {"food-fruit", "light & video"}


def test_a_name_that_a_style_lacks_is_left_out(tmp_path):
    root = write_packages(tmp_path)
    folder = emoji.find_packages(root)["twemoji"]
    Path(folder, "img", "twitter", "64", f"{ord('C'):04x}.png").unlink()
    assert "letter_C" not in {e.name for e in emoji.list_emoji(emoji.find_packages(root))}


def test_halves_are_equal_and_only_the_names_decide(packages):
    got = emoji.list_emoji(emoji.find_packages(packages))
    for label in ("food-fruit", "light & video"):
        members = [e for e in got if e.label == label]
        assert abs(sum(e.half for e in members) - len(members) / 2) <= 0.5
        order = sorted(members, key=lambda e: zlib.crc32(e.name.encode()))
        assert [e.half for e in order] == [i % 2 for i in range(len(order))]


def test_transparency_becomes_white_and_the_glyph_is_black_on_white(packages):
    found = emoji.find_packages(packages)
    first = next(e for e in emoji.list_emoji(found) if e.name == "letter_A")
    for style in ("noto", "twemoji", "fluent3d"):
        pixels = emoji.compose(found, style, first)
        assert pixels.shape == (64, 64, 3)
        assert tuple(pixels[2, 2]) == (255, 255, 255)
        assert tuple(pixels[24, 30]) == (200, 0, 0)
    line = emoji.compose(found, "line", first)
    assert line.min() < 40
    assert (line[0] == 255).all()
    rows, columns = np.nonzero(line[..., 0] < 128)
    assert max(np.ptp(rows), np.ptp(columns)) > 48  # as large as fits
    assert abs((rows.min() + rows.max()) / 2 - 31.5) < 3  # and centred
    assert abs((columns.min() + columns.max()) / 2 - 31.5) < 3


def test_written_set_reads_back_with_its_halves(written):
    out, report = written
    assert report[0].startswith("26 names of 2 classes in 4 styles")
    assert "@lobehub/fluent-emoji-3d 1.2.3" in report[1]
    whole = emoji.read_emoji(out, "line")
    assert whole.classes == ("food-fruit", "light_and_video")
    halves = [{i.image_id for i in emoji.read_emoji(out, style, half).images} for style, half in
              (("noto", 0), ("line", 1))]  # fmt: skip
    assert halves[0] | halves[1] == {i.image_id for i in whole.images}
    assert not halves[0] & halves[1]


def test_wrong_folders_are_told(packages, written, tmp_path):
    out, _ = written
    with pytest.raises(InputError, match="holds a set of emoji already"):
        emoji.write_emoji(packages, out)
    with pytest.raises(InputError, match=r"lacks emoji-datasource-google, .*; in that folder: npm pack emoji-"):
        emoji.find_packages(tmp_path)
    with pytest.raises(InputError, match=r"domain 'apple' is no style of emoji; there are noto, twemoji"):
        emoji.read_emoji(out, "apple")
    with pytest.raises(InputError, match=r"emoji.json: no such file"):
        emoji.read_emoji(tmp_path, "noto")


def test_prepare_writes_them_and_training_reads_them(packages, tmp_path, capsys):
    words = ["--config", str(ROOT / "configs" / "drdr" / "emoji.py"), "--config.model.classes=2"]
    out = str(tmp_path / "out")
    root = [f"--config.data.root={packages}", "--config.data.reader=emoji_packages"]
    assert cli.main(["prepare", *words, *root, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "setting uda; transductive" in said
    assert f"--config.data.reader=emoji --config.data.root={out}" in said
    assert cli.main(["prepare", *words, f"--config.data.root={out}"]) == 0
    assert "noto: 14 images of 2 classes" in capsys.readouterr().out
    assert cli.main(["prepare", *words, f"--config.data.root={out}", "--out", str(tmp_path / "again")]) == 2
    assert "'emoji' is read as it lies" in capsys.readouterr().err

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia
from jaxvl.data import images


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def test_resize_matches_pillow_and_truncates():
    picture = noise(50, 33)
    got = images.resize_short_side(picture, 16)
    assert got.size == (24, 16)  # 16 * 50 / 33 = 24.24
    np.testing.assert_array_equal(np.asarray(got), np.asarray(picture.resize((24, 16), Image.Resampling.BICUBIC)))
    assert images.resize_short_side(picture, 33) is picture
    assert images.resize_short_side(noise(33, 50), 16).size == (16, 24)


def test_center_crop_pixels():
    picture = noise(11, 8)
    np.testing.assert_array_equal(np.asarray(images.center_crop(picture, 8)), np.asarray(picture)[:, 2:10])
    with pytest.raises(ValueError, match="resize first"):
        images.center_crop(picture, 9)


@pytest.mark.parametrize(("side", "left"), [(9, 0), (11, 2), (13, 2), (12, 2), (10, 1)])
def test_half_an_offset_goes_to_the_even_neighbour(side, left):
    """0.5 -> 0, 1.5 -> 2, 2.5 -> 2."""
    assert images.crop_offsets(side, 8, 8) == (left, 0)
    assert images.crop_offsets(8, side, 8) == (0, left)


@pytest.mark.parametrize("mode", ["P", "PA", "1", "YCbCr", "HSV"])
def test_modes_without_interpolation_become_rgb_first(mode):
    picture = noise(50, 40).convert("L").convert(mode) if mode == "1" else noise(50, 40).convert(mode)
    want = np.asarray(picture.convert("RGB").resize((25, 20), Image.Resampling.BICUBIC))[:, 2:22]
    np.testing.assert_array_equal(images.square(picture, 20), want)
    assert images.resized(picture, 20).shape == (20, 25, 3)


def test_alpha_is_taken_into_account_and_dropped_last():
    """What is transparent does not bleed into what is seen, as in the published order."""
    colours = np.zeros((40, 40, 4), np.uint8)
    colours[:, :20], colours[:, 20:] = (200, 0, 0, 255), (0, 200, 0, 0)
    got = images.square(Image.fromarray(colours), 20)
    np.testing.assert_allclose(got[:, :10], np.broadcast_to([200, 0, 0], (20, 10, 3)), atol=2)  # of rounded products


def test_tiny_pictures_and_strips():
    assert images.square(noise(1, 1), 16).shape == (16, 16, 3)
    assert images.square(noise(1, 300), 16).shape == (16, 16, 3)
    with pytest.raises(BadMedia, match="1x200000 pixels would become 224x44800000"):
        images.square(Image.new("L", (1, 200_000)), 224)


def test_square_is_resize_crop_rgb():
    picture = noise(40, 20).convert("L")
    got = images.square(picture, 10)
    assert got.shape == (10, 10, 3)
    want = np.asarray(picture.resize((20, 10), Image.Resampling.BICUBIC))[:, 5:15]
    np.testing.assert_array_equal(got, np.repeat(want[..., None], 3, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    got = images.to_rgb(Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode))
    assert got.mode == "RGB"
    assert (np.asarray(got) >= 254).all()


def test_sixteen_bit_grey_is_not_clipped():
    deep = Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16))
    assert np.asarray(images.to_rgb(deep))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_only_on_request(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(8, 4).save(tmp_path / "turned.jpg", exif=exif)
    assert images.read_image(tmp_path / "turned.jpg").size == (8, 4)
    assert images.read_image(tmp_path / "turned.jpg", exif_orientation=True).size == (4, 8)


def test_wrong_ending_still_reads(tmp_path):
    noise(8, 4).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.JPEG")
    assert images.read_image(tmp_path / "a.JPEG").size == (8, 4)


def test_bad_pictures(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:1500])
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    cases = {"cut": "cannot decode", "text": "not a picture", "empty": "0 bytes", "folder": "folder", "gone": "missing"}
    for name, reason in cases.items():
        path = next(iter(tmp_path.glob(f"{name}.*")), tmp_path / f"{name}.jpg")
        with pytest.raises(BadMedia, match=reason) as error:
            images.read_image(path)
        assert pickle.loads(pickle.dumps(error.value)).path == str(path)
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(BadMedia, match="PostScript"):  # it would be run
        images.read_image(tmp_path / "program.png")
    noise(30, 30).save(tmp_path / "bomb.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 899)
    with pytest.raises(BadMedia, match="30x30 pixels"):
        images.read_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadMedia, match="more pixels"):
        images.read_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["AVIF", "BLP", "TIFF", "JPEG2000", "GIF"])
def test_whatever_damage_makes_of_a_picture_is_one_line(tmp_path, kind):
    buffer, path, rng, shown = io.BytesIO(), tmp_path / "a.png", np.random.default_rng(0), 0
    noise(16, 12).convert("P" if kind == "BLP" else "RGB").save(buffer, kind)
    for number in range(40):
        data = bytearray(buffer.getvalue())
        for _ in range(4):
            data[int(rng.integers(min(len(data), 200)))] = int(rng.integers(256))
        path.write_bytes(data[: len(data) if number % 4 else int(rng.integers(len(data)))])
        with contextlib.suppress(BadMedia):
            assert images.square(images.read_image(path), 8).shape == (8, 8, 3)
            shown += 1
    assert shown < 40

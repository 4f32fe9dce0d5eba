"""IDX and CIFAR files with what is usually broken in them, and pictures as records."""

import gzip
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.readers.classification.cifar import read_cifar
from jaxvl.data.readers.classification.idx import DIGITS, read_idx, read_idx_images
from jaxvl.data.readers.classification.image_folder import LabelledImage
from jaxvl.data.readers.classification.image_records import (
    ImageRecords,
    label_of,
    load_picture,
    picture_id,
    write_pictures,
)


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 4, 5), dtype=np.uint8), np.array([0, 1, 2, 9, 9, 5], np.uint8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx_bytes(labels))  # the name some unpackers give
    return tmp_path, images, labels


def test_idx_gives_pictures_and_labels(mnist):
    folder, images, labels = mnist
    got = read_idx_images(folder, "train", classes=DIGITS, name="mnist")
    np.testing.assert_array_equal(got.images[..., 0], images)
    assert got.labels.tolist() == labels.tolist()
    assert got.line() == "mnist train: 6 images 4x5x1 of 10 classes"
    assert picture_id(got[3]) == "mnist train#3"
    with pytest.raises(IndexError):
        got[6]
    with pytest.raises(InputError, match=r"has no t10k-images-idx3-ubyte\[\.gz\]; it holds train-images"):
        read_idx_images(folder, "test", classes=DIGITS)
    with pytest.raises(InputError, match="the splits train and test, not 'val'"):
        read_idx_images(folder, "val", classes=DIGITS)
    with pytest.raises(InputError, match=r"item 3 has label 9; labels are 0 to 2"):
        read_idx_images(folder, "train", classes=DIGITS[:3])


def test_broken_idx_files_are_named(mnist):
    folder, images, labels = mnist
    with pytest.raises(InputError, match="no such folder of IDX files"):
        read_idx_images(folder / "no", "train", classes=DIGITS)
    file = folder / "train-labels.idx1-ubyte"
    file.write_bytes(idx_bytes(labels[:4]))
    with pytest.raises(InputError, match=r"4 labels for the 6 pictures"):
        read_idx_images(folder, "train", classes=DIGITS)
    file.write_bytes(idx_bytes(images))
    with pytest.raises(InputError, match="3 dimensions, labels need 1; are pictures and labels swapped"):
        read_idx_images(folder, "train", classes=DIGITS)
    for content, line in (
        (idx_bytes(labels)[:-2], r"says \[6\] and holds 4 bytes"),
        (b"<!DOCTYPE html><html>not found", "looks like a web page"),
        (gzip.compress(idx_bytes(labels))[:12], "cannot be unpacked"),
        (bytes([0, 0, 13, 1]) + bytes(8), "is no IDX file of bytes"),
        (b"", "is no IDX file of bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=line):
            read_idx(file, 1)


def cifar10(folder, rows=3):
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    planes = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        data = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
        planes[name] = data
        content = {b"data": data, b"labels": [1, 9, 0], b"batch_label": name.encode(), b"filenames": [b"x"] * rows}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return planes


def test_cifar_pickles_are_channel_planes(tmp_path):
    planes = cifar10(tmp_path / "cifar-10-batches-py")
    got = read_cifar(tmp_path, "train")
    assert got.images.shape == (15, 32, 32, 3)
    assert got.labels[:3].tolist() == [1, 9, 0]
    assert got.classes[1] == "automobile"
    row = planes["data_batch_2"][0]
    assert got.images[3, 5, 7].tolist() == [row[5 * 32 + 7], row[1024 + 5 * 32 + 7], row[2048 + 5 * 32 + 7]]
    assert len(read_cifar(tmp_path / "cifar-10-batches-py", "test")) == 3


def test_cifar_binaries_say_the_same(tmp_path):
    planes = cifar10(tmp_path / "a" / "cifar-10-batches-py")
    folder = tmp_path / "b" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, data in planes.items():
        labels = np.array([[1], [9], [0]], np.uint8)
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels, data], 1).tobytes())
    one, other = read_cifar(tmp_path / "a", "train"), read_cifar(tmp_path / "b", "train")
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    (folder / "test_batch.bin").write_bytes(b"x" * 3072)
    with pytest.raises(InputError, match="no whole number of records of 3073"):
        read_cifar(tmp_path / "b", "test")


def test_cifar_100_takes_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    data = np.zeros((2, 3072), np.uint8)
    content = {b"data": data, b"coarse_labels": [0, 1], b"fine_labels": [99, 3]}
    (folder / "train").write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"n%d" % i for i in range(100)]}))
    got = read_cifar(tmp_path, "train", classes=100)
    assert got.labels.tolist() == [99, 3]
    assert got.classes[99] == "n99"


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_broken_cifar_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder of CIFAR-10"):
        read_cifar(tmp_path / "no", "train")
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(
        InputError, match=r"neither data_batch_1 nor data_batch_1\.bin.*unpack cifar-10-python\.tar\.gz"
    ):
        read_cifar(tmp_path, "train")
    cifar10(tmp_path / "cifar-10-batches-py")
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    for content, line in (
        (pickle.dumps(Evil()), r"asks for posix\.system"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]})[:-40], "is damaged or no file"),
        (pickle.dumps([1]), "holds a list"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 2]}), "lacks 'labels'"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=line):
            read_cifar(tmp_path, "test")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(InputError, match=r"data_batch_4: no such file"):
        read_cifar(tmp_path, "train")


def test_pictures_as_records_keep_pixels_labels_and_names(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(60, 200, (3, 3, 3)), np.ones((16, 20, 1))).astype(np.uint8)  # 48 x 60
    Image.fromarray(smooth).save(tmp_path / "a.png")
    pictures = [LabelledImage(str(tmp_path / "a.png"), 1, "x/a.png"), LabelledImage(str(tmp_path / "a.png"), 0, "x/b")]
    written = write_pictures(tmp_path / "out" / "train", pictures, "train", ["cat", "dog"], short_side=32, quality=95)
    assert written.count == 2
    got = ImageRecords(tmp_path / "out", "train", short_side=32)
    assert [(label_of(r), picture_id(r)) for r in (got[0], got[1])] == [(1, "x/a.png"), (0, "x/b")]
    assert got.classes == ("cat", "dog")
    image = load_picture(got[0])
    assert image.size == (40, 32)
    direct = np.asarray(Image.fromarray(smooth).resize((40, 32), Image.Resampling.BICUBIC), int)
    assert np.abs(np.asarray(image, int) - direct).mean() < 4
    with pytest.raises(InputError, match="written at short side 32, 64 is asked for"):
        ImageRecords(tmp_path / "out", "train", short_side=64)
    with pytest.raises(InputError, match="the split 'val' was not written there"):
        ImageRecords(tmp_path / "out", "val")
    (tmp_path / "broken.png").write_bytes(b"junk")
    with pytest.raises(BadMedia):
        load_picture(LabelledImage(str(tmp_path / "broken.png"), 0, "broken"))

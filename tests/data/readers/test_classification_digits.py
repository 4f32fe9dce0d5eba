"""Digits inside packages: the real files, and what a damaged one says."""

import gzip

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification import digits
from jaxvl.data.readers.classification.image_arrays import ImageArrays


def test_optdigits_are_those_of_scikit_learn():
    ours, theirs = digits.read_optdigits(), load_digits()
    assert ours.images.shape == (1797, 8, 8, 1)
    assert ours.images.max() == 16
    np.testing.assert_array_equal(ours.images[..., 0], theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.target)


def test_mnist5k_has_500_upright_digits_a_class():
    ours = digits.read_mnist5k()
    assert ours.images.shape == (5000, 28, 28, 1)
    assert ours.images.max() == 255
    np.testing.assert_array_equal(np.bincount(ours.labels), [500] * 10)
    ink = ours.images.astype(float).sum(-1)
    assert ink[:, 4:-4, 4:-4].sum() > 0.95 * ink.sum()  # a box of 20x20, set into 28x28 by its centre of mass
    ones = ink[ours.labels == 1].mean(0)
    assert (ones.sum(1) > 0).sum() > 15
    assert ones.sum(0).argmax() in (13, 14)


def _write(path, rows):
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(str(v) for v in row) + "\n" for row in rows)
    return path


def test_damaged_files_are_named(tmp_path):
    row = [0] * 64 + [3]
    assert digits.read_optdigits(_write(tmp_path / "ok.gz", [row])).labels.tolist() == [3]
    for rows, said in (
        ([[0] * 64], "rows of 65"),
        ([[17, *row[1:]]], "0 to 16"),
        ([[0.5, *row[1:]]], "whole numbers"),
        ([["x", *row[1:]]], "not a table of numbers"),
        ([[*row[:-1], 10]], "label 10; labels are 0 to 9"),
    ):
        with pytest.raises(InputError, match=said):
            digits.read_optdigits(_write(tmp_path / "bad.gz", rows))
    whole = _write(tmp_path / "whole.gz", [row] * 50).read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[:-12])
    with pytest.raises(InputError, match=r"cut\.gz: cut off or damaged"):
        digits.read_optdigits(tmp_path / "cut.gz")
    (tmp_path / "plain.gz").write_text("no gzip")
    with pytest.raises(InputError, match="cannot be read as a gzip file"):
        digits.read_optdigits(tmp_path / "plain.gz")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"scikit-learn: not installed.*pip install 'jaxvl\[digits\]'"):
        digits.read_optdigits()


def test_arrays_are_checked_and_taken_in_order():
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    whole = ImageArrays("toy", images, np.array([0, 1, 1], np.int32), ("a", "b"))
    part = whole.take([2, 0], "part")
    assert part.images[:, 0, 0, 0].tolist() == [8, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.line() == "part: 2 images 2x2x1 of 2 classes"
    with pytest.raises(InputError, match="needed uint8"):
        ImageArrays("toy", images.astype(np.float32), whole.labels, whole.classes)
    with pytest.raises(InputError, match="3 pictures but labels"):
        ImageArrays("toy", images, whole.labels[:2], whole.classes)

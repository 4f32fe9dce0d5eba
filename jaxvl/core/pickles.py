"""Pickles of strangers: no size that they claim is allocated, and nothing that they name is imported or called. What
their names mean is the reader's to say; what numpy's stand for is said here."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


class Bounded:
    """A file of which no more is asked than there is left: some readers allocate what they are told first."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        left = max(0, self.size - self.file.tell())
        return self.file.read(left if count < 0 else min(count, left))

    def readline(self) -> bytes:
        """As of a file."""
        return self.file.readline()

    def tell(self) -> int:
        """As of a file."""
        return self.file.tell()


def check_opcodes(file: Bounded) -> None:
    """Looks through the next pickle and goes back to its beginning.

    Raises ValueError where it puts something at a place of the memo that it could not have reached, as many of which
    the unpickler would allocate, and for what is no pickle.
    """
    begin = file.tell()
    for count, (code, argument, _) in enumerate(pickletools.genops(file), 1):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
            raise ValueError(f"memo place {argument} after {count} opcodes")
    file.file.seek(begin)


class NumpyType:
    """`numpy.dtype` of a number as pickles build it: only its letter and the order of its bytes are used."""

    def __init__(self, text: Any, *_: Any):
        self.dtype = np.dtype(str(text)).newbyteorder("<")

    def __setstate__(self, state: Any) -> None:
        """The order of its bytes."""
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")

    def values(self, data: Any, count: int) -> np.ndarray:
        """So many numbers from bytes, or from the latin1 text as which Python 3 loads the bytes of Python 2. Raises
        ValueError for what is no number, and where there are fewer or more."""
        if self.dtype.kind not in "biuf":
            raise ValueError(f"numpy values of type {self.dtype}")
        values = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.dtype)
        if len(values) != count:
            raise ValueError(f"{len(values)} numpy values where {count} should be")
        return values


class NumpyArray:
    """An array of numbers as pickles build it. value: the array, once its state has come."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        """`(version, shape, type, column by column, bytes)`. Raises ValueError where they contradict each other."""
        _, shape, kind, fortran, data = state
        self.value = array_of(data, kind, shape, "F" if fortran else "C").value


def array_of(data: Any, kind: NumpyType, shape: Any, order: str = "C", *_: Any) -> NumpyArray:
    """An array from its bytes."""
    count = 1
    for side in shape:
        count *= int(side)
    array = NumpyArray()
    array.value = kind.values(data, count).reshape(tuple(map(int, shape)), order=order)
    return array


def _scalar(kind: NumpyType, data: bytes) -> Any:
    return kind.values(data, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(data: Any, encoding: str = "") -> bytes:
    """Never of a size: that would be allocated."""
    if not isinstance(data, bytes | str):
        raise ValueError(f"bytes made of {type(data).__name__}")
    return _encode(data, encoding) if isinstance(data, str) else data


_CORES = ("numpy.core", "numpy._core")
NUMPY_SCALARS: dict[tuple[str, str], Callable] = {
    ("numpy", "dtype"): NumpyType,
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    ("_codecs", "encode"): _encode,
}
"""`(module, name)` of what single numbers are made of, and what stands for it."""
NUMPY_ARRAYS: dict[tuple[str, str], Any] = {
    **NUMPY_SCALARS,
    ("numpy", "ndarray"): NumpyArray,
    **{(f"{core}.multiarray", "_reconstruct"): lambda *_: NumpyArray() for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): array_of for core in _CORES},
    ("builtins", "bytearray"): _bytes,
    ("__builtin__", "bytearray"): _bytes,
}
"""The same for arrays of numbers."""

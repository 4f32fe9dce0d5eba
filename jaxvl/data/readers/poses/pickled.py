"""Pickles of poses, alone (3DPW) or as object arrays inside of a `.npz` (Human3.6M): dicts, lists, texts, numbers and
arrays of numbers. Nothing that they name is imported or called (`core/pickles.py`)."""

from __future__ import annotations

import io
import os
import pickle
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.pickles import NUMPY_ARRAYS, Bounded, NumpyArray, check_opcodes
from jaxvl.data.readers.common import require_file

BROKEN = (
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError),
    *(RuntimeError, SyntaxError, tokenize.TokenError),  # encrypted members; headers that are no Python
)
"""What NumPy and zipfile raise on damaged files."""
DEPTH = 16
"""Dicts and lists inside of each other; a pickle may hold itself."""


class _Array(NumpyArray):
    """An array of numbers, or one of objects, whose value is then the list of them."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, data = state
        if kind.dtype.kind != "O":
            super().__setstate__(state)
        elif isinstance(data, list):
            self.value = data[0] if shape == () and len(data) == 1 else data
        else:
            raise ValueError(f"objects made of {type(data).__name__}")


_ALLOWED = {name: what for name, what in NUMPY_ARRAYS.items() if name[1] != "_reconstruct"}
_ALLOWED |= {name: lambda *_: _Array() for name in NUMPY_ARRAYS if name[1] == "_reconstruct"}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Bounded, path: str):
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for what a file names; never the thing itself."""
        if (module, name) not in _ALLOWED:
            raise InputError(f"{self.path}: holds an object of class {module}.{name}; only arrays of numbers are read")
        return _ALLOWED[module, name]


def read_pickle(path: str | os.PathLike, what: str) -> Any:
    """What a `.pkl` holds. Raises InputError, naming `what` the file should be."""
    name = require_file(path, what)
    try:
        with open(name, "rb") as file:
            return _load(file, os.path.getsize(name), name)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); copy it again") from error


def read_member(path: str | os.PathLike, keys: Sequence[str], what: str) -> dict[str, Any]:
    """The arrays `keys` of a `.npz`, in a dict; a pickled one as what it holds; one that is not there as None. Raises
    InputError."""
    name = require_file(path, what)
    out: dict[str, Any] = dict.fromkeys(keys)
    try:
        with zipfile.ZipFile(name) as archive:
            there = set(archive.namelist())
            for key in keys:
                if f"{key}.npy" in there:
                    size = archive.getinfo(f"{key}.npy").file_size
                    with archive.open(f"{key}.npy") as member:
                        out[key] = _array(io.BufferedReader(member, 2**20), size, name)
            if not any(f"{key}.npy" in there for key in keys):
                has = ", ".join(sorted(n.removesuffix(".npy") for n in there)) or "nothing"
                raise InputError(f"{name}: has no {keys[0]!r} ({what}); it has {has[:200]}")
    except BROKEN as error:
        raise InputError(f"{name}: cannot be read ({reason(error)}); copy it again") from error
    return out


def reason(error: Exception) -> str:
    """An error in some words, one line."""
    return " ".join(f"{error}".split())[:120] or type(error).__name__


def _array(file: BinaryIO, size: int, path: str) -> Any:
    begin = file.tell()
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject:
        claimed = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
        if claimed > size:
            raise ValueError(f"an array of {claimed:,} bytes in {size:,}")
        file.seek(begin)
        return np.lib.format.read_array(file, allow_pickle=False)
    return _load(file, size, path)


def _load(file: BinaryIO, size: int, path: str) -> Any:
    try:
        bounded = Bounded(file, size)
        check_opcodes(bounded)
        return _plain(_Unpickler(bounded, path).load())
    except InputError:
        raise
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise InputError(f"{path}: no pickle of poses ({reason(error)}); copy it again") from error
    except (OverflowError, MemoryError, RecursionError, ArithmeticError) as error:
        raise InputError(f"{path}: no pickle of poses ({type(error).__name__}); copy it again") from error


def _plain(value: Any, done: dict[int, Any] | None = None, depth: int = 0) -> Any:
    """The same with arrays of numpy in the place of what stood for them. done: what was met before; a list that holds
    another one many times is gone through once."""
    done = {} if done is None else done
    if depth > DEPTH:
        raise ValueError("it nests too deep")
    if not isinstance(value, NumpyArray | dict | list | tuple):
        return value
    if id(value) not in done:
        if isinstance(value, NumpyArray):
            found = _plain(value.value, done, depth + 1)
        elif isinstance(value, dict):
            found = {key: _plain(inner, done, depth + 1) for key, inner in value.items()}
        else:
            found = [_plain(inner, done, depth + 1) for inner in value]
        done[id(value)] = found
    return done[id(value)]

"""PyTorch files without PyTorch: state dicts and TorchScript archives, read by a restricted unpickler.

A PyTorch file is a pickle that refers to raw storages. Pickles can name any Python object, so this reader resolves
only tensors, plain containers and numpy scalars and never imports what a file names. The arguments of a run that lie
beside a state dict (`PASSED_OVER`) become inert `Foreign` objects and are passed over; an object of any other class,
and one of these in place of a tensor, is refused by name. Tensors are read from the file only when they are asked for.
"""

from __future__ import annotations

import collections
import contextlib
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from jaxvl.core.errors import InputError

DTYPES = {
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
OLD_MAGIC = 0x1950A86A20F9469CFC6C
EXPANDED = 2**24
"""Values of the largest tensor that may repeat those of a smaller storage: a few bytes must not become terabytes."""
RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, struct.error, zipfile.BadZipFile, zlib.error, KeyError, IndexError),
    *(ValueError, TypeError, AttributeError, OverflowError, RuntimeError, OSError),
)
"""What a garbled pickle or zip raises inside the standard library."""


class Storage(NamedTuple):
    """A raw block of `numel` values under `key`."""

    dtype: np.dtype
    key: str
    numel: int


class Tensor(NamedTuple):
    """A strided view of a storage (in values, not bytes)."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, read: Callable[[Storage], np.ndarray]) -> np.ndarray:
        """The values, C-contiguous. `read` gives a storage as `[numel]`. Raises ValueError beyond the storage."""
        if len(self.shape) != len(self.strides) or min((self.offset, *self.shape, *self.strides), default=0) < 0:
            raise ValueError(f"a tensor of shape {self.shape} has strides {self.strides} and offset {self.offset}")
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        if math.prod(self.shape) > max(self.storage.numel, EXPANDED):
            raise ValueError(f"a tensor of shape {self.shape} repeats a storage of {self.storage.numel}")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if last >= self.storage.numel:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {self.storage.numel}")
        flat = read(self.storage)[self.offset :]
        strides = [s * flat.itemsize for s in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False), order="C")


class Module:
    """Stands for a class of a TorchScript archive; holds the attributes that its pickle sets."""

    def __setstate__(self, state: Any) -> None:
        """Keeps the attributes."""
        self.attributes = dict(state)


class Foreign:
    """Stands for an object that is passed over. Holds what the pickle gave it; nothing of it is ever called."""

    name = ""

    def __new__(cls, *args: Any, **fields: Any) -> Foreign:
        """Takes any arguments."""
        self = super().__new__(cls)
        self.parts = [*args, *fields.values()]
        return self

    def __init__(self, *args: Any, **fields: Any):
        """Takes the same."""

    def __setstate__(self, state: Any) -> None:
        """Keeps the state."""
        self.parts.append(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keeps an entry."""
        self.parts += [key, value]

    def append(self, value: Any) -> None:
        """Keeps an element."""
        self.parts.append(value)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a state dict or TorchScript archive by dotted name, in the file's dtypes.

    A checkpoint that holds a state dict under `state_dict`, `model_state_dict` or `model` is read through. Raises
    InputError for a file that is damaged, of another kind, or holds objects of classes that are not read.
    """
    return _Archive(Path(path)).state_dict()


class _Archive:
    """The pickle of a file and the place of its storages."""

    def __init__(self, path: Path):
        self.path, self.is_zip = path, False
        self.storages: dict[str, np.ndarray] = {}
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80":
            self._guard(self._open_old)
        elif start == b"PK":
            self.is_zip = True
            self._guard(self._open_zip)
        else:
            raise InputError(f"{path}: not a PyTorch file (neither a zip archive nor a pickle)")

    def state_dict(self) -> dict[str, np.ndarray]:
        tensors, out = self._guard(self._tensors), {}
        with contextlib.ExitStack() as stack:
            if self.is_zip:
                self.archive = stack.enter_context(zipfile.ZipFile(self.path))
            for name, tensor in tensors.items():
                out[name] = self._guard(tensor.array, self._storage)
        return out

    def _tensors(self) -> dict[str, Tensor]:
        content = self.content
        if isinstance(content, Module):
            return _flatten(content, "")
        self._refuse_foreign(content, "")
        if not isinstance(content, Mapping):
            raise InputError(f"{self.path}: holds a {type(content).__name__}, not a state dict; {RESAVE}")
        inner = [k for k in STATE_DICT_KEYS if isinstance(content.get(k), (Mapping, Foreign))]
        if inner:  # first of all: beside it may lie a tensor, such as the best accuracy
            self._refuse_foreign(content[inner[0]], inner[0])
            content = content[inner[0]]
        elif not any(isinstance(v, Tensor) for v in content.values()):
            keys = ", ".join(str(k) for k in list(content)[:8])
            raise InputError(f"{self.path}: holds no state dict (keys: {keys}); {RESAVE}")
        for key, value in content.items():
            self._refuse_foreign(value, str(key))
        return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}

    def _refuse_foreign(self, value: Any, key: str) -> None:
        """Raises InputError for what is no tensor, or no dict of them, but an object that could only be passed over."""
        if isinstance(value, Foreign):
            what = f"{key!r} is" if key else "holds"
            only = "only tensors in plain dicts are read"
            raise InputError(f"{self.path}: {what} an object of class {value.name}; {only}, so {RESAVE}")

    def _guard(self, function: Callable, *args: Any) -> Any:
        """Calls a function; what a damaged file makes the standard library raise becomes one line."""
        try:
            return function(*args)
        except DAMAGE as error:
            text = str(error) or type(error).__name__
            raise InputError(f"{self.path}: damaged or not a PyTorch file ({text}); get it again") from None

    def _open_zip(self) -> None:
        with zipfile.ZipFile(self.path) as archive:
            names = archive.namelist()
            found = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(found) != 1:
                raise InputError(f"{self.path}: a zip without a data.pkl, so not a PyTorch file")
            self.root = found[0].removesuffix("data.pkl")
            if f"{self.root}byteorder" in names and archive.read(f"{self.root}byteorder").strip() != b"little":
                raise InputError(f"{self.path}: is in big-endian order; {RESAVE} on a little-endian machine")
            self.scripted = any(n.startswith(f"{self.root}code/") for n in names)
            with archive.open(found[0]) as file:
                self.content = _Unpickler(file, self.path, self.scripted).load()

    def _open_old(self) -> None:
        """Files before PyTorch 1.6: magic, version, system, content, storage keys, then each storage's length and
        values."""
        with self.path.open("rb") as file:
            if _Unpickler(file, self.path, False).load() != OLD_MAGIC:
                raise InputError(f"{self.path}: a pickle, but not one of PyTorch; {RESAVE}")
            version, system, self.content, keys = (_Unpickler(file, self.path, False).load() for _ in range(4))
            if version != 1001 or not system.get("little_endian", True):
                raise InputError(f"{self.path}: is of another version or in big-endian order; {RESAVE}")
            dtypes = {s.key: s.dtype for s in _storages(self.content)}
            for key in keys:
                if key not in dtypes:
                    raise InputError(f"{self.path}: holds a storage that no tensor uses; {RESAVE}")
                (numel,) = struct.unpack("<q", file.read(8))
                data = file.read(numel * dtypes[key].itemsize)
                self.storages[key] = np.frombuffer(data, dtypes[key], numel)

    def _storage(self, storage: Storage) -> np.ndarray:
        if self.is_zip and storage.key not in self.storages:
            data = self.archive.read(f"{self.root}data/{storage.key}")
            # only the last one is kept: enough for views of one storage in a row, without doubling the memory
            self.storages = {storage.key: np.frombuffer(data, storage.dtype, storage.numel)}
        array = self.storages[storage.key]
        if array.dtype != storage.dtype or len(array) < storage.numel:
            raise ValueError(f"storage {storage.key} is smaller than declared or used in two types")
        return array


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, scripted: bool):
        super().__init__(file, encoding="utf-8")
        self.path, self.scripted = path, scripted

    def find_class(self, module: str, name: str) -> Any:
        """What stands for what a file names; never the thing itself."""
        if (module, name) in SAFE:
            return SAFE[module, name]
        if module == "torch" and name in DTYPES:
            return name
        if self.scripted and module.split(".")[0] == "__torch__":
            return Module
        if f"{module}.{name}" in PASSED_OVER or module.split(".")[0] in ARGUMENT_PACKAGES:
            return type("Foreign", (Foreign,), {"name": f"{module}.{name}"})
        raise InputError(
            f"{self.path}: holds an object of class {module}.{name}; only tensors in plain dicts are read, so {RESAVE}"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A reference to a storage."""
        kind, name, key, _, numel, *rest = pid
        if kind != "storage" or name not in DTYPES:
            raise InputError(f"{self.path}: holds a storage of type {name}; {RESAVE}")
        if rest and rest[0] is not None:
            raise InputError(f"{self.path}: holds views of storages as PyTorch before 0.4 wrote them; {RESAVE}")
        return Storage(DTYPES[name], str(key), int(numel))


def _rebuild_tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _first(value: Any, *_: Any) -> Any:
    return value


def _numpy_dtype(text: str, *_: Any) -> _NumpyType:
    return _NumpyType(text)


class _NumpyType:
    """`numpy.dtype` of a number as pickles build it: only its letter is used."""

    def __init__(self, text: str):
        self.dtype = np.dtype(text).newbyteorder("<")
        if self.dtype.kind not in "biuf":
            raise ValueError(f"a numpy scalar of type {text!r}")

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _numpy_scalar(kind: _NumpyType, data: bytes) -> Any:
    return np.frombuffer(data, kind.dtype, 1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


SAFE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch", "Size"): tuple,
    ("numpy", "dtype"): _numpy_dtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _encode,
    **{("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): _first,
}
"""`(module, name)` of what is read, and what stands for it here. None of it runs code of the file."""


PASSED_OVER = (
    *(f"builtins.{name}" for name in ("set", "frozenset", "slice", "complex", "bytearray")),
    *(f"__builtin__.{name}" for name in ("set", "frozenset", "slice", "complex", "bytearray")),
    *(f"collections.{name}" for name in ("defaultdict", "deque", "Counter")),
    *("argparse.Namespace", "types.SimpleNamespace", "torch.device", "torch.Size"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "timedelta")),
)
"""Classes of which training checkpoints hold objects beside their state dict, as arguments of the run mostly."""
ARGUMENT_PACKAGES = ("addict", "easydict", "ml_collections", "omegaconf", "typing", "yacs")
"""Packages for such arguments, and the types that these pickle with them."""


def _flatten(module: Module, prefix: str, depth: int = 0) -> dict[str, Tensor]:
    """Tensors of nested modules under dotted names: the keys of their state dict."""
    if depth > 100:
        raise ValueError("its modules nest in a circle")
    out = {}
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor):
            out[f"{prefix}{name}"] = value
        elif isinstance(value, Module):
            out |= _flatten(value, f"{prefix}{name}.", depth + 1)
    return out


def _storages(content: Any) -> list[Storage]:
    """Every storage below nested containers, which may hold themselves."""
    found, todo, seen = [], [content], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Storage):
            found.append(item)
        elif isinstance(item, Tensor):
            found.append(item.storage)
        elif isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        elif isinstance(item, Foreign):
            todo.extend(item.parts)
    return found

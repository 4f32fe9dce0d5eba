"""The pickle inside a PyTorch file: what its names stand for. Nothing that a file names is ever imported or called.

Tensors, plain containers and numpy scalars are read. The arguments of a run that lie beside a state dict
(`PASSED_OVER`, and what the caller adds) become inert `Foreign` objects; any other class is refused by name. Opcodes
are looked through first, so that no size that a file claims is ever allocated.
"""

from __future__ import annotations

import collections
import math
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.pickles import NUMPY_SCALARS, Bounded, check_opcodes

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
TORCH_TYPES = {
    **{"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "uint64": np.dtype("<u8")},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2")},
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")},
    **{"bool": np.dtype("?"), "bfloat16": np.dtype(ml_dtypes.bfloat16)},
    **{"complex64": np.dtype("<c8"), "complex128": np.dtype("<c16")},
}
"""`torch.NAME`, types that a file may name."""
UNTYPED = "UntypedStorage"
EXPANDED = 2**24
"""Values of the largest tensor that may repeat those of a smaller storage: a few bytes must not become terabytes."""
RESAVE = "re-save it with torch.save(model.state_dict(), FILE)"


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


class TorchType(Foreign):
    """A type of PyTorch, such as torch.float32."""

    def __new__(cls, name: str) -> TorchType:
        """By its name."""
        self = super().__new__(cls)
        self.name = f"torch.{name}"
        return self


class Once(collections.OrderedDict):
    """A state dict; a key that comes twice would leave only its second tensor."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Raises ValueError for a key that is there."""
        if key in self:
            raise ValueError(f"the key {key!r} comes twice")
        super().__setitem__(key, value)


def load(file: Bounded, path: Path, scripted: bool, pass_over: Collection[str] = ()) -> Any:
    """The next pickle of the file. Raises InputError for other classes, ValueError and others for damage."""
    check_opcodes(file)
    return _Unpickler(file, path, scripted, pass_over).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Bounded, path: Path, scripted: bool, pass_over: Collection[str]):
        super().__init__(file, encoding="utf-8")
        self.path, self.scripted, self.pass_over = path, scripted, pass_over

    def find_class(self, module: str, name: str) -> Any:
        """What stands for what a file names; never the thing itself."""
        if (module, name) in SAFE:
            return SAFE[module, name]
        if (module == "torch" and name in DTYPES) or (module, name) == ("torch.storage", UNTYPED):
            return name
        if module == "torch" and name in TORCH_TYPES:
            return TorchType(name)
        if self.scripted and module.split(".")[0] == "__torch__":
            return Module
        whole = f"{module}.{name}"
        if whole in PASSED_OVER or whole in self.pass_over or module.split(".")[0] in ARGUMENT_PACKAGES:
            return type("Foreign", (Foreign,), {"name": whole})
        raise InputError(
            f"{self.path}: holds an object of class {whole}; only tensors in plain dicts are read, so pass over what "
            f"is no weight with --pass-over {whole}, or {RESAVE}"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A reference to a storage."""
        kind, name, key, _, numel, *rest = pid
        if kind == "storage" and name == UNTYPED:
            return Storage(np.dtype("u1"), str(key), int(numel))
        if kind != "storage" or name not in DTYPES:
            raise InputError(f"{self.path}: holds a storage of type {name}; {RESAVE}")
        if rest and rest[0] is not None:
            raise InputError(f"{self.path}: holds views of storages as PyTorch before 0.4 wrote them; {RESAVE}")
        return Storage(DTYPES[name], str(key), int(numel))


def _rebuild_tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _rebuild_typed(
    storage: Storage, offset: int, size: tuple, stride: tuple, _: Any, __: Any, kind: Any, *___
) -> Tensor:
    """Tensors of the newer types, over a storage of bytes."""
    if not isinstance(storage, Storage) or not isinstance(kind, TorchType):
        raise TypeError("a tensor without a storage or type")
    dtype = TORCH_TYPES[kind.name.removeprefix("torch.")]
    return _rebuild_tensor(storage._replace(dtype=dtype, numel=storage.numel // dtype.itemsize), offset, size, stride)


def _rebuild_with_state(function: Callable, _: Any, arguments: tuple, *__: Any) -> Any:
    """A tensor with attributes of its own, which are left out."""
    if function not in (_rebuild_tensor, _rebuild_typed, _first):
        raise TypeError("a tensor built in an unknown way")
    return function(*arguments)


def _first(value: Any, *_: Any) -> Any:
    return value


SAFE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Once,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_with_state,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): tuple,
    **NUMPY_SCALARS,
    **{("torch.jit._pickle", f"build_{kind}list"): _first for kind in ("int", "double", "bool", "tensor")},
    ("torch.jit._pickle", "restore_type_tag"): _first,
}
"""`(module, name)` of what is read, and what stands for it here. None of it runs code of the file."""


_ARRAYS = ("multiarray._reconstruct", "numeric._frombuffer")
_GENERATORS = (
    *("__RandomState_ctor", "_pickle.__randomstate_ctor", "_pickle.__bit_generator_ctor", "_pickle.__generator_ctor"),
    *("_mt19937.MT19937", "_pcg64.PCG64", "_pcg64.PCG64DXSM", "_philox.Philox", "_sfc64.SFC64"),
    *("bit_generator.SeedSequence", "bit_generator.__pyx_unpickle_SeedSequence"),
)
_NUMBERS = ("bool_", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
PASSED_OVER = (
    *(f"builtins.{name}" for name in ("set", "frozenset", "slice", "complex", "bytearray")),
    *(f"__builtin__.{name}" for name in ("set", "frozenset", "slice", "complex", "bytearray")),
    *(f"collections.{name}" for name in ("defaultdict", "deque", "Counter")),
    *("argparse.Namespace", "types.SimpleNamespace", "torch.device", "torch.Size", "torch.Tensor"),
    *("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.serialization._get_layout"),
    "numpy.ndarray",
    *(f"{core}.{name}" for core in ("numpy.core", "numpy._core") for name in _ARRAYS),
    *(f"numpy.random.{name}" for name in _GENERATORS),
    *(f"numpy.{name}" for name in _NUMBERS),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "timedelta")),
)
"""Classes of which training checkpoints hold objects beside their state dict, as arguments of the run mostly."""
ARGUMENT_PACKAGES = ("addict", "easydict", "ml_collections", "omegaconf", "typing", "yacs")
"""Packages for such arguments, and the types that these pickle with them."""

"""PyTorch files without PyTorch: state dicts and TorchScript archives.

A PyTorch file is a pickle (`torch_pickle`) that refers to raw storages. Tensors are read from the file only when they
are asked for, and never more than the file can hold: entries that swell, views that repeat, sizes that lie are damage.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import DAMAGE, InputError
from jaxvl.core.pickles import Bounded
from jaxvl.interop.torch_pickle import RESAVE, Foreign, Module, Storage, Tensor, load

STATE_DICT_KEYS = (
    *("state_dict", "model_state_dict", "model", "model_dict", "module", "network", "net", "teacher"),
    "model_pos",
)
"""Keys under which training scripts keep the state dict (those of DomainBed, DeepSpeed, DINO and VideoPose3D, too)."""
OLD_MAGIC = 0x1950A86A20F9469CFC6C
SWELL, ROOM = 8, 2**26
"""Bytes that may come out of a file: so many times its size, and so many."""


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """`read_checkpoint` without the place."""
    return read_checkpoint(path)[0]


def read_checkpoint(
    path: str | Path, inside: str = "", pass_over: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], str]:
    """`(tensors, place)`: all tensors of a state dict or TorchScript archive by dotted name, in the file's dtypes, and
    the key under which a checkpoint holds the state dict (the first of `STATE_DICT_KEYS`), '' for none.

    inside: this key instead, several with `/` between. pass_over: classes (`package.Class`) of which objects beside
    the weights are left out. Raises InputError for a file that is damaged, of another kind, or holds objects of classes
    that are not read.
    """
    archive = _Archive(Path(path), inside, frozenset(pass_over))
    return archive.state_dict(), archive.place


class _Archive:
    """The pickle of a file and the place of its storages."""

    def __init__(self, path: Path, inside: str, pass_over: frozenset[str]):
        self.path, self.is_zip, self.pass_over, self.place = path, False, pass_over, inside
        self.storages: dict[str, np.ndarray] = {}
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        self.size = path.stat().st_size
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
        self._guard(self._check_sizes, tensors)
        with contextlib.ExitStack() as stack:
            if self.is_zip:
                self.archive = stack.enter_context(zipfile.ZipFile(self.path))
            for name, tensor in tensors.items():
                out[name] = self._guard(tensor.array, self._storage)
        return out

    def _tensors(self) -> dict[str, Tensor]:
        content = self.content
        if isinstance(content, Module):
            return _flatten(content)
        self._refuse_foreign(content, "")
        if not isinstance(content, Mapping):
            raise InputError(f"{self.path}: holds a {type(content).__name__}, not a state dict; {RESAVE}")
        content = self._inside(content)
        for key, value in content.items():
            self._refuse_foreign(value, str(key))
        return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}

    def _inside(self, content: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """The state dict itself."""
        for key in self.place.split("/") if self.place else ():
            found = {str(k): v for k, v in content.items()}
            if not isinstance(found.get(key), Mapping):
                those = ", ".join(k for k, v in found.items() if isinstance(v, Mapping)) or "none"
                raise InputError(
                    f"{self.path}: --inside {self.place}: {key!r} is no dict of tensors; dicts are {those}"
                )
            content = found[key]
        if self.place:
            return content
        inner = [k for k in STATE_DICT_KEYS if isinstance(content.get(k), (Mapping, Foreign))]
        if inner:  # first of all: beside it may lie a tensor, such as the best accuracy
            self._refuse_foreign(content[inner[0]], inner[0])
            self.place = inner[0]
            return content[inner[0]]
        if not any(isinstance(v, Tensor) for v in content.values()):
            keys = ", ".join(str(k) for k in list(content)[:8])
            held = [str(k) for k, v in content.items() if _has_tensor(v)]
            mend = f"name the place with --inside {held[0]}" if held else RESAVE
            raise InputError(f"{self.path}: holds no state dict (keys: {keys}); {mend}")
        return content

    def _check_sizes(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError where views of few bytes would become many."""
        total = sum(math.prod(t.shape) * t.storage.dtype.itemsize for t in tensors.values())
        if total > SWELL * self.size + ROOM:
            raise ValueError(f"tensors of {total:,} bytes from a file of {self.size:,}")

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
            total = sum(entry.file_size for entry in archive.infolist())
            if total > SWELL * self.size + ROOM or len(set(names)) < len(names):
                raise ValueError(f"entries of {total:,} bytes, or two of one name, in {self.size:,}")
            if not self._ends_here(archive):
                raise ValueError("bytes after its end")
            found = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
            if len(found) != 1:
                raise InputError(f"{self.path}: a zip without a data.pkl, so not a PyTorch file")
            self.root = found[0].removesuffix("data.pkl")
            if f"{self.root}byteorder" in names and archive.read(f"{self.root}byteorder").strip() != b"little":
                raise InputError(f"{self.path}: is in big-endian order; {RESAVE} on a little-endian machine")
            self.scripted = any(n.startswith(f"{self.root}code/") for n in names)
            data = archive.read(found[0])
            self.content = load(Bounded(io.BytesIO(data), len(data)), self.path, self.scripted, self.pass_over)

    def _ends_here(self, archive: zipfile.ZipFile) -> bool:
        with self.path.open("rb") as file:
            file.seek(max(0, self.size - 22 - len(archive.comment)))
            return file.read(4) == b"PK\5\6"

    def _open_old(self) -> None:
        """Files before PyTorch 1.6: magic, version, system, content, storage keys, then each storage's length and
        values."""
        with self.path.open("rb") as raw:
            file = Bounded(raw, self.size)
            if load(file, self.path, False) != OLD_MAGIC:
                raise InputError(f"{self.path}: a pickle, but not one of PyTorch; {RESAVE}")
            version, system, self.content, keys = (load(file, self.path, False, self.pass_over) for _ in range(4))
            if version != 1001 or not system.get("little_endian", True):
                raise InputError(f"{self.path}: is of another version or in big-endian order; {RESAVE}")
            dtypes = {s.key: s.dtype for s in _storages(self.content)}
            for key in keys:
                if key not in dtypes:
                    raise InputError(f"{self.path}: holds a storage that no tensor uses; {RESAVE}")
                (numel,) = struct.unpack("<q", file.read(8))
                data = file.read(max(0, numel) * dtypes[key].itemsize)
                self.storages[key] = np.frombuffer(data, dtypes[key], numel)
            if file.read(1):
                raise ValueError("bytes after its end")

    def _storage(self, storage: Storage) -> np.ndarray:
        if self.is_zip and storage.key not in self.storages:
            data = self.archive.read(f"{self.root}data/{storage.key}")
            # only the last one is kept: enough for views of one storage in a row, without doubling the memory
            self.storages = {storage.key: np.frombuffer(data, storage.dtype, storage.numel)}
        array = self.storages[storage.key]
        if array.dtype != storage.dtype or len(array) < storage.numel:
            raise ValueError(f"storage {storage.key} is smaller than declared or used in two types")
        return array


def _flatten(module: Module) -> dict[str, Tensor]:
    """Tensors of nested modules under dotted names: the keys of their state dict. Raises ValueError for modules that
    nest in a circle, or share so much that their names have no end."""
    out, todo, count = {}, [(module, "", 0)], 0
    while todo:
        item, prefix, depth = todo.pop()
        count += 1
        if depth > 100 or count > 100_000:
            raise ValueError("its modules nest in a circle")
        held = getattr(item, "attributes", {})
        out |= {f"{prefix}{name}": value for name, value in held.items() if isinstance(value, Tensor)}
        inner = [(v, f"{prefix}{k}.", depth + 1) for k, v in held.items() if isinstance(v, Module)]
        todo += reversed(inner)
    return out


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


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

"""The safetensors format: 8 bytes of header length, a JSON header, raw little-endian tensors. Nothing in it is code.

Specification: https://huggingface.co/docs/safetensors (format section).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxvl.core.errors import InputError

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000
MAX_AXES = 32


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`(tensors by name, metadata)`. Tensors are read-only views of the mapped file, in its dtypes.

    Raises InputError for a file that is not safetensors, cut short, names a tensor twice, or whose tensors lie outside
    it, over each other, or leave bytes that belong to none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise InputError(f"{path}: not a safetensors file, or cut short; get it again")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_once)
            metadata = header.pop("__metadata__", {})
            entries = {k: (str(v["dtype"]), tuple(v["shape"]), *v["data_offsets"]) for k, v in header.items()}
            if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
                raise TypeError(f"its metadata are {str(metadata)[:80]}, not texts by name")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: not a safetensors file (header: {error}); get it again") from None
    data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.zeros(0, np.uint8)
    tensors = {name: _view(path, name, entry, data) for name, entry in entries.items()}
    place = 0
    for begin, end, name in sorted((entry[2], entry[3], name) for name, entry in entries.items()):
        if begin != place:
            what = "overlaps another" if begin < place else f"lies behind {begin - place:,} bytes that belong to none"
            raise InputError(f"{path}: tensor {name!r} {what}; the header is damaged")
        place = end
    if place != len(data):
        raise InputError(f"{path}: {len(data) - place:,} bytes after its last tensor; get it again")
    return tensors, metadata


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises ValueError for a name that comes twice."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if any(name == n for n, _ in pairs[:k]))
        raise ValueError(f"the name {twice!r} comes twice")
    return out


def _view(path: Path, name: str, entry: tuple, data: np.ndarray) -> np.ndarray:
    kind, shape, *ends = entry
    if kind not in DTYPES:
        raise InputError(f"{path}: tensor {name!r} has dtype {kind}; read are {', '.join(DTYPES)}")
    dtype = DTYPES[kind]
    numbers = (*shape, *ends)
    if len(ends) != 2 or len(shape) > MAX_AXES or not all(type(n) is int and n >= 0 for n in numbers):
        wrong = f"shape {str(shape)[:80]} and offsets {str(ends)[:80]}"
        raise InputError(f"{path}: tensor {name!r} has {wrong}; the header is damaged")
    begin, end = ends
    if end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
        raise InputError(f"{path}: tensor {name!r} lies outside the file, which is cut short; get it again")
    if math.prod(filter(None, shape)) >= 2**60:  # beside an axis of 0
        raise InputError(f"{path}: tensor {name!r} has shape {shape}; the header is damaged")
    return data[begin:end].view(dtype).reshape(shape)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors in the order given; the file appears under its name only when it is whole."""
    header: dict[str, object] = {"__metadata__": {"format": "np", **(metadata or {})}}
    place = 0
    for name, value in tensors.items():
        dtype = np.asarray(value).dtype.newbyteorder("<")
        if dtype not in NAMES:
            raise InputError(f"tensor {name!r}: dtype {dtype} has no name in safetensors")
        size = math.prod(value.shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(value.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            value = np.asarray(value)
            file.write(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
    os.replace(unfinished, path)

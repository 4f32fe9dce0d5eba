"""A minimal writer of PyTorch files, opcode by opcode, so that the reader is tested without PyTorch."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
OLD_MAGIC = 0x1950A86A20F9469CFC6C


class Global(NamedTuple):
    module: str
    name: str


class Reduce(NamedTuple):
    function: Global
    args: tuple


class Build(NamedTuple):
    kind: Global
    state: Any


class Persistent(NamedTuple):
    pid: tuple


class Raw(NamedTuple):
    """Opcodes as they are."""

    data: bytes


class Ordered(dict):
    """Pickled as collections.OrderedDict."""


class View(NamedTuple):
    """A strided view of a flat array, which several views may share."""

    flat: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


class Writer:
    """Turns objects into pickle opcodes of protocol 2; arrays become storages."""

    def __init__(self, old: bool = False):
        self.old, self.keys, self.storages = old, {}, []

    def pickle(self, value: Any) -> bytes:
        return b"\x80\x02" + self.emit(value) + b"."

    def emit(self, v: Any) -> bytes:
        emit = self.emit
        if v is None:
            return b"N"
        if isinstance(v, bool):
            return b"\x88" if v else b"\x89"
        if isinstance(v, int):
            data = v.to_bytes((v.bit_length() + 8) // 8, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(v, float):
            return b"G" + struct.pack(">d", v)
        if isinstance(v, str):
            return b"X" + struct.pack("<I", len(v.encode())) + v.encode()
        if isinstance(v, bytes):
            return emit(Reduce(Global("_codecs", "encode"), (v.decode("latin1"), "latin1")))
        if isinstance(v, Global):
            return f"c{v.module}\n{v.name}\n".encode()
        if isinstance(v, Reduce):
            return emit(v.function) + emit(v.args) + b"R"
        if isinstance(v, Build):
            return emit(v.kind) + b")\x81" + emit(v.state) + b"b"
        if isinstance(v, Persistent):
            return emit(v.pid) + b"Q"
        if isinstance(v, Raw):
            return v.data
        if isinstance(v, View):
            return self.tensor(v)
        if isinstance(v, np.ndarray):
            strides = tuple(s // v.itemsize for s in np.ascontiguousarray(v).reshape(v.shape).strides)
            return self.tensor(View(np.ascontiguousarray(v).reshape(-1), 0, v.shape, strides))
        if isinstance(v, tuple):
            return b"(" + b"".join(map(emit, v)) + b"t"
        if isinstance(v, list):
            return b"](" + b"".join(map(emit, v)) + b"e"
        if isinstance(v, dict):
            start = emit(Global("collections", "OrderedDict")) + b")R" if isinstance(v, Ordered) else b"}"
            return start + b"(" + b"".join(emit(k) + emit(x) for k, x in v.items()) + b"u"
        raise TypeError(v)

    def tensor(self, view: View) -> bytes:
        if id(view.flat) not in self.keys:
            self.keys[id(view.flat)] = str(len(self.storages))
            self.storages.append(view.flat)
        kind = Global("torch", STORAGES[view.flat.dtype])
        pid = ("storage", kind, self.keys[id(view.flat)], "cpu", len(view.flat), *((None,) if self.old else ()))
        args = (Persistent(pid), view.offset, tuple(view.shape), tuple(view.strides), False, Ordered())
        return self.emit(Reduce(Global("torch._utils", "_rebuild_tensor_v2"), args))


def parameter(array: np.ndarray) -> Reduce:
    return Reduce(Global("torch._utils", "_rebuild_parameter"), (array, True, Ordered()))


def save(path: Path, content: Any, scripted: bool = False, root: str = "archive/") -> Path:
    """`torch.save` since 1.6; with `scripted` an archive as of `torch.jit.save`."""
    writer = Writer()
    data = writer.pickle(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}data.pkl", data)
        archive.writestr(f"{root}byteorder", "little")
        for i, storage in enumerate(writer.storages):
            archive.writestr(f"{root}data/{i}", storage.tobytes())
        if scripted:
            archive.writestr(f"{root}code/__torch__/model.py", "class CLIP(Module):\n")
        archive.writestr(f"{root}version", "3\n")
    return path


def save_old(path: Path, content: Any) -> Path:
    """`torch.save` before 1.6."""
    writer = Writer(old=True)
    body = writer.pickle(content)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    with path.open("wb") as file:
        for value in (OLD_MAGIC, 1001, system):
            file.write(Writer().pickle(value))
        file.write(body)
        file.write(Writer().pickle([str(i) for i in range(len(writer.storages))]))
        for storage in writer.storages:
            file.write(struct.pack("<q", len(storage)) + storage.tobytes())
    return path


def modules(arrays: dict[str, np.ndarray]) -> Build:
    """Dotted names as nested modules, as TorchScript stores them."""
    tree: dict[str, Any] = {}
    for name, value in arrays.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = parameter(value)

    def build(node, name="Module"):
        state = {"training": False, "_is_full_backward_hook": None}
        state |= {k: build(v, f"M_{k}") if isinstance(v, dict) else v for k, v in node.items()}
        return Build(Global("__torch__.torch.nn.modules.___torch_mangle_0", name), state)

    return build(tree)

"""State dicts as PyTorch and safetensors files, whole or hurt; right are the values that were written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.fuzz import RIGHT, SILENT, one_line
from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.keys import Rule
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.interop.torch_file import read_state_dict
from tests.interop import torch_writer

HOW = ["whole", "whole", "cut", "longer", "header", "header", "nan", "integers", "shape", "lost", "more", "swap"]


def run(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """One file of weights."""
    shapes = {f"layer{i}.weight": tuple(int(n) for n in rng.integers(1, 6, rng.integers(0, 4))) for i in range(5)}
    arrays = {k: np.asarray(rng.standard_normal(s), np.float32) for k, s in shapes.items()}
    rules = [Rule(k, s, (k.replace(".", "/"),), keys.same()) for k, s in shapes.items()]
    written, how = dict(arrays), str(rng.choice(HOW))
    key = str(rng.choice(list(arrays)))
    if how == "nan":
        written[key] = np.full_like(arrays[key], [np.nan, np.inf, -np.inf][rng.integers(3)])
    elif how == "integers":
        written[key] = arrays[key].astype(np.int64)
    elif how == "shape":
        written[key] = np.zeros((*arrays[key].shape, 2), np.float32)
    elif how == "lost":
        del written[key]
    elif how == "more":
        written["other"] = np.ones(3, np.float32)
    kind = str(rng.choice(["safetensors", "zip", "old"]))
    path = folder / "a.bin"
    if kind == "safetensors":
        write_safetensors(path, written)
    else:
        content = torch_writer.Ordered(written)
        inner = {"state_dict": content, "epoch": 3} if rng.integers(2) else content
        (torch_writer.save if kind == "zip" else torch_writer.save_old)(path, inner)
    data = path.read_bytes()
    # Values are not guarded in safetensors and old files; what describes them is.
    head = 8 + int.from_bytes(data[:8], "little") if kind == "safetensors" else len(data) if kind == "zip" else 400
    if how == "cut":
        data = data[: int(rng.integers(0, len(data)))]
    elif how == "longer":
        data += rng.bytes(int(rng.integers(1, 50)))
    elif how == "header":
        place = int(rng.integers(0, head))
        data = data[:place] + rng.bytes(1) + data[place + 1 :]
    elif how == "swap" and kind == "safetensors":
        header = json.loads(data[8:head])
        names = [n for n in header if n != "__metadata__"]
        header[names[0]]["data_offsets"] = [2**40, 2**41]
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[head:]
    path.write_bytes(data)
    what = f"{kind} {how}"
    try:
        got = read_safetensors(path)[0] if kind == "safetensors" else read_state_dict(path)
        flat, report = keys.forward(rules, got)
        report.check(source=str(path))
    except InputError as error:
        return what, one_line(error)
    same = all(np.array_equal(flat[k.replace(".", "/")], v) for k, v in arrays.items())
    return what, RIGHT if same else SILENT

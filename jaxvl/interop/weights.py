"""Weights folders: `weights.safetensors` (leaves by path, float32) and `weights.json` (where they came from).

`jaxvl convert` writes them; `merge_weights` lays them into freshly initialised parameters. What does not match is
an error that lists both sides: nothing keeps random values in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop.keys import flatten, nest, not_allowed, to_flat, to_variables
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors

WEIGHTS, INFO = "weights.safetensors", "weights.json"
FORMAT = 1
HELD = {"config": dict, "semantics": dict, "report": dict, "collections": list, "sha256": str, "family": str}
"""Fields of `weights.json` and what they hold, where they are given."""


def save_weights(folder: str | Path, flat: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Writes a weights folder. `flat`: params under their path, other collections under `COLLECTION/path`, which
    `info['collections']` names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, flat)
    text = json.dumps({"format": FORMAT, **info, "sha256": sha256(folder / WEIGHTS)}, indent=1)
    (folder / INFO).write_text(text + "\n", encoding="utf-8")


def load_weights(folder: str | Path, collection: str = "params") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`({path: array}, info)` of one collection ('params', or 'batch_stats' for running statistics).

    Arrays are read-only views of the file. Raises InputError when the folder is none or its files do not belong
    together.
    """
    folder = Path(folder)
    if not (folder / INFO).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: is no weights folder ({INFO} and {WEIGHTS}); make one with jaxvl convert")
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        found, others = info["format"], info.get("collections", [])
        if odd := [name for name, kind in HELD.items() if name in info and not isinstance(info[name], kind)]:
            raise ValueError(f"{odd[0]} holds no {HELD[odd[0]].__name__}")
        if not all(isinstance(name, str) for name in others):
            raise ValueError("collections holds no list of texts")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder / INFO}: damaged ({error}); run jaxvl convert again") from None
    if found != FORMAT:
        raise InputError(f"{folder / INFO}: has format {found}, this version reads {FORMAT}; run jaxvl convert again")
    flat, _ = read_safetensors(folder / WEIGHTS)
    if collection != "params":
        prefix = f"{collection}/"
        return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}, info
    prefixes = tuple(f"{name}/" for name in others)
    return {k: v for k, v in flat.items() if not k.startswith(prefixes or ("\0",))}, info


def merge_weights(
    params: Mapping[str, Any],
    flat: Mapping[str, np.ndarray],
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    source: str = "the weights",
) -> dict[str, Any]:
    """The tree `params` with every leaf that `flat` has replaced, in the leaf's dtype (numpy, or on the device where it
    lies there).

    Args:
        params: nested, freshly initialised, or their shapes and dtypes.
        flat: path -> array, as of `load_weights`.
        allow_missing: regular expressions (whole path) of leaves that may keep their values.
        allow_unexpected: the same of weights that the model may ignore.
        source: named in the error.
    Raises InputError that lists what the model has and the weights lack, the reverse, and differing shapes.
    """
    own = flatten(params)
    missing = not_allowed([p for p in own if p not in flat], allow_missing)
    unexpected = not_allowed([p for p in flat if p not in own], allow_unexpected)
    shapes = [
        f"{p} {list(np.shape(flat[p]))} for {list(np.shape(own[p]))}"
        for p in own
        if p in flat and np.shape(flat[p]) != np.shape(own[p])
    ]
    parts = [
        f"{name} ({len(items)}): {', '.join(items[:8])}{', ...' if len(items) > 8 else ''}"
        for name, items in (
            ("in the model only", missing),
            ("in the weights only", unexpected),
            ("of another shape", shapes),
        )
        if items
    ]
    if parts:
        raise InputError(f"{source}: do not fit the model; {'; '.join(parts)}")
    return nest({p: _as(flat[p], _dtype(v)) if p in flat else v for p, v in own.items()})


def merge_variables(variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], **options: Any) -> dict[str, Any]:
    """`merge_weights` for all collections at once, with paths as in `keys.to_flat` (`batch_stats/stem/bn/mean`)."""
    merged = merge_weights(nest(to_flat(variables)), flat, **options)
    return to_variables(flatten(merged), [name for name in variables if name != "params"])


def _as(value: Any, dtype: np.dtype) -> Any:
    return value if getattr(value, "dtype", None) == dtype else np.asarray(value, dtype)


def _dtype(leaf: Any) -> np.dtype:
    return np.dtype(getattr(leaf, "dtype", np.float32))


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

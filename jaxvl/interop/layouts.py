"""The published layouts that `jaxvl convert` knows, each with what it needs beyond its tensors.

A method with a published layout of its own adds it in `jaxvl/methods/NAME/published.py` as `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import clip, clip4clip, clip_hf
from jaxvl.interop.keys import KeyReport
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.interop.torch_file import read_state_dict
from jaxvl.nn.clip import CLIPConfig

CONFIG_METADATA = "clip_config"
"""Key of the safetensors metadata under which our own exports keep what shapes do not tell."""


class Source(NamedTuple):
    """A file that was read: its path, tensors by key, and the config fields it states itself."""

    path: Path
    arrays: dict[str, np.ndarray]
    stated: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published layout of a CLIP or of a model around one.

    configure: `(source, given) -> CLIPConfig`; given fields override what the file implies.
    load, store: pure converters in both directions.
    facts: `(source, config) -> extra entries of weights.json`.
    companions: `config -> {file name: text}` to be written beside an export.
    """

    configure: Callable[[Source, Mapping[str, Any]], CLIPConfig]
    load: Callable[[Mapping[str, np.ndarray], CLIPConfig], tuple[dict[str, Any], KeyReport]]
    store: Callable[[Mapping[str, Any], CLIPConfig], tuple[dict[str, np.ndarray], KeyReport]]
    facts: Callable[[Source, CLIPConfig], dict[str, Any]] = lambda source, config: {}
    companions: Callable[[CLIPConfig], dict[str, str]] = lambda config: {}


def read_source(path: str | Path) -> Source:
    """Reads a PyTorch or safetensors file, told apart by content. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the file of weights itself")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] != b"{":
        return Source(path, read_state_dict(path), {})
    arrays, metadata = read_safetensors(path)
    try:
        stated = json.loads(metadata.get(CONFIG_METADATA, "{}"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its metadata {CONFIG_METADATA} are no JSON ({error})") from None
    return Source(path, arrays, check_fields(stated, str(path)))


def check_fields(fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The fields, if all are `CLIPConfig` fields of weights; raises InputError otherwise."""
    unknown = [name for name in fields if name not in clip.FIELDS]
    if unknown:
        raise InputError(f"{source}: {unknown[0]!r} is no field of a CLIP; known are {', '.join(clip.FIELDS)}")
    return dict(fields)


def config_fields(config: CLIPConfig) -> dict[str, Any]:
    """The fields of a config that belong to the weights, for JSON."""
    return {name: getattr(config, name) for name in clip.FIELDS}


def _hf_configure(source: Source, given: Mapping[str, Any]) -> CLIPConfig:
    return dataclasses.replace(clip_hf.read_hf_config(source.path.with_name("config.json")), **given)


def _head_facts(source: Source, config: CLIPConfig) -> dict[str, Any]:
    del source, config
    return {"head_ln_eps": 1e-12}  # CLIP4Clip's heads have a LayerNorm class of their own


LAYOUTS: dict[str, Layout] = {
    "openai_clip": Layout(
        lambda source, given: clip.infer_config(source.arrays, {**source.stated, **given}),
        clip.from_openai,
        clip.to_openai,
    ),
    "hf_clip": Layout(
        _hf_configure,
        clip_hf.from_hf,
        clip_hf.to_hf,
        companions=lambda config: {"config.json": json.dumps(clip_hf.hf_config(config), indent=1) + "\n"},
    ),
    "clip4clip": Layout(
        lambda source, given: clip4clip.infer_config(clip4clip.plain_keys(source.arrays), {**source.stated, **given}),
        clip4clip.from_clip4clip,
        clip4clip.to_clip4clip,
        _head_facts,
    ),
}
"""By the name that `jaxvl convert --from` takes."""

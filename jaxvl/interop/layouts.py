"""The published layouts that `jaxvl convert` knows, each with what it needs beyond its tensors; and the families of
models that they hold.

A method with a published layout of its own adds it in `jaxvl/methods/NAME/published.py` as `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop import bert, clip, clip4clip, clip_hf, keys, open_clip, resnet
from jaxvl.interop.keys import KeyReport
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.interop.safetensors_file import read_safetensors
from jaxvl.interop.torch_file import read_checkpoint
from jaxvl.nn.bert import BertConfig
from jaxvl.nn.clip import CLIPConfig

CONFIG_METADATA = "jaxvl_config"
"""Key of the safetensors metadata under which our own exports keep what shapes do not tell."""
INDEX = ".index.json"
ENDINGS = (INDEX, ".safetensors", ".bin", ".pt", ".pth")


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model, as several layouts publish it.

    name: with its article, for messages. config: a frozen dataclass. fields: those of it that belong to weights.
    untold: the fields that a tree of ours does not show either, so an export states them only if they were stated.
    marks: leaves of which every such model has exactly one, by which it is found inside a larger one.
    describe: `config -> one line`. semantics: `config -> what weights expect and shapes do not tell`.
    config_of_params: `(flat leaves, stated fields) -> config`.
    resize: `(config, flat, image_size, rule) -> (config, flat)` for another image size, where that changes weights.
    of_run: `config of a run -> fields that its leaves do not show`.
    """

    name: str
    config: type
    fields: tuple[str, ...]
    untold: tuple[str, ...]
    marks: tuple[str, ...]
    describe: Callable[[Any], str]
    semantics: Callable[[Any], dict[str, Any]]
    config_of_params: Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Any]
    resize: Callable[..., tuple[Any, dict[str, np.ndarray]]] | None = None
    of_run: Callable[[ConfigDict], dict[str, Any]] = lambda config: {}

    def check_fields(self, fields: Mapping[str, Any], source: str) -> dict[str, Any]:
        """The fields, if the family has them all; raises InputError otherwise."""
        unknown = [name for name in fields if name not in self.fields]
        if unknown:
            known = ", ".join(self.fields)
            raise InputError(f"{source}: {unknown[0]!r} is no field of {self.name}; known are {known}")
        return dict(fields)

    def config_fields(self, config: Any) -> dict[str, Any]:
        """The fields of a config that belong to the weights, for JSON."""
        return {name: getattr(config, name) for name in self.fields}


class Source(NamedTuple):
    """A file that was read: its path, tensors by key, the config fields it states itself, and the key under which a
    checkpoint held them."""

    path: Path
    arrays: dict[str, np.ndarray]
    stated: dict[str, Any]
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published layout of a model of some family, or of a model around one.

    configure: `(source, given) -> config of the family`; given fields override what the file implies.
    load, store: pure converters in both directions.
    facts: `(source, config) -> extra entries of weights.json`.
    companions: `config -> {file name: text}` to be written beside an export.
    """

    family: Family
    configure: Callable[[Source, Mapping[str, Any]], Any]
    load: Callable[[Mapping[str, np.ndarray], Any], tuple[dict[str, Any], KeyReport]]
    store: Callable[[Mapping[str, Any], Any], tuple[dict[str, np.ndarray], KeyReport]]
    facts: Callable[[Source, Any], dict[str, Any]] = lambda source, config: {}
    companions: Callable[[Any], dict[str, str]] = lambda config: {}


def read_source(path: str | Path, family: Family, inside: str = "", pass_over: Sequence[str] = ()) -> Source:
    """Reads a PyTorch or safetensors file, told apart by content, or the files that a `*.index.json` lists (of a folder
    its index, or its only file of weights). inside, pass_over: as in `torch_file.read_checkpoint`. Raises InputError.
    """
    path = _weights_in(Path(path)) if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the file of weights itself")
    if path.name.endswith(INDEX):
        return _read_shards(path, family)
    arrays, metadata, place = _read_file(path, inside, pass_over)
    try:
        stated = json.loads(metadata.get(CONFIG_METADATA, "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata {CONFIG_METADATA} are no JSON ({error})") from None
    if not isinstance(stated, dict):
        raise InputError(f"{path}: its metadata {CONFIG_METADATA} are {stated!r}, not fields of {family.name}")
    return Source(path, arrays, family.check_fields(stated, str(path)), place)


def _read_file(path: Path, inside: str, pass_over: Sequence[str]) -> tuple[dict[str, np.ndarray], dict, str]:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] != b"{":
        arrays, place = read_checkpoint(path, inside, pass_over)
        return arrays, {}, place
    if inside:
        raise InputError(f"--inside {inside}: {path} is a safetensors file, which holds tensors only; leave it out")
    return *read_safetensors(path), ""


def _weights_in(folder: Path) -> Path:
    """The index or the one file of weights in a folder of Hugging Face."""
    names = sorted(p.name for p in folder.iterdir() if p.name.endswith(ENDINGS))
    for found in ([n for n in names if n.endswith(INDEX)], [n for n in names if n == "model.safetensors"], names):
        if len(found) == 1:
            return folder / found[0]
    raise InputError(f"{folder}: holds {', '.join(names) or 'no file of weights'}; name one file")


def _read_shards(path: Path, family: Family) -> Source:
    """The tensors of all files of an index (`{"weight_map": {key: file}}`), each from the file that it names."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        where = {str(k): str(v) for k, v in content["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not an index of weights ({error!r}); get it again") from None
    arrays: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(where.values()):
        if Path(name).name != name:
            raise InputError(f"{path}: names the file {name!r}; the parts must lie beside it")
        shard, _, _ = _read_file(path.with_name(name), "", ())
        wanted = {k for k, file in where.items() if file == name}
        if shard.keys() != wanted:
            odd = sorted(shard.keys() ^ wanted)
            raise InputError(
                f"{path.with_name(name)}: does not hold the tensors that {path.name} says, such as {odd[0]}"
            )
        arrays |= shard
    return Source(path, {k: arrays[k] for k in where}, family.check_fields({}, str(path)))


def _hf_configure(source: Source, given: Mapping[str, Any]) -> CLIPConfig:
    return dataclasses.replace(clip_hf.read_hf_config(source.path.with_name("config.json")), **given)


def _hf_resnet_configure(source: Source, given: Mapping[str, Any]) -> ResNetConfig:
    resnet.check_hf_config(source.path.with_name("config.json"))
    return resnet.infer_config(resnet.hf_keys(source.arrays), {**source.stated, **given}, resnet.hf_name)


def _head_facts(source: Source, config: CLIPConfig) -> dict[str, Any]:
    del source, config
    return {"head_ln_eps": 1e-12}  # CLIP4Clip's heads have a LayerNorm class of their own


def _bert_configure(prefix: str) -> Callable[[Source, Mapping[str, Any]], BertConfig]:
    def configure(source: Source, given: Mapping[str, Any]) -> BertConfig:
        beside = bert.read_hf_config(source.path.with_name("config.json"), prefix)
        return bert.infer_config(bert.bare_keys(source.arrays, prefix), {**beside, **source.stated, **given}, prefix)

    return configure


def _bert_layout(prefix: str) -> Layout:
    return Layout(
        BERT,
        _bert_configure(prefix),
        bert.from_hf,
        bert.to_hf,
        companions=lambda config: {"config.json": json.dumps(bert.hf_config(config), indent=1) + "\n"},
    )


CLIP = Family(
    name="a CLIP",
    config=CLIPConfig,
    fields=clip.FIELDS,
    untold=("activation", "ln_eps"),
    marks=("visual/class_embedding", "visual/stem_conv1/kernel"),
    describe=clip.describe,
    semantics=clip.semantics,
    config_of_params=clip.config_of_params,
    resize=clip.resize,
)
RESNET = Family(
    name="a ResNet",
    config=ResNetConfig,
    fields=tuple(f.name for f in dataclasses.fields(ResNetConfig)),
    untold=(),
    marks=("stem/conv/kernel",),
    describe=resnet.describe,
    semantics=resnet.semantics,
    config_of_params=resnet.config_of_params,
)

BERT = Family(
    name="a BERT",
    config=BertConfig,
    fields=bert.FIELDS,
    untold=("ln_eps",),
    marks=("embeddings/word/embedding",),
    describe=bert.describe,
    semantics=bert.semantics,
    config_of_params=bert.config_of_params,
)

_RESNET = Layout(  # timm has torchvision's names; its variants with another stem or shortcut are refused
    RESNET,
    lambda source, given: resnet.infer_config(source.arrays, {**source.stated, **given}),
    resnet.load,
    resnet.store,
)

LAYOUTS: dict[str, Layout] = {
    "openai_clip": Layout(
        CLIP,
        lambda source, given: clip.infer_config(
            source.arrays, {**open_clip.stated_beside(source.path), **source.stated, **given}
        ),
        clip.from_openai,
        clip.to_openai,
    ),
    "hf_clip": Layout(
        CLIP,
        _hf_configure,
        clip_hf.from_hf,
        clip_hf.to_hf,
        companions=lambda config: {"config.json": json.dumps(clip_hf.hf_config(config), indent=1) + "\n"},
    ),
    "clip4clip": Layout(
        CLIP,
        lambda source, given: clip4clip.infer_config(keys.plain_keys(source.arrays), {**source.stated, **given}),
        clip4clip.from_clip4clip,
        clip4clip.to_clip4clip,
        _head_facts,
    ),
    "hf_bert": _bert_layout(bert.BERT),
    "hf_distilbert": _bert_layout(bert.DISTILBERT),
    "torchvision_resnet": _RESNET,
    "timm_resnet": _RESNET,
    "hf_resnet": Layout(
        RESNET,
        _hf_resnet_configure,
        lambda arrays, config: resnet.load(resnet.hf_keys(arrays), config, resnet.hf_name),
        lambda variables, config: resnet.store(variables, config, resnet.hf_name),
        companions=lambda config: {"config.json": json.dumps(resnet.hf_config(config), indent=1) + "\n"},
    ),
}
"""By the name that `jaxvl convert --from` takes."""

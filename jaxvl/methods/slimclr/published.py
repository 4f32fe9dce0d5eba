"""Published checkpoints: SlimCLR's own (every framework, head and trunk), plain MoCo, and single widths for PyTorch.

`slimclr` reads and writes the official layout, every width. `moco` fills the full width from MoCo v2 or v3. The layouts
`slimclr_w100`, `slimclr_w075`, ... write one width alone (`--reverse` only): as an ordinary ResNet with torchvision's
keys, which detectors, timm and torchvision load; of the CIFAR trunk, whose block torchvision lacks, in the official
layout with one width.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import Dropped, KeyReport
from jaxvl.interop.layouts import Family, Layout, Source
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.methods.slimclr.slim_layout import (
    CIFAR,
    STATS,
    WIDTHS,
    SlimConfig,
    config_of_params,
    convolutions,
    dense_rules,
    infer_config,
    network_rules,
    rules,
    wrapper_of,
)
from jaxvl.nn.resnet import MEAN, STD
from jaxvl.nn.slimmable import channels, width_name

COUNTERS = Dropped(r".*\.num_batches_tracked", "step counter of a BatchNorm, of no use")
OF_STEP = Dropped(r"(module\.)?(old_queue_ptr|old_k|max_logits)", "of the last step, the next one overwrites it")
"""Buffers of the published MoCo for CIFAR."""
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def from_official(arrays: Mapping[str, np.ndarray], config: SlimConfig) -> tuple[dict[str, Any], KeyReport]:
    """Published arrays -> variables with every collection that the file holds."""
    wrapper = wrapper_of(arrays)
    length = int((np.shape(arrays.get(wrapper + "queue", ())) or (0,))[-1])
    flat, report = keys.forward(rules(config, length, wrapper), arrays, (COUNTERS, OF_STEP))
    return keys.to_variables(flat, ("batch_stats", "key", "key_stats", "queue")), report


def to_official(variables: Mapping[str, Any], config: SlimConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse; step counters come out as 0."""
    flat = keys.to_flat(variables)
    length = len(flat["queue/keys"]) if "queue/keys" in flat else 0
    arrays, report = keys.backward(rules(config, length), flat)
    for key in arrays:
        if key.endswith("queue_ptr"):
            arrays[key] = arrays[key].astype(np.int64)
    return keys.with_step_counters(arrays), report


MOCO_PREFIXES = ("module.encoder_q.", "module.base_encoder.")
MOCO_DROPPED = (
    COUNTERS,
    Dropped(r"module\.(encoder_k|momentum_encoder)\..*", "the key encoder starts as a copy of the encoder"),
    Dropped(r"module\.queue(_ptr)?", "the queue starts anew"),
    Dropped(r"module\.predictor\..*", "MoCo v3's head is of another depth"),
    Dropped(r"module\.base_encoder\.(fc|head)\..*", "MoCo v3's head is of another depth"),
)


def moco_config(source: Source, given: Mapping[str, Any]) -> SlimConfig:
    """The config of plain MoCo, to become the full width of `WIDTHS` (or the given ones)."""
    prefix = next((p for p in MOCO_PREFIXES if f"{p}conv1.weight" in source.arrays), None)
    if prefix is None:
        raise InputError(f"{source.path}: holds no {MOCO_PREFIXES[0]}conv1.weight; is it a checkpoint of MoCo?")
    inner = {k.removeprefix(prefix): v for k, v in source.arrays.items() if k.startswith(prefix)}
    inner = {k: v for k, v in inner.items() if not k.startswith(("fc.", "head."))}
    trunk = resnet.infer_config(inner, {})
    if not trunk.bottleneck:
        raise InputError(f"{source.path}: has basic blocks; SlimCLR's trunks are bottlenecks")
    fields: dict[str, Any] = {"framework": "mocov2" if prefix == MOCO_PREFIXES[0] else "mocov3"}
    fields |= {"blocks": trunk.blocks, "width": trunk.width}
    if f"{prefix}fc.2.weight" in source.arrays:
        fields["dim"], fields["hidden"] = (int(n) for n in np.shape(source.arrays[f"{prefix}fc.2.weight"]))
    return SlimConfig(**(fields | dict(given)))


def from_moco(arrays: Mapping[str, np.ndarray], config: SlimConfig) -> tuple[dict[str, Any], KeyReport]:
    """Plain MoCo -> the full width's convolutions and norms, and MoCo v2's head; the report names what stays as it was
    initialised, the norms of the narrower widths."""
    prefix = MOCO_PREFIXES[config.framework == "mocov3"]
    made = []
    for rule in resnet.rules(config.trunk):
        path = rule.paths[0]
        norm = re.fullmatch(r"(batch_stats/)?(.*bn\d?)/(\w+)", path)
        if norm:
            stats, module, leaf = norm.groups()
            path = f"{stats or ''}encoder/trunk/{width_name(module, config.widths, 0)}/{leaf}"
        else:
            path = f"encoder/trunk/{path}"
        made.append(rule._replace(paths=(path,)))
    if config.framework == "mocov2":
        made += dense_rules("fc.0", "encoder/head/fc0", config.trunk.features, config.hidden, True)
        made += dense_rules("fc.2", "encoder/head/fc2", config.hidden, config.dim, True)
    flat, report = keys.forward(keys.prefixed(made, prefix), arrays, MOCO_DROPPED)
    narrow = [
        (f"encoder/trunk/{width_name(norm, config.widths, i)}", "not in the file: stays as initialised")
        for _, norm, _ in resnet.convolutions(config.trunk)
        for i in range(1, len(config.widths))
    ]
    return keys.to_variables(flat), dataclasses.replace(report, dropped=(*report.dropped, *narrow))


def one_width(flat: Mapping[str, np.ndarray], config: SlimConfig, index: int) -> dict[str, np.ndarray]:
    """The weights of width `index` as those of an ordinary trunk (flat paths; of a ResNet those of `jaxvl.nn.resnet`):
    kernels sliced, its own norms, and its classifier where there is one."""

    def cut(full: int) -> slice:
        return channels(full, config.widths, index, config.overlap)

    out = {}
    for layer in convolutions(config):
        kernel = np.asarray(flat[f"encoder/trunk/{layer.path}/kernel"])
        rows = slice(None) if layer.inputs == 3 else cut(layer.inputs)
        out[f"{layer.path}/kernel"] = kernel[:, :, rows, cut(layer.outputs)]
        name = width_name(layer.norm, config.widths, index)
        for leaf in ("scale", "bias"):
            out[f"{layer.norm}/{leaf}"] = np.asarray(flat[f"encoder/trunk/{name}/{leaf}"])
        for leaf in ("mean", "var"):
            out[f"{keys.BATCH_STATS}{layer.norm}/{leaf}"] = np.asarray(flat[f"{STATS['encoder']}/trunk/{name}/{leaf}"])
    if config.framework == "probe":
        shared = config.head == "supervised"
        name = "fc" if shared else width_name("fc", config.widths, index)
        kernel = np.asarray(flat[f"encoder/head/{name}/kernel"])
        out["fc/kernel"] = kernel[cut(len(kernel))] if shared else kernel
        out["fc/bias"] = np.asarray(flat[f"encoder/head/{name}/bias"])
    return out


def _ordinary(
    sliced: Mapping[str, np.ndarray], config: SlimConfig, index: int, classes: int | None
) -> tuple[dict[str, np.ndarray], KeyReport]:
    """What `one_width` gave, with torchvision's keys; of the CIFAR trunk with the official ones of one width."""
    width = config.sizes(config.width)[index]
    if config.kind != CIFAR:
        small = ResNetConfig(tuple(config.blocks), config.bottleneck, width, classes)
        return resnet.store(keys.to_variables(sliced), small)
    alone = {"framework": "probe", "head": "supervised", "width": width, "widths": (1.0,)}
    found = network_rules(dataclasses.replace(config, **alone), "encoder", with_head=classes is not None)
    flat = {}
    for path, leaf in sliced.items():
        stats, inner = (f"{keys.BATCH_STATS}", path.removeprefix(keys.BATCH_STATS))
        part = "head" if inner.startswith("fc/") else "trunk"
        flat[f"{stats if inner != path else ''}encoder/{part}/{inner}"] = leaf
    arrays, report = keys.backward(found, flat)
    return keys.with_step_counters(arrays), report


def to_torchvision(width: float):
    """`store` of the layout of one width: an ordinary network, and in the report whatever a single width leaves out."""

    def store(variables: Mapping[str, Any], config: SlimConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
        if width not in config.widths:
            raise InputError(f"width {width:g}: these weights have {', '.join(f'{w:g}' for w in config.widths)}")
        flat, index = keys.to_flat(variables), list(config.widths).index(width)
        classes = config.dim if config.framework == "probe" else None
        arrays, report = _ordinary(one_width(flat, config, index), config, index, classes)
        own, trunk = f"_w{round(100 * width):03d}/", ("encoder/trunk/", STATS["encoder"] + "/trunk/")
        classifier = ("encoder/head/fc/", f"encoder/head/{width_name('fc', config.widths, index)}/")

        def kept(path: str) -> bool:
            of_trunk = path.startswith(trunk) and (own in path or not re.search(r"_w\d{3}/", path))
            return of_trunk or (classes is not None and path.startswith(classifier))

        left = [p for p in flat if not kept(p)]
        dropped = tuple((p, "of another width, or of pre-training") for p in left)
        return arrays, dataclasses.replace(report, dropped=(*report.dropped, *dropped))

    return store


def describe(config: SlimConfig) -> str:
    """One line on a slimmable network."""
    widths = ", ".join(f"{w:g}" for w in config.widths)
    depth = 2 + 2 * sum(config.blocks)
    trunk = f"CIFAR ResNet-{depth}: width {config.width}" if config.kind == CIFAR else resnet.describe(config.trunk)
    return f"slimmable {trunk}; {config.framework}, head {config.head}, widths {widths}, outputs {config.dim}"


def semantics(config: SlimConfig) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    if config.kind == CIFAR:
        return {"pixel_mean": CIFAR_MEAN, "pixel_std": CIFAR_STD, "bn_eps": resnet.EPSILON}
    return {"pixel_mean": MEAN, "pixel_std": STD, "stride": "on the 3x3", "bn_eps": resnet.EPSILON}


def of_run(config: ConfigDict) -> dict[str, Any]:
    """What the leaves of a run do not show: its widths in full, and whether they overlap."""
    from jaxvl.methods.slimclr.method import model_config  # needs jax; reading a file does not

    model = model_config(config)
    return {"widths": model.widths, "overlap": model.overlap}


SLIM = Family(
    name="a slimmable ResNet",
    config=SlimConfig,
    fields=tuple(f.name for f in dataclasses.fields(SlimConfig)),
    untold=("overlap",),
    marks=("encoder/trunk/stem/conv/kernel", "encoder/trunk/stem/kernel", "encoder/trunk/conv1/kernel"),
    describe=describe,
    semantics=semantics,
    config_of_params=config_of_params,
    of_run=of_run,
)


def _refuse(width: float):
    def load(arrays, config):
        raise InputError(f"slimclr_w{round(100 * width):03d}: is written with --reverse only; read torchvision_resnet")

    return load


def _plain(source: Source, given: Mapping[str, Any]) -> SlimConfig:
    return infer_config(source.arrays, {**source.stated, **given})


def _one_widths(widths: Sequence[float]) -> dict[str, Layout]:
    return {f"slimclr_w{round(100 * w):03d}": Layout(SLIM, _plain, _refuse(w), to_torchvision(w)) for w in widths}


def _no_moco(variables: Mapping[str, Any], config: SlimConfig):
    raise InputError("moco: is read only; write slimclr, or slimclr_w100 for the full width with torchvision's keys")


LAYOUTS = {
    "slimclr": Layout(SLIM, _plain, from_official, to_official),
    "moco": Layout(SLIM, moco_config, from_moco, _no_moco),
    **_one_widths(WIDTHS),
}

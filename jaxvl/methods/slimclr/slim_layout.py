"""The official layout of slimmable networks: the names, shapes and leaves of every framework, head and trunk."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import Rule
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.nn.slimmable import width_name

WIDTHS = (1.0, 0.75, 0.5, 0.25)
STATS = {"encoder": keys.BATCH_STATS + "encoder", "key": "key_stats", "predictor": keys.BATCH_STATS + "predictor"}
"""Where the running statistics of each network stand."""
WRAPPER = "module."
"""Before every key of a run on several devices, as the published ones on ImageNet are."""
PREFIXES = {
    "mocov2": (("encoder_q.", "encoder"), ("encoder_k.", "key")),
    "mocov3": (("base_encoder.", "encoder"), ("momentum_encoder.", "key")),
    "simclr": (("encoder_q.", "encoder"),),
    "probe": (("", "encoder"),),
}
"""The networks of a framework: `(published prefix, ours)`. 'probe' is a supervised network, too."""
DEFAULT_HEADS = {"mocov2": "mocov2_slim", "mocov3": "mocov3_slim", "simclr": "simclr_slim"}
RESNET, CIFAR = "resnet", "cifar"
HEADS = ("mocov2_slim", "mocov2_switch", "mocov3_slim", "simclr_slim", "supervised", "supervised_switch")


@dataclasses.dataclass(frozen=True)
class SlimConfig:
    """What shapes tell of a slimmable network with its head.

    framework: a key of `PREFIXES`. blocks: residual blocks of each stage. width: channels of the stem. hidden, dim: of
    the head. switchable: a probe with a classifier a width. head: of `HEADS`, '' for that of the framework. kind:
    'resnet' or 'cifar', the trunk. bottleneck: of the blocks of a ResNet. overlap: False where narrower widths lie side
    by side, which shapes do not tell.
    """

    framework: str = "mocov2"
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    widths: tuple[float, ...] = WIDTHS
    hidden: int = 2048
    dim: int = 128
    switchable: bool = True
    head: str = ""
    kind: str = RESNET
    bottleneck: bool = True
    overlap: bool = True

    def __post_init__(self) -> None:
        head = self.head or DEFAULT_HEADS.get(self.framework, "supervised" + "_switch" * self.switchable)
        object.__setattr__(self, "head", head)
        known = {"framework": tuple(PREFIXES), "head": HEADS, "kind": (RESNET, CIFAR)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name}: {getattr(self, name)!r} is none of {', '.join(values)}")
        if self.kind == CIFAR and (self.bottleneck or len(self.blocks) != 3 or len(set(self.blocks)) > 1):
            kind = "bottlenecks" if self.bottleneck else "basic blocks"
            raise InputError(
                f"a 3x3 stem with {kind} {tuple(self.blocks)}: the CIFAR trunk has 3 stages of k basic blocks"
            )

    @property
    def trunk(self) -> ResNetConfig:
        """The full width as an ordinary ResNet."""
        return ResNetConfig(tuple(self.blocks), self.bottleneck, self.width)

    def sizes(self, full: int) -> tuple[int, ...]:
        """Channels of every width in a layer of `full`."""
        return tuple(int(w * full) for w in self.widths)


class Convolution(NamedTuple):
    """A convolution and the norm behind it: paths in the trunk, published names, channels and size of the kernel."""

    path: str
    norm: str
    key: str
    norm_key: str
    inputs: int
    outputs: int
    size: int


def official_name(config: SlimConfig, path: str) -> str:
    """`layer2_1/proj/conv -> features.4.shortcut.0`, of the CIFAR trunk `stage2_0/proj -> features.3.shortcut.0`; norms
    without their width."""
    if path in ("stem", "stem_bn"):
        return {"stem": "conv1", "stem_bn": "bn1"}[path]
    if path.startswith("stem/"):
        return path.removeprefix("stem/") + "1"
    stage, block, rest = re.fullmatch(r"(?:layer|stage)(\d)_(\d+)/(.*)", path).groups()
    number = sum(config.blocks[: int(stage) - 1]) + int(block)
    shortcut = {"proj/conv": "shortcut.0", "proj/bn": "shortcut.1", "proj": "shortcut.0", "proj_bn": "shortcut.1"}
    return f"features.{number}.{shortcut.get(rest, rest)}"


def convolutions(config: SlimConfig) -> list[Convolution]:
    """Every convolution of the trunk with its norm, at full width."""
    found = resnet.convolutions(config.trunk)
    if config.kind == CIFAR:  # the same network but for the stem, the block's last ReLU, and what layers are called
        ours = {"stem/conv": "stem", "stem/bn": "stem_bn"}

        def rename(path: str) -> str:
            path = ours.get(path, path).replace("layer", "stage")
            return path.replace("proj/conv", "proj").replace("proj/bn", "proj_bn")

        found = [(rename(p), rename(n), (i, o, 3 if p == "stem/conv" else k)) for p, n, (i, o, k) in found]
    return [
        Convolution(p, n, official_name(config, p), official_name(config, n), *sizes) for p, n, sizes in found
    ]  # fmt: skip


def norm_rules(config: SlimConfig, key: str, net: str, path: str, full: int, affine: bool = True, same: bool = False):
    """The tensors of a switchable norm: `key.bn.{i}.*` to `net/path_wXXX`. same: one size at every width."""
    out = []
    for i, size in enumerate((full,) * len(config.widths) if same else config.sizes(full)):
        name = width_name(path, config.widths, i)
        pairs = [("weight", f"{net}/{name}/scale"), ("bias", f"{net}/{name}/bias")] if affine else []
        pairs += [("running_mean", f"{STATS[net]}/{name}/mean"), ("running_var", f"{STATS[net]}/{name}/var")]
        out += [Rule(f"{key}.bn.{i}.{a}", (size,), (leaf,), keys.same()) for a, leaf in pairs]
    return out


def dense_rules(key: str, path: str, inputs: int, outputs: int, bias: bool) -> list[Rule]:
    """A linear layer `[out, in]`."""
    out = [Rule(f"{key}.weight", (outputs, inputs), (f"{path}/kernel",), keys.linear())]
    return out + ([Rule(f"{key}.bias", (outputs,), (f"{path}/bias",), keys.same())] if bias else [])


def switch_rules(config: SlimConfig, key: str, path: str, inputs: int, outputs: int, cut: bool) -> list[Rule]:
    """A linear layer a width, `key.linears.{i}`. cut: the outputs grow with the width."""
    out = []
    for i, (a, b) in enumerate(zip(config.sizes(inputs), config.sizes(outputs))):
        name = width_name(path, config.widths, i)
        out += dense_rules(f"{key}.linears.{i}", name, a, b if cut else outputs, True)
    return out


def head_rules(config: SlimConfig, net: str) -> list[Rule]:
    """The head, `fc.*`, of any kind."""
    features, hidden, dim, path = config.trunk.features, config.hidden, config.dim, f"{net}/head"
    if config.head == "mocov2_slim":
        return dense_rules("fc.0", f"{path}/fc0", features, hidden, True) + dense_rules(
            "fc.2", f"{path}/fc2", hidden, dim, True
        )
    if config.head == "mocov2_switch":
        out = switch_rules(config, "fc.0", f"{path}/fc0", features, hidden, True)
        return out + switch_rules(config, "fc.2", f"{path}/fc2", hidden, dim, False)
    if config.head in ("mocov3_slim", "simclr_slim"):
        simclr = config.head == "simclr_slim"
        out = dense_rules("fc.0", f"{path}/fc0", features, hidden, simclr)
        out += norm_rules(config, "fc.1", net, "head/bn1", hidden)
        out += dense_rules("fc.3", f"{path}/fc3", hidden, dim, False)
        return out + norm_rules(config, "fc.4", net, "head/bn4", dim, affine=simclr, same=True)
    if config.head == "supervised_switch":
        return switch_rules(config, "fc", f"{path}/fc", features, dim, False)
    return dense_rules("fc", f"{path}/fc", features, dim, True)


def network_rules(config: SlimConfig, net: str, with_head: bool = True) -> list[Rule]:
    """Trunk and head of the encoder or of the key encoder, without the prefix."""
    out = []
    for c in convolutions(config):
        shape = (c.outputs, c.inputs, c.size, c.size)
        out.append(Rule(f"{c.key}.weight", shape, (f"{net}/trunk/{c.path}/kernel",), keys.transpose(2, 3, 1, 0)))
        out += norm_rules(config, c.norm_key, net, f"trunk/{c.norm}", c.outputs)
    return out + (head_rules(config, net) if with_head else [])


def rules(config: SlimConfig, queue: int, wrapper: str | None = None) -> list[Rule]:
    """Every tensor of an official checkpoint. queue: its length (MoCo v2). wrapper: before every key, None for what the
    published runs of the trunk have (none with CIFAR, which run on one device)."""
    out = []
    for prefix, net in PREFIXES[config.framework]:
        out += keys.prefixed(network_rules(config, net), prefix)
    if config.framework == "mocov2":
        pointer = keys.Transform("scalar", lambda x: (x.reshape(()),), lambda x: x.reshape(1))
        out.append(Rule("queue", (config.dim, queue), ("queue/keys",), keys.linear()))
        out.append(Rule("queue_ptr", (1,), ("queue/pointer",), pointer, counts=True))
    if config.framework == "mocov3":
        head = dense_rules("0", "predictor/fc0", config.dim, config.hidden, False)
        head += norm_rules(config, "1", "predictor", "bn1", config.hidden)
        head += dense_rules("3", "predictor/fc3", config.hidden, config.dim, False)
        out += keys.prefixed(head, "predictor.")
    if wrapper is None:
        wrapper = "" if config.kind == CIFAR else WRAPPER
    return keys.prefixed(out, wrapper)


def wrapper_of(arrays: Mapping[str, np.ndarray]) -> str:
    """`module.` where keys of a file begin with it."""
    return WRAPPER if any(k.startswith(WRAPPER) for k in arrays) else ""


def infer_config(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> SlimConfig:
    """The config that names and shapes imply. Raises InputError for what is no checkpoint of SlimCLR."""
    wrapper = wrapper_of(arrays)
    found = next((f for f, p in PREFIXES.items() if f"{wrapper}{p[0][0]}conv1.weight" in arrays), None)
    prefix = wrapper + PREFIXES[found][0][0] if found else ""
    if found is None or f"{prefix}features.0.conv1.weight" not in arrays:
        hint = "; it looks like plain MoCo, --from moco" if any(".layer1.0.conv1." in k for k in arrays) else ""
        raise InputError(f"the file holds no slimmable encoder (module.*.features.0.conv1.weight){hint}")
    if found == "mocov2" and not any(k.startswith((f"{wrapper}encoder_k.", f"{wrapper}queue")) for k in arrays):
        found = "simclr"

    def shape(name: str, axes: int) -> tuple[int, ...]:
        """Of a tensor below the prefix."""
        size = np.shape(arrays[prefix + name])
        if len(size) != axes:
            raise InputError(f"{prefix}{name} is {list(size)}, where a tensor of {axes} axes belongs")
        return tuple(int(n) for n in size)

    width, _, size, _ = shape("conv1.weight", 4)
    bottleneck = f"{prefix}features.0.conv3.weight" in arrays
    last, outputs, widths = "conv3" if bottleneck else "conv2", [], []
    while f"{prefix}features.{len(outputs)}.{last}.weight" in arrays:
        outputs.append(shape(f"features.{len(outputs)}.{last}.weight", 4)[0])
    while f"{prefix}bn1.bn.{len(widths)}.weight" in arrays:
        widths.append(round(shape(f"bn1.bn.{len(widths)}.weight", 1)[0] / max(width, 1), 4))
    blocks = tuple(outputs.count(c) for c in dict.fromkeys(outputs))
    fields: dict[str, Any] = {"framework": found, "blocks": blocks, "width": width, "widths": tuple(widths)}
    fields |= {"kind": CIFAR if size == 3 else RESNET, "bottleneck": bottleneck}

    def sizes(first: str, second: str) -> dict[str, Any]:
        """Hidden and outer size of a head of two layers, as far as it is there."""
        out = {"hidden": shape(first, 2)[0]} if prefix + first in arrays else {}
        return out | ({"dim": shape(second, 2)[0]} if prefix + second in arrays else {})

    has = lambda name: f"{prefix}fc.{name}" in arrays  # noqa: E731
    if has("linears.0.weight") or has("weight"):
        name = "fc.weight" if has("weight") else "fc.linears.0.weight"
        fields |= {"head": "supervised" if has("weight") else "supervised_switch", "dim": shape(name, 2)[0]}
        fields |= {"hidden": 0, "switchable": not has("weight")}
    elif has("0.linears.0.weight") or has("2.linears.0.weight"):
        fields |= {"head": "mocov2_switch", **sizes("fc.0.linears.0.weight", "fc.2.linears.0.weight")}
    elif has("2.weight"):
        fields |= {"head": "mocov2_slim", **sizes("fc.0.weight", "fc.2.weight")}
    elif has("3.weight"):
        simclr = has("0.bias") or has("4.bn.0.weight")
        fields |= {"head": "simclr_slim" if simclr else "mocov3_slim", **sizes("fc.0.weight", "fc.3.weight")}
    hidden = np.shape(arrays.get(f"{wrapper}predictor.0.weight", ()))
    if found == "mocov3" and not fields.get("hidden") and hidden:
        fields["hidden"] = int(hidden[0])
    return SlimConfig(**(fields | dict(given)))


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> SlimConfig:
    """The config of a tree of ours, by flat path. Raises InputError where this is no slimmable network that has been
    published."""
    trunk, head = "encoder/trunk/", "encoder/head/"
    if trunk + "conv1/kernel" in flat:
        raise InputError("these weights are of the trunk 'conv', which has no published layout; train resnet or cifar")
    kind = CIFAR if trunk + "stem/kernel" in flat else RESNET
    stem, norm, stage = ("stem", "stem_bn", "stage") if kind == CIFAR else ("stem/conv", "stem/bn", "layer")
    found = sorted(int(m.group(1)) for p in flat if (m := re.fullmatch(rf"{trunk}{norm}_w(\d{{3}})/scale", p)))[::-1]
    if not found and f"{trunk}{norm}/scale" in flat:
        found = [100]
    if not found or f"{trunk}{stem}/kernel" not in flat:
        raise InputError("these weights hold no encoder/trunk/stem/bn_w100, so they are no slimmable ResNet of ours")
    names = {p.removeprefix(trunk).split("/")[0] for p in flat if p.startswith(trunk)}
    blocks = tuple(sum(n.startswith(f"{stage}{s}_") for n in names) for s in range(1, 4 if kind == CIFAR else 5))
    fields: dict[str, Any] = {"blocks": blocks, "widths": tuple(w / 100 for w in found), "kind": kind}
    fields |= {"width": int(np.shape(flat[f"{trunk}{stem}/kernel"])[-1])}
    fields |= {"bottleneck": f"{trunk}{stage}1_0/conv3/kernel" in flat}
    name, last = next(
        ((n, k) for n, k in _HEAD_LEAVES if any(re.fullmatch(head + k, p) for p in flat)), ("supervised", "")
    )
    if name == "simclr_slim" and head + "fc0/bias" not in flat:
        name = "mocov3_slim"
    shape = next((np.shape(x) for p, x in flat.items() if last and re.fullmatch(head + last, p)), (0, 0))
    hidden = next((np.shape(x)[1] for p, x in flat.items() if re.fullmatch(head + r"fc0(_w100)?/kernel", p)), 0)
    if "predictor/fc0/kernel" in flat:
        fields["framework"] = "mocov3"
        hidden = hidden or np.shape(flat["predictor/fc0/kernel"])[1]
    elif any(p.startswith(("key/", "queue/")) for p in flat):
        fields["framework"] = "mocov2"
    else:
        fields["framework"] = "probe" if name.startswith("supervised") else "simclr"
    fields |= {"head": name, "hidden": int(hidden), "dim": int(shape[-1]), "switchable": name != "supervised"}
    return SlimConfig(**(fields | dict(given or {})))


_HEAD_LEAVES = (
    ("supervised_switch", r"fc_w\d{3}/kernel"),
    ("supervised", r"fc/kernel"),
    ("mocov2_switch", r"fc2_w\d{3}/kernel"),
    ("mocov2_slim", r"fc2/kernel"),
    ("simclr_slim", r"fc3/kernel"),
)
"""Heads, each with the last layer that tells it; `fc0/bias` tells SimCLR's from MoCo v3's."""

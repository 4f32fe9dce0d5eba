"""Published checkpoints: SlimCLR's own (MoCo v2, MoCo v3, linear probe), plain MoCo, and single widths for PyTorch.

`slimclr` reads and writes the official layout, every width. `moco` fills the full width from MoCo v2 or v3. The layouts
`slimclr_w100`, `slimclr_w075`, ... write one width as an ordinary ResNet with torchvision's keys (`--reverse` only):
what detectors, timm and torchvision load.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.interop.layouts import Family, Layout, Source
from jaxvl.interop.resnet import ResNetConfig
from jaxvl.nn.resnet import MEAN, STD
from jaxvl.nn.slimmable import width_name

WIDTHS = (1.0, 0.75, 0.5, 0.25)
STATS = {"encoder": keys.BATCH_STATS + "encoder", "key": "key_stats", "predictor": keys.BATCH_STATS + "predictor"}
"""Where the running statistics of each network stand."""
PREFIXES = {
    "mocov2": (("module.encoder_q.", "encoder"), ("module.encoder_k.", "key")),
    "mocov3": (("module.base_encoder.", "encoder"), ("module.momentum_encoder.", "key")),
    "probe": (("module.", "encoder"),),
}
COUNTERS = Dropped(r".*\.num_batches_tracked", "step counter of a BatchNorm, of no use")


@dataclasses.dataclass(frozen=True)
class SlimConfig:
    """What shapes tell of a slimmable ResNet with its head.

    framework: a key of `PREFIXES`. blocks: residual blocks of each stage (bottlenecks). width: channels of the stem.
    hidden, dim: of the head. switchable: a probe with a classifier a width.
    """

    framework: str = "mocov2"
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    widths: tuple[float, ...] = WIDTHS
    hidden: int = 2048
    dim: int = 128
    switchable: bool = True

    @property
    def trunk(self) -> ResNetConfig:
        """The full width as an ordinary ResNet."""
        return ResNetConfig(tuple(self.blocks), True, self.width)

    def sizes(self, full: int) -> tuple[int, ...]:
        """Channels of every width in a layer of `full`."""
        return tuple(int(w * full) for w in self.widths)


def official_name(config: SlimConfig, path: str) -> str:
    """`layer2_1/proj/conv -> features.4.shortcut.0`, norms without their width."""
    if path.startswith("stem/"):
        return path.removeprefix("stem/") + "1"
    stage, block, rest = re.fullmatch(r"layer(\d)_(\d+)/(.*)", path).groups()
    number = sum(config.blocks[: int(stage) - 1]) + int(block)
    rest = {"proj/conv": "shortcut.0", "proj/bn": "shortcut.1"}.get(rest, rest)
    return f"features.{number}.{rest}"


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


def network_rules(config: SlimConfig, net: str) -> list[Rule]:
    """Trunk and head of the encoder or of the key encoder, without the prefix."""
    out = []
    for path, norm, (inputs, outputs, size) in resnet.convolutions(config.trunk):
        shape = (outputs, inputs, size, size)
        name = official_name(config, path)
        out.append(Rule(f"{name}.weight", shape, (f"{net}/trunk/{path}/kernel",), keys.transpose(2, 3, 1, 0)))
        out += norm_rules(config, official_name(config, norm), net, f"trunk/{norm}", outputs)
    features, head = config.trunk.features, f"{net}/head"
    if config.framework == "mocov2":
        out += dense_rules("fc.0", f"{head}/fc0", features, config.hidden, True)
        out += dense_rules("fc.2", f"{head}/fc2", config.hidden, config.dim, True)
    elif config.framework == "mocov3":
        out += dense_rules("fc.0", f"{head}/fc0", features, config.hidden, False)
        out += norm_rules(config, "fc.1", net, "head/bn1", config.hidden)
        out += dense_rules("fc.3", f"{head}/fc3", config.hidden, config.dim, False)
        out += norm_rules(config, "fc.4", net, "head/bn4", config.dim, affine=False, same=True)
    elif config.switchable:
        for i, size in enumerate(config.sizes(features)):
            out += dense_rules(
                f"fc.linears.{i}", f"{head}/{width_name('fc', config.widths, i)}", size, config.dim, True
            )
    else:
        out += dense_rules("fc", f"{head}/fc", features, config.dim, True)
    return out


def rules(config: SlimConfig, queue: int) -> list[Rule]:
    """Every tensor of an official checkpoint. queue: its length (MoCo v2)."""
    out = []
    for prefix, net in PREFIXES[config.framework]:
        out += keys.prefixed(network_rules(config, net), prefix)
    if config.framework == "mocov2":
        pointer = keys.Transform("scalar", lambda x: (x.reshape(()),), lambda x: x.reshape(1))
        out.append(Rule("module.queue", (config.dim, queue), ("queue/keys",), keys.linear()))
        out.append(Rule("module.queue_ptr", (1,), ("queue/pointer",), pointer, counts=True))
    if config.framework == "mocov3":
        head = dense_rules("0", "predictor/fc0", config.dim, config.hidden, False)
        head += norm_rules(config, "1", "predictor", "bn1", config.hidden)
        head += dense_rules("3", "predictor/fc3", config.hidden, config.dim, False)
        out += keys.prefixed(head, "module.predictor.")
    return out


def infer_config(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> SlimConfig:
    """The config that names and shapes imply. Raises InputError for what is no checkpoint of SlimCLR."""
    found = next((f for f, p in PREFIXES.items() if f"{p[0][0]}conv1.weight" in arrays), None)
    if found is None or f"{PREFIXES[found][0][0]}features.0.conv1.weight" not in arrays:
        hint = "; it looks like plain MoCo, --from moco" if any(".layer1.0.conv1." in k for k in arrays) else ""
        raise InputError(f"the file holds no slimmable encoder (module.*.features.0.conv1.weight){hint}")
    prefix = PREFIXES[found][0][0]
    shape = lambda name: np.shape(arrays[prefix + name])  # noqa: E731
    width, outputs, b = shape("conv1.weight")[0], [], 0
    while f"{prefix}features.{b}.conv3.weight" in arrays:
        outputs.append(shape(f"features.{b}.conv3.weight")[0])
        b += 1
    sizes, i = [], 0
    while f"{prefix}bn1.bn.{i}.weight" in arrays:
        sizes.append(shape(f"bn1.bn.{i}.weight")[0])
        i += 1
    blocks = tuple(outputs.count(c) for c in dict.fromkeys(outputs))
    fields: dict[str, Any] = {"framework": found, "blocks": blocks, "width": int(width)}
    fields["widths"] = tuple(round(s / width, 4) for s in sizes)
    last = {"mocov2": "fc.2.weight", "mocov3": "fc.3.weight"}.get(found)
    if last and prefix + last in arrays:
        fields["dim"], fields["hidden"] = (int(n) for n in shape(last))
    elif f"{prefix}fc.linears.0.weight" in arrays:
        fields |= {"dim": int(shape("fc.linears.0.weight")[0]), "hidden": 0}
    elif f"{prefix}fc.weight" in arrays:
        fields |= {"dim": int(shape("fc.weight")[0]), "hidden": 0, "switchable": False}
    return SlimConfig(**(fields | dict(given)))


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> SlimConfig:
    """The config of a tree of ours, by flat path. Raises InputError where this is no slimmable ResNet."""
    trunk = "encoder/trunk/"
    found = sorted(int(m.group(1)) for p in flat if (m := re.fullmatch(trunk + r"stem/bn_w(\d{3})/scale", p)))[::-1]
    if not found:
        raise InputError("these weights hold no encoder/trunk/stem/bn_w100, so they are no slimmable ResNet of ours")
    names = {p.removeprefix(trunk).split("/")[0] for p in flat if p.startswith(trunk)}
    blocks = tuple(sum(n.startswith(f"layer{s}_") for n in names) for s in range(1, 5))
    head = "encoder/head/"
    framework = "mocov3" if "predictor/fc0/kernel" in flat else "mocov2" if head + "fc2/kernel" in flat else "probe"
    last = {"mocov3": "fc3/kernel", "mocov2": "fc2/kernel"}.get(framework)
    switchable = head + "fc_w100/kernel" in flat
    shape = np.shape(flat.get(head + (last or ("fc_w100/kernel" if switchable else "fc/kernel")), np.zeros((0, 0))))
    fields = {
        "framework": framework,
        "blocks": blocks,
        "width": int(np.shape(flat[trunk + "stem/conv/kernel"])[-1]),
        "widths": tuple(w / 100 for w in found),
        "hidden": int(shape[0]) if last else 0,
        "dim": int(shape[1]),
        "switchable": switchable or framework != "probe",
    }
    return SlimConfig(**(fields | dict(given or {})))


def from_official(arrays: Mapping[str, np.ndarray], config: SlimConfig) -> tuple[dict[str, Any], KeyReport]:
    """Published arrays -> variables with every collection that the file holds."""
    length = int(np.shape(arrays["module.queue"])[1]) if "module.queue" in arrays else 0
    flat, report = keys.forward(rules(config, length), arrays, (COUNTERS,))
    return keys.to_variables(flat, ("batch_stats", "key", "key_stats", "queue")), report


def to_official(variables: Mapping[str, Any], config: SlimConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse; step counters come out as 0."""
    flat = keys.to_flat(variables)
    length = len(flat["queue/keys"]) if "queue/keys" in flat else 0
    arrays, report = keys.backward(rules(config, length), flat)
    if "module.queue_ptr" in arrays:
        arrays["module.queue_ptr"] = arrays["module.queue_ptr"].astype(np.int64)
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
    """The weights of width `index` as those of an ordinary ResNet (`jaxvl.nn.resnet`, flat paths): kernels sliced, its
    own norms, and its classifier where there is one."""
    out = {}
    for path, norm, (inputs, outputs, _) in resnet.convolutions(config.trunk):
        kernel = np.asarray(flat[f"encoder/trunk/{path}/kernel"])
        rows = inputs if path == "stem/conv" else config.sizes(inputs)[index]
        out[f"{path}/kernel"] = kernel[:, :, :rows, : config.sizes(outputs)[index]]
        name = width_name(norm, config.widths, index)
        for leaf in ("scale", "bias"):
            out[f"{norm}/{leaf}"] = np.asarray(flat[f"encoder/trunk/{name}/{leaf}"])
        for leaf in ("mean", "var"):
            out[f"{keys.BATCH_STATS}{norm}/{leaf}"] = np.asarray(flat[f"{STATS['encoder']}/trunk/{name}/{leaf}"])
    if config.framework == "probe":
        name = width_name("fc", config.widths, index) if config.switchable else "fc"
        rows = config.sizes(config.trunk.features)[index]
        out["fc/kernel"] = np.asarray(flat[f"encoder/head/{name}/kernel"])[:rows]
        out["fc/bias"] = np.asarray(flat[f"encoder/head/{name}/bias"])
    return out


def to_torchvision(index_of: float):
    """`store` of the layout of one width: torchvision's keys, and in the report whatever a single width leaves out."""

    def store(variables: Mapping[str, Any], config: SlimConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
        if index_of not in config.widths:
            raise InputError(f"width {index_of:g}: these weights have {', '.join(f'{w:g}' for w in config.widths)}")
        flat, index = keys.to_flat(variables), config.widths.index(index_of)
        sliced = one_width(flat, config, index)
        classes = config.dim if config.framework == "probe" else None
        small = ResNetConfig(tuple(config.blocks), True, config.sizes(config.width)[index], classes)
        arrays, report = resnet.store(keys.to_variables(sliced), small)
        own, trunk = f"_w{round(100 * index_of):03d}/", ("encoder/trunk/", STATS["encoder"] + "/trunk/")

        def kept(path: str) -> bool:
            of_trunk = path.startswith(trunk) and (own in path or not re.search(r"_w\d{3}/", path))
            return of_trunk or (classes is not None and path.startswith("encoder/head/"))

        left = [p for p in flat if not kept(p)]
        dropped = tuple((p, "of another width, or of pre-training") for p in left)
        return arrays, dataclasses.replace(report, dropped=(*report.dropped, *dropped))

    return store


def describe(config: SlimConfig) -> str:
    """One line on a slimmable network."""
    widths = ", ".join(f"{w:g}" for w in config.widths)
    return f"slimmable {resnet.describe(config.trunk)}; {config.framework}, widths {widths}, outputs {config.dim}"


def semantics(config: SlimConfig) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    del config
    return {"pixel_mean": MEAN, "pixel_std": STD, "stride": "on the 3x3", "bn_eps": resnet.EPSILON}


SLIM = Family(
    name="a slimmable ResNet",
    config=SlimConfig,
    fields=tuple(f.name for f in dataclasses.fields(SlimConfig)),
    untold=(),
    marks=("encoder/trunk/stem/conv/kernel",),
    describe=describe,
    semantics=semantics,
    config_of_params=config_of_params,
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

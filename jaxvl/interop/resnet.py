"""Published layouts of ResNets (torchvision, timm, Hugging Face), to and from the tree of `jaxvl.nn.resnet`.

Converters are pure: `from_X(arrays, config) -> (variables, KeyReport)` and `to_X(variables, config) -> (arrays,
KeyReport)`, float32. Other layouts of the same trunk need a function of names only, see `rules`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.nn.resnet import BLOCKS, MEAN, STD
from jaxvl.nn.transformer import LARGEST, MOST_BLOCKS

Arrays = Mapping[str, np.ndarray]
Names = Callable[[str], str]
"""Path of a module of ours (`layer1_0/proj/bn`) -> its published name, without a final dot."""
DROPPED = (Dropped(r".*\.num_batches_tracked", "step counter of a BatchNorm, of no use"),)
EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What shapes tell of a ResNet; the fields of `jaxvl.nn.resnet.ResNet` of the same names.

    blocks: residual blocks of each stage. width: channels of the stem. num_classes: None without a classifier.
    """

    blocks: tuple[int, ...] = BLOCKS[50]
    bottleneck: bool = True
    width: int = 64
    num_classes: int | None = None

    def __post_init__(self):
        counts = self.blocks if isinstance(self.blocks, list | tuple) else (None,)
        if not 1 <= len(counts) <= 8 or not all(type(n) is int and 1 <= n <= MOST_BLOCKS for n in counts):
            raise InputError(f"resnet.blocks {self.blocks!r}: needs the numbers of blocks of its stages")
        object.__setattr__(self, "blocks", tuple(counts))
        if type(self.bottleneck) is not bool or type(self.width) is not int or not 1 <= self.width <= LARGEST:
            raise InputError(f"resnet.bottleneck {self.bottleneck!r}, width {self.width!r}: needs a flag and a size")
        if self.num_classes is not None and (type(self.num_classes) is not int or self.num_classes < 1):
            raise InputError(f"resnet.num_classes {self.num_classes!r}: needs a whole number of at least 1")

    @property
    def depth(self) -> int | None:
        """18, 34, 50, 101 or 152; None for another shape."""
        return next((d for d, b in BLOCKS.items() if b == self.blocks and (d >= 50) == self.bottleneck), None)

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.blocks) - 1) * (4 if self.bottleneck else 1)


def describe(config: ResNetConfig) -> str:
    """One line on a ResNet."""
    kind = "bottlenecks" if config.bottleneck else "basic blocks"
    classes = f"{config.num_classes} classes" if config.num_classes else "no classifier"
    return f"ResNet-{config.depth or '?'}: {kind} {config.blocks}, width {config.width}, {classes}"


def semantics(config: ResNetConfig) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    del config
    return {"pixel_mean": MEAN, "pixel_std": STD, "stride": "on the 3x3", "bn_eps": EPSILON}


def convolutions(config: ResNetConfig) -> list[tuple[str, str, tuple[int, int, int]]]:
    """Every convolution and the batch norm behind it, in the order of torchvision's state dict:
    `(path, path of the norm, (in, out, size))`."""
    found = [("stem/conv", "stem/bn", (3, config.width, 7))]
    channels = config.width
    for s, count in enumerate(config.blocks, 1):
        mid = config.width * 2 ** (s - 1)
        out = mid * (4 if config.bottleneck else 1)
        for j in range(count):
            base = f"layer{s}_{j}"
            sizes = [(channels, mid, 3), (mid, mid, 3)]
            if config.bottleneck:
                sizes = [(channels, mid, 1), (mid, mid, 3), (mid, out, 1)]
            found += [(f"{base}/conv{n}", f"{base}/bn{n}", size) for n, size in enumerate(sizes, 1)]
            if j == 0 and (s > 1 or channels != out):
                found.append((f"{base}/proj/conv", f"{base}/proj/bn", (channels, out, 1)))
            channels = out
    return found


def torchvision_name(path: str) -> str:
    """`layer1_0/proj/bn -> layer1.0.downsample.1`; timm's and MoCo's names are the same."""
    if path.startswith("stem/"):
        return path.removeprefix("stem/") + "1"
    path = path.replace("proj/conv", "downsample.0").replace("proj/bn", "downsample.1")
    return re.sub(r"^(layer\d)_", r"\1.", path).replace("/", ".")


def hf_name(path: str) -> str:
    """`layer1_0/conv1 -> resnet.encoder.stages.0.layers.0.layer.0.convolution` (Hugging Face transformers)."""
    if path == "fc":
        return "classifier.1"
    part = "convolution" if "conv" in path.rsplit("/", 1)[-1] else "normalization"
    if path.startswith("stem/"):
        return f"resnet.embedder.embedder.{part}"
    stage, block, rest = re.fullmatch(r"layer(\d)_(\d+)/(.*)", path).groups()
    where = "shortcut" if rest.startswith("proj") else f"layer.{int(rest[-1]) - 1}"
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{where}.{part}"


def hf_keys(arrays: Arrays) -> dict[str, np.ndarray]:
    """Keys of a model without classifier (`ResNetModel`) as they stand in the model with one."""
    return {(f"resnet.{k}" if k.startswith(("embedder.", "encoder.")) else k): v for k, v in arrays.items()}


def batch_norm_rules(key: str, path: str, features: int, affine: bool = True) -> list[Rule]:
    """The four tensors of a batch norm: scale and bias to `path`, running statistics to `batch_stats/path`."""
    names = (("weight", "", "scale"), ("bias", "", "bias")) if affine else ()
    names += (("running_mean", keys.BATCH_STATS, "mean"), ("running_var", keys.BATCH_STATS, "var"))
    return [Rule(f"{key}.{a}", (features,), (f"{where}{path}/{b}",), keys.same()) for a, where, b in names]


def rules(config: ResNetConfig, name: Names = torchvision_name) -> list[Rule]:
    """Every tensor of a ResNet: 267 for ResNet-50 with classifier, which its 53 step counters make 320."""
    out = []
    for path, norm, (inputs, outputs, size) in convolutions(config):
        shape = (outputs, inputs, size, size)
        out.append(Rule(f"{name(path)}.weight", shape, (f"{path}/kernel",), keys.transpose(2, 3, 1, 0)))
        out += batch_norm_rules(name(norm), norm, outputs)
    if config.num_classes is not None:
        shape = (config.num_classes, config.features)
        out.append(Rule(f"{name('fc')}.weight", shape, ("fc/kernel",), keys.linear()))
        out.append(Rule(f"{name('fc')}.bias", shape[:1], ("fc/bias",), keys.same()))
    return out


def load(arrays: Arrays, config: ResNetConfig, name: Names = torchvision_name) -> tuple[dict[str, Any], KeyReport]:
    """Published arrays -> variables `{'params', 'batch_stats'}`."""
    flat, report = keys.forward(rules(config, name), arrays, DROPPED)
    return keys.to_variables(flat), report


def store(
    variables: Mapping[str, Any], config: ResNetConfig, name: Names = torchvision_name
) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse of `load`; step counters come out as 0."""
    arrays, report = keys.backward(rules(config, name), keys.to_flat(variables))
    return keys.with_step_counters(arrays), report


def freeze(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables for `norm='frozen'`: scale and bias of every batch norm move to `batch_stats`, being constants."""
    flat, prefix = keys.to_flat(variables), keys.BATCH_STATS
    norms = {p.removeprefix(prefix).rsplit("/", 1)[0] for p in flat if p.startswith(prefix)}
    return keys.to_variables({(prefix + p if p.rsplit("/", 1)[0] in norms else p): v for p, v in flat.items()})


def infer_config(arrays: Arrays, given: Mapping[str, Any], name: Names = torchvision_name) -> ResNetConfig:
    """The config that shapes imply; `given` fields are taken as they are. Raises InputError for what is no ResNet of
    this family: another stem, shortcut or norm, or the stride on the 1x1."""
    check_family(arrays)
    first, third = f"{name('stem/conv')}.weight", f"{name('layer1_0/conv3')}.weight"
    if first not in arrays:
        raise InputError(f"the file has no tensor {first}; {hint(arrays)}")
    blocks = []
    for s in range(1, 5):
        count = 0
        while f"{name(f'layer{s}_{count}/conv1')}.weight" in arrays:
            count += 1
        blocks.append(count)
    classifier = f"{name('fc')}.weight"
    fields = {
        "blocks": tuple(blocks),
        "bottleneck": third in arrays,
        "width": int(np.shape(arrays[first])[0]),
        "num_classes": int(np.shape(arrays[classifier])[0]) if classifier in arrays else None,
    }
    return ResNetConfig(**(fields | dict(given)))


def config_of_params(flat: Arrays, given: Mapping[str, Any] | None = None) -> ResNetConfig:
    """The config of a tree of ours, by flat path. Raises InputError where this is no ResNet."""
    if "stem/conv/kernel" not in flat:
        raise InputError("these weights hold no stem/conv/kernel, so they are no ResNet of ours")
    blocks = [len({p.split("/")[0] for p in flat if p.startswith(f"layer{s}_")}) for s in range(1, 5)]
    fields = {
        "blocks": tuple(blocks),
        "bottleneck": "layer1_0/conv3/kernel" in flat,
        "width": int(np.shape(flat["stem/conv/kernel"])[-1]),
        "num_classes": int(np.shape(flat["fc/kernel"])[-1]) if "fc/kernel" in flat else None,
    }
    return ResNetConfig(**(fields | dict(given or {})))


REFUSED = (
    (r"(.*\.)?res2\.0\.conv1.*", "a Detectron trunk: BGR pixels and, unless told otherwise, the stride on the 1x1"),
    (r"(.*\.)?conv1\.[0-6]\.weight", "a deep stem (the c, d, t and s variants of timm)"),
    (r"(.*\.)?downsample\.2\..*", "an average-pooled shortcut (the d and t variants of timm)"),
    (r"(.*\.)?layer\d\.\d+\.se\..*", "squeeze-and-excitation blocks (seresnet)"),
    (r"(.*\.)?layer\d\.\d+\.(eca|attn_last|attn)\..*", "channel-attention blocks (ecaresnet)"),
    (r"(.*\.)?stages\.\d+\.blocks\..*", "a pre-activation trunk (BiT)"),
)
"""Keys of relatives whose shapes partly agree and whose results do not."""


def check_family(arrays: Arrays) -> None:
    """Raises InputError that names the reason when the file holds a relative of these ResNets."""
    for pattern, reason in REFUSED:
        key = next((k for k in arrays if re.fullmatch(pattern, k)), None)
        if key:
            raise InputError(f"tensor {key}: this is {reason}, which is another network; only plain ResNets (v1.5)")
    norm = next((k for k in arrays if re.fullmatch(r"(.*\.)?layer1\.0\.bn1\.weight", k)), None)
    if norm and f"{norm.removesuffix('weight')}running_mean" not in arrays:
        raise InputError(f"{norm}: has no running statistics, so its norms are group norms; only batch norms are known")


def hint(arrays: Arrays) -> str:
    """What kind of file these keys look like, and the flag that helps."""
    if any(k.startswith("resnet.embedder.") or k.startswith("embedder.") for k in arrays):
        return "it looks like Hugging Face's layout (hf_resnet)"
    found = next((k for k in arrays if re.search(r"(^|\.)conv1\.weight$", k) and not re.search(r"layer\d", k)), None)
    if found and found != "conv1.weight":
        prefix = found.removesuffix("conv1.weight")
        return f"its trunk is under {prefix!r}: add --prefix {prefix}"
    return f"its tensors are {', '.join(list(arrays)[:3])}, ..., which is no known layout of a ResNet"


HF_FIELDS = {
    "model_type": "resnet",
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
}
"""What `config.json` must say; True in the third would put the stride on the 1x1."""


def check_hf_config(path: Path) -> None:
    """Refuses a `config.json` of Hugging Face whose network is another one. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the layout needs the config.json that was published with the weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        wrong = [
            f"{name} {content[name]!r} (only {value!r} is known)"
            for name, value in HF_FIELDS.items()
            if content.get(name, value) != value
        ]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a config of a ResNet ({error})") from None
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)}; that is another network")


def hf_config(config: ResNetConfig) -> dict[str, Any]:
    """The `config.json` of Hugging Face's `ResNetForImageClassification`, or `ResNetModel` without classifier."""
    sizes = [config.width * 2**s * (4 if config.bottleneck else 1) for s in range(len(config.blocks))]
    out = {
        "architectures": ["ResNetForImageClassification" if config.num_classes else "ResNetModel"],
        **{"layer_type": "bottleneck" if config.bottleneck else "basic", "num_channels": 3, **HF_FIELDS},
        **{"embedding_size": config.width, "hidden_sizes": sizes, "depths": list(config.blocks)},
    }
    if config.num_classes:
        out["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_classes)}
    return out

"""Checkpoints of DRDA's published code (lccurious/DRDA): a ResNet trunk that the file lists twice, bottleneck, Stiefel
layer and classifier. Anchors are not in them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.interop.layouts import Family, Layout
from jaxvl.interop.resnet import ResNetConfig

TWICE = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""Module of the trunk -> its number in the sequence `feature_layers`, which holds the same tensors."""
DROPPED = (
    *resnet.DROPPED,
    Dropped(r"feature_layers\..*", "the trunk once more; it was compared with the first"),
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """What shapes tell of a DRDR. blocks, bottleneck, width: of the trunk. features: D. classes: K."""

    blocks: tuple[int, ...]
    bottleneck: bool
    width: int
    features: int
    classes: int

    @property
    def trunk(self) -> ResNetConfig:
        """The trunk, without classifier."""
        return ResNetConfig(self.blocks, self.bottleneck, self.width)


def rules(config: Weights) -> list[Rule]:
    """Every tensor but the second copy of the trunk."""
    out = []
    for rule in resnet.rules(config.trunk):
        (path,) = rule.paths
        stats = path.startswith(keys.BATCH_STATS)
        moved = (keys.BATCH_STATS if stats else "") + "trunk/" + path.removeprefix(keys.BATCH_STATS)
        out.append(rule._replace(paths=(moved,)))
    d, k = config.features, config.classes
    for name, (rows, columns) in {"bottleneck": (d, config.trunk.features), "fc": (k, d)}.items():
        out.append(Rule(f"{name}.weight", (rows, columns), (f"{name}/kernel",), keys.linear()))
        out.append(Rule(f"{name}.bias", (rows,), (f"{name}/bias",), keys.same()))
    return [*out, Rule("stiefel_linear.weight", (d, d), ("stiefel/kernel",), keys.linear())]


def from_published(arrays: Mapping[str, np.ndarray], config: Weights) -> tuple[dict[str, Any], KeyReport]:
    """Published keys -> variables. Raises InputError where the two copies of the trunk differ."""
    arrays = keys.plain_keys(arrays)
    keys.check_copies(arrays, copies(arrays))
    flat, report = keys.forward(rules(config), arrays, DROPPED)
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse, with both copies of the trunk, as the published code loads it; anchors are left out."""
    flat = keys.to_flat(variables)
    anchors = [path for path in flat if path.startswith("radial/")]
    arrays, report = keys.backward(rules(config), {k: v for k, v in flat.items() if k not in anchors})
    dropped = tuple((path, "published files hold no anchors") for path in anchors)
    lost = sum(int(np.size(flat[path])) for path in anchors)
    arrays = keys.with_step_counters(arrays)
    arrays |= {copy: arrays[name] for name, copy in copies(arrays).items()}
    return arrays, dataclasses.replace(report, dropped=dropped, dropped_numbers=lost)


def copies(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Key of the trunk -> key of its copy."""
    found = {}
    for key in arrays:
        first, dot, rest = key.partition(".")
        if first in TWICE and dot:
            found[key] = f"feature_layers.{TWICE[first]}.{rest}"
    return found


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Weights:
    """The config that shapes imply; `given` fields are taken as they are. Raises InputError for another model."""
    arrays = keys.plain_keys(arrays)
    for name in ("bottleneck.weight", "stiefel_linear.weight", "fc.weight"):
        if name not in arrays:
            raise InputError(f"the file has no tensor {name}, so it is no DRDA; plain trunks are torchvision_resnet")
    trunk = resnet.infer_config({k: v for k, v in arrays.items() if not re.match(r"fc\.", k)}, {})
    d, k = (int(np.shape(arrays[name])[0]) for name in ("bottleneck.weight", "fc.weight"))
    fields = {"blocks": trunk.blocks, "bottleneck": trunk.bottleneck, "width": trunk.width}
    return Weights(**(fields | {"features": d, "classes": k} | dict(given)))


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> Weights:
    """The config of a tree of ours, by flat path. Raises InputError where it has no trunk of ResNet's kind."""
    trunk = {p.removeprefix("trunk/"): v for p, v in flat.items() if p.startswith("trunk/")}
    found = resnet.config_of_params(trunk)
    d, k = (int(np.shape(flat[name])[-1]) for name in ("bottleneck/kernel", "fc/kernel"))
    fields = {"blocks": found.blocks, "bottleneck": found.bottleneck, "width": found.width}
    return Weights(**(fields | {"features": d, "classes": k} | dict(given or {})))


DRDR = Family(
    name="a DRDR",
    config=Weights,
    fields=tuple(f.name for f in dataclasses.fields(Weights)),
    untold=(),
    marks=("trunk/stem/conv/kernel",),
    describe=lambda c: f"DRDR on {resnet.describe(c.trunk)}; {c.features} features, {c.classes} classes",
    semantics=lambda c: resnet.semantics(c.trunk),
    config_of_params=config_of_params,
)

LAYOUTS = {
    "drda": Layout(
        DRDR, lambda source, given: infer(source.arrays, {**source.stated, **given}), from_published, to_published
    )
}

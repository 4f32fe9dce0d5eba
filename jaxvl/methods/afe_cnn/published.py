"""AFE-CNN (reconstruction) under PyTorch's names and shapes, both ways. No weights are published; this is the layout in
which one that was trained elsewhere can come here, or go there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import KeyReport, Rule
from jaxvl.interop.layouts import Family, Layout
from jaxvl.methods.afe_cnn.model import STAGES

UNTOLD = ("te_span", "gates", "gate_range", "bn_epsilon")
CHANNELS = {3: (False, False), 6: (True, False), 9: (False, True), 12: (True, True)}
"""Channels of the picture -> (bone vectors, temporal)."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """What shapes tell of an AFE-CNN, and behind it what they do not. joints: J. kje_hidden, kfe_hidden: 0 where the
    network has no such gates. Further fields: `recipe.base`."""

    joints: int
    classes: int
    width: int
    bve: bool
    te: bool
    kje_hidden: int
    kfe_hidden: int
    kfe_size: int = 5
    te_span: int = 4
    gates: str = "relative"
    gate_range: float = 0.5
    bn_epsilon: float = 1e-5

    @property
    def channels(self) -> int:
        """Of the picture."""
        return 3 + 3 * self.bve + 6 * self.te


def rules(c: Weights) -> list[Rule]:
    """Every tensor."""
    out = resnet.batch_norm_rules("data_bn", "data_bn", c.joints * c.channels)

    def dense(key: str, path: str, rows: int, columns: int) -> None:
        out.append(Rule(f"{key}.weight", (rows, columns), (f"{path}/kernel",), keys.linear()))
        out.append(Rule(f"{key}.bias", (rows,), (f"{path}/bias",), keys.same()))

    def over_time(key: str, path: str, outputs: int, inputs: int) -> None:
        out.append(Rule(f"{key}.weight", (outputs, inputs, c.kfe_size), (f"{path}/kernel",), keys.transpose(2, 1, 0)))
        out.append(Rule(f"{key}.bias", (outputs,), (f"{path}/bias",), keys.same()))

    def conv(key: str, path: str, outputs: int, inputs: int, size: int) -> None:
        shape = (outputs, inputs, size, size)
        out.append(Rule(f"{key}.weight", shape, (f"{path}/kernel",), keys.transpose(2, 3, 1, 0)))

    if c.kje_hidden:
        dense("kje_fc1", "kje/fc1", c.kje_hidden, 3 * c.joints)
        dense("kje_fc2", "kje/fc2", c.joints, c.kje_hidden)
    if c.kfe_hidden:
        over_time("kfe_c1", "kfe/conv1", c.kfe_hidden, 3)
        over_time("kfe_c2", "kfe/conv2", 1, c.kfe_hidden)
    conv("stem", "stem/conv", c.width, c.channels, 3)
    out += resnet.batch_norm_rules("stem_bn", "stem/bn", c.width)
    before = c.width
    for i, (times, _) in enumerate(STAGES):
        after = c.width * times
        conv(f"blocks.{i}.dw", f"block{i}/dw", before, 1, 3)
        out += resnet.batch_norm_rules(f"blocks.{i}.bn1", f"block{i}/bn1", before)
        conv(f"blocks.{i}.pw", f"block{i}/pw", after, before, 1)
        out += resnet.batch_norm_rules(f"blocks.{i}.bn2", f"block{i}/bn2", after)
        before = after
    dense("fc", "head", c.classes, before)
    return out


def from_published(arrays: Mapping[str, np.ndarray], config: Weights) -> tuple[dict[str, Any], KeyReport]:
    """PyTorch's tensors -> variables; step counters of the norms are dropped."""
    flat, report = keys.forward(rules(config), keys.plain_keys(arrays), resnet.DROPPED)
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse; step counters come out as 0."""
    arrays, report = keys.backward(rules(config), keys.to_flat(variables))
    return keys.with_step_counters(arrays), report


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Weights:
    """The config that shapes imply; `given` fields are taken as they are. Raises InputError for another model."""
    shapes = {k: np.shape(v) for k, v in keys.plain_keys(arrays).items()}
    return of_shapes(
        **{name: shapes.get(f"{key}.weight") for name, key in
           (("stem", "stem"), ("data", "data_bn"), ("head", "fc"), ("joint", "kje_fc1"), ("frame", "kfe_c1"))},
        source="the file", given=given,
    )  # fmt: skip


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> Weights:
    """The config of a tree of ours, by flat path. Raises InputError where it is no AFE-CNN."""
    turned = lambda path: np.shape(flat[path])[::-1] if path in flat else None  # noqa: E731
    return of_shapes(
        stem=turned("stem/conv/kernel"), data=turned("data_bn/scale"), head=turned("head/kernel"),
        joint=turned("kje/fc1/kernel"), frame=turned("kfe/conv1/kernel"), source="the tree", given=given or {},
    )  # fmt: skip


def of_shapes(
    stem: tuple[int, ...] | None,
    data: tuple[int, ...] | None,
    head: tuple[int, ...] | None,
    joint: tuple[int, ...] | None,
    frame: tuple[int, ...] | None,
    source: str,
    given: Mapping[str, Any],
) -> Weights:
    """The config from PyTorch's shapes of five tensors, None for those that are not there."""
    for name, shape, axes in (("stem", stem, 4), ("data norm", data, 1), ("last layer", head, 2)):
        if shape is None or len(shape) != axes:
            raise InputError(f"{source}: has no {name} of {axes} axes, so it is no AFE-CNN")
    if stem[1] not in CHANNELS or data[0] % stem[1]:
        raise InputError(
            f"{source}: its stem reads {stem[1]} channels and its data norm {data[0]} values; an AFE-CNN has "
            f"{', '.join(map(str, CHANNELS))} channels for each joint"
        )
    bve, te = CHANNELS[stem[1]]
    fields = {
        **{"joints": data[0] // stem[1], "classes": head[0], "width": stem[0], "bve": bve, "te": te},
        **{"kje_hidden": joint[0] if joint else 0, "kfe_hidden": frame[0] if frame else 0},
        **({"kfe_size": frame[2]} if frame and len(frame) == 3 else {}),
    }
    return Weights(**({k: int(v) if type(v) is not bool else v for k, v in fields.items()} | dict(given)))


def of_run(config: ConfigDict) -> dict[str, Any]:
    """What the leaves of a run do not show."""
    return {name: config.model[name] for name in UNTOLD}


def describe(c: Weights) -> str:
    """One line on an AFE-CNN."""
    parts = [name for name, on in (("key joints", c.kje_hidden), ("bone vectors", c.bve), ("key frames", c.kfe_hidden),
                                   ("temporal", c.te)) if on]  # fmt: skip
    return (
        f"AFE-CNN (reconstruction) of width {c.width}, {c.joints} joints, {c.classes} classes, enhancers: "
        f"{', '.join(parts) or 'none'}"
    )


AFE_CNN = Family(
    name="an AFE-CNN",
    config=Weights,
    fields=tuple(f.name for f in dataclasses.fields(Weights)),
    untold=UNTOLD,
    marks=("block0/dw/kernel",),
    describe=describe,
    semantics=lambda c: {"bn_eps": c.bn_epsilon, "norm_of_data": "joint-major, index joint * channels + channel"},
    config_of_params=config_of_params,
    of_run=of_run,
)

LAYOUTS = {
    "afe_cnn": Layout(
        AFE_CNN, lambda source, given: infer(source.arrays, {**source.stated, **given}), from_published, to_published
    )
}

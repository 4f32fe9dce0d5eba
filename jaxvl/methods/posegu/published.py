"""Lifters in the layouts of PoseAug (its SimpleBaseline), VideoPose3D (one frame) and SemGCN, both ways. Of PoseGU
itself no weights are published."""

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
from jaxvl.methods.posegu.model import JOINTS, edges

FIRST = {"mlp": "w1.weight", "vpose": "expand_conv.weight", "semgcn": "gconv_input.0.gconv.W"}
"""The tensor by which the layout of a lifter is told."""
REPEATED = {
    "mlp": "linear_stages.{}.w1.weight",
    "vpose": "layers_conv.{}.weight",
    "semgcn": "gconv_layers.{}.gconv1.gconv.W",
}
"""The first tensor of a stage; vpose counts layers, two a stage."""
NOT_OURS = ("seeds/", "pool/")
"""Collections of a run that are no weights."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A lifter. stages: residual stages of mlp and vpose, pairs of units of semgcn."""

    lifter: str
    width: int
    stages: int


def rules(c: Weights) -> list[Rule]:
    """Every tensor."""
    return {"mlp": _mlp, "vpose": _vpose, "semgcn": _semgcn}[c.lifter](c)


def _linear(key: str, path: str, rows: int, columns: int) -> list[Rule]:
    weight = Rule(f"{key}.weight", (rows, columns), (f"{path}/kernel",), keys.linear())
    return [weight, Rule(f"{key}.bias", (rows,), (f"{path}/bias",), keys.same())]


def _mlp(c: Weights) -> list[Rule]:
    out = _linear("w1", "in", c.width, 2 * JOINTS) + resnet.batch_norm_rules("batch_norm1", "in_bn", c.width)
    for i in range(c.stages):
        for k in (1, 2):
            out += _linear(f"linear_stages.{i}.w{k}", f"stage{i}/dense{k}", c.width, c.width)
            out += resnet.batch_norm_rules(f"linear_stages.{i}.batch_norm{k}", f"stage{i}/bn{k}", c.width)
    return out + _linear("w2", "out", 3 * (JOINTS - 1), c.width)


def _over_one_frame() -> keys.Transform:
    """PyTorch's `[out, in, 1]`, a convolution over one frame, to `[in, out]`."""
    return keys.Transform("squeeze, transpose", lambda x: (x[..., 0].T,), lambda x: x.T[..., None])


def _vpose(c: Weights) -> list[Rule]:
    def conv(key: str, path: str, rows: int, columns: int) -> Rule:
        return Rule(f"{key}.weight", (rows, columns, 1), (f"{path}/kernel",), _over_one_frame())

    out = [conv("expand_conv", "in", c.width, 2 * JOINTS), *resnet.batch_norm_rules("expand_bn", "in_bn", c.width)]
    for i in range(c.stages):
        for k in (0, 1):
            out.append(conv(f"layers_conv.{2 * i + k}", f"stage{i}/dense{k + 1}", c.width, c.width))
            out += resnet.batch_norm_rules(f"layers_bn.{2 * i + k}", f"stage{i}/bn{k + 1}", c.width)
    out.append(conv("shrink", "out", 3 * (JOINTS - 1), c.width))
    return [*out, Rule("shrink.bias", (3 * (JOINTS - 1),), ("out/bias",), keys.same())]


def _semgcn(c: Weights) -> list[Rule]:
    def gconv(key: str, path: str, inputs: int, outputs: int) -> list[Rule]:
        shapes = {"W": (2, inputs, outputs), "e": (1, len(edges()[0])), "bias": (outputs,)}
        return [Rule(f"{key}.{name}", shape, (f"{path}/{name}",), keys.same()) for name, shape in shapes.items()]

    def unit(key: str, path: str, inputs: int) -> list[Rule]:
        norm = resnet.batch_norm_rules(f"{key}.bn", f"{path}/bn", c.width)
        return gconv(f"{key}.gconv", f"{path}/gconv", inputs, c.width) + norm

    out = unit("gconv_input.0", "in", 2)
    for i in range(c.stages):
        for k in (1, 2):
            out += unit(f"gconv_layers.{i}.gconv{k}", f"res{i}/unit{k}", c.width)
    return out + gconv("gconv_output", "out", c.width, 3)


def from_published(arrays: Mapping[str, np.ndarray], config: Weights) -> tuple[dict[str, Any], KeyReport]:
    """PyTorch's tensors -> variables; step counters of the norms are dropped."""
    flat, report = keys.forward(rules(config), keys.plain_keys(arrays), resnet.DROPPED)
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse; step counters come out as 0. Seeds and pool of a run are left out."""
    flat = {path: x for path, x in keys.to_flat(variables).items() if not path.startswith(NOT_OURS)}
    arrays, report = keys.backward(rules(config), flat)
    return keys.with_step_counters(arrays), report


def infer(arrays: Mapping[str, np.ndarray], lifter: str) -> Weights:
    """The config that shapes imply. Raises InputError for another model, or one of another skeleton."""
    shapes = {k: np.shape(v) for k, v in keys.plain_keys(arrays).items()}
    first = shapes.get(FIRST[lifter])
    axes = 2 if lifter == "mlp" else 3
    if first is None or len(first) != axes:
        others = [name for name, key in FIRST.items() if key in shapes]
        hint = f"; it looks like {others[0]}" if others else ""
        raise InputError(f"has no {FIRST[lifter]} of {axes} axes, so it is no {lifter}{hint}")
    inputs = first[1]
    if inputs != (2 if lifter == "semgcn" else 2 * JOINTS):
        raise InputError(
            f"its first layer reads {inputs} numbers; a lifter of {JOINTS} joints, one frame, has {2 * JOINTS}"
        )
    stages = 0
    while REPEATED[lifter].format(stages * (2 if lifter == "vpose" else 1)) in shapes:
        stages += 1
    return Weights(lifter, int(first[2] if lifter == "semgcn" else first[0]), stages)


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> Weights:
    """The config of a tree of ours, by flat path. Raises InputError where it is no lifter."""
    del given
    count = lambda prefix: len({p.split("/")[0] for p in flat if p.startswith(prefix)})  # noqa: E731
    if "in/gconv/W" in flat:
        return Weights("semgcn", int(np.shape(flat["in/gconv/W"])[2]), count("res"))
    if "in/kernel" not in flat:
        raise InputError("the tree: has no in/kernel and no in/gconv/W, so it is no lifter")
    return Weights("mlp" if "in/bias" in flat else "vpose", int(np.shape(flat["in/kernel"])[1]), count("stage"))


def of_run(config: ConfigDict) -> dict[str, Any]:
    """The leaves of a run show everything."""
    del config
    return {}


LIFTER = Family(
    name="a lifter of poses",
    config=Weights,
    fields=tuple(f.name for f in dataclasses.fields(Weights)),
    untold=(),
    marks=("in_bn/scale", "in/gconv/W"),
    describe=lambda c: f"{c.lifter} of width {c.width}, {c.stages} stages, {JOINTS} joints",
    semantics=lambda c: {
        "bn_eps": 1e-5,
        "joints": "h36m16",
        "input": "normalised screen",
        "output": "metres, root-relative",
    },
    config_of_params=config_of_params,
    of_run=of_run,
)


def _layout(lifter: str) -> Layout:
    def store(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
        if config.lifter != lifter:
            raise InputError(f"these weights are of {config.lifter}, whose layout is {NAMES[config.lifter]}")
        return to_published(variables, config)

    return Layout(LIFTER, lambda source, given: infer(source.arrays, lifter), from_published, store)


NAMES = {"mlp": "poseaug_mlp", "vpose": "videopose3d", "semgcn": "semgcn"}
"""Lifter -> its layout."""
LAYOUTS = {name: _layout(lifter) for lifter, name in NAMES.items()}

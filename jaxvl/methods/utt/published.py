"""Checkpoints of UTT's published code (Flowerfan/Trackron): the whole model, trunk included. Its box heads stand in the
file twice; `pixel_mean` and `pixel_std` do not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys, resnet
from jaxvl.interop.keys import KeyReport, Rule
from jaxvl.interop.layouts import Family, Layout
from jaxvl.interop.resnet import ResNetConfig

COPY = "det_decoder.bbox_embed."
"""Prefix of the second copy of the box heads, the tensors of `box_head.`."""
DROPPED = (*resnet.DROPPED, keys.Dropped(rf"{re.escape(COPY)}.*", "the box heads once more; compared with the first"))
LEVELS = 4


@dataclasses.dataclass(frozen=True)
class Weights:
    """What shapes tell of a UTT, but for `heads`, which no shape of a published file tells. blocks, bottleneck, width:
    of the trunk; dim: C; ff_dim: of all transformers; pool, object_size: sides of patches and of the pooled target;
    box_layers: hidden layers of a box module; score: whether targets have one; points: of deformable attention. The
    counts of layers are of the parts they name."""

    blocks: tuple[int, ...]
    bottleneck: bool
    width: int
    dim: int
    ff_dim: int
    pool: int
    object_size: int
    iterations: int
    box_layers: int
    decoder_layers: int
    encoder_layers: int
    detector_layers: int
    queries: int
    classes: int
    score: bool
    heads: int = 8
    points: int = 4

    @property
    def trunk(self) -> ResNetConfig:
        """The trunk, without classifier."""
        return ResNetConfig(tuple(self.blocks), self.bottleneck, self.width)  # a list where it comes from JSON


def linear(key: str, path: str, inputs: int, outputs: int, bias: bool = True) -> list[Rule]:
    """A linear layer."""
    out = [Rule(f"{key}.weight", (outputs, inputs), (f"{path}/kernel",), keys.linear())]
    return out + ([Rule(f"{key}.bias", (outputs,), (f"{path}/bias",), keys.same())] if bias else [])


def norm(key: str, path: str, width: int) -> list[Rule]:
    """A LayerNorm."""
    names = (("weight", "scale"), ("bias", "bias"))
    return [Rule(f"{key}.{a}", (width,), (f"{path}/{b}",), keys.same()) for a, b in names]


def attention(key: str, path: str, width: int, heads: int) -> list[Rule]:
    """PyTorch's multi-head attention: rows of query, key and value above each other."""
    each = tuple(f"{path}/{name}" for name in ("query", "key", "value"))
    return [
        Rule(f"{key}.in_proj_weight", (3 * width, width), tuple(f"{p}/kernel" for p in each),
             keys.fused(keys.split_heads(heads))),
        Rule(f"{key}.in_proj_bias", (3 * width,), tuple(f"{p}/bias" for p in each),
             keys.fused(keys.split_heads_bias(heads))),
        Rule(f"{key}.out_proj.weight", (width, width), (f"{path}/out/kernel",), keys.merge_heads(heads)),
        Rule(f"{key}.out_proj.bias", (width,), (f"{path}/out/bias",), keys.same()),
    ]  # fmt: skip


def deformable(key: str, path: str, c: Weights) -> list[Rule]:
    """Deformable attention; rows of the offsets are ordered head, level, point, xy."""
    each = c.heads * LEVELS * c.points
    out = linear(f"{key}.sampling_offsets", f"{path}/sampling_offsets", c.dim, 2 * each)
    out += linear(f"{key}.attention_weights", f"{path}/attention_weights", c.dim, each)
    return out + [
        rule
        for name in ("value_proj", "output_proj")
        for rule in linear(f"{key}.{name}", f"{path}/{name}", c.dim, c.dim)
    ]


def feed_forward(key: str, path: str, c: Weights) -> list[Rule]:
    """The two linear layers of a transformer layer."""
    out = linear(f"{key}.linear1", f"{path}/ffn/linear1", c.dim, c.ff_dim)
    return out + linear(f"{key}.linear2", f"{path}/ffn/linear2", c.ff_dim, c.dim)


def convolution(key: str, path: str, inputs: int, outputs: int, size: int) -> list[Rule]:
    """A convolution with bias."""
    return [
        Rule(f"{key}.weight", (outputs, inputs, size, size), (f"{path}/kernel",), keys.transpose(2, 3, 1, 0)),
        Rule(f"{key}.bias", (outputs,), (f"{path}/bias",), keys.same()),
    ]


def conv_norm(key: str, path: str, inputs: int, outputs: int, size: int) -> list[Rule]:
    """A convolution with bias and its batch norm, `key.0` and `key.1`."""
    rules = convolution(f"{key}.0", f"{path}/conv", inputs, outputs, size)
    return rules + resnet.batch_norm_rules(f"{key}.1", f"{path}/bn", outputs)


def readout(key: str, path: str, c: Weights, outputs: int) -> list[Rule]:
    """A box or score module of the target transformer."""
    out = []
    for i in range(c.box_layers):
        out += linear(f"{key}.{i}.0", f"{path}/hidden{i}", c.dim, c.dim, bias=False)
        out += norm(f"{key}.{i}.1", f"{path}/norm{i}", c.dim)
    return out + linear(f"{key}.{c.box_layers}", f"{path}/out", c.dim, outputs)


def rules(c: Weights) -> list[Rule]:
    """Every tensor but step counters and the second copy of the box heads."""
    d = c.dim
    out = []
    for rule in resnet.rules(c.trunk):
        (path,) = rule.paths
        stats = path.startswith(keys.BATCH_STATS)
        moved = (keys.BATCH_STATS if stats else "") + "backbone/" + path.removeprefix(keys.BATCH_STATS)
        out.append(rule._replace(key=f"backbone.{rule.key}", paths=(moved,)))
    channels = [c.trunk.features // 4, c.trunk.features // 2, c.trunk.features, c.trunk.features]
    for name, ours in (("tracking_proj", "proj_track"), ("detection_proj", "proj_det")):
        for level, inputs in enumerate(channels):
            out += conv_norm(f"{name}.{level}", f"{ours}/level{level}", inputs, d, 3 if level == 3 else 1)
    halves = keys.Transform(
        "halves: position, content", lambda x: tuple(np.split(x, 2, 1)), lambda a, b: np.concatenate([a, b], 1)
    )
    out += [
        Rule("level_embed", (LEVELS, d), ("detector/level_embed",), keys.same()),
        Rule("query_embed.weight", (c.queries, 2 * d), ("detector/query_pos", "detector/query_content"), halves),
    ]
    out += linear("reference_points", "detector/reference_points", d, 2)
    for i in range(c.encoder_layers):
        key, path = f"encoder.layers.{i}", f"detector/encoder{i}"
        out += deformable(f"{key}.self_attn", f"{path}/self_attn", c) + feed_forward(key, path, c)
        out += norm(f"{key}.norm1", f"{path}/norm1", d) + norm(f"{key}.norm2", f"{path}/norm2", d)
    for i in range(c.detector_layers):
        key, path = f"det_decoder.layers.{i}", f"detector/decoder{i}"
        out += deformable(f"{key}.cross_attn", f"{path}/cross_attn", c)
        out += attention(f"{key}.self_attn", f"{path}/self_attn", d, c.heads) + feed_forward(key, path, c)
        out += [r for n in (1, 2, 3) for r in norm(f"{key}.norm{n}", f"{path}/norm{n}", d)]
        for j, outputs in enumerate((d, d, 4)):
            out += linear(f"box_head.{i}.layers.{j}", f"detector/box{i}/layer{j}", d, outputs)
        out += linear(f"class_head.{i}", f"detector/class{i}", d, c.classes)
    out += linear("target_proj.0", "target/proj", d * c.object_size**2, d) + norm("target_proj.1", "target/norm", d)
    for i in range(c.decoder_layers):
        key, path = f"sot_decoder.layers.{i}", f"sot_decoder/layer{i}"
        out += attention(f"{key}.self_attn", f"{path}/self_attn", d, c.heads)
        out += attention(f"{key}.multihead_attn", f"{path}/cross_attn", d, c.heads) + feed_forward(key, path, c)
        out += [r for n in (1, 2, 3) for r in norm(f"{key}.norm{n}", f"{path}/norm{n}", d)]
    out += norm("sot_decoder.norm", "sot_decoder/norm", d)
    widths = [d, d, d // 2, d // 4, d // 8]
    for i in range(4):
        out += conv_norm(f"sot_proposal.conv{i + 1}", f"corner/conv{i + 1}", widths[i], widths[i + 1], 3)
    out += convolution("sot_proposal.conv5", "corner/conv5", widths[4], 2, 1)
    for i in range(c.iterations):
        key, path = f"track_head.interact_layers.{i}", f"track/layer{i}"
        out += attention(f"{key}.self_attn", f"{path}/self_attn", d, c.heads) + feed_forward(key, path, c)
        out += linear(f"{key}.interact.fc1", f"{path}/interact/fc1", d * c.pool**2, 2 * d)
        out += norm(f"{key}.interact.norm1", f"{path}/interact/norm1", 2 * d)
        out += linear(f"{key}.interact.fc2", f"{path}/interact/fc2", 2 * d, d)
        out += norm(f"{key}.interact.norm2", f"{path}/interact/norm2", d)
        out += [r for n in (1, 2, 3) for r in norm(f"{key}.norm{n}", f"{path}/norm{n}", d)]
        out += readout(f"track_head.box_module.{i}", f"track/box{i}", c, 4)
        out += readout(f"track_head.score_module.{i}", f"track/score{i}", c, 1) if c.score else []
    return out


def from_published(arrays: Mapping[str, np.ndarray], config: Weights) -> tuple[dict[str, Any], KeyReport]:
    """Published keys -> variables. Raises InputError where the two copies of the box heads differ."""
    arrays = keys.plain_keys(arrays)
    keys.check_copies(arrays, copies(arrays))
    flat, report = keys.forward(rules(config), arrays, DROPPED)
    return keys.to_variables(flat), report


def to_published(variables: Mapping[str, Any], config: Weights) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse, with both copies of the box heads and with step counters."""
    arrays, report = keys.backward(rules(config), keys.to_flat(variables))
    arrays = keys.with_step_counters(arrays)
    return arrays | {copy: arrays[key] for key, copy in copies(arrays).items()}, report


def copies(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Key of a box head -> key of its copy."""
    return {k: COPY + k.removeprefix("box_head.") for k in arrays if k.startswith("box_head.")}


def count_of(arrays: Mapping[str, Any], pattern: str) -> int:
    """One more than the largest number that `pattern` finds in a key, 0 for none."""
    found = [int(m[1]) for k in arrays if (m := re.match(pattern, k))]
    return max(found) + 1 if found else 0


def infer(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Weights:
    """The config that shapes imply; `given` fields are taken as they are. Raises InputError for another model."""
    arrays = keys.plain_keys(arrays)
    sampling = "det_decoder.layers.0.cross_attn.attention_weights.bias"
    for name in ("level_embed", "query_embed.weight", "track_head.interact_layers.0.interact.fc1.weight", sampling):
        if name not in arrays:
            raise InputError(
                f"the file has no tensor {name}, so it is no UTT of Trackron; plain trunks are torchvision_resnet"
            )
    trunk = resnet.infer_config(
        {k.removeprefix("backbone."): v for k, v in arrays.items() if k.startswith("backbone.")}, {}
    )
    if "detection_proj.0.1.running_mean" not in arrays:
        raise InputError("detection_proj: has no batch norm; Deformable DETR's GroupNorm cannot be converted")
    shape = lambda key: np.shape(arrays[key])  # noqa: E731
    d, heads = int(shape("level_embed")[1]), int(given.get("heads", 8))
    fields = {
        **{"blocks": trunk.blocks, "bottleneck": trunk.bottleneck, "width": trunk.width, "dim": d},
        "ff_dim": int(shape("track_head.interact_layers.0.linear1.weight")[0]),
        "pool": round((shape("track_head.interact_layers.0.interact.fc1.weight")[1] / d) ** 0.5),
        "object_size": round((shape("target_proj.0.weight")[1] / d) ** 0.5),
        "iterations": count_of(arrays, r"track_head\.interact_layers\.(\d+)\."),
        "box_layers": count_of(arrays, r"track_head\.box_module\.0\.(\d+)\.") - 1,
        "decoder_layers": count_of(arrays, r"sot_decoder\.layers\.(\d+)\."),
        "encoder_layers": count_of(arrays, r"encoder\.layers\.(\d+)\."),
        "detector_layers": count_of(arrays, r"det_decoder\.layers\.(\d+)\."),
        "queries": int(shape("query_embed.weight")[0]),
        "classes": int(shape("class_head.0.weight")[0]) if "class_head.0.weight" in arrays else 0,
        "score": any(k.startswith("track_head.score_module.") for k in arrays),
        "heads": heads,
        "points": int(shape(sampling)[0]) // (heads * LEVELS),
    }
    return Weights(**(fields | dict(given)))


def config_of_params(flat: Mapping[str, np.ndarray], given: Mapping[str, Any] | None = None) -> Weights:
    """The config of a tree of ours, by flat path."""
    if "detector/query_pos" not in flat or "corner/conv5/kernel" not in flat:
        raise InputError("this UTT lacks parts of the published one (deformable detector, corner head); no export")
    trunk = resnet.config_of_params(
        {p.removeprefix("backbone/"): v for p, v in flat.items() if p.startswith("backbone/")}
    )
    queries, d = np.shape(flat["detector/query_pos"])
    heads = int(np.shape(flat["track/layer0/self_attn/query/kernel"])[1])
    fields = {
        **{"blocks": trunk.blocks, "bottleneck": trunk.bottleneck, "width": trunk.width, "dim": int(d)},
        "ff_dim": int(np.shape(flat["track/layer0/ffn/linear1/kernel"])[1]),
        "pool": round((np.shape(flat["track/layer0/interact/fc1/kernel"])[0] / d) ** 0.5),
        "object_size": round((np.shape(flat["target/proj/kernel"])[0] / d) ** 0.5),
        "iterations": count_of(flat, r"track/layer(\d+)/"),
        "box_layers": count_of(flat, r"track/box0/hidden(\d+)/"),
        "decoder_layers": count_of(flat, r"sot_decoder/layer(\d+)/"),
        "encoder_layers": count_of(flat, r"detector/encoder(\d+)/"),
        "detector_layers": count_of(flat, r"detector/decoder(\d+)/"),
        "queries": int(queries),
        "classes": int(np.shape(flat["detector/class0/bias"])[0]),
        "score": "track/score0/out/kernel" in flat,
        "heads": heads,
        "points": int(np.shape(flat["detector/decoder0/cross_attn/attention_weights/bias"])[0]) // (heads * LEVELS),
    }
    return Weights(**(fields | dict(given or {})))


def semantics(c: Weights) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    return {**resnet.semantics(c.trunk), "offset_norm": "hw", "person": "class index 1"}


UTT = Family(
    name="a UTT",
    config=Weights,
    fields=tuple(f.name for f in dataclasses.fields(Weights)),
    untold=(),
    marks=("backbone/stem/conv/kernel",),
    describe=lambda c: (
        f"UTT on {resnet.describe(c.trunk)}; C {c.dim}, {c.iterations} iterations, {c.queries} queries, "
        f"{c.classes} classes"
    ),
    semantics=semantics,
    config_of_params=config_of_params,
)

LAYOUTS = {
    "trackron": Layout(
        UTT, lambda source, given: infer(source.arrays, {**source.stated, **given}), from_published, to_published
    )
}

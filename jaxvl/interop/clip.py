"""CLIP's published layout (OpenAI, also open_clip), to and from the tree of `jaxvl.nn.clip`.

Every converter is pure: `from_X(arrays, config) -> (variables, KeyReport)` and `to_X(variables, config) ->
(arrays, KeyReport)`, all arrays float32. Released archives hold fp16 matrices, which float32 keeps exactly.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import keys
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.nn.clip import PIXEL_MEAN, PIXEL_STD, CLIPConfig
from jaxvl.nn.clip_resnet import STRIDE
from jaxvl.nn.positional import resize_positions

Arrays = Mapping[str, np.ndarray]
HEAD_WIDTH = 64
WIDER_HEADS = {1280: 80, 1408: 88, 1664: 104}
"""Widths of the image towers H, g and bigG (open_clip, DFN, MetaCLIP), whose heads are wider than 64."""
FIELDS = tuple(
    f.name
    for f in dataclasses.fields(CLIPConfig)
    if f.name not in ("dtype", "remat", "attention", "scan_layers", "frozen_layers", "logit_scale_init")
)
"""The fields of `CLIPConfig` that belong to weights; the others belong to a run."""

OPENAI_DROPPED = (
    Dropped(r"(input_resolution|context_length|vocab_size)", "a size, not a weight"),
    Dropped(r".*\.num_batches_tracked", "step counter of a BatchNorm, of no use"),
)


def openai_rules(config: CLIPConfig) -> list[Rule]:
    """Every tensor of OpenAI's layout: 302 for ViT-B, 446 for ViT-L; for RN50 434, which its 55 step counters make
    489. Raises InputError for `linear_patch='3d'`, which only CLIP4Clip's layout holds."""
    if config.linear_patch == "3d":
        raise InputError("linear_patch '3d': only the layouts clip4clip and centerclip hold patches of three frames")
    wt, e = config.text_width, config.embed_dim
    rules = _resnet_rules(config) if config.vision_blocks else _vit_rules(config)
    rules += [
        Rule("token_embedding.weight", (config.vocab_size, wt), ("text/token_embedding/embedding",), keys.same()),
        Rule("positional_embedding", (config.context_length, wt), ("text/positional_embedding",), keys.same()),
        *norm_rules("ln_final", "text/ln_final", wt),
        Rule("text_projection", (wt, e), ("text/text_projection",), keys.same()),
        Rule("logit_scale", (), ("logit_scale",), keys.same()),
    ]
    for i in range(config.text_layers):
        rules += block_rules(f"transformer.resblocks.{i}", f"text/resblocks_{i}", wt, config.text_heads)
    return rules


def norm_rules(key: str, path: str, width: int) -> list[Rule]:
    """LayerNorm or affine part of a BatchNorm: `weight, bias` -> `scale, bias`."""
    return [
        Rule(f"{key}.weight", (width,), (f"{path}/scale",), keys.same()),
        Rule(f"{key}.bias", (width,), (f"{path}/bias",), keys.same()),
    ]


def linear_rules(key: str, path: str, inputs: int, outputs: int) -> list[Rule]:
    """Linear layer: `weight [out, in], bias` -> `kernel [in, out], bias`."""
    return [
        Rule(f"{key}.weight", (outputs, inputs), (f"{path}/kernel",), keys.linear()),
        Rule(f"{key}.bias", (outputs,), (f"{path}/bias",), keys.same()),
    ]


def block_rules(key: str, path: str, width: int, heads: int) -> list[Rule]:
    """The 12 tensors of one residual block, query, key and value fused."""
    qkv = [f"{path}/attn/{name}" for name in ("query", "key", "value")]
    return [
        Rule(
            f"{key}.attn.in_proj_weight",
            (3 * width, width),
            tuple(f"{p}/kernel" for p in qkv),
            keys.fused(keys.split_heads(heads)),
        ),
        Rule(
            f"{key}.attn.in_proj_bias",
            (3 * width,),
            tuple(f"{p}/bias" for p in qkv),
            keys.fused(keys.split_heads_bias(heads)),
        ),
        Rule(f"{key}.attn.out_proj.weight", (width, width), (f"{path}/attn/out/kernel",), keys.merge_heads(heads)),
        Rule(f"{key}.attn.out_proj.bias", (width,), (f"{path}/attn/out/bias",), keys.same()),
        *norm_rules(f"{key}.ln_1", f"{path}/ln_1", width),
        *norm_rules(f"{key}.ln_2", f"{path}/ln_2", width),
        *linear_rules(f"{key}.mlp.c_fc", f"{path}/mlp/c_fc", width, 4 * width),
        *linear_rules(f"{key}.mlp.c_proj", f"{path}/mlp/c_proj", 4 * width, width),
    ]


def _vit_rules(config: CLIPConfig) -> list[Rule]:
    w, p = config.vision_width, config.patch_size
    rules = [
        Rule("visual.conv1.weight", (w, 3, p, p), ("visual/patch_embed/kernel",), keys.transpose(2, 3, 1, 0)),
        Rule("visual.class_embedding", (w,), ("visual/class_embedding",), keys.same()),
        Rule("visual.positional_embedding", (config.patches + 1, w), ("visual/positional_embedding",), keys.same()),
        *norm_rules("visual.ln_pre", "visual/ln_pre", w),
        *norm_rules("visual.ln_post", "visual/ln_post", w),
        Rule("visual.proj", (w, config.embed_dim), ("visual/proj",), keys.same()),
    ]
    for i in range(config.vision_layers):
        rules += block_rules(f"visual.transformer.resblocks.{i}", f"visual/resblocks_{i}", w, config.vision_heads)
    return rules


def _resnet_rules(config: CLIPConfig) -> list[Rule]:
    w, rules = config.vision_width, []

    def conv(key: str, path: str, inputs: int, outputs: int, size: int) -> None:
        rules.append(
            Rule(
                f"visual.{key}.weight",
                (outputs, inputs, size, size),
                (f"visual/{path}/kernel",),
                keys.transpose(2, 3, 1, 0),
            )
        )

    def norm(key: str, path: str, width: int) -> None:
        rules.extend(norm_rules(f"visual.{key}", f"visual/{path}", width))
        for old, new in (("running_mean", "mean"), ("running_var", "var")):
            where = (f"{keys.BATCH_STATS}visual/{path}/{new}",)
            rules.append(Rule(f"visual.{key}.{old}", (width,), where, keys.same()))

    for n, (inputs, outputs) in enumerate(((3, w // 2), (w // 2, w // 2), (w // 2, w)), 1):
        conv(f"conv{n}", f"stem_conv{n}", inputs, outputs, 3)
        norm(f"bn{n}", f"stem_bn{n}", outputs)
    inputs = w
    for stage, blocks in enumerate(config.vision_blocks):
        planes = w * 2**stage
        for b in range(blocks):
            key, path = f"layer{stage + 1}.{b}", f"layer{stage + 1}_{b}"
            for n, shape in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)), 1):
                conv(f"{key}.conv{n}", f"{path}/conv{n}", *shape)
                norm(f"{key}.bn{n}", f"{path}/bn{n}", shape[1])
            if b == 0:
                conv(f"{key}.downsample.0", f"{path}/downsample_conv", inputs, 4 * planes, 1)
                norm(f"{key}.downsample.1", f"{path}/downsample_bn", 4 * planes)
            inputs = 4 * planes
    c, h = 32 * w, config.vision_heads
    pool, ours = "visual.attnpool", "visual/attnpool"
    rules.append(
        Rule(f"{pool}.positional_embedding", (config.patches + 1, c), (f"{ours}/positional_embedding",), keys.same())
    )
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        rules.append(Rule(f"{pool}.{letter}_proj.weight", (c, c), (f"{ours}/{name}/kernel",), keys.split_heads(h)))
        rules.append(Rule(f"{pool}.{letter}_proj.bias", (c,), (f"{ours}/{name}/bias",), keys.split_heads_bias(h)))
    e = config.embed_dim
    rules.append(Rule(f"{pool}.c_proj.weight", (e, c), (f"{ours}/out/kernel",), keys.merge_heads(h)))
    rules.append(Rule(f"{pool}.c_proj.bias", (e,), (f"{ours}/out/bias",), keys.same()))
    return rules


def from_openai(arrays: Arrays, config: CLIPConfig) -> tuple[dict[str, Any], KeyReport]:
    """OpenAI's layout (also open_clip's) -> variables."""
    flat, report = keys.forward(openai_rules(config), arrays, OPENAI_DROPPED)
    return keys.to_variables(flat), report


def to_openai(variables: Mapping[str, Any], config: CLIPConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse of `from_openai`; the step counters of BatchNorm come out as 0."""
    arrays, report = keys.backward(openai_rules(config), keys.to_flat(variables))
    return keys.with_step_counters(arrays), report


def infer_config(arrays: Arrays, given: Mapping[str, Any] | None = None, prefix: str = "") -> CLIPConfig:
    """The config that the shapes of OpenAI-layout arrays imply; `given` fields are taken as they are.

    Heads are 64 wide, those of H, g and bigG wider, as in every released model; other models need `vision_heads`
    and `text_heads` in `given`, as shapes do not tell. Nor do they tell `activation` and `ln_eps`. Raises
    InputError for another layout.
    """

    def shape(key: str, axes: int = 1) -> tuple[int, ...]:
        if prefix + key not in arrays:
            raise InputError(f"the file has no tensor {prefix + key}; {layout_hint(arrays)}")
        found = np.shape(arrays[prefix + key])
        if len(found) < axes:
            raise InputError(
                f"the tensor {prefix + key} has shape {list(found)}, where {axes} axes or more are published"
            )
        return found

    def blocks(pattern: str) -> int:
        pattern = re.escape(prefix) + pattern
        return len({m.group(1) for m in (re.match(pattern, k) for k in arrays) if m})

    fields: dict[str, Any] = {
        "vocab_size": shape("token_embedding.weight")[0],
        "context_length": shape("positional_embedding")[0],
        "text_width": shape("ln_final.weight")[0],
        "text_layers": blocks(r"transformer\.resblocks\.(\d+)\."),
        "embed_dim": shape("text_projection", 2)[1],
    }
    if f"{prefix}visual.layer1.0.conv1.weight" in arrays:
        width = shape("visual.layer1.0.conv1.weight")[0]
        stages = tuple(blocks(rf"visual\.layer{n}\.(\d+)\.") for n in range(1, 5))
        side = _side(shape("visual.attnpool.positional_embedding")[0] - 1)
        fields |= {"vision_blocks": stages, "vision_width": width, "patch_size": STRIDE, "image_size": STRIDE * side}
        fields["vision_heads"] = _heads(32 * width)
    else:
        width, *_, patch = shape("visual.conv1.weight", 4)
        side = _side(shape("visual.positional_embedding")[0] - 1)
        fields |= {"vision_width": width, "patch_size": patch, "image_size": patch * side}
        fields["vision_layers"] = blocks(r"visual\.transformer\.resblocks\.(\d+)\.")
        fields["vision_heads"] = _heads(width, WIDER_HEADS.get(width, HEAD_WIDTH))
        if f"{prefix}visual.conv2.weight" in arrays:
            fields["linear_patch"] = "3d"
    fields["text_heads"] = _heads(fields["text_width"])
    fields |= given or {}
    for name in ("vision_heads", "text_heads"):
        if fields[name] is None:
            raise InputError(f"{name}: the width is not a multiple of {HEAD_WIDTH}, so the file does not tell; give it")
    return CLIPConfig(**fields)


def _heads(width: int, each: int = HEAD_WIDTH) -> int | None:
    return None if width % each else width // each


def layout_hint(arrays: Arrays) -> str:
    """What kind of file these keys look like."""
    if not arrays:
        return "it holds no tensor at all"
    for prefix, name in (
        ("vision_model.", "it looks like Hugging Face's layout (hf_clip)"),
        ("clip.", "it looks like CLIP4Clip's layout (clip4clip)"),
        ("visual.", "it looks like OpenAI's layout (openai_clip)"),
        ("module.", "its keys start with 'module.', as those of a wrapped model; take that off with --prefix module."),
    ):
        if any(k.startswith(prefix) for k in arrays):
            return name
    return f"its tensors are {', '.join(list(arrays)[:3])}, ..., which is no known layout of CLIP"


def _side(cells: int) -> int:
    side = round(max(cells, 0) ** 0.5)
    if side * side != cells or not side:
        raise InputError(f"the positional embedding of the image tower has {cells} + 1 rows, which is no square grid")
    return side


def describe(config: CLIPConfig) -> str:
    """One line on a CLIP."""
    blocks = config.vision_blocks or config.vision_layers
    patch = config.patch_size if config.linear_patch == "2d" else f"3x{config.patch_size}x{config.patch_size}"
    return (
        f"image {config.image_size} patch {patch} width {config.vision_width} blocks {blocks} "
        f"heads {config.vision_heads}; text width {config.text_width} blocks {config.text_layers} "
        f"heads {config.text_heads} length {config.context_length}; joint {config.embed_dim}; {config.activation}"
    )


def semantics(config: CLIPConfig) -> dict[str, Any]:
    """What the weights expect and shapes do not tell."""
    return {
        "activation": config.activation,
        "ln_eps": config.ln_eps,
        "text_pooling": "argmax of ids" if config.eos_token_id is None else f"first {config.eos_token_id}",
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
    }


def resize(
    config: CLIPConfig, flat: Arrays, image_size: int, interpolation: str
) -> tuple[CLIPConfig, dict[str, np.ndarray]]:
    """Config and leaves for another image size, the image positions interpolated by a name of
    `jaxvl.nn.positional.RULES`; text positions never are."""
    config = dataclasses.replace(config, image_size=image_size)
    paths = ("visual/positional_embedding", "visual/attnpool/positional_embedding")
    tables = {p: resize_positions(flat[p], config.grid, interpolation) for p in paths if p in flat}
    return config, {**flat, **tables}


def config_of_params(flat: Arrays, given: Mapping[str, Any] | None = None) -> CLIPConfig:
    """The config of a tree of ours, by flat path; heads are read off the attention kernels. `given` as in
    `infer_config`. Raises InputError where this is no CLIP."""

    def shape(path: str) -> tuple[int, ...]:
        if path not in flat:
            raise InputError(f"these weights hold no {path}, so they are no CLIP of ours")
        return np.shape(flat[path])

    def blocks(tower: str) -> int:
        return len({p.split("/")[1] for p in flat if p.startswith(f"{tower}/resblocks_")})

    fields: dict[str, Any] = {
        "vocab_size": shape("text/token_embedding/embedding")[0],
        "context_length": shape("text/positional_embedding")[0],
        "text_width": shape("text/ln_final/scale")[0],
        "text_layers": blocks("text"),
        "text_heads": shape("text/resblocks_0/attn/query/kernel")[1],
        "embed_dim": shape("text/text_projection")[1],
    }
    if "visual/stem_conv1/kernel" in flat:
        counts = [len({p.split("/")[1] for p in flat if p.startswith(f"visual/layer{n}_")}) for n in range(1, 5)]
        side = _side(shape("visual/attnpool/positional_embedding")[0] - 1)
        fields |= {"vision_blocks": tuple(counts), "vision_width": shape("visual/stem_conv3/kernel")[3]}
        fields |= {"vision_heads": shape("visual/attnpool/query/kernel")[1], "patch_size": STRIDE}
        fields["image_size"] = STRIDE * side
    else:
        patch, _, _, width = shape("visual/patch_embed/kernel")
        side = _side(shape("visual/positional_embedding")[0] - 1)
        fields |= {"vision_width": width, "patch_size": patch, "image_size": patch * side}
        fields |= {"vision_layers": blocks("visual")}
        fields["vision_heads"] = shape("visual/resblocks_0/attn/query/kernel")[1]
        if "visual/patch_embed/kernel_around" in flat:
            fields["linear_patch"] = "3d"
    return CLIPConfig(**(fields | dict(given or {})))

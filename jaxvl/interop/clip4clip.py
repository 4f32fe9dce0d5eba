"""CLIP4Clip's published layout (ArrowLuo/CLIP4Clip): a CLIP under `clip.` and its similarity head beside it.

The head lands under `head/` with its published names: `frame_position_embeddings`, `transformerClip`,
`lstm_visual`, `cross`, `similarity_dense`, the trees of `jaxvl.nn.video_heads`.
With `linear_patch='3d'` the patches of three frames are `visual.conv2`; the published code then still carries
`visual.conv1` in its files, but does not read it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvl.interop import clip, keys
from jaxvl.interop.clip import Arrays
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.nn.clip import CLIPConfig

PREFIX = "clip."
DROPPED = (
    *(Dropped(f"clip\\.{d.pattern}", d.reason) for d in clip.OPENAI_DROPPED),
    Dropped(r"clip\.visual\.position_ids", "a range of integers"),
)
PATCH_2D, PATCH_3D = f"{PREFIX}visual.conv1.weight", f"{PREFIX}visual.conv2.weight"
UNREAD_PATCH = Dropped(re.escape(PATCH_2D), "not read with linear_patch 3d")


def infer_config(arrays: Arrays, given: Mapping[str, Any] | None = None) -> CLIPConfig:
    """`clip.infer_config` of the CLIP in keys as `keys.plain_keys` gives them."""
    return clip.infer_config(arrays, given, PREFIX)


def rules(config: CLIPConfig, present: Mapping[str, Any]) -> list[Rule]:
    """Rules for the CLIP and for every part of a head of which a tensor is `present` (arrays by published key, or by
    path). The frame positions have as many rows as there are, by rights those of the text positions."""
    e, heads = config.embed_dim, config.text_heads  # a head starts as a copy of the text tower
    out = keys.prefixed(clip.openai_rules(dataclasses.replace(config, linear_patch="2d")), PREFIX)
    if config.linear_patch == "3d":
        w, p = config.vision_width, config.patch_size
        leaves = ("visual/patch_embed/kernel", "visual/patch_embed/kernel_around")
        out = [r for r in out if r.key != PATCH_2D] + [Rule(PATCH_3D, (w, 3, 3, p, p), leaves, three_frames())]

    def table(key: str, path: str) -> None:
        if key in present or path in present:
            rows = next(iter(np.shape(present.get(key, present.get(path)))), 0)
            out.append(Rule(key, (rows, e), (path,), keys.same()))

    def blocks(key: str, path: str) -> bool:
        pattern = re.compile(rf"(?:{re.escape(key)}\.resblocks\.|{re.escape(path)}/resblocks_)(\d+)[./]")
        numbers = {int(m.group(1)) for m in map(pattern.match, present) if m}
        for i in range(max(numbers, default=-1) + 1):
            out.extend(clip.block_rules(f"{key}.resblocks.{i}", f"{path}/resblocks_{i}", e, heads))
        return bool(numbers)

    table("frame_position_embeddings.weight", "head/frame_position_embeddings")
    blocks("transformerClip", "head/transformerClip")
    if {"lstm_visual.weight_ih_l0", "head/lstm_visual/weight_ih_l0"} & set(present):
        for name in ("ih", "hh"):
            weight, bias = f"weight_{name}_l0", f"bias_{name}_l0"
            out.append(Rule(f"lstm_visual.{weight}", (4 * e, e), (f"head/lstm_visual/{weight}",), keys.linear()))
            out.append(Rule(f"lstm_visual.{bias}", (4 * e,), (f"head/lstm_visual/{bias}",), keys.same()))
    table("cross.embeddings.position_embeddings.weight", "head/cross/embeddings/position_embeddings")
    if blocks("cross.transformer", "head/cross/transformer"):
        out += clip.norm_rules("cross.pooler.ln_pool", "head/cross/pooler/ln_pool", e)
        out += clip.linear_rules("cross.pooler.dense", "head/cross/pooler/dense", e, e)
        out += clip.linear_rules("similarity_dense", "head/similarity_dense", e, 1)
    return out


def three_frames() -> keys.Transform:
    """Kernel `[W, 3, frame, p, p]` over three frames to its middle slice `[p, p, 3, W]` and the two around it."""

    def split(x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = x.transpose(2, 3, 4, 1, 0)
        return x[1], x[::2]

    def join(middle: np.ndarray, around: np.ndarray) -> np.ndarray:
        return np.stack([around[0], middle, around[1]]).transpose(4, 3, 0, 1, 2)

    return keys.Transform("frames apart, transpose", split, join)


def dropped(config: CLIPConfig) -> tuple[Dropped, ...]:
    """The published keys that no leaf holds."""
    return (*DROPPED, UNREAD_PATCH) if config.linear_patch == "3d" else DROPPED


def with_unread_patch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the 2d kernel that the published code expects beside a 3d one and does not read: its middle slice."""
    if PATCH_3D not in arrays:
        return dict(arrays)
    return {**arrays, PATCH_2D: np.ascontiguousarray(arrays[PATCH_3D][:, :, 1])}


def from_clip4clip(arrays: Arrays, config: CLIPConfig) -> tuple[dict[str, Any], KeyReport]:
    """CLIP4Clip's layout -> variables of a CLIP with `params/head/...`; `module.` is stripped."""
    arrays = keys.plain_keys(arrays)
    flat, report = keys.forward(rules(config, arrays), arrays, dropped(config))
    return keys.to_variables(flat), report


def to_clip4clip(variables: Mapping[str, Any], config: CLIPConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse of `from_clip4clip`, without `module.`."""
    flat = keys.to_flat(variables)
    arrays, report = keys.backward(rules(config, flat), flat)
    return with_unread_patch(keys.with_step_counters(arrays)), report

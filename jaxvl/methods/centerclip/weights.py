"""Starting CenterCLIP from a converted CLIP (or CLIP4Clip, CenterCLIP) checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.weights import merge_variables
from jaxvl.methods.centerclip.method import model_config
from jaxvl.methods.centerclip.model import init_cluster_embed
from jaxvl.nn.video_heads import init_from_text_tower

SEMANTICS = ("activation", "ln_eps", "image_size", "eos_token_id")  # what keys and shapes cannot show


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in. What a plain CLIP lacks is started as published: the head from the
    text tower, the cluster embedding from CLIP's positions, patches of three frames from those of one. Anything else
    that is missing or left over is an error, and so are weights made for another activation, norm epsilon or
    resolution."""
    own, theirs = model_config(config).clip, info.get("config", {})
    for name in SEMANTICS:
        if name in theirs and theirs[name] != getattr(own, name):
            if name not in config.model:
                raise InputError(
                    f"{config.init.weights}: end texts with the id {theirs[name]}, this model with the highest id; if "
                    f"that is what they mean, convert again with --set {name}=None"
                )
            raise InputError(
                f"{config.init.weights}: were made with {name} = {theirs[name]!r}, config.model has "
                f"{getattr(own, name)!r}; set config.model.{name}, or convert again (--image-size for the resolution)"
            )
    if theirs.get("linear_patch") == "3d" and own.linear_patch != "3d":
        raise InputError(f"{config.init.weights}: hold patches of three frames; set config.model.linear_patch to '3d'")
    has_head = any(k.startswith("head/") for k in flat)
    has_embed = any("/cluster_embed" in k for k in flat)
    allow = ([] if has_head else [r"head/.*"]) + ([] if has_embed else [r"visual/reduce_\d+/cluster_embed"])
    if "visual/patch_embed/kernel_around" not in flat:
        allow.append("visual/patch_embed/kernel_around")  # zero at the start: the 2d kernel of the middle frame acts
    # a head that this model does not use is left behind; published seqLSTM files hold positions that it never reads
    unexpected = {"meanP": [r"head/.*"], "seqLSTM": [r"head/frame_position_embeddings"]}.get(config.model.head, [])
    merged = merge_variables(
        variables, flat, allow_missing=allow, allow_unexpected=unexpected, source=str(config.init.weights)
    )
    params = merged["params"]
    if not has_head and "head" in params:
        params["head"] = init_from_text_tower(params["head"], params["text"])
    return merged if has_embed else {**merged, "params": init_cluster_embed(params)}

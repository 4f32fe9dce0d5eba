"""Starting UTT from a converted ResNet, or from a UTT (a published one, or another run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.keys import BATCH_STATS
from jaxvl.interop.weights import merge_variables
from jaxvl.methods.utt.method import model_config

OWN = ("backbone/", f"{BATCH_STATS}backbone/")


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in.

    A plain ResNet becomes the trunk (stages that this model has not, and the classifier, are left behind) and
    everything else starts fresh. Of a UTT everything is taken; parts that only the file has are left behind if this
    model was told to do without them. Anything else that is missing or left over is an error that lists both sides.
    """
    cfg, source = model_config(config), str(config.init.weights)
    norm = info.get("semantics", {}).get("offset_norm")
    if norm and cfg.detector == "deformable" and norm != cfg.offset_norm:
        raise InputError(f"config.model.offset_norm: {cfg.offset_norm!r}, but {source} was made with {norm!r}")
    if any(path.startswith(OWN) for path in flat):
        parts = {"target_decoder": "sot_decoder", "proposal_decoder": "corner"}
        spare = [rf"{part}/.*" for flag, part in parts.items() if not getattr(cfg, flag)]
        spare += [r"(detector|proj_det)/.*"] if cfg.detector != "deformable" else []
        spare += [rf"{BATCH_STATS}{pattern}" for pattern in spare]
        return merge_variables(variables, flat, allow_unexpected=spare, source=source)
    trunk = {}
    for path, value in flat.items():
        stats = path.startswith(BATCH_STATS)
        plain = path.removeprefix(BATCH_STATS) if stats else path
        if not plain.startswith(("fc/", *(f"layer{s}_" for s in range(cfg.stages + 1, 5)))):
            trunk[f"{OWN[stats]}{plain}"] = value
    fresh = [rf"({BATCH_STATS})?(?!backbone/|{BATCH_STATS}).*"]
    return merge_variables(variables, trunk, allow_missing=fresh, source=source)

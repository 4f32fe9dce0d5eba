"""Starting SlimCLR from converted checkpoints, or a linear probe from a pre-training run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.interop.keys import BATCH_STATS, to_flat
from jaxvl.interop.weights import merge_variables
from jaxvl.methods.slimclr.frameworks import WITH_KEYS, WITH_LABELS
from jaxvl.methods.slimclr.method import not_of_narrow_widths

OF_PRETRAINING = (
    r"(key|key_stats|queue|predictor)/.*",
    BATCH_STATS + r"predictor/.*",
    r"(batch_stats/)?encoder/head/.*",
)
"""What only pre-training needs."""


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in.

    A probe or supervised run takes the trunk and keeps its own classifiers, unless the weights are of such a run. Plain
    MoCo fills the full width; norms of narrower widths stay as initialised, and the key encoder becomes a copy. Any
    other difference is an error that lists both sides.
    """
    source, missing, unexpected = str(config.init.weights), [], []
    labelled = config.model.framework in WITH_LABELS
    own_head = any(p.startswith("encoder/head/fc_w") or p == "encoder/head/fc/kernel" for p in flat)
    own_head = own_head and not any(p.startswith(("key/", "queue/", "predictor/")) for p in flat)
    if labelled and not own_head:
        missing.append(r"encoder/head/.*")
        unexpected += OF_PRETRAINING
    if info.get("family") == "moco":
        missing += [r"(key|key_stats|queue|predictor)/.*", BATCH_STATS + r"predictor/.*"]
        missing += [re.escape(p) for p in to_flat(variables) if not not_of_narrow_widths(p)]
        if not any(p.startswith("encoder/head/") for p in flat):
            missing.append(r"(batch_stats/)?encoder/head/.*")
    out = merge_variables(variables, flat, allow_missing=missing, allow_unexpected=unexpected, source=source)
    if info.get("family") == "moco" and config.model.framework in WITH_KEYS:
        out["key"], out["key_stats"] = out["params"]["encoder"], out["batch_stats"]["encoder"]
    return out

"""Starting DRDR from a converted ResNet, or from a DRDR (a published one, or another run)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.keys import BATCH_STATS
from jaxvl.interop.weights import merge_variables

OWN = ("trunk/", f"{BATCH_STATS}trunk/")


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in.

    A plain ResNet becomes the trunk, its classifier is left behind, and bottleneck, classifier and anchors start fresh.
    Of a DRDR everything is taken; only anchors may be missing (published files lack them: they start at zero). Anything
    else that is missing or left over is an error.
    """
    del info
    if config.model.trunk == "none":
        raise InputError("config.init.weights: a model without trunk (config.model.trunk 'none') takes no weights")
    if any(path.startswith(OWN) for path in flat):
        return merge_variables(variables, flat, allow_missing=[r"radial/.*"], source=str(config.init.weights))
    trunk = {}
    for path, value in flat.items():
        if not path.startswith("fc/"):
            stats = path.startswith(BATCH_STATS)
            trunk[f"{OWN[stats]}{path.removeprefix(BATCH_STATS) if stats else path}"] = value
    fresh = [r"(bottleneck|stiefel|fc|radial)/.*"]
    return merge_variables(variables, trunk, allow_missing=fresh, source=str(config.init.weights))

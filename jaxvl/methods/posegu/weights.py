"""Starting PoseGU (reconstruction) from a lifter: a converted one, or another run, such as the baseline of the same
seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.weights import merge_variables
from jaxvl.methods.posegu.published import NOT_OURS, config_of_params


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in. Seeds and pool are this run's own, whatever the other had.
    Anything else that is missing, left over or of another shape is an error, and so is another lifter."""
    del info
    source, wanted = str(config.init.weights), config.model.lifter
    flat = {path: x for path, x in flat.items() if not path.startswith(NOT_OURS)}
    found = config_of_params(flat).lifter
    if found != wanted:
        raise InputError(f"{source}: holds the lifter {found!r}, config.model.lifter is {wanted!r}")
    return merge_variables(variables, flat, allow_missing=[rf"{name}.*" for name in NOT_OURS], source=source)

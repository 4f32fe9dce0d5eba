"""Starting AFE-CNN (reconstruction) from another one: converted from PyTorch, or another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.weights import merge_variables
from jaxvl.methods.afe_cnn.published import UNTOLD


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in.

    Of a network for another number of classes the last layer is left behind and starts fresh. Anything else that is
    missing, left over or of another shape (the norm of the data belongs to one skeleton and one set of enhancers) is an
    error, and so is a network whose gates or differences were computed otherwise.
    """
    source = str(config.init.weights)
    for name in UNTOLD:
        theirs, ours = info.get("config", {}).get(name, config.model[name]), config.model[name]
        if theirs != ours:
            raise InputError(f"{source}: was made with {name} {theirs!r}, config.model.{name} is {ours!r}")
    head = flat.get("head/kernel")
    if head is not None and np.shape(head)[-1] != config.model.classes:
        flat = {path: x for path, x in flat.items() if not path.startswith("head/")}
        return merge_variables(variables, flat, allow_missing=[r"head/.*"], source=source)
    return merge_variables(variables, flat, source=source)

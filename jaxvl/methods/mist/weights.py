"""Starting MIST from a converted BERT, or from a MIST (a published one, or another run)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError
from jaxvl.interop.weights import load_weights, merge_variables
from jaxvl.methods.mist.method import model_config

VOCABULARY = "answers/ids"
TEXT = ("question_bert/", "answer_bert/")


def adopt(
    config: ConfigDict, variables: Mapping[str, Any], flat: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> dict[str, Any]:
    """The variables with the weights `flat` laid in.

    A plain BERT fills both text encoders (its pooler is left behind) and everything else starts fresh. Of a MIST all is
    taken but its answer vocabulary, which is the data's. Towers inside the step come from `config.data.clip_weights`.
    Anything else that is missing or left over is an error that lists both sides.
    """
    cfg, source = model_config(config), str(config.init.weights)
    eps = {**info.get("config", {}), **info.get("semantics", {})}.get("ln_eps", cfg.text.ln_eps)
    if eps != cfg.text.ln_eps:
        raise InputError(f"{source}: was made with LayerNorm's epsilon {eps}, the model has {cfg.text.ln_eps}")
    laid, missing, unexpected = {p: x for p, x in flat.items() if p != VOCABULARY}, [VOCABULARY], []
    if "embeddings/word/embedding" in flat:
        encoders = [name for name in TEXT if name.removesuffix("/") in variables["params"]]
        laid = {name + path: x for name in encoders for path, x in flat.items() if not path.startswith("pooler/")}
        missing.append(r"(?!(question|answer)_bert/).*")
    if cfg.towers:
        laid |= towers(config, cfg.towers)
    else:
        unexpected.append(r"clip/.*")
    return merge_variables(variables, laid, allow_missing=missing, allow_unexpected=unexpected, source=source)


def towers(config: ConfigDict, which: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Leaves of the frozen towers, of the folder `config.data.clip_weights`, which may lie below the root."""
    folder = config.data.clip_weights
    if not folder:
        raise InputError(
            "config.data.clip_weights: is empty, but a CLIP runs inside the step; name a folder that "
            "jaxvl convert --from openai_clip wrote"
        )
    below = Path(config.data.root) / folder
    flat, _ = load_weights(below if below.is_dir() else folder)
    return {f"clip/{path}": x for path, x in flat.items() if path.startswith(tuple(f"{name}/" for name in which))}

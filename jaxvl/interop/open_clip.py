"""`open_clip_config.json`, which lies beside the weights of open_clip (LAION, DataComp, DFN, MetaCLIP) and says what
shapes do not: the activation, and heads of another width than 64."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.nn.clip import PIXEL_MEAN, PIXEL_STD

CONFIG_FILE = "open_clip_config.json"
MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"}
VISION = {"image_size", "layers", "width", "patch_size", "head_width", "patch_dropout"}
TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}
SAME = {"mlp_ratio": 4.0, "pool_type": ("tok", "argmax"), "hf_tokenizer_name": ""}
"""Fields that may be stated with CLIP's own value."""
OTHERS = {
    "multimodal_cfg": "it is a CoCa",
    "init_logit_bias": "it is a SigLIP",
    "timm_model_name": "its image tower is timm's",
    "hf_model_name": "its text tower is Hugging Face's",
    "hf_tokenizer_name": "its texts have another tokenizer",
    "mlp_ratio": "its blocks are not four times as wide inside",
    "pool_type": "it pools otherwise",
    "attentional_pool": "it pools by attention",
}


def stated_beside(weights: str | Path) -> dict[str, Any]:
    """The fields of `CLIPConfig` that the config beside a file of weights states; {} where there is none.

    Raises InputError where it is of another model than CLIP, and names the field that makes it one.
    """
    path = Path(weights).with_name(CONFIG_FILE)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        for fields, known in ((model, MODEL), (vision, VISION), (text, TEXT)):
            _check(path, fields, known)
        _check_pictures(path, content.get("preprocess_cfg") or {})
        found = {"activation": "quick_gelu" if model.get("quick_gelu") else "gelu", "text_heads": text.get("heads", 8)}
        if isinstance(vision.get("layers", 12), int):  # a list: a ResNet's stages
            found["vision_heads"] = vision.get("width", 768) // vision.get("head_width", 64)
        return found
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise InputError(f"{path}: not a config of open_clip ({error!r}); get it again, or move it away") from None


def _check(path: Path, fields: Mapping[str, Any], known: set[str]) -> None:
    for name, value in fields.items():
        same = SAME.get(name)
        if name in known or not value or value == same or (isinstance(same, tuple) and value in same):
            continue
        why = f": {OTHERS[name]}" if name in OTHERS else ""
        raise InputError(f"{path}: {name} is {str(value)[:80]!r}, another model than CLIP{why}; only CLIP is read")


def _check_pictures(path: Path, fields: Mapping[str, Any]) -> None:
    for name, ours in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)):
        value = fields.get(name)
        if value is not None and not np.allclose(value, ours, atol=1e-3):
            raise InputError(
                f"{path}: the {name} of its pictures is {value}, where CLIP's is {np.round(ours, 4).tolist()}; models "
                "with another one are not read"
            )

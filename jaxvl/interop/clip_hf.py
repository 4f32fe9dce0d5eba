"""CLIP's layout in Hugging Face transformers (`CLIPModel`), to and from the tree of `jaxvl.nn.clip`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.interop import clip, keys
from jaxvl.interop.clip import Arrays
from jaxvl.interop.keys import Dropped, KeyReport, Rule
from jaxvl.nn.clip import CLIPConfig

DROPPED = (Dropped(r".*\.position_ids", "a range of integers"),)


def rules(config: CLIPConfig) -> list[Rule]:
    """Every tensor of Hugging Face's `CLIPModel`: 398 for ViT-B, as query, key and value are apart."""
    if config.vision_blocks:
        raise InputError("Hugging Face's CLIPModel has no ResNet; use the openai_clip layout")
    if config.linear_patch == "3d":
        raise InputError("linear_patch '3d': Hugging Face's CLIPModel has no such patches; use the clip4clip layout")
    w, wt, p = config.vision_width, config.text_width, config.patch_size
    vision, text = "vision_model", "text_model"
    table = f"{text}.embeddings.position_embedding.weight"
    rules = [
        Rule(
            f"{vision}.embeddings.patch_embedding.weight",
            (w, 3, p, p),
            ("visual/patch_embed/kernel",),
            keys.transpose(2, 3, 1, 0),
        ),
        Rule(f"{vision}.embeddings.class_embedding", (w,), ("visual/class_embedding",), keys.same()),
        Rule(
            f"{vision}.embeddings.position_embedding.weight",
            (config.patches + 1, w),
            ("visual/positional_embedding",),
            keys.same(),
        ),
        *clip.norm_rules(f"{vision}.pre_layrnorm", "visual/ln_pre", w),  # the misspelling is theirs
        *clip.norm_rules(f"{vision}.post_layernorm", "visual/ln_post", w),
        Rule("visual_projection.weight", (config.embed_dim, w), ("visual/proj",), keys.linear()),
        Rule(
            f"{text}.embeddings.token_embedding.weight",
            (config.vocab_size, wt),
            ("text/token_embedding/embedding",),
            keys.same(),
        ),
        Rule(table, (config.context_length, wt), ("text/positional_embedding",), keys.same()),
        *clip.norm_rules(f"{text}.final_layer_norm", "text/ln_final", wt),
        Rule("text_projection.weight", (config.embed_dim, wt), ("text/text_projection",), keys.linear()),
        Rule("logit_scale", (), ("logit_scale",), keys.same()),
    ]
    for tower, ours, layers, width, heads in (
        (vision, "visual", config.vision_layers, w, config.vision_heads),
        (text, "text", config.text_layers, wt, config.text_heads),
    ):
        for i in range(layers):
            rules += _hf_block(f"{tower}.encoder.layers.{i}", f"{ours}/resblocks_{i}", width, heads)
    return rules


def _hf_block(key: str, path: str, width: int, heads: int) -> list[Rule]:
    rules = []
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        source, target = f"{key}.self_attn.{letter}_proj", f"{path}/attn/{name}"
        rules.append(Rule(f"{source}.weight", (width, width), (f"{target}/kernel",), keys.split_heads(heads)))
        rules.append(Rule(f"{source}.bias", (width,), (f"{target}/bias",), keys.split_heads_bias(heads)))
    return [
        *rules,
        Rule(f"{key}.self_attn.out_proj.weight", (width, width), (f"{path}/attn/out/kernel",), keys.merge_heads(heads)),
        Rule(f"{key}.self_attn.out_proj.bias", (width,), (f"{path}/attn/out/bias",), keys.same()),
        *clip.norm_rules(f"{key}.layer_norm1", f"{path}/ln_1", width),
        *clip.norm_rules(f"{key}.layer_norm2", f"{path}/ln_2", width),
        *clip.linear_rules(f"{key}.mlp.fc1", f"{path}/mlp/c_fc", width, 4 * width),
        *clip.linear_rules(f"{key}.mlp.fc2", f"{path}/mlp/c_proj", 4 * width, width),
    ]


def from_hf(arrays: Arrays, config: CLIPConfig) -> tuple[dict[str, Any], KeyReport]:
    """Hugging Face's layout -> variables."""
    flat, report = keys.forward(rules(config), arrays, DROPPED)
    return keys.to_variables(flat), report


def to_hf(variables: Mapping[str, Any], config: CLIPConfig) -> tuple[dict[str, np.ndarray], KeyReport]:
    """The inverse of `from_hf`."""
    return keys.backward(rules(config), keys.to_flat(variables))


SIBLINGS = {
    "align": "its towers are an EfficientNet and a BERT",
    "altclip": "its text tower is an XLM-R",
    "blip": "its text tower is a BERT that attends to pictures",
    "blip-2": "it describes pictures",
    "bridgetower": "its towers attend to each other",
    "chinese_clip": "its text tower is a BERT",
    "clap": "it is of sounds",
    "clip_text_model": "it is the text tower alone",
    "clip_vision_model": "it is the image tower alone",
    "clipseg": "it has a decoder",
    "clvp": "it is of speech",
    "flava": "its towers attend to each other",
    "groupvit": "its image tower groups patches",
    "jina_clip": "its towers are an EVA and a BERT",
    "metaclip_2": "its texts end with another token and it has another vocabulary",
    "metaclip_2_text_model": "it is the text tower alone, of another vocabulary",
    "metaclip_2_vision_model": "it is the image tower alone",
    "mlcd_vision_model": "it is an image tower with rotary positions",
    "mobileclip": "its image tower is a FastViT",
    "owlv2": "it detects objects",
    "owlvit": "it detects objects",
    "siglip": "its towers pool and are trained otherwise",
    "siglip2": "its towers pool and are trained otherwise",
    "siglip2_vision_model": "it is the image tower alone",
    "siglip_text_model": "it is the text tower alone",
    "siglip_vision_model": "it is the image tower alone",
    "vision-text-dual-encoder": "its towers are of any kind",
    "xclip": "its image tower attends across frames",
}
"""`model_type` of relatives whose tensors have CLIP's names in part, and why they are another model."""
MEND = "give the whole model of one that is a CLIP (OpenAI, LAION, DataComp, DFN, MetaCLIP 1)"


def read_hf_config(path: str | Path) -> CLIPConfig:
    """The CLIP that a `config.json` of Hugging Face describes; absent fields have their defaults.

    Values of `text_config_dict` and `vision_config_dict`, which older files have, win over those of `text_config` and
    `vision_config`, and so do the defaults of what they leave out (transformers, `CLIPConfig`). Raises InputError,
    also for another `model_type`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; the layout needs the config.json that was published with the weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("model_type", "clip")
        if kind != "clip":
            why = f": {SIBLINGS[kind]}" if kind in SIBLINGS else ""
            raise InputError(f"{path}: model_type is {kind!r}, another model than CLIP{why}; {MEND}")
        made = content.get("architectures") or ["CLIPModel"]
        if "CLIPModel" not in made:  # also where no model_type says so
            raise InputError(f"{path}: architectures is {made}, another model than CLIP; {MEND}")
        vision, text = (_tower(content, name) for name in ("vision", "text"))
        fields = {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "vision_width": vision.get("hidden_size", 768),
            "vision_layers": vision.get("num_hidden_layers", 12),
            "vision_heads": vision.get("num_attention_heads", 12),
            "vocab_size": text.get("vocab_size", 49408),
            "context_length": text.get("max_position_embeddings", 77),
            "text_width": text.get("hidden_size", 512),
            "text_layers": text.get("num_hidden_layers", 12),
            "text_heads": text.get("num_attention_heads", 8),
            "embed_dim": content.get("projection_dim", 512),
        }
        if vision.get("num_channels", 3) != 3:
            raise ValueError(f"{vision['num_channels']} channels")
        shared = {"activation": ("hidden_act", "quick_gelu"), "ln_eps": ("layer_norm_eps", 1e-5)}
        for ours, (theirs, default) in shared.items():
            values = {vision.get(theirs, default), text.get(theirs, default)}
            if len(values) > 1:
                raise InputError(f"{path}: {theirs} differs between the towers ({values}), which is not supported")
            fields[ours] = values.pop()
        # 2, in all conversions of OpenAI's weights, stands for pooling at argmax; so does the highest id itself
        end = text.get("eos_token_id", 2)
        for tower, ours in ((vision, "vision_width"), (text, "text_width")):
            if (inside := tower.get("intermediate_size")) not in (None, 4 * fields[ours]):
                raise ValueError(f"intermediate_size {inside}, where blocks are 4 * {fields[ours]} wide inside")
        return CLIPConfig(**fields, eos_token_id=None if end in (2, fields["vocab_size"] - 1) else end)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a config of a CLIPModel ({error})") from None


def _tower(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of one tower: the older dict, where there is one, is complete."""
    older, newer = content.get(f"{name}_config_dict"), content.get(f"{name}_config")
    found = dict((newer or {}) if older is None else older)
    kind = found.get("model_type", f"clip_{name}_model")
    if kind not in (f"clip_{name}_model", "clip", ""):
        raise ValueError(f"its {name} tower is a {kind!r}")
    return found


def hf_config(config: CLIPConfig) -> dict[str, Any]:
    """The `config.json` that `read_hf_config` reads back."""
    shared = {"hidden_act": config.activation, "layer_norm_eps": config.ln_eps, "projection_dim": config.embed_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {
            **{"image_size": config.image_size, "patch_size": config.patch_size, "hidden_size": config.vision_width},
            **{"num_hidden_layers": config.vision_layers, "num_attention_heads": config.vision_heads},
            **{"intermediate_size": 4 * config.vision_width, "model_type": "clip_vision_model", **shared},
        },
        "text_config": {
            **{"vocab_size": config.vocab_size, "max_position_embeddings": config.context_length},
            **{"hidden_size": config.text_width, "num_hidden_layers": config.text_layers},
            **{"num_attention_heads": config.text_heads, "intermediate_size": 4 * config.text_width},
            **{"model_type": "clip_text_model", **shared},
            "eos_token_id": 2 if config.eos_token_id is None else config.eos_token_id,
        },
    }

"""`jaxvl convert`: published checkpoints to weights folders, and back. PyTorch is not needed."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core import registry
from jaxvl.core.errors import InputError
from jaxvl.interop import clip, layouts, weights
from jaxvl.interop.layouts import Layout
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.nn.clip import PIXEL_MEAN, PIXEL_STD, CLIPConfig
from jaxvl.nn.positional import RULES, resize_positions

EXPORT = "model.safetensors"
POSITIONS = ("visual/positional_embedding", "visual/attnpool/positional_embedding")

Say = Callable[[str], None]


def all_layouts() -> dict[str, Layout]:
    """Every layout by name: the shared ones, and those of methods that have a `published` module."""
    out = dict(layouts.LAYOUTS)
    for name in registry.names():
        if importlib.util.find_spec(f"{registry.PACKAGE}.{name}.published"):
            out |= registry.module(name, "published").LAYOUTS
    return out


def find_layout(name: str) -> Layout:
    """The layout of a name; raises InputError with all names for another."""
    known = all_layouts()
    if name not in known:
        raise InputError(f"--from {name}: is none of {', '.join(known)}")
    return known[name]


def parse_fields(items: Sequence[str]) -> dict[str, Any]:
    """`['vision_heads=4', 'activation=gelu'] -> {...}`; raises InputError for an unknown field."""
    out = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign:
            raise InputError(f"--set {item}: is not FIELD=VALUE")
        try:
            out[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[name] = text
    return layouts.check_fields(out, "--set")


def convert(
    family: str,
    file: str | Path,
    to: str | Path,
    *,
    image_size: int | None = None,
    interpolation: str = "hf",
    given: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    say: Say = print,
) -> Path:
    """Writes the weights folder `to` from a published file, printing what became of every key.

    Args:
        family: a name of `all_layouts`.
        image_size: pixels; another size than the file's interpolates the image positions by `interpolation`
            (a name of `jaxvl.nn.positional.RULES`). Text positions are never interpolated.
        given: `CLIPConfig` fields that the file does not tell (heads of unusual width, activation).
        allow: regular expressions of keys that may be missing or unused.
    Returns: the folder. Raises InputError when a key is left over, and when the folder holds weights already.
    """
    layout, to = find_layout(family), Path(to)
    _claim(to, weights.WEIGHTS)
    if interpolation not in RULES:
        raise InputError(f"--interpolation {interpolation}: is none of {', '.join(RULES)}")
    source = layouts.read_source(file)
    config = layout.configure(source, given or {})
    facts = layout.facts(source, config)
    variables, report = layout.load(source.arrays, config)
    say(report.table())
    report.check(allow, str(file))
    flat = clip.to_flat(variables)
    resized = image_size is not None and image_size != config.image_size
    if resized:
        config, flat = resize(config, flat, image_size, interpolation)
    info = {
        "family": family,
        "source": {"file": source.path.name, "sha256": weights.sha256(file), "bytes": source.path.stat().st_size},
        "config": layouts.config_fields(config),
        "semantics": {
            "activation": config.activation,
            "ln_eps": config.ln_eps,
            **({"head_ln_eps": facts.pop("head_ln_eps")} if "head_ln_eps" in facts else {}),
            "text_pooling": "argmax of ids" if config.eos_token_id is None else f"first {config.eos_token_id}",
            "pixel_mean": PIXEL_MEAN,
            "pixel_std": PIXEL_STD,
        },
        "interpolation": interpolation if resized else None,
        "report": report.summary(),
        "allowed": list(allow),
        "collections": [name for name in variables if name != "params"],
        **facts,
    }
    weights.save_weights(to, flat, info)
    say(f"model    {describe(config)}")
    for name, value in facts.get("overrides", {}).items():
        say(f"override {name} = {value}")
    say(f"{to}: {len(flat)} leaves, {sum(x.size for x in flat.values()):,} numbers")
    return to


def resize(
    config: CLIPConfig, flat: Mapping[str, np.ndarray], image_size: int, interpolation: str
) -> tuple[CLIPConfig, dict[str, np.ndarray]]:
    """Config and leaves for another image size, the image positions interpolated."""
    config = dataclasses.replace(config, image_size=image_size)
    tables = {p: resize_positions(flat[p], config.grid, interpolation) for p in POSITIONS if p in flat}
    return config, {**flat, **tables}


def reverse(family: str, source: str | Path, to: str | Path, *, allow: Sequence[str] = (), say: Say = print) -> Path:
    """Writes `to/model.safetensors` in a published layout from a weights folder, or from the newest checkpoint of a
    workdir. Returns the file. Raises InputError for leaves that the layout has no place for, or lacks."""
    layout, source, to = find_layout(family), Path(source), Path(to)
    _claim(to, EXPORT)
    flat, stated = _read_ours(source, say)
    root = _root(flat, source)
    outside = [p for p in flat if not p.startswith((root, clip.BATCH_STATS + root))]
    inside = {p.removeprefix(root): v for p, v in flat.items() if p.startswith(root)}
    stats = clip.BATCH_STATS + root
    inside |= {clip.BATCH_STATS + p.removeprefix(stats): v for p, v in flat.items() if p.startswith(stats)}
    config = clip.config_of_params(inside, stated)
    arrays, report = layout.store(clip.to_variables(inside), config)
    report = dataclasses.replace(report, unused=(*report.unused, *outside))
    say(report.table())
    report.check(allow, str(source))
    to.mkdir(parents=True, exist_ok=True)
    fields = {k: v for k, v in layouts.config_fields(config).items() if stated or k not in ("activation", "ln_eps")}
    write_safetensors(to / EXPORT, arrays, {layouts.CONFIG_METADATA: json.dumps(fields), "format": "pt"})
    for name, text in layout.companions(config).items():
        (to / name).write_text(text, encoding="utf-8")
    say(f"{to / EXPORT}: {len(arrays)} tensors in the layout of {family}; {describe(config)}")
    return to / EXPORT


def describe(config: CLIPConfig) -> str:
    """One line on a CLIP."""
    blocks = config.vision_blocks or config.vision_layers
    return (
        f"image {config.image_size} patch {config.patch_size} width {config.vision_width} blocks {blocks} "
        f"heads {config.vision_heads}; text width {config.text_width} blocks {config.text_layers} "
        f"heads {config.text_heads} length {config.context_length}; joint {config.embed_dim}; {config.activation}"
    )


def _claim(folder: Path, name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--to {folder}: is a file; name a folder")
    if (folder / name).exists():
        raise InputError(f"--to {folder}: holds {name} already; choose another folder or remove it")


def _read_ours(source: Path, say: Say) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(leaves by path, stated config fields)` of a weights folder or workdir."""
    if (source / weights.INFO).is_file():
        _, info = weights.load_weights(source)
        flat, _ = read_safetensors(source / weights.WEIGHTS)
        return flat, layouts.check_fields(info["config"], str(source / weights.INFO))
    if (source / "config.json").is_file() and not source.is_file():
        from jaxvl.core import session  # needs jax and its devices; a weights folder does not

        loaded = session.load(source, say=say)
        say(f"{source}: checkpoint of step {loaded.step}")
        return {p: np.asarray(v) for p, v in clip.to_flat(loaded.variables).items()}, {}
    raise InputError(f"{source}: is neither a weights folder nor a workdir; --reverse takes one of these")


def _root(flat: Mapping[str, Any], source: Path) -> str:
    """Path of the CLIP inside a larger model, '' when it is the model."""
    marks = ("visual/class_embedding", "visual/stem_conv1/kernel")
    roots = {p.removesuffix(m) for p in flat for m in marks if p.endswith(m)}
    if len(roots) != 1:
        raise InputError(f"{source}: holds {len(roots)} image towers of a CLIP, where one is needed")
    return roots.pop()

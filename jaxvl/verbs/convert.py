"""`jaxvl convert`: published checkpoints to weights folders, and back. PyTorch is not needed."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.core import registry
from jaxvl.core.errors import InputError
from jaxvl.interop import keys, layouts, weights
from jaxvl.interop.layouts import Family, Layout, Source
from jaxvl.interop.safetensors_file import read_safetensors, write_safetensors
from jaxvl.nn.positional import RULES

EXPORT = "model.safetensors"

Say = Callable[[str], None]


def all_layouts() -> dict[str, Layout]:
    """Every layout by name: the shared ones, and those of methods that have a `published` module."""
    out = dict(layouts.LAYOUTS)
    for name in registry.names():
        if registry.has_part(name, "published"):
            out |= registry.module(name, "published").LAYOUTS
    return out


def find_layout(name: str) -> Layout:
    """The layout of a name; raises InputError with all names for another."""
    known = all_layouts()
    if name not in known:
        raise InputError(f"--from {name}: is none of {', '.join(known)}")
    return known[name]


def parse_fields(items: Sequence[str], family: Family) -> dict[str, Any]:
    """`['vision_heads=4', 'activation=gelu'] -> {...}`; raises InputError for a field that the family lacks."""
    out = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign:
            raise InputError(f"--set {item}: is not FIELD=VALUE")
        try:
            out[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[name] = text
    return family.check_fields(out, "--set")


def convert(
    family: str,
    file: str | Path,
    to: str | Path,
    *,
    image_size: int | None = None,
    interpolation: str = "hf",
    given: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    prefix: str = "",
    drop: Sequence[str] = (),
    inside: str = "",
    pass_over: Sequence[str] = (),
    say: Say = print,
) -> Path:
    """Writes the weights folder `to` from a published file, printing what became of every key.

    Args:
        family: a name of `all_layouts`.
        image_size: pixels; another size than the file's interpolates the image positions by `interpolation`
            (a name of `jaxvl.nn.positional.RULES`). Text positions are never interpolated.
        given: fields of the config that the file does not tell (heads of unusual width, activation).
        allow: regular expressions of keys that may be missing or unused.
        prefix: taken off the keys that begin with it (`module.`, `backbone.`).
        drop: regular expressions of keys, without the prefix, to leave out before anything is inferred.
        inside: the key under which a checkpoint holds the state dict, several with `/` between; '' looks for it.
        pass_over: classes (`package.Class`) of objects that lie beside the weights and are left out.
    Returns: the folder. Raises InputError when a key is left over, and when the folder holds weights already.
    """
    layout, to = find_layout(family), Path(to)
    _claim(to, weights.WEIGHTS)
    if interpolation not in RULES:
        raise InputError(f"--interpolation {interpolation}: is none of {', '.join(RULES)}")
    if image_size is not None and layout.family.resize is None:
        raise InputError(f"--image-size: {layout.family.name} takes images of any size; leave it out")
    source, dropped = _select(layouts.read_source(file, layout.family, inside, pass_over), prefix, drop)
    file = source.path
    try:
        config = layout.configure(source, given or {})
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    facts = layout.facts(source, config)
    variables, report = layout.load(source.arrays, config)
    lost = sum(int(np.size(x)) for x in dropped.values())
    report = dataclasses.replace(
        report,
        dropped=(*report.dropped, *((k, "--drop") for k in dropped)),
        dropped_numbers=report.dropped_numbers + lost,
    )
    if source.place:
        say(f"weights  under {source.place!r} of the file")
    say(report.table())
    report.check(allow, str(file))
    flat = keys.to_flat(variables)
    resized = image_size is not None and image_size != config.image_size
    if resized:
        config, flat = layout.family.resize(config, flat, image_size, interpolation)
    info = {
        "family": family,
        "source": {
            **{"file": source.path.name, "sha256": weights.sha256(file), "bytes": source.path.stat().st_size},
            **({"inside": source.place} if source.place else {}),
        },
        "config": layout.family.config_fields(config),
        "semantics": {
            **layout.family.semantics(config),
            **({"head_ln_eps": facts.pop("head_ln_eps")} if "head_ln_eps" in facts else {}),
        },
        "interpolation": interpolation if resized else None,
        "report": report.summary(),
        "allowed": list(allow),
        "collections": [name for name in variables if name != "params"],
        **facts,
    }
    weights.save_weights(to, flat, info)
    say(f"model    {layout.family.describe(config)}")
    if facts.get("overrides"):
        flags = (shlex.quote(f"--config.{name}={value}") for name, value in facts["overrides"].items())
        say(f"the run it is of had   {' '.join(flags)}")
    say(f"{to}: {len(flat)} leaves, {sum(x.size for x in flat.values()):,} numbers")
    return to


def reverse(family: str, source: str | Path, to: str | Path, *, allow: Sequence[str] = (), say: Say = print) -> Path:
    """Writes `to/model.safetensors` in a published layout from a weights folder, or from the newest checkpoint of a
    workdir. Returns the file. Raises InputError for leaves that the layout has no place for, or lacks."""
    layout, source, to = find_layout(family), Path(source), Path(to)
    kind = layout.family
    _claim(to, EXPORT)
    flat, stated = _read_ours(source, kind, say)
    root = _root(flat, kind, source)
    stats = keys.BATCH_STATS + root
    outside = [p for p in flat if not p.startswith((root, stats))]
    inside = {p.removeprefix(root): v for p, v in flat.items() if p.startswith(root)}
    inside |= {keys.BATCH_STATS + p.removeprefix(stats): v for p, v in flat.items() if p.startswith(stats)}
    config = kind.config_of_params(inside, stated)
    arrays, report = layout.store(keys.to_variables(inside), config)
    report = dataclasses.replace(report, unused=(*report.unused, *outside))
    say(report.table())
    report.check(allow, str(source))
    to.mkdir(parents=True, exist_ok=True)
    fields = {k: v for k, v in kind.config_fields(config).items() if stated or k not in kind.untold}
    write_safetensors(to / EXPORT, arrays, {layouts.CONFIG_METADATA: json.dumps(fields), "format": "pt"})
    for name, text in layout.companions(config).items():
        (to / name).write_text(text, encoding="utf-8")
    say(f"{to / EXPORT}: {len(arrays)} tensors in the layout of {family}; {kind.describe(config)}")
    return to / EXPORT


def _select(source: Source, prefix: str, drop: Sequence[str]) -> tuple[Source, dict[str, np.ndarray]]:
    """The source without `prefix` before its keys and without those that `drop` names, and what was dropped."""
    arrays = {k.removeprefix(prefix): v for k, v in source.arrays.items()}
    if prefix and not any(k.startswith(prefix) for k in source.arrays):
        raise InputError(
            f"--prefix {prefix}: no key of {source.path} begins with it; the first is {next(iter(arrays))}"
        )
    if len(arrays) < len(source.arrays):
        raise InputError(
            f"--prefix {prefix}: without it two keys of {source.path} are the same; drop one of them first"
        )
    kept = set(keys.not_allowed(arrays, drop))
    for pattern in drop:
        if not any(re.fullmatch(pattern, k) for k in arrays):
            raise InputError(f"--drop {pattern}: matches no key of {source.path}")
    dropped = {k: v for k, v in arrays.items() if k not in kept}
    return source._replace(arrays={k: v for k, v in arrays.items() if k in kept}), dropped


def _claim(folder: Path, name: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--to {folder}: is a file; name a folder")
    if (folder / name).exists():
        raise InputError(f"--to {folder}: holds {name} already; choose another folder or remove it")


def _read_ours(source: Path, family: Family, say: Say) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(leaves by path, stated config fields)` of a weights folder or workdir."""
    if (source / weights.INFO).is_file():
        _, info = weights.load_weights(source)
        flat, _ = read_safetensors(source / weights.WEIGHTS)
        return flat, family.check_fields(info.get("config", {}), str(source / weights.INFO))
    if (source / "config.json").is_file() and not source.is_file():
        from jaxvl.core import session  # needs jax and its devices; a weights folder does not

        loaded = session.load(source, say=say)
        say(f"{source}: checkpoint of step {loaded.step}")
        return {p: np.asarray(v) for p, v in keys.to_flat(loaded.variables).items()}, family.of_run(loaded.config)
    raise InputError(f"{source}: is neither a weights folder nor a workdir; --reverse takes one of these")


def _root(flat: Mapping[str, Any], family: Family, source: Path) -> str:
    """Path of the model inside a larger one, '' when it is the model."""
    roots = {p.removesuffix(m) for p in flat for m in family.marks if p == m or p.endswith(f"/{m}")}
    roots = {r for r in roots if not r.startswith(keys.BATCH_STATS)}
    if len(roots) != 1:
        raise InputError(f"{source}: holds {len(roots)} of what would be {family.name}, where one is needed")
    return roots.pop()

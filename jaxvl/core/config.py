"""Configs: a Python file with `get_config()`, locked, overridden on the command line, saved as JSON.

Parsed without absl, so that a wrong field or type is one line and not a usage text. A config file starts
from `base()`, which holds every field of the house, and adds `model`, `data` and its own values.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import hashlib
import importlib.util
import inspect
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jaxvl.core.config_files import find, nearest
from jaxvl.core.errors import InputError
from jaxvl.core.fields import (
    anything,
    check,
    choice,
    factors,
    flag,
    folder,
    many,
    named,
    only_if_given,
    pattern,
    real,
    text,
    whole,
)


def base() -> ConfigDict:
    """The fields that every run has, with the defaults of the house (`docs/architecture.md` explains each)."""
    return ConfigDict(
        {
            "method": "",
            "seed": 0,
            "train": {
                "steps": 1000,  # optimizer updates; -1: as many as `epochs` are
                "epochs": 0.0,  # passes over the training data, whatever the batch size; 0: `steps` counts
                "log_every": 20,  # the only steps at which the host reads device values
                "eval_every": 0,  # updates between evaluations, 0: only at the end; -1: as `eval_epochs` says
                "eval_epochs": 0.0,
                "eval_split": "val",
                "checkpoint_every": 500,  # updates between saves; -1: as `checkpoint_epochs` says
                "checkpoint_epochs": 0.0,
                "accumulate": 1,  # micro-batches per update
                "clip_norm": 0.0,  # 0: no clipping by global norm
                "ema": 0.0,  # decay of the parameter average; 0: none
            },
            "optim": {"main": optimizer()},
            "init": {
                "weights": "",  # a folder written by `jaxvl convert`; '': random
                "required": False,  # the recipe starts from pretrained weights: refuse to train without
            },
            "eval": {"split": "test", "use_ema": True},
            "checkpoint": {"keep_last": 2, "best_metric": "", "best_mode": "max"},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # -1: all devices that are left
            "precision": {
                "compute": "float32",
                "matmul": "default",
                "remat": "none",
                "scan_layers": False,  # alike blocks of a transformer as a loop: compiles in a fraction of the time
            },
            "pipeline": {
                "workers": 0,  # decoder processes; 0: threads of this process
                "threads": 2,
                "prefetch": 4,  # batches
                "on_error": "skip",  # or 'raise'
                "max_bad_fraction": 0.05,
            },
            "model": {},
            "data": {},
        }
    )


RARE = {
    "args": ConfigDict(),  # keyword arguments of an optimiser that is named by its dotted path
    "schedule_args": ConfigDict(),  # the same of a schedule
    "stiefel": "",  # sgd: regex on paths of square kernels that stay orthogonal (`jaxvl.core.stiefel`)
    "late_lr": 0.0,  # replaces lr from `late_from` on, the phase of the schedule going on; 0: never
    "late_from": 0.5,  # share of all steps
}
"""Fields of an optimiser that only some methods have a use for, with their neutral values."""


def optimizer(**fields: Any) -> ConfigDict:
    """One entry of `config.optim`; see `jaxvl.core.optim.build`. Fields of `RARE` are there only if given."""
    cfg = ConfigDict(
        {
            "name": "adamw",  # adamw, bert_adam, adam, sgd, lars
            "lr": 1e-3,
            "schedule": "cosine",  # constant, cosine, cosine_unshifted, linear, step, inverse_decay
            "warmup": 0.0,  # share of all steps if < 1, else steps
            "end_lr": 0.0,
            "floor": 0.0,  # lowest rate at any step
            "boundaries": (),  # of 'step': shares of all steps
            "decay_factor": 0.1,  # of 'step'
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "momentum": 0.9,
            "nesterov": False,
            "trust": 0.001,
            "weight_decay": 0.0,
            "no_decay": r"bias$",  # regex on parameter paths
            "groups": (),  # ((regex, lr multiplier), ...): the first that matches
            "clip_leaf_norm": 0.0,  # per-parameter gradient norm
        }
    )
    unknown = sorted(set(fields) - set(cfg) - set(RARE))
    if unknown:
        raise InputError(f"optimizer(): unknown field {unknown[0]!r}{nearest(unknown[0], [*cfg, *RARE])}")
    cfg.update({name: copy.copy(RARE[name]) for name in fields if name in RARE})
    cfg.update(fields)
    return cfg


OPTIMIZER = {
    "name": named("adamw", "bert_adam", "adam", "sgd", "lars"),
    "lr": real(0),
    "schedule": named("constant", "cosine", "cosine_unshifted", "linear", "step", "inverse_decay"),
    "warmup": real(0),
    "end_lr": real(0),
    "floor": real(0),
    "boundaries": many(real(0, 1)),
    "decay_factor": real(above=0),
    "b1": real(0, below=1),
    "b2": real(0, below=1),
    "eps": real(above=0),
    "momentum": real(0, below=1),
    "nesterov": flag(),
    "trust": real(above=0),
    "weight_decay": real(0),
    "no_decay": pattern(),
    "groups": factors(),
    "clip_leaf_norm": real(0),
    **only_if_given({"args": anything(), "schedule_args": anything()}),
    **only_if_given({"stiefel": pattern(), "late_lr": real(0), "late_from": real(0, 1)}),
}
FIELDS = {
    "method": text(empty=False),
    "seed": whole(0, 2**32 - 1),
    "train.steps": whole(0, also=(-1,)),
    "train.epochs": real(0),
    "train.log_every": whole(1),
    "train.eval_every": whole(0, also=(-1,)),
    "train.eval_epochs": real(0),
    "train.eval_split": text(empty=False),
    "train.checkpoint_every": whole(1, also=(-1,)),
    "train.checkpoint_epochs": real(0),
    "train.accumulate": whole(1),
    "train.clip_norm": real(0),
    "train.ema": real(0, below=1),
    **{f"optim.*.{name}": field for name, field in OPTIMIZER.items()},
    "init.weights": folder(bucket=True),
    "init.required": flag(),
    "eval.split": text(empty=False),
    "eval.use_ema": flag(),
    "checkpoint.keep_last": whole(1),
    "checkpoint.best_metric": text(),
    "checkpoint.best_mode": choice("max", "min"),
    **{f"mesh.{axis}": whole(1, also=(-1,)) for axis in ("data", "fsdp", "tensor")},
    "precision.compute": choice("float32", "f32", "bfloat16", "bf16"),
    "precision.matmul": choice("default", "high", "highest"),
    "precision.remat": choice("none", "dots", "full"),
    "precision.scan_layers": flag(),
    "pipeline.workers": whole(0, 1024),
    "pipeline.threads": whole(1, 1024),
    "pipeline.prefetch": whole(0, 1024),
    "pipeline.on_error": choice("skip", "raise"),
    "pipeline.max_bad_fraction": real(0, 1),
}
"""Type, range and choices of the fields above; see `jaxvl.core.fields`."""

LENGTHS = {"steps": "epochs", "eval_every": "eval_epochs", "checkpoint_every": "checkpoint_epochs"}
"""Fields of `train` in updates, each with the one that says the same in epochs. -1 in the first: the second counts."""

NOMINAL_EPOCH = 1000
"""Updates of an epoch where a config is only looked at, without its data."""


def in_epochs(cfg: ConfigDict, epochs: float, evaluated: float = 0.0, saved: float = 1.0) -> None:
    """Sets the length of a run, and the time between evaluations (0: at the end only) and saves, in passes over its
    data."""
    cfg.train.update({"steps": -1, "epochs": float(epochs), "checkpoint_every": -1, "checkpoint_epochs": float(saved)})
    cfg.train.update({"eval_every": -1 if evaluated else 0, "eval_epochs": float(evaluated)})


def with_length(cfg: ConfigDict, epoch: int) -> ConfigDict:
    """`cfg` with all lengths in updates, `epoch` of them being one pass over the data; itself where they are already.

    Raises InputError where a length is given twice or not at all.
    """
    if all(cfg.train[updates] >= 0 and not cfg.train[epochs] for updates, epochs in LENGTHS.items()):
        return cfg
    cfg = cfg.copy_and_resolve_references()
    for updates, epochs in LENGTHS.items():
        steps, passes = cfg.train[updates], cfg.train[epochs]
        if steps < 0 and passes <= 0:
            raise InputError(
                f"config.train.{updates}: {steps}, and config.train.{epochs} is {passes:g}; set one of them above 0"
            )
        if steps >= 0 and passes:
            raise InputError(
                f"config.train.{epochs}: {passes:g}, but config.train.{updates} is {steps}, too; set {updates} to -1 "
                f"or {epochs} to 0"
            )
        if steps < 0:
            cfg.train[updates] = max(1, int(passes * epoch + 1e-6))
            cfg.train[epochs] = 0.0
    return cfg.lock()


def length_line(cfg: ConfigDict) -> str:
    """How long a run is, in the unit that its config gives."""
    given = cfg.train.epochs
    return f"{given:g} epochs of the training data" if cfg.train.steps < 0 else f"{cfg.train.steps:,} updates"


def one_of(name: str, known: Iterable[str]) -> str:
    """`name`, or InputError with the nearest of the `known` names of a config file's experiments."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 2, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"experiment {name!r}: is not in this file; {hint}")
    return name


def module_of(file: Path) -> ModuleType:
    """A config file as a module. Raises InputError for what is no Python, or fails while it is read."""
    spec = importlib.util.spec_from_file_location("jaxvl_user_config", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--config {file}: not a Python file; a config is a .py file with get_config()")
    module = importlib.util.module_from_spec(spec)
    with _told(file):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise InputError(f"--config {file}: has no get_config(); see `jaxvl configs` for examples")
    return module


def load(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, named as `find` takes it, with `a.b=value` overrides applied. `:ARG` goes to
    `get_config`."""
    file, argument = find(path)
    module = module_of(file)
    words = (argument,) if argument else ()
    with _told(file):
        try:
            inspect.signature(module.get_config).bind(*words)
        except TypeError:
            takes = f"has one config only; leave out :{argument}" if argument else "needs the name of a row: FILE:ROW"
            raise InputError(f"--config {path}: {takes}") from None
        cfg = module.get_config(*words)
    if not isinstance(cfg, ConfigDict):
        kind = type(cfg).__name__
        raise InputError(f"--config {file}: its get_config() returns {kind}; it must return the ConfigDict of base()")
    cfg.lock()
    apply(cfg, overrides)
    check(cfg)
    with_length(cfg, NOMINAL_EPOCH)  # a length that is given twice, or not at all
    return cfg


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """What goes wrong in a user's file, as one line with its place."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"--config {file}: line {error.lineno}: not Python ({error.msg})") from error
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        where = f"line {lines[-1]}: " if lines else ""
        raise InputError(f"--config {file}: {where}{type(error).__name__}: {error}") from error


def apply(cfg: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Applies `a.b=value` assignments in place. A wrong field or type raises InputError with the nearest name; what a
    field may hold is looked at by `fields.check`.

    A length given in one unit (updates, epochs) takes the place of the config's in the other.
    """
    named = set()
    for item in overrides:
        name, eq, raw = item.partition("=")
        if not eq:
            raise InputError(f"--config.{item}: give a value, --config.{item}=VALUE")
        _assign(cfg, name, raw)
        named.add(name)
    for updates, epochs in LENGTHS.items():
        if f"train.{updates}" in named and f"train.{epochs}" not in named:
            cfg.train[epochs] = 0.0
        elif f"train.{epochs}" in named and f"train.{updates}" not in named and cfg.train[epochs]:
            cfg.train[updates] = -1
    return cfg


def apply_values(cfg: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """`apply` for values that are Python's own rather than words of a command line: `{"a.b": value}`."""
    plain = {name: _plain(x.item() if hasattr(x, "item") else x) for name, x in values.items()}
    return apply(cfg, [f"{name}={x if isinstance(x, str) else repr(x)}" for name, x in plain.items()])


def dotted(cfg: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves as `(a.b.c, value)`."""
    for key in cfg:
        value = cfg[key]
        if isinstance(value, ConfigDict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(cfg: ConfigDict) -> str:
    """The resolved config, sorted, as it is written to `config.json`."""
    return json.dumps(cfg.to_dict(), indent=1, sort_keys=True, default=_plain) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`; lists come back as tuples."""
    return from_plain(json.loads(text))


def from_plain(tree: dict) -> ConfigDict:
    """A locked config of what `json` reads; lists are tuples."""
    cfg = ConfigDict(_tuples(tree))
    cfg.lock()
    return cfg


def complete(cfg: ConfigDict, base: ConfigDict) -> dict[str, Any]:
    """Adds to `cfg` every field that it lacks and `base` has; gives what was added as `{a.b: value}`.

    For configs that an older version wrote: the default of a new field is what runs did before there was the field.
    """
    have = dict(dotted(cfg))
    added = {name: value for name, value in dotted(base) if name not in have}
    with cfg.unlocked():
        for name, value in (added | {name: ConfigDict() for name in _empty_groups(base)}).items():
            node, (*parents, leaf) = cfg, name.split(".")
            for key in parents:
                if key not in node:
                    node[key] = ConfigDict()
                node = node[key]
            if leaf not in node or name in added:
                node[leaf] = value
    return added


def _empty_groups(cfg: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in cfg.items():
        if isinstance(value, ConfigDict):
            yield from _empty_groups(value, f"{prefix}{key}.") if len(value) else (f"{prefix}{key}",)


def digest(cfg: ConfigDict) -> str:
    """Short hash of the resolved config: what tells one experiment from another."""
    return text_digest(to_json(cfg).encode())


def text_digest(content: bytes) -> str:
    """`digest` of the config that `content` is the file of."""
    return hashlib.sha256(content).hexdigest()[:16]


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
    """`field: old -> new` for every leaf that differs."""
    left, right = dict(dotted(a)), dict(dotted(b))
    gone = object()
    show = lambda v: "absent" if v is gone else repr(v)  # noqa: E731
    rows = []
    for key in sorted(left.keys() | right.keys()):
        x, y = left.get(key, gone), right.get(key, gone)
        if _plain(x) != _plain(y):
            rows.append(f"{key}: {show(x)} -> {show(y)}")
    return rows


def _assign(cfg: ConfigDict, name: str, raw: str) -> None:
    node: Any = cfg
    *parents, leaf = name.split(".")
    for key in parents:
        if not isinstance(node, ConfigDict) or key not in node:
            raise InputError(f"--config.{name}: no such field{nearest(name, [k for k, _ in dotted(cfg)])}")
        node = node[key]
    if not isinstance(node, ConfigDict) or leaf not in node:
        raise InputError(f"--config.{name}: no such field{nearest(name, [k for k, _ in dotted(cfg)])}")
    kind = node.get_type(leaf)
    if issubclass(kind, ConfigDict):
        inner = ", ".join(f"{name}.{k}" for k in list(node[leaf])[:3])
        raise InputError(f"--config.{name}: is a group of fields; set one of {inner}, ...")
    value = _parse(kind, raw, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (kind is not type(None) and not isinstance(value, kind)) or (kind is int and isinstance(value, bool)):
        raise InputError(f"--config.{name}: needs {_kind(kind)}, got {raw!r}")
    node[leaf] = value


def _parse(kind: type, raw: str, name: str) -> Any:
    if kind is str:
        return raw
    if kind is bool:
        if raw.lower() in ("true", "1", "yes"):
            return True
        if raw.lower() in ("false", "0", "no"):
            return False
        raise InputError(f"--config.{name}: needs true or false, got {raw!r}")
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if kind is type(None):
            return raw
        raise InputError(f"--config.{name}: needs {_kind(kind)}, got {raw!r}") from None
    return tuple(value) if isinstance(value, list) and kind is tuple else value


def _kind(kind: type) -> str:
    return {"int": "a whole number", "float": "a number", "tuple": "a tuple like (1,2)"}.get(
        kind.__name__, kind.__name__
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, ConfigDict):
        return value.to_dict()
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value

"""What the fields of a config may hold: one table beside the defaults says type, range and choices of each, and `check`
looks at all of them before anything runs.

The house's table is `core/config.py: FIELDS`; a method declares its own as `FIELDS` in its `recipe.py`:

    FIELDS = {"model.layers": whole(1), "model.head": choice("mean", "lstm"), "data.root": folder()}

A `*` in a name stands for any one part of it (`optim.*.lr`).
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxvl.core import registry
from jaxvl.core.errors import InputError
from jaxvl.core.files import printable

LARGEST = 2**31 - 1
"""Counts are int32 on the device."""
HUGE = 3e38
"""What float32 holds."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field. allowed: in words, behind 'needs'. good: whether a value is allowed. known: the choices, if there are
    any. place: 'folder' for a path that is resolved where the run begins, 'below' for one inside of another folder.
    optional: only some configs have the field."""

    allowed: str
    good: Callable[[Any], bool]
    known: Callable[[], tuple[str, ...]] | None = None
    place: str = ""
    optional: bool = False

    def refuse(self, name: str, value: Any) -> InputError:
        """The line for a value that is not allowed."""
        shown = printable(repr(value))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        if self.known is not None and isinstance(value, str):
            return InputError(f"config.{name}: {shown} is none of {', '.join(self.known())}")
        return InputError(f"config.{name}: needs {self.words()}, got {shown}")

    def words(self) -> str:
        """What is allowed, for errors and documents."""
        return f"one of {', '.join(self.known())}" if self.known is not None else self.allowed


def whole(low: int | None = None, high: int = LARGEST, also: tuple[int, ...] = ()) -> Field:
    """An int from `low` to `high`, or one of `also`."""
    words = "a whole number" + _range(low, None if high == LARGEST else high) + _also(also)
    least = -LARGEST if low is None else low
    return Field(words, lambda v: _is_number(v, int) and (least <= v <= high or v in also))


def real(
    low: float | None = None, high: float | None = None, above: float | None = None, below: float | None = None
) -> Field:
    """A finite number: `low` <= x <= `high`, `above` < x < `below`."""
    words = "a number" + _range(low, high)
    words += f" above {above:g}" if above is not None else ""
    words += f" and below {below:g}" if below is not None else ""

    def good(v: Any) -> bool:
        if not _is_number(v, int | float) or not -HUGE <= v <= HUGE:  # NaN is not, either
            return False
        least, most = (low is None or v >= low), (high is None or v <= high)
        return least and most and (above is None or v > above) and (below is None or v < below)

    return Field(words, good)


def flag() -> Field:
    """True or False."""
    return Field("true or false", lambda v: type(v) is bool)


def only(value: bool | str, why: str) -> Field:
    """`value` alone; `why` nothing would come of another one."""
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return Field(f"{shown} ({why})", lambda v: type(v) is type(value) and v == value)


def choice(*names: str, of: str = "", also: tuple[str, ...] = ()) -> Field:
    """One of `names`, or of what `MODULE:NAME` in `of` holds, looked up when it is needed; or of `also`."""

    def known() -> tuple[str, ...]:
        if not of:
            return names
        module, _, name = of.partition(":")
        return (*getattr(importlib.import_module(module), name), *also)

    return Field("", lambda v: isinstance(v, str) and (v in also or v in known()), known)


def text(empty: bool = True) -> Field:
    """A text without NUL."""
    words = "a text" if empty else "a text that is not empty"
    return Field(words, lambda v: isinstance(v, str) and "\0" not in v and (empty or bool(v)))


def named(*names: str) -> Field:
    """One of `names`, or the dotted path of a function, `package.module.function`."""
    dotted = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
    words = f"one of {', '.join(names)}, or a dotted name like optax.lion"
    return Field(words, lambda v: isinstance(v, str) and (v in names or dotted.fullmatch(v) is not None))


def anything() -> Field:
    """What a function of the user's own takes."""
    return Field("anything", lambda v: True)


def like(form: str, words: str) -> Field:
    """A text that the regular expression `form` matches, whatever its case; `words` say so."""
    return Field(words, lambda v: isinstance(v, str) and re.fullmatch(form, v, re.IGNORECASE) is not None)


def pattern() -> Field:
    """A regular expression."""
    return Field("a regular expression", _compiles)


def folder(bucket: bool = False) -> Field:
    """A path of this machine, or ''. `resolved` makes it absolute. bucket: or an address, gs://BUCKET/FOLDER."""
    if bucket:
        return dataclasses.replace(text(), allowed="a path", place="folder")
    return dataclasses.replace(below(), place="folder")


def below() -> Field:
    """A path inside of another folder, or an absolute one. `resolved` only resolves `~`."""
    good = text().good
    return Field("a path of this machine", lambda v: good(v) and "://" not in v, place="below")


def many(item: Field, least: int = 0, most: int | None = None) -> Field:
    """A tuple of `item`."""
    count = "" if most is None and not least else f" of {least if least == most else f'{least} or more'}"
    words = f"a tuple{count}, each {item.allowed or 'a known name'}"

    def good(v: Any) -> bool:
        fits = isinstance(v, list | tuple) and least <= len(v) and (most is None or len(v) <= most)
        return fits and all(item.good(x) for x in v)

    return Field(words, good)


def interval(low: float, high: float) -> Field:
    """Two numbers within `low` to `high`, the first not above the second."""
    pair = many(real(low, high), 2, 2)
    return Field(f"two ascending numbers{_range(low, high)}", lambda v: pair.good(v) and v[0] <= v[1])


def factors() -> Field:
    """`((regex, factor), ...)`."""
    factor = real(0)

    def good(v: Any) -> bool:
        pairs = isinstance(v, list | tuple) and all(isinstance(p, list | tuple) and len(p) == 2 for p in v)
        return pairs and all(_compiles(p) and factor.good(f) for p, f in v)

    return Field("pairs ((regular expression, factor of at least 0), ...)", good)


def only_if_given(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Fields that a config need not have."""
    return {name: dataclasses.replace(field, optional=True) for name, field in fields.items()}


def table(config: ConfigDict) -> dict[str, Field]:
    """Every declared field of this config's house and method; the method's own is the later one."""
    from jaxvl.core.config import FIELDS

    return FIELDS | of_method(config.get("method", ""))


def of_method(name: Any) -> dict[str, Field]:
    """What a method declares; nothing where it declares nothing."""
    if not isinstance(name, str) or not registry.has_part(name, "recipe"):
        return {}
    return getattr(registry.module(name, "recipe"), "FIELDS", {})


def check(config: ConfigDict) -> None:
    """Raises InputError for the first field that is missing, unknown, or holds what it may not.

    Fields of `model`, `data` and `eval` that nobody declares pass where the method declares none at all.
    """
    fields, own = table(config), of_method(config.get("method", ""))
    leaves = dict(_leaves(config))
    for name, value in leaves.items():
        field = find(fields, name)
        if field is not None:
            if not field.good(value):
                raise field.refuse(name, value)
        elif value == {} or any(name.startswith(f"{group}.") for group in _free(fields, name)):
            continue
        elif any(declared.startswith(f"{name}.") for declared in fields):
            raise InputError(f"config.{name}: is a group of fields, got {printable(repr(value))[:80]}")
        elif own or not name.startswith(("model.", "data.", "eval.")):
            near = difflib.get_close_matches(name, fields, 1, 0.6)
            raise InputError(f"config.{name}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
        elif type(value) is float and not math.isfinite(value):
            raise InputError(f"config.{name}: needs a finite number, got {value}")
    for name, field in _required(fields, config):
        if name not in leaves:
            raise InputError(f"config.{name}: is missing; it needs {field.words()}")


def _free(fields: Mapping[str, Field], name: str) -> Iterator[str]:
    """The groups above `name` that may hold anything."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        field = find(fields, ".".join(parts[:count]))
        if field is not None and field.allowed == "anything":
            yield ".".join(parts[:count])


def document(config: ConfigDict) -> list[tuple[str, Any, str]]:
    """`(field, default, what it may hold)` of every declared field that `config` has."""
    fields = table(config)
    rows = ((name, value, find(fields, name)) for name, value in _leaves(config))
    return [(name, value, field.words()) for name, value, field in rows if field is not None]


def _required(fields: Mapping[str, Field], config: ConfigDict) -> Iterator[tuple[str, Field]]:
    for name, field in fields.items():
        group, star, rest = name.partition("*")
        if field.optional:
            continue
        if not star:
            yield name, field
        elif isinstance(entries := config.get(group.rstrip("."), None), ConfigDict):
            yield from ((f"{group}{entry}{rest}", field) for entry in entries)


def find(fields: Mapping[str, Field], name: str) -> Field | None:
    """The field of this name, or the one whose `*` stands for a part of it."""
    if name in fields:
        return fields[name]
    parts = name.count(".")
    return next(
        (f for n, f in fields.items() if "*" in n and n.count(".") == parts and fnmatch.fnmatchcase(name, n)), None
    )


def paths(config: ConfigDict) -> Iterator[tuple[str, str, Field]]:
    """`(name, value, field)` of every field that holds a path."""
    fields = table(config)
    for name, value in _leaves(config):
        field = find(fields, name)
        if field is not None and field.place and isinstance(value, str):
            yield name, value, field


def resolved(config: ConfigDict) -> ConfigDict:
    """A copy in which `~` is the home folder and relative paths are absolute, seen from the current folder: what a run
    keeps, so that it can be read from anywhere."""
    out = config.copy_and_resolve_references()
    for name, value, field in paths(config):
        if value and "://" not in value:
            found = os.path.expanduser(value)
            *parents, leaf = name.split(".")
            node = out
            for part in parents:
                node = node[part]
            node[leaf] = os.path.abspath(found) if field.place == "folder" else found
    return out


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves; a group without fields is one."""
    for key in config:
        value = config[key]
        if isinstance(value, ConfigDict | dict) and len(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", {} if isinstance(value, ConfigDict | dict) else value


def _is_number(v: Any, kind: Any) -> bool:
    return isinstance(v, kind) and not isinstance(v, bool)


def _compiles(v: Any) -> bool:
    if not isinstance(v, str):
        return False
    try:
        re.compile(v)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f" of at least {low:g}"
    return f" of at most {high:g}" if high is not None else ""


def _also(values: tuple[int, ...]) -> str:
    return f" (or {', '.join(map(str, values))})" if values else ""

"""Methods by name: a folder under `jaxvl/methods/` is a method, and registering is having that folder.

`methods/NAME/__init__.py` holds only `INFO`, so that listing the methods imports nothing heavy;
`methods/NAME/method.py` has `build(config) -> Method` and `data.py` has `build_data(config, ...) -> Data`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import pkgutil
from types import ModuleType

from jaxvl.core.errors import InputError

PACKAGE = "jaxvl.methods"


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """The card of a method, as `jaxvl methods` prints it."""

    title: str
    paper: str
    task: str
    status: str = "complete"


def names() -> list[str]:
    """All methods, sorted."""
    package = importlib.import_module(PACKAGE)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg)


def info(name: str) -> MethodInfo:
    """The card of one method; raises InputError with the nearest name for an unknown one."""
    return _module(name, "").INFO


def has_part(name: str, part: str) -> bool:
    """Whether there is a method of this name with a module `PART`."""
    return name in names() and importlib.util.find_spec(f"{PACKAGE}.{name}.{part}") is not None


def module(name: str, part: str) -> ModuleType:
    """The module `jaxvl.methods.NAME.PART` (`method`, `data`, `files`)."""
    return _module(name, f".{part}")


def optional(name: str, part: str) -> ModuleType | None:
    """The same, or None where there is no method of this name or it has no such module."""
    return module(name, part) if has_part(name, part) else None


def _module(name: str, part: str) -> ModuleType:
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.3)
        hint = f"did you mean {near[0]}?" if near else f"known methods: {', '.join(known)}"
        raise InputError(f"config.method: {name!r} is not a folder of jaxvl/methods; {hint}")
    return importlib.import_module(f"{PACKAGE}.{name}{part}")

"""Objects that a config names by their dotted path, `package.module.function`, called with arguments of the config."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxvl.core.errors import InputError


def find(name: str, field: str) -> Callable[..., Any]:
    """The function or class at a dotted path. Raises InputError, with `field`, where it is not there or is none."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{field}: {name!r} cannot be imported ({error}); is its package installed?") from None
    if not callable(found):
        raise InputError(f"{field}: {name!r} is {type(found).__name__} and no function")
    return found


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of this name."""
    return argument in inspect.signature(function).parameters


def call(function: Callable[..., Any], arguments: Mapping[str, Any], name: str, field: str) -> Any:
    """`function(**arguments)`; wrong ones raise InputError with `field`."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(function).parameters)
        raise InputError(f"{field}: {name} {error}; it takes {known}") from None
    return function(**arguments)

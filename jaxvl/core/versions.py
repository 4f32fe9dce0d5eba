"""Versions of jaxvl and of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("jaxvl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "ott-jax", "av", "numpy")


def versions() -> dict[str, str]:
    """`{package: version}`, Python behind jaxvl. Imports none of them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {"jaxvl": found.pop("jaxvl"), "python": platform.python_version(), **found}

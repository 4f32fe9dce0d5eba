"""jaxvl: published vision and vision-language methods on one sharded JAX training loop.

    import jaxvl

    config = jaxvl.config("centerclip/quickstart", train__steps=100)
    result = jaxvl.train(config, "runs/first")
    model = jaxvl.load("runs/first")
    model.similarity(["a red circle moves"], ["clip.mp4"])

Importing this costs nothing; what is used is imported then. `docs/howto/python.md` shows all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxvl.core.errors import BadMedia, InputError

if TYPE_CHECKING:
    from jaxvl.api import config, evaluate, load, train
    from jaxvl.core.model import Classified, Model

__all__ = ["BadMedia", "Classified", "InputError", "Model", "config", "evaluate", "load", "train"]

_HOME = {name: "jaxvl.api" for name in ("config", "evaluate", "load", "train")}
_HOME |= {name: "jaxvl.core.model" for name in ("Classified", "Model")}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from jaxvl.core.versions import versions

        return versions()["jaxvl"]
    if name not in _HOME:
        raise AttributeError(f"module 'jaxvl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

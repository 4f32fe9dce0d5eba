"""Compiled programs: before they are needed, and kept for the next start."""

from __future__ import annotations

import os
import platform
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from jaxvl.core import memory

CACHE_BYTES = 2**31
"""Bound of the compilation cache of a workdir; what was not used for longest goes first."""


class Program:
    """A jitted function `(state or variables, batch)`, whose executables may be made ahead.

    It is jitted as ever where a batch has other shapes than those it was compiled for.
    """

    def __init__(self, jitted: Callable):
        self.jitted = jitted
        self.ready: dict[Any, Callable] = {}

    def compile(self, first: Any, batch: Any) -> None:
        """Makes the executable for these shapes (ShapeDtypeStructs; `first` with shardings)."""
        key = _shapes(batch)
        if key not in self.ready:
            self.ready[key] = self.jitted.lower(first, batch).compile()

    def __call__(self, first: Any, batch: Any) -> Any:
        """The result of the executable for the shapes of `batch`."""
        return self.ready.get(_shapes(batch), self.jitted)(first, batch)

    def lower(self, *args: Any) -> Any:
        """As that of the jitted function."""
        return self.jitted.lower(*args)

    def trace(self, *args: Any) -> Any:
        """As that of the jitted function."""
        return self.jitted.trace(*args)


def _shapes(batch: Any) -> Any:
    leaves, tree = jax.tree.flatten(batch)
    return tree, tuple((x.shape, x.dtype) for x in leaves)


def compile_all(
    programs: Iterable[tuple[str, Program, Any, Any]], say: Callable[[str], None], config: ConfigDict | None = None
) -> None:
    """Compiles each `(name, program, first, batch)`, and says which. config: for advice where one does not fit."""
    programs = list(programs)
    for i, (name, program, first, batch) in enumerate(programs, 1):
        say(f"compiling {name} ({i} of {len(programs)})")
        with memory.told(f"compiling {name}", config):
            program.compile(first, batch)


def on_device(fields: Mapping[str, tuple[tuple[int, ...], Any]], rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of `rows` examples with these `(shape, dtype)` is on the device."""
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), jax.dtypes.canonicalize_dtype(dtype))
        for name, (shape, dtype) in fields.items()
    }


def keep(workdir: str | Path, move: bool = True) -> None:
    """Keeps compiled programs in `WORKDIR/cache`, so that a run that goes on is back in seconds. move: also if this
    process keeps them in another workdir up to now.

    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` keeps none; both are JAX's
    own. Nothing is kept where the workdir cannot be written, and no program over several CPU devices (see
    `keep_none_over_cpus`).
    """
    global _kept
    keep_none_over_cpus()
    folder = Path(workdir).absolute() / "cache"
    if jax.default_backend() == "cpu":  # CPU programs are of one kind of CPU; another may end at an unknown instruction
        folder /= f"{zlib.crc32(_cpu().encode()):08x}"
    if jax.config.jax_compilation_cache_dir != _kept or str(folder) == _kept or not os.access(workdir, os.W_OK):
        return
    if _kept is not None and not move:
        return
    _kept = str(folder)
    jax.config.update("jax_compilation_cache_dir", _kept)
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    compilation_cache.reset_cache()  # which was settled by the first program of this process


def keep_for_all(workdir: str | Path) -> None:
    """As `keep`, and runs in other workdirs of this process use this one's programs, too."""
    global _kept
    keep(workdir)
    if _kept is not None and jax.config.jax_compilation_cache_dir == _kept:
        _kept = ""  # no folder has this name, so nobody moves it


_kept: str | None = None  # the folder that `keep` has set


def _cpu() -> str:
    """What tells kinds of CPUs apart."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    flags = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return platform.machine() + (flags.group(2) if flags else platform.processor())


def keep_none_over_cpus() -> None:
    """From now on programs over several CPU devices stay out of the compilation cache.

    When such a program comes out of it, its collectives are not ordered any more: two of them wait for each other until
    XLA ends the process (8 of 10 starts). JAX has no setting for it, so the function that writes is replaced.
    """
    from jax._src import compilation_cache as inside

    put = inside.put_executable_and_time
    if getattr(put, "of_jaxvl", False):
        return

    def put_if_of_one(key: str, name: str, executable: Any, backend: Any, *rest: Any) -> None:
        if type(backend).__name__ == "CompileOnlyPyClient":
            return  # of devices that are not here: JAX cannot read such an entry
        if backend.platform != "cpu" or (len(executable.local_devices()) == 1 and jax.process_count() == 1):
            put(key, name, executable, backend, *rest)

    put_if_of_one.of_jaxvl = True
    inside.put_executable_and_time = put_if_of_one

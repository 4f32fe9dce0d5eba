"""A program for devices that are not here, up to where its arrays have their places in memory.

XLA's TPU compiler needs seconds for what a forecast asks of it: the optimised program, and the memory of its arrays.
Minutes go into machine code, which nobody here will run. No option leaves the code out, so the compiler is watched by
the files that it writes on the way, and left alone once they are there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)
WAIT_S = 0.05


class LaidOut(NamedTuple):
    """Answers as an executable of JAX does, to what needs no code. text: the optimised program; memory: bytes on a
    device of arguments, outputs, aliased ones (in both) and temporaries."""

    text: str
    memory: Mapping[str, int]

    def as_text(self) -> str:
        """The optimised program."""
        return self.text

    def memory_analysis(self) -> SimpleNamespace:
        """Sizes by the names that an executable's have; there is none of the code, and no peak."""
        return SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in self.memory.items()})

    def cost_analysis(self) -> None:
        """Is made of the code."""
        return


def lay_out(lowered: Any, options: Mapping[str, Any], folder: Path) -> Any:
    """Compiles `lowered` (of `jax.jit(...).lower`) until a `LaidOut` is known; the executable, if that is done first.

    folder: an empty one, for what the compiler writes. It goes on in a thread that nothing can stop, so this is for a
    process that ends soon, by `os._exit`. Raises what the compiler raises.
    """
    options = {**options, "xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    compiling = ThreadPoolExecutor(1).submit(lowered.compile, options)
    while not compiling.done():
        if (found := _written(folder)) is not None:
            return found
        time.sleep(WAIT_S)
    return compiling.result()


def _written(folder: Path) -> LaidOut | None:
    """What the compiler has written; None until it has all. It writes the program twice, the second time last."""
    names = ("", "-buffer-assignment", "_after_buffer_assignment")
    files = [list(folder.glob(f"*.after_optimizations{name}.txt")) for name in names]
    if not all(files):
        return None
    (program,), (places,), (again,) = files
    if not 0 < program.stat().st_size == again.stat().st_size:
        return None
    return LaidOut(program.read_text(), memory_of(places.read_text()))


def memory_of(places: str) -> dict[str, int]:
    """Bytes in a device's main memory (color 0), of the text of XLA's buffer assignment."""
    found = dict.fromkeys(("argument", "output", "alias", "temp"), 0)
    for size, rest in ALLOCATION.findall(places):
        if ", color " in rest:
            continue
        given, returned = ", parameter " in rest, ", maybe-live-out" in rest
        for name, holds in {
            "argument": given,
            "output": returned,
            "alias": given and returned,
            "temp": "preallocated-temp" in rest,
        }.items():
            found[name] += int(size) * holds
    return found

"""Out of memory as one line: how much was needed, how much there is, and the fields that lower it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from jaxvl.core.errors import InputError

UNITS = {"": 1, "B": 1, **{f"{u}{i}": 1024**n for n, u in enumerate("KMGT", 1) for i in ("", "B", "iB")}}
NUMBER = r"([\d.]+)\s?([KMGT]?i?B?)\b"
NEEDED = (
    rf"total memory required [^()]*\({NUMBER}\)",  # a TPU's compiler, ahead of time
    rf"[Uu]sed {NUMBER} of",  # a TPU's compiler
    rf"[Aa]llocat\w* (?:request for )?{NUMBER}",  # 'allocating N bytes', 'Failed to allocate request for 2.0GiB'
    rf"allocate {NUMBER}",
)
AVAILABLE = (rf"of {NUMBER} hbm", rf"available HBM \({NUMBER}\)", rf"limit (?:is |of )?{NUMBER}")


class OutOfMemory(InputError):
    """A program does not fit the devices. The message is the whole advice."""


@contextlib.contextmanager
def told(what: str, config: ConfigDict | None = None) -> Iterator[None]:
    """Turns JAX's RESOURCE_EXHAUSTED inside into `OutOfMemory` with `what` ran; other errors pass."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(line(str(error), what, config)) from error
    except MemoryError as error:
        raise OutOfMemory(line("", what, config)) from error


def line(message: str, what: str, config: ConfigDict | None = None) -> str:
    """The line for an error message of XLA."""
    much = needed(message)
    limit = _bytes(message, AVAILABLE) or _limit()
    size = f"; {gib(much)} were needed" if much else ""
    size += f"{' and' if much else '; '} {gib(limit)} are there" if limit else ""
    device = jax.local_devices()[0]
    return f"out of memory on {device.device_kind}: {what}{size}. What lowers it: {'; '.join(mends(config))}"


def needed(message: str) -> float | None:
    """Bytes that a program needs, as far as an error message of XLA says so."""
    return _bytes(message, NEEDED)


def mends(config: ConfigDict | None) -> list[str]:
    """Fields that lower the memory of this config's programs, the cheapest first, each with what to set."""
    if config is None:
        return ["a smaller batch (config.data.eval_batch_size)"]
    found = []
    if config.precision.compute in ("float32", "f32"):
        found.append("config.precision.compute=bfloat16")
    if config.precision.remat == "none":
        found.append("config.precision.remat=full (computes again what it does not keep)")
    if config.mesh.fsdp == 1 and jax.device_count() > 1:
        found.append(f"config.mesh.fsdp={jax.device_count()} (spreads parameters and moments)")
    for name in ("batch_size", "eval_batch_size"):
        if isinstance(config.data.get(name), int) and config.data[name] > 1:
            found.append(f"config.data.{name} below {config.data[name]}")
    found.append(f"config.train.accumulate above {config.train.accumulate} (the same batch in pieces)")
    return found


def gib(size: float) -> str:
    """`1.5 GiB`, `12 MiB`."""
    unit, name = next(((UNITS[f"{u}iB"], f"{u}iB") for u in "TGMK" if size >= UNITS[f"{u}iB"]), (1, "bytes"))
    return f"{size / unit:.3g} {name}" if size < 999.5 * unit else f"{size / unit:.0f} {name}"


def _bytes(message: str, patterns: tuple[str, ...]) -> float | None:
    for pattern in patterns:
        if found := re.search(pattern, message):
            return float(found.group(1).rstrip(".")) * UNITS[found.group(2)]
    return None


def _limit() -> float | None:
    """What a device has in all, where it says so."""
    stats = jax.local_devices()[0].memory_stats()
    return float(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None

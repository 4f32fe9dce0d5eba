"""TPU chips and their slices: what a program is measured against, and devices that are not here to compile it for.

Figures of the chips: the pages "TPU v2" to "TPU7x (Ironwood)" of https://docs.cloud.google.com/tpu/docs (their tables
"key specifications": peak bf16 compute, HBM capacity and bandwidth, bidirectional ICI bandwidth per chip), of v2 and v3
also Jouppi et al., "A domain-specific supercomputer for training deep neural networks", CACM 63(7), 2020. `usable` is
what the compiler of libtpu 0.0.52 says is there for a program ("exceeds available HBM") on one device; the rest is its
own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxvl.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPUs.

    name: as in a topology's name. hbm: GiB of a chip. usable: GiB that a program can have on one device. flops: peak
    bf16 FLOP/s of a chip. bandwidth: of its HBM, bytes/s. ici: bytes/s of a chip to its neighbours, both directions
    together; None where it is not published. cores: devices of a chip, as JAX counts them. host: chips of a host in a
    slice of several. slices: topologies on offer, ascending. options: of the compiler's topology.
    """

    name: str
    hbm: float
    usable: float
    flops: float
    bandwidth: float
    ici: float | None
    cores: int
    host: int
    slices: tuple[str, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    *("8x8x16", "8x16x16"),
)

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 16, 7.48, 46e12, 700e9, None, 2, 4, ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16")),
        Chip("v3", 32, 15.48, 123e12, 900e9, None, 2, 4, ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32")),
        # both cores of a chip as one device, which is how JAX runs on it
        Chip("v4", 32, 30.75, 275e12, 1200e9, None, 1, 4, CUBES, {"chip_config_name": "megacore"}),
        Chip("v5e", 16, 15.75, 197e12, 819e9, 400e9, 1, 4, FLAT),
        Chip("v5p", 95, 95.73, 459e12, 2765e9, 1200e9, 1, 4, CUBES),
        Chip("v6e", 32, 31.24, 918e12, 1638e9, 800e9, 1, 4, FLAT),
        Chip("tpu7x", 192, 94.74, 2307e12, 7380e9, 1200e9, 2, 4, CUBES),
    )
}
ALSO_CALLED = {"v5litepod": "v5e", "v5lite": "v5e", "v6": "v6e", "v7x": "tpu7x", "7x": "tpu7x", "ironwood": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for. chip: None for simulated CPU devices. sides: of the torus; `(n,)` for CPU devices."""

    name: str
    chip: Chip | None
    sides: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips, or CPU devices."""
        return math.prod(self.sides)

    @property
    def count(self) -> int:
        """How many devices, as JAX counts them."""
        return self.chips * (self.chip.cores if self.chip else 1)

    def devices(self) -> list[Any]:
        """The devices. Raises InputError where the compiler is not installed, or has no such topology."""
        return list(_cpu_devices(self.count) if self.chip is None else _tpu_devices(self.name))


def parse(name: str, flag: str = "--topology") -> Topology:
    """`v5e:4x4`, `v5p:2x2x2`, `cpu:8`. Raises InputError, with the `flag` that named it and the nearest
    that there is."""
    kind, colon, text = name.partition(":")
    kind = kind.lower()
    if kind == "cpu":
        if not re.fullmatch(r"[1-9]\d{0,3}", text):
            raise InputError(f"{flag} {name}: needs a number of simulated devices, as in cpu:8")
        return Topology(f"cpu:{int(text)}", None, (int(text),))
    pod = re.fullmatch(r"(v\w+)-(\d+)", kind)
    if not colon and pod and ALSO_CALLED.get(pod.group(1), pod.group(1)) in CHIPS:
        chip = CHIPS[ALSO_CALLED.get(pod.group(1), pod.group(1))]
        raise InputError(f"{flag} {name}: needs its sides, as in {_of_size(chip, int(pod.group(2)))}")
    kind = ALSO_CALLED.get(kind, kind)
    if kind not in CHIPS:
        near = difflib.get_close_matches(kind, CHIPS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(CHIPS)} and cpu"
        raise InputError(f"{flag} {name}: {kind!r} is no chip; {hint} (as in v5e:4x4 or cpu:8)")
    chip = CHIPS[kind]
    sides = tuple(int(n) for n in text.split("x")) if re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2})*", text) else ()
    if len(sides) != len(chip.slices[0].split("x")):
        raise InputError(f"{flag} {name}: needs the sides of a slice, as in {kind}:{chip.slices[2]}")
    return Topology(f"{kind}:{text}", chip, sides)


def larger(topology: Topology, times: int = 2) -> Topology | None:
    """The smallest slice on offer with at least `times` the chips; None where there is none. For CPU devices, `times`
    as many."""
    if topology.chip is None:
        return parse(f"cpu:{topology.chips * times}")
    slices = (parse(f"{topology.chip.name}:{sides}") for sides in topology.chip.slices)
    return next((found for found in slices if found.chips >= topology.chips * times), None)


def _of_size(chip: Chip, cores: int) -> str:
    """The slice with about so many cores: the number in names like `v4-32` and `v5litepod-16`."""
    found = [parse(f"{chip.name}:{sides}") for sides in chip.slices]
    return min(found, key=lambda t: abs(t.chips * (1 if chip.slices == FLAT else 2) - cores)).name


@functools.lru_cache(maxsize=16)
def _tpu_devices(name: str) -> tuple[Any, ...]:
    from jax.experimental import topologies

    topology = parse(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--topology {name}: the TPU compiler is not installed; pip install 'jaxvl[aot]' (no TPU is needed), or "
            f"--topology cpu:{topology.count} for simulated CPU devices, whose memory and time are not those of a TPU"
        )
    # libtpu shall neither ask the metadata of a cloud machine nor take a TPU that another process uses
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(variable, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **topology.chip.options)
    except jax.errors.JaxRuntimeError as error:
        known = ", ".join(f"{topology.chip.name}:{sides}" for sides in topology.chip.slices)
        line = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")[:200]
        raise InputError(f"--topology {name}: the compiler has none ({line}); there are {known}") from None
    _read_flags(found.devices[0])
    return tuple(found.devices)


def _read_flags(device: Any) -> None:
    """Has the TPU compiler read XLA_FLAGS, which it does in its first compilation, while there are none: those of this
    process are for CPUs or GPUs, and at one that it does not know it ends the process."""
    jax.devices("cpu")  # for which they are
    flags = os.environ.pop("XLA_FLAGS", None)
    try:
        nothing = jax.jit(lambda x: x, in_shardings=jax.sharding.SingleDeviceSharding(device))
        nothing.lower(jax.ShapeDtypeStruct((), "float32")).compile()
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


def _cpu_devices(count: int) -> list[Any]:
    asked = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if asked is None or int(asked.group(1)) < count:
        with contextlib.suppress(RuntimeError):  # the devices of this process are made already
            jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices("cpu")
    if len(found) < count:
        raise InputError(
            f"--topology cpu:{count}: this process has made {len(found)} CPU devices; give the command in a new one"
        )
    return found[:count]

"""What a compiled program costs a device: memory, arithmetic, traffic, exchanges, and what stands out in it.

Plain dictionaries of numbers and texts, as `jaxvl aot --json` prints them. Bytes and seconds; per device and update.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxvl.core import flops, hlo, hlo_counts, sharding
from jaxvl.core.chips import Chip
from jaxvl.core.memory import gib
from jaxvl.core.state import TrainState

PACKAGE = Path(__file__).parent.parent
DRIVERS = ("core/step.py", "core/session.py", "core/programs.py", "core/evaluation.py", "verbs/")
"""What calls a method. A line of these, or behind them, does not say where in a method something is."""
GROWS = 1.05
"""A figure of a larger slice that is so many times that of the smaller one, at the same batch a device, grows."""


# -- state and batches


def bytes_on_device(tree: Any) -> int:
    """Bytes of a device's part of a tree of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def of_state(target: TrainState) -> dict[str, int]:
    """Bytes on a device of each part of the state."""
    parts = {
        "parameters": target.params,
        "optimiser": target.opt_state,
        "mutables": target.mutables,
        "ema": target.ema,
        "rest": (target.step, target.rng, target.bad_step),
    }
    return {name: bytes_on_device(tree) for name, tree in parts.items()}


def of_batch(batch: Any, mesh: sharding.Mesh) -> int:
    """Bytes on a device of a global batch of ShapeDtypeStructs."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)) // (mesh.shape["data"] * mesh.shape["fsdp"])


def rows_of_hosts(mesh: sharding.Mesh, rows: int) -> dict[int, str]:
    """host -> rows of a global batch that it reads, as `0-31, 96-127`."""
    hosts = sorted({d.process_index for d in mesh.devices.flat})
    return {host: spans(sharding.rows_of_process(mesh, rows, host).tolist()) for host in hosts}


def spans(numbers: Sequence[int]) -> str:
    """Ascending whole numbers as `0-3, 7`."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in parts)


def input_of_host(batch: Any, mesh: sharding.Mesh) -> int:
    """Bytes of a global batch that the host with the most rows reads."""
    total = 0
    hosts = {d.process_index for d in mesh.devices.flat}
    for x in jax.tree.leaves(batch):
        rows = max(len(sharding.rows_of_process(mesh, x.shape[0], host)) for host in hosts)
        total += rows * (x.size // x.shape[0]) * x.dtype.itemsize
    return total


# -- a compiled program


def of_program(
    compiled: Any, mesh: Mapping[str, int], traced_flops: int, chip: Chip | None, low_precision: bool
) -> dict[str, Any]:
    """Everything that the executable tells. traced_flops: of all devices. low_precision: products should be bfloat16,
    so those of float32 are listed."""
    program = hlo.parse(compiled.as_text())
    exchanged = hlo_counts.collectives(program, mesh)
    products = hlo_counts.products(program)
    flops = sum(p.total for p in products)
    devices = math.prod(mesh.values())
    moved = hlo_counts.all_traffic(program)
    wire = sum(c.wire for c in exchanged)
    mine = traced_flops / devices
    return {
        "memory": of_memory(compiled),
        "flops": {
            "traced": mine,
            "compiled": flops,
            "ratio": flops / mine if mine else None,
            "passes": sum(p.total * p.passes for p in products),
        },
        "bytes": {
            "memory": moved,
            "on_chip": hlo_counts.all_traffic(program, everywhere=True) - moved,
            "by_xla": (compiled.cost_analysis() or {}).get("bytes accessed"),
            "sent": wire,
        },
        "roofline": roofline(sum(p.total * p.passes for p in products), moved, wire, chip),
        "collectives": _collectives(program, exchanged),
        "loops": _loops(program, exchanged),
        "sorts": _named(program, hlo_counts.sorts(program)),
        "decompositions": _named(program, hlo_counts.decompositions(program)),
        "relayouts": _relayouts(program),
        "f32_products": _f32(program, products, flops) if low_precision else None,
        "aliased": len(program.aliased),
    }, program


def of_memory(compiled: Any) -> dict[str, int | None]:
    """Bytes on a device, as the compiler laid them out; `total`: all that is there at once. `code` and the compiler's
    own `peak`: None where no code was generated."""
    m = compiled.memory_analysis()
    names = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp"}
    found = {name: int(getattr(m, f"{of}_size_in_bytes")) for name, of in names.items()}
    held = found["arguments"] + found["outputs"] - found["aliased"] + found["temporaries"]
    code, peak = getattr(m, "generated_code_size_in_bytes", None), getattr(m, "peak_memory_in_bytes", None)
    return {**found, "code": code, "peak": peak, "total": max(held + (code or 0), peak or 0)}


def roofline(flops: float, moved: float, wire: float, chip: Chip | None) -> dict[str, Any]:
    """The least time of each of three: the products on the matrix units, the bytes through the memory, the bytes to
    the neighbours; no program is faster than the longest. Without a chip, None."""
    if chip is None:
        return {"compute": None, "memory": None, "network": None, "step": None, "bound": None}
    times = {
        "compute": flops / (chip.flops / chip.cores),
        "memory": moved / (chip.bandwidth / chip.cores),
        "network": wire / (chip.ici / 2 / chip.cores) if chip.ici else None,  # `ici` counts both directions
    }
    bound = max((t, name) for name, t in times.items() if t is not None)
    return {**times, "step": bound[0], "bound": bound[1]}


def place_of(program: hlo.Program, run: hlo.Run) -> str:
    """Where in the source an instruction comes from: the innermost line of a method or of what it is built of; else
    JAX's name of the operation, without numbers."""
    place = program.place_of(run)
    found = ""
    for file, line in place.frames:
        path = Path(file)
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        name = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
        driver = name.startswith(DRIVERS)
        if not found or not (driver or name.startswith("core/")):
            found = f"{name}:{line}"
        if driver or not name.startswith("core/"):
            break
    return found or re.sub(r"\d+", "*", "/".join(place.name.split("/")[-3:])) or "?"


def _around(program: hlo.Program, run: hlo.Run) -> str | None:
    """`loop of 12`, `loop of unknown length`, None outside of loops."""
    if not run.loops:
        return None
    return (
        "loop of unknown length" if run.unknown else "loop of " + " x ".join(str(program.trips[n]) for n in run.loops)
    )


def _collectives(program: hlo.Program, exchanged: Iterable[hlo_counts.Collective]) -> list[dict[str, Any]]:
    groups: dict[tuple, list[hlo_counts.Collective]] = collections.defaultdict(list)
    for c in exchanged:
        place, loop = place_of(program, c.run), _around(program, c.run)
        groups[c.kind, c.dtype, c.axis, c.group, place, loop].append(c)
    rows = [
        {
            "kind": kind,
            "dtype": dtype,
            "axis": axis,
            "group": group,
            "place": place,
            "loop": loop,
            "count": sum(c.run.times for c in found),
            "bytes": sum(c.size * c.run.times for c in found),
            "sent": sum(c.wire for c in found),
        }
        for (kind, dtype, axis, group, place, loop), found in groups.items()
    ]
    return sorted(rows, key=lambda r: -r["bytes"])


def _loops(program: hlo.Program, exchanged: Sequence[hlo_counts.Collective]) -> list[dict[str, Any]]:
    groups: dict[tuple, list[hlo_counts.Loop]] = collections.defaultdict(list)
    for loop in hlo_counts.loops(program, exchanged):
        groups[loop.trips, loop.collectives, place_of(program, loop.run)].append(loop)
    rows = [
        {
            "trips": trips,
            "entered": sum(x.run.times for x in found),
            "collectives": each,
            "place": place,
            "depth": max(len(x.run.loops) for x in found),
        }
        for (trips, each, place), found in groups.items()
    ]
    return sorted(rows, key=lambda r: -(r["trips"] or math.inf) * r["entered"])


def _named(program: hlo.Program, runs: Iterable[hlo.Run]) -> list[dict[str, Any]]:
    groups: dict[tuple, int] = collections.Counter()
    for run in runs:
        i = run.instruction
        target = re.search(r'custom_call_target="([^"]*)"', i.text)
        what = target.group(1) if target else i.op
        groups[what, str(max(i.results, key=lambda a: a.bytes)), place_of(program, run), _around(program, run)] += (
            run.times
        )
    return [
        {"what": what, "of": of, "place": place, "loop": loop, "count": n}
        for (what, of, place, loop), n in sorted(groups.items(), key=lambda item: -item[1])
    ]


def _relayouts(program: hlo.Program) -> dict[str, Any]:
    groups: dict[tuple, list[int]] = collections.defaultdict(lambda: [0, 0])
    for run, size in hlo_counts.relayouts(program):
        row = groups[str(run.instruction.results[0]), place_of(program, run)]
        row[0] += run.times
        row[1] += size * run.times
    rows = [{"of": of, "place": place, "count": n, "bytes": b} for (of, place), (n, b) in groups.items()]
    rows.sort(key=lambda r: -r["bytes"])
    return {"count": sum(r["count"] for r in rows), "bytes": sum(r["bytes"] for r in rows), "places": rows}


def _f32(program: hlo.Program, products: Iterable[hlo_counts.Product], total: int) -> list[dict[str, Any]]:
    groups: dict[tuple, list[int]] = collections.defaultdict(lambda: [0, 0])
    for p in products:
        if p.operands == ("f32", "f32"):
            row = groups[p.precision, place_of(program, p.run)]
            row[0] += p.run.times
            row[1] += p.total
    rows = [
        {"precision": precision, "place": place, "count": n, "flops": flops, "share": flops / total if total else 0.0}
        for (precision, place), (n, flops) in groups.items()
    ]
    return sorted(rows, key=lambda r: -r["flops"])


def donated(program: hlo.Program, target: TrainState) -> dict[str, Any]:
    """Whether the new state takes the memory of the old one: bytes on a device of the leaves that do not, and which.

    A program's outputs are the leaves of the state in their order, then the scalars.
    """
    leaves = jax.tree_util.tree_leaves_with_path(target)
    copied = {
        sharding.path_name(path): bytes_on_device(x) for i, (path, x) in enumerate(leaves) if i not in program.aliased
    }
    largest = sorted(copied, key=lambda name: -copied[name])
    return {"leaves": len(leaves), "copied": len(copied), "bytes": sum(copied.values()), "largest": largest[:5]}


# -- two sizes


def growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> list[str]:
    """What a device does more of on the larger slice, with as many rows a device: one line each."""
    lines = []
    for what, keys in {
        "FLOPs": ("flops", "compiled"),
        "bytes through memory": ("bytes", "memory"),
        "temporaries": ("memory", "temporaries"),
        "arguments": ("memory", "arguments"),
    }.items():
        a, b = (figures[keys[0]][keys[1]] for figures in (small, large))
        if b > GROWS * a and b - a > 2**16:
            amount = flops.text if what == "FLOPs" else gib
            lines.append(f"{what}: {amount(a)} -> {amount(b)} ({b / a:.2f} x)" if a else f"{what}: new")
    key = lambda r: (r["kind"], r["dtype"], r["axis"], r["place"])  # noqa: E731
    before, after = _summed(small["collectives"], key), _summed(large["collectives"], key)
    for k, (count, size) in sorted(after.items(), key=lambda item: -item[1][1]):
        n, old = before.get(k, (0, 0))
        if size > GROWS * old and size - old > 2**12:
            was = f"{n} of {gib(old)} -> {count} of {gib(size)}" if n else f"new, {count} of {gib(size)}"
            lines.append(f"{k[0]} {k[1]} over {k[2]} at {k[3]}: {was}")
    key = lambda r: r["place"]  # noqa: E731
    turns = lambda rows: _summed([{**r, "count": (r["trips"] or 0) * r["entered"], "bytes": 0} for r in rows], key)  # noqa: E731
    before, after = turns(small["loops"]), turns(large["loops"])
    for k, (count, _) in after.items():
        if count > GROWS * before.get(k, (0, 0))[0]:
            lines.append(f"loop at {k}: {before.get(k, (0, 0))[0]} -> {count} turns")
    return lines


def _summed(rows: Iterable[Mapping[str, Any]], key: Any) -> dict[Any, tuple[int, int]]:
    found: dict[Any, tuple[int, int]] = {}
    for r in rows:
        n, size = found.get(key(r), (0, 0))
        found[key(r)] = n + r["count"], size + r["bytes"]
    return found

"""What an optimised XLA program does, counted from its text: exchanges between devices, matrix products, loops, sorts,
decompositions, copies to other layouts, traffic through memory.

All counts have the trip counts of loops in them; see `jaxvl.core.hlo` for how a text is read.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvl.core.flops import valid_pairs
from jaxvl.core.hlo import Array, Instruction, Program, Run, called, close_of

COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute"),
    "collective-broadcast",
)
DECOMPOSITIONS = re.compile(
    r"eigh|syevd|qr\b|_qr|geqrf|householder|orgqr|lu\b|getrf|lu_decomposition|cholesky|potrf|svd|gesvd|gesdd|triangular|trsm|"
    r"schur|gees",
    re.IGNORECASE,
)
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "copy-done", "all-gather-done", "all-reduce-done", "async-done"),
    *("async-update", "async-start", "collective-permute-done", "iota"),
)
"""Operations that read and write no memory of their own; what one calls is counted where it stands."""
FREE_CALLS = ("ConcatBitcast",)
"""Custom calls that name parts which lie side by side as one array."""


# -- collectives


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices. size: bytes of what is exchanged on one device, the whole of a gathered or reduced
    array. wire: bytes that a device sends, all times together, if it goes round in a ring. axis: see `axis_of`."""

    kind: str
    dtype: str
    axis: str
    group: int
    size: int
    wire: float
    run: Run


def collectives(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """All of them. mesh: axis -> size, in the order of the mesh. What the compiler starts, hides behind a product and
    ends in three fusions is one exchange and counted once, by its channel."""
    found: dict[str, Collective] = {}
    for run in program.runs:
        i = run.instruction
        kind = i.op.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        groups = replica_groups(i, mesh)
        n = max(len(groups[0]), 1) if groups else math.prod(mesh.values())
        if kind == "collective-permute":
            n = 2
        results = i.results
        if i.op.endswith("-start") and len(results) > 1:  # of what is sent and what comes, and counters
            data = [a for a in results if a.shape or a.dtype not in ("u32", "s32")]
            results = tuple(data[len(data) // 2 :]) or results
        size = sum(a.bytes for a in results)
        if kind == "reduce-scatter":
            size *= n
        elif kind == "all-reduce" and run.computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # the form that TPUs give it: a reduction of which each keeps its slice
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0, "collective-broadcast": 1.0}
        wire = share.get(kind, (n - 1) / n) * size * run.times
        dtype = max(results, key=lambda a: a.bytes).dtype
        one = Collective(kind, dtype, axis_of(groups, mesh) if groups else "all", n, size, wire, run)
        key = i.attribute("channel_id") or f"{run.computation}/{i.name}"
        if key not in found or found[key].wire < wire:
            found[key] = one
    return list(found.values())


def replica_groups(instruction: Instruction, mesh: Mapping[str, int]) -> list[list[int]]:
    """Who takes part with whom, as numbers of devices in the order of the mesh; empty: all with all."""
    total = math.prod(mesh.values())
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", instruction.text)
    if pairs:
        return [[int(a), int(b)] for a, b in re.findall(r"\{?(\d+),(\d+)\}?", pairs.group(1))]
    text = re.search(
        r"replica_groups=(\{.*?\}\}|\{\}|\[[\d,]*\]<=\[[\d,]*\](?:T\([\d,]*\))?|mesh\[.*)", instruction.text
    )
    if not text:
        return []
    found = text.group(1)
    if found.startswith("{"):
        return [[int(n) for n in part.split(",")] for part in re.findall(r"\{([\d,]+)\}", found)]
    if found.startswith("["):
        shape, source, turn = re.match(r"\[([\d,]*)\]<=\[([\d,]*)\](?:T\(([\d,]*)\))?", found).groups()
        order = np.arange(math.prod(_ints(source))).reshape(_ints(source))
        order = order.transpose(_ints(turn)) if turn else order
        return order.reshape(_ints(shape)).tolist()
    return _groups_of_mesh(found, total)


def _groups_of_mesh(text: str, total: int) -> list[list[int]]:
    """`mesh['a'=4,'b'=4] {'b'}`: devices in rows of axes, those along the named axes together. An axis may be cut, as
    in `'a':(2)4`: the part of size 4 behind one of size 2. `device_ids=([2,4]T(1,0))` says which devices they are."""
    end = close_of(text, 4)
    axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", text[4:end])]
    rest = text[end + 1 :]
    ids = re.match(r"\s*,\s*device_ids=", rest)
    order = np.arange(total)
    if ids:
        close = close_of(rest, ids.end())
        order, rest = _device_ids(rest[ids.end() + 1 : close], total), rest[close + 1 :]
    named = re.match(r"\s*\{([^}]*)\}", rest)
    if not axes or named is None or math.prod(n for _, n in axes) != total:
        raise ValueError(f"HLO: replica groups of an unknown form, {text[:80]!r}")
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", named.group(1))
    sides: list[int] = []
    moving: list[int] = []
    for name, size in axes:
        parts = sorted((int(before or 1), int(n or size)) for w, before, n in wanted if w == name)
        at = 1
        for before, n in parts:
            if before > at:
                sides.append(before // at)
            moving.append(len(sides))
            sides.append(n)
            at = before * n
        if at < size:
            sides.append(size // at)
    still = [i for i in range(len(sides)) if i not in moving]
    order = order.reshape(sides).transpose([*still, *moving])
    return order.reshape(-1, math.prod(sides[i] for i in moving)).tolist()


def _device_ids(text: str, total: int) -> np.ndarray:
    """`[2,4]T(1,0)`: counted in rows of these sides, then turned. Or the numbers themselves."""
    if turned := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        order = np.arange(total).reshape(_ints(turned.group(1)))
        return (order.transpose(_ints(turned.group(2))) if turned.group(2) else order).reshape(-1)
    return np.array(_ints(text))


def axis_of(groups: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> str:
    """The axes of the mesh along which these groups reach: `data`, `data+fsdp`; `part of data` where a group is not a
    whole line of them."""
    names, sides = list(mesh), list(mesh.values())
    places = [np.array(np.unravel_index(list(group), sides)) for group in groups if len(group) > 1]
    moving = [a for i, a in enumerate(names) if any((p[i] != p[i][0]).any() for p in places)]
    if not moving:
        return "none"
    whole = math.prod(mesh[a] for a in moving) == max(len(g) for g in groups)
    return ("" if whole else "part of ") + "+".join(moving)


def _ints(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


# -- products


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product or convolution. flops: of one time. operands: dtypes of both. precision: `default`, `high` or
    `highest`, which is how many passes a TPU makes of float32 (1, 3, 6)."""

    flops: int
    operands: tuple[str, str]
    precision: str
    run: Run

    @property
    def total(self) -> int:
        """FLOPs of all times."""
        return self.flops * self.run.times

    @property
    def passes(self) -> int:
        """Over the matrix unit."""
        return {"high": 3, "highest": 6}.get(self.precision, 1) if self.operands == ("f32", "f32") else 1


def products(program: Program) -> list[Product]:
    """All of them, also those inside of fusions."""
    found = []
    for run in program.runs:
        i = run.instruction
        left, right = (
            (program.operand(run, 0), program.operand(run, 1)) if i.op in ("dot", "convolution") else (None,) * 2
        )
        if left is None or right is None:
            continue
        if i.op == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.text)
            axes = _ints(contracted.group(1)) if contracted else []
            flops = 2 * math.prod(i.results[0].shape) * math.prod(left.shape[a] for a in axes)
        else:
            flops = _convolution(i, left, right)
        precision = re.search(r"operand_precision=\{(\w+)", i.text)
        kept = precision.group(1) if precision else "default"
        found.append(Product(flops, (left.dtype, right.dtype), kept, run))
    return found


def _convolution(instruction: Instruction, left: Array, right: Array) -> int:
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", instruction.text)
    image, kernel, out = labels.groups()
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", instruction.attribute("window").strip("{}")))
    spatial = sorted(c for c in out if c.isdigit())
    n = len(spatial)
    part = lambda name, other: [int(v) for v in window[name].split("x")] if name in window else [other] * n  # noqa: E731
    size, stride, between, apart = part("size", 1), part("stride", 1), part("lhs_dilate", 1), part("rhs_dilate", 1)
    low = [int(v.split("_")[0]) for v in window["pad"].split("x")] if "pad" in window else [0] * n
    total = 1
    for k, axis in enumerate(spatial):
        sides = left.shape[image.index(axis)], size[k], instruction.results[0].shape[out.index(axis)]
        total *= valid_pairs(*sides, stride[k], low[k], between[k], apart[k])
    groups = int(instruction.attribute("feature_group_count") or 1)
    batches = int(instruction.attribute("batch_group_count") or 1)
    total *= left.shape[image.index("b")] // batches * (left.shape[image.index("f")] // groups)
    return 2 * total * right.shape[kernel.index("o")]


# -- loops, sorts, decompositions, copies


@dataclasses.dataclass(frozen=True)
class Loop:
    """A `while`: trips (None: unknown), how often it is entered, how many collectives each turn makes."""

    trips: int | None
    run: Run
    collectives: int


def loops(program: Program, exchanged: Sequence[Collective]) -> list[Loop]:
    """All loops, the outer ones first."""
    found = [run for run in program.runs if run.instruction.op == "while"]
    return [
        Loop(program.trips[run.instruction.name], run, sum(run.instruction.name in c.run.loops for c in exchanged))
        for run in found
    ]


def sorts(program: Program) -> list[Run]:
    """Sorts, and selections of the largest."""
    return [r for r in program.runs if r.instruction.op in ("sort", "topk") or "TopK" in _target(r.instruction)]


def decompositions(program: Program) -> list[Run]:
    """Factorisations and triangular solves, by whatever name the platform calls them."""
    named = ("cholesky", "triangular-solve")
    return [r for r in program.runs if r.instruction.op in named or DECOMPOSITIONS.search(_target(r.instruction))]


def relayouts(program: Program, least: int = 2**16) -> list[tuple[Run, int]]:
    """Copies to another order of axes or other tiles, and transposes, that go through memory: `(run, bytes written)` of
    one time, from `least` bytes on. Copies between memories and of loop variables are none."""
    found = []
    for run in program.runs:
        i = run.instruction
        if run.fused or i.op not in ("copy", "transpose", "copy-start", "fusion") or not i.results:
            continue
        if i.op == "fusion":
            (name, *_) = called(i) or [""]
            root = next((r for r in program.computations.get(name, ()) if r.root), None)
            if root is None or root.op not in ("copy", "transpose"):
                continue
            source = program.defined[name].get(root.operands[0]) if root.operands else None
            before, after, op = source.results[0] if source and source.results else None, root.results[0], root.op
        else:
            before, after, op = program.operand(run, 0), i.results[0], i.op
        moved = op == "transpose" and not _bitcast(i, before, after)
        moved = moved or (before is not None and before.layout != after.layout and op != "transpose")
        if moved and after.bytes >= least:
            found.append((run, after.bytes))
    return found


def _bitcast(instruction: Instruction, before: Array | None, after: Array) -> bool:
    """Whether a transpose only renames axes: its operand lies in memory as its result does."""
    order = re.search(r"dimensions=\{([\d,]*)\}", instruction.text)
    if before is None or order is None or not before.layout or not after.layout:
        return False
    axes, major = _ints(order.group(1)), lambda a: _ints(a.layout.split(":")[0])
    return [axes[d] for d in major(after) if d < len(axes)] == major(before)


def _target(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.text)
    return found.group(1) if found else ""


# -- memory traffic


def traffic(program: Program, run: Run, everywhere: bool = True) -> int:
    """Bytes that an instruction reads and writes, once: its operands and results. What slices an operand reads the
    slice alone, a fusion that updates a slice in place writes that alone; each with the padding of its tiles.
    everywhere: also what lies in memories on the chip, as XLA's own analysis counts; else the device's main memory
    alone."""
    i = run.instruction
    if run.fused or i.op in FREE or i.op.endswith("-done") or _target(i) in FREE_CALLS:
        return 0
    counts = lambda a: a.padded if everywhere or a.space == 0 else 0  # noqa: E731
    known = program.defined[run.computation]
    operands = [known[name].results if name in known else () for name in i.operands]
    if i.op.removesuffix("-start") in ("dynamic-slice", "slice"):
        source = operands[0][0] if operands[0] else None
        taken = i.results[1] if i.op.endswith("-start") else i.results[0]  # (what is sliced, the slice, a counter)
        return counts(taken) + (taken.padded if source is None or counts(source) else 0)
    if i.op == "dynamic-update-slice":
        return sum(counts(a) for a in operands[1]) + (operands[1][0].padded if counts(i.results[0]) else 0)
    results = i.results[:1] if i.op == "copy-start" else i.results  # (copy, what is copied, a counter)
    inside = program.computations.get((called(i) or [""])[0], ()) if i.op == "fusion" else ()
    names = {r.name: r for r in inside}
    root = next((r for r in inside if r.root), None)
    ends = [names.get(n) for n in root.operands] if root is not None and root.op == "tuple" else [root]
    total, in_place = 0, set()
    for a, end in zip(results, ends if len(ends) == len(results) else [None] * len(results)):
        size = counts(a)
        if end is not None and end.op == "dynamic-update-slice" and end.operands[1] in names:
            size = min(size, names[end.operands[1]].padded)
            in_place.add(_source(names, end.operands[0]))
        total += size
    parameters = {r.text.strip(): r.name for r in inside if r.op == "parameter"}
    for number, arrays in enumerate(operands):
        name = parameters.get(str(number))
        if name in in_place:
            continue
        size = sum(counts(a) for a in arrays)
        users = [r for r in inside if name in r.operands] if name else []
        if users and all(r.op in ("dynamic-slice", "slice", "gather") and r.operands[0] == name for r in users):
            size = min(size, sum(r.padded for r in users))
        total += size
    return total


def _source(names: Mapping[str, Instruction], name: str) -> str:
    while name in names and names[name].op in ("bitcast", "copy", "convert") and names[name].operands:
        name = names[name].operands[0]
    return name


def all_traffic(program: Program, everywhere: bool = False) -> int:
    """`traffic` of the whole program, each instruction as often as it runs."""
    return sum(run.times * traffic(program, run, everywhere) for run in program.runs)

"""Reads the text of an optimised XLA program (HLO): what it computes, moves and repeats. Pure functions of text.

A text is parsed once (`parse`); `Program.runs` then has every instruction with how often it runs, the trip counts of
loops multiplied along the way. What XLA's own cost analysis gives counts the body of a loop once.

Grammar: https://openxla.org/xla/hlo_format (as jaxlib 0.10 prints it); layouts and memory spaces:
https://openxla.org/xla/tiled_layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxvl.core.flops import valid_pairs

BITS = {
    **{"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32},
    **{"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0},
    **dict.fromkeys(("f8e4m3", "f8e4m3fn", "f8e4m3b11fnuz", "f8e5m2", "f8e5m2fnuz", "f8e4m3fnuz", "f8e3m4"), 8),
}
ARRAY = re.compile(r"\b(" + "|".join(sorted(BITS, key=len, reverse=True)) + r")\[([\d,<=]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
OPCODE = re.compile(r"^\s*([a-z][a-z0-9\-]*)\(")

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
    *("async-update", "collective-permute-done", "iota"),
)
"""Operations that read and write no memory of their own."""


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the program. layout: order of its axes and its tiles, without the memory space; space: 0 is the
    device's main memory, others lie on the chip."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""
    space: int = 0

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        return math.ceil(math.prod(self.shape) * BITS[self.dtype] / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line. results: its arrays, those of a tuple in a row. text: behind the operands."""

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    root: bool = False

    def attribute(self, name: str) -> str:
        """The value of `name=value` up to the next space or comma outside of brackets; '' where there is none."""
        found = re.search(rf"(?:^|[\s,]){name}=", self.text)
        return _balanced(self.text, found.end()) if found else ""

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(a.bytes for a in self.results)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an instruction comes from. name: JAX's name of the operation, `jit(f)/.../dot_general`. frames: `(file,
    line)`, the innermost first."""

    name: str
    frames: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction and how often it runs. loops: names of the `while` instructions around it, the outermost first;
    unknown: whether one of them turns nobody knows how often (it is counted as once). fused: inside of a fusion, so
    that its results never reach memory. caller: the fusion or call that it is in."""

    instruction: Instruction
    computation: str
    times: int
    loops: tuple[str, ...] = ()
    unknown: bool = False
    fused: bool = False
    caller: Instruction | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed module. computations: name -> instructions in order. aliased: flat output -> number of the parameter
    that gives it its memory."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str
    aliased: Mapping[int, int]
    frames: Mapping[int, tuple[tuple[str, int], ...]]

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every instruction that runs, in order; those of called computations behind their caller."""
        return tuple(self._walk(self.entry, 1, (), False, False, None, 0))

    @functools.cached_property
    def trips(self) -> Mapping[str, int | None]:
        """How often each `while` turns; None where nobody knows before it runs."""
        return {
            i.name: _trip_count(self, name, i)
            for name, lines in self.computations.items()
            for i in lines
            if i.op == "while"
        }

    @functools.cached_property
    def defined(self) -> Mapping[str, Mapping[str, Instruction]]:
        """computation -> name -> instruction."""
        return {name: {i.name: i for i in lines} for name, lines in self.computations.items()}

    def place_of(self, run: Run) -> Place:
        """Where it comes from, or what it is fused into, as far as the compiler kept it."""
        own = self.place(run.instruction)
        return self.place(run.caller) if run.caller is not None and not (own.name or own.frames) else own

    def place(self, instruction: Instruction) -> Place:
        """Where it comes from, as far as the compiler kept it."""
        name = re.search(r'op_name="((?:[^"\\]|\\.)*)"', instruction.text)
        frame = re.search(r"stack_frame_id=(\d+)", instruction.text)
        frames = self.frames.get(int(frame.group(1)), ()) if frame else ()
        if not frames and (file := re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.text)):
            frames = ((file.group(1), int(file.group(2))),)
        return Place(name.group(1).replace("\\'", "'") if name else "", frames)

    def operand(self, run: Run, i: int) -> Array | None:
        """The array of operand `i`, where it is a single one."""
        names = run.instruction.operands
        found = self.defined[run.computation].get(names[i]) if i < len(names) else None
        return found.results[0] if found is not None and len(found.results) == 1 else None

    def _walk(self, computation, times, loops, unknown, fused, caller, depth) -> Iterator[Run]:
        if depth > 100:
            raise ValueError("HLO: computations call each other without end")
        for instruction in self.computations.get(computation, ()):
            yield Run(instruction, computation, times, loops, unknown, fused, caller)
            for name in called(instruction):
                if instruction.op == "while":
                    turns = self.trips[instruction.name]
                    around = (*loops, instruction.name)
                    again = times * (1 if turns is None else turns)
                    inner = (name, again, around, unknown or turns is None, fused, None)
                else:
                    inner = (name, times, loops, unknown, fused or instruction.op == "fusion", instruction)
                yield from self._walk(*inner, depth + 1)


def parse(text: str) -> Program:
    """The program of a module's text. Raises ValueError where it has no entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if line.endswith("{") and (head := COMPUTATION.match(line)):
                current = computations.setdefault(head.group(2), [])
                entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif found := INSTRUCTION.match(line):
            current.append(_instruction(found.group(2), found.group(3), bool(found.group(1))))
    if not entry:
        raise ValueError("HLO: the text has no ENTRY computation")
    header = text[: text.index("\n")]
    return Program({k: tuple(v) for k, v in computations.items()}, entry, _aliases(header), _frames(text))


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    end = _end_of_type(rest)
    opcode = OPCODE.match(rest[end:])
    if opcode is None:
        return Instruction(name, "?", arrays(rest[:end]), (), rest[end:], root)
    inside = _bracket(rest, end + opcode.end() - 1)
    operands = rest[end + opcode.end() : inside]
    literal = opcode.group(1) in ("constant", "parameter")
    names = () if literal else tuple(re.findall(r"%([\w.\-]+)", operands))
    text = rest[inside + 1 :].lstrip(", ")
    return Instruction(name, opcode.group(1), arrays(rest[:end]), names, f"{operands}" if literal else text, root)


def arrays(text: str) -> tuple[Array, ...]:
    """All arrays of a type, in order."""
    return tuple(
        Array(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), *_layout(layout or ""))
        for dtype, dims, layout in ARRAY.findall(text)
    )


def _layout(text: str) -> tuple[str, int]:
    space = re.search(r"S\((\d+)\)", text)
    return re.sub(r"S\(\d+\)", "", text).rstrip(":"), int(space.group(1)) if space else 0


def _end_of_type(rest: str) -> int:
    if rest.startswith("("):
        return _bracket(rest, 0) + 1
    return rest.find(" ")


def _bracket(text: str, start: int) -> int:
    """Where the bracket at `start` closes. Quoted text is passed over."""
    depth, i = 0, start
    while i < len(text):
        char = text[i]
        if char == '"':
            i = text.index('"', i + 1)
            while text[i - 1] == "\\":
                i = text.index('"', i + 1)
        depth += char in "({["
        depth -= char in ")}]"
        if depth == 0:
            return i
        i += 1
    raise ValueError(f"HLO: a bracket is not closed in {text[start : start + 80]!r}")


def _balanced(text: str, start: int) -> str:
    i = start
    while i < len(text) and text[i] not in " ,":
        i = _bracket(text, i) + 1 if text[i] in "({[" else i + 1
    return text[start:i]


def _aliases(header: str) -> dict[int, int]:
    """From `input_output_alias={ {0}: (0, {}, may-alias), ... }`."""
    found = re.search(r"input_output_alias=", header)
    if not found:
        return {}
    inside = header[found.end() : _bracket(header, found.end()) + 1]
    pairs = re.findall(r"\{(\d*)\}: \((\d+), \{[\d, ]*\}", inside)
    return {int(output or 0): int(parameter) for output, parameter in pairs}


def _frames(text: str) -> dict[int, tuple[tuple[str, int], ...]]:
    """The tables in front of the computations: stack frame -> `(file, line)` from the innermost outwards. The number of
    a parent is written as one more than it is, so 1 is none."""
    files = {int(n): name for n, name in re.findall(r'^(\d+) "(.*)"$', _table(text, "FileNames"), re.M)}
    places = {
        int(n): (files.get(int(file), "?"), int(line))
        for n, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+).*? line=(\d+)", _table(text, "FileLocations"), re.M
        )
    }
    table = _table(text, "StackFrames")
    rows = {
        int(n): (int(place), int(parent))
        for n, place, parent in re.findall(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}", table, re.M)
    }
    found: dict[int, tuple[tuple[str, int], ...]] = {}
    for frame in rows:
        chain, at = [], frame
        while at in rows and len(chain) < 100:
            place, parent = rows[at]
            chain.append(places.get(place, ("?", 0)))
            at = parent - 1
        found[frame] = tuple(chain)
    return found


def _table(text: str, name: str) -> str:
    start = text.find(f"\n{name}\n")
    return text[start + len(name) + 2 : text.find("\n\n", start + 1)] if start >= 0 else ""


def called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs. The reducer of a reduction, a sort or a collective is not among them: it
    runs once an element."""
    op, text = instruction.op, instruction.text
    if op.endswith(("-done", "-update")):
        return []
    if op == "while":
        return [
            name.lstrip("%") for name in (instruction.attribute("body"), instruction.attribute("condition")) if name
        ]
    names = [instruction.attribute("calls"), instruction.attribute("called_computation")]
    if op == "call":
        names.append(instruction.attribute("to_apply"))
    if op == "conditional":
        names += [instruction.attribute("true_computation"), instruction.attribute("false_computation")]
        branches = re.search(r"branch_computations=\{([^}]*)\}", text)
        names += branches.group(1).split(",") if branches else []
    return [name.strip().lstrip("%") for name in names if name.strip()]


def _trip_count(program: Program, computation: str, loop: Instruction) -> int | None:
    """What the compiler says; else, as TPU programs do not keep it, from a counter that is compared with a constant."""
    if found := re.search(r'"known_trip_count":\{"n":"?(\d+)"?', loop.text):
        return int(found.group(1))
    body, condition = (program.defined.get(loop.attribute(n).lstrip("%"), {}) for n in ("body", "condition"))
    test = _root(condition)
    if test is None or test.op != "compare" or "direction=LT" not in test.text or not loop.operands:
        return None
    counter, end = _through(condition, test.operands[0]), _constant(condition, test.operands[1])
    if counter is None or counter.op != "get-tuple-element":
        return None
    index = int(counter.attribute("index"))
    begin = _constant(program.defined[computation], loop.operands[0], index)
    last = _root(body)
    moved = _through(body, last.operands[index]) if last is not None and last.op == "tuple" else None
    if moved is None or moved.op != "add":
        return None
    before = _through(body, moved.operands[0])
    step = _constant(body, moved.operands[1])
    same = before is not None and before.op == "get-tuple-element" and int(before.attribute("index")) == index
    if not same or step is None or step < 1 or begin is None or end is None:
        return None
    return max(0, -(-(end - begin) // step))


def _root(lines: Mapping[str, Instruction]) -> Instruction | None:
    return next((i for i in lines.values() if i.root), None)


def _through(lines: Mapping[str, Instruction], name: str) -> Instruction | None:
    """What `name` is, seen through copies."""
    found = lines.get(name)
    while found is not None and found.op in ("copy", "bitcast", "copy-done", "copy-start") and found.operands:
        found = lines.get(found.operands[0])
    return found


def _constant(lines: Mapping[str, Instruction], name: str, index: int | None = None) -> int | None:
    """The whole number that `name` is, or element `index` of the tuple that it is."""
    found = _through(lines, name)
    if found is not None and index is not None:
        found = _through(lines, found.operands[index]) if found.op == "tuple" else None
    number = re.fullmatch(r"\s*(-?\d+)\s*", found.text) if found is not None and found.op == "constant" else None
    return int(number.group(1)) if number else None


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
    end = _bracket(text, 4)
    axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", text[4:end])]
    rest = text[end + 1 :]
    ids = re.match(r"\s*,\s*device_ids=", rest)
    order = np.arange(total)
    if ids:
        close = _bracket(rest, ids.end())
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


def traffic(program: Program, run: Run) -> int:
    """Bytes that an instruction reads and writes, once: its operands and results in the device's memory. A fusion that
    slices an operand reads the slice alone, one that updates a slice in place writes that alone."""
    i = run.instruction
    if run.fused or i.op in FREE or i.op.endswith("-done"):
        return 0
    known = program.defined[run.computation]
    operands = [known[name].results if name in known else () for name in i.operands]
    if i.op == "dynamic-slice":
        return 2 * i.bytes
    if i.op == "dynamic-update-slice":
        return 2 * sum(a.bytes for a in operands[1])
    inside = program.computations.get((called(i) or [""])[0], ()) if i.op == "fusion" else ()
    total, in_place = 0, set()
    root = next((r for r in inside if r.root), None)
    written = i.bytes
    if root is not None:
        names = {r.name: r for r in inside}
        ends = [names[n] for n in root.operands if n in names] if root.op == "tuple" else [root]
        for end in ends:
            if end.op == "dynamic-update-slice" and len(end.operands) > 1 and end.operands[1] in names:
                written -= end.bytes - names[end.operands[1]].bytes
                in_place.add(_source(names, end.operands[0]))
    parameters = {r.text.strip(): r.name for r in inside if r.op == "parameter"}
    for number, results in enumerate(operands):
        size = sum(a.bytes for a in results)
        name = parameters.get(str(number))
        if name in in_place:
            continue
        users = [r for r in inside if name in r.operands] if name else []
        if users and all(r.op in ("dynamic-slice", "slice", "gather") and r.operands[0] == name for r in users):
            size = min(size, sum(r.bytes for r in users))
        total += size
    return total + max(written, 0)


def _source(names: Mapping[str, Instruction], name: str) -> str:
    while name in names and names[name].op in ("bitcast", "copy", "convert") and names[name].operands:
        name = names[name].operands[0]
    return name


def repeated_traffic(program: Program) -> int:
    """Bytes of all turns of loops but the first: what an analysis that counts each body once leaves out."""
    return sum((run.times - 1) * traffic(program, run) for run in program.runs if run.times > 1)

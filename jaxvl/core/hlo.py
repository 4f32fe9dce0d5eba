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
from collections.abc import Iterator, Mapping

BITS = {
    **{"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32},
    **{"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0},
    **dict.fromkeys(("f8e4m3", "f8e4m3fn", "f8e4m3b11fnuz", "f8e5m2", "f8e5m2fnuz", "f8e4m3fnuz", "f8e3m4"), 8),
}
ARRAY = re.compile(r"\b(" + "|".join(sorted(BITS, key=len, reverse=True)) + r")\[([\d,<=]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
OPCODE = re.compile(r"^\s*([a-z][a-z0-9\-]*)\(")


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

    @functools.cached_property
    def padded(self) -> int:
        """Bytes that it takes in memory, where a TPU keeps the last axes of its layout in whole tiles: `T(8,128)` fills
        the last up to a multiple of 128, the one before to one of 8."""
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if not tile:
            return self.bytes
        shape, sizes = list(self.shape), [int(size) for size in tile.group(1).split(",")]
        for axis, size in zip(order.split(",") if order else (), reversed(sizes)):
            shape[int(axis)] = -(-shape[int(axis)] // size) * size
        return math.ceil(math.prod(shape or sizes) * BITS[self.dtype] / 8)

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

    @property
    def padded(self) -> int:
        """Of all results, with the padding of tiles."""
        return sum(a.padded for a in self.results)


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
    inside = close_of(rest, end + opcode.end() - 1)
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
        return close_of(rest, 0) + 1
    return rest.find(" ")


def close_of(text: str, start: int) -> int:
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
        i = close_of(text, i) + 1 if text[i] in "({[" else i + 1
    return text[start:i]


def _aliases(header: str) -> dict[int, int]:
    """From `input_output_alias={ {0}: (0, {}, may-alias), ... }`."""
    found = re.search(r"input_output_alias=", header)
    if not found:
        return {}
    inside = header[found.end() : close_of(header, found.end()) + 1]
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

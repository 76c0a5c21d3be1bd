"""Reading the text of an HLO module: computations, instructions, shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BITS = {
    "pred": 8, "token": 0, "opaque": 0,
    "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f4e2m1fn": 4, "f8e4m3": 8, "f8e4m3b11fnuz": 8, "f8e4m3fn": 8, "f8e4m3fnuz": 8,
    "f8e5m2": 8, "f8e5m2fnuz": 8, "f8e3m4": 8, "f8e8m0fnu": 8,
    "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
"""Of an element, by HLO's name of its type."""

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")


@dataclass(frozen=True, kw_only=True)
class Array:
    """An array in an HLO program.

    Args:
        dtype: HLO's name, such as s8.
        shape: lengths of its axes.
        bytes: that it takes, with the padding of a tiled layout.
        near: whether the compiler put it in memory on the chip (space 1 and above).
        row: length of the axis whose elements lie side by side, other than 1.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    near: bool
    row: int = 1

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Args:
        name: without its %.
        opcode: such as dot.
        results: one array, or those of the tuple.
        operands: names of other instructions of the computation.
        rest: the attributes, as text; of a constant its value.
        index: of a parameter; 0 for all else.
        root: whether it gives the computation's result.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    index: int
    root: bool

    def attribute(self, name: str) -> str:
        """The text of an attribute, without braces; "" where there is none."""
        found = re.search(rf"\b{name}=(\{{[^{{}}]*\}}|[^,\s]+)", self.rest)
        return found.group(1).strip("{}") if found else ""

    def numbers(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of whole numbers."""
        return tuple(int(n) for n in self.attribute(name).split(",") if n)

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs."""
        found = re.findall(
            r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)",
            self.rest,
        )
        for group in re.findall(
            r"\b(?:branch_computations|called_computations)=\{([^}]*)\}", self.rest
        ):
            found += [name.strip().lstrip("%") for name in group.split(",")]
        return tuple(found)


@dataclass(frozen=True)
class Computation:
    """A list of instructions, in the order in which they stand."""

    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """That gives the result."""
        return next(i for i in self.instructions.values() if i.root)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())


@dataclass(frozen=True, kw_only=True)
class Module:
    """A whole program."""

    entry: Computation
    computations: dict[str, Computation]


def parse_module(text: str) -> Module:
    """A module from the text that XLA prints.

    Raises:
        ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            head = line.removeprefix("ENTRY ").lstrip("%")
            current = computations[re.split(r"[\s(]", head, maxsplit=1)[0]] = Computation()
            if line.startswith("ENTRY"):
                entry = current
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _instruction(line.strip())
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("the HLO text has no ENTRY computation")
    return Module(entry=entry, computations=computations)


def _instruction(line: str) -> Instruction:
    root = line.startswith("ROOT ")
    name, _, right = line.removeprefix("ROOT ").partition(" = ")
    end = _balanced(right) if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].strip()
    opcode, _, _ = right.partition("(")
    inside = right[len(opcode) :]
    end = _balanced(inside)
    operands = re.findall(r"%([\w.\-]+)", inside[:end]) if opcode != "constant" else []
    return Instruction(
        name=name.lstrip("%"),
        opcode=opcode,
        results=tuple(_arrays(shape)),
        operands=tuple(operands),
        rest=inside if opcode == "constant" else inside[end:],
        index=int(inside[1 : end - 1]) if opcode == "parameter" else 0,
        root=root,
    )


def _balanced(text: str) -> int:
    """Where the parenthesis ends that the text begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]!r}")


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(shape):
        if dtype not in _BITS:
            raise ValueError(f"unknown HLO type {dtype!r}")
        lengths = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        padded = math.prod(_padded(lengths, layout))
        yield Array(
            dtype=dtype,
            shape=lengths,
            bytes=math.ceil(padded * _BITS[dtype] / 8),
            near=bool(re.search(r"S\([1-9]", layout)),
            row=_row(lengths, layout),
        )


def _row(shape: tuple[int, ...], layout: str) -> int:
    """Length of the fastest axis that has more than one element."""
    order = [int(axis) for axis in layout.partition(":")[0].split(",") if axis]
    fastest_first = [shape[axis] for axis in order] or list(shape[::-1])
    return next((length for length in fastest_first if length > 1), 1)


def _padded(shape: tuple[int, ...], layout: str) -> list[int]:
    """Lengths from the slowest to the fastest axis, rounded up to the layout's first tile."""
    order, _, tiling = layout.partition(":")
    minor_first = [shape[int(axis)] for axis in order.split(",") if axis]
    found = re.match(r"T\(([0-9,]+)\)", tiling)
    if not found or not minor_first:
        return list(shape)
    tile = [int(t) for t in found.group(1).split(",")][::-1]
    for axis, length in enumerate(tile[: len(minor_first)]):
        minor_first[axis] = -(-minor_first[axis] // length) * length
    return minor_first[::-1]

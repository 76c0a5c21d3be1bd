"""The kernels of an optimised HLO module: XLA's for CPU, GPU and TPU."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from paretax.evaluators.compilers.hlo_dtypes import only_widens
from paretax.evaluators.compilers.hlo_products import (
    convolution,
    dot,
    library_call,
    name_of,
    operands,
    widest,
)
from paretax.evaluators.compilers.hlo_text import Array, Computation, Instruction, Module
from paretax.evaluators.kernels import Kernel, Product
from paretax.hardware_profiles.profile import KernelKind

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done",
    "async-done", "async-update", "partition-id", "replica-id", "opt-barrier", "domain",
    "add-dependency",
}  # fmt: skip
"""Take no time of their own."""

_MOVES = {
    "copy", "transpose", "reshape", "broadcast", "slice", "dynamic-slice", "dynamic-update-slice",
    "concatenate", "pad", "gather", "scatter", "reverse", "iota", "convert", "bitcast-convert",
    "copy-start",
}  # fmt: skip
_EXPONENTIAL = {
    "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic", "power",
}  # fmt: skip
_ROOT = {"sqrt", "rsqrt", "cbrt"}
_TRANSCENDENTAL = _EXPONENTIAL | _ROOT | {"tanh", "tan", "sine", "cosine", "atan2", "erf"}
_SUMS = {"reduce", "reduce-window", "sort", "select-and-scatter", "topk"}
_MIX: Mapping[str, str] = {
    "convert": "converted", "copy": "permuted", "transpose": "permuted", "reverse": "permuted",
    "gather": "indexed", "scatter": "indexed", "slice": "indexed", "dynamic-slice": "indexed",
    "dynamic-update-slice": "indexed", "pad": "indexed", "concatenate": "indexed",
    "broadcast": "spread",
}  # fmt: skip
"""What a movement counts as, in a `Kernel`."""

_CALLS = {"call", "while", "conditional", "async-start"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def kernels_of(module: Module, clock: float | None = None) -> list[Kernel]:
    """What the program runs in one call, in the order of the text.

    Args:
        module: optimised for its device.
        clock: Hz of the device, by which the compiler's cycles become seconds; None: they are
            left out.
    """
    return list(_walk(module, module.entry, clock, 1, _results(module.entry)))


def _results(entry: Computation) -> set[str]:
    """The instructions whose values the caller gets."""
    found: set[str] = set()
    waiting = [entry.root.name]
    while waiting:
        name = waiting.pop()
        found.add(name)
        instruction = entry.instructions[name]
        if instruction.opcode in ("tuple", "bitcast", "get-tuple-element", "copy-done"):
            waiting += [n for n in instruction.operands if n in entry.instructions]
    return found


def _walk(
    module: Module,
    computation: Computation,
    clock: float | None,
    count: int,
    results: Collection[str] = (),
) -> Iterator[Kernel]:
    for instruction in computation:
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        if instruction.opcode in _CALLS:
            trips = _trips(module, computation, instruction) if instruction.opcode == "while" else 1
            for name in _bodies(module, instruction):
                yield from _walk(module, module.computations[name], clock, count * trips)
            continue
        kernel = _kernel(module, computation, instruction, clock)
        given = kernel.bytes_written if instruction.name in results else 0
        yield replace(kernel, count=count, bytes_results=given)


def _bodies(module: Module, instruction: Instruction) -> Iterable[str]:
    """Of a call; of a conditional the branch with most instructions."""
    if instruction.opcode == "conditional":
        return [max(instruction.called, key=lambda n: len(module.computations[n].instructions))]
    return instruction.called


def _trips(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of a loop: as XLA noted them, or the bound that its condition compares with; else one."""
    found = re.search(r'"known_trip_count":\{"n":"?(\d+)', instruction.rest)
    if found:
        return int(found.group(1))
    condition = module.computations.get(instruction.attribute("condition").lstrip("%"))
    start = computation.instructions.get(instruction.operands[0]) if instruction.operands else None
    bounds = []
    for compare in condition or ():
        for name in compare.operands if condition and compare.opcode == "compare" else ():
            source = condition.instructions[name] if condition else compare
            if source.opcode == "get-tuple-element" and start is not None:
                place = int(source.attribute("index") or 0)
                if start.opcode == "tuple" and place < len(start.operands):
                    source = computation.instructions[start.operands[place]]
            while source.opcode in ("copy", "bitcast") and source.operands:
                source = computation.instructions.get(source.operands[0], start or source)
            value = re.match(r"\((\d+)\)", source.rest) if source.opcode == "constant" else None
            bounds += [int(value.group(1))] if value else []
    return max([1, *bounds])


@dataclass
class _Work:
    """What a kernel and the computations within it do."""

    products: list[tuple[Product, str]] = field(default_factory=list)
    operations: int = 0
    transcendentals: int = 0
    mix: Counter[str] = field(default_factory=Counter)
    sums: bool = False
    arithmetic: bool = False


def _kernel(
    module: Module, computation: Computation, instruction: Instruction, clock: float | None
) -> Kernel:
    work = _Work()
    _count(module, computation, instruction, work)
    read = list(_reads(module, computation, instruction))
    reads = [array for array, _ in read]
    given = sum(array.bytes for array, argument in read if argument)
    writes = list(_writes(module, instruction))
    dtype = widest(d for _, d in work.products) if work.products else _main_dtype(writes)
    start = instruction.opcode.endswith("-start")
    if start:  # of a copy or a slice: its source, its destination, and a flag
        arrays = [a for a in instruction.results if a.size > 1] or list(instruction.results)
        moved = min(arrays, key=lambda a: a.bytes)
        near = next((a for a in arrays if a.near and a.bytes == moved.bytes), moved)
        far = replace(moved, near=False)
        reads, writes, work = [far], [near], _Work()
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return Kernel(
        name=instruction.name,
        kind=_kind(work, instruction),
        dtype=dtype,
        library=_library(instruction, on_cpu=clock is None),
        widens=only_widens(module, computation, instruction),
        products=tuple(p for p, _ in work.products),
        operations=work.operations,
        transcendentals=work.transcendentals,
        **work.mix,
        bytes_read=sum(a.bytes for a in reads),
        bytes_written=sum(a.bytes for a in writes),
        bytes_arguments=given,
        bytes_near=sum(a.bytes for a in (*reads, *writes) if a.near),
        overlapped=start,
        row_read=_row(reads),
        row_written=_row(writes),
        estimate=int(cycles.group(1)) / clock if cycles and clock else None,
    )


_EIGENS = re.compile(r"b([0-9]+)f_\1io->b\1f")
"""Labels of the axes of a convolution that XLA:CPU leaves to Eigen."""


def _library(instruction: Instruction, *, on_cpu: bool) -> str:
    """Whose code it is: "loops" of a convolution for which XLA:CPU writes plain loops.

    It does so where a window is reversed or axes have another order, which XLA itself makes of a
    convolution whose images are smaller than its windows, as it swaps the two.
    """
    if on_cpu and instruction.opcode == "convolution":
        reversed_ = "rhs_reversal=" in instruction.attribute("window")
        if reversed_ or not _EIGENS.fullmatch(instruction.attribute("dim_labels")):
            return "loops"
    found = re.search(r'"kind":"__(\w+?)(?:_\w+)?"', instruction.rest)
    if found is None:
        found = re.search(r'custom_call_target="__?([a-z]+)', instruction.rest)
    return found.group(1) if found else "xla"


def _is_argument(computation: Computation, name: str) -> bool:
    """Whether an operand is what the caller gave, perhaps copied to the chip first."""
    source = computation.instructions[name]
    while source.opcode in ("bitcast", "copy-done", "copy-start"):
        source = computation.instructions[source.operands[0]]
    return source.opcode == "parameter"


def _kind(work: _Work, instruction: Instruction) -> KernelKind:
    if work.products:
        return max((p for p, _ in work.products), key=lambda p: p.flops).kind
    if work.sums:
        return "reduction"
    if work.arithmetic:
        return "elementwise"
    return "other" if instruction.opcode == "custom-call" else "data"


def _count(module: Module, computation: Computation, instruction: Instruction, work: _Work) -> None:
    """Add what an instruction does, and all that it calls."""
    opcode, results = instruction.opcode, instruction.results
    elements = sum(a.size for a in results)
    if opcode in ("fusion", "call", "while", "conditional", "async-start", "map"):
        for name in instruction.called:
            inner = module.computations[name]
            for part in inner:
                _count(module, inner, part, work)
    elif opcode == "dot":
        work.products.append(dot(computation, instruction))
    elif opcode == "convolution":
        work.products.append(convolution(computation, instruction))
    elif opcode == "custom-call":
        found = library_call(computation, instruction)
        if found is not None:
            work.products.append(found)
    elif opcode in _SUMS:
        work.sums = True
        summed = _summed(computation, instruction)
        work.operations += summed
        work.mix["summed"] += summed
    elif opcode in _FREE or opcode in _MOVES:
        if opcode in _MIX:
            work.mix[_MIX[opcode]] += elements
        if opcode == "convert":
            work.operations += elements
    else:
        work.arithmetic = True
        work.operations += elements
        if opcode in ("divide", "remainder"):
            work.mix["divided"] += elements
        if opcode in _TRANSCENDENTAL:
            work.transcendentals += elements
        if opcode in _EXPONENTIAL:
            work.mix["exponentials"] += elements
        if opcode in _ROOT:
            work.mix["roots"] += elements


def _summed(computation: Computation, instruction: Instruction) -> int:
    taken = operands(computation, instruction)
    size = max((a.size for a in taken), default=0)
    if instruction.opcode == "reduce-window":
        return instruction.results[0].size * _window(instruction)
    if instruction.opcode == "sort":
        length = taken[0].shape[(instruction.numbers("dimensions") or (0,))[0]]
        return int(size * max(1.0, math.log2(max(2, length))))
    return size


def _window(instruction: Instruction) -> int:
    """Positions of a window."""
    found = re.search(r"\bwindow=\{size=([0-9x]+)", instruction.rest)
    return math.prod(int(n) for n in found.group(1).split("x")) if found else 1


def _reads(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Array, bool]]:
    """Of each operand what is read (a slice, where nothing else of it is), and if it was given."""
    inner: dict[int, Instruction] = {}
    body = Computation()
    if instruction.opcode == "fusion":
        body = module.computations[instruction.called[0]]
        inner = {part.index: part for part in body if part.opcode == "parameter"}
    for index, name in enumerate(instruction.operands):
        source = computation.instructions.get(name)
        if source is None or (source.opcode == "constant" and source.results[0].size == 1):
            continue
        argument = _is_argument(computation, name)
        read = inner[index].name if index in inner else ""
        users = [part for part in body if read in part.operands]
        if instruction.opcode in _SLICES and index == 0:
            users, read = [instruction], name
        sliced = [u for u in users if u.opcode in _SLICES and u.operands[0] == read]
        arrays = [a for u in sliced for a in u.results]
        if not users or len(sliced) < len(users):
            arrays = list(source.results)
        for array in arrays:
            yield array, argument


def _writes(module: Module, instruction: Instruction) -> Iterator[Array]:
    """What is written: of an update in place, the update."""
    root = instruction
    computation = None
    if instruction.opcode == "fusion":
        computation = module.computations[instruction.called[0]]
        root = computation.root
    if root.opcode == "dynamic-update-slice" and computation is not None:
        update = computation.instructions.get(root.operands[1])
        if update is not None:
            yield from update.results
            return
    yield from instruction.results


def _row(arrays: list[Array]) -> int:
    return max(arrays, key=lambda a: a.bytes).row if arrays else 1


def _main_dtype(writes: list[Array]) -> str:
    return name_of(max(writes, key=lambda a: a.bytes).dtype) if writes else "f32"

"""The kernels of an optimised HLO module: XLA's for CPU, GPU and TPU."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from paretax.evaluators.compilers.hlo_text import Array, Computation, Instruction, Module
from paretax.evaluators.kernels import Kernel, KernelKind, Product

DTYPES: Mapping[str, str] = {
    "f32": "f32", "f64": "f64", "bf16": "bf16", "f16": "fp16",
    "s8": "int8", "u8": "int8", "s4": "int4", "u4": "int4", "s32": "int32", "u32": "int32",
}  # fmt: skip
"""HLO's names of types, in ours; the rest keep theirs, and all of 8 bits and a point are fp8."""

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
    dtype = _widest(d for _, d in work.products) if work.products else _main_dtype(writes)
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
        library=_library(instruction),
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


def _library(instruction: Instruction) -> str:
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
        work.products.append(_dot(computation, instruction))
    elif opcode == "convolution":
        work.products.append(_convolution(computation, instruction))
    elif opcode == "custom-call":
        found = _library_call(computation, instruction)
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
    operands = _operands(computation, instruction)
    size = max((a.size for a in operands), default=0)
    if instruction.opcode == "reduce-window":
        return instruction.results[0].size * _window(instruction)
    if instruction.opcode == "sort":
        length = operands[0].shape[(instruction.numbers("dimensions") or (0,))[0]]
        return int(size * max(1.0, math.log2(max(2, length))))
    return size


def _window(instruction: Instruction) -> int:
    """Positions of a window."""
    found = re.search(r"\bwindow=\{size=([0-9x]+)", instruction.rest)
    return math.prod(int(n) for n in found.group(1).split("x")) if found else 1


def _operands(computation: Computation, instruction: Instruction) -> list[Array]:
    known = computation.instructions
    return [a for name in instruction.operands if name in known for a in known[name].results]


def _dot(computation: Computation, instruction: Instruction) -> tuple[Product, str]:
    left, right = _operands(computation, instruction)[:2]
    groups = [left.shape[i] for i in instruction.numbers("lhs_batch_dims")]
    summed = [left.shape[i] for i in instruction.numbers("lhs_contracting_dims")]
    of_right = [right.shape[i] for i in instruction.numbers("rhs_contracting_dims")]
    k, g = math.prod(summed), math.prod(groups)
    return (
        Product(
            groups=g,
            m=max(1, left.size // max(1, g * k)),
            n=max(1, right.size // max(1, g * math.prod(of_right))),
            k=k,
        ),
        _widest([_name(left.dtype), _name(right.dtype)]),
    )


def _convolution(computation: Computation, instruction: Instruction) -> tuple[Product, str]:
    """Also a dot, which XLA:TPU writes as a convolution without a window."""
    left, kernel = _operands(computation, instruction)[:2]
    _, of_kernel, of_output = re.split(r"_|->", instruction.attribute("dim_labels"))
    found = re.search(r"feature_group_count=(\d+)", instruction.rest)
    groups = int(found.group(1)) if found else 1
    found = re.search(r"batch_group_count=(\d+)", instruction.rest)
    groups *= int(found.group(1)) if found else 1
    sizes = dict(zip(of_kernel, kernel.shape, strict=False))
    output = instruction.results[0]
    features = dict(zip(of_output, output.shape, strict=False)).get("f", 1)
    window = math.prod(size for label, size in sizes.items() if label.isdigit())
    return (
        Product(
            groups=groups,
            m=max(1, output.size // max(1, features)),
            n=max(1, features // groups),
            k=sizes.get("i", 1) * window,
            window=window,
        ),
        _widest([_name(left.dtype), _name(kernel.dtype)]),
    )


def _library_call(computation: Computation, instruction: Instruction) -> tuple[Product, str] | None:
    """Of cuDNN, cuBLAS or oneDNN; None where the call multiplies nothing."""
    target = instruction.attribute("custom_call_target").strip('"')
    if instruction.attribute("dim_labels"):
        return _convolution(computation, instruction)
    if "gemm" not in target and "matmul" not in target:
        return None
    left, right = _operands(computation, instruction)[:2]
    numbers = _dimension_numbers(instruction.rest)
    groups = [left.shape[int(i)] for i in numbers.get("lhs_batch_dimensions", [])]
    summed = [left.shape[int(i)] for i in numbers.get("lhs_contracting_dimensions", [1])]
    g, k = math.prod(groups), math.prod(summed)
    return (
        Product(groups=g, m=max(1, left.size // (g * k)), n=max(1, right.size // (g * k)), k=k),
        _widest([_name(left.dtype), _name(right.dtype)]),
    )


def _dimension_numbers(rest: str) -> dict[str, list[str]]:
    found = re.search(r'"dot_dimension_numbers":(\{[^{}]*\})', rest)
    return dict(json.loads(found.group(1))) if found else {}


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
    return _name(max(writes, key=lambda a: a.bytes).dtype) if writes else "f32"


def _name(dtype: str) -> str:
    return "fp8" if re.match(r"f8e", dtype) else DTYPES.get(dtype, dtype)


_WIDTH = ["int4", "fp8", "int8", "fp16", "bf16", "int32", "f32", "f64"]


def _widest(dtypes: Iterable[str]) -> str:
    """The dtype that a product of these is computed in."""
    return max(dtypes, key=lambda d: _WIDTH.index(d) if d in _WIDTH else len(_WIDTH))

"""IREE's compiler, for ARM cores and phones: kernels from the dispatches that it forms."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from paretax.evaluators.compilers.program import CompiledProgram, CompileError
from paretax.evaluators.kernels import Kernel, Product
from paretax.hardware_profiles.profile import KernelKind

_BITS = {"i1": 8, "i4": 4, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "index": 64,
         "f8E4M3FN": 8, "f8E5M2": 8, "f16": 16, "bf16": 16, "f32": 32, "f64": 64}  # fmt: skip
_NAMES = {
    "i8": "int8",
    "i4": "int4",
    "i32": "int32",
    "f16": "fp16",
    "f8E4M3FN": "fp8",
    "f8E5M2": "fp8",
}

_TENSOR = re.compile(r"tensor<((?:[0-9]+x)*)([a-zA-Z][a-zA-Z0-9]*)>")
_LOAD = re.compile(r"dispatch\.tensor\.load .*<read\w+:tensor<[^>]*>> -> (tensor<[^>]*>)")
_TRANSCENDENTAL = re.compile(
    r"\bmath\.(exp|expm1|log|log1p|tanh|sqrt|rsqrt|erf|sin|cos|powf|cbrt)\b"
)
_ARITHMETIC = re.compile(r"\b(?:arith|math)\.(?!constant|index_cast|extf|truncf|extsi)\w+")


def compile_iree(stablehlo: str, settings: Mapping[str, Any], fingerprint: str) -> CompiledProgram:
    """Compile StableHLO text for a core that need not be there.

    Args:
        stablehlo: the program.
        settings: `triple` and `cpu`, LLVM's names of the target.
        fingerprint: of the result.

    Raises:
        CompileError: the compiler refused it.
    """
    from iree.compiler import CompilerToolError, compile_str

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            binary = compile_str(
                _widened(stablehlo),
                target_backends=["llvm-cpu"],
                input_type="stablehlo",
                extra_args=[
                    f"--iree-llvmcpu-target-triple={settings['triple']}",
                    f"--iree-llvmcpu-target-cpu={settings['cpu']}",
                    f"--dump-compilation-phases-to={folder}",
                ],
            )
        except CompilerToolError as error:
            raise CompileError(_words(str(error))) from None
        seconds = time.perf_counter() - start
        flow = next(Path(folder).glob("*.flow.mlir")).read_text("utf-8")
        stream = next(Path(folder).glob("*.stream.mlir")).read_text("utf-8")
    arguments, results = _signature(flow)
    return CompiledProgram(
        fingerprint=fingerprint,
        kernels=tuple(dispatches(flow)),
        peak_memory=sum(arguments) + results + _transient(stream),
        argument_bytes=sum(arguments),
        output_bytes=results,
        arguments=len(arguments),
        code_size=len(binary),
        estimate=None,
        seconds=seconds,
        compiler=f"IREE {settings['version']} (LLVM {settings['cpu']})",
        text=flow,
    )


_CONVOLUTION = re.compile(
    r"(?P<indent>\s*)(?P<head>%\S+ = stablehlo\.convolution)\((?P<x>%\S+), (?P<w>%\S+)\)"
    r"(?P<middle> dim_numbers = \[[^\]]*\]x\[(?P<axes>[^\]]*)\].*"
    r"feature_group_count = (?P<groups>\d+) : i64.* : )"
    r"\(tensor<(?P<of_x>[^>]*)>, tensor<(?P<of_w>[^>]*)>\) -> tensor<(?P<of_y>[^>]*)>(?P<rest>.*)"
)


def _widened(stablehlo: str) -> str:
    """The program with depthwise convolutions whose operands have the dtype of their result.

    IREE has no others: of int8 that gives int32 it makes a program that its own check refuses. It
    folds a conversion into a convolution, but for a barrier between the two.
    """
    lines = []
    for number, line in enumerate(stablehlo.splitlines()):
        found = _CONVOLUTION.fullmatch(line)
        if found is None or int(found["groups"]) == 1:
            lines.append(line)
            continue
        filters = dict(zip(found["axes"].split(", "), found["of_w"].split("x"), strict=False))
        dtype = found["of_y"].rpartition("x")[2]
        operands = {"x": found["of_x"], "w": found["of_w"]}
        if filters["i"] != "1" or {t.rpartition("x")[2] for t in operands.values()} == {dtype}:
            lines.append(line)
            continue
        for name, kind in operands.items():
            wide = operands[name] = f"{kind.rpartition('x')[0]}x{dtype}"
            made = f"{found['indent']}%{{}}_{number}_{name} = stablehlo."
            lines += [
                f"{made.format('converted')}convert {found[name]} : "
                f"(tensor<{kind}>) -> tensor<{wide}>",
                f"{made.format('wide')}optimization_barrier %converted_{number}_{name} : "
                f"tensor<{wide}>",
            ]
        lines.append(
            f"{found['indent']}{found['head']}(%wide_{number}_x, %wide_{number}_w)"
            f"{found['middle']}(tensor<{operands['x']}>, tensor<{operands['w']}>) -> "
            f"tensor<{found['of_y']}>{found['rest']}"
        )
    return "\n".join(lines)


def _words(message: str) -> str:
    """What the compiler says, in one line; where it crashed, that it did."""
    for line in message.splitlines():
        if "error:" in line:
            return line.strip()
    for pattern in (r"^LLVM ERROR: (.+)$", r"^Error code: -(\d+)$"):
        if crashed := re.search(pattern, message, re.MULTILINE):
            why = f"signal {crashed[1]}" if crashed[1].isdecimal() else crashed[1]
            return (
                f"IREE's compiler crashed ({why}): a `cpu` without scalable vectors (SVE) may do, "
                "or a smaller model"
            )
    return message.strip().splitlines()[0]


def _bytes(dims: str, dtype: str) -> int:
    return math.ceil(math.prod(_lengths(dims)) * _BITS.get(dtype, 32) / 8)


def _lengths(dims: str) -> list[int]:
    return [int(d) for d in dims.split("x") if d]


def _signature(flow: str) -> tuple[list[int], int]:
    """Bytes of each argument, and of the results, of the whole program."""
    found = re.search(r'iree\.abi\.declaration = "sync func @\S+?\((.*?)\) -> \((.*?)\)"', flow)
    if found is None:
        raise CompileError("IREE's program has no declaration")
    arguments, results = ([_bytes(*t) for t in _TENSOR.findall(found.group(i))] for i in (1, 2))
    return arguments, sum(results)


def _transient(stream: str) -> int:
    """Bytes that the program allocates for its own values."""
    found = re.findall(r"resource\.alloca.*!stream\.resource<transient>\{%c(\d+)", stream)
    return sum(int(n) for n in found)


def dispatches(flow: str) -> Iterator[Kernel]:
    """The kernels of a module in IREE's flow phase, in the order in which they run.

    Args:
        flow: the text of the module.
    """
    maps = dict(re.findall(r"^#(map\d*) = affine_map<(.*)>$", flow, re.MULTILINE))
    bodies = {}
    for part in flow.split("flow.executable private @")[1:]:
        name = re.match(r"[\w$]+", part)
        if name is not None:
            bodies[name.group()] = part.split("util.func public")[0]
    main = flow[flow.index("util.func public") :]
    constants = {
        name: int(value)
        for name, value in re.findall(r"(%\S+) = arith\.constant (-?\d+) : \w+", main)
    }
    turns = [1]  # of the blocks that a line stands in, each with those around it
    for line in main.splitlines():
        text = line.split(" loc(")[0].strip()
        if text.startswith("}"):
            turns.pop()
        found = re.search(r"flow\.dispatch @([\w$]+)::@([\w$]+)", line)
        if found is not None:
            kernel = _dispatch(found.group(2), bodies[found.group(1)], maps)
            yield replace(kernel, count=turns[-1])
        elif "flow.tensor.splat" in line or "flow.tensor.update" in line:
            yield replace(_move(line), count=turns[-1])
        if text.endswith("{"):
            turns.append(turns[-1] * _turns(text, constants))


def _turns(line: str, constants: Mapping[str, int]) -> int:
    """Of the block that a line opens: those of a loop with constant bounds, else one."""
    found = re.search(r"scf\.for %\S+ = (%\S+) to (%\S+) step (%\S+)", line)
    if found is None or not all(name in constants for name in found.groups()):
        return 1
    first, end, step = (constants[name] for name in found.groups())
    return max(0, -(-(end - first) // step))


def _move(line: str) -> Kernel:
    """A fill, or a copy into part of another tensor."""
    tensors = _TENSOR.findall(line)
    update = "flow.tensor.update" in line
    size = _bytes(*tensors[0 if update else -1])
    return Kernel(
        name="update" if update else "splat",
        kind="data",
        dtype=_name(tensors[-1][1]),
        bytes_read=size if update else 0,
        bytes_written=size,
    )


def _dispatch(name: str, body: str, maps: Mapping[str, str]) -> Kernel:
    inside = body.split("{", 3)[3] if body.count("{") > 2 else body
    tensors = [
        (access, *_TENSOR.findall(kind)[0])
        for access, kind in re.findall(
            r"dispatch\.tensor<(readonly|readwrite|writeonly):(tensor<[^>]*>)>(?= loc)", inside
        )
    ]
    loaded = sum(_bytes(*_TENSOR.findall(kind)[0]) for kind in _LOAD.findall(inside))
    operations = list(_operations(body, maps))
    products = [o.product for o in operations if o.product is not None]
    arithmetic = sum(o.operations for o in operations if o.product is None)
    kind: KernelKind = "data"
    if products:
        kind = max(products, key=lambda p: p.flops).kind
    elif any(o.sums for o in operations):
        kind = "reduction"
    elif arithmetic:
        kind = "elementwise"
    reads = [(d, t) for access, d, t in tensors if access != "writeonly"]
    writes = [(d, t) for access, d, t in tensors if access != "readonly"]
    read = sum(_bytes(d, t) for d, t in reads if (d, t) not in writes)
    read = min(read, loaded) if loaded else read  # of a stack a slice
    dtypes = [t for o in operations if o.product is not None for t in o.dtypes]
    dtypes = dtypes or [t for _, t in (reads or writes)]
    return Kernel(
        name=name,
        kind=kind,
        dtype=_name(max(dtypes, key=lambda t: _BITS.get(t, 32))) if dtypes else "f32",
        products=tuple(products),
        operations=arithmetic,
        transcendentals=sum(o.transcendentals for o in operations),
        bytes_read=read,
        bytes_written=sum(_bytes(d, t) for d, t in writes),
    )


def _name(dtype: str) -> str:
    return _NAMES.get(dtype, dtype)


class _Operation(NamedTuple):
    """What a linalg operation does.

    Args:
        sums: whether it is a reduction that is no product.
        product: that it is.
        operations: arithmetic beside a product.
        transcendentals: among these.
        dtypes: MLIR's names of the types of a product's operands.
    """

    sums: bool = False
    product: Product | None = None
    operations: int = 0
    transcendentals: int = 0
    dtypes: tuple[str, ...] = ()


def _operations(body: str, maps: Mapping[str, str]) -> Iterator[_Operation]:
    lines = body.splitlines()
    for number, line in enumerate(lines):
        named = re.search(r"= linalg\.(\w+)", line)
        if named is None or named.group(1) == "fill":
            continue
        found = _TENSOR.findall(line)
        tensors = [_lengths(d) for d, _ in found]
        if named.group(1) == "generic":
            inner = []
            for following in lines[number + 1 :]:
                if following.strip().startswith("}"):
                    break
                inner.append(following)
            yield _generic(line, inner, maps)
        elif named.group(1) == "softmax":
            size = math.prod(tensors[0])
            yield _Operation(sums=True, operations=5 * size, transcendentals=size)
        elif len(tensors) >= 3:
            product = _named_product(named.group(1), tensors)
            yield _Operation(product=product, dtypes=tuple(t for _, t in found[:2]))


def _named_product(name: str, tensors: list[list[int]]) -> Product:
    """Of linalg.matmul and its kin: two inputs and a result."""
    left, right, out = tensors[0], tensors[1], tensors[-1]
    groups = out[0] if "batch" in name and len(out) == 3 else 1
    k = left[-1] if "transpose_a" not in name else left[-2]
    m = math.prod(left) // max(1, k * groups)
    return Product(groups=groups, m=m, n=math.prod(right) // max(1, k * groups), k=k)


def _generic(line: str, inner: list[str], maps: Mapping[str, str]) -> _Operation:
    """A loop nest: its bounds follow from the maps of its operands to their shapes."""
    listed = re.search(r"indexing_maps = \[([^\]]*)\]", line)
    kinds = re.search(r"iterator_types = \[([^\]]*)\]", line)
    assert listed is not None
    assert kinds is not None
    loops = [kind.strip().strip('"') for kind in kinds.group(1).split(",") if kind.strip()]
    after = line[kinds.end() :]
    operands = [(_lengths(d), t) for d, t in _TENSOR.findall(after)]
    indexings = [
        _results(maps.get(name.strip().lstrip("#"), name)) for name in listed.group(1).split(",")
    ]
    # The text names inputs' types, then those of the results; scalars have none.
    bounds: dict[str, int] = {}
    windows: set[str] = set()
    for (shape, _), results in zip(operands, indexings, strict=False):
        for length, expression in zip(shape, results, strict=False):
            if re.fullmatch(r"d\d+", expression):
                bounds[expression] = length
            else:
                windows |= set(re.findall(r"d\d+", expression))
    size = math.prod(bounds.values())
    text = "\n".join(inner)
    reducing = [f"d{i}" for i, kind in enumerate(loops) if kind == "reduction"]
    multiplies = re.search(r"arith\.mul[fi]", text) and re.search(r"arith\.add[fi] %out", text)
    if reducing and multiplies and len(indexings) == 3:
        left, right, out = (set(re.findall(r"d\d+", " ".join(r))) for r in indexings)
        taps = math.prod(bounds.get(d, 1) for d in reducing if d in windows)
        k = math.prod(bounds.get(d, 1) for d in reducing)
        shared = [d for d in out if d in left and d in right and d not in windows]
        columns = [d for d in out if d in right and d not in left]
        groups = math.prod(bounds.get(d, 1) for d in shared)
        n = math.prod(bounds.get(d, 1) for d in columns)
        whole = math.prod(bounds.get(d, 1) for d in out)
        product = Product(groups=groups, m=max(1, whole // (groups * n)), n=n, k=k, window=taps)
        return _Operation(product=product, dtypes=tuple(t for _, t in operands[:2]))
    return _Operation(
        sums=bool(reducing),
        operations=len(_ARITHMETIC.findall(text)) * size,
        transcendentals=len(_TRANSCENDENTAL.findall(text)) * size,
    )


def _results(affine: str) -> list[str]:
    """The expressions of a map, such as ["d0", "d1 * 2 + d4"]."""
    _, _, right = affine.partition("->")
    return [part.strip() for part in right.strip().strip("()").split(",") if part.strip()]

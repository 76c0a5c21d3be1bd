"""The products in an optimised HLO module: dots, convolutions and libraries' calls."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping

from paretax.evaluators.compilers.hlo_text import Array, Computation, Instruction
from paretax.evaluators.kernels import Product
from paretax.spaces.taps import taps

DTYPES: Mapping[str, str] = {
    "f32": "f32", "f64": "f64", "bf16": "bf16", "f16": "fp16",
    "s8": "int8", "u8": "int8", "s4": "int4", "u4": "int4", "s32": "int32", "u32": "int32",
}  # fmt: skip
"""HLO's names of types, in ours; the rest keep theirs, and all of 8 bits and a point are fp8."""

_WIDTH = ["int4", "fp8", "int8", "fp16", "bf16", "int32", "f32", "f64"]


def operands(computation: Computation, instruction: Instruction) -> list[Array]:
    """The arrays that an instruction takes."""
    known = computation.instructions
    return [a for name in instruction.operands if name in known for a in known[name].results]


def dot(computation: Computation, instruction: Instruction) -> tuple[Product, str]:
    """The product of a dot, and the dtype that it is computed in."""
    left, right = operands(computation, instruction)[:2]
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
        widest([name_of(left.dtype), name_of(right.dtype)]),
    )


def convolution(computation: Computation, instruction: Instruction) -> tuple[Product, str]:
    """Also a dot, which XLA:TPU writes as a convolution without a window.

    What its windows do not meet is not multiplied: zeros between the inputs (`lhs_dilate`), which
    XLA:CPU and XLA:TPU leave out, and places beyond inputs that are shorter than the window, where
    XLA:TPU has swapped the operands. Compilers that write such zeros to memory first (cuDNN's
    forward convolution, IREE's) show a plain convolution of them, and it counts as one.
    """
    left, kernel = operands(computation, instruction)[:2]
    of_left, of_kernel, of_output = re.split(r"_|->", instruction.attribute("dim_labels"))
    found = re.search(r"feature_group_count=(\d+)", instruction.rest)
    groups = int(found.group(1)) if found else 1
    found = re.search(r"batch_group_count=(\d+)", instruction.rest)
    groups *= int(found.group(1)) if found else 1
    sizes = dict(zip(of_kernel, kernel.shape, strict=False))
    output = instruction.results[0]
    features = dict(zip(of_output, output.shape, strict=False)).get("f", 1)
    window = math.prod(size for label, size in sizes.items() if label.isdigit())
    rows = max(1, output.size // max(1, features))
    met = _met(
        instruction,
        sizes,
        dict(zip(of_left, left.shape, strict=False)),
        dict(zip(of_output, output.shape, strict=False)),
    )
    if met is not None:  # rows of as many taps as an output meets at most on average
        positions = math.prod(
            n for label, n in zip(of_output, output.shape, strict=False) if label.isdigit()
        )
        window = max(1, -(-met // positions))
        rows = max(1, -(-rows * met // (positions * window)))
    return (
        Product(
            groups=groups,
            m=rows,
            n=max(1, features // groups),
            k=sizes.get("i", 1) * window,
            window=window,
        ),
        widest([name_of(left.dtype), name_of(kernel.dtype)]),
    )


def _met(
    instruction: Instruction,
    window: Mapping[str, int],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
) -> int | None:
    """Of all positions of a window over all outputs, those that meet an input; None: all do.

    Args:
        instruction: of the convolution.
        window: lengths of the kernel's axes, by label; those of the window are digits.
        inputs: likewise of what it slides over.
        outputs: likewise of the result.
    """
    found = re.search(r"\bwindow=\{([^}]*)\}", instruction.rest)
    given = dict(part.split("=") for part in found.group(1).split()) if found else {}
    labels = sorted(label for label in window if label.isdigit())

    def of(name: str, default: str) -> list[int]:
        values = given[name].split("x") if name in given else [default] * len(labels)
        return [int(value.partition("_")[0]) for value in values]

    settings = zip(
        labels, of("stride", "1"), of("pad", "0"), of("rhs_dilate", "1"), of("lhs_dilate", "1"),
        strict=True,
    )  # fmt: skip
    total = math.prod(
        taps(
            size=window[label],
            inputs=inputs[label],
            outputs=outputs[label],
            stride=stride,
            pad=pad,
            dilation=dilation,
            spread=spread,
        )
        for label, stride, pad, dilation, spread in settings
    )
    return None if total == math.prod(window[n] * outputs[n] for n in labels) else total


def _backward_input(computation: Computation, instruction: Instruction) -> tuple[Product, str]:
    """Of cuDNN's gradient by the inputs, which is a transposed convolution without its zeros.

    Its labels are those of the forward convolution, whose output is the operand here.
    """
    left, kernel = operands(computation, instruction)[:2]
    _, of_kernel, _ = re.split(r"_|->", instruction.attribute("dim_labels"))
    sizes = dict(zip(of_kernel, kernel.shape, strict=False))
    found = re.search(r"feature_group_count=(\d+)", instruction.rest)
    groups = int(found.group(1)) if found else 1
    window = math.prod(size for label, size in sizes.items() if label.isdigit())
    features = sizes.get("o", 1)
    return (
        Product(
            groups=groups,
            m=max(1, left.size // features),
            n=sizes.get("i", 1),
            k=window * max(1, features // groups),
            window=window,
        ),
        widest([name_of(left.dtype), name_of(kernel.dtype)]),
    )


def library_call(computation: Computation, instruction: Instruction) -> tuple[Product, str] | None:
    """Of cuDNN, cuBLAS or oneDNN; None where the call multiplies nothing."""
    target = instruction.attribute("custom_call_target").strip('"')
    if target.endswith("convBackwardInput"):
        return _backward_input(computation, instruction)
    if instruction.attribute("dim_labels"):
        return convolution(computation, instruction)
    if "gemm" not in target and "matmul" not in target:
        return None
    left, right = operands(computation, instruction)[:2]
    numbers = _dimension_numbers(instruction.rest)
    groups = [left.shape[int(i)] for i in numbers.get("lhs_batch_dimensions", [])]
    summed = [left.shape[int(i)] for i in numbers.get("lhs_contracting_dimensions", [1])]
    g, k = math.prod(groups), math.prod(summed)
    return (
        Product(groups=g, m=max(1, left.size // (g * k)), n=max(1, right.size // (g * k)), k=k),
        widest([name_of(left.dtype), name_of(right.dtype)]),
    )


def _dimension_numbers(rest: str) -> dict[str, list[str]]:
    found = re.search(r'"dot_dimension_numbers":(\{[^{}]*\})', rest)
    return dict(json.loads(found.group(1))) if found else {}


def name_of(dtype: str) -> str:
    """Our name of a type of HLO."""
    return "fp8" if re.match(r"f8e", dtype) else DTYPES.get(dtype, dtype)


def widest(dtypes: Iterable[str]) -> str:
    """The dtype that a product of these is computed in."""
    return max(dtypes, key=lambda d: _WIDTH.index(d) if d in _WIDTH else len(_WIDTH))

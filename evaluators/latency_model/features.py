"""A kernel as numbers, from which its deviation from the roofline is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.kernels import WIDTHS, Kernel
from paretax.evaluators.latency_model.roofline import Footprint, bound, peak, product_seconds
from paretax.hardware_profiles import HardwareProfile

_SHAPE = (
    "rows",
    "columns",
    "sum",
    "groups",
    "window",
    "sum of a position",
    "evenness of the rows",
    "evenness of the columns",
    "evenness of the sum",
)

_LARGEST = (
    "operations a byte",
    "rows a column",
    "sum a column",
    "operations of the product",
    "vectors filled by the columns",
    "vectors filled by the sum",
)

_COUNTS = (
    "operations",
    "transcendentals",
    "exponentials",
    "roots",
    "converted",
    "divided",
    "summed",
    "permuted",
    "indexed",
    "spread",
)

NAMES = (
    "roofline seconds",
    "share of arithmetic",
    *_SHAPE,
    *_LARGEST,
    "products",
    "bytes read",
    "bytes written",
    "bytes given",
    "bytes of results",
    *_COUNTS,
    *(f"{name} an element" for name in _COUNTS),
    "bytes read an element",
    "row read",
    "row written",
    "evenness of the row read",
    "evenness of the row written",
    "resident",
    "temporary",
    "peak of the dtype",
    "width of the dtype",
)
"""What the numbers are; all are logarithms to the base 2, but for shares and the count of products.
The shape is the mean of the kernel's products, weighted by their time, or that of the largest; the
evenness of a length is the largest power of two, up to 64, that divides it; an element is one that
is written. What trees split are single numbers, so quotients that matter are numbers too."""

_VECTOR = 16
"""Elements of a vector, to whose multiples lengths are filled up."""


def features(kernel: Kernel, profile: HardwareProfile, footprint: Footprint) -> np.ndarray:
    """The numbers of a kernel, float64 (len(NAMES),)."""
    limits = bound(kernel, profile, footprint)
    counts = [float(getattr(kernel, name)) for name in _COUNTS]
    elements = max(1.0, kernel.bytes_written / (WIDTHS.get(kernel.dtype, 32) / 8))
    places = [
        kernel.row_read,
        kernel.row_written,
        _evenness(kernel.row_read),
        _evenness(kernel.row_written),
        footprint.resident,
        footprint.temporary,
        peak(kernel.dtype, profile) / 1e9,
        WIDTHS.get(kernel.dtype, 32),
    ]
    moved = [
        kernel.bytes_read,
        kernel.bytes_written,
        kernel.bytes_arguments,
        kernel.bytes_results,
    ]
    share = limits.compute / max(limits.compute + limits.memory, 1e-30)
    return np.concatenate(
        [
            _logs([limits.busy * 1e9]),
            [8 * share],
            _shape(kernel, profile),
            _largest(kernel),
            [2.0 * len(kernel.products)],
            _logs(moved),
            _logs(counts),
            _logs([count / elements for count in counts]),
            _logs([kernel.bytes_read / elements]),
            _logs(places),
        ]
    )


def _largest(kernel: Kernel) -> np.ndarray:
    """Quotients of the largest product."""
    if not kernel.products:
        return np.zeros(len(_LARGEST))
    product = max(kernel.products, key=lambda p: p.flops)
    m, n, k = product.m, product.n, product.k
    return np.array(
        [
            math.log2(1 + product.flops / max(kernel.bytes, 1)),
            math.log2(m / n),
            math.log2(k / n),
            math.log2(1 + product.flops),
            n / (-(-n // _VECTOR) * _VECTOR),
            k / (-(-k // _VECTOR) * _VECTOR),
        ]
    )


def call_features(program: CompiledProgram) -> np.ndarray:
    """The numbers of a call, by which its overhead is learned, float64.

    The code that makes a call is the colder, and the slower, the more data its kernels touch.
    """
    kernels = program.kernels
    kept = program.argument_bytes + program.output_bytes
    return _logs(
        [
            program.arguments,
            sum(k.count for k in kernels),
            sum(k.count for k in kernels if k.library != "xla"),
            sum(k.count * k.bytes for k in kernels),
            max((k.bytes for k in kernels), default=0),
            program.peak_memory,
            program.argument_bytes,
            program.output_bytes,
            max(0, program.peak_memory - kept),
        ]
    )


def _shape(kernel: Kernel, profile: HardwareProfile) -> np.ndarray:
    if not kernel.products:
        return np.zeros(len(_SHAPE))
    rows = [
        _logs([p.m, p.n, p.k, p.groups, p.window, p.k / p.window, *map(_evenness, (p.m, p.n, p.k))])
        for p in kernel.products
    ]
    times = [product_seconds(p, kernel.dtype, profile) for p in kernel.products]
    return np.asarray(np.average(rows, axis=0, weights=np.maximum(times, 1e-30)))


def _evenness(length: int) -> int:
    return min(length & -length, 64)


def _logs(numbers: Sequence[float]) -> np.ndarray:
    return np.asarray(np.log2(np.maximum(np.asarray(numbers, np.float64), 0) + 1))

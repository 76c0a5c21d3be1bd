"""Cycles and memory traffic of products on a systolic array, in closed form.

The array has rows x columns multiplier-accumulators. A product is cut into folds, each as large as
the array, which run one after another. The cycles of a fold are those that the simulator SCALE-Sim
counts (Samajdar et al., SCALE-Sim: Systolic CNN Accelerator Simulator, arXiv:1811.02883; Raj et
al., SCALE-Sim v3, arXiv:2504.15377), so the cycles without stalls agree with its own.

Traffic with DRAM depends on what stays in the memory on the chip between folds. Each dataflow may
run its folds in several orders, which cost the same cycles but keep different data; of the orders
that fit, the one with the least traffic is taken.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

from paretax.errors import UsageError, unknown
from paretax.evaluators.kernels import Product
from paretax.hardware_profiles.profile import DTYPES, Dtype, HardwareProfile, Systolic

Dataflow = Literal["output_stationary", "weight_stationary", "input_stationary"]
"""What stays in the array while the rest streams through it."""

BITS: dict[str, int] = {
    "f32": 32,
    "tf32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "int4": 4,
}
"""Of a value in memory, by dtype."""

ARRAY_ASSUMES = (
    "zeros around an image are multiplied as any input; zeros that a transposed convolution puts "
    "between its inputs are skipped"
)
"""What the cycles of a product are worth where some of its factors are sure to be zero."""

SUM_BITS = 32
"""Of a sum that is not complete: products of narrow values add up in float32 or int32."""


@dataclass(frozen=True, kw_only=True)
class Array:
    """A systolic array with a memory on the chip and DRAM behind it.

    Args:
        rows: of multiplier-accumulators.
        columns: likewise.
        dataflow: what stays in the array.
        sram: bytes of the memory on the chip. It is double-buffered: half of it feeds the array
            while the other half is filled, so half of it is of use at a time.
        dram_bandwidth: bytes a second, both directions together.
        clock: cycles a second, Hz.
        dtype: of operands and results.

    Raises:
        UsageError: a size, rate or name that cannot be.
    """

    rows: int
    columns: int
    dataflow: Dataflow
    sram: int
    dram_bandwidth: float
    clock: float
    dtype: Dtype

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "sram"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"`{name}` must be a whole number above 0, got {value!r}")
        for name in ("dram_bandwidth", "clock"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"`{name}` must be finite and above 0, got {value!r}")
        if self.dataflow not in get_args(Dataflow):
            raise unknown("dataflow", self.dataflow, get_args(Dataflow))
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)

    @classmethod
    def of(cls, profile: HardwareProfile) -> Self:
        """The array of a profile: its nearest memory feeds it, its farthest is the DRAM.

        Raises:
            UsageError: the profile is of another platform, or has one memory only.
        """
        sheet = profile.compiler
        if not isinstance(sheet, Systolic):
            raise UsageError(
                f"profile {profile.name!r} must be of the platform systolic, "
                f"got {profile.platform}: take a profile whose `compiler` gives rows and columns"
            )
        if len(profile.memories) < 2:
            raise UsageError(
                f"profile {profile.name!r} must have at least 2 memories, the one on the chip and "
                f"DRAM, got {len(profile.memories)}: add the other to `memories`"
            )
        return cls(
            rows=sheet.rows,
            columns=sheet.columns,
            dataflow=sheet.dataflow,
            sram=int(profile.memories[0].size),
            dram_bandwidth=profile.main_memory.bandwidth,
            clock=profile.clock,
            dtype=sheet.dtype,
        )


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """What a product takes on an array.

    Args:
        folds: parts of the size of the array that it was cut into, all groups together.
        compute: cycles of the array when data always arrive in time.
        stalls: cycles beyond these in which the array waits for DRAM.
        utilisation: multiply-accumulates of the product over those that the array could have done
            in all its cycles; above 0 and at most 1.
        sram_bytes: between the array and the memory on the chip, both directions.
        dram_bytes: between that memory and DRAM, both directions.
        seconds: all cycles, by the clock.
    """

    folds: int
    compute: int
    stalls: int
    utilisation: float
    sram_bytes: int
    dram_bytes: int
    seconds: float

    @property
    def total(self) -> int:
        """Cycles, stalls included."""
        return self.compute + self.stalls


def cycles(product: Product, array: Array) -> Cycles:
    """Cycles and traffic of a product.

    Args:
        product: its groups run one after another. Where it is a convolution, the array reads the
            window of each output from the memory on the chip, which fetches an input from DRAM
            once for all windows that share it. The inputs are counted as at stride 1.
        array: that it runs on.

    Returns:
        For all groups together. The transfers overlap the computation, those of the first fold
        with what ran before.

    Raises:
        UsageError: a size of the product is below 1.

    Example:
        >>> array = Array(rows=8, columns=8, dataflow="output_stationary", sram=2**20,
        ...               dram_bandwidth=16e9, clock=1e9, dtype="int8")
        >>> cycles(Product(m=16, n=8, k=32), array).compute  # 2 folds of 32 + 8 + 8 - 2
        92
    """
    for name in ("groups", "m", "n", "k", "window"):
        if getattr(product, name) < 1:
            value = getattr(product, name)
            raise UsageError(f"`{name}` of a product must be at least 1, got {value!r}")
    if array.dataflow == "output_stationary":
        folds, fold_cycles, near, far = _outputs_stay(product, array)
    else:
        folds, fold_cycles, near, far = _operand_stays(product, array)
    compute = product.groups * folds * fold_cycles
    sram_bytes, dram_bytes = product.groups * near, product.groups * far
    # Double buffering: the longer of computation and transfer decides (arXiv:1811.02883).
    transfer = math.ceil(dram_bytes / array.dram_bandwidth * array.clock)
    stalls = max(0, transfer - compute)
    total = compute + stalls
    return Cycles(
        folds=product.groups * folds,
        compute=compute,
        stalls=stalls,
        utilisation=product.flops / 2 / (array.rows * array.columns * total),
        sram_bytes=sram_bytes,
        dram_bytes=dram_bytes,
        seconds=total / array.clock,
    )


def _outputs_stay(product: Product, array: Array) -> tuple[int, int, int, int]:
    """Folds, cycles of one, bytes from and to SRAM, and DRAM; of a group."""
    m, n, k = product.m, product.n, product.k
    rows, columns, usable = array.rows, array.columns, array.sram // 2
    down, across = math.ceil(m / rows), math.ceil(n / columns)
    # The operands enter skewed by a cycle a row and a column, so the last unit sees its first
    # values after rows + columns - 2 cycles and its k-th at the end of
    #     k + rows + columns - 2.
    # SCALE-Sim counts these; the results leave while the next fold enters. (The closed form of its
    # authors, 2 rows + columns + k - 2, waits until they have left.)
    fold_cycles = k + rows + columns - 2
    left, right, out = _bytes(m * k, array), _bytes(k * n, array), _bytes(m * n, array)
    near = left * across + right * down + out
    inputs = _distinct(product, array)  # of `left`, each once
    depth = _bytes(_distinct_k(product), array)  # of a row of `inputs`
    # Fold orders, from and to DRAM:
    far = inputs * across + right * down + out  # nothing stays
    # The weights of some columns stay, and all inputs stream past them.
    kept = _most(across, usable, lambda j: _bytes(k * min(n, j * columns), array))
    if kept:
        far = min(far, inputs * math.ceil(across / kept) + right + out)
    # The inputs of some rows stay, and all weights stream past them.
    kept = _most(down, usable, lambda i: min(m, i * rows) * depth)
    if kept:
        far = min(far, inputs + right * math.ceil(down / kept) + out)
    return down * across, fold_cycles, near, far


def _operand_stays(product: Product, array: Array) -> tuple[int, int, int, int]:
    """The same where weights (k x n) or inputs (k x m) stay and the other operand streams by."""
    k, usable = product.k, array.sram // 2
    inputs, weights = _distinct(product, array), _bytes(k * product.n, array)
    if array.dataflow == "weight_stationary":
        width, length = product.n, product.m  # of what stays; of the stream
        stays, streams = weights, inputs
        slice_depth = min(array.rows, _distinct_k(product))
    else:
        width, length = product.m, product.n
        stays, streams = inputs, weights
        slice_depth = min(array.rows, k)
    down, across = math.ceil(k / array.rows), math.ceil(width / array.columns)
    # The operand that stays enters in as many cycles as there are rows. Then the other streams in,
    # skewed, and the last sum leaves after length + rows + columns - 2 more (arXiv:1811.02883):
    #     2 rows + columns + length - 2.
    fold_cycles = 2 * array.rows + array.columns + length - 2
    out = _bytes(length * width, array)
    # Each fold of k but the first adds to sums that were written before and are read again.
    spilled = 2 * length * width * (down - 1) * SUM_BITS // 8
    near = _bytes(k * length, array) * across + _bytes(k * width, array) + spilled + out
    # Fold orders, from and to DRAM:
    far = streams * across + stays + spilled + out  # nothing stays on the chip
    part = _bytes(length * slice_depth, array)  # of the stream, for the rows of a fold
    # Along the width, then along k: a slice of the stream serves a whole row of folds.
    if part <= usable:
        far = min(far, streams + stays + spilled + out)
    # Along k, then along the width, for some columns at a time: their sums stay, and a slice of
    # the stream serves all of them.

    def sums(j: int) -> int:
        return length * min(width, j * array.columns) * SUM_BITS // 8 if down > 1 else 0

    kept = _most(across, usable, lambda j: sums(j) + (part if j > 1 else 0))
    if kept:
        far = min(far, streams * math.ceil(across / kept) + stays + out)
    # The same for the columns of one fold at a time, with all of the stream kept.
    if streams + sums(1) <= usable:
        far = min(far, streams + stays + out)
    return down * across, fold_cycles, near, far


def _most(folds: int, usable: int, held: Callable[[int], int]) -> int:
    """The most folds, of those that there are, whose bytes fit; `held` must not decrease."""
    return bisect_right(range(1, folds + 1), usable, key=held)


def _bytes(values: int, array: Array) -> int:
    return math.ceil(values * BITS[array.dtype] / 8)


def _distinct_k(product: Product) -> int:
    """Inputs of an output that no other output at stride 1 brings: of k, one a window."""
    return math.ceil(product.k / product.window)


def _distinct(product: Product, array: Array) -> int:
    """Bytes of the left operand, an input that several windows share counted once."""
    return _bytes(product.m * _distinct_k(product), array)

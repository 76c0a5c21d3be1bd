"""A kernel as numbers, from which its deviation from the roofline is learned."""

from __future__ import annotations

import numpy as np

from paretax.evaluators.kernels import Kernel
from paretax.evaluators.latency_model.roofline import bound, peak
from paretax.hardware_profiles import HardwareProfile

NAMES = (
    "roofline seconds",
    "share of arithmetic",
    "rows",
    "columns",
    "sum",
    "groups",
    "window",
    "bytes read",
    "bytes written",
    "bytes given",
    "operations",
    "transcendentals",
    "resident",
    "peak of the dtype",
    "width of the dtype",
)
"""What the numbers are; all are logarithms to the base 2, but for the share."""

_WIDTH = {"int4": 4, "int8": 8, "fp8": 8, "fp16": 16, "bf16": 16, "f64": 64}


def features(kernel: Kernel, profile: HardwareProfile, resident: float) -> np.ndarray:
    """The numbers of a kernel, float64 (len(NAMES),)."""
    limits = bound(kernel, profile, resident)
    largest = max(kernel.products, key=lambda p: p.flops, default=None)
    shape = (1, 1, 1, 1, 1)
    if largest is not None:
        shape = (largest.m, largest.n, largest.k, largest.groups, largest.window)
    numbers = [
        limits.busy * 1e9,
        *shape,
        kernel.bytes_read,
        kernel.bytes_written,
        kernel.bytes_arguments,
        kernel.operations,
        kernel.transcendentals,
        resident,
        peak(kernel.dtype, profile) / 1e9,
        _WIDTH.get(kernel.dtype, 32),
    ]
    logs = np.log2(np.maximum(np.asarray(numbers, np.float64), 0) + 1)
    share = limits.compute / max(limits.compute + limits.memory, 1e-30)
    return np.concatenate([logs[:1], [8 * share], logs[1:]])

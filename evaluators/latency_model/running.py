"""Which kernels a device runs of a program that its compiler, or one that stands for it, made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.compilers.traced import TracedProduct
from paretax.evaluators.kernels import WIDTHS, Kernel
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.profile import Systolic


def running(program: CompiledProgram, profile: HardwareProfile) -> list[Kernel]:
    """The kernels of a call.

    A systolic array has no compiler here. It multiplies what the program multiplies, in the
    program's own dtypes; XLA:CPU only says what is left beside the products, without the kernels
    that widen operands for a processor. Where the program does not say how often it multiplies,
    XLA's kernels stand, with the turns that it found.

    Args:
        program: made for the device.
        profile: of the device.
    """
    told = bool(program.products) and all(p.known for p in program.products)
    if not isinstance(profile.compiler, Systolic) or not told:
        return list(program.kernels)
    return [*map(_on_array, program.products), *_beside(program)]


def _on_array(traced: TracedProduct) -> Kernel:
    product, bits = traced.product, WIDTHS.get(traced.dtype, 32)
    values = product.groups * product.k * (product.m + product.n)
    return Kernel(
        name=product.kind,
        kind=product.kind,
        dtype=traced.dtype,
        library="array",
        products=(product,),
        bytes_read=math.ceil(values * bits / 8),
        bytes_written=4 * product.groups * product.m * product.n,
        count=traced.count,
    )


def _beside(program: CompiledProgram) -> Iterator[Kernel]:
    for kernel in program.kernels:
        if kernel.products and kernel.operations:
            written = kernel.bytes_written
            yield replace(
                kernel, products=(), kind="elementwise", bytes_read=written, bytes_arguments=0
            )
        elif not kernel.products and not kernel.widens:
            yield kernel

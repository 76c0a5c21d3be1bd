"""What a call costs on a device, besides its time: energy, money, CO2."""

from __future__ import annotations

import math
from collections.abc import Iterable

from paretax.evaluators.kernels import Kernel
from paretax.evaluators.latency_model.roofline import TRANSCENDENTAL, runs_on_array
from paretax.evaluators.systolic import Array
from paretax.evaluators.systolic_cost import area, moved
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.profile import Systolic

GRID = 480.0
"""Grams of CO2 equivalent a kilowatt-hour: the world's mean in 2023 (Ember, Global Electricity
Review 2024)."""

_JOULES_A_KWH = 3.6e6
_SECONDS_AN_HOUR = 3600.0
_BITS = {"int4": 4, "int8": 8, "fp8": 8, "bf16": 16, "fp16": 16, "tf32": 19, "f32": 32}


def joules(kernels: Iterable[Kernel], seconds: float, profile: HardwareProfile) -> float:
    """Energy of a call, in joules: arithmetic, bytes moved, and idle power over its time.

    Each operation and each byte costs what the profile says (the accounting of Horowitz,
    Computing's Energy Problem, ISSCC 2014); a device never draws more than its peak power.

    Args:
        kernels: of the program.
        seconds: of a call.
        profile: of the device.
    """
    spent = 0.0
    near, main = profile.memories[0], profile.main_memory
    array = Array.of(profile) if isinstance(profile.compiler, Systolic) else None
    for kernel in kernels:
        plain = kernel.operations + (TRANSCENDENTAL - 1) * kernel.transcendentals
        products = sum(p.flops for p in kernel.products)
        if array is not None and runs_on_array(kernel, profile):
            of_bytes = sum(moved(p, array, profile) for p in kernel.products)
        else:
            of_bytes = (kernel.bytes - kernel.bytes_near) * (main.energy or 0.0)
            of_bytes += kernel.bytes_near * (near.energy or 0.0)
        of_products = products * _energy(kernel.dtype, profile)
        spent += kernel.count * (of_products + plain * profile.energy["f32"] + of_bytes)
    return min(spent + profile.power.idle * seconds, profile.power.peak * seconds)


def square_millimetres(profile: HardwareProfile) -> float | None:
    """Area of an accelerator that is designed; None: the device is bought, not designed."""
    return area(profile) if isinstance(profile.compiler, Systolic) else None


def _energy(dtype: str, profile: HardwareProfile) -> float:
    """Of an operation; of a dtype that the sheet lacks, that of the next wider one."""
    known = profile.energy
    if dtype == "f32":
        return known.get(profile.f32_products, known["f32"])
    if dtype in known:
        return known[dtype]
    wider = [d for d in known if _BITS[d] >= _BITS.get(dtype, 32)]
    return known[min(wider, key=lambda d: _BITS[d])] if wider else known["f32"]


def dollars_a_million(seconds: float, batch: int, profile: HardwareProfile) -> float | None:
    """USD of a million examples, on a device that does nothing else; None: it is not rented out.

    Args:
        seconds: of a call.
        batch: examples in it.
        profile: of the device.
    """
    if profile.price is None:
        return None
    return profile.price / _SECONDS_AN_HOUR * seconds / batch * 1e6


def grams_a_million(joules_a_call: float, batch: int, grid: float = GRID) -> float:
    """Grams of CO2 equivalent of a million examples, from the energy that they take.

    Args:
        joules_a_call: see `joules`.
        batch: examples in a call.
        grid: grams of CO2 equivalent a kilowatt-hour.
    """
    if not (math.isfinite(grid) and grid >= 0):
        raise ValueError(f"the grid's intensity must be finite and at least 0, got {grid}")
    return joules_a_call / batch * 1e6 / _JOULES_A_KWH * grid

"""Energy and area of a systolic array, from the figures of its profile."""

from __future__ import annotations

from paretax.errors import UsageError
from paretax.evaluators.kernels import Product
from paretax.evaluators.systolic import Array, cycles
from paretax.hardware_profiles.profile import HardwareProfile, Systolic

_MEBIBYTE = 2**20


def energy(product: Product, array: Array, profile: HardwareProfile) -> float:
    """Energy of a product, in joules: arithmetic, data movement, and idle power over its time.

    The accounting of Eyeriss (Chen, Emer, Sze, ISCA 2016): each access of a level of memory costs
    that level's energy.

    Args:
        product: that runs.
        array: that it runs on, of the profile or a variant of it.
        profile: whose figures count: of an operation, of a byte in each memory, and of idling.

    Raises:
        UsageError: the profile lacks the energy of the array's dtype or of a memory.
    """
    if array.dtype not in profile.energy:
        raise UsageError(
            f"`energy` of profile {profile.name!r} must give that of the array's dtype "
            f"{array.dtype}, got {', '.join(profile.energy)}: add it"
        )
    arithmetic = product.flops * profile.energy[array.dtype]
    idle = profile.power.idle * cycles(product, array).seconds
    return arithmetic + moved(product, array, profile) + idle


def moved(product: Product, array: Array, profile: HardwareProfile) -> float:
    """The part of `energy` that moving data takes, in joules."""
    taken, spent = cycles(product, array), 0.0
    for level, memory in enumerate(profile.memories):
        if memory.energy is None:
            raise UsageError(
                f"memory {memory.name!r} of profile {profile.name!r} must give its energy a byte, "
                "got none: add `energy`"
            )
        # What comes from DRAM or goes there is read or written once in every memory on its way;
        # the nearest also serves the array.
        passed = taken.dram_bytes + (taken.sram_bytes if level == 0 else 0)
        spent += passed * memory.energy
    return spent


def area(profile: HardwareProfile) -> float | None:
    """Area of the array and the memory on its chip, in mm2; None: the profile lacks a figure.

    Raises:
        UsageError: the profile is of another platform.
    """
    array, sheet = Array.of(profile), profile.compiler
    assert isinstance(sheet, Systolic)  # or `Array.of` had refused it
    if sheet.area_per_unit is None or sheet.area_per_mebibyte is None:
        return None
    units = array.rows * array.columns * sheet.area_per_unit
    return units + array.sram / _MEBIBYTE * sheet.area_per_mebibyte

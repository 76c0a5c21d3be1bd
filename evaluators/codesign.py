"""A systolic array as a candidate designs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretax.hardware_profiles.profile import HardwareProfile, Systolic
from paretax.spaces.hardware import NAMES

Design = tuple[tuple[str, Any], ...]


def design_of(profile: HardwareProfile, candidate: Mapping[str, Any]) -> Design:
    """What a candidate chooses of a profile's array; empty where it has nothing to choose."""
    if not isinstance(profile.compiler, Systolic):
        return ()
    return tuple((name, candidate[name]) for name in NAMES if name in candidate)


def designed(profile: HardwareProfile, design: Design) -> HardwareProfile:
    """A profile's array as it is designed: sizes, and what follows from them.

    The rates of products follow from the multipliers and the clock; the vector unit has one lane a
    column; the memory on the chip delivers a value a row and a column each cycle.

    Args:
        profile: of a systolic array; what the design does not say stays.
        design: see `design_of`.
    """
    sheet = profile.compiler
    if not design or not isinstance(sheet, Systolic):
        return profile
    chosen = dict(design)
    rows = chosen.get("array_rows", sheet.rows)
    columns = chosen.get("array_columns", sheet.columns)
    clock = chosen.get("array_clock_mhz", profile.clock / 1e6) * 1e6
    near, far = profile.memories[0], profile.main_memory
    size = chosen.get("array_sram_kib", near.size / 1024) * 1024
    of_products = rows * columns * clock / (sheet.rows * sheet.columns * profile.clock)
    of_vectors = columns * clock / (sheet.columns * profile.clock)
    of_edges = (rows + columns) * clock / ((sheet.rows + sheet.columns) * profile.clock)
    memories = (
        near.model_copy(update={"size": size, "bandwidth": near.bandwidth * of_edges}),
        *profile.memories[1:-1],
        far.model_copy(
            update={"bandwidth": chosen.get("array_dram_gbs", far.bandwidth / 1e9) * 1e9}
        ),
    )
    array = sheet.model_copy(
        update={
            "rows": rows,
            "columns": columns,
            "dataflow": chosen.get("array_dataflow", sheet.dataflow),
        }
    )
    return profile.model_copy(
        update={
            "compiler": array,
            "clock": clock,
            "memories": memories,
            "peak": {
                dtype: rate * (of_products if dtype == sheet.dtype else of_vectors)
                for dtype, rate in profile.peak.items()
            },
            "vector": None if profile.vector is None else profile.vector * of_vectors,
            "granularity": profile.granularity.model_copy(update={"m": rows, "n": columns}),
        }
    )

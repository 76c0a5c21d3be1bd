"""Parameters of an accelerator that is designed together with the model.

They change targets whose profile is a systolic array; where a space does not have one, the profile
says. See Samajdar et al., SCALE-Sim, arXiv:1811.02883, for what each means.
"""

from __future__ import annotations

from paretax.spaces.dimensions import Setting, is_number, is_whole

DATAFLOWS = ("output_stationary", "weight_stationary", "input_stationary")


def _whole(name: str, default: int) -> Setting:
    return Setting(
        name=name,
        default=default,
        rule="a whole number of at least 1",
        allows=lambda v: is_whole(v) and int(v) >= 1,
        number=True,
    )


def _rate(name: str, default: float) -> Setting:
    return Setting(
        name=name,
        default=default,
        rule="a positive number",
        allows=lambda v: is_number(v) and float(v) > 0,
        number=True,
    )


SETTINGS = (
    _whole("array_rows", 32),
    _whole("array_columns", 32),
    _whole("array_sram_kib", 256),
    _rate("array_dram_gbs", 12.8),
    _rate("array_clock_mhz", 700.0),
    Setting(
        name="array_dataflow",
        default=DATAFLOWS[0],
        rule=f"one of {', '.join(DATAFLOWS)}",
        allows=lambda v: v in DATAFLOWS,
        number=True,  # to the programs that train, which do not see it
    ),
)

NAMES = tuple(setting.name for setting in SETTINGS)

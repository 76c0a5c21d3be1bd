"""Parameters of an accelerator that is designed together with the model.

They change targets whose profile is a systolic array; where a space does not have one, the profile
says. See Samajdar et al., SCALE-Sim, arXiv:1811.02883, for what each means. To the programs that
train all of them are numbers, which these do not even see.
"""

from __future__ import annotations

from paretax.spaces.dimensions import choice, positive, whole

DATAFLOWS = ("output_stationary", "weight_stationary", "input_stationary")

SETTINGS = (
    whole("array_rows", 32, 1, number=True),
    whole("array_columns", 32, 1, number=True),
    whole("array_sram_kib", 256, 1, number=True),
    positive("array_dram_gbs", 12.8),
    positive("array_clock_mhz", 700.0),
    choice("array_dataflow", *DATAFLOWS, number=True),
)

NAMES = tuple(setting.name for setting in SETTINGS)

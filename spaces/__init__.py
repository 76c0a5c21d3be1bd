"""The joint space: typed parameters with conditions, and the transform behind each dimension."""

from paretax.spaces import (
    distillation,
    preprocessing,
    pruning,
    quantization,
    schedule,
    structured,
    training,
)
from paretax.spaces.candidate import Candidate
from paretax.spaces.conditions import Between, Clause, OneOf
from paretax.spaces.dimensions import Setting, check_space
from paretax.spaces.operators import complete, crossover, mutate, neighbours
from paretax.spaces.parameters import Categorical, Float, Integer, Ordinal, Parameter, Value
from paretax.spaces.parsing import dump_space, parse_space
from paretax.spaces.space import Size, Space

SETTINGS: tuple[Setting, ...] = tuple(
    setting
    for dimension in (
        preprocessing,
        training,
        pruning,
        structured,
        quantization,
        distillation,
        schedule,
    )
    for setting in dimension.SETTINGS
)
"""Every parameter that paretax itself understands."""

__all__ = [
    "SETTINGS",
    "Between",
    "Candidate",
    "Categorical",
    "Clause",
    "Float",
    "Integer",
    "OneOf",
    "Ordinal",
    "Parameter",
    "Setting",
    "Size",
    "Space",
    "Value",
    "check_space",
    "complete",
    "crossover",
    "dump_space",
    "mutate",
    "neighbours",
    "parse_space",
]

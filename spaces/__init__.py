"""The joint space: typed parameters with conditions, and the transform behind each dimension."""

from paretax.spaces import (
    distillation,
    hardware,
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
from paretax.spaces.rules import setting_of
from paretax.spaces.signature import graph_choices, signature, with_signature
from paretax.spaces.space import Size, Space

DIMENSIONS: dict[str, tuple[Setting, ...]] = {
    "preprocessing": preprocessing.SETTINGS,
    "training": training.SETTINGS,
    "pruning": (*pruning.SETTINGS, *structured.SETTINGS),
    "quantization": quantization.SETTINGS,
    "distillation": distillation.SETTINGS,
    "schedule": schedule.SETTINGS,
    "hardware": hardware.SETTINGS,
}
"""What paretax itself varies, and the parameters of each."""

SETTINGS: tuple[Setting, ...] = tuple(s for settings in DIMENSIONS.values() for s in settings)
"""Every parameter that paretax itself understands."""


BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
"""The same, by name."""


def dimension_of(name: str) -> str | None:
    """The dimension that a parameter belongs to; None where a task's model reads it."""
    for dimension, settings in DIMENSIONS.items():
        if setting_of(name) in {setting.name for setting in settings}:
            return dimension
    return None


__all__ = [
    "BY_NAME",
    "DIMENSIONS",
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
    "dimension_of",
    "dump_space",
    "graph_choices",
    "mutate",
    "neighbours",
    "parse_space",
    "setting_of",
    "signature",
    "with_signature",
]

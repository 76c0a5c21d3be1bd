"""What the modules of the dimensions share: the parameters that paretax itself understands.

A dimension (training, pruning, quantization) declares its parameters as `Setting`s, and applies a
candidate's choice by a pure transform of its own. All other parameters go to the task's `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paretax.errors import UsageError, unknown
from paretax.spaces.parameters import Parameter, Value
from paretax.spaces.rules import setting_of
from paretax.spaces.space import Space


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A parameter that paretax understands.

    Args:
        name: under which a space varies it.
        default: its value where the space does not have it.
        rule: the values that it may take, in words.
        allows: whether it may take a value.
        per_site: whether it may be set for some of a model's sites alone; see `rules`.
        number: whether it is only a number to the programs that train; 0 may leave a part out.
    """

    name: str
    default: Value
    rule: str
    allows: Callable[[Value], bool]
    per_site: bool = False
    number: bool = False


def is_number(value: Value) -> bool:
    """Whether a value is a number, bools excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Value) -> bool:
    """Whether a value is a whole number, bools excluded."""
    return isinstance(value, int) and not isinstance(value, bool)


def choice(name: str, *values: str, per_site: bool = False, number: bool = False) -> Setting:
    """One of some words; the first is the default."""
    return Setting(
        name=name,
        default=values[0],
        rule=f"one of {', '.join(values)}",
        allows=lambda v: v in values,
        per_site=per_site,
        number=number,
    )


def switch(name: str) -> Setting:
    """True or false; false is the default."""
    return Setting(
        name=name, default=False, rule="true or false", allows=lambda v: isinstance(v, bool)
    )


def whole(
    name: str, default: int, least: int, most: int | None = None, *, number: bool = False
) -> Setting:
    """A whole number of at least so much, and at most so much where that is given."""
    return Setting(
        name=name,
        number=number,
        default=default,
        rule=f"a whole number of at least {least}"
        if most is None
        else f"a whole number from {least} to {most:,}",
        allows=lambda v: is_whole(v) and int(v) >= least and (most is None or int(v) <= most),
    )


def share(name: str, default: float = 0.0, *, per_site: bool = False) -> Setting:
    """A share of at least 0 and below 1."""
    return Setting(
        name=name,
        default=default,
        rule="a share of at least 0 and below 1",
        allows=lambda v: is_number(v) and 0 <= float(v) < 1,
        per_site=per_site,
        number=True,
    )


def positive(name: str, default: float) -> Setting:
    """A number above 0."""
    return Setting(
        name=name,
        default=default,
        rule="a positive number",
        allows=lambda v: is_number(v) and float(v) > 0,
        number=True,
    )


def not_negative(name: str, default: float = 0.0) -> Setting:
    """A number of at least 0."""
    return Setting(
        name=name,
        default=default,
        rule="a number of at least 0",
        allows=lambda v: is_number(v) and float(v) >= 0,
        number=True,
    )


def choose(settings: Iterable[Setting], config: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each setting: the config's, or its default."""
    return {s.name: config.get(s.name, s.default) for s in settings}


def check_space(
    space: Space, settings: Iterable[Setting], task_defaults: Mapping[str, Any], task_name: str
) -> None:
    """Refuse a parameter that nothing would read, and a value that a setting does not allow.

    Raises:
        UsageError: names the parameter, the rule and the valid names.
    """
    known = {s.name: s for s in settings}
    for name in task_defaults:
        if name in known:
            raise UsageError(
                f"task {task_name!r} must not name a parameter {name!r}: paretax has one of that "
                "name; leave it out of the task's defaults (a config's `space` gives its values, "
                "`baseline` that of trial 0), or rename what is your own"
            )
    for parameter in space:
        if parameter.name in task_defaults:
            continue
        base = setting_of(parameter.name)
        if base not in known:
            valid = [*task_defaults, *known]
            raise unknown("parameter", parameter.name, valid, f"the space of task {task_name!r}")
        setting = known[base]
        if base != parameter.name and not setting.per_site:
            able = ", ".join(s.name for s in known.values() if s.per_site)
            raise UsageError(
                f"{parameter.name!r} sets {base!r} for some sites alone, and only these can be "
                f"set so: {able}"
            )
        for value in _extremes(parameter):
            if not setting.allows(value):
                raise UsageError(
                    f"parameter {parameter.name!r} must be {setting.rule}, but the space allows "
                    f"{value!r}: change its values"
                )


def _extremes(parameter: Parameter) -> tuple[Value, ...]:
    """The ends of an ordered range, all of a categorical's values."""
    return (
        parameter.grid(2)
        if parameter.columns == 1 and hasattr(parameter, "low")
        else (parameter.grid(parameter.cardinality or 2))
    )

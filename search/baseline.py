"""The user's own configuration, dense: a search begins with it, and gains are told against it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from paretax.errors import UsageError, unknown
from paretax.spaces import (
    BY_NAME,
    Candidate,
    Categorical,
    Clause,
    Ordinal,
    Parameter,
    Space,
    Value,
    dimension_of,
    setting_of,
)
from paretax.tasks import Task

_LEFT_OUT = ("pruning", "quantization", "distillation", "schedule")
"""Dimensions of what a dense model has nothing of."""

_WIDTHS = ("weight_bits", "activation_bits")


def make_baseline(space: Space, task: Task, given: Mapping[str, Value] | None = None) -> Candidate:
    """The candidate that a search begins with; it need not lie within the space.

    The model is as the task's defaults say; training, preprocessing and hardware are as paretax's
    defaults say, or as near to them as the space allows; what the space holds fixed is so here.
    Nothing is pruned, quantised or distilled, whatever the space says.

    Args:
        space: of the search.
        task: whose model it is.
        given: values that take the place of these, by name.

    Raises:
        UsageError: a given name that nothing reads, or a value that is not allowed.
    """
    given = dict(given or {})
    for name in given:
        _check(name, given[name], task)
    chosen: dict[str, Value] = {}
    for parameter in space.order:
        name = parameter.name
        if not space.is_active(parameter, chosen):
            if name in given and isinstance(parameter.when, Clause):
                raise UsageError(
                    f"`baseline` has {name!r}, which exists only when {parameter.when.describe()}: "
                    "leave it out, or give that as well"
                )
            continue
        value = given.get(name)
        own = _usual(parameter, space, task) if value is None else _own_form(parameter, value)
        if own is not None or value is not None:
            chosen[name] = own if own is not None else given[name]
    return Candidate({**given, **chosen})


def others_have(space: Space, task: Task, baseline: Candidate) -> dict[str, Value]:
    """What all other candidates have where the baseline alone gives a value: the defaults."""
    return {
        name: task.defaults[name] if name in task.defaults else BY_NAME[name].default
        for name in baseline
        if name not in space
    }


def is_within(space: Space, candidate: Candidate) -> bool:
    """Whether a candidate is one of a space's, so that a sampler can learn from it."""
    try:
        return space.candidate(candidate) == candidate
    except UsageError:
        return False


def _check(name: str, value: Value, task: Task) -> None:
    """Refuse a given value that nothing reads, that is not allowed, or that is not dense."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"`baseline` must give finite values, got {name}: {value}")
    if name in task.defaults:
        return
    setting = BY_NAME.get(setting_of(name))
    if setting is None or (setting.name != name and not setting.per_site):
        raise unknown("parameter", name, [*task.defaults, *BY_NAME], "`baseline`")
    if not setting.allows(value):
        raise UsageError(f"`baseline`: {name} must be {setting.rule}, got {value!r}: change it")
    dense = setting.name not in _WIDTHS and _is_same(value, setting.default)
    if dimension_of(name) in _LEFT_OUT and not dense:
        raise UsageError(
            f"the baseline is dense, as gains are told against it, and `baseline` gives {name}: "
            f"{value!r}: leave it out"
        )


def _usual(parameter: Parameter, space: Space, task: Task) -> Value | None:
    """The value where none is given; None leaves it out."""
    name = parameter.name
    if dimension_of(name) in _LEFT_OUT:
        return _off(parameter, space)
    if parameter.cardinality == 1:
        return parameter.grid(1)[0]
    if name in task.defaults:
        default: Value = task.defaults[name]
        own = _own_form(parameter, default)
        return default if own is None else own
    return _nearest(parameter, BY_NAME[setting_of(name)].default)


def _off(parameter: Parameter, space: Space) -> Value | None:
    """The value that a dense model has; None, which means the same, where the space has no such."""
    name = setting_of(parameter.name)
    if name in _WIDTHS and not _can_switch_off(space):
        return None  # a width alone quantises
    return _own_form(parameter, BY_NAME[name].default)


def _can_switch_off(space: Space) -> bool:
    """Whether the dense candidate has `quantize: false`, beside which widths are of no account."""
    if "quantize" not in space:
        return False
    switch = space["quantize"]
    return switch.when is None and _own_form(switch, False) is not None


def _own_form(parameter: Parameter, value: Value) -> Value | None:
    """A value as a parameter has it; None where it never takes that value."""
    if isinstance(parameter, Categorical | Ordinal):
        same = [c for c in parameter.choices if _is_same(c, value)]
        return next((c for c in same if type(c) is type(value)), same[0] if same else None)
    try:
        return parameter.canonical(value)
    except UsageError:
        return None


def _is_same(one: Value, other: Value) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _nearest(parameter: Parameter, value: Value) -> Value:
    """The value of a parameter's that is nearest to one."""
    own = _own_form(parameter, value)
    if own is not None:
        return own
    number = None if isinstance(value, bool | str) else float(value)
    if isinstance(parameter, Categorical | Ordinal):
        numbers = [c for c in parameter.choices if not isinstance(c, bool | str)]
        if number is None or not numbers:
            return parameter.choices[0]
        return min(numbers, key=lambda c: abs(float(c) - number))
    if number is None:
        return parameter.grid(1)[0]
    inside = min(max(number, float(parameter.low)), float(parameter.high))
    return parameter.decode(parameter.encode(inside))

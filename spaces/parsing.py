"""A space from plain data, as it stands in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretax.errors import UsageError, shown, unknown
from paretax.spaces.conditions import Clause, OneOf
from paretax.spaces.parameters import Categorical, Float, Integer, Ordinal, Parameter
from paretax.spaces.space import Space

_TYPES: Mapping[str, type[Parameter]] = {
    "float": Float,
    "int": Integer,
    "categorical": Categorical,
    "ordinal": Ordinal,
}
_KEYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # required, optional
    "float": (("low", "high"), ("log", "step", "when")),
    "int": (("low", "high"), ("log", "step", "when")),
    "categorical": (("choices",), ("when",)),
    "ordinal": (("choices",), ("when",)),
}


def parse_space(
    parameters: Mapping[str, Any], forbidden: Sequence[Mapping[str, Any]] = ()
) -> Space:
    """The space that a config describes.

    Args:
        parameters: name to `{type: float|int, low, high, [log], [step], [when]}`, to
            `{type: categorical|ordinal, choices, [when]}`, or to a plain value, which is held.
        forbidden: see `Space`.

    Raises:
        UsageError: an unknown type or key, a missing key, or what `Space` refuses.
    """
    if not isinstance(parameters, Mapping):
        raise UsageError(f"`space` must map names to parameters, got {shown(parameters)}")
    return Space([_parameter(str(n), spec) for n, spec in parameters.items()], forbidden)


def _parameter(name: str, spec: Any) -> Parameter:
    if isinstance(spec, bool | int | float | str):
        return Categorical(name, [spec])
    if not isinstance(spec, Mapping) or "type" not in spec:
        raise UsageError(
            f"parameter {name!r} must be a value or a mapping with a `type` "
            f"({', '.join(_TYPES)}), got {shown(spec)}"
        )
    kind = spec["type"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise unknown("type", kind, _TYPES, f"parameter {name!r}")
    required, optional = _KEYS[kind]
    for key in spec:
        if key not in ("type", *required, *optional):
            raise unknown("key", key, (*required, *optional), f"parameter {name!r}")
    for key in required:
        if key not in spec:
            raise UsageError(f"parameter {name!r} of type {kind} needs {key!r}: add it")
    return _TYPES[kind](name, **{str(k): v for k, v in spec.items() if k != "type"})


def dump_space(space: Space) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The plain data that `parse_space` reads back: the parameters, and the forbidden clauses."""
    kinds = {cls: kind for kind, cls in _TYPES.items()}
    plain: dict[str, Any] = {}
    for p in space:
        kind = kinds[type(p)]
        entry: dict[str, Any] = {"type": kind}
        for key in (k for keys in _KEYS[kind] for k in keys):
            value = getattr(p, key)
            if key == "when" and isinstance(value, Clause):
                entry[key] = _dump_clause(value)
            elif value not in (None, False) or key in ("low", "high"):
                entry[key] = list(value) if key == "choices" else value
        plain[p.name] = entry
    return plain, [_dump_clause(c) for c in space.forbidden]


def _dump_clause(clause: Clause) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, test in clause.tests:
        if isinstance(test, OneOf):
            plain[name] = test.values[0] if len(test.values) == 1 else list(test.values)
        else:
            ends = {"min": test.low, "max": test.high}
            plain[name] = {k: v for k, v in ends.items() if v is not None}
    return plain

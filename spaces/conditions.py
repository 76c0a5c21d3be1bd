"""Tests on a candidate's values: when a parameter exists, and which combinations may not be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from paretax.errors import UsageError, shown

Scalar = bool | int | float | str


def exactly(value: Scalar) -> tuple[str, Scalar]:
    """A key under which 1, 1.0, True and "1" all differ, which Python's own equality takes for one.

    Zero and minus zero have the same key.
    """
    return type(value).__name__, value


def word(value: Scalar) -> str:
    """A value as a config holds it, so that no two read alike: 1, 1.0, true, "1"."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return f"{value}"
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_WORDS
    return value if plain else json.dumps(value, ensure_ascii=False)


_PLAIN = re.compile(r"[^\W\d][\w./@+-]*")
_NOT_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "nan", "inf", "infinity")


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """The value is one of these.

    Args:
        values: some; True and 1 are different ones.
        exact: whether 1 and 1.0 are different ones too, as they are among a parameter's choices.
    """

    values: tuple[Scalar, ...]
    exact: bool = False

    def holds(self, value: Scalar) -> bool:
        """Whether the value passes."""
        if self.exact:
            return any(exactly(v) == exactly(value) for v in self.values)
        return any(
            v == value and isinstance(v, bool) == isinstance(value, bool) for v in self.values
        )

    def describe(self) -> str:
        """The test in words."""
        words = [word(v) for v in self.values]
        return f"= {words[0]}" if len(words) == 1 else f"in {', '.join(words)}"


@dataclass(frozen=True, kw_only=True)
class Between:
    """The value is a number from `low` to `high`, both included; None leaves an end open."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: Scalar) -> bool:
        """Whether the value passes; no string or bool does."""
        if isinstance(value, bool | str):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def describe(self) -> str:
        """The test in words."""
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        return f">= {self.low:g}" if self.low is not None else f"<= {self.high:g}"


Test = OneOf | Between


@dataclass(frozen=True)
class Clause:
    """A conjunction of tests, one a parameter. A parameter that is not there fails its test."""

    tests: tuple[tuple[str, Test], ...]

    @classmethod
    def make(cls, tests: Clause | Mapping[str, object] | None, where: str) -> Clause | None:
        """From the form in which users write it; None stays None.

        Args:
            tests: parameter name to a value, a list of values or `{"min": a, "max": b}`.
            where: what the clause belongs to, for the error.
        """
        if tests is None or isinstance(tests, Clause):
            return tests
        if not isinstance(tests, Mapping) or not tests:
            raise UsageError(
                f"{where}: a condition maps parameters to values, "
                f"such as {{quantize: true}}, got {shown(tests)}"
            )
        return cls(tuple((str(name), _test(spec, where)) for name, spec in tests.items()))

    def resolved(self, meant: Callable[[str, Scalar], Scalar]) -> Clause:
        """The clause on the values that parameters have.

        Args:
            meant: a parameter's name and a value as a user wrote it, to the value in its domain.
        """
        return Clause(
            tuple(
                (n, OneOf(values=tuple(meant(n, v) for v in test.values), exact=True))
                if isinstance(test, OneOf)
                else (n, test)
                for n, test in self.tests
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that are tested."""
        return tuple(name for name, _ in self.tests)

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Whether every test passes on these values."""
        return all(name in values and test.holds(values[name]) for name, test in self.tests)

    def describe(self) -> str:
        """The clause in words."""
        return " and ".join(f"{name} {test.describe()}" for name, test in self.tests)


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    return isinstance(value, bool | int | float | str)


def _test(spec: object, where: str) -> Test:
    if _is_scalar(spec):
        return OneOf(values=(spec,))
    ends = (spec.get("min"), spec.get("max")) if isinstance(spec, Mapping) else (None, None)
    if isinstance(spec, Mapping) and set(spec) <= {"min", "max"} and ends != (None, None):
        low, high = ends
        for end in ends:
            if end is not None and (isinstance(end, bool) or not isinstance(end, int | float)):
                raise UsageError(f"{where}: min and max must be numbers, got {end!r}")
        if low is not None and high is not None and low > high:
            raise UsageError(f"{where}: min must not exceed max, got min={low} and max={high}")
        return Between(low=low, high=high)
    if isinstance(spec, list | tuple) and spec and all(_is_scalar(v) for v in spec):
        return OneOf(values=tuple(spec))
    raise UsageError(
        f"{where}: a test is a value, a list of values or {{min: a, max: b}}, got {shown(spec)}"
    )

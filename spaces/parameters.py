"""Typed parameters: what one dimension of a space may take."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from decimal import Decimal

import numpy as np

from paretax.errors import UsageError, shown
from paretax.spaces.conditions import Clause, exactly, word

Value = bool | int | float | str
"""What a parameter may hold: a JSON scalar (never null, NaN or infinity)."""

_LARGEST = sys.float_info.max
_LONG = 2**64
_EXACT = 2**53  # steps up to here are counted exactly in floating point
_JUMP = 0.15  # standard deviation of a local move, as a share of the parameter's range


@dataclass(frozen=True)
class AbstractParameter(ABC):
    """A named dimension. Subclasses are final.

    Args:
        name: the key under which a candidate holds the value.
        when: the parameter exists only where every test in this mapping holds: a parent's name
            to a value, a list of values, or `{"min": a, "max": b}`. None: always.
    """

    name: str

    @property
    @abstractmethod
    def cardinality(self) -> int | None:
        """How many values there are; None for a continuum."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """How many numbers encode one value."""

    @abstractmethod
    def describe(self) -> str:
        """The values in words, for a table."""

    @abstractmethod
    def canonical(self, value: object) -> Value:
        """The value in its one canonical form. Raises UsageError where it is not in the domain."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """One value, uniform over the domain (over its logarithm where `log`)."""

    @abstractmethod
    def grid(self, points: int) -> tuple[Value, ...]:
        """At most `points` values spread over an ordered domain; all of a categorical's."""

    @abstractmethod
    def moves(self, value: Value, rng: np.random.Generator) -> tuple[Value, ...]:
        """Values near this one, itself excluded."""

    @abstractmethod
    def encode(self, value: Value) -> tuple[float, ...]:
        """`columns` numbers in [0, 1]."""

    @abstractmethod
    def decode(self, numbers: Sequence[float]) -> Value:
        """The nearest value of the domain; the inverse of `encode`."""

    def _outside(self, value: object) -> UsageError:
        return UsageError(f"parameter {self.name!r} takes {self.describe()}, got {shown(value)}")


def _check_name(name: object) -> None:
    setting, at, where = name.partition("@") if isinstance(name, str) else ("", "", "")
    if not setting.isidentifier() or bool(at) != bool(where):
        raise UsageError(
            "a parameter's name must be an identifier such as 'width', or one with some sites of "
            f"the model after an @ such as 'weight_bits@attention', got {name!r}"
        )


def _check_range(name: str, low: float, high: float, log: bool, step: float | None) -> None:
    if not isinstance(log, bool):
        raise UsageError(f"parameter {name!r}: log must be true or false, got {log!r}")
    for key, number in (("low", low), ("high", high)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise UsageError(f"parameter {name!r}: {key} must be a number, got {number!r}")
        if not abs(number) <= _LARGEST:
            raise UsageError(f"parameter {name!r}: {key} must be finite, got {shown(number)}")
    if low > high:
        raise UsageError(
            f"parameter {name!r}: low must not exceed high, got low={low} and high={high}: "
            "swap them or widen the range"
        )
    if log and low <= 0:
        raise UsageError(
            f"parameter {name!r}: a log scale needs low > 0, got {low}: raise low or drop log"
        )
    if step is not None:
        number = isinstance(step, int | float) and not isinstance(step, bool)
        if not number or not 0 < step <= _LARGEST:
            raise UsageError(
                f"parameter {name!r}: step must be a positive number, got {shown(step)}"
            )
        if log:
            raise UsageError(f"parameter {name!r}: log and step exclude each other: drop one")
    width = float(high) / float(low) if log else float(high) - float(low)
    if math.isinf(width):
        raise UsageError(f"parameter {name!r}: the range {low} .. {high} is too wide: narrow it")
    if step is not None and step < math.ulp(max(abs(low), abs(high), 0.0) or step):
        raise UsageError(
            f"parameter {name!r}: floating point cannot tell steps of {step} apart in the range "
            f"{low} .. {high}: take a larger step, or leave it out"
        )
    if step is not None and width / step > _EXACT:
        raise UsageError(
            f"parameter {name!r}: a range may have 2^53 steps, and {low} .. {high} has "
            f"{width / step:.3g} of {step}: take a larger step, or leave it out"
        )


def _is_number(value: object) -> bool:
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _jump(unit: float, rng: np.random.Generator) -> tuple[float, float]:
    """A step down and a step up on the unit scale, clipped to it."""
    down, up = np.abs(rng.normal(0.0, _JUMP, size=2))
    return max(0.0, unit - float(down)), min(1.0, unit + float(up))


@dataclass(frozen=True)
class _Numeric(AbstractParameter):
    """What Float and Integer share: a range, a scale and steps on it."""

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    step: float | None = None
    when: Clause | Mapping[str, object] | None = None

    @property
    def columns(self) -> int:
        return 1

    @property
    def _steps(self) -> int | None:
        """The largest k for which low + k * step lies in the domain."""
        if self.step is None:
            return None
        span = (Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step))
        return int(span)

    def describe(self) -> str:
        kind = "real" if isinstance(self, Float) else "integer"
        scale = ", log" if self.log else ""
        step = f", step {self.step:g}" if self.step not in (None, 1) else ""
        return f"{kind} {self.low:g} .. {self.high:g}{scale}{step}"

    def _to_unit(self, value: float) -> float:
        if self.high == self.low:
            return 0.0
        if self.log:
            ratio = math.log(self.high / self.low)
            return min(1.0, max(0.0, math.log(value / self.low) / ratio))
        return (value - self.low) / (self.high - self.low)

    def _from_unit(self, unit: float) -> float:
        unit = min(1.0, max(0.0, float(unit)))
        if unit == 1.0:  # the sum below may miss it by rounding
            return self.high
        if self.log:
            value = float(self.low * (self.high / self.low) ** unit)
        else:
            value = self.low + unit * (self.high - self.low)
        return min(self.high, max(self.low, value))

    def encode(self, value: Value) -> tuple[float, ...]:
        return (self._to_unit(float(value)),)


@dataclass(frozen=True)
class Float(_Numeric):
    """A real number in [low, high]; uniform in its logarithm with `log`, or in steps of `step`."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_range(self.name, self.low, self.high, self.log, self.step)
        object.__setattr__(self, "low", float(self.low) + 0.0)  # -0.0 becomes 0.0
        object.__setattr__(self, "high", float(self.high) + 0.0)
        object.__setattr__(self, "when", Clause.make(self.when, f"parameter {self.name!r}"))

    @property
    def cardinality(self) -> int | None:
        if self._steps is not None:
            return self._steps + 1
        return 1 if self.low == self.high else None

    def _at(self, k: int) -> float:
        return float(Decimal(str(self.low)) + k * Decimal(str(self.step)))

    def _snap(self, value: float) -> float:
        if self.step is None or self._steps is None:
            return float(value)
        return self._at(min(self._steps, max(0, round((value - self.low) / self.step))))

    def canonical(self, value: object) -> float:
        if not _is_number(value):
            raise self._outside(value)
        given: float = value.item() if isinstance(value, np.generic) else value  # type: ignore[assignment]
        if not self.low <= given <= self.high:
            raise self._outside(value)
        number = float(given) + 0.0  # -0.0 becomes 0.0
        if self.step is not None and not math.isclose(
            self._snap(number), number, rel_tol=1e-9, abs_tol=1e-9 * self.step
        ):
            raise self._outside(value)
        return self._snap(number)

    def sample(self, rng: np.random.Generator) -> float:
        if self._steps is not None:
            return self._at(int(rng.integers(self._steps + 1)))
        return self._from_unit(rng.random())

    def grid(self, points: int) -> tuple[Value, ...]:
        if self._steps is not None and points > self._steps:
            return tuple(self._at(k) for k in range(self._steps + 1))
        count = points if self.cardinality is None else min(points, self.cardinality)
        units = np.linspace(0.0, 1.0, count) if count > 1 else [0.5]
        return tuple(dict.fromkeys(self._snap(self._from_unit(u)) for u in units))

    def moves(self, value: Value, rng: np.random.Generator) -> tuple[Value, ...]:
        number = float(value)
        found = [self._from_unit(u) for u in _jump(self._to_unit(number), rng)]
        if self.step is not None:
            found += [number - self.step, number + self.step]
        near = dict.fromkeys(self._snap(v) for v in found)
        return tuple(v for v in near if v != number and self.low <= v <= self.high)

    def decode(self, numbers: Sequence[float]) -> float:
        return self._snap(self._from_unit(numbers[0]))


@dataclass(frozen=True)
class Integer(_Numeric):
    """A whole number in [low, high], in steps of `step` (1 where None), or on a `log` scale."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_range(self.name, self.low, self.high, self.log, self.step)
        for key in ("low", "high", "step"):
            number = getattr(self, key)
            if number is not None:
                if int(number) != number:
                    raise UsageError(
                        f"parameter {self.name!r}: an integer's {key} must be whole, got {number}"
                    )
                object.__setattr__(self, key, int(number))
        if max(-self.low, self.high, self.high - self.low) >= 2**63:
            raise UsageError(
                f"parameter {self.name!r}: an integer's range must lie within -2^63 .. 2^63 - 1 "
                f"and be shorter than 2^63, got {self.low} .. {self.high}: narrow it"
            )
        object.__setattr__(self, "when", Clause.make(self.when, f"parameter {self.name!r}"))

    @property
    def cardinality(self) -> int:
        return int((self.high - self.low) // (self.step or 1)) + 1

    def _snap(self, value: float) -> int:
        step = int(self.step or 1)
        k = min(self.cardinality - 1, max(0, round((value - self.low) / step)))
        return int(self.low) + k * step

    def canonical(self, value: object) -> int:
        if not _is_number(value) or int(value) != value:  # type: ignore[call-overload]
            raise self._outside(value)
        number: int = int(value)  # type: ignore[call-overload]  # checked by _is_number
        if not self.low <= number <= self.high or (number - int(self.low)) % int(self.step or 1):
            raise self._outside(value)
        return number

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:  # each whole number has the share of the log scale that rounds to it
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return self._snap(math.exp(rng.uniform(low, high)))
        return int(self.low) + int(self.step or 1) * int(rng.integers(self.cardinality))

    def grid(self, points: int) -> tuple[Value, ...]:
        if points >= self.cardinality:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        count = points
        units = np.linspace(0.0, 1.0, count) if count > 1 else [0.5]
        return tuple(dict.fromkeys(self._snap(self._from_unit(u)) for u in units))

    def moves(self, value: Value, rng: np.random.Generator) -> tuple[Value, ...]:
        number, step = int(value), int(self.step or 1)
        found = [self._from_unit(u) for u in _jump(self._to_unit(number), rng)]
        near = dict.fromkeys(self._snap(v) for v in [*found, number - step, number + step])
        return tuple(v for v in near if v != number)

    def decode(self, numbers: Sequence[float]) -> int:
        return self._snap(self._from_unit(numbers[0]))


@dataclass(frozen=True)
class _Listed(AbstractParameter):
    """What Categorical and Ordinal share: values written out."""

    choices: Sequence[Value]
    _: KW_ONLY
    when: Clause | Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        if isinstance(self.choices, str) or not isinstance(self.choices, Sequence):
            raise UsageError(
                f"parameter {self.name!r}: choices must be a list, got {shown(self.choices)}"
            )
        if not self.choices:
            raise UsageError(f"parameter {self.name!r}: choices is empty: list at least one value")
        choices = tuple(c.item() if isinstance(c, np.generic) else c for c in self.choices)
        object.__setattr__(self, "choices", choices)
        for choice in choices:
            if not isinstance(choice, bool | str) and not _is_number(choice):
                raise UsageError(
                    f"parameter {self.name!r}: a choice must be a string, a bool or a finite "
                    f"number, got {shown(choice)}"
                )
            if isinstance(choice, int) and abs(choice) > _LONG:
                raise UsageError(
                    f"parameter {self.name!r}: a whole number must lie within -2^64 .. 2^64, "
                    f"got {shown(choice)}"
                )
        if len({exactly(c) for c in choices}) < len(choices):
            raise UsageError(
                f"parameter {self.name!r}: choices must differ, got {list(choices)}: list each once"
            )
        object.__setattr__(self, "when", Clause.make(self.when, f"parameter {self.name!r}"))

    @property
    def cardinality(self) -> int:
        return len(self.choices)

    def index(self, value: object) -> int:
        """The position of a value among the choices. Raises UsageError where it is none of them.

        1, 1.0, True and "1" are four choices. A number that is no choice itself stands for the
        choice of its size: 1.0 for 1, where 1.0 is none.
        """
        given = value.item() if isinstance(value, np.generic) else value
        for i, choice in enumerate(self.choices):
            if exactly(choice) == (type(given).__name__, given):
                return i
        for i, choice in enumerate(self.choices):
            if _is_number(choice) and _is_number(given) and choice == given:
                return i
        raise self._outside(value)

    def canonical(self, value: object) -> Value:
        return self.choices[self.index(value)]

    def sample(self, rng: np.random.Generator) -> Value:
        return self.choices[int(rng.integers(len(self.choices)))]


@dataclass(frozen=True)
class Categorical(_Listed):
    """One of several values without an order."""

    @property
    def columns(self) -> int:
        return len(self.choices)

    def describe(self) -> str:
        if len(self.choices) == 1:
            return f"always {word(self.choices[0])}"
        return "one of " + ", ".join(map(word, self.choices))

    def grid(self, points: int) -> tuple[Value, ...]:
        return tuple(self.choices)

    def moves(self, value: Value, rng: np.random.Generator) -> tuple[Value, ...]:
        here = self.index(value)
        return tuple(c for i, c in enumerate(self.choices) if i != here)

    def encode(self, value: Value) -> tuple[float, ...]:
        here = self.index(value)
        return tuple(float(i == here) for i in range(len(self.choices)))

    def decode(self, numbers: Sequence[float]) -> Value:
        return self.choices[int(np.argmax(numbers))]


@dataclass(frozen=True)
class Ordinal(_Listed):
    """One of several values in the order in which they are listed."""

    @property
    def columns(self) -> int:
        return 1

    def describe(self) -> str:
        return "in order " + ", ".join(map(word, self.choices))

    def grid(self, points: int) -> tuple[Value, ...]:
        count = min(points, len(self.choices))
        where = np.linspace(0, len(self.choices) - 1, count) if count > 1 else [0]
        return tuple(self.choices[i] for i in dict.fromkeys(round(float(w)) for w in where))

    def moves(self, value: Value, rng: np.random.Generator) -> tuple[Value, ...]:
        here = self.index(value)
        return tuple(self.choices[i] for i in (here - 1, here + 1) if 0 <= i < len(self.choices))

    def encode(self, value: Value) -> tuple[float, ...]:
        return (self.index(value) / max(1, len(self.choices) - 1),)

    def decode(self, numbers: Sequence[float]) -> Value:
        last = len(self.choices) - 1
        return self.choices[round(min(1.0, max(0.0, float(numbers[0]))) * last)]


Parameter = Float | Integer | Categorical | Ordinal

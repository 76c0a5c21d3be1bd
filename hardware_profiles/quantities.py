"""Quantities with their units, as data sheets write them: "3.35 TB/s", "15 us", "1.20 USD/h"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from paretax.errors import shown

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_SMALL = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}

_NUMBER = re.compile(r"^\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\S.*?)?\s*$")


def _named(prefixes: Mapping[str, float], *units: str) -> dict[str, float]:
    return {prefix + unit: factor for unit in units for prefix, factor in prefixes.items()}


UNITS: Mapping[str, Mapping[str, float]] = {
    "rate": _named(_DECIMAL, "op/s", "OP/s", "FLOP/s"),
    "bytes": _named({**_DECIMAL, **_BINARY}, "B"),
    "bandwidth": _named({**_DECIMAL, **_BINARY}, "B/s"),
    "time": _named(_SMALL, "s"),
    "frequency": _named(_DECIMAL, "Hz"),
    "power": _named({**_DECIMAL, **_SMALL}, "W"),
    "energy": _named(_SMALL, "J"),
    "price": {"USD/h": 1.0},
    "area": {"mm2": 1.0, "um2": 1e-6},
}
"""What is measured -> its units -> how much of the base unit each is.

The base units are op/s (a multiplication and an addition are two), B, B/s, s, Hz, W, J, USD/h and
mm2.
"""


_ARTICLES = {"energy": "an energy", "area": "an area", "bytes": "a size", "time": "a time"}


def parse_quantity(text: object, kind: str) -> float:
    """A quantity in its base unit.

    Args:
        text: a number and its unit, such as "819 GB/s".
        kind: a name of `UNITS`.

    Raises:
        ValueError: no number, no unit or another one, or a negative or infinite value.

    Example:
        >>> parse_quantity("1.5 us", "time")
        1.5e-06
    """
    units, named = UNITS[kind], _ARTICLES.get(kind, f"a {kind}")
    usual = {
        "rate": "19.5 TFLOP/s",
        "bytes": "16 GiB",
        "bandwidth": "819 GB/s",
        "time": "2 us",
        "frequency": "940 MHz",
        "power": "300 W",
        "energy": "0.4 pJ",
        "price": "1.20 USD/h",
        "area": "0.5 mm2",
    }[kind]
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise ValueError(f"{named} must have a unit, got {shown(text)}: write it like {usual!r}")
    found = _NUMBER.match(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{named} must be a number and a unit like {usual!r}, got {shown(text)}")
    number, unit = found.groups()
    if unit is None:
        raise ValueError(f"{named} must have a unit, got {shown(text)}: write it like {usual!r}")
    if unit not in units:
        raise ValueError(f"{named} must have a unit like that of {usual!r}, got {shown(text)}")
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise ValueError(f"{named} must be a number and a unit, got {shown(text)}") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{named} must be finite and not negative, got {shown(text)}")
    return value


def _reader(kind: str) -> Callable[[Any], float]:
    return lambda text: parse_quantity(text, kind)


def _above_zero(value: float) -> float:
    if value == 0:
        raise ValueError("it must be above 0, got 0: leave out what the device lacks")
    return value


Positive = AfterValidator(_above_zero)
"""For quantities that no device has none of."""


Rate = Annotated[float, BeforeValidator(_reader("rate")), Positive]
Bytes = Annotated[float, BeforeValidator(_reader("bytes")), Positive]
Bandwidth = Annotated[float, BeforeValidator(_reader("bandwidth")), Positive]
Seconds = Annotated[float, BeforeValidator(_reader("time"))]
Frequency = Annotated[float, BeforeValidator(_reader("frequency")), Positive]
Watts = Annotated[float, BeforeValidator(_reader("power"))]
Joules = Annotated[float, BeforeValidator(_reader("energy")), Positive]
Price = Annotated[float, BeforeValidator(_reader("price"))]
Area = Annotated[float, BeforeValidator(_reader("area"))]

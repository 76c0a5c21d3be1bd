"""What an evaluator hands back: a number that says how it was obtained, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Provenance(StrEnum):
    """How a number was obtained."""

    MEASURED = "measured"  # by running it: on the device, or on data
    COMPILED = "compiled"  # read off the program that XLA compiled for the target
    MODELLED = "modelled"  # computed from shapes and the profile


class Reason(StrEnum):
    """Why a candidate has no score."""

    BUILD_ERROR = "build_error"  # the task's code refused this combination
    COMPILE_ERROR = "compile_error"
    DIVERGED = "diverged"  # a loss or an output that is not finite
    LIMIT_EXCEEDED = "limit_exceeded"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One value of one objective.

    Args:
        objective: its name.
        value: in `unit`, finite.
        unit: "" where it has none.
        provenance: how it was obtained.
        target: the profile it holds for; None where it does not depend on the device.
        spread: half the interquartile range over repeats, in `unit`; None where there are none.
        seconds: spent on obtaining it.
        detail: what it was obtained with, such as batch size and repeats; plain JSON.
    """

    objective: str
    value: float
    unit: str
    provenance: Provenance
    target: str | None = None
    spread: float | None = None
    seconds: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measurement must be finite, got {self.value} {self.objective}")

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is None or empty is left out."""
        plain: dict[str, Any] = {
            "objective": self.objective,
            "value": self.value,
            "unit": self.unit,
            "provenance": str(self.provenance),
            "target": self.target,
            "spread": self.spread,
            "seconds": round(self.seconds, 4),
            "detail": dict(self.detail),
        }
        return {k: v for k, v in plain.items() if v not in (None, {})}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_json`."""
        return cls(**{**plain, "provenance": Provenance(plain["provenance"])})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a candidate has no score.

    Args:
        reason: for machines.
        message: for people.
        violation: for a broken limit, by how much in units of the limit's size; else 0.
        traceback: of the exception behind it, for a file of the run; no part of the journal.
    """

    reason: Reason
    message: str
    violation: float = 0.0
    traceback: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "reason": str(self.reason),
            "message": self.message,
            "violation": self.violation,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Failure:
        """The inverse of `to_json`."""
        return cls(**{**plain, "reason": Reason(plain["reason"])})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that one evaluation gave.

    Args:
        measurements: what could be scored.
        failure: why the rest could not; None where nothing is missing.
        weights: the trained arrays by name, where there was a training.
    """

    measurements: tuple[Measurement, ...] = ()
    failure: Failure | None = None
    weights: Mapping[str, np.ndarray] | None = None

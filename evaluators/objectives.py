"""What can be asked of a candidate, besides the task's own metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paretax.errors import UsageError, unknown
from paretax.evaluators.measurement import Failure, Measurement, Reason
from paretax.tasks import Metric

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A quantity by which candidates are compared.

    Args:
        name: of the quantity.
        unit: of its values.
        direction: which way is better.
        target: the profile it is asked for; None where it does not depend on the device.
        known_before_training: whether a candidate can be rejected on it before it is trained.
        limit: the worst value that is accepted, in `unit`; None: any.
    """

    name: str
    unit: str
    direction: Direction
    target: str | None = None
    known_before_training: bool
    limit: float | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """What matches an objective with its measurement."""
        return self.name, self.target

    @property
    def title(self) -> str:
        """For a table: the name, and where it depends on the device, the target."""
        return self.name if self.target is None else f"{self.name}@{self.target}"

    @property
    def sign(self) -> float:
        """What turns a value into a loss."""
        return 1.0 if self.direction == "minimize" else -1.0

    def violation(self, value: float) -> Failure | None:
        """The failure of a value beyond the limit; None where it keeps it."""
        if self.limit is None or self.sign * value <= self.sign * self.limit:
            return None
        side = "at most" if self.direction == "minimize" else "at least"
        unit = f" {self.unit}" if self.unit else ""
        excess = abs(value - self.limit) / max(abs(self.limit), 1e-12)
        return Failure(
            reason=Reason.LIMIT_EXCEEDED,
            message=f"{self.title} must be {side} {self.limit:g}{unit}, got {value:g}{unit}",
            violation=excess,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "unit": self.unit,
            "direction": self.direction,
            "target": self.target,
            "known_before_training": self.known_before_training,
            "limit": self.limit,
        }


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    unit: str
    on_target: bool = True
    direction: Direction = "minimize"


_COSTS = {
    "latency": _Quantity(unit="us"),
    "latency_p99": _Quantity(unit="us"),
    "latency_queued": _Quantity(unit="us"),
    "throughput": _Quantity(unit="examples/s", direction="maximize"),
    "memory": _Quantity(unit="bytes"),
    "energy": _Quantity(unit="mJ"),
    "price": _Quantity(unit="USD/1M"),
    "co2": _Quantity(unit="g/1M"),
    "area": _Quantity(unit="mm2"),
    "size": _Quantity(unit="bytes", on_target=False),
}
COST_NAMES = tuple(_COSTS)
"""What can be asked of a candidate besides the metric; known before training.

`latency` is the median of a call that is waited for, `latency_p99` its 99th percentile, where it is
measured; `latency_queued` is that of one of many calls in a queue, which overlap with the host's
work; energy is that of one example, price and CO2 those of a million; area is that of an
accelerator.
"""


def unit_of(name: str) -> str:
    """The unit of a cost."""
    return _COSTS[name].unit


def objective_names(metric: Metric) -> tuple[str, ...]:
    """The objectives that can be named for a task with this metric."""
    return (metric.name, *_COSTS)


def make_objectives(
    name: str, metric: Metric, targets: Sequence[str], limit: float | None = None
) -> list[Objective]:
    """The objectives of one name: one a target, or one in all.

    Args:
        name: of the quantity; "latency@cpu" is that of one target.
        metric: of the task.
        targets: names of the profiles.
        limit: see `Objective`.

    Raises:
        UsageError: nobody evaluates that name, or the limit is not finite.
    """
    name, at, only = name.partition("@")
    if at:
        if only not in targets:
            raise unknown("target", only, targets, f"the objective '{name}@{only}'")
        if name == metric.name or (name in _COSTS and not _COSTS[name].on_target):
            raise UsageError(f"{name!r} is the same on every target: write it without @{only}")
        targets = [only]
    if limit is not None and not math.isfinite(limit):
        raise UsageError(f"the limit of {name!r} must be a finite number, got {limit}")
    if metric.name in _COSTS:
        raise UsageError(
            f"the task's metric must not be named {metric.name!r}: paretax has an objective of "
            "that name; rename it"
        )
    if name == metric.name:
        return [
            Objective(
                name=name,
                unit=metric.unit,
                direction=metric.direction,
                known_before_training=False,
                limit=limit,
            )
        ]
    if name not in _COSTS:
        raise unknown("objective", name, objective_names(metric))
    quantity = _COSTS[name]
    return [
        Objective(
            name=name,
            unit=quantity.unit,
            direction=quantity.direction,
            target=target,
            known_before_training=True,
            limit=limit,
        )
        for target in (targets if quantity.on_target else [None])
    ]


def worst_violation(
    objectives: Sequence[Objective], measurements: Sequence[Measurement]
) -> Failure | None:
    """The worst broken limit; None where all that was measured keeps its limit."""
    values = {(m.objective, m.target): m.value for m in measurements}
    broken = [o.violation(values[o.key]) for o in objectives if o.key in values]
    found = [failure for failure in broken if failure is not None]
    return max(found, key=lambda failure: failure.violation, default=None)

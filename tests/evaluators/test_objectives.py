"""Objectives and their limits."""

from __future__ import annotations

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from paretax.errors import UsageError
from paretax.evaluators import (
    Measurement,
    Objective,
    Provenance,
    Reason,
    make_objectives,
    objective_names,
    worst_violation,
)
from paretax.evaluators.objectives import COST_NAMES
from paretax.tasks import Metric, accuracy

LOSS = Metric(name="loss", direction="minimize", compute=lambda outputs, targets: 0.0, unit="nats")

SIZE = Objective(
    name="size", unit="bytes", direction="minimize", known_before_training=True, limit=200.0
)
ACCURACY = Objective(
    name="accuracy", unit="", direction="maximize", known_before_training=False, limit=0.8
)


def measured(objective: str, value: float, target: str | None = None) -> Measurement:
    return Measurement(
        objective=objective,
        value=value,
        unit="",
        provenance=Provenance.MEASURED,
        target=target,
    )


@pytest.mark.parametrize(
    ("objective", "value"),
    [(SIZE, 0.0), (SIZE, 199.9), (SIZE, 200.0), (ACCURACY, 0.8), (ACCURACY, 1.0)],
)
def test_the_limit_itself_is_kept(objective: Objective, value: float) -> None:
    assert objective.violation(value) is None
    assert replace(objective, limit=None).violation(value) is None


@pytest.mark.parametrize(
    ("objective", "value", "violation", "message"),
    [
        (SIZE, 300.0, 0.5, "size must be at most 200 bytes, got 300 bytes"),
        (SIZE, 200.5, 0.0025, "size must be at most 200 bytes, got 200.5 bytes"),
        (ACCURACY, 0.6, 0.25, "accuracy must be at least 0.8, got 0.6"),
        (ACCURACY, 0.0, 1.0, "accuracy must be at least 0.8, got 0"),
        (replace(SIZE, limit=0.0), 1.0, 1e12, "size must be at most 0 bytes, got 1 bytes"),
        (replace(ACCURACY, limit=-2.0), -3.0, 0.5, "accuracy must be at least -2, got -3"),
        (
            replace(SIZE, name="latency", unit="us", target="cpu"),
            400.0,
            1.0,
            "latency@cpu must be at most 200 us, got 400 us",
        ),
    ],
)
def test_a_broken_limit_says_by_how_much(
    objective: Objective, value: float, violation: float, message: str
) -> None:
    failure = objective.violation(value)
    assert failure is not None
    assert failure.reason is Reason.LIMIT_EXCEEDED
    assert failure.message == message
    assert failure.violation == pytest.approx(violation)


@given(st.sampled_from([SIZE, ACCURACY]), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_further_beyond_a_limit_is_never_better(
    objective: Objective, limit: float, value: float
) -> None:
    """`sign` turns both directions into "less is better"."""
    limited = replace(objective, limit=limit)
    failure = limited.violation(value)
    assert (failure is None) == (objective.sign * value <= objective.sign * limit)
    worse = limited.violation(value + objective.sign)
    if failure is not None:
        assert worse is not None
        assert worse.violation >= failure.violation >= 0


def test_without_a_limit_nothing_is_violated() -> None:
    assert replace(SIZE, limit=None).violation(math.inf) is None


@pytest.mark.parametrize("metric", [accuracy, LOSS])
def test_the_metric_is_one_objective_in_its_own_direction(metric: Metric) -> None:
    (found,) = make_objectives(metric.name, metric, ["cpu", "other"], 0.5)
    assert (found.name, found.unit, found.direction) == (metric.name, metric.unit, metric.direction)
    assert (found.target, found.limit, found.known_before_training) == (None, 0.5, False)
    assert found.sign == (-1.0 if metric is accuracy else 1.0)
    assert found.title == metric.name


@pytest.mark.parametrize(("name", "unit"), [("latency", "us"), ("memory", "bytes")])
def test_a_cost_on_a_device_is_an_objective_for_each_target(name: str, unit: str) -> None:
    found = make_objectives(name, accuracy, ["cpu", "other"], 7.0)
    assert [o.title for o in found] == [f"{name}@cpu", f"{name}@other"]
    assert [o.key for o in found] == [(name, "cpu"), (name, "other")]
    for o in found:
        assert (o.unit, o.direction, o.limit) == (unit, "minimize", 7.0)
        assert o.known_before_training


def test_size_does_not_depend_on_the_targets() -> None:
    (found,) = make_objectives("size", accuracy, ["cpu", "other"])
    assert (found.key, found.unit, found.limit) == (("size", None), "bytes", None)
    assert found.known_before_training


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf])
def test_a_limit_that_is_not_finite_is_refused(limit: float) -> None:
    with pytest.raises(UsageError, match=f"limit of 'size' must be a finite number, got {limit}"):
        make_objectives("size", accuracy, ["cpu"], limit)


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown objective 'latencey'.*'latency'.*Valid: accuracy, latency, .*, size",
    ):
        make_objectives("latencey", accuracy, ["cpu"])
    assert objective_names(LOSS) == ("loss", *COST_NAMES)
    assert COST_NAMES[0] == "latency"
    with pytest.raises(UsageError, match=r"unknown objective 'accuracy'.*Valid: loss"):
        make_objectives("accuracy", LOSS, ["cpu"])


def test_an_objective_is_plain_data_and_back() -> None:
    for objective in (SIZE, ACCURACY, replace(SIZE, target="cpu", limit=None)):
        assert Objective(**objective.to_json()) == objective


def test_the_worst_of_several_broken_limits_counts() -> None:
    latency = replace(SIZE, name="latency", target="cpu", limit=10.0)
    limits = (SIZE, ACCURACY, latency)
    found = worst_violation(
        limits, [measured("size", 220.0), measured("accuracy", 0.4), measured("latency", 11, "cpu")]
    )
    assert found is not None
    assert found.message.startswith("accuracy must be at least 0.8")
    assert found.violation == pytest.approx(0.5)


def test_limits_on_what_was_not_measured_are_not_broken() -> None:
    latency = replace(SIZE, name="latency", target="cpu", limit=10.0)
    assert worst_violation((SIZE, ACCURACY, latency), []) is None
    assert worst_violation((latency,), [measured("latency", 99.0, "other")]) is None
    assert worst_violation((SIZE,), [measured("size", 200.0)]) is None
    assert worst_violation((), [measured("size", 1e9)]) is None


def test_a_metric_may_not_have_the_name_of_a_cost() -> None:
    metric = Metric(name="size", direction="minimize", compute=lambda outputs, targets: 0.0)
    with pytest.raises(UsageError, match="must not be named 'size'"):
        make_objectives("latency", metric, ["cpu"])

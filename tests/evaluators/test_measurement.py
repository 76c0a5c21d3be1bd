"""What an evaluator hands back, as values and as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from paretax.evaluators import Evaluation, Failure, Measurement, Provenance, Reason

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.booleans(), st.integers(), finite, st.text())
measurements = st.builds(
    Measurement,
    objective=st.text(),
    value=finite,
    unit=st.text(),
    provenance=st.sampled_from(Provenance),
    target=st.none() | st.text(),
    spread=st.none() | finite,
    seconds=st.integers(0, 10**7).map(lambda n: n / 10_000),  # they are kept to 0.1 ms
    detail=st.dictionaries(st.text(), scalars, max_size=3),
)
failures = st.builds(
    Failure,
    reason=st.sampled_from(Reason),
    message=st.text(),
    violation=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
)


def through_json(plain: dict[str, Any]) -> Any:
    return json.loads(json.dumps(plain, allow_nan=False))


@given(measurements)
def test_a_measurement_comes_back_from_json(measurement: Measurement) -> None:
    assert Measurement.from_json(through_json(measurement.to_json())) == measurement


@given(failures)
def test_a_failure_comes_back_from_json(failure: Failure) -> None:
    assert Failure.from_json(through_json(failure.to_json())) == failure


def test_json_leaves_out_what_is_not_there_and_keeps_zero() -> None:
    plain = Measurement(
        objective="size", value=0.0, unit="", provenance=Provenance.MODELLED
    ).to_json()
    assert plain == {
        "objective": "size",
        "value": 0.0,
        "unit": "",
        "provenance": "modelled",
        "seconds": 0.0,
    }
    full = Measurement(
        objective="latency",
        value=12.5,
        unit="us",
        provenance=Provenance.MEASURED,
        target="cpu",
        spread=0.0,
        seconds=0.123456,
        detail={"batch": 4},
    ).to_json()
    assert full == {
        "objective": "latency",
        "value": 12.5,
        "unit": "us",
        "provenance": "measured",
        "target": "cpu",
        "spread": 0.0,
        "seconds": 0.1235,
        "detail": {"batch": 4},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"must be finite, got {value} latency"):
        Measurement(objective="latency", value=value, unit="us", provenance=Provenance.MEASURED)


def test_an_unknown_provenance_or_reason_is_refused() -> None:
    plain = {"objective": "size", "value": 1.0, "unit": "bytes", "provenance": "guessed"}
    with pytest.raises(ValueError, match="guessed"):
        Measurement.from_json(plain)
    with pytest.raises(ValueError, match="bad_luck"):
        Failure.from_json({"reason": "bad_luck", "message": "", "violation": 0.0})


def test_an_evaluation_starts_empty() -> None:
    assert Evaluation() == Evaluation(measurements=(), failure=None, weights=None)

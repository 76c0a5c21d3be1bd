"""Costs on a device that is there: what is measured, what follows, and what is measured at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import pytest

from paretax.errors import UsageError
from paretax.evaluators import Measurement, Provenance, Target, Workbench, measured
from paretax.evaluators.compilation import lower_for
from paretax.evaluators.measured import MEASURED, MeasuredEvaluator
from paretax.evaluators.timing import Timing, time_calls

PLAIN = {"width": 4, "depth": 1}


@pytest.fixture(scope="module")
def target() -> Target:
    """The local CPU, one example a call."""
    return Target.of("cpu")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the outputs of each program that is timed; each takes 12.3456 us."""
    shapes: list[tuple[int, ...]] = []

    def stand_in(call: Callable[[], jax.Array], queue: int = 1) -> Timing:
        shapes.append(call().shape)
        return Timing(
            median=12.3456e-6 if queue == 1 else 4.5e-6,
            low=12.3e-6,
            high=12.4e-6,
            spread=0.2345e-6,
            p99=20e-6,
            repeats=42,
            others=0.0,
        )

    monkeypatch.setattr(measured, "time_calls", stand_in)
    return shapes


def test_what_is_said_of_a_measurement(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    evaluation = MeasuredEvaluator(bench, replace(target, batch=3)).evaluate(PLAIN, 0)
    assert timed == [(3, 2)]
    assert evaluation.failure is None
    assert evaluation.weights is None
    taken, memory = evaluation.measurements
    fingerprint = lower_for(target.profile, bench, PLAIN, 3).fingerprint
    assert (taken.objective, taken.value, taken.unit) == ("latency", 12.346, "us")
    assert (taken.spread, taken.target) == (0.234, "cpu")
    assert taken.provenance is Provenance.MEASURED
    about = {"batch": 3, "program": fingerprint}
    detail = dict(taken.detail)
    low, high = detail.pop("modelled_interval")
    assert 0 < low < detail.pop("modelled") < high
    assert detail == {
        **about,
        "repeats": 42,
        "threads": 1,
        "device": "cpu",
        "interval": [12.3, 12.4],
        "confidence": 0.95,
    }
    assert (memory.objective, memory.unit, memory.target) == ("memory", "bytes", "cpu")
    assert memory.provenance is Provenance.COMPILED
    assert memory.spread is None
    assert memory.detail == about
    # at least the weights, the inputs and the outputs, all float32
    assert memory.value >= 4 * ((120 + 4 + 8 + 2) + 3 * 30 + 3 * 2)


def test_the_real_clock_gives_a_positive_time(bench: Workbench, target: Target) -> None:
    taken, _ = MeasuredEvaluator(bench, target).evaluate(PLAIN, 0).measurements
    assert taken.value > 0
    assert taken.spread is not None
    assert taken.spread >= 0
    assert 15 <= taken.detail["repeats"] <= 2000


def test_equal_programs_are_measured_once(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    evaluator = MeasuredEvaluator(bench, target)
    whole = {**PLAIN, "quantize": True, "weight_bits": 8}
    first = evaluator.evaluate(whole, 0)
    assert len(timed) == 1
    for change in ({"weight_bits": 2}, {"sparsity": 0.9}, {"learning_rate": 0.5, "epochs": 3}):
        assert evaluator.evaluate({**whole, **change}, 1) == first
    assert len(timed) == 1
    for count, other in enumerate((PLAIN, {**whole, "width": 5}, {**PLAIN, "weight_bits": 8}), 2):
        assert evaluator.evaluate(other, 0) != first
        assert len(timed) == count


def test_batches_of_another_size_are_other_programs(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    many = len(bench.data.train) + 1  # more than there are examples
    found = [
        MeasuredEvaluator(bench, replace(target, batch=b)).evaluate(PLAIN, 0) for b in (1, many)
    ]
    assert timed == [(1, 2), (many, 2)]
    one, other = (evaluation.measurements[0].detail for evaluation in found)
    assert one["program"] != other["program"]
    assert (one["batch"], other["batch"]) == (1, many)


def known(bench: Workbench, target: Target) -> list[Measurement]:
    """As an earlier run's journal has them."""
    found = MeasuredEvaluator(bench, target).evaluate(PLAIN, 0).measurements
    return [Measurement.from_json(m.to_json()) for m in found]


def test_what_an_earlier_run_measured_is_not_measured_again(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    before = known(bench, target)
    timed.clear()
    evaluator = MeasuredEvaluator(bench, target, known=before)
    assert evaluator.evaluate({**PLAIN, "epochs": 9}, 0).measurements == tuple(before)
    assert timed == []


def test_what_several_trials_share_is_handed_back_once(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    """A journal holds the measurements of one program with each trial that has it."""
    before = known(bench, target)
    timed.clear()
    evaluator = MeasuredEvaluator(bench, target, known=before * 3)
    assert evaluator.evaluate(PLAIN, 0).measurements == tuple(before)
    assert timed == []


def test_measurements_that_do_not_fit_are_not_taken(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    before = known(bench, target)
    for unfit in (
        [replace(m, target="other") for m in before],
        [replace(m, detail={**m.detail, "batch": 2}) for m in before],
        [replace(m, detail={**m.detail, "program": "0" * 16}) for m in before],
        before[:1],  # latency without memory
    ):
        timed.clear()
        found = MeasuredEvaluator(bench, target, known=unfit).evaluate(PLAIN, 0).measurements
        assert [m.objective for m in found] == ["latency", "memory"]
        assert timed == [(1, 2)]


def test_every_form_of_program_runs_on_plausible_arrays(
    image_bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    evaluator = MeasuredEvaluator(image_bench, replace(target, batch=2))
    for form in ({}, {"quantize": True}, {"weight_bits": 4}, {"activation_bits": 4}):
        assert evaluator.evaluate(form, 0).failure is None
    assert timed == [(2, 2)] * 4


def test_what_follows_from_a_measured_latency(
    bench: Workbench, target: Target, timed: list[tuple[int, ...]]
) -> None:
    four = replace(target, batch=4, grid=500.0)
    found = MeasuredEvaluator(bench, four, MEASURED).evaluate(PLAIN, 0).measurements
    values = {m.objective: m for m in found}
    assert set(values) == set(MEASURED) - {"area"}
    assert values["latency_p99"].value == 20.0
    queued = values["latency_queued"]
    assert (queued.value, queued.detail["queue"], queued.unit) == (4.5, 10, "us")
    assert queued.detail["modelled"] > 0
    assert values["throughput"].value == pytest.approx(4 / 12.3456e-6, rel=1e-5)
    hourly = target.profile.price
    assert hourly is not None
    assert values["price"].value == pytest.approx(hourly / 3600 * 12.3456e-6 / 4 * 1e6, rel=1e-5)
    for name in ("latency", "latency_p99", "latency_queued", "throughput", "price"):
        assert values[name].provenance is Provenance.MEASURED
    energy, co2 = values["energy"], values["co2"]
    idle = 1e3 * target.profile.power.idle * 12.3456e-6 / 4
    assert idle < energy.value < 1e3 * target.profile.power.peak * 12.3456e-6 / 4
    assert co2.value == pytest.approx(energy.value * 1e3 / 3.6e6 * 500.0, rel=1e-4)
    assert energy.provenance is co2.provenance is Provenance.MODELLED


def test_other_load_is_reported(
    bench: Workbench,
    target: Target,
    timed: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    def stand_in(call: Callable[[], jax.Array]) -> Timing:
        return replace(time_calls(call), others=0.75)

    monkeypatch.setattr(measured, "time_calls", stand_in)
    latency = MeasuredEvaluator(bench, target).evaluate(PLAIN, 0).measurements[0]
    assert latency.detail["other_load"] == 0.75


def test_a_device_that_is_not_there_is_refused(bench: Workbench) -> None:
    away = Target.of("h100", measure=True)
    with pytest.raises(UsageError, match=r"'h100' is to be measured, and JAX sees no such device"):
        MeasuredEvaluator(bench, away)


def test_what_the_evaluator_says_of_itself(bench: Workbench, target: Target) -> None:
    evaluator = MeasuredEvaluator(bench, target)
    assert evaluator.provides == ("latency", "memory")

"""Latency by a clock that the test sets, and which programs are measured at all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from paretax.evaluators import Measurement, Provenance, Workbench, cpu
from paretax.evaluators.compilation import lower_for
from paretax.evaluators.cpu import CpuEvaluator, time_calls
from paretax.hardware_profiles import HardwareProfile, load_profile

# Timing -------------------------------------------------------------------------------------------


class Clock:
    """Stands still except while a call runs."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.now, self.calls, self._durations = 0.0, 0, durations

    def call(self) -> None:
        self.now += next(self._durations)
        self.calls += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], Clock]:
    """Puts a clock in the place of the system's; the calls of it last so long."""

    def make(durations: Iterator[float]) -> Clock:
        made = Clock(durations)
        stand_in = SimpleNamespace(perf_counter=lambda: made.now)
        monkeypatch.setattr(cpu, "time", stand_in)
        return made

    return make


@pytest.mark.parametrize(
    ("duration", "warm_up", "repeats"),
    [
        (1.0, 1, 30),  # a slow call: at least 30 repeats
        (2.0**-6, 4, 30),
        (2.0**-10, 52, 256),  # for a quarter of a second, after 0.05 s of warming up
        (2.0**-14, 820, 2000),  # a fast call: at most 2,000
    ],
)
def test_how_often_a_call_is_repeated(
    clock: Callable[..., Clock], duration: float, warm_up: int, repeats: int
) -> None:
    made = clock(repeat(duration))
    assert time_calls(made.call) == (duration, 0.0, repeats)
    assert made.calls == warm_up + repeats


def test_the_median_and_half_the_interquartile_range(clock: Callable[..., Clock]) -> None:
    """Of 1, 2, ..., 30 in any order; the warm-up, as slow as it may be, does not count."""
    taken = np.random.default_rng(0).permutation(np.arange(1.0, 31.0))
    made = clock(chain([1000.0], taken))
    assert time_calls(made.call) == (15.5, (22.75 - 8.25) / 2, 30)


def test_outliers_hardly_move_the_result(clock: Callable[..., Clock]) -> None:
    made = clock(chain([1.0], [1e9, 1e9, 1e9], repeat(1.0, 27)))
    assert time_calls(made.call) == (1.0, 0.0, 30)


@pytest.fixture
def collector() -> Iterator[None]:
    """Leaves the garbage collector as it was."""
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_meanwhile(clock: Callable[..., Clock], enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    made, seen = clock(repeat(1.0)), []

    def call() -> None:
        made.call()
        seen.append(gc.isenabled())

    time_calls(call)
    assert seen == [enabled] + [False] * 30  # the warm-up, then the repeats
    assert gc.isenabled() is enabled


@pytest.mark.usefixtures("collector")
def test_the_collector_is_on_again_after_a_failed_call(clock: Callable[..., Clock]) -> None:
    gc.enable()
    made = clock(iter([1.0, 1.0]))  # the third call fails
    with pytest.raises(StopIteration):
        time_calls(made.call)
    assert gc.isenabled()


# The evaluator ------------------------------------------------------------------------------------

PLAIN = {"width": 4, "depth": 1}


@pytest.fixture(scope="module")
def profile() -> HardwareProfile:
    """The local CPU's."""
    return load_profile("cpu")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the outputs of each program that is timed; each takes 12.3456 us."""
    shapes: list[tuple[int, ...]] = []

    def stand_in(call: Callable[[], jax.Array]) -> tuple[float, float, int]:
        shapes.append(call().shape)
        return 12.3456e-6, 0.2345e-6, 42

    monkeypatch.setattr(cpu, "time_calls", stand_in)
    return shapes


def test_what_is_said_of_a_measurement(
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    evaluation = CpuEvaluator(bench, profile, 3).evaluate(PLAIN, 0)
    assert timed == [(3, 2)]
    assert evaluation.failure is None
    assert evaluation.weights is None
    taken, memory = evaluation.measurements
    fingerprint = lower_for(profile, bench, PLAIN, 3).fingerprint
    assert (taken.objective, taken.value, taken.unit) == ("latency", 12.346, "us")
    assert (taken.spread, taken.target) == (0.234, "cpu")
    assert taken.provenance is Provenance.MEASURED
    assert taken.detail == {"batch": 3, "program": fingerprint, "repeats": 42, "threads": 1}
    assert (memory.objective, memory.unit, memory.target) == ("memory", "bytes", "cpu")
    assert memory.provenance is Provenance.COMPILED
    assert memory.spread is None
    assert memory.detail == {"batch": 3, "program": fingerprint}
    # at least the weights, the inputs and the outputs, all float32
    assert memory.value >= 4 * ((120 + 4 + 8 + 2) + 3 * 30 + 3 * 2)


def test_the_real_clock_gives_a_positive_time(bench: Workbench, profile: HardwareProfile) -> None:
    taken, _ = CpuEvaluator(bench, profile, 1).evaluate(PLAIN, 0).measurements
    assert taken.value > 0
    assert taken.spread is not None
    assert taken.spread >= 0
    assert 30 <= taken.detail["repeats"] <= 2000


def test_equal_programs_are_measured_once(
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    evaluator = CpuEvaluator(bench, profile, 1)
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
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    many = len(bench.data.train) + 1  # more than there are examples
    found = [CpuEvaluator(bench, profile, b).evaluate(PLAIN, 0) for b in (1, many)]
    assert timed == [(1, 2), (many, 2)]
    one, other = (evaluation.measurements[0].detail for evaluation in found)
    assert one["program"] != other["program"]
    assert (one["batch"], other["batch"]) == (1, many)


def known(bench: Workbench, profile: HardwareProfile) -> list[Measurement]:
    """As an earlier run's journal has them."""
    found = CpuEvaluator(bench, profile, 1).evaluate(PLAIN, 0).measurements
    return [Measurement.from_json(m.to_json()) for m in found]


def test_what_an_earlier_run_measured_is_not_measured_again(
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    before = known(bench, profile)
    timed.clear()
    evaluator = CpuEvaluator(bench, profile, 1, before)
    assert evaluator.evaluate({**PLAIN, "epochs": 9}, 0).measurements == tuple(before)
    assert timed == []


def test_what_several_trials_share_is_handed_back_once(
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    """A journal holds the measurements of one program with each trial that has it."""
    before = known(bench, profile)
    timed.clear()
    evaluator = CpuEvaluator(bench, profile, 1, before * 3)
    assert evaluator.evaluate(PLAIN, 0).measurements == tuple(before)
    assert timed == []


def test_measurements_that_do_not_fit_are_not_taken(
    bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    before = known(bench, profile)
    for unfit in (
        [replace(m, target="other") for m in before],
        [replace(m, detail={**m.detail, "batch": 2}) for m in before],
        [replace(m, detail={**m.detail, "program": "0" * 16}) for m in before],
        before[:1],  # latency without memory
    ):
        timed.clear()
        found = CpuEvaluator(bench, profile, 1, unfit).evaluate(PLAIN, 0).measurements
        assert [m.objective for m in found] == ["latency", "memory"]
        assert timed == [(1, 2)]


def test_every_form_of_program_runs_on_plausible_arrays(
    image_bench: Workbench, profile: HardwareProfile, timed: list[tuple[int, ...]]
) -> None:
    evaluator = CpuEvaluator(image_bench, profile, 2)
    for form in ({}, {"quantize": True}, {"weight_bits": 4}, {"activation_bits": 4}):
        assert evaluator.evaluate(form, 0).failure is None
    assert timed == [(2, 2)] * 4


def test_what_the_evaluator_says_of_itself(bench: Workbench, profile: HardwareProfile) -> None:
    evaluator = CpuEvaluator(bench, profile, 1)
    assert evaluator.provides == ("latency", "memory")

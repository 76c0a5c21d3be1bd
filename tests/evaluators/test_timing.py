"""The time of a call, by a clock that the test sets."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat
from types import SimpleNamespace

import numpy as np
import pytest

from paretax.evaluators import timing
from paretax.evaluators.timing import Timing, time_calls


class Clock:
    """Stands still except while a call runs."""

    def __init__(self, durations: Iterator[float]) -> None:
        self.now, self.calls, self._durations = 0.0, 0, durations
        self.idle = 0.0

    def call(self) -> None:
        self.now += next(self._durations)
        self.calls += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], Clock]:
    """Puts a clock in the place of the system's; the calls of it last so long."""

    def make(durations: Iterator[float]) -> Clock:
        made = Clock(durations)
        stand_in = SimpleNamespace(
            perf_counter=lambda: made.now, process_time=lambda: made.now - made.idle
        )
        monkeypatch.setattr(timing, "time", stand_in)
        return made

    return make


@pytest.mark.parametrize(
    ("duration", "warm_up", "repeats"),
    [
        (1.0, 1, 15),  # a slow call: at least 15 repeats
        (2.0**-6, 4, 16),
        (2.0**-10, 52, 128),  # calls that do not differ: no more than it takes to say so
        (2.0**-14, 820, 128),
    ],
)
def test_how_often_a_call_is_repeated(
    clock: Callable[..., Clock], duration: float, warm_up: int, repeats: int
) -> None:
    made = clock(repeat(duration))
    found = time_calls(made.call)
    assert (found.median, found.spread, found.repeats) == (duration, 0.0, repeats)
    assert made.calls == warm_up + repeats


@pytest.mark.parametrize(("duration", "repeats"), [(1.0, 5), (2.0**-10, 26), (2.0**-14, 128)])
def test_a_queue_of_calls_is_timed_as_one_of_them(
    clock: Callable[..., Clock], duration: float, repeats: int
) -> None:
    made = clock(repeat(duration))
    found = time_calls(made.call, queue=10)
    assert (found.median, found.spread, found.repeats) == (duration, 0.0, repeats)
    assert made.calls >= 10 * repeats


@pytest.mark.parametrize(("duration", "repeats"), [(2.0**-10, 128), (2.0**-15, 2000)])
def test_calls_that_differ_are_repeated_for_a_while(
    clock: Callable[..., Clock], duration: float, repeats: int
) -> None:
    """Every other call takes three times as long, so the median is not known to 1%."""
    made = clock(cycle([duration, 3 * duration]))
    assert time_calls(made.call).repeats == repeats


def test_the_median_and_half_the_interquartile_range(clock: Callable[..., Clock]) -> None:
    """Of 1, 2, ..., 15 in any order; the warm-up, as slow as it may be, does not count."""
    taken = np.random.default_rng(0).permutation(np.arange(1.0, 16.0))
    made = clock(chain([1000.0], taken))
    found = time_calls(made.call)
    assert (found.median, found.spread, found.repeats) == (8.0, (11.5 - 4.5) / 2, 15)
    assert found.p99 == pytest.approx(14.86)
    assert found.low == 4.0  # the 4th and the 13th of 15: 7.5 -+ 1.96 sqrt(15) / 2
    assert found.high == 13.0


def test_outliers_hardly_move_the_result(clock: Callable[..., Clock]) -> None:
    made = clock(chain([1.0], [1e9, 1e9, 1e9], repeat(1.0, 12)))
    found = time_calls(made.call)
    assert (found.median, found.spread, found.repeats) == (1.0, 0.0, 15)
    assert found.p99 == 1e9


def busy(monkeypatch: pytest.MonkeyPatch, *seconds: tuple[float, float] | None) -> None:
    """What the system says before and after the repeats: core-seconds of all, and of this one."""
    said = iter(seconds)
    monkeypatch.setattr(timing, "_busy_seconds", lambda: next(said))


def test_other_load_is_noticed(
    clock: Callable[..., Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    busy(monkeypatch, (100.0, 10.0), (130.02, 25.0))  # 30 s in all, 15 of them its own, in 15 s
    found = time_calls(clock(repeat(1.0)).call)
    assert found.others == 1.0
    assert found.disturbed


@pytest.mark.parametrize("after", [(115.02, 25.0), (117.5, 25.0), None])
def test_a_quiet_machine_is_not_disturbed(
    clock: Callable[..., Clock],
    monkeypatch: pytest.MonkeyPatch,
    after: tuple[float, float] | None,
) -> None:
    busy(monkeypatch, (100.0, 10.0), after)
    assert not time_calls(clock(repeat(1.0)).call).disturbed


def test_the_interval_is_that_of_the_median() -> None:
    """Of 1,000 draws of a known distribution it holds the true median in about 95 of 100 cases."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = timing._interval(list(rng.exponential(1.0, 200)))
        hits += low <= np.log(2) <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_real_call_is_timed() -> None:
    found = time_calls(lambda: np.zeros(10))
    assert isinstance(found, Timing)
    assert 0 < found.low <= found.median <= found.high
    assert found.median <= found.p99


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
    assert seen == [enabled] + [False] * 15  # the warm-up, then the repeats
    assert gc.isenabled() is enabled


@pytest.mark.usefixtures("collector")
def test_the_collector_is_on_again_after_a_failed_call(clock: Callable[..., Clock]) -> None:
    gc.enable()
    made = clock(iter([1.0, 1.0]))  # the third call fails
    with pytest.raises(StopIteration):
        time_calls(made.call)
    assert gc.isenabled()

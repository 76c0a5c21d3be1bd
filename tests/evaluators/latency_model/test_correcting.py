"""A few measurements correct a profile, and the interval is from those left out."""

from __future__ import annotations

import numpy as np
import pytest

from paretax.evaluators.latency_model.correcting import Point, corrected
from paretax.evaluators.latency_model.model import UNCALIBRATED

REST = np.geomspace(5e-6, 5e-3, 10)


def points(overhead: float, slowdown: float, noise: float = 0.0) -> list[Point]:
    rng = np.random.default_rng(0)
    return [
        Point(
            rest=float(r), measured=float((overhead + slowdown * r) * np.exp(noise * rng.normal()))
        )
        for r in REST
    ]


@pytest.mark.parametrize(("overhead", "slowdown"), [(80e-6, 2.5), (20e-6, 0.6), (50e-6, 1.0)])
def test_overhead_and_slowdown_are_found(overhead: float, slowdown: float) -> None:
    found = corrected(points(overhead, slowdown, 0.03), call_overhead=50e-6)
    assert found.call_overhead == pytest.approx(overhead, rel=0.1)
    assert found.slowdown == pytest.approx(slowdown, rel=0.1)
    assert found.median_error < 0.06
    assert found.seconds(1e-3) == pytest.approx(overhead + slowdown * 1e-3, rel=0.1)


def test_an_interval_is_earned() -> None:
    """By measurements that fit, and by many of them."""
    calm = corrected(points(80e-6, 2.0, 0.02), 50e-6)
    rough = corrected(points(80e-6, 2.0, 0.3), 50e-6)
    few = corrected(points(80e-6, 2.0, 0.02)[::4], 50e-6)
    assert calm.error < rough.error
    assert calm.error < few.error < UNCALIBRATED
    assert rough.error > 0.2


def test_measurements_that_contradict_each_other_say_little() -> None:
    same = [Point(rest=1e-4, measured=m) for m in (1e-4, 1e-3, 1e-2)]
    assert corrected(same, 50e-6).error > 1.0

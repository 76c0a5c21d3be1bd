"""A device's profile, corrected by a few measurements of programs on such a device.

Two numbers are fitted: the overhead of a call, and how much longer all else takes. Both are held
near the profile's own as far as measurements are few; the interval that the corrected profile
states is from measurements that were left out of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretax.evaluators.latency_model.model import UNCALIBRATED

LEAST = 3
"""Measurements, below which nothing can be said of those left out."""

_NOISE = 0.1
"""Standard deviation of the logarithm of a measured time about a model that fits: an assumption."""

_OVERHEAD = 0.7
"""Likewise of a device's overhead of a call about the one that its profile states."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured program.

    Args:
        rest: modelled seconds of all but the call's own overhead.
        measured: seconds of a call that one waits for.
    """

    rest: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """What measurements say of a device.

    Args:
        call_overhead: of a call, in seconds.
        slowdown: of all the rest; a factor.
        error: standard deviation of the logarithm of measured / modelled, of measurements that were
            left out, and of one more that is as far off as those of devices that nobody measured.
        median_error: median of |modelled / measured - 1|, of measurements that were left out.
    """

    call_overhead: float
    slowdown: float
    error: float
    median_error: float

    def seconds(self, rest: float) -> float:
        """Of a call."""
        return self.call_overhead + self.slowdown * rest


def corrected(points: Sequence[Point], call_overhead: float) -> Corrected:
    """Fit a device's overhead and slowdown.

    Args:
        points: at least `LEAST`.
        call_overhead: that the profile states, in seconds.
    """
    left_out = np.array(
        [
            _modelled(_fit([*points[:i], *points[i + 1 :]], call_overhead), [point])[0]
            for i, point in enumerate(points)
        ]
    )
    off = left_out - np.log([p.measured for p in points])
    overhead, slowdown = np.exp(_fit(points, call_overhead))
    return Corrected(
        call_overhead=float(overhead),
        slowdown=float(slowdown),
        error=float(np.sqrt((np.sum(off**2) + UNCALIBRATED**2) / (len(points) + 1))),
        median_error=float(np.median(np.abs(np.exp(off) - 1))),
    )


def _modelled(found: np.ndarray, points: Sequence[Point]) -> np.ndarray:
    """Logarithms of the modelled seconds."""
    overhead, slowdown = np.exp(found)
    modelled: np.ndarray = np.log(overhead + slowdown * np.array([p.rest for p in points]))
    return modelled


def _fit(points: Sequence[Point], call_overhead: float) -> np.ndarray:
    """Logarithms of overhead and slowdown: the most likely ones, given what is known before."""
    from scipy.optimize import least_squares

    measured = np.log([p.measured for p in points])
    before, width = np.log([call_overhead, 1.0]), np.array([_OVERHEAD, UNCALIBRATED])

    def off(found: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [(_modelled(found, points) - measured) / _NOISE, (found - before) / width]
        )

    fitted: np.ndarray = least_squares(off, before).x
    return fitted

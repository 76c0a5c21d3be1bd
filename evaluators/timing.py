"""How long a call takes: repeated until its median is known, with other load detected."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

_WARM_UP = 0.05  # seconds
_SECONDS = 0.25  # of measuring, at most
_REPEATS = (15, 2000)  # at least and at most
_QUEUES = 5  # repeats at least, where each is a queue of calls
_PRECISION = 0.01  # half-width of the median's interval, as a share of the median
_CHECK = 32  # repeats between two looks at the interval

CONFIDENCE = 0.95
"""Of the interval of a median."""

BUSY = 0.25
"""Cores that other processes may keep busy before a measurement counts as disturbed."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one call, in seconds.

    Args:
        median: of the repeats.
        low: lower end of the median's interval at `CONFIDENCE`, from order statistics.
        high: upper end of it.
        spread: half the interquartile range.
        p99: 99th percentile.
        repeats: how many there were.
        others: cores that other processes kept busy meanwhile; None: the system does not say.
    """

    median: float
    low: float
    high: float
    spread: float
    p99: float
    repeats: int
    others: float | None

    @property
    def disturbed(self) -> bool:
        """Whether other processes kept more than `BUSY` cores busy."""
        return self.others is not None and self.others > BUSY


def time_calls(call: Callable[[], Any], seconds: float = _SECONDS, queue: int = 1) -> Timing:
    """Time a call, after a warm-up, until its median is known to 1%.

    At least 15 (of queues: 5) and at most 2,000 repeats are taken; each waits for its result.

    Args:
        call: is repeated.
        seconds: after which it ends, known or not.
        queue: calls in a repeat, of which only the last one is waited for; the times are those of
            one of them.
    """
    least = _REPEATS[0] if queue == 1 else _QUEUES
    end = time.perf_counter() + _WARM_UP
    jax.block_until_ready(call())
    while time.perf_counter() < end:
        jax.block_until_ready(call())
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    before = _busy_seconds()
    began = time.perf_counter()
    try:
        end = began + seconds
        while len(taken) < least or (
            len(taken) < _REPEATS[1] and time.perf_counter() < end and not _known(taken)
        ):
            start = time.perf_counter()
            for _ in range(queue - 1):
                call()
            jax.block_until_ready(call())
            taken.append((time.perf_counter() - start) / queue)
        others = _others(before, time.perf_counter() - began)
    finally:
        if collecting:
            gc.enable()
    quarter, median, three, last = np.percentile(taken, [25, 50, 75, 99])
    low, high = _interval(taken)
    return Timing(
        median=float(median),
        low=low,
        high=high,
        spread=float(three - quarter) / 2,
        p99=float(last),
        repeats=len(taken),
        others=others,
    )


def _known(taken: list[float]) -> bool:
    """Whether the median is known well enough; looked at now and then, as it takes sorting."""
    if len(taken) < 4 * _CHECK or len(taken) % _CHECK:
        return False
    low, high = _interval(taken)
    return (high - low) / 2 <= _PRECISION * float(np.median(taken))


def _interval(taken: list[float]) -> tuple[float, float]:
    """Of the median at `CONFIDENCE`, by the binomial distribution of ranks.

    David and Nagaraja, Order Statistics, 2003, section 7.1, with the normal approximation.
    """
    count = len(taken)
    reach = 1.96 * math.sqrt(count) / 2
    first = max(0, math.floor(count / 2 - reach))
    last = min(count - 1, math.ceil(count / 2 + reach))
    ranked = np.partition(np.asarray(taken), [first, last])
    return float(ranked[first]), float(ranked[last])


def _busy_seconds() -> tuple[float, float] | None:
    """Core-seconds that the machine and this process have been busy; None: not on this system."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    numbers = [int(field) for field in fields]
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, interrupts, soft, stolen = numbers
    return (user + nice + system + interrupts + soft + stolen) / tick, time.process_time()


def _others(before: tuple[float, float] | None, elapsed: float) -> float | None:
    """Cores that other processes kept busy since, on average."""
    now = _busy_seconds()
    if before is None or now is None or elapsed <= 0:
        return None
    whole, own = now[0] - before[0], now[1] - before[1]
    # The system counts in ticks of 10 ms, of which each end of the interval may miss one a core.
    counted = max(0.0, whole - own - 0.01 * (os.cpu_count() or 1))
    return round(counted / elapsed, 2)

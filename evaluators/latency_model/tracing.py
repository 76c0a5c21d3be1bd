"""How long each kernel of a program takes on this machine's CPU, by XLA's own trace."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np


def kernel_seconds(call: Callable[[], Any], names: Collection[str], calls: int) -> dict[str, float]:
    """Run a program under JAX's profiler.

    Args:
        call: runs the program once.
        names: of its kernels, as its optimised HLO names them.
        calls: how often it is run; the first is not counted.

    Returns:
        Kernel by kernel the median seconds of one run, for those that the trace shows.
    """
    wanted = set(names)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 2
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(calls):
                jax.block_until_ready(call())
        file = next(Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_file(str(file))
        found: dict[str, list[float]] = defaultdict(list)
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in wanted:
                        found[event.name].append(event.duration_ns * 1e-9)
    return {name: float(np.median(times)) for name, times in found.items()}

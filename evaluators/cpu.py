"""Latency and peak memory on this machine's CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compilation import CompiledProgram, LoweredProgram, lower_for
from paretax.evaluators.measurement import Evaluation, Measurement, Provenance
from paretax.evaluators.workbench import Workbench
from paretax.hardware_profiles import HardwareProfile

_WARM_UP = 0.05  # seconds
_SECONDS = 0.25  # of measuring, at most
_REPEATS = (30, 2000)  # at least and at most


def time_calls(call: Callable[[], Any]) -> tuple[float, float, int]:
    """Seconds of one call, from repeats after a warm-up.

    Returns:
        The median, half the interquartile range, and the number of repeats.
    """
    end = time.perf_counter() + _WARM_UP
    jax.block_until_ready(call())
    while time.perf_counter() < end:
        jax.block_until_ready(call())
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + _SECONDS
        while len(taken) < _REPEATS[0] or (len(taken) < _REPEATS[1] and time.perf_counter() < end):
            start = time.perf_counter()
            jax.block_until_ready(call())
            taken.append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    low, median, high = np.percentile(taken, [25, 50, 75])
    return float(median), float(high - low) / 2, len(taken)


class CpuEvaluator:
    """Compiles a candidate's deployed program for the local CPU, and measures it.

    Nothing else may run on the machine meanwhile; the engine sees to it.

    Equal programs are measured once: candidates that differ in bit-width, sparsity or training
    alone share one latency.

    Args:
        bench: the task.
        profile: the local CPU's.
        batch: examples in a call.
        known: measurements of earlier runs, which stand for programs of the same fingerprint.
    """

    provides = ("latency", "memory")

    def __init__(
        self,
        bench: Workbench,
        profile: HardwareProfile,
        batch: int,
        known: Iterable[Measurement] = (),
    ) -> None:
        self._bench, self._profile, self._batch = bench, profile, batch
        self._lowered: LeastRecentlyUsed[LoweredProgram] = LeastRecentlyUsed(64)
        self._known: dict[str, dict[str, Measurement]] = {}
        for m in known:
            if m.target == profile.name and m.detail.get("batch") == batch:
                self._known.setdefault(str(m.detail["program"]), {}).setdefault(m.objective, m)

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Latency in microseconds (measured) and peak memory in bytes (compiled)."""
        model = self._bench.deployed(candidate)
        lowered = self._lowered.get(
            (model.key, model.recipe.form),
            lambda: lower_for(self._profile, self._bench, candidate, self._batch),
        )
        found = self._known.get(lowered.fingerprint, {})
        if set(found) != set(self.provides):
            found = {m.objective: m for m in self._measure(lowered.compile())}
            self._known[lowered.fingerprint] = found
        return Evaluation(measurements=tuple(found.values()))

    def _measure(self, program: CompiledProgram) -> list[Measurement]:
        arrays = _plausible(program.arrays)
        inputs = jnp.asarray(np.resize(*self._example()))
        start = time.perf_counter()
        median, spread, repeats = time_calls(lambda: program.executable(arrays, inputs))
        about = {"batch": self._batch, "program": program.fingerprint}
        return [
            Measurement(
                objective="latency",
                value=round(median * 1e6, 3),
                unit="us",
                provenance=Provenance.MEASURED,
                target=self._profile.name,
                spread=round(spread * 1e6, 3),
                seconds=time.perf_counter() - start,
                detail={**about, "repeats": repeats, "threads": 1},
            ),
            Measurement(
                objective="memory",
                value=program.peak_memory,
                unit="bytes",
                provenance=Provenance.COMPILED,
                target=self._profile.name,
                seconds=program.seconds,
                detail=about,
            ),
        ]

    def _example(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The first training examples, and the shape of a batch of them."""
        inputs = self._bench.data.train.inputs[: self._batch]
        return inputs, (self._batch, *inputs.shape[1:])


def _plausible(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Arrays like a trained model's: dense codes, weights of unit scale, positive steps."""
    rng = np.random.default_rng(0)
    made: dict[str, jax.Array] = {}
    for name, shape in shapes.items():
        if jnp.issubdtype(shape.dtype, jnp.integer):
            values = rng.integers(-127, 128, size=shape.shape)
        elif name.endswith(".input"):
            values = np.broadcast_to(np.array([0.05, 127.0]), shape.shape)
        elif name.endswith(".scale"):
            values = np.full(shape.shape, 0.01)
        else:
            values = np.abs(rng.normal(0.0, 0.1, size=shape.shape))
        made[name] = jnp.asarray(values, shape.dtype)
    return made

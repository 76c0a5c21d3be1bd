"""The costs of a candidate on a device that is there: its deployed program, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compilation import LoadedProgram, LoweredProgram, lower_for
from paretax.evaluators.measurement import Evaluation, Measurement, Provenance
from paretax.evaluators.objectives import unit_of
from paretax.evaluators.target import ALWAYS, MODELLED, PLATFORMS, Target
from paretax.evaluators.targets import derived, memory_of
from paretax.evaluators.timing import CONFIDENCE, Timing, time_calls
from paretax.evaluators.workbench import Workbench
from paretax.hardware_profiles import HardwareProfile

MEASURED = (*MODELLED, "latency_p99")
"""What can be had of a device that is there."""

QUEUE = 10
"""Calls in a queue, of which only the last is waited for."""


def device_of(profile: HardwareProfile) -> jax.Device:
    """The device of this machine that a profile describes.

    Raises:
        UsageError: there is none.
    """
    try:
        return jax.devices(PLATFORMS[profile.platform])[0]
    except (KeyError, RuntimeError):  # no platform of JAX, or none of its devices
        raise UsageError(
            f"target {profile.name!r} is to be measured, and JAX sees no such device here: run "
            "where it is, name the `accelerator_type` of a Ray worker that has it, or leave out "
            "`measure`"
        ) from None


class MeasuredEvaluator:
    """Compiles a candidate's deployed program for a device of this machine, and measures it.

    Nothing else may run on the machine meanwhile; the engine sees to it.

    Equal programs are measured once: candidates that differ in bit-width, sparsity or training
    alone share one latency.

    Args:
        bench: the task.
        target: the device.
        wanted: names of objectives; `ALWAYS` come too.
        known: measurements of earlier runs, which stand for programs of the same fingerprint.

    Raises:
        UsageError: the device is not there.
    """

    def __init__(
        self,
        bench: Workbench,
        target: Target,
        wanted: Collection[str] = ALWAYS,
        known: Iterable[Measurement] = (),
    ) -> None:
        self._bench, self._target = bench, target
        self._device = device_of(target.profile)
        wanted = {*wanted, *ALWAYS}
        self.provides = tuple(name for name in target.provides if name in wanted)
        self._lowered: LeastRecentlyUsed[LoweredProgram] = LeastRecentlyUsed(64)
        self._known: dict[str, dict[str, Measurement]] = {}
        for m in known:
            if m.target == target.profile.name and m.detail.get("batch") == target.batch:
                self._known.setdefault(str(m.detail["program"]), {}).setdefault(m.objective, m)

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Latency and what follows from it (measured), and peak memory (compiled)."""
        model = self._bench.deployed(candidate)
        lowered = self._lowered.get(
            (model.key, model.recipe.form),
            lambda: lower_for(self._target.profile, self._bench, candidate, self._target.batch),
        )
        found = self._known.get(lowered.fingerprint, {})
        if not set(self.provides) <= set(found):
            measured = self._measure(lowered.compile())
            found = {m.objective: m for m in measured if m.objective in self.provides}
            self._known[lowered.fingerprint] = found
        return Evaluation(measurements=tuple(found[name] for name in self.provides))

    def _measure(self, program: LoadedProgram) -> list[Measurement]:
        start = time.perf_counter()
        arrays, inputs = jax.device_put(
            (_plausible(program.arrays), jnp.asarray(np.resize(*self._example()))), self._device
        )
        taken = time_calls(lambda: program.executable(arrays, inputs))
        about = program.described
        found = self._latencies(program, taken, time.perf_counter() - start)
        if "latency_queued" in self.provides:
            queued = time_calls(lambda: program.executable(arrays, inputs), queue=QUEUE)
            found.append(self._queued(program, queued))
        return [
            *found,
            memory_of(self._target, about),
            *derived(self._target, about, taken.median, Provenance.MEASURED),
        ]

    def _latencies(
        self, program: LoadedProgram, taken: Timing, seconds: float
    ) -> list[Measurement]:
        about, repeats = self._about(program), _repeats(taken)
        modelled = self._target.latency_model.predict(program.described)
        name = self._target.profile.name
        latency = Measurement(
            objective="latency",
            value=_us(taken.median),
            unit=unit_of("latency"),
            provenance=Provenance.MEASURED,
            target=name,
            spread=_us(taken.spread),
            seconds=seconds,
            detail={
                **about,
                **repeats,
                "interval": [_us(taken.low), _us(taken.high)],
                "confidence": CONFIDENCE,
                "modelled": _us(modelled.seconds),
                "modelled_interval": [_us(modelled.low), _us(modelled.high)],
            },
        )
        p99 = Measurement(
            objective="latency_p99",
            value=_us(taken.p99),
            unit=unit_of("latency_p99"),
            provenance=Provenance.MEASURED,
            target=name,
            detail={**about, **repeats},
        )
        return [latency, p99]

    def _queued(self, program: LoadedProgram, taken: Timing) -> Measurement:
        modelled = self._target.latency_model.predict(program.described)
        return Measurement(
            objective="latency_queued",
            value=_us(taken.median),
            unit=unit_of("latency_queued"),
            provenance=Provenance.MEASURED,
            target=self._target.profile.name,
            spread=_us(taken.spread),
            detail={
                **self._about(program),
                **_repeats(taken),
                "queue": QUEUE,
                "interval": [_us(taken.low), _us(taken.high)],
                "confidence": CONFIDENCE,
                "modelled": _us(modelled.queued),
            },
        )

    def _about(self, program: LoadedProgram) -> dict[str, Any]:
        return {
            "batch": self._target.batch,
            "program": program.fingerprint,
            "device": self._device.device_kind,
        }

    def _example(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The first training examples, and the shape of a batch of them."""
        batch = self._target.batch
        inputs = self._bench.data.train.inputs[:batch]
        return inputs, (batch, *inputs.shape[1:])


def _repeats(taken: Timing) -> dict[str, Any]:
    found: dict[str, Any] = {"repeats": taken.repeats, "threads": 1}
    if taken.disturbed:
        found["other_load"] = taken.others
    return found


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _plausible(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Arrays like a trained model's: dense codes, weights of unit scale, positive steps."""
    rng = np.random.default_rng(0)
    made: dict[str, jax.Array] = {}
    for name, shape in shapes.items():
        if shape.dtype == jnp.int8:
            values = rng.integers(-127, 128, size=shape.shape)
        elif not jnp.issubdtype(shape.dtype, jnp.floating):  # a table of places, a permutation
            values = np.arange(math.prod(shape.shape)).reshape(shape.shape).astype(shape.dtype)
        elif name.endswith(".input"):
            values = np.broadcast_to(np.array([0.05, 127.0]), shape.shape)
        elif name.endswith(".scale"):
            values = np.full(shape.shape, 0.01)
        else:
            values = np.abs(rng.normal(0.0, 0.1, size=shape.shape))
        made[name] = jnp.asarray(values, shape.dtype)
    return made

"""The costs of a candidate on devices that are elsewhere: compiled for them, and modelled."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.codesign import Design, design_of, designed
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.compilers import (
    CompiledProgram,
    CompileError,
    Compiler,
    PortableProgram,
)
from paretax.evaluators.costs import (
    dollars_a_million,
    grams_a_million,
    joules,
    square_millimetres,
)
from paretax.evaluators.latency_model.model import Latency, LatencyModel
from paretax.evaluators.latency_model.running import running
from paretax.evaluators.measurement import Evaluation, Failure, Measurement, Provenance, Reason
from paretax.evaluators.objectives import unit_of
from paretax.evaluators.parts import PartsPricer, Price
from paretax.evaluators.systolic import ARRAY_ASSUMES
from paretax.evaluators.target import ALWAYS, MODELLED, Target
from paretax.evaluators.workbench import Workbench
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.profile import Systolic

COST_MODEL = "3"
"""Of the way in which costs are modelled; what was modelled in another does not compare."""


class TargetsEvaluator:
    """Compiles a candidate's deployed program for devices that are elsewhere, and models its costs.

    Args:
        bench: the task.
        targets: the devices.
        wanted: names of objectives; `ALWAYS` come too.
        compiler: what compiles and keeps programs; None: a new one.
    """

    def __init__(
        self,
        bench: Workbench,
        targets: Sequence[Target],
        wanted: Collection[str] = MODELLED,
        compiler: Compiler | None = None,
    ) -> None:
        self._bench, self._targets, self._wanted = bench, list(targets), {*wanted, *ALWAYS}
        self._compiler = compiler or Compiler()
        self._programs: LeastRecentlyUsed[PortableProgram] = LeastRecentlyUsed(256)
        self._pricers = [
            PartsPricer(bench, [t for t in targets if t.parts and t.batch == batch], self._compiler)
            for batch in dict.fromkeys(t.batch for t in targets if t.parts)
        ]
        self._scored: LeastRecentlyUsed[tuple[Measurement, ...]] = LeastRecentlyUsed(4096)

    @property
    def provides(self) -> tuple[str, ...]:
        """The objectives that it scores."""
        return tuple(name for name in MODELLED if name in self._wanted)

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Costs on all devices, as far as their compilers take the program.

        Memory is compiled, the others modelled from what was compiled. Where a compiler refuses
        the program, or the device's memory is too small, the rest is scored all the same. Where it
        refuses a part alone, the whole program is compiled.
        """
        found: list[Measurement] = []
        failure: Failure | None = None
        priced: dict[str, tuple[CompiledProgram, Price]] = {}
        for pricer in self._pricers:
            try:
                priced |= pricer.score(candidate)
            except CompileError:
                continue  # what a compiler refuses alone, it may take within the whole
        whole = [t for t in self._targets if t.profile.name not in priced]
        for target, made in self._compiled(candidate, whole):
            if isinstance(made, CompileError):
                message = f"{target.profile.name}: {made}"
                failure = failure or Failure(reason=Reason.COMPILE_ERROR, message=message)
                continue
            found += self._costs(target, made, design_of(target.profile, candidate))
            failure = failure or _too_large(made, target.profile)
        for target in self._targets:
            if target.profile.name in priced:
                assembled, price = priced[target.profile.name]
                found += self._of_parts(target, assembled, price)
                failure = failure or _too_large(assembled, target.profile)
        return Evaluation(measurements=tuple(found), failure=failure)

    def whole(self, candidate: Mapping[str, Any]) -> tuple[Measurement, ...]:
        """The latencies of whole programs, on the targets that are priced from parts."""
        return tuple(
            m
            for target, made in self._compiled(candidate, [t for t in self._targets if t.parts])
            if isinstance(made, CompiledProgram)
            for m in self._costs(target, made, ())
            if m.objective == "latency"
        )

    def _compiled(
        self, candidate: Mapping[str, Any], targets: Sequence[Target]
    ) -> Iterator[tuple[Target, CompiledProgram | CompileError]]:
        for batch in dict.fromkeys(t.batch for t in targets):
            group = [t for t in targets if t.batch == batch]
            program = self.program(candidate, batch)
            made = self._compiler.compile_all([t.profile for t in group], program)
            yield from zip(group, made, strict=True)

    def _of_parts(
        self, target: Target, program: CompiledProgram, price: Price
    ) -> list[Measurement]:
        latency = target.latency_model.predict(program)
        factor = price.seconds / latency.seconds
        scaled = replace(
            latency,
            seconds=price.seconds,
            queued=latency.queued * factor,
            low=latency.low * factor,
            high=latency.high * factor,
        )
        about = {"parts": price.parts, "checked": price.checked}
        return [
            replace(m, provenance=Provenance.MODELLED, detail={**m.detail, **about})
            for m in modelled(target, program, scaled, 0.0)
            if m.objective in self._wanted
        ]

    def program(self, candidate: Mapping[str, Any], batch: int) -> PortableProgram:
        """The deployed program of a candidate, as it is compiled."""
        model = self._bench.deployed(candidate)

        def trace() -> PortableProgram:
            shapes = self._bench.arrays(model), self._bench.batch_shape(batch)
            return PortableProgram(deployed_program(model), shapes)

        return self._programs.get((model.key, model.recipe.form, batch), trace)

    def _costs(
        self, target: Target, program: CompiledProgram, design: Design
    ) -> tuple[Measurement, ...]:
        key = (target.profile.name, target.batch, program.fingerprint, design)

        def make() -> tuple[Measurement, ...]:
            start = time.perf_counter()
            own = target
            if design:
                profile = designed(target.profile, design)
                own = replace(target, profile=profile, latency_model=LatencyModel(profile))
            latency = own.latency_model.predict(program)
            return tuple(
                m
                for m in modelled(own, program, latency, time.perf_counter() - start)
                if m.objective in self._wanted
            )

        return self._scored.get(key, make)


def modelled(
    target: Target, program: CompiledProgram, latency: Latency, seconds: float
) -> list[Measurement]:
    """All that follows from a compiled program and its modelled latency.

    Args:
        target: it was compiled for.
        program: what its compiler made.
        latency: of a call.
        seconds: that modelling took.
    """
    about = {"batch": target.batch, "program": program.fingerprint}
    interval = [round(latency.low * 1e6, 3), round(latency.high * 1e6, 3)]
    limits = {name: round(share, 3) for name, share in latency.limits.items()}
    assumed = {"assumes": ARRAY_ASSUMES} if isinstance(target.profile.compiler, Systolic) else {}
    made = [
        Measurement(
            objective="latency",
            value=round(latency.seconds * 1e6, 3),
            unit=unit_of("latency"),
            provenance=Provenance.MODELLED,
            target=target.profile.name,
            spread=round((latency.high - latency.low) / 2 * 1e6, 3),
            seconds=seconds,
            detail={
                **about,
                "interval": interval,
                "confidence": 0.8,
                "queued": round(latency.queued * 1e6, 3),
                "limited_by": limits,
                "kernels": latency.kernels,
                "busiest": latency.busiest,
                "compiler": program.compiler,
                "standing": target.profile.standing,
                **assumed,
            },
        ),
        memory_of(target, program),
        Measurement(
            objective="latency_queued",
            value=round(latency.queued * 1e6, 3),
            unit=unit_of("latency_queued"),
            provenance=Provenance.MODELLED,
            target=target.profile.name,
            detail=about,
        ),
    ]
    return made + derived(target, program, latency.seconds, Provenance.MODELLED)


def memory_of(target: Target, program: CompiledProgram) -> Measurement:
    """Peak memory of a call, in bytes."""
    return Measurement(
        objective="memory",
        value=program.peak_memory,
        unit=unit_of("memory"),
        provenance=Provenance.COMPILED,
        target=target.profile.name,
        seconds=program.seconds,
        detail={"batch": target.batch, "program": program.fingerprint},
    )


def derived(
    target: Target, program: CompiledProgram, seconds: float, provenance: Provenance
) -> list[Measurement]:
    """What follows from a latency: throughput, energy, price, CO2.

    Args:
        target: the device.
        program: compiled for it.
        seconds: of a call.
        provenance: of these seconds.
    """
    profile, batch = target.profile, target.batch
    about = {"batch": batch, "program": program.fingerprint}
    energy = joules(running(program, profile), seconds, profile)
    values: dict[str, tuple[float | None, Provenance]] = {
        "throughput": (batch / seconds, provenance),
        "energy": (energy / batch * 1e3, Provenance.MODELLED),
        "price": (dollars_a_million(seconds, batch, profile), provenance),
        "co2": (grams_a_million(energy, batch, target.grid), Provenance.MODELLED),
        "area": (square_millimetres(profile), Provenance.MODELLED),
    }
    details: dict[str, dict[str, Any]] = {
        "co2": {"grid": target.grid},
        "price": {"usd_an_hour": _hourly(profile)},
    }
    return [
        Measurement(
            objective=name,
            value=float(f"{value:.6g}"),
            unit=unit_of(name),
            provenance=how,
            target=profile.name,
            detail={**about, **details.get(name, {})},
        )
        for name, (value, how) in values.items()
        if value is not None
    ]


def _hourly(profile: HardwareProfile) -> float | None:
    return None if profile.price is None else round(profile.price, 4)


def _too_large(program: CompiledProgram, profile: HardwareProfile) -> Failure | None:
    """Where a program does not fit the device."""
    room = profile.main_memory.size
    if program.peak_memory <= room:
        return None
    return Failure(
        reason=Reason.LIMIT_EXCEEDED,
        message=(
            f"memory@{profile.name} must be at most the device's {room:.0f} bytes, "
            f"got {program.peak_memory} bytes"
        ),
        violation=program.peak_memory / room - 1,
    )

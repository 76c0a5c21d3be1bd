"""Learning a device's deviations from its data sheet, by measuring small programs on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.compilers.xla import describe
from paretax.evaluators.latency_model.corrections import CALL, Corrections, Sample, fit
from paretax.evaluators.latency_model.features import call_features, features
from paretax.evaluators.latency_model.model import LatencyModel, footprint_of, group_of
from paretax.evaluators.latency_model.roofline import bound
from paretax.evaluators.latency_model.tracing import kernel_seconds
from paretax.evaluators.latency_model.workload import Sampled, arguments
from paretax.evaluators.timing import time_calls
from paretax.hardware_profiles import HardwareProfile

PROGRAMS = 1500
"""That are measured; about a quarter of an hour on a quiet machine."""

_SECONDS = 0.1  # of measuring a program, at most
_TRACED_SECONDS = 0.1  # of calls under the profiler
_TRACED_CALLS = (10, 60)  # at least and at most
_AGREE = 0.15  # share of a program's time by which its kernels may miss it
_SHORTEST_CALL = 1e-7  # seconds
_LEAST_CALL = 0.2  # of the overhead of calls, at least, that a call takes
_HELD_OUT = 5  # one of so many programs checks the fit


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A program that was measured.

    Args:
        program: as it was compiled.
        seconds: of a call, the median.
        kernels: seconds of each kernel, by name, as far as the profiler shows it.
        disturbed: whether other processes kept the machine busy.
    """

    program: CompiledProgram
    seconds: float
    kernels: dict[str, float]
    disturbed: bool = False

    @property
    def busy(self) -> float:
        """Seconds of all kernels."""
        return sum(k.count * self.kernels.get(k.name, 0.0) for k in self.program.kernels)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What calibration gives.

    Args:
        profile: with the overheads of calling.
        corrections: fitted on all programs.
        error: standard deviation of the logarithm of measured / modelled time, of programs that a
            first fit had not seen.
        median_error: median of |modelled / measured - 1| of these programs.
        programs: that were used.
        dropped: that were not: disturbed, or their kernels do not add up to their time.
    """

    profile: HardwareProfile
    corrections: Corrections
    error: float
    median_error: float
    programs: int
    dropped: int


def probe(sampled: Sampled, seed: int) -> Probe:
    """Compile a program for this machine, and measure it and its kernels.

    Args:
        sampled: the program.
        seed: of the values that it is called with.
    """
    compiled = jax.jit(sampled.function).lower(*sampled.args).compile()
    described = describe(compiled, {"platform": "cpu"}, str(seed), 0.0)
    given = arguments(sampled, seed)
    taken = time_calls(lambda: compiled(*given), _SECONDS)
    least, most = _TRACED_CALLS
    calls = int(min(most, max(least, _TRACED_SECONDS / taken.median)))
    names = [k.name for k in described.kernels]
    return Probe(
        program=described,
        seconds=taken.median,
        kernels=kernel_seconds(lambda: compiled(*given), names, calls),
        disturbed=taken.disturbed,
    )


def learn(probes: Sequence[Probe], profile: HardwareProfile, seed: int = 0) -> Learned:
    """Fit overheads and corrections, and check them on programs that the fit has not seen.

    Args:
        probes: measured programs.
        profile: of the device, with its measured rates.
        seed: of the fit.

    Raises:
        ValueError: too few programs agree with their kernels: the machine is too busy.
    """
    kept = [p for p in probes if p.kernels and not p.disturbed]
    _check_enough(kept, probes)
    profile = _with_overheads(kept, profile)
    calls = LatencyModel(profile, fit(list(_calls(kept, profile)), seed))
    kept = [p for p in kept if _agrees(p, calls, profile.launch_overhead)]
    _check_enough(kept, probes)
    profile = _with_overheads(kept, profile)
    seen = [p for i, p in enumerate(kept) if i % _HELD_OUT]
    unseen = kept[::_HELD_OUT]
    trial = LatencyModel(profile, fit(list(_samples(seen, profile)), seed), error=1.0)
    ratios = np.array([trial.predict(p.program).seconds / p.seconds for p in unseen])
    return Learned(
        profile=profile,
        corrections=fit(list(_samples(kept, profile)), seed),
        error=float(np.sqrt(np.mean(np.log(ratios) ** 2))),
        median_error=float(np.median(np.abs(ratios - 1))),
        programs=len(kept),
        dropped=len(probes) - len(kept),
    )


def _check_enough(kept: Sequence[Probe], probes: Sequence[Probe]) -> None:
    if len(kept) < max(10, len(probes) // 2):
        raise ValueError(
            f"only {len(kept)} of {len(probes)} programs could be measured undisturbed: "
            "calibrate while nothing else runs"
        )


def _with_overheads(probes: Sequence[Probe], profile: HardwareProfile) -> HardwareProfile:
    """What calls take beyond their kernels and their arguments: of a call, of a kernel.

    Least squares of the relative errors, none below 0.
    """
    from scipy.optimize import nnls

    counts = [(1, sum(k.count for k in p.program.kernels)) for p in probes]
    weights = np.array([1 / p.seconds for p in probes])
    each = profile.argument_overhead
    rest = np.array([p.seconds - p.busy - p.program.arguments * each for p in probes])
    found, _ = nnls(np.array(counts, float) * weights[:, None], rest * weights)
    call, launch = (float(x) for x in found)
    return profile.model_copy(
        update={"call_overhead": max(call, _SHORTEST_CALL), "launch_overhead": launch}
    )


def _agrees(probe: Probe, model: LatencyModel, launch: float) -> bool:
    """Whether a program's kernels, and calling it, add up to its time."""
    launches = sum(k.count for k in probe.program.kernels) * launch
    whole = probe.busy + launches + model.calling(probe.program)
    return abs(whole - probe.seconds) <= _AGREE * probe.seconds


def _calls(probes: Iterable[Probe], profile: HardwareProfile) -> Iterable[Sample]:
    """What calls take beyond their kernels.

    Where it is less than the noise of these, it counts as little, and is not left out: of the
    others those would remain that noise made larger.
    """
    call = profile.call_overhead
    for each in probes:
        launches = sum(k.count for k in each.program.kernels) * profile.launch_overhead
        arguments = each.program.arguments * profile.argument_overhead
        beyond = each.seconds - each.busy - launches - arguments
        yield Sample(
            group=CALL,
            features=call_features(each.program),
            log_ratio=math.log(max(beyond, _LEAST_CALL * call) / call),
        )


def _samples(probes: Iterable[Probe], profile: HardwareProfile) -> Iterable[Sample]:
    yield from _calls(probes, profile)
    for each in probes:
        footprint = footprint_of(each.program)
        for kernel in each.program.kernels:
            taken = each.kernels.get(kernel.name, 0.0)
            if taken > 0 and len(kernel.products) < 2:  # several are told by their pieces
                yield Sample(
                    group=group_of(kernel),
                    features=features(kernel, profile, footprint),
                    log_ratio=math.log(taken / bound(kernel, profile, footprint).busy),
                )


def measure(
    workload: Iterable[Sampled], progress: Callable[[int], None] = lambda done: None
) -> list[Probe]:
    """Probe the programs of a workload, one after another.

    Args:
        workload: programs.
        progress: is told how many are done.
    """
    probes = []
    for index, sampled in enumerate(workload):
        probes.append(probe(sampled, index))
        progress(index + 1)
    return probes

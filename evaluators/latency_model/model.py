"""The latency of a compiled program on a device: an interval, and how it came about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.kernels import Kernel
from paretax.evaluators.latency_model.corrections import CALL, Corrections
from paretax.evaluators.latency_model.features import call_features, features
from paretax.evaluators.latency_model.kinds import habits
from paretax.evaluators.latency_model.pieces import pieces
from paretax.evaluators.latency_model.roofline import (
    Footprint,
    Queue,
    bound,
    calling_seconds,
    queue,
)
from paretax.evaluators.latency_model.running import running
from paretax.hardware_profiles import HardwareProfile

UNCALIBRATED = 0.45
"""Standard deviation of the logarithm of measured / modelled time that a device has which nobody
calibrated; an assumption, about what separates data-sheet models from measurements."""

_ONE_SIDED = 1.2816  # standard deviations of the normal distribution's 90% quantile


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of one call, in seconds.

    Args:
        seconds: the expected value.
        queued: of one of many calls in a queue, which nobody waits for before the next.
        low: 10% of calls of such programs are expected below it.
        high: 10% are expected above it.
        busiest: name of the kernel that takes longest.
        limits: shares of arithmetic, of moving data, and of launching and calling.
        kernels: that run in a call.
    """

    seconds: float
    queued: float
    low: float
    high: float
    busiest: str
    limits: dict[str, float]
    kernels: int


class LatencyModel:
    """Predicts from kernels and a data sheet, corrected where the device was calibrated.

    Args:
        profile: of the device.
        corrections: that calibration learned; None: the data sheet alone.
        error: standard deviation of the logarithm of measured / modelled time of whole programs,
            from calibration's own check; None: the profile's, or `UNCALIBRATED`.
    """

    def __init__(
        self,
        profile: HardwareProfile,
        corrections: Corrections | None = None,
        error: float | None = None,
    ) -> None:
        self._profile, self._corrections = profile, corrections
        self._efficiency = habits(profile).efficiency
        self._error = error or profile.error or UNCALIBRATED

    @classmethod
    def of(cls, profile: HardwareProfile) -> Self:
        """The model of a device, with what calibration learned of it.

        Raises:
            UsageError: the profile names corrections that cannot be read.
        """
        known = profile.calibration
        if known is None:
            return cls(profile)
        return cls(profile, Corrections.load(Path(known.corrections)), known.error)

    def predict(self, program: CompiledProgram) -> Latency:
        """The latency of a call of a program."""
        footprint = footprint_of(program)
        kernels = running(program, self._profile)
        pairs = list(zip(kernels, self.kernel_seconds(kernels, footprint), strict=True))
        bounds = [bound(k, self._profile, footprint) for k in kernels]
        compute = sum(k.count * b.compute for k, b in zip(kernels, bounds, strict=True))
        memory = sum(k.count * b.memory for k, b in zip(kernels, bounds, strict=True))
        calling = self.calling(program)
        line = queue(pairs, self._profile)
        total = calling + line.seconds
        starts = calling + line.host + sum(k.count for k in kernels) * self._profile.launch_overhead
        whole = max(compute + memory + starts, 1e-30)
        return Latency(
            seconds=total,
            queued=self._queued(calling, line),
            low=total * math.exp(-_ONE_SIDED * self._error),
            high=total * math.exp(_ONE_SIDED * self._error),
            busiest=max(pairs, key=lambda p: p[0].count * p[1])[0].name if pairs else "",
            limits={
                "arithmetic": compute / whole,
                "memory": memory / whole,
                "launches": starts / whole,
            },
            kernels=sum(k.count for k in kernels),
        )

    def _queued(self, calling: float, line: Queue) -> float:
        """Of a call among many: an accelerator works while its host prepares the next calls."""
        if self._profile.kind in ("cpu", "mobile"):
            return calling + line.seconds
        return max(calling + line.host + line.library, line.device)

    def queues(self, program: CompiledProgram) -> tuple[Queue, Queue]:
        """The kernels of a program with products, and the others, without its call."""
        kernels = running(program, self._profile)
        seconds = self.kernel_seconds(kernels, footprint_of(program))
        pairs = list(zip(kernels, seconds, strict=True))
        return (
            queue([(k, s) for k, s in pairs if k.products], self._profile),
            queue([(k, s) for k, s in pairs if not k.products], self._profile),
        )

    def calling(self, program: CompiledProgram) -> float:
        """Seconds of a call, without its kernels and their launches."""
        plain = calling_seconds(program.arguments, self._profile)
        if self._corrections is None or not self._corrections.knows(CALL):
            return plain
        mean, _ = self._corrections.predict(CALL, call_features(program)[None])
        return plain + self._profile.call_overhead * (math.exp(mean[0]) - 1)

    def kernel_seconds(self, kernels: Sequence[Kernel], footprint: Footprint) -> list[float]:
        """Seconds of one run of each kernel, without its launch.

        Args:
            kernels: of a program.
            footprint: of that program.
        """
        if self._corrections is None:
            return [self._busy(kernel, footprint) for kernel in kernels]
        whole = [pieces(kernel) for kernel in kernels]
        single = [piece for each in whole for piece in each]
        seconds = iter(self._corrected(self._corrections, single, footprint))
        return [sum(next(seconds) for _ in each) for each in whole]

    def _corrected(
        self, corrections: Corrections, kernels: Sequence[Kernel], footprint: Footprint
    ) -> list[float]:
        found = [self._busy(kernel, footprint) for kernel in kernels]
        groups: dict[str, list[int]] = {}
        for index, kernel in enumerate(kernels):
            groups.setdefault(group_of(kernel), []).append(index)
        for group, members in groups.items():
            points = np.stack([features(kernels[i], self._profile, footprint) for i in members])
            means, _ = corrections.predict(group, points)
            for i, mean in zip(members, means, strict=True):
                found[i] *= math.exp(mean)
        return found

    def _busy(self, kernel: Kernel, footprint: Footprint) -> float:
        limits = bound(kernel, self._profile, footprint)
        if kernel.estimate is None:
            return limits.busy / self._efficiency.get(kernel.kind, 1.0)
        # The compiler scheduled its instructions. It does not count the far memory, and charges
        # some kernels (depthwise convolutions of few channels) several times what they take: on
        # real TPUs the smaller of its estimate and the roofline orders networks best.
        far = kernel.bytes - kernel.bytes_near
        return max(min(kernel.estimate, limits.busy), far / self._profile.main_memory.bandwidth)


def footprint_of(program: CompiledProgram) -> Footprint:
    """What a program keeps in memory."""
    kept = program.argument_bytes + program.output_bytes
    return Footprint(resident=program.peak_memory, temporary=max(0, program.peak_memory - kept))


def group_of(kernel: Kernel) -> str:
    """Kernels that are corrected alike: of one kind and one library."""
    return f"{kernel.kind} {kernel.library}"

"""How well latency is predicted on this machine's CPU, for networks that calibration never saw.

The machine is calibrated on chains of random layers, as `paretax profiles calibrate` does. MLPs,
CNNs and transformers at random sizes, in float32, bfloat16 and int8, at batches of 1 to 64, are
compiled, predicted, and measured, over the same time. Beside the model stands what people use
instead: the number of floating-point operations, the bytes moved, and the plain roofline. Each of
these predicts a rank; the roofline also a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from networks import Network, networks
from reporting import arguments, finish, of_scale, show
from scipy.stats import spearmanr

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.compilers.xla import describe
from paretax.evaluators.latency_model import workload
from paretax.evaluators.latency_model.calibration import PROGRAMS
from paretax.evaluators.latency_model.local_profile import calibrated
from paretax.evaluators.latency_model.model import UNCALIBRATED, LatencyModel
from paretax.evaluators.latency_model.rates import bandwidths
from paretax.evaluators.timing import Timing, time_calls
from paretax.hardware_profiles import HardwareProfile, load_profile

SEED = 7


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is done.

    Args:
        networks: that are judged.
        programs: of the calibration.
        passes: measurements of a network, spread over the calibration; their median counts.
    """

    networks: int
    programs: int
    passes: int


FULL = Work(networks=144, programs=PROGRAMS, passes=3)
QUICK = Work(networks=126, programs=PROGRAMS * 2 // 5, passes=2)

SMOKE = Work(networks=9, programs=20, passes=1)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A compiled network, and its measurements."""

    network: Network
    described: CompiledProgram
    call: Callable[[], Any]
    timings: list[Timing] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A network with its measured latency and what predicts it."""

    network: Network
    measured: float
    differs: float
    ours: float
    roofline: float
    flops: float
    moved: float


def main() -> None:
    """Calibrate, predict, measure, and print the tables."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    work = of_scale(given, full=FULL, quick=QUICK, smoke=SMOKE)
    judged = [_prepare(n, i) for i, n in enumerate(networks(SEED, work.networks))]
    print(f"{len(judged)} networks compiled in {time.perf_counter() - began:.0f} s", flush=True)
    profile, error, model = _learned(judged, work, given.scale == "smoke")
    print(f"calibrated, and networks measured meanwhile, in {time.perf_counter() - began:.0f} s")
    rates = profile.peak, bandwidths([2**29])[0]
    scored = [_score(each, model, *rates) for each in judged]
    report(given, scored, error, began)


def _learned(
    judged: Sequence[Judged], work: Work, uncalibrated: bool
) -> tuple[HardwareProfile, float, LatencyModel]:
    """The machine as it is measured; where it is too busy, and that may be, its data sheet."""
    profile = load_profile("cpu")
    try:
        learned = calibrated(profile, work.programs, progress=_interleaved(judged, work))
    except ValueError as error:
        if not uncalibrated:
            raise SystemExit(f"latency_model.py: {error}") from error
        print(f"not calibrated: {error}")
        return profile, UNCALIBRATED, LatencyModel(profile)
    print(
        f"{learned.programs} programs calibrated it ({learned.dropped} dropped); median error on "
        f"held-out programs {100 * learned.median_error:.1f}%"
    )
    model = LatencyModel(learned.profile, learned.corrections, learned.error)
    return learned.profile, learned.error, model


def _prepare(network: Network, index: int) -> Judged:
    compiled = jax.jit(network.program.function).lower(*network.program.args).compile()
    return Judged(
        network=network,
        described=describe(compiled, {"platform": "cpu"}, str(index), 0.0),
        call=partial(compiled, *workload.arguments(network.program, index)),
    )


def _interleaved(judged: Sequence[Judged], work: Work) -> Callable[[int], None]:
    """Measures the networks in turn between the programs of the calibration, each in every pass.

    A machine is not equally fast all the time: whoever else uses its host, its memory and its clock
    change by tens of per cent within minutes. So both are measured over the same time.
    """
    due = work.passes * len(judged)

    def progress(done: int) -> None:
        measured = sum(len(each.timings) for each in judged)
        for index in range(measured, round(due * done / work.programs)):
            each = judged[index % len(judged)]
            each.timings.append(time_calls(each.call))

    return progress


def report(given: argparse.Namespace, scored: Sequence[Scored], error: float, began: float) -> None:
    """Print the tables and the figures."""
    measured = np.array([s.measured for s in scored])
    inside = np.mean([abs(np.log(s.ours / s.measured)) < 1.2816 * error for s in scored])
    rows = [
        _row("paretax", [s.ours for s in scored], measured, timed=True),
        _row("roofline, data sheet and DRAM", [s.roofline for s in scored], measured, timed=True),
        _row("floating-point operations", [s.flops for s in scored], measured, timed=False),
        _row("bytes moved", [s.moved for s in scored], measured, timed=False),
    ]
    show(f"{len(scored)} networks on one thread of this CPU, measured", rows)
    kinds = dict.fromkeys((s.network.family, s.network.form) for s in scored)
    show("By kind of network", [_kind(*kind, scored) for kind in kinds])
    batches = dict.fromkeys(s.network.batch for s in scored)
    show("By batch size", [_batch(b, scored) for b in batches])
    print(f"\n{100 * inside:.0f}% of the networks lie in their 80% interval")
    print(
        f"between its first and last measurement a network differs by "
        f"{100 * np.median([s.differs for s in scored]):.1f}% (median)"
    )
    figures = {
        "spearman": _rank([s.ours for s in scored], measured),
        "median_abs_error": float(np.median([abs(s.ours / s.measured - 1) for s in scored])),
        "within_10": float(np.mean([abs(s.ours / s.measured - 1) <= 0.1 for s in scored])),
        "median_abs_error_roofline": float(
            np.median([abs(s.roofline / s.measured - 1) for s in scored])
        ),
        "spearman_flops": _rank([s.flops for s in scored], measured),
        "spearman_bytes": _rank([s.moved for s in scored], measured),
        "spearman_roofline": _rank([s.roofline for s in scored], measured),
        "programs": len(scored),
    }
    finish(given, figures, began)


def _score(
    judged: Judged, model: LatencyModel, peaks: Mapping[str, float], bandwidth: float
) -> Scored:
    taken, program = [t.median for t in judged.timings], judged.described
    return Scored(
        network=judged.network,
        measured=float(np.median(taken)),
        differs=max(taken) / min(taken) - 1,
        ours=model.predict(program).seconds,
        roofline=_plain_roofline(program, peaks, bandwidth),
        flops=float(sum(k.count * k.flops for k in program.kernels)),
        moved=float(sum(k.count * k.bytes for k in program.kernels)),
    )


def _plain_roofline(
    program: CompiledProgram, peaks: Mapping[str, float], bandwidth: float
) -> float:
    """The larger of operations at the dtype's peak and bytes at DRAM's bandwidth, a kernel."""
    return sum(
        k.count * max(k.flops / peaks.get(k.dtype, peaks["f32"]), k.bytes / bandwidth)
        for k in program.kernels
    )


def _rank(predicted: Sequence[float], measured: np.ndarray) -> float:
    return float(spearmanr(predicted, measured).statistic)


def _row(name: str, predicted: list[float], measured: np.ndarray, timed: bool) -> dict[str, object]:
    error = np.median(np.abs(np.array(predicted) / measured - 1)) if timed else None
    shown = "-" if error is None else f"{100 * error:.1f}%"
    return {"by": name, "Spearman": _rank(predicted, measured), "median error": shown}


def _kind(family: str, form: str, scored: Sequence[Scored]) -> dict[str, object]:
    found = [s for s in scored if (s.network.family, s.network.form) == (family, form)]
    return {"network": family, "form": form, **_errors(found)}


def _batch(batch: int, scored: Sequence[Scored]) -> dict[str, object]:
    return {"batch": batch, **_errors([s for s in scored if s.network.batch == batch])}


def _errors(found: Sequence[Scored]) -> dict[str, object]:
    ratios = np.array([s.ours / s.measured for s in found])
    return {
        "networks": len(found),
        "measured, us": f"{1e6 * min(s.measured for s in found):.0f} to "
        f"{1e6 * max(s.measured for s in found):.0f}",
        "median error": f"{100 * np.median(np.abs(ratios - 1)):.1f}%",
        "bias": f"{100 * (np.exp(np.mean(np.log(ratios))) - 1):+.1f}%",
        "largest": f"x{np.exp(np.max(np.abs(np.log(ratios)))):.2f}",
    }


if __name__ == "__main__":
    main()

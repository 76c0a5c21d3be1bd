"""A calibrated profile of this machine's processor: measured, learned, and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from paretax.evaluators.latency_model.calibration import Learned, learn, measure
from paretax.evaluators.latency_model.rates import (
    argument_seconds,
    bandwidths,
    peak_rates,
    vector_rate,
)
from paretax.evaluators.latency_model.workload import workload
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.machine import (
    cache_sizes,
    memory_size,
    processor,
    processor_fingerprint,
)
from paretax.hardware_profiles.profile import Memory


def calibrated(
    profile: HardwareProfile,
    programs: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Learned:
    """Measure this machine's processor.

    Args:
        profile: to start from; what is not measured stays as it says.
        programs: how many are measured.
        seed: of the programs and of the fit.
        progress: is told how many programs are done.

    Raises:
        ValueError: the machine is too busy.
    """
    rated = with_rates(profile)
    return learn(measure(workload(seed, programs), progress), rated, seed)


def with_rates(profile: HardwareProfile) -> HardwareProfile:
    """A profile with the rates and bandwidths that this machine reaches."""
    caches = cache_sizes() or [int(m.size) for m in profile.memories[:-1]]
    whole = memory_size() or profile.main_memory.size
    sizes = [*caches, int(whole)]
    energies = [m.energy for m in profile.memories]
    # As many levels as the machine has; of the sheet's energies the nearest ones, DRAM's last.
    energies = [*energies[:-1], *[energies[-2]] * len(sizes)][: len(caches)] + energies[-1:]
    names = [f"L{i + 1}" for i in range(len(caches))] + ["DRAM"]
    memories = tuple(
        Memory.model_validate(
            {
                "name": name,
                "size": f"{size / 1024:.0f} KiB",
                "bandwidth": f"{rate / 1e9:.3f} GB/s",
                "energy": None if energy is None else f"{energy * 1e12:g} pJ",
            }
        )
        for name, size, rate, energy in zip(names, sizes, bandwidths(sizes), energies, strict=True)
    )
    rates: dict[str, float] = dict(profile.peak) | peak_rates()
    return profile.model_copy(
        update={
            "peak": rates,
            "vector": vector_rate(),
            "memories": memories,
            "argument_overhead": argument_seconds(),
        }
    )


def write_profile(learned: Learned, path: Path) -> None:
    """Write a calibrated profile, and its corrections beside it.

    Args:
        learned: what calibration gave.
        path: of the YAML file; the corrections are called like it, with .npz.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    corrections = path.with_suffix(".npz")
    learned.corrections.save(corrections)
    plain = _plain(learned.profile)
    plain["calibration"] = {
        "corrections": corrections.name,
        "processor": processor_fingerprint(),
        "error": round(learned.error, 4),
        "median_error": round(learned.median_error, 4),
        "programs": learned.programs,
    }
    plain["sources"] = [
        f"measured by `paretax profiles calibrate` on one thread of {processor()}: rates of "
        "products and of elementwise arithmetic, bandwidths, overheads, corrections",
        *(s for s in learned.profile.sources if not s.startswith("`paretax profiles calibrate`")),
    ]
    path.write_text(yaml.safe_dump(plain, sort_keys=False, width=100), "utf-8")


def _plain(profile: HardwareProfile) -> dict[str, object]:
    """A profile as its file has it, with units."""
    joules = {d: f"{e * 1e12:g} pJ" for d, e in profile.energy.items()}
    plain: dict[str, object] = {
        "name": profile.name,
        "description": profile.description,
        "kind": profile.kind,
        "compiler": profile.compiler.model_dump(mode="json"),
        "mode": profile.mode,
        "peak": {d: f"{r / 1e9:.4g} GFLOP/s" for d, r in profile.peak.items()},
        "vector": f"{(profile.vector or 0.0) / 1e9:.4g} GFLOP/s",
        "f32_products": profile.f32_products,
        "memories": [
            {
                "name": m.name,
                "size": f"{m.size / 1024:.0f} KiB",
                "bandwidth": f"{m.bandwidth / 1e9:.4g} GB/s",
                **({} if m.energy is None else {"energy": f"{m.energy * 1e12:g} pJ"}),
            }
            for m in profile.memories
        ],
        "launch_overhead": f"{profile.launch_overhead * 1e6:.4g} us",
        "call_overhead": f"{profile.call_overhead * 1e6:.4g} us",
        "argument_overhead": f"{profile.argument_overhead * 1e6:.4g} us",
        "units": profile.units,
        "granularity": profile.granularity.model_dump(),
        "vector_bytes": profile.vector_bytes,
        "clock": f"{profile.clock / 1e6:g} MHz",
        "power": {"idle": f"{profile.power.idle:g} W", "peak": f"{profile.power.peak:g} W"},
        "energy": joules,
    }
    if profile.price is not None:
        plain["price"] = f"{profile.price:g} USD/h"
    return plain

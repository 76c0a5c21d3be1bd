"""What devices of a kind have in common, for those whose profile does not say it.

Of GPUs: fitted to 86 calls of 12 networks on an H200 and an H100, and to the order of networks on
an A100, an RTX 4090 and a 3090 (`benchmarks/measured`). Of the other kinds nobody measured it, and
their rooflines stand alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.profile import KernelKind


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How a device works beyond its data sheet.

    Args:
        host: seconds of the host's work for each kernel, before the device begins.
        library: seconds of the host's work for each call of a library, beside the device.
        efficiency: share of its roofline that a kernel of a kind reaches; 1 where left out.
    """

    host: float = 0.0
    library: float = 0.0
    efficiency: Mapping[KernelKind, float] = field(default_factory=dict)


_GPU = Habits(
    host=2e-6,
    library=28e-6,
    efficiency={
        "dot": 0.7,
        "convolution": 0.65,
        "depthwise": 0.35,
        "reduction": 0.71,
        "elementwise": 0.71,
        "data": 0.71,
        "other": 0.71,
    },
)


def habits(profile: HardwareProfile) -> Habits:
    """Those of a device: its own where its profile says them, else those of its kind."""
    kind = _GPU if profile.kind == "gpu" else Habits()
    return Habits(
        host=kind.host if profile.host_overhead is None else profile.host_overhead,
        library=kind.library if profile.library_overhead is None else profile.library_overhead,
        efficiency=kind.efficiency if profile.efficiency is None else profile.efficiency,
    )

"""A device that candidates are scored on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from paretax.errors import UsageError
from paretax.evaluators.compilers.targets import target_settings
from paretax.evaluators.costs import GRID, square_millimetres
from paretax.evaluators.latency_model.model import LatencyModel
from paretax.hardware_profiles import HardwareProfile, load_profile
from paretax.hardware_profiles.profile import Systolic

ALWAYS = ("latency", "memory")
"""What is said of every target, asked for or not."""

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
"""Platform of a profile that JAX runs on -> JAX's name of its devices."""

MODELLED = (*ALWAYS, "latency_queued", "throughput", "energy", "price", "co2", "area")
"""What can be said of a device that is not there."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device that candidates are scored on.

    Args:
        profile: what is known of it.
        batch: examples in one call.
        grid: grams of CO2 equivalent a kilowatt-hour where it stands.
        measure: whether programs are run on it, which then must be there.
        parts: whether a candidate is priced as the sum of its parts, see `PartsPricer`.
        accelerator_type: Ray's name of the device, where a worker beside it measures; None: the
            device is on this machine, or is not needed.
        latency_model: of it.
    """

    profile: HardwareProfile
    batch: int = 1
    grid: float = GRID
    measure: bool = False
    parts: bool = False
    accelerator_type: str | None = None
    latency_model: LatencyModel = field(compare=False)  # what it says follows from the profile

    @classmethod
    def of(
        cls,
        name: str,
        batch: int = 1,
        grid: float = GRID,
        measure: bool | None = None,
        parts: bool = False,
        accelerator_type: str | None = None,
    ) -> Target:
        """A target with what calibration learned of its device.

        Args:
            name: of its profile, or the path of one.
            batch: see above.
            grid: see above.
            measure: see above; None: as the profile says, or where a worker is beside the device,
                and not with `parts`.
            parts: see above.
            accelerator_type: see above.

        Raises:
            UsageError: the profile, or what was learned of it, cannot be read, or it is to be
                both measured and priced from parts, or is an array, which has no parts, or JAX
                does not run on a device that is to be measured by a worker beside it.
            MissingExtraError: its compiler is not installed.
        """
        profile = load_profile(name)
        if accelerator_type is not None:
            if measure is False:
                raise UsageError(
                    f"target {profile.name!r} has an `accelerator_type`, which says where it is "
                    "measured: leave out `measure: false`, or the type"
                )
            if profile.platform not in PLATFORMS:
                raise UsageError(
                    f"target {profile.name!r} cannot be measured: JAX does not run on it; leave "
                    "out `accelerator_type`"
                )
            measure = True
        else:
            target_settings(profile)
        if parts and isinstance(profile.compiler, Systolic):
            raise UsageError(
                f"target {profile.name!r} must not be priced from parts: a systolic array takes "
                "whole programs, which cost nothing to try; leave out `parts`"
            )
        if measure and parts:
            raise UsageError(
                f"target {profile.name!r} must be measured or priced from parts, not both: leave "
                "out `measure` or `parts`"
            )
        return cls(
            profile=profile,
            batch=batch,
            grid=grid,
            measure=(profile.mode == "measured" and not parts) if measure is None else measure,
            parts=parts,
            accelerator_type=accelerator_type,
            latency_model=LatencyModel.of(profile),
        )

    @property
    def provides(self) -> tuple[str, ...]:
        """The objectives that can be had of it."""
        lacking = set()
        if not self.measure:
            lacking.add("latency_p99")
        if self.profile.price is None:
            lacking.add("price")
        if square_millimetres(self.profile) is None:
            lacking.add("area")
        return tuple(name for name in (*MODELLED, "latency_p99") if name not in lacking)

    def check(self, names: Collection[str]) -> None:
        """Refuse objectives that cannot be had of it.

        Raises:
            UsageError: says which, and why.
        """
        why = {
            "latency_p99": "its latency is modelled, not measured",
            "price": "its profile has no `price`",
            "area": "its profile is no systolic array with `area_per_unit`",
        }
        for name in names:
            if name in why and name not in self.provides:
                raise UsageError(
                    f"{name!r} cannot be had of target {self.profile.name!r}, as {why[name]}: "
                    f"leave it out there ({name}@TARGET names one target)"
                )
